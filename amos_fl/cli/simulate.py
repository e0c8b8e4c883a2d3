"""`amos-fl simulate`: a federation on this machine, from settings to scores."""

import math
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.errors import AmosError, Interrupted
from amos_fl.runs.config import RunConfig, merge, nearest, parse_assignment, read_yaml, resolve
from amos_fl.runs.recipes import DEMONSTRATION, RECIPES


def cache_folder() -> Path:
    """Where prepared cases and the phantom are kept: AMOS_FL_CACHE, or amos-fl in the user's cache folder."""
    if own := os.environ.get("AMOS_FL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amos-fl"


def _names(text: str | None) -> list[str] | None:
    return [name for name in text.replace(",", " ").split() if name] if text else None


def _next_out(strategy: str) -> Path:
    name = strategy.replace(":", ".").split(".")[-1].lower()
    number = 1
    while (path := Path("runs") / f"{name}-{number:03d}").exists():
        number += 1
    return path


def _with_device(config: RunConfig) -> RunConfig:
    """The settings with `auto` resolved, and a device that this machine has."""
    import torch

    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind, _, index = device.partition(":")
        if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
            raise ValueError
        if kind == "cuda" and (not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count()):
            raise AmosError(f"device {device}: this machine has no such GPU; use --device cpu")
        if kind == "mps" and not torch.backends.mps.is_available():
            raise AmosError("device mps: this machine has none; use --device cpu")
    except ValueError:
        raise AmosError(f"device {device!r} is none; use cpu, cuda, cuda:1 or auto") from None
    return config.model_copy(update={"device": device})


def _taking_part(cohort: Cohort, config: RunConfig) -> Cohort:
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


def simulate(
    strategy: Annotated[str | None, typer.Option(help="fedavg, fedprox, or module:Class of a Flower strategy.")] = None,
    cohort: Annotated[Path | None, typer.Option(help="cohort.csv or its folder; none: the embedded phantom.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of the federation.")] = None,
    local_steps: Annotated[int | None, typer.Option(help="Optimizer steps at each site in a round.")] = None,
    model: Annotated[str | None, typer.Option(help="small or unet.")] = None,
    plan: Annotated[str | None, typer.Option(help="coarse, amos-ct or amos-mr; by default as the model asks.")] = None,
    engine: Annotated[str | None, typer.Option(help="inline or ray.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides all randomness of the run.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; by default a new one under runs/.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings as YAML, like a run folder's config.yaml.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, as key=value; may be given again.")
    ] = None,
    sites: Annotated[str | None, typer.Option(help="Only these sites, e.g. A,B,C.")] = None,
    hold_out: Annotated[str | None, typer.Option(help="These sites train nothing, e.g. C.")] = None,
    weighting: Annotated[str | None, typer.Option(help="Updates weigh by cases, equal or steps.")] = None,
    optimizer_state: Annotated[str | None, typer.Option(help="Each round: reset or keep the momentum.")] = None,
    min_sites: Annotated[int | None, typer.Option(help="Stop when fewer sites send an update; default: half.")] = None,
    site_timeout: Annotated[float | None, typer.Option(help="A site's seconds for one round's training.")] = None,
    parallel_sites: Annotated[int | None, typer.Option(help="ray: sites at the same time.")] = None,
    gpus_per_site: Annotated[float | None, typer.Option(help="ray: share of a GPU for each site.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="ray: an existing cluster, host:port.")] = None,
    store: Annotated[Path | None, typer.Option(help="Where prepared cases are kept; default: the cache.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved plan and its cost; run nothing.")
    ] = False,
) -> None:
    """Train one network over the sites of a cohort, and score it on seen and unseen scanners."""
    engine_settings = {
        "name": engine,
        "parallel_sites": parallel_sites,
        "gpus_per_site": gpus_per_site,
        "address": ray_address,
    }
    flags: dict[str, Any] = {
        "strategy": strategy,
        "cohort": str(cohort.resolve()) if cohort else None,
        "rounds": rounds,
        "local_steps": local_steps,
        "model": model,
        "plan": plan,
        "device": device,
        "seed": seed,
        "sites": _names(sites),
        "hold_out": _names(hold_out),
        "weighting": weighting,
        "optimizer_state": optimizer_state,
        "min_sites": min_sites,
        "site_timeout_s": site_timeout,
        "engine": {key: value for key, value in engine_settings.items() if value is not None},
    }
    flags = {key: value for key, value in flags.items() if value not in (None, {})}
    layers: list[tuple[str, dict[str, Any]]] = []
    if config is not None:
        layers.append((str(config), read_yaml(config)))
    layers.append(("command line", flags))
    layers += [(f"--set {text}", parse_assignment(text)) for text in assignments or []]
    store = store or cache_folder() / "store"
    if resume is not None:
        given = {key for _, layer in layers for key in layer} - {"engine", "device"}
        if given:
            names = ", ".join(sorted(given))
            raise AmosError(f"--resume continues a run with its own settings; leave out {names}, or start a new run")
        _resume(resume, layers, store)
        return
    settings, members = _resolve(layers)
    if dry_run:
        from amos_fl.cli.dry_run import show_dry_run

        show_dry_run(settings, members)
        return
    from amos_fl.runs.folder import create_run

    folder = create_run(out or _next_out(settings.strategy), settings, members)
    _carry_out(folder.path, settings, members, store)


def _resolve(layers: list[tuple[str, dict[str, Any]]]) -> tuple[RunConfig, Cohort]:
    """Settings and cohort, with what nobody said filled in from the recipe of the model."""
    from amos_fl_server.strategies import make_strategy

    model = next((str(layer["model"]) for _, layer in reversed(layers) if "model" in layer), "small")
    if model not in RECIPES:
        raise AmosError(f"no model {model!r}; {nearest(model, RECIPES)}")
    recipe = (f"recipe of {model}", RECIPES[model])
    asked = resolve([recipe, *layers])
    make_strategy(asked.strategy, asked.strategy_options)
    if asked.cohort is None:
        everyone = _phantom()
        recipe = (recipe[0], merge(recipe[1], DEMONSTRATION))
    else:
        everyone = read_cohort(asked.cohort)
        if model == "unet" and all(case.modality == "MR" for case in everyone.cases):
            recipe = (recipe[0], {**recipe[1], "plan": "amos-mr"})
    settings = _with_device(resolve([recipe, *layers]))
    return settings, _taking_part(everyone, settings)


def _phantom() -> Cohort:
    from rich.console import Console

    from amos_fl.phantom.embedded import embedded_cohort

    console = Console(highlight=False)
    with console.status("making the phantom cohort") if console.is_terminal else nullcontext():
        return embedded_cohort(cache_folder())


def _resume(path: Path, layers: list[tuple[str, dict[str, Any]]], store: Path) -> None:
    from amos_fl.runs.folder import open_run

    folder = open_run(path)
    recorded = folder.config().model_dump(mode="json")
    over: dict[str, Any] = {}
    for _, layer in layers:
        over = merge(over, layer)
    settings = _with_device(resolve([(str(path / "config.yaml"), merge(recorded, over))]))
    _carry_out(path, settings, folder.cohort(), store)


def _carry_out(path: Path, settings: RunConfig, members: Cohort, store: Path) -> None:
    from amos_fl.cli.display import Display, show_results
    from amos_fl.runs.folder import RunFolder
    from amos_fl.runs.results import results_of
    from amos_fl.runs.summary import PHANTOM_NOTE
    from amos_fl_server.simulate import simulate as run_simulation

    folder = RunFolder(path)
    with Display() as display:
        seen, unseen = members.seen_sites, members.unseen_sites
        display.line(
            f"{settings.strategy}: {settings.rounds} rounds of {settings.local_steps} steps at {' '.join(seen)}; "
            f"unseen: {' '.join(unseen) or 'none'}; run folder {path}"
        )
        if folder.synthetic:
            display.line(PHANTOM_NOTE)
        try:
            run_simulation(folder, settings, members, store, display)
        except Interrupted:
            display.line(f"stopped; continue with: amos-fl simulate --resume {path}")
            raise typer.Exit(130) from None
    show_results(display.console, results_of(folder, settings, members))
    if folder.synthetic:
        _show_atlas(display.console, members)
    display.console.print(f"everything is in {path}; begin with {path / 'summary.md'}", markup=False)


def _show_atlas(console: Any, members: Cohort) -> None:
    """What position alone would score on the phantom, so that a score there can be judged."""
    from amos_fl.phantom.atlas import atlas_dsc

    train = [c for c in members.cases if c.split == "train" and c.modality == "CT"]
    test = [c for c in members.of(split="test") if c.site in members.seen_sites and c.modality == "CT"]
    if train and test:
        by_organ = atlas_dsc(train, test, tuple(members.organs))
        known = [score for score in by_organ.values() if not math.isnan(score)]
        mean = math.fsum(known) / len(known)
        console.print(f"for comparison, an atlas that knows only where organs usually are: DSC {mean:.3f} on seen CT")
