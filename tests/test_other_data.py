"""`amos-fl data msd` and `data nnunet`: other projects' folders become cohorts, or a plain sentence."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Image
from other_datasets import with_channels, with_description, write_msd, write_nnunet
from rich.console import Console

from amos_fl.cli.display import rows_table
from amos_fl.cli.main import run
from amos_fl.cohort.nnunet import export_nnunet
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.reference import label_of
from amos_fl.cohort.splitting import CaseToPlace, Shares, divide
from amos_fl.cohort.table import Cohort, read_cohort, write_cohort
from amos_fl.metrics.rows import ScoreRow


def refused(command: str, folder: Path, words: str, capsys: pytest.CaptureFixture[str], *more: str) -> None:
    """The dataset is refused in one sentence with these words, and leaves no cohort."""
    assert run(["data", command, str(folder), *more]) == 2
    said = capsys.readouterr().err
    assert words in said, said
    assert said.count("\n") == 1
    assert not (folder / "cohort.csv").exists()


def test_a_decathlon_task_becomes_a_cohort_that_passes_its_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_msd(tmp_path / "Task77_Tiny")
    assert run(["data", "msd", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "drawn by case, because no patient is named, with seed 0: 3 train, 1 val, 1 test" in printed
    cohort = read_cohort(folder)
    assert cohort.organs == {1: "ball", 2: "box"}
    assert cohort.sites == ("Tiny",)
    assert {case.modality for case in cohort.cases} == {"CT"}
    unlabelled = [case for case in cohort.cases if case.label is None]
    assert [(case.case, case.split) for case in unlabelled] == [("case_5", "test")]
    assert "imagesTr/case_0.nii.gz,labelsTr/case_0.nii.gz,1 2" in (folder / "cohort.csv").read_text()
    assert run(["data", "check", str(folder)]) == 0
    assert "0 errors" in capsys.readouterr().out


def test_the_plan_of_other_organs_than_amoss_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_msd(tmp_path / "Task77_Tiny")
    assert run(["data", "msd", str(folder)]) == 0
    capsys.readouterr()
    shown = {}
    for name, organs in (("tiny", None), ("amos", AMOS_ORGANS)):
        cohort = read_cohort(folder)
        write_cohort(replace(cohort, organs=organs or cohort.organs), tmp_path / name / "cohort.csv")
        assert run(["plan", str(tmp_path / name), "--store", str(tmp_path / "store")]) == 0
        shown[name] = capsys.readouterr().out
    assert "this plan" in shown["tiny"]
    assert "AMOS" not in shown["tiny"]
    assert "AMOS's (amos-ct)" in shown["amos"]


def test_long_names_of_sites_break_in_a_narrow_terminal_and_no_number_does() -> None:
    numbers: dict[str, Any] = {"cases": 16, "dsc": 0.875, "nsd": 0.962, "dsc_present": 0.871, "modality": "MR"}
    rows = [ScoreRow(site=site, over=site, group="unseen", **numbers) for site in ("University-Hospital-North", "B")]
    text = io.StringIO()
    Console(file=text, width=80).print(rows_table("Scores", "site", rows))
    assert [text.getvalue().count(value) for value in ("0.875", "0.962", "0.871", "cases", "modality")] == [
        2,
        2,
        2,
        1,
        1,
    ]
    assert "…" not in text.getvalue()


def test_a_table_gives_sites_patients_splits_and_modalities(tmp_path: Path, capsys) -> None:
    folder = write_msd(tmp_path / "Task77_Tiny", modality="scanner")
    table = tmp_path / "table.csv"
    rows = ["case,site,patient,split,modality"]
    rows += [f"case_{i},{'north' if i < 3 else 'south'},p{i // 2},{'val' if i == 4 else ''},CT" for i in range(6)]
    table.write_text("\n".join(rows) + "\n")
    assert run(["data", "msd", str(folder), "--table", str(table), "--out", str(tmp_path / "out")]) == 0
    cohort = read_cohort(tmp_path / "out")
    assert cohort.sites == ("north", "south")
    splits = {case.case: case.split for case in cohort.cases}
    assert splits["case_4"] == "val"
    assert splits["case_0"] == splits["case_1"]
    assert splits["case_2"] == splits["case_3"]
    assert cohort.cases[0].image == tmp_path / "out" / "../Task77_Tiny/imagesTr/case_0.nii.gz"
    capsys.readouterr()
    for text, words in (
        ("case,site\ncase_0,a\n", "the table lacks case case_1 (5 cases)"),
        ("case,hospital\ncase_0,a\n", "unknown column 'hospital'"),
        ("case,split\ncase_0,late\n", "line 2: split is 'late'"),
        ("case,site\n" + "".join(f"case_{i},a b\n" for i in range(6)), "a site is called 'a b'"),
        ("case,site\n" + "".join(f"case_{i},a\n" for i in range(7)), "names case case_6, which is not in"),
    ):
        table.write_text(text)
        refused("msd", folder, words, capsys, "--table", str(table))


def test_a_channel_is_chosen_by_number_and_written_beside_the_users_files(tmp_path: Path, capsys) -> None:
    folder = with_channels(write_msd(tmp_path / "Task05_Prostate", labelled=3, modality="MRI"), ["T2", "ADC"])
    refused("msd", folder, "its scans have 2 channels (0 T2, 1 ADC), and a scan here has one; choose --channel", capsys)
    refused("msd", folder, "--channel 2: the scans of", capsys, "--channel", "2")
    before = (folder / "imagesTr/case_0.nii.gz").read_bytes()
    assert run(["data", "msd", str(folder), "--channel", "1"]) == 0
    case = read_cohort(folder).cases[0]
    assert case.image == folder / "channel_1/imagesTr/case_0.nii.gz"
    assert case.modality == "MR"
    chosen, both = (Nifti1Image.from_filename(path) for path in (case.image, folder / "imagesTr/case_0.nii.gz"))
    assert np.array_equal(np.asarray(chosen.dataobj), np.asarray(both.dataobj)[..., 1])
    assert chosen.affine is not None
    assert np.allclose(chosen.affine, np.asarray(both.affine))
    assert (folder / "imagesTr/case_0.nii.gz").read_bytes() == before
    capsys.readouterr()
    assert run(["data", "check", str(folder)]) == 0


def test_a_bad_decathlon_task_has_its_sentence(tmp_path: Path, capsys) -> None:
    refused("msd", tmp_path / "nothing", "no such folder", capsys)
    refused("msd", tmp_path, "holds no dataset.json", capsys)
    folder = write_msd(tmp_path / "Task77_Tiny", labelled=1)
    refused("msd", tmp_path, "it has the folders Task77_Tiny with one; give one of them", capsys)
    about = json.loads((folder / "dataset.json").read_text())
    for change, words in (
        ({"modality": {"0": "photo"}}, "'photo', which says neither CT nor MR; add --modality"),
        ({"modality": {"1": "CT"}}, "must name its channels"),
        ({"labels": {"ball": "1"}}, "labels must be written as"),
        ({"labels": {"0": "background"}}, "names no organ"),
        ({"labels": None}, "does not say which organ has which label"),
        ({"labels": {"300": "ball"}}, "the label of 'ball' is 300"),
        ({"training": []}, "lists no training case"),
        ({"training": [{"image": "x"}]}, "each needs an image and a label"),
        ({"training": about["training"] * 2}, "lists case case_0 twice"),
        ({"training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]}, "2 listed files cannot"),
    ):
        refused("msd", with_description(folder, **{**about, **change}), words, capsys)
    (folder / "dataset.json").write_text("{")
    refused("msd", folder, "cannot be read as JSON", capsys)
    with_description_of_three = write_msd(tmp_path / "Task78_Tiny", labelled=2, modality="MRI")
    with_description(with_description_of_three, modality={"0": "T1", "1": "T2"})
    refused("msd", with_description_of_three, "its description says 2 channels", capsys, "--channel", "0")


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_of_nnunets_layout_become_cohorts(tmp_path: Path, version: int, capsys) -> None:
    folder = write_nnunet(tmp_path / "Dataset012_Tiny", version=version)
    assert run(["data", "nnunet", str(folder), "--site", "here"]) == 0
    cohort = read_cohort(folder)
    assert cohort.organs == {1: "ball", 2: "box"}
    assert cohort.sites == ("here",)
    assert sorted(case.split for case in cohort.cases if case.label) == ["test", "train", "val"]
    assert [case.case for case in cohort.cases if case.label is None] == ["case_3"]
    capsys.readouterr()
    assert run(["data", "check", str(folder)]) == 0


def test_nnunets_splits_and_labelled_test_cases_count(tmp_path: Path, capsys) -> None:
    folder = write_nnunet(tmp_path / "Dataset012_Tiny", labelled_tests=True)
    assert run(["data", "nnunet", str(folder)]) == 0
    assert [case.split for case in read_cohort(folder).cases] == ["train", "train", "train", "test"]
    assert "every training case trains" in capsys.readouterr().out
    folds = [{"train": ["case_0", "case_1"], "val": ["case_2"]}, {"train": ["case_1", "case_2"], "val": ["case_0"]}]
    (folder / "splits_final.json").write_text(json.dumps(folds))
    (folder / "cohort.csv").unlink()
    assert run(["data", "nnunet", str(folder), "--fold", "1"]) == 0
    assert [case.split for case in read_cohort(folder).cases] == ["val", "train", "train", "test"]
    (folder / "cohort.csv").unlink()
    assert run(["data", "nnunet", str(folder), "--split", "1,1,0", "--seed", "3"]) == 0
    drawn = [case.split for case in read_cohort(folder).cases]
    assert drawn.count("val") in (1, 2)
    assert drawn[3] == "test"
    (folder / "cohort.csv").unlink()
    capsys.readouterr()
    refused("nnunet", folder, "has 2 folds, counted from 0", capsys, "--fold", "2")
    for part in ({"train": ["case_0"], "val": ["case_2"]}, {"train": ["case_0", "case_1"], "val": ["case_1"]}):
        (folder / "splits_final.json").write_text(json.dumps([part]))
        refused("nnunet", folder, "case case_1 is in", capsys)


def test_a_cohort_that_somebody_has_edited_is_not_overwritten(tmp_path: Path, capsys) -> None:
    folder = write_nnunet(tmp_path / "Dataset012_Tiny")
    file = folder / "cohort.csv"
    assert run(["data", "nnunet", str(folder), "--site", "here"]) == 0
    written = file.read_bytes()
    assert run(["data", "nnunet", str(folder), "--site", "here"]) == 0
    assert file.read_bytes() == written
    for edited, how in (
        (written.replace(b",here,", b",there,", 3), "3 rows: site"),
        (written.replace(b",here,", b",there,", 1).replace(b",test,", b",train,", 1), ": site, split"),
        (written.replace(b"case_0,", b"mine,", 1), "1 row more, 1 row fewer"),
        (written.replace(b"annotated", b"annotated,seen").replace(b"1 2\r\n", b"1 2,yes\r\n"), "4 rows: seen"),
        (b"my notes", "it is no cohort"),
    ):
        file.write_bytes(edited)
        capsys.readouterr()
        assert run(["data", "nnunet", str(folder), "--site", "here"]) == 2
        said = capsys.readouterr().err
        assert f"{file}: is there already and differs (" in said
        assert said.endswith(f"{how}); give another --out, or remove it\n"), said
        assert file.read_bytes() == edited
    file.write_bytes(written)
    (folder / "organs.csv").write_text("label,organ\n1,kidney\n2,tumour\n")
    capsys.readouterr()
    assert run(["data", "nnunet", str(folder), "--site", "here"]) == 2
    assert "organs.csv: is there already and differs (other organs)" in capsys.readouterr().err


def test_organs_with_amoss_values_need_no_label_map(tmp_path: Path, capsys) -> None:
    for name, other, spleen, hint in (
        ("a", "right kidney", 1, False),
        ("b", "right kidney", 2, True),
        ("c", "ball", 1, False),
    ):
        folder = write_nnunet(tmp_path / name)
        with_description(folder, labels={"background": 0, "spleen": spleen, other: 3 - spleen})
        assert run(["data", "nnunet", str(folder)]) == 0
        assert ("add --label-map amos" in capsys.readouterr().out) is hint


def test_a_bad_nnunet_dataset_has_its_sentence(tmp_path: Path, capsys) -> None:
    folder = write_nnunet(tmp_path / "Dataset012_Tiny")
    about = json.loads((folder / "dataset.json").read_text())
    for change, words in (
        ({"labels": {"background": 0, "kidney": [1, 2]}}, "'kidney' is a region of several labels"),
        ({"labels": {"background": 0, "ball": 1, "ignore": 2}}, "its label maps ignore voxels (label 2)"),
        ({"labels": {"background": 0, "ball": "one"}}, "the label of 'ball' is 'one'"),
        ({"labels": {"background": 0, "ball": 1, "box": 1}}, "have the same label, 1"),
        ({"file_ending": ".nrrd"}, "files end in .nrrd"),
        ({"channel_names": {"0": "CT", "1": "PET"}}, "its scans have 2 channels (0 CT, 1 PET)"),
        ({"channel_names": {"0": "zscore"}}, "which says neither CT nor MR"),
    ):
        refused("nnunet", with_description(folder, **{**about, **change}), words, capsys)
    with_description(folder, **about)
    label = folder / "labelsTr/case_1.nii.gz"
    label.rename(folder / "elsewhere.nii.gz")
    refused("nnunet", folder, "lacks the label map of case_1 (1 case without)", capsys)
    for image in (folder / "imagesTr").iterdir():
        image.unlink()
    refused("nnunet", folder, "holds no scan called CASE_0000.nii.gz", capsys)


def test_files_that_the_description_names_are_read(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Dataset012_Tiny", labelled=1)
    (folder / "imagesTr").rename(folder / "scans")
    listed = {"first": {"images": ["scans/case_0_0000.nii.gz"], "label": "labelsTr/case_0.nii.gz"}}
    with_description(folder, dataset=listed)
    assert run(["data", "nnunet", str(folder)]) == 0
    assert [case.case for case in read_cohort(folder).cases] == ["first", "case_1"]


def test_an_export_comes_back_as_the_same_cases_and_labels(tmp_path: Path, tiny_cohort: Cohort) -> None:
    ct = [case for case in tiny_cohort.cases if case.modality == "CT"]
    folder = export_nnunet(tiny_cohort, tmp_path, modality="CT").folder
    assert run(["data", "nnunet", str(folder)]) == 0
    back = {case.case: case for case in read_cohort(folder).cases}
    assert read_cohort(folder).organs == tiny_cohort.organs
    assert sorted(back) == sorted(case.case for case in ct)
    for case in ct:
        mine = back[case.case]
        assert (mine.split, mine.modality, mine.annotated) == (case.split, case.modality, case.annotated)
        before, after = label_of(case, tiny_cohort.organs), label_of(mine, tiny_cohort.organs)
        assert np.array_equal(before.array, after.array)
        assert np.array_equal(before.affine, after.affine)


members = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 8)), min_size=1, max_size=25).map(
    lambda pairs: [CaseToPlace(f"c{i}", site, f"p{patient}") for i, (site, patient) in enumerate(pairs)]
)


@given(members, st.integers(0, 3))
def test_a_division_depends_on_seed_and_names_alone_and_tears_no_patient(cases: list[CaseToPlace], seed: int) -> None:
    shares = Shares.of("70,10,20")
    splits = divide(cases, shares, seed)
    assert divide(cases[::-1], shares, seed) == splits
    for patient in {member.patient for member in cases}:
        assert len({splits[member.case] for member in cases if member.patient == patient}) == 1
    assert "train" in splits.values()
    sites = {
        member.site for member in cases if member.patient not in {m.patient for m in cases if m.site != member.site}
    }
    for site in sites:
        mine = [member for member in cases if member.site == site]
        if len({m.patient for m in mine}) >= 3 and all(
            {m.site for m in cases if m.patient == one.patient} == {site} for one in mine
        ):
            assert {splits[member.case] for member in mine} == {"train", "val", "test"}


def test_another_seed_divides_otherwise_and_shares_are_kept() -> None:
    cases = [CaseToPlace(f"c{i}", "A", f"c{i}") for i in range(40)]
    one, other = (divide(cases, Shares.of("50,25,25"), seed) for seed in (0, 1))
    assert one != other
    for splits in (one, other):
        assert sorted(map([*splits.values()].count, ("train", "val", "test"))) == [10, 10, 20]


@pytest.mark.parametrize("split", ["70,30", "a,b,c", "0,50,50", "-1,1,1"])
def test_shares_that_are_none_are_refused(tmp_path: Path, split: str, capsys) -> None:
    refused("msd", write_msd(tmp_path / "Task77_Tiny", labelled=1), "--split", capsys, "--split", split)
