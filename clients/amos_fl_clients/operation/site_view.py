"""A view of a site's part in federations: what it was asked, what it answered, what it does now."""

import shlex
import time
from dataclasses import dataclass, field

from amos_fl.live.view import Bar, Chart, Table, View
from amos_fl.runs.events import ProgressFile
from amos_fl.runs.tail import Tail
from amos_fl.wording import MISSING
from amos_fl_clients.federation.audit import AUDIT_LOG
from amos_fl_clients.federation.policy import is_paused
from amos_fl_clients.federation.settings import SiteSettings

MOST_LINES, MOST_RUNS, MOST_ALARMS = 40, 8, 6


@dataclass
class WatchedSite:
    """A site as its own files show it; nobody is asked anything."""

    settings: SiteSettings
    _log: Tail = field(init=False)
    _asked: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._log = Tail(self.settings.state / AUDIT_LOG)

    def look(self) -> View:
        """All there is to see of the site now."""
        self._asked += [asked for line in self._log.lines() if (asked := asked_in(line.decode(errors="replace")))]
        paused = is_paused(self.settings.state)
        last = self._asked[-1] if self._asked else None
        heard = f"last asked {last['when']} for {last.get('asked', '?')}" if last else "nothing was asked of it yet"
        runs: dict[str, list[dict[str, str]]] = {}
        for asked in self._asked:
            runs.setdefault(asked.get("run", "?"), []).append(asked)
        latest = dict(list(runs.items())[-MOST_RUNS:])
        trained = list(latest.values())[-1] if latest else []
        return View(
            title=f"site {self.settings.site}",
            state=f"{'PAUSED' if paused else 'takes part'}; {heard}",
            notes=(f"{self.settings.state / AUDIT_LOG}",),
            alarms=tuple(
                f"{asked['when']}: {asked.get('asked', '?')} was {asked['answer']}: {asked.get('why', '')}"
                for asked in self._asked[-MOST_LINES:]
                if asked.get("answer") in ("refused", "failed")
            )[-MOST_ALARMS:],
            bars=tuple(self._work()),
            tables=(
                Table(
                    "Runs, the last ones",
                    ("run", "rounds trained", "last round", "scored", "refused or failed", "MB sent", "last asked"),
                    tuple(_row(run, asked) for run, asked in reversed(latest.items())),
                ),
            ),
            charts=(Chart("Seconds of training by round, in the last run", _seconds(trained)),),
            lines=tuple(_in_words(asked) for asked in self._asked[-MOST_LINES:]),
        )

    def _work(self) -> list[Bar]:
        file = ProgressFile.of(self.settings.state)
        work = file.read()
        if work is None or work.done >= work.total:
            return []
        loss = "" if work.loss is None else f"loss {work.loss:.3f}"
        ago = time.time() - file.path.stat().st_mtime
        text = ", ".join(filter(None, [loss, f"{ago:.0f} s ago" if ago > 60 else ""]))
        return [Bar(f"round {work.round}, {work.activity}", work.done, work.total, text)]


def asked_in(line: str) -> dict[str, str] | None:
    r"""A line of the audit log by key, its time under `when`; None for one that cannot be read.

    >>> asked_in(r'2026-03-01T09:31:40Z run=42 asked=train answer=refused why="it is \"paused\"" seconds=0.01')["why"]
    'it is "paused"'
    """
    try:
        when, *words = shlex.split(line)
        return {"when": when, **{key: value for key, _, value in (word.partition("=") for word in words)}}
    except ValueError:
        return None


def _row(run: str, asked: list[dict[str, str]]) -> tuple[str, ...]:
    trained = [each for each in asked if each.get("asked") == "train" and each.get("answer") == "sent"]
    scored = sum(each.get("asked") == "evaluate" and each.get("answer") == "sent" for each in asked)
    gone = sum(each.get("answer") in ("refused", "failed") for each in asked)
    sent = sum(int(each["bytes"]) for each in asked if each.get("bytes", "").isdigit()) / 1e6
    last = trained[-1].get("round", MISSING) if trained else MISSING
    if name := next((each["name"] for each in reversed(asked) if each.get("name")), ""):
        run = f"{name} ({run})"
    return run, str(len(trained)), last, str(scored), str(gone), f"{sent:.1f}", asked[-1]["when"]


def _seconds(asked: list[dict[str, str]]) -> dict[str, list[tuple[float, float]]]:
    points = []
    for each in asked:
        if each.get("asked") == "train" and each.get("answer") == "sent":
            try:
                points.append((float(each["round"]), float(each["seconds"])))
            except (KeyError, ValueError):
                continue
    return {"training": points} if points else {}


def _in_words(asked: dict[str, str]) -> str:
    what = " ".join(f"{key} {asked[key]}" for key in ("round", "split", "steps") if key in asked)
    why = f": {asked['why']}" if "why" in asked else ""
    return f"{asked['when']}  {asked.get('asked', '?')} {what} {asked.get('answer', '?')}{why}"
