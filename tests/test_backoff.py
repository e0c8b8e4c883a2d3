"""A site's waits between two looks, and the processes that it forks for messages."""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate import NodeStateFactory

from amos_fl.errors import AmosError
from amos_fl_clients.flower.backoff import BELL, Backoff, Doorbell, asking_again
from amos_fl_clients.flower.message_sync import MessageSync
from amos_fl_clients.flower.preloaded import PreloadedProcess
from amos_fl_clients.operation.processes import only_supernode


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def test_a_site_looks_again_soon_after_a_message_and_more_rarely_the_longer_it_waits() -> None:
    clock = Clock()
    backoff = Backoff(clock=lambda: clock.now, pause=clock.pause)
    for _ in range(100):
        backoff.sleep(3)
    assert clock.waits[0] == 0.2
    assert clock.waits == sorted(clock.waits)
    assert max(clock.waits) == 3.0
    assert all(wait <= max(0.2, 0.05 * sum(clock.waits[:n])) + 1e-9 for n, wait in enumerate(clock.waits))
    backoff.begin_anew()
    backoff.sleep(3)
    assert clock.waits[-1] == 0.2


def test_what_happens_on_this_machine_is_not_waited_for_in_half_seconds() -> None:
    clock = Clock()
    backoff = Backoff(clock=lambda: clock.now, pause=clock.pause)
    backoff.sleep(0.5)
    assert clock.waits == [0.1]


def test_a_bell_ends_a_wait_at_once_and_a_wait_without_it_lasts() -> None:
    bell = Doorbell()
    heard = Doorbell.at(bell.heard_at)
    bell.ring()
    code = f"import time; from amos_fl_clients.flower.backoff import Doorbell; Doorbell.at({bell.heard_at}).wait(600)"
    subprocess.run([sys.executable, "-c", code], pass_fds=[bell.heard_at], check=True, timeout=60)
    begun = time.monotonic()
    heard.wait(0.2)  # not rung again
    assert time.monotonic() - begun >= 0.2


def test_a_process_ends_when_the_one_that_rings_its_bell_is_gone() -> None:
    bell = Doorbell()
    code = (
        "import time; from amos_fl_clients.flower.backoff import Doorbell; "
        f"Doorbell.at({bell.heard_at}).end_with_the_other(); print('watching', flush=True); time.sleep(600)"
    )
    watching = subprocess.Popen([sys.executable, "-c", code], pass_fds=[bell.heard_at], stdout=subprocess.PIPE)
    assert watching.stdout is not None
    assert watching.stdout.readline() == b"watching\n"
    bell.ring()
    assert watching.poll() is None
    os.close(bell._rope)
    assert watching.wait(timeout=60) == -signal.SIGTERM


@pytest.mark.parametrize("told", ["signal", "the SuperNode's end"])
def test_a_process_that_is_told_to_end_does_so_whatever_it_is_at(told: str) -> None:
    bell = Doorbell()
    code = (
        "import signal, time; from amos_fl_clients.flower import endings; endings.end_for_certain(0.2)\n"
        "for fd in endings.bell_here(): endings.Doorbell.at(fd).end_with_the_other()\n"
        "signal.signal(signal.SIGTERM, lambda *_: None); print('busy', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, BELL: str(bell.heard_at)}
    busy = subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[bell.heard_at], stdout=subprocess.PIPE, env=environment
    )
    assert busy.stdout is not None
    assert busy.stdout.readline() == b"busy\n"
    if told == "signal":
        busy.terminate()
    else:
        os.close(bell._rope)
    assert busy.wait(timeout=60) == 128 + signal.SIGTERM


def failing(times: int, status: int) -> tuple[Callable[[str], str], list[str]]:
    """A request that fails with an HTTP status so many times, and what was asked."""
    asked: list[str] = []

    def ask(what: str) -> str:
        asked.append(what)
        if len(asked) <= times:
            request = httpx.Request("POST", "https://superlink")
            raise httpx.HTTPStatusError("failed", request=request, response=httpx.Response(status, request=request))
        return "answer"

    return ask, asked


def test_a_superlink_that_fails_at_a_request_is_asked_again_for_a_while() -> None:
    waits: list[float] = []
    ask, asked = failing(3, 500)
    assert asking_again(ask, pause=waits.append)("reply") == "answer"
    assert (asked, waits) == (["reply"] * 4, [0.5, 1.0, 2.0])
    for times, status, tries in ((99, 500, 8), (99, 403, 1), (99, 401, 1)):
        ask, asked = failing(times, status)
        with pytest.raises(httpx.HTTPStatusError):
            asking_again(ask, pause=waits.append)("reply")
        assert len(asked) == tries


def test_a_site_answers_the_message_that_it_has_taken_in_and_is_not_one_message_late() -> None:
    """With Flower's own loop and state: the reply to a message that was let go of comes first."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    internal = importlib.import_module("flwr.supernode.start_client_internal")
    states = NodeStateFactory(ObjectStoreFactory())
    state, store = states.state(), states.objectstore_factory.store()
    asked = {name: Message(RecordDict({name: ConfigRecord({"a": 1})}), 1, "train") for name in ("old", "new")}
    for message in asked.values():
        message.metadata.__dict__["_message_id"] = message.object_id
    sent: list[str] = []

    def reply_to(name: str) -> None:
        internal._insert_message(Message(RecordDict(), reply_to=asked[name]), state, store)

    def send(reply: Message, *_: object) -> tuple[set[str], str]:
        sent.append(next(name for name, m in asked.items() if m.object_id == reply.metadata.reply_to_message_id))
        if sent == ["old"]:
            threading.Timer(0.2, reply_to, ["new"]).start()
        return set(), ""

    sync = MessageSync()
    assert sync.pulling(lambda receive: receive() and 7)(receive=lambda: (asked["new"], None)) == 7
    reply_to("old")
    push = sync.pushing(internal._push_messages)
    push(state=state, object_store=store, send=send, push_object=lambda *_: None)
    assert sent == ["old", "new"]
    # A message that was let go of is not waited for.
    assert sync.pulling(lambda receive: None)(receive=lambda: (asked["new"], None)) is None


def test_a_site_runs_one_supernode(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            only_supernode("A", tmp_path),
            pytest.raises(AmosError, match="site A: its SuperNode runs already"),
            only_supernode("A", tmp_path),
        ):
            pass


FORKING = """
import json, os, sys
from amos_fl_clients.flower import preloaded
preloaded.IMPORTED = ("json",)
mine = []
def work(arguments):
    mine.append(arguments)
    import threading
    line = {"pid": os.getpid(), "parent": os.getppid(), "seen": mine, "input": sys.stdin.read(), "argv": sys.argv[1:]}
    with open(arguments[0], "w") as file:
        json.dump(line, file)
    if arguments[1:] == ["fail"]:
        raise SystemExit(3)
preloaded.fork_for_each_request(work)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_every_message_gets_a_fork_that_knows_nothing_of_another(tmp_path: Path) -> None:
    preloaded = PreloadedProcess([sys.executable, "-c", FORKING])
    files = [tmp_path / "first", tmp_path / "second"]
    assert preloaded.launch([str(files[0]), "fail"])
    assert preloaded.launch([str(files[1])])
    preloaded.close()
    assert preloaded._process.wait(timeout=60) == 0
    first, second = (_read_when_there(file) for file in files)
    assert first["pid"] != second["pid"]
    assert [first["seen"], second["seen"]] == [[[str(files[0]), "fail"]], [[str(files[1])]]]
    assert first["input"] == second["input"] == ""  # requests to others cannot be read
    assert first["argv"] == second["argv"] == []  # and a message's token is on no command line


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
def test_a_preloaded_process_that_died_is_started_anew(tmp_path: Path) -> None:
    preloaded = PreloadedProcess([sys.executable, "-c", FORKING])
    preloaded._process.kill()
    preloaded._process.wait()
    assert preloaded.launch([str(tmp_path / "after")])
    preloaded.close()
    assert preloaded._process.wait(timeout=60) == 0
    assert _read_when_there(tmp_path / "after")["input"] == ""


def _read_when_there(path: Path) -> dict[str, object]:
    from flower_deployment import wait_until

    def look() -> dict[str, object] | None:
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            return None

    return wait_until(path.name, look, 60)
