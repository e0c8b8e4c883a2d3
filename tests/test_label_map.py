"""Label maps: another cohort's labels as AMOS's without rewriting a file, and scores over the organs in common."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from federations import tiny_config
from labelling import voxels
from other_datasets import write_msd

from amos_fl.cli.main import run
from amos_fl.cohort.label_map import LabelMap, matches, read_label_map, relabelled, suggested, to_amos, write_label_map
from amos_fl.cohort.nnunet import export_nnunet
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.reference import label_of, reference_of
from amos_fl.cohort.table import Cohort, read_cohort, write_cohort
from amos_fl.errors import AmosError
from amos_fl.metrics.table import read_scores
from amos_fl.prepared.prepare import prepare_case, prepared_key

KIDNEYS: LabelMap = {"ball": ("right kidney",), "box": ("liver",)}
PLAN = tiny_config().plan


def test_organs_are_suggested_by_name_in_any_spelling() -> None:
    organs = {1: "Kidney_Right", 2: "gallbladder", 3: "IVC", 4: "left adrenal gland", 5: "lung", 6: "Oesophagus"}
    assert suggested(organs) == {
        "Kidney_Right": ("right kidney",),
        "gallbladder": ("gall bladder",),
        "IVC": ("inferior vena cava",),
        "left adrenal gland": ("left adrenal gland",),
        "lung": (),
        "Oesophagus": ("esophagus",),
    }
    assert suggested({1: "liver", 2: "liver tumour", 3: "Vessel"})["liver tumour"] == ("liver",)
    assert suggested({1: "kidney", 2: "tumor"}) == {"kidney": (), "tumor": ()}
    # Of two organs, nothing says which one a tumour is in.
    assert suggested({1: "liver", 2: "spleen", 3: "cancer"})["cancer"] == ()
    assert suggested(AMOS_ORGANS) == {organ: (organ,) for organ in AMOS_ORGANS.values()}


def test_a_label_map_is_read_from_csv_and_yaml_alike(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("organ,equals\nliver,liver\ncancer,6\nkidneys,left kidney\nkidneys,3\nvessel,\n")
    (tmp_path / "map.yaml").write_text("liver: liver\ncancer: 6\nkidneys: [left kidney, 3]\nvessel:\n")
    read = [read_label_map(tmp_path / name) for name in ("map.csv", "map.yaml")]
    assert read[0] == read[1] == {"liver": ("liver",), "cancer": ("6",), "kidneys": ("left kidney", "3"), "vessel": ()}
    write_label_map(tmp_path / "again.csv", read[0])
    assert read_label_map(tmp_path / "again.csv") == read[0]
    for text, words in (
        ("liver;liver\n", "must have the columns organ and equals"),
        ("organ,equals\nliver\n", "line 2: must name an organ and"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(AmosError, match=words):
            read_label_map(tmp_path / "bad.csv")
    (tmp_path / "bad.yaml").write_text("- liver\n")
    with pytest.raises(AmosError, match="organ: what it equals"):
        read_label_map(tmp_path / "bad.yaml")
    with pytest.raises(AmosError, match="no such label map"):
        read_label_map(tmp_path / "nothing.csv")


def test_what_a_label_map_relates_is_joined_on_either_side() -> None:
    ours, theirs = {1: "liver", 2: "cancer", 3: "kidneys"}, {1: "left kidney", 2: "right kidney", 6: "liver"}
    related = {"liver": ("liver",), "cancer": ("liver",), "kidneys": ("left kidney", "right kidney")}
    found = matches(related, ours, theirs, "the network")
    assert [(match.ours, match.theirs) for match in found] == [((1, 2), (6,)), ((3,), (1, 2))]
    for wrong, words in (
        ({"heart": ("liver",)}, "the cohort has no organ 'heart'"),
        ({"liver": ("heart",)}, "the network has no organ 'heart'"),
        ({"liver": ()}, "it names no organ that the cohort"),
    ):
        with pytest.raises(AmosError, match=words):
            matches(wrong, ours, theirs, "the network")
    cohort = Cohort((), ours)
    with pytest.raises(AmosError, match="'kidneys' cannot become 'right kidney' and 'left kidney'"):
        to_amos(cohort, {"kidneys": ("left kidney", "right kidney")})


def test_a_relabelled_cohort_reads_as_amos_and_leaves_the_files(tmp_path: Path, tiny_cohort: Cohort) -> None:
    write_cohort(to_amos(tiny_cohort, KIDNEYS), tmp_path / "cohort.csv")
    cohort = read_cohort(tmp_path)
    assert cohort.organs == AMOS_ORGANS
    assert "1=2 2=6" in (tmp_path / "cohort.csv").read_text()
    for before, after in zip(tiny_cohort.cases, cohort.cases, strict=True):
        assert (after.annotated, after.label_values) == ((2, 6), ((1, 2), (2, 6)))
        assert before.label is not None
        expected = np.array([0, 2, 6])[voxels(before.label)]
        assert np.array_equal(label_of(after, AMOS_ORGANS).array, expected)
        assert np.array_equal(reference_of(after, AMOS_ORGANS).array, expected)
    assert run(["data", "check", str(tmp_path)]) == 0


def test_joined_and_dropped_organs_and_a_second_relabelling(tiny_cohort: Cohort) -> None:
    case = tiny_cohort.cases[0]
    assert case.label is not None
    cohort = Cohort((case, replace(case, annotated=(1,)), replace(case, annotated=(2,))), tiny_cohort.organs)
    joined = to_amos(cohort, {"ball": ("liver",), "box": ("liver",)})
    # An organ of two parts was looked for only where both were; where nothing is left, nothing can be learned.
    assert [one.annotated for one in joined.cases if one.label] == [(6,)]
    assert np.array_equal(label_of(joined.cases[0], AMOS_ORGANS).array, (voxels(case.label) > 0) * 6)
    dropped = to_amos(cohort, {"ball": ("liver",), "box": ()})
    assert [one.annotated for one in dropped.cases if one.label] == [(6,), (6,)]
    assert np.array_equal(label_of(dropped.cases[0], AMOS_ORGANS).array, (voxels(case.label) == 1) * 6)
    again = relabelled(dropped, {6: 1}, {1: "hepar"})
    assert again.cases[0].label_values == ((1, 1), (2, 0))


def test_the_store_tells_label_maps_apart_and_keeps_its_old_keys(tmp_path: Path, tiny_cohort: Cohort) -> None:
    case = tiny_cohort.cases[0]
    swapped = replace(case, label_values=((1, 2), (2, 1)))
    same = replace(case, label_values=())
    keys = [prepared_key(one, PLAN, tmp_path, tiny_cohort.organs) for one in (case, swapped, same)]
    assert keys[0] == keys[2] != keys[1]
    plain, other = (prepare_case(one, PLAN, tmp_path, tiny_cohort.organs).label() for one in (case, swapped))
    assert np.array_equal(np.array([0, 2, 1])[plain], other)
    cohorts = [replace(tiny_cohort, cases=(one,)).content_hash() for one in (case, swapped)]
    assert cohorts[0] != cohorts[1]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("1=2 1=1", "must name each value of the file once"),
        ("1=9", "names 9, which is not an organ"),
        ("1:2", "lists values"),
    ],
)
def test_label_values_that_are_none_are_refused(tmp_path: Path, values: str, words: str) -> None:
    (tmp_path / "organs.csv").write_text("label,organ\n1,ball\n2,box\n")
    header = "case,site,modality,split,image,label,annotated,label_values\n"
    (tmp_path / "cohort.csv").write_text(f"{header}a,A,CT,train,a.nii.gz,b.nii.gz,,{values}\n")
    with pytest.raises(AmosError, match=words):
        read_cohort(tmp_path)


def test_a_value_that_the_column_does_not_list_is_refused(tiny_cohort: Cohort) -> None:
    case = replace(tiny_cohort.cases[0], label_values=((1, 2),))
    with pytest.raises(AmosError, match="holds the label 2, which the column label_values of its case does not list"):
        label_of(case, tiny_cohort.organs)


def test_an_export_writes_what_the_labels_mean(tmp_path: Path, tiny_cohort: Cohort) -> None:
    cohort = relabelled(tiny_cohort, {1: 2, 2: 1}, {1: "box", 2: "ball"})
    folder = export_nnunet(cohort, tmp_path, modality="CT").folder
    label = tiny_cohort.cases[0].label
    assert label is not None
    assert np.array_equal(voxels(folder / "labelsTr/a_train_0.nii.gz"), np.array([0, 2, 1])[voxels(label)])


def test_partially_annotated_sites_join_a_federation(tmp_path: Path, tiny_cohort: Cohort, capsys) -> None:
    task = write_msd(tmp_path / "Task77_Tiny", labelled=3, tests=0)
    mine = tmp_path / "map.yaml"
    mine.write_text("ball: right kidney\nbox:\n")
    assert run(["data", "msd", str(task), "--label-map", str(mine), "--site", "Z"]) == 0
    assert "ball = right kidney" in capsys.readouterr().out
    write_cohort(to_amos(tiny_cohort, KIDNEYS), tmp_path / "ours/cohort.csv")
    joined = tmp_path / "both/cohort.csv"
    assert run(["data", "join", str(tmp_path / "ours"), str(task), "--out", str(joined)]) == 0
    assert "1 of 15" in capsys.readouterr().out
    cohort = read_cohort(joined)
    assert cohort.sites == ("A", "B", "D", "G", "Z")
    assert {case.annotated for case in cohort.of(site="Z")} == {(2,)}
    assert run(["data", "check", str(joined)]) == 0
    assert run(["data", "join", str(joined), str(task), "--out", str(tmp_path / "x.csv")]) == 2
    assert "case case_0 is in" in capsys.readouterr().err


def test_relabel_suggests_a_map_and_spares_the_cohort(
    tmp_path: Path, tiny_root: Path, tiny_cohort: Cohort, capsys
) -> None:
    mixed = replace(tiny_cohort, organs={1: "Liver", 2: "box"})
    write_cohort(mixed, tmp_path / "mine/cohort.csv")
    ask = ["data", "relabel", str(tmp_path / "mine")]
    assert run([*ask, "--suggestion", str(tmp_path / "map.csv")]) == 0
    assert "Liver = liver\n  box = nothing" in capsys.readouterr().out
    assert run([*ask, "--label-map", str(tmp_path / "map.csv"), "--out", str(tmp_path / "mine/other.csv")]) == 2
    assert "whose organs.csv it would replace" in capsys.readouterr().err
    assert run([*ask, "--label-map", str(tmp_path / "map.csv"), "--out", str(tmp_path / "amos")]) == 0
    assert {case.annotated for case in read_cohort(tmp_path / "amos").cases} == {(6,)}
    assert read_cohort(tmp_path / "mine").organs == mixed.organs
    assert run(["data", "relabel", str(tiny_root)]) == 2
    assert "it names no organ that the cohort (ball, box) shares with AMOS" in capsys.readouterr().err
    # With a suggestion to write there is something to correct, so that this is no failure.
    assert run(["data", "relabel", str(tiny_root), "--suggestion", str(tmp_path / "none.csv")]) == 0
    assert (tmp_path / "none.csv").is_file()
    assert "note: as it stands it cannot be applied: label map: it names no organ" in capsys.readouterr().out


def scores(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "scores.csv").open(newline="") as file:
        return {(row["case"], row["organ"]): row for row in csv.DictReader(file)}


def test_evaluation_over_a_label_map_gives_the_scores_that_the_same_organs_had(
    finished_run: Path, tiny_cohort: Cohort, store: Path, tmp_path: Path
) -> None:
    other = relabelled(tiny_cohort, {1: 7, 2: 4}, {4: "crate", 7: "globe", 9: "cone"})
    write_cohort(other, tmp_path / "other/cohort.csv")
    (tmp_path / "map.csv").write_text("organ,equals\nglobe,ball\ncrate,box\ncone,\n")
    ask = ["evaluate", str(finished_run), "--store", str(store), "--cohort", str(tmp_path / "other")]
    assert run([*ask, "--out", str(tmp_path / "no")]) == 2
    assert run([*ask, "--label-map", str(tmp_path / "map.csv"), "--out", str(tmp_path / "out")]) == 0
    new, old = scores(tmp_path / "out"), scores(finished_run)
    names = {"7": "1", "4": "2"}
    assert len(new) == len(old)
    for (case, organ), row in new.items():
        assert {k: row[k] for k in ("dsc", "nsd")} == {k: old[case, names[organ]][k] for k in ("dsc", "nsd")}
    notes = json.loads((tmp_path / "out/evaluation.json").read_text())["notes"]
    assert "the cohort's organs as the network's, by the label map: crate = box, globe = ball" in notes
    assert "not scored, because only the cohort labels it: cone" in notes


def test_joined_organs_are_scored_as_one_on_either_side(
    finished_run: Path, tiny_cohort: Cohort, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "ours.csv").write_text("organ,equals\nball,ball\nbox,ball\n")
    ask = ["evaluate", str(finished_run), "--store", str(store), "--sites", "A"]
    assert run([*ask, "--label-map", str(tmp_path / "ours.csv"), "--out", str(tmp_path / "ours"), "--predictions"]) == 0
    case = next(c for c in tiny_cohort.cases if c.case == "a_test_8")
    assert case.label is not None
    predicted, label = voxels(tmp_path / "ours/predictions/A/a_test_8.nii.gz") > 0, voxels(case.label) > 0
    expected = 2 * (predicted & label).sum() / (predicted.sum() + label.sum())
    [[only]] = [list(c.scores.values()) for c in read_scores(tmp_path / "ours/scores.csv")]
    assert only.dsc == pytest.approx(expected)
    one = relabelled(tiny_cohort, {1: 1, 2: 1}, {1: "thing"})
    write_cohort(one, tmp_path / "one/cohort.csv")
    (tmp_path / "theirs.yaml").write_text("thing: [ball, box]\n")
    ask += ["--cohort", str(tmp_path / "one"), "--label-map", str(tmp_path / "theirs.yaml")]
    assert run([*ask, "--out", str(tmp_path / "theirs"), "--predictions"]) == 0
    drawn = voxels(tmp_path / "theirs/predictions/A/a_test_8.nii.gz") > 0
    [[only]] = [list(c.scores.values()) for c in read_scores(tmp_path / "theirs/scores.csv")]
    assert only.dsc == pytest.approx(2 * (drawn & label).sum() / (drawn.sum() + label.sum()))
    assert drawn.sum() >= predicted.sum()
