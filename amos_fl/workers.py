"""Run work in parallel processes, with results in the order of the work. All processes of the core start here.

Workers end with their parent process, however it ends. They ignore the signals that ask a process to stop: their parent
handles them and tells the workers. They do not import the main module again, so a plain script needs no
`if __name__ == "__main__"`; their work must be defined in an importable module.
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
"""How long a worker has to remove its partial files before it is killed."""
LOOK_S = 1.0
_END = signal.SIGUSR1
_PR_SET_PDEATHSIG = 1
_at_work: set[BaseProcess] = set()
_hiding = threading.RLock()


class WorkerKilled(AmosError):  # noqa: N818 - named after what happened
    """A worker process was killed from outside, most likely by the system because memory ran out."""


def each(
    work: Callable[..., Returned],
    *items: Sequence[Any],
    workers: int,
    start: Callable[[], None] | None = None,
) -> Iterator[Returned]:
    """`map(work, *items)` over processes; `start` is called first in each. With one worker, it runs in this process.

    An interrupt, or an error in one piece of work, ends the processes without finishing what they were handed. Their
    warnings are emitted in this process. `work` and its arguments must be defined in importable modules.

    Raises:
        WorkerKilled: a process died.
        ValueError: `work` is defined in the main module, which the processes do not have.
    """
    if workers <= 1 or len(items[0]) <= 1:
        yield from map(work, *items)
        return
    yield from _in_processes(work, list(zip(*items, strict=True)), workers, start)


def each_tried(work: Callable[..., Returned], *items: Sequence[Any], workers: int) -> Iterator[Returned | AmosError]:
    """`each`, but if a piece of work raises an AmosError, that is its result, and the others continue.

    Errors that would also hit the next piece of work end everything (DiskFull, WorkerKilled).

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
    """Run `work(*arguments)` in a separate process.

    Raises:
        WorkerKilled: it died.
    """
    [result] = _in_processes(work, [arguments], 1, None)
    return result


def end_all() -> None:
    """End every worker of this process, just before it ends itself."""
    _end(list(_at_work))


@contextmanager
def main_module_hidden() -> Iterator[None]:
    """Keep processes spawned inside from importing the main module, which would run a plain script again.

    `multiprocessing` passes that module to a new process by its `__spec__` or its `__file__`; a script on standard
    input has a `__file__` that no process can open.
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
            yield answer.pop()  # so that no reference to the result remains
        finished = True
    except BrokenProcessPool:
        raise WorkerKilled(
            "a worker process was killed, probably because memory ran out; use fewer workers (--workers, or "
            "prepare_workers in a run's settings)"
        ) from None
    finally:
        if not finished:
            # Before the pool shuts down: it would finish the cases that it has handed out, minutes after a Ctrl-C. No
            # future is cancelled here, because the pool's own thread fails on cancelled ones.
            _end(mine)
        pool.shutdown(wait=True, cancel_futures=not finished)
        _at_work.difference_update(mine)


def _check_importable(work: Callable[..., Any]) -> None:
    if getattr(getattr(work, "func", work), "__module__", None) == "__main__":
        raise ValueError(f"{work} is defined in the main module; worker processes need it from one they can import")


@contextmanager
def _requests_masked() -> Iterator[None]:
    """Mask requests to stop in processes started inside, until they have set up their handlers."""
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
    """Raised when the parent ends this worker; a SystemExit, so that no error handler catches it."""


_working = False
_told = False


def _on_end(signum: int, frame: object) -> None:
    global _told
    _told = True
    if not _working:  # no partial files, and an interrupted import would print an error
        os._exit(1)
    raise _Ended(1)


def _do(work: Callable[..., Returned], *arguments: Any) -> tuple[Returned, list[str]]:
    """Run `work`; returns its result and its warnings."""
    global _working
    _working = True
    try:
        with heard() as sentences:
            result = work(*arguments)
        return result, sentences
    except BaseException:
        if _told:  # partial files are removed by now; the pool would hand out the next piece of work
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
    """Wait for the parent's end of a pipe to close; another process may have inherited it, so check the parent too."""
    while not wait([sentinel], LOOK_S) and os.getppid() == parent:
        pass
    os._exit(1)
