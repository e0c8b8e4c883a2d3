"""What happens in a run, as small values that a display shows and a log keeps.

A listener is any callable that takes an event. Nothing in a run depends on what a listener does.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from amos_fl.errors import Interrupted
from amos_fl.files import write_text


@dataclass(frozen=True)
class SiteWork:
    """A site has done `done` of `total` pieces of one activity of one round.

    `activity` is `prepare` (cases), `train` (optimizer steps; `loss` is that of the step) or
    `evaluate` (cases).
    """

    site: str
    activity: str
    round: int
    done: int
    total: int
    loss: float | None = None


@dataclass(frozen=True)
class RoundStarted:
    round: int
    rounds: int
    sites: tuple[str, ...]


@dataclass(frozen=True)
class SiteFailed:
    """A site's work of this round is left out, and why."""

    site: str
    activity: str
    round: int
    reason: str


@dataclass(frozen=True)
class RoundFinished:
    round: int
    rounds: int
    mean_loss: float
    seconds: float
    sites: tuple[str, ...]


@dataclass(frozen=True)
class RoundScored:
    """The mean validation DSC over the seen sites and, apart from it, the mean over the unseen ones."""

    round: int
    seen_dsc: float | None
    unseen_dsc: float | None


@dataclass(frozen=True)
class Said:
    """A sentence for the user."""

    text: str


Event = SiteWork | RoundStarted | SiteFailed | RoundFinished | RoundScored | Said
Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """A listener that shows nothing."""


@dataclass(frozen=True)
class ProgressFile:
    """A listener for a site in a process of its own: its latest work, in a file that the driver reads."""

    path: Path
    every_s: float = 0.5

    def __call__(self, event: Event) -> None:
        if not isinstance(event, SiteWork):
            return
        finished = event.done == event.total
        try:
            if not finished and time.time() - self.path.stat().st_mtime < self.every_s:
                return
        except OSError:
            pass
        write_text(self.path, json.dumps(asdict(event)))

    def read(self) -> SiteWork | None:
        """The last event written, or None."""
        try:
            return SiteWork(**json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


@dataclass(frozen=True)
class StopFile:
    """A request to stop that every process of a run sees between two steps."""

    path: Path

    def request(self) -> None:
        self.path.touch()

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)

    @property
    def requested(self) -> bool:
        return self.path.exists()

    def check(self) -> None:
        """Raise Interrupted when a stop was requested."""
        if self.requested:
            raise Interrupted("stopped by request")
