"""`amos-fl evaluate` as a user types it: a run's own scores again, other cohorts, and plain words for wrong input."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import write_tiny_cohort

from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort, read_cohort, write_cohort
from amos_fl.metrics.table import read_scores


def evaluated(finished_run: Path, out: Path, store: Path, *more: str) -> dict:
    assert run(["evaluate", str(finished_run), "--out", str(out), "--store", str(store), *more]) == 0
    return json.loads((out / "evaluation.json").read_text())


def test_a_runs_own_test_cases_give_its_own_scores_to_the_byte(
    finished_run: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    about = evaluated(finished_run, out, store)
    printed = capsys.readouterr().out
    for words in ("Test scores by site", "seen: A G; unseen: D", "the best on the seen sites' validation cases"):
        assert words in printed
    for name in ("scores.csv", "scores_by_site.csv", "scores_by_organ.csv"):
        assert (out / name).read_bytes() == (finished_run / name).read_bytes(), name
    assert any(score.dsc > 0 for case in read_scores(out / "scores.csv") for score in case.scores.values())
    assert (about["split"], about["sites"], about["tolerance_mm"]) == ("test", ["A", "B", "D", "G"], 1.0)
    assert "seen MR" in (out / "summary.md").read_text()


def test_a_copied_model_needs_a_cohort_and_gives_the_same_scores(
    finished_run: Path, tiny_root: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_run / "model", tmp_path / "model")
    assert run(["evaluate", str(tmp_path / "model"), "--out", str(tmp_path / "out")]) == 2
    assert "name its cohort" in capsys.readouterr().err
    evaluated(tmp_path / "model", tmp_path / "out", store, "--cohort", str(tiny_root), "--seen", "A,B,G")
    assert (tmp_path / "out/scores.csv").read_bytes() == (finished_run / "scores.csv").read_bytes()
    evaluated(tmp_path / "model", tmp_path / "unseen", store, "--cohort", str(tiny_root))
    assert not any(case.seen for case in read_scores(tmp_path / "unseen/scores.csv"))


def test_sites_split_and_tolerance_are_as_asked(finished_run: Path, store: Path, tmp_path: Path) -> None:
    asked = ("--sites", "A,G", "--split", "val")
    about = evaluated(finished_run, tmp_path / "out", store, *asked, "--tolerance-mm", "9", "--seen", "none")
    cases = read_scores(tmp_path / "out/scores.csv")
    assert [(case.case, case.seen, case.split) for case in cases] == [
        ("a_val_7", False, "val"),
        ("g_val_7", False, "val"),
    ]
    assert about["tolerance_mm"] == 9.0
    evaluated(finished_run, tmp_path / "strict", store, *asked)
    wide, strict = (
        [s.nsd for c in cs for s in c.scores.values()] for cs in (cases, read_scores(tmp_path / "strict/scores.csv"))
    )
    assert sum(map(float, np.nan_to_num(wide))) > sum(map(float, np.nan_to_num(strict)))


def test_training_cases_are_scored_with_a_warning(finished_run: Path, store: Path, tmp_path: Path) -> None:
    notes = evaluated(finished_run, tmp_path / "out", store, "--split", "train", "--sites", "B")["notes"]
    assert any("1 case of these 1 trained this network" in note for note in notes)


def other_cohort(folder: Path, organs: dict[int, str], values: dict[int, int], case: str = "a_test_8") -> Cohort:
    """The tiny cohort's case with its label values exchanged and its organs renamed, as another hospital has them."""
    tiny = write_tiny_cohort(folder)
    found = next(c for c in tiny.cases if c.case == case)
    assert found.label is not None
    label = nib.Nifti1Image.from_filename(found.label)
    before = np.asarray(label.dataobj)
    after = np.zeros_like(before)
    for old, new in values.items():
        after[before == old] = new
    after[0, 0, 0] = max(organs)  # an organ that the network does not know is there, too
    nib.save(nib.Nifti1Image(after, label.affine), found.label)
    write_cohort(Cohort((replace(found, annotated=tuple(organs)),), organs), folder / "cohort.csv")
    return read_cohort(folder)


def test_organs_are_matched_by_name_whatever_their_values(finished_run: Path, store: Path, tmp_path: Path) -> None:
    other_cohort(tmp_path / "other", {2: "Ball", 5: "spleen", 7: "box", 9: "liver"}, {1: 2, 2: 7})
    notes = evaluated(finished_run, tmp_path / "out", store, "--cohort", str(tmp_path / "other"))["notes"]
    assert "not scored, because only the cohort labels it: spleen, liver" in notes
    [mine] = read_scores(tmp_path / "out/scores.csv")
    theirs = next(case for case in read_scores(finished_run / "scores.csv") if case.case == "a_test_8")
    assert mine.scores == {2: theirs.scores[1], 7: theirs.scores[2]}
    with (tmp_path / "out/scores.csv").open(newline="") as file:
        assert [row["organ_name"] for row in csv.DictReader(file)] == ["Ball", "box"]


def test_an_organ_that_only_the_network_knows_is_not_held_against_it(
    finished_run: Path, store: Path, tmp_path: Path
) -> None:
    other_cohort(tmp_path / "other", {3: "ball", 4: "spleen"}, {1: 3})
    more = ("--cohort", str(tmp_path / "other"), "--predictions")
    notes = evaluated(finished_run, tmp_path / "out", store, *more)["notes"]
    assert "not scored, because only the network knows it: box" in notes
    [mine] = read_scores(tmp_path / "out/scores.csv")
    theirs = next(case for case in read_scores(finished_run / "scores.csv") if case.case == "a_test_8")
    assert mine.scores == {3: theirs.scores[1]}
    kept = nib.Nifti1Image.from_filename(tmp_path / "out/predictions/A/a_test_8.nii.gz")
    assert set(np.unique(np.asarray(kept.dataobj))) <= {0, 3}


def test_a_cohort_without_a_common_organ_is_refused(
    finished_run: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_cohort(tmp_path / "other", {3: "spleen", 4: "liver"}, {1: 3})
    command = ["evaluate", str(finished_run), "--cohort", str(tmp_path / "other"), "--store", str(store)]
    assert run([*command, "--out", str(tmp_path / "out")]) == 2
    assert "they share no organ by name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--split", "tset"], "--split is 'tset': choose train, val or test"),
        (["--sites", "Z"], "no site Z in this cohort; it has A, B, D, G"),
        (["--seen", "Y"], "no site Y in this cohort"),
        (["--sites", "B"], "no labelled test case at B"),
        (["--tolerance-mm", "0"], "--tolerance-mm is 0: must be a number, above 0"),
        (["--cohort", "nowhere"], "no such cohort file"),
        (["--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_wrong_input_is_one_plain_sentence_and_exit_code_2(
    finished_run: Path, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", str(finished_run), "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unfinished_run_and_a_taken_folder_are_refused(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished_run, tmp_path / "half")
    shutil.rmtree(tmp_path / "half/model")
    assert run(["evaluate", str(tmp_path / "half")]) == 2
    assert "half/model/network.json: is missing; copy it from" in capsys.readouterr().err
    (tmp_path / "half/summary.md").unlink()
    assert run(["evaluate", str(tmp_path / "half")]) == 2
    assert "has not finished" in capsys.readouterr().err
    assert run(["evaluate", str(finished_run), "--out", str(tmp_path / "half")]) == 2
    assert "already exists; choose another folder" in capsys.readouterr().err
