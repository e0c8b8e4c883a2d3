"""What our own grids need from Flower beyond its interface: message numbers, and the identity of this process."""

import uuid
from collections.abc import Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["OwnGrid", "Run", "answers", "begin_task", "give_id", "nodes_of"]


class OwnGrid(Grid):
    """A grid whose messages are made as Flower makes them."""

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)


def begin_task(run_id: int, node_id: int) -> None:
    """Set the run and node that this process works for; Flower writes them into every message."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, 1


def give_id(message: Message) -> None:
    """Give a message a number, as Flower's own in-memory grid does: there is no other way to set it.

    https://github.com/flwrlabs/flower/pull/5432
    """
    message.metadata.__dict__["_message_id"] = uuid.uuid4().hex


def answers(reply: Message, message_id: str) -> None:
    """Mark a reply as one to another message, which the message that it answers repeated."""
    reply.metadata.__dict__["_reply_to_message_id"] = message_id


def nodes_of(grid: Grid) -> Iterable[Any]:
    """What Flower's grid of a deployment knows about each connected node; nothing for any other grid."""
    return list(getattr(grid, "get_nodes", tuple)())
