"""Work spread over processes, results in the order of the work."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from amos_fl.errors import AmosError
from amos_fl.warned import heard, warn

Result = TypeVar("Result")


def each(
    work: Callable[..., Result],
    *items: Sequence[Any],
    workers: int,
    start: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """`map(work, *items)` over processes; `start` is called first in each. With one worker, in this process.

    An interrupt or an error ends the processes at once; they do not finish what they have been handed. What they warn
    of is said in this process.

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
        futures = [pool.submit(hearing, work, *arguments) for arguments in zip(*items, strict=True)]
        for future in futures:
            result, sentences = future.result()
            for sentence in sentences:
                warn(sentence)
            yield result
        finished = True
    except BrokenProcessPool:
        raise AmosError("a worker process was killed, probably for want of memory; use fewer --workers") from None
    finally:
        # Shut down alone, a pool still finishes the cases it has handed out: minutes after a Ctrl-C. Its thread finds
        # the processes gone and fails what is left; over what was cancelled before it would stumble, in a traceback.
        if not finished:
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
        pool.shutdown(wait=True)


def hearing(work: Callable[..., Result], *arguments: Any) -> tuple[Result, list[str]]:
    """What `work` returns in a worker process, and what it warned of meanwhile."""
    with heard() as sentences:
        result = work(*arguments)
    return result, sentences


def _begin(start: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt does
    if start is not None:
        start()
