"""Events of a run, as small values for displays and logs.

A listener is any callable that takes an event. Nothing in a run depends on what a listener does.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from amos_fl.errors import Interrupted
from amos_fl.files import write_text


@dataclass(frozen=True)
class SiteWork:
    """A site has done `done` of `total` pieces of one activity of one round.

    `activity` is `measure` (cases, for the plan), `prepare` (cases), `train` and, of a site's second model,
    `personalise` (optimizer steps; `loss` is that of the step) or `evaluate` (cases).
    """

    site: str
    activity: str
    round: int
    done: int
    total: int
    loss: float | None = None


@dataclass(frozen=True)
class RoundStarted:
    """Round `round` of `rounds` begins at these sites."""

    round: int
    rounds: int
    sites: tuple[str, ...]


@dataclass(frozen=True)
class SiteFailed:
    """A site's work in this round is left out, with the reason."""

    site: str
    activity: str
    round: int
    reason: str


@dataclass(frozen=True)
class RoundFinished:
    """A round whose updates were combined: the mean loss over `sites` (those that sent an update), and its seconds."""

    round: int
    rounds: int
    mean_loss: float
    seconds: float
    sites: tuple[str, ...]


@dataclass(frozen=True)
class RoundScored:
    """The mean validation DSC over the seen sites and, separately, the mean DSC over the unseen ones.

    `personal_dsc` is the mean over the seen sites of their own models', if they have such.
    """

    round: int
    seen_dsc: float | None
    unseen_dsc: float | None
    personal_dsc: float | None = None

    def by_name(self) -> dict[str, float | None]:
        """The means by what they are of: the seen sites, the unseen ones, the personal models at home."""
        return {"seen": self.seen_dsc, "unseen": self.unseen_dsc, "personal": self.personal_dsc}


@dataclass(frozen=True)
class Continued:
    """The run, which was stopped, goes on after round `round` of `rounds`."""

    round: int
    rounds: int


@dataclass(frozen=True)
class TrackerFailed:
    """A tracker receives nothing more of this run, with the reason; `command` sends it the rest later."""

    tracker: str
    reason: str
    command: str


@dataclass(frozen=True)
class Warned:
    """A sentence about something that the user probably does not want."""

    text: str


@dataclass(frozen=True)
class Said:
    """A sentence for the user."""

    text: str


Notice = SiteFailed | Continued | TrackerFailed | Warned | Said
"""Events that are shown as they come, whatever else is on display."""
Event = SiteWork | RoundStarted | RoundFinished | RoundScored | Notice
Listener = Callable[[Event], None]


_KINDS = {kind.__name__: kind for kind in get_args(Event)}


def line_of(event: Event, when: float) -> str:
    """An event and its time (seconds since the epoch) as one line of JSON; NaN is written as null.

    >>> line_of(Said("on"), 5.0)
    '{"event": "Said", "time": 5.0, "text": "on"}'
    """
    values = {name: None if value != value else value for name, value in asdict(event).items()}
    return json.dumps({"event": type(event).__name__, "time": round(when, 3), **values})


def event_of(line: str) -> tuple[float, Event] | None:
    """The time and the event of such a line; None for a line that a killed process did not finish.

    >>> event_of(line_of(RoundStarted(1, 3, ("A", "B")), 5.0))
    (5.0, RoundStarted(round=1, rounds=3, sites=('A', 'B')))
    >>> event_of('{"event": "Sa')
    """
    try:
        values = json.loads(line)
        kind, when = _KINDS[values.pop("event")], float(values.pop("time"))
        if "sites" in values:
            values["sites"] = tuple(values["sites"])
        if kind is RoundFinished and values["mean_loss"] is None:
            values["mean_loss"] = float("nan")
        return when, kind(**values)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


_ACTIVITIES = {
    "measure": "measuring",
    "prepare": "preparing",
    "train": "training",
    "personalise": "personalising",
    "evaluate": "scoring",
}


def activity_in_words(activity: str) -> str:
    """What a site is at, by `SiteWork.activity`, as a bar on a terminal or a page says it.

    >>> activity_in_words("evaluate")
    'scoring'
    """
    return _ACTIVITIES.get(activity, activity)


_FAILED = {
    "describe": "does not take part yet",
    "fingerprint": "is left out of the plan",
    "train": "trained nothing",
    "evaluate": "was not scored",
}


def in_words(event: Event) -> str | None:
    """An event as one line of text for terminals, logs and notebooks; None for a step of a site's work.

    >>> in_words(SiteFailed("B", "train", 2, "its process died"))
    'round 2: site B trained nothing: its process died'
    >>> in_words(SiteFailed("B", "describe", 0, "it is not connected"))
    'site B does not take part yet: it is not connected'
    """
    match event:
        case RoundStarted(number, rounds, sites):
            return f"round {number}/{rounds} begins at {' '.join(sites)}"
        case RoundFinished(number, rounds, loss, seconds, sites):
            return f"round {number}/{rounds}: loss {loss:.3f} from {' '.join(sites)} in {seconds:.1f} s"
        case RoundScored(number):
            scores = [f"{name} DSC {dsc:.3f}" for name, dsc in event.by_name().items() if dsc is not None]
            return f"round {number}: {', '.join(scores) or 'nothing to score'}"
        case SiteFailed(site, activity, number, reason):
            said = f"site {site} {_FAILED.get(activity, 'failed')}: {reason}"
            return f"round {number}: {said}" if number else said
        case Continued(number, rounds):
            return f"continuing after round {number} of {rounds}"
        case TrackerFailed(tracker, reason, command):
            return f"tracker {tracker}: {reason}; the run goes on without it (to send it later: {command})"
        case Warned(text):
            return f"warning: {text}"
        case Said(text):
            return text
        case _:
            return None


def silent(event: Event) -> None:
    """A listener that shows nothing."""


def printed(event: Event) -> None:
    """A listener that prints the main events, one line each; for scripts and notebooks."""
    if (text := in_words(event)) is not None and not isinstance(event, RoundStarted):
        print(text, flush=True)


@dataclass(frozen=True)
class ProgressFile:
    """A listener for a site in a separate process: it writes the latest work to a file that the driver reads."""

    path: Path
    every_s: float = 0.5

    @classmethod
    def of(cls, state: Path) -> "ProgressFile":
        """The file of a site with this folder of state."""
        return cls(state / "progress.json")

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
    """A file that asks every process of a run to stop between two steps."""

    path: Path

    def request(self, of: Iterable[str] = ()) -> None:
        """Request a stop `of` these attempts to carry out the run, if attempts have names."""
        write_text(self.path, " ".join(of))

    def is_of(self, attempt: str) -> bool:
        """Whether the attempt of that name is asked to stop."""
        try:
            return attempt in self.path.read_text(encoding="utf-8").split()
        except OSError:
            return False

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)

    @property
    def requested(self) -> bool:
        return self.path.exists()

    def check(self) -> None:
        """Raise Interrupted when a stop was requested."""
        if self.requested:
            raise Interrupted("stopped by request")
