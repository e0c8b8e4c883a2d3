"""Flower's processes at a site, with the site's own check between the arrival of an app and its first line.

A SuperNode starts a SuperExec, and that a new process for every message, which fetches the message and the app,
unpacks the app, imports it and calls it. Flower 1.41 has no setting for a check of one's own in that chain, so the
functions here start the same programs with a few of their parts replaced: the SuperExec that a SuperNode starts is
this module's, it takes on ClientApps alone and starts this module's process for them, and that hashes an app before
it is unpacked. A part that another version of Flower lacks ends the process: what cannot be checked is not run.
"""

import importlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from amos_fl.errors import code_of
from amos_fl_clients.activation import taking_over
from amos_fl_clients.allowed_apps import check_app
from amos_fl_clients.audit import Audited
from amos_fl_clients.failures import SiteFailure, error_reply, keep_details, words_that_may_travel
from amos_fl_clients.in_step import MessageSync
from amos_fl_clients.locate import settings_of
from amos_fl_clients.policy import Refusal, check_not_paused
from amos_fl_clients.settings import SiteSettings
from amos_fl_clients.waiting import BELL, Backoff, Doorbell, asking_again
from amos_fl_clients.warm import WarmProcess, can_fork, fork_for_each_request

HEARTBEAT = "AMOS_FL_HEARTBEAT_S"
"""Seconds, from 10, after which a site gives a sign of life; one that misses two of them is taken to be down."""
TWICE = ("PullMessages", "PushMessages", "PullObject", "PushObject", "ConfirmMessageReceived", "GetRun", "GetFab")
"""A SuperNode's requests that may be made again: of the second the SuperLink sees that it has done the first."""


def run_supernode(arguments: Sequence[str], state: Path | None = None) -> None:
    """`flower-supernode`, which starts this module's SuperExec, looks for messages sooner and tells it of each.

    With the site's `state` folder, it takes over from one that was killed.
    """
    _say_nothing_to_others()
    fleet = importlib.import_module("flwr.supernode.fleet_http_client").FleetHttpClient
    if state is not None:
        _replace(fleet, "ActivateNode", taking_over(fleet.ActivateNode, state))
    for request in TWICE:
        _replace(fleet, request, asking_again(getattr(fleet, request)))
    internal = importlib.import_module("flwr.supernode.start_client_internal")
    bell = Doorbell()
    backoff = Backoff()
    pull: Callable[..., Any] = internal._pull_and_store_message

    def pull_and_tell(*arguments: Any, **more: Any) -> Any:
        run_id = pull(*arguments, **more)
        if run_id is not None:
            backoff.begin_anew()
            bell.ring()
        return run_id

    def start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
        return _start_own_superexec(command, bell)

    if (heartbeat_s := os.environ.get(HEARTBEAT)) is not None:
        for module in ("flwr.supernode.fleet_http_connection", "flwr.supercore.heartbeat"):
            _replace(importlib.import_module(module), "HEARTBEAT_DEFAULT_INTERVAL", float(heartbeat_s))
    _replace(internal, "subprocess", SimpleNamespace(Popen=start))
    sync = MessageSync()
    _replace(internal, "_pull_and_store_message", sync.pulling(pull_and_tell))
    _replace(internal, "_push_messages", sync.pushing(internal._push_messages))
    _replace(internal, "time", SimpleNamespace(sleep=backoff.sleep))
    cli: Any = importlib.import_module("flwr.supernode.cli")
    sys.argv = ["flower-supernode", *arguments]
    cli.flower_supernode()


def run_superexec(arguments: Sequence[str]) -> None:
    """`flower-superexec`, which runs ClientApps alone, each in this module's process."""
    _say_nothing_to_others()
    superexec = importlib.import_module("flwr.supercore.superexec.run_superexec")
    _replace(superexec, "get_executor", _own_executor)
    if (descriptor := os.environ.pop(BELL, None)) is not None:
        bell = Doorbell.at(int(descriptor))
        bell.end_with_the_other()
        _replace(superexec, "time", SimpleNamespace(sleep=bell.wait))
    cli: Any = importlib.import_module("flwr.supercore.cli")
    sys.argv = ["flower-superexec", *arguments]
    cli.flower_superexec()


def run_clientapp(arguments: Sequence[str]) -> None:
    """`flwr-clientapp`, which looks at the app before it unpacks it, and at the words of every error."""
    _say_nothing_to_others()
    sys.dont_write_bytecode = True  # the folder of the app stays as it was sent
    process = importlib.import_module("flwr.supernode.runtime.run_clientapp")
    check = _AppCheck(process)
    _replace(process, "pull_task_input", check.pull_task_input)
    _replace(process, "install_from_fab", check.install_from_fab)
    _replace(process, "get_load_client_app_fn", check.get_load_client_app_fn)
    _replace(process, "Error", check.error)
    cli: Any = importlib.import_module("flwr.supernode.cli")
    sys.argv = ["flwr-clientapp", *arguments]
    cli.flwr_clientapp()


def run_warm(arguments: Sequence[str]) -> None:
    """The process that is forked for each message."""
    _say_nothing_to_others()
    fork_for_each_request(run_clientapp)


def _say_nothing_to_others() -> None:
    """Flower reports its use to its makers and asks for newer versions, unless told otherwise before its import."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    for name in ("FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES", "FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PULLS"):
        os.environ.setdefault(name, "8")  # pieces of a network's weights on their way at a time; read at import, too


def _replace(module: ModuleType | type, name: str, own: Any) -> None:
    getattr(module, name)  # AttributeError: another version of Flower, in which the replacement would do nothing
    setattr(module, name, own)


def _own_process(role: str, arguments: Sequence[str]) -> list[str]:
    # -P: nothing that lies in the working folder is imported
    return [sys.executable, "-P", "-m", "amos_fl_clients.processes", role, *arguments]


def _start_own_superexec(command: Sequence[str], bell: Doorbell) -> "subprocess.Popen[bytes]":
    if command[0] != "flower-superexec":
        raise RuntimeError(f"this version of Flower starts {command[0]} at a site, which amos-fl does not know")
    environment = {**os.environ, BELL: str(bell.heard_at)}
    return subprocess.Popen(_own_process("superexec", command[1:]), env=environment, pass_fds=[bell.heard_at])


def _own_executor(*_: Any, **__: Any) -> Any:
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec.executor import LaunchResult, SubprocessExecutor

    warm = WarmProcess(_own_process("warm", [])) if can_fork() else None
    subprocess_executor = importlib.import_module("flwr.supercore.superexec.executor.subprocess_executor")

    def start(command: Sequence[str], **options: Any) -> Any:
        if command[0] != "flwr-clientapp":
            raise RuntimeError(f"this version of Flower starts {command[0]} at a site, which amos-fl does not know")
        if warm is not None and warm.launch(command[1:], quiet="stdout" in options):
            return None
        return subprocess.Popen(_own_process("clientapp", command[1:]), **options)

    _replace(subprocess_executor, "subprocess", SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL))

    class ClientAppsOnly(SubprocessExecutor):
        """Flower's executor without its other kinds of tasks: agents, connectors, models, servers, simulations."""

        def get_eligible_capacity(self, supported_task_types: Any, **_: Any) -> Any:
            return {TaskType.CLIENT_APP} & set(supported_task_types), set()

        def launch(self, spec: Any) -> LaunchResult:
            if spec.task_type is not TaskType.CLIENT_APP or spec.runtime_dependency_install:
                return LaunchResult.failed("this site runs ClientApps alone, and installs nothing for them")
            return super().launch(spec)

        def close(self) -> None:
            if warm is not None:
                warm.close()

    return ClientAppsOnly()


def holds_exactly(folder: Path, content: bytes) -> bool:
    """Whether a folder holds the files of an archive, byte for byte, and no other; compiled ones are others."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sent = {name: archive.read(name) for name in archive.namelist() if not name.startswith(".info/")}
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    return sent.keys() == found.keys() and all(path.read_bytes() == sent[name] for name, path in found.items())


class _AppCheck:
    """What stands in the way of an app between its arrival and its import, in the process of one message."""

    def __init__(self, process: Any) -> None:
        self._pull: Callable[[Any], Any] = process.pull_task_input
        self._install: Callable[..., Path] = process.install_from_fab
        self._loader: Callable[..., Any] = process.get_load_client_app_fn
        self._error: Callable[..., Any] = process.Error
        self._folder_of: Callable[..., Path] = process.get_project_dir
        self._pulled: Any = None
        self._installed: Path | None = None
        self._share_details = False
        self._failure: Any = None

    def pull_task_input(self, client: Any) -> Any:
        self._pulled = self._pull(client)
        return self._pulled

    def install_from_fab(self, content: bytes, **options: Any) -> Path:
        """Unpack an app that is allowed.

        Raises:
            Refusal: it is not, or the site is paused. SiteFailure: the settings cannot be read.
        """
        message, context, *_ = self._pulled
        settings = settings_of(context)
        self._share_details = settings.share_error_details
        try:
            check_not_paused(settings)
            check_app(settings, content)
            self._installed = self._unpacked(content, **options)
        except Refusal as refusal:
            Audited(settings.site, settings.state, message).refused(str(refusal))
            self._failure = error_reply(message, settings.site, refusal, in_full=False).error
            raise
        except Exception as error:
            self._fail(settings, message, error)
        assert self._installed is not None
        return self._installed

    def _unpacked(self, content: bytes, **options: Any) -> Path:
        """The folder of an app with what its archive holds and nothing else.

        Flower takes a folder of the right name as it finds it; somebody may have put something into it.
        """
        folder = self._install(content, **options)
        if not holds_exactly(folder, content):
            shutil.rmtree(folder)
            folder = self._install(content, **options)
        return folder

    def _fail(self, settings: SiteSettings, message: Any, error: Exception) -> None:
        words = words_that_may_travel(error, settings.site)
        Audited(settings.site, settings.state, message).failed(words)
        keep_details(settings, error)
        self._failure = error_reply(message, settings.site, error, in_full=False).error
        raise SiteFailure(words, code=code_of(error)) from None

    def get_load_client_app_fn(self, **options: Any) -> Any:
        """Flower's loader, for the folder alone into which the checked app was unpacked.

        The server names that folder by parts, and could name another one.
        """
        load = self._loader(**options)

        def load_checked(fab_id: str, fab_version: str, fab_hash: str) -> Any:
            if self._installed is None or self._folder_of(fab_id, fab_version, fab_hash) != self._installed:
                message, context, *_ = self._pulled
                failure = SiteFailure("the app that was sent and the app that was to be run are not the same")
                self._failure = error_reply(message, settings_of(context).site, failure, in_full=False).error
                raise failure
            return load(fab_id, fab_version, fab_hash)

        return load_checked

    def error(self, code: int, reason: str) -> Any:
        """An error reply: what was found in the way of the app, or no words at all of an error of other code."""
        if self._failure is not None:
            return self._failure
        if not self._share_details:
            reason = "the site's program failed; its own log says why"
        return self._error(code=code, reason=reason)


if __name__ == "__main__":
    roles = {"superexec": run_superexec, "clientapp": run_clientapp, "supernode": run_supernode, "warm": run_warm}
    roles[sys.argv[1]](sys.argv[2:])
