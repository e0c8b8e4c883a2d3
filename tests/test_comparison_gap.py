"""The gap of a comparison, taken apart: pairs of arms with known answers, and what may be concluded from them."""

import csv
from pathlib import Path
from typing import Any

import pytest
from made_runs import compared, constant, everything, made_run, noisy

from amos_fl.comparison.comparison import Comparison
from amos_fl.comparison.tables import markdown_page
from amos_fl.comparison.write import write_comparison
from amos_fl.runs.record import RunRecord


@pytest.fixture(scope="module")
def whole() -> Comparison:
    """Federated, pooled, three local and three leave-one-out runs."""
    return compared(everything())


def test_gaps_are_what_they_are_by_hand() -> None:
    records = [
        made_run("fed", constant(0.80, 0.70)),
        made_run("pool", constant(0.85, 0.72), arm="centralized"),
        *(
            made_run(
                f"local/{home}",
                lambda case, site, organ, home=home: 0.75 if site == home else 0.55,
                arm="local",
                hold_out=[s for s in "ABG" if s != home],
            )
            for home in "ABG"
        ),
    ]
    gaps = {(g.kind, g.subtrahend, g.scope): g for g in compared(records).gaps if g.metric == "dsc"}

    def gap(kind: str, subtrahend: str, scope: str) -> float:
        return round(gaps[kind, subtrahend, scope].estimate.value, 9)

    assert gap("pooled - federated", "fedavg", "seen CT") == 0.05
    assert gap("pooled - federated", "fedavg", "unseen MR") == 0.02
    assert gap("federated - local", "local, at home", "seen CT") == 0.05
    assert gap("federated - local", "local, elsewhere", "unseen CT") == 0.15
    assert gap("pooled - local", "local, at home", "seen MR") == 0.10
    seen_unseen = next(g for g in compared(records).gaps if g.kind == "seen - unseen" and g.minuend == "fedavg")
    assert round(seen_unseen.estimate.value, 9) == 0.1
    assert (seen_unseen.scope, seen_unseen.other_scope) == ("seen CT", "unseen CT")


def test_the_whole_gap_is_the_sum_of_its_parts(whole: Comparison) -> None:
    gaps = {(g.kind, g.subtrahend, g.scope, g.metric): g.estimate.value for g in whole.gaps if g.minuend != "fedprox"}
    for scope in ("seen CT", "seen MR", "seen sites", "A"):
        cost = gaps["pooled - federated", "fedavg", scope, "dsc"]
        gain = gaps["federated - local", "local, at home", scope, "dsc"]
        assert gaps["pooled - local", "local, at home", scope, "dsc"] == pytest.approx(cost + gain, abs=1e-9)


def test_a_gap_is_said_in_words_and_claims_no_more_than_its_interval(whole: Comparison) -> None:
    pooled = next(g for g in whole.gaps if g.kind == "pooled - federated" and g.scope == "seen CT")
    assert "pooled scores" in pooled.sentence
    assert "higher than fedavg" in pooled.sentence
    assert "in these runs that is what federation costs there" in pooled.sentence
    same = compared([made_run("f", noisy(0.8, name="f")), made_run("p", noisy(0.8, name="p"), arm="centralized")])
    open_gap = next(g for g in same.gaps if g.kind == "pooled - federated" and not g.estimate.excludes_zero)
    assert "no cost of federation is shown" in open_gap.sentence
    assert whole.findings[0].startswith("On the seen sites")


def recipes(**of_arms: dict[str, Any]) -> list[RunRecord]:
    """A federated and a pooled run of the recipe light, and others with settings of their own, all of other scores."""
    runs = [made_run("fed", noisy(0.8, name="fed")), made_run("pool", noisy(0.85, name="pool"), arm="centralized")]
    for i, (name, own) in enumerate(of_arms.items()):
        runs.append(made_run(name, noisy(0.5 + i / 10, name=name), **own))
    return runs


def pairs_of(comparison: Comparison, kind: str = "pooled - federated") -> dict[tuple[str, str], tuple[str, ...]]:
    return {(gap.minuend, gap.subtrahend): gap.settings_differ for gap in comparison.gaps if gap.kind == kind}


PAPER = {"training": {"augmentation": "paper"}}


def test_a_pooled_arm_is_compared_with_the_federation_of_its_own_settings() -> None:
    runs = recipes(fed_paper=PAPER, pool_paper={**PAPER, "arm": "centralized"})
    found = compared(runs, names={run.name: run.name for run in runs}, reference="fed")
    assert pairs_of(found) == {("pool", "fed"): (), ("pool_paper", "fed_paper"): ()}
    light, paper = (s for s in found.findings if "federation costs" in s and "the seen sites" in s)
    assert "pool scores" in light
    assert "higher than fed " in light
    assert "pool_paper scores" in paper
    assert "higher than fed_paper" in paper
    # The sentence about two arms alike is the same whatever else is compared.
    assert compared(recipes(), names={"fed": "fed", "pool": "pool"}).findings[0] == light == found.findings[0]


def test_without_a_federation_of_its_settings_nothing_is_concluded_and_the_settings_are_named(tmp_path: Path) -> None:
    two = {"training": {"augmentation": "paper", "synthetic_share": 0.3}, "arm": "centralized"}
    local = {**PAPER, "arm": "local", "hold_out": ["B", "G"], "parent": "local"}
    runs = recipes(pool_paper=two, local_A=local)
    found = compared(runs, names={"pool_paper": "other", "pool": "pool"})
    settings = ("training.augmentation", "training.synthetic_share")
    assert pairs_of(found) == {("pool", "fedavg"): (), ("other", "fedavg"): settings}
    sentences = [sentence for sentence in found.findings if "other scores" in sentence or "local model" in sentence]
    assert sentences[0].endswith(
        "; their settings differ (training.augmentation, training.synthetic_share), so this says nothing about the "
        "cost of federation."
    )
    assert all("their settings differ (training.augmentation" in sentence for sentence in sentences)
    claims = ("costs", "gives there", "training alone does better", "all there is to win")
    concluded = [s for s in found.findings if any(claim in s for claim in claims)]
    assert concluded == list(found.findings[:2])  # on the seen and on the unseen sites
    assert all("pool scores" in sentence for sentence in concluded)
    assert set(pairs_of(found, "pooled - local").values()) == {("training.augmentation",)}  # pool, the first
    assert "pooled - federated (settings differ)" in markdown_page(found)
    write_comparison(found, tmp_path / "out")
    with (tmp_path / "out" / "gaps.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "pooled - federated"]
    assert {(row["minuend"], row["settings_differ"]) for row in rows} == {("pool", ""), ("other", " ".join(settings))}


@pytest.mark.parametrize(
    ("settings", "differ"),
    [
        ({"strategy": "fedprox", "weighting": "equal", "update_codec": "fp16"}, ()),
        ({"rounds": 5, "local_steps": 7, "min_sites": 2, "optimizer_state": "keep"}, ()),
        ({"norm_statistics": "local", "training": {"threads": 1}}, ()),
        ({"evaluation": {"every": 2, "unseen": False}}, ()),
        ({"norm_statistics": "group"}, ("norm_statistics",)),
        ({"model": "unet"}, ("model",)),
        ({"plan": "amos-ct"}, ("plan",)),
        ({"selection": "last", "evaluation": {"overlap": 0.25}}, ("evaluation.overlap", "selection")),
        ({"hold_out": ["B"]}, ("sites",)),
        ({"sites": ["A", "B", "D", "F", "G"]}, ()),
    ],
)
def test_settings_that_only_federations_have_do_not_count_and_others_do(
    settings: dict[str, Any], differ: tuple[str, ...]
) -> None:
    runs = [made_run("fed", constant(0.8), **settings), made_run("pool", constant(0.8), arm="centralized")]
    assert set(pairs_of(compared(runs)).values()) == {differ}


def test_a_federation_without_a_site_is_compared_with_the_whole_one_of_its_method() -> None:
    runs = recipes(prox={"strategy": "fedprox"})
    for site in "ABG":
        group = {"arm": "leave-one-out", "hold_out": [site], "parent": "without", "rounds": 4, "strategy": "fedprox"}
        runs.append(made_run(f"without/{site}", noisy(0.4, name=site), **group))
    found = compared(runs)
    assert pairs_of(found, "trained on - left out") == {("fedprox", "leave-one-out"): ()}
    assert any("worth to a scanner" in s and "fedprox" in s for s in found.findings)
    without = compared([run for run in runs if run.name != "prox"])
    assert pairs_of(without, "trained on - left out") == {("fedavg", "leave-one-out"): ("strategy",)}


def test_a_fine_tuned_arm_is_compared_with_the_federation_that_it_began_from(tmp_path: Path) -> None:
    runs = recipes(prox={"strategy": "fedprox"})
    (tmp_path / "config.yaml").write_text("strategy: fedprox\n")
    for site in "ABG":
        tuned = {"arm": "finetune", "hold_out": [s for s in "ABG" if s != site], "parent": "tuned", "rounds": 1}
        start = {"start_from": str(tmp_path / "model/weights.safetensors"), "training": {"learning_rate": 0.001}}
        runs.append(made_run(f"tuned/{site}", noisy(0.9, name=site), **tuned, **start))
    kind = "fine-tuned - federated"
    home, elsewhere = "fine-tuned, at home", "fine-tuned, elsewhere"
    assert pairs_of(compared(runs), kind) == {(home, "fedprox"): (), (elsewhere, "fedprox"): ()}
    without = compared([run for run in runs if run.name != "prox"])
    assert pairs_of(without, kind) == dict.fromkeys([(home, "fedavg"), (elsewhere, "fedavg")], ("start_from",))
