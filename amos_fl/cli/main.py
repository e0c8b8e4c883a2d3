"""The command `amos-fl`: its subcommands, and how every error reaches the user as one plain line."""

import sys
import warnings
from importlib.metadata import version
from typing import Annotated

import click
import typer

from amos_fl import stopping
from amos_fl.cli.argument_help import keep_argument_help
from amos_fl.cli.commands import EVERYTHING
from amos_fl.cli.lazy import app_of
from amos_fl.cli.usage import in_words as usage_in_words
from amos_fl.errors import AmosError, AmosWarning, Interrupted
from amos_fl.escape.terminal import visible
from amos_fl.files import in_words

_LONGEST = 2000


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"amos-fl {version('amos-fl')}")
        raise typer.Exit


def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


keep_argument_help()
app = app_of(
    EVERYTHING,
    _options,
    name="amos-fl",
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line and exit with its code.

    0: done. 2: wrong input or settings. 3: a run that stopped at its last checkpoint. 130, 143, 129: Ctrl-C, SIGTERM,
    SIGHUP.
    """
    warnings.showwarning = _showwarning
    stopping.interrupt_on_request()
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run one command line (by default this process's) and return its exit code.

    Errors caused by the user or the machine (a full disk, no permission) are printed in one line on stderr;
    anything else is a bug and keeps its traceback.
    """
    stopping.forget()
    try:
        left_with = app(args=arguments, prog_name="amos-fl", standalone_mode=False)
        if left_with == stopping.INTERRUPTED:  # typer turns a KeyboardInterrupt into this and says nothing
            return _say(stopping.words(), stopping.exit_code())
        return left_with or 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        return _say(usage_in_words(error), error.exit_code)
    except AmosError as error:
        return _say(str(error), error.exit_code)
    except (Interrupted, KeyboardInterrupt) as error:
        return _say(str(error) or stopping.words(), stopping.exit_code())
    except OSError as error:
        if (said := in_words(error)) is None:
            raise
        return _say(str(said), said.exit_code)
    finally:
        if "amos_fl.workers" in sys.modules:
            sys.modules["amos_fl.workers"].end_all()


def _say(sentence: str, exit_code: int) -> int:
    words = visible(sentence)
    if len(words) > _LONGEST:  # text quoted from a damaged file may be of any length; the remedy is at the end
        words = f"{words[: _LONGEST - 500]} ... {words[-500:]}"
    print(f"amos-fl: {words}", file=sys.stderr)
    return exit_code


_python_showwarning = warnings.showwarning
# Python hides these by default; a library that is imported may have had them shown.
_FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning)


def _showwarning(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
    if issubclass(category, AmosWarning):
        print(f"amos-fl: warning: {visible(str(message))}", file=sys.stderr)
    elif sys.warnoptions or not issubclass(category, _FOR_DEVELOPERS):
        _python_showwarning(message, category, *where, **more)  # pyright: ignore[reportArgumentType] - handed on as it came


if __name__ == "__main__":
    main()
