"""The inline engine: runs the sites' apps one after another in this process, through Flower's own interfaces.

No start-up, a debugger works, and one GPU is used fully. A message is carried out when its reply is
pulled, so that no more than one update exists at a time.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from amos_fl.runs.events import Listener
from amos_fl.runs.folder import RunFolder
from amos_fl_clients.federation.app import make_client_app
from amos_fl_clients.flower.grids import give_id
from amos_fl_server.federation.engines.base import SERVER_NODE, SimulatedGrid, SimulatedSites, carried_out, context_of


class InlineGrid(SimulatedGrid):
    """Flower's Grid over apps in this process."""

    def __init__(self, app: ClientApp, sites: Sequence[str]) -> None:
        super().__init__(len(sites))
        self._app = app
        self._waiting: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            give_id(message)
            self._waiting[message.metadata.message_id] = message
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Carry out the first waiting message of these, and return its reply."""
        wanted = set(message_ids)
        for message_id in self._waiting:
            if message_id in wanted:
                return [self._carry_out(self._waiting.pop(message_id))]
        return []

    def _carry_out(self, message: Message) -> Message:
        reply = carried_out(self._app, message, context_of(message.metadata.dst_node_id, self._sites))
        give_id(reply)
        return reply


@contextmanager
def _flower_silent() -> Iterator[None]:
    """Keep Flower's log, in which a strategy says what it sampled, out of the terminal on which the run is shown."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class InlineEngine:
    """One site after another, in this process."""

    def run(self, server: ServerApp, folder: RunFolder, sites: Sequence[str], listener: Listener) -> None:
        app = make_client_app(
            SimulatedSites(folder.path.resolve() / "sites", tuple(sites)),
            listener_of=lambda _: listener,
            check=folder.stop_file.check,
        )
        context = Context(run_id=1, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config={})
        with _flower_silent():
            server(InlineGrid(app, sites), context)

    def phase_timeout_s(self, site_timeout_s: float | None, sites: int) -> float | None:
        return None  # the sites check their time between steps

    def poll(self) -> None:
        pass

    def end_site(self, site: str) -> None:
        pass

    def lost(self, site: str, sent_at: float) -> bool:
        return False
