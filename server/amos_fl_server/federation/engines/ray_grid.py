"""Flower's grid over processes of Ray, each of which carries out one site's message at a time."""

import os
import signal
import socket
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from flwr.app import Error, Message, RecordDict
from ray.exceptions import RayActorError, RayError

from amos_fl.errors import AmosError, Interrupted
from amos_fl.runs.events import ProgressFile
from amos_fl.runs.folder import RunFolder
from amos_fl_clients.federation.app import make_client_app
from amos_fl_clients.federation.settings import SiteSettings
from amos_fl_clients.flower.grids import begin_task, give_id
from amos_fl_server.federation.engines.base import (
    FIRST_NODE,
    RAISED,
    SERVER_NODE,
    SimulatedGrid,
    SimulatedSites,
    carried_out,
    context_of,
)

WAIT_S = 0.05
DIED = "ActorDiedError: the process of the site is gone"


@dataclass(frozen=True)
class Room:
    """What a site takes on a machine."""

    cpus: int
    gpus: float = 0.0

    def times_in(self, resources: dict[str, float]) -> int:
        """How many sites fit into a machine's resources at the same time."""
        by_cpu = int(resources.get("CPU", 0) // self.cpus)
        return min(by_cpu, int(resources.get("GPU", 0) // self.gpus)) if self.gpus else by_cpu


class _Host:
    """In a process of Ray: carries out the messages to any of a run's sites."""

    def __init__(self, run: Path, sites: tuple[str, ...]) -> None:
        self._run, self._sites = run, sites
        stop = RunFolder(run).stop_file

        def progress(settings: SiteSettings) -> ProgressFile:
            return ProgressFile(settings.state / "progress.json")

        self._app = make_client_app(SimulatedSites(run / "sites", sites), listener_of=progress, check=stop.check)

    def where(self) -> tuple[str, int, bool]:
        """The machine's name, this process's id, and whether the run's folder is seen from here."""
        return socket.gethostname(), os.getpid(), (self._run / "config.yaml").is_file()

    def carry_out(
        self, node: int, message_type: str, group: str, rest: RecordDict, names: Sequence[str], *records: Any
    ) -> RecordDict | tuple[int, str | None]:
        """The reply's content, or the code and the reason of its error.

        `rest` is the message's content without the records of arrays, whose names and values follow.
        """
        begin_task(1, SERVER_NODE)
        for name, record in zip(names, records, strict=True):
            rest[name] = record
        message = Message(rest, node, message_type, group_id=group)
        give_id(message)
        try:
            reply = carried_out(self._app, message, context_of(node, len(self._sites)))
        except Interrupted as error:
            return RAISED, str(error)
        return (reply.error.code, reply.error.reason) if reply.has_error() else reply.content


@dataclass
class _Process:
    """A process of Ray with a `_Host`, and where it was when it last answered."""

    host: Any
    machine: str = ""
    pid: int = 0

    def end(self) -> None:
        """End it; Ray starts another in its place. A process that is stopped hears only the system's own signal."""
        if self.machine == socket.gethostname():
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
        else:
            ray.kill(self.host, no_restart=False)


def start_hosts(run: Path, sites: tuple[str, ...], room: Room, most: int | None) -> dict[Any, _Process]:
    """Start processes for sites wherever Ray's machines have room, `most` at the most; returns their first answers.

    Raises:
        AmosError: no machine has room for a site. RayError: none starts.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = sum(room.times_in(machine) for machine in machines)
    if not fitting:
        gpus = f" and {room.gpus:g} GPUs" if room.gpus else ""
        raise AmosError(
            f"no machine of the Ray cluster has {room.cpus} CPUs{gpus} for a site",
            "lower engine.cpus_per_site, training.threads or engine.gpus_per_site",
        )
    kind = ray.remote(num_cpus=room.cpus, num_gpus=room.gpus, max_restarts=-1, scheduling_strategy="SPREAD")(_Host)
    processes = [_Process(kind.remote(run, sites)) for _ in range(min(fitting, len(sites), most or fitting))]
    starting = {process.host.where.remote(): process for process in processes}
    ray.get(ray.wait(list(starting), num_returns=1)[0])
    return starting


class RayGrid(SimulatedGrid):
    """Flower's Grid over hosts on Ray."""

    def __init__(self, starting: dict[Any, _Process], folder: Path, sites: int) -> None:
        super().__init__(sites)
        self.hosts = len(starting)
        self._folder = folder
        self._queue: deque[tuple[Message, list[tuple[str, Any]]]] = deque()
        self._free: list[_Process] = []
        self._at_work: dict[Any, tuple[_Process, Message]] = {}
        self._starting = starting

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids, stored = [], dict[int, Any]()
        for message in messages:
            give_id(message)
            ids.append(message.metadata.message_id)
            records = message.content.array_records
            for record in records.values():  # the same one in the messages to all sites
                if id(record) not in stored:
                    stored[id(record)] = ray.put(record)
            self._queue.append((message, [(name, stored[id(record)]) for name, record in records.items()]))
        self._hand_out()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages that have come; one to a message that nobody waits for any more is dropped."""
        wanted = set(message_ids)
        if not self._at_work and not self._starting:
            return []
        done, _ = ray.wait([*self._at_work, *self._starting], num_returns=1, timeout=WAIT_S)
        replies = []
        for reference in done:
            if reference in self._starting:
                self._welcome(reference)
            else:
                process, message = self._at_work.pop(reference)
                reply = self._reply(reference, process, message)
                if message.metadata.message_id in wanted:
                    replies.append(reply)
        self._hand_out()
        return replies

    def give_up(self, site: int) -> None:
        """Drop what waits for a site, by its number, and end the process that is at work for it."""
        node = FIRST_NODE + site
        self._queue = deque(waiting for waiting in self._queue if waiting[0].metadata.dst_node_id != node)
        for process, message in self._at_work.values():
            if message.metadata.dst_node_id == node:
                process.end()

    def _hand_out(self) -> None:
        while self._queue and self._free:
            (message, arrays), process = self._queue.popleft(), self._free.pop(0)
            rest = RecordDict({name: record for name, record in message.content.items() if name not in dict(arrays)})
            about, names = message.metadata, [name for name, _ in arrays]
            reference = process.host.carry_out.remote(
                about.dst_node_id, about.message_type, about.group_id, rest, names, *(stored for _, stored in arrays)
            )
            self._at_work[reference] = process, message

    def _reply(self, reference: Any, process: _Process, message: Message) -> Message:
        try:
            found = ray.get(reference)
            self._free.append(process)
        except RayActorError:
            found = RAISED, DIED
            self._starting[process.host.where.remote()] = process
        except RayError as error:
            found = RAISED, str(error)
            self._free.append(process)
        if isinstance(found, RecordDict):
            reply = Message(found, reply_to=message)
        else:
            reply = Message(Error(code=found[0], reason=found[1]), reply_to=message)
        give_id(reply)
        return reply

    def _welcome(self, reference: Any) -> None:
        """Use a process that has answered since it was started; ask one that has not again, until Ray restarts it."""
        process = self._starting.pop(reference)
        try:
            process.machine, process.pid, sees_run = ray.get(reference)
        except RayError:
            time.sleep(WAIT_S)
            self._starting[process.host.where.remote()] = process
            return
        if not sees_run:
            raise AmosError(
                f"{self._folder}: is not there on {process.machine}",
                "put runs, store (--store) and cohort on a disk that all machines of the Ray cluster see at this path",
            )
        self._free.append(process)
