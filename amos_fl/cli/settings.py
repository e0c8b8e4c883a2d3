"""From a command's options to settings: what every command that trains shares."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amos_fl.api import settings
from amos_fl.cli.progress import Progress
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.runs.config import ALONE, RunConfig, parse_assignment
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.layers import Layer, read_yaml

Flags = dict[str, Any]
"""What the options of a command say, as nested settings."""


def names(text: str | None) -> list[str] | None:
    """The names in an option's value, separated by commas or spaces."""
    return [name for name in text.replace(",", " ").split() if name] if text else None


def layers_of(config: Path | None, flags: Flags, assignments: list[str] | None) -> list[Layer]:
    """Settings in order of increasing precedence: a file's, the options', then those of `--set`.

    Raises:
        AmosError: a file or an assignment that cannot be read, or `--folds` without a fold.
    """
    layers: list[Layer] = []
    if config is not None:
        layers.append(Layer(str(config), read_yaml(config)))
    options = {key: value for key, value in flags.items() if value not in (None, {})}
    layers.append(Layer("command line", options, "options"))
    layers += [Layer(f"--set {text}", parse_assignment(text), "assignment") for text in assignments or []]
    given = {key for layer in layers for key, value in layer.settings.items() if value is not None}
    refuse_without("--fold", "fold" in given, {"--folds": flags.get("folds")})
    return layers


def resolve_run(layers: list[Layer], *, headers: bool = True) -> tuple[RunConfig, Cohort]:
    """The settings and the cohort of a run, with a bar while the phantom is drawn."""
    with Progress() as progress:
        return settings.resolve_run(layers, progress.of("drawing the phantom:"), headers=headers)


def cohort_now(folder: RunFolder, elsewhere: Cohort | None = None) -> Cohort:
    """A run's cohort, its scans where they are now, with a bar while the phantom is redrawn."""
    with Progress() as progress:
        return settings.cohort_now(folder, elsewhere, progress.of("drawing the phantom:"))


def phantom() -> Cohort:
    """The embedded cohort, with a bar while it is drawn."""
    with Progress() as progress:
        return settings.phantom(progress.of("drawing the phantom:"))


def with_plan_made(config: RunConfig, cohort: Cohort, store: Path) -> RunConfig:
    """The settings with the plan that the run would make before its first round, with a bar while it measures."""
    with Progress() as progress:
        return settings.with_plan_made(config, cohort, store, progress.of("measuring"))


def refuse_beside(option: str, does: str, others: Mapping[str, Any]) -> None:
    """Refuse options, by name, that would have no effect together with `option`; None or False means not given.

    Raises:
        AmosError: naming what to leave out.
    """
    if given := [name for name, value in others.items() if value is not None and value is not False]:
        raise AmosError(f"{option} {does}; leave out {', '.join(given)}")


def refuse_without(option: str, wanted: object, others: Mapping[str, Any]) -> None:
    """Refuse options, by name, that have an effect only together with `option`, if that is not `wanted`.

    Raises:
        AmosError: naming the first of them.
    """
    given = [name for name, value in others.items() if value is not None and value is not False]
    if not wanted and given:
        raise AmosError(f"{given[0]} needs {option}; add it, or leave out {', '.join(given)}")


def refuse_of_one_trainer(layers: list[Layer]) -> None:
    """Refuse `--set` for a federation's settings if there is only one trainer; a settings file may have both.

    Raises:
        AmosError: naming what to leave out.
    """
    for layer in layers:
        if layer.kind == "assignment" and (given := sorted(set(layer.settings) & set(ALONE))):
            raise AmosError(f"{layer.source}: a run with one trainer has no {given[0]}; leave it out")
