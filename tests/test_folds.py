"""Cross-validation: the cases that are not test cases, divided into folds by site and patient."""

import csv
from collections import Counter
from pathlib import Path

import pytest
import yaml
from federations import TINY, tiny_config

from amos_fl.api.settings import taking_part
from amos_fl.cli.main import run
from amos_fl.cohort.folds import fold_of_cases, in_fold
from amos_fl.cohort.table import Case, Cohort
from amos_fl.errors import AmosError
from amos_fl.runs.config import RunConfig
from amos_fl.runs.folder import open_run
from amos_fl.runs.layers import merge


def case(name: str, site: str, split: str = "train", patient: str = "", *, labelled: bool = True) -> Case:
    label = Path(name) if labelled else None
    return Case(name, site, "CT", split, Path(name), label, (1,), patient=patient)  # pyright: ignore[reportArgumentType]


def cohort(*cases: Case) -> Cohort:
    return Cohort(cases, {1: "ball"})


MANY = cohort(
    *(case(f"a{i}", "A", "val" if i > 17 else "train") for i in range(23)),
    *(case(f"b{i}", "B", patient=f"p{i // 3}") for i in range(21)),
    case("a-test", "A", "test"),
    case("d-val", "D", "val"),
    case("d-test", "D", "test"),
)


def test_every_case_that_is_no_test_case_validates_in_exactly_one_fold_and_trains_in_the_others() -> None:
    validated = Counter[str]()
    for fold in range(5):
        found = in_fold(MANY, fold, 5)
        assert [c.case for c in found.cases] == [c.case for c in MANY.cases]
        assert {c.case: c.split for c in found.cases if c.site == "D" or c.case == "a-test"} == {
            "a-test": "test",
            "d-val": "val",
            "d-test": "test",
        }
        mine = [c for c in found.cases if c.split == "val" and c.site != "D"]
        validated.update(c.case for c in mine)
        # 23 patients of A and 7 of B (three cases each) in five parts
        assert sum(c.site == "A" for c in mine) in (4, 5)
        assert sum(c.site == "B" for c in mine) in (3, 6)
    assert validated == Counter([f"a{i}" for i in range(23)] + [f"b{i}" for i in range(21)])


def test_a_patient_is_never_on_both_sides_not_even_at_two_sites() -> None:
    both = cohort(*MANY.cases, case("a-of-p1", "A", patient="p1"), case("b-again", "B", "val", "p1"))
    for fold in range(5):
        splits: dict[str, set[str]] = {}
        for c in in_fold(both, fold, 5).cases:
            splits.setdefault(c.patient or c.case, set()).add(c.split)
        assert all(len(found) == 1 for found in splits.values())


def test_a_division_depends_on_names_alone_not_on_order_seed_or_who_takes_part() -> None:
    folds = fold_of_cases(MANY, 5)
    assert fold_of_cases(cohort(*reversed(MANY.cases)), 5) == folds
    config = RunConfig(fold=2, sites=("A",), seed=7)
    alone = taking_part(MANY, config)
    assert alone.sites == ("A",)
    assert {c.case for c in alone.of(split="val")} == {name for name, k in folds.items() if k == 2 and name[0] == "a"}
    # Case names that are someone's patient names divide nobody.
    odd = cohort(case("p1", "A"), case("x", "A", patient="p1"), case("y", "A"))
    assert len(fold_of_cases(odd, 2)) == 3
    assert sorted(Counter(fold_of_cases(odd, 2).values()).values()) == [1, 2]


def test_small_sites_do_not_all_lack_the_same_folds() -> None:
    small = cohort(*(case(f"{site}{i}", f"site{site}") for site in range(20) for i in range(2)))
    assert set(fold_of_cases(small, 5).values()) == {0, 1, 2, 3, 4}


def test_the_only_patient_of_a_site_always_trains_and_scans_without_labels_are_left_out() -> None:
    one = cohort(*MANY.cases, case("c1", "C", patient="q"), case("c2", "C", "val", "q"), case("u", "A", labelled=False))
    for fold in range(5):
        found = {c.case: c.split for c in in_fold(one, fold, 5).cases}
        assert found["c1"] == found["c2"] == "train"
        assert found["u"] == "train"
        assert "C" in in_fold(one, fold, 5).seen_sites


def test_a_fold_that_validates_nothing_or_leaves_a_site_without_training_is_refused() -> None:
    with pytest.raises(AmosError, match="fold 4 of 90 has no validation case, for the training sites have 2 patients"):
        in_fold(cohort(case("a", "A"), case("b", "A")), 4, 90)
    shared = cohort(case("a1", "A", patient="p"), case("a2", "A", patient="q"), case("b", "B", patient="p"))
    lost = fold_of_cases(shared, 2)["b"]
    assert lost is not None
    with pytest.raises(AmosError, match="site B would train nothing"):
        in_fold(shared, lost, 2)


def test_settings_without_a_fold_are_what_they_were() -> None:
    assert not {"fold", "folds"} & RunConfig().science().keys()
    assert RunConfig(fold=0).science()["folds"] == 5
    with pytest.raises(ValueError, match="of 3 folds the last is 2"):
        RunConfig(fold=3, folds=3)


def test_a_sweep_over_folds_records_each_division_and_its_baselines_share_it(tmp_path: Path, tiny_root: Path) -> None:
    settings = merge(TINY, {"cohort": str(tiny_root), "sites": ["A", "G"], "folds": 2, "rounds": 1, "local_steps": 1})
    sweep = {"settings": settings, "grid": {"fold": [0, 1]}, "baselines": ["centralized"]}
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep).replace("!!python/tuple", ""))
    out = tmp_path / "out"
    assert run(["sweep", str(file), "--out", str(out), "--store", str(tmp_path / "store")]) == 0
    parts = []
    for fold in (0, 1):
        members = [out / f"fold{fold}", out / f"centralized-fold{fold}"]
        found = [{c.case for c in open_run(path).cohort().of(site="A", split="val")} for path in members]
        assert found[0] == found[1] != set()
        assert open_run(members[0]).config().fold == fold
        scored = open_run(members[0]).read_evaluation(1, "val")
        assert scored is not None
        assert {each.case for each in scored.sites["A"].cases} == found[0]
        parts.append(found[0])
    assert parts[0] | parts[1] == {"a_train_0", "a_train_1", "a_train_2", "a_val_7"}
    assert not parts[0] & parts[1]
    scores = tmp_path / "scores"
    command = ["evaluate", str(out / "fold0"), "--with", str(out / "fold1"), "--split", "val", "--out", str(scores)]
    assert run([*command, "--store", str(tmp_path / "store")]) == 0
    scored = {(row["case"], int(row["organ"])): row["dsc"] for row in csv.DictReader((scores / "scores.csv").open())}
    wanted = {}
    for fold in (0, 1):  # what each run said of its validation cases, which it did not train on
        evaluation = open_run(out / f"fold{fold}").read_evaluation(1, "val")
        assert evaluation is not None
        for site in ("A", "G"):
            for each in evaluation.sites[site].cases:
                wanted |= {(each.case, int(organ)): score.dsc for organ, score in each.scores.items()}
    assert scored.keys() == wanted.keys()
    assert len(scored) == 2 * 7
    assert {key: float(dsc) for key, dsc in scored.items()} == pytest.approx(wanted, abs=1e-6)
    assert "cross-validation over 2 folds" in (scores / "summary.md").read_text()
    assert "measure memory" not in (scores / "summary.md").read_text()
    assert tiny_config(fold=0, folds=2).science() != tiny_config(fold=1, folds=2).science()
