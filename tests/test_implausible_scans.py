"""Whatever reads a scan refuses, or warns of, the same things in the same words."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ORGANS, write_case
from federations import tiny_config
from headers import contradicting, mirrored, rewritten, sheared, wrong_sum
from other_datasets import with_channels, write_msd

from amos_fl.annotate.corrections import read_correction
from amos_fl.cli import main
from amos_fl.cohort.statistics import statistics_of
from amos_fl.cohort.table import Case, Cohort, read_cohort, write_cohort
from amos_fl.errors import AmosError
from amos_fl.prepared.prepare import prepare_cases
from amos_fl.warned import heard, warn
from amos_fl.workers import each

SITUATIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "two voxel sizes": (contradicting, "its header states two voxel sizes, 1x1x1 mm (sform)"),
    "sheared": (sheared, "its axes are not at right angles, by"),
    "micrometres": (lambda path: rewritten(path, xyzt_units=3), "its header gives the voxel size 8x8x8 in micrometres"),
    "8 m": (
        lambda path: rewritten(path, pixdim=[1, 8000, 8000, 8000, 0, 0, 0, 0], sform_code=0, qform_code=1),
        "its header says 24x22x20 voxels of 8000x8000x8000 mm, which fits no patient",
    ),
    "dimensions": (
        lambda path: rewritten(path, dim=[3, 20000, 20000, 20000, 1, 1, 1, 1]),
        "is truncated or damaged: its header promises 20000x20000x20000 voxels, more than the file holds",
    ),
    "overflow": (lambda path: rewritten(path, vox_offset=np.inf), "its header is damaged"),
    "sum": (wrong_sum, "is truncated or damaged; fetch it again"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-3000]), "is truncated or damaged; fetch it again"),
    "empty": (lambda path: path.write_bytes(b""), "is an empty file; fetch it again"),
}
DOUBTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "mirrored": (mirrored, "the sform and the qform in its header orient it differently (LPS and RPS); the sform"),
    "no orientation": (
        lambda path: rewritten(path, sform_code=0, qform_code=0),
        "its header does not say which way the patient lies",
    ),
}


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Two sites with a training case each, and a scan of `B` that nobody has labelled; `b_train` is to be harmed."""
    cases = []
    for name, site, split in (("a_train", "A", "train"), ("b_train", "B", "train"), ("b_test", "B", "test")):
        image, label = write_case(tmp_path / "data", name, "CT")
        cases.append(Case(name, site, "CT", split, image, label if split == "train" else None, tuple(ORGANS)))
    write_cohort(Cohort(tuple(cases), dict(ORGANS)), tmp_path / "data" / "cohort.csv")
    return read_cohort(tmp_path / "data")


def arguments(command: str, cohort: Cohort, tmp_path: Path, model: Path) -> list[str]:
    data, scan = tmp_path / "data", cohort.cases[1].image
    store, out = ["--store", str(tmp_path / "store")], str(tmp_path / "out")
    network = ["--set", "training.learning_rate=0.1", "--rounds", "1", "--local-steps", "1"]
    return {
        "data check": ["data", "check", str(data), "--workers", "1"],
        "data stats": ["data", "stats", str(data), "--out", out, "--workers", "1"],
        "plan": ["plan", str(data), *store, "--workers", "1"],
        "dry run": ["simulate", "--cohort", str(data), "--dry-run", *network, *store],
        "simulate": ["simulate", "--cohort", str(data), "--out", out, *network, *store],
        "evaluate": ["evaluate", str(model), "--cohort", str(data), "--split", "train", "--out", out, *store],
        "predict": ["predict", str(model), str(scan.parent), "--modality", "CT", "-o", out],
        "score": ["score", str(data / "labels"), "--cohort", str(data), "--split", "train", "--allow-extra"],
        "export": ["data", "export", "nnunet", str(data), out],
        "annotate": ["annotate", "start", out, "--run", str(model), "--cohort", str(data)],
    }[command]


ALL = ("data check", "data stats", "plan", "dry run", "simulate", "evaluate", "predict", "score", "export", "annotate")


def without_label(cohort: Cohort, folder: Path) -> Cohort:
    """What `annotate` works on: the case to be harmed is one that nobody has labelled."""
    cases = [replace(case, label=None) if case.case == "b_train" else case for case in cohort.cases]
    write_cohort(Cohort(tuple(cases), dict(ORGANS)), folder / "cohort.csv")
    return read_cohort(folder)


@pytest.mark.parametrize("command", ALL)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_no_command_computes_on_it(cohort, tmp_path, finished_run, capfd, monkeypatch, situation, command):
    if command == "dry run" and situation in ("sum", "cut"):
        pytest.skip("it looks at headers alone")
    monkeypatch.setenv("COLUMNS", "400")
    harm, words = SITUATIONS[situation]
    if command == "annotate":
        cohort = without_label(cohort, tmp_path / "data")
    harm(cohort.cases[1].image)
    assert main.run(arguments(command, cohort, tmp_path, finished_run)) == 2
    out, err = capfd.readouterr()
    said = out if command in ("data check", "score") else err
    assert f"b_train.nii.gz: {words}" in said, out + err
    assert "Traceback" not in out + err
    assert said.count(words) == 1
    if command in ("dry run", "simulate"):
        assert "site B" in err
    if command in ("predict", "annotate"):  # the others go on
        assert "b_test" in out


@pytest.mark.parametrize("command", ALL)
@pytest.mark.parametrize("situation", DOUBTS)
def test_every_command_says_once_what_it_takes(cohort, tmp_path, finished_run, capfd, monkeypatch, situation, command):
    monkeypatch.setenv("COLUMNS", "400")
    harm, words = DOUBTS[situation]
    if command == "annotate":
        cohort = without_label(cohort, tmp_path / "data")
    harm(cohort.cases[1].image)
    if command in ("data check", "data stats", "plan", "simulate", "score", "evaluate", "export"):
        harm(cohort.cases[1].label)
    out, err = as_from_a_shell(arguments(command, cohort, tmp_path, finished_run), capfd, monkeypatch)
    said = [line for line in (out if command == "data check" else err).splitlines() if words in line]
    assert len([line for line in said if "labels/" not in line]) == 1, out + err
    assert len([line for line in said if "labels/" in line]) <= 1


def as_from_a_shell(command: list[str], capfd, monkeypatch) -> tuple[str, str]:
    """Run a command whose warnings are printed as `main` prints them, and not errors as in all other tests."""
    monkeypatch.setattr("amos_fl.warned._said", set())
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = main._showwarning
        assert main.run(command) == 0
    return capfd.readouterr()


def test_a_sites_label_map_is_told_apart_from_its_scan_of_the_same_name(cohort, tmp_path, capfd):
    wrong_sum(cohort.cases[1].label)
    assert main.run(["data", "stats", str(tmp_path / "data"), "--out", str(tmp_path / "out")]) == 2
    assert "labels/b_train.nii.gz: is truncated or damaged" in capfd.readouterr().err


def test_volumes_are_those_of_the_determinant(cohort):
    """Within what is allowed of a tilt, the product of the column lengths is not the volume."""
    case = cohort.cases[1]
    for path in (case.image, case.label):
        sheared(path, degrees=1.2)
    [_, measured, _], _ = statistics_of(cohort)
    assert measured.volumes_ml[1] == pytest.approx(measured.voxels[1] * 8.0**3 / 1000, rel=1e-6)
    assert np.prod(measured.spacing_mm) / 1000 > measured.voxel_ml * 1.0002


def test_a_correction_of_another_voxel_size_is_refused(cohort):
    case = cohort.cases[1]
    assert case.label is not None
    contradicting(case.label)
    with pytest.raises(AmosError, match="two voxel sizes"):
        read_correction(case.label, case, tuple(ORGANS))


def test_two_damaged_scans_are_both_named_and_the_rest_is_predicted(cohort, tmp_path, finished_run, capfd):
    rewritten(cohort.cases[0].image, dim=[3, 20000, 20000, 20000, 1, 1, 1, 1])
    wrong_sum(cohort.cases[1].image)
    assert main.run(arguments("predict", cohort, tmp_path, finished_run)) == 2
    out, err = capfd.readouterr()
    assert "3 scans: 1 predicted, 2 failed" in out
    assert "a_train.nii.gz: is truncated or damaged: its header promises" in err
    assert "b_train.nii.gz: is truncated or damaged; fetch it again" in err
    assert (tmp_path / "out/b_test.nii.gz").is_file()


@pytest.mark.parametrize("command", ["data check", "plan", "simulate", "evaluate", "score", "export", "data stats"])
def test_of_two_damaged_label_maps_both_are_named(command, cohort, tmp_path, finished_run, capfd):
    for case, names in ((cohort.cases[0], "a_train"), (cohort.cases[1], "b_train")):
        wrong_sum(case.label)
        assert names in str(case.label)
    write_cohort(replace(cohort, cases=tuple(replace(c, site="A") for c in cohort.cases)), tmp_path / "data/cohort.csv")
    assert main.run(arguments(command, cohort, tmp_path, finished_run)) == 2
    said = "".join(capfd.readouterr())
    assert "a_train.nii.gz: is truncated or damaged; fetch it again" in said
    assert "b_train.nii.gz: is truncated or damaged; fetch it again" in said


def test_statistics_are_those_of_the_cases_that_can_be_read_and_say_so(cohort, tmp_path, capfd):
    wrong_sum(cohort.cases[1].image)
    assert main.run(["data", "stats", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--workers", "2"]) == 2
    err = capfd.readouterr().err.splitlines()
    assert err[0] == "amos-fl: b_train.nii.gz: is truncated or damaged; fetch it again"
    assert err[1].startswith("amos-fl: 1 of 3 cases left out, named above;")
    cases = (tmp_path / "out/cases.csv").read_text()
    assert "a_train" in cases
    assert "b_train" not in cases
    page = (tmp_path / "out/stats.html").read_text()
    assert "2 of 3 cases of 2 sites" in page
    assert "left out: b_train.nii.gz: is truncated or damaged" in page
    wrong_sum(cohort.cases[0].image)
    wrong_sum(cohort.cases[2].image)
    assert main.run(["data", "stats", str(tmp_path / "data"), "--out", str(tmp_path / "none"), "--workers", "1"]) == 2
    assert "none of 3 cases can be read; nothing is measured" in capfd.readouterr().err
    assert not (tmp_path / "none").exists()


def test_what_can_be_prepared_is_kept_although_others_fail(cohort, tmp_path, capfd):
    wrong_sum(cohort.cases[0].image)
    store = tmp_path / "store"
    with pytest.raises(AmosError, match=r"a_train\.nii\.gz: is truncated"):
        prepare_cases(cohort.cases, tiny_config().plan, store, tuple(ORGANS), workers=2)
    prepare_cases(cohort.cases[1:], tiny_config().plan, store, tuple(ORGANS))
    assert len(list(store.glob("??/*/meta.json"))) == 2


def test_a_truncated_scan_of_several_channels_is_named(tmp_path, capfd):
    task = with_channels(write_msd(tmp_path / "Task05_Prostate", labelled=3, modality="MRI"), ["T2", "ADC"])
    scan = task / "imagesTr/case_1.nii.gz"
    scan.write_bytes(scan.read_bytes()[:-2000])
    assert main.run(["data", "msd", str(task), "--channel", "1"]) == 2
    assert capfd.readouterr().err.endswith("case_1.nii.gz: is truncated or damaged; fetch it again\n")


def test_what_remains_of_a_pool_after_an_error_is_silent(tmp_path, capfd):
    """A bad case among many, over two processes, again and again: the sentence and nothing else."""
    for _ in range(3):
        with pytest.raises(AmosError, match="number 0"):
            list(each(_fail_at_once, list(range(24)), workers=2))
    assert capfd.readouterr().err == ""


def _fail_at_once(number: int) -> int:
    if number == 0:
        raise AmosError("number 0")
    return number


def test_what_a_worker_process_warns_of_is_said_here():
    with heard() as said:
        assert list(each(_warn_of, [1, 2, 3], workers=2)) == [1, 2, 3]
    assert said == ["file 1: odd", "file 2: odd", "file 3: odd"]


def _warn_of(number: int) -> int:
    warn(f"file {number}: odd")
    return number
