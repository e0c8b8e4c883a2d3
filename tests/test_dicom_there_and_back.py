"""From an archive's export to a cohort, a run, predictions, and back to the archive as DICOM, voxel by voxel."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

pytest.importorskip("highdicom")

import pydicom
from conftest import SHAPE, write_case
from dicom_series import assert_same_in_space, write_enhanced, write_series
from federations import TINY, TINY_PLAN
from pacs import Contour, write_rtstruct, write_seg
from PIL import Image, ImageDraw

from amos_fl.cli.main import run
from amos_fl.cohort.table import read_cohort

AFFINE = np.diag([-8.0, -8.0, 8.0, 1.0])
ORGANS = "label,organ\n1,liver\n2,left kidney\n"
IDENTITY = {"PatientName": "DOE^JANE", "PatientBirthDate": "19510203", "StudyDate": "20240607"}


def squares(mask: np.ndarray) -> list[Contour]:
    """Every voxel of a mask as a contour of its own, along its edges."""
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    return [(int(z), corners + np.array([x, y])) for x, y, z in np.argwhere(mask)]


def write_patient(folder: Path, number: int) -> tuple[np.ndarray, np.ndarray]:
    """A CT series of a patient below `folder`, labelled by a structure set or by a segmentation; its voxels."""
    image, label = write_case(folder.parent / "made", f"c{number}", "CT")
    # Even and not too low, so that the slopes and intercepts of slices hold them exactly.
    array = 2 * np.rint(np.asarray(nib.Nifti1Image.from_filename(image).dataobj).clip(-980) / 2).astype(int)
    values = np.asarray(nib.Nifti1Image.from_filename(label).dataobj)
    named = {"PatientID": f"P{number}", "uids_of": f"patient {number}", **IDENTITY}
    slices = write_series(folder / f"P{number}/CT", array, AFFINE, seed=number, **named)
    masks = {"Liver": values == 1, "Kidney_L": values == 2}
    if number % 2:
        write_seg(folder / f"P{number}/SEG/1", slices, masks)
    else:
        contours = {name: squares(mask) for name, mask in masks.items()}
        write_rtstruct(folder / f"P{number}/RS/1", slices, AFFINE, contours)
    return array, values


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export, the cohort that was made of it, and a run on that."""
    folder = tmp_path_factory.mktemp("hospital")
    (folder / "organs.csv").write_text(ORGANS)
    truth = [write_patient(folder / "export", number) for number in range(6)]
    # Cases are named after UIDs and this key, and the draws of the training after the cases.
    (folder / "private").mkdir()
    (folder / "private/pseudonym.key").write_text("00" * 32 + "\n")
    organs = ["--organs", str(folder / "organs.csv"), "--site", "north", "--private", str(folder / "private")]
    assert run(["data", "dicom", str(folder / "export"), "--out", str(folder / "cohort"), *organs]) == 0
    np.savez(folder / "truth.npz", *[part for pair in truth for part in pair])
    settings = {
        **TINY,
        "plan": {**TINY_PLAN, "spacing_mm": [8, 8, 8]},
        "rounds": 1,
        "local_steps": 80,
        "training": {**TINY["training"], "learning_rate": 0.2, "class_balance": 0.5, "foreground_share": 0.67},
    }
    plain = yaml.safe_dump(_lists(settings))
    (folder / "run.yaml").write_text(plain)
    simulate = ["simulate", "--config", str(folder / "run.yaml"), "--cohort", str(folder / "cohort")]
    assert run([*simulate, "--out", str(folder / "run"), "--store", str(folder / "store")]) == 0
    return folder


def _lists(value: object) -> object:
    if isinstance(value, dict):
        return {key: _lists(part) for key, part in value.items()}
    return [_lists(part) for part in value] if isinstance(value, list | tuple) else value


def test_the_cohort_is_the_export_voxel_by_voxel_and_passes_its_check(
    hospital: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = read_cohort(hospital / "cohort")
    assert len(cohort.cases) == 6
    parts = list(np.load(hospital / "truth.npz").values())
    truth = [(parts[i], parts[i + 1]) for i in range(0, len(parts), 2)]
    for case in cohort.cases:
        assert case.label is not None
        image, label = (nib.Nifti1Image.from_filename(path) for path in (case.image, case.label))
        array, values = next(pair for pair in truth if pair[0].sum() == np.asarray(image.dataobj).sum())
        assert_same_in_space(image, array, AFFINE)
        assert_same_in_space(label, values, AFFINE)
    assert run(["data", "check", str(hospital / "cohort"), "--workers", "1"]) == 0
    assert "0 errors" in capsys.readouterr().out


@pytest.fixture(scope="module")
def predicted(hospital: Path) -> Path:
    """Predictions of two patients' series of one name, in one command."""
    out = hospital / "predictions"
    scans = [str(hospital / f"export/P{number}/CT") for number in (0, 3)]
    line = ["predict", str(hospital / "run"), *scans, "-o", str(out), "--seg", "--rtstruct"]
    assert run([*line, "--device", "cpu"]) == 0
    return out


def prediction(predicted: Path, name: str) -> np.ndarray:
    """The NIfTI label map as (slice, row, column) from head to feet."""
    image = nib.Nifti1Image.from_filename(predicted / f"{name}.nii.gz")
    np.testing.assert_allclose(image.affine[:3, :3], np.diag([-8, -8, -8]))
    label = np.asarray(image.dataobj).transpose(2, 1, 0)
    assert set(np.unique(label)) == {0, 1, 2}
    return label


def sources(hospital: Path, number: int) -> list[pydicom.Dataset]:
    """The headers of a patient's series, from head to feet."""
    read = [pydicom.dcmread(path) for path in (hospital / f"export/P{number}/CT").iterdir()]
    return sorted(read, key=lambda ds: -float(ds.ImagePositionPatient[2]))


@pytest.mark.parametrize("number", [0, 3])
def test_a_segmentation_is_the_label_map_and_refers_to_its_images(hospital: Path, predicted: Path, number: int) -> None:
    """Read by pydicom alone, bit by bit."""
    label, images = prediction(predicted, f"P{number}_CT"), sources(hospital, number)
    seg = pydicom.dcmread(predicted / f"P{number}_CT_seg.dcm")
    assert (seg.SegmentationType, seg.PatientID, seg.PatientName) == ("BINARY", f"P{number}", "DOE^JANE")
    assert seg.StudyInstanceUID == images[0].StudyInstanceUID
    assert seg.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    assert seg.SeriesInstanceUID != images[0].SeriesInstanceUID
    names = {int(one.SegmentNumber): one.SegmentLabel for one in seg.SegmentSequence}
    assert sorted(names.values()) == ["left kidney", "liver"]
    kinds = {one.SegmentLabel: one.SegmentedPropertyTypeCodeSequence[0] for one in seg.SegmentSequence}
    assert (kinds["liver"].CodeValue, kinds["liver"].CodeMeaning) == ("10200004", "Liver")
    assert kinds["left kidney"].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    places = {image.SOPInstanceUID: k for k, image in enumerate(images)}
    values, found = {"liver": 1, "left kidney": 2}, np.zeros_like(label)
    for frame, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(position, images[places[source]].ImagePositionPatient, atol=1e-3)
        segment = int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        found[places[source]][pixels > 0] = values[names[segment]]
    np.testing.assert_array_equal(found, label)


@pytest.mark.parametrize("number", [0, 3])
def test_a_structure_set_is_the_label_map_and_refers_to_its_images(
    hospital: Path, predicted: Path, number: int
) -> None:
    """Read by pydicom, and filled by Pillow on a grid twenty times as fine, at the centres of the voxels."""
    label, images = prediction(predicted, f"P{number}_CT"), sources(hospital, number)
    ds = pydicom.dcmread(predicted / f"P{number}_CT_rtstruct.dcm")
    assert (ds.Modality, ds.PatientID, ds.ApprovalStatus) == ("RTSTRUCT", f"P{number}", "UNAPPROVED")
    [frame] = ds.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    [series] = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == images[0].SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in series.ContourImageSequence} == {i.SOPInstanceUID for i in images}
    names = {roi.ROINumber: roi.ROIName for roi in ds.StructureSetROISequence}
    places, values = {image.SOPInstanceUID: k for k, image in enumerate(images)}, {"liver": 1, "left kidney": 2}
    found, fine = np.zeros_like(label), 20
    for roi in ds.ROIContourSequence:
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            k = places[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            corner = np.array(images[k].ImagePositionPatient, float)
            np.testing.assert_allclose(points[:, 2], corner[2], atol=1e-3)
            pixels = (points[:, :2] - corner[:2]) / 8
            canvas = Image.new("1", (SHAPE[0] * fine, SHAPE[1] * fine))
            ImageDraw.Draw(canvas).polygon([tuple(p) for p in (pixels + 0.5) * fine], fill=1)
            inside = np.asarray(canvas)[fine // 2 :: fine, fine // 2 :: fine]
            found[k][inside] = values[names[roi.ReferencedROINumber]]
    np.testing.assert_array_equal(found, label)


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_predictions_that_came_back_as_dicom_are_a_cohort_again(
    hospital: Path, predicted: Path, tmp_path: Path, kind: str
) -> None:
    export = tmp_path / "export"
    (export / "CT").mkdir(parents=True)
    for path in (*(hospital / "export/P3/CT").iterdir(), predicted / f"P3_CT_{kind}.dcm"):
        (export / ("CT" if path.parent.name == "CT" else ".") / path.name).write_bytes(path.read_bytes())
    organs = ["--organs", str(hospital / "organs.csv")]
    assert run(["data", "dicom", str(export), "--out", str(tmp_path / "cohort"), *organs]) == 0
    [case] = read_cohort(tmp_path / "cohort").cases
    assert case.label is not None
    again = np.asarray(nib.Nifti1Image.from_filename(case.label).dataobj)
    np.testing.assert_array_equal(again, prediction(predicted, "P3_CT").transpose(2, 1, 0))


def test_an_enhanced_file_and_a_whole_export_are_predicted_and_bad_series_named(
    hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    array = np.load(hospital / "truth.npz")["arr_0"]
    write_enhanced(tmp_path / "export/P8/MULTI/1", array, AFFINE, PatientID="P8")
    write_series(tmp_path / "export/P9/CT", array, AFFINE, PatientID="P9")
    write_series(tmp_path / "export/P9/short", array, AFFINE, PatientID="P9", number=7, leave_out=(5,))
    line = ["predict", str(hospital / "run"), str(tmp_path / "export"), "-o", str(tmp_path / "out")]
    assert run([*line, "--device", "cpu"]) == 2
    assert "choose one with --series NUMBER or UID (or all)" in capsys.readouterr().err
    assert run([*line, "--series", "all", "--seg", "--rtstruct", "--device", "cpu"]) == 2
    said = capsys.readouterr()
    assert "3 scans: 2 predicted, 1 failed" in said.out
    assert "slices are missing in between" in said.err
    labels = [
        np.asarray(nib.Nifti1Image.from_filename(tmp_path / f"out/{n}.nii.gz").dataobj) for n in ("P8_MULTI", "P9_CT")
    ]
    np.testing.assert_array_equal(*labels)
    seg = pydicom.dcmread(tmp_path / "out/P8_MULTI_seg.dcm")
    assert int(seg.pixel_array.sum()) == np.count_nonzero(labels[0])
    organs = ["--organs", str(hospital / "organs.csv")]
    for kind in ("seg", "rtstruct"):
        export = tmp_path / kind
        export.mkdir()
        (export / "image").write_bytes((tmp_path / "export/P8/MULTI/1").read_bytes())
        (export / "label").write_bytes((tmp_path / f"out/P8_MULTI_{kind}.dcm").read_bytes())
        assert run(["data", "dicom", str(export), "--out", str(tmp_path / f"{kind}-cohort"), *organs]) == 0
        [case] = read_cohort(tmp_path / f"{kind}-cohort").cases
        assert case.label is not None
        np.testing.assert_array_equal(np.asarray(nib.Nifti1Image.from_filename(case.label).dataobj), labels[0])


def test_a_nifti_scan_has_no_archive_to_go_back_to(
    hospital: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = str(read_cohort(hospital / "cohort").cases[0].image)
    line = ["predict", str(hospital / "run"), scan, "--modality", "CT", "-o", str(tmp_path), "--seg"]
    assert run([*line, "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "is NIfTI, and DICOM SEG and RTSTRUCT refer to the images of a DICOM series" in said
    assert said.count("\n") == 1
