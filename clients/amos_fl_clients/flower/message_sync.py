"""Make a SuperNode answer the message that it received, whatever else it has to send.

Flower's loop receives a message, waits for a reply, sends it, and looks for the next message. If a run ends between a
message and its confirmation, for example because the SuperLink was restarted, the message is dropped; but its process
has started, and replies. The loop then takes that reply for the one to its next message, whose own reply stays behind
until yet another message comes: from then on the site is one message late, and the run waits for it.
"""

from collections.abc import Callable
from typing import Any


class MessageSync:
    """The two halves of Flower's loop, which share which message is to be answered."""

    def __init__(self) -> None:
        self._taken_in: str | None = None
        self._answered: set[str] = set()

    def pulling(self, pull: Callable[..., Any]) -> Callable[..., Any]:
        """Flower's half that receives a message."""

        def pull_noted(*arguments: Any, receive: Callable[[], Any], **more: Any) -> Any:
            def receive_noted() -> Any:
                received = receive()
                if received is not None:
                    self._taken_in = received[0].metadata.message_id
                return received

            self._taken_in = None
            return pull(*arguments, receive=receive_noted, **more)

        return pull_noted

    def pushing(self, push: Callable[..., Any]) -> Callable[..., Any]:
        """Flower's half that sends the available replies, repeated until the one to the message is among them."""

        def push_until_answered(*arguments: Any, send: Callable[..., Any], **more: Any) -> None:
            def send_noted(message: Any, *others: Any) -> Any:
                self._answered.add(message.metadata.reply_to_message_id)
                return send(message, *others)

            while True:
                push(*arguments, send=send_noted, **more)
                if self._taken_in is None or self._taken_in in self._answered:
                    break
            self._answered.clear()

        return push_until_answered
