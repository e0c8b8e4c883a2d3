"""Sites that do unequal work, are asked in turn, or count by group: what the ledger says, and what does not change."""

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deployments import AT_ONCE, Hospitals, deployed_run
from federations import federate, final_weights, hashes, killed_after, resume
from test_methods import TRAINING

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.methods.base import Done, Memory, ServerRound, Work
from amos_fl.methods.fednova import FedNova
from amos_fl.runs.arms import centralized, locals_of
from amos_fl.runs.config import resolve
from amos_fl.runs.folder import OWN, RunFolder
from amos_fl.runs.layers import Layer
from amos_fl.runs.work import sites_asked, steps_by_site
from amos_fl_server.operation.server_app import run_deployed


def steps_of(folder: Any) -> list[dict[str, int]]:
    return [{site: about["steps"] for site, about in entry["sites"].items()} for entry in folder.ledger()]


def test_steps_of_its_own_are_those_of_the_others_to_the_bit_where_they_are_equal(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    plain = federate(tmp_path / "plain", tiny_cohort, store)
    same = federate(tmp_path / "same", tiny_cohort, store, local_steps=7, site_steps={"A": 2, "B": 2, "G": 2})
    assert hashes(plain) == hashes(same)


def test_an_epoch_is_a_patch_of_each_training_case(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    settings: dict[str, Any] = {"local_epochs": 2, "site_steps": {"G": 5}, "training": {"batch_size": 2}}
    folder = federate(tmp_path / "run", tiny_cohort, store, rounds=2, **settings)
    cases = {site: len(tiny_cohort.of(site=site, split="train", labelled=True)) for site in ("A", "B")}
    expected = {site: -(-2 * number // 2) for site, number in cases.items()} | {"G": 5}
    assert len(set(expected.values())) == 3
    assert steps_of(folder) == [expected, expected]
    assert steps_by_site(folder.config(), tiny_cohort) == expected
    pooled = centralized(folder.config(), tiny_cohort).config
    assert (pooled.local_steps, pooled.local_epochs, pooled.site_steps) == (sum(expected.values()), None, {})
    assert {run.name: run.config.local_steps for run in locals_of(folder.config(), tiny_cohort)} == expected


def test_a_site_that_is_timed_says_the_steps_that_it_took(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    started = time.perf_counter()
    folder = federate(tmp_path / "run", tiny_cohort, store, rounds=1, local_steps=100_000, local_seconds=0.3)
    assert time.perf_counter() - started < 120
    (taken,) = steps_of(folder)
    assert all(1 <= steps < 100_000 for steps in taken.values())
    with pytest.raises(AmosError, match="steps are known after the run alone"):
        centralized(folder.config(), tiny_cohort)


def test_fednova_weighs_directions_whatever_the_steps(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    """Equation 6 of the paper, written down once more from the updates that the sites made."""
    before = {"weight": np.array([1.0, -2.0, 3.0], np.float32)}
    steps, weights = {"A": 2, "B": 5, "G": 9}, {"A": 0.5, "B": 0.3, "G": 0.2}
    works = {site: Work(2, number, number, 4 * number, TRAINING) for site, number in steps.items()}
    random = np.random.default_rng(0)
    updates = {site: before["weight"] + random.normal(size=3).astype(np.float32) for site in steps}
    done = {site: Done(work, 1.0) for site, work in works.items()}
    method, whole = FedNova(), works["G"]
    admitted = {s: method.admit(before, {"weight": u.copy()}, done[s], whole)["weight"] for s, u in updates.items()}
    mean = {"weight": sum((weights[site] * admitted[site] for site in steps), np.zeros(3)).astype(np.float32)}
    found = method.step(ServerRound(whole, before, 1.0, weights, done), mean, Memory())["weight"]
    moved = {site: work.displacement for site, work in works.items()}
    directions = sum(weights[s] * (updates[s] - before["weight"]) / moved[s] for s in steps)
    expected = before["weight"] + sum(weights[s] * moved[s] for s in steps) * directions
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    unequal = {"site_steps": {"A": 1, "B": 4}}
    nova = federate(tmp_path / "nova", tiny_cohort, store, strategy="fednova", **unequal)
    plain = federate(tmp_path / "plain", tiny_cohort, store, **unequal)
    assert hashes(nova)[0] != hashes(plain)[0]
    assert all(np.isfinite(array).all() for array in final_weights(nova).values())


def test_a_round_asks_some_sites_drawn_by_the_seed_and_goes_on_so_after_a_stop(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    settings: dict[str, Any] = {"sites_per_round": 2, "strategy": "scaffold", "rounds": 4, "min_sites": 3}
    whole = federate(tmp_path / "whole", tiny_cohort, store, **settings)
    asked = [entry.get("asked") for entry in whole.ledger()]
    assert asked == [sites_asked(whole.config(), number, ["A", "B", "G"]) for number in (1, 2, 3, 4)]
    assert all(len(names or ()) == 2 for names in asked)
    assert len({tuple(names or ()) for names in asked}) > 1
    for entry in whole.ledger():
        assert sum(about.get("share", 0) for about in entry["sites"].values()) == pytest.approx(1)
        assert not entry["missing"]
    folder = killed_after(tmp_path / "killed", 2, tiny_cohort, store, **settings)
    assert hashes(resume(folder.path, store)) == hashes(whole)


def test_a_number_of_sites_is_drawn_alike_often() -> None:
    config = resolve([Layer("here", {"sites_per_round": 0.4})])
    drawn = [sites_asked(config, number, "ABCGH") for number in range(1, 1001)]
    assert {len(names) for names in drawn} == {2}
    counts = [sum(site in names for names in drawn) for site in "ABCGH"]
    assert min(counts) > 340
    assert max(counts) < 460
    all_of_them = resolve([Layer("here", {"sites_per_round": 9})])
    assert sites_asked(all_of_them, 1, "CAB") == ["A", "B", "C"]


def test_each_modality_counts_alike_and_its_sites_by_their_cases(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    folder = federate(tmp_path / "run", tiny_cohort, store, weighting="modality", rounds=1)
    (entry,) = folder.ledger()
    cases = {site: about["cases"] for site, about in entry["sites"].items()}
    together = cases["A"] + cases["B"]
    shares = {site: about.get("share") for site, about in entry["sites"].items()}
    assert shares == pytest.approx({"A": cases["A"] / together / 2, "B": cases["B"] / together / 2, "G": 0.5})


def test_the_worst_site_comes_to_count_for_more(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    options = {"rate": 0.5}
    folder = federate(tmp_path / "run", tiny_cohort, store, strategy="agnostic", strategy_options=options)
    ledger = folder.ledger()
    for entry, following in pairwise(ledger):
        losses = {site: about["loss"] for site, about in entry["sites"].items()}
        before = {site: about.get("share", 0.0) for site, about in entry["sites"].items()}
        after = {site: about.get("share", 0.0) for site, about in following["sites"].items()}
        worst = max(losses, key=losses.__getitem__)
        assert after[worst] - before[worst] == max(after[site] - before[site] for site in losses)
        assert sum(after.values()) == pytest.approx(1)
        assert min(after.values()) > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sites_per_round": 2.5}, "2.5 is neither a whole number nor a share below 1"),
        ({"sites_per_round": 0}, "sites_per_round is 0"),
        ({"weighting": "steps", "local_seconds": 3}, "weighting steps needs steps that are known beforehand"),
        ({"local_epochs": -1}, "local_epochs is -1"),
        ({"site_steps": {"A": -1}}, "site_steps.A is -1"),
        ({"weighting": "modal"}, "weighting is 'modal'"),
    ],
)
def test_settings_that_cannot_be_are_told(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(AmosError) as told:
        resolve([Layer("here", settings)])
    assert words in str(told.value)


def test_a_site_with_steps_of_its_own_must_train_in_the_run(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    with pytest.raises(AmosError, match=r"site_steps names 'Z', which does not train in this run; A, B, G do"):
        federate(tmp_path / "run", tiny_cohort, store, site_steps={"Z": 3})
    with pytest.raises(AmosError, match=r"withstands 9 bad site\(s\) if at least 21 train, but 3 do"):
        federate(tmp_path / "run", tiny_cohort, store, strategy="krum", strategy_options={"bad": 9})
    assert not (tmp_path / "run").exists(), "what cannot begin leaves nothing in the way of what can"


def test_a_reply_of_other_steps_than_asked_is_refused_unless_the_site_is_timed() -> None:
    from amos_fl_clients.federation.reply_models import Asked, TrainReply

    said = json.loads('{"site": "A", "num-examples": 3, "cases": 3, "steps": 4, "train_loss": 1.0, "seconds": 1.0}')
    reply = TrainReply.model_validate(said)
    assert reply.against(Asked({}, steps=4)) is None
    assert "it claims 4 steps" in str(reply.against(Asked({}, steps=5)))
    assert reply.against(Asked({}, steps=5, timed=True)) is None
    assert "it claims 4 steps" in str(reply.against(Asked({}, steps=3, timed=True)))


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "scaffold"},
        {"strategy": "median", "sites_per_round": 2, "site_steps": {"A": 1}},
        {"strategy": "fedbn", "strategy_options": {"send_private": False}},
    ],
)
def test_a_deployed_run_of_a_method_has_the_weights_of_a_simulation(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, settings: dict[str, Any]
) -> None:
    folder = deployed_run(tmp_path / "run", tiny_cohort, **settings)
    run_deployed(Hospitals(tmp_path, tiny_cohort, "GBA"), folder, 5, AT_ONCE)
    simulated = federate(tmp_path / "simulated", tiny_cohort, store, **settings)
    assert hashes(folder) == hashes(simulated)
    own = [(number, kind) for number, kind in folder.evaluations() if kind in OWN.values()]
    assert bool(own) == (settings["strategy"] == "fedbn")
    for number, kind in own:
        assert scores_in(folder, number, kind) == scores_in(simulated, number, kind)


def scores_in(folder: RunFolder, number: int, kind: str) -> dict[str, Any]:
    found = folder.read_evaluation(number, kind)
    assert found is not None
    return {site: about.scores for site, about in found.sites.items() if site in ("A", "B", "G")}


def test_a_site_that_is_away_at_the_start_may_have_steps_of_its_own_and_counts_for_what_a_method_needs(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    settings: dict[str, Any] = {"sites": ("A", "B", "G"), "min_sites": 2, "rounds": 1}
    settings |= {"site_steps": {"G": 1}, "strategy": "trimmed-mean"}
    folder = deployed_run(tmp_path / "run", tiny_cohort, **settings)
    run_deployed(Hospitals(tmp_path, tiny_cohort, "AB"), folder, 0, AT_ONCE)
    (entry,) = folder.ledger()
    assert list(entry["sites"]) == ["A", "B"]
    assert list(entry["missing"]) == ["G"]
    wrong = deployed_run(tmp_path / "wrong", tiny_cohort, **{**settings, "site_steps": {"Z": 1}})
    with pytest.raises(AmosError, match=r"site_steps names 'Z', which does not train in this run; A, B, G do"):
        run_deployed(Hospitals(tmp_path / "others", tiny_cohort, "AB"), wrong, 0, AT_ONCE)
