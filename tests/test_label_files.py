"""Cohorts of scans with several label files: one for each organ, BIDS derivatives, and what they become."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import write_case

from amos_fl.cli.main import run
from amos_fl.cohort.bids import read_bids
from amos_fl.cohort.reference import reference_of
from amos_fl.cohort.table import Cohort, read_cohort


def put(path: Path, array: np.ndarray, like: Path, dtype: type = np.uint8, flip: bool = False) -> Path:
    """Voxels on the grid of a scan, stored back to front with `flip`."""
    affine = nib.Nifti1Image.from_filename(like).affine.copy()
    if flip:
        array, affine[:3, 3] = array[::-1], affine[:3, 3] + affine[:3, 0] * (array.shape[0] - 1)
        affine[:3, 0] *= -1
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.astype(dtype), affine), path)
    return path


def drawn(folder: Path, name: str, modality: str = "CT") -> tuple[Path, np.ndarray]:
    """A scan and its label map: 1 the ball, 2 the box."""
    image, label = write_case(folder / "made", name, modality)
    return image, np.asarray(nib.Nifti1Image.from_filename(label).dataobj)


def totalsegmentator(root: Path, cases: int = 4) -> dict[str, np.ndarray]:
    """A folder as the dataset's: a liver (the ball), a spleen (the box), an empty aorta, a femur nobody asked for."""
    truth = {}
    for number in range(cases):
        name = f"s{number:04d}"
        image, label = drawn(root / "elsewhere", name)
        (root / name).mkdir(parents=True)
        scan = image.rename(root / name / "ct.nii.gz")
        for organ, mask in (("liver", label == 1), ("spleen", label == 2), ("aorta", label > 9), ("femur", label < 0)):
            put(root / name / "segmentations" / f"{organ}.nii.gz", mask, scan, flip=organ == "spleen")
        truth[name] = 6 * (label == 1) + (label == 2)
    lines = [f"{name};{'A b' if n % 2 else 'C'};{'val' if n == 3 else 'train'}" for n, name in enumerate(truth)]
    (root / "meta.csv").write_text("\ufeffimage_id;institute;split\n" + "\n".join(lines) + "\n")
    return truth


def labels_of(cohort: Cohort) -> dict[str, np.ndarray]:
    return {case.case: reference_of(case, cohort.organs).array for case in cohort.cases}


def test_a_file_for_each_organ_becomes_one_label_map_with_amos_values(tmp_path: Path) -> None:
    truth = totalsegmentator(tmp_path / "total")
    before = {path: path.read_bytes() for path in (tmp_path / "total").rglob("*.nii.gz")}
    assert run(["data", "masks", str(tmp_path / "total"), "--out", str(tmp_path / "out")]) == 0
    cohort = read_cohort(tmp_path / "out")
    for name, array in labels_of(cohort).items():
        np.testing.assert_array_equal(array, truth[name])
    assert {case.annotated for case in cohort.cases} == {(1, 6, 8)}  # the empty aorta was looked for
    assert {case.site for case in cohort.cases} == {"A_b", "C"}
    assert [case.split for case in cohort.cases] == ["train", "train", "train", "val"]
    assert {case.modality for case in cohort.cases} == {"CT"}
    assert before == {path: path.read_bytes() for path in before}
    assert run(["data", "check", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("layout", ["{case}/{organ}", "{organ}/{case}", "{case}_{organ}", "{case}/deep/{organ}"])
def test_masks_of_a_folder_of_scans_are_found_in_every_usual_place(tmp_path: Path, layout: str) -> None:
    truth = {}
    for name in ("p1", "p1_late", "p2"):
        image, label = drawn(tmp_path, name)
        scan = image.rename(image.parent / f"{name}.nii.gz")
        for organ, value in (("kidney_left", 1), ("liver", 2)):
            put(tmp_path / "labels" / f"{layout.format(case=name, organ=organ)}.nii.gz", label == value, scan)
        truth[name] = 3 * (label == 1) + 6 * (label == 2)
    scans = tmp_path / "made/images"
    out = str(tmp_path / "out")
    given = ["data", "masks", str(scans), "--labels", str(tmp_path / "labels"), "--out", out]
    assert run(given) == 2  # CT or MR?
    assert run([*given, "--modality", "CT", "--site", "north"]) == 0
    cohort = read_cohort(tmp_path / "out")
    assert cohort.sites == ("north",)
    found = labels_of(cohort)
    assert found.keys() == truth.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, truth[name])


def test_parts_of_an_organ_are_joined_and_an_organ_without_all_its_parts_was_not_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        image, label = drawn(tmp_path / "made", name)
        (tmp_path / "in" / name).mkdir(parents=True)
        scan = image.rename(tmp_path / "in" / name / "ct.nii.gz")
        put(tmp_path / "in" / name / "masks/lobe_1.nii.gz", label == 1, scan, np.float32)
        put(tmp_path / "in" / name / "masks/spleen.nii.gz", (label == 1) * 255, scan)  # all of lobe 1 again
        if name == "a":
            put(tmp_path / "in" / name / "masks/lobe_2.nii.gz", label == 2, scan)
    (tmp_path / "map.csv").write_text("organ,equals\nlobe_1,liver\nlobe_2,liver\nspleen,spleen\n")
    given = ["data", "masks", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert run([*given, "--suggestion", str(tmp_path / "suggested.csv")]) == 0
    assert (tmp_path / "suggested.csv").read_text().splitlines() == [
        "organ,equals",
        "lobe_1,",
        "lobe_2,",
        "spleen,spleen",
    ]
    assert not (tmp_path / "out").exists()
    assert run([*given, "--label-map", str(tmp_path / "map.csv")]) == 0
    cohort = read_cohort(tmp_path / "out")
    assert {case.case: case.annotated for case in cohort.cases} == {"a": (1, 6), "b": (1,)}
    said = capsys.readouterr().out
    assert "b: liver is not used, without lobe 2" in said
    assert "taken as the smaller: spleen" in said
    found = labels_of(cohort)
    assert set(np.unique(found["a"])) == {0, 1, 6}
    assert set(np.unique(found["b"])) == {0, 1}


def test_a_case_whose_masks_cannot_be_used_is_left_out_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    totalsegmentator(tmp_path / "total")
    scan = tmp_path / "total/s0001/ct.nii.gz"
    put(tmp_path / "total/s0001/segmentations/liver.nii.gz", np.arange(24 * 22 * 20).reshape(24, 22, 20) % 3, scan)
    put(tmp_path / "total/s0002/segmentations/spleen.nii.gz", np.ones((9, 9, 9)), scan)
    assert run(["data", "masks", str(tmp_path / "total"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "s0001: left out: liver.nii.gz: holds 2 label values; a mask of one organ has one beside 0" in said
    assert "s0002: left out: spleen.nii.gz: label is 9x9x9, image 24x22x20" in said
    assert [case.case for case in read_cohort(tmp_path / "out").cases] == ["s0000", "s0003"]
    assert run(["data", "masks", str(tmp_path / "out"), "--out", str(tmp_path / "again")]) == 2


def bids(root: Path) -> dict[str, np.ndarray]:
    """Three subjects: a label map with a table, masks, and two images in one session."""
    truth = {}
    for subject, session, suffix in (("01", "", "T2w"), ("02", "ses-a", "ct"), ("03", "", "T1w"), ("03", "", "T2w")):
        modality = "CT" if suffix == "ct" else "MR"
        stem = "_".join(filter(None, [f"sub-{subject}", session]))
        image, label = drawn(root / "elsewhere", f"{stem}_{suffix}", modality)
        place = Path(f"sub-{subject}") / session / "anat"
        (root / place).mkdir(parents=True, exist_ok=True)
        scan = image.rename(root / place / f"{stem}_{suffix}.nii.gz")
        made = root / "derivatives/manual" / place
        if subject == "01":
            put(made / f"{stem}_desc-reader1_dseg.nii.gz", label, scan)
            truth[f"{stem}_{suffix}"] = 6 * (label == 1) + (label == 2)
        elif subject == "02":
            put(made / f"{stem}_label-liver_mask.nii.gz", label == 1, scan)
            put(made / f"{stem}_label-gallBladder_mask.nii.gz", label == 2, scan)
            truth[f"{stem}_{suffix}"] = 6 * (label == 1) + 4 * (label == 2)
        elif suffix == "T2w":
            put(made / f"{stem}_space-T2w_dseg.nii.gz", label, scan)
            put(made / f"{stem}_dseg.nii.gz", label, scan)
            truth[f"{stem}_{suffix}"] = 6 * (label == 1) + (label == 2)
    (root / "derivatives/manual/dseg.tsv").write_text("index\tname\n0\tbackground\n1\tLiver\n2\tspleen\n")
    (root / "participants.tsv").write_text("participant_id\tcentre\nsub-01\tBerlin\nsub-02\tBonn\nsub-03\tBonn\n")
    return truth


@pytest.mark.parametrize("command", ["masks", "bids"])
def test_a_table_has_a_row_for_every_case_and_nothing_is_written_without(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = {"masks": totalsegmentator, "bids": bids}[command](tmp_path / "in")
    table, (first, *others) = tmp_path / "table.csv", sorted(truth)
    rows = [f"{name},west" for name in others]
    arguments = ["data", command, str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--table", str(table)]
    for more, words in (
        ([], f"the table lacks case {first} (1 case); every case needs a row"),
        ([f"{first},west", "nobody,west"], "the table names case nobody, which is not in"),
        ([f"{first},west,extra"], "line 5: has 3 values, the header 2" if command == "masks" else "has 3 values"),
    ):
        table.write_text("\n".join(["case,site", *rows, *more]))
        assert run(arguments) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    table.write_text("\n".join(["case,site", *rows, f"{first},west"]))
    assert run(arguments) == 0
    assert read_cohort(tmp_path / "out").sites == ("west",)


@pytest.mark.parametrize(("command", "words"), [("masks", "give a folder with CASE/ct.nii.gz"), ("bids", "in BIDS")])
def test_a_folder_that_is_not_there_is_said_with_what_to_give(
    tmp_path: Path, command: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", command, str(tmp_path / "nope"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "nope: no such folder; " in said
    assert words in said


def test_a_bids_folder_becomes_a_cohort_by_subject_and_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = bids(tmp_path / "study")
    assert run(["data", "bids", str(tmp_path / "study"), "--out", str(tmp_path / "out")]) == 0
    cohort = read_cohort(tmp_path / "out")
    found = labels_of(cohort)
    assert found.keys() == truth.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, truth[name])
    about = {case.case: (case.site, case.modality, case.patient, case.annotated) for case in cohort.cases}
    assert about == {
        "sub-01_T2w": ("Berlin", "MR", "sub-01", (1, 6)),
        "sub-02_ses-a_ct": ("Bonn", "CT", "sub-02", (4, 6)),
        "sub-03_T2w": ("Bonn", "MR", "sub-03", (1, 6)),
    }
    said = capsys.readouterr().out
    assert "sub-03_dseg.nii.gz: left out: it may be of sub-03_T1w and sub-03_T2w" in said
    assert "sub-03_T1w: left out: no label file of it" in said


def test_one_of_several_readers_is_chosen_by_the_folder_of_its_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bids(tmp_path / "study")
    (tmp_path / "study/derivatives/manual").rename(tmp_path / "study/derivatives/first")
    bids(tmp_path / "again")
    (tmp_path / "again/derivatives/manual").rename(tmp_path / "study/derivatives/second")
    assert run(["data", "bids", str(tmp_path / "study"), "--out", str(tmp_path / "out")]) == 2
    assert "is in two of its files" in capsys.readouterr().err
    assert run(["data", "bids", str(tmp_path / "study"), "--out", str(tmp_path / "x"), "--derivative", "third"]) == 2
    assert "there are first, second" in capsys.readouterr().err
    assert len(read_bids(tmp_path / "study", "second").scans) == 3
    assert run(["data", "bids", str(tmp_path / "study"), "--out", str(tmp_path / "out"), "--derivative", "second"]) == 0
