"""`amos-fl annotate`: what networks draw, people correct, and nothing that a person drew is ever replaced."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import ORGANS
from federations import hashes
from labelling import OPEN, Desk, correct, draw, open_cohort, said, voxels

from amos_fl.annotate.enlarge import enlarge
from amos_fl.annotate.need import vote
from amos_fl.annotate.prelabel import begin_round, prelabel_round
from amos_fl.annotate.state import project_state
from amos_fl.cohort.table import read_cohort
from amos_fl.errors import AmosError, Interrupted
from amos_fl.runs.folder import RunFolder


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(folder)): f.read_bytes()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and f.suffix != ".lock"
    }


# --- pre-labels -----------------------------------------------------------------------------------


def test_every_scan_without_a_label_gets_a_pre_label_on_its_own_grid(desk: Desk, tiny_root: Path) -> None:
    drawn = sorted((desk.path / "rounds/round_01/prelabels").iterdir())
    assert [file.name for file in drawn] == [f"{case}.nii.gz" for case in OPEN]
    for file in drawn:
        scan = nib.Nifti1Image.from_filename(tiny_root / "images" / file.name)
        label = nib.Nifti1Image.from_filename(file)
        np.testing.assert_array_equal(label.affine, scan.affine)
        assert label.shape == scan.shape
        assert set(np.unique(voxels(file))) <= {0, *ORGANS}
    assert any(voxels(file).any() for file in drawn)


def test_a_second_start_changes_nothing(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    before = all_bytes(desk.path)
    assert desk.start() == 0
    assert "0 pre-labelled, 3 already there" in capsys.readouterr().out
    assert all_bytes(desk.path) == before


def test_a_start_that_was_interrupted_goes_on_where_it_was(
    finished_run: Path, begun: Path, tiny_root: Path, tmp_path: Path
) -> None:
    from amos_fl.annotate.members import read_members
    from amos_fl.annotate.project import create_project

    project = create_project(tmp_path / "p", read_cohort(open_cohort(tiny_root, tmp_path)), ORGANS)
    members = read_members([str(finished_run)], project.cohort)
    round_ = begin_round(project, members)

    def stop(member: str, case: str, done: int, total: int) -> None:
        if case == OPEN[1]:
            raise Interrupted

    with pytest.raises(Interrupted):
        list(prelabel_round(project, round_, members, inference=lambda m: m.model.inference, on_window=stop))
    first = next(project.round(1).glob(f"members/*/{OPEN[0]}.nii.gz"))
    before = first.stat().st_mtime_ns
    desk = Desk(project.path, tiny_root)
    assert desk.start() == 0
    assert first.stat().st_mtime_ns == before
    for case in OPEN:
        assert (
            project.prelabel(1, case).read_bytes() == (begun / f"rounds/round_01/prelabels/{case}.nii.gz").read_bytes()
        )


def test_a_pre_label_that_was_written_but_not_entered_is_entered_by_the_next_start(desk: Desk) -> None:
    lines = desk.project.ledger.read_text().splitlines(keepends=True)
    desk.project.ledger.write_text("".join(lines[:-1]))
    assert desk.start() == 0
    again = desk.project.ledger.read_text().splitlines()
    old, new = json.loads(lines[-1]), json.loads(again[-1])
    assert {**old, "time": None} == {**new, "time": None}


def test_a_pre_label_in_which_somebody_drew_is_kept_and_named(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    file = desk.project.prelabel(1, OPEN[0])
    file.chmod(0o644)
    correct(file, desk.truth(OPEN[0]), (1,))
    drawn = file.read_bytes()
    assert desk.start() == 2
    assert "was changed after it was drawn, and is left as it is; move it to work/NAME/" in said(capsys)
    assert desk.do("next", "--by", "anna", "--role", "junior", "--case", OPEN[0]) == 2
    assert file.read_bytes() == drawn


def test_a_pre_label_is_not_handed_out_with_another_scan_under_its_name(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = desk.project.case(OPEN[0]).image
    kept = scan.read_bytes()
    try:
        image = nib.Nifti1Image.from_filename(scan)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine), scan)
        assert desk.start() == 2
        assert desk.do("next", "--by", "anna", "--role", "junior", "--case", OPEN[0]) == 2
        told = said(capsys)
        assert told.count("is another scan than the one that was pre-labelled") == 2
    finally:
        scan.write_bytes(kept)
    assert desk.start() == 0


def test_an_ensemble_votes_and_ties_go_to_the_first() -> None:
    a, b, c = (np.array([[[*row]]], np.uint8) for row in ((1, 1, 0), (2, 1, 2), (2, 3, 1)))
    assert vote([a, b, c]).ravel().tolist() == [2, 1, 0]
    assert vote([c, b]).ravel().tolist() == [2, 3, 1]


def test_checkpoints_of_a_run_make_an_ensemble(
    finished_run: Path, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(tmp_path / "p", tiny_root)
    networks = ["--run", f"{finished_run}@1", "--run", f"{finished_run}@2"]
    assert desk.start("--cohort", str(open_cohort(tiny_root, tmp_path)), *networks) == 0
    assert "pre-labels by run-round-1 (round 1) and run-round-2 (round 2)" in capsys.readouterr().out
    assert sorted(f.name for f in (desk.path / "rounds/round_01/members").iterdir()) == ["run-round-1", "run-round-2"]
    assert desk.start("--run", f"{finished_run}@9") == 2
    assert "no checkpoint of round 9; there are 1, 2" in said(capsys)
    assert desk.start("--run", f"{finished_run}@2") == 2
    assert "round 1 was begun with run-round-1, run-round-2" in said(capsys)


# --- what a person drew ---------------------------------------------------------------------------


def test_a_working_copy_with_changes_is_never_replaced(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    file = desk.take("anna", OPEN[0])
    assert file.read_bytes() == desk.project.prelabel(1, OPEN[0]).read_bytes()
    correct(file, desk.truth(OPEN[0]), (1,))
    drawn = file.read_bytes()
    assert desk.start() == 0
    assert desk.do("release", OPEN[0], "--by", "anna") == 0
    assert "holds changes that were never imported; they stay there" in capsys.readouterr().out
    assert desk.do("next", "--by", "anna", "--role", "junior", "--case", OPEN[0]) == 2
    assert "holds changes that were never imported, so it is not replaced" in said(capsys)
    assert file.read_bytes() == drawn
    assert desk.bring("anna") == 0
    assert file.read_bytes() == drawn
    assert (desk.path / desk.imports()[0].file).read_bytes() == drawn


def test_every_import_is_a_version_of_its_own(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    file = desk.take("anna", OPEN[0])
    contents = []
    for organs in ((1,), (1, 2)):
        correct(file, desk.truth(OPEN[0]), organs)
        contents.append(file.read_bytes())
        assert desk.bring("anna", str(file)) == 0
    (desk.project.versions(OPEN[0]) / f"{OPEN[0]}_v03_junior_anna.nii.gz").write_bytes(b"left by a kill")
    draw(file, desk.truth(OPEN[0]) * 0 + 1)
    assert desk.bring("anna", str(file)) == 0
    events = desk.imports()
    assert [(event.version, event.by, event.role) for event in events] == [(n, "anna", "junior") for n in (1, 2, 4)]
    for event, content in zip(events, contents, strict=False):
        kept = desk.path / event.file
        assert kept.read_bytes() == content
        assert not kept.stat().st_mode & 0o222
    assert (desk.project.versions(OPEN[0]) / f"{OPEN[0]}_v03_junior_anna.nii.gz").read_bytes() == b"left by a kill"
    capsys.readouterr()
    assert desk.bring("anna", str(file)) == 0
    assert "is already version 4" in capsys.readouterr().out
    assert len(desk.imports()) == 3


def test_a_version_that_was_changed_is_not_trained_on(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    file = desk.take("anna", OPEN[0])
    assert desk.bring("anna", str(file)) == 0
    kept = desk.path / desk.imports()[0].file
    kept.chmod(0o644)
    correct(kept, desk.truth(OPEN[0]), (1,))
    assert desk.do("retrain") == 2
    assert "is gone or was changed after its import; restore it from a copy" in said(capsys)
    assert desk.start() == 0


# --- retraining, and the next round ---------------------------------------------------------------


def test_retraining_goes_on_from_the_weights_and_the_next_round_uses_the_new_run(
    desk: Desk, finished_run: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for case in OPEN:
        correct(desk.take("anna", case), desk.truth(case), (1, 2))
    assert desk.bring("anna") == 0
    untouched = all_bytes(desk.path / "work") | all_bytes(desk.path / "versions")
    options = ["--rounds", "1", "--local-steps", "2", "--store", str(store)]
    assert desk.do("retrain", *options) == 0
    out = desk.path / "rounds/round_01/runs/round-01"
    about = json.loads((out / "versions.json").read_text())
    assert about["start_sha256"] == project_state(desk.project).rounds[0].members[0].weights_sha256
    ledger = json.loads((out / "ledger.jsonl").read_text().splitlines()[0])
    assert {site: entry["cases"] for site, entry in ledger["sites"].items()} == {"A": 3, "B": 1, "G": 2}
    capsys.readouterr()
    assert desk.do("retrain", *options) == 0
    assert "round 1 is already retrained" in capsys.readouterr().out

    assert desk.start() == 0
    assert "round 2: pre-labels by round-01" in capsys.readouterr().out
    assert desk.do("retrain") == 2
    assert "nothing was imported since the last retraining" in said(capsys)
    assert all_bytes(desk.path / "work") | all_bytes(desk.path / "versions") == untouched


def test_a_retraining_that_was_interrupted_is_continued(
    desk: Desk, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    correct(desk.take("anna", OPEN[0]), desk.truth(OPEN[0]), (1, 2))
    assert desk.bring("anna") == 0
    options = ["--rounds", "2", "--local-steps", "1", "--store", str(store)]
    assert desk.do("retrain", *options) == 0
    run = desk.path / "rounds/round_01/runs/round-01"
    weights = hashes(RunFolder(run))
    # As a kill in the second round leaves it.
    lines = desk.project.ledger.read_text().splitlines(keepends=True)
    desk.project.ledger.write_text("".join(lines[:-1]))
    for leftover in ("model", "checkpoints/round_0002", "evaluations"):
        shutil.rmtree(run / leftover)
    (run / "summary.md").unlink()
    assert desk.do("retrain", *options) == 2
    assert "continues with its own settings; leave out local_steps, rounds" in said(capsys)
    assert desk.do("status") == 0
    assert "the retraining of round 1 is not finished" in capsys.readouterr().out
    assert desk.do("retrain", "--store", str(store)) == 0
    assert hashes(RunFolder(run)) == weights
    assert desk.project.ledger.read_text().count('"retrained"') == 1


def test_only_what_a_senior_reviewed_is_trained_on_where_that_is_asked(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    correct(desk.take("anna", OPEN[0]), desk.truth(OPEN[0]), (1, 2))
    assert desk.bring("anna") == 0
    assert desk.do("retrain", "--reviewed") == 2
    assert "no correction a senior has reviewed yet" in said(capsys)
    desk.take("clara", OPEN[0], role="senior")
    assert desk.bring("clara", str(desk.path / f"work/clara/{OPEN[0]}.nii.gz"), "--organs", "2", role="senior") == 0
    cohort = enlarge(desk.project, project_state(desk.project), reviewed=True)
    assert next(case for case in cohort.cases if case.case == OPEN[0]).annotated == (2,)


# --- what is shown --------------------------------------------------------------------------------


def test_status_and_report_show_rounds_organs_and_people(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    correct(desk.take("anna", OPEN[0]), desk.truth(OPEN[0]), (1,))
    assert desk.bring("anna", "--organs", "ball") == 0
    desk.take("ben", OPEN[1])
    capsys.readouterr()
    assert desk.do("status") == 0
    shown = capsys.readouterr().out
    assert "3 cases without a label in the cohort: 1 waiting, 1 with a junior, 1 for review" in shown
    assert desk.do("report") == 0
    page = (desk.path / "report.html").read_text()
    for words in ("Round by round", "By organ", "By person", "Cases", "anna", "ben", "for review"):
        assert words in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    changes = (desk.path / "report_data/changes.csv").read_text()
    assert changes.count("pre-label,ball") == 1
    people = (desk.path / "report_data/people.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in people[1:]] == [["anna", "junior"], ["ben", "junior"]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["start", "{tmp}/new"], "start one with --cohort COHORT and --run RUN"),
        (["start", "{tmp}/new", "--cohort", "{tiny}", "--run", "{run}"], "every case of the cohort has a label map"),
        (["start", "{tmp}/new", "--cohort", "{open}", "--run", "{tmp}/none"], "no such folder"),
        (["start", "{project}", "--organs", "1"], "this project is about ball, box"),
        (["queue", "{tmp}"], "holds no labelling project"),
        (["next", "{project}", "--by", "a/b", "--role", "junior"], "a name holds letters, digits"),
        (
            ["next", "{project}", "--by", "a", "--role", "junior", "--case", "a_train_0"],
            "has a label map in the cohort",
        ),
        (["next", "{project}", "--by", "a", "--role", "junior", "--case", "nobody"], "no such case in"),
        (["import", "{project}", "--by", "a", "--role", "junior"], "holds no NIfTI file"),
        (["import", "{project}", "{tmp}", "--by", "a", "--role", "junior"], "named after a case"),
        (
            ["import", "{project}", "{tiny}/labels/a_test_8.nii.gz", "--by", "a", "--role", "junior"],
            "has a label map in",
        ),
        (["import", "{project}", "--by", "a", "--role", "junior", "--organs", "liver"], "no organ 'liver'"),
        (["release", "{project}", "a_train_1", "--by", "a"], "is not with a; nobody has it"),
        (["retrain", "{project}"], "no correction has been imported yet"),
    ],
)
def test_wrong_input_gets_one_sentence(
    arguments: list[str],
    sentence: str,
    begun: Path,
    tiny_root: Path,
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from amos_fl.cli.main import run

    places = {"tmp": tmp_path, "tiny": tiny_root, "open": begun.parent / "cohort.csv", "project": begun}
    filled = [text.format(run=finished_run, **places) for text in arguments]
    before = all_bytes(begun)
    assert run(["annotate", *filled]) == 2
    assert sentence in " ".join(said(capsys).split())
    assert not (tmp_path / "new").exists()
    assert all_bytes(begun) == before


def test_new_scans_join_a_project_and_another_scan_under_an_old_name_does_not(
    desk: Desk, tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = desk.path.parent / "more.csv"
    text = (desk.path.parent / "cohort.csv").read_text()
    row = next(line for line in text.splitlines() if line.startswith(OPEN[0]))
    cohort.write_text(text + row.replace(OPEN[0], "late", 1) + "\n")
    (cohort.parent / "organs.csv").write_text("label,organ\n1,ball\n2,box\n")
    assert desk.start("--cohort", str(cohort)) == 0
    assert "1 new case in the project" in capsys.readouterr().out
    assert desk.project.prelabel(1, "late").is_file()
    cohort.write_text(text.replace(f"images/{OPEN[0]}", "images/a_test_8"))
    assert desk.start("--cohort", str(cohort)) == 2
    assert "give the new scan another name" in said(capsys)


def test_a_case_that_was_taken_out_of_the_project_is_left_out(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    file = desk.path / "cohort.csv"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith(OPEN[0])))
    assert desk.do("status") == 0
    assert "2 cases without a label in the cohort: 2 waiting" in capsys.readouterr().out


def test_a_ledger_line_that_is_no_event_is_named(desk: Desk) -> None:
    with desk.project.ledger.open("a") as file:
        file.write("{}\n")
    with pytest.raises(AmosError, match=r"ledger.jsonl, line \d+: is not an event"):
        desk.project.events()
