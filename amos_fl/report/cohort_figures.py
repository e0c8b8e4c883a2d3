"""The figures of a cohort: intensities, slices, organ volumes and how much of each organ there is."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from amos_fl.cohort.statistics import CaseStatistics, StatisticsGroup, median
from amos_fl.comparison.paper_statistics import PaperRow
from amos_fl.report.figures import WIDTH, panels_of
from amos_fl.report.palette import INK, MUTED, SERIES
from amos_fl.report.svg import page_style, to_svg

_SHARES = (0.005, 0.25, 0.5, 0.75, 0.995)
_MODALITY = {"CT": (SERIES[0], "o"), "MR": (SERIES[1], "D")}
_MARKERS = "osD^vPX*"


def intensity_ranges(name: str, scanners: Sequence[StatisticsGroup], paper: Mapping[str, PaperRow]) -> Markup:
    """The organs' intensities at each scanner: a line over 99 % of the voxels, a bar over half, a dot at the median."""
    modalities = [m for m in ("CT", "MR") if any(g.modality == m and g.labelled for g in scanners)]
    told = []
    with page_style():
        groups = {m: [g for g in scanners if g.modality == m and g.labelled] for m in modalities}
        rows = max((len(of) for of in groups.values()), default=1)
        figure, panels = panels_of(max(1, len(modalities)), 1.0 + 0.36 * rows)
        for axes, modality in zip(panels, modalities, strict=False):
            colour = _MODALITY[modality][0]
            for place, group in enumerate(groups[modality]):
                found = group.intensities()
                low, quarter, middle, three, high = (found.quantile(share) for share in _SHARES)
                axes.plot([low, high], [place, place], color=colour, linewidth=1.2, solid_capstyle="butt")
                axes.plot(
                    [quarter, three], [place, place], color=colour, linewidth=6, alpha=0.55, solid_capstyle="butt"
                )
                axes.plot([middle], [place], "o", color=INK, markersize=4)
                if (row := paper.get(group.name)) and row.intensity:
                    median_, _, least, most = row.intensity
                    axes.plot([least, median_, most], [place + 0.3] * 3, "|", color=MUTED, markersize=7)
                told.append(f"{group.name}: median {middle:.4g}, 99 % between {low:.4g} and {high:.4g}.")
            axes.set(
                title=f"{modality}, {'HU' if modality == 'CT' else 'the scanner’s own unit'}",
                ylim=(len(groups[modality]) - 0.4, -0.6),
            )
            if modality == "MR":  # the scanners' units differ by powers of ten
                ends = [g.intensities().quantile(share) for g in groups["MR"] for share in (0.005, 0.995)]
                axes.set_xscale("log", nonpositive="clip")
                plain_log(axes, "x", [max(end, max(ends) * 1e-7, 1e-6) for end in ends])
            axes.set_yticks(range(len(groups[modality])), [g.name for g in groups[modality]])
            axes.tick_params(axis="y", length=0)
            axes.grid(False, axis="y")
        return to_svg(figure, name, "Intensities of the organs by scanner", " ".join(told))


def slices(name: str, cases: Sequence[CaseStatistics]) -> Markup:
    """Every scan by the distance of its slices and their number, on a logarithmic scale each."""
    modalities = [m for m in ("CT", "MR") if any(c.case.modality == m for c in cases)]
    sites = sorted({c.case.site for c in cases})
    with page_style():
        figure, panels = panels_of(len(modalities), 3.3, sharey=True)
        for axes, modality in zip(panels, modalities, strict=True):
            for i, site in enumerate(sites):
                mine = [c for c in cases if (c.case.site, c.case.modality) == (site, modality)]
                # Scans with the same grid would share a point; shifted slightly, each can be seen.
                aside = 1 + 0.02 * ((np.arange(len(mine)) * 0.618034) % 1 - 0.5)
                axes.plot(
                    np.array([c.spacing_mm[2] for c in mine]) * aside,
                    [c.slices for c in mine],
                    _MARKERS[i % len(_MARKERS)],
                    color=SERIES[i % len(SERIES)],
                    markersize=4,
                    alpha=0.65,
                    markeredgewidth=0,
                    label=site,
                )
            axes.set(title=modality, xlabel="distance of slices, mm", xscale="log", yscale="log")
            plain_log(axes, "x", [c.spacing_mm[2] for c in cases if c.case.modality == modality])
        panels[0].set(ylabel="slices")
        plain_log(panels[0], "y", [float(c.slices) for c in cases])
        marks = {"linestyle": "none", "markersize": 4}
        handles = [Line2D([], [], color=SERIES[i % 8], marker=_MARKERS[i % 8], **marks) for i in range(len(sites))]
        figure.legend(handles, sites, loc="outside upper left", ncols=10)
        told = [
            f"{site}: {median([c.slices for c in cases if c.case.site == site]):g} slices "
            f"{median([c.spacing_mm[2] for c in cases if c.case.site == site]):.3g} mm apart in the median."
            for site in sites
        ]
        return to_svg(figure, name, "Number and distance of slices", " ".join(told))


def plain_log(axes: Axes, side: str, values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at round numbers, written out, as many as have room."""
    low, high = min(values) / 1.12, max(values) * 1.12
    axis = axes.xaxis if side == "x" else axes.yaxis
    (axes.set_xlim if side == "x" else axes.set_ylim)(low, high)
    ratio = high / low
    finest = 3 if ratio > 5000 else 2 if ratio > 6 else 1 if ratio >= 2 else 0
    scales = [_ticks(low, high, steps, decades) for steps, decades in _SCALES[finest:]]
    ticks = next((ticks for ticks in scales if _has_room(axes, side, ticks)), scales[-1])
    axis.set_ticks(ticks, [_written_out(tick) for tick in ticks])
    axis.set_ticks([], minor=True)


_SCALES: tuple[tuple[tuple[float, ...], int], ...] = (
    ((1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9), 1),
    ((1, 1.5, 2, 2.5, 3, 4, 5, 6, 8), 1),
    ((1, 2, 5), 1),
    ((1, 3), 1),
    *(((1,), decades) for decades in (1, 2, 3, 4)),
)
"""Round numbers from fine to coarse: the steps within a power of ten, and every how many powers of ten."""


def _ticks(low: float, high: float, steps: Sequence[float], decades: int) -> list[float]:
    """
    >>> _ticks(20, 3000, (1, 5), 1), _ticks(0.5, 3000, (1,), 2)
    ([50.0, 100.0, 500.0, 1000.0], [1.0, 100.0])
    """
    exponents = [e for e in range(-8, 13) if e % decades == 0]
    return [s * 10.0**e for e in exponents for s in steps if low <= s * 10.0**e <= high]


def _has_room(axes: Axes, side: str, ticks: Sequence[float]) -> bool:
    """Whether the labels of ticks stand apart, by how much room letters and lines take in points."""
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes are drawn in a figure"
    place, letter = axes.get_position(), 0.65 * rcParams["font.size"]
    length = 72 * (place.width * figure.get_figwidth() if side == "x" else place.height * figure.get_figheight())
    low, high = axes.get_xlim() if side == "x" else axes.get_ylim()
    at = [length * math.log(tick / low) / math.log(high / low) for tick in ticks]
    sizes = [letter * len(_written_out(tick)) if side == "x" else letter for tick in ticks]
    return all(
        b - a >= (first + second) / 2 + letter
        for (a, first), (b, second) in itertools.pairwise(zip(at, sizes, strict=True))
    )


def _written_out(tick: float) -> str:
    """
    >>> _written_out(20000.0) == "20\\u202f000", _written_out(0.05)
    (True, '0.05')
    """
    return f"{tick:,.0f}".replace(",", "\u202f") if tick >= 1 and tick % 1 == 0 else f"{tick:g}"


def organ_volumes(name: str, modalities: Sequence[StatisticsGroup], organs: Mapping[int, str]) -> Markup:
    """Each organ's volumes (Figure 4): every case as a mark behind a box, CT above MR, on a logarithmic scale."""
    present = [organ for organ in organs if any(group.volumes_ml(organ) for group in modalities)]
    order = sorted(present, key=lambda organ: -max(median(g.volumes_ml(organ) or [0.0]) for g in modalities))
    told = []
    with page_style():
        figure = Figure(figsize=(WIDTH, 0.9 + 0.38 * len(order)))
        axes = figure.subplots()
        for i, group in enumerate(modalities):
            colour, marker = _MODALITY[group.modality]
            shift = (i - (len(modalities) - 1) / 2) * 0.38
            for place, organ in enumerate(order):
                values = group.volumes_ml(organ)
                spread = (np.arange(len(values)) * 0.618034) % 1 * 0.22 - 0.11
                axes.plot(
                    values, place + shift + spread, marker, color=colour, markersize=2.6, alpha=0.5, markeredgewidth=0
                )
                if len(values) >= 5:
                    lines = {"color": colour, "linewidth": 0.9}
                    axes.boxplot(
                        [values],
                        positions=[place + shift],
                        widths=0.3,
                        orientation="horizontal",
                        showfliers=False,
                        manage_ticks=False,
                        boxprops=lines,
                        whiskerprops=lines,
                        capprops=lines,
                        medianprops={"color": INK, "linewidth": 1.6},
                    )
                if values:
                    told.append(f"{organs[organ]} in {group.modality}: {median(values):.3g} ml in the median.")
        axes.set(xscale="log", xlabel="ml", ylim=(len(order) - 0.45, -0.55))
        axes.set_yticks(range(len(order)), [organs[organ] for organ in order])
        plain_log(axes, "x", [v for g in modalities for organ in order for v in g.volumes_ml(organ)] or [1.0])
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        handles = [
            Line2D(
                [], [], color=_MODALITY[g.modality][0], marker=_MODALITY[g.modality][1], markersize=4, linestyle="none"
            )
            for g in modalities
        ]
        figure.legend(handles, [g.modality for g in modalities], loc="outside upper left", ncols=2)
        return to_svg(figure, name, "Organ volumes", " ".join(told))


def organ_shares(name: str, everything: StatisticsGroup, organs: Mapping[int, str]) -> Markup:
    """How many voxels of each organ are labelled in all cases together (Figure 3b), on a logarithmic scale."""
    counts = {o: sum(c.voxels.get(o, 0) for c in everything.cases) for o in organs}
    order = sorted((o for o in counts if counts[o]), key=lambda o: -counts[o])
    with page_style():
        figure = Figure(figsize=(WIDTH, 0.8 + 0.24 * len(order)))
        axes = figure.subplots()
        most, least = max(counts.values(), default=1) or 1, min((counts[o] for o in order), default=1)
        floor = 10.0 ** math.floor(math.log10(least) - 0.3)
        for place, organ in enumerate(order):
            axes.barh(place, counts[organ] - floor, left=floor, height=0.62, color=SERIES[0], alpha=0.75)
            axes.annotate(
                f"{counts[organ]:,}".replace(",", "\u202f"),
                (counts[organ], place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
            )
        axes.set(xscale="log", xlabel="labelled voxels", ylim=(len(order) - 0.4, -0.6))
        plain_log(axes, "x", [floor * 1.12, most * 5])
        axes.set_yticks(range(len(order)), [organs[o] for o in order])
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        told = " ".join(f"{organs[o]}: {counts[o]} voxels." for o in order)
        return to_svg(figure, name, "Labelled voxels by organ", told)
