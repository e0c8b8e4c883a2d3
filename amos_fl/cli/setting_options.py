"""Every setting of a run as an option, made from the model that describes it: one name, one help text, one check.

`--local-steps` is the setting `local_steps`, `--training.learning-rate` is `training.learning_rate`; where an option has
another name, `NAMES` says so. What a command does not heed it does not take.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from amos_fl.cli.settings import names
from amos_fl.errors import AmosError
from amos_fl.runs.config import RunConfig, merge

NAMES = {
    "start_from": "--init",
    "site_timeout_s": "--site-timeout",
    "engine.name": "--engine",
    "engine.parallel_sites": "--parallel-sites",
    "engine.cpus_per_site": "--cpus-per-site",
    "engine.gpus_per_site": "--gpus-per-site",
    "engine.address": "--ray-address",
    "strategy_options": "--strategy-option",
}
"""Options whose names say more to a user than the settings'."""

GROUPS = {
    "Who takes part": ("cohort", "sites", "hold_out", "min_sites", "site_timeout_s"),
    "Federation": (
        "strategy",
        "strategy_options",
        "rounds",
        "local_steps",
        "weighting",
        "optimizer_state",
        "selection",
    ),
    "Network and plan": ("model", "plan", "planning", "norm_statistics", "start_from"),
    "Training": ("training",),
    "Evaluation": ("evaluation",),
    "This machine": ("engine", "device", "prepare_workers", "keep_checkpoints"),
}
"""The headings of `--help`; the settings that are none of these stand first."""

SET_BY_COMMANDS = ("arm", "planning.auto")
"""Settings that a command or another setting decides."""

FEDERATED = ("strategy", "strategy_options", "weighting", "optimizer_state", "min_sites", "norm_statistics")
"""What has no meaning where one trainer trains."""


def leaves(model: type[BaseModel] = RunConfig, prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting that is a value and not a section, by its dotted key.

    >>> list(leaves())[:3], "training.learning_rate" in leaves()
    (['arm', 'cohort', 'sites'], True)
    """
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        inside = field.annotation
        if isinstance(inside, type) and issubclass(inside, BaseModel) and name != "plan":
            found |= leaves(inside, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def takes_settings(*without: str, also: Collection[str] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command an option for every setting but those `without`; it is called with `settings`, nested.

    A key of a section leaves out all of it. `also` are the settings, beside those that commands decide, that are taken
    although they begin with a key of `without`.
    """

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(command).parameters.values() if p.name != "settings"]
        options: dict[str, str] = {}
        made: list[inspect.Parameter] = []
        taken = {p.name for p in own}
        for key, field in leaves().items():
            if key in SET_BY_COMMANDS or (_is_in(key, without) and key not in also):
                continue
            name = NAMES.get(key, key).lstrip("-").replace("-", "_").replace(".", "__")
            if name in taken:
                continue
            options[name] = key
            made.append(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(key, field)
                )
            )

        def run(**given: Any) -> Any:
            settings: dict[str, Any] = {}
            for name, key in options.items():
                if (value := _setting(key, given.pop(name))) is not None:
                    settings = merge(settings, _nested(key, value))
            return command(**given, settings=settings)

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + made
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] - typer reads it
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorated


def _is_in(key: str, keys: Collection[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in keys)


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _annotation(key: str, field: FieldInfo) -> Any:
    """The type and the option of a setting, as typer reads them."""
    kind, limits = _kind_of(key, field)
    name = NAMES.get(key, "--" + key.replace("_", "-"))
    flags = f"{name}/--no-{name.removeprefix('--')}" if kind is bool else name
    option = typer.Option(flags, help=_help(field), rich_help_panel=_group(key), show_default=False, **limits)
    return Annotated[kind | None, option]


def _kind_of(key: str, field: FieldInfo) -> tuple[Any, dict[str, float]]:
    """The type of an option's value, and its limits where typer can check them."""
    inside = [kind for kind in _members(field.annotation) if kind is not NoneType]
    limits: dict[str, float] = {}
    for rule in field.metadata:
        match rule:
            case annotated_types.Ge(ge=low):
                limits["min"] = low
            case annotated_types.Le(le=high):
                limits["max"] = high
    kind = inside[0]
    if key == "strategy_options":
        return list[str], {}
    if get_origin(kind) is Literal:
        choices = [choice for choice in get_args(kind) if key != "engine.name" or choice != "deployment"]
        return Literal[tuple(choices)], {}
    if kind in (int, float):
        return kind, limits
    return (kind, {}) if kind in (bool, Path) else (str, {})


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    return list(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else [annotation]


def _help(field: FieldInfo) -> str:
    text = (field.description or "").strip()
    text = text[:1].upper() + text[1:]
    default = field.get_default()
    if default is None or isinstance(default, bool | BaseModel | dict | tuple) or default == "" or not text:
        return text
    shown = f"{default:.3g}" if isinstance(default, float) else default
    return f"{text.rstrip('.')}. [{shown}]"


def _group(key: str) -> str | None:
    return next((group for group, keys in GROUPS.items() if _is_in(key, keys)), None)


def _setting(key: str, value: Any) -> Any:
    """An option's value as the setting's; None where it was not given."""
    if value is None or value == []:
        return None
    if key in ("sites", "hold_out"):
        return names(value)
    if key in ("cohort", "start_from"):
        return str(Path(value).resolve())
    if key == "strategy_options":
        return _pairs(value)
    return value


def _pairs(texts: Collection[str]) -> Mapping[str, Any]:
    """`mu=0.01` and the like as a mapping, values read as `--set` reads them."""
    from amos_fl.runs.config import parse_assignment

    found: dict[str, Any] = {}
    for text in texts:
        name, equals, _ = text.partition("=")
        if not equals or not name:
            raise AmosError(f"--strategy-option {text}: must have the form name=value, like mu=0.01")
        found |= parse_assignment(f"strategy_options.{text}")["strategy_options"]
    return found
