"""The options of every command that takes settings, made from the models that describe these.

`--local-steps` is the field `RunConfig.local_steps`, `--learning-rate` is `TrainingSettings.learning_rate`: an option
is the field's name with hyphens, without the section it is in, but for those in `NAMES`.
"""

import inspect
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import click
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from amos_fl.cli.settings import names
from amos_fl.errors import AmosError
from amos_fl.runs.config import RunConfig, merge, parse_assignment

NAMES = {
    "start_from": "--init",
    "site_timeout_s": "--site-timeout",
    "strategy_options": "--strategy-option",
    "training.batch_size": "--training-batch-size",
    "evaluation.batch_size": "--evaluation-batch-size",
    "evaluation.every": "--evaluate-every",
    "engine.name": "--engine",
    "engine.address": "--ray-address",
}
"""Options that are not called as their settings are."""

GROUPS = {
    "Sites": ("cohort", "sites", "hold_out", "min_sites", "site_timeout_s"),
    "Federation": (
        *("strategy", "strategy_options", "rounds", "local_steps", "weighting", "optimizer_state", "norm_statistics"),
        *("selection", "max_update_norm", "seed"),
    ),
    "Network and plan": ("model", "plan", "planning", "start_from"),
    "Training": ("training",),
    "Evaluation": ("evaluation",),
    "Engine and machine": ("engine", "device", "prepare_workers", "keep_checkpoints"),
}
"""The headings of `--help`, and the settings or sections of settings under each."""

DECIDED_ELSEWHERE = ("arm", "planning.auto")
"""What the command itself and `--plan auto` say."""


def leaves(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting that is a value and not a section, by its dotted key."""
    for name, field in model.model_fields.items():
        inside = field.annotation
        if isinstance(inside, type) and issubclass(inside, BaseModel) and name != "plan":
            yield from leaves(inside, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def flag_of(key: str) -> str:
    """The option of a setting.

    >>> flag_of("training.learning_rate"), flag_of("training.batch_size")
    ('--learning-rate', '--training-batch-size')
    """
    return NAMES.get(key, "--" + key.rpartition(".")[2].replace("_", "-"))


def takes_settings(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every setting; it gets those that were given, nested, as `flags`.

    `without` are settings, or sections of them, that the command does not heed.
    """

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command).parameters.values() if p.name != "flags"]
        keys = {
            key.replace(".", "__"): (key, field)
            for key, field in leaves()
            if not _is_in(key, (*DECIDED_ELSEWHERE, *without))
        }
        made = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(key, field))
            for name, (key, field) in keys.items()
        ]

        def run(**given: Any) -> None:
            flags: dict[str, Any] = {}
            for name, (key, _) in keys.items():
                flags = merge(flags, _nested(key, given.pop(name)))
            command(**given, flags=flags)

        parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *made]
        run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess] - typer's source
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        return run

    return decorated


class _Choice(click.Choice):  # type: ignore[type-arg]
    """A choice whose error is one plain sentence, as all others are."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value not in self.choices:
            self.fail(str(value), param, ctx)
        return value

    def fail(self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None) -> NoReturn:
        option = param.opts[0] if param else "value"
        raise AmosError(f"{option} is {message!r}: choose {' or '.join(map(str, self.choices))}")


def _is_in(key: str, keys: Collection[str]) -> bool:
    return any(key == other or key.startswith(f"{other}.") for other in keys)


def _option(key: str, field: FieldInfo) -> Any:
    """The type and the option of a setting, as typer reads them."""
    inside = next(kind for kind in _members(field.annotation) if kind is not NoneType)
    flag = flag_of(key)
    more: dict[str, Any] = {}
    kind = inside if inside in (int, float, bool, Path) else str
    if get_origin(inside) is Literal:
        # A deployment is started by its own command, and is no choice here.
        more["click_type"] = _Choice([c for c in get_args(inside) if (key, c) != ("engine.name", "deployment")])
    elif key == "strategy_options":
        kind, more["metavar"] = list[str], "NAME=VALUE"
    elif kind is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    group = next(group for group, keys in GROUPS.items() if _is_in(key, keys))
    return Annotated[kind | None, typer.Option(flag, help=_help(field), rich_help_panel=group, **more)]


def _members(annotation: Any) -> list[Any]:
    return list(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else [annotation]


def _help(field: FieldInfo) -> str:
    """The field's description, its bounds and its default."""
    text = (field.description or "").rstrip(".")
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {limit}"
        for rule in field.metadata
        for name, sign in signs.items()
        if (limit := getattr(rule, name, None)) is not None and limit < 2**62
    ]
    default = field.get_default()
    if default is not None and isinstance(default, bool | int | float | str):
        shown = {True: "yes", False: "no"}[default] if isinstance(default, bool) else default
        bounds.append(f"default: {f'{shown:.3g}' if isinstance(shown, float) else shown}")
    return f"{text}. ({', '.join(bounds)})" if bounds else f"{text}."


def _nested(key: str, value: Any) -> dict[str, Any]:
    """An option's value as nested settings; nothing where it was not given."""
    if key in ("sites", "hold_out"):
        value = names(value)
    elif key in ("cohort", "start_from") and value is not None:
        value = str(value.resolve())
    elif key == "strategy_options":
        return _strategy_options(value or [])
    if value is None:
        return {}
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _strategy_options(texts: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        if not text.partition("=")[0] or "=" not in text:
            raise AmosError(f"--strategy-option {text}: must have the form name=value, like mu=0.01")
        found = merge(found, parse_assignment(f"strategy_options.{text}"))
    return found
