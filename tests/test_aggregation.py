"""Updates into weights: two ways to the same mean, whatever the order, and nothing bad let in."""

import logging
import tempfile
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from hypothesis import given
from hypothesis import strategies as st

from amos_fl.errors import AmosError
from amos_fl.methods.base import Work
from amos_fl.runs.folder import RunFolder
from amos_fl.training.settings import TrainingSettings
from amos_fl_clients.federation.messages import ARRAYS, METRICS, WEIGHT
from amos_fl_clients.federation.records import BadUpdate, record_of, view_of, views_of
from amos_fl_server.federation.aggregate import WeightedMean, checked_update, form_of, in_order
from amos_fl_server.federation.engines.inline import InlineEngine, InlineGrid
from amos_fl_server.federation.strategies import make_strategy
from amos_fl_server.federation.strategies.base import RoundInput
from amos_fl_server.federation.strategies.flower import load_flower_strategy

SITES = ("A", "B", "C", "G")
SPOOLS = tempfile.TemporaryDirectory(prefix="amos-fl-")
"""Where updates lie side by side, also in a test of many examples; it goes with the process."""


def update(seed: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "conv.weight": random.normal(size=(4, 3, 2)).astype(dtype),
        "conv.bias": random.normal(size=4).astype(dtype),
        "scale": np.asarray(random.normal(), dtype),
    }


def reply(arrays: dict[str, np.ndarray], weight: float) -> Message:
    grid = InlineGrid(lambda message, context: message, ["A"])  # sets Flower's identity of this process
    asked = Message(RecordDict(), grid.get_node_ids()[0], "train")
    return Message(
        RecordDict({ARRAYS: record_of(arrays.items()), METRICS: MetricRecord({WEIGHT: weight})}), reply_to=asked
    )


def mean_of(updates: dict[str, dict[str, np.ndarray]], weights: dict[str, float]) -> dict[str, np.ndarray]:
    mean = WeightedMean(weights, form_of(next(iter(updates.values()))))
    for site in sorted(updates):
        mean.add(site, dict(updates[site]))
    return mean.result()


def round_input(arrays: dict[str, np.ndarray], weights: dict[str, float], number: int = 1) -> RoundInput:
    grid = InlineGrid(lambda message, context: message, list(weights))
    nodes = dict(zip(weights, grid.get_node_ids(), strict=True))
    config, work = ConfigRecord({"round": number}), Work(number, 2 * (number - 1), 2, 20, TrainingSettings())
    return RoundInput(
        record_of(arrays.items()),
        config,
        nodes,
        weights,
        form_of(arrays),
        grid,
        0,
        all_counts=weights,
        works=dict.fromkeys(weights, work),
        spool=Path(tempfile.mkdtemp(dir=SPOOLS.name)) / "updates",
    )


def test_the_mean_equals_flowers_own_fedavg_bit_for_bit() -> None:
    weights = {"A": 82, "B": 68, "C": 50, "G": 33}
    updates = {site: update(i) for i, site in enumerate(SITES)}
    ours = mean_of(updates, {site: float(weight) for site, weight in weights.items()})
    replies = [reply(updates[site], weights[site]) for site in SITES]
    theirs, _ = FlowerFedAvg().aggregate_train(1, replies)
    assert theirs is not None
    for name, array in views_of(theirs).items():
        assert np.array_equal(array, ours[name]), name


def test_flowers_fedavg_plugged_in_gives_the_weights_of_ours() -> None:
    weights = {"A": 3.0, "B": 1.0, "C": 2.0}
    updates = {site: update(i) for i, site in enumerate(weights)}
    results = []
    for name in ("fedavg", "flwr.serverapp.strategy:FedAvg"):
        strategy = make_strategy(name, {})
        given_ = round_input(update(9), weights)
        messages = strategy.messages(given_)
        assert list(messages) == ["A", "B", "C"]
        replies = [(site, reply(updates[site], weights[site])) for site in messages]
        arrays, used = strategy.aggregate(given_, replies, {})
        assert list(used) == ["A", "B", "C"]
        results.append(arrays)
    for name in results[0]:
        assert np.array_equal(results[0][name], results[1][name])


def test_what_flower_says_in_a_round_stays_out_of_the_terminal_of_a_simulation(tmp_path: Path) -> None:
    said: list[str] = []

    class Hears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, hears = logging.getLogger("flwr"), Hears()
    logger.addHandler(hears)

    def server(grid: Grid, context: Context) -> None:
        make_strategy("flwr.serverapp.strategy:FedAvg", {}).messages(round_input(update(9), {"A": 3.0}))

    try:
        InlineEngine().run(server, RunFolder(tmp_path), ["A"], lambda event: None)  # pyright: ignore
        assert said == []
        server(None, None)  # pyright: ignore[reportArgumentType] - neither is looked at
        assert any("Sampled 1 nodes" in line for line in said)
    finally:
        logger.removeHandler(hears)


@given(st.permutations(SITES))
def test_the_order_of_arrival_changes_nothing(order: list[str]) -> None:
    updates = {site: update(i) for i, site in enumerate(SITES)}
    weights = dict.fromkeys(SITES, 1.0)
    mean = WeightedMean(weights, form_of(updates["A"]))
    for site, arrays in in_order(((site, updates[site]) for site in order), SITES):
        mean.add(site, dict(arrays))
    expected = mean_of(updates, weights)
    for name, array in mean.result().items():
        assert np.array_equal(array, expected[name])


def test_replies_are_handed_on_as_soon_as_those_before_them_have_come() -> None:
    arriving = iter([("B", 2), ("A", 1), ("C", None), ("G", 4)])
    ordered = in_order(arriving, SITES)
    assert [next(ordered), next(ordered)] == [("A", 1), ("B", 2)]
    assert next(arriving) == ("C", None)
    assert list(in_order(iter([("G", 4), ("A", None), ("B", 2)]), SITES)) == [("B", 2), ("G", 4)]


def test_a_missing_site_leaves_the_mean_of_the_others() -> None:
    updates = {site: update(i) for i, site in enumerate(SITES)}
    weights = {"A": 5.0, "B": 3.0, "C": 2.0, "G": 1.0}
    mean = WeightedMean(weights, form_of(updates["A"]))
    for site in ("A", "C"):
        mean.add(site, dict(updates[site]))
    expected = mean_of({s: updates[s] for s in ("A", "C")}, {"A": 5.0, "C": 2.0})
    for name, array in mean.result().items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes_and_shapes_are_kept(dtype: type) -> None:
    mean = mean_of({"A": update(0, dtype), "B": update(1, dtype)}, {"A": 1.0, "B": 2.0})
    assert form_of(mean) == form_of(update(0, dtype))


def test_running_statistics_are_pooled_and_counts_are_not_averaged() -> None:
    random = np.random.default_rng(0)
    samples = {"A": random.normal(0, 1, (1000, 3)), "B": random.normal(5, 2, (1000, 3))}
    updates = {
        site: {
            "norm.running_mean": values.mean(0),
            "norm.running_var": values.var(0),
            "norm.num_batches_tracked": np.asarray(count),
        }
        for (site, values), count in zip(samples.items(), (10, 25), strict=True)
    }
    pooled = np.concatenate(list(samples.values()))
    mean = mean_of(updates, {"A": 1.0, "B": 1.0})
    np.testing.assert_allclose(mean["norm.running_mean"], pooled.mean(0))
    np.testing.assert_allclose(mean["norm.running_var"], pooled.var(0))
    assert mean["norm.num_batches_tracked"] == 25
    assert mean["norm.num_batches_tracked"].dtype == np.int64


def test_a_small_variance_is_not_lost_beside_a_large_mean() -> None:
    means, variances = np.float32([1000.0, -3000.0, 0.5]), np.float32([0.25, 0.01, 4.0])
    one = {"norm.running_mean": means, "norm.running_var": variances}
    mean = mean_of({"A": one, "B": one, "C": one}, {"A": 82.0, "B": 68.0, "C": 50.0})
    assert form_of(mean) == form_of(one)
    np.testing.assert_allclose(mean["norm.running_mean"], means, rtol=1e-6)
    np.testing.assert_allclose(mean["norm.running_var"], variances, rtol=1e-6)


def _without(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (_without(update(0), "scale"), "lacks 1 arrays, the first is scale"),
        ({**update(0), "more": np.zeros(1, np.float32)}, "1 arrays that the network does not have"),
        ({**update(0), "conv.bias": np.zeros(5, np.float32)}, "conv.bias is (5,) in its update, and must be (4,)"),
        ({**update(0), "conv.bias": np.zeros(4)}, "conv.bias is float64"),
        ({**update(0), "conv.bias": np.full(4, np.nan, np.float32)}, "conv.bias holds NaN or infinite values"),
        ({**update(0), "scale": np.asarray(np.inf, np.float32)}, "scale holds NaN or infinite values"),
    ],
)
@pytest.mark.parametrize("strategy", ["fedavg", "flwr.serverapp.strategy:FedAvg"])
def test_a_bad_update_is_left_out_and_its_site_named(bad: dict[str, np.ndarray], words: str, strategy: str) -> None:
    weights = {"A": 1.0, "B": 1.0}
    failed: dict[str, AmosError] = {}
    replies = [("A", reply(bad, 1)), ("B", reply(update(1), 1))]
    arrays, used = make_strategy(strategy, {}).aggregate(round_input(update(0), weights), replies, failed)
    assert list(used) == ["B"]
    assert words in str(failed["A"])
    np.testing.assert_allclose(arrays["conv.bias"], update(1)["conv.bias"], rtol=1e-6)


def test_a_site_cannot_claim_more_weight_than_was_agreed() -> None:
    with pytest.raises(BadUpdate, match="claims a weight other than the agreed 3"):
        checked_update(reply(update(0), 1_000_000), form_of(update(0)), 3.0)


def test_an_array_that_would_be_unpickled_is_refused() -> None:
    array = Array(np.zeros(2))
    array.data = array.data.replace(b"<f8", b"|O8")
    with pytest.raises(BadUpdate, match="cannot be read"):
        view_of(array)


def test_a_flower_strategy_keeps_dtypes_leaves_statistics_alone_and_remembers_itself() -> None:
    arrays = {**update(0), "norm.running_var": np.ones(3, np.float32), "norm.running_mean": np.zeros(3, np.float32)}
    weights = {"A": 1.0, "B": 1.0}

    def two_rounds(resumed: bool) -> dict[str, np.ndarray]:
        strategy = load_flower_strategy("flwr.serverapp.strategy:FedAdam", {"eta": 0.05})
        current = arrays
        for number in (1, 2):
            given_ = round_input(current, weights, number)
            replies = [(site, reply({**arrays, **update(10 * number + i)}, 1)) for i, site in enumerate(weights)]
            strategy.messages(given_)
            current, _ = strategy.aggregate(given_, replies, {})
            if resumed:
                state = strategy.state()
                strategy = load_flower_strategy("flwr.serverapp.strategy.FedAdam", {"eta": 0.05})
                strategy.restore(*state)
        return current

    straight, resumed = two_rounds(False), two_rounds(True)
    assert form_of(straight) == form_of(arrays)
    assert np.array_equal(straight["norm.running_var"], np.ones(3))
    for name in straight:
        assert np.array_equal(straight[name], resumed[name]), name


def test_strategies_that_are_none_are_refused_in_words() -> None:
    for name, options, words in [
        ("fedavgg", {}, "did you mean 'fedavg'"),
        ("fedprox", {"nu": 1}, "no option 'nu'; did you mean 'mu'|no option 'nu'"),
        ("fedprox", {"mu": -1}, "must be 0 or more"),
        ("flwr.serverapp.strategy:FedNone", {}, "cannot be imported"),
        ("pathlib:Path", {}, "neither a method nor a strategy of Flower's .*; write class Path.Method."),
        ("flwr.serverapp.strategy:FedAdam", {"nothing": 1}, "nothing"),
    ]:
        with pytest.raises(AmosError, match=words):
            make_strategy(name, options)
