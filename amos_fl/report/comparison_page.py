"""The page of a comparison. Its numbers are in the CSV files that `amos_fl.comparison.write` leaves beside it."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from amos_fl.comparison.comparison import Comparison, Scope
from amos_fl.comparison.notes import withheld_in_words
from amos_fl.comparison.statistics import Estimate
from amos_fl.metrics.catalogue import MetricName, title_of
from amos_fl.report import comparison_figures as figures
from amos_fl.report.comparison_cases import all_cases_table, comparison_examples
from amos_fl.report.examples import Address
from amos_fl.report.figures import score, signed
from amos_fl.report.run_page import last_round_ended
from amos_fl.report.sortable import Cell, Column, SortableTable, count, number, table, text
from amos_fl.report.words import COMPARED, INTERVAL, OUTCOMES, POOLED, TRAINED, words_of
from amos_fl.runs.config import has_strategy
from amos_fl.runs.summary import PHANTOM_NOTE
from amos_fl.wording import MISSING, duration, listed

FILES = {
    "cells": "scores.csv",
    "gaps": "gaps.csv",
    "cases": "cases.csv",
    "curves": "curves.csv",
    "site_curves": "curves_by_site.csv",
}
MOST_FINDINGS = 8
"""The most findings that a page begins with; the others are folded."""
CASES_TEXT = (
    "For each site the test cases with the reference's best, median and worst score, as each arm predicts them, all on "
    "the same slices: at first those that cut most organs and where the arms differ most from the label. The table "
    "below leads to all other cases. R and L are the patient's right and left, A and P front and back."
)


def comparison_context(comparison: Comparison, case_pages: Mapping[Address, str] | None = None) -> dict[str, Any]:
    """The context of the template `comparison.html`; `case_pages` are the addresses of cases on pages of their own."""
    metric = comparison.metrics[0]
    groups, means = comparison.scopes_of("group"), comparison.scopes_of("sites")
    gaps = [gap for gap in comparison.gaps if _kind(comparison, gap.scope) != "site"]
    # "local, at home" and "local, elsewhere" count as one word in the title.
    title = listed(list(dict.fromkeys(arm.name.split(",")[0] for arm in comparison.main_arms)))
    several = len({row.case for row in comparison.case_rows}) > 0
    context: dict[str, Any] = {
        "title": title[0].upper() + title[1:],
        "kind": f"Comparison of {len(comparison.records)} runs",
        "synthetic": comparison.synthetic,
        "phantom_note": PHANTOM_NOTE,
        "problems": comparison.problems,
        "all_well": "Nothing went wrong in these runs.",
        "findings": comparison.findings,
        "findings_shown": MOST_FINDINGS,
        "reference": comparison.reference,
        "notes": comparison.notes,
        "numbers": _key_numbers(comparison, metric),
        "files": FILES,
        "arms_table": _arms_table(comparison),
        "runs_table": _runs_table(comparison),
        "arm_figures": [
            {
                "svg": figures.arms_by_scope("arm-groups", comparison, [*means, *groups]),
                "title": "Arms by group of scanners",
                "text": "A mark is a mean over organs of their mean over cases, a line its 95 % interval. "
                "'seen sites' and 'unseen sites' are means over sites with equal weight.",
            },
            *(
                {
                    "svg": figures.arms_by_site(f"arm-sites-{m}", comparison, m),
                    "title": f"{title_of(m)} of every arm at every site",
                    "text": "From 0 (dark) to 1 (bright); 0.62 is written .62. A star marks scanners that the "
                    "reference has not seen. A dash: the arm has no score there.",
                }
                for m in comparison.metrics
            ),
        ],
        "main_table": _main_table(comparison),
        "scores_table": _scores_table(comparison),
        "differences_table": _differences_table(comparison),
        "worst_table": _worst_table(comparison),
        "spreads_table": _spreads_table(comparison),
        "gap_figures": [
            {
                "svg": figures.gap_forest(f"gap-{m}", gaps, m),
                "title": f"The gap in {title_of(m)}",
                "text": "A mark is a difference of two means, a line its 95 % interval; right of zero, the first one "
                "is higher.",
            }
            for m in comparison.metrics
            if any(gap.metric == m for gap in gaps)
        ],
        "gaps_table": _gaps_table(comparison),
        "organ_figures": [
            {
                "svg": figures.arms_by_organ(f"organs-{place}", comparison, scope, metric),
                "title": f"{title_of(metric)} by organ on {scope.name}",
                "text": f"Mean over the test cases of {listed(scope.sites)} ({scope.cases}).",
            }
            for place, scope in enumerate(groups)
        ],
        "case_figures": [
            {
                "svg": figures.case_distributions("case-distributions", comparison, groups, metric),
                "title": f"{title_of(metric)} of every test case",
                "text": "A mark is a case's mean over its organs, a bar the median of the cases.",
            }
        ]
        if several
        else [],
        "withheld": withheld_in_words(comparison),
        "learning": figures.learning_by_site(
            "learning", comparison.main_arms, comparison.site_curves, comparison.scopes_of("site")
        )
        if comparison.site_curves
        else "",
        "learning_text": "The mean DSC at each site after the rounds that were scored during training: on its "
        "validation cases (solid) if the run trained on it, otherwise on its test cases (dashed), which influence no "
        "choice. A star marks scanners that the reference has not seen. A local model is scored only at its own site "
        "during training.",
        "cost": figures.arm_cost_curves("cost", comparison.main_arms, comparison.curves) if comparison.curves else "",
        "cost_text": "Mean over sites of their mean DSC, against what a run had spent by then: solid on the validation "
        "cases of the sites that it was trained on, dashed on the test cases of those that it was not. An arm that "
        "exchanges no weights has no curve in the middle panel.",
        "published_table": _published_table(comparison),
        "examples": comparison_examples(comparison, case_pages or {}),
        "cases_text": CASES_TEXT,
        "case_table": all_cases_table(comparison, case_pages or {}),
        "words": [
            *words_of(comparison.metrics, comparison.tolerance_mm),
            *INTERVAL,
            *COMPARED,
            *TRAINED,
            *(POOLED if any(arm.kind == "centralized" for arm in comparison.arms) else []),
            *OUTCOMES,
        ],
    }
    return context | {"contents": _contents(context)}


def _contents(context: dict[str, Any]) -> list[tuple[str, str]]:
    parts = [
        ("compared", "What is compared", True),
        ("scores", "Scores", True),
        ("gap", "The gap", bool(context["gap_figures"])),
        ("organs", "By organ", True),
        ("distributions", "Distributions", bool(context["case_figures"] or context["withheld"])),
        ("learning", "Learning curves", bool(context["learning"])),
        ("cost", "Cost", True),
        ("published", "Published", context["published_table"] is not None),
        ("cases", "Cases", bool(context["case_table"].rows)),
    ]
    return [(anchor, heading) for anchor, heading, there in parts if there]


def _kind(comparison: Comparison, scope: str) -> str:
    return next(s.kind for s in comparison.scopes if s.name == scope)


def _key_numbers(comparison: Comparison, metric: MetricName) -> list[dict[str, str]]:
    scope = next((s for s in comparison.scopes_of("sites", "group") if s.seen), comparison.scopes[0])
    numbers = []
    for arm in comparison.main_arms:
        cell = comparison.cell(arm.name, scope.name, metric)
        if cell is not None:
            other = [s for s in comparison.scopes_of(scope.kind) if not s.seen]
            unseen = comparison.cell(arm.name, other[0].name, metric) if other else None
            more = f"{score(unseen.estimate.value, 3)} on {other[0].name}" if unseen and other else ""
            name = f"{title_of(metric)}, {scope.name}: {arm.name}"
            numbers.append({"name": name, "value": score(cell.estimate.value, 3), "more": more})
    return numbers


def _interval(estimate: Estimate, *, difference: bool = False) -> list[Cell]:
    """Three cells: the value and the ends of its interval."""
    values = (estimate.value, estimate.low, estimate.high)
    return [replace(number(value), text=signed(value)) if difference else number(value) for value in values]


def _megabytes(value: float) -> Cell:
    return number(value / 1e6, 1)


def _arms_table(comparison: Comparison) -> SortableTable:
    rows = []
    for arm in comparison.arms:
        cost = arm.cost
        rows.append(
            [
                text(arm.name),
                text(arm.what),
                count(len(arm.runs)),
                count(len(arm.seeds)),
                # One trainer's rounds only mark where it is scored, and it exchanges nothing.
                count(cost.rounds) if has_strategy(arm.kind) else Cell(MISSING),
                *(count(value) for value in (cost.steps, cost.sequential_steps, cost.patches)),
                *(_megabytes(v) if has_strategy(arm.kind) else Cell(MISSING) for v in (cost.bytes_down, cost.bytes_up)),
                Cell(duration(cost.seconds), cost.seconds),
            ]
        )
    names = ["runs", "seeds", "rounds", "steps", "one after another", "patches", "MB to sites", "MB back", "time"]
    columns = [Column("arm", False), Column("what it is", False), *map(Column, names)]
    return table("arms", "The arms and their cost", columns, rows, "arms.csv")


def _runs_table(comparison: Comparison) -> SortableTable:
    rows = []
    for record in comparison.records:
        config, about = record.config, record.folder.about().versions
        rows.append(
            [
                text(record.name),
                text(record.arm),
                text(config.strategy if has_strategy(record.arm) else MISSING),
                text(f"{config.model}, {config.plan.name}"),
                text(", ".join(record.seen_sites)),
                count(config.seed),
                count(record.results.chosen.round),
                text(last_round_ended(record)),
                text(", ".join([about.get("amos-fl", MISSING), *filter(None, [about.get("commit", "")[:12]])])),
                text(record.cohort_sha256[:12]),
            ]
        )
    names = [("run", False), ("arm", False), ("strategy", False), ("network", False), ("trained on", False)]
    names += [
        ("seed", True),
        ("chosen round", True),
        ("last round ended", False),
        ("amos-fl, commit", False),
        ("cohort", False),
    ]
    return table("runs", "The runs", [Column(*name) for name in names], rows, "runs.csv")


def _scores_table(comparison: Comparison) -> SortableTable:
    rows = []
    for scope in comparison.scopes:
        for arm in comparison.arms:
            for metric in comparison.metrics:
                cell = comparison.cell(arm.name, scope.name, metric)
                if cell is not None:
                    rows.append(
                        [
                            text(_named(scope)),
                            text(arm.name),
                            text(title_of(metric)),
                            count(cell.estimate.cases),
                            *_interval(cell.estimate),
                            number(cell.missed, 1),
                            number(cell.hallucinated, 1),
                        ]
                    )
    columns = [Column("scanners", False), Column("arm", False), Column("score", False), Column("cases")]
    columns += [Column("mean"), Column("from"), Column("to"), Column("missed"), Column("hallucinated")]
    return table("scores-table", "Means over organs with their 95 % intervals", columns, rows, "scores.csv")


def _main_table(comparison: Comparison) -> SortableTable:
    """The main arms by groups of scanners, with the main metric."""
    metric = comparison.metrics[0]
    scopes = comparison.scopes_of("sites", "group")
    rows = []
    for arm in comparison.main_arms:
        cells = [comparison.cell(arm.name, scope.name, metric) for scope in scopes]
        estimates = [None if cell is None else cell.estimate for cell in cells]
        rows.append([text(arm.name), *map(_in_one, estimates)])
    columns = [
        Column("arm", False),
        *(Column(f"{scope.name} ({scope.cases})") for scope in scopes),
    ]
    caption = f"Mean {title_of(metric)} with its 95 % interval; in brackets the number of test cases"
    return table("main-scores", caption, columns, rows, "scores.csv", stacks=True)


def _in_one(estimate: Estimate | None) -> Cell:
    """A value with its interval below it."""
    if estimate is None or math.isnan(estimate.value):
        return Cell(MISSING)
    between = f"{score(estimate.low, 3)} to {score(estimate.high, 3)}" if estimate.has_interval else ""
    return Cell(score(estimate.value, 3), estimate.value, small=between)


def _named(scope: Scope) -> str:
    return f"site {scope.name}" if scope.kind == "site" else scope.name


def _differences_table(comparison: Comparison) -> SortableTable:
    rows = [
        [
            text(d.scope),
            text(d.arm),
            text(title_of(d.metric)),
            count(d.estimate.cases),
            *_interval(d.estimate, difference=True),
            number(d.p),
            number(d.p_holm),
            text(d.verdict),
        ]
        for d in comparison.differences
        if not d.organ
    ]
    columns = [Column("scanners", False), Column("arm", False), Column("score", False), Column("cases")]
    columns += [Column("difference"), Column("from"), Column("to"), Column("p"), Column("p after Holm")]
    caption = f"Each arm minus {comparison.reference} on the same cases; for organs see the file"
    return table("differences", caption, [*columns, Column("verdict", False)], rows, "differences.csv")


def _worst_table(comparison: Comparison) -> SortableTable:
    rows = [
        [
            text(w.arm),
            text(title_of(w.metric)),
            text(f"worst {w.what}"),
            text(w.among),
            text(w.name),
            number(w.value),
            count(w.cases),
        ]
        for w in comparison.worst
    ]
    columns = [Column(name, False) for name in ("arm", "score", "what", "among", "which")]
    return table("worst", "Worst site and worst organ", [*columns, Column("mean"), Column("cases")], rows, "worst.csv")


def _spreads_table(comparison: Comparison) -> SortableTable:
    rows = [
        [
            text(s.arm),
            text(s.scope),
            text(title_of(s.metric)),
            text(", ".join(map(str, s.seeds))),
            text(", ".join(score(value, 3) for value in s.values)),
            number(s.sd),
        ]
        for s in comparison.spreads
        if len(s.seeds) > 1
    ]
    columns = [Column(name, False) for name in ("arm", "scanners", "score", "seeds", "means")]
    return table("spreads", "Means of each seed", [*columns, Column("SD")], rows, "seeds.csv")


def _gaps_table(comparison: Comparison) -> SortableTable:
    rows = [
        [
            text(gap.part),
            text(gap.scope if gap.scope == gap.other_scope else f"{gap.scope} − {gap.other_scope}"),
            text(title_of(gap.metric)),
            *_interval(gap.estimate, difference=True),
            text(gap.sentence),
        ]
        for gap in comparison.gaps
    ]
    columns = [Column("part", False), Column("scanners", False), Column("score", False)]
    columns += [Column("difference"), Column("from"), Column("to"), Column("in words", False)]
    return table("gaps", "The gap, in numbers and in words", columns, rows, "gaps.csv")


def _published_table(comparison: Comparison) -> SortableTable | None:
    rows = [
        [
            text(p.source),
            text(p.network),
            text(p.training),
            text(p.cases),
            text(p.organ or "mean"),
            text(title_of(p.metric)),
            number(p.value, 4),
            text(p.scope or "none"),
        ]
        for p in comparison.published
    ]
    columns = [Column(name, False) for name in ("source", "network", "trained on", "cases", "organ", "score")]
    columns += [Column("published, real AMOS"), Column("same setting as", False)]
    return table("published-table", "The AMOS paper's numbers", columns, rows, "published.csv") if rows else None
