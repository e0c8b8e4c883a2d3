"""The planes that a site keeps of a case, and their outlines."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path as Polygon

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.inference.evaluate import reference_of
from amos_fl.pictures.planes import (
    best_planes,
    grey_levels,
    keep_picture,
    load_planes,
    planes_of,
    save_planes,
    window_of,
)
from amos_fl.report.slices import outline_path, plane_svg
from amos_fl.volumes.nifti import Volume


def a_case(affine: np.ndarray | None = None) -> tuple[Volume, np.ndarray, np.ndarray]:
    """A scan (40, 30, 20) of 2 x 2 x 4 mm with one organ at high x, y and z, and a prediction that misses some."""
    image, label = np.zeros((40, 30, 20), np.float32), np.zeros((40, 30, 20), np.uint8)
    label[28:36, 20:26, 12:17] = 6
    prediction = label.copy()
    prediction[28:30] = 0
    image[label == 6] = 100
    return Volume(image, np.diag([2.0, 2.0, 4.0, 1.0]) if affine is None else affine), label, prediction


def test_planes_go_through_the_organs_and_to_where_the_maps_differ() -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    label[5:15, 5:15, 5:15] = 1
    prediction = label.copy()
    assert all(5 <= plane < 15 for plane in best_planes(label, prediction))
    prediction[5:15, 5:15, 12] = 2
    assert best_planes(label, prediction)[2] == 12


def test_a_case_without_any_organ_is_shown_in_its_middle() -> None:
    empty = np.zeros((9, 9, 9), np.uint8)
    assert best_planes(empty, empty) == (4, 4, 4)


def test_right_is_left_front_is_left_and_the_head_is_up_whatever_the_files_orientation() -> None:
    image, label, prediction = a_case()
    turned = Volume(image.array[::-1, ::-1], np.diag([-2.0, -2.0, 4.0, 1.0]))
    for scan, a, b in ((image, label, prediction), (turned, label[::-1, ::-1], prediction[::-1, ::-1])):
        for plane in planes_of(scan, a, b, "CT"):
            rows, columns = np.nonzero(plane.label)
            height, width = plane.label.shape
            assert columns.mean() < width / 2, plane.view  # high x is right, high y is front
            assert rows.mean() < height / 2, plane.view  # high z is up, and in axial planes high y


def test_pixels_are_square() -> None:
    image, label, prediction = a_case()
    axial, coronal, _ = planes_of(image, label, prediction, "CT")
    assert axial.pixel_mm == pytest.approx(2.0)
    organ = [np.nonzero((coronal.label > 0).any(axis=axis))[0] for axis in (0, 1)]
    across_mm, up_mm = ((side[-1] - side[0] + 1) * coronal.pixel_mm for side in organ)
    assert (across_mm, up_mm) == pytest.approx((16, 20), abs=2)


def test_the_picture_shows_the_plane_that_it_names() -> None:
    image, label, prediction = a_case()
    axial = planes_of(image, label, prediction, "CT")[0]
    assert 12 <= axial.position < 17
    assert axial.of == 20
    assert set(np.unique(axial.label)) == {0, 6}
    assert int((axial.label > 0).sum()) == 8 * 6
    assert int((axial.prediction > 0).sum()) == 6 * 6


def test_ct_is_shown_in_an_abdominal_window_and_mr_by_its_own_levels() -> None:
    hu = np.array([-1000.0, -135.0, 40.0, 215.0, 900.0])
    assert grey_levels(hu, window_of(hu, "CT")).tolist() == [0, 0, 127, 255, 255]
    signal = np.linspace(0, 9, 1000, dtype=np.float32)
    faint = grey_levels(signal, window_of(signal, "MR"))
    assert faint.min() == 0
    assert faint.max() == 255


def test_planes_read_back_as_they_were(tmp_path: Path) -> None:
    planes = planes_of(*a_case(), "CT")
    save_planes(tmp_path / "case.npz", planes)
    again = load_planes(tmp_path / "case.npz")
    for before, after in zip(planes, again, strict=True):
        assert (before.view, before.pixel_mm, before.position, before.of) == (
            after.view,
            after.pixel_mm,
            after.position,
            after.of,
        )
        for part in ("grey", "label", "prediction"):
            assert np.array_equal(getattr(before, part), getattr(after, part))


def test_organs_that_nobody_annotated_are_not_drawn(tiny_cohort: Cohort, tmp_path: Path) -> None:
    case = replace(tiny_cohort.of(split="test")[0], annotated=(1,))
    reference = reference_of(case, (1, 2))
    reference = replace(reference, array=np.where(reference.array == 1, reference.array, 0))
    prediction = np.full(reference.shape, 2, np.uint8)
    prediction[reference.array == 1] = 1
    keep_picture(tmp_path, case, prediction, reference)
    for plane in load_planes(tmp_path / f"{case.case}.npz"):
        assert np.array_equal(plane.prediction, plane.label)
        assert set(np.unique(plane.label)) == {0, 1}


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_a_file_without_planes_is_refused_in_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "case.npz"
    if content is None:
        np.savez(file, other=np.zeros(3))
    else:
        file.write_bytes(content)
    with pytest.raises(AmosError, match="holds no planes"):
        load_planes(file)


def polygons(path: str) -> list[np.ndarray]:
    """The corners of an SVG path's rings, in pixels."""
    rings = []
    for ring in path.split("z")[:-1]:
        steps = [[int(number) for number in pair.split()] for pair in re.split("[Ml]", ring)[1:]]
        rings.append(np.cumsum(steps, axis=0) / 2)
    return rings


@given(arrays(bool, (6, 7)))
def test_the_inside_of_an_outline_is_the_mask(mask: np.ndarray) -> None:
    rings = polygons(outline_path(mask))
    for row, column in np.ndindex(mask.shape):
        inside = sum(Polygon(ring).contains_point((column + 0.5, row + 0.5)) for ring in rings) % 2
        assert inside == mask[row, column]


def test_a_plane_names_each_line_by_organ_and_kind_and_escapes_what_it_is_told() -> None:
    plane = planes_of(*a_case(), "CT")[0]
    svg = plane_svg(plane, {6: "liver & <co>"}, "p", "<i>case</i>")
    assert "<title>liver &amp; &lt;co&gt;: label</title>" in svg
    assert "<title>liver &amp; &lt;co&gt;: prediction</title>" in svg
    assert "<i>" not in svg
    assert svg.count('class="label"') == svg.count('class="prediction"') == 1
