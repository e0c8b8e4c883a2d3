"""How far an update may lie from the round's weights: what trains stays far within, and 1e30 is not a weight."""

import math
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_tiny_cohort
from federations import federate, hashes
from hypothesis import given
from hypothesis import strategies as st
from test_aggregation import reply, round_input, update

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.methods.base import Arrays, Done, Method, Work
from amos_fl.runs.config import RunConfig, resolve
from amos_fl.runs.layers import Layer
from amos_fl.weights import arrays_of, relative_distance, trained_norm
from amos_fl_clients.federation.records import BadUpdate
from amos_fl_server.federation import aggregate
from amos_fl_server.federation.aggregate import checked_update, form_of
from amos_fl_server.federation.strategies import make_strategy

STATISTICS = {
    "norm.running_mean": np.zeros(3, np.float32),
    "norm.running_var": np.ones(3, np.float32),
    "norm.num_batches_tracked": np.asarray(0),
}


DISTANCES: list[float] = []


@dataclass(frozen=True)
class NotingDistances(Method):
    """FedAvg, which notes how far each update lies from the round's weights."""

    def admit(self, before: Mapping[str, np.ndarray], update: Arrays, done: Done, work: Work) -> Arrays:
        DISTANCES.append(relative_distance(update, before))
        assert DISTANCES[-1] == relative_distance(update, before, trained_norm(before))
        return update


@given(scale=st.floats(0.01, 1000), seed=st.integers(0, 99))
def test_the_distance_is_the_norm_of_the_change_over_that_of_the_weights(scale: float, seed: int) -> None:
    before, after = update(seed), {name: array * np.float32(1 + scale) for name, array in update(seed + 1).items()}
    flat = [np.concatenate([a[name].ravel().astype(float) for name in before]) for a in (before, after)]
    expected = np.linalg.norm(flat[1] - flat[0]) / max(np.linalg.norm(flat[0]), 1.0)
    assert math.isclose(relative_distance(after, before), expected, rel_tol=1e-9)


def test_weights_that_are_all_zero_count_as_of_norm_1_and_statistics_not_at_all() -> None:
    before = {"w": np.zeros(4, np.float32), **STATISTICS}
    after = {"w": np.full(4, 0.5, np.float32), **STATISTICS, "norm.running_mean": np.full(3, 1e6, np.float32)}
    assert relative_distance(after, before) == 1.0
    assert relative_distance(before, before) == 0.0


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "flwr.serverapp.strategy:FedAvg"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_update_beyond_the_bound_is_left_out_and_the_others_weights_are_as_without_it(
    strategy: str, dtype: type
) -> None:
    weights, before, honest = {"A": 1.0, "B": 1.0}, update(0, dtype), update(1, dtype)
    far = {name: np.full_like(array, 6e4 if dtype is np.float16 else 1e30) for name, array in before.items()}
    results = []
    for replies in ([("A", reply(far, 1)), ("B", reply(honest, 1))], [("B", reply(honest, 1))]):
        round_ = round_input(before, weights)
        failed: dict[str, AmosError] = {}
        bounded = type(round_)(**{**vars(round_), "max_update_norm": 100.0})
        arrays, used = make_strategy(strategy, {}).aggregate(bounded, replies, failed)
        assert list(used) == ["B"]
        results.append(arrays)
        assert ("A" not in dict(replies)) or "max_update_norm allows 100" in str(failed["A"])
    for name in before:
        assert np.array_equal(results[0][name], results[1][name])


def test_what_overflows_double_precision_is_refused_too() -> None:
    before = {"w": np.ones(3)}
    with pytest.raises(BadUpdate, match="inf times the norm"):
        checked_update(reply({"w": np.full(3, 1e300)}, 1), form_of(before), 1, before=before, max_norm=100)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("norm.running_var", -1.0, "negative"),
        ("norm.running_var", 1e30, "beyond"),
        ("norm.running_mean", -1e30, "beyond"),
        ("norm.num_batches_tracked", -1, "impossible number"),
        ("norm.num_batches_tracked", 2**62, "impossible number"),
    ],
)
def test_running_statistics_that_no_activations_have_are_refused(name: str, value: float, why: str) -> None:
    honest = {**update(0), **STATISTICS}
    checked_update(reply(honest, 1), form_of(honest), 1)
    bad = {**honest, name: np.full_like(honest[name], value)}
    with pytest.raises(BadUpdate, match=rf"{name} .*{why}"):
        checked_update(reply(bad, 1), form_of(honest), 1)


@given(st.integers(0, 50), st.sampled_from([np.float16, np.float32, np.float64]), st.floats(-3, 3))
def test_the_rough_norm_is_never_below_the_norm(seed: int, dtype: type, power: float) -> None:
    random = np.random.default_rng(seed)
    arrays = {name: (random.normal(size=3000) * 10**power).astype(dtype) for name in ("w", "b")}
    assert not aggregate._rough_norm(arrays) < trained_norm(arrays)


def test_the_bound_takes_no_copy_of_the_weights() -> None:
    before = {"w": np.ones(4_000_000, np.float32)}
    after = {"w": before["w"] * 1.5}
    tracemalloc.start()
    try:
        relative_distance(after, before)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < before["w"].nbytes


def test_real_updates_lie_far_within_the_default_also_where_the_rate_is_far_too_high(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    default = RunConfig().max_update_norm
    assert default is not None
    noting: dict[str, Any] = {"strategy": f"{__name__}:NotingDistances"}
    DISTANCES.clear()
    federate(
        tmp_path / "usual", tiny_cohort, store, rounds=2, local_steps=10, training={"learning_rate": 0.2}, **noting
    )
    assert len(DISTANCES) == 6
    assert 0 < max(DISTANCES) < default / 100
    DISTANCES.clear()
    federate(tmp_path / "wild", tiny_cohort, store, rounds=1, local_steps=25, training={"learning_rate": 5.0}, **noting)
    assert len(DISTANCES) == 3
    assert max(DISTANCES) < default / 10


def test_the_bound_is_a_setting_and_changes_no_weights_of_a_run_within_it(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    runs = [
        federate(tmp_path / str(bound), tiny_cohort, store, rounds=1, max_update_norm=bound) for bound in (None, 1.0)
    ]
    assert hashes(runs[0]) == hashes(runs[1])
    for wrong in (0, -1, "far"):
        with pytest.raises(AmosError, match="max_update_norm"):
            resolve([Layer("test", {"max_update_norm": wrong})])


def test_below_the_bound_the_site_is_in_the_ledger_with_the_reason(tmp_path: Path, store: Path) -> None:
    cohort = write_tiny_cohort(tmp_path / "cohort")
    settings = {"rounds": 1, "local_steps": 2, "max_update_norm": 0.0001, "min_sites": 1}
    with pytest.raises(AmosError, match=r"0 of 3 sites sent an update .*max_update_norm allows 0.0001"):
        federate(tmp_path / "run", cohort, store, **settings)


def test_the_norm_of_a_fresh_network_is_no_small_number() -> None:
    from federations import tiny_config

    from amos_fl.networks.registry import build_network

    config = tiny_config()
    fresh = arrays_of(build_network(config.model, config.plan, 2, seed=0))
    assert relative_distance({name: array * 2 for name, array in fresh.items()}, fresh) == pytest.approx(1.0)
