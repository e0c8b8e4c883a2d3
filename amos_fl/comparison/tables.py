"""The tables of a comparison as text, for the terminal, Markdown and LaTeX alike."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amos_fl.comparison.comparison import Arm, Comparison, Difference, MeanScore, Scope
from amos_fl.comparison.published import MARK
from amos_fl.comparison.statistics import Estimate
from amos_fl.escape import markdown
from amos_fl.metrics.catalogue import MetricName, title_of
from amos_fl.runs.config import has_strategy
from amos_fl.runs.summary import PHANTOM_NOTE, number
from amos_fl.wording import MISSING

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class TextTable:
    """A table of finished text: `names` columns of words, then columns of numbers.

    `key` is the name of its file; `sections` are the rows before which a line is drawn. Tables that are not `brief` go
    only into the files, because they have hundreds of rows.
    """

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    sections: tuple[int, ...] = ()
    names: int = 1
    brief: bool = True


def interval(estimate: Estimate | None, *, sign: bool = False) -> str:
    """A value with its interval, or without one if there are too few cases, or a dash.

    >>> interval(Estimate(0.8123, 0.79, 0.83, 12)), interval(Estimate(0.0123, math.nan, math.nan, 3), sign=True)
    ('0.812 [0.790, 0.830]', '+0.012')
    """
    if estimate is None or math.isnan(estimate.value):
        return MISSING
    form = "+.3f" if sign else ".3f"
    value = f"{estimate.value:{form}}"
    return value if not estimate.has_interval else f"{value} [{estimate.low:{form}}, {estimate.high:{form}}]"


def p_value(p: float) -> str:
    """
    >>> p_value(0.00031), p_value(0.0421), p_value(math.nan)
    ('<0.001', '0.042', '-')
    """
    return "<0.001" if p < 0.001 else number(p)


def all_tables(comparison: Comparison) -> list[TextTable]:
    """Every non-empty table, in reading order."""
    tables: list[TextTable] = []
    for metric in comparison.metrics:
        tables.append(_scores(comparison, metric))
        tables += [_differences(comparison, metric, kind) for kind in ("group", "site")]
        tables.append(_gaps(comparison, metric))
        tables.append(_sites(comparison, metric))
        tables += [_organs(comparison, metric, scope) for scope in comparison.scopes_of("group")]
        tables.append(_worst(comparison, metric))
        tables.append(_seeds(comparison, metric))
    tables += [_costs(comparison), _published(comparison)]
    return [table for table in tables if table.rows]


def _scopes_with_cases(scopes: Sequence[Scope]) -> list[str]:
    return [f"{scope.name} ({scope.cases})" for scope in scopes]


def _scores(c: Comparison, metric: MetricName) -> TextTable:
    scopes = c.scopes_of("group", "sites")
    rows = [
        (arm.name, *(interval(_estimate(c.cell(arm.name, scope.name, metric))) for scope in scopes))
        for arm in c.main_arms
    ]
    return TextTable(
        f"scores_{metric}",
        f"{title_of(metric)} by arm",
        ("arm", *_scopes_with_cases(scopes)),
        tuple(rows),
        "Mean over cases, then over organs, with its 95 % interval; in brackets the cases. The columns of sites are "
        "means over sites with equal weight." + _tolerance(c, metric),
    )


def _tolerance(c: Comparison, metric: MetricName) -> str:
    return f" NSD at {c.tolerance_mm:g} mm." if metric == "nsd" else ""


def _estimate(cell: MeanScore | None) -> Estimate | None:
    return cell.estimate if cell else None


def _differences(c: Comparison, metric: MetricName, kind: str) -> TextTable:
    scopes = {scope.name for scope in c.scopes if (scope.kind == "site") == (kind == "site")}
    mine = [d for d in c.differences if d.metric == metric and not d.organ and d.scope in scopes]
    order = {scope.name: i for i, scope in enumerate(c.scopes)}
    names = [arm.name for arm in c.main_arms]
    mine.sort(key=lambda d: (names.index(d.arm), order[d.scope]))
    rows = [(d.arm, d.scope, interval(d.estimate, sign=True), p_value(d.p), p_value(d.p_holm), d.verdict) for d in mine]
    return TextTable(
        f"differences_{kind}s_{metric}",
        f"{title_of(metric)}: each arm minus {c.reference}, on the same cases"
        + (", by site" if kind == "site" else ""),
        ("arm", "cases of", "difference", "p", "p (Holm)", "verdict"),
        tuple(rows),
        "p of the paired permutation test, Holm's correction over "
        + ("an arm's sites. " if kind == "site" else "the groups of all arms. ")
        + "Verdicts: better or worse only with three seeds of both; higher or lower: shown on these cases, on fewer "
        "seeds; open: not shown.",
        _where_it_changes([d.arm for d in mine]),
        names=2,
        brief=kind != "site" and metric == c.metrics[0],
    )


def _where_it_changes(values: Sequence[str]) -> tuple[int, ...]:
    return tuple(i for i in range(1, len(values)) if values[i] != values[i - 1])


def _gaps(c: Comparison, metric: MetricName) -> TextTable:
    kinds = {scope.name: scope.kind for scope in c.scopes}
    mine = [gap for gap in c.gaps if gap.metric == metric and kinds[gap.scope] != "site"]
    differ = any(gap.settings_differ for gap in mine)
    rows = []
    for gap in mine:
        two = gap.scope != gap.other_scope
        scope = f"{gap.scope} - {gap.other_scope}" if two else gap.scope
        arms = gap.minuend if gap.minuend == gap.subtrahend else f"{gap.minuend} - {gap.subtrahend}"
        rows.append((gap.part, arms, scope, interval(gap.estimate, sign=True), str(gap.estimate.cases)))
    return TextTable(
        f"gaps_{metric}",
        f"The gap in {title_of(metric)}, taken apart",
        ("gap", "arms", "cases of", "difference", "cases"),
        tuple(rows),
        "Seen minus unseen is between different patients, the others are on the same cases."
        + (" Where settings differ, nothing follows about federation; gaps.csv names them." if differ else ""),
        _where_it_changes([f"{gap.kind} {gap.minuend} {gap.subtrahend}" for gap in mine]),
        names=3,
        brief=metric == c.metrics[0],
    )


def _sites(c: Comparison, metric: MetricName) -> TextTable:
    scopes = c.scopes_of("site")
    names = [f"{scope.name} {'' if scope.seen else 'unseen '}{scope.modality} ({scope.cases})" for scope in scopes]
    rows = [
        (arm.name, *(_short(c.cell(arm.name, scope.name, metric)) for scope in scopes))
        for arm in c.arms
        if any(c.cell(arm.name, scope.name, metric) for scope in scopes)
    ]
    main = sum(arm.main for arm in c.arms)
    return TextTable(
        f"sites_{metric}",
        f"{title_of(metric)} by site",
        ("arm", *names),
        tuple(rows),
        "In brackets the cases; intervals are in scores.csv." + _tolerance(c, metric),
        (main,) if main < len(rows) else (),
    )


def _short(cell: MeanScore | None) -> str:
    return MISSING if cell is None else number(cell.estimate.value)


def _organs(c: Comparison, metric: MetricName, scope: Scope) -> TextTable:
    arms = [arm for arm in c.main_arms if c.cell(arm.name, scope.name, metric)]
    beside = {p.organ: p for p in c.published if p.scope == scope.name and p.metric == metric}
    columns = ["organ", *(arm.name for arm in arms), *([MARK] if beside else [])]
    rows = []
    for organ in [*c.organs.values(), ""]:
        cells = [c.cell(arm.name, scope.name, metric, organ) for arm in arms]
        if any(cells):
            differences = [c.difference(arm.name, scope.name, metric, organ) for arm in arms]
            shown = [_marked(cell, difference) for cell, difference in zip(cells, differences, strict=True)]
            printed = [number(beside[organ].value) if organ in beside else MISSING] if beside else []
            rows.append((organ or "mean of organs", *shown, *printed))
    return TextTable(
        f"organs_{scope.name.replace(' ', '_')}_{metric}",
        f"{title_of(metric)} by organ, {scope.name} ({scope.cases} cases)",
        tuple(columns),
        tuple(rows),
        f"*: differs from {c.reference} (p < 0.05 after Holm's correction over an arm's organs). m: missed, h: "
        "hallucinated, per run." + _tolerance(c, metric),
        (len(rows) - 1,) if len(rows) > 1 else (),
        brief=metric == c.metrics[0],
    )


def _marked(cell: MeanScore | None, difference: Difference | None) -> str:
    if cell is None or math.isnan(cell.estimate.value):
        return MISSING
    counts = ((cell.missed, "m"), (cell.hallucinated, "h"))
    marks = "".join(f" {count:.1f}".removesuffix(".0") + mark for count, mark in counts if count) if cell.organ else ""
    star = "*" if difference is not None and difference.p_holm < 0.05 else ""
    return f"{number(cell.estimate.value)}{star}{marks}"


def _worst(c: Comparison, metric: MetricName) -> TextTable:
    worst = {(w.arm, w.what, w.among): w for w in c.worst if w.metric == metric}
    columns = list(dict.fromkeys(("site", w.among) for w in worst.values() if w.what == "site"))
    columns += [("organ", scope.name) for scope in c.scopes_of("group")]
    rows = []
    for arm in c.main_arms:
        found = [worst.get((arm.name, what, among)) for what, among in columns]
        rows.append((arm.name, *(MISSING if w is None else f"{w.name} {number(w.value)}" for w in found)))
    heads = [f"{what}, {among}" for what, among in columns]
    title = f"Worst site and worst organ ({title_of(metric)})"
    return TextTable(f"worst_{metric}", title, ("arm", *heads), tuple(rows), brief=metric == c.metrics[0])


def _seeds(c: Comparison, metric: MetricName) -> TextTable:
    mine = [s for s in c.spreads if s.metric == metric and len(s.values) > 1]
    rows = []
    for s in mine:
        values = ", ".join(f"{seed}: {number(value)}" for seed, value in zip(s.seeds, s.values, strict=True))
        low, high = (number(limit(s.values)) for limit in (min, max))
        rows.append((s.arm, s.scope, f"{low} to {high}", number(s.sd, 4), values))
    return TextTable(
        f"seeds_{metric}",
        f"{title_of(metric)} by seed",
        ("arm", "cases of", "range", "SD", "each seed"),
        tuple(rows),
        "The same settings with other seeds.",
        _where_it_changes([s.arm for s in mine]),
        names=2,
        brief=metric == c.metrics[0],
    )


def arms_that_cost(c: Comparison) -> list[Arm]:
    """The main arms, each training once: other views of the same runs are left out."""
    return [arm for arm in c.main_arms if not (arm.view == "elsewhere" or (arm.view and arm.kind == "federated"))]


def _costs(c: Comparison) -> TextTable:
    groups = c.scopes_of("group")
    metric = c.metrics[0]

    def row(arm: Arm) -> tuple[str, ...]:
        cost = arm.cost
        # One trainer's rounds only mark where it is scored, and it exchanges nothing.
        federated = has_strategy(arm.kind)
        whole = (cost.rounds if federated else MISSING, cost.steps, cost.sequential_steps, cost.patches)
        megabytes = f"{cost.bytes_down / 1e6:.1f} / {cost.bytes_up / 1e6:.1f}" if federated else MISSING
        scores = (_short(c.cell(arm.name, scope.name, metric)) for scope in groups)
        return (arm.name.removesuffix(", at home"), *map(str, whole), megabytes, f"{cost.seconds:.0f}", *scores)

    return TextTable(
        "costs",
        "What each arm cost",
        (
            *("arm", "rounds", "steps", "in a row", "patches", "MB down/up", "s"),
            *(f"{title_of(metric)} {scope.name}" for scope in groups),
        ),
        tuple(map(row, arms_that_cost(c))),
        "Of one seed, all runs of an arm together. Steps in a row cannot run in parallel. MB of weights to the "
        "sites (down) and back (up). Seconds of the rounds without scoring, one site after another on one device.",
    )


def _published(c: Comparison) -> TextTable:
    rows = []
    for p in c.published:
        # Table 10's means are Table 4's; its organs are in the tables by organ.
        if not p.organ and p.metric in c.metrics and not p.source.startswith("Table 10"):
            beside = c.cell(c.reference, p.scope, p.metric) if p.scope else None
            rows.append((p.source, title_of(p.metric), number(p.value, 4), p.scope or MISSING, _short(beside)))
    return TextTable(
        "published",
        f"The AMOS paper's numbers ({MARK})",
        ("source", "score", MARK, "cases here", f"{c.reference} here"),
        tuple(rows),
        PHANTOM_NOTE if c.synthetic else "",
    )


def rich_table(table: TextTable) -> "Table":
    """The table for a terminal, with intervals below their values, so that it fits into some 100 columns."""
    from rich.table import Table

    made = Table(title=table.title, title_justify="left", title_style="bold", header_style="bold")
    made.caption, made.caption_justify = table.note or None, "left"
    for i, column in enumerate(table.columns):
        named = i < table.names
        longest = max((len(row[i]) for row in table.rows), default=0)
        made.add_column(
            column, justify="left" if named else "right", overflow="fold", min_width=min(18, longest) if named else None
        )
    for i, row in enumerate(table.rows):
        if i in table.sections:
            made.add_section()
        made.add_row(*(cell.replace(" [", "\n[") for cell in row))
    return made


def markdown_page(comparison: Comparison) -> str:
    """The comparison as one Markdown page: problems, findings, notes, tables."""
    parts = ["# Comparison\n"]
    if comparison.synthetic:
        parts.append(f"> {PHANTOM_NOTE}\n")
    for title, sentences in (
        ("What went wrong", comparison.problems),
        ("In words", comparison.findings),
        ("Notes", comparison.notes),
    ):
        if sentences:
            parts.append(f"## {title}\n")
            parts.append("\n".join(f"- {markdown.text(sentence)}" for sentence in sentences) + "\n")
    arms = [[arm.name, arm.what, ", ".join(arm.runs), ", ".join(map(str, arm.seeds))] for arm in comparison.arms]
    parts += ["## Arms\n", markdown.table(["arm", "what", "runs", "seeds"], arms) + "\n"]
    for table in all_tables(comparison):
        parts += [
            f"## {markdown.text(table.title)}\n",
            markdown.table(list(table.columns), [list(row) for row in table.rows]) + "\n",
        ]
        if table.note:
            parts.append(f"{markdown.text(table.note)}\n")
    return "\n".join(parts)
