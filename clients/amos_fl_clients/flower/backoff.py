"""How long a site's processes wait before they look again for a message or a task."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

BELL = "AMOS_FL_BELL"
"""The environment variable that tells a SuperExec the file descriptor of its doorbell."""
FLOWERS_WAIT_S = 3.0
"""How long Flower 1.42 waits if there was no message; its other waits are for work of this machine."""


OVERLOADED_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""How long a site waits before each new attempt at a request at which the SuperLink failed."""


def asking_again(
    ask: Callable[..., Any], waits_s: Sequence[float] = OVERLOADED_WAITS_S, pause: Callable[[float], None] = time.sleep
) -> Callable[..., Any]:
    """A method of Flower's client that repeats a request if the SuperLink fails at it (HTTP 500).

    An overloaded SuperLink fails like this when its database is locked for too long. Flower 1.42 then drops the message
    or reply in hand, and its run waits for it for half a day. Each of these requests may safely be made twice.
    """

    def ask_again(*arguments: Any, **more: Any) -> Any:
        for wait_s in waits_s:
            try:
                return ask(*arguments, **more)
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.INTERNAL_SERVER_ERROR:
                    raise
            pause(wait_s)
        return ask(*arguments, **more)

    return ask_again


@dataclass
class Backoff:
    """Waits that grow with the time since the last message.

    A site that has just answered will soon be asked again; after an hour of waiting, seconds do not matter. So it looks
    again after a twentieth of the time that it has waited, within bounds.
    """

    least_s: float = 0.2
    most_s: float = FLOWERS_WAIT_S
    share: float = 0.05
    near_s: float = 0.1
    """The wait for something that happens on this machine."""
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    since: float = field(init=False)

    def __post_init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Start again with short waits, because something has arrived."""
        self.since = self.clock()

    def sleep(self, seconds: float) -> None:
        """Wait, in place of Flower's wait of so many seconds."""
        if seconds < FLOWERS_WAIT_S:
            self.pause(min(seconds, self.near_s))
            self.begin_anew()  # the site is at work, so the next message will come soon
            return
        self.pause(min(max(self.share * (self.clock() - self.since), self.least_s), self.most_s, seconds))


class Doorbell:
    """Wakes one process from another: ringing it in one ends the wait of the other."""

    def __init__(self) -> None:
        self.heard_at, self._rope = os.pipe()
        os.set_blocking(self._rope, False)

    @classmethod
    def at(cls, descriptor: int) -> "Doorbell":
        """The bell that another process rings, at an inherited file descriptor."""
        bell = cls.__new__(cls)
        bell.heard_at, bell._rope = descriptor, -1
        return bell

    def ring(self) -> None:
        """End the other's wait, or its next one."""
        with suppress(BlockingIOError):  # the pipe is full, so the other will wake up anyway
            os.write(self._rope, b".")

    def wait(self, seconds: float) -> None:
        """Wait until it is rung, or for so many seconds."""
        ready, _, _ = select.select([self.heard_at], [], [], seconds)
        if ready and not os.read(self.heard_at, 4096):
            time.sleep(seconds)  # whoever rang it is gone

    def end_with_the_other(self) -> None:
        """Terminate this process in an orderly way when the ringing process has ended, for whatever reason."""

        def watch() -> None:
            gone = select.poll()
            gone.register(self.heard_at, 0)  # no event except that the other end is closed
            gone.poll()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, daemon=True).start()
