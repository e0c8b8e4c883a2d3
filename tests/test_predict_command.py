"""`amos-fl predict` as a user types it: label maps that overlay their scans, and plain words for what is no scan."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ORGANS, write_tiny_cohort
from PIL import Image

from amos_fl.cli.main import run
from amos_fl.cohort.table import read_cohort
from amos_fl.files import ABANDONED_S, CERTAINLY_ABANDONED_S, remove_abandoned, scratch_folder
from amos_fl.inference.predict import predict_case, write_prediction
from amos_fl.inference.predict_scans import predict_scans
from amos_fl.inference.predicted_files import Wanted
from amos_fl.inference.scans import Scan, find_scans
from amos_fl.prepared.prepare import prepare_case
from amos_fl.runs.inference_settings import RecordedInference
from amos_fl.runs.model import read_model


@pytest.fixture
def scan(tiny_root: Path) -> Path:
    return read_cohort(tiny_root).of(site="A", split="test")[0].image


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([8.0, 8.0, 8.0, 1.0]) if affine is None else affine), path)
    return path


def test_a_label_map_is_what_the_network_says_on_the_scans_own_grid(
    finished_run: Path, scan: Path, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(["predict", str(finished_run), str(scan), "-o", str(out), "--modality", "CT"]) == 0
    assert "1 scan: 1 predicted" in capsys.readouterr().out
    written = nib.Nifti1Image.from_filename(out / scan.name)
    np.testing.assert_array_equal(written.affine, nib.Nifti1Image.from_filename(scan).affine)
    assert written.get_data_dtype() == np.uint8
    model = read_model(finished_run)
    case = read_cohort(tiny_root).of(site="A", split="test")[0]
    prepared = prepare_case(case, model.plan, tmp_path / "store", tuple(ORGANS))
    torch.set_num_threads(model.inference.threads)
    expected = predict_case(model.network(), prepared, model.plan, organs=tuple(ORGANS), inference=model.inference)
    np.testing.assert_array_equal(np.asarray(written.dataobj), expected)
    assert expected.any()
    assert sorted(path.name for path in out.iterdir()) == [scan.name, "predict.json"]


def test_a_model_folder_copied_elsewhere_gives_the_same_files(finished_run: Path, scan: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run / "model", tmp_path / "copied")
    for source, out in ((finished_run, "a"), (tmp_path / "copied", "b")):
        assert run(["predict", str(source), str(scan), "-o", str(tmp_path / out), "--modality", "CT"]) == 0
    assert (tmp_path / "a" / scan.name).read_bytes() == (tmp_path / "b" / scan.name).read_bytes()
    about = json.loads((tmp_path / "copied/network.json").read_text())
    assert about["modalities"] == ["CT", "MR"]
    settings = {"overlap": 0.5, "mirror": False, "test_time_adaptation": False, "batch_size": 4, "threads": 1}
    assert about["inference"] == settings


def test_probabilities_lie_on_the_scan_and_their_largest_is_the_label(
    finished_run: Path, scan: Path, tmp_path: Path
) -> None:
    turned = nib.Nifti1Image.from_filename(scan)
    array = np.asarray(turned.dataobj).transpose(2, 0, 1)
    path = save(tmp_path / "turned.nii", array, turned.affine[:, [2, 0, 1, 3]])
    out = tmp_path / "out"
    assert run(["predict", str(finished_run), str(path), "-o", str(out), "--modality", "CT", "--probabilities"]) == 0
    label = np.asarray(nib.Nifti1Image.from_filename(out / "turned.nii.gz").dataobj)
    image = nib.Nifti1Image.from_filename(out / "turned_probabilities.nii.gz")
    np.testing.assert_array_equal(image.affine, nib.Nifti1Image.from_filename(path).affine)
    shares = image.get_fdata()
    assert shares.shape == (*label.shape, 1 + len(ORGANS))
    np.testing.assert_allclose(shares.sum(axis=-1), 1, atol=0.01)
    top = np.sort(shares, axis=-1)
    decided = top[..., -1] - top[..., -2] > 0.01
    np.testing.assert_array_equal(shares.argmax(axis=-1)[decided], label[decided])
    assert 0 < (label > 0).sum() < label.size


def test_a_preview_shows_three_planes(finished_run: Path, scan: Path, tmp_path: Path) -> None:
    assert run(["predict", str(finished_run), str(scan), "-o", str(tmp_path), "--modality", "CT", "--preview"]) == 0
    picture = np.asarray(Image.open(tmp_path / f"{scan.name.removesuffix('.nii.gz')}_preview.png"))
    assert picture.shape[1] > picture.shape[0] / 2 > 400
    assert (np.ptp(picture.astype(int), axis=-1) > 60).sum() > 100  # outlines and names in colour


def test_the_modality_of_a_nifti_is_never_guessed(
    finished_run: Path, scan: Path, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["predict", str(finished_run), str(scan), "-o", str(tmp_path / "out")]) == 2
    assert "add --modality CT or --modality MR" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    command = ["predict", str(finished_run), str(scan), "-o", str(tmp_path / "out"), "--probabilities"]
    listed = [*command, "--cohort", str(tiny_root)]
    assert run(listed) == 0
    assert run([*listed, "--modality", "MR"]) == 2
    assert "the cohort says CT, and the given modality is MR" in capsys.readouterr().err
    about = json.loads((tmp_path / "out/predict.json").read_text())
    assert [found["modality"] for found in about["scans"].values()] == ["CT"]
    before = next((tmp_path / "out").glob("*_probabilities.nii.gz")).read_bytes()
    assert run([*command, "--modality", "mr", "--overwrite"]) == 0
    assert next((tmp_path / "out").glob("*_probabilities.nii.gz")).read_bytes() != before


def test_a_second_run_keeps_what_is_there_and_never_passes_it_off_as_anothers(
    finished_run: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, out = tmp_path / "scans" / scan.name, tmp_path / "out"
    copy.parent.mkdir()
    shutil.copy(scan, copy)
    command = ["predict", str(finished_run), str(copy), "-o", str(out), "--modality", "CT"]
    assert run(command) == 0
    before = (out / scan.name).stat().st_mtime_ns
    assert run(command) == 0
    assert "0 predicted, 1 kept" in capsys.readouterr().out
    assert (out / scan.name).stat().st_mtime_ns == before
    assert run([*command, "--preview"]) == 0
    assert "1 predicted" in capsys.readouterr().out
    for changed in (["--mirror"], ["--modality", "MR"]):
        assert run([*command, *changed]) == 2
        assert "already exists" in capsys.readouterr().err
    image = nib.Nifti1Image.from_filename(copy)
    save(copy, np.asarray(image.dataobj) + 1, image.affine)
    assert run(command) == 2
    assert run([*command, "--overwrite"]) == 0
    assert not list(out.glob("*_preview.png"))  # it was of the scan before
    assert run(command) == 0


def test_a_scan_is_never_replaced_by_its_label_map(
    finished_run: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / scan.name
    shutil.copy(scan, copy)
    assert run(["predict", str(finished_run), str(copy), "-o", str(tmp_path), "--modality", "CT", "--overwrite"]) == 2
    assert "would replace the scan itself" in capsys.readouterr().err
    assert copy.read_bytes() == scan.read_bytes()


def test_a_dicom_series_is_predicted_as_its_volume_is(finished_run: Path, scan: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    from dicom_series import write_series

    image = nib.Nifti1Image.from_filename(scan)
    array = np.maximum(np.asarray(image.dataobj) // 2 * 2, -900)  # within what the slices store
    even = save(tmp_path / "even.nii.gz", array.astype(np.int16), image.affine)
    write_series(tmp_path / "series", array, image.affine)
    assert run(["predict", str(finished_run), str(tmp_path / "series"), "-o", str(tmp_path / "out")]) == 0
    assert run(["predict", str(finished_run), str(even), "-o", str(tmp_path / "out"), "--modality", "CT"]) == 0
    series, volume = (nib.Nifti1Image.from_filename(tmp_path / f"out/{n}.nii.gz") for n in ("series", "even"))
    turned = nib.as_closest_canonical(series)
    np.testing.assert_allclose(turned.affine, nib.as_closest_canonical(volume).affine, atol=1e-4)
    same = np.asarray(turned.dataobj) == np.asarray(nib.as_closest_canonical(volume).dataobj)
    assert same.mean() > 0.999  # affines differ in their last digits, so a voxel at a border may


def test_ctrl_c_leaves_no_unfinished_file(finished_run: Path, scan: Path, tmp_path: Path) -> None:
    windows = []

    def interrupt(of: object, done: int, total: int) -> None:
        windows.append((done, total))
        if done == 1:
            assert list(tmp_path.glob(".*.tmp.work/*"))
            raise KeyboardInterrupt

    model = read_model(finished_run)
    wanted = Wanted(RecordedInference(overlap=0.9, batch_size=1), probabilities=True, preview=True)
    with pytest.raises(KeyboardInterrupt):
        list(predict_scans(model, find_scans([scan], "CT"), tmp_path, wanted, on_window=interrupt))
    assert windows == [(0, windows[0][1]), (1, windows[0][1])]
    assert list(tmp_path.iterdir()) == []


def test_the_next_scan_is_prepared_while_the_network_is_at_work_on_one(
    finished_run: Path, scan: Path, tmp_path: Path
) -> None:
    second, out = tmp_path / "second.nii.gz", tmp_path / "out"
    shutil.copy(scan, second)
    seen: list[str] = []

    def wait(of: Scan, done: int, total: int) -> None:
        deadline = time.monotonic() + 60
        while of.path == scan and not list(out.glob(".*.tmp.work/1/store/*/*/meta.json")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        seen.append(of.name)

    model = read_model(finished_run)
    scans = find_scans([scan, second], "CT")
    outcomes = list(predict_scans(model, scans, out, Wanted(RecordedInference()), on_window=wait))
    assert [outcome.state for outcome in outcomes] == ["predicted", "predicted"]
    assert list(dict.fromkeys(seen)) == [each.name for each in scans]
    assert len({(out / f"{each.name}.nii.gz").read_bytes() for each in scans}) == 1
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["predict.json", *(f"{each.name}.nii.gz" for each in scans)]
    )


def test_the_files_of_one_scan_are_written_while_the_network_is_at_work_on_the_next(
    finished_run: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, out = tmp_path / "second.nii.gz", tmp_path / "out"
    shutil.copy(scan, second)
    scans, next_begun = find_scans([scan, second], "CT"), threading.Event()

    def begin(of: Scan, done: int, total: int) -> None:
        if of.path == second:
            next_begun.set()

    def late(label: np.ndarray, source: Path, file: Path) -> None:
        assert next_begun.wait(60)
        write_prediction(label, source, file)

    monkeypatch.setattr("amos_fl.inference.predict_scans.write_prediction", late)
    outcomes = predict_scans(read_model(finished_run), scans, out, Wanted(RecordedInference()), on_window=begin)
    first = next(outcomes)
    assert (first.scan.path, first.state) == (scan, "predicted")
    assert (out / f"{first.scan.name}.nii.gz").is_file()
    assert [outcome.scan.path for outcome in outcomes] == [second]


def test_what_a_killed_process_left_goes_and_what_may_be_in_use_stays(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    def leftover(pid: int, name: str, age_s: float) -> Path:
        folder = tmp_path / f".{pid}-0123abcd.tmp.{name}"
        folder.mkdir()
        for path in (folder / "image.b2nd", folder):
            path.touch()
            os.utime(path, (time.time() - age_s,) * 2)
        return folder

    dead = leftover(gone.pid, "dead", ABANDONED_S + 60)
    just_dead = leftover(gone.pid, "just", 60)
    alive = leftover(os.getpid(), "alive", ABANDONED_S + 60)
    reused = leftover(os.getpid(), "reused", CERTAINLY_ABANDONED_S + 60)
    named_alike = tmp_path / ".hidden.tmp.mine"
    named_alike.touch()
    os.utime(named_alike, (0, 0))
    assert set(remove_abandoned(tmp_path.glob(".*.tmp.*"))) == {dead, reused}
    assert just_dead.is_dir()
    assert alive.is_dir()
    assert named_alike.is_file()


def test_preparing_a_case_tidies_the_store(tmp_path: Path) -> None:
    from amos_fl.volumes.plan import plan_named

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / f"store/ab/.{gone.pid}-0123abcd.tmp.{'ab' * 32}"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    case = write_tiny_cohort(tmp_path / "cohort").cases[0]
    prepare_case(case, plan_named("coarse"), tmp_path / "store", tuple(ORGANS))
    assert not left.exists()


def test_scratch_is_removed_whatever_happens(tmp_path: Path) -> None:
    def interrupted() -> None:
        with scratch_folder(tmp_path) as scratch:
            (scratch / "half").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_another_patients_voxels_under_the_same_header_are_not_the_scan_that_was_kept(
    finished_run: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = nib.Nifti1Image.from_filename(scan)
    voxels = np.asarray(image.dataobj).astype(np.int16)
    folder = tmp_path / "scans"
    folder.mkdir()
    nib.save(nib.Nifti1Pair(voxels, image.affine), folder / "a.hdr")
    header = (folder / "a.hdr").read_bytes()
    ask = ["predict", str(finished_run), str(folder), "-o", str(tmp_path / "out"), "--modality", "CT"]
    assert run(ask) == 0
    assert run(ask) == 0
    assert "0 predicted, 1 kept" in capsys.readouterr().out
    nib.save(nib.Nifti1Pair(voxels[::-1].copy(), image.affine), folder / "a.hdr")
    assert (folder / "a.hdr").read_bytes() == header
    assert run(ask) == 2
    assert "from another scan" in capsys.readouterr().err
