"""The end of a site's processes: orderly when they are told or their SuperNode has gone, and then for certain.

Flower 1.42 ends a message's process by a signal to itself if the SuperExec's process id is no longer in use or its
token is refused. A process id stays in use where nobody reaps it, as in many containers, and the signal's handler waits
for whatever the process is at: it could stay for good, with its memory.
"""

import os
import signal
import threading
import time

from amos_fl_clients.flower.backoff import BELL, Doorbell

GRACE_S = 6.0
"""Flower takes up to five seconds to end a program that was told to."""
_TOLD = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)


def end_for_certain(grace_s: float = GRACE_S) -> None:
    """Let this process end by force some time after it was told to, whatever its main thread is at."""
    hears, says = os.pipe()
    os.set_blocking(says, False)
    signal.set_wakeup_fd(says, warn_on_full_buffer=False)  # written to as a signal arrives, before its handler

    def watch() -> None:
        while received := os.read(hears, 1):
            if received[0] in _TOLD:
                time.sleep(grace_s)
                os._exit(128 + received[0])

    threading.Thread(target=watch, daemon=True).start()


def bell_here() -> list[int]:
    """The file descriptor of the SuperNode's bell, if this process has one, for the processes that it starts."""
    return [int(os.environ[BELL])] if BELL in os.environ else []


def end_with_the_supernode() -> None:
    """Let this process end when its SuperNode has ended, for whatever reason."""
    end_for_certain()
    for descriptor in bell_here():
        Doorbell.at(descriptor).end_with_the_other()
