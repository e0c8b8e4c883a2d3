"""What strategies and sites keep between rounds survives a stop to the bit, or its loss is refused or said."""

import json
import shutil
from pathlib import Path
from typing import Any

import flwr.serverapp.strategy as flowers
import numpy as np
import pytest
from federations import federate, final_weights, hashes, resume
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.runs.checkpoint import read_checkpoint, save_checkpoint
from amos_fl.runs.events import Event, Said
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.ledger_file import LedgerFile
from amos_fl_clients.federation.records import record_of
from amos_fl_server.federation.strategies import make_strategy
from amos_fl_server.federation.strategies.memory import CannotBeKept, memory_of, remember

OPTIONS: dict[str, dict[str, Any]] = {
    "FedAvgM": {"server_momentum": 0.9, "server_learning_rate": 0.7},
    "FedAdagrad": {"eta": 0.01},
    "FedAdam": {"eta": 0.01},
    "FedYogi": {"eta": 0.01},
    "FedProx": {"proximal_mu": 0.1},
    "FedTrimmedAvg": {"beta": 0.34},
    "QFedAvg": {"client_learning_rate": 0.02},
    "FedAvg": {"fraction_train": 0.67},
    **{name: {} for name in ("Bulyan", "FedMedian", "Krum", "MultiKrum")},
}
REFUSED = {
    "Strategy": "Can't instantiate abstract class Strategy",
    **{f"FedXgb{kind}": "it combines decision trees, not the weights of a network" for kind in ("Bagging", "Cyclic")},
    **{
        f"DifferentialPrivacy{side}Side{clipping}Clipping": "its noise would be drawn from the run's seed, .* "
        "there is no differential privacy here. --strategy norm-bound bounds how far one site's update moves"
        for side in ("Client", "Server")
        for clipping in ("Adaptive", "Fixed")
    },
}


def test_every_strategy_of_flower_is_tried_or_refused() -> None:
    kinds = {name: kind for name in flowers.__all__ if isinstance(kind := getattr(flowers, name), type)}
    there = {name for name, kind in kinds.items() if issubclass(kind, flowers.Strategy)}
    assert there == {*OPTIONS, *REFUSED}


@pytest.mark.parametrize("name", REFUSED)
def test_a_strategy_of_flower_that_would_not_do_what_it_is_for_is_refused_with_the_reason(name: str) -> None:
    path = f"flwr.serverapp.strategy:{name}"
    with pytest.raises(AmosError, match=f"^strategy {path}: {REFUSED[name]}"):
        make_strategy(path, {})


def taken_back(run: RunFolder, to_round: int) -> None:
    """What a kill after that round leaves."""
    run.prune_checkpoints({to_round})
    shutil.rmtree(run.path / "evaluations")
    (run.path / "ledger.jsonl").unlink()


@pytest.mark.parametrize("name", OPTIONS)
def test_flowers_strategies_go_on_after_a_stop_as_if_there_had_been_none(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, name: str
) -> None:
    run = federate(
        tmp_path / "run",
        tiny_cohort,
        store,
        strategy=f"flwr.serverapp.strategy:{name}",
        strategy_options=OPTIONS[name],
        keep_checkpoints="all",
        rounds=3,
        local_steps=1,
        evaluation={"every": 3, "unseen": False},
    )
    whole, weights = hashes(run), final_weights(run)
    assert len(set(whole)) == 3
    taken_back(run, 2)
    assert hashes(resume(run.path, store)) == whole
    assert all(np.array_equal(weights[key], array) for key, array in final_weights(run).items())


class Memory(FedAvg):
    """A strategy with everything that can be kept."""

    def fill(self) -> None:
        arrays = {"b": np.arange(3, dtype=np.float32), "a": np.ones((2, 2), np.float64)}
        self.momentum = [np.arange(4.0), [np.float32(0.1), (1, None, "x", float("nan"))]]
        self.nested = {3: {"moments": (np.zeros(0), np.int64(7))}, "text": [True, -float("inf"), 10**30]}
        self.record = record_of(arrays.items())
        self.config = ConfigRecord({"z": 1, "a": [1.5, 2.5], "b": b"\x00\xff"})
        self.inner = FedAvg(fraction_train=0.25)
        self.empty = {}
        self.bytes = b"\x80\x04"


def test_whatever_a_strategy_keeps_comes_back_with_its_types_its_order_and_its_bits(tmp_path: Path) -> None:
    before, after = Memory(), Memory()
    before.fill()
    arrays, trees = memory_of(before)
    from amos_fl.weights import hash_of

    weights = {"w": np.ones(2, np.float32)}
    nothing = LedgerFile(tmp_path / "ledger", tmp_path / "copy").extent
    save_checkpoint(tmp_path / "round_0001", weights, arrays, trees, nothing, hash_of(weights))
    checkpoint = read_checkpoint(tmp_path / "round_0001", 1)
    after.inner = FedAvg()
    remember(after, checkpoint.strategy_arrays, checkpoint.strategy_values)
    assert list(after.record) == ["b", "a"]
    assert list(after.config) == ["z", "a", "b"]
    assert after.config["b"] == b"\x00\xff"
    assert after.inner.fraction_train == 0.25
    assert after.bytes == before.bytes
    assert type(after.momentum[1][0]) is np.float32
    assert after.momentum[1][1][:3] == (1, None, "x")
    assert np.isnan(after.momentum[1][1][3])
    assert after.nested["text"] == [True, -float("inf"), 10**30]
    assert after.nested[3]["moments"][1] == 7
    assert after.nested[3]["moments"][0].shape == (0,)
    assert isinstance(after.record, ArrayRecord)
    assert np.array_equal(after.record["a"].numpy(), np.ones((2, 2)))
    assert after.empty == {}


class Forgetful(FedAvg):
    """A strategy whose memory no checkpoint can hold."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.drawn = np.random.default_rng(0)


def test_a_strategy_whose_memory_cannot_be_kept_is_refused_before_the_first_round() -> None:
    with pytest.raises(CannotBeKept, match="Forgetful: its drawn is a Generator, which no checkpoint can hold"):
        make_strategy(f"{__name__}:Forgetful", {})


def test_a_checkpoint_of_another_strategy_is_named(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    run = federate(tmp_path / "run", tiny_cohort, store, rounds=2, local_steps=1, keep_checkpoints="all")
    taken_back(run, 1)
    state = run.checkpoint_folder(1) / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "strategy": {"momentum": {"kind": "array"}}}))
    with pytest.raises(AmosError, match="round_0001: the checkpoint belongs to a strategy other than FedAvg; remove"):
        resume(run.path, store)


KEEP = {"rounds": 3, "local_steps": 1, "optimizer_state": "keep", "keep_checkpoints": "all"}


@pytest.mark.parametrize("damage", ["cut", "flipped", "removed"])
def test_a_site_that_has_lost_its_momentum_says_so_and_the_ledger_and_the_summary_too(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, damage: str
) -> None:
    run = federate(tmp_path / "run", tiny_cohort, store, **KEEP)
    whole = hashes(run)
    taken_back(run, 2)
    [file] = (run.site("A") / "state" / "momentum").glob("*/round_0002.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:-100])
    elif damage == "flipped":
        content[-5] ^= 4
        file.write_bytes(content)
    else:
        for kept in file.parent.iterdir():
            kept.unlink()
    said: list[Event] = []
    resume(run.path, store, said.append)
    sentence = "began again without its own momentum, which was damaged or not there"
    assert Said(f"round 3: site A {sentence}") in said
    last = run.ledger()[-1]
    assert last["sites"]["A"].get("restarted") == sentence
    assert "restarted" not in last["sites"]["B"]
    assert hashes(run)[:2] == whole[:2]
    assert hashes(run)[2] != whole[2]
    assert f"round 3: site A {sentence}" in (run.path / "summary.md").read_text()
    assert file.parent.name in (run.site("A") / "state" / "errors.log").read_text()


def test_a_run_taken_further_back_than_sites_keep_their_momentum_says_so(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    run = federate(tmp_path / "run", tiny_cohort, store, **{**KEEP, "rounds": 4})
    taken_back(run, 1)
    resume(run.path, store)
    restarted = [[site for site, about in entry["sites"].items() if "restarted" in about] for entry in run.ledger()]
    assert restarted == [[], ["A", "B", "G"], [], []]


def test_a_run_that_lost_nothing_says_nothing(tmp_path: Path, tiny_cohort: Cohort, store: Path) -> None:
    run = federate(tmp_path / "run", tiny_cohort, store, **KEEP)
    whole = hashes(run)
    taken_back(run, 2)
    assert hashes(resume(run.path, store)) == whole
    assert not any("restarted" in site for entry in run.ledger() for site in entry["sites"].values())


def test_a_network_is_not_scored_with_other_statistics_than_the_sites_own(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    settings = {"rounds": 2, "local_steps": 1, "model": "vnet", "norm_statistics": "local", "evaluation": {"every": 2}}
    run = federate(tmp_path / "run", tiny_cohort, store, **settings)
    shutil.rmtree(run.path / "evaluations")
    for kept in (run.site("A") / "state" / "private").glob("*/*"):
        kept.unlink()
    resume(run.path, store)
    evaluation = run.read_evaluation(2, "test")
    assert evaluation is not None
    assert "what was kept after round 2 is not there" in evaluation.missing["A"]
    assert evaluation.missing.keys() == {"A"}, evaluation.missing
