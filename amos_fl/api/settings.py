"""Resolve the settings and cohort of a run from a user's request, for the command line and Python alike."""

import os
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amos_fl.cohort.folds import in_fold
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import Cohort, OnCase, read_cohort
from amos_fl.errors import AmosError, already_exists
from amos_fl.networks.catalogue import DEMONSTRATION, network_named
from amos_fl.runs.config import RunConfig, resolve
from amos_fl.runs.layers import Layer, dotted, merge
from amos_fl.runs.own_code import check_own_code
from amos_fl.runs.tracking.tracker import check_trackers
from amos_fl.volumes.plan import AUTO

if TYPE_CHECKING:  # it imports NumPy, which --help does not need
    from amos_fl.runs.folder import RunFolder
    from amos_fl.runs.origin import Origin

WHERE = ("engine", "device", "trackers")
"""Settings that say where, not what, a run computes and tells; they may change from one resume to the next."""


def cache_folder() -> Path:
    """Where prepared cases and the phantom are kept: AMOS_FL_CACHE, or amos-fl in the user's cache folder."""
    if own := os.environ.get("AMOS_FL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amos-fl"


def next_out(strategy: str, runs: Path = Path("runs"), taken: Container[str] = ()) -> Path:
    """The first free folder below runs/ for a run of this strategy or kind, other than these names."""
    name = strategy.replace(":", ".").split(".")[-1].lower()
    number = 1
    while (path := runs / f"{name}-{number:03d}").exists() or path.name in taken:
        number += 1
    return path


def check_free(folder: Path) -> None:
    """Refuse a folder that is not empty.

    Raises:
        AmosError: it is not empty, or it is a file.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise already_exists(folder, "choose another folder")


def with_device(config: RunConfig) -> RunConfig:
    """The settings with `auto` resolved to a device of this machine."""
    from amos_fl.device import device_named

    return config.model_copy(update={"device": device_named(config.device)})


def taking_part(cohort: Cohort, config: RunConfig) -> Cohort:
    """The cohort restricted to the sites that the settings name, with sites held out, divided into folds if wanted.

    Raises:
        AmosError: a site that the cohort does not have, or no case to train on.
    """
    if config.fold is not None:  # of all sites, so that the division does not depend on which take part
        cohort = in_fold(cohort, config.fold, config.folds)
    if config.sites is not None:
        cohort = cohort.only(config.sites)
    cohort = cohort.holding_out(config.hold_out)
    if not cohort.seen_sites:
        raise AmosError("no site has a labelled training case; give a cohort with cases whose split is train")
    labelled = tuple(case for case in cohort.cases if case.label is not None)
    return replace(cohort, cases=labelled)


def recipe_for(layers: list[Layer], otherwise: str | None = None) -> tuple[str, Layer]:
    """The model that the layers ask for (or `otherwise`), and its recipe as the layer below them.

    Raises:
        AmosError: no such model.
    """
    from amos_fl.methods import kind_of  # it imports NumPy

    given = {key: value for layer in layers for key, value in layer.settings.items()}
    model = str(given.get("model", otherwise or "small"))
    recipe: dict[str, Any] = {**network_named(model).recipe, "model": model}
    kind = kind_of(str(given.get("strategy", "")))
    if kind is not None and kind.needs_reset:
        recipe["optimizer_state"] = "reset"
    return model, Layer(f"recipe of {model}", recipe)


def resolve_run(
    layers: list[Layer], on_case: OnCase | None = None, *, headers: bool = True
) -> tuple[RunConfig, Cohort]:
    """Settings and cohort, with missing settings filled in from the model's recipe.

    `on_case(done, total, case)` is called while the phantom is generated. With `headers` those of all scans are
    checked; when runs are only planned, that is left to them.

    Raises:
        AmosError: as `settled`, or a scan or label map with an implausible header.
    """
    from amos_fl.cohort.reference import check_headers

    settings, members = settled(layers)
    if settings.cohort is None:
        members = taking_part(phantom(on_case), settings)
    if headers:
        check_headers(members.cases)
    return settings, members


def settled(layers: list[Layer]) -> tuple[RunConfig, Cohort]:
    """As `resolve_run`, without a look at any scan: the phantom's cases are then one a site and split, without files.

    Raises:
        AmosError: invalid settings, or a cohort that cannot be read or has nothing to train on.
    """
    from amos_fl.cohort.outline import outline
    from amos_fl_server.federation.strategies import make_strategy, strategy_of

    origin = origin_in(layers)
    _, recipe = recipe_for(layers, origin.model if origin else None)
    asked = resolve([recipe, *layers])
    make_strategy(asked.strategy, asked.strategy_options)
    if asked.cohort is None:
        everyone = outline()
        recipe = replace(recipe, settings=merge(recipe.settings, DEMONSTRATION))
    else:
        everyone = read_cohort(asked.cohort)
        if recipe.settings["plan"] == "amos-ct" and all(case.modality == "MR" for case in everyone.cases):
            recipe = replace(recipe, settings={**recipe.settings, "plan": "amos-mr"})
    settings = with_device(begun_at(origin, resolve([as_trained(recipe, origin), *layers])))
    strategy_of(settings)
    check_trackers(settings.trackers)
    check_own_code(settings, len(everyone.organs))
    return settings, taking_part(everyone, settings)


def settled_elsewhere(
    layers: list[Layer], sites: Sequence[str], whose: str, *, demonstration: bool = False
) -> RunConfig:
    """The settings of a run over sites that keep their cases, and decide on which device they compute.

    `whose` names what the sites are of, in an error; a `demonstration` is of the phantom.

    Raises:
        AmosError: a wrong setting, a site that there is not, or initial weights that do not fit.
    """
    from amos_fl_server.federation.strategies import strategy_of

    origin = origin_in(layers)
    _, recipe = recipe_for(layers, origin.model if origin else None)
    if demonstration:
        recipe = replace(recipe, settings=merge(recipe.settings, DEMONSTRATION))
    settings = begun_at(origin, resolve([as_trained(recipe, origin), *layers]))
    strategy_of(settings)
    if settings.fold is not None:
        raise AmosError("fold: each site has divided its own cases, in its cohort.csv; leave fold out")
    expected = settings.sites if settings.sites is not None else tuple(sites)
    if unknown := [site for site in (*expected, *settings.hold_out) if site not in sites]:
        raise AmosError(f"site {unknown[0]}: is not in {whose}, which has {', '.join(sites)}")
    engine = settings.engine.model_copy(update={"name": "deployment"})
    return settings.model_copy(update={"sites": tuple(expected), "cohort": None, "engine": engine, "device": "auto"})


def settled_on_nodes(layers: list[Layer]) -> RunConfig | None:
    """The settings of a run on a Ray cluster without a shared disk; none if that is not what the layers ask for.

    Raises:
        AmosError: as `settled_elsewhere`, or a setting that each site decides.
    """
    engines = [layer.settings.get("engine") for layer in layers]
    if not any(isinstance(engine, dict) and engine.get("site_settings") for engine in engines):
        return None
    asked = resolve(layers)
    if asked.cohort is not None:
        raise AmosError("cohort: with engine.site_settings each site has a cohort of its own; leave cohort out")
    if asked.engine.name != "ray":
        raise AmosError("engine.site_settings is for a Ray cluster; set engine.name to ray")
    settings = settled_elsewhere(layers, tuple(sorted(asked.engine.site_settings)), "engine.site_settings")
    check_trackers(settings.trackers)
    check_own_code(settings, len(AMOS_ORGANS))  # how many there are is known when the run begins
    return settings


def with_plan_made(config: RunConfig, cohort: Cohort, store: Path, on_case: OnCase | None = None) -> RunConfig:
    """The settings with the plan that the run would make before its first round: the sites' sum is the pooled one."""
    if not config.lacks_plan:
        return config
    from amos_fl.planning.measure import fingerprint_of_cases, measured_cases
    from amos_fl.planning.planner import plan_from

    found = fingerprint_of_cases(measured_cases(cohort), cohort.organs, store=store, on_case=on_case)
    return config.model_copy(update={"plan": plan_from(found, len(cohort.organs), config.planning, name=AUTO)})


def origin_in(layers: list[Layer]) -> "Origin | None":
    """The run or file to start from, whose model and plan are the defaults.

    Raises:
        AmosError: there are no such weights.
    """
    from amos_fl.runs.origin import origin_of, weights_file

    asked = next((one.settings["start_from"] for one in reversed(layers) if "start_from" in one.settings), None)
    return None if asked is None else origin_of(weights_file(Path(str(asked))))


def as_trained(recipe: Layer, origin: "Origin | None") -> Layer:
    """A recipe with the plan and normalisation of the network to start from, if it is the same model."""
    if origin is None or origin.model != recipe.settings["model"] or origin.plan is None:
        return recipe
    # The settings other than "group" have the same layers, and differ only in how statistics are treated.
    norm = {"norm_statistics": "group"} if origin.norm_statistics == "group" else {}
    return replace(recipe, settings={**recipe.settings, "plan": origin.plan.model_dump(), **norm})


def begun_at(origin: "Origin | None", settings: RunConfig) -> RunConfig:
    """The settings with the file to start from.

    Raises:
        AmosError: its weights are of another network.
    """
    if origin is None:
        return settings
    from amos_fl.runs.origin import start_of

    settings = settings.model_copy(update={"start_from": origin.file.resolve()})
    start_of(settings)
    return settings


def phantom(on_case: OnCase | None = None) -> Cohort:
    """The embedded cohort, generated if it does not exist yet; `on_case(done, total, case)` follows each case."""
    from amos_fl.phantom.embedded import embedded_cohort

    return embedded_cohort(cache_folder(), on_case=on_case)


def cohort_now(folder: "RunFolder", elsewhere: Cohort | None = None, on_case: OnCase | None = None) -> Cohort:
    """A run's cohort with the present locations of its scans; missing phantom scans are generated again.

    Raises:
        AmosError: the scans are not where the run expects them, or `elsewhere` lacks the run's cases.
    """
    from amos_fl.runs.moved import cohort_of

    of_phantom = folder.config().cohort is None
    if elsewhere is None and of_phantom and not all(case.image.exists() for case in folder.cohort().cases):
        elsewhere = phantom(on_case)
    return cohort_of(folder, elsewhere)


def refuse_settings(layers: list[Layer], option: str, does: str) -> None:
    """Refuse settings together with an option that brings its own; only where a run is computed may change.

    Raises:
        AmosError: naming what to leave out.
    """
    given = {(key, layer.kind) for layer in layers for key in dotted(layer.settings)}
    if barred := {(key, kind) for key, kind in given if key.partition(".")[0] not in WHERE}:
        words = sorted({"--init" if (key, kind) == ("start_from", "options") else key for key, kind in barred})
        raise AmosError(f"{option} {does}; leave out {', '.join(words)}, or start a new run")


def with_layers(config: RunConfig, layers: list[Layer]) -> RunConfig:
    """Recorded settings with the command line's changes, on a device of this machine."""
    recorded = config.model_dump(mode="json")
    for layer in layers:
        recorded = merge(recorded, layer.settings)
    return with_device(resolve([Layer("the run's settings", recorded)]))
