"""`amos-fl data stats`: a cohort's numbers are those of its voxels, and the paper's stand beside AMOS's own only."""

import csv
import itertools
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
from conftest import ORGANS
from matplotlib.backends.backend_agg import FigureCanvasAgg

from amos_fl.cli.main import run
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.scanners import published_cases
from amos_fl.cohort.statistics import CaseStatistics, groups_of, statistics_of
from amos_fl.cohort.table import Case, Cohort
from amos_fl.comparison.paper_statistics import PAPER, paper_beside


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> Path:
    out = tmp_path_factory.mktemp("stats") / "out"
    assert run(["data", "stats", str(tiny_root), "-o", str(out), "--workers", "1"]) == 0
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def voxels_of(case: Case) -> tuple[np.ndarray, np.ndarray]:
    assert case.label is not None
    return tuple(np.asarray(nib.load(path).dataobj) for path in (case.image, case.label))  # pyright: ignore


def test_volumes_slices_and_intensities_are_those_of_the_voxels(written: Path, tiny_cohort: Cohort) -> None:
    case = tiny_cohort.cases[0]
    image, label = voxels_of(case)
    row = next(row for row in rows(written / "cases.csv") if row["case"] == case.case)
    assert (row["voxels_z"], row["spacing_z_mm"]) == ("20", "8.0")
    for value, organ in ORGANS.items():
        assert float(row[f"{organ}_ml"]) == pytest.approx((label == value).sum() * 8**3 / 1000, rel=1e-5)
    assert float(row["intensity_mean"]) == pytest.approx(image[label > 0].mean(), rel=1e-5)
    assert float(row["intensity_sd"]) == pytest.approx(image[label > 0].std(), rel=1e-4)


def test_a_group_s_quantiles_are_those_of_all_its_cases_voxels(written: Path, tiny_cohort: Cohort) -> None:
    of_a = [voxels_of(case) for case in tiny_cohort.cases if case.site == "A"]
    values = np.concatenate([image[label > 0] for image, label in of_a])
    row = next(row for row in rows(written / "groups.csv") if (row["kind"], row["group"]) == ("scanner", "A"))
    for column, share in (("intensity_median", 50), ("intensity_p0.5", 0.5), ("intensity_p99.5", 99.5)):
        assert float(row[column]) == np.percentile(values, share, method="inverted_cdf")
    assert (row["cases"], row["slices"]) == (str(len(of_a)), str(20 * len(of_a)))
    kinds = {row["kind"] for row in rows(written / "groups.csv")}
    assert kinds == {"cohort", "modality", "scanner", "split", "scanner and split"}


def test_ct_and_mr_together_have_no_common_intensity(tiny_cohort: Cohort) -> None:
    groups = groups_of(statistics_of(tiny_cohort)[0])
    assert groups[0].modality == "CT+MR"
    assert groups[0].intensities().total == 0
    assert math.isnan(groups[0].intensities().quantile(0.5))
    assert next(g for g in groups if g.name == "MR").intensities().total > 0


def test_an_organ_that_was_not_looked_for_is_not_counted(tiny_cohort: Cohort) -> None:
    partial = replace(tiny_cohort, cases=(replace(tiny_cohort.cases[0], annotated=(1,)),))
    (found,), _ = statistics_of(partial)
    assert set(found.voxels) == {1}
    assert found.intensities.total == found.voxels[1]


def test_a_case_without_labels_counts_with_its_slices_alone(tiny_cohort: Cohort) -> None:
    unlabelled = replace(tiny_cohort, cases=(replace(tiny_cohort.cases[0], label=None),))
    (found,), _ = statistics_of(unlabelled)
    assert found.slices == 20
    assert found.voxels == {}
    assert groups_of([found])[0].labelled == ()


def test_figures_stand_alone_as_svg_and_the_page_needs_no_network(written: Path) -> None:
    for name in ("slices", "intensities", "volumes", "organs"):
        text = (written / f"{name}.svg").read_text()
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(--" not in text
        assert "mathdefault" not in text
    page = (written / "stats.html").read_text()
    assert "src=" not in page
    assert page.count("<svg") == 4


def test_the_papers_numbers_stand_beside_amos_alone(tmp_path: Path, tiny_cohort: Cohort) -> None:
    from amos_fl.report.cohort_page import write_cohort_page

    cases = tuple(
        Case(
            f"amos_{number:04d}",
            published_cases()[number].record.domain,
            "CT",
            "test",
            tmp_path / "release/images/a.nii",
            None,
            (1,),
        )
        for number in (2, 201)
    )
    genuine = Cohort(cases, dict(AMOS_ORGANS))
    grid = statistics_of(replace(tiny_cohort, cases=tiny_cohort.cases[:1]))[0][0]
    measured = [
        CaseStatistics(case, grid.shape, grid.spacing_mm, grid.voxel_ml, {}, grid.intensities) for case in cases
    ]
    assert paper_beside(genuine) == PAPER
    page = write_cohort_page(genuine, measured, tmp_path / "amos").read_text()
    assert "Table 1, AMOS" in page
    assert "74\u202f026" in page
    assert paper_beside(tiny_cohort) == {}
    (tmp_path / "release").mkdir()
    (tmp_path / "release/dataset.json").write_text('{"description": "synthetic phantom in the layout of AMOS22"}')
    assert paper_beside(genuine) == {}
    page = write_cohort_page(genuine, measured, tmp_path / "phantom").read_text()
    assert "Table 1, AMOS" not in page
    assert "Synthetic scans." in page


@pytest.mark.parametrize(
    ("low", "high"), [(20, 25_000), (3, 2000), (100, 1100), (40, 3000), (1, 2e6), (200, 900), (0.01, 40), (1.2, 2)]
)
@pytest.mark.parametrize("side", ["x", "y"])
def test_numbers_below_a_logarithmic_axis_never_overprint(low: float, high: float, side: str) -> None:
    from amos_fl.report.cohort_figures import plain_log
    from amos_fl.report.figures import panels_of
    from amos_fl.report.svg import page_style

    with page_style():
        figure, (_, axes) = panels_of(2, 2.0)
        axes.set(xscale="log", yscale="log")
        plain_log(axes, side, [low, high])
        drawn = FigureCanvasAgg(figure)
        drawn.draw()
        labels = (axes.xaxis if side == "x" else axes.yaxis).get_ticklabels()
        boxes = [label.get_window_extent(drawn.get_renderer()) for label in labels]
    assert len(boxes) >= 2
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
