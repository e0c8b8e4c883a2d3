"""Runs beside a SuperLink: how they stand, who carries them out, and what their submitter gets over the network."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from federations import tiny_config
from starlette.applications import Starlette
from starlette.testclient import TestClient

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.runs.events import Said, line_of
from amos_fl.runs.folder import create_run
from amos_fl_server.runs_api import RunsApi
from amos_fl_server.served_runs import (
    ServedRuns,
    carried_out,
    folder_of,
    is_carried_out,
    note_begin,
    note_submission,
    prepare_run,
    state_of,
)

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
        "from amos_fl.runs.folder import RunFolder; from amos_fl_server.served_runs import carried_out\n"
        "with carried_out(RunFolder(Path(sys.argv[1]))):\n    print('held', flush=True); time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert is_carried_out(folder)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not is_carried_out(folder)


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


def test_events_are_read_on_from_where_the_last_reading_ended(client: TestClient, tmp_path: Path) -> None:
    made(client)
    lines = [line_of(Said(text), 1.0) + "\n" for text in ("first", "second")]
    file = tmp_path / "runs/one/events.jsonl"
    assert client.get("/amos-fl/runs/one/events").content == b""
    file.write_text(lines[0])
    first = client.get("/amos-fl/runs/one/events").content
    file.write_text("".join(lines))
    assert client.get("/amos-fl/runs/one/events", params={"after": len(first)}).content.decode() == lines[1]


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


def test_a_simulation_beside_a_superlinks_runs_is_none_of_them(tmp_path: Path, tiny_cohort: Cohort) -> None:
    """The submit service would otherwise bring it up, as a run that nobody has come to submit."""
    create_run(tmp_path / "simulated", tiny_config(), tiny_cohort)
    prepare_run(tmp_path / "made", tiny_config(), tiny_cohort.organs)
    assert [(run.name, run.state) for run in ServedRuns(tmp_path).states()] == [("made", "created")]
