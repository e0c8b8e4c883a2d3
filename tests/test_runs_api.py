"""What the API of a SuperLink's runs answers, and what it refuses."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from federations import tiny_config
from served_runs import ORGANS, client_of, made
from starlette.testclient import TestClient

from amos_fl_server.operation.run_registry import (
    ServedRuns,
)
from amos_fl_server.operation.runs_api import RunRequest, _make


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return client_of(tmp_path / "runs")


def test_nothing_is_answered_without_a_submitters_token(client: TestClient) -> None:
    assert made(client)["status"] == 201
    for method, path in (("GET", "runs"), ("GET", "runs/one"), ("POST", "runs/two"), ("POST", "runs/one/stop")):
        for token in ("", "Bearer wrong", "Basic right"):
            assert client.request(method, f"/amos-fl/{path}", headers={"Authorization": token}).status_code == 401
    assert not (ServedRuns(Path("runs")).root / "two").exists()


def test_a_stop_is_of_the_submission_that_it_was_meant_for(client: TestClient, tmp_path: Path) -> None:
    made(client)
    for number in (7, 8):
        client.post("/amos-fl/runs/one/submissions", json={"flower_run": number, "wait_s": 5})
        client.post("/amos-fl/runs/one/stop")
        stop = ServedRuns(tmp_path / "runs").folder("one").stop_file
        assert (stop.requested, stop.is_of("7"), stop.is_of("9")) == (True, True, False)
        assert stop.is_of("8") == (number == 8)


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
    for body in (
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"flower_run": 7}',
        b'{"flower_run": 7, "wait_s": NaN}',
        b'{"flower_run": 7, "wait_s": -1}',
        b'{"flower_run": -1, "wait_s": 1}',
        b'{"flower_run": 1, "wait_s": 1e300}',
    ):
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
