"""A comparison at a glance: one row for each arm, for pages that show many arms side by side.

Everything else about them is in the comparison's own page (`amos_fl.comparison.tables`).
"""

import math

from amos_fl.comparison.comparison import Arm, Comparison, Difference
from amos_fl.comparison.notes import powerless_in_words
from amos_fl.comparison.tables import TextTable, arms_that_cost, interval, p_value
from amos_fl.escape import markdown
from amos_fl.metrics.catalogue import MetricName, title_of
from amos_fl.runs.config import has_strategy
from amos_fl.runs.summary import PHANTOM_NOTE, number
from amos_fl.wording import MISSING

_TESTED = (
    "On the same cases, with the 95 % interval and p of the paired permutation test after Holm's correction over this "
    "table. A difference is called better or worse where p is below 0.05, both arms have three seeds, and all seeds of "
    "one lie above all of the other; higher or lower where p alone says so."
)
_UNTESTED = "On the same cases, without intervals or tests."
_SHOWN = ("better", "worse", "higher", "lower")


def overview_page(comparison: Comparison) -> str:
    """The tables of an overview in Markdown."""
    parts = [f"> {PHANTOM_NOTE}\n"] if comparison.synthetic else []
    for table in overview(comparison):
        parts += [
            f"{markdown.text(table.title)}:\n",
            markdown.table(list(table.columns), [list(row) for row in table.rows]) + "\n",
            *([f"{markdown.text(table.note)}\n"] if table.note else []),
        ]
    return "\n".join(parts)


def overview(comparison: Comparison) -> list[TextTable]:
    """Scores with intervals and spread over seeds, differences from the reference with their tests, and costs."""
    return [
        *(_scores(comparison, metric) for metric in comparison.metrics),
        _differences(comparison, comparison.metrics[0]),
        _costs(comparison),
    ]


def _scores(c: Comparison, metric: MetricName) -> TextTable:
    groups = c.scopes_of("group")
    spreads = {(s.arm, s.scope): s.sd for s in c.spreads if s.metric == metric and len(s.values) > 1}
    worst = {(w.arm, w.among): w for w in c.worst if w.metric == metric and w.what == "site"}
    among = list(dict.fromkeys(place for _, place in worst))
    rows = []
    for arm in c.main_arms:
        if not any(c.cell(arm.name, scope.name, metric) for scope in groups):
            continue
        cells = []
        for scope in groups:
            cell, sd = c.cell(arm.name, scope.name, metric), spreads.get((arm.name, scope.name))
            cells.append(interval(cell.estimate if cell else None) + (f" ± {number(sd)}" if cell and sd else ""))
        places = [worst.get((arm.name, place)) for place in among]
        cells += [MISSING if place is None else f"{place.name} {number(place.value)}" for place in places]
        rows.append((f"{arm.name}{'*' if c.synthetic else ''}", *cells))
    heads = [f"{scope.name} ({scope.cases})" for scope in groups] + [f"worst {place} site" for place in among]
    has_interval = any(
        (cell := c.cell(arm.name, scope.name, metric)) is not None and cell.estimate.has_interval
        for arm in c.main_arms
        for scope in groups
    )
    certainty = ", with its 95 % interval over cases" if has_interval else ""
    tolerance = f" NSD at {c.tolerance_mm:g} mm." if metric == "nsd" else ""
    return TextTable(
        f"overview_{metric}",
        f"{title_of(metric)} on test cases",
        ("arm", *heads),
        tuple(rows),
        f"Mean over cases, then over organs, of all seeds together{certainty}; ± the standard deviation of the seeds' "
        f"means. In brackets the number of cases.{tolerance}",
    )


def _differences(c: Comparison, metric: MetricName) -> TextTable:
    groups = c.scopes_of("group")
    rows, tested = [], False
    for arm in c.main_arms:
        found = [c.difference(arm.name, scope.name, metric) for scope in groups]
        tested |= any(d is not None and d.estimate.has_interval for d in found)
        if any(found):
            rows.append((arm.name, *(MISSING if d is None else _in_words(d) for d in found)))
    return TextTable(
        f"overview_differences_{metric}",
        f"{title_of(metric)} of each arm minus {c.reference}",
        ("arm", *(scope.name for scope in groups)),
        tuple(rows),
        f"{_TESTED}{f' {few}' if (few := powerless_in_words(c)) else ''}" if tested else _UNTESTED,
    )


def _in_words(d: Difference) -> str:
    p = "" if math.isnan(d.p_holm) else f"p {p_value(d.p_holm)}"
    return ", ".join(filter(None, [interval(d.estimate, sign=True), p, d.verdict if d.verdict in _SHOWN else ""]))


def _costs(c: Comparison) -> TextTable:
    def row(arm: Arm) -> tuple[str, ...]:
        cost, federated = arm.cost, has_strategy(arm.kind)
        megabytes = f"{cost.bytes_down / 1e6:.1f} / {cost.bytes_up / 1e6:.1f}" if federated else MISSING
        seeds = ", ".join(map(str, arm.seeds))
        numbers = (cost.rounds if federated else MISSING, cost.steps, cost.patches, megabytes, f"{cost.seconds:.0f}")
        return (arm.name.removesuffix(", at home"), seeds, *map(str, numbers))

    return TextTable(
        "overview_costs",
        "What one seed costs",
        ("arm", "seeds", "rounds", "steps", "patches", "MB down / up", "seconds"),
        tuple(map(row, arms_that_cost(c))),
        "Steps and patches of all trainers together; weights to the sites (down) and back (up); seconds of the rounds, "
        "one site after another.",
    )
