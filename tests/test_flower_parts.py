"""Every part of Flower that is replaced: what the replacement changes, and that the part is as it was known."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, MultiKrum
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResultStatus
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin

from amos_fl_clients.flower import clientapp, parts, strategies, superexec, superlink, supernode
from amos_fl_clients.flower.backoff import BELL, FLOWERS_WAIT_S, Doorbell, asking_again
from amos_fl_clients.flower.parts import Part
from amos_fl_clients.flower.refusals import Site

ROOT = Path(__file__).resolve().parents[1]
PARTS = [
    part
    for found in vars(parts).values()
    for part in (found if isinstance(found, tuple) else (found,))
    if isinstance(part, Part)
]
DOCUMENTED = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.simulation")
"""The modules of Flower's reference, as far as amos-fl uses them; public is what each has in its `__all__`."""


@pytest.fixture(autouse=True)
def flower_as_it_was() -> Iterator[None]:
    """Replacements are for a process; here every part is put back after a test."""
    before = [(part, part.present) for part in PARTS]
    yield
    for part, present in before:
        part.replace(present)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.module}.{part.name}")
def test_flowers_part_has_the_shape_that_is_replaced(part: Part) -> None:
    assert part.present_shape == part.shape
    assert part.why.endswith(".")


def test_another_version_of_flower_ends_the_process_instead_of_going_unchecked() -> None:
    with pytest.raises(AttributeError):
        Part(parts.INSTALL_APP.module, "install_from_fab_of_another_version", "", "").replace(print)


def test_nothing_but_this_room_imports_more_of_flower_than_it_documents() -> None:
    found = {}
    for folder in ("amos_fl", "clients", "server", "benchmarks", "examples"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.parent != ROOT / "clients/amos_fl_clients/flower" and (private := list(_private(file.read_text()))):
                found[str(file.relative_to(ROOT))] = private
    assert found == {}


@pytest.mark.parametrize(
    ("line", "private"),
    [
        ("from flwr.serverapp.strategy import FedAvg, Strategy", []),
        ("from flwr.serverapp.strategy.multikrum import select_multikrum", ["flwr.serverapp.strategy.multikrum"]),
        ("from flwr.app.exception import AppExitException", ["flwr.app.exception"]),
        ("from flwr.serverapp import ServerApp, exception", ["flwr.serverapp.exception"]),
        ("import flwr.app as app", ["flwr.app"]),
        ("load('flwr.application')", ["flwr.application"]),
        ("load('flwr.serverapp.strategy:FedAvg')", []),
    ],
)
def test_documented_is_what_a_public_module_exports_by_name(line: str, private: list[str]) -> None:
    assert list(_private(line)) == private


def _private(code: str) -> Iterator[str]:
    """What code uses of Flower, or may use, that no public module of Flower's has in its `__all__`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "flwr")  # and then what?
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flwr":
            if node.module not in DOCUMENTED:
                yield str(node.module)
            else:
                public = importlib.import_module(node.module).__all__
                yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name not in public)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"flwr(\.\w+)+", str(node.value)):
            yield from {str(node.value)}.difference(DOCUMENTED)  # a module for importlib


def own_process_in(folder: Path) -> Callable[[str, Any], list[str]]:
    """Processes that write down their role and arguments, once their bell has been rung, if they have one."""
    code = (
        "import os, sys; from pathlib import Path; from amos_fl_clients.flower.backoff import BELL, Doorbell\n"
        "if BELL in os.environ: Doorbell.at(int(os.environ[BELL])).wait(600)\n"
        "Path(sys.argv[1], sys.argv[2]).write_text(' '.join(sys.argv[3:]))"
    )
    return lambda role, arguments: [sys.executable, "-c", code, str(folder), role, *arguments]


def site_in(folder: Path) -> Site:
    return Site("A", folder, folder, "superlink:1")


class Answers:
    """Answers the requests of a client of Flower's in the place of a SuperLink, and keeps what it was asked."""

    def __init__(self, *statuses: int) -> None:
        self.asked: list[str] = []
        self._statuses = list(statuses)

    def intercept(self, context: Any, call_next: object) -> httpx.Response:
        self.asked.append(context.rpc_method.rpartition("/")[2])
        return httpx.Response(self._statuses.pop(0), request=context.request)

    def client(self) -> Any:
        from flwr.supernode.fleet_http_client import FleetHttpClient

        return FleetHttpClient.from_server_address("superlink:1", True, None, interceptors=[self])


def changed(replace: Callable[[], None]) -> set[Part]:
    before = [part.present for part in PARTS]
    replace()
    return {part for part, present in zip(PARTS, before, strict=True) if part.present is not present}


def test_every_part_is_replaced_in_one_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(supernode.HEARTBEAT, "10")
    monkeypatch.setenv("AMOS_FL_PRELOADED", "0")
    monkeypatch.setenv(BELL, "0")
    own_process = own_process_in(tmp_path)
    groups = [
        changed(lambda: supernode.replace(own_process, site_in(tmp_path))),
        changed(lambda: (superexec.replace(own_process), parts.EXECUTOR.present())[0]),
        changed(lambda: clientapp.replace(SiteCheck())),
        changed(lambda: superlink.replace(NoOpControlAuthnPlugin(), print)),  # pyright: ignore
    ]
    assert set().union(*groups) == set(PARTS)
    assert sum(map(len, groups)) == len(PARTS)


def test_a_site_signs_its_predecessor_off_where_that_is_in_the_way(tmp_path: Path) -> None:
    from flwr.proto.fleet_pb2 import ActivateNodeRequest

    (tmp_path / "node").write_text("7")
    flowers = Answers(403)
    with pytest.raises(httpx.HTTPStatusError):
        flowers.client().ActivateNode(ActivateNodeRequest())
    supernode.replace(own_process_in(tmp_path), site_in(tmp_path))
    ours = Answers(403, 200, 200)
    ours.client().ActivateNode(ActivateNodeRequest())
    assert ours.asked == ["ActivateNode", "DeactivateNode", "ActivateNode"]


@pytest.mark.parametrize("part", parts.ASKED_AGAIN, ids=lambda part: part.name)
def test_a_request_at_which_the_superlink_fails_is_made_again(
    part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = part.name.rpartition(".")[2]
    request = inspect.signature(part.present).parameters["request"].annotation()
    flowers = Answers(500)
    with pytest.raises(httpx.HTTPStatusError):
        getattr(flowers.client(), name)(request)
    monkeypatch.setattr(supernode, "asking_again", partial(asking_again, pause=lambda seconds: None))
    supernode.replace(own_process_in(tmp_path), None)
    ours = Answers(500, 200)
    getattr(ours.client(), name)(request)
    assert ours.asked == [name, name]


def test_the_time_between_signs_of_life_is_the_sites_to_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supernode.replace(own_process_in(tmp_path), None)
    assert [part.present for part in parts.HEARTBEATS] == [30, 30]
    monkeypatch.setenv(supernode.HEARTBEAT, "10")
    supernode.replace(own_process_in(tmp_path), None)
    assert [part.present for part in parts.HEARTBEATS] == [10, 10]


def test_a_supernode_starts_the_sites_superexec_and_tells_it_of_a_message(tmp_path: Path) -> None:
    parts.PULL_MESSAGE.replace(lambda receive: receive() and 7)  # Flower's, without its network
    supernode.replace(own_process_in(tmp_path), None)
    with pytest.raises(RuntimeError, match="starts another at a site"):
        parts.START_SUPEREXEC.present.Popen(["another"])
    waiting = parts.START_SUPEREXEC.present.Popen(["flower-superexec", "--parent-pid", "5"])
    assert parts.PULL_MESSAGE.present(receive=lambda: None) is None
    assert waiting.poll() is None
    message = SimpleNamespace(metadata=SimpleNamespace(message_id="m"))
    assert parts.PULL_MESSAGE.present(receive=lambda: (message, None)) == 7
    assert waiting.wait(60) == 0
    assert (tmp_path / "superexec").read_text() == "--parent-pid 5"


def test_flower_waits_for_a_message_as_long_as_is_known_and_for_what_is_near_less() -> None:
    """Any other wait of its loop would be taken for one of these, and a site would ask ten times a second."""
    tree = ast.parse(inspect.getsource(importlib.import_module(parts.SUPERNODE_WAITS.module)))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep"]
    assert sorted({ast.literal_eval(call.args[0]) for call in calls}) == [0.5, FLOWERS_WAIT_S]


def test_a_superexec_takes_on_client_apps_alone_in_the_sites_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMOS_FL_PRELOADED", "0")
    monkeypatch.delenv(BELL, raising=False)
    superexec.replace(own_process_in(tmp_path))
    executor = parts.EXECUTOR.present(None, insecure=True)
    assert executor.get_eligible_capacity(set(TaskType)) == ({TaskType.CLIENT_APP}, set())

    def spec(task_type: TaskType, *, install: bool = False) -> ExecutionSpec:
        return ExecutionSpec(task_type, "127.0.0.1:1", "token", True, None, install, None, False, 1)

    for refused in (*map(spec, set(TaskType) - {TaskType.CLIENT_APP}), spec(TaskType.CLIENT_APP, install=True)):
        assert executor.launch(refused).status is LaunchResultStatus.FAILED
    started: list[Any] = []
    popen = parts.START_CLIENTAPP.present.Popen
    parts.START_CLIENTAPP.present.Popen = lambda *arguments: started.append(popen(*arguments))
    assert executor.launch(spec(TaskType.CLIENT_APP)).status is LaunchResultStatus.ACCEPTED
    assert started[0].wait(60) == 0
    assert (tmp_path / "clientapp").read_text().startswith("--runtime-api-address 127.0.0.1:1 --token token")
    with pytest.raises(RuntimeError, match="starts flwr-serverapp at a site"):
        popen(["flwr-serverapp"])


def test_a_superexec_looks_for_a_task_when_its_bell_is_rung() -> None:
    bell = Doorbell()
    bell.ring()
    code = (
        "from amos_fl_clients.flower import parts, superexec; superexec.replace(lambda *_: []); "
        "parts.SUPEREXEC_WAITS.present.sleep(600)"
    )
    environment = {**os.environ, BELL: str(bell.heard_at)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, pass_fds=[bell.heard_at], timeout=60, check=False
    )
    assert done.returncode == 0


class SiteCheck:
    """A site's check that keeps what it is told; what the real one does is in test_flower_app."""

    failure: Error | None = None

    def __init__(self) -> None:
        self.told: list[object] = []

    def received(self, message: Message, context: Context) -> None:
        self.told += [message, context]

    def unpacked(self, content: bytes, unpack: Callable[[], Path]) -> Path:
        self.told.append(content)
        return Path("unpacked")

    def before_import(self, folder: Path) -> None:
        self.told.append(folder)

    def words(self, reason: str) -> str:
        return "no details"


def test_the_process_of_a_message_asks_the_sites_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    process: Any = importlib.import_module(parts.PULL_TASK.module)
    task: Any = ("message", "context", "run", "app")
    parts.PULL_TASK.replace(lambda client: task)  # Flower's own functions, without network and app
    parts.LOAD_APP.replace(lambda **options: lambda *app: app)
    check = SiteCheck()
    clientapp.replace(check)
    assert process.pull_task_input(None) == task
    assert process.install_from_fab(b"app", skip_prompt=True) == Path("unpacked")
    load = process.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
    assert load("a/b", "1", "0123456789") == ("a/b", "1", "0123456789")
    assert check.told == ["message", "context", b"app", process.get_project_dir("a/b", "1", "0123456789")]
    assert process.Error(code=2, reason="jane.nii").reason == "no details"
    check.failure = Error(7, "refused")
    assert process.Error(code=2, reason="jane.nii") is check.failure


def replies_with(*values: float) -> list[Message]:
    """Replies of sites 0, 1, ... whose weights have one value each."""
    found = []
    for node, value in enumerate(values):
        arrays = ArrayRecord({"w": Array(np.full(3, value))})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
        found.append(Message(content, reply_to=Message(RecordDict(), node, "train")))
    return found


@pytest.mark.parametrize("chosen", [1, 2, 3])
def test_the_replies_that_count_as_used_are_those_in_krums_mean(chosen: int) -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    values = (100.0, 1.0, 1.5, 2.5, -80.0)
    krum = MultiKrum(num_malicious_nodes=2, num_nodes_to_select=chosen)
    used = strategies.used_of(krum, [reply.content for reply in replies_with(*values)])
    record, _ = krum.aggregate_train(1, replies_with(*values))
    assert record is not None
    assert record["w"].numpy()[0] == pytest.approx(np.mean([values[number] for number in used]))
    assert 0 < len(used) < len(values)
    assert strategies.used_of(FedAvg(), [reply.content for reply in replies_with(*values)]) == [0, 1, 2, 3, 4]


def test_a_strategy_that_cannot_aggregate_raises_the_error_that_is_known() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    first, second = replies_with(1.0, 2.0)
    second.content["arrays"] = ArrayRecord({"another": Array(np.ones(3))})
    with pytest.raises(strategies.StrategyError):
        FedAvg().aggregate_train(1, [first, second])


class Nobody(superlink.TokenPlugin):
    def __init__(self) -> None: ...

    def submitter(self, token: str) -> str | None:
        return None


def test_flower_lets_everybody_submit_and_the_token_plugin_takes_that_place() -> None:
    assert parts.AUTHN_PLUGIN.present().validate_tokens_in_metadata([])[0]
    superlink.replace(Nobody(), print)
    assert not parts.AUTHN_PLUGIN.present().validate_tokens_in_metadata([])[0]


def test_flowers_app_is_wrapped_before_it_serves() -> None:
    wrapped: list[Any] = []
    superlink.replace(Nobody(), wrapped.append)
    app = parts.CREATE_APP.present()
    assert isinstance(app, FastAPI)
    assert wrapped == [app]


def test_a_request_waits_for_the_database_nearly_as_long_as_its_client_for_an_answer(tmp_path: Path) -> None:
    from flwr.supercore.sql_mixin import SqlMixin
    from sqlalchemy import text

    class Database(SqlMixin):
        def get_metadata(self) -> Any:
            return None

    def busy_timeout_ms(name: str) -> object:
        database = Database(str(tmp_path / name))
        database.initialize()
        with database.session() as session:
            return session.execute(text("PRAGMA busy_timeout")).scalar()

    assert busy_timeout_ms("flowers.db") == 5000
    superlink.patient_database()
    assert busy_timeout_ms("ours.db") == 25000


def test_flower_heeds_what_it_is_told_by_the_environment() -> None:
    """Its names are nowhere documented, and one that is no longer read would go unnoticed."""
    code = (
        "import os; from amos_fl_clients.flower.programs import say_nothing_to_others; say_nothing_to_others()\n"
        "from amos_fl_clients.flower.superlink import FASTER; os.environ.update(FASTER)\n"
        "from flwr.supercore import constant, telemetry\n"
        "from flwr.supercore.superexec.run_superexec import _get_task_poll_interval\n"
        "print(telemetry.FLWR_TELEMETRY_ENABLED, os.environ[constant.FLWR_DISABLE_UPDATE_CHECK], "
        "constant.FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES, constant.FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PULLS, "
        "_get_task_poll_interval())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1", "8", "8", "0.2"]


def test_a_superlink_outside_of_a_container_reports_nothing_to_others_either() -> None:
    code = (
        "import os, amos_fl_server.operation.superlink; from flwr.supercore import telemetry\n"
        "print(telemetry.FLWR_TELEMETRY_ENABLED, os.environ['FLWR_DISABLE_UPDATE_CHECK'])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]
