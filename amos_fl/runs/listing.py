"""List runs and groups of runs in folders, with state, settings, scores and size from their small files.

Nothing here loads weights, validates settings or fails on a damaged run: a run of 250 test cases takes 0.3 s, and
unreadable runs are included, with the reason, like those whose files contradict one another.
"""

import csv
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.locks import is_at_work
from amos_fl.runs.about import VERSIONS, AboutRun, glance_at_about
from amos_fl.runs.as_begun import NOT_AS_BEGUN, changed_cases
from amos_fl.runs.as_written import NOT_AS_EVALUATED, changed_table, contradicting_mark
from amos_fl.runs.evaluation import stored_organs
from amos_fl.runs.folder import LEDGER, RunFolder
from amos_fl.runs.layers import dotted
from amos_fl.runs.ledger import glance_at_ledger
from amos_fl.runs.network_file import read_network_file
from amos_fl.runs.origin import NETWORK
from amos_fl.runs.results import results_at
from amos_fl.runs.selection import ChosenRound
from amos_fl.safe_yaml import read_yaml_file

State = Literal["finished", "running?", "stopped", "not begun", "damaged"]

_DEEPEST = 2
_QUIET_S = 600.0
_REMAINS = (VERSIONS, LEDGER, "checkpoints")


@dataclass(frozen=True)
class ListedRun:
    """A run as its folder shows it.

    `dsc` and `nsd` are the mean test scores by group (`seen CT`, `unseen MR`), without groups that have no score.
    `gaps` counts the rounds in which a site was missing, `size_bytes` the bytes of all files below the folder. Values
    missing in a damaged folder are None, and `problem` says what is wrong with it.
    """

    path: Path
    name: str
    state: State
    round: int = 0
    rounds: int | None = None
    arm: str | None = None
    strategy: str | None = None
    seed: int | None = None
    synthetic: bool | None = None
    dsc: dict[str, float] = field(default_factory=dict)
    nsd: dict[str, float] = field(default_factory=dict)
    gaps: int = 0
    size_bytes: int = 0
    problem: str = ""

    @property
    def state_in_words(self) -> str:
        """The state as a list shows it.

        >>> ListedRun(Path("runs/a"), "a", "stopped", round=3, rounds=10).state_in_words
        'stopped at round 3 of 10'
        """
        match self.state:
            case "damaged":
                return f"damaged: {self.problem}"
            case "stopped" if self.round == self.rounds:
                return f"stopped after round {self.round}, before its last scores"
            case "stopped":
                return f"stopped at round {self.round} of {self.rounds}"
            case "running?":
                return f"at round {self.round} of {self.rounds}, running?"
            case "finished" if self.gaps:
                return f"finished, sites missing in {self.gaps} of {self.round} rounds"
            case _:
                return self.state


@dataclass(frozen=True)
class ListedGroup:
    """A group of runs (`amos-fl local`, `finetune`, `leave-one-out`, `sweep`): its kind and its runs."""

    path: Path
    name: str
    kind: str
    runs: tuple[ListedRun, ...]
    size_bytes: int
    problem: str = ""

    @property
    def state_in_words(self) -> str:
        if self.problem:
            return f"damaged: {self.problem}"
        return f"{sum(run.state == 'finished' for run in self.runs)} of {len(self.runs)} finished"


def list_runs(folders: Sequence[Path]) -> list[ListedRun | ListedGroup]:
    """The runs and groups in (or up to two folders below) `folders`, each once, sorted by name within a folder.

    Raises:
        AmosError: a folder does not exist.
    """
    found: dict[Path, ListedRun | ListedGroup] = {}
    for folder in folders:
        if not folder.is_dir():
            raise AmosError(f"{folder}: no such folder; name one with runs, or make a run with 'amos-fl simulate'")
        for path, name in _search(folder, folder.resolve().name, _DEEPEST):
            if path.resolve() not in found:
                found[path.resolve()] = _group(path, name) if (path / "group.yaml").is_file() else _run(path, name)
    return list(found.values())


def _search(folder: Path, name: str, deeper: int) -> Iterator[tuple[Path, str]]:
    """Folders that are a run, a group, or the remains of one."""
    if any((folder / file).exists() for file in ("group.yaml", "config.yaml", *_REMAINS)):
        yield folder, name
    elif deeper:
        for child in _children(folder):
            # The requested folder is known; deeper ones are part of the name.
            yield from _search(child, child.name if deeper == _DEEPEST else f"{name}/{child.name}", deeper - 1)


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _group(path: Path, name: str) -> ListedGroup:
    members = {child.name for child in _children(path) if (child / "config.yaml").exists()}
    kind, problem = "", ""
    try:
        data = read_yaml_file(path / "group.yaml")
        kind, members = str(data["kind"]), members | {str(run) for run in data["runs"]}
    except (OSError, ValueError, KeyError, TypeError):
        problem = "group.yaml cannot be read"
    runs = tuple(_run(path / member, member) for member in sorted(members))
    return ListedGroup(path, name, kind, runs, _size(path), problem)


def _run(path: Path, name: str) -> ListedRun:
    size = _size(path)
    if not (path / "config.yaml").is_file():
        return ListedRun(path, name, "damaged", size_bytes=size, problem="there is no config.yaml in it")
    reading = "config.yaml"
    try:
        settings = read_yaml_file(path / reading)
        known: dict[str, Any] = {
            "rounds": int(settings["rounds"]),
            "arm": str(settings.get("arm", "federated")),
            "strategy": str(settings["strategy"]),
            "seed": int(settings["seed"]),
            "size_bytes": size,
        }
        reading = VERSIONS
        about = AboutRun.model_validate(glance_at_about(path))
        known["synthetic"] = about.synthetic
        if not _holds(settings, about.settings or {}):
            problem = f"config.yaml {NOT_AS_BEGUN}"
            return ListedRun(path, name, "damaged", size_bytes=size, problem=problem)
        reading = "cohort.csv"
        cohort = RunFolder(path).cohort() if about.cases else None
        if cohort is not None and (file := next((f for f, found in changed_cases(about, cohort).items() if found), "")):
            return ListedRun(path, name, "damaged", size_bytes=size, problem=f"{file} {NOT_AS_BEGUN}")
        reading = LEDGER
        finished = RunFolder(path).finished
        known["round"], seconds, known["gaps"] = glance_at_ledger(path / reading, growing=not finished)
        deployed = isinstance(engine := settings.get("engine"), dict) and engine.get("name") == "deployment"
        state = "finished" if finished else _state(path, seconds, begun=known["round"] > 0, deployed=deployed)
        reading = "scores_by_site.csv"
        dsc, nsd = _group_scores(path / reading) if state == "finished" else ({}, {})
        reading = f"model/{NETWORK}"
        if state == "finished" and (path / reading).is_file():
            number = read_network_file(path / reading).get("round")
            of_phantom = settings.get("cohort") is None and not deployed
            problem = _not_as_written(RunFolder(path), cohort, number, synthetic=about.synthetic, of_phantom=of_phantom)
            if problem:
                return ListedRun(path, name, "damaged", size_bytes=size, problem=problem)
    except AmosError as error:
        return ListedRun(path, name, "damaged", size_bytes=size, problem=error.what.removeprefix(f"{path}/"))
    except (OSError, ValueError, OverflowError, RecursionError, KeyError, TypeError, AttributeError, csv.Error):
        there = "cannot be read" if (path / reading).is_file() else "is missing"
        return ListedRun(path, name, "damaged", size_bytes=size, problem=f"{reading} {there}")
    return ListedRun(path, name, state, dsc=dsc, nsd=nsd, **known)


def _holds(settings: Any, recorded: Any) -> bool:
    """Whether settings agree with all that was recorded of them; a plan may have been made since."""
    if not isinstance(settings, dict) or not isinstance(recorded, dict):
        return False
    now = dotted(settings)
    return all(now.get(key) == value for key, value in dotted(recorded).items() if not key.startswith("plan."))


def _not_as_written(
    folder: RunFolder, cohort: Cohort | None, number: int | None, *, synthetic: bool, of_phantom: bool
) -> str:
    """What a finished run of chosen round `number` says in two ways; empty where nothing is found."""
    if file := contradicting_mark(folder, cohort, synthetic=synthetic, of_phantom=of_phantom):
        return f"{VERSIONS} says otherwise than {file} whether its scans are synthetic"
    if number is not None:  # an older version did not write it down
        results = results_at(folder, ChosenRound(number, ""), stored_organs(folder.path))
        if table := changed_table(folder.path, results):
            return f"{table} {NOT_AS_EVALUATED}"
    return ""


def _state(path: Path, seconds_of_a_round: float, *, begun: bool, deployed: bool) -> State:
    """The state of an unfinished run; whether one that a SuperLink or another machine carries out is running is
    guessed from its last write and the length of its rounds."""
    traces = [path / LEDGER, path / "checkpoints", path / "evaluations", path / "sites"]
    traces += (path / "sites").glob("*/state")
    newest = max((trace.stat().st_mtime for trace in traces if trace.exists()), default=None)
    if newest is None:
        return "not begun"
    running = None if deployed else is_at_work(path)
    if running or (running is None and time.time() - newest < max(_QUIET_S, 3 * seconds_of_a_round)):
        return "running?"
    return "stopped" if begun or (path / "sites").exists() else "not begun"


def _group_scores(file: Path) -> tuple[dict[str, float], dict[str, float]]:
    """DSC and NSD by group; `scores_by_site.csv` has the groups below its sites."""
    with file.open(newline="", encoding="utf-8") as text:
        rows = [row for row in csv.DictReader(text) if row["name"] == f"{row['group']} {row['modality']}"]
    dsc, nsd = ({row["name"]: float(row[key]) for row in rows if row[key]} for key in ("dsc", "nsd"))
    return dsc, nsd


def _size(folder: Path) -> int:
    """The bytes of all files below a folder; links are not followed, and files that vanish meanwhile are ignored."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        total += _size(Path(entry.path))
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
                except OSError:
                    continue
    except OSError:
        return total
    return total
