"""`amos-fl sweep`: a grid over strategies, seeds and settings, one run each, and what is left of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from amos_fl.api.settings import cache_folder, next_out, with_layers
from amos_fl.cli.options import (
    AcceptChangesOption,
    DeviceOption,
    ResumeOption,
    RunsAtOnceOption,
    StoreOption,
    TrackerOption,
)
from amos_fl.cli.running import (
    CONTINUES,
    carry_out,
    carry_out_at_once,
    carry_out_group,
    say_the_rest,
    show_finished,
)
from amos_fl.cli.setting_options import setting
from amos_fl.cli.settings import cohort_now, layers_of, refuse_beside, refuse_without, resolve_run
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_json
from amos_fl.locks import at_work
from amos_fl.runs.arms import centralized, leave_one_out, locals_of
from amos_fl.runs.config import RunConfig
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.group import Group, PlannedRun, create_group, is_group, read_group
from amos_fl.runs.layers import Layer
from amos_fl.runs.own_code import check_same_modules
from amos_fl.runs.sweep import Sweep, read_sweep
from amos_fl.runs.work import steps_by_site
from amos_fl.stopping import INTERRUPTED
from amos_fl.wording import counted, nearest, roughly


def sweep(
    config: Annotated[Path | None, typer.Argument(help="The sweep as YAML: settings, runs, grid, baselines.")] = None,
    parallel: RunsAtOnceOption = 1,
    gpus_per_run: Annotated[float, typer.Option(min=0, help="With --parallel: share of a GPU for each run.")] = 0.0,
    ray_address: Annotated[str | None, setting("engine.address")] = None,
    device: DeviceOption = None,
    tracker: TrackerOption = None,
    out: Annotated[Path | None, typer.Option(help="The group's folder; by default a new one under runs/.")] = None,
    store: StoreOption = None,
    resume: ResumeOption = None,
    accept_changes: AcceptChangesOption = False,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Carry out this run of the sweep alone; may be repeated."),
    ] = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Make the folders and print the names of unfinished runs; run nothing.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and their cost; run nothing.")] = False,
) -> None:
    """One run for every combination of settings; finished ones are skipped when it is run again.

    With --only several processes, on several machines that share the folder, may carry out its runs at the same time:
    make the folders first, with --prepare.
    """
    if (config is None) == (resume is None):
        raise AmosError("sweep needs either the file of a new sweep, amos-fl sweep SWEEP.yaml, or --resume FOLDER")
    refuse_without("--resume", resume, {"--accept-changes": accept_changes})
    refuse_without("--parallel", parallel > 1, {"--gpus-per-run": gpus_per_run or None, "--ray-address": ray_address})
    if only or prepare:
        does = "carries out the runs it names" if only else "runs nothing"
        refuse_beside("--only" if only else "--prepare", does, {"--parallel": parallel if parallel > 1 else None})
        refuse_beside("--prepare", "runs nothing", {"--only": only if prepare and only else None})
    layers = layers_of(None, {"device": device, "trackers": tracker or None}, None)
    if resume is not None:
        refuse_beside("--resume", CONTINUES, {"--out": out, "--dry-run": dry_run})
        group = read_group(resume)
    else:
        assert config is not None
        members = _members(read_sweep(config), layers)
        if dry_run:
            _list(members)
            return
        if out is not None and is_group(out):
            group = _same(read_group(out), members)
        else:
            group = create_group(out or next_out("sweep"), "sweep", members)
    if prepare:
        for folder in group.unfinished:
            typer.echo(folder.path.name)
        return
    store = store or cache_folder() / "store"
    if only:
        _carry_out_only(group, only, store, layers, accept_changes)
        return
    if parallel == 1:
        carry_out_group(group, store, layers, accept_changes)
    else:
        with at_work(group.path):
            failed = _in_parallel(group, store, layers, parallel, gpus_per_run, ray_address, accept_changes)
        show_finished(group, failed)
    typer.echo(f"compare them with: amos-fl compare {group.path}")


def _carry_out_only(group: Group, names: list[str], store: Path, layers: list[Layer], accept_changes: bool) -> None:
    """Carry out the named runs of a group without its lock: a run's own keeps others from the same run.

    Raises:
        AmosError: the group has no such run, another process carries it out, or it failed.
    """
    for name in names:
        if name not in group.names:
            raise AmosError(f"--only {name}: {group.path} has no run of that name; {nearest(name, group.names)}")
    for name in names:
        folder = RunFolder(group.path / name)
        if folder.finished:
            typer.echo(f"{name}: finished before; skipped")
            continue
        carry_out(folder.path, with_layers(folder.config(), layers), cohort_now(folder), store, accept_changes)


def _members(sweep: Sweep, layers: list[Layer]) -> list[PlannedRun]:
    """The federated runs, then their baselines, only once for settings that differ in nothing but the strategy."""
    makers: dict[str, Callable[[RunConfig, Cohort], list[PlannedRun]]] = {
        "centralized": lambda base, cohort: [centralized(base, cohort)],
        "local": locals_of,
        "leave-one-out": leave_one_out,
    }
    found: list[PlannedRun] = []
    baselines: dict[str, PlannedRun] = {}
    for combination in sweep.combinations:
        settings, cohort = resolve_run([*combination.layers, *layers])
        found.append(PlannedRun(combination.name, settings, cohort))
        for kind in sweep.baselines:
            for member in makers[kind](settings, cohort):
                start = str(member.config.start_from)
                key = sha256_of_json([member.config.science(), member.cohort.content_hash(), start])
                name = "-".join(dict.fromkeys([kind, member.name, combination.name]))
                baselines.setdefault(key, PlannedRun(name, member.config, member.cohort))
    return [*found, *baselines.values()]


def _list(members: list[PlannedRun]) -> None:
    from amos_fl.cli.dry_run import estimate_in_words

    seconds = 0.0
    for member in members:
        config = member.config
        steps = [config.rounds * steps for steps in steps_by_site(config, member.cohort).values()]
        said, takes = estimate_in_words(config, member.cohort)
        seconds += takes
        typer.echo(
            f"{member.name}: {config.arm}, {counted(max(steps), 'step')} at {counted(len(steps), 'trainer')}, "
            f"{sum(steps)} in all; {said}"
        )
    typer.echo(f"{counted(len(members), 'run')}, about {roughly(seconds)} one after another")


def _same(group: Group, members: list[PlannedRun]) -> Group:
    """An existing group to continue, if it has the same runs.

    Raises:
        AmosError: it holds other runs or other settings.
    """
    if group.names != tuple(member.name for member in members):
        raise AmosError(f"{group.path}: holds a sweep of other runs; choose another --out")
    for member in members:
        folder = RunFolder(group.path / member.name)
        was = folder.config()
        if was.science() != member.config.science() or was.start_from != member.config.start_from:
            raise AmosError(f"{folder.path}: was begun with other settings; choose another --out")
        check_same_modules(folder.about())
    return group


def _in_parallel(
    group: Group, store: Path, layers: list[Layer], at_once: int, gpus_per_run: float, address: str | None, accept: bool
) -> list[tuple[str, int]]:
    """What is left of a group, several runs at a time; the names and exit codes of those that failed."""
    left = group.unfinished
    typer.echo(f"{len(group.names) - len(left)} of {len(group.names)} runs are finished; {at_once} at a time")
    if not left:
        return []
    settings = with_layers(left[0].config(), layers)
    if settings.trackers != left[0].config().trackers:
        raise AmosError(
            "--tracker: with --parallel each run reports to the trackers it was created with; leave --parallel out, or "
            "send the runs afterwards with amos-fl track"
        )
    try:
        failed = carry_out_at_once(
            left,
            store,
            name_of=lambda folder: folder.path.name,
            at_once=at_once,
            device=settings.device,
            gpus_per_run=gpus_per_run,
            address=address,
            accept_changes=accept,
        )
    except KeyboardInterrupt:
        say_the_rest(group)
        raise typer.Exit(INTERRUPTED) from None
    return [(outcome.folder.path.name, outcome.exit_code) for outcome in failed]
