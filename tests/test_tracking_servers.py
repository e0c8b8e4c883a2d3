"""MLflow and Weights & Biases as they are: a server started here, files offline, and a server that is down."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from federations import TINY, federate, hashes
from loopback import free_port

from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort
from amos_fl.runs.events import Event, TrackerFailed, in_words
from amos_fl.runs.folder import open_run
from amos_fl.runs.layers import merge
from amos_fl.runs.results import results_of

pytestmark = pytest.mark.slow
needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow comes with the extra mlflow")
needs_server = pytest.mark.skipif(
    find_spec("mlflow") is None or find_spec("flask") is None, reason="MLflow's server is in the whole package, mlflow"
)
needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="Weights & Biases comes with the extra wandb")
STARTS_S = 300


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server of this test's own."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=env)
        try:
            deadline, place = time.monotonic() + STARTS_S, f"http://127.0.0.1:{port}"
            while True:
                with suppress(OSError), urllib.request.urlopen(f"{place}/health", timeout=5) as answer:
                    if answer.status == 200:
                        break
                assert started.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
            yield place
        finally:
            started.terminate()
            started.wait()


@needs_server
def test_a_sweep_is_read_back_from_an_mlflow_server_by_its_api(
    server: str, tmp_path: Path, tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "abdomen")
    common = {"cohort": str(tiny_root), "sites": ["A", "D"], "rounds": 2, "local_steps": 1, "evaluation": {"every": 1}}
    sweep = {"settings": merge(TINY, common), "grid": {"seed": [0, 1]}, "baselines": ["centralized"]}
    file, out = tmp_path / "sweep.yaml", tmp_path / "sweep"
    file.write_text(yaml.safe_dump(sweep).replace("!!python/tuple", ""))
    command = ["sweep", str(file), "--out", str(out), "--store", str(tmp_path / "store"), "--tracker", "mlflow"]
    assert run(command) == 0
    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("abdomen")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    [parent] = [each for each in found if "mlflow.parentRunId" not in each.data.tags]
    assert parent.info.run_name == "sweep"
    nested = {each.info.run_name: each for each in found if each is not parent}
    assert sorted(nested) == sorted(path.name for path in out.iterdir() if path.is_dir())
    for name, each in nested.items():
        folder = open_run(out / name)
        assert each.info.status == "FINISHED"
        assert each.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert each.data.params["seed"] == str(folder.config().seed)
        assert each.data.params["training.learning_rate"] == "0.02"
        history = {metric.step: metric.value for metric in client.get_metric_history(each.info.run_id, "loss/mean")}
        assert history == {entry["round"]: pytest.approx(entry["loss"]) for entry in folder.ledger()}
        assert [m.step for m in client.get_metric_history(each.info.run_id, "DSC/unseen")] == [1, 2]
        by_site = results_of(folder, folder.config(), folder.cohort()).by_site
        assert {row.name: each.data.metrics[f"test DSC/{row.name}"] for row in by_site} == {
            row.name: pytest.approx(row.dsc) for row in by_site
        }
        files = {item.path for item in client.list_artifacts(each.info.run_id)}
        assert {"report.html", "model", "scores.csv"} <= files
        assert "model/weights.safetensors" in {item.path for item in client.list_artifacts(each.info.run_id, "model")}
    assert run(["track", str(out), "--tracker", "mlflow"]) == 0
    assert len(client.search_runs([experiment.experiment_id])) == len(found)


@needs_mlflow
def test_a_run_is_kept_in_mlflows_files_and_goes_on_without_a_server_that_is_down(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    cohort, settings = tiny_cohort.only(("A", "D")), {"rounds": 1, "sites": ("A", "D"), "trackers": ("mlflow",)}
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    events: list[Event] = []
    folder = federate(tmp_path / "run", cohort, store, events.append, **settings)
    said = [in_words(event) or "" for event in events if isinstance(event, TrackerFailed)]
    assert len(said) == 1
    assert "the run goes on without it" in said[0]
    place = f"file:{tmp_path / 'mlruns'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    assert run(["track", str(folder.path), "--tracker", "mlflow"]) == 0
    client = MlflowClient(place)
    experiment = client.get_experiment_by_name("amos-fl")
    assert experiment is not None
    [kept] = client.search_runs([experiment.experiment_id])
    assert kept.data.metrics["loss/A"] == folder.ledger()[0]["sites"]["A"]["loss"]
    plain = federate(tmp_path / "plain", cohort, store, **{**settings, "trackers": ()})
    assert hashes(plain) == hashes(folder)


@needs_wandb
def test_a_run_is_written_offline_for_weights_and_biases(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    settings = {"rounds": 2, "sites": ("A", "D"), "trackers": ("wandb",), "evaluation": {"every": 1}}
    events: list[Event] = []
    folder = federate(tmp_path / "run", tiny_cohort.only(("A", "D")), store, events.append, **settings)
    assert [event for event in events if isinstance(event, TrackerFailed)] == []
    [file] = (folder.path / "wandb").glob("offline-run-*/run-*.wandb")
    content, deadline = file.read_bytes(), time.monotonic() + STARTS_S
    while b"run-model" not in content:  # its own process writes it, and ends with this one
        assert time.monotonic() < deadline
        time.sleep(0.2)
        content = file.read_bytes()
    for name in (b"loss/A", b"DSC/unseen", b"test DSC/A", b"training.learning_rate", b"run-model"):
        assert name in content, name
    told = json.loads((folder.path / "tracking.json").read_text())
    assert told["wandb offline"]["known_as"].encode() in content
    assert str(Path.home()).encode() not in content
    assert [path.name for path in file.parent.rglob("*") if path.is_file() and "logs" not in path.parts] == [file.name]
