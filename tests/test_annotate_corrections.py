"""Corrections as people bring them back: checked, measured, and put together."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import ORGANS
from labelling import OPEN, Desk, correct, draw, said, voxels

from amos_fl.annotate.compose import composed
from amos_fl.annotate.corrections import read_correction, renumbered
from amos_fl.annotate.enlarge import enlarge
from amos_fl.annotate.state import project_state
from amos_fl.metrics import dsc, nsd


def _shifted(file: Path) -> None:
    affine = np.array(nib.Nifti1Image.from_filename(file).affine)
    affine[0, 3] += 12
    draw(file, voxels(file), affine)


def _fractional(file: Path) -> None:
    draw(file, voxels(file).astype(np.float32) + 0.5)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGES = {
    "misaligned": (_shifted, "the correction lies 12.0 mm away from its scan; the two must share a grid: open it"),
    "cropped": (
        lambda f: draw(f, voxels(f)[:-1]),
        "the correction is 23x22x20, scan 24x22x20; the two must share a grid",
    ),
    "unknown label": (
        lambda f: draw(f, np.where(voxels(f) == 1, 7, voxels(f)).astype(np.uint8)),
        "holds the label 7, which is not an organ of this cohort; use the label values 1 to 2 and 0 only",
    ),
    "truncated": (_cut, "is truncated or damaged; open it in the viewer together with its scan, and save"),
    "fractional": (_fractional, "holds values that are not whole numbers"),
    "text": (lambda f: f.write_text("no NIfTI"), "is not a NIfTI file; open it in the viewer"),
    "empty": (lambda f: draw(f, voxels(f) * 0), "nothing is drawn in it"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_correction_is_refused_with_its_reason(
    desk: Desk, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = desk.take("anna", OPEN[0])
    correct(file, desk.truth(OPEN[0]), (1, 2))
    spoil, reason = DAMAGES[damage]
    spoil(file)
    spoiled = file.read_bytes()
    capsys.readouterr()
    assert desk.bring("anna") == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"amos-fl: {file.name}: ")
    assert reason in sentence
    assert "Traceback" not in sentence
    assert file.read_bytes() == spoiled
    assert desk.imports() == []
    assert not desk.project.versions(OPEN[0]).exists()


def test_labels_that_a_viewer_numbered_anew_are_noticed_and_two_swapped_kidneys_are_not() -> None:
    before = np.arange(6, dtype=np.uint8)[:, None, None] * np.ones((1, 5, 5), np.uint8)
    anew = np.array([0, 1, 2, 0, 3, 4], np.uint8)[:, None, None] * np.ones((1, 5, 5), np.uint8)
    assert renumbered(before, anew) == {3: 4, 4: 5}
    swapped = np.array([0, 1, 3, 2, 4, 5], np.uint8)[:, None, None] * np.ones((1, 5, 5), np.uint8)
    assert renumbered(before, swapped) == {2: 3, 3: 2}
    assert renumbered(before, before) == {}


def test_one_refused_file_does_not_keep_the_others_out(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    files = [desk.take("anna", case) for case in OPEN[:2]]
    for file, case in zip(files, OPEN, strict=False):
        correct(file, desk.truth(case), (1, 2))
    _shifted(files[0])
    assert desk.bring("anna") == 2
    assert "2 files: 1 imported, 1 refused" in capsys.readouterr().out
    assert [event.case for event in desk.imports()] == [OPEN[1]]


def test_what_a_folder_holds_beside_corrections_is_named_and_twins_are_refused(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "drawn"
    folder.mkdir()
    for case, names in ((OPEN[0], ["{}.NII.GZ"]), (OPEN[1], ["{}.nii.gz", "{}.nii"])):
        file = desk.take("anna", case)
        correct(file, desk.truth(case), (1, 2))
        for name in names:
            image = nib.Nifti1Image.from_filename(file)
            image.to_filename(folder / name.format(case))
    (folder / "nobody.nii.gz").write_bytes(b"of no case")
    (folder / "lost.nii.gz").symlink_to("gone.nii.gz")
    capsys.readouterr()
    assert desk.bring("anna", str(folder)) == 2
    told = said(capsys)
    assert f"{OPEN[1]}.nii and {OPEN[1]}.nii.gz are one case; keep the right one" in told
    assert "2 files: 1 imported, 1 refused" in told
    assert "note: 2 files skipped, not named after a case that waits for labels: nobody.nii.gz, lost.nii.gz" in told
    assert [event.case for event in desk.imports()] == [OPEN[0]]
    twins = [str(folder / f"{OPEN[1]}{suffix}") for suffix in (".nii.gz", ".nii")]
    assert desk.bring("anna", *twins) == 2
    assert "are one case; name the right one" in said(capsys)
    assert desk.bring("anna", twins[0]) == 0


def test_another_orientation_of_the_grid_and_a_float_file_are_the_same_correction(desk: Desk) -> None:
    file = desk.take("anna", OPEN[0])
    drawn = correct(file, desk.truth(OPEN[0]), (1, 2))
    affine = nib.Nifti1Image.from_filename(file).affine
    turned = affine @ np.array([[0, 0, -1, 23], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    draw(file, drawn.transpose(1, 2, 0)[:, :, ::-1].astype(np.float32), turned)
    read = read_correction(file, desk.project.case(OPEN[0]), ORGANS)
    np.testing.assert_array_equal(read.array, drawn)


def test_what_was_changed_is_measured_by_organ_and_by_person(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    file = desk.take("anna", OPEN[0])
    before = voxels(file).copy()
    after = correct(file, desk.truth(OPEN[0]), (1, 2))
    assert desk.bring("anna", "--comment", "box unclear") == 0
    event = desk.imports()[0]
    assert (event.by, event.role, event.organs, event.began_from) == ("anna", "junior", (1, 2), "pre-label")
    assert (event.comment, event.minutes) == ("box unclear", pytest.approx(0, abs=2))
    for organ, change in event.change.items():
        was, now = before == organ, after == organ
        assert change.dsc == pytest.approx(dsc(was, now), abs=1e-6)
        assert change.nsd == pytest.approx(nsd(was, now, (8, 8, 8), 1.0), abs=1e-6)
        assert change.before_ml == pytest.approx(was.sum() * 0.512, abs=1e-3)
        assert change.after_ml == pytest.approx(now.sum() * 0.512, abs=1e-3)
        assert change.changed_ml == pytest.approx((was != now).sum() * 0.512, abs=1e-3)
    assert event.change == event.from_prelabel
    shown = capsys.readouterr().out
    assert "ball" in shown
    assert "against the pre-label" in shown


def test_a_partial_correction_counts_for_its_organs_alone(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    file = desk.take("anna", OPEN[0])
    drawn = correct(file, desk.truth(OPEN[0]), (1, 2))
    assert desk.bring("anna", "--organs", "ball") == 0
    assert "box changed too, but is not among the annotated organs" in capsys.readouterr().out
    state = project_state(desk.project)
    cohort = enlarge(desk.project, state, reviewed=False)
    case = next(case for case in cohort.cases if case.case == OPEN[0])
    assert (case.annotated, case.split, case.site) == ((1,), "train", "A")
    assert case.label is not None
    np.testing.assert_array_equal(voxels(case.label), np.where(drawn == 1, 1, 0))
    assert [c.case for c in cohort.cases if c.label is None] == list(OPEN[1:])


def test_what_several_people_drew_is_put_together(desk: Desk) -> None:
    truth = desk.truth(OPEN[0])
    file = desk.take("anna", OPEN[0])
    correct(file, truth, (1,))
    assert desk.bring("anna", "--organs", "1") == 0
    own = file.parents[1] / f"{OPEN[0]}.nii.gz"
    shutil.copy(file, own)
    draw(own, np.where(truth == 2, 2, 0).astype(np.uint8))
    assert desk.bring("ben", str(own), "--organs", "2") == 0
    state = project_state(desk.project).cases[OPEN[0]]
    together = composed(desk.project, desk.project.case(OPEN[0]), state, truth * 0)
    np.testing.assert_array_equal(together, truth)
    assert desk.imports()[1].began_from == "pre-label and 1 version"


def test_a_senior_reviews_what_another_person_drew(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    case, truth = OPEN[0], desk.truth(OPEN[0])
    file = desk.take("anna", case)
    correct(file, truth, (1,))
    assert desk.bring("anna", "--organs", "ball") == 0
    assert project_state(desk.project).cases[case].stage == "for review"
    assert desk.do("next", "--by", "anna", "--role", "senior", "--case", case) == 2
    assert "was corrected by anna; another person reviews it" in said(capsys)
    review = desk.take("clara", case, role="senior")
    np.testing.assert_array_equal(voxels(review) == 1, truth == 1)
    assert project_state(desk.project).cases[case].stage == "with a senior"
    assert desk.bring("dora", str(file), role="senior") == 2
    assert "is with clara" in said(capsys)
    draw(review, np.where(np.roll(truth == 1, 1, axis=0), 1, 0).astype(np.uint8))
    assert desk.bring("clara", role="senior") == 0
    event = desk.imports()[1]
    assert (event.organs, event.began_from) == ((1,), "pre-label and 1 version")
    assert event.change[1].dsc == pytest.approx(dsc(truth == 1, np.roll(truth == 1, 1, axis=0)), abs=1e-6)
    assert event.change[1] != event.from_prelabel[1]
    state = project_state(desk.project).cases[case]
    assert (state.stage, state.complete, state.annotated("senior")) == ("done", False, (1,))
    correct(file, truth, (1, 2))
    assert desk.bring("anna", str(file), "--organs", "1") == 2
    assert "ball was reviewed by clara (senior), so a junior's correction of it is not taken" in said(capsys)


def test_a_review_in_two_sittings_without_a_change_is_two_versions_of_one_content(desk: Desk) -> None:
    case, truth = OPEN[0], desk.truth(OPEN[0])
    correct(desk.take("anna", case), truth, (1, 2))
    assert desk.bring("anna", "--organs", "1,2") == 0
    for organ in ("1", "2"):
        review = desk.take("clara", case, role="senior")
        assert desk.bring("clara", str(review), "--organs", organ, role="senior") == 0
        assert desk.bring("clara", str(review), "--organs", organ, role="senior") == 0  # known by now
    reviews = desk.imports()[1:]
    assert [event.organs for event in reviews] == [(1,), (2,)]
    assert len({event.sha256 for event in reviews}) == 1
    state = project_state(desk.project).cases[case]
    assert (state.in_hand, state.annotated("senior")) == (None, (1, 2))


def test_a_file_as_it_was_handed_out_counts_only_where_it_is_named(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    file = desk.take("anna", OPEN[0])
    capsys.readouterr()
    assert desk.bring("anna") == 0
    assert "is as it was handed out; name the file if nothing is to be corrected" in capsys.readouterr().out
    assert desk.imports() == []
    assert desk.bring("anna", str(file)) == 0
    assert {change.changed_ml for change in desk.imports()[0].change.values()} == {0.0}
