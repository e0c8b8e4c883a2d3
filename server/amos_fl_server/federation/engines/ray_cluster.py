"""Run Ray around some work, in a separate thread and with this process's own SIGTERM handler.

Ray installs its own SIGTERM handler: its Python half exits with `sys.exit`, and its C++ half prints a crash. And its
processes end with the thread that started them, which therefore stays until Ray is shut down. Processes left over then,
or when this process is killed, are ended by a process of our own (`ray_watch`).
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Read by Ray at its import: no reports to its makers, no warnings that a user cannot act on.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# By default Ray runs what it starts at a niceness of 15: anything else on the machine would keep it from its work.
os.environ.setdefault("RAY_worker_niceness", "0")
# An update that was added leaves the object store at once, not within a second with others: its place is used again.
os.environ.setdefault("RAY_free_objects_batch_size", "1")

import ray

from amos_fl.stopping import REQUESTS
from amos_fl_server.federation.engines.ray_watch import begin_watch, end_watch

LOOK_S = 0.05


@contextmanager
def running_ray(**arguments: Any) -> Iterator[None]:
    """A context in which Ray runs, started by `ray.init(**arguments)`, whose exceptions are raised."""
    begun, over = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def home() -> None:
        try:
            ray.init(**arguments)
        except BaseException as error:  # raised where it is waited for
            failed.append(error)
        finally:
            begun.set()
        over.wait()
        ray.shutdown()

    in_main = threading.current_thread() is threading.main_thread()
    ours = {request: signal.getsignal(request) for request in REQUESTS} if in_main else {}
    watch = begin_watch() if arguments.get("address") == "local" else None
    thread = threading.Thread(target=home, name="ray", daemon=True)
    thread.start()
    try:
        waiting = True
        while waiting:  # and not only at the end: starting Ray takes seconds
            waiting = not begun.wait(LOOK_S)
            for request, handler in ours.items():
                signal.signal(request, handler)
        if failed:
            raise failed[0]
        yield
    finally:
        over.set()
        thread.join()
        if watch is not None:
            end_watch(watch)
