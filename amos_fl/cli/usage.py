"""What is wrong with a command line, in one sentence with its remedy."""

import re
from collections.abc import Iterable

import click


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


def either(words: Iterable[object]) -> str:
    """Words to choose from.

    >>> either(["a", "b", "c"]), either(["a"])
    ('a, b or c', 'a')
    """
    *others, last = map(str, words)
    return f"{', '.join(others)} or {last}" if others else last


def limits(**bounds: float | None) -> str:
    """The bounds of a number in words; bounds that no user reaches are left out.

    >>> limits(ge=0, lt=1), limits(gt=0), limits(ge=0, lt=2**63)
    ('at least 0 and below 1', 'above 0', 'at least 0')
    """
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    known = {sign: bounds[name] for name, sign in signs.items() if bounds.get(name) is not None}
    return " and ".join(f"{sign} {bound:,}" for sign, bound in known.items() if bound is not None and bound < 2**62)


def must_be(kind: type, bounds: str) -> str:
    """What a number has to be.

    >>> must_be(int, limits(ge=1))
    'must be a whole number, at least 1'
    """
    return ", ".join([f"must be a {'whole ' * (kind is int)}number", *([bounds] if bounds else [])])


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
