"""The options of every command that takes settings, made from the models that describe these.

`--local-steps` is the field `RunConfig.local_steps`, `--learning-rate` is `TrainingSettings.learning_rate`: an option
is the field's name with hyphens, without the section it is in, but for those in `NAMES`.
"""

import functools
import inspect
import re
from collections.abc import Callable, Collection
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
import click.shell_completion
import typer
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from amos_fl.cli.settings import Flags, names
from amos_fl.errors import AmosError
from amos_fl.invalid import limits_of, requirement
from amos_fl.networks.catalogue import NETWORKS
from amos_fl.runs.config import RunConfig, nested_setting, parsed_value
from amos_fl.runs.inference_settings import RecordedInference
from amos_fl.runs.layers import merge
from amos_fl.volumes.plan import AUTO, PLANS
from amos_fl.wording import either

NAMES = {
    "start_from": "--init",
    "site_timeout_s": "--site-timeout",
    "strategy_options": "--strategy-option",
    "training.batch_size": "--training-batch-size",
    "evaluation.batch_size": "--evaluation-batch-size",
    "evaluation.every": "--evaluate-every",
    "trackers": "--tracker",
    "engine.name": "--engine",
    "engine.address": "--ray-address",
}
"""Options whose names differ from those of their settings."""

GROUPS = {
    "Sites": ("cohort", "sites", "hold_out", "fold", "folds", "min_sites", "site_timeout_s"),
    "Network and plan": ("model", "plan", "planning", "start_from"),
    "Training": ("training",),
    "Evaluation": ("evaluation",),
    "Engine and machine": ("engine", "device", "prepare_workers", "keep_checkpoints", "trackers"),
}
"""The headings of `--help`, with the settings or sections under each; all others come under the federation."""

BY_NAME = {
    "strategy_options": "mu=0.01",
    "site_steps": "A=20",
    "engine.site_nodes": "A=gpu-1",
    "engine.site_settings": "A=/data/A/site.yaml",
}
"""Settings that map names to values, with an example; an option gives one pair."""

REPEATED = ("trackers",)
"""Settings with several values, of which an option gives one."""

METAVARS: dict[Any, str] = {
    int: "N",
    float: "X",
    Path: "PATH",
    str: "TEXT",
    "sites": "A,B",
    "hold_out": "A,B",
    "strategy_options": "NAME=VALUE",
    "site_steps": "SITE=STEPS",
    "engine.site_nodes": "SITE=NODE",
    "engine.site_settings": "SITE=FILE",
    "plan": "NAME",
    "trackers": "NAME",
}
"""The placeholder for an option's value in `--help`, by setting or by type."""


def _methods() -> list[str]:
    from amos_fl.methods import METHODS  # it imports NumPy, which --help does not need

    return [*METHODS]


COMPLETED: dict[str, Callable[[], list[str]]] = {
    "strategy": _methods,
    "model": lambda: [*NETWORKS],
    "plan": lambda: [AUTO, *PLANS],
    "device": lambda: ["auto", "cpu", "cuda", "mps"],
}
"""The names that the shell completes for settings that take others, too: an import path, a file, a second GPU."""

DECIDED_ELSEWHERE = ("arm", "planning.auto")
"""Settings decided by the command itself and by `--plan auto`."""


@functools.cache
def leaves(model: type[BaseModel] = RunConfig, prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting that is a value and not a section, by its dotted key."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        inside = field.annotation
        is_section = isinstance(inside, type) and issubclass(inside, BaseModel) and name != "plan"
        found |= leaves(inside, f"{prefix}{name}.") if is_section else {prefix + name: field}
    return found


def flag_of(key: str) -> str:
    """The option of a setting.

    >>> flag_of("training.learning_rate"), flag_of("training.batch_size")
    ('--learning-rate', '--training-batch-size')
    """
    return NAMES.get(key, "--" + key.rpartition(".")[2].replace("_", "-"))


def takes_settings(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every setting; it gets those that were given, nested, as `flags`.

    `without` are settings, or sections of them, that the command does not use.
    """
    keys = {key.replace(".", "__"): key for key in leaves() if not _is_in(key, (*DECIDED_ELSEWHERE, *without))}

    def nested(given: dict[str, Any]) -> Flags:
        flags: Flags = {}
        for name, key in keys.items():
            flags = merge(flags, _nested(key, given[name]))
        return flags

    return _takes({name: _annotation(key) for name, key in keys.items()}, "flags", nested)


def takes_inference(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every setting of inference, by default a run's; it gets them as `inference`."""
    fields = {name: field for name, field in RecordedInference.model_fields.items() if name not in without}
    options = {}
    for name, field in fields.items():
        key = f"evaluation.{name}" if f"evaluation.{name}" in leaves() else f"training.{name}"
        options[name] = Annotated[
            field.annotation | None, setting(key, "the run's", flag=f"--{name.replace('_', '-')}")
        ]
    return _takes(options, "inference", lambda given: given)


def _takes(
    options: dict[str, Any], into: str, value: Callable[[dict[str, Any]], Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options, by parameter; `value` of what was given becomes its parameter `into`."""
    made = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in options.items()
    ]

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**given: Any) -> None:
            taken = value({name: given.pop(name) for name in options})
            command(**given, **{into: taken})

        own = [p for p in inspect.signature(command).parameters.values() if p.name != into]
        parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *made]
        run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue] - typer reads it
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorated


def setting(key: str, otherwise: str = "", *, flag: str = "", panel: str | None = None) -> Any:
    """The option of a setting, described by its model; `otherwise` is its default in words."""
    field, flag = leaves()[key], flag or flag_of(key)
    kind = _kind(field)
    more: dict[str, Any] = {"metavar": METAVARS.get(key) or METAVARS.get(kind, "WORD")}
    if kind is bool:
        more["metavar"] = None
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    elif kind in (int, float) or _choices(key):
        more["click_type"] = _Value(key)
    elif key in COMPLETED:
        more["autocompletion"] = lambda incomplete: [word for word in COMPLETED[key]() if word.startswith(incomplete)]
    return typer.Option(flag, help=_help(key, otherwise), rich_help_panel=panel, show_default=False, **more)


def _annotation(key: str) -> Any:
    kind = _kind(leaves()[key])
    panel = next((group for group, keys in GROUPS.items() if _is_in(key, keys)), "Federation")
    plain = list[str] if key in (*BY_NAME, *REPEATED) else kind if kind in (int, float, bool, Path) else str
    return Annotated[plain | None, setting(key, panel=panel)]


class _Value(click.ParamType):
    """An option's value, validated by its setting's model; an invalid one gives one plain sentence."""

    name = "value"

    def __init__(self, key: str) -> None:
        self.key = key

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        field, choices = leaves()[self.key], _choices(self.key)
        described: Any = Annotated[(field.annotation, None, *field.metadata)]  # pyright: ignore[reportInvalidTypeForm]
        try:
            taken = TypeAdapter(described).validate_python(value)
        except ValidationError:
            taken = None
        if taken is None or (choices and taken not in choices):
            wanted = f"choose {either(choices)}" if choices else requirement(described)
            given = value if re.fullmatch(r"[-+.\de]+", str(value)) else repr(value)
            raise AmosError(f"{param.opts[0] if param else self.key} is {given}: {wanted}")
        return taken

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[click.shell_completion.CompletionItem]:
        words = [word for word in _choices(self.key) if word.startswith(incomplete)]
        return [click.shell_completion.CompletionItem(word) for word in words]


def _is_in(key: str, keys: Collection[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in keys)


def _kind(field: FieldInfo) -> Any:
    """The type of a setting's value, where it has one."""
    annotation = field.annotation
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else [annotation]
    return next(kind for kind in kinds if kind is not NoneType)


def _choices(key: str) -> list[str]:
    kind = _kind(leaves()[key])
    # A deployment is started by its own command, so it is not offered here.
    return (
        [c for c in get_args(kind) if (key, c) != ("engine.name", "deployment")] if get_origin(kind) is Literal else []
    )


def _help(key: str, otherwise: str) -> str:
    """The setting's description, allowed values and default."""
    field, choices = leaves()[key], _choices(key)
    default: Any = otherwise or field.get_default()
    if isinstance(default, bool):
        default = "yes" if default else "no"
    elif isinstance(default, float):
        default = f"{default:.3g}"
    facts = [either(choices) if choices else limits_of(field.metadata)]
    facts.append(f"default: {default}" if isinstance(default, int | str) else "")
    said = "; ".join(filter(None, facts))
    return f"{(field.description or '').rstrip('.')}." + (f" ({said})" if said else "")


def _nested(key: str, value: Any) -> dict[str, Any]:
    """An option's value as nested settings; nothing if it was not given."""
    if key in ("sites", "hold_out"):
        value = names(value)
    elif isinstance(value, Path):
        value = str(value.resolve())
    elif key in BY_NAME:
        return _by_name(key, value or [])
    if value is None or (key in REPEATED and not value):
        return {}
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _by_name(key: str, texts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        source = f"{flag_of(key)} {text}"
        if not name or not equals:
            raise AmosError(f"{source}: must have the form name=value, like {BY_NAME[key]}")
        found = merge(found, nested_setting(f"{key}.{name}", parsed_value(value, source), source))
    return found
