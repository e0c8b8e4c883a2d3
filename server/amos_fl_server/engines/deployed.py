"""The engine of a deployment: Flower's SuperLink carries the messages, and the hospitals' processes are their own."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run

from amos_fl.errors import AmosError
from amos_fl.runs.events import Listener
from amos_fl.runs.folder import RunFolder

UNREACHABLE = 1
"""Our code for a message that Flower did not take; Flower's own codes say nothing that the words do not."""


@dataclass
class DeployedEngine:
    """What a deployment differs in from a simulation: sites look after themselves, and messages take their time."""

    poll_s: float = 0.2
    grace_s: float = 120.0
    """Beside the time for its training, a site has this for the start of a process and for the transport."""

    def run(self, server: ServerApp, folder: RunFolder, sites: Sequence[str], listener: Listener) -> None:
        raise AmosError("a deployment is started by Flower; use 'flwr run'")

    def phase_timeout_s(self, site_timeout_s: float | None, sites: int) -> float | None:
        return None if site_timeout_s is None else site_timeout_s + self.grace_s

    def poll(self) -> None:
        time.sleep(self.poll_s)

    def end_site(self, site: str) -> None:
        """A hospital's process is not the server's to end."""

    def lost(self, site: str, sent_at: float) -> bool:
        return False  # Flower's SuperNode keeps a message until a process has taken it up


class SiteGrid(Grid):
    """Flower's grid, and an error reply for each message that it does not take."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._undelivered: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> list[int]:
        return list(self._grid.get_node_ids())

    def registered_names(self) -> dict[int, str]:
        """The name under which the key of each connected node was registered; none without authentication."""
        nodes = getattr(self._grid, "get_nodes", tuple)()
        return {node.node_id: node.name for node in nodes if node.public_key and node.name}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        messages = list(messages)
        taken = list(self._grid.push_messages(messages))
        for message, message_id in zip(messages, taken or [None] * len(messages), strict=True):
            if message_id is None:
                error = Message(Error(UNREACHABLE, "it is not connected"), reply_to=message)
                self._undelivered[message.metadata.message_id] = error
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        wanted = list(message_ids)
        lost = [self._undelivered.pop(name) for name in wanted if name in self._undelivered]
        names = {message.metadata.reply_to_message_id for message in lost}
        rest = [name for name in wanted if name not in names]
        return lost or (list(self._grid.pull_messages(rest)) if rest else [])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return list(self._grid.send_and_receive(messages, timeout=timeout))
