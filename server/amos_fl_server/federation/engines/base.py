"""The interface of an engine, which carries messages between one ServerApp and the apps of the sites."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from amos_fl.errors import AmosError, Interrupted
from amos_fl.runs.events import Listener
from amos_fl.runs.folder import RunFolder
from amos_fl_clients.federation.settings import SiteSettings, read_settings
from amos_fl_clients.flower.grids import OwnGrid, Run, begin_task

SERVER_NODE, FIRST_NODE = 1, 1001
"""The number of the server among Flower's nodes, and that of the first simulated site."""
RAISED = 2
"""Flower's code for an error that a ClientApp raised."""


class Engine(Protocol):
    """Runs a ServerApp against the simulated sites of a run folder."""

    def run(self, server: ServerApp, folder: RunFolder, sites: Sequence[str], listener: Listener) -> None:
        """Run until the ServerApp has ended; its exceptions are raised here."""
        ...

    def phase_timeout_s(self, site_timeout_s: float | None, sites: int) -> float | None:
        """The time that the server waits for all sites of one phase."""
        ...

    def poll(self) -> None:
        """Called while the server waits."""
        ...

    def end_site(self, site: str) -> None:
        """Called when a site has exceeded its time and is still running."""
        ...

    def lost(self, site: str, sent_at: float) -> bool:
        """Whether a failed message, sent at this time since the epoch, was never picked up by the site."""
        ...


class SimulatedGrid(OwnGrid):
    """What the grids of simulated sites share. Node ids are 1001, 1002, ... in the order of the sites."""

    def __init__(self, sites: int) -> None:
        begin_task(1, SERVER_NODE)
        self._run = Run.create_empty(1)
        self._sites = sites

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def get_node_ids(self) -> list[int]:
        return [FIRST_NODE + number for number in range(self._sites)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        ids = list(self.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while len(replies) < len(ids) and (end is None or time.monotonic() < end):
            replies += self.pull_messages(ids)
        return replies


@dataclass(frozen=True)
class SimulatedSites:
    """Finds a simulated site's settings from its number among the run's sites."""

    root: Path
    sites: tuple[str, ...]

    def __call__(self, context: Context) -> SiteSettings:
        try:
            site = self.sites[int(str(context.node_config["partition-id"]))]
        except (KeyError, ValueError, IndexError):
            raise AmosError("this site was started without its number among the simulated sites") from None
        return read_settings(self.root / site / "site.json")


def context_of(node: int, sites: int) -> Context:
    """Flower's context of a simulated site, by its node."""
    return Context(
        run_id=1,
        node_id=node,
        node_config={"partition-id": node - FIRST_NODE, "num-partitions": sites},
        state=RecordDict(),
        run_config={},
    )


def carried_out(app: ClientApp, message: Message, context: Context) -> Message:
    """A site's reply to a message; any failure of its code becomes an error reply.

    Raises:
        Interrupted: a stop was requested.
    """
    try:
        return app(message, context)
    except Interrupted:
        raise
    except Exception as error:  # any failure of a site's code is that site's failure
        text = str(error) if isinstance(error, AmosError) else f"{type(error).__name__}: {error}"
        return Message(Error(code=RAISED, reason=text), reply_to=message)
