"""The figures of a comparison, drawn like those of a run."""

import math
from collections.abc import Collection, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from amos_fl.comparison.comparison import Arm, Comparison, CurvePoint, Gap, MeanScore, Scope
from amos_fl.comparison.statistics import Estimate
from amos_fl.metrics.catalogue import METRICS, MetricName, title_of
from amos_fl.metrics.rows import ScoreRow
from amos_fl.report.figures import WIDTH, around, grid_of_scores, panels_of, score, signed, top_of
from amos_fl.report.palette import INK, MUTED, SERIES
from amos_fl.report.svg import page_style, to_svg

_MARKERS = "osD^vPX*"


def _style(place: int) -> tuple[str, str]:
    return SERIES[place % len(SERIES)], _MARKERS[place % len(_MARKERS)]


def _with_interval(axes: Axes, estimate: Estimate, at: float, colour: str, marker: str) -> None:
    if estimate.has_interval:
        axes.plot([estimate.low, estimate.high], [at, at], color=colour, linewidth=1.4)
    axes.plot([estimate.value], [at], marker, color=colour, markersize=4.6, clip_on=False)


def _legend(figure: Figure, arms: Sequence[Arm], places: Collection[int] | None = None) -> None:
    """The legend of the arms' marks; only those at `places`, if given."""
    shown = [i for i in range(len(arms)) if places is None or i in places]
    handles = [Line2D([], [], color=_style(i)[0], marker=_style(i)[1], markersize=4.6, linewidth=1.4) for i in shown]
    figure.legend(handles, [arms[i].name for i in shown], loc="outside upper left", ncols=4)


def arms_by_scope(name: str, comparison: Comparison, scopes: Sequence[Scope]) -> Markup:
    """Every main arm's mean in every scope with its interval, a panel per metric."""
    arms, told = comparison.main_arms, []
    with page_style():
        height = 1.0 + len(scopes) * (0.16 * len(arms) + 0.16) + 0.2 * ((len(arms) - 1) // 4)
        figure, panels = panels_of(len(comparison.metrics), height, sharey=True)
        for axes, metric in zip(panels, comparison.metrics, strict=True):
            ends = []
            for place, scope in enumerate(scopes):
                for i, arm in enumerate(arms):
                    cell = comparison.cell(arm.name, scope.name, metric)
                    if cell is None or math.isnan(cell.estimate.value):
                        continue
                    ends += [cell.estimate.value, cell.estimate.low, cell.estimate.high]
                    at = place + 0.7 * ((i + 0.5) / len(arms) - 0.5)
                    _with_interval(axes, cell.estimate, at, *_style(i))
                    told.append(f"{scope.name}, {arm.name}: {title_of(metric)} {_said(cell)}.")
            _rows(axes, [_named(scope) for scope in scopes])
            axes.set(title=title_of(metric), xlim=around(ends, high=METRICS[metric].high))
        _legend(figure, arms)
        return to_svg(figure, name, "Scores of the arms", " ".join(told))


def _named(scope: Scope) -> str:
    if scope.kind != "site":
        return scope.name
    return f"{scope.name}  {scope.modality}, {'seen' if scope.seen else 'unseen'}"


def _said(cell: MeanScore) -> str:
    estimate = cell.estimate
    between = f" ({score(estimate.low, 3)} to {score(estimate.high, 3)})" if estimate.has_interval else ""
    return f"{score(estimate.value, 3)}{between}"


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    for between in range(1, len(labels)):
        axes.axhline(between - 0.5, color=MUTED, linewidth=0.4, alpha=0.5)


def gap_forest(name: str, gaps: Sequence[Gap], metric: MetricName) -> Markup:
    """Every part of the gap as a point with its interval, beside a line at zero."""
    shown = [gap for gap in gaps if gap.metric == metric and not math.isnan(gap.estimate.value)]
    with page_style():
        figure, (axes,) = panels_of(1, 0.8 + 0.27 * max(1, len(shown)))
        kinds = list(dict.fromkeys(gap.kind for gap in shown))
        for place, gap in enumerate(shown):
            _with_interval(axes, gap.estimate, place, *_style(kinds.index(gap.kind)))
        _rows(axes, [_parts(gap) for gap in shown])
        ends = [v for gap in shown for v in (gap.estimate.value, gap.estimate.low, gap.estimate.high, 0.0)]
        high = METRICS[metric].high
        axes.set(xlabel=f"difference in {title_of(metric)}", xlim=around(ends, least=0.1, low=-high, high=high))
        axes.axvline(0, color=INK, linewidth=1)
        told = " ".join(f"{_parts(gap)}: {signed(gap.estimate.value)}." for gap in shown)
        return to_svg(figure, name, f"The gap taken apart, {title_of(metric)}", told)


def _parts(gap: Gap) -> str:
    if gap.scope != gap.other_scope:
        return f"{gap.minuend}: {gap.scope} − {gap.other_scope}"
    return f"{gap.minuend} − {gap.subtrahend}, {gap.scope}{' (settings differ)' if gap.settings_differ else ''}"


def arms_by_site(name: str, comparison: Comparison, metric: MetricName) -> Markup:
    """All arms by all sites, and the means over the seen and the unseen sites, as coloured cells."""
    scopes = [*comparison.scopes_of("site"), *comparison.scopes_of("sites")]
    apart = len(comparison.scopes_of("sites"))
    values = np.array([[_value(comparison.cell(arm.name, s.name, metric)) for s in scopes] for arm in comparison.arms])
    names = [f"{s.name} {s.modality}{'' if s.seen else ' *'}" if s.kind == "site" else s.name for s in scopes]
    told = _told_rows([arm.name for arm in comparison.arms], [scope.name for scope in scopes], values)
    return grid_of_scores(name, metric, values, [a.name for a in comparison.arms], names, told, apart=apart)


def arms_by_organ(name: str, comparison: Comparison, scope: Scope, metric: MetricName) -> Markup:
    """The main arms by the organs, and the mean of these, over the cases of a scope."""
    organs = [o for o in comparison.organs.values() if _any(comparison, scope, metric, o)]
    arms = [a for a in comparison.main_arms if not math.isnan(_value(comparison.cell(a.name, scope.name, metric)))]
    values = np.array([[_value(comparison.cell(a.name, scope.name, metric, o)) for o in [*organs, ""]] for a in arms])
    told = _told_rows([arm.name for arm in arms], [*organs, "mean"], values)
    return grid_of_scores(name, metric, values, [arm.name for arm in arms], [*organs, "mean"], told)


def _told_rows(rows: Sequence[str], columns: Sequence[str], values: np.ndarray) -> str:
    return " ".join(
        f"{row}: {', '.join(f'{column} {score(v)}' for column, v in zip(columns, line, strict=True))}."
        for row, line in zip(rows, values.tolist(), strict=True)
    )


def _any(comparison: Comparison, scope: Scope, metric: MetricName, organ: str) -> bool:
    return any(
        not math.isnan(_value(comparison.cell(arm.name, scope.name, metric, organ))) for arm in comparison.main_arms
    )


def _value(cell: MeanScore | None) -> float:
    return math.nan if cell is None else cell.estimate.value


def case_distributions(name: str, comparison: Comparison, scopes: Sequence[Scope], metric: MetricName) -> Markup:
    """Every test case's mean over its organs, by main arm and group of scanners, behind boxes."""
    arms, sums = comparison.main_arms, {}
    for row in comparison.case_rows:
        value = getattr(row, metric)
        if not math.isnan(value):
            sums.setdefault((row.arm, row.site, row.modality, row.case), []).append(value)
    means = {key: math.fsum(values) / len(values) for key, values in sums.items()}
    with page_style():
        figure, (axes,) = panels_of(1, 0.9 + len(scopes) * (0.24 * len(arms) + 0.12))
        for place, scope in enumerate(scopes):
            for i, arm in enumerate(arms):
                values = sorted(
                    value
                    for (of, site, modality, _), value in means.items()
                    if of == arm.name and site in scope.sites and modality == scope.modality
                )
                if values:
                    at = place + 0.8 * ((i + 0.5) / len(arms) - 0.5)
                    colour, marker = _style(i)
                    axes.plot(values, [at] * len(values), marker, color=colour, markersize=3.2, alpha=0.6)
                    axes.plot([float(np.median(values))], [at], "|", color=INK, markersize=11, markeredgewidth=2)
        _rows(axes, [scope.name for scope in scopes])
        axes.set(xlabel=f"{title_of(metric)} of a case", xlim=around(means.values(), high=METRICS[metric].high))
        _legend(figure, arms)
        told = f"{len({key[3] for key in means})} test cases in each of {len(arms)} arms."
        return to_svg(figure, name, f"{title_of(metric)} of the test cases by arm", told)


def arm_cost_curves(name: str, arms: Sequence[Arm], curves: Sequence[CurvePoint]) -> Markup:
    """DSC against patches, bytes and rounds: solid on seen scanners' validation cases, dashed on unseen scanners."""
    places = _places(arms)
    scores = [value for point in curves if point.run in places for value in (point.seen_dsc, point.unseen_dsc)]
    spent = (("patches", "patches", 1.0), ("bytes", "MB exchanged", 1e6), ("round", "rounds", 1.0))
    with page_style():
        figure, panels = panels_of(3, 3.0, sharey=True)
        for axes, (field, label, unit) in zip(panels, spent, strict=True):
            for run in dict.fromkeys(point.run for point in curves):
                mine = [point for point in curves if point.run == run]
                xs = [getattr(point, field) / unit for point in mine]
                if run not in places or (field == "bytes" and not any(xs)):
                    continue
                colour, marker = _style(places[run])
                for values, dashes in (
                    ([point.seen_dsc for point in mine], "-"),
                    ([point.unseen_dsc for point in mine], (0, (4, 2))),
                ):
                    axes.plot(xs, values, marker=marker, markersize=3.6, color=colour, linestyle=dashes)
            axes.set(xlabel=label)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        panels[0].set(ylabel="DSC")
        panels[0].set_ylim(0, top_of(scores))
        _legend(figure, arms, places.values())
        last = {point.run: point for point in curves}.values()
        told = " ".join(
            f"{p.run} after round {p.round} and {p.bytes / 1e6:.1f} MB: DSC {score(p.seen_dsc)} on seen, "
            f"{score(p.unseen_dsc)} on unseen scanners."
            for p in last
        )
        return to_svg(figure, name, "DSC against cost", told)


def _places(arms: Sequence[Arm]) -> dict[str, int]:
    """For each run the position of the first arm that it belongs to."""
    return {run: i for i, arm in reversed(list(enumerate(arms))) for run in arm.runs}


def learning_by_site(name: str, arms: Sequence[Arm], points: Sequence[ScoreRow], scopes: Sequence[Scope]) -> Markup:
    """A panel per site with the DSC of every arm's runs against the fraction of their rounds; dashed if unseen."""
    places, columns = _places(arms), 4
    names = {site: scope for scope in scopes for site in scope.sites}
    shown = [site for site in names if any(p.site == site and p.run in places for p in points)]
    scores = [p.dsc for p in points if p.run in places]
    lines, told = math.ceil(len(shown) / columns), []
    with page_style():
        figure = Figure(figsize=(WIDTH, 0.75 + 1.75 * lines))
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        for axes, site in zip(panels.flat, shown, strict=False):
            mine = [p for p in points if p.site == site and p.run in places]
            for run in dict.fromkeys(p.run for p in mine):
                of_run = [p for p in mine if p.run == run]
                colour, marker = _style(places[run])
                dashes = "-" if of_run[0].seen else (0, (4, 2))
                shares = [100 * p.share for p in of_run]
                axes.plot(
                    shares, [p.dsc for p in of_run], marker=marker, markersize=3.2, color=colour, linestyle=dashes
                )
                told.append(f"{site}, {run}: {score(of_run[0].dsc)} at first, {score(of_run[-1].dsc)} at last.")
            axes.set_title(f"{site} {names[site].modality}{'' if names[site].seen else ' *'}")
            axes.set(xlim=(0, 103), ylim=(0, top_of(scores)))
        for axes in panels.flat[len(shown) :]:
            axes.set_visible(False)
        for column in range(min(columns, len(shown))):
            last = panels[(len(shown) - 1 - column) // columns, column]
            last.set_xlabel("% of the rounds")
            last.xaxis.set_tick_params(labelbottom=True)
        for row in panels:
            row[0].set_ylabel("DSC")
        _legend(figure, arms, places.values())
        return to_svg(figure, name, "Learning curves by site", " ".join(told))
