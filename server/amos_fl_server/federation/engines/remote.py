"""The engine of a deployment: Flower's SuperLink carries the messages, and hospitals run their own processes."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from amos_fl.errors import AmosError
from amos_fl.runs.events import Listener
from amos_fl.runs.folder import RunFolder
from amos_fl_clients.federation.records import identity_of, is_packed, packed, views_of
from amos_fl_clients.flower.grids import OwnGrid, Run, answers, nodes_of

UNREACHABLE = 1
"""Our code for a message that Flower did not accept; Flower's own codes add nothing to its words."""


def _packed(record: ArrayRecord) -> ArrayRecord:
    return record if is_packed(record) else packed(views_of(record).items())


@dataclass
class RemoteEngine:
    """The engine of a deployment, in which sites look after themselves and messages take time."""

    poll_s: float = 0.2
    grace_s: float = 120.0
    """Time that a site has, besides its training time, for starting a process and for transport."""

    def run(self, server: ServerApp, folder: RunFolder, sites: Sequence[str], listener: Listener) -> None:
        raise AmosError("a deployment is started by Flower; use 'flwr run'")

    def phase_timeout_s(self, site_timeout_s: float | None, sites: int) -> float | None:
        return None if site_timeout_s is None else site_timeout_s + self.grace_s

    def poll(self) -> None:
        time.sleep(self.poll_s)

    def end_site(self, site: str) -> None:
        """Do nothing, because the server cannot end a hospital's process."""

    def lost(self, site: str, sent_at: float) -> bool:
        return False  # Flower's SuperNode keeps a message until a process has picked it up


class SiteGrid(OwnGrid):
    """Flower's grid, with an error reply for each message that it does not accept.

    A SuperNode that was killed and restarted has lost its message, and Flower waits for the answer for a message's
    lifetime, half a day. Such a message is sent again; its reply counts as the reply to the first one.
    """

    def __init__(self, grid: Grid, look_again_s: float = 2.0) -> None:
        self._grid = grid
        self._undelivered: dict[str, Message] = {}
        self._look_again_s = look_again_s
        self._looked = 0.0
        self._sent: dict[str, tuple[Message, str | None]] = {}
        """Messages without a reply, and when their node was last activated before they were sent."""
        self._again: dict[str, str] = {}
        """The id of the first message, by the id of the one sent again."""

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def get_node_ids(self) -> list[int]:
        return list(self._grid.get_node_ids())

    def registered_names(self) -> dict[int, str]:
        """The name under which the key of each connected node was registered; none without authentication."""
        return {node.node_id: node.name for node in nodes_of(self._grid) if node.public_key and node.name}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; their weights are packed, which changes their content.

        The ids are those of the messages themselves, whether Flower took them or not.
        """
        messages = list(messages)
        self._pack(messages)
        activated = self._activated()
        taken = list(self._grid.push_messages(messages))
        for message, message_id in zip(messages, taken or [None] * len(messages), strict=True):
            if message_id is None:
                error = Message(Error(UNREACHABLE, "it is not connected"), reply_to=message)
                self._undelivered[message.metadata.message_id] = error
            else:
                self._sent[message_id] = (message, activated.get(message.metadata.dst_node_id))
        return [message.metadata.message_id for message in messages]

    def _pack(self, messages: list[Message]) -> None:
        originals = [message.content for message in messages]  # kept, so that no id of their bytes is used again
        done: dict[tuple[tuple[str, int], ...], ArrayRecord] = {}
        for message, content in zip(messages, originals, strict=True):
            records = dict(content)
            for name, record in content.array_records.items():
                # Messages to several sites share the bytes of their weights, whatever holds them.
                which = tuple((array_name, identity_of(array)) for array_name, array in record.items())
                if which not in done:
                    done[which] = _packed(record)
                records[name] = done[which]
            message.content = RecordDict(records)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        wanted = list(message_ids)
        lost = [self._undelivered.pop(name) for name in wanted if name in self._undelivered]
        if lost:
            return lost
        self._send_again(wanted)
        known = set(wanted)
        # Messages no longer requested were given up; their weights need not be kept.
        self._sent = {name: sent for name, sent in self._sent.items() if name in known}
        self._again = {again: first for again, first in self._again.items() if first in known}
        names = wanted + [again for again, first in self._again.items() if first in known]
        replies = list(self._grid.pull_messages(names)) if names else []
        for reply in replies:
            answered = reply.metadata.reply_to_message_id
            first = self._again.get(answered, answered)
            answers(reply, first)
            self._sent.pop(first, None)
            self._again = {again: other for again, other in self._again.items() if other != first}
        return replies

    def _activated(self) -> dict[int, str]:
        """When each connected node was last activated, as the SuperLink records it."""
        return {node.node_id: node.last_activated_at for node in nodes_of(self._grid)}

    def _send_again(self, message_ids: list[str]) -> None:
        """Resend messages whose nodes have been activated since."""
        if time.monotonic() - self._looked < self._look_again_s:
            return
        self._looked = time.monotonic()
        activated = self._activated()
        for name in message_ids:
            message, before = self._sent.get(name, (None, None))
            now = None if message is None else activated.get(message.metadata.dst_node_id)
            if message is None or now is None or now == before:
                continue
            about = message.metadata
            again = Message(message.content, about.dst_node_id, about.message_type, group_id=about.group_id)
            (taken,) = list(self._grid.push_messages([again])) or [None]
            if taken is not None:
                self._sent[name] = (message, now)
                self._again[taken] = name

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return list(self._grid.send_and_receive(messages, timeout=timeout))
