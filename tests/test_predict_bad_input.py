"""`amos-fl predict` on what it cannot use: one plain sentence each, and the others go on."""

import os
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ORGANS

from amos_fl.cli.main import run
from amos_fl.cohort.table import read_cohort
from amos_fl.errors import AmosError
from amos_fl.inference.predict import predict_case
from amos_fl.prepared.prepare import prepare_case
from amos_fl.runs.model import read_model

NOISE = np.random.default_rng(0).normal(0, 100, (12, 12, 12)).astype(np.float32)


@pytest.fixture
def scan(tiny_root: Path) -> Path:
    return read_cohort(tiny_root).of(site="A", split="test")[0].image


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([8.0, 8.0, 8.0, 1.0]) if affine is None else affine), path)
    return path


def test_one_bad_file_is_named_and_the_others_are_predicted(
    finished_run: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "scans", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "c"):
        shutil.copy(scan, folder / f"{name}.nii.gz")
    (folder / "b.nii.gz").write_text("not an image")
    (folder / "notes.txt").write_text("not looked at")
    assert run(["predict", str(finished_run), str(folder), "-o", str(out), "--modality", "CT"]) == 2
    printed = capsys.readouterr()
    assert "b.nii.gz: is not a NIfTI file" in printed.err
    assert "3 scans: 2 predicted, 1 failed" in printed.out
    assert sorted(path.name for path in out.iterdir()) == ["a.nii.gz", "c.nii.gz", "predict.json"]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (NOISE[..., 0], "has the shape 12x12; a scan has three dimensions"),
        (NOISE[..., :1], "that is a single slice"),
        (np.stack([NOISE, NOISE], -1), "has the shape 12x12x12x2; a scan has three dimensions"),
        (np.zeros((5, 5, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "holds colours"),
        (np.random.default_rng(0).integers(0, 4, (9, 9, 9)).astype(np.uint8), "4 whole numbers like a label map"),
        (np.full((9, 9, 9), 7, np.int16), "every voxel is 7"),
        (np.full((9, 9, 9), np.nan, np.float32), "729 voxels are not finite"),
    ],
    ids=["2D", "one slice", "4D", "colour", "label map", "constant", "NaN"],
)
def test_what_is_no_scan_is_refused_in_plain_words(
    finished_run: Path, tmp_path: Path, array: np.ndarray, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "odd.nii.gz", array)
    assert run(["predict", str(finished_run), str(path), "-o", str(tmp_path / "out"), "--modality", "CT"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "odd.nii.gz" in error
    assert "Traceback" not in error
    assert error.count("\n") == 1


def test_voxels_that_no_patient_has_are_refused(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "odd.nii.gz", NOISE, np.diag([1000.0, 1000.0, 1000.0, 1.0]))
    assert run(["predict", str(finished_run), str(path), "-o", str(tmp_path / "out"), "--modality", "CT"]) == 2
    assert "which fits no patient; repair the header" in capsys.readouterr().err


def test_a_scan_of_few_values_with_negative_ones_is_no_label_map(finished_run: Path, tmp_path: Path) -> None:
    array = np.where(NOISE > 0, 40, -1000).astype(np.int16)
    path = save(tmp_path / "plain.nii.gz", array)
    assert run(["predict", str(finished_run), str(path), "-o", str(tmp_path / "out"), "--modality", "CT"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "SCAN", "--modality", "CT"], "nowhere: no such folder"),
        (["FOLDER", "SCAN", "--modality", "CT"], "holds neither a run nor a model"),
        (["RUN", "nowhere.nii.gz", "--modality", "CT"], "nowhere.nii.gz: no such file or folder"),
        (["RUN", "FOLDER", "--modality", "CT"], "holds no NIfTI file (.nii.gz, .nii) and no DICOM file"),
        (["RUN", "SCAN", "--modality", "PET"], "--modality is 'PET': choose CT or MR"),
        (
            ["RUN", "SCAN", "--modality", "CT", "--overlap", "1"],
            "--overlap is 1: must be a number, at least 0 and below 1",
        ),
        (["RUN", "SCAN", "--modality", "CT", "--batch-size", "0"], "--batch-size is 0: must be a whole number"),
        (["RUN", "SCAN", "--modality", "CT", "--device", "tpu"], "unknown device 'tpu'"),
        (["RUN", "SCAN", "SCAN", "--modality", "CT"], "would have the same name"),
    ],
)
def test_wrong_input_is_one_plain_sentence_and_exit_code_2(
    finished_run: Path, scan: Path, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    known = {"RUN": str(finished_run), "SCAN": str(scan), "FOLDER": str(empty)}
    assert run(["predict", *[known.get(a, a) for a in arguments], "-o", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_one_bad_dicom_series_leaves_the_others_and_the_exit_code_says_so(
    finished_run: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("highdicom")
    from dicom_series import write_series

    image = nib.Nifti1Image.from_filename(scan)
    array = np.maximum(np.asarray(image.dataobj) // 2 * 2, -900)
    for name in ("empty", "cut", "whole"):
        write_series(tmp_path / name, array, image.affine, ImagesInAcquisition=9999)
    (tmp_path / "empty/IM0000").write_bytes(b"")
    cut = tmp_path / "cut/IM0001"
    cut.write_bytes(cut.read_bytes()[:-10])
    folders = [str(tmp_path / name) for name in ("empty", "cut", "whole")]
    assert run(["predict", str(finished_run), *folders, "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    slices = array.shape[2]
    assert f"amos-fl: empty, DICOM series 3: 1 of {slices} files cannot be used (IM0000: is empty)" in told.err
    assert f"amos-fl: cut, DICOM series 3: 1 of {slices} files cannot be used (IM0001: is cut off: " in told.err
    assert f"amos-fl: warning: whole, DICOM series 3: {slices} slices are here, but its headers mention" in told.err
    assert "3 scans: 1 predicted, 2 failed" in told.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["predict.json", "whole.nii.gz"]


def test_dicom_without_the_extra_names_it(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "series/one").write_bytes(b"\0" * 128 + b"DICM")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert run(["predict", str(finished_run), str(tmp_path / "series"), "-o", str(tmp_path / "out")]) == 2
    assert 'pip install "amos-fl[dicom]"' in capsys.readouterr().err


def test_a_gpu_without_memory_is_one_sentence_that_names_the_setting(
    finished_run: Path, tiny_root: Path, tmp_path: Path
) -> None:
    class Full(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model = read_model(finished_run)
    case = read_cohort(tiny_root).of(site="A", split="test")[0]
    prepared = prepare_case(case, model.plan, tmp_path / "store", tuple(ORGANS))
    with pytest.raises(AmosError, match=r"does not fit into the GPU's memory; lower the batch size.*the device cpu"):
        predict_case(Full(), prepared, model.plan, organs=tuple(ORGANS))


def test_of_a_mixed_folder_what_can_be_used_is_predicted_and_the_rest_named(
    finished_run: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    shutil.copyfile(scan, folder / "LOUD.NII.GZ")
    nib.save(nib.Nifti1Pair.from_image(nib.Nifti1Image.from_filename(scan)), folder / "pair.hdr")
    (folder / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    shutil.copyfile(scan, folder / ("x" * 240 + ".nii.gz"))
    os.rename(shutil.copyfile(scan, folder / "e.nii.gz"), os.fsencode(folder) + b"/\xe9.nii.gz")
    out = tmp_path / "out"
    assert run(["predict", str(finished_run), str(folder), "-o", str(out), "--modality", "CT"]) == 2
    said = capsys.readouterr()
    assert "5 scans: 2 predicted, 3 failed" in said.out
    for sentence in ("its link leads to", "bytes too long to be written", "its name is not UTF-8"):
        assert sentence in said.err
    assert "Traceback" not in said.err
    assert sorted(path.name for path in out.iterdir()) == ["LOUD.nii.gz", "pair.nii.gz", "predict.json"]
    array = [np.asarray(nib.Nifti1Image.from_filename(out / f"{name}.nii.gz").dataobj) for name in ("LOUD", "pair")]
    np.testing.assert_array_equal(*array)
