"""Methods: each equals another in its limiting case, and an independent implementation elsewhere."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import federate, final_weights, hashes, resume, tiny_config
from test_aggregation import SITES, reply, round_input, update

from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.methods import METHODS, method_named, options_of
from amos_fl.methods.base import Arrays, Memory, Method, ServerRound
from amos_fl.runs.events import Event, RoundFinished
from amos_fl.runs.folder import create_run
from amos_fl_server.simulate import simulate
from amos_fl_server.strategies import make_strategy
from amos_fl_server.strategies.base import MethodStrategy, Strategy

WEIGHTS = {"A": 82.0, "B": 68.0, "C": 50.0, "G": 33.0}
STATISTICS = {"norm.running_mean": np.zeros(3, np.float32), "norm.running_var": np.ones(3, np.float32)}


def rounds_of(strategy: Strategy, number: int = 4, start: Arrays | None = None) -> list[Arrays]:
    """The weights after each of some rounds, in which the sites send updates that are drawn from the round's number."""
    current, found = start or {**update(99), **STATISTICS}, []
    for i in range(1, number + 1):
        given = round_input(current, WEIGHTS, i)
        strategy.messages(given)
        sent = {site: {**update(10 * i + j), **STATISTICS} for j, site in enumerate(SITES)}
        current, _ = strategy.aggregate(given, [(site, reply(sent[site], WEIGHTS[site])) for site in SITES], {})
        found.append(current)
    return found


def assert_equal(ours: list[Arrays], theirs: list[Arrays], rtol: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=rtol, atol=rtol, err_msg=name)


@pytest.mark.parametrize(
    ("ours", "options", "theirs", "their_options"),
    [
        ("fedavgm", {"momentum": 0.7, "learning_rate": 0.5}, "FedAvgM", {"momentum": 0.7, "learning_rate": 0.5}),
        ("fedavgm", {}, "FedAvgM", {"momentum": 0.9, "learning_rate": 1.0}),
        ("fedadam", {"eta": 0.05}, "FedAdam", {"eta": 0.05}),
        ("fedyogi", {"eta": 0.05, "beta_2": 0.9}, "FedYogi", {"eta": 0.05, "beta_2": 0.9}),
        ("fedadagrad", {"eta": 0.05, "beta_1": 0.0}, "FedAdagrad", {"eta": 0.05}),
    ],
)
def test_a_server_optimiser_gives_the_weights_of_flowers_own(
    ours: str, options: dict[str, float], theirs: str, their_options: dict[str, float]
) -> None:
    renamed = {f"server_{key}" if theirs == "FedAvgM" else key: value for key, value in their_options.items()}
    flowers = make_strategy(f"flwr.serverapp.strategy:{theirs}", renamed)
    assert_equal(rounds_of(make_strategy(ours, options)), rounds_of(flowers), rtol=2e-6)


def test_without_momentum_and_at_a_rate_of_1_fedavgm_is_fedavg_to_the_bit() -> None:
    plain = rounds_of(make_strategy("fedavgm", {"momentum": 0.0, "learning_rate": 1.0}))
    for one, other in zip(plain, rounds_of(make_strategy("fedavg", {})), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("name", METHODS)
def test_running_statistics_are_pooled_and_no_method_touches_them(name: str) -> None:
    for arrays in rounds_of(make_strategy(name, {})):
        for key, value in STATISTICS.items():
            assert np.array_equal(arrays[key], value)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_remembers_at_the_server_what_it_says_and_goes_on_from_it_to_the_bit(name: str) -> None:
    strategy = make_strategy(name, {})
    first = rounds_of(strategy, 2)[-1]
    arrays, values = strategy.state()
    numbers = sum(array.size for key, array in first.items() if key not in STATISTICS)
    assert sum(array.size for array in arrays.values()) == METHODS[name].server_models * numbers
    again = make_strategy(name, {})
    again.restore({key: array.copy() for key, array in arrays.items()}, values)
    for one, other in zip(rounds_of(strategy, 2, first), rounds_of(again, 2, first), strict=True):
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_what_was_kept_of_another_network_is_refused() -> None:
    strategy = make_strategy("fedadam", {})
    strategy.restore({"m/conv.bias": np.zeros(9, np.float32)}, {})
    with pytest.raises(AmosError, match=r"kept of conv\.bias is of another network"):
        rounds_of(strategy, 1)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_of_any_method_that_is_killed_and_resumed_has_the_weights_of_one_that_was_not(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, name: str
) -> None:
    settings: dict[str, Any] = {"strategy": name, "local_steps": 1, "evaluation": {"every": 3}}
    whole = federate(tmp_path / "whole", tiny_cohort, store, **settings)

    def gone(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.round == 2:
            raise ConnectionError

    config = tiny_config(cohort=str(tiny_cohort.cases[0].image.parents[1]), **settings)
    folder = create_run(tmp_path / "killed", config, tiny_cohort)
    with pytest.raises(ConnectionError):
        simulate(folder, config, folder.cohort(), store, gone)
    assert len(hashes(folder)) == 2
    assert hashes(resume(folder.path, store)) == hashes(whole)


def test_each_method_trains_to_weights_of_its_own(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    found = {}
    for name in METHODS:
        made = federate(tmp_path / name, tiny_cohort, store, strategy=name, rounds=2, local_steps=2)
        found[hashes(made)[-1]] = name
        assert all(np.isfinite(array).all() for array in final_weights(made).values())
    assert len(found) == len(METHODS)


@dataclass(frozen=True)
class HalfWay(Method):
    """The server goes half of the way to the mean."""

    def step(self, given: ServerRound, mean: Arrays, memory: Memory) -> Arrays:
        return {name: (given.before[name] + mean[name]) / np.float32(2) for name in mean}


def test_a_method_is_one_class_and_its_step_sees_the_rounds_weights_and_the_mean() -> None:
    start = {**update(99), **STATISTICS}
    [half] = rounds_of(MethodStrategy(HalfWay()), 1)
    [whole] = rounds_of(make_strategy("fedavg", {}), 1)
    for name in update(0):
        np.testing.assert_allclose(half[name], (start[name] + whole[name]) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fedavgg", {}, "no strategy 'fedavgg'; did you mean 'fedavg"),
        ("fedadam", {"beta": 1}, "strategy fedadam has no option 'beta'; it has eta, beta_1, tau, beta_2"),
        ("fedavg", {"mu": 1}, "strategy fedavg has no option 'mu'; it has none"),
        ("fedprox", {"mu": -1}, "strategy_options.mu is -1; it must be 0 or more"),
        ("fedprox", {"mu": float("nan")}, "strategy_options.mu is nan; it must be 0 or more"),
        ("fedavgm", {"momentum": 1}, "strategy_options.momentum is 1; it must be 0 or more and less than 1"),
        ("fedyogi", {"tau": 0}, "strategy_options.tau is 0; it must be"),
        ("fedadam", {"eta": "big"}, "strategy_options.eta is 'big'; it must be a number"),
    ],
)
def test_a_method_or_an_option_that_cannot_be_is_refused_in_words(
    name: str, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(AmosError) as refused:
        method_named(name, options)
    assert words in str(refused.value)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_does_where_it_is_from_and_what_its_options_are(name: str) -> None:
    kind = METHODS[name]
    assert kind.__doc__
    assert kind.paper
    assert method_named(name, options_of(kind)) == kind()


def test_the_list_of_methods_has_each_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["methods", "--json"]) == 0
    listed = {row["method"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == list(METHODS)
    assert listed["fedprox"]["options"] == {"mu": 0.01}
    assert listed["fedadam"]["server_models"] == 2
    assert run(["methods"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in METHODS)


def test_the_method_that_the_documentation_writes_is_one() -> None:
    page = (Path(__file__).parents[1] / "docs/methods.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {"__name__": "an_own_method"}
    exec(code, names)
    [damped] = rounds_of(MethodStrategy(names["Damped"](part=0.5)), 1)
    [half] = rounds_of(MethodStrategy(HalfWay()), 1)
    assert_equal([damped], [half], rtol=1e-6)
