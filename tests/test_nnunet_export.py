"""`amos-fl data export nnunet`: nnU-Net's raw layout, without a label that was never there."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelling import voxels
from nibabel.nifti1 import Nifti1Image

from amos_fl.cli.main import run
from amos_fl.cohort.nnunet import export_nnunet
from amos_fl.cohort.table import Cohort, read_cohort, write_cohort
from amos_fl.errors import AmosError
from amos_fl.metrics.table import read_scores


def annotated(cohort: Cohort, **organs: tuple[int, ...]) -> Cohort:
    """The cohort with other organs looked for in some cases."""
    return replace(
        cohort, cases=tuple(replace(case, annotated=organs.get(case.case, case.annotated)) for case in cohort.cases)
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_layout_is_nnunets(tmp_path: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "nnUNet_raw"
    assert run(["data", "export", "nnunet", str(tiny_root), str(out), "--modality", "CT"]) == 0
    printed = capsys.readouterr().out
    folder = out / "Dataset701_CohortCT"
    assert f"wrote {folder}: 4 train, 1 val (nnU-Net trains on both), 2 test" in printed
    cases = ["a_train_0", "a_train_1", "a_train_2", "a_val_7", "b_train_0"]
    assert names(folder) == ["dataset.json", "imagesTr", "imagesTs", "labelsTr", "labelsTs", "splits_final.json"]
    assert names(folder / "imagesTr") == [f"{case}_0000.nii.gz" for case in cases]
    assert names(folder / "labelsTr") == [f"{case}.nii.gz" for case in cases]
    assert names(folder / "imagesTs") == ["a_test_8_0000.nii.gz", "d_test_8_0000.nii.gz"]
    assert names(folder / "labelsTs") == ["a_test_8.nii.gz", "d_test_8.nii.gz"]
    about = json.loads((folder / "dataset.json").read_text())
    assert about["channel_names"] == {"0": "CT"}
    assert list(about["labels"].items()) == [("background", 0), ("ball", 1), ("box", 2)]
    assert (about["numTraining"], about["file_ending"]) == (5, ".nii.gz")
    (split,) = json.loads((folder / "splits_final.json").read_text())
    assert split["val"] == ["a_val_7"]
    assert sorted(split["train"] + split["val"]) == cases


@pytest.mark.parametrize("how", ["a resampling tool's fractions", "whole numbers as floats", "a scale"])
def test_labels_that_are_not_stored_as_whole_numbers_are_written_as_what_they_mean(
    tmp_path: Path, tiny_cohort: Cohort, how: str
) -> None:
    case = tiny_cohort.of(split="train", labelled=True)[0]
    assert case.label is not None
    meant = voxels(case.label)
    stored, slope = {
        "a resampling tool's fractions": (meant * np.float32(0.99995), 1.0),
        "whole numbers as floats": (meant.astype(np.float32), 1.0),
        "a scale": (meant.astype(np.int16) * 2, 0.5),
    }[how]
    odd = Nifti1Image(stored, Nifti1Image.from_filename(case.label).affine)
    odd.header.set_slope_inter(slope, 0)
    file = tmp_path / "odd.nii.gz"
    odd.to_filename(file)
    cohort = replace(tiny_cohort, cases=(replace(case, label=file),))
    folder = export_nnunet(cohort, tmp_path / "raw").folder
    exported = Nifti1Image.from_filename(folder / f"labelsTr/{case.case}.nii.gz")
    raw = np.asarray(exported.dataobj.get_unscaled())
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw, meant)


def test_a_compressed_file_in_capitals_is_not_compressed_twice(tmp_path: Path, tiny_cohort: Cohort) -> None:
    case = tiny_cohort.of(split="train", labelled=True)[0]
    loud = tmp_path / "SCAN.NII.GZ"
    shutil.copyfile(case.image, loud)
    folder = export_nnunet(replace(tiny_cohort, cases=(replace(case, image=loud),)), tmp_path / "raw").folder
    exported = folder / f"imagesTr/{case.case}_0000.nii.gz"
    np.testing.assert_array_equal(voxels(exported), voxels(case.image))


@pytest.mark.parametrize("copy", [True, False])
def test_files_are_links_or_copies_of_the_same_bytes(tmp_path: Path, tiny_cohort: Cohort, copy: bool) -> None:
    folder = export_nnunet(tiny_cohort, tmp_path, modality="joint", copy=copy).folder
    for case in tiny_cohort.cases:
        part = "Ts" if case.split == "test" else "Tr"
        assert case.label is not None
        for source, target in (
            (case.image, folder / f"images{part}" / f"{case.case}_0000.nii.gz"),
            (case.label, folder / f"labels{part}" / f"{case.case}.nii.gz"),
        ):
            assert target.is_symlink() != copy
            assert target.read_bytes() == source.read_bytes()


def test_two_modalities_need_a_choice(tmp_path: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "raw"
    assert run(["data", "export", "nnunet", str(tiny_root), str(out)]) == 2
    assert "--modality CT and --modality MR, or one, normalised scan by scan, with --modality joint" in (
        capsys.readouterr().err
    )
    assert not out.exists()
    assert run(["data", "export", "nnunet", str(tiny_root), str(out), "--modality", "MR", "--dataset-id", "7"]) == 0
    assert run(["data", "export", "nnunet", str(tiny_root), str(out), "--modality", "joint"]) == 0
    assert names(out) == ["Dataset007_CohortMR", "Dataset701_CohortJoint"]
    channels = [json.loads((out / name / "dataset.json").read_text())["channel_names"]["0"] for name in names(out)]
    # nnU-Net knows the name CT alone; everything else is normalised scan by scan.
    assert channels == ["MR", "CT and MR"]


def test_an_uncompressed_scan_is_compressed_and_otherwise_the_same(tmp_path: Path, tiny_cohort: Cohort) -> None:
    case = tiny_cohort.cases[0]
    plain = tmp_path / "scan.nii"
    plain.write_bytes(gzip.decompress(case.image.read_bytes()))
    cohort = replace(tiny_cohort, cases=(replace(case, image=plain), *tiny_cohort.cases[1:]))
    targets = [
        export_nnunet(cohort, tmp_path / out, modality="CT").folder / "imagesTr" / f"{case.case}_0000.nii.gz"
        for out in ("one", "two")
    ]
    assert gzip.decompress(targets[0].read_bytes()) == plain.read_bytes()
    assert targets[0].read_bytes() == targets[1].read_bytes()


def test_a_label_map_in_another_orientation_is_laid_on_its_scans_grid(tmp_path: Path, tiny_cohort: Cohort) -> None:
    case = tiny_cohort.cases[0]
    assert case.label is not None
    label = Nifti1Image.from_filename(case.label)
    turned = label.as_reoriented([[0, -1], [1, 1], [2, 1]])
    turned.to_filename(tmp_path / "turned.nii.gz")
    cohort = replace(tiny_cohort, cases=(replace(case, label=tmp_path / "turned.nii.gz"), *tiny_cohort.cases[1:]))
    folder = export_nnunet(cohort, tmp_path / "out", modality="CT").folder
    written = Nifti1Image.from_filename(folder / "labelsTr" / f"{case.case}.nii.gz")
    scan = Nifti1Image.from_filename(folder / "imagesTr" / f"{case.case}_0000.nii.gz")
    assert np.array_equal(np.asarray(written.dataobj), np.asarray(label.dataobj))
    assert np.allclose(np.asarray(written.affine), np.asarray(scan.affine))


def test_a_scan_with_a_fourth_dimension_of_one_becomes_a_plain_one(tmp_path: Path, tiny_cohort: Cohort) -> None:
    case = tiny_cohort.cases[0]
    scan = Nifti1Image.from_filename(case.image)
    Nifti1Image(np.asarray(scan.dataobj)[..., None], scan.affine).to_filename(tmp_path / "four.nii.gz")
    cohort = replace(tiny_cohort, cases=(replace(case, image=tmp_path / "four.nii.gz"), *tiny_cohort.cases[1:]))
    folder = export_nnunet(cohort, tmp_path / "out", modality="CT").folder
    assert np.array_equal(voxels(folder / "imagesTr" / f"{case.case}_0000.nii.gz"), voxels(case.image))


def test_partial_annotation_is_refused_unless_somebody_says_what_to_do(tmp_path: Path, tiny_cohort: Cohort) -> None:
    cohort = annotated(tiny_cohort, a_train_0=(1,))
    with pytest.raises(AmosError, match=r"1 case \(a_train_0\) lack organs .* --partial leave-out or --partial ignore"):
        export_nnunet(cohort, tmp_path / "out", modality="CT")
    assert not list(tmp_path.iterdir())
    done = export_nnunet(cohort, tmp_path / "out", modality="CT", partial="leave-out")
    assert "a_train_0" not in done.train
    assert done.notes == ("left out, not all organs annotated: a_train_0",)
    assert json.loads((done.folder / "dataset.json").read_text())["numTraining"] == 4
    assert "ignore" not in json.loads((done.folder / "dataset.json").read_text())["labels"]


def test_where_organs_were_not_looked_for_nothing_is_background(tmp_path: Path, tiny_cohort: Cohort) -> None:
    cohort = annotated(tiny_cohort, a_train_0=(1,))
    folder = export_nnunet(cohort, tmp_path / "out", modality="CT", partial="ignore").folder
    assert json.loads((folder / "dataset.json").read_text())["labels"]["ignore"] == 3
    label = cohort.cases[0].label
    assert label is not None
    before, after = voxels(label), voxels(folder / "labelsTr" / "a_train_0.nii.gz")
    assert (before == 2).any()
    assert np.array_equal(after == 1, before == 1)
    assert np.array_equal(after == 3, before != 1)
    # The other cases have their background as it was.
    assert (folder / "labelsTr" / "a_train_1.nii.gz").is_symlink()


def test_an_organ_that_no_training_case_was_searched_for_is_background_everywhere(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    cohort = annotated(tiny_cohort, **{case.case: (1,) for case in tiny_cohort.cases})
    done = export_nnunet(cohort, tmp_path / "out", modality="CT")
    assert done.notes == ("background everywhere, because no training case has them annotated: box",)
    assert set(np.unique(voxels(done.folder / "labelsTr" / "a_train_0.nii.gz"))) == {0, 1}
    # What is scored stays as it was.
    assert set(np.unique(voxels(done.folder / "labelsTs" / "a_test_8.nii.gz"))) == {0, 1, 2}


def test_without_a_case_that_has_all_organs_nothing_teaches_background(tmp_path: Path, tiny_cohort: Cohort) -> None:
    training = [case.case for case in tiny_cohort.cases if case.split != "test"]
    cohort = annotated(tiny_cohort, **{name: (1 + number % 2,) for number, name in enumerate(training)})
    with pytest.raises(AmosError, match="nothing would teach nnU-Net what background is"):
        export_nnunet(cohort, tmp_path / "out", modality="joint", partial="ignore")


def test_labels_without_gaps_and_names_that_nnunet_does_not_reserve(tmp_path: Path, tiny_cohort: Cohort) -> None:
    gap = annotated(replace(tiny_cohort, organs={1: "ball", 2: "box", 5: "moon"}))
    folder = export_nnunet(gap, tmp_path / "out", modality="CT").folder
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    assert labels == {"background": 0, "ball": 1, "box": 2, "unused 3": 3, "unused 4": 4, "moon": 5}
    with pytest.raises(AmosError, match="an organ of this cohort is called 'ignore'"):
        export_nnunet(replace(tiny_cohort, organs={1: "ball", 2: "ignore"}), tmp_path / "no", modality="CT")


def test_cases_without_labels_are_left_out_of_training_and_kept_for_prediction(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    bare = replace(
        tiny_cohort,
        cases=tuple(
            replace(case, label=None) if case.case in ("a_train_0", "d_test_8") else case for case in tiny_cohort.cases
        ),
    )
    done = export_nnunet(bare, tmp_path / "out", modality="CT")
    assert "left out, without a label map: a_train_0" in done.notes
    assert names(done.folder / "imagesTs") == ["a_test_8_0000.nii.gz", "d_test_8_0000.nii.gz"]
    assert names(done.folder / "labelsTs") == ["a_test_8.nii.gz"]


def test_a_damaged_file_leaves_nothing_behind(tmp_path: Path, tiny_cohort: Cohort) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_text("not an image")
    last = replace(tiny_cohort.cases[-1], image=broken)
    cohort = replace(tiny_cohort, cases=(*tiny_cohort.cases[:-1], last))
    with pytest.raises(AmosError, match=r"broken\.nii\.gz"):
        export_nnunet(cohort, tmp_path / "out", modality="joint")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--modality", "PET"], "--modality is 'PET': choose CT, MR or joint"),
        (["--modality", "CT", "--partial", "guess"], "--partial is 'guess': choose refuse, leave-out or ignore"),
        (["--modality", "CT", "--dataset-id", "0"], "--dataset-id 0: must lie between 1 and 999"),
        (["--modality", "CT", "--name", "a b"], "--name a b: may hold letters"),
        (["--modality", "CT", "--sites", "Z"], "no site Z in this cohort"),
        (["--modality", "CT", "--sites", "D"], "no labelled training case of CT"),
        (["--modality", "CT", "--hold-out", "A,B"], "no labelled training case of CT"),
    ],
)
def test_wrong_input_is_one_plain_sentence(
    tmp_path: Path, tiny_root: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", "export", "nnunet", str(tiny_root), str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_or_a_taken_id_is_refused(
    tmp_path: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "export", "nnunet", str(tiny_root), str(tmp_path / "out"), "--modality"]
    assert run([*command, "CT"]) == 0
    assert run([*command, "MR"]) == 2
    assert "Dataset701_CohortCT: has the id 701 already" in capsys.readouterr().err
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert run([*command, "MR", "--dataset-id", "702"]) == 2
    assert "is not empty and no folder of nnU-Net datasets (notes.txt)" in capsys.readouterr().err
    assert names(tmp_path / "out") == ["Dataset701_CohortCT", "notes.txt"]


def test_a_phantoms_dataset_says_what_it_is(tmp_path: Path, tiny_cohort: Cohort, tiny_root: Path) -> None:
    shutil.copytree(tiny_root, tmp_path / "phantom")
    (tmp_path / "phantom" / "dataset.json").write_text('{"description": "synthetic phantom"}')
    folder = export_nnunet(read_cohort(tmp_path / "phantom"), tmp_path / "out", modality="CT").folder
    case = replace(tiny_cohort.cases[0], image=folder / "imagesTr" / "a_train_0_0000.nii.gz")
    again = Cohort((case,), tiny_cohort.organs)
    assert again.synthetic()
    assert not Cohort(tiny_cohort.cases, tiny_cohort.organs).synthetic()


def test_a_folder_of_a_run_exports_the_cases_of_the_run(tmp_path: Path, tiny_cohort: Cohort) -> None:
    from federations import tiny_config

    from amos_fl.runs.create import create_run

    held = tiny_cohort.holding_out(["B"])
    create_run(tmp_path / "run", tiny_config(), held)
    write_cohort(held, tmp_path / "run" / "cohort.csv")
    assert run(["data", "export", "nnunet", str(tmp_path / "run"), str(tmp_path / "out"), "--modality", "CT"]) == 0
    assert not [name for name in names(tmp_path / "out/Dataset701_CohortCT/imagesTr") if name.startswith("b")]


def test_predictions_named_as_nnunet_names_them_can_be_scored(
    tmp_path: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, predictions = tmp_path / "out", tmp_path / "predictions"
    assert run(["data", "export", "nnunet", str(tiny_root), str(out), "--modality", "CT"]) == 0
    labels = out / "Dataset701_CohortCT" / "labelsTs"
    shutil.copytree(labels, predictions)
    capsys.readouterr()
    command = ["score", str(predictions), str(labels), "--cohort", str(tiny_root), "--out", str(tmp_path / "scores")]
    assert run(command) == 0, capsys.readouterr().err
    scores = read_scores(tmp_path / "scores" / "scores.csv")
    assert sorted(case.case for case in scores) == ["a_test_8", "d_test_8"]
    assert all(score.dsc == 1 for case in scores for score in case.scores.values())
