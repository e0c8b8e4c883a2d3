"""`amos-fl data dicom`: an export of an archive becomes a cohort, voxel by voxel, or says in a sentence why not."""

import csv
import gzip
import random
import stat
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom")

import pydicom
from dicom_cohorts import LIVER, SPLEEN, data_dicom, label_of, on, only_case, refused, solid
from dicom_series import write_enhanced
from fuzzing import SEED, Budget, flipped, judged
from pacs import (
    BIRTH,
    ID,
    NAME,
    STRAIGHT,
    box,
    ct_of,
    in_box,
    write_ct,
    write_rtstruct,
    write_seg,
)
from pydicom.uid import generate_uid

from amos_fl.cli.main import run

# --- what belongs to what ---------------------------------------------------------------------------


def liver_on(path: Path, slices: list[pydicom.Dataset], **tags: object) -> None:
    write_rtstruct(path, slices, STRAIGHT, {"liver": on(range(2, 9), box(*LIVER))}, **tags)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PatientID": "another"}, "is of another patient than its series"),
        ({"ReferencedFrameOfReferenceSequence": [], "StructureSetROISequence": []}, "names no series"),
    ],
)
def test_a_label_of_something_else_is_left_out_with_the_reason(
    tmp_path: Path, tags: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    liver_on(tmp_path / "export/RS", write_ct(tmp_path / "export"), **tags)
    refused(tmp_path, words, capsys)


def test_a_label_of_another_frame_of_reference_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slices = write_ct(tmp_path / "export")
    for ds in slices:
        ds.FrameOfReferenceUID = generate_uid()
    liver_on(tmp_path / "export/RS", slices)
    refused(tmp_path, "is of another frame of reference than its series", capsys)


def test_a_bad_series_or_label_takes_no_other_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = tmp_path / "export"
    for number in range(4):
        slices = write_ct(export / f"{number}/CT", seed=number, PatientID=f"P{number}")
        liver_on(export / f"{number}/RS", slices)
    (export / "1/RS").write_bytes((export / "1/RS").read_bytes()[:900])
    some = sorted((export / "2/CT").iterdir())[5]
    some.write_bytes(some.read_bytes()[:-200])
    (export / "stray.dcm").write_bytes(b"")
    liver_on(export / "lonely", write_ct(tmp_path / "elsewhere", seed=9))
    cohort = data_dicom(export)
    said = capsys.readouterr().out
    assert len(cohort.cases) == 2
    for words in (
        "RTSTRUCT in 1/RS: is cut off",
        "2/CT: 1 of 12 files cannot be used",
        "its series is left out (CT series 3 'abdomen')",
        "file in stray.dcm: is empty",
        "in lonely: its series is not in the export",
        "1/CT: no label refers to it",
    ):
        assert words in said, words
    with (tmp_path / "cohort-private/left_out.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 6


def test_an_organ_in_two_labels_of_a_series_waits_for_a_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slices = write_ct(tmp_path / "export")
    liver_on(tmp_path / "export/R1", slices, label="first reader")
    liver_on(tmp_path / "export/R2", slices, label="second reader")
    refused(tmp_path, "liver is in two of its labels, R1 and R2; choose one with --labels", capsys)
    assert only_case(data_dicom(tmp_path / "export", "--labels", "second")).annotated == (6,)


def test_labels_of_one_series_with_different_organs_are_joined(tmp_path: Path) -> None:
    slices = write_ct(tmp_path / "export")
    liver_on(tmp_path / "export/RS", slices)
    write_seg(tmp_path / "export/SEG", slices, {"spleen": solid(in_box(*SPLEEN), range(5, 8))})
    case = only_case(data_dicom(tmp_path / "export"))
    assert case.annotated == (1, 6)
    np.testing.assert_array_equal(label_of(case) == 1, solid(in_box(*SPLEEN), range(5, 8)))


def test_series_are_chosen_by_modality_and_description(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export = tmp_path / "export"
    for number, (modality, words) in enumerate([("CT", "Portal venous"), ("CT", "native"), ("MR", "T2 portal")]):
        tags = {"description": words, "modality": modality, "number": number + 1}
        slices = write_ct(export / str(number), seed=number, **tags)
        liver_on(export / f"RS{number}", slices)
    write_ct(export / "unlabelled", seed=8, description="portal late")
    assert only_case(data_dicom(export, "--modality", "CT", "--description", "portal")).modality == "CT"
    assert len(data_dicom(export, "--description", "*portal*").cases) == 2
    assert len(data_dicom(export, "--exclude", "native").cases) == 2
    with_all = data_dicom(export, "--unlabelled", "--site", "north")
    assert [case.split for case in with_all.cases if case.label is None] == ["test"]
    assert with_all.sites == ("north",)
    capsys.readouterr()
    assert run(["data", "dicom", str(export), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "3 series" in said
    assert "CT series 2 'native'" in said
    assert "in unlabelled: no label refers to it" in said


def test_an_enhanced_file_is_a_series_too(tmp_path: Path) -> None:
    ds = write_enhanced(tmp_path / "export/one", ct_of(0), STRAIGHT, PatientName=NAME)
    liver_on(tmp_path / "export/two", [ds])
    case = only_case(data_dicom(tmp_path / "export"))
    np.testing.assert_array_equal(label_of(case), 6 * solid(in_box(*LIVER), range(2, 9)))


# --- organs -----------------------------------------------------------------------------------------


def test_structures_become_organs_by_a_label_map_that_was_suggested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slices = write_ct(tmp_path / "export")
    shapes = {"Kidney_L": LIVER, "Milz": SPLEEN, "BODY": ((0.5, 0.5), (22, 18))}
    rois = {name: on(range(2, 9), box(*shape)) for name, shape in shapes.items()}
    write_rtstruct(tmp_path / "export/RS", slices, STRAIGHT, rois)
    suggestion = tmp_path / "map.csv"
    assert run(["data", "dicom", str(tmp_path / "export"), "--dry-run", "--suggestion", str(suggestion)]) == 0
    assert suggestion.read_text().splitlines() == ["organ,equals", "BODY,", "Kidney_L,left kidney", "Milz,"]
    assert only_case(data_dicom(tmp_path / "export")).annotated == (3,)
    suggestion.write_text(suggestion.read_text().replace("Milz,", "Milz,spleen"))
    assert only_case(data_dicom(tmp_path / "export", "--label-map", str(suggestion))).annotated == (1, 3)
    bundle = tmp_path / "organs.csv"
    bundle.write_text("label,organ\n1,left kidney\n2,milz\n")
    cohort = data_dicom(tmp_path / "export", "--organs", str(bundle), "--site", "s")
    assert cohort.organs == {1: "left kidney", 2: "milz"}
    assert only_case(cohort).annotated == (1, 2)
    suggestion.write_text("organ,equals\nMilz,splen\nNiere,\n")
    capsys.readouterr()
    refused_twice = ["data", "dicom", str(tmp_path / "export"), "--out", str(tmp_path / "b"), "--label-map"]
    assert run([*refused_twice, str(suggestion)]) == 2
    assert "there is no organ 'splen'; did you mean 'spleen'?" in capsys.readouterr().err


def test_structures_that_become_nothing_are_counted_and_a_dry_run_without_any_writes_no_label_map(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slices = write_ct(tmp_path / "export")
    empty = tmp_path / "private/map.csv"
    assert run(["data", "dicom", str(tmp_path / "export"), "--dry-run", "--suggestion", str(empty)]) == 0
    assert f"no structure was found, so {empty} is not written" in capsys.readouterr().out
    assert not empty.exists()
    rois = {name: on(range(2, 9), box(*shape)) for name, shape in {"Leber": LIVER, "Milz": SPLEEN}.items()}
    write_rtstruct(tmp_path / "export/RS", slices, STRAIGHT, rois)
    assert run(["data", "dicom", str(tmp_path / "export"), "--dry-run", "--suggestion", str(empty)]) == 0
    assert "2 structures are no organ here; to say which one is, write a label map" in capsys.readouterr().out
    assert empty.exists()


# --- patients ---------------------------------------------------------------------------------------


def test_nothing_of_a_patient_is_in_the_cohort_and_its_names_stay(tmp_path: Path) -> None:
    export = tmp_path / "export"
    for number in range(3):
        slices = write_ct(export / f"DOE_JANE/{number}", seed=number, number=number, SeriesDescription=NAME)
        liver_on(export / f"DOE_JANE/{number}/RS", slices, label=NAME)
    first = data_dicom(export)
    files = [path for path in (tmp_path / "cohort").rglob("*") if path.is_file()]
    assert len(files) == 7
    for path in files:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        for word in (NAME, "DOE", BIRTH, ID, "20240607"):
            assert word.encode() not in content, path
            assert word not in path.name
    assert len({case.patient for case in first.cases}) == 1
    (export / "DOE_JANE").rename(export / "other")
    assert {case.case for case in data_dicom(export).cases} == {case.case for case in first.cases}
    elsewhere = data_dicom(export, "--private", str(tmp_path / "new"))
    assert not {case.case for case in elsewhere.cases} & {case.case for case in first.cases}
    private = tmp_path / "cohort-private"
    for folder in (private, tmp_path / "cohort", tmp_path / "cohort/images", tmp_path / "cohort/labels"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in private.iterdir()} == {0o600}
    with (private / "cases.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert {row["patient_id"] for row in rows.values()} == {ID}
    assert set(rows) == {case.case for case in first.cases}


def test_a_cohort_that_cannot_be_made_is_said_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ct(tmp_path / "export")
    (tmp_path / "file").touch()
    out = tmp_path / "file/cohort"
    private = ["--unlabelled", "--private", str(tmp_path / "private")]
    assert run(["data", "dicom", str(tmp_path / "export"), "--out", str(out), *private]) == 2
    said = capsys.readouterr().err
    assert said == f"amos-fl: {out}: the folder cannot be made (Not a directory); choose another place\n"


def test_splits_are_drawn_by_patient_and_a_table_gives_sites(tmp_path: Path) -> None:
    export = tmp_path / "export"
    for number in range(8):
        slices = write_ct(export / str(number), seed=number, PatientID=f"P{number // 2}", number=number)
        liver_on(export / f"{number}/RS", slices)
    cohort = data_dicom(export)
    splits: dict[str, set[str]] = {}
    for case in cohort.cases:
        splits.setdefault(case.patient, set()).add(case.split)
    assert len(splits) == 4
    assert all(len(found) == 1 for found in splits.values())
    assert {case.split for case in cohort.cases} == {"train", "val", "test"}
    table = tmp_path / "table.csv"
    rows = [f"{case.case},{'north' if i % 2 else 'south'}" for i, case in enumerate(cohort.cases)]
    table.write_text("\n".join(["case,site", *rows]))
    assert data_dicom(export, "--table", str(table)).sites == ("north", "south")


# --- refusals ---------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "export").mkdir()
    refused(tmp_path, "holds no DICOM file", capsys)
    (tmp_path / "export/notes.txt").write_text("nothing")
    refused(tmp_path, "holds no DICOM file", capsys)
    slices = write_ct(tmp_path / "export")
    refused(tmp_path, "no series could become a case", capsys)
    liver_on(tmp_path / "export/RS", slices)
    refused(tmp_path, "is in the cohort, and would identify patients", capsys, "--private", str(tmp_path / "cohort/x"))
    assert run(["data", "dicom", str(tmp_path / "export")]) == 2
    assert "needs --out" in capsys.readouterr().err
    assert run(["data", "dicom", str(tmp_path / "nowhere"), "--dry-run"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_dicom_in_a_cohort_is_told_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slices = write_ct(tmp_path / "PAT1/CT")
    write_seg(tmp_path / "PAT1/SEG", slices, {"liver": solid(in_box(*LIVER), range(2, 9))})
    rows = ["case,site,modality,split,image,label,annotated", "a,n,CT,train,PAT1/CT,PAT1/SEG,"]
    (tmp_path / "cohort.csv").write_text("\n".join(rows))
    assert run(["data", "check", str(tmp_path)]) == 2
    said = " ".join(word for word in capsys.readouterr().out.split() if word != "│")
    assert "CT: is a folder of DICOM files, and a NIfTI file is needed; make a cohort" in said
    assert "SEG: is a DICOM file, and a NIfTI file is needed; make a cohort" in said


def test_damaged_files_of_an_export_are_named_or_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export, random_ = tmp_path / "export", random.Random(SEED)
    slices = write_ct(export / "CT")
    rois = {"spleen": on(range(2, 9), box(*SPLEEN)), "aorta": on(range(2, 9), box((2, 13), (4, 15)))}
    write_rtstruct(export / "RS/RS", slices, STRAIGHT, rois)
    write_seg(export / "SEG/SEG", slices, {"liver": solid(in_box(*LIVER), range(2, 9))})
    files = [export / "RS/RS", export / "SEG/SEG", sorted((export / "CT").iterdir())[3]]
    whole = {file: file.read_bytes() for file in files}
    out, budget = tmp_path / "cohort", Budget(60)
    named = 0
    while budget.left:
        for file in files:
            cut = random_.random() < 0.2
            content = whole[file]
            file.write_bytes(content[: random_.randrange(len(content))] if cut else flipped(content, random_))
            code, said = judged(["data", "dicom", str(export), "--out", str(out)], capsys)
            budget.count(code)
            named += "left out:" in said or "not used" in said
            file.write_bytes(whole[file])
    assert named > budget.tried / 4
