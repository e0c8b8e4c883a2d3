"""Write `stats.html`, a cohort on one page, with its numbers and figures as files beside it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from amos_fl.cohort.scanners import SCANNERS
from amos_fl.cohort.statistics import CaseStatistics, StatisticsGroup, groups_of, median
from amos_fl.cohort.table import SPLITS, Cohort
from amos_fl.comparison.paper_statistics import (
    PAPER_SCANS,
    PAPER_SLICES,
    PAPER_VOXELS_PER_SCAN,
    PaperRow,
    paper_beside,
)
from amos_fl.csv_table import write_table
from amos_fl.files import write_text
from amos_fl.report import cohort_figures as figures
from amos_fl.report.page import render
from amos_fl.report.sortable import Cell, Column, SortableTable, count, number, table, text
from amos_fl.report.svg import figures_as_files
from amos_fl.wording import MISSING

STATS_NOTE = "These scans are a phantom's, made by amos-fl itself: the figures describe the phantom, not patients."
STATISTICS_PAGE = "stats.html"
_PAPER = "the AMOS paper (Ji et al., 2022, arXiv:2206.08023)"


def write_cohort_page(cohort: Cohort, cases: Sequence[CaseStatistics], out: Path, left_out: Sequence[str] = ()) -> Path:
    """Write the page, its numbers (`cases.csv`, `groups.csv`, `volumes.csv`) and its figures (SVG, PDF) into `out`.

    `left_out` tells the page which of the cohort's cases are not among `cases`, and why.
    """
    groups, paper = groups_of(cases), paper_beside(cohort)
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "cases": _case_rows(cohort, cases),
        "groups": [_group_row(group) for group in groups],
        "volumes": _volume_rows(cohort, groups),
    }
    for name, rows in files.items():
        write_table(out / f"{name}.csv", list(rows[0]) if rows else [], rows)
    page = out / STATISTICS_PAGE
    with figures_as_files(page):
        drawn = _figures(cohort, groups, paper)
    write_text(page, render("cohort.html", _context(cohort, groups, paper, drawn, left_out)))
    return page


def _figures(cohort: Cohort, groups: Sequence[StatisticsGroup], paper: Mapping[str, PaperRow]) -> dict[str, Markup]:
    everything = groups[0]
    drawn = {"slices": figures.slices("slices", everything.cases)}
    if everything.labelled:
        scanners = _of(groups, "scanner")
        modalities = [g for g in _of(groups, "modality") if g.labelled]
        drawn["intensities"] = figures.intensity_ranges("intensities", scanners, paper)
        drawn["volumes"] = figures.organ_volumes("volumes", modalities, cohort.organs)
        drawn["organs"] = figures.organ_shares("organs", everything, cohort.organs)
    return drawn


def _of(groups: Sequence[StatisticsGroup], *kinds: str) -> list[StatisticsGroup]:
    return [group for group in groups if group.kind in kinds]


# --- tables ---------------------------------------------------------------------------------------


def _context(
    cohort: Cohort,
    groups: Sequence[StatisticsGroup],
    paper: Mapping[str, PaperRow],
    drawn: Mapping[str, Markup],
    left_out: Sequence[str],
) -> dict[str, Any]:
    everything, synthetic = groups[0], cohort.synthetic()
    labelled = bool(everything.labelled)
    contents = [("cases", "Cases"), ("spatial", "Slices")]
    contents += [("intensity", "Intensities"), ("organs", "Organs")] if labelled else []
    beside = " The ticks below are the paper's median and percentiles." if paper else ""
    measured = f"{len(everything.cases)} of {len(cohort.cases)}" if left_out else f"{len(cohort.cases)}"
    return {
        "title": "A cohort in numbers",
        "kind": f"{measured} cases of {len(cohort.sites)} sites",
        "synthetic": synthetic,
        "phantom_note": STATS_NOTE,
        "problems": [f"left out: {why}" for why in left_out],
        "all_well": "The AMOS paper's figures are shown next to those of its own cases." if paper else "",
        "contents": contents,
        "numbers": [
            {"name": "scans", "value": str(len(everything.cases)), "more": f"{len(everything.labelled)} labelled"},
            {"name": "slices", "value": count(sum(everything.slices)).text, "more": ""},
            _organ_number(cohort, everything),
        ],
        "overview_table": overview_table(cohort, groups, paper),
        "splits_table": splits_table(cohort, paper),
        "spatial_table": spatial_table(groups, paper),
        "intensity_table": intensity_table(groups, paper),
        "volumes_table": _volumes_table(cohort, groups),
        "slices_svg": drawn["slices"],
        "intensity_svg": drawn.get("intensities", ""),
        "intensity_text": "Line: 99 % of the organs' voxels; bar: half of them; dot: the median." + beside,
        "volumes_svg": drawn.get("volumes", ""),
        "shares_svg": drawn.get("organs", ""),
    }


def _organ_number(cohort: Cohort, everything: StatisticsGroup) -> dict[str, str]:
    annotated, named = _annotated(everything), len(cohort.organs)
    more = f"annotated, of {named} listed in organs.csv" if annotated != named else ""
    return {"name": "organs", "value": str(annotated), "more": more}


def _annotated(group: StatisticsGroup) -> int:
    """The number of organs that a labelled case of the group annotates."""
    return len({organ for found in group.labelled for organ in found.case.annotated})


def overview_table(cohort: Cohort, groups: Sequence[StatisticsGroup], paper: Mapping[str, PaperRow]) -> SortableTable:
    """Table 1: organs, scans, slices and labelled voxels per scan, of the cohort and its modalities."""
    columns = [Column("cohort", False), Column("organs"), Column("scans"), Column("labelled"), Column("slices")]
    columns += [Column("labelled voxels per scan", what="the mean over labelled scans")]
    rows = [
        [
            text(group.name),
            count(_annotated(group)),
            count(len(group.cases)),
            count(len(group.labelled)),
            count(sum(group.slices)),
            _count_or_dash(group.organ_voxels_per_scan),
        ]
        for group in _of(groups, "cohort", "modality")
    ]
    if paper:
        scans = count(PAPER_SCANS)
        rows.append([text("Table 1, AMOS"), count(15), scans, scans, count(PAPER_SLICES), count(PAPER_VOXELS_PER_SCAN)])
    return table("overview", f"As Table 1 of {_PAPER}" if paper else "Cases and organs", columns, rows, "groups.csv")


def splits_table(cohort: Cohort, paper: Mapping[str, PaperRow]) -> SortableTable:
    """Table 2: each scanner's cases by split, and the paper's."""
    columns = [Column("scanner", False), Column("modality", False), *map(Column, (*SPLITS, "total"))]
    columns += [Column(f"Table 2: {split}") for split in SPLITS] if paper else []
    rows = []
    for site in cohort.sites:
        own = cohort.of(site=site)
        counts = [sum(case.split == split for case in own) for split in SPLITS]
        published = list(SCANNERS[site].table2) if paper else []
        modality = text(" ".join(sorted({case.modality for case in own})))
        rows.append([text(site), modality, *map(count, (*counts, sum(counts), *published))])
    return table("splits", f"As Table 2 of {_PAPER}" if paper else "Cases by scanner and split", columns, rows)


def spatial_table(groups: Sequence[StatisticsGroup], paper: Mapping[str, PaperRow]) -> SortableTable:
    """Tables 8 and 9, right half: slice spacing and slices as min, max and median."""
    ends = ("min", "max", "median")
    columns = [Column("group", False), Column("cases"), *(Column(f"mm {end}") for end in ends)]
    columns += [Column(f"slices {end}") for end in ends]
    columns += [Column("paper: mm", False), Column("paper: slices", False)] if paper else []
    rows = []
    for group in _of(groups, "cohort", "modality", "scanner"):
        spacing, slices = group.slice_spacing_mm, group.slices
        row = [text(group.name), count(len(group.cases))]
        row += [number(value, 2) for value in (spacing[0], spacing[-1], median(spacing))]
        row += [number(value, 1 if value % 1 else 0) for value in (slices[0], slices[-1], median(slices))]
        if paper:
            known = paper[group.name]
            row += [text(" / ".join(f"{v:g}" for v in three)) for three in (known.spacing_mm, known.slices)]
        rows.append(row)
    caption = f"As Tables 8 and 9 of {_PAPER}" if paper else "Distance of slices in mm, and their number"
    return table("spatial", caption, columns, rows, "groups.csv")


def intensity_table(groups: Sequence[StatisticsGroup], paper: Mapping[str, PaperRow]) -> SortableTable:
    """Tables 8 and 9, left half: median, mean, 0.5 % and 99.5 % of the organs' voxels."""
    heads = ("median", "mean", "0.5 %", "99.5 %")
    columns = [Column("group", False), *map(Column, heads)]
    columns += [Column(f"paper: {head}") for head in heads] if paper else []
    rows = []
    for group in _of(groups, "modality", "scanner"):
        found = group.intensities()
        if not found.total:
            continue
        values = (found.quantile(0.5), found.mean(), found.quantile(0.005), found.quantile(0.995))
        row = [text(group.name), *(_intensity(value) for value in values)]
        if paper:
            known = paper[group.name].intensity or (math.nan,) * 4
            row += [_intensity(value) for value in known]
        rows.append(row)
    units = {"CT": "HU (CT)", "MR": "the scanner's own unit (MR)"}
    used = " or ".join(units[group.name] for group in _of(groups, "modality") if group.labelled)
    caption = f"As Tables 8 and 9 of {_PAPER}: organs in {used}" if paper else f"Intensities of the organs in {used}"
    return table("intensities-table", caption, columns, rows, "groups.csv")


def _volumes_table(cohort: Cohort, groups: Sequence[StatisticsGroup]) -> SortableTable:
    modalities = _of(groups, "modality")
    columns = [Column("organ", False)]
    for group in modalities:
        columns += [Column(f"{group.name}: cases"), *map(Column, ("min", "median", "mean", "max"))]
    rows = []
    annotated = {organ for group in modalities for found in group.labelled for organ in found.case.annotated}
    for organ, name in cohort.organs.items():
        if organ not in annotated:
            continue
        row = [text(name)]
        for group in modalities:
            values = group.volumes_ml(organ) or [math.nan]
            known = [value for value in values if not math.isnan(value)]
            mean = math.fsum(known) / len(known) if known else math.nan
            row += [count(len(known)), *(number(v, 1) for v in (values[0], median(values), mean, values[-1]))]
        rows.append(row)
    return table("volumes-table", "Organ volumes in ml, in the cases that have the organ", columns, rows, "volumes.csv")


def _count_or_dash(value: float) -> Cell:
    return Cell(MISSING) if math.isnan(value) else count(round(value))


def _intensity(value: float) -> Cell:
    return number(value, 0) if abs(value) >= 1000 else number(value, 1)


# --- files ----------------------------------------------------------------------------------------


def _case_rows(cohort: Cohort, cases: Sequence[CaseStatistics]) -> list[dict[str, object]]:
    rows = []
    for found in cases:
        case, values = found.case, found.intensities
        row: dict[str, object] = {"case": case.case, "site": case.site, "modality": case.modality, "split": case.split}
        row |= {f"voxels_{axis}": n for axis, n in zip("xyz", found.shape, strict=True)}
        row |= {f"spacing_{axis}_mm": round(mm, 4) for axis, mm in zip("xyz", found.spacing_mm, strict=True)}
        row |= _intensity_columns(values)
        row |= {f"{organ}_ml": _short(found.volumes_ml.get(label)) for label, organ in cohort.organs.items()}
        rows.append(row)
    return rows


def _group_row(group: StatisticsGroup) -> dict[str, object]:
    spacing, slices, plane = group.slice_spacing_mm, group.slices, group.in_plane_mm
    return {
        "kind": group.kind,
        "group": group.name,
        "modality": group.modality,
        "cases": len(group.cases),
        "labelled": len(group.labelled),
        "slices": sum(slices),
        "labelled_voxels_per_scan": _short(group.organ_voxels_per_scan),
        "slice_spacing_min_mm": spacing[0],
        "slice_spacing_max_mm": spacing[-1],
        "slice_spacing_median_mm": median(spacing),
        "slices_min": slices[0],
        "slices_max": slices[-1],
        "slices_median": median(slices),
        "in_plane_median_mm": median(plane),
        **_intensity_columns(group.intensities()),
    }


def _intensity_columns(found: Any) -> dict[str, object]:
    return {
        "intensity_median": _short(found.quantile(0.5)),
        "intensity_mean": _short(found.mean()),
        "intensity_sd": _short(found.sd()),
        "intensity_p0.5": _short(found.quantile(0.005)),
        "intensity_p99.5": _short(found.quantile(0.995)),
    }


def _volume_rows(cohort: Cohort, groups: Sequence[StatisticsGroup]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for group in groups:
        for label, organ in cohort.organs.items():
            values = group.volumes_ml(label)
            annotated = [c for c in group.labelled if label in c.case.annotated]
            if not annotated:
                continue
            rows.append(
                {
                    "kind": group.kind,
                    "group": group.name,
                    "organ": organ,
                    "annotated_cases": len(annotated),
                    "cases_with_it": len(values),
                    "voxels": sum(c.voxels.get(label, 0) for c in annotated),
                    "min_ml": _short(values[0] if values else None),
                    "median_ml": _short(median(values)),
                    "mean_ml": _short(math.fsum(values) / len(values) if values else None),
                    "max_ml": _short(values[-1] if values else None),
                }
            )
    return rows


def _short(value: float | None) -> object:
    return "" if value is None or math.isnan(value) else float(f"{value:.6g}")
