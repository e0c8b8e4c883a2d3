"""What is wrong with a command line, in one sentence with its remedy."""

import re

import click

from amos_fl.wording import either, limits, must_be


def in_words(error: click.UsageError) -> str:
    """What is wrong with a command line, and what to write instead."""
    name = error.ctx.command_path if error.ctx else "amos-fl"
    parameter = getattr(error, "param", None)
    if parameter is None:
        near = getattr(error, "possibilities", None)
        what = error.message.partition(". ")[0].rstrip(".")
        return f"{what[:1].lower()}{what[1:]}; " + (f"did you mean {near[0]!r}?" if near else f"see {name} --help")
    option = (
        max(parameter.opts, key=len) if parameter.param_type_name == "option" else parameter.make_metavar(error.ctx)
    )
    if isinstance(error, click.MissingParameter):
        return f"{name.removeprefix('amos-fl ')} needs {option}; see {name} --help"
    given = re.match(r"(.+?) is not (?:one of|a valid|in the range)", error.message)
    wanted = _wanted(parameter.type)
    return f"{option} is {given[1]}: {wanted}" if given and wanted else f"{option}: {error.message.rstrip('.')}"


def value_in_words(kind: click.ParamType) -> tuple[str, str] | None:
    """The placeholder for a value in `--help` and what it may be; None for types that say so themselves."""
    if isinstance(kind, click.Choice):
        return "WORD", either(kind.choices)
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        return "N" if isinstance(kind, click.types.IntParamType) else "X", _limits(kind)
    return None


def _limits(kind: click.ParamType) -> str:
    return limits(ge=getattr(kind, "min", None), le=getattr(kind, "max", None))


def _wanted(kind: click.ParamType) -> str:
    if isinstance(kind, click.Choice):
        return f"choose {either(kind.choices)}"
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        return must_be(int if isinstance(kind, click.types.IntParamType) else float, _limits(kind))
    return ""
