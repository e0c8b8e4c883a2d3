"""The ledger of a run that is carried out: a line is appended per round, and what is in it is neither read nor held.

It is written twice, for people and reports beside the settings, and beside the checkpoints, so that either file can be
made from the other. A checkpoint holds how far both had come, with a hash. A resume goes on from there: what was
written after it belongs to a round that is carried out again, and is cut off.
"""

import hashlib
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import Field

from amos_fl.errors import AmosError
from amos_fl.files import append_line, whole_file, write_text
from amos_fl.runs.ledger import LedgerEntry, entries_in, ledger_text, sites_in_weights
from amos_fl.runs.stored import Stored, json_line

_PIECE = 1 << 20


class Extent(Stored):
    """How far a ledger had come: the bytes of its lines, and their SHA-256."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LedgerFile:
    """The ledger in `file` and its `copy`, appended to from the first round or from a checkpoint on.

    `rounds` are in it; `averaged` are the sites whose updates are in the weights of some round.
    """

    def __init__(self, file: Path, copy: Path) -> None:
        self._files = (file, copy)
        self._forget()

    def _forget(self) -> None:
        self.rounds: int = 0
        self.averaged: set[str] = set()
        self._bytes, self._digest = 0, hashlib.sha256()
        # By site the first and the last of consecutive rounds in which it took part, one such pair after another.
        self._spans: dict[str, array[int]] = {}

    @property
    def extent(self) -> Extent:
        return Extent(bytes=self._bytes, sha256=self._digest.hexdigest())

    def begin(self) -> None:
        """Begin without a round: a kill before the first checkpoint may have left one."""
        self._forget()
        for file in self._files:
            file.unlink(missing_ok=True)

    def append(self, entry: LedgerEntry) -> None:
        """Write a round; it is on disk, twice, when this returns."""
        line = json_line(entry)
        for file in reversed(self._files):
            append_line(file, line)
        content = f"{line}\n".encode()
        self._bytes += len(content)
        self._digest.update(content)
        self._note(entry)

    def _note(self, entry: LedgerEntry) -> None:
        self.rounds = number = entry["round"]
        self.averaged.update(sites_in_weights(entry))
        for site in entry["sites"]:
            spans = self._spans.setdefault(site, array("q"))
            if spans and spans[-1] == number - 1:
                spans[-1] = number
            else:
                spans.extend((number, number))

    def last_round_with(self, site: str, up_to: int) -> int:
        """The last round up to this one in which a site took part; 0 if there is none."""
        spans = self._spans.get(site, array("q"))
        begun = bisect_right(spans[::2], up_to)
        return min(spans[2 * begun - 1], up_to) if begun else 0

    def go_on(self, written: Extent | Sequence[LedgerEntry], rounds: int, source: Path) -> None:
        """Continue after the round of the checkpoint in `source`; `written` is how far the ledger then reached.

        A checkpoint of an older version holds the entries themselves: then both files are written from them.

        Raises:
            AmosError: both files are damaged.
        """
        self._forget()
        if not isinstance(written, Extent):
            text = ledger_text(written)
            for file in self._files:
                write_text(file, text)
            written = _extent_of(text.encode())
        ledger, copy = self._files
        remedy = (
            f"put one of them back from another copy of the run, or remove the folder {source.parent} and resume, "
            "which starts again"
        )
        digests = {file: _digest_of(file, written.bytes) for file in self._files}
        holds = {file: digest.hexdigest() == written.sha256 for file, digest in digests.items()}
        whole = next((file for file in self._files if holds[file]), None)
        if whole is None:
            raise AmosError(
                f"{ledger}: does not hold the {rounds} rounds up to the checkpoint {source} as they were written, and "
                f"its copy {copy} does not, either",
                remedy,
            )
        for file in self._files:
            if not holds[file]:
                _copy(whole, file, written.bytes)
            elif file.stat().st_size > written.bytes:
                os.truncate(file, written.bytes)
        for entry in entries_in(ledger, remedy):
            self._note(entry)
        if self.rounds != rounds:
            raise AmosError(f"{ledger}: holds {self.rounds} rounds, and {source} is of round {rounds}", remedy)
        self._bytes, self._digest = written.bytes, digests[whole]


def _extent_of(content: bytes) -> Extent:
    return Extent(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _pieces(file: Path, length: int) -> Iterator[bytes]:
    """Yield the first so many bytes of a file, in pieces."""
    with file.open("rb") as opened:
        while piece := opened.read(min(length, _PIECE)):
            length -= len(piece)
            yield piece


def _digest_of(file: Path, length: int) -> "hashlib._Hash":
    """The SHA-256 of as many of a file's first bytes as can be read."""
    digest = hashlib.sha256()
    with suppress(OSError):
        for piece in _pieces(file, length):
            digest.update(piece)
    return digest


def _copy(source: Path, target: Path, length: int) -> None:
    with whole_file(target) as beside, beside.open("wb") as opened:
        opened.writelines(_pieces(source, length))
