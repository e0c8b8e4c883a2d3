"""Sentences that warn: said where something is seen, heard where somebody can be told."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from amos_fl.errors import AmosWarning

_listener: ContextVar[list[str] | None] = ContextVar("listener", default=None)
_said: set[str] = set()


def warn(sentence: str) -> None:
    """Say something that a user should know and that does not stop the work.

    Inside of `heard` it is collected; otherwise it is an `AmosWarning`, once per process: a scan is read many times.
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
    """Collect the sentences that are said inside, each once, instead of showing them.

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
