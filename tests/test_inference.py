"""From patches back to the scan: equal to the plain computation, in memory that stays small."""

import json
import multiprocessing
import resource
from pathlib import Path
from typing import get_type_hints

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import REAL, needs_real
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from amos_fl.cohort.table import Case, read_cohort
from amos_fl.errors import AmosError, SiteTimeout
from amos_fl.inference.evaluate import evaluate_cases
from amos_fl.inference.predict import predict_case, write_prediction
from amos_fl.inference.windows import finished_planes, window_starts
from amos_fl.prepared.prepare import prepare_case
from amos_fl.prepared.store import PreparedCase, open_prepared, write_prepared
from amos_fl.runs.inference_settings import InferenceKeywords, InferenceSettings, RecordedInference
from amos_fl.volumes.nifti import Volume as Grid
from amos_fl.volumes.nifti import read_geometry, to_canonical
from amos_fl.volumes.plan import Plan

ORGANS = (1, 4, 9)


def plan_of(spacing_mm=(1.0, 1.0, 1.0), patch=(8, 8, 8)) -> Plan:
    return Plan(spacing_mm=spacing_mm, patch=patch, strides=((1, 1, 1),), kernels=((3, 3, 3),))


def convolution(classes: int = 1 + len(ORGANS)) -> nn.Module:
    """A network whose answer depends on where in the window a voxel lies, as a real one's does."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, classes, 3, padding=1)]
    layers[2].weight.data *= 4
    return nn.Sequential(*layers)


class Oracle(nn.Module):
    """Reads the label off the intensities of `encoded` scans: 0, 1, 4, 9 are -100, -50, 0, 50 HU."""

    def forward(self, x: Tensor) -> Tensor:
        hu = x * 141 + 50
        levels = torch.tensor([-100.0, -50.0, 0.0, 50.0]).view(1, 4, 1, 1, 1)
        return -((hu - levels) ** 2)


def encoded_case(folder: Path, shape: tuple[int, int, int], affine: np.ndarray, annotated=ORGANS) -> Case:
    """A CT case whose labels are blocks and whose HU encode them; made of tissue throughout."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 4, tuple(-(-n // 3) for n in shape))
    classes = np.kron(coarse, np.ones((3, 3, 3), int))[tuple(slice(n) for n in shape)]
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image((classes * 50 - 100).astype(np.int16), affine), folder / "image.nii.gz")
    nib.save(nib.Nifti1Image(np.array([0, *ORGANS], np.uint8)[classes], affine), folder / "label.nii.gz")
    return Case("one", "A", "CT", "test", folder / "image.nii.gz", folder / "label.nii.gz", annotated)


def affine_of(codes: str, spacing_mm, tilt_degrees: float = 0.0) -> np.ndarray:
    turn = np.radians(tilt_degrees)
    tilt = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    affine = np.eye(4)
    affine[:3, :3] = (
        tilt
        @ nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(codes), (1, 1, 1))[:3, :3]
        @ np.diag(spacing_mm)
    )
    return affine


def stored(folder: Path, image: np.ndarray, original=None, crop=None, orientation=None) -> PreparedCase:
    """A prepared case made by hand, its scan's grid being `original` (by default the same)."""
    original = original or image.shape
    geometry = {
        "shape": original,
        "spacing_mm": (1, 1, 1),
        "crop": crop or [(0, n) for n in original],
        "orientation": orientation or ((0, 1), (1, 1), (2, 1)),
    }
    meta = {"case": "one", "site": "A", "modality": "CT", "annotated": list(ORGANS), "has_label": False}
    meta |= {"padding": -2.0, "geometry": geometry}
    write_prepared(folder, image=image, label=None, foreground={}, patch=(8, 8, 8), meta=meta)
    return open_prepared(folder)


def all_at_once(network: nn.Module, prepared: PreparedCase, plan: Plan, overlap: float = 0.5) -> Tensor:
    """The class probabilities of the whole volume (class, x, y, z), by MONAI."""
    with torch.inference_mode():
        return sliding_window_inference(
            torch.from_numpy(prepared.image())[None, None],
            plan.patch,
            1,
            lambda x: torch.softmax(network(x), dim=1),
            overlap=overlap,
            mode="gaussian",
            sigma_scale=0.125,
            cval=prepared.padding,
        )[0]


sides = st.integers(1, 19)


def test_windows_of_air_need_the_network_once_a_slab_and_count_as_all_others(tmp_path):
    image = np.full((40, 24, 12), -1.5, np.float32)
    image[:8, :6, :4] = np.random.default_rng(0).normal(size=(8, 6, 4))
    prepared, plan, called = stored(tmp_path / "one", image), plan_of(patch=(8, 6, 4)), []

    def counted(windows):
        called.append(len(windows))
        return network(windows)

    network = convolution()
    inference = InferenceSettings(overlap=0.0, batch_size=3)
    cpu = torch.device("cpu")
    planes = finished_planes(counted, prepared, plan.patch, 4, axis=0, device=cpu, inference=inference, check=None)
    torch.testing.assert_close(torch.stack(list(planes), dim=1), all_at_once(network, prepared, plan, 0.0))
    assert called == [2, 1, 1, 1, 1]  # of 12 windows a slab: the one with noise and one of air; then one of air


@settings(max_examples=25)
@given(st.tuples(sides, sides, sides), st.sampled_from([0.0, 0.25, 0.5, 0.7]), st.integers(1, 3), st.integers(0, 2))
def test_planes_along_any_axis_equal_monais_whole_volume(tmp_path_factory, shape, overlap, batch_size, axis):
    image = np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)
    prepared = stored(tmp_path_factory.mktemp("store") / "one", image)
    plan, network = plan_of(patch=(8, 6, 4)), convolution()
    planes = finished_planes(
        network,
        prepared,
        plan.patch,
        4,
        axis=axis,
        device=torch.device("cpu"),
        inference=InferenceSettings(overlap=overlap, batch_size=batch_size),
        check=None,
    )
    ours = torch.stack(list(planes), dim=axis + 1)
    torch.testing.assert_close(ours, all_at_once(network, prepared, plan, overlap), atol=2e-5, rtol=0)


@settings(max_examples=25)
@given(st.tuples(sides, sides, sides), st.tuples(sides, sides, sides))
def test_the_label_map_is_the_argmax_of_all_probabilities_on_the_scans_grid(tmp_path_factory, shape, cropped):
    image = np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)
    crop = [(1, 1 + n) for n in cropped]
    original = tuple(n + 3 for n in cropped)
    folder = tmp_path_factory.mktemp("store") / "one"
    prepared = stored(folder, image, original, crop, orientation=((1, -1), (0, 1), (2, -1)))
    plan, network = plan_of(), convolution()
    result = predict_case(network, prepared, plan, organs=ORGANS)

    shares = all_at_once(network, prepared, plan)
    shares = torch.nn.functional.interpolate(shares[None], size=cropped, mode="trilinear", align_corners=False)[0]
    top = shares.topk(2, dim=0).values
    expected = np.zeros(original, np.uint8)
    tied = np.zeros(original, bool)
    inside = tuple(slice(low, high) for low, high in crop)
    expected[inside] = np.array([0, *ORGANS], np.uint8)[shares.argmax(0).numpy()]
    tied[inside] = (top[0] - top[1]).numpy() < 1e-4
    # The file's first axis is -A, the second R, the third -S.
    expected, tied = (array.transpose(1, 0, 2)[::-1, :, ::-1] for array in (expected, tied))
    assert result.dtype == np.uint8
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result[~tied], expected[~tied])


@pytest.mark.parametrize(("axis", "expected"), [(0, [0, 4, 8, 12]), (1, [0, 4, 8]), (2, [0, 5, 10, 15, 20])])
def test_windows_cover_every_voxel_and_overlap_by_half(axis, expected):
    starts = window_starts((20, 16, 30), (8, 8, 10), 0.5, axis)
    covered = np.zeros((20, 16, 30), int)
    for start, corners in starts.items():
        assert {corner[axis] for corner in corners} == {start}
        for x, y, z in corners:
            covered[x : x + 8, y : y + 8, z : z + 10] += 1
    assert covered.min() >= 1
    assert list(starts) == expected


@pytest.mark.parametrize(
    ("codes", "tilt"), [("RAS", 0), ("LAS", 0), ("LPS", 0), ("PIR", 0), ("SLA", 0), ("LPS", 14), ("AIL", 20)]
)
@pytest.mark.parametrize("same_spacing", [True, False])
def test_a_perfect_network_gives_back_the_label_in_any_orientation(tmp_path, codes, tilt, same_spacing):
    spacing_mm = (1.3, 1.3, 1.3)
    case = encoded_case(tmp_path, (31, 22, 17), affine_of(codes, spacing_mm, tilt))
    plan = plan_of(spacing_mm if same_spacing else (0.9, 1.0, 1.1))
    prepared = prepare_case(case, plan, tmp_path / "store", ORGANS)
    result = predict_case(Oracle(), prepared, plan, organs=ORGANS)
    label = np.asarray(nib.load(case.label).dataobj)
    assert result.shape == label.shape
    if same_spacing:
        np.testing.assert_array_equal(result, label)
    else:  # interpolation blurs the blocks' faces, nothing more: any flip or shift would leave about a quarter
        assert (result == label).mean() > 0.7


def test_a_prediction_overlays_its_scan_in_world_space(tmp_path):
    case = encoded_case(tmp_path, (12, 10, 8), affine_of("PIR", (1.0, 2.0, 3.0), 10))
    plan = plan_of(tuple(to_canonical(Grid(np.zeros((12, 10, 8)), affine_of("PIR", (1.0, 2.0, 3.0)))).spacing_mm))
    prepared = prepare_case(case, plan, tmp_path / "store", ORGANS)
    write_prediction(predict_case(Oracle(), prepared, plan, organs=ORGANS), case.image, tmp_path / "out.nii.gz")
    out, label = nib.load(tmp_path / "out.nii.gz"), nib.load(case.label)
    np.testing.assert_array_equal(out.affine, nib.load(case.image).affine)
    np.testing.assert_array_equal(np.asarray(out.dataobj), np.asarray(label.dataobj))
    assert read_geometry(tmp_path / "out.nii.gz")[0] == (12, 10, 8)


def test_mirroring_averages_all_eight_reflections(tmp_path):
    prepared = stored(tmp_path / "one", np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32))
    network, x = convolution(), torch.from_numpy(prepared.image())[None, None]
    total = torch.zeros(1, 4, 8, 8, 8)
    for i in (0, 1):
        for j in (0, 1):
            for k in (0, 1):
                axes = [axis for axis, on in zip((2, 3, 4), (i, j, k), strict=True) if on]
                total += torch.softmax(network(x.flip(axes)), dim=1).flip(axes) / 8
    expected = np.array([0, *ORGANS], np.uint8)[total[0].argmax(0).numpy()]
    result = predict_case(network, prepared, plan_of(), organs=ORGANS, inference=InferenceSettings(mirror=True))
    top = total[0].topk(2, dim=0).values
    decided = (top[0] - top[1]).detach().numpy() > 1e-4
    np.testing.assert_array_equal(result[decided], expected[decided])
    assert (result != predict_case(network, prepared, plan_of(), organs=ORGANS)).any()


def test_windows_in_one_batch_give_what_they_give_alone(tmp_path):
    prepared = stored(tmp_path / "one", np.random.default_rng(0).normal(size=(20, 18, 12)).astype(np.float32))
    alone, together = (
        predict_case(convolution(), prepared, plan_of(), organs=ORGANS, inference=InferenceSettings(batch_size=size))
        for size in (1, 5)
    )
    np.testing.assert_array_equal(together, alone)


def test_the_network_is_asked_in_eval_mode_and_left_as_it_was(tmp_path):
    prepared = stored(tmp_path / "one", np.zeros((9, 9, 9), np.float32))
    network = nn.Sequential(convolution(), nn.Dropout(0.5))
    first, second = (predict_case(network.train(), prepared, plan_of(), organs=ORGANS) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert network.training


def test_a_check_that_raises_stops_between_windows(tmp_path):
    prepared = stored(tmp_path / "one", np.zeros((16, 16, 16), np.float32))
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise SiteTimeout("site A used its time")

    with pytest.raises(SiteTimeout):
        predict_case(
            convolution(), prepared, plan_of(), organs=ORGANS, inference=InferenceSettings(batch_size=1), check=check
        )
    assert len(calls) == 3


@pytest.mark.parametrize(("setting", "value"), [("overlap", 1.0), ("overlap", -0.1), ("batch_size", 0)])
def test_a_setting_outside_its_range_is_refused(setting, value):
    with pytest.raises(AmosError, match=rf"{setting} is {value}: must be"):
        RecordedInference().changed({setting: value})


def test_what_is_no_setting_of_inference_is_refused():
    with pytest.raises(AmosError, match="tolerance_mm: no setting of inference"):
        RecordedInference().changed({"tolerance_mm": 2.0})


def test_the_keywords_of_inference_are_its_settings():
    fields = RecordedInference.model_fields
    hints = get_type_hints(InferenceKeywords)
    assert {name: field.annotation | None for name, field in fields.items()} == hints
    assert fields.keys() == InferenceSettings.model_fields.keys() | {"threads"}


SLICES, CLASSES = 1000, 32


def _growth_mib(folder: Path, answer) -> None:
    torch.set_num_threads(1)
    plan, network = plan_of(patch=(32, 32, 16)), nn.Conv3d(1, CLASSES, 1)
    organs = tuple(range(1, CLASSES))
    peaks = []
    for slices in (64, SLICES):
        prepared = stored(folder / str(slices), np.zeros((32, 32, slices), np.float32))
        predict_case(network, prepared, plan, organs=organs)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    answer.put(peaks[1] - peaks[0])


def test_memory_does_not_grow_with_the_number_of_slices(tmp_path):
    context = multiprocessing.get_context("spawn")  # a process of its own: the peak of this one is history
    answer = context.Queue()
    process = context.Process(target=_growth_mib, args=(tmp_path, answer))
    process.start()
    all_probabilities_mib = CLASSES * 32 * 32 * SLICES * 4 / 2**20
    assert answer.get(timeout=120) < all_probabilities_mib / 8
    process.join()


def test_a_perfect_prediction_scores_one_for_the_annotated_organs_only(tmp_path):
    case = encoded_case(tmp_path, (31, 22, 17), affine_of("LPS", (1.3, 1.3, 2.0), 9), annotated=(1, 9))
    plan = plan_of((1.3, 1.3, 2.0))
    prepared = prepare_case(case, plan, tmp_path / "store", ORGANS)
    told = []
    (result,) = evaluate_cases(
        Oracle(),
        [(case, prepared)],
        plan,
        organs=ORGANS,
        on_case=lambda *args: told.append(args),
        save_to=tmp_path / "out",
    )
    assert (result.case, result.site, result.modality) == ("one", "A", "CT")
    assert set(result.scores) == {1, 9}
    assert all(score.dsc == score.nsd == 1 and score.outcome == "scored" for score in result.scores.values())
    assert told == [(1, 1)]
    saved = np.asarray(nib.load(tmp_path / "out/one.nii.gz").dataobj)
    np.testing.assert_array_equal(saved, np.asarray(nib.load(case.label).dataobj))


@needs_real
@pytest.mark.parametrize(("name", "least"), [("chaos_mr_13", 0.9), ("ts_ct_3mm", 0.8)])
def test_a_real_label_survives_the_way_to_the_networks_grid_and_back(tmp_path, name, least):
    """The prepared label, one-hot, in place of a prediction: what the grid alone costs."""
    cohort = read_cohort(REAL)
    case = next(c for c in cohort.cases if c.case == name)
    plan = plan_of((2.5, 2.5, 4.0), (32, 32, 32))
    prepared = prepare_case(case, plan, tmp_path / "store", cohort.organs)
    meta = json.loads((prepared.folder / "meta.json").read_text())
    write_prepared(
        tmp_path / "same",
        image=prepared.label().astype(np.float32),
        label=None,
        foreground={},
        patch=plan.patch,
        meta=meta | {"has_label": False},
    )

    class LabelAsImage(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            levels = torch.arange(16.0).view(1, 16, 1, 1, 1)
            return -20 * (x - levels) ** 2

    (result,) = evaluate_cases(
        LabelAsImage(), [(case, open_prepared(tmp_path / "same"))], plan, organs=tuple(cohort.organs)
    )
    large = [result.scores[organ].dsc for organ in (1, 2, 3, 6)]
    assert min(large) > least
