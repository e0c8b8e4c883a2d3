"""What there is to see of a run, simulated or deployed, or of a group of runs, read from its files alone."""

import json
import math
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from amos_fl.errors import AmosError
from amos_fl.live.view import Bar, Chart, Table, View
from amos_fl.locks import is_at_work
from amos_fl.runs.config import RunConfig
from amos_fl.runs.evaluation import Evaluation
from amos_fl.runs.events import (
    Continued,
    Event,
    RoundFinished,
    SiteFailed,
    TrackerFailed,
    Warned,
    activity_in_words,
    event_of,
    in_words,
)
from amos_fl.runs.folder import LEDGER, RunFolder, open_run
from amos_fl.runs.group import is_group, read_group
from amos_fl.runs.ledger import LedgerEntry
from amos_fl.runs.listing import list_runs
from amos_fl.runs.selection import seen_and_unseen
from amos_fl.runs.tail import Tail, entry_of
from amos_fl.runs.watched_files import EVENTS, WORK
from amos_fl.wording import MISSING, clock, counted, roughly

MOST_LINES, MOST_ALARMS = 40, 6
PACE_ROUNDS = 10
"""The last rounds that say how long one takes, scoring included."""
_DEPLOYED = "deployment.json"


@dataclass
class WatchedRun:
    """A run as its files tell of it; what they have told is kept, so that another look reads only what is new."""

    folder: RunFolder
    _ledger: Tail = field(init=False)
    _events: Tail = field(init=False)
    _entries: list[LedgerEntry] = field(default_factory=list)
    _scores: dict[int, dict[str, float]] = field(default_factory=dict)
    _said: list[tuple[float, Event]] = field(default_factory=list)
    _ended: dict[int, float] = field(default_factory=dict)
    """When each round of the present attempt ended."""

    def __post_init__(self) -> None:
        self._ledger, self._events = Tail(self.folder.path / LEDGER), Tail(self.folder.path / EVENTS)

    def look(self) -> View:
        """All there is to see of the run now.

        Raises:
            AmosError: its settings cannot be read, or its ledger or an evaluation is damaged.
        """
        self._read()
        config, over = self.folder.config(), self.folder.finished
        state, over = ("finished", True) if over else self._state(config)
        done = len(self._entries)
        left = "" if over else self._time_left(config.rounds)
        bars = [Bar("rounds", done, config.rounds, left)]
        bars += [] if over else self._work()
        alarms = self._alarms()
        return View(
            title=f"run {self.folder.path.resolve().name}",
            state=state,
            over=over,
            notes=(f"{config.arm}, {config.strategy}, seed {config.seed}; {self.folder.path}",),
            alarms=tuple(alarms[-MOST_ALARMS:]),
            bars=tuple(bars),
            tables=(self._sites(),),
            charts=self._charts(),
            lines=tuple(f"{_clock(when)}  {in_words(event)}" for when, event in self._said[-MOST_LINES:]),
        )

    def _read(self) -> None:
        remedy = "copy it from another copy of the run"
        for line in self._ledger.lines():
            try:
                entry = entry_of(line)
            except ValueError:
                raise AmosError(f"{self._ledger.path}: has a line that cannot be read", remedy) from None
            del self._entries[entry["round"] - 1 :]  # after a resume some rounds are carried out again
            self._entries.append(entry)
        for line in self._events.lines():
            if (found := event_of(line.decode(errors="replace"))) is None:
                continue
            when, event = found
            if in_words(event) is not None:
                self._said = [*self._said[-MOST_LINES:], found]
            match event:
                case RoundFinished(number):
                    self._ended[number] = when
                case Continued():
                    self._ended.clear()
        for number, kind in self.folder.evaluations():
            if kind == "val" and number not in self._scores:
                found = self.folder.read_evaluation(number, kind)
                self._scores[number] = {} if found is None else _scores_of(found)

    def _state(self, config: RunConfig) -> tuple[str, bool]:
        """In words, and whether nothing more will come."""
        path, done = self.folder.path, len(self._entries)
        where = f"{done} of {config.rounds} rounds done"
        if (path / "outcome.json").is_file():
            with suppress(OSError, ValueError, KeyError, TypeError):
                outcome = json.loads((path / "outcome.json").read_text(encoding="utf-8"))
                if outcome["exit_code"]:
                    return f"failed, {where}: {outcome['error'] or 'the program failed'}", True
        if config.engine.name == "deployment" or (path / _DEPLOYED).is_file():
            heard = max(self._ended.values(), default=None)
            ago = "" if heard is None else f"; the last round ended {roughly(time.time() - heard)} ago"
            return f"deployed, {where}{ago}", False
        match is_at_work(path):
            case True if done == config.rounds:
                return "running, at its last scores", False
            case True:
                return f"running, {where}", False
            case None:
                return f"running perhaps, on another machine, {where}", False
            case _ if not done and not (path / EVENTS).is_file():
                return "not begun", False
        return f"stopped, {where}; continue with: amos-fl simulate --resume {path}", False

    def _time_left(self, rounds: int) -> str:
        """How long the remaining rounds take at the pace of the last ones; empty while there is no pace."""
        left = rounds - len(self._entries)
        if left <= 0:
            return ""
        paces = [
            self._ended[number] - self._ended[number - 1]
            for number in sorted(self._ended)[-PACE_ROUNDS:]
            if number - 1 in self._ended
        ] or [entry["seconds"] for entry in self._entries[-PACE_ROUNDS:]]
        if not paces:
            return ""
        waited = time.time() - max(self._ended.values()) if self._ended else 0.0
        pace = math.fsum(paces) / len(paces)
        return f"about {clock(pace * left - min(waited, pace))} left"

    def _work(self) -> list[Bar]:
        """What each site is at, as the run wrote it last; nothing if no process works on the run any more."""
        if is_at_work(self.folder.path) is False:
            return []
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            found = json.loads((self.folder.path / WORK).read_text(encoding="utf-8"))
            now = time.time()
            return [
                Bar(
                    f"{site}, {activity_in_words(str(work['activity']))}",
                    int(work["done"]),
                    int(work["total"]),
                    "; ".join(
                        ([f"loss {work['loss']:.3f}"] if work["loss"] is not None else [])
                        + ([f"{roughly(now - work['time'])} ago"] if now - work["time"] > 60 else [])
                    ),
                )
                for site, work in sorted(found.items())
                if work["done"] < work["total"]
            ]
        return []

    def _alarms(self) -> list[str]:
        """Which sites were missing and why, and other failures, the last ones last."""
        missing = [
            f"round {entry['round']}: site {site} was missing: {why}"
            for entry in self._entries
            for site, why in entry["missing"].items()
        ]
        others = [in_words(event) or "" for _, event in self._said if _is_alarm(event)]
        return missing + others

    def _sites(self) -> Table:
        names = sorted({site for entry in self._entries for site in (*entry["sites"], *entry["missing"])})
        scored = self._scores[max(self._scores)] if self._scores else {}
        names += sorted(site for site in scored if site not in names and site not in ("seen", "unseen"))
        rows = []
        for site in names:
            mine = [entry["sites"][site] for entry in self._entries if site in entry["sites"]]
            gone = sum(site in entry["missing"] for entry in self._entries)
            last = mine[-1] if mine else None
            rows.append(
                (
                    site,
                    str(len(mine)),
                    f"{last['steps']}" if last else MISSING,
                    f"{last['loss']:.3f}" if last and math.isfinite(last["loss"]) else MISSING,
                    f"{last['seconds']:.1f}" if last else MISSING,
                    f"{scored[site]:.3f}" if site in scored else MISSING,
                    str(gone),
                )
            )
        head = ("site", "rounds", "steps", "loss", "seconds", "DSC", "missing")
        return Table("Sites, as of their last round", head, tuple(rows))

    def _charts(self) -> tuple[Chart, ...]:
        losses: dict[str, list[tuple[float, float]]] = {}
        for entry in self._entries:
            for site, did in entry["sites"].items():
                if math.isfinite(did["loss"]):
                    losses.setdefault(site, []).append((entry["round"], did["loss"]))
        scores: dict[str, list[tuple[float, float]]] = {}
        for number in sorted(self._scores):
            for name, value in self._scores[number].items():
                scores.setdefault(name, []).append((number, value))
        means = {name: scores.pop(name) for name in ("seen", "unseen") if name in scores}
        return (
            Chart("Training loss by site", losses),
            Chart("DSC, mean over seen and over unseen sites", means),
            Chart("DSC by site", scores),
        )


@dataclass
class WatchedGroup:
    """A group of runs: the state of each, and in full the one that is at work, or else the first unfinished one."""

    path: Path
    _runs: dict[Path, WatchedRun] = field(default_factory=dict)

    def look(self) -> View:
        """All there is to see of the group now.

        Raises:
            AmosError: it cannot be read.
        """
        group = read_group(self.path)
        [listed] = list_runs([self.path])
        states = {run.name: run for run in getattr(listed, "runs", ())}
        rows = tuple(
            (name, states[name].state_in_words, ", ".join(f"{of} {dsc:.3f}" for of, dsc in states[name].dsc.items()))
            for name in group.names
            if name in states
        )
        left = [path for path in group.members if not RunFolder(path).finished]
        done = len(group.names) - len(left)
        shown = next((path for path in left if is_at_work(path)), left[0] if left else group.members[-1])
        view = self._runs.setdefault(shown, WatchedRun(open_run(shown))).look()
        return View(
            title=f"{group.kind} {self.path.resolve().name}",
            state=f"{done} of {counted(len(group.names), 'run')} finished",
            over=not left,
            notes=(f"below, {view.title}: {view.state}", *view.notes),
            alarms=view.alarms,
            bars=(Bar("runs", done, len(group.names)), *view.bars),
            tables=(Table("Runs", ("run", "state", "test DSC"), rows), *view.tables),
            charts=view.charts,
            lines=view.lines,
        )


def watched(path: Path) -> WatchedRun | WatchedGroup:
    """The run or the group in a folder.

    Raises:
        AmosError: the folder holds neither.
    """
    return WatchedGroup(path) if is_group(path) else WatchedRun(open_run(path))


def _scores_of(evaluation: Evaluation) -> dict[str, float]:
    found = {site: about.scores.to_scores().mean_dsc() for site, about in evaluation.sites.items()}
    seen, unseen = seen_and_unseen(evaluation)
    means = {name: value for name, value in (("seen", seen), ("unseen", unseen)) if value is not None}
    return {name: value for name, value in {**found, **means}.items() if math.isfinite(value)}


def _is_alarm(event: Event) -> bool:
    if isinstance(event, SiteFailed):
        return event.activity != "train"  # those are in the ledger, too
    return isinstance(event, TrackerFailed | Warned)


def _clock(when: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(when))
