"""What a tracker receives about a run, read from its folder."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.metrics.catalogue import IN_RUNS, title_of
from amos_fl.runs.config import RunConfig
from amos_fl.runs.evaluation import Evaluation
from amos_fl.runs.folder import LEDGER, OWN, RunFolder
from amos_fl.runs.group import is_group
from amos_fl.runs.layers import dotted
from amos_fl.runs.ledger import LedgerEntry
from amos_fl.runs.results import results_of
from amos_fl.runs.selection import seen_and_unseen
from amos_fl.runs.tail import Tail, entry_of
from amos_fl.runs.tracking.tracker import TrackedRun, Value

TABLES = ("report.html", "summary.md", "scores.csv", "scores_by_site.csv", "scores_by_organ.csv", "config.yaml")


def described(folder: RunFolder, known_as: str | None) -> TrackedRun:
    """What a tracker receives about a run when it begins."""
    path = folder.path.resolve()
    config, about = folder.config(), folder.about()
    group = path.parent if is_group(path.parent) else None
    tags = {
        "amos_fl.run_id": about.run_id,
        "amos_fl.arm": config.arm,
        "amos_fl.cohort_sha256": about.cohort_sha256,
        "amos_fl.synthetic": str(about.synthetic).lower(),
        "amos_fl.version": about.versions.get("amos-fl", ""),
    }
    return TrackedRun(path, path.name, group, parameters_of(config), tags, known_as)


def parameters_of(config: RunConfig) -> dict[str, Value]:
    """A run's settings by dotted key; lists and mappings as JSON."""
    plain = (str, int, float, bool, type(None))
    settings = {**dotted(config.science()), "engine": config.engine.name, "device": config.device}
    return {key: value if isinstance(value, plain) else json.dumps(value) for key, value in settings.items()}


@dataclass
class Rounds:
    """The rounds of a run that have not been told yet, up to a growing end of its ledger and evaluations."""

    folder: RunFolder
    trained: int = 0
    scored: dict[str, int] = field(default_factory=dict)
    _ledger: Tail = field(init=False)

    def __post_init__(self) -> None:
        self._ledger = Tail(self.folder.path / LEDGER)

    def news(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Yield each new round with its losses, then each newly scored one with its scores.

        Raises:
            AmosError: an evaluation is damaged. ValueError: the ledger is.
        """
        for entry in map(entry_of, self._ledger.lines()):
            if entry["round"] > self.trained:
                yield entry["round"], losses_of(entry)
                self.trained = entry["round"]
        for number, kind in self.folder.evaluations():
            if kind in ("val", OWN["val"]) and number > self.scored.get(kind, 0):
                found = self.folder.read_evaluation(number, kind)
                if found is not None:
                    yield number, scores_of(found, kind)
                self.scored[kind] = number


def losses_of(entry: LedgerEntry) -> dict[str, float]:
    """The losses of a round by site and on average, its seconds, its bytes, and the number of sites missing."""
    losses = {f"loss/{site}": did["loss"] for site, did in entry["sites"].items()}
    others = {"loss/mean": entry["loss"], "seconds": entry["seconds"], "missing sites": len(entry["missing"])}
    sent = {"bytes/down": entry["bytes_down"], "bytes/up": entry["bytes_up"]} if entry["bytes_up"] else {}
    return _numbers({**losses, **others, **sent})


def scores_of(evaluation: Evaluation, kind: str) -> dict[str, float]:
    """The scores of a round's evaluation by site, and the means over the seen and the unseen sites."""
    found: dict[str, float | None] = {}
    own = "" if kind == "val" else " own model"
    for site, about in evaluation.sites.items():
        scores = about.scores.to_scores()
        found |= {f"{title_of(metric)}/{site}{own}": scores.mean(metric) for metric in IN_RUNS}
    for metric in IN_RUNS:
        seen, unseen = seen_and_unseen(evaluation, metric)
        title = title_of(metric)
        found |= {f"{title}/personal": seen} if own else {f"{title}/seen": seen, f"{title}/unseen": unseen}
    return _numbers(found)


def final_scores_of(folder: RunFolder) -> dict[str, float]:
    """The test scores of a finished run by site and by group (`seen CT`); none of an unfinished one."""
    if not folder.finished:
        return {}
    results = results_of(folder, folder.config(), folder.cohort())
    rows = [*results.by_site, *results.by_group]
    return _numbers({f"test {title_of(metric)}/{row.name}": getattr(row, metric) for row in rows for metric in IN_RUNS})


def files_of(folder: RunFolder) -> list[Path]:
    """The files of a run that a tracker keeps, as far as they are there."""
    return [path for name in (*TABLES, "model") if (path := folder.path / name).exists()]


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def read_state(file: Path) -> dict[str, dict[str, Any]]:
    """What trackers have been told, by tracker and place; nothing where the file is missing or damaged."""
    with suppress(OSError, ValueError, AmosError):
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return {name: about for name, about in found.items() if isinstance(about, dict)}
    return {}
