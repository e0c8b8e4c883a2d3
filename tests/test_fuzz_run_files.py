"""Every file of a run, damaged in every way that comes to mind: each command says one sentence, and none takes long."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from federations import federate, tiny_config
from fuzzing import SEED, Budget, damages, judged, put

from amos_fl.api.calibrating import calibrate
from amos_fl.cohort.table import read_cohort
from amos_fl.errors import Interrupted
from amos_fl.runs.create import create_run
from amos_fl.runs.events import Event, RoundFinished
from amos_fl_server.federation.simulate import simulate

FINISHED = [
    ("config.yaml", ["report", "compare", "runs", "diff", "evaluate"]),
    ("versions.json", ["report", "compare", "runs", "diff"]),
    ("ledger.jsonl", ["report", "compare", "runs", "diff"]),
    ("cohort.csv", ["report", "compare", "diff", "evaluate"]),
    ("organs.csv", ["report", "compare"]),
    ("evaluations/*_test.json", ["report", "compare", "diff"]),
    ("evaluations/*_val.json", ["report", "compare", "diff"]),
    ("model/network.json", ["predict", "evaluate", "init"]),
    ("model/training_scans.json", ["predict"]),
    ("model/calibration.json", ["expected", "report"]),
    ("expected.json", ["report"]),
    ("model/weights.safetensors", ["predict", "evaluate", "init"]),
    ("scores_by_site.csv", ["runs"]),
    ("fingerprint.json", ["report"]),
    ("start.json", ["report"]),
]
INTERRUPTED = [
    "config.yaml",
    "versions.json",
    "cohort.csv",
    "organs.csv",
    "scans.json",
    "ledger.jsonl",
    "checkpoints/ledger.jsonl",
    "checkpoints/round_0001/state.json",
    "checkpoints/round_0001/weights.safetensors",
    "checkpoints/round_0001/strategy.safetensors",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> Path:
    """A run with every file that a run can have, and a second one to hold it against."""
    folder = tmp_path_factory.mktemp("fuzzed")
    cohort = read_cohort(tiny_root)
    settings = {"rounds": 2, "local_steps": 1, "evaluation": {"every": 1}}
    other = federate(folder / "other", cohort, store, **settings)
    start = str(other.path / "model/weights.safetensors")
    federate(folder / "run", cohort, store, start_from=start, **settings)
    calibrate(folder / "run", measure=True, copies=0, store=store, device="cpu")
    (folder / "run/fingerprint.json").write_text(json.dumps({"sites": ["A"], "left_out": {"B": "it is paused"}}))
    return folder


def test_commands_that_read_a_finished_run_say_what_is_damaged(
    tmp_path: Path, finished: Path, tiny_root: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random_ = random.Random(SEED)
    folder = tmp_path / "run"
    shutil.copytree(finished / "run", folder)
    scan = next((tiny_root / "images").glob("d_*"))
    numbers = iter(range(10**6))

    def line(name: str) -> list[str]:
        out = str(tmp_path / f"out-{next(numbers)}")
        return {
            "report": ["report", str(folder)],
            "compare": ["compare", str(folder), str(finished / "other"), "--out", out, "--resamples", "100"],
            "runs": ["runs", str(tmp_path)],
            "diff": ["diff", str(folder), str(finished / "other")],
            "evaluate": ["evaluate", str(folder), "--sites", "D", "--store", str(store), "--out", out],
            "predict": ["predict", str(folder), str(scan), "--modality", "CT", "--out", out],
            "expected": ["predict", str(folder), str(scan), "--modality", "CT", "--out", out, "--expected-dsc"],
            "init": ["simulate", "--init", str(folder), "--cohort", str(tiny_root), "--set", "rounds=0"],
        }[name]

    files = [(next(iter(sorted(folder.glob(pattern)))), commands) for pattern, commands in FINISHED]
    ways = {file: (file.read_bytes(), damages(file.read_bytes(), file.suffix, random_)) for file, _ in files}
    budget = Budget(4 * len(files))
    while budget.left:
        for file, commands in files:
            content, damaged = ways[file]
            put(file, next(damaged))
            name = random_.choice(commands)
            code, said = judged(line(name), capsys)
            if code in (2, 3) and name != "init":
                # A score that was changed to another possible one shows in the tables, which repeat it.
                named = file.name in said or "evaluations" in said or "model" in said or "organ" in said
                assert named, (name, said)
            budget.count(code if name != "init" else 0)
            file.write_bytes(content)
    assert budget.refused > budget.tried / 4


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> Path:
    """A run with a strategy that remembers, stopped after its first round."""
    cohort = read_cohort(tiny_root)
    strategy = {"strategy": "flwr.serverapp.strategy:FedAvgM", "strategy_options": {"server_momentum": 0.9}}
    config = tiny_config(cohort=str(tiny_root), rounds=2, local_steps=1, **strategy)
    folder = create_run(tmp_path_factory.mktemp("interrupted") / "run", config, cohort)

    def stop(event: Event) -> None:
        if isinstance(event, RoundFinished):
            folder.stop_file.request()

    with pytest.raises(Interrupted):
        simulate(folder, config, folder.cohort(), store, stop)
    return folder.path


def test_a_resume_of_a_damaged_run_says_what_is_damaged_or_goes_on_as_it_would_have(
    tmp_path: Path, interrupted: Path, store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_training(*_: object, **__: object) -> None:
        raise Interrupted("the run would go on")

    # What a resume reads has been read by then. The round itself would take seconds for each of many damages.
    monkeypatch.setattr("amos_fl_server.federation.rounds.Federation._round", no_training)
    random_ = random.Random(SEED)
    folder = tmp_path / "run"
    shutil.copytree(interrupted, folder)
    files = [folder / name for name in INTERRUPTED]
    ways: dict[Path, tuple[bytes, Iterator[bytes | None]]] = {
        file: (file.read_bytes(), damages(file.read_bytes(), file.suffix, random_)) for file in files
    }
    budget = Budget(4 * len(files))
    while budget.left:
        for file in files:
            put(file, next(ways[file][1]))
            code, said = judged(["simulate", "--resume", str(folder), "--store", str(store)], capsys)
            assert code in (2, 130), said
            if code == 2:
                noted = file.name == "versions.json" and "is not what the run was begun with" in said
                assert noted or file.name in said or "checkpoints" in said or "cohort" in said, said
            budget.count(code)
            for whole, (before, _) in ways.items():
                whole.write_bytes(before)
    assert budget.refused > budget.tried / 2
