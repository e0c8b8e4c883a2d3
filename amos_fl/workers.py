"""Work spread over processes, results in the order of the work."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from amos_fl.errors import AmosError

Result = TypeVar("Result")


def each(
    work: Callable[..., Result],
    *items: Sequence[Any],
    workers: int,
    start: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """`map(work, *items)` over processes; `start` is called first in each. With one worker, in this process.

    An interrupt ends the processes at once; they do not finish what they have been handed.

    Raises:
        AmosError: a process died.
    """
    if workers <= 1 or len(items[0]) <= 1:
        yield from map(work, *items)
        return
    others = set(multiprocessing.active_children())
    # spawn: a forked child would inherit the locks of whatever threads this process runs
    pool = ProcessPoolExecutor(
        min(workers, len(items[0])), multiprocessing.get_context("spawn"), initializer=_begin, initargs=(start,)
    )
    finished = False
    try:
        yield from pool.map(work, *items)
        finished = True
    except BrokenProcessPool:
        raise AmosError("a worker process was killed, probably for want of memory; use fewer --workers") from None
    finally:
        pool.shutdown(wait=finished, cancel_futures=True)
        # Shut down alone, a pool still finishes the cases it has handed out: minutes after a Ctrl-C.
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()


def _begin(start: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt does
    if start is not None:
        start()
