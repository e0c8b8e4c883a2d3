"""A run killed at any moment and resumed ends with the weights of one that was not."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from federations import federate, hashes, resume, tiny_config

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError, Interrupted
from amos_fl.runs.create import create_run
from amos_fl.runs.events import Continued, Event, Said, SiteWork
from amos_fl.runs.folder import RunFolder, open_run

SETTINGS = {"rounds": 3, "optimizer_state": "keep", "evaluation": {"every": 2}}
MOMENTS = [
    "training",
    "scoring",
    "aggregation before",
    "aggregation after",
    "checkpoint write after",
    "checkpoint rename before",
    "checkpoint rename after",
    "site state before",
    "site state after",
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> RunFolder:
    from amos_fl.cohort.table import read_cohort

    return federate(tmp_path_factory.mktemp("whole") / "run", read_cohort(tiny_root), store, **SETTINGS)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_resumes_to_the_same_weights(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, uninterrupted: RunFolder, moment: str
) -> None:
    run = tmp_path / "run"
    create_run(run, tiny_config(**SETTINGS), tiny_cohort)
    program = Path(__file__).with_name("killed_run.py")
    killed = subprocess.run([sys.executable, str(program), moment, str(run), str(store)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (run / "summary.md").exists()
    done = len(open_run(run).ledger())
    assert done in (1, 2)
    resumed = resume(run, store)
    assert hashes(resumed) == hashes(uninterrupted)
    assert (run / "scores.csv").read_bytes() == (uninterrupted.path / "scores.csv").read_bytes()
    assert not list((run / "checkpoints").glob(".*"))


def test_a_stop_request_stops_between_two_steps_and_the_run_resumes(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, uninterrupted: RunFolder
) -> None:
    run = tmp_path / "run"
    steps: list[SiteWork] = []

    def ctrl_c_in_round_2(event: Event) -> None:
        if isinstance(event, SiteWork) and event.activity == "train" and event.round == 2:
            steps.append(event)
            if len(steps) == 1:
                signal.raise_signal(signal.SIGINT)

    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(Interrupted):
        federate(run, tiny_cohort, store, ctrl_c_in_round_2, **SETTINGS)
    assert len(steps) == 1
    assert hashes(resume(run, store)) == hashes(uninterrupted)


def test_flowers_strategies_remember_themselves_across_a_resume(
    tmp_path: Path, tiny_cohort: Cohort, store: Path
) -> None:
    settings = {
        "rounds": 3,
        "strategy": "flwr.serverapp.strategy:FedAdam",
        "strategy_options": {"eta": 0.01},
        "keep_checkpoints": "all",
    }
    whole = federate(tmp_path / "whole", tiny_cohort, store, **settings)
    broken = federate(tmp_path / "broken", tiny_cohort, store, **settings)
    broken.prune_checkpoints({1})
    for leftover in ("evaluations", "ledger.jsonl"):
        path = broken.path / leftover
        [file.unlink() for file in path.iterdir()] if path.is_dir() else path.unlink()
    assert hashes(resume(broken.path, store)) == hashes(whole)


def test_a_finished_run_resumes_to_itself(tiny_cohort: Cohort, store: Path, uninterrupted: RunFolder) -> None:
    before, said = (uninterrupted.path / "scores.csv").read_bytes(), []
    resume(uninterrupted.path, store, said.append)
    assert [event for event in said if isinstance(event, Continued)] == []
    assert Said("this run has finished already, after 3 rounds; nothing is trained") in said
    assert (uninterrupted.path / "scores.csv").read_bytes() == before


def test_a_run_is_not_written_over(tmp_path: Path, tiny_cohort: Cohort) -> None:
    create_run(tmp_path / "run", tiny_config(), tiny_cohort)
    with pytest.raises(AmosError, match="holds a run already; continue it with --resume"):
        create_run(tmp_path / "run", tiny_config(), tiny_cohort)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(AmosError, match="is not empty"):
        create_run(tmp_path / "other", tiny_config(), tiny_cohort)
    with pytest.raises(AmosError, match="holds no run"):
        open_run(tmp_path / "other")


def test_a_damaged_checkpoint_is_said(uninterrupted: RunFolder, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(uninterrupted.path, copy)
    folder = RunFolder(copy)
    weights = folder.checkpoint_folder(3) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(AmosError, match="is not a complete safetensors file"):
        folder.read_checkpoint(3)


def test_ctrl_c_twice_ends_the_command_at_once(tmp_path: Path, tiny_root: Path, store: Path) -> None:
    run = tmp_path / "run"
    config = tiny_config(cohort=str(tiny_root), local_steps=100_000)
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "amos_fl.cli.main", "simulate", "--config", str(file), "--out", str(run)]
    with subprocess.Popen([*command, "--store", str(store)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not (run / "sites" / "A" / "state" / "process.json").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        while "stopping after this step" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert (run / "config.yaml").is_file()
