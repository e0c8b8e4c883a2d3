"""Emit warnings for the user, and collect them where they can be shown."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from amos_fl.errors import AmosWarning

_listener: ContextVar[list[str] | None] = ContextVar("listener", default=None)
_said: set[str] = set()


def warn(sentence: str) -> None:
    """Warn the user without stopping the work.

    Inside `heard` the sentence is collected; otherwise it is an `AmosWarning`, once per process, because a scan is read
    many times.
    """
    listener = _listener.get()
    if listener is not None:
        if sentence not in listener:
            listener.append(sentence)
    elif sentence not in _said:
        warnings.warn(AmosWarning(sentence), stacklevel=3)
        _said.add(sentence)


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collect the warnings emitted inside, each once, instead of showing them.

    >>> with heard() as sentences:
    ...     warn("c0.nii.gz: its header does not say which way the patient lies")
    >>> sentences
    ['c0.nii.gz: its header does not say which way the patient lies']
    """
    sentences: list[str] = []
    before = _listener.set(sentences)
    try:
        yield sentences
    finally:
        _listener.reset(before)
