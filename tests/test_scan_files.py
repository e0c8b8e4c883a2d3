"""What a folder of scans holds: what looks meant and cannot be used is named, and the counts stand side by side."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from other_datasets import with_channels, with_description, write_msd, write_nnunet

from amos_fl.cli.main import run
from amos_fl.cohort.table import Case, Cohort, read_cohort, write_cohort
from amos_fl.deploy.create import copy_cases
from amos_fl.errors import AmosError
from amos_fl.files import check_name
from amos_fl.inference.scans import find_scans
from amos_fl.metrics.pairs import pair_up
from amos_fl.scan_files import importable, parts_of, problem_of_name, scans_in, sha256_of_scan, shown


def save(path: Path, value: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.full((4, 4, 4), value, np.float32)
    voxels[0] = 0
    kind = nib.Nifti1Pair if path.suffix.lower() in (".hdr", ".img") else nib.Nifti1Image
    nib.save(kind(voxels, np.eye(4)), path)
    return path


def load(path: Path) -> nib.Nifti1Pair:
    image = nib.load(path)
    assert isinstance(image, nib.Nifti1Pair)
    return image


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    for name in ("a.nii.gz", "B.NII.GZ", "c.hdr", "twins.nii", "twins.nii.gz", "half.hdr"):
        save(folder / name)
    (folder / "half.img").unlink()
    (folder / "gone.nii.gz").symlink_to("/nowhere/gone.nii.gz")
    (folder / "other.nrrd").write_text("NRRD0004")
    (folder / "late.nii.gz.part").write_bytes(b"half of it")
    (folder / "folder.nii").mkdir()
    (folder / "readme.txt").write_text("of the hospital")
    (folder / "._a.nii.gz").write_text("of macOS")
    (folder / "a.nrrd").write_text("the same scan, as another program keeps it")
    return folder


def test_what_looks_meant_is_taken_or_named_with_what_is_wrong(mixed: Path) -> None:
    found = scans_in(mixed)
    assert {name: path.name for name, path in found.scans.items()} == {"B": "B.NII.GZ", "a": "a.nii.gz", "c": "c.hdr"}
    assert {bad.name: bad.sentence.partition(";")[0] for bad in found.unusable} == {
        "folder": "folder.nii: is a folder by the name of a file",
        "gone": "gone.nii.gz: its link leads to /nowhere/gone.nii.gz, which is not there",
        "half": "half.hdr: lacks its other half, half.img",
        "late": "late.nii.gz.part: is an unfinished download",
        "other": "other.nrrd: is in a format that is not read",
        "twins": "twins.nii and twins.nii.gz are one case",
    }
    assert found.counted() == "3 of 9 scans"
    assert set(found.others) == {"readme.txt", "a.nrrd"}


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz").chmod(0)
    assert scans_in(tmp_path).unusable[0].sentence == "a.nii.gz: cannot be read; check its permissions"


def test_names_that_no_table_can_hold_are_named_readably(tmp_path: Path) -> None:
    save(tmp_path / "fine.nii.gz")
    os.rename(tmp_path / "fine.nii.gz", os.fsencode(tmp_path) + b"/caf\xe9.nii.gz")
    save(tmp_path / "two\nlines.nii.gz")
    found = scans_in(tmp_path)
    assert not found.scans
    said = [bad.sentence for bad in found.unusable]
    assert any("caf\\udce9.nii.gz: its name is not UTF-8" in sentence for sentence in said)
    assert any("two\\nlines.nii.gz: its name holds control characters" in sentence for sentence in said)
    assert all(sentence.encode() for sentence in said)
    assert problem_of_name("Größe 1.nii.gz") is None
    assert shown("Größe") == "Größe"


def test_of_a_pair_both_files_are_its_content(tmp_path: Path) -> None:
    header, image = save(tmp_path / "a.hdr", 1), tmp_path / "a.img"
    first = sha256_of_scan(header)
    assert parts_of(image) == (header, image)
    assert sha256_of_scan(image) == first
    save(tmp_path / "b.hdr", 2)  # the same header, other voxels
    os.replace(tmp_path / "b.img", image)
    assert (tmp_path / "b.hdr").read_bytes() == header.read_bytes()
    assert sha256_of_scan(header) != first


def test_an_import_refuses_two_files_of_one_name_and_counts_the_rest(mixed: Path) -> None:
    with pytest.raises(AmosError, match=r"twins.nii and twins.nii.gz are one case; keep the right one"):
        importable(scans_in(mixed))
    (mixed / "twins.nii").unlink()
    [note] = importable(scans_in(mixed))
    assert note.startswith("scans: only 4 of 9 scans can be used. Left out: ")


def test_predict_finds_every_spelling_and_carries_the_unusable_along_with_their_reason(mixed: Path) -> None:
    found = find_scans([mixed], "CT")
    assert [scan.name for scan in found if not scan.problem] == ["B", "a", "c"]
    assert len([scan for scan in found if scan.problem]) == 6
    [one] = find_scans([mixed / "gone.nii.gz"], "CT")
    assert "its link leads to /nowhere/gone.nii.gz" in one.problem
    with pytest.raises(AmosError, match="no such file or folder"):
        find_scans([mixed / "nothing.nii.gz"], "CT")


def test_predict_says_that_dicom_files_beside_nifti_files_stay_aside(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz")
    (tmp_path / "IM1").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 50)
    notes: list[str] = []
    find_scans([tmp_path], "CT", on_note=notes.append)
    assert notes == [
        f"{tmp_path}: 1 DICOM file in it not predicted, because there are NIfTI files too; put them into a folder of "
        "their own"
    ]


def test_a_name_too_long_for_its_outputs_is_refused_beforehand(tmp_path: Path) -> None:
    check_name(tmp_path / ("x" * 200 + ".nii.gz"))
    for name in ("x" * 250, "ü" * 125):
        with pytest.raises(AmosError, match=r"bytes too long to be written; give the scan or case a shorter name"):
            check_name(tmp_path / f"{name}.nii.gz")


def test_score_names_every_file_that_cannot_be_used_and_reads_the_others(mixed: Path, tmp_path: Path) -> None:
    for name in ("a", "B", "c", "gone", "half", "twins", "other", "late", "folder"):
        save(tmp_path / f"labels/{name}.nii.gz")
    pairing = pair_up(mixed, tmp_path / "labels")
    assert {problem.case for problem in pairing.problems} == {"gone", "half", "twins", "other", "late", "folder"}
    assert {pair.case for pair in pairing.pairs} == {"a", "B", "c", "twins"}


def test_a_dangling_link_is_said_to_be_one_and_nothing_of_a_cohort(tmp_path: Path, capsys) -> None:
    save(tmp_path / "labels/a.nii.gz")
    (tmp_path / "pred").mkdir()
    (tmp_path / "pred/a.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    assert run(["score", str(tmp_path / "pred"), str(tmp_path / "labels"), "--json"]) == 2
    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert problem["problem"].startswith("a.nii.gz: its link leads to ")
    assert "cohort" not in problem["problem"]


def test_a_name_that_is_not_utf_8_is_a_problem_before_anything_is_scored(tmp_path: Path, capsys) -> None:
    for side in ("pred", "labels"):
        save(tmp_path / side / "a.nii.gz")
        os.rename(save(tmp_path / side / "b.nii.gz"), os.fsencode(tmp_path / side) + b"/b\xff.nii.gz")
    assert run(["score", str(tmp_path / "pred"), str(tmp_path / "labels")]) == 2
    said = capsys.readouterr()
    assert "its name is not UTF-8" in said.out.replace("\n", " ")
    assert "Traceback" not in said.err


def test_predictions_in_a_folder_for_each_site_are_read_with_the_cohort(
    tiny_root: Path, tmp_path: Path, capsys
) -> None:
    cohort = read_cohort(tiny_root)
    for case in cohort.of(split="test", labelled=True):
        assert case.label is not None
        target = tmp_path / f"predictions/{case.site}/{case.case}.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(case.label.read_bytes())
    ask = ["score", str(tmp_path / "predictions"), "--cohort", str(tiny_root), "--split", "test", "--json"]
    ask += ["--organs", str(tiny_root / "organs.csv")] if (tiny_root / "organs.csv").is_file() else []
    assert run(ask) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert set(scores) == {case.case for case in cohort.of(split="test", labelled=True)}
    assert run(["score", str(tmp_path / "predictions"), str(tmp_path)]) == 2
    assert "with --cohort" in capsys.readouterr().err
    moved = next(iter((tmp_path / "predictions").glob("*/*.nii.gz")))
    other = next(site for site in cohort.sites if site != moved.parent.name)
    (tmp_path / "predictions" / other).mkdir(exist_ok=True)
    moved.rename(tmp_path / "predictions" / other / moved.name)
    assert run(ask) == 2
    assert "move it there" in capsys.readouterr().out


# --- imports ---------------------------------------------------------------------------------------


def test_nnunet_names_an_image_without_its_channel_and_one_of_another_ending(tmp_path: Path, capsys) -> None:
    folder = write_nnunet(tmp_path / "Dataset001_Odd", labelled=5)
    images = folder / "imagesTr"
    (images / "case_1_0000.nii.gz").rename(images / "case_1.nii.gz")
    nib.save(load(images / "case_2_0000.nii.gz"), images / "case_2_0000.nii")
    (images / "case_2_0000.nii.gz").unlink()
    (images / "case_3_0000.nii.gz").unlink()
    (images / "case_3_0000.nii.gz").symlink_to("gone.nii.gz")
    assert run(["data", "nnunet", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "imagesTr: only 4 of 5 scans can be used. Left out: case_3_0000.nii.gz: its link leads to gone" in said
    assert "imagesTr: 2 of 4 cases taken. Left out: case_1.nii.gz has no channel in its name" in said
    assert "case_2_0000.nii does not end in .nii.gz" in said
    assert "labelsTr: label map without a usable image: case_1, case_2 and case_3" in said
    assert "dataset.json says numTraining 5, and 2 were taken; is the download whole?" in said


def test_nnunet_refuses_two_files_of_one_case(tmp_path: Path, capsys) -> None:
    folder = write_nnunet(tmp_path / "Dataset001_Twins")
    save(folder / "labelsTr/case_1.nii")
    assert run(["data", "nnunet", str(folder)]) == 2
    assert "case_1.nii and case_1.nii.gz are one case; keep the right one" in capsys.readouterr().err


def test_nnunet_reads_splits_with_a_byte_order_mark(tmp_path: Path, capsys) -> None:
    folder = write_nnunet(tmp_path / "Dataset001_Bom")
    splits = [{"train": ["case_0", "case_1"], "val": ["case_2"]}]
    (folder / "splits_final.json").write_text(json.dumps(splits), encoding="utf-8-sig")
    assert run(["data", "nnunet", str(folder)]) == 0
    assert [case.case for case in read_cohort(folder).of(split="val")] == ["case_2"]


def test_msd_reads_backslashes_and_names_what_is_not_listed_or_not_there(tmp_path: Path, capsys) -> None:
    task = write_msd(tmp_path / "Task01_Odd", tests=2)
    about = json.loads((task / "dataset.json").read_text())
    listed = [{key: path.replace("/", "\\") for key, path in entry.items()} for entry in about["training"][:-1]]
    with_description(task, training=listed, numTraining=9)
    absent = task / about["test"][0]
    absent.unlink()
    assert run(["data", "msd", str(task)]) == 0
    said = capsys.readouterr().out
    assert "dataset.json says numTraining 9, and 4 were taken" in said
    assert f"1 of 2 test images of dataset.json taken; {absent.name} is not there" in said
    assert "imagesTr: 4 of 5 are in dataset.json; not taken: case_4.nii.gz" in said


def test_a_chosen_channel_is_never_taken_from_another_source_of_the_same_names(tmp_path: Path, capsys) -> None:
    tasks = []
    for hospital, add in (("a", 0), ("b", 500)):
        task = with_channels(write_msd(tmp_path / hospital / "Task05_Two"), ["T2", "ADC"])
        for path in task.glob("images*/*.nii.gz"):
            scan = load(path)
            nib.save(nib.Nifti1Image(np.asarray(scan.dataobj) + add, scan.affine), path)
        tasks.append(task)
    ask = ["data", "msd", "--channel", "1", "--modality", "MR"]
    for task, name in zip(tasks, "ab", strict=True):
        assert run([*ask, str(task), "--out", str(tmp_path / f"cohorts/{name}.csv")]) == 0
        for case in read_cohort(tmp_path / f"cohorts/{name}.csv").cases:
            source = np.asarray(load(task / case.image.parent.name / case.image.name).dataobj)[..., 1]
            np.testing.assert_array_equal(np.asarray(load(case.image).dataobj), source)
    assert run([*ask, str(tasks[0]), "--out", str(tmp_path / "cohorts/a.csv")]) == 0  # again: nothing to write
    capsys.readouterr()
    # A source that was replaced, with an older time stamp, under the same names.
    for path in tasks[1].glob("images*/*.nii.gz"):
        target = tasks[0] / path.parent.name / path.name
        target.write_bytes(path.read_bytes())
        os.utime(target, (1, 1))
    assert run([*ask, str(tasks[0]), "--out", str(tmp_path / "cohorts/a.csv")]) == 2
    assert "already exists, made from another scan" in capsys.readouterr().err


def test_a_second_cohort_never_renames_the_organs_of_the_first(tmp_path: Path, capsys) -> None:
    first = write_nnunet(tmp_path / "Dataset001_One")
    second = write_nnunet(tmp_path / "Dataset002_Two")
    with_description(second, labels={"background": 0, "left kidney": 1, "right kidney": 2})
    out = tmp_path / "cohorts"
    assert run(["data", "nnunet", str(first), "--out", str(out / "first.csv")]) == 0
    organs = read_cohort(out / "first.csv").organs
    capsys.readouterr()
    assert run(["data", "nnunet", str(second), "--out", str(out / "second.csv")]) == 2
    assert "other organs than first.csv beside it, whose organs.csv it would replace" in capsys.readouterr().err
    assert read_cohort(out / "first.csv").organs == organs
    assert not (out / "second.csv").exists()
    # The same organs may lie side by side. A cohort that is alone may be replaced by another once it was taken away.
    assert run(["data", "nnunet", str(first), "--site", "Z", "--out", str(out / "again.csv")]) == 0
    assert run(["data", "nnunet", str(first), "--out", str(tmp_path / "alone")]) == 0
    assert run(["data", "nnunet", str(second), "--out", str(tmp_path / "alone")]) == 2
    assert "is there already and differs" in capsys.readouterr().err
    for name in ("cohort.csv", "organs.csv"):
        (tmp_path / "alone" / name).unlink()
    assert run(["data", "nnunet", str(second), "--out", str(tmp_path / "alone")]) == 0
    assert read_cohort(tmp_path / "alone").organs == {1: "left kidney", 2: "right kidney"}


def test_organs_of_other_names_do_not_come_to_a_cohort_with_amos_organs_either(tmp_path: Path, capsys) -> None:
    header = "case,site,modality,split,image,label,annotated\n"
    (tmp_path / "amos.csv").write_text(f"{header}c1,A,CT,train,c1.nii.gz,l1.nii.gz,\n")
    before = read_cohort(tmp_path / "amos.csv").organs
    other = write_nnunet(tmp_path / "Dataset002_Two")
    assert run(["data", "nnunet", str(other), "--out", str(tmp_path / "two.csv")]) == 2
    assert read_cohort(tmp_path / "amos.csv").organs == before


def test_the_patients_of_a_table_stay_in_the_cohort(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Dataset001_Patients")
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\ncase_0,p1\ncase_1,p1\ncase_2,p2\ncase_3,p3\n")
    plain, named = tmp_path / "plain", tmp_path / "named"
    assert run(["data", "nnunet", str(folder), "--out", str(plain)]) == 0
    assert run(["data", "nnunet", str(folder), "--table", str(table), "--out", str(named)]) == 0
    assert {case.case: case.patient for case in read_cohort(named).cases} == {
        "case_0": "p1",
        "case_1": "p1",
        "case_2": "p2",
        "case_3": "p3",
    }
    assert "patient" not in (plain / "cohort.csv").read_text().partition("\n")[0]
    assert read_cohort(plain).content_hash() != read_cohort(named).content_hash()


def test_a_hospitals_copy_of_a_pair_has_both_its_files(tmp_path: Path) -> None:
    image, label = save(tmp_path / "in/images/a.hdr"), save(tmp_path / "in/labels/a.nii.gz")
    case = Case("a", "A", "CT", "train", image, label, (1,))
    copy_cases(Cohort((case,), {1: "liver"}), tmp_path / "site")
    [copied] = read_cohort(tmp_path / "site").cases
    np.testing.assert_array_equal(np.asarray(load(copied.image).dataobj), np.asarray(load(image).dataobj))
    assert copied.label is not None
    assert copied.label.name == "a.nii.gz"


def test_plan_shows_the_true_median_shape_and_the_organs_that_are_annotated(tmp_path: Path, capsys) -> None:
    cases = []
    for number, shape in enumerate([(35, 50, 36), (34, 49, 35), (40, 60, 37)]):
        voxels = np.random.default_rng(number).normal(0, 100, shape).astype(np.int16)
        label = np.zeros(shape, np.uint8)
        label[5:20, 5:20, 5:20] = 6
        for kind, array in (("images", voxels), ("labels", label)):
            (tmp_path / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([8, 8, 8, 1.0])), tmp_path / f"{kind}/{number}.nii.gz")
        paths = (tmp_path / f"images/{number}.nii.gz", tmp_path / f"labels/{number}.nii.gz")
        cases.append(Case(f"c{number}", "A", "CT", "train", *paths, (1, 2, 6, 10)))
    write_cohort(Cohort(tuple(cases)), tmp_path / "cohort.csv")
    out = tmp_path / "plan.yaml"
    assert run(["plan", str(tmp_path), "--store", str(tmp_path / "store"), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "35 x 50 x 36" in said
    assert "280 x 400 x 288" in said
    assert "organs annotated in these cases: 4 of 15" in said
    assert "with 4 of 15 organs annotated" in out.read_text()
