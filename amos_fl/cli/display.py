"""What a run shows while it goes on: bars on a terminal, plain lines elsewhere; and tables at its end."""

import math
import sys
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from amos_fl.escape.console import Console as OwnConsole
from amos_fl.metrics.catalogue import IN_RUNS, title_of
from amos_fl.metrics.rows import ScoreRow
from amos_fl.runs.events import (
    Event,
    Notice,
    RoundFinished,
    RoundScored,
    RoundStarted,
    SiteWork,
    activity_in_words,
    in_words,
)
from amos_fl.runs.record import RunRecord
from amos_fl.runs.results import Results
from amos_fl.runs.summary import number
from amos_fl.wording import MISSING, clock

PLAIN_EVERY_S = 15.0
PACE_AFTER_S = 5.0
"""How long a site must have been at its cases before the time for the rest is said."""


class Display:
    """A listener that shows a run's events. Use it as a context manager, so that the terminal is restored."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or OwnConsole(stderr=False, highlight=False)
        self.live = self.console.is_terminal
        self._bars: dict[tuple[str, str], TaskID] = {}
        self._said_at = time.monotonic()
        self._rounds, self._seconds = 0, 0.0
        self._begun: dict[tuple[str, str, int], tuple[float, int]] = {}
        """When a site's activity of a round was first heard of, and how far it was then."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.live,
            transient=True,
        )

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def line(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, markup=False, soft_wrap=not self.live)  # a path in a log stays in one piece
        if not self.live:
            sys.stdout.flush()

    def __call__(self, event: Event) -> None:
        match event:
            case SiteWork():
                self._work(event)
            case RoundStarted(round=number_, rounds=rounds, sites=sites) if self.live:
                self._clear()
                self._progress.add_task(f"round {number_}/{rounds}", total=len(sites), note=self._left(number_, rounds))
            case RoundFinished():
                self._rounds, self._seconds = self._rounds + 1, self._seconds + event.seconds
                self._clear()
                left = self._left(event.round + 1, event.rounds)
                self.line(f"{in_words(event)}, {left}" if left else in_words(event) or "")
            case RoundScored():
                self._clear()
                self.line(in_words(event) or "")
            case _ if isinstance(event, Notice):
                self.line(in_words(event) or "")

    def _left(self, next_round: int, rounds: int) -> str:
        if not self._rounds or next_round > rounds:
            return ""
        mean = self._seconds / self._rounds
        return f"about {clock(mean * (rounds - next_round + 1))} left to train"

    def _left_of(self, event: SiteWork, now: float) -> str:
        """The time that a site's other cases take at the pace of those that are done."""
        begun, done = self._begun.setdefault((event.site, event.activity, event.round), (now, event.done))
        if now - begun < PACE_AFTER_S or event.done in (done, event.total):
            return ""
        return f"about {clock((now - begun) / (event.done - done) * (event.total - event.done))} left"

    def _clear(self) -> None:
        for bar in self._progress.task_ids:
            self._progress.remove_task(bar)
        self._bars.clear()

    def _work(self, event: SiteWork) -> None:
        key = (event.site, event.activity)
        now = time.monotonic()
        note = f"loss {event.loss:.3f}" if event.loss is not None else self._left_of(event, now)
        text = f"{activity_in_words(event.activity)} {event.site}"
        if self.live:
            if key not in self._bars:
                self._bars[key] = self._progress.add_task(f"  {text}", total=event.total, note=note)
            self._progress.update(self._bars[key], completed=event.done, total=event.total, note=note)
            return
        if now - self._said_at >= PLAIN_EVERY_S and event.done < event.total:
            self._said_at = now
            where = f"round {event.round}, " if event.round else ""
            self.line(f"{where}{text}: {event.done}/{event.total}{' ' + note if note else ''}")


def rows_table(title: str, first: str, rows: list[ScoreRow]) -> Table:
    """A table of scores for the terminal, seen and unseen scanners apart."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column(first, overflow="fold")  # on a narrow terminal long names wrap and numbers never do
    table.add_column("modality", no_wrap=True)
    for name in ("cases", *map(title_of, IN_RUNS), "present", "missed", "halluc."):
        table.add_column(name, justify="right", no_wrap=True)
    before = rows[0].group if rows else ""
    for row in rows:
        if row.group != before:
            table.add_section()
            before = row.group
        name = row.name if row.group in row.name else f"{row.name} ({row.group})"
        scores = [number(value) for value in (*(getattr(row, metric) for metric in IN_RUNS), row.dsc_present)]
        table.add_row(name, row.modality, str(row.cases), *scores, str(row.missed), str(row.hallucinated))
    return table


def organ_table(rows: list[ScoreRow]) -> Table:
    """The scores of each organ, with a column for each of seen and unseen CT and MR."""
    columns = list(dict.fromkeys((row.group, row.modality) for row in rows))
    table = Table(title=f"{' / '.join(map(title_of, IN_RUNS))} by organ (m: missed, h: hallucinated)")
    table.title_justify, table.title_style = "left", "bold"
    table.add_column("organ")
    for group, modality in columns:
        table.add_column(f"{group} {modality}", justify="right")
    cells = {(row.name, row.group, row.modality): _cell(row) for row in rows}
    for organ in dict.fromkeys(row.name for row in rows):
        table.add_row(organ, *(cells.get((organ, *column), MISSING) for column in columns))
    return table


def _cell(row: ScoreRow) -> str:
    if math.isnan(row.dsc):
        return MISSING
    marks = "".join(f" {count}{mark}" for count, mark in ((row.missed, "m"), (row.hallucinated, "h")) if count)
    return "/".join(f"{getattr(row, metric):.2f}" for metric in IN_RUNS) + marks


def show_results(console: Console, results: Results) -> None:
    """First what failed, then DSC and NSD by site, for seen and unseen scanners, and by organ."""
    for problem in results.problems:
        console.print(f"problem: {problem}", markup=False, style="bold red")
    if not results.by_site:
        console.print("no site has a labelled test case, so nothing was scored")
        return
    console.print(rows_table("Test scores by site", "site", results.by_site))
    console.print(rows_table("Seen and unseen scanners", "group", results.by_group))
    if results.personal is not None:
        console.print(rows_table("Each site's own model, on its own test cases", "site", results.personal.by_site))
    console.print(organ_table(results.by_organ))
    console.print("present: DSC over the organs that the reference has; hallucinated organs are only counted")
    if results.little_learned:
        console.print(results.little_learned, markup=False)


def show_group(console: Console, records: Sequence[RunRecord]) -> None:
    """The mean test DSC of each run of a group on each site; a star where the run trained on that site."""
    sites = sorted({row.name for record in records for row in record.results.by_site})
    table = Table(title="Test DSC (* the run trained there)", title_justify="left", title_style="bold")
    table.add_column("run", no_wrap=True)
    for site in sites:
        table.add_column(site, justify="right", no_wrap=True)
    for record in records:
        rows = {row.name: row for row in record.results.by_site}
        cells = [
            f"{number(rows[s].dsc)}{'*' if s in record.seen_sites else ' '}" if s in rows else MISSING for s in sites
        ]
        table.add_row(record.folder.path.name, *cells)
        for problem in record.results.problems:
            console.print(f"problem: {record.name}: {problem}", markup=False, style="bold red")
    console.print(table)
