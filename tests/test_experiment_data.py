"""The data of experiments: which cases and sites a data set has, what is held out, and which organs are the same."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from made_runs import amos

from amos_fl.api.settings import resolve_run
from amos_fl.cohort.label_map import matches
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.experiments.data import MissingDataError, data_cohort, label_map_of, parse_given, selected
from amos_fl.experiments.planning import Planner
from amos_fl.experiments.preset import read_preset
from amos_fl.experiments.quick_data import phantom_data
from amos_fl.experiments.workspace import Workspace
from amos_fl.phantom.scan import PhantomScan


def tiny_scan(*about: Any) -> PhantomScan:
    """In place of a drawn scan, where only the cases count."""
    return PhantomScan(np.zeros((2, 2, 2), np.int16), np.zeros((2, 2, 2), np.uint8), np.eye(4), "made")


def test_the_hippocampus_is_divided_by_the_units_of_its_intensities(tmp_path: Path) -> None:
    task, largest = tmp_path / "Task04_Hippocampus", {1: 200, 2: 255, 3: 900, 4: 4000, 299: 900, 301: 900, 364: 900}
    for part in ("imagesTr", "labelsTr"):
        (task / part).mkdir(parents=True)
    for number, value in {**largest, 5: 2e5, 6: 1e6}.items():
        voxels = np.linspace(0.5, value, 64, dtype=np.float32).reshape(4, 4, 4)
        for part, array in (("imagesTr", voxels), ("labelsTr", (voxels > 100).astype(np.uint8))):
            nib.save(nib.Nifti1Image(array, np.eye(4)), task / part / f"hippocampus_{number:03d}.nii.gz")  # pyright: ignore
    names = sorted(path.name for path in (task / "imagesTr").iterdir())
    pairs = [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names]
    about = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}
    (task / "dataset.json").write_text(json.dumps({"name": "Hippocampus", **about, "training": pairs, "test": []}))
    cohort = data_cohort("hippocampus", "", parse_given([f"hippocampus={task}"]))
    numbers = {site: [int(case.case[-3:]) for case in cohort.of(site=site)] for site in cohort.sites}
    assert numbers == {"east": [301], "gray8": [1, 2], "hugeunits": [5, 6], "north": [3, 4, 299], "west": [364]}
    assert {case.split for case in cohort.of(site="hugeunits")} == {"test"}
    assert {case.patient for case in cohort.of(site="gray8")} == {"p001"}
    with pytest.raises(MissingDataError, match="unpack it, and add --data hippocampus=FOLDER"):
        data_cohort("hippocampus", "", {})


def test_the_phantom_of_experiments_has_test_cases_enough_for_an_interval_at_every_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amos_fl.phantom.release.make_scan", tiny_scan)
    cohort = data_cohort("phantom", "paper", {"phantom": phantom_data("phantom", tmp_path)})
    tests = {site: len(cohort.of(site=site, split="test")) for site in cohort.sites}
    assert tests == {"A": 8, "B": 8, "C": 8, "D": 8, "E": 8, "F": 14, "G": 11, "H": 0}
    assert {site: len(cohort.of(site=site, split="train")) for site in cohort.seen_sites} == {
        "A": 7,
        "B": 7,
        "C": 7,
        "G": 6,
        "H": 7,
    }
    assert cohort.synthetic()


def test_a_scanner_that_is_held_out_tests_with_all_its_cases_and_the_others_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amos_fl.phantom.release.make_scan", tiny_scan)
    given = {"phantom-scanners": phantom_data("phantom-scanners", tmp_path)}
    trains = {"A": 7, "B": 7, "C": 7, "G": 6, "H": 7}
    for held, tests in (("F", 29), ("G", 20), ("H", 7), ("C", 15)):
        cohort = data_cohort("phantom-scanners", "paper", given, (held,))
        training = {site: len(cohort.of(site=site, split="train")) for site in cohort.seen_sites}
        assert training == {site: number for site, number in trains.items() if site != held}
        assert len(cohort.of(site=held)) == len(cohort.of(site=held, split="test")) == tests
    preset = read_preset("unseen-scanners")
    planner = Planner(Workspace(tmp_path / "out", "full"), given, partial(resolve_run, headers=False))
    tasks = {task.step: task for task in planner.plan(preset)}
    without_g = tasks["robust-federated-without-G-1"].members[0]
    assert (without_g.cohort.unseen_sites, without_g.config.seed) == (("G",), 1)
    assert (without_g.config.rounds, without_g.config.local_steps) == (20, 25)
    assert without_g.config.training.augmentation == "robust"
    assert tasks["light-chaos-0"].work.missing
    folders = [task.work.folder for task in tasks.values() if task.work.folder]
    assert len(set(folders)) == len(folders)


def test_training_cases_are_drawn_the_same_in_any_order_and_never_more_than_there_are() -> None:
    cohort = amos({"train": "train", "val": "test"})
    drawn = selected(cohort, None, {"CT": 20})
    turned = selected(Cohort(cohort.cases[::-1], cohort.organs), None, {"CT": 20})
    assert {c.case for c in drawn.cases} == {c.case for c in turned.cases}
    assert (len(drawn.of(split="train")), len(drawn.of(split="test"))) == (20, 100)
    with pytest.raises(AmosError, match="trains on 201 CT cases, and the cohort has 200"):
        selected(cohort, None, {"CT": 201})


def test_another_data_sets_organs_equal_those_that_its_label_map_says() -> None:
    ours = {1: "kidney", 2: "tumor"}
    assert label_map_of("kits", ours, AMOS_ORGANS)["kidney"] == ("right kidney", "left kidney")
    assert label_map_of("kits", ours, {1: "spleen"})["kidney"] == ()
    # What grows in a kidney is a part of it, and no background beside it.
    whole = {1: "Kidney", 2: "Tumor", 3: "Cyst"}
    [match] = matches(label_map_of("kits", whole, AMOS_ORGANS), whole, AMOS_ORGANS, "AMOS")
    assert (match.ours, match.theirs) == ((1, 2, 3), (2, 3))
    assert label_map_of("msd-spleen", {1: "spleen"}, AMOS_ORGANS) == {"spleen": ("spleen",)}
