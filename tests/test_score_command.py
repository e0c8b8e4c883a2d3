"""`amos-fl score`, as a user types it."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from amos_fl.cli.main import run
from amos_fl.cohort.table import PHANTOM_MARK
from amos_fl.metrics.table import read_scores


def save(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([2.0, 2.0, 5.0, 1.0])), path)


def block(shift: int = 0, organs: tuple[int, int] = (6, 15)) -> np.ndarray:
    labels = np.zeros((14, 10, 6), np.uint8)
    for organ, start in zip(organs, (1, 7), strict=True):
        labels[start + shift : start + 3 + shift, 2:6, 1:4] = organ
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`pred` and `labels` with two CT cases and an MR case under AMOS's names; the last CT case is off by a voxel."""
    for name, shift in (("amos_0001", 0), ("amos_0004", 1), ("amos_0600", 0)):
        save(tmp_path / "labels" / f"{name}.nii.gz", block())
        save(tmp_path / "pred" / f"{name}.nii.gz", block(shift))
    return tmp_path


def score(*arguments: object) -> int:
    return run(["score", *map(str, arguments), "--workers", "1"])


def told(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_tables_and_files_say_the_same(folders, capsys):
    out = folders / "out"
    assert score(folders / "pred", folders / "labels", "--out", out) == 0
    shown = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    scores = {case.case: case.scores for case in read_scores(out / "scores.csv")}
    assert scores["amos_0004"][6].dsc == pytest.approx(2 / 3)
    assert scores["amos_0004"][6].hd95_mm == 2.0
    assert summary["overall"]["dsc"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert summary["scores"]["amos_0004"]["liver"]["dsc"] == scores["amos_0004"][6].dsc
    with (out / "by_organ.csv").open(newline="") as file:
        liver = next(row for row in csv.DictReader(file) if row["name"] == "liver")
    assert float(liver["dsc"]) == pytest.approx(8 / 9)
    assert "0.889" in shown
    assert "the modality of 3 cases is unknown" in shown


def test_a_second_run_replaces_the_first(folders, capsys):
    for tolerance in ("1", "2"):
        assert score(folders / "pred", folders / "labels", "--out", folders / "out", "--tolerance-mm", tolerance) == 0
    assert json.loads((folders / "out" / "summary.json").read_text())["settings"]["tolerance_mm"] == 2.0


def test_json_goes_to_stdout_alone(folders, capsys):
    assert score(folders / "pred", folders / "labels", "--json", "--modality", "MR") == 0
    summary = told(capsys)
    assert [line["name"] for line in summary["organs"] if line["cases"]][-1] == "duodenum"  # 13 organs in MR
    assert summary["notes"] == []


def test_the_metadata_table_tells_men_from_women_and_ct_from_mr(folders, capsys):
    table = folders / "labeled_data_meta_0000_0599.csv"
    table.write_text(
        "amos_id,Patient's Birth Date,Patient's Sex,Patient's Age,Manufacturer's Model Name,Manufacturer,"
        "Acquisition Date,Site\n"
        "1,19500101,M,070Y,Aquilion ONE,TOSHIBA,20200101,center\n"
        "4,19500102,F,070Y,Aquilion ONE,TOSHIBA,20200101,center\n"
        "600,19500103,F,070Y,Ingenia,Philips,20200101,center\n"
    )
    assert score(folders / "pred", folders / "labels", "--metadata", table, "--json") == 0
    summary = told(capsys)
    lines = {line["name"]: line for line in summary["organs"] if line["over"] == "all" and line["scored"]}
    assert {name: (line["cases"], round(line["dsc"], 3)) for name, line in lines.items()} == {
        "liver": (3, 0.889),
        "prostate/uterus": (2, 0.833),
        "prostate": (1, 1.0),
        "uterus": (1, 0.667),
    }
    assert summary["notes"] == ["the patient's sex is known for 3 of 3 cases"]
    assert "19500101" not in json.dumps(summary)


def test_a_cohort_gives_sites_and_seen_and_unseen_scanners(tiny_root, tiny_cohort, tmp_path, capsys):
    for case in tiny_cohort.of(split="test"):
        (tmp_path / f"{case.case}.nii.gz").symlink_to(case.label)
    options = ("--cohort", tiny_root, "--split", "test", "--hold-out", "G", "--out", tmp_path / "out")
    assert score(tmp_path, *options) == 0
    shown = capsys.readouterr().out
    assert "by site" in shown
    assert {case.site: case.seen for case in read_scores(tmp_path / "out" / "scores.csv")} == {
        "A": True,
        "D": False,
        "G": False,
    }
    with (tmp_path / "out" / "by_site.csv").open(newline="") as file:
        rows = [(row["name"], row["cases"], row["dsc"]) for row in csv.DictReader(file)]
    assert rows[:3] == [("A", "1", "1.0"), ("D", "1", "1.0"), ("G", "1", "1.0")]
    assert [name for name, *_ in rows[3:]] == ["seen CT", "unseen CT", "unseen MR"]


def test_everything_that_is_wrong_is_listed_at_once_and_nothing_is_written(folders, capsys):
    (folders / "pred" / "amos_0001.nii.gz").unlink()
    save(folders / "pred" / "amos_0004.nii.gz", block()[:, :, :4])
    save(folders / "pred" / "amos_0600.nii.gz", block(organs=(6, 16)))
    save(folders / "pred" / "amos_0007.nii.gz", block())
    assert score(folders / "pred", folders / "labels", "--out", folders / "out") == 2
    said = capsys.readouterr()
    for words in ("amos_0001", "missing", "14x10x4", "holds the label 16", "amos_0007", "--allow-extra"):
        assert words in said.out
    assert said.err.endswith("amos-fl: nothing is scored: 4 problems\n")
    assert not (folders / "out").exists()
    assert score(folders / "pred", folders / "labels", "--json") == 2
    assert [problem["case"] for problem in told(capsys)["problems"]] == [
        "amos_0001",
        "amos_0004",
        "amos_0007",
        "amos_0600",
    ]


def test_missing_predictions_count_as_missed_where_that_is_allowed(folders, capsys):
    (folders / "pred" / "amos_0001.nii.gz").unlink()
    save(folders / "pred" / "amos_0007.nii.gz", block())
    allowed = ("--allow-missing", "--allow-extra", "--json")
    assert score(folders / "pred", folders / "labels", "--modality", "CT", *allowed) == 0
    summary = told(capsys)
    assert summary["overall"]["dsc"] == pytest.approx((0 + 2 / 3 + 1) / 3)
    assert (summary["overall"]["missed"], summary["missing"], summary["left_aside"]) == (
        2,
        ["amos_0001"],
        ["amos_0007"],
    )
    assert any("counted as missed: amos_0001" in note for note in summary["notes"])


def test_some_organs_and_the_rule_of_flare(folders, capsys):
    options = ("--modality", "CT", "--organs", "liver,spleen", "--both-empty", "one", "--json")
    assert score(folders / "pred", folders / "labels", *options) == 0
    summary = told(capsys)
    assert summary["settings"]["organs"] == ["spleen", "liver"]
    assert summary["overall"]["dsc"] == pytest.approx((1 + 8 / 9) / 2)


def test_scores_of_a_phantom_say_that_they_are(folders, capsys):
    (folders / "dataset.json").write_text(json.dumps({"description": PHANTOM_MARK}))
    assert score(folders / "pred", folders / "labels") == 0
    assert "synthetic" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--split", "all"], "--split is 'all': choose train, val or test"),
        (["--split", "test"], "--split: needs a --cohort"),
        (["--hold-out", "A"], "--hold-out: needs a --cohort"),
        (["--modality", "PET"], "--modality is 'PET': choose CT or MR"),
        (["--both-empty", "zero"], "--both-empty is 'zero': choose excluded or one"),
        (["--organs", "heart"], "--organs: no organ 'heart'"),
        (["--tolerance-mm", "wide"], "--tolerance-mm wide: is neither a number of mm nor a file"),
        (["--tolerance-mm", "-1"], "tolerance is -1.0 mm"),
        (["--cohort", "none.csv"], "none.csv: no such cohort file"),
        (["--metadata", "none.csv"], "none.csv: no such metadata table"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_sentence(folders, capsys, options, said):
    assert score(folders / "pred", folders / "labels", *options) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_folders_that_are_none_are_refused_in_one_sentence(folders, capsys):
    assert score(folders / "none", folders / "labels") == 2
    assert score(folders / "pred") == 2
    error = capsys.readouterr().err
    assert "none: no such folder or file of predictions" in error
    assert "give a --cohort" in error
    assert error.count("\n") == 2
