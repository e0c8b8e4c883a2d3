"""Handle requests to stop alike: Ctrl-C (SIGINT), SIGTERM (of a scheduler or `docker stop`), SIGHUP (closed terminal).

By default a command gets a KeyboardInterrupt; a run asks its sites to stop between two steps (`taking_requests`), and
work that may be interrupted at any moment (`at_once`) stops there. If SIGHUP or SIGTERM are ignored from the beginning,
as with `nohup`, they stay ignored.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

from amos_fl.errors import Interrupted

REQUESTS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
INTERRUPTED = 128 + signal.SIGINT
"""The exit code of what was stopped by request, and may go on."""
SAME_REQUEST_S = 1.0
"""`timeout` and `docker compose` signal a process twice at once, directly and through its group; that counts once."""
AGAIN_S = 0.05
"""After this time a request that Python dropped is sent once more."""
_received: list[tuple[int, float]] = []
_at_once = 0
_held = 0
_waiting: list[Callable[[], None]] = []


def exit_code() -> int:
    """128 and the signal's number: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + _received[0][0] if _received else INTERRUPTED


def words() -> str:
    """The reason why this process stopped, for its last line."""
    told = _received[0][0] if _received else signal.SIGINT
    return "interrupted" if told == signal.SIGINT else f"stopped by {signal.Signals(told).name}"


def requested() -> bool:
    """Whether this process was told to stop."""
    return bool(_received)


def forget() -> None:
    """Forget earlier requests to stop, before new work begins."""
    _received.clear()


@contextmanager
def at_once() -> Iterator[None]:
    """Context for work of the main thread that can be interrupted anywhere: a request ends it at once."""
    global _at_once
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _at_once += 1
    try:
        yield
    finally:
        _at_once -= 1


@contextmanager
def held() -> Iterator[None]:
    """Context for work of the main thread that must not be interrupted: a request takes effect at its end.

    A signal mask would not do: another thread takes the signal, and Python runs its handler in the main thread.
    """
    global _held
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if not _held:
            waiting, _waiting[:] = _waiting[:], []
            for hear in waiting:
                hear()


def _hear(action: Callable[[], None]) -> None:
    if _held:
        _waiting.append(action)
    else:
        action()


def _interrupt() -> None:
    raise KeyboardInterrupt


def _hear_again(lost: "sys.UnraisableHookArgs") -> None:
    """Send a request once more that Python has dropped, because it came during the callback of a weak reference.

    A run that was asked to stop (Interrupted) looks for the request between its steps.
    """
    if issubclass(lost.exc_type, Interrupted):
        return
    if lost.exc_type is KeyboardInterrupt and _received:
        number = _received[0][0]
        forget()
        again = threading.Timer(AGAIN_S, _send, [number])
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)


def _send(number: int) -> None:
    """Send the main thread a signal, by which it wakes."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        signal.raise_signal(number)


def may_stop_here() -> bool:
    return _at_once > 0


def interrupt_on_request() -> None:
    """Make every further request a KeyboardInterrupt in the main thread."""
    forget()
    sys.unraisablehook = _hear_again

    def on_signal(signum: int, frame: FrameType | None) -> None:
        if _is_new(signum):
            _hear(_interrupt)

    for request in REQUESTS:
        if _heard(request):
            signal.signal(request, on_signal)


@contextmanager
def taking_requests(on_request: Callable[[int], None]) -> Iterator[None]:
    """Have `on_request(how many so far)` called in the main thread instead; elsewhere, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    forget()
    count = 0

    def on_signal(signum: int, frame: FrameType | None) -> None:
        nonlocal count
        if _is_new(signum):
            count += 1
            _hear(partial(on_request, count))

    # A Ray process has its own SIGTERM handler, by which Ray ends it.
    ours = [request for request in REQUESTS if request == signal.SIGINT or _heard(request)]
    before = {request: signal.signal(request, on_signal) for request in ours}
    try:
        yield
    finally:
        for request, handler in before.items():
            signal.signal(request, handler)


def _heard(request: int) -> bool:
    """Whether no other code handles this signal."""
    handler = signal.getsignal(request)
    return handler in (signal.SIG_DFL, signal.default_int_handler) or getattr(handler, "__module__", "") == __name__


def _is_new(signum: int) -> bool:
    """Record a request; False for the duplicate of one that was sent twice."""
    now = time.monotonic()
    again = signum != signal.SIGINT and any(now - at < SAME_REQUEST_S for _, at in _received)
    _received.append((signum, now))
    if signum == getattr(signal, "SIGHUP", None):
        _leave_terminal()
    return not again


def _leave_terminal() -> None:
    """Stop writing to the closed terminal, where every further line would raise an error."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            if stream.isatty():
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
