"""The pictures that a site keeps of a case, and what is drawn on them."""

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
from amos_fl.pictures.kept import CasePicture, keep_picture, load_picture, picture_of, save_picture
from amos_fl.pictures.planes import best_planes, grey_levels, planes_of, window_of
from amos_fl.report.palette import ORGAN_COLOURS
from amos_fl.report.slices import number_place, organ_lines, outline_path, slice_svg
from amos_fl.report.viewer import PageBudget, case_view
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


def same(a: CasePicture, b: CasePicture) -> bool:
    about = [(p.modality, p.pixel_mm, p.window, p.outside_ml, p.shows_the_same_as(a)) for p in (a, b)]
    drawn = [[(s.view, s.jpeg, s.prediction.tolist()) for s in p.stacks] for p in (a, b)]
    return about[0] == about[1] and drawn[0] == drawn[1]


def test_a_picture_reads_back_as_it_was(tmp_path: Path) -> None:
    picture = picture_of(*a_case(), "CT")
    save_picture(tmp_path / "case.npz", picture)
    assert same(load_picture(tmp_path / "case.npz"), picture)


def test_the_slices_kept_are_the_same_whatever_a_model_predicts() -> None:
    image, label, prediction = a_case()
    far = np.zeros_like(prediction)
    far[:3, :3, :3] = 7
    mine, other = picture_of(image, label, prediction, "CT"), picture_of(image, label, far, "CT")
    assert mine.shows_the_same_as(other)
    assert [stack.jpeg for stack in mine.stacks] == [stack.jpeg for stack in other.stacks]
    assert mine.outside_ml == 0
    assert other.outside_ml == pytest.approx(27 * 0.016)  # what lies outside is not drawn, and said


def test_every_slice_shows_the_place_of_the_scan_that_it_names() -> None:
    image, label, prediction = a_case()
    for stack in picture_of(image, label, prediction, "CT").stacks:
        axis = {"axial": 2, "coronal": 1, "sagittal": 0}[stack.view]
        assert stack.of == label.shape[axis]
        assert len(stack.positions) <= 20
        for at, position in enumerate(stack.positions):
            organ = np.take(label, position, axis) == 6
            assert (stack.label[at] == 6).any() == organ.any()
            assert (stack.grey[at].max() > 140) == organ.any()  # 171 and 98, as far as JPEG keeps them


def test_organs_that_nobody_annotated_are_not_drawn(tiny_cohort: Cohort, tmp_path: Path) -> None:
    case = replace(tiny_cohort.of(split="test")[0], annotated=(1,))
    reference = reference_of(case, (1, 2))
    reference = replace(reference, array=np.where(reference.array == 1, reference.array, 0))
    prediction = np.full(reference.shape, 2, np.uint8)
    prediction[reference.array == 1] = 1
    keep_picture(tmp_path, case, prediction, reference)
    for stack in load_picture(tmp_path / f"{case.case}.npz").stacks:
        assert np.array_equal(stack.prediction, stack.label)
        assert set(np.unique(stack.label)) == {0, 1}


@pytest.mark.parametrize("content", [b"", b"no zip", None, "half"])
def test_a_file_without_a_picture_is_refused_in_a_sentence(tmp_path: Path, content: bytes | str | None) -> None:
    file = tmp_path / "case.npz"
    if content is None:
        np.savez(file, other=np.zeros(3))
    elif content == "half":
        picture = picture_of(*a_case(), "CT")
        stacks = (replace(picture.stacks[0], jpeg=picture.stacks[2].jpeg), *picture.stacks[1:])
        save_picture(file, replace(picture, stacks=stacks))
    else:
        file.write_bytes(bytes(content))
    with pytest.raises(AmosError, match="holds no picture"):
        load_picture(file)


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


def test_a_slice_names_each_line_by_organ_and_kind_and_escapes_what_it_is_told() -> None:
    stack = picture_of(*a_case(), "CT").stacks[0]
    at = int((stack.label == 6).sum(axis=(1, 2)).argmax())
    svg = slice_svg(stack, at, organ_lines({6: "liver & <co>"}), "p", "<i>case</i>")
    assert "<title>liver &amp; &lt;co&gt;: label</title>" in svg
    assert "<title>liver &amp; &lt;co&gt;: prediction</title>" in svg
    assert "<i>" not in svg
    assert svg.count('class="label"') == svg.count('class="prediction"') == 1
    assert f"axial {stack.positions[at] + 1} of 20" in svg
    assert re.search(r'<text data-organ="6"[^>]*>6</text>', svg)


def test_no_two_of_fifteen_organs_are_drawn_alike() -> None:
    lines = organ_lines({value: f"organ {value}" for value in range(1, 17)})
    assert len({(line.colour, line.dash) for line in lines.values()}) == 16


# What people without one of the three kinds of cones see of linear red, green and blue (Machado et al., IEEE TVCG
# 15:1291, 2009, severity 1).
SEEN = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", SEEN)
def test_the_colours_of_organs_differ_for_colour_blind_readers_and_stand_out_on_black(kind: str) -> None:
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in ORGAN_COLOURS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    assert (linear @ [0.2126, 0.7152, 0.0722] > 3 * 0.05 - 0.05).all()  # a contrast of 3 to black (WCAG 2.2)
    seen = np.clip(linear @ np.array(SEEN[kind]).T, 0, 1)
    lms = seen @ [[0.4122, 0.2119, 0.0883], [0.5363, 0.6807, 0.2817], [0.0514, 0.1074, 0.6300]]  # to Oklab
    lab = np.cbrt(lms) @ [[0.2105, 1.9780, 0.0259], [0.7936, -2.4286, 0.7828], [-0.0041, 0.4506, -0.8087]]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + np.eye(len(lab))
    assert apart.min() > 0.04, apart.round(3)


def test_an_organs_number_stands_on_it_or_beside_it_if_it_is_small() -> None:
    large, small = np.zeros((2, 40, 40), bool)
    large[10:30, 10:30] = True
    large[12:28, 12:28] = False  # its middle is not part of it
    column, row = number_place(large, 4)
    assert large[row, column]
    small[10:13, 10:13] = True
    column, row = number_place(small, 4)
    assert not small[row, column]
    assert abs(column - 12) < 6


def test_a_page_has_slices_to_scroll_through_up_to_its_budget() -> None:
    picture = picture_of(*a_case(), "CT")
    whole = case_view("a", "case", {6: "liver"}, [("", picture)])
    assert whole["data"]
    budget = PageBudget(left=len(whole["data"]) + 1)
    assert case_view("b", "case", {6: "liver"}, [("", picture)], budget)["data"]
    view = case_view("c", "case", {6: "liver"}, [("", picture)], budget)
    assert not view["data"]
    assert len(view["rows"][0]["planes"]) == 3


def test_a_scale_and_sides_are_on_every_view() -> None:
    picture = picture_of(*a_case(), "CT")
    views = {view["view"]: view for view in case_view("a", "case", {}, [("", picture)])["views"]}
    assert [views[name]["sides"] for name in ("axial", "coronal", "sagittal")] == [("R", "L"), ("R", "L"), ("A", "P")]
    for stack in picture.stacks:
        view = views[stack.view]
        width_mm = stack.label.shape[2] * picture.pixel_mm
        assert float(view["scale_percent"]) == pytest.approx(100 * view["scale_mm"] / width_mm, abs=0.06)
        assert view["scale_mm"] <= width_mm / 2


def test_models_are_shown_at_one_slice_and_another_cases_picture_is_left_out() -> None:
    image, label, prediction = a_case()
    worse = np.zeros_like(label)
    pictures = [("one", picture_of(image, label, prediction, "CT")), ("two", picture_of(image, label, worse, "CT"))]
    other = picture_of(image, np.roll(label, -4, 0), prediction, "CT")
    view = case_view("a", "case", {6: "liver"}, [*pictures, ("three", other)])
    assert [row["what"] for row in view["rows"]] == ["one", "two"]
    told = [re.findall(r"(axial|coronal|sagittal) (\d+) of", "".join(row["planes"])) for row in view["rows"]]
    assert told[0] == told[1]
    assert len(told[0]) == 3
