"""The page of a labelling project: cases, rounds, organs and people, from its ledger."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from amos_fl.annotate.progress import ProjectProgress, RoundRow
from amos_fl.annotate.state import STAGES, Stage
from amos_fl.report.figures import WIDTH, grid_of_scores, score
from amos_fl.report.palette import INK, MUTED, PAPER, RULE, SERIES
from amos_fl.report.sortable import Cell, Column, SortableTable, count, number, table, text
from amos_fl.report.svg import page_style, to_svg
from amos_fl.runs.summary import PHANTOM_NOTE
from amos_fl.wording import MISSING, counted, duration

_COLOURS: dict[Stage, str] = {
    "not pre-labelled": RULE,
    "waiting": MUTED,
    "with a junior": SERIES[4],
    "for review": SERIES[1],
    "with a senior": SERIES[5],
    "done": SERIES[2],
}
_MEASURED = (
    "Scores are of the pre-label against the last correction of the organ in the round: how much was left to do, "
    "not how good it is. An organ that neither map has does not count."
)


def annotation_context(progress: ProjectProgress, files: dict[str, str]) -> dict[str, Any]:
    """The context of the template `annotation.html`."""
    project, state = progress.project, progress.state
    stages = state.stages()
    context: dict[str, Any] = {
        "title": project.path.resolve().name,
        "kind": "Labelling project",
        "synthetic": project.cohort.synthetic(),
        "phantom_note": PHANTOM_NOTE,
        "problems": [],
        "all_well": f"{counted(len(state.cases), 'case')} without a label in the cohort, "
        f"{counted(len(project.settings.organs), 'organ')} looked for.",
        "files": files,
        "numbers": _key_numbers(progress, stages),
        "stages": _stages_figure("stages", progress.rounds) if progress.rounds else "",
        "rounds_table": _rounds_table(progress),
        "models_table": _models_table(progress) if progress.models else None,
        "agreement": _agreement(progress),
        "organs_table": _organs_table(progress),
        "people_table": _people_table(progress),
        "cases_table": _cases_table(progress),
        "measured": _MEASURED,
    }
    parts = [
        ("rounds", "Round by round", True),
        ("organs", "By organ", bool(progress.organs)),
        ("people", "By person", bool(progress.people)),
        ("cases", "Cases", True),
    ]
    return context | {"contents": [(anchor, heading) for anchor, heading, there in parts if there]}


def _key_numbers(progress: ProjectProgress, stages: dict[Stage, int]) -> list[dict[str, str]]:
    drawn = sum(row.annotated for row in progress.cases)
    numbers = [
        {"name": "done", "value": str(stages["done"]), "more": "a senior has reviewed what was annotated"},
        {"name": "for review", "value": str(stages["for review"]), "more": "corrected, waiting for a senior"},
        {
            "name": "in hand",
            "value": str(stages["with a junior"] + stages["with a senior"]),
            "more": "being worked on",
        },
        {"name": "waiting", "value": str(stages["waiting"]), "more": "pre-labelled, not yet taken"},
        {"name": "organs annotated", "value": str(drawn), "more": "over all cases"},
    ]
    measured = [row for row in progress.rounds if not math.isnan(row.dsc)]
    if measured:
        told = ", ".join(f"round {row.round}: {score(row.dsc)}" for row in measured)
        numbers.append({"name": "DSC of the pre-labels", "value": score(measured[-1].dsc), "more": told})
    return numbers


def _stages_figure(name: str, rounds: Sequence[RoundRow]) -> Markup:
    """A bar per round: the number of cases in each stage when it ended (for the last one: now)."""
    with page_style():
        figure = Figure(figsize=(WIDTH, 1.0 + 0.42 * len(rounds)))
        axes = figure.subplots()
        used: list[Stage] = [stage for stage in STAGES if any(row.stages[stage] for row in rounds)]
        left = np.zeros(len(rounds))
        places = np.arange(len(rounds))
        for stage in used:
            widths = np.array([row.stages[stage] for row in rounds], float)
            axes.barh(places, widths, left=left, height=0.62, color=_COLOURS[stage], edgecolor=PAPER, label=stage)
            for place, (start, width) in enumerate(zip(left.tolist(), widths.tolist(), strict=True)):
                if width:
                    ink = INK if stage == "not pre-labelled" else PAPER
                    axes.text(start + width / 2, place, f"{width:.0f}", ha="center", va="center", color=ink, fontsize=8)
            left += widths
        axes.set_yticks(places, [f"round {row.round}" for row in rounds])
        axes.set(ylim=(len(rounds) - 0.5, -0.5), xlabel="cases")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        figure.legend(loc="outside upper left", ncols=6)
        told = " ".join(
            f"Round {row.round}: " + ", ".join(f"{row.stages[stage]} {stage}" for stage in used) + "." for row in rounds
        )
        return to_svg(figure, name, "Cases by stage at the end of each round", told)


def _agreement(progress: ProjectProgress) -> list[dict[str, Any]]:
    """DSC and NSD of the pre-labels by round and organ, as coloured cells."""
    if not progress.organs:
        return []
    rounds = sorted({row.round for row in progress.organs})
    organs = list(dict.fromkeys(name for name in progress.project.cohort.organs.values()))
    organs = [organ for organ in organs if any(row.organ == organ for row in progress.organs)]
    parts = []
    for metric in ("dsc", "nsd"):
        values = np.full((len(rounds), len(organs) + 1), np.nan)
        for row in progress.organs:
            values[rounds.index(row.round), organs.index(row.organ)] = getattr(row, metric)
        for row in progress.rounds:
            if row.round in rounds:
                values[rounds.index(row.round), -1] = getattr(row, metric)
        told = " ".join(f"Round {r}: mean {score(v)}." for r, v in zip(rounds, values[:, -1].tolist(), strict=True))
        rows, columns = [f"round {r}" for r in rounds], [*organs, "mean"]
        svg = grid_of_scores(f"agreement-{metric}", metric, values, rows, columns, told)
        title = f"{metric.upper()} of the pre-labels against the corrections"
        parts.append({"svg": svg, "title": title, "text": "From 0 (dark) to 1 (bright); 0.62 is written .62."})
    return parts


def _time(value_minutes: float) -> Cell:
    return Cell(MISSING) if math.isnan(value_minutes) else Cell(duration(60 * value_minutes), value_minutes)


def _rounds_table(progress: ProjectProgress) -> SortableTable:
    columns = [
        Column("round"),
        Column("network", number=False),
        Column("pre-labelled"),
        Column("by juniors", what="corrections that juniors imported"),
        Column("by seniors", what="corrections that seniors imported"),
        Column("DSC", what="pre-label against correction, mean over organs"),
        Column("NSD", what="pre-label against correction, mean over organs"),
        Column("ml changed", what="mean per case"),
        Column("time", what="median from hand-out to import; not all of it is work"),
    ]
    rows = [
        [
            count(row.round),
            text(row.networks),
            count(row.prelabelled),
            count(row.junior),
            count(row.senior),
            number(row.dsc),
            number(row.nsd),
            number(row.changed_ml, 1),
            _time(row.minutes),
        ]
        for row in progress.rounds
    ]
    return table("rounds-table", "Rounds", columns, rows, csv="report_data/rounds.csv")


def _models_table(progress: ProjectProgress) -> SortableTable:
    columns = [
        Column("pre-labels round"),
        Column("network", number=False),
        Column("modality", number=False),
        Column("test cases"),
        Column("test DSC"),
    ]
    rows = [[count(r.round), text(r.name), text(r.modality), count(r.cases), number(r.dsc)] for r in progress.models]
    caption = "Test scores of the networks on the scanners that each was trained on; their number can grow"
    return table("models-table", caption, columns, rows, csv="report_data/models.csv")


def _organs_table(progress: ProjectProgress) -> SortableTable:
    heads = ("cases", "DSC", "NSD", "ml drawn", "ml corrected", "ml changed")
    columns = [Column("organ", number=False), Column("round"), *map(Column, heads)]
    rows = [
        [
            text(row.organ),
            count(row.round),
            count(row.cases),
            number(row.dsc),
            number(row.nsd),
            number(row.prelabel_ml, 1),
            number(row.corrected_ml, 1),
            number(row.changed_ml, 1),
        ]
        for row in progress.organs
    ]
    caption = "What was changed, by organ, as means over cases"
    return table("organs-table", caption, columns, rows, csv="report_data/organs.csv")


def _people_table(progress: ProjectProgress) -> SortableTable:
    columns = [
        Column("name", number=False),
        Column("role", number=False),
        Column("corrections"),
        Column("unchanged", what="imported as they were handed out"),
        Column("in hand"),
        Column("DSC", what="the result against what they started from"),
        Column("NSD", what="the result against what they started from"),
        Column("ml changed", what="mean per correction"),
        Column("time", what="median from hand-out to import; not all of it is work"),
    ]
    rows = [
        [
            text(row.by),
            text(row.role),
            count(row.corrections),
            count(row.unchanged),
            count(row.in_hand),
            number(row.dsc),
            number(row.nsd),
            number(row.changed_ml, 1),
            _time(row.minutes),
        ]
        for row in progress.people
    ]
    caption = "People: the result against what they started from"
    return table("people-table", caption, columns, rows, csv="report_data/people.csv")


def _cases_table(progress: ProjectProgress) -> SortableTable:
    wanted = len(progress.project.settings.organs)
    columns = [
        Column("case", number=False),
        Column("site", number=False),
        Column("stage", number=False),
        Column("who", number=False),
        Column("need", what="expected need of correction of the latest pre-label, 0 to 3"),
        Column("organs", what=f"annotated, of {wanted}"),
        Column("versions"),
        Column("reasons", number=False),
    ]
    rows = [
        [
            text(row.case),
            text(row.site),
            text(row.stage),
            text(row.who or MISSING),
            number(row.need, 2),
            count(row.annotated),
            count(row.versions),
            text(row.reasons or MISSING),
        ]
        for row in progress.cases
    ]
    return table("cases-table", "Cases without a label in the cohort", columns, rows, csv="report_data/cases.csv")
