"""Runs beside a SuperLink: how they stand, and who carries them out."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from federations import tiny_config
from filelock import FileLock
from served_runs import ORGANS, client_of, made
from starlette.testclient import TestClient

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.runs.create import create_run
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


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return client_of(tmp_path / "runs")


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


def test_tries_are_counted_only_while_no_round_is_finished(tmp_path: Path) -> None:
    folder = prepare_run(tmp_path / "run", tiny_config(), ORGANS)
    for number in range(3):
        note_submission(folder, number, 60.0)
    assert state_of(folder).tries == 3
    (folder.path / "checkpoints/round_0001").mkdir(parents=True)
    note_submission(folder, 3, 60.0)
    assert (state_of(folder).tries, state_of(folder).rounds_done, state_of(folder).flower_run) == (1, 1, 3)


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
