"""What a submitter sends to a SuperLink's runs, and gets of them while they go on."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from federations import tiny_config
from served_runs import ORGANS, client_of, made
from starlette.testclient import TestClient

from amos_fl.files import write_json
from amos_fl.networks.registry import build_network
from amos_fl.runs.events import Said, line_of
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.start import begin, start_weights
from amos_fl.runs.tracking.follow import tracked
from amos_fl.weights import arrays_of, hash_of, save_arrays
from amos_fl_server.operation.connection import Connection, RunsClient
from amos_fl_server.operation.runs_api import MOST_WORDS_BYTES
from amos_fl_server.operation.submitter import Following, SubmittedRun


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return client_of(tmp_path / "runs")


class Near(RunsClient):
    """A client of a SuperLink in this process."""

    def __init__(self, client: TestClient, runs: Path) -> None:
        self.connection = Connection("here", runs, "right", runs)
        self._client = client
        self._runs = runs

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        return super()._ask(method, f"/amos-fl{path}", **more)

    def save(self, path: str, target: Path) -> None:
        super().save(f"/amos-fl{path}", target)


class Pruning(Near):
    """... that removes a checkpoint as soon as it has listed it."""

    def get(self, path: str, **query: str | int) -> object:
        answer = super().get(path, **query)
        shutil.rmtree(self._runs / "one/checkpoints", ignore_errors=True)
        return answer


def test_a_run_begins_with_the_weights_that_its_submitter_sent_along(client: TestClient, tmp_path: Path) -> None:
    model, other = tmp_path / "parent/model", {1: "box", 2: "cone"}
    network = build_network("small", tiny_config().plan, 2, seed=7)
    save_arrays(arrays_of(network), model / "weights.safetensors")
    about = {"model": "small", "plan": tiny_config().plan.model_dump(mode="json"), "organs": other}
    write_json(model / "network.json", about)
    asked = tiny_config(start_from=str(model / "weights.safetensors"))
    near = Near(client, tmp_path / "runs")
    SubmittedRun(near.connection, near, "one").make(asked, ORGANS)
    expected, told = start_weights(asked, ORGANS)
    shutil.rmtree(tmp_path / "parent")
    for place in ("runs/one", "elsewhere"):  # what is fetched is whole, wherever it lies
        if not (tmp_path / place).exists():
            (tmp_path / "runs/one").rename(tmp_path / place)
        folder = RunFolder(tmp_path / place)
        begun, report = begin(folder, folder.config(), ORGANS)
        assert hash_of(arrays_of(begun)) == hash_of(arrays_of(expected))
        assert report == told
        assert report is not None
        assert report.kept == ("box",)
    folder.write_config(folder.config())
    assert "start_from: start/parent/model/weights.safetensors" in (tmp_path / "elsewhere/config.yaml").read_text()
    # Another run may begin with them too, for a day.
    [left] = (tmp_path / "runs/.starts").iterdir()
    assert left.stat().st_nlink == 2
    os.utime(left, (1e9, 1e9))
    assert made(client, "two")["status"] == 201
    assert not left.exists()


def test_weights_that_came_to_harm_or_never_came_make_no_run(client: TestClient, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"weights").hexdigest()
    answer = client.put(f"/amos-fl/starts/{sha256}", content=b"wrights")
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "the weights were changed in transit; submit the run again",
    )
    assert client.put("/amos-fl/starts/short", content=b"weights").status_code == 400
    put = client.put(f"/amos-fl/starts/{sha256}", content=b"weights", headers={"Authorization": "Bearer wrong"})
    assert put.status_code == 401
    body = {"config": tiny_config().model_dump(mode="json"), "organs": ORGANS}
    for start, word in (
        ({"sha256": sha256, "name": "parent", "network": None}, "does not have the initial weights"),
        ({"sha256": sha256, "name": "../parent", "network": None}, "does not know these settings (start.name"),
    ):
        answer = client.post("/amos-fl/runs/one", json={**body, "start": start})
        assert answer.status_code == 400
        assert word in answer.json()["error"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".starts"]
    assert not list((tmp_path / "runs/.starts").iterdir())


def test_a_text_without_end_is_not_read_to_its_end(client: TestClient) -> None:
    answer = client.post("/amos-fl/runs/one", content=b" " * (MOST_WORDS_BYTES + 1))
    assert (answer.status_code, answer.json()["error"]) == (400, "a request may hold 4 MB of text at most")


def test_a_checkpoint_that_is_removed_while_it_is_fetched_does_not_end_the_following(
    client: TestClient, tmp_path: Path
) -> None:
    made(client)
    write_json(tmp_path / "runs/one/checkpoints/round_0001/state.json", {})
    run = SubmittedRun(Connection("here", tmp_path, "right", tmp_path), Pruning(client, tmp_path / "runs"), "one")
    Following(run, tmp_path / "here", lambda event: None, print).fetch()
    fetched = {path.name for path in (tmp_path / "here").rglob("*") if path.is_file()}
    assert fetched == {"config.yaml", "versions.json", "cohort.csv", "organs.csv"}


def test_events_are_read_on_from_where_the_last_reading_ended(client: TestClient, tmp_path: Path) -> None:
    made(client)
    lines = [line_of(Said(text), 1.0) + "\n" for text in ("first", "second")]
    file = tmp_path / "runs/one/events.jsonl"
    assert client.get("/amos-fl/runs/one/events").content == b""
    file.write_text(lines[0])
    first = client.get("/amos-fl/runs/one/events").content
    file.write_text("".join(lines))
    assert client.get("/amos-fl/runs/one/events", params={"after": len(first)}).content.decode() == lines[1]


OWN_TRACKER = """
from amos_fl import Tracker

class Mine(Tracker):
    def begin(self, run):
        self.file = run.folder.parent / "told.txt"

    def event(self, event):
        self._add(type(event).__name__)

    def round(self, number, values):
        self._add(f"{number} {sorted(values)[0]}")

    def end(self, how, values, files):
        self._add(how)

    def _add(self, text):
        with self.file.open("a") as file:
            file.write(text + "\\n")
"""


def test_trackers_are_told_by_whoever_follows_a_run_and_the_superlink_learns_nothing_of_them(
    client: TestClient, tmp_path: Path, finished_run: Path, written: Callable[[str], str]
) -> None:
    name = f"{written(OWN_TRACKER)}:Mine"
    near = Near(client, tmp_path / "runs")
    run = SubmittedRun(near.connection, near, "one")
    run.make(tiny_config(trackers=(name,)), ORGANS)
    served, here = tmp_path / "runs/one", tmp_path / "here/one"
    assert name not in (served / "config.yaml").read_text()
    following = Following(run, here, lambda event: None, print)
    following.fetch()
    with tracked(RunFolder(here), [name], print) as following.listener:
        for part in ("ledger.jsonl", "events.jsonl"):
            shutil.copy(finished_run / part, served / part)
        shutil.copytree(finished_run / "evaluations", served / "evaluations")
        following.new_events()
        following.fetch()
    told = (tmp_path / "here/told.txt").read_text().splitlines()
    assert [line for line in told if line[0].isdigit()] == ["1 bytes/down", "2 bytes/down", "2 DSC/A"]
    assert "RoundScored" in told
    assert told[-1] == "stopped"  # as far as is known here
