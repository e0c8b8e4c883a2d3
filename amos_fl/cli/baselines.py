"""The runs that a federation is compared with: `centralized`, `local`, `finetune` and `leave-one-out`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from amos_fl.api.begin import federation_of, new_pooled
from amos_fl.api.settings import WHERE, cache_folder, next_out, refuse_settings
from amos_fl.cli.options import (
    AcceptChangesOption,
    ConfigOption,
    DeviceOption,
    DryRunOption,
    LikeOption,
    OutOption,
    ResumeOption,
    SetOption,
    StoreOption,
)
from amos_fl.cli.progress import Progress
from amos_fl.cli.running import CONTINUES, carry_out_group, carry_out_new, resume_run
from amos_fl.cli.setting_options import setting, takes_settings
from amos_fl.cli.settings import Flags, layers_of, refuse_beside, refuse_of_one_trainer, refuse_without
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.escape.console import Console
from amos_fl.runs.arms import finetunes_of, locals_of
from amos_fl.runs.arms import leave_one_out as without_each
from amos_fl.runs.config import ALONE, RunConfig
from amos_fl.runs.folder import RunFolder, open_run
from amos_fl.runs.group import Group, PlannedRun, create_group, read_group
from amos_fl.runs.layers import Layer
from amos_fl.runs.record import read_runs
from amos_fl.runs.summary import number
from amos_fl.runs.work import steps_by_site
from amos_fl.wording import MISSING


def _federation(like: Path | None, layers: list[Layer]) -> tuple[RunConfig, Cohort]:
    with Progress() as progress:
        return federation_of(like, layers, progress.of("drawing the phantom:"), "--like")


@takes_settings(*ALONE, "engine")
def centralized(
    flags: Flags,
    like: LikeOption = None,
    budget: Annotated[
        Literal["equal-samples", "equal-steps"] | None,
        typer.Option(help="As many patches as all sites see together (the default), or as many sequential steps."),
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    out: OutOption = None,
    store: StoreOption = None,
    resume: ResumeOption = None,
    accept_changes: AcceptChangesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Train one network on the pooled cases of all seen sites, on the same budget as the federated run."""
    layers = layers_of(config, flags, assignments)
    store = store or cache_folder() / "store"
    refuse_without("--resume", resume, {"--accept-changes": accept_changes})
    if resume is not None:
        others = {"--like": like, "--budget": budget, "--out": out, "--dry-run": dry_run}
        refuse_beside("--resume", CONTINUES, others)
        resume_run(resume, layers, store, accept_changes)
        return
    refuse_of_one_trainer(layers)
    budget = budget or "equal-samples"
    base, members = _federation(like, layers)
    new = new_pooled(base, members, budget)
    typer.echo(_budget_in_words(base, new.settings, members, budget))
    if dry_run:
        from amos_fl.cli.dry_run import show_dry_run

        show_dry_run(new, store, out)
        return
    carry_out_new(new, out, store)


def _budget_in_words(base: RunConfig, pooled: RunConfig, members: Cohort, budget: str) -> str:
    """The work of the federated and the pooled run side by side, so that the reader can compare them."""
    batch, by_site = base.training.batch_size, steps_by_site(base, members)
    at_each = " or ".join(str(base.rounds * steps) for steps in sorted(set(by_site.values())))
    asked = "" if base.sites_per_round is None else "if every round used all sites, "
    whole, steps = base.rounds * sum(by_site.values()), pooled.rounds * pooled.local_steps
    return (
        f"budget {budget}: {asked}the federation takes {at_each} steps at each of {len(by_site)} sites, {whole} in all "
        f"on {whole * batch} patches; the pooled run takes {steps} steps and sees {steps * batch}"
    )


@takes_settings(*ALONE, "engine")
def local(
    flags: Flags,
    like: LikeOption = None,
    budget: Annotated[
        Literal["site", "whole"] | None,
        typer.Option(help="The steps of one site of the federation (the default), or of all together."),
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    out: OutOption = None,
    store: StoreOption = None,
    resume: ResumeOption = None,
    accept_changes: AcceptChangesOption = False,
) -> None:
    """Train each seen site alone, and score every model on all sites."""
    layers = layers_of(config, flags, assignments)
    resumed = _resumed(resume, accept_changes, {"--like": like, "--budget": budget, "--out": out})
    refuse_of_one_trainer(layers if resume is None else [])
    _group("local", like, layers, out, store, resumed, lambda base, members: locals_of(base, members, budget or "site"))


@takes_settings("engine")
def leave_one_out(
    flags: Flags,
    like: LikeOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    out: OutOption = None,
    store: StoreOption = None,
    resume: ResumeOption = None,
    accept_changes: AcceptChangesOption = False,
) -> None:
    """For every seen site in turn, federate without it and score the result on it."""
    layers = layers_of(config, flags, assignments)
    resumed = _resumed(resume, accept_changes, {"--like": like, "--out": out})
    _group("leave-one-out", like, layers, out, store, resumed, without_each)


def finetune(
    run: Annotated[Path | None, typer.Argument(help="The federated run to continue from, at its chosen round.")] = None,
    rounds: Annotated[int | None, setting("rounds", "a fifth of the federation's")] = None,
    learning_rate: Annotated[float | None, setting("training.learning_rate", "a tenth of the federation's")] = None,
    device: DeviceOption = None,
    out: OutOption = None,
    store: StoreOption = None,
    resume: ResumeOption = None,
    accept_changes: AcceptChangesOption = False,
) -> None:
    """Fine-tune a federated model at each site on its own cases, and score the result there and everywhere else.

    For comparison, it also shows what a site gains without training: with the federation's round that is best on
    the site's own validation cases, instead of the round chosen for all.
    """
    layers = layers_of(None, {"device": device}, None)
    if resume is None and run is None:
        raise AmosError("finetune needs the federated run to continue: amos-fl finetune RUN")
    others = {"RUN": run, "--rounds": rounds, "--learning-rate": learning_rate, "--out": out}
    resumed = _resumed(resume, accept_changes, others)

    def members(base: RunConfig, cohort: Cohort) -> list[PlannedRun]:
        assert run is not None
        if not open_run(run).finished:
            raise AmosError(f"{run}: this run has not finished; continue it with: amos-fl simulate --resume {run}")
        weights = run / "model" / "weights.safetensors"
        return finetunes_of(base, cohort, weights, rounds=rounds, learning_rate=learning_rate)

    store = store or cache_folder() / "store"
    group = _group("finetune", run, layers, out, store, resumed, members)
    _show_choices(group, store)


def _show_choices(group: Group, store: Path) -> None:
    """Each site's test scores: of the round chosen for all, the site's own best round, and its fine-tuned model."""
    from amos_fl.inference.site_choice import site_choices, write_site_choices

    records = {record.folder.path.name: record for record in read_runs([group.path])}
    config = next(iter(records.values())).config
    assert config.start_from is not None
    parent = RunFolder(config.start_from.parents[1])
    choices = site_choices(parent, store, device=config.device)
    write_site_choices(group.path / "site_choices.csv", choices)
    table = Table(title=f"Test DSC at home, from {parent.path}", title_justify="left", title_style="bold")
    for name in ("site", "round for all", "own best round", "fine-tuned"):
        table.add_column(name, justify="right")
    for choice in choices:
        tuned = next((row.dsc for row in records[choice.site].results.by_site if row.name == choice.site), math.nan)
        for_all = f"{number(choice.test_dsc_for_all)} (round {choice.round_for_all})"
        own = f"{number(choice.test_dsc_own)} (round {choice.own_round})" if choice.own_round else MISSING
        table.add_row(choice.site, for_all, own, number(tuned))
    Console(highlight=False).print(table)


def _resumed(resume: Path | None, accept_changes: bool, others: dict[str, Any]) -> tuple[Path | None, bool]:
    """The group to continue, if any, and whether changes to its runs are accepted.

    Raises:
        AmosError: an option that would have no effect.
    """
    refuse_without("--resume", resume, {"--accept-changes": accept_changes})
    if resume is not None:
        refuse_beside("--resume", CONTINUES, others)
    return resume, accept_changes


def _group(
    kind: str,
    like: Path | None,
    layers: list[Layer],
    out: Path | None,
    store: Path | None,
    resumed: tuple[Path | None, bool],
    members_of: Callable[[RunConfig, Cohort], list[PlannedRun]],
) -> Group:
    """Create a group of runs or resume one, and carry out what is left of it."""
    resume, accept_changes = resumed
    if resume is not None:
        refuse_settings(layers, "--resume", "continues runs with their own settings")
        group = read_group(resume)
        if group.kind != kind:
            raise AmosError(
                f"{resume}: is a {group.kind} group; continue it with: amos-fl {group.kind} --resume {resume}"
            )
    else:
        group = create_group(out or next_out(kind), kind, members_of(*_federation(like, layers)))
    # Each run's folder holds the settings of its arm; only those of where to compute may be given again.
    where = [layer.where(lambda key: key in WHERE) for layer in layers]
    carry_out_group(group, store or cache_folder() / "store", where, accept_changes)
    return group
