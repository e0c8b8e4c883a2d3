"""What `amos-fl annotate` prints: the queue, what a correction changed, and a project's progress."""

import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from amos_fl.annotate.ledger import Imported
from amos_fl.annotate.progress import ProjectProgress
from amos_fl.annotate.project import Project
from amos_fl.annotate.state import CaseState
from amos_fl.wording import MISSING


def number(value: float | None, digits: int = 3) -> str:
    return MISSING if value is None or math.isnan(value) else f"{value:.{digits}f}"


def volume(value_ml: float) -> str:
    """A volume in ml, with no more digits than are useful."""
    return MISSING if math.isnan(value_ml) else f"{value_ml:.1f}" if value_ml < 100 else f"{value_ml:.0f}"


def minutes(value: float | None) -> str:
    """A time between hand-out and import.

    >>> minutes(12.34), minutes(150.0)
    ('12 min', '2.5 h')
    """
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:.0f} min" if value < 120 else f"{value / 60:.1f} h"


def table(title: str, text: Sequence[str], numbers: Sequence[str]) -> Table:
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for head in text:
        made.add_column(head, no_wrap=True)
    for head in numbers:
        made.add_column(head, justify="right", no_wrap=True)
    return made


def show_queue(console: Console, project: Project, waiting: Sequence[CaseState]) -> None:
    """The queue in order, with the parts of each need and the reasons in words."""
    shown = table(
        "Expected need of correction, greatest first", ["case", "site"], ["need", "disagree", "volumes", "broken"]
    )
    sites = {case.case: case.site for case in project.cohort.cases}
    for state in waiting:
        if state.latest is not None:
            need = state.latest.need
            parts = (need.score, need.disagreement, need.implausible, need.broken)
            shown.add_row(state.case, sites[state.case], *(f"{part:.2f}" for part in parts))
    console.print(shown)
    for state in waiting:
        if state.latest is not None:
            reasons = state.latest.need.reasons or ("nothing stands out",)
            console.print(f"{state.case}:", soft_wrap=True)
            for reason in reasons:
                console.print(f"  - {reason}", soft_wrap=True)
    console.print("need: the sum of three fractions of the organs: drawn differently, of implausible volume, in pieces")


def change_table(event: Imported, organs: Mapping[int, str]) -> Table:
    """What a correction changed, by organ, compared with what the person started from."""
    shown = table(f"against the {event.began_from}", ["organ"], ["DSC", "NSD", "ml before", "ml after", "ml changed"])
    for organ, change in event.change.items():
        volumes = (change.before_ml, change.after_ml, change.changed_ml)
        shown.add_row(organs[organ], number(change.dsc), number(change.nsd), *map(volume, volumes))
    return shown


def show_status(console: Console, progress: ProjectProgress) -> None:
    """Everything on one screen, round by round."""
    state = progress.state
    counts = ", ".join(f"{count} {stage}" for stage, count in state.stages().items() if count)
    console.print(f"{len(state.cases)} cases without a label in the cohort: {counts or 'none'}", soft_wrap=True)
    if not state.rounds:
        console.print(
            f"no round yet; start with: amos-fl annotate start {progress.project.path} --run RUN", soft_wrap=True
        )
        return
    numbers = ["pre-labelled", "junior", "senior", "done", "DSC", "NSD", "ml changed", "time"]
    shown = table("Rounds (DSC, NSD: pre-label against correction)", ["round", "network"], numbers)
    for row in progress.rounds:
        counted = (row.prelabelled, row.junior, row.senior, row.stages["done"])
        measured = (number(row.dsc), number(row.nsd), volume(row.changed_ml), minutes(row.minutes))
        shown.add_row(str(row.round), row.networks, *map(str, counted), *measured)
    console.print(shown)
    if progress.organs:
        last = max(row.round for row in progress.organs)
        title = f"Pre-label against correction by organ, round {last}"
        shown = table(title, ["organ"], ["cases", "DSC", "NSD", "ml drawn", "ml corrected", "ml changed"])
        for row in progress.organs:
            if row.round == last:
                volumes = map(volume, (row.prelabel_ml, row.corrected_ml, row.changed_ml))
                shown.add_row(row.organ, str(row.cases), number(row.dsc), number(row.nsd), *volumes)
        console.print(shown)
    if progress.people:
        numbers = ["corrections", "unchanged", "in hand", "DSC", "NSD", "ml changed", "time"]
        shown = table("People (DSC, NSD: the result against what they started from)", ["name", "role"], numbers)
        for row in progress.people:
            counted = (row.corrections, row.unchanged, row.in_hand)
            measured = (number(row.dsc), number(row.nsd), volume(row.changed_ml), minutes(row.minutes))
            shown.add_row(row.by, row.role, *map(str, counted), *measured)
        console.print(shown)
    if progress.models:
        shown = table(
            "Test scores of the networks on the scanners that each was trained on",
            ["round", "network", "modality"],
            ["cases", "DSC"],
        )
        for row in progress.models:
            shown.add_row(str(row.round), row.name, row.modality, str(row.cases), number(row.dsc))
        console.print(shown)
    console.print("time: the median from hand-out to import; not all of it is work")
    console.print(_what_now(progress), soft_wrap=True)


def _what_now(progress: ProjectProgress) -> str:
    """The next command of the project."""
    state, path = progress.state, progress.project.path
    stages = state.stages()
    if state.round in state.retrained:
        return f"round {state.round} is retrained; start the next with: amos-fl annotate start {path}"
    if state.round in state.retraining:
        return f"the retraining of round {state.round} is not finished; continue with: amos-fl annotate retrain {path}"
    if stages["for review"]:
        return f"next: amos-fl annotate next {path} --by NAME --role senior"
    if stages["waiting"]:
        return f"next: amos-fl annotate next {path} --by NAME --role junior"
    if stages["with a junior"] or stages["with a senior"]:
        return "next: whoever has a case in hand imports it"
    if stages["not pre-labelled"]:
        return f"next: amos-fl annotate start {path}"
    return f"next: amos-fl annotate retrain {path}"
