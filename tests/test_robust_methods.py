"""Methods that see the updates side by side, and those that bound one: as elsewhere, and with sites that lie."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import federate, hashes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from test_aggregation import reply, round_input, update

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.methods.base import Arrays
from amos_fl.methods.geometric_median import weiszfeld
from amos_fl.methods.updates import Updates
from amos_fl.runs.ledger import sites_in_weights
from amos_fl.weights import is_trained, relative_distance
from amos_fl_server.federation.aggregate import form_of
from amos_fl_server.federation.strategies import make_strategy

SITES = ("A", "B", "C", "D", "E", "F", "G")
EQUAL = dict.fromkeys(SITES, 1.0)


def near(seed: int, centre: Arrays, spread: float = 0.1) -> Arrays:
    """An update that lies near others of the same centre."""
    return {name: centre[name] + np.float32(spread) * array for name, array in update(seed).items()}


def aggregated(name: str, options: dict[str, Any], updates: dict[str, Arrays], before: Arrays) -> tuple[Arrays, Any]:
    given = round_input(before, dict.fromkeys(updates, 1.0))
    strategy = make_strategy(name, options)
    strategy.messages(given)
    return strategy.aggregate(given, [(site, reply(sent, 1.0)) for site, sent in updates.items()], {})


HONEST = {site: near(i, update(50)) for i, site in enumerate(SITES)}


@pytest.mark.parametrize(
    ("ours", "options", "theirs", "their_options"),
    [
        ("median", {}, "FedMedian", {}),
        ("trimmed-mean", {"bad": 1}, "FedTrimmedAvg", {"beta": 0.15}),
        ("trimmed-mean", {"bad": 2}, "FedTrimmedAvg", {"beta": 0.3}),
        ("krum", {"bad": 2}, "Krum", {"num_malicious_nodes": 2}),
        ("multi-krum", {"bad": 2}, "MultiKrum", {"num_malicious_nodes": 2, "num_nodes_to_select": 5}),
    ],
)
def test_a_robust_method_gives_the_weights_of_flowers_own(
    ours: str, options: dict[str, Any], theirs: str, their_options: dict[str, Any]
) -> None:
    found, shares = aggregated(ours, options, HONEST, update(50))
    expected, used = aggregated(f"flwr.serverapp.strategy:{theirs}", their_options, HONEST, update(50))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    assert set(shares) == set(used)
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("trimmed-mean", {"bad": 0}),
        ("multi-krum", {"bad": 0}),
        ("norm-bound", {"bound": float("inf")}),
        ("norm-bound", {"bound": 1e9}),
        ("agnostic", {"rate": 0.0}),
        ("fednova", {}),
    ],
)
def test_at_its_limit_a_method_is_fedavg_with_equal_weights_to_the_bit(name: str, options: dict[str, Any]) -> None:
    found, shares = aggregated(name, options, HONEST, update(50))
    expected, of_fedavg = aggregated("fedavg", {}, HONEST, update(50))
    assert shares == of_fedavg
    assert all(np.array_equal(found[name], array) for name, array in expected.items())


def test_of_one_site_krum_is_its_update_and_so_are_all_others() -> None:
    alone = {"A": HONEST["A"]}
    for name in ("median", "trimmed-mean", "geometric-median", "krum", "multi-krum"):
        found, _ = aggregated(name, {}, alone, update(50))
        assert all(np.array_equal(found[key], array) for key, array in alone["A"].items())


@given(st.integers(2, 9), st.integers(1, 4), st.integers(0, 10_000))
@settings(max_examples=40)
def test_weiszfelds_mean_has_the_least_sum_of_distances(number: int, dimensions: int, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(number, dimensions))
    squared = np.square(points[:, None] - points[None]).sum(axis=2)
    found = weiszfeld(squared, 500) @ points

    def total(point: np.ndarray) -> float:
        return float(np.sqrt(np.square(points - point).sum(axis=1)).sum())

    starts = (points.mean(axis=0), found)
    least = min(float(minimize(total, start, method="Nelder-Mead").fun) for start in starts)
    assert total(found) <= least * (1 + 1e-3)


def flipped(honest: Arrays, before: Arrays) -> Arrays:
    return {name: before[name] - 5 * (array - before[name]) for name, array in honest.items()}


def scaled(honest: Arrays, before: Arrays) -> Arrays:
    return {name: before[name] + 50 * (array - before[name]) for name, array in honest.items()}


def noise(honest: Arrays, before: Arrays) -> Arrays:
    random = np.random.default_rng(1)
    return {name: random.normal(size=array.shape, scale=10).astype(array.dtype) for name, array in honest.items()}


HOLDING: dict[str, dict[str, Any]] = {
    "median": {},
    "trimmed-mean": {"bad": 2},
    "geometric-median": {},
    "krum": {"bad": 2},
    "multi-krum": {"bad": 2},
}


@pytest.mark.parametrize("attack", [flipped, scaled, noise])
def test_two_sites_of_seven_that_lie_move_fedavg_and_hardly_what_withstands_them(
    attack: Callable[[Arrays, Arrays], Arrays],
) -> None:
    before = update(51)
    sent = {**HONEST, **{site: attack(HONEST[site], before) for site in ("B", "F")}}
    honest, _ = aggregated("fedavg", {}, {s: u for s, u in HONEST.items() if s not in "BF"}, before)

    def beside(name: str, options: dict[str, Any]) -> float:
        return relative_distance(aggregated(name, options, sent, before)[0], honest)

    assert beside("fedavg", {}) > 0.5
    for name, options in HOLDING.items():
        assert beside(name, options) < 0.12, name
    # A bound does not take the lie away; it keeps it as small as what an honest site may do.
    step = relative_distance(honest, before)
    assert beside("norm-bound", {"bound": step}) < 0.7 * beside("fedavg", {})


def test_krum_uses_one_site_and_says_which() -> None:
    sent = {**HONEST, "A": noise(HONEST["A"], update(50))}
    found, shares = aggregated("krum", {"bad": 2}, sent, update(50))
    (chosen,) = shares
    assert chosen != "A"
    assert all(np.array_equal(found[name], array) for name, array in sent[chosen].items())
    _, of_flower = aggregated("flwr.serverapp.strategy:Krum", {"num_malicious_nodes": 2}, sent, update(50))
    assert list(of_flower) == [chosen]


def test_a_bounded_update_has_its_direction_and_the_length_of_the_bound() -> None:
    before = update(50)
    found, _ = aggregated("norm-bound", {"bound": 0.5}, {"A": scaled(HONEST["A"], before)}, before)
    assert relative_distance(found, before) == pytest.approx(0.5, rel=1e-5)
    ratio = (found["conv.weight"] - before["conv.weight"]) / (HONEST["A"]["conv.weight"] - before["conv.weight"])
    assert ratio == pytest.approx(ratio.mean(), rel=1e-3)


def test_updates_on_disk_are_those_that_were_added_and_gone_afterwards() -> None:
    with tempfile.TemporaryDirectory() as folder:
        statistics = {"norm.running_var": np.ones(3, np.float32), "norm.num_batches_tracked": np.array(7)}
        sent = {site: {**arrays, **statistics} for site, arrays in HONEST.items()}
        with Updates(Path(folder) / "updates", form_of(sent["A"])) as updates:
            for site, arrays in sent.items():
                emptied = dict(arrays)
                updates.add(site, emptied)
                assert not emptied
            for site, arrays in sent.items():
                again = updates.of_site(site)
                assert all(np.array_equal(again[name], array) for name, array in arrays.items())
            squared = updates.squared_distances()
            flat = np.stack(
                [np.concatenate([a.ravel() for n, a in u.items() if is_trained(n, a)]) for u in sent.values()]
            ).astype(np.float64)
            np.testing.assert_allclose(squared, np.square(flat[:, None] - flat[None]).sum(axis=2), rtol=1e-9)
            assert updates.each_number(lambda stack: stack.min(axis=0))["norm.num_batches_tracked"] == 7
        assert not any(Path(folder).iterdir())


def test_a_method_that_needs_more_sites_than_train_says_so_before_the_first_round(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    with pytest.raises(AmosError, match=r"withstands 1 bad site\(s\) if at least 5 train, but 3 do; .* median"):
        federate(tmp_path / "krum", tiny_cohort, store, strategy="krum")
    with pytest.raises(AmosError, match=r"trimmed-mean leaves out 2 .* for which 5 must train, but 3 do"):
        federate(tmp_path / "mean", tiny_cohort, store, strategy="trimmed-mean", strategy_options={"bad": 2})


def test_the_ledger_says_whose_update_is_in_the_weights_and_nothing_of_the_spool_is_left(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    folder = federate(tmp_path / "run", tiny_cohort, store, strategy="krum", strategy_options={"bad": 0})
    for entry in folder.ledger():
        assert entry.get("asked") == ["A", "B", "G"]
        assert list(entry["sites"]) == ["A", "B", "G"]
        assert sorted(about.get("share", -1) for about in entry["sites"].values()) == [0, 0, 1]
        assert len(sites_in_weights(entry)) == 1
        assert entry["bytes_up"] == sum(about["bytes_up"] for about in entry["sites"].values())
    assert not (folder.path / "updates").exists()
    assert len(hashes(folder)) == 3
