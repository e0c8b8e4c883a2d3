"""`amos-fl calibrate` and `predict --expected-dsc` as a user types them, on a run that is there already."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import ORGANS

import amos_fl
from amos_fl.cli.main import run
from amos_fl.cohort.table import read_cohort, write_cohort
from amos_fl.runs.expected import read_measured
from amos_fl.runs.folder import open_run


@pytest.fixture
def copied(finished_run: Path, tiny_root: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, and of its scans."""
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.copytree(tiny_root, tmp_path / "scans")
    cohort = open_run(finished_run).cohort()
    moved = [
        replace(
            case, image=tmp_path / "scans/images" / case.image.name, label=tmp_path / "scans/labels" / case.image.name
        )
        for case in cohort.cases
    ]
    write_cohort(replace(cohort, cases=tuple(moved)), tmp_path / "run/cohort.csv")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def calibrated(finished_run: Path, tiny_root: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a calibration that was measured; not to be changed."""
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(finished_run, folder)
    write_cohort(open_run(finished_run).cohort(), folder / "cohort.csv")
    assert run(["calibrate", str(folder), "--measure", "--store", str(store)]) == 0
    return folder


def scan_of(tiny_root: Path, site: str) -> Path:
    return read_cohort(tiny_root).of(site=site, split="test")[0].image


def test_it_is_learned_without_a_file_of_an_unseen_or_a_test_case_and_to_the_same_bits(
    copied: Path, calibrated: Path, store: Path, tmp_path: Path
) -> None:
    for case in read_cohort(copied).cases:
        if case.site == "D" or case.split == "test":
            case.image.unlink()
            (case.label or case.image).unlink()
    assert run(["calibrate", str(copied), "--store", str(tmp_path / "store")]) == 0
    written = (copied / "model/calibration.json").read_bytes()
    assert written == (calibrated / "model/calibration.json").read_bytes()
    about = json.loads(written)
    assert (about["sites"], about["validation"]["cases"], about["copies"]) == (["A", "G"], 2, ["smaller", "larger"])
    assert not list(copied.rglob("expected.json"))


def test_validation_cases_of_a_site_that_the_run_knows_as_unseen_teach_nothing(
    copied: Path, calibrated: Path, store: Path
) -> None:
    cohort = read_cohort(copied)
    unseen = replace(
        cohort.of(site="D")[0], case="d_val_7", split="val", image=Path("gone.nii.gz"), label=Path("gone2")
    )
    write_cohort(replace(cohort, cases=(*cohort.cases, unseen)), copied.parent / "scans/cohort.csv")
    found = amos_fl.calibrate(copied, copied.parent / "scans", store=store, device="cpu")
    assert found.calibration.sites == ["A", "G"]
    same = ("expected_dsc", "flag_below", "validation")
    told = json.loads((calibrated / "model/calibration.json").read_text())
    assert found.calibration.model_dump(mode="json", exclude_none=True, include={*same}) == {k: told[k] for k in same}


def test_what_was_measured_are_the_runs_own_test_scores(calibrated: Path) -> None:
    found = read_measured(open_run(calibrated))
    assert found
    scores = amos_fl.open_run(calibrated).scores
    true = {(row.case, row.organ): row.dsc for row in scores.itertuples() if row.outcome in ("scored", "hallucinated")}
    assert {(one.case, ORGANS[one.organ]): one.dsc for one in found.organs} == pytest.approx(true)
    assert {one.site: one.seen for one in found.organs} == {"A": True, "D": False, "G": True}
    assert {"seen", "seen CT", "seen MR", "unseen", "unseen CT"} == set(found.groups)
    missed = scores[scores["outcome"] == "missed"]
    assert sum(n for group, n in found.missed.items() if " " not in group) == len(missed)


def test_page_and_card_tell_of_it(calibrated: Path, finished_run: Path) -> None:
    page, card = (calibrated / "report.html").read_text(), (calibrated / "model/MODEL_CARD.md").read_text()
    for words in ("Expected and true DSC", "An organ is flagged where", "On unseen scanners (", "expected-figure"):
        assert words in page
    rows = (calibrated / "report_data/expected.csv").read_text().splitlines()
    assert rows[0] == "case,site,modality,seen,organ,expected_dsc,dsc"
    assert len(rows) > 3
    assert "## Expected DSC" in card
    assert "| unseen CT | 1 |" in card
    assert "Expected DSC" not in (finished_run / "model/MODEL_CARD.md").read_text()


def test_predict_says_what_to_expect_of_each_organ(
    calibrated: Path, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = scan_of(tiny_root, "D")
    command = ["predict", str(calibrated), str(scan), "-o", str(tmp_path), "--modality", "CT"]
    assert run(command) == 0
    plain = (tmp_path / scan.name).read_bytes()
    assert "expected" not in capsys.readouterr().out
    assert run([*command, "--expected-dsc"]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / scan.name).read_bytes() == plain
    written = json.loads((tmp_path / "d_test_8_expected.json").read_text())
    label = np.asarray(nib.Nifti1Image.from_filename(tmp_path / scan.name).dataobj)
    assert {int(organ) for organ in written["organs"]} == set(np.unique(label[label > 0]).tolist())
    measured = read_measured(open_run(calibrated))
    assert measured
    expected = {one.organ: one.expected_dsc for one in measured.organs if one.site == "D"}
    for organ, about in written["organs"].items():
        assert about["organ"] == ORGANS[int(organ)]
        assert about["volume_ml"] == pytest.approx(np.count_nonzero(label == int(organ)) * 0.512)
        assert about["expected_dsc"] == pytest.approx(expected[int(organ)])
        assert about["flagged"] == (about["expected_dsc"] < written["flag_below"])
    mean = np.mean([about["expected_dsc"] for about in written["organs"].values()])
    assert f"expected DSC {mean:.2f}" in printed
    assert run([*command, "--expected-dsc"]) == 0
    again = capsys.readouterr().out
    assert "1 kept" in again
    assert f"expected DSC {mean:.2f}" in again
    in_python = amos_fl.TrainedModel.read(calibrated).predict(scan, "CT", device="cpu", expected_dsc=True)
    assert in_python.expected_dsc == {one["organ"]: one["expected_dsc"] for one in written["organs"].values()}


def test_predict_without_it_makes_no_further_pass(calibrated: Path, tiny_root: Path, tmp_path: Path) -> None:
    from amos_fl.inference.predict_scans import predict_scans
    from amos_fl.inference.predicted_files import Wanted
    from amos_fl.inference.scans import find_scans
    from amos_fl.runs.model import read_model

    model, scans, windows = read_model(calibrated), find_scans([scan_of(tiny_root, "A")], "CT"), {}
    for expected in (False, True):
        seen: list[int] = []
        wanted = Wanted(model.inference, expected_dsc=expected)
        list(
            predict_scans(
                model, scans, tmp_path / str(expected), wanted, on_window=lambda *at, to=seen: to.append(at[2])
            )
        )
        windows[expected] = len(seen)
        assert seen[0] == len(seen) or expected
    assert windows[True] > 2 * windows[False] > 0


def test_a_calibration_learned_from_another_cohorts_cases_is_the_sites_own(
    calibrated: Path, tiny_root: Path, store: Path, tmp_path: Path
) -> None:
    shutil.copytree(calibrated / "model", tmp_path / "model")
    before = (tmp_path / "model/calibration.json").read_bytes()
    found = amos_fl.calibrate(tmp_path / "model", tiny_root, copies=0, store=store, device="cpu")
    assert found.measured is None
    assert found.calibration.copies == []
    assert set(found.calibration.expected_dsc.weights) == {"confidence"}
    assert (tmp_path / "model/calibration.json").read_bytes() != before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["calibrate", "RUN", "--copies", "5"], "copies is 5: must be a whole number, at least 0 and at most 4"),
        (["calibrate", "MODEL"], "this model lies apart from its run, so its cohort is unknown; name its cohort"),
        (["calibrate", "MODEL", "--measure"], "measure needs a run folder and uses its own test cases"),
        (
            ["predict", "PLAIN", "SCAN", "-o", "OUT", "--modality", "CT", "--expected-dsc"],
            "learn it with: amos-fl calibrate",
        ),
        (
            ["predict", "RUN", "SCAN", "-o", "OUT", "--modality", "CT", "--expected-dsc", "--mirror"],
            "was learned with mirror False",
        ),
        (["predict", "OTHER", "SCAN", "-o", "OUT", "--modality", "CT", "--expected-dsc"], "is of other weights"),
        (["predict", "DAMAGED", "SCAN", "-o", "OUT", "--modality", "CT", "--expected-dsc"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    line: list[str],
    words: str,
    calibrated: Path,
    finished_run: Path,
    tiny_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("model", "damaged", "other"):
        shutil.copytree(calibrated / "model", tmp_path / name)
    (tmp_path / "damaged/calibration.json").write_text('{"copies": 7}')
    about = json.loads((tmp_path / "other/calibration.json").read_text())
    (tmp_path / "other/calibration.json").write_text(json.dumps({**about, "weights_sha256": "0" * 64}))
    names = {
        "RUN": calibrated,
        "PLAIN": finished_run,
        "MODEL": tmp_path / "model",
        "OTHER": tmp_path / "other",
        "DAMAGED": tmp_path / "damaged",
        "SCAN": scan_of(tiny_root, "A"),
        "OUT": tmp_path / "out",
    }
    assert run([str(names.get(word, word)) for word in line]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_too_few_validation_cases_are_said(copied: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cohort = read_cohort(copied)
    shutil.copytree(copied / "model", copied.parent / "model")
    others = tuple(case for case in cohort.cases if (case.site, case.split) != ("G", "val"))
    write_cohort(replace(cohort, cases=others), copied.parent / "scans/cohort.csv")
    few = ["calibrate", str(copied.parent / "model"), "--cohort", str(copied.parent / "scans"), "--store", str(store)]
    assert run(few) == 2
    assert "1 validation case" in capsys.readouterr().err
