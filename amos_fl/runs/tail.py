"""Read a file of lines as it grows, each line once."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from amos_fl.runs.ledger import ENTRY, LedgerEntry


@dataclass
class Tail:
    """A growing file of lines, such as a ledger or a log; one that was shortened is read again from its beginning."""

    path: Path
    _read: int = 0

    def lines(self) -> Iterator[bytes]:
        """Yield the whole lines since the last time; none where there is no file."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            if file.seek(0, 2) < self._read:
                self._read = 0
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                yield line


def entry_of(line: bytes) -> LedgerEntry:
    """A line of a ledger.

    Raises:
        ValueError: it is damaged.
    """
    return ENTRY.validate_json(line.replace(b": NaN", b": null"))  # as it was written before NaN became null
