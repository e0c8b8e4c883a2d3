"""FedDG-GA: shares follow the generalisation gaps by the paper's equations, and a site reports what it may."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import federate, hashes
from hospitals import Hospital, tiny_task, write_hospital
from hypothesis import given
from hypothesis import strategies as st
from test_reply_models import answer

from amos_fl.cohort.table import Cohort
from amos_fl.methods.base import VAL_AFTER, VAL_BEFORE, Done, Memory, ServerRound, Work
from amos_fl.methods.feddg_ga import FedDgGa, adjusted
from amos_fl.networks.registry import build_network
from amos_fl.prepared.prepare import prepare_cases
from amos_fl.training.settings import TrainingSettings
from amos_fl.training.validation import validation_loss
from amos_fl.weights import load_arrays
from amos_fl_clients.federation.messages import METRICS
from amos_fl_clients.federation.reply_models import Asked, BadReply, Description, TrainReply, read_reply

REPORTS = (VAL_BEFORE, VAL_AFTER)


def restated(shares: np.ndarray, gaps: np.ndarray, step: float) -> np.ndarray:
    """As the paper writes it, clipped at 0."""
    apart = gaps - gaps.mean()
    moved = np.maximum(shares + step * apart / np.abs(apart).max(), 0)
    return moved / moved.sum()


GAPS = st.lists(st.integers(-1000, 1000), min_size=2, max_size=8)


@given(GAPS, st.floats(0.01, 0.99), st.integers(0, 2**31))
def test_shares_move_by_the_papers_equation_and_stay_shares(whole: list[int], step: float, seed: int) -> None:
    gaps = {f"S{i}": gap / 64 for i, gap in enumerate(whole)}
    shares = dict(zip(gaps, np.random.default_rng(seed).dirichlet(np.ones(len(gaps))).tolist(), strict=True))
    found = adjusted(shares, gaps, step)
    assert math.fsum(found.values()) == pytest.approx(1)
    assert min(found.values()) >= 0
    if len(set(whole)) == 1:
        assert found == shares
    else:
        expected = restated(np.array(list(shares.values())), np.array(list(gaps.values())), step)
        np.testing.assert_allclose(list(found.values()), expected, rtol=1e-9, atol=1e-12)


@given(st.floats(-5, 5), st.integers(2, 9))
def test_equal_gaps_change_nothing_whatever_their_mean_rounds_to(gap: float, number: int) -> None:
    shares = {f"S{i}": 1 / number for i in range(number)}
    assert adjusted(shares, dict.fromkeys(shares, gap), 0.2) == shares


def test_a_gap_is_the_loss_of_the_mean_less_that_of_the_sites_own_model_in_it() -> None:
    method, memory = FedDgGa(step_size=0.2), Memory()
    weights = {"A": 3.0, "B": 1.0, "C": 2.0, "G": 2.0}
    told: list[dict[str, tuple[float, float]]] = [
        {"A": (9.0, 1.0), "B": (9.0, 1.0), "G": (9.0, 2.0)},  # without a model of its own from a round before
        {"A": (1.5, 0.9), "B": (1.4, 0.8), "G": (2.0, 1.7)},
        {"A": (1.0, 0.5), "G": (1.9, 0.5)},
        {"A": (1.0, 0.5), "B": (4.0, 0.5), "G": (0.25, 0.5)},
    ]
    shares = np.array([3, 1, 2, 2]) / 8
    gaps = {2: {"A": 0.5, "B": 0.4, "G": 0.0}, 3: {"A": 0.1, "G": 0.2}, 4: {"A": 0.5, "G": -0.25}}
    for number, losses in enumerate(told, 1):
        assert list(method.counts(weights, memory)) == list(weights)
        np.testing.assert_allclose(list(method.counts(weights, memory).values()), shares, rtol=1e-9)
        work = Work(number, 5 * (number - 1), 5, 50, TrainingSettings())
        done = {site: Done(work, 1.0, dict(zip(REPORTS, losses.get(site, ()), strict=False))) for site in weights}
        method.step(ServerRound(work, {}, 1.0, {}, done), {}, memory)
        if number in gaps:
            who = [list(weights).index(site) for site in gaps[number]]
            step = 0.2 * (1 - (number - 1) / 10)
            part = shares[who].sum()
            apart = np.array(list(gaps[number].values())) - np.mean(list(gaps[number].values()))
            moved = np.maximum(shares[who] + step * apart / np.abs(apart).max(), 0.01 / 4)
            shares[who] = moved * part / moved.sum()
    assert shares[2] == 2 / 8  # C has reported nothing


def test_at_a_step_size_of_0_it_is_fedavg_to_the_bit(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    plain = federate(tmp_path / "plain", tiny_cohort, store)
    still = federate(tmp_path / "still", tiny_cohort, store, strategy="feddg-ga", strategy_options={"step_size": 0})
    assert hashes(still) == hashes(plain)


def test_a_runs_shares_are_those_of_losses_that_its_checkpoints_have(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    settings: dict[str, Any] = {"strategy": "feddg-ga", "keep_checkpoints": "all", "local_steps": 1}
    run = federate(tmp_path / "run", tiny_cohort, store, **settings)
    config, organs = run.config(), tuple(tiny_cohort.organs)
    network = build_network(config.model, config.plan, len(organs), seed=0)
    load_arrays(network, run.read_checkpoint(1).weights)
    gaps = {}
    for site in "AG":
        cases = prepare_cases(tiny_cohort.only([site]).of(split="val"), config.plan, store, organs)
        about: dict[str, Any] = {"organs": organs, "seed": config.seed, "site": site}
        loss = validation_loss(network, cases, config.plan, config.training, **about)
        assert loss == validation_loss(network, cases, config.plan, config.training, **about)
        augmented = config.training.model_copy(update={"augmentation": "paper", "transforms": "no.such:augmentation"})
        assert loss == validation_loss(network, cases, config.plan, augmented, **about)
        gaps[site] = loss - run.read_checkpoint(1).strategy_values["losses"][site]
    better = max(gaps, key=lambda site: gaps[site])
    step = 0.2 * (1 - 1 / 3)
    moved = {"A": 3 / 6, "G": 2 / 6}
    moved = {site: max(share + (step if site == better else -step), 0.01 / 3) for site, share in moved.items()}
    expected = {site: share * (5 / 6) / sum(moved.values()) for site, share in moved.items()}
    shares = [{site: about.get("share") for site, about in entry["sites"].items()} for entry in run.ledger()]
    assert shares[0] == shares[1] == {"A": 3 / 6, "B": 1 / 6, "G": 2 / 6}
    assert shares[2] == pytest.approx({**expected, "B": 1 / 6})


def test_a_site_reports_its_losses_where_its_method_asks_and_it_has_and_shows_validation_cases(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    task = tiny_task(tiny_cohort, method="feddg-ga")

    def reported(site: str, folder: str, **settings: object) -> dict[str, Any]:
        found = Hospital(write_hospital(tmp_path / folder, tiny_cohort, site, **settings), task).train()
        numbers = found.content.metric_records[METRICS]
        return {name: numbers[name] for name in REPORTS if name in numbers}

    told = reported("A", "A")
    assert set(told) == set(REPORTS)
    assert told[VAL_BEFORE] != told[VAL_AFTER]
    assert reported("A", "again") == told
    assert not reported("B", "B")
    assert not reported("A", "closed", refuse_evaluation_on=["val"])


@pytest.mark.parametrize(
    ("numbers", "asked", "words"),
    [
        ({VAL_BEFORE: 1.0, VAL_AFTER: 0.5}, {}, None),
        ({}, {}, None),
        ({VAL_BEFORE: 1.0}, {}, "it reports other numbers than the run's method asks for"),
        ({VAL_BEFORE: 1.0, VAL_AFTER: 0.5}, {"reports": ()}, "it reports other numbers than the run's method asks for"),
        ({VAL_BEFORE: 1.0, VAL_AFTER: 0.5}, {"val": 0}, "it reports losses on validation cases, and described none"),
        ({VAL_BEFORE: math.nan, VAL_AFTER: 0.5}, {}, "val_loss_before"),
        ({VAL_BEFORE: 1.0, VAL_AFTER: math.inf}, {}, "val_loss_after"),
        ({VAL_BEFORE: 1.0, VAL_AFTER: -1e300}, {}, "val_loss_after"),
    ],
)
def test_what_a_site_reports_is_what_its_method_asks_for(
    numbers: dict[str, float], asked: dict[str, Any], words: str | None
) -> None:
    honest = {"num-examples": 3, "cases": 3, "steps": 2, "train_loss": 0.7, "seconds": 1.0}
    cases = {"train": 3, "val": asked.get("val", 1), "test": 0}
    about = {"site": "A", "modalities": ["CT"], "cases": cases, "annotated": [1], "annotated_in_training": [1]}
    known = Asked({1: "ball"}, described=Description.model_validate(about), reports=asked.get("reports", REPORTS))
    reply = answer("train", {**honest, **numbers}, {"site": "A"})
    reply.content["arrays"] = _no_weights()
    if words is None:
        assert read_reply(reply, TrainReply, known).reports == numbers
        return
    with pytest.raises(BadReply) as refused:
        read_reply(reply, TrainReply, known)
    assert words in str(refused.value)


def _no_weights() -> Any:
    from flwr.app import ArrayRecord

    return ArrayRecord()
