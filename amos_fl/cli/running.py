"""A run, or a group of runs, carried out on the terminal: progress, tables, report, and how to go on after Ctrl-C."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console as RichConsole

from amos_fl.api import running
from amos_fl.api.begin import NewRun, apart_from_cohort, continued
from amos_fl.api.running import carry_out_members, check_all_finished
from amos_fl.api.settings import refuse_settings, with_layers
from amos_fl.cli.display import Display, show_group, show_results
from amos_fl.cli.progress import Progress
from amos_fl.cli.settings import cohort_now
from amos_fl.cohort.table import Cohort
from amos_fl.errors import Interrupted
from amos_fl.escape.console import Console
from amos_fl.phantom.atlas import kept_atlas_dsc
from amos_fl.runs.config import RunConfig, has_strategy
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.group import Group
from amos_fl.runs.layers import Layer
from amos_fl.runs.record import read_run
from amos_fl.runs.results import results_of
from amos_fl.runs.summary import PHANTOM_NOTE
from amos_fl.runs.wording import work_in_words
from amos_fl.runs.work import steps_in_words
from amos_fl.stopping import INTERRUPTED
from amos_fl.wording import clock, counted

if TYPE_CHECKING:  # it imports Flower and Ray
    from amos_fl_server.federation.parallel import RunOutcome

CONTINUES = "continues the run in its folder"


def resume_run(path: Path, layers: list[Layer], store: Path, accept_changes: bool = False) -> None:
    """Continue a run to its end and show its results; a finished one only shows them."""
    layers, elsewhere = apart_from_cohort(layers)
    refuse_settings(layers, "--resume", "continues a run with its own settings")
    with Progress() as progress:
        settings, members = continued(path, layers, elsewhere, progress.of("drawing the phantom:"))
    carry_out(path, settings, members, store, accept_changes)


def carry_out(
    path: Path, settings: RunConfig, members: Cohort | None, store: Path, accept_changes: bool = False
) -> None:
    """Run, or continue, the run in a folder; then its tables and its report. `members` as in `running.carry_out`."""
    folder = RunFolder(path)
    console, settings = _run_one(folder, settings, members, store, accept_changes=accept_changes)
    scored = members if members is not None else folder.cohort()
    show_results(console, results_of(folder, settings, scored))
    if folder.synthetic and settings.arm == "federated":
        _show_atlas(console, scored, store)
    console.print(f"everything is in {path}; begin with {first_page(path)}", markup=False)


def carry_out_new(new: NewRun, out: Path | None, store: Path) -> None:
    """As `carry_out`, of a run whose folder does not exist yet."""
    carry_out(new.create(out), new.settings, new.cohort, store)


def _run_one(
    folder: RunFolder,
    settings: RunConfig,
    members: Cohort | None,
    store: Path,
    title: str = "",
    *,
    accept_changes: bool = False,
) -> tuple[RichConsole, RunConfig]:
    """One run to its end with live progress; the console, and the settings with the plan that the run made."""
    with Display() as display:
        display.line(f"{title}{_in_words(settings, members)}; run folder {folder.path}")
        if not title and members is not None and members.synthetic():
            display.line(PHANTOM_NOTE)
        try:
            settings = running.carry_out(folder.path, settings, members, store, display, accept_changes=accept_changes)
        except Interrupted:
            # Of a group, how to continue it is said by the group.
            display.line("stopped" if title else f"stopped; continue with: amos-fl simulate --resume {folder.path}")
            raise typer.Exit(INTERRUPTED) from None
    return display.console, settings


def _in_words(settings: RunConfig, members: Cohort | None) -> str:
    steps = f"{counted(settings.rounds, 'round')} of {steps_in_words(settings)}"
    if members is None:
        nodes = settings.engine.site_nodes
        return f"{settings.strategy}: {steps}; {', '.join(f'{site} on {nodes[site]}' for site in settings.sites or ())}"
    seen, unseen = " ".join(members.seen_sites), " ".join(members.unseen_sites) or "none"
    if not has_strategy(settings.arm):
        others = "unseen" if settings.arm == "centralized" else "others"
        return f"{work_in_words(settings, members)}; {others}: {unseen}"
    match settings.arm:
        case "leave-one-out":
            without = " ".join(settings.hold_out)
            return f"leave-one-out, without {without}: {settings.strategy}, {steps} at {seen}; unseen: {unseen}"
        case _:
            return f"{settings.strategy}: {steps} at {seen}; unseen: {unseen}"


def first_page(path: Path) -> Path:
    return path / "report.html" if (path / "report.html").is_file() else path / "summary.md"


def carry_out_group(group: Group, store: Path, layers: list[Layer], accept_changes: bool = False) -> None:
    """Run what is left of a group, one run after another, and show the scores of all of them.

    A run that fails does not stop the others; it is named at the end.

    Raises:
        AmosError: a run failed, with the exit code of the first one.
    """

    def one(folder: RunFolder, title: str) -> None:
        settings = with_layers(folder.config(), layers)
        _run_one(folder, settings, cohort_now(folder), store, title, accept_changes=accept_changes)

    try:
        failed = carry_out_members(group, one, typer.echo)
    except typer.Exit:
        say_the_rest(group)
        raise
    show_finished(group, failed)


def carry_out_at_once(
    folders: list[RunFolder], store: Path, *, name_of: Callable[[RunFolder], str], report: bool = True, **how: Any
) -> list["RunOutcome"]:
    """Carry out several runs at a time, with a line and, if wanted, a report as each ends; returns those that failed.

    `how` are arguments of `run_in_parallel`.
    """
    from amos_fl_server.federation.parallel import run_in_parallel

    failed: list[RunOutcome] = []
    ended, begun = 0, time.monotonic()

    def on_outcome(outcome: "RunOutcome") -> None:
        nonlocal ended
        ended += 1
        if outcome.error is not None:
            failed.append(outcome)
        for note in outcome.notes:
            typer.echo(f"{name_of(outcome.folder)}: {note}")
        rest = (time.monotonic() - begun) / ended * (len(folders) - ended)
        left = f", about {clock(rest)} left" if rest else ""
        typer.echo(f"{ended}/{len(folders)} {name_of(outcome.folder)}: {outcome.error or 'finished'}{left}")

    with Console(highlight=False).status("running") as status:

        def on_wait(rounds: dict[RunFolder, int]) -> None:
            status.update(", ".join(f"{name_of(folder)}: round {number}" for folder, number in rounds.items()))

        run_in_parallel(folders, store, report=report, on_outcome=on_outcome, on_wait=on_wait, **how)
    return failed


def say_the_rest(group: Group) -> None:
    """Say how to continue a group that was stopped."""
    typer.echo(f"continue the rest of the group with: amos-fl {group.kind} --resume {group.path}")


def show_finished(group: Group, failed: Sequence[tuple[str, int]]) -> None:
    """The scores of a group's finished runs.

    Raises:
        AmosError: naming the runs that failed (by name and exit code), with the first one's code.
    """
    finished = [read_run(path) for path in group.members if RunFolder(path).finished]
    if finished:
        show_group(Console(highlight=False), finished)
    check_all_finished(group, failed)


def _show_atlas(console: Any, members: Cohort, store: Path) -> None:
    """Print what position alone would score on the phantom, to judge the scores by."""
    train = [c for c in members.cases if c.split == "train" and c.modality == "CT"]
    test = [c for c in members.of(split="test") if c.site in members.seen_sites and c.modality == "CT"]
    if train and test:
        by_organ = kept_atlas_dsc(train, test, tuple(members.organs), store)
        known = [score for score in by_organ.values() if not math.isnan(score)]
        mean = math.fsum(known) / len(known)
        console.print(f"for comparison, an atlas that knows only where organs usually are: DSC {mean:.3f} on seen CT")
