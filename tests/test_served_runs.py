"""Runs beside a SuperLink: how they stand, who carries them out, and what their submitter gets over the network."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from federations import tiny_config
from filelock import FileLock
from starlette.applications import Starlette
from starlette.testclient import TestClient

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.networks.registry import build_network
from amos_fl.runs.create import create_run
from amos_fl.runs.events import Said, line_of
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.start import begin, start_weights
from amos_fl.runs.tracking.follow import tracked
from amos_fl.weights import arrays_of, hash_of, save_arrays
from amos_fl_server.operation.connection import Connection, RunsClient
from amos_fl_server.operation.run_registry import (
    RunState,
    ServedRuns,
    carried_out,
    folder_of,
    is_carried_out,
    note_begin,
    note_submission,
    prepare_run,
    state_in,
    state_of,
)
from amos_fl_server.operation.runs_api import MOST_WORDS_BYTES, RunRequest, RunsApi, _make
from amos_fl_server.operation.submitter import Following, SubmittedRun

ORGANS = {1: "ball", 2: "box"}
HEADERS = {"Authorization": "Bearer right"}


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    api = RunsApi(Starlette(), tmp_path / "runs", lambda token: "coordinator" if token == "right" else None)
    return TestClient(api, headers=HEADERS, raise_server_exceptions=True)


def made(client: TestClient, name: str = "one", **settings: object) -> dict[str, object]:
    body = {"config": tiny_config(**settings).model_dump(mode="json"), "organs": ORGANS}
    answer = client.post(f"/amos-fl/runs/{name}", json=body)
    return {"status": answer.status_code, **answer.json()}


def test_nothing_is_answered_without_a_submitters_token(client: TestClient) -> None:
    assert made(client)["status"] == 201
    for method, path in (("GET", "runs"), ("GET", "runs/one"), ("POST", "runs/two"), ("POST", "runs/one/stop")):
        for token in ("", "Bearer wrong", "Basic right"):
            assert client.request(method, f"/amos-fl/{path}", headers={"Authorization": token}).status_code == 401
    assert not (ServedRuns(Path("runs")).root / "two").exists()


def test_a_run_goes_from_made_over_waiting_and_running_to_its_end(client: TestClient, tmp_path: Path) -> None:
    def state() -> str:
        return client.get("/amos-fl/runs/one").json()["state"]

    made(client)
    folder = ServedRuns(tmp_path / "runs").folder("one")
    assert folder.config().rounds == 3
    assert state() == "created"
    client.post("/amos-fl/runs/one/submissions", json={"flower_run": 7, "wait_s": 5})
    assert state() == "waiting"
    with carried_out(folder):
        note_begin(folder, 7)
        assert state() == "running"
        with (
            pytest.raises(AmosError, match="another process of this SuperLink carries it out already"),
            carried_out(folder),
        ):
            pass
    assert state() == "died"
    for code, word in ((0, "finished"), (130, "stopped"), (3, "failed"), (1, "failed")):
        write_json(folder.path / "outcome.json", {"exit_code": code, "error": None if not code else "why"})
        assert state() == word
    client.post("/amos-fl/runs/one/submissions", json={"flower_run": 8, "wait_s": 5})
    assert state() == "waiting"
    with carried_out(folder):
        note_begin(folder, 8)
    assert state() == "died", "what an earlier process said of its end holds no longer"


def test_a_server_process_that_is_killed_lets_go_of_its_run(tmp_path: Path) -> None:
    folder = prepare_run(tmp_path / "run", tiny_config(), ORGANS)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from amos_fl.runs.folder import RunFolder; from amos_fl_server.operation.run_registry import carried_out\n"
        "with carried_out(RunFolder(Path(sys.argv[1]))):\n    print('held', flush=True); time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert is_carried_out(folder)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_carried_out(folder)


def test_a_server_process_gets_the_run_that_somebody_only_looks_at(tmp_path: Path) -> None:
    folder = prepare_run(tmp_path / "run", tiny_config(), ORGANS)
    looked_at = FileLock(folder.path / ".lock", thread_local=False)
    looked_at.acquire()
    threading.Timer(0.1, looked_at.release).start()
    with carried_out(folder):
        assert is_carried_out(folder)


def test_a_run_that_two_brought_up_at_once_stands_as_the_one_that_carries_it_out_leaves_it(tmp_path: Path) -> None:
    """The other's submission would otherwise be taken for one to come, and a run that was stopped be begun again."""
    folder = prepare_run(tmp_path / "run", tiny_config(), ORGANS)
    for number in (7, 8):
        note_submission(folder, number, 60.0)
    with carried_out(folder, 7):
        note_begin(folder, 7)
        with pytest.raises(AmosError, match="another process"), carried_out(folder, 8):
            pass
        write_json(folder.path / "outcome.json", {"exit_code": 130, "error": "stopped by request"})
    assert (state_of(folder).state, state_of(folder).flower_run, state_of(folder).tries) == ("stopped", 7, 1)


def test_a_run_whose_process_died_after_it_was_asked_to_stop_is_stopped(tmp_path: Path) -> None:
    """And no submit service brings it up."""
    folder = prepare_run(tmp_path / "run", tiny_config(), ORGANS)
    note_submission(folder, 7, 60.0)
    note_begin(folder, 7)
    assert state_of(folder).state == "died"
    folder.stop_file.request()
    assert (state_of(folder).state, state_of(folder).exit_code) == ("stopped", 130)
    note_submission(folder, 8, 60.0)
    assert state_of(folder).state == "waiting"


def test_a_run_whose_process_dies_again_and_again_has_failed_in_a_sentence_and_can_be_resumed(tmp_path: Path) -> None:
    folder = prepare_run(tmp_path / "often", tiny_config(), ORGANS)
    for number in (1, 2, 3):
        note_submission(folder, number, 60.0)
        assert (state_of(folder).state, state_of(folder).tries) == ("waiting", number)
        note_begin(folder, number)
        assert state_of(folder).state == ("died" if number < 3 else "failed")
    state = state_of(folder)
    assert state.ended
    assert state.given_up
    assert state.exit_code == 3
    assert state.error is not None
    assert state.error.startswith("run often: its process died 3 times after round 0; read the SuperLink's log")
    note_submission(folder, 4, 60.0)
    assert (state_of(folder).state, state_of(folder).given_up) == ("waiting", False)


def test_the_answer_of_another_version_is_understood_or_refused_in_a_sentence() -> None:
    answer = {"name": "one", "state": "running", "rounds_done": 1, "rounds": 3, "strategy": "fedavg"}
    assert state_in({**answer, "of_a_later_version": [1]}) == RunState(**answer)  # pyright: ignore[reportArgumentType]
    for other in ({**answer, "rounds": "many"}, {"name": "one"}, [answer]):
        with pytest.raises(AmosError, match="install the same version of amos-fl there and here"):
            state_in(other)


def test_a_stop_is_of_the_submission_that_it_was_meant_for(client: TestClient, tmp_path: Path) -> None:
    made(client)
    for number in (7, 8):
        client.post("/amos-fl/runs/one/submissions", json={"flower_run": number, "wait_s": 5})
        client.post("/amos-fl/runs/one/stop")
        stop = ServedRuns(tmp_path / "runs").folder("one").stop_file
        assert (stop.requested, stop.is_of("7"), stop.is_of("9")) == (True, True, False)
        assert stop.is_of("8") == (number == 8)


def test_tries_are_counted_only_while_no_round_is_finished(tmp_path: Path) -> None:
    folder = prepare_run(tmp_path / "run", tiny_config(), ORGANS)
    for number in range(3):
        note_submission(folder, number, 60.0)
    assert state_of(folder).tries == 3
    (folder.path / "checkpoints/round_0001").mkdir(parents=True)
    note_submission(folder, 3, 60.0)
    assert (state_of(folder).tries, state_of(folder).rounds_done, state_of(folder).flower_run) == (1, 1, 3)


def test_a_name_is_taken_once_and_names_no_other_place(client: TestClient, tmp_path: Path) -> None:
    assert made(client)["status"] == 201
    assert made(client)["status"] == 409
    for name in (".hidden", "a%20b", "a%5Cb", "a" * 101):
        assert made(client, name)["status"] == 400
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert client.get("/amos-fl/runs/other").status_code == 404


def test_of_many_requests_for_one_name_one_makes_the_run(tmp_path: Path) -> None:
    body = RunRequest(config=tiny_config(), organs=ORGANS).model_dump_json().encode()
    runs = ServedRuns(tmp_path / "runs")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: _make(runs, "one", body).status_code, range(8)))
    assert sorted(answers) == [201] + [409] * 7


def test_a_run_that_was_half_made_is_none_and_leaves_its_name_free(client: TestClient, tmp_path: Path) -> None:
    made(client)
    (tmp_path / "runs/one").rename(tmp_path / "runs/.1-0123abcd.tmp.one")
    assert client.get("/amos-fl/runs").json() == []
    assert made(client)["status"] == 201


def test_a_submission_that_is_none_is_refused_and_the_run_stays_as_it_is(client: TestClient) -> None:
    made(client)
    before = client.get("/amos-fl/runs/one").json()
    for body in ("", "[]", '{"flower_run": 7}', '{"flower_run": 7, "wait_s": NaN}', '{"flower_run": 7, "wait_s": -1}'):
        assert client.post("/amos-fl/runs/one/submissions", content=body).status_code == 400
    assert client.get("/amos-fl/runs/one").json() == before
    for after in ("-1", "x", "9" * 30):
        assert client.get("/amos-fl/runs/one/events", params={"after": after}).status_code == 400


def test_a_superlink_whose_file_of_a_module_is_another_than_the_submitters_makes_no_run(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served_nets.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    body = {"config": tiny_config(model="served_nets:build").model_dump(mode="json"), "organs": ORGANS}
    here = hashlib.sha256(b"").hexdigest()
    for modules in ({}, {"served_nets": "0" * 64}):
        answer = client.post("/amos-fl/runs/one", json={**body, "modules": modules})
        assert answer.status_code == 400
        assert f"module served_nets: the SuperLink has a different file (SHA-256 {here}); use the same" in answer.text
    assert client.post("/amos-fl/runs/one", json={**body, "modules": {"served_nets": here}}).status_code == 201
    body["config"]["model"] = "nowhere_to_be_found:build"
    answer = client.post("/amos-fl/runs/two", json=body)
    assert answer.status_code == 400
    assert "no file found for the module nowhere_to_be_found; install it" in answer.text


def test_settings_that_this_version_does_not_know_are_refused_in_words(client: TestClient) -> None:
    body = {"config": {**tiny_config().model_dump(mode="json"), "of_tomorrow": 1}, "organs": ORGANS}
    answer = client.post("/amos-fl/runs/one", json=body)
    assert answer.status_code == 400
    assert "does not know these settings (config.of_tomorrow" in answer.json()["error"]


def test_a_submitter_gets_the_files_of_a_run_and_no_others(client: TestClient, tmp_path: Path) -> None:
    made(client)
    (tmp_path / "runs/secret").write_text("secret")
    (tmp_path / "runs/one/link").symlink_to(tmp_path / "runs/secret")
    (tmp_path / "runs/one/.half.tmp.weights").write_text("half")
    client.post("/amos-fl/runs/one/submissions", json={"flower_run": 7, "wait_s": 5})
    listed = {file["path"] for file in client.get("/amos-fl/runs/one/files").json()}
    assert listed == {"config.yaml", "versions.json", "cohort.csv", "organs.csv"}
    config = client.get("/amos-fl/runs/one/files/config.yaml")
    assert config.content == (tmp_path / "runs/one/config.yaml").read_bytes()
    for name in ("link", "submissions.json", ".half.tmp.weights", "../secret", "%2e%2e/secret", "/etc/passwd"):
        assert client.get(f"/amos-fl/runs/one/files/{name}").content != b"secret"
        assert client.get(f"/amos-fl/runs/one/files/{name}").status_code >= 400


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


def test_two_runs_of_equal_settings_keep_apart_what_sites_remember(tmp_path: Path) -> None:
    runs = [prepare_run(tmp_path / name, tiny_config(), ORGANS) for name in ("one", "two")]
    assert runs[0].run_id != runs[1].run_id


def test_a_run_is_named_by_its_path_or_as_one_of_the_superlinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMOS_FL_RUNS", raising=False)
    assert folder_of(str(tmp_path)) == tmp_path
    with pytest.raises(AmosError, match="AMOS_FL_RUNS"):
        folder_of("one")
    monkeypatch.setenv("AMOS_FL_RUNS", str(tmp_path))
    assert folder_of("one") == tmp_path / "one"
    with pytest.raises(AmosError, match="may hold letters"):
        folder_of("../one")


def test_a_simulation_beside_a_superlinks_runs_is_none_of_them(
    client: TestClient, tmp_path: Path, tiny_cohort: Cohort
) -> None:
    """The submit service would otherwise bring it up, as a run that nobody has come to submit."""
    create_run(tmp_path / "runs/simulated", tiny_config(), tiny_cohort)
    prepare_run(tmp_path / "runs/made", tiny_config(), tiny_cohort.organs)
    assert [(run.name, run.state) for run in ServedRuns(tmp_path / "runs").states()] == [("made", "created")]
    for method, path in (("GET", ""), ("GET", "/files"), ("GET", "/files/cohort.csv"), ("POST", "/stop")):
        assert client.request(method, f"/amos-fl/runs/simulated{path}").status_code == 404
    assert not (tmp_path / "runs/simulated/stop").exists()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"[" * 100_000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"config": {}, "config": {}, "organs": {"1": "x"}}',
        b'{"config": {"seed": NaN}, "organs": {"1": "x"}}',
        b'{"config": {"seed": 1e999}, "organs": {"1": "x"}}',
        b'{"config": {"seed": %s}, "organs": {"1": "x"}}' % (b"9" * 400),
        b'{"config": {"strategy_options": []}, "organs": {"1": "x"}}',
        b'{"config": {}, "organs": {}}',
        b'{"config": {}, "organs": {"0": "x"}}',
        b'{"config": {}, "organs": {"256": "x"}}',
        b'{"config": {}, "organs": {"1": "x", "2": "x"}}',
        b'{"config": {}, "organs": {"1": "\\u001b[2J"}}',
        b'{"config": {}, "organs": {"1": " "}}',
        b'{"config": {"\\u001b[2J": 1}, "organs": {"1": "x"}}',
    ],
)
def test_a_request_that_is_no_run_is_refused_in_one_line_and_makes_nothing(
    client: TestClient, tmp_path: Path, body: bytes
) -> None:
    answer = client.post("/amos-fl/runs/one", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"].isprintable()
    assert not (tmp_path / "runs" / "one").exists()


def test_a_submission_that_is_none_is_refused_and_the_run_stays_as_it_was(client: TestClient) -> None:
    made(client)
    before = client.get("/amos-fl/runs/one").json()
    for body in (b'{"flower_run": -1, "wait_s": 1}', b'{"flower_run": 1, "wait_s": 1e300}', b"[" * 100_000):
        assert client.post("/amos-fl/runs/one/submissions", content=body).status_code == 400
    assert client.get("/amos-fl/runs/one").json() == before
