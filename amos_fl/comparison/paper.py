"""A comparison for a paper: one table and its figures in LaTeX, each with a caption that says all there is to say."""

import math
from collections.abc import Sequence

from amos_fl.comparison.comparison import Arm, Comparison, Scope
from amos_fl.comparison.latex import cell, escape
from amos_fl.metrics.catalogue import METRICS, MetricName, title_of
from amos_fl.runs.summary import PHANTOM_NOTE
from amos_fl.wording import counted, listed

FOLDER = r"\comparisonfolder"
_HOW = rf"""% \newcommand{{{FOLDER}}}{{path/to/this/comparison}}
% \input{{{FOLDER}/latex/paper}}
% needs \usepackage{{booktabs,graphicx}}
\providecommand{{{FOLDER}}}{{..}}
"""
STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
"""The marks of a difference, by the largest p after Holm's correction."""


def paper_page(comparison: Comparison) -> str:
    """The table and the figures, to be read with `\\input` by a document that loads booktabs and graphicx."""
    return "\n".join([_HOW, paper_table(comparison), *_figures(comparison)])


def paper_table(c: Comparison) -> str:
    """Every main arm's means in the groups of scanners, with their standard deviation over the seeds.

    The best of a column is bold; stars mark the differences from the reference that a paired permutation test shows.
    """
    groups = c.scopes_of("group")
    columns = [(metric, scope) for metric in c.metrics for scope in groups]
    best = {column: _best(c, *column) for column in columns}
    heads = [rf"\multicolumn{{{len(groups)}}}{{c}}{{{title_of(metric)}}}" for metric in c.metrics]
    starts = [2 + i * len(groups) for i in range(len(c.metrics))]
    rules = "".join(rf"\cmidrule(lr){{{start}-{start + len(groups) - 1}}}" for start in starts)
    names = [escape(f"{scope.name} ({scope.cases})") for _, scope in columns]
    rows = [
        [escape(arm.name), *(_value(c, arm, metric, scope, best[metric, scope]) for metric, scope in columns)]
        for arm in c.main_arms
    ]
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{_caption(c, columns)}}}",
        r"\label{tab:comparison}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'c' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *heads]) + r" \\",
        rules,
        " & ".join(["", *names]) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _printed(value: float) -> str:
    return f"{value:.3f}"


def _best(c: Comparison, metric: MetricName, scope: Scope) -> str:
    """The best mean of a column as it is printed, so that equal ones are all bold; empty if there is only one arm."""
    values = [found.estimate.value for arm in c.main_arms if (found := c.cell(arm.name, scope.name, metric))]
    known = [value for value in values if not math.isnan(value)]
    best = max if METRICS[metric].higher_is_better else min
    return _printed(best(known)) if len(known) > 1 else ""


def _value(c: Comparison, arm: Arm, metric: MetricName, scope: Scope, best: str) -> str:
    found = c.cell(arm.name, scope.name, metric)
    if found is None or math.isnan(found.estimate.value):
        return "--"
    value = _printed(found.estimate.value)
    shown = rf"\mathbf{{{value}}}" if value == best else value
    spread = next((s for s in c.spreads if (s.arm, s.scope, s.metric) == (arm.name, scope.name, metric)), None)
    sd = rf" \pm {_printed(spread.sd)}" if spread and not math.isnan(spread.sd) else ""
    difference = c.difference(arm.name, scope.name, metric)
    stars = "" if difference is None else next((mark for p, mark in STARS if difference.p_holm < p), "")
    return f"${shown}{sd}{f'^{{{stars}}}' if stars else ''}$"


def _caption(c: Comparison, columns: Sequence[tuple[MetricName, Scope]]) -> str:
    seeds = {len(arm.seeds) for arm in c.main_arms}
    several = f"{min(seeds)} to {max(seeds)} seeds" if len(seeds) > 1 else counted(max(seeds), "seed")
    what = [
        f"{title_of(metric)}: {METRICS[metric].about.format(tolerance_mm=f'{c.tolerance_mm:g}')}."
        for metric in c.metrics
    ]
    untested = [
        f"{title_of(metric)} on {scope.name}"
        for metric, scope in columns
        if not any(
            (d := c.difference(arm.name, scope.name, metric)) is not None and not math.isnan(d.p_holm)
            for arm in c.main_arms
        )
    ]
    marks = ", ".join(f"{mark} p < {p:g}" for p, mark in reversed(STARS))
    sentences = [
        "Scores on test cases of scanners that took part in the training (seen) and of others (unseen); in brackets "
        "the number of cases.",
        *what,
        f"Means over cases, then over organs, of {several}"
        + (", ± the standard deviation of the seeds' means." if max(seeds) > 1 else "."),
        "The best of a column is bold.",
        f"Difference from {c.reference} on the same cases, by the paired permutation test with Holm's correction over "
        f"arms and groups of scanners: {marks}. The test does not cover the variation between seeds.",
        *([f"Not tested: {listed(untested)}."] if untested else []),
        *([PHANTOM_NOTE] if c.synthetic else []),
    ]
    return cell(" ".join(sentences))


def _figures(c: Comparison) -> list[str]:
    """The figures that the report leaves beside its page, those for a paper among them."""
    synthetic = [PHANTOM_NOTE] if c.synthetic else []
    metrics = listed([title_of(metric) for metric in c.metrics])
    found = [
        (
            "arm-groups",
            f"{metrics} of every arm by group of scanners. A mark is the mean over organs of their mean over cases, a "
            "line its 95 % interval (bootstrap over cases within sites). Seen sites and unseen sites are means over "
            "sites with equal weight.",
        )
    ]
    kinds = {scope.name: scope.kind for scope in c.scopes}
    found += [
        (
            f"gap-{metric}",
            f"Differences in {title_of(metric)} between arms on the same cases, and between seen and unseen scanners. "
            "A mark is the difference of two means, a line its 95 % interval; right of zero, the first one is higher.",
        )
        for metric in c.metrics
        if any(gap.metric == metric and kinds[gap.scope] != "site" for gap in c.gaps)
    ]
    return [
        "\n".join(
            [
                r"\begin{figure}[htbp]",
                r"\centering",
                rf"\includegraphics[width=\linewidth]{{{FOLDER}/figures/{name}.pdf}}",
                rf"\caption{{{cell(' '.join([caption, *synthetic]))}}}",
                rf"\label{{fig:{name}}}",
                r"\end{figure}",
                "",
            ]
        )
        for name, caption in found
    ]
