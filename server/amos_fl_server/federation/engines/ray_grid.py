"""Flower's grid over processes of Ray, each of which carries out one site's message at a time."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import ray
from flwr.app import Error, Message, RecordDict
from ray.exceptions import RayActorError, RayError, RayTaskError

from amos_fl.errors import AmosError
from amos_fl_clients.flower.grids import give_id
from amos_fl_server.federation.engines.base import FIRST_NODE, RAISED, SimulatedGrid
from amos_fl_server.federation.engines.ray_hosts import ANYWHERE, Placement, Process, Where

WAIT_S = 0.05
LOOK_S = 1.0
"""How long a look at which machines are in the cluster stays valid."""
DIED = "ActorDiedError: the process of the site is gone"


class RayGrid(SimulatedGrid):
    """Flower's Grid over hosts on Ray, of which `most` at the most are at work at the same time."""

    def __init__(
        self,
        starting: dict[Any, Process],
        sites: Sequence[str],
        placement: Placement = ANYWHERE,
        most: int | None = None,
    ) -> None:
        super().__init__(len(sites))
        self._places = [placement.of(site) for site in sites]
        self._most = most or len(starting)
        self._queue: deque[tuple[Message, list[tuple[str, Any]]]] = deque()
        self._free: list[Process] = []
        self._at_work: dict[Any, tuple[Process, Message]] = {}
        self._starting = starting
        self._unplaced: list[Message] = []
        self._without_files: list[Process] = []
        self._nodes: tuple[float, list[dict[str, Any]]] = (-LOOK_S, [])

    @property
    def hosts(self) -> int:
        """How many sites are at work at the same time, if all machines are there."""
        there = (self._free, self._at_work, self._starting, self._without_files)
        return min(self._most, sum(map(len, there)))

    def organs(self) -> dict[int, str]:
        """The organs of the first site, as its own cohort names them.

        Raises:
            AmosError: the site's settings or cohort cannot be read on its machine.
        """
        process = next(process for process in self._starting.values() if process.place == self._places[0])
        try:
            process.found(ray.get(process.host.where.remote()))
            return ray.get(process.host.organs.remote())
        except RayTaskError as error:
            raise AmosError(str(error.cause)) from None
        except RayError as error:
            raise AmosError(f"engine.site_nodes: the process on {process.place.text} ended: {error}") from None

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids, stored = [], dict[int, Any]()
        self._starting |= {process.host.where.remote(): process for process in self._without_files}
        self._without_files.clear()  # until they answer again
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
        replies, self._unplaced = self._unplaced, []
        if not replies and (self._at_work or self._starting):
            done, _ = ray.wait([*self._at_work, *self._starting], num_returns=1, timeout=WAIT_S)
            for reference in done:
                if reference in self._starting:
                    self._welcome(reference)
                else:
                    replies.append(self._reply(reference, *self._at_work.pop(reference)))
        self._hand_out()
        return [reply for reply in replies if reply.metadata.reply_to_message_id in wanted]

    def give_up(self, site: int) -> None:
        """Drop what waits for a site, by its number, and end the process that is at work for it."""
        node = FIRST_NODE + site
        self._queue = deque(waiting for waiting in self._queue if waiting[0].metadata.dst_node_id != node)
        for process, message in self._at_work.values():
            if message.metadata.dst_node_id == node:
                process.end()

    def _place_of(self, message: Message) -> Where:
        return self._places[message.metadata.dst_node_id - FIRST_NODE]

    def _hand_out(self) -> None:
        """Give each free process the first message for one of its sites, while no more are at work than allowed."""
        for message, arrays in list(self._queue):
            place = self._place_of(message)
            process = next((process for process in self._free if process.place == place), None)
            if process is None:
                self._refuse_if_away(message, arrays, place)
            elif len(self._at_work) < self._most:
                self._queue.remove((message, arrays))
                self._free.remove(process)
                self._begin(process, message, arrays)

    def _begin(self, process: Process, message: Message, arrays: list[tuple[str, Any]]) -> None:
        rest = RecordDict({name: record for name, record in message.content.items() if name not in dict(arrays)})
        about, names = message.metadata, [name for name, _ in arrays]
        reference = process.host.carry_out.remote(
            about.dst_node_id, about.message_type, about.group_id, rest, names, *(stored for _, stored in arrays)
        )
        self._at_work[reference] = process, message

    def _refuse_if_away(self, message: Message, arrays: list[tuple[str, Any]], place: Where) -> None:
        """Answer for a site whose machine has left the cluster: nobody else will until it is back."""
        if place.text is None or any(process.place == place for process, _ in self._at_work.values()):
            return
        if time.monotonic() - self._nodes[0] > LOOK_S:
            self._nodes = time.monotonic(), ray.nodes()
        if not any(place.has(node) for node in self._nodes[1]):
            self._queue.remove((message, arrays))
            self._unplaced.append(_error(message, RAISED, f"its machine, {place.text}, is not in the cluster"))

    def _reply(self, reference: Any, process: Process, message: Message) -> Message:
        found: Any
        try:
            found = ray.get(reference)
            self._free.append(process)
        except RayActorError:
            found = RAISED, DIED
            self._starting[process.host.where.remote()] = process
        except RayError as error:
            found = RAISED, str(error)
            self._free.append(process)
        if isinstance(found, tuple):
            return _error(message, *found)
        reply = Message(found, reply_to=message)
        give_id(reply)
        return reply

    def _welcome(self, reference: Any) -> None:
        """Use a process that has answered since it was started; ask one that has not again, until Ray restarts it."""
        process = self._starting.pop(reference)
        try:
            answer: Any = ray.get(reference)
        except RayError:
            time.sleep(WAIT_S)
            self._starting[process.host.where.remote()] = process
            return
        process.found(answer)
        if process.missing is None:
            self._free.append(process)
        else:
            self._without_files.append(process)
            self._refuse(process.place, process.missing)

    def _refuse(self, place: Where, why: str) -> None:
        """Answer for the sites of a place that has no other process."""
        others = [*self._free, *self._starting.values(), *(process for process, _ in self._at_work.values())]
        if all(process.place != place for process in others):
            for message, arrays in [waiting for waiting in self._queue if self._place_of(waiting[0]) == place]:
                self._queue.remove((message, arrays))
                self._unplaced.append(_error(message, RAISED, why))


def _error(message: Message, code: int, reason: str | None) -> Message:
    reply = Message(Error(code=code, reason=reason), reply_to=message)
    give_id(reply)
    return reply
