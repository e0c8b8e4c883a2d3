"""Methods: each equals another in its limiting case, and an independent implementation elsewhere."""

import json
import re
import shlex
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federations import federate, final_weights, hashes, killed_after, resume
from hospitals import Hospital, tiny_task, write_hospital
from test_aggregation import SITES, reply, round_input, update

from amos_fl.api.settings import recipe_for
from amos_fl.cli.main import run
from amos_fl.cli.setting_options import flag_of
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.methods import METHODS, method_named, options_of
from amos_fl.methods.base import Arrays, Done, Memory, Method, ServerRound, SiteRound, Work
from amos_fl.methods.scaffold import CONTROL, Scaffold
from amos_fl.networks.catalogue import NETWORKS
from amos_fl.networks.registry import build_network
from amos_fl.runs.events import Event, RoundFinished
from amos_fl.runs.layers import Layer, dotted
from amos_fl.training.schedule import polynomial_learning_rate
from amos_fl.training.settings import TrainingSettings
from amos_fl.weights import arrays_of, is_trained, read_arrays
from amos_fl_clients.federation.policy import Refusal
from amos_fl_clients.federation.records import record_of, views_of
from amos_fl_server.federation.strategies import make_strategy
from amos_fl_server.federation.strategies.base import MethodStrategy, RoundInput, Strategy

LIMITS: dict[str, dict[str, Any]] = {"krum": {"bad": 0}, "multi-krum": {"bad": 0}, "norm-bound": {"bound": 1e-4}}
"""Options with which a method can do with the three sites of the tiny cohort, and does something there."""
WEIGHTS = {"A": 82.0, "B": 68.0, "C": 50.0, "G": 33.0}
STATISTICS = {"norm.running_mean": np.zeros(3, np.float32), "norm.running_var": np.ones(3, np.float32)}


TRAINING = TrainingSettings(learning_rate=0.1, momentum=0.9)
STEPS = 5


def round_of(arrays: Arrays, number: int) -> RoundInput:
    work = Work(number, (number - 1) * STEPS, STEPS, 10 * STEPS, TRAINING)
    return replace(round_input(arrays, WEIGHTS, number), works=dict.fromkeys(WEIGHTS, work))


def rounds_of(strategy: Strategy, number: int = 4, start: Arrays | None = None) -> list[Arrays]:
    """The weights after each of some rounds, in which the sites send updates that are drawn from the round's number."""
    current, found = start or {**update(99), **STATISTICS}, []
    for i in range(1, number + 1):
        given = round_of(current, i)
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


def test_state_of_another_network_is_refused() -> None:
    strategy = make_strategy("fedadam", {})
    strategy.restore({"m/conv.bias": np.zeros(9, np.float32)}, {})
    with pytest.raises(AmosError, match=r"state of conv\.bias belongs to another network"):
        rounds_of(strategy, 1)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_of_any_method_that_is_killed_and_resumed_has_the_weights_of_one_that_was_not(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, name: str
) -> None:
    settings: dict[str, Any] = {"strategy": name, "local_steps": 1, "evaluation": {"every": 3}}
    settings["strategy_options"] = LIMITS.get(name, {})
    whole = federate(tmp_path / "whole", tiny_cohort, store, **settings)
    folder = killed_after(tmp_path / "killed", 2, tiny_cohort, store, **settings)
    assert hashes(resume(folder.path, store)) == hashes(whole)


def test_each_method_trains_to_weights_of_its_own(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    found: dict[str, list[str]] = {}
    for name in METHODS:
        options = {"strategy": name, "strategy_options": LIMITS.get(name, {})}
        made = federate(tmp_path / name, tiny_cohort, store, rounds=2, local_steps=2, **options)
        found.setdefault(hashes(made)[-1], []).append(name)
        assert all(np.isfinite(array).all() for array in final_weights(made).values())
    # With equal steps there is nothing to correct, and of three sites the median is what is left without the extremes.
    # FedDG-GA knows its first gaps after the second round.
    alike = [names for names in found.values() if len(names) > 1]
    assert sorted(alike) == [["fedavg", "fednova", "feddg-ga", "ditto"], ["median", "trimmed-mean"]]


@dataclass(frozen=True)
class HalfWay(Method):
    """The server goes halfway to the mean."""

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
        ("feddg-ga", {"step_size": 1}, "strategy_options.step_size is 1; it must be 0 or more and less than 1"),
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
    assert [listed["scaffold"][key] for key in ("sent_models", "site_models", "server_models")] == [1, 1, 1]
    assert run(["methods"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in METHODS)


# --- control variates ---------------------------------------------------------------------------


def test_parameters_move_by_the_displacement_against_a_gradient_that_stays_the_same() -> None:
    for momentum, first, steps in ((0.0, 0, 4), (0.9, 0, 20), (0.99, 30, 7)):
        settings = TrainingSettings(learning_rate=0.1, momentum=momentum)
        weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = torch.optim.SGD([weight], lr=1.0, momentum=momentum, nesterov=momentum > 0)
        for step in range(first, first + steps):
            optimizer.param_groups[0]["lr"] = polynomial_learning_rate(0.1, step, 50, settings.learning_rate_exponent)
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        assert Work(1, first, steps, 50, settings).displacement == pytest.approx(-weight.item(), rel=1e-12)


def drawn(number: int) -> Arrays:
    return update(number)


def test_scaffolds_control_is_the_one_that_sites_would_send_also_where_one_is_missing() -> None:
    """The paper's server adds the mean of what the sites' own variates change by, which they would have to send."""
    method, memory = Scaffold(), Memory()
    shares = {"A": 0.5, "B": 0.3, "C": 0.2}
    kept: dict[str, Arrays] = {site: {} for site in shares}
    before, theirs = drawn(0), {name: np.zeros_like(array) for name, array in drawn(0).items()}
    for number, present in ((1, "ABC"), (2, "AC"), (3, "ABC")):
        work = Work(number, (number - 1) * STEPS, STEPS, 50, TRAINING)
        sent = {name: {key: a.copy() for key, a in v.items()} for name, v in method.more(before, memory).items()}
        trained = {site: drawn(10 * number + i) for i, site in enumerate(present)}
        changes = {}
        for site in present:
            after = method.keep(SiteRound(work, sent, kept[site]), before, trained[site])
            old = kept[site] or {name: np.zeros_like(array) for name, array in after.items()}
            changes[site], kept[site] = {name: after[name] - old[name] for name in after}, after
        share = sum(shares[site] for site in present)
        mean = {name: sum(shares[s] * trained[s][name] for s in present) / np.float32(share) for name in before}
        mean = {name: np.asarray(array, np.float32) for name, array in mean.items()}
        method.step(ServerRound(work, before, share), mean, memory)
        theirs = {name: c + sum(shares[s] * changes[s][name] for s in present) for name, c in theirs.items()}
        for name in before:
            np.testing.assert_allclose(memory.arrays[f"{CONTROL}/{name}"], theirs[name], rtol=1e-4, atol=1e-5)
        before = mean


def test_scaffold_is_fedavg_in_its_first_round_and_its_controls_add_up_afterwards(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    plain = federate(tmp_path / "plain", tiny_cohort, store)
    run = federate(tmp_path / "run", tiny_cohort, store, strategy="scaffold")
    assert hashes(run)[0] == hashes(plain)[0]
    assert hashes(run)[1] != hashes(plain)[1]
    [state] = (run.path / "sites/A/state/method").iterdir()
    shares = {"A": 3 / 6, "B": 1 / 6, "G": 2 / 6}
    controls = run.read_checkpoint(3).strategy_arrays
    assert controls
    kept = {site: run.path / "sites" / site / "state/method" / state.name for site in shares}
    own = {site: read_arrays(folder / "round_0003.safetensors") for site, folder in kept.items()}
    for key, control in controls.items():
        name = key.removeprefix(f"{CONTROL}/")
        mean = sum(share * own[site][name] for site, share in shares.items())
        np.testing.assert_allclose(control, mean, rtol=1e-3, atol=1e-5)


def test_feddyns_first_round_is_fedprox_and_a_step_of_the_server(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    prox = federate(tmp_path / "p", tiny_cohort, store, strategy="fedprox", strategy_options={"mu": 0.5}, rounds=1)
    dyn = federate(tmp_path / "d", tiny_cohort, store, strategy="feddyn", strategy_options={"alpha": 0.5}, rounds=1)
    config = dyn.config()
    start = arrays_of(build_network(config.model, config.plan, 2, seed=config.seed))
    mean = final_weights(prox)
    for name, array in final_weights(dyn).items():
        np.testing.assert_allclose(array, 2 * mean[name] - start[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_site_that_has_lost_its_control_begins_at_zero_and_is_named(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    def loses(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.round == 1:
            for file in (tmp_path / "run/sites/A/state/method").rglob("*.safetensors"):
                file.write_bytes(b"damaged")

    run = federate(tmp_path / "run", tiny_cohort, store, loses, strategy="scaffold")
    words = "began again without its own memory of the method, which was damaged or not there"
    assert [entry["sites"]["A"].get("restarted") for entry in run.ledger()] == [None, words, None]
    assert "restarted" not in run.ledger()[1]["sites"]["B"]


def test_a_method_that_needs_fresh_momentum_is_refused_with_kept_momentum(tmp_path: Path, tiny_cohort: Cohort) -> None:
    with pytest.raises(AmosError, match="strategy scaffold needs optimizer_state reset"):
        federate(tmp_path / "run", tiny_cohort, tmp_path, strategy="scaffold", optimizer_state="keep")


def test_the_recipe_of_a_network_gives_way_to_what_a_method_needs() -> None:
    layers = [Layer("test", {"strategy": "scaffold"})]
    assert recipe_for(layers)[1].settings["optimizer_state"] == "reset"
    assert recipe_for([])[1].settings["optimizer_state"] == "keep"


@pytest.mark.parametrize("damage", ["gone", "misshapen", "of other names"])
def test_a_request_without_what_its_method_sends_is_refused_in_words(
    tmp_path: Path, tiny_cohort: Cohort, damage: str
) -> None:
    task = tiny_task(tiny_cohort, method="scaffold", optimizer_state="reset")
    site = Hospital(write_hospital(tmp_path, tiny_cohort, "A"), task)
    weights = views_of(site.weights())
    control = {name: np.zeros_like(array) for name, array in weights.items() if is_trained(name, array)}
    more = {
        "gone": {},
        "misshapen": {CONTROL: record_of((name, array[None]) for name, array in control.items())},
        "of other names": {CONTROL: record_of((f"x.{name}", array) for name, array in control.items())},
    }[damage]
    with pytest.raises(Refusal, match="the request lacks 'control'"):
        site.train(more=more)
    assert not site.train(more={CONTROL: record_of(control.items())}).has_error()


PAGE = (Path(__file__).parents[1] / "docs/methods.md").read_text(encoding="utf-8")


def test_the_page_on_methods_names_everything_that_a_method_is_given() -> None:
    table = PAGE.partition("| object | attribute |")[2].partition("\n\n")[0]
    named: dict[str, set[str]] = {}
    for line in table.splitlines()[2:]:
        thing, attributes = line.split("|")[1:3]
        kind = (re.findall(r"\(`(\w+)`\)", thing) or list(named)[-1:])[0]
        named.setdefault(kind, set()).update(re.findall(r"`(\w+)`", attributes))
    given = {kind.__name__: {field.name for field in fields(kind)} for kind in (SiteRound, ServerRound, Done, Work)}
    given["Work"].add("displacement")
    assert named == given


def test_the_page_on_methods_gives_the_recipe_of_small_for_a_network_of_ones_own() -> None:
    [command] = re.findall(r"amos-fl simulate --model my_lab\.nets:build (--plan coarse --opt(?:.|\n)*?)\n\n", PAGE)
    words = shlex.split(command.replace("\\\n", " "))
    said = dict(zip(words[::2], words[1::2], strict=True))
    assert said == {flag_of(key): str(value) for key, value in dotted(dict(NETWORKS["small"].recipe)).items()}
