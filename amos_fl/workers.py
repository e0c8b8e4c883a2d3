"""Work spread over processes, results in the order of the work. All processes of the core come from here.

Workers end with the process that they work for, whatever ends it. They hear none of the signals that tell a process to
stop: their parent decides what becomes of one, and tells them. They do not import the main module again, so a plain
script can call what uses them, without `if __name__ == "__main__"`; their work is found in an importable module.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from amos_fl import stopping
from amos_fl.errors import AmosError
from amos_fl.stopping import REQUESTS
from amos_fl.warned import heard, warn

Returned = TypeVar("Returned")
GRACE_S = 5.0
"""So long a worker has to remove what it has half written; then it is killed."""
LOOK_S = 1.0
_END = signal.SIGUSR1
_PR_SET_PDEATHSIG = 1
_at_work: set[BaseProcess] = set()
_hiding = threading.RLock()


class WorkerKilled(AmosError):  # noqa: N818 - named after what happened
    """A process that worked was killed from outside, most likely by the system because memory ran out."""


def each(
    work: Callable[..., Returned],
    *items: Sequence[Any],
    workers: int,
    start: Callable[[], None] | None = None,
) -> Iterator[Returned]:
    """`map(work, *items)` over processes; `start` is called first in each. With one worker, in this process.

    An interrupt, and an error in one piece of work, end the processes; they do not finish what they have been handed.
    What they warn of is said in this process. `work` and what it is given are defined in modules that can be imported.

    Raises:
        WorkerKilled: a process died.
        ValueError: `work` is defined in the main module, which the processes do not have.
    """
    if workers <= 1 or len(items[0]) <= 1:
        yield from map(work, *items)
        return
    yield from _in_processes(work, list(zip(*items, strict=True)), workers, start)


def each_tried(work: Callable[..., Returned], *items: Sequence[Any], workers: int) -> Iterator[Returned | AmosError]:
    """`each`, but a piece of work that raises an AmosError has it for a result, and the others go on.

    The kinds of AmosError that would meet the next piece of work, too, end it all (DiskFull, WorkerKilled).

    Raises:
        AmosError, ValueError: as `each`.
    """
    _check_importable(work)
    return each(partial(_tried, work), *items, workers=workers)


def _tried(work: Callable[..., Returned], *arguments: Any) -> Returned | AmosError:
    try:
        return work(*arguments)
    except AmosError as error:
        if type(error) is not AmosError:
            raise
        return error


def apart(work: Callable[..., Returned], *arguments: Any) -> Returned:
    """`work(*arguments)` in a process of its own, even for one piece of work.

    Raises:
        WorkerKilled: it died.
    """
    [result] = _in_processes(work, [arguments], 1, None)
    return result


def end_all() -> None:
    """End every worker of this process; for its last moments, when what they do is of no more use."""
    _end(list(_at_work))


@contextmanager
def main_module_hidden() -> Iterator[None]:
    """Processes that are spawned meanwhile do not import the main module: a plain script would be run once more there.

    `multiprocessing` names that module to a new process by its `__spec__` or its `__file__`; a script on standard input
    has a `__file__` that no process can open.
    """
    main = sys.modules["__main__"]
    with _hiding:
        hidden = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
        vars(main).pop("__file__", None)
        vars(main)["__spec__"] = None
        try:
            yield
        finally:
            vars(main).pop("__spec__")
            vars(main).update(hidden)


class _Process(SpawnProcess):
    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: N802 - multiprocessing's name
        with main_module_hidden():
            return SpawnProcess._Popen(process_obj)  # pyright: ignore[reportAttributeAccessIssue]


class _Context(SpawnContext):
    """spawn, because a forked child would inherit the locks of whatever threads this process runs."""

    Process = _Process


def _in_processes(
    work: Callable[..., Returned], items: Sequence[Sequence[Any]], workers: int, start: Callable[[], None] | None
) -> Iterator[Returned]:
    _check_importable(work)
    pool = ProcessPoolExecutor(min(workers, len(items)), _Context(), initializer=_begin, initargs=(start,))
    others = set(multiprocessing.active_children())
    mine: set[BaseProcess] = set()
    finished = False
    try:
        with stopping.held(), _requests_masked():
            try:
                futures = [pool.submit(_do, work, *arguments) for arguments in items]
            finally:
                mine = set(multiprocessing.active_children()) - others
                _at_work.update(mine)
        futures.reverse()
        while futures:
            answer: list[Any] = list(futures.pop().result())
            for sentence in answer.pop():
                warn(sentence)
            yield answer.pop()  # and nobody holds the result any longer
        finished = True
    except BrokenProcessPool:
        raise WorkerKilled(
            "a worker process was killed, probably because memory ran out; use fewer workers (--workers, or "
            "prepare_workers in a run's settings)"
        ) from None
    finally:
        if not finished:
            # Before the pool is told: it would finish the cases that it has handed out, minutes after a Ctrl-C. No
            # future is cancelled from here, because the pool's own thread stumbles over those that are.
            _end(mine)
        pool.shutdown(wait=True, cancel_futures=not finished)
        _at_work.difference_update(mine)


def _check_importable(work: Callable[..., Any]) -> None:
    if getattr(getattr(work, "func", work), "__module__", None) == "__main__":
        raise ValueError(f"{work} is defined in the main module; worker processes need it from one they can import")


@contextmanager
def _requests_masked() -> Iterator[None]:
    """Processes that are started meanwhile hear no request to stop before they have decided how to take one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(processes: "Sequence[BaseProcess] | set[BaseProcess]") -> None:
    """Tell workers to end, wait for them a little, and kill what is left."""
    left = {process.sentinel: process for process in processes if process.is_alive()}
    try:
        for process in left.values():
            with suppress(ProcessLookupError, TypeError):
                os.kill(process.pid, _END)  # pyright: ignore[reportArgumentType] - it has been started
        deadline = time.monotonic() + GRACE_S
        while left and (rest := deadline - time.monotonic()) > 0:
            for sentinel in wait(list(left), rest):
                left.pop(sentinel)  # pyright: ignore[reportArgumentType, reportCallIssue] - it is one of them
    finally:  # pressed again, Ctrl-C does not wait
        for process in left.values():
            process.kill()


# --- in a worker ----------------------------------------------------------------------------------


class _Ended(SystemExit):
    """The parent wants no more of this worker; a SystemExit, so that no handler of errors keeps it."""


_working = False
_told = False


def _on_end(signum: int, frame: object) -> None:
    global _told
    _told = True
    if not _working:  # nothing is half written, and an import that is broken off would complain
        os._exit(1)
    raise _Ended(1)


def _do(work: Callable[..., Returned], *arguments: Any) -> tuple[Returned, list[str]]:
    """What `work` returns, and what it warned of meanwhile."""
    global _working
    _working = True
    try:
        with heard() as sentences:
            result = work(*arguments)
        return result, sentences
    except BaseException:
        if _told:  # what was half written is removed by now; the pool would hand out the next piece of work
            os._exit(1)
        raise
    finally:
        _working = False


def _begin(start: Callable[[], None] | None) -> None:
    for request in REQUESTS:
        signal.signal(request, signal.SIG_IGN)
    signal.signal(_END, _on_end)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
    _end_with_parent()
    if start is not None:
        start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    assert parent.pid is not None
    if sys.platform == "linux":  # at once, whatever this process is doing then
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=_watch, args=(parent.pid, parent.sentinel), daemon=True).start()


def _watch(parent: int, sentinel: int) -> None:
    """Wait for the end of the pipe that the parent holds; in case it was inherited, look who is parent, too."""
    while not wait([sentinel], LOOK_S) and os.getppid() == parent:
        pass
    os._exit(1)
