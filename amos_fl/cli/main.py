"""The command `amos-fl`: its subcommands, and how every error reaches the user as one plain line."""

import errno
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from amos_fl import stopping
from amos_fl.cli.annotate import annotate_app
from amos_fl.cli.argument_help import keep_argument_help
from amos_fl.cli.baselines import centralized, finetune, leave_one_out, local
from amos_fl.cli.compare import compare
from amos_fl.cli.data import data_app
from amos_fl.cli.deploy import deploy_app
from amos_fl.cli.evaluate import evaluate
from amos_fl.cli.experiments import experiments_app
from amos_fl.cli.methods import methods
from amos_fl.cli.models import models
from amos_fl.cli.plan import plan
from amos_fl.cli.predict import predict
from amos_fl.cli.report import report
from amos_fl.cli.runs import diff, runs
from amos_fl.cli.score import score
from amos_fl.cli.simulate import simulate
from amos_fl.cli.sweep import sweep
from amos_fl.errors import AmosError, AmosWarning, Interrupted, is_disk_full
from amos_fl.escape.terminal import visible

keep_argument_help()
app = typer.Typer(
    name="amos-fl",
    help="Federated organ segmentation in abdominal CT and MR, one client per scanner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.add_typer(deploy_app, name="deploy")
app.add_typer(annotate_app, name="annotate")
app.add_typer(experiments_app, name="experiments")
app.command()(simulate)
app.command()(centralized)
app.command()(local)
app.command()(finetune)
app.command("leave-one-out")(leave_one_out)
app.command()(sweep)
app.command()(compare)
app.command()(plan)
app.command()(evaluate)
app.command()(predict)
app.command()(report)
app.command()(models)
app.command()(methods)
app.command()(runs)
app.command()(diff)
app.command()(score)

INTERRUPTED = 130
_LONGEST = 2000
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"amos-fl {version('amos-fl')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and leave with its exit code.

    0: done. 2: wrong input or settings. 3: a run that stopped at its last checkpoint. 130, 143, 129: Ctrl-C, SIGTERM,
    SIGHUP.
    """
    warnings.showwarning = _showwarning
    stopping.interrupt_on_request()
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run one command line (by default this process's) and return its exit code.

    Errors of the user's making and of the machine's (a full disk, no permission) are printed in one line
    on stderr; anything else is a fault of the program and keeps its traceback.
    """
    stopping.forget()
    try:
        app(args=arguments, prog_name="amos-fl")
    except SystemExit as leaving:
        if leaving.code == INTERRUPTED:  # typer turns a KeyboardInterrupt into this and says nothing
            return _say(stopping.words(), stopping.exit_code())
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except AmosError as error:
        return _say(str(error), error.exit_code)
    except (Interrupted, KeyboardInterrupt) as error:
        return _say(str(error) or stopping.words(), stopping.exit_code())
    except OSError as error:
        if is_disk_full(error):
            where = f" while writing {_final_name(error)}" if error.filename else ""
            return _say(f"no space is left on the disk{where}; free some, or write elsewhere with --out", 2)
        if error.errno in _REFUSED and error.filename:
            return _say(f"{_final_name(error)}: may not be read or written; check its permissions, or use --out", 2)
        raise
    finally:
        if "amos_fl.workers" in sys.modules:
            sys.modules["amos_fl.workers"].end_all()
    return 0


def _final_name(error: OSError) -> str:
    """The file as the user knows it: what is being written has a name of its own until it is whole."""
    path = Path(str(error.filename))
    return str(path.with_name(path.name.rpartition(".tmp.")[2]))


def _say(sentence: str, exit_code: int) -> int:
    words = visible(sentence)
    if len(words) > _LONGEST:  # what is quoted from a damaged file is of any length; the remedy stands at the end
        words = f"{words[: _LONGEST - 500]} ... {words[-500:]}"
    print(f"amos-fl: {words}", file=sys.stderr)
    return exit_code


_python_showwarning = warnings.showwarning


def _showwarning(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
    if issubclass(category, AmosWarning):
        print(f"amos-fl: warning: {visible(str(message))}", file=sys.stderr)
    else:
        _python_showwarning(message, category, *where, **more)  # pyright: ignore[reportArgumentType] - handed on as it came


if __name__ == "__main__":
    main()
