"""How long a site's processes wait between two looks: for a message that may come, and for a task that has come."""

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
"""The environment variable by which a SuperExec is told where its bell is heard."""
FLOWERS_WAIT_S = 3.0
"""What Flower 1.42 waits when there was no message; its other waits are for what this machine is about to finish."""


OVERLOADED_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""How long a site waits, one time after another, before it asks a SuperLink again that failed at its request."""


def asking_again(
    ask: Callable[..., Any], waits_s: Sequence[float] = OVERLOADED_WAITS_S, pause: Callable[[float], None] = time.sleep
) -> Callable[..., Any]:
    """A method of Flower's client that asks again where the SuperLink fails at a request (HTTP 500).

    A SuperLink that is overloaded fails so when its database is locked for too long. Flower 1.42 then lets go of the
    message or of the reply in hand, and its run waits for that for half a day. Each of the requests may be made twice.
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
    """Waits that grow with the time for which nothing has come.

    A site that has just answered will soon be asked again; one that has waited for an hour will not mind seconds. So
    it looks again after a twentieth of the time that it has waited, in bounds.
    """

    least_s: float = 0.2
    most_s: float = FLOWERS_WAIT_S
    share: float = 0.05
    near_s: float = 0.1
    """For what happens on this machine."""
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    since: float = field(init=False)

    def __post_init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Something has come."""
        self.since = self.clock()

    def sleep(self, seconds: float) -> None:
        """Wait, where Flower would wait for so many seconds."""
        if seconds < FLOWERS_WAIT_S:
            self.pause(min(seconds, self.near_s))
            self.begin_anew()  # it is at work, so the next message is near
            return
        self.pause(min(max(self.share * (self.clock() - self.since), self.least_s), self.most_s, seconds))


class Doorbell:
    """Rung in one process, it ends the wait of another."""

    def __init__(self) -> None:
        self.heard_at, self._rope = os.pipe()
        os.set_blocking(self._rope, False)

    @classmethod
    def at(cls, descriptor: int) -> "Doorbell":
        """The bell that another process rings, heard at a descriptor that was handed on."""
        bell = cls.__new__(cls)
        bell.heard_at, bell._rope = descriptor, -1
        return bell

    def ring(self) -> None:
        """End the other's wait, or its next one."""
        with suppress(BlockingIOError):  # it has been rung often enough
            os.write(self._rope, b".")

    def wait(self, seconds: float) -> None:
        """Wait until it is rung, or for so many seconds."""
        ready, _, _ = select.select([self.heard_at], [], [], seconds)
        if ready and not os.read(self.heard_at, 4096):
            time.sleep(seconds)  # whoever rang it is gone

    def end_with_the_other(self) -> None:
        """Have this process ended in good order when the one that rings has ended, however it did."""

        def watch() -> None:
            gone = select.poll()
            gone.register(self.heard_at, 0)  # no event but that its other end is closed
            gone.poll()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, daemon=True).start()
