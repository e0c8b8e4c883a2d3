"""From options to the settings and the cohort of a run: what every command that trains shares."""

import os
from collections.abc import Container, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.errors import AmosError
from amos_fl.runs.config import RunConfig, merge, nearest, parse_assignment, read_yaml, resolve
from amos_fl.runs.recipes import DEMONSTRATION, RECIPES

if TYPE_CHECKING:  # with it comes NumPy, which --help does without
    from amos_fl.runs.origin import Origin


def cache_folder() -> Path:
    """Where prepared cases and the phantom are kept: AMOS_FL_CACHE, or amos-fl in the user's cache folder."""
    if own := os.environ.get("AMOS_FL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amos-fl"


def names(text: str | None) -> list[str] | None:
    """The names in an option's value, separated by commas or spaces."""
    return [name for name in text.replace(",", " ").split() if name] if text else None


def flags_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the options of a command that trains say, as settings; `given` are the command's parameters by name.

    Parameters that are no settings, such as --out, are left out.
    """
    as_given = ("strategy", "rounds", "local_steps", "model", "plan", "device", "seed")
    as_given += ("weighting", "optimizer_state", "min_sites")
    flags = {key: given[key] for key in as_given if key in given}
    flags |= {key: names(given[key]) for key in ("sites", "hold_out") if key in given}
    if "site_timeout" in given:
        flags["site_timeout_s"] = given["site_timeout"]
    for parameter, key in (("cohort", "cohort"), ("init", "start_from")):
        if given.get(parameter) is not None:
            flags[key] = str(given[parameter].resolve())
    return flags


def next_out(strategy: str, runs: Path = Path("runs"), taken: Container[str] = ()) -> Path:
    """The first folder below runs/ that no other run of this strategy or kind has taken, nor one of these names."""
    name = strategy.replace(":", ".").split(".")[-1].lower()
    number = 1
    while (path := runs / f"{name}-{number:03d}").exists() or path.name in taken:
        number += 1
    return path


def with_device(config: RunConfig) -> RunConfig:
    """The settings with `auto` resolved, and a device that this machine has."""
    from amos_fl.device import device_named

    return config.model_copy(update={"device": device_named(config.device)})


def taking_part(cohort: Cohort, config: RunConfig) -> Cohort:
    """The cohort of the sites that the settings name, without what is held out.

    Raises:
        AmosError: a site that the cohort does not have, or no case to train on.
    """
    if config.sites is not None:
        cohort = cohort.only(config.sites)
    cohort = cohort.holding_out(config.hold_out)
    if not cohort.seen_sites:
        raise AmosError("no site has a labelled training case; give a cohort with cases whose split is train")
    labelled = tuple(case for case in cohort.cases if case.label is not None)
    return replace(cohort, cases=labelled)


def recipe_for(
    layers: list[tuple[str, dict[str, Any]]], otherwise: str | None = None
) -> tuple[str, tuple[str, dict[str, Any]]]:
    """The model that the layers ask for (or else `otherwise`), and its recipe as the layer below them.

    Raises:
        AmosError: no such model.
    """
    model = next((str(layer["model"]) for _, layer in reversed(layers) if "model" in layer), otherwise or "small")
    if model not in RECIPES:
        raise AmosError(f"no model {model!r}; {nearest(model, RECIPES)}")
    return model, (f"recipe of {model}", {**RECIPES[model], "model": model})


def resolve_run(layers: list[tuple[str, dict[str, Any]]]) -> tuple[RunConfig, Cohort]:
    """Settings and cohort, with what nobody said filled in from the recipe of the model."""
    from amos_fl_server.strategies import make_strategy

    origin = origin_in(layers)
    model, recipe = recipe_for(layers, origin.model if origin else None)
    asked = resolve([recipe, *layers])
    make_strategy(asked.strategy, asked.strategy_options)
    if asked.cohort is None:
        everyone = phantom()
        recipe = (recipe[0], merge(recipe[1], DEMONSTRATION))
    else:
        everyone = read_cohort(asked.cohort)
        if model != "small" and all(case.modality == "MR" for case in everyone.cases):
            recipe = (recipe[0], {**recipe[1], "plan": "amos-mr"})
    settings = with_device(begun_at(origin, resolve([as_trained(recipe, origin), *layers])))
    return settings, taking_part(everyone, settings)


def with_plan_made(config: RunConfig, cohort: Cohort, store: Path) -> RunConfig:
    """The settings with the plan that the run would make before its first round: the sites' sum is the pooled one."""
    if not config.lacks_plan:
        return config
    from amos_fl.cli.progress import Progress
    from amos_fl.planning.measure import fingerprint_of_cases, measured_cases
    from amos_fl.planning.planner import plan_from
    from amos_fl.volumes.plan import AUTO

    with Progress() as progress:
        found = fingerprint_of_cases(
            measured_cases(cohort), cohort.organs, store=store, on_case=progress.of("measuring")
        )
    return config.model_copy(update={"plan": plan_from(found, len(cohort.organs), config.planning, name=AUTO)})


def origin_in(layers: list[tuple[str, dict[str, Any]]]) -> "Origin | None":
    """The run or file to begin with, whose model and plan count where no layer says otherwise.

    Raises:
        AmosError: there are no such weights.
    """
    from amos_fl.runs.origin import origin_of, weights_file

    asked = next((layer["start_from"] for _, layer in reversed(layers) if "start_from" in layer), None)
    return None if asked is None else origin_of(weights_file(Path(str(asked))))


def as_trained(recipe: tuple[str, dict[str, Any]], origin: "Origin | None") -> tuple[str, dict[str, Any]]:
    """A recipe with the plan and the kind of normalisation of the network to begin with, where it is of that model."""
    if origin is None or origin.model != recipe[1]["model"] or origin.plan is None:
        return recipe
    # The two others but "group" are the same layers, and differ in what becomes of them.
    norm = {"norm_statistics": "group"} if origin.norm_statistics == "group" else {}
    return recipe[0], {**recipe[1], "plan": origin.plan.model_dump(), **norm}


def begun_at(origin: "Origin | None", settings: RunConfig) -> RunConfig:
    """The settings with the file to begin with.

    Raises:
        AmosError: its weights are of another network.
    """
    if origin is None:
        return settings
    from amos_fl.runs.origin import start_of

    settings = settings.model_copy(update={"start_from": origin.file.resolve()})
    start_of(settings)
    return settings


def phantom() -> Cohort:
    """The embedded cohort, made when it is not there yet."""
    from rich.console import Console

    from amos_fl.phantom.embedded import embedded_cohort

    console = Console(highlight=False)
    with console.status("making the phantom cohort") if console.is_terminal else nullcontext():
        return embedded_cohort(cache_folder())


def layers_of(
    config: Path | None, flags: dict[str, Any], assignments: list[str] | None
) -> list[tuple[str, dict[str, Any]]]:
    """Settings in the order in which they count: a file's, the options', then those of `--set`."""
    layers: list[tuple[str, dict[str, Any]]] = []
    if config is not None:
        layers.append((str(config), read_yaml(config)))
    layers.append(("command line", {key: value for key, value in flags.items() if value not in (None, {})}))
    return layers + [(f"--set {text}", parse_assignment(text)) for text in assignments or []]


WHERE = ("engine", "device")
"""Settings that say where a run is computed and not what; they may change from one resume to the next."""


def refuse_beside(option: str, does: str, others: Mapping[str, Any]) -> None:
    """Refuse options, by name, that a command would not heed beside `option`; one that is not given is None or False.

    Raises:
        AmosError: naming what to leave out.
    """
    if given := [name for name, value in others.items() if value is not None and value is not False]:
        raise AmosError(f"{option} {does}; leave out {', '.join(given)}")


def refuse_without(option: str, wanted: object, others: Mapping[str, Any]) -> None:
    """Refuse options, by name, that are heeded only together with `option`, where that is not `wanted`.

    Raises:
        AmosError: naming the first of them.
    """
    given = [name for name, value in others.items() if value is not None and value is not False]
    if not wanted and given:
        raise AmosError(f"{given[0]} goes with {option}; add that, or leave out {', '.join(given)}")


def refuse_of_one_trainer(layers: list[tuple[str, dict[str, Any]]]) -> None:
    """Refuse `--set` for settings of a federation where one trainer works alone; a settings file is shared by both.

    Raises:
        AmosError: naming what to leave out.
    """
    from amos_fl.runs.arms import ALONE

    for source, layer in layers:
        if source.startswith("--set ") and (given := sorted(set(layer) & set(ALONE))):
            raise AmosError(f"{source}: one trainer alone has no {given[0]} to choose; leave it out")


def refuse_settings(layers: list[tuple[str, dict[str, Any]]], option: str, does: str) -> None:
    """Refuse settings beside an option that brings its own; only where a run is computed may change.

    Raises:
        AmosError: naming what to leave out.
    """
    if given := {key for _, layer in layers for key in layer} - set(WHERE):
        words = sorted("--init" if key == "start_from" else key for key in given)
        raise AmosError(f"{option} {does}; leave out {', '.join(words)}, or start a new run")


def like_run(path: Path, layers: list[tuple[str, dict[str, Any]]]) -> tuple[RunConfig, Cohort]:
    """The settings and the cohort of a federated run, to compute another arm from.

    Raises:
        AmosError: no run there, one of another arm, or settings beside `--like`.
    """
    from amos_fl.runs.folder import open_run

    refuse_settings(layers, "--like", "takes everything from that run")
    folder = open_run(path)
    settings = with_layers(folder.config(), layers)
    if settings.arm != "federated":
        raise AmosError(f"{path}: is a {settings.arm} run; give the federated run that it belongs to")
    return settings, folder.cohort()


def with_layers(config: RunConfig, layers: list[tuple[str, dict[str, Any]]]) -> RunConfig:
    """Recorded settings with what the command line changes, on a device that this machine has."""
    recorded = config.model_dump(mode="json")
    for _, layer in layers:
        recorded = merge(recorded, layer)
    return with_device(resolve([("the run's settings", recorded)]))
