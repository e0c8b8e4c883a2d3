"""Processes of Ray for sites: where they run, what they see there, and how they carry out a message.

A process serves every site, or, where the settings say on which machine a site works, those of its machine.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from amos_fl.cohort.table import read_cohort
from amos_fl.errors import AmosError, Interrupted
from amos_fl.runs.folder import RunFolder
from amos_fl_clients.federation.app import make_client_app, progress_file
from amos_fl_clients.federation.settings import SiteSettings, read_settings
from amos_fl_clients.flower.grids import begin_task, give_id
from amos_fl_server.federation.engines.base import (
    RAISED,
    SERVER_NODE,
    SimulatedSites,
    carried_out,
    context_of,
)

BUSY_S = 20.0
"""After which a cluster is taken to be busy with other work."""


@dataclass(frozen=True)
class Room:
    """What a site takes on a machine."""

    cpus: int
    gpus: float = 0.0

    def times_in(self, resources: dict[str, float]) -> int:
        """How many sites fit into a machine's resources at the same time."""
        by_cpu = int(resources.get("CPU", 0) // self.cpus)
        return min(by_cpu, int(resources.get("GPU", 0) // self.gpus)) if self.gpus else by_cpu


@dataclass(frozen=True)
class InRunFolder:
    """Sites that are laid out in the run's folder, on a disk that every machine sees."""

    run: Path
    sites: tuple[str, ...]

    def app(self) -> ClientApp:
        return make_client_app(
            SimulatedSites(self.run / "sites", self.sites),
            listener_of=progress_file,
            check=RunFolder(self.run).stop_file.check,
        )

    def missing(self, sites: Sequence[str]) -> tuple[str, str] | None:
        """What this machine cannot see of these sites, and the remedy."""
        if (self.run / "config.yaml").is_file():
            return None
        shared = "put runs, store (--store) and cohort on a disk that all machines of the Ray cluster see at this path"
        return str(self.run), f"{shared}, or give engine.site_settings"


@dataclass(frozen=True)
class OnTheirNodes:
    """Sites with folders of their own, each on its machine; `settings` are the files of their settings there."""

    settings: tuple[tuple[str, str], ...]

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(site for site, _ in self.settings)

    def app(self) -> ClientApp:
        return make_client_app(self._settings_of, listener_of=progress_file)

    def _settings_of(self, context: Context) -> SiteSettings:
        return read_settings(Path(self.settings[int(str(context.node_config["partition-id"]))][1]))

    def missing(self, sites: Sequence[str]) -> tuple[str, str] | None:
        """What this machine cannot see of these sites, and the remedy."""
        for site, file in self.settings:
            if site in sites and not Path(file).is_file():
                return file, f"give the file of site {site} on its machine (engine.site_settings, engine.site_nodes)"
        return None

    def organs(self, site: str) -> dict[int, str]:
        return dict(read_cohort(read_settings(Path(dict(self.settings)[site])).cohort).organs)


Layout = InRunFolder | OnTheirNodes


class Host:
    """In a process of Ray: carries out the messages to any of these sites."""

    def __init__(self, layout: Layout, mine: tuple[str, ...]) -> None:
        self._layout, self._mine = layout, mine
        self._app = layout.app()

    def where(self) -> tuple[str, int, tuple[str, str] | None]:
        """The machine's name, this process's id, and what is not seen from here."""
        return socket.gethostname(), os.getpid(), self._layout.missing(self._mine)

    def organs(self) -> dict[int, str]:
        """The organs of the first of its sites, which has its folder here."""
        assert isinstance(self._layout, OnTheirNodes)
        return self._layout.organs(self._mine[0])

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
            reply = carried_out(self._app, message, context_of(node, len(self._layout.sites)))
        except Interrupted as error:
            return RAISED, str(error)
        return (reply.error.code, reply.error.reason) if reply.has_error() else reply.content


@dataclass(frozen=True)
class Where:
    """Machines of a cluster: all of them, the one of a name or address, or those with a label (KEY=VALUE)."""

    text: str | None = None

    def has(self, node: Mapping[str, Any]) -> bool:
        """Whether a machine, as `ray.nodes()` describes it, is one of these."""
        if not node["Alive"] or self.text is None:
            return bool(node["Alive"])
        key, equals, value = self.text.partition("=")
        if equals:
            return node.get("Labels", {}).get(key) == value
        return self.text in (node["NodeManagerAddress"], node["NodeManagerHostname"], node.get("NodeName"))

    def asked_of_ray(self, nodes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """The options with which Ray starts a process on one of these machines; `nodes` are the cluster's.

        A machine that comes back has another id, but the same label and address.
        """
        if self.text is None:
            return {"scheduling_strategy": "SPREAD"}
        key, equals, value = self.text.partition("=")
        if equals:
            return {"label_selector": {key: value}, "scheduling_strategy": "SPREAD"}
        address = next(node["NodeManagerAddress"] for node in nodes if self.has(node))
        return {"resources": {f"node:{address}": 0.001}}


@dataclass
class Process:
    """A process of Ray with a `Host`, the sites that it serves, and where it was when it last answered."""

    host: Any
    place: Where
    machine: str = ""
    pid: int = 0
    missing: str | None = None
    """What was not seen there when it last answered."""

    def found(self, answer: tuple[str, int, tuple[str, str] | None]) -> None:
        """Record where the process says it is.

        Raises:
            AmosError: it does not see the files that it needs, and never did; later, its sites alone fail.
        """
        first, (self.machine, self.pid, missing) = not self.machine, answer
        self.missing = f"{missing[0]}: is not there on {self.machine}" if missing else None
        if missing and first:
            raise AmosError(f"{missing[0]}: is not there on {self.machine}", missing[1])

    def end(self) -> None:
        """End it; Ray starts another in its place. A process that is stopped hears only the system's own signal."""
        if self.machine == socket.gethostname():
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
        else:
            ray.kill(self.host, no_restart=False)


@dataclass(frozen=True)
class Placement:
    """On which machines which site works; a site that is not named works on any."""

    nodes: Mapping[str, str]

    def of(self, site: str) -> Where:
        return Where(self.nodes.get(site))

    def groups(self, sites: Sequence[str]) -> dict[Where, tuple[str, ...]]:
        """The sites of each place, those that work anywhere last."""
        found: dict[Where, list[str]] = {}
        for site in sorted(sites, key=lambda site: site not in self.nodes):
            found.setdefault(self.of(site), []).append(site)
        return {where: tuple(sorted(mine)) for where, mine in found.items()}


ANYWHERE = Placement({})


def start_hosts(
    layout: Layout,
    room: Room,
    most: int | None,
    placement: Placement = ANYWHERE,
    say: Callable[[str], object] = lambda _: None,
) -> dict[Any, Process]:
    """Start processes for sites wherever Ray's machines have room, `most` at the most; returns their first answers.

    Each place that sites are bound to has one at least, so that there may be more than `most`. A cluster that is busy
    with other work is waited for, and `say` receives a sentence about it.

    Raises:
        AmosError: no machine has room for a site, or none is called as a site's. RayError: none starts.
    """
    if unknown := sorted(set(placement.nodes) - set(layout.sites)):
        raise AmosError(f"engine.site_nodes: there is no site {unknown[0]}", f"this run has {', '.join(layout.sites)}")
    nodes = ray.nodes()
    starting: dict[Any, Process] = {}
    for where, sites in placement.groups(layout.sites).items():
        there = [node["Resources"] for node in nodes if where.has(node)]
        if not there:
            known = ", ".join(sorted(f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in nodes))
            raise AmosError(
                f"engine.site_nodes: no machine of the Ray cluster is {where.text}, where site {sites[0]} works",
                f"start Ray there; the cluster has {known}",
            )
        # Sites that work anywhere come last, and have what the others leave.
        fitting = sum(room.times_in(machine) for machine in there) - (len(starting) if where.text is None else 0)
        if fitting <= 0:
            gpus = f" and {room.gpus:g} GPUs" if room.gpus else ""
            raise AmosError(
                f"no machine of the Ray cluster has {room.cpus} CPUs{gpus} for a site",
                "lower engine.cpus_per_site, training.threads or engine.gpus_per_site",
            )
        options = {"num_cpus": room.cpus, "num_gpus": room.gpus, "max_restarts": -1, **where.asked_of_ray(nodes)}
        kind: Any = ray.remote(**options)(Host)
        for _ in range(max(1, min(fitting, len(sites), (most or fitting) - len(starting)))):
            process = Process(kind.remote(layout, sites), where)
            starting[process.host.where.remote()] = process
    first, _ = ray.wait(list(starting), num_returns=1, timeout=BUSY_S)
    if not first:
        say("the Ray cluster has no room for a site yet; waiting for it (Ctrl-C ends that)")
        first, _ = ray.wait(list(starting), num_returns=1)
    ray.get(first)
    return starting
