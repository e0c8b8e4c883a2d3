"""Comparisons of made runs with known answers: arms, gaps, refusals, budgets, published numbers, files."""

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import ORGANS, compared, constant, everything, made_cohort, made_run, noisy, with_cases

from amos_fl.comparison.comparison import Comparison
from amos_fl.comparison.tables import markdown_page
from amos_fl.errors import AmosError
from amos_fl.metrics.catalogue import MetricName
from amos_fl.metrics.scores import OrganScore
from amos_fl.metrics.table import sums_of
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.record import RunCost, RunRecord


def value(comparison: Comparison, arm: str, scope: str, metric: MetricName = "dsc", organ: str = "") -> float | None:
    cell = comparison.cell(arm, scope, metric, organ)
    return None if cell is None else round(cell.estimate.value, 9)


@pytest.fixture(scope="module")
def whole() -> Comparison:
    """Federated, pooled, three local and three leave-one-out runs."""
    return compared(everything())


# Arms


def test_the_arms_are_what_the_runs_are(whole: Comparison) -> None:
    assert [arm.name for arm in whole.main_arms] == [
        *("fedavg", "pooled", "leave-one-out", "local, at home", "local, elsewhere")
    ]
    assert {arm.name for arm in whole.arms if not arm.main} == {
        *("local A", "local B", "local G", "without A", "without B", "without G")
    }
    assert whole.reference == "fedavg"
    at_home = next(arm for arm in whole.arms if arm.name == "local, at home")
    assert at_home.runs == ("local-0/A", "local-0/B", "local-0/G")


def test_a_mean_is_the_runs_own(whole: Comparison) -> None:
    fed = next(record for record in whole.records if record.arm == "federated")
    for scope in whole.scopes_of("site", "group"):
        printed = sums_of([c for c in fed.results.cases if c.site in scope.sites], ORGANS)
        assert value(whole, "fedavg", scope.name) == pytest.approx(printed.mean_dsc(), abs=1e-9)
        assert value(whole, "fedavg", scope.name, "nsd") == pytest.approx(printed.mean_nsd(), abs=1e-9)
        assert value(whole, "fedavg", scope.name, "dsc", "liver") == pytest.approx(printed.dsc(1), abs=1e-9)


def test_seen_and_unseen_ct_and_mr_stand_apart(whole: Comparison) -> None:
    groups = {scope.name: scope.sites for scope in whole.scopes_of("group")}
    assert groups == {"seen CT": ("A", "B"), "seen MR": ("G",), "unseen CT": ("D",), "unseen MR": ("F",)}
    alike = whole.cell("fedavg", "seen sites", "dsc")
    assert alike is not None
    sites = [whole.cell("fedavg", site, "dsc") for site in "ABG"]
    assert alike.estimate.value == pytest.approx(sum(c.estimate.value for c in sites if c) / 3)


def test_a_local_model_is_at_home_on_its_own_site_and_elsewhere_on_the_others(whole: Comparison) -> None:
    for site in "ABG":
        assert value(whole, "local, at home", site) == value(whole, f"local {site}", site)
        others = [value(whole, f"local {other}", site) or 0.0 for other in "ABG" if other != site]
        assert value(whole, "local, elsewhere", site) == pytest.approx(sum(others) / 2, abs=1e-8)
    assert value(whole, "local, at home", "D") is None
    assert value(whole, "local, elsewhere", "D") == pytest.approx(
        sum(value(whole, f"local {site}", "D") or 0.0 for site in "ABG") / 3, abs=1e-8
    )


def test_leave_one_out_scores_a_site_by_the_run_without_it(whole: Comparison) -> None:
    for site in "ABG":
        assert value(whole, "leave-one-out", site) == value(whole, f"without {site}", site)
    assert value(whole, "leave-one-out", "D") is None


def test_fine_tuned_models_of_two_federations_are_two_families(tmp_path: Path) -> None:
    records = [made_run("fedavg", constant(0.8)), made_run("fedprox", constant(0.8), strategy="fedprox")]
    for parent, strategy in (("ft-1", "fedavg"), ("ft-2", "fedprox")):
        run = tmp_path / strategy
        run.mkdir()
        (run / "config.yaml").write_text(f"strategy: {strategy}\n")
        start = str(run / "model/weights.safetensors")
        for site in "ABG":
            hold_out = [s for s in "ABG" if s != site]
            tuned = {"arm": "finetune", "hold_out": hold_out, "start_from": start, "parent": parent}
            records.append(made_run(f"{parent}/{site}", constant(0.9), **tuned))
    names = [arm.name for arm in compared(records).main_arms if arm.kind == "finetune"]
    assert len(set(names)) == 4
    assert all(len(arm.runs) == 3 for arm in compared(records).main_arms if arm.kind == "finetune")


def test_runs_that_differ_in_the_seed_alone_are_one_arm_and_others_are_told_apart() -> None:
    records = [made_run(f"a{seed}", constant(0.8), seed=seed) for seed in (0, 1)]
    records.append(made_run("b", constant(0.8), seed=0, local_steps=7))
    found = compared(records)
    assert [(arm.name, arm.seeds) for arm in found.arms] == [
        *(("fedavg local_steps=50", (0, 1)), ("fedavg local_steps=7", (0,)))
    ]
    spread = next(s for s in found.spreads if s.arm.endswith("=50"))
    assert (spread.seeds, spread.sd) == ((0, 1), pytest.approx(0.0))


def test_deployed_runs_that_began_with_other_weights_are_two_arms_though_both_are_called_alike(tmp_path: Path) -> None:
    records = []
    about = {"run_id": "0" * 16, "cohort_sha256": "0" * 64, "synthetic": False, "versions": {}}
    for name, seed, sha256 in (("a", 0, "1"), ("b", 1, "1"), ("c", 0, "2")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "versions.json").write_text(json.dumps({**about, "start_sha256": sha256}))
        start = folder / "start/fedavg-001/model/weights.safetensors"
        record = made_run(name, constant(0.8), seed=seed, start_from=str(start))
        records.append(dataclasses.replace(record, folder=RunFolder(folder)))
    assert sorted(arm.seeds for arm in compared(records).arms) == [(0,), (0, 1)]


def test_the_reference_is_a_federated_arm_or_the_one_that_was_named() -> None:
    records = [made_run("p", constant(0.9), arm="centralized"), made_run("x", constant(0.8), strategy="fedprox")]
    assert compared(records).reference == "fedprox"
    assert compared(records, reference="p").reference == "pooled"
    with pytest.raises(AmosError, match="there are fedprox, pooled"):
        compared(records, reference="fedavg")


def test_an_arm_that_did_not_train_where_others_did_is_named_so_and_is_not_the_reference() -> None:
    records = [made_run("a", constant(0.8), hold_out=["G"]), made_run("b", constant(0.9), strategy="fedprox")]
    found = compared(records)
    assert [arm.name for arm in found.arms] == ["fedprox", "fedavg, without G"]
    [said] = [note for note in found.notes if "unseen scanner" in note]
    assert said.startswith("fedavg, without G: did not train on G, as others here did")
    both = [records[0], made_run("c", constant(0.9), strategy="fedprox", hold_out=["G"])]
    assert not any("unseen scanner" in note for note in compared(both).notes)


def test_an_option_at_its_default_makes_no_arm_of_its_own() -> None:
    given = {"strategy": "fedprox", "strategy_options": {"mu": 0.01}}
    runs = [made_run("a", constant(0.8), strategy="fedprox"), made_run("b", constant(0.9), seed=1, **given)]
    runs += [made_run("p", constant(0.9), arm="centralized")]
    assert [(arm.name, arm.seeds) for arm in compared(runs).arms] == [("fedprox", (0, 1)), ("pooled", (0,))]


def test_an_arm_has_the_name_that_was_given_to_one_of_its_runs() -> None:
    records = everything(seeds=(0, 1))
    named = compared(records, names={"fedavg-1": "ours", "local-0": "alone"}, reference="ours")
    plain = compared(records)
    renamed = [arm.name.replace("fedavg", "ours").replace("local", "alone") for arm in plain.arms]
    assert [arm.name for arm in named.arms] == renamed
    assert named.reference == "ours"
    assert value(named, "ours", "seen") == value(plain, "fedavg", "seen")
    two = [made_run("a", constant(0.9)), made_run("b", constant(0.8), strategy="fedprox")]
    other = compared(two, names={"a": "zeta", "b": "alpha"})
    assert (other.reference, [arm.name for arm in other.arms]) == ("zeta", ["zeta", "alpha"])
    for names, sentence in (
        ({"fedavg-2": "ours"}, "'ours' names the arm of fedavg-2: no such run; there are fedavg-0"),
        ({"fedavg-0": "ours", "fedavg-1": "theirs"}, "ours and theirs name one arm"),
        ({"fedavg-0": "ours", "pooled-0": "ours"}, "the name ours would be of two arms"),
        ({"fedavg-0": " "}, "arm of fedavg-0 is empty"),
    ):
        with pytest.raises(AmosError, match=sentence):
            compared(records, names=names)


# Tests and verdicts


def test_below_six_cases_values_stand_without_interval_or_p() -> None:
    cohort = made_cohort({"A": ("CT", True, 5), "B": ("CT", True, 2), "D": ("CT", False, 3)})
    records = [
        made_run("f", noisy(0.8, name="f"), cohort=cohort),
        made_run("p", noisy(0.9, name="p"), cohort=cohort, arm="centralized"),
    ]
    found = compared(records)
    for scope, known in (("A", False), ("D", False), ("unseen CT", False), ("seen CT", True)):
        cell, difference = found.cell("fedavg", scope, "dsc"), found.difference("pooled", scope, "dsc")
        assert cell is not None
        assert difference is not None
        assert not math.isnan(cell.estimate.value)
        assert cell.estimate.has_interval is difference.estimate.has_interval is known
        assert math.isnan(difference.p) is not known
        assert (difference.verdict == "too few cases") is not known
    text = markdown_page(found)
    assert "too few for an interval" in text


def verdict_of(seeds: int, a: float, b: float, sd_of_seeds: float = 0.0) -> str:
    records = []
    for seed in range(seeds):
        shift = sd_of_seeds * (seed - (seeds - 1) / 2)
        records.append(made_run(f"a{seed}", noisy(a + shift, name=f"a{seed}"), seed=seed))
        records.append(made_run(f"p{seed}", noisy(b - shift, name=f"p{seed}"), seed=seed, strategy="fedprox"))
    difference = compared(records, resamples=2000).difference("fedprox", "seen CT", "dsc")
    assert difference is not None
    return difference.verdict


def test_no_strategy_is_called_better_on_fewer_than_three_seeds() -> None:
    assert verdict_of(1, 0.70, 0.80) == "higher"
    assert verdict_of(2, 0.80, 0.70) == "lower"
    assert verdict_of(3, 0.70, 0.80) == "better"
    assert verdict_of(3, 0.80, 0.70) == "worse"
    assert verdict_of(3, 0.80, 0.80) == "open"


def test_seeds_that_reach_into_one_another_leave_it_open() -> None:
    assert verdict_of(3, 0.70, 0.76, sd_of_seeds=0.1) == "open"


def test_ps_are_corrected_within_their_family(whole: Comparison) -> None:
    families: dict[str, list[tuple[float, float]]] = {}
    for d in whole.differences:
        if not math.isnan(d.p):
            families.setdefault(d.family, []).append((d.p, d.p_holm))
    assert {"groups, dsc", "groups, nsd", "pooled: organs, dsc", "pooled: sites, dsc"} <= set(families)
    for members in families.values():
        lowest, adjusted = min(members)
        assert adjusted == pytest.approx(min(1.0, lowest * len(members)))


def test_neither_the_order_of_runs_nor_of_cases_changes_anything() -> None:
    records = everything()
    first = compared(records)

    @settings(max_examples=4)
    @given(st.integers(0, 1000))
    def check(order: int) -> None:
        shuffled = [
            with_cases(record, random.Random(order).sample(record.results.cases, len(record.results.cases)))
            for record in random.Random(order).sample(records, len(records))
        ]
        again = compared(shuffled)
        for field in dataclasses.fields(Comparison):
            if field.name != "records":
                assert repr(getattr(again, field.name)) == repr(getattr(first, field.name)), field.name

    check()


def test_the_seed_decides_the_draws() -> None:
    records = everything()[:2]
    first, again, other = (compared(records, seed=seed) for seed in (0, 0, 1))
    assert repr(first.cells) == repr(again.cells)
    assert repr(first.cells) != repr(other.cells)


def test_the_worst_site_and_the_worst_organ_are_named() -> None:
    worst = {"B": 0.4, "F": 0.3}
    score = lambda case, site, organ: worst.get(site, 0.8) - 0.1 * (organ == 3)  # noqa: E731
    found = compared([made_run("f", score), made_run("p", constant(0.9), arm="centralized")])
    named = {(w.what, w.among): w.name for w in found.worst if w.arm == "fedavg" and w.metric == "dsc"}
    assert named["site", "seen"] == "B"
    assert named["site", "unseen"] == "F"
    assert named["organ", "seen CT"] == "pancreas"


def test_missed_and_hallucinated_organs_are_counted() -> None:
    def score(case: str, site: str, organ: int) -> OrganScore | float | None:
        if organ == 2 and site == "A":
            return OrganScore(0.0, 0.0, "hallucinated", 0.0, 5.0) if case.endswith("0") else None
        return 0.0 if (organ, case) == (1, "a_test_1") else 0.8

    other = lambda case, site, organ: None if organ == 2 and site == "A" else 0.8  # noqa: E731
    found = compared([made_run("f", score), made_run("p", other, arm="centralized")])
    cell = found.cell("fedavg", "A", "dsc")
    assert cell is not None
    assert (cell.missed, cell.hallucinated) == (1.0, 1.0)
    assert value(found, "fedavg", "A", "dsc", "spleen") == 0.0


# Refusals


def other_tolerance() -> RunRecord:
    return made_run("other", constant(0.8), arm="centralized", evaluation={"tolerance_mm": 2.0})


def without_a_site() -> RunRecord:
    return made_run("other", constant(0.8), arm="centralized", sites=["A", "B", "G", "D"])


def other_labels() -> RunRecord:
    score = lambda case, site, organ: OrganScore(0.8, 0.8, "scored", 250.0, 90.0)  # noqa: E731
    return made_run("other", score, arm="centralized")


def fewer_organs() -> RunRecord:
    record = made_run("other", constant(0.8), arm="centralized")
    cases = [dataclasses.replace(c, scores={1: c.scores[1]}) for c in record.results.cases]
    return with_cases(record, cases)


def other_organs() -> RunRecord:
    organs = {1: "liver", 2: "spleen", 3: "stomach"}
    return made_run("other", constant(0.8), arm="centralized", cohort=made_cohort(organs=organs))


def no_cases() -> RunRecord:
    return with_cases(made_run("other", constant(0.8), arm="centralized"), [])


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (other_tolerance, ["tolerance of 2 mm", "1 mm", "evaluation.tolerance_mm"]),
        (without_a_site, ["other: scored other cases than", "lacks f_test_0", "and 1 more", "--hold-out"]),
        (other_labels, ["case a_test_0", "250 ml", "100 ml"]),
        (fewer_organs, ["was scored on 1 organs"]),
        (other_organs, ["has other organs"]),
        (no_cases, ["other: has no test scores"]),
    ],
)
def test_runs_that_do_not_compare_are_refused_by_name_with_the_remedy(odd: Any, words: list[str]) -> None:
    records = [made_run("fed", constant(0.8)), made_run("again", constant(0.8), seed=1), odd()]
    with pytest.raises(AmosError) as refused:
        compared(records)
    for word in words:
        assert word in str(refused.value)


def test_one_run_is_no_comparison() -> None:
    with pytest.raises(AmosError, match="two runs or more"):
        compared([made_run("fed", constant(0.8))])


# Budgets and what a reader must know


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (
            RunCost(1, 30, 30, 60, 0, 0, 1.0),
            "saw as many patches as fedavg (60; equal samples), in 3.00 times its steps",
        ),
        (RunCost(1, 10, 10, 20, 0, 0, 1.0), "as many steps in sequence as fedavg (10; equal steps)"),
        (RunCost(1, 90, 90, 180, 0, 0, 1.0), "Budgets differ: pooled saw 3.00 times the patches of fedavg"),
    ],
)
def test_it_is_said_whether_budgets_are_equal(cost: RunCost, words: str) -> None:
    records = [made_run("f", constant(0.8)), made_run("p", constant(0.8), arm="centralized", cost=cost)]
    assert any(words in note for note in compared(records).notes)


def test_an_arms_cost_is_that_of_one_seed_with_its_runs_together() -> None:
    local = next(arm for arm in compared(everything((0, 1))).arms if arm.name == "local, at home")
    assert (local.cost.steps, local.cost.sequential_steps, local.cost.patches) == (90, 10, 180)


def test_settings_that_differ_between_arms_are_named() -> None:
    other = {"arm": "centralized", "training": {"learning_rate": 0.5}}
    found = compared([made_run("f", constant(0.8)), made_run("p", constant(0.8), **other)])
    assert any("training.learning_rate is 0.5, not 0.01" in note for note in found.notes)


def test_what_went_wrong_in_a_run_comes_with_its_name() -> None:
    records = [made_run("f", constant(0.8), problems=["round 1: site B is missing: gone"]), *everything()[1:2]]
    assert compared(records).problems == ("f: round 1: site B is missing: gone",)


# Published numbers


def test_only_one_score_is_compared_where_one_is_asked_for() -> None:
    found = compared(everything()[:2], metrics=("nsd",))
    assert {cell.metric for cell in found.cells} == {"nsd"}
    assert all("NSD" in sentence for sentence in found.findings if "scores" in sentence)


def test_an_arm_is_named_by_the_settings_in_which_it_differs_from_most() -> None:
    changes: list[dict[str, Any]] = [{}, {"optimizer_state": "keep"}, {"update_codec": "int8"}, {"weighting": "equal"}]
    runs = [made_run(f"run-{i}", constant(0.8), **change) for i, change in enumerate(changes)]
    names = {"fedavg", "fedavg optimizer_state=keep", "fedavg update_codec=int8", "fedavg weighting=equal"}
    assert {arm.name for arm in compared(runs).main_arms} == names
    two = {arm.name for arm in compared(runs[:2]).main_arms}
    assert two == {"fedavg optimizer_state=reset", "fedavg optimizer_state=keep"}, "of two neither is the usual one"
