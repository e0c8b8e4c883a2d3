"""The figures of a run, drawn with Matplotlib in the page's stand-in colours, each with alternative text."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from amos_fl.metrics.catalogue import IN_RUNS, METRICS, MetricName, title_of
from amos_fl.metrics.rows import ScoreRow, group_of
from amos_fl.metrics.scores import reported_organs
from amos_fl.metrics.table import CaseScores
from amos_fl.report.palette import INK, MUTED, PAPER, SEEN, SERIES, UNSEEN
from amos_fl.report.series import CostPoint, GapRow, LossPoint
from amos_fl.report.svg import page_style, to_svg
from amos_fl.wording import MISSING

WIDTH = 8.6
"""The width of a figure in inches; at 96 pixels per inch, the width of the page's column."""
_MARKERS = "osD^vPX*"
_GROUP = {"seen": (SEEN, "o", "seen scanners"), "unseen": (UNSEEN, "D", "unseen scanners")}


def score(value: float, digits: int = 2) -> str:
    """A score as it is printed.

    >>> score(0.4567), score(math.nan)
    ('0.46', '-')
    """
    return MISSING if math.isnan(value) else f"{value:.{digits}f}"


def panels_of(columns: int, height: float, **options: Any) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(1, columns, squeeze=False, **options)[0]  # pyright: ignore[reportArgumentType]
    return figure, axes


def top_of(values: Iterable[float]) -> float:
    """The upper end of an axis of scores that begins at 0."""
    return min(1.0, max((v for v in values if not math.isnan(v)), default=1.0) * 1.15 + 0.02)


def end_of(metric: MetricName, values: Iterable[float]) -> float:
    """The upper bound of a metric; without one, the largest of the values."""
    high = METRICS[metric].high
    return max((v for v in values if v > 0), default=1.0) if math.isinf(high) else high


def around(values: Iterable[float], least: float = 0.2, low: float = 0.0, high: float = 1.0) -> tuple[float, float]:
    """The ends of an axis around values, at least `least` long, within `low` and `high`.

    >>> around([0.5, 0.6], least=0.2)
    (0.45, 0.65)
    """
    known = [value for value in values if not math.isnan(value)] or [low, min(high, 1.0)]
    middle, half = (min(known) + max(known)) / 2, max(least, 1.2 * (max(known) - min(known))) / 2
    return round(max(low, middle - half), 3), round(min(high, middle + half), 3)


def _whole_numbers(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


def _site_styles(sites: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of each site; after eight the lines change."""
    return {
        site: {
            "color": SERIES[i % len(SERIES)],
            "marker": _MARKERS[i % len(_MARKERS)],
            "markersize": 3.6,
            "label": site,
        }
        for i, site in enumerate(sites)
    }


def learning_curves(name: str, losses: Sequence[LossPoint], scores: Sequence[ScoreRow]) -> Markup:
    """Training loss by round and site; validation DSC of seen sites, and the DSC of unseen ones dashed."""
    sites = sorted({p.site for p in losses} | {p.site for p in scores})
    styles = _site_styles(sites)
    with page_style():
        # Without validation cases and unseen scanners nothing is scored during training.
        figure, panels = panels_of(2 if scores else 1, 3.3)
        left, right = panels[0], panels[-1]
        for site in sites:
            mine = [p for p in losses if p.site == site]
            if mine:
                left.plot([p.round for p in mine], [p.loss for p in mine], **styles[site])
            scored = [p for p in scores if p.site == site]
            if scored:
                dashes = "-" if scored[0].seen else (0, (4, 2))
                right.plot([p.round for p in scored], [p.dsc for p in scored], linestyle=dashes, **styles[site])
        left.set(title="Training loss", xlabel="round")
        if scores:
            right.set(title="DSC during training", xlabel="round", ylim=(0, top_of(p.dsc for p in scores)))
        last = max((p.round for p in (*losses, *scores)), default=1)
        for axes in panels:
            axes.set_xlim(0.5, last + 0.5)
            _whole_numbers(axes)
        found = {line.get_label(): line for axes in reversed(panels) for line in axes.get_lines()}
        order = [site for site in sites if site in found]
        figure.legend([found[s] for s in order], order, loc="outside upper left", ncols=10, title=None)
        return to_svg(figure, name, "Learning curves by site", _told_curves(losses, scores))


def _told_curves(losses: Sequence[LossPoint], scores: Sequence[ScoreRow]) -> str:
    told = []
    for site in sorted({p.site for p in losses}):
        mine = [p for p in losses if p.site == site]
        told.append(f"Loss at {site}: {mine[0].loss:.2f} in round {mine[0].round}, {mine[-1].loss:.2f} in the last.")
    for site in sorted({p.site for p in scores}):
        mine = [p for p in scores if p.site == site]
        told.append(f"DSC at {site}: {score(mine[0].dsc)} after round {mine[0].round}, {score(mine[-1].dsc)} at last.")
    return " ".join(told)


def heat_map(name: str, scores: Sequence[ScoreRow], organs: Sequence[str], metric: str) -> Markup:
    """Sites by organs and their mean, each cell with its number; on cividis from 0 (dark) to 1 (light)."""
    rows = list(dict.fromkeys((row.site, row.group, row.modality) for row in scores))
    columns = [*organs, "mean"]
    values = np.full((len(rows), len(columns)), np.nan)
    for row in scores:
        place = rows.index((row.site, row.group, row.modality)), columns.index(row.organ or "mean")
        values[place] = getattr(row, metric)
    labels = [f"{site}  {modality}, {group}" for site, group, modality in rows]
    told = [f"{label}: mean {score(values[i, -1])}." for i, label in enumerate(labels)]
    return grid_of_scores(name, metric, values, labels, columns, " ".join(told))


def grid_of_scores(
    name: str,
    metric: MetricName,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    told: str,
    *,
    apart: int = 1,
) -> Markup:
    """A table of scores (row, column) as coloured cells with numbers; the last `apart` columns are set apart.

    Bright is 1, or the largest value of a metric without an upper bound.
    """
    high = end_of(metric, values.ravel().tolist())
    starts = np.arange(len(columns), dtype=float)
    starts[len(columns) - apart :] += 0.25
    colours = mpl.colormaps["cividis"]
    with page_style():
        figure = Figure(figsize=(WIDTH, 1.15 + 0.27 * len(rows)))
        axes = figure.subplots()
        for i, row in enumerate(values.tolist()):
            for x, value in zip(starts.tolist(), row, strict=True):
                if math.isnan(value):
                    axes.text(x + 0.5, i + 0.5, MISSING, ha="center", va="center", color=MUTED, fontsize=7.5)
                    continue
                colour = colours(min(max(value / high, 0.0), 1.0))
                axes.add_patch(Rectangle((x, i), 1, 1, facecolor=colour, edgecolor=PAPER, linewidth=1))
                bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 0.5
                ink = "#000000" if bright else "#ffffff"
                text = f"{value:.2f}".removeprefix("0") if value < 0.995 else f"{value:.1f}".removesuffix(".0")
                axes.text(x + 0.5, i + 0.5, text, ha="center", va="center", color=ink, fontsize=7.5)
        axes.set(xlim=(0, starts[-1] + 1), ylim=(len(rows), 0))
        axes.set_xticks(starts + 0.5, columns, rotation=40, ha="left", rotation_mode="anchor")
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, pad=2)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        return to_svg(figure, name, f"{title_of(metric)} as a grid", told)


def distributions(name: str, cases: Sequence[CaseScores], organs: Mapping[int, str], metric: str) -> Markup:
    """For each modality and organ every test case as a mark behind a box, seen above unseen scanners."""
    modalities = sorted({case.modality for case in cases})
    names = [organ for label, organ in organs.items() if any(label in case.scores for case in cases)]
    high = end_of(metric, (getattr(score, metric) for case in cases for score in case.scores.values()))
    ends, told = (-0.03 * high, 1.03 * high), []
    with page_style():
        figure, panels = panels_of(max(1, len(modalities)), 0.9 + 0.40 * len(names), sharey=True)
        used = set()
        for axes, modality in zip(panels, modalities, strict=False):
            for group, (colour, marker, _) in _GROUP.items():
                mine = [c for c in cases if c.modality == modality and group_of(c) == group]
                shift = -0.19 if group == "seen" else 0.19
                medians = []
                for place, organ in enumerate(names):
                    values = _values(mine, organ, organs, modality, metric)
                    if values:
                        used.add(group)
                        medians.append((organ, float(np.median(values))))
                        _box(axes, values, place + shift, colour, marker)
                if medians:
                    best, worst = max(medians, key=lambda m: m[1]), min(medians, key=lambda m: m[1])
                    told.append(
                        f"{modality}, {group} scanners: medians from {score(worst[1])} ({worst[0]}) to "
                        f"{score(best[1])} ({best[0]})."
                    )
            axes.set(title=modality, xlim=ends, xlabel=title_of(metric), ylim=(len(names) - 0.5, -0.5))
            axes.set_yticks(range(len(names)), names)
            axes.tick_params(axis="y", length=0)
            axes.grid(False, axis="y")
        _group_legend(figure, [group for group in _GROUP if group in used])
        return to_svg(figure, name, f"{title_of(metric)} of the test cases by organ", " ".join(told))


def _values(
    cases: Sequence[CaseScores], organ: str, organs: Mapping[int, str], modality: str, metric: str
) -> list[float]:
    label = next(label for label, named in organs.items() if named == organ)
    if label not in reported_organs(organs, modality):
        return []
    values = (getattr(case.scores[label], metric) for case in cases if label in case.scores)
    return sorted(value for value in values if not math.isnan(value))


def _box(axes: Axes, values: Sequence[float], at: float, colour: str, marker: str) -> None:
    spread = (np.arange(len(values)) * 0.618034) % 1 * 0.24 - 0.12 if len(values) > 1 else np.zeros(1)
    axes.plot(values, at + spread, marker, color=colour, markersize=3, alpha=0.6, markeredgewidth=0)
    if len(values) >= 5:  # with fewer, the cases themselves are the clearest summary
        axes.boxplot(
            [values],
            positions=[at],
            widths=0.3,
            vert=False,
            showfliers=False,
            manage_ticks=False,
            boxprops={"color": colour, "linewidth": 1},
            whiskerprops={"color": colour, "linewidth": 0.8},
            capprops={"color": colour, "linewidth": 0.8},
            medianprops={"color": INK, "linewidth": 1.6},
        )


def _group_legend(figure: Figure, groups: Sequence[str]) -> None:
    handles = [Line2D([], [], color=_GROUP[g][0], marker=_GROUP[g][1], markersize=4, linestyle="none") for g in groups]
    figure.legend(handles, [_GROUP[g][2] for g in groups], loc="outside upper left", ncols=2)


def seen_and_unseen(
    name: str, means: Sequence[ScoreRow], gaps: Sequence[GapRow], groups: Mapping[str, float]
) -> Markup:
    """Each site's mean DSC and NSD, in rows of seen and unseen scanners; a bar marks the mean over the row's cases.

    `groups` holds the means by `metric group modality`.
    """
    rows = list(dict.fromkeys((row.modality, row.group) for row in sorted(means, key=lambda row: row.modality)))
    with page_style():
        ends = {metric: _ends_of_means(means, metric) for metric in IN_RUNS}
        named = {
            (metric, row): _named_apart(
                [(getattr(c, metric), c.site) for c in means if (c.modality, c.group) == row], ends[metric]
            )
            for metric in IN_RUNS
            for row in rows
        }
        lines = 1 + max((line for names in named.values() for _, _, line in names), default=0)
        figure, panels = panels_of(len(IN_RUNS), 0.95 + (0.3 + 0.12 * lines) * len(rows), sharey=True)
        for axes, metric in zip(panels, IN_RUNS, strict=True):
            for place, row in enumerate(rows):
                modality, group = row
                colour, marker, _ = _GROUP[group]
                for value, site, line in named[metric, row]:
                    axes.plot([value], [place], marker, color=colour, markersize=5)
                    above = (0, 5 + 9 * line)
                    axes.annotate(site, (value, place), above, textcoords="offset points", ha="center", fontsize=7.5)
                mean = groups.get(f"{metric} {group} {modality}", math.nan)
                axes.plot([mean, mean], [place + 0.08, place + 0.36], color=INK, linewidth=2)
            axes.set(
                title=title_of(metric),
                xlim=ends[metric],
                ylim=(len(rows) - 0.45, -0.65 - 0.1 * (lines - 1)),
            )
            axes.set_yticks(range(len(rows)), [f"{modality}, {group}" for modality, group in rows])
            axes.tick_params(axis="y", length=0)
            axes.grid(False, axis="y")
        told = []
        for c in means:
            values = ", ".join(f"{title_of(metric)} {score(getattr(c, metric))}" for metric in IN_RUNS)
            told.append(f"{c.site} ({c.modality}, {c.group}): {values}.")
        told += [f"Seen minus unseen on {gap.modality}: {title_of(gap.metric)} {signed(gap.gap)}." for gap in gaps]
        return to_svg(figure, name, "Scores of seen and unseen scanners", " ".join(told))


def _ends_of_means(means: Sequence[ScoreRow], metric: MetricName) -> tuple[float, float]:
    return around((getattr(c, metric) for c in means), high=METRICS[metric].high)


def _named_apart(marks: Sequence[tuple[float, str]], ends: tuple[float, float]) -> list[tuple[float, str, int]]:
    """Marks on one line of an axis with the line above them that each name stands in, so that none overlap.

    >>> _named_apart([(0.5, "A"), (0.51, "B"), (0.9, "C")], (0.0, 1.0))
    [(0.5, 'A', 0), (0.51, 'B', 1), (0.9, 'C', 0)]
    """
    letter = 0.021 * (ends[1] - ends[0])  # the width of a letter, on an axis of half a page
    until: list[float] = []  # where each line is free again
    placed = []
    for value, name in sorted(mark for mark in marks if not math.isnan(mark[0])):
        half = letter * (len(name) + 0.6) / 2
        line = next((i for i, end in enumerate(until) if end <= value - half), len(until))
        until[line : line + 1] = [value + half]
        placed.append((value, name, line))
    return placed


def signed(value: float, digits: int = 3) -> str:
    """A difference as printed, with its sign.

    >>> signed(0.0421), signed(-0.1), signed(0.0)
    ('+0.042', '−0.100', '0.000')
    """
    if math.isnan(value):
        return MISSING
    text = f"{abs(value):.{digits}f}"
    return text if float(text) == 0 else ("−" if value < 0 else "+") + text


def cost_curves(name: str, points: Sequence[CostPoint]) -> Markup:
    """DSC against bytes exchanged (or steps, if none were) and against rounds."""
    exchanged = any(point.bytes for point in points)
    spent = [point.bytes / 1e6 if exchanged else point.steps for point in points]
    with page_style():
        figure, panels = panels_of(2, 2.7, sharey=True)
        for axes, xs in zip(panels, (spent, [point.round for point in points]), strict=True):
            for group, values in (
                ("seen", [point.seen_dsc for point in points]),
                ("unseen", [point.unseen_dsc for point in points]),
            ):
                if not all(map(math.isnan, values)):
                    colour, marker, text = _GROUP[group]
                    dashes = "-" if group == "seen" else (0, (4, 2))
                    text = f"{text} ({'validation' if group == 'seen' else 'test'} cases)"
                    axes.plot(xs, values, marker=marker, markersize=4, color=colour, linestyle=dashes, label=text)
        panels[0].set(
            title="DSC against data exchanged" if exchanged else "DSC against optimizer steps",
            xlabel="MB, both ways and all sites" if exchanged else "steps",
            ylim=(0, top_of(value for point in points for value in (point.seen_dsc, point.unseen_dsc))),
        )
        panels[0].set_xlim(left=0)
        panels[1].set(title="DSC against rounds", xlabel="round")
        panels[1].set_xlim(left=0)
        _whole_numbers(panels[1])
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2)
        last = points[-1] if points else None
        told = (
            f"After round {last.round}, {last.steps} steps and {last.bytes / 1e6:.1f} MB: DSC {score(last.seen_dsc)} "
            f"on seen and {score(last.unseen_dsc)} on unseen scanners."
            if last
            else "No round was scored."
        )
        return to_svg(figure, name, "DSC against cost", told)
