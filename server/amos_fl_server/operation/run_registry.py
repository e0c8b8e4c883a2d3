"""The run folders at a SuperLink: the runs, their states, and the processes that carry them out.

A run's name is that of its folder. In addition to a run folder's usual files there are `submissions.json` (Flower's run
ids for its submissions, and the rounds finished at each), `begun.json` (the submission whose ServerApp began),
`outcome.json` (how it ended, if it did), `.lock`, which a ServerApp holds as long as its process lives, and `declined`
(submissions whose ServerApp found the run locked, because two followers may have restarted it at once).
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError, RunStopped
from amos_fl.files import sha256_of_json, write_json
from amos_fl.locks import AtWork, at_work, is_held
from amos_fl.runs.about import write_about
from amos_fl.runs.config import RunConfig
from amos_fl.runs.create import create_run
from amos_fl.runs.folder import RunFolder, open_run
from amos_fl.runs.stored import read_stored
from amos_fl.stopping import INTERRUPTED

RUNS = "AMOS_FL_RUNS"
"""The environment variable that names the folder of the runs, for the SuperLink and its ServerApps alike."""
DECLINED = "declined"
MOST_TRIES = 3
"""The most submissions of a run without completing a round in between."""
WAIT_FOR_SITES_S = 600.0
LOOK_S = 1.0
"""How long a ServerApp tries to get a run's lock, because checking the lock also holds it for a moment."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


class NoSuchRun(AmosError):  # noqa: N818 - said of what was asked for
    """A run that is not at this SuperLink, or a file that is not, or no longer, in it."""


@dataclass(frozen=True)
class RunState:
    """The state of a run.

    `state` is `created` (no ServerApp was requested), `waiting` (none has begun yet), `running`, `finished`, `stopped`
    (by request), `failed` (with `exit_code` and `error`), or `died` (its ServerApp is gone and left no outcome). A run
    that died too often in a row is not restarted: it has failed, and is `given_up`.
    """

    name: str
    state: str
    rounds_done: int
    rounds: int
    strategy: str
    flower_run: int | None = None
    exit_code: int | None = None
    error: str | None = None
    wait_s: float = WAIT_FOR_SITES_S
    tries: int = 0
    """The number of submissions in a row without completing a round."""
    changed: float = 0.0
    """When its folder was last written to, in seconds since the epoch."""
    given_up: bool = False

    @property
    def ended(self) -> bool:
        return self.state in ("finished", "stopped", "failed")


_STATE = TypeAdapter(RunState)


def state_in(answer: object) -> RunState:
    """The state of a run in a SuperLink's answer; extra fields of another version are ignored.

    Raises:
        AmosError: the answer says something else.
    """
    try:
        return _STATE.validate_python(answer)
    except ValidationError:
        raise AmosError(
            "the SuperLink's answer on a run cannot be understood; install the same version of amos-fl there and here"
        ) from None


def unless_given_up(state: RunState) -> RunState:
    """A run's state; `failed` if it has died the maximum number of times in a row."""
    if state.state != "died" or state.tries < MOST_TRIES:
        return state
    error = (
        f"run {state.name}: its process died {state.tries} times after round {state.rounds_done}; "
        f"read the SuperLink's log ('amos-fl deploy logs --flower {state.name}')"
    )
    return replace(state, state="failed", exit_code=RunStopped.exit_code, error=error, given_up=True)


def run_name(name: str) -> str:
    """A valid name for a run's folder.

    Raises:
        AmosError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise AmosError(
            f"run {name!r}: a run's name may hold letters, digits, '.', '_' and '-' only; choose another --out"
        )
    return name


def prepare_run(path: Path, config: RunConfig, organs: Mapping[int, str], start_sha256: str | None = None) -> RunFolder:
    """Make the folder of a run with remote sites: with settings and organs, but no cases yet.

    `start_sha256` is that of the weights in `config.start_from`, which the submitter has checked.

    Raises:
        AmosError: the folder holds a run already, or other files.
    """
    folder = create_run(path, config, Cohort((), dict(organs)), start_sha256)
    # Sites keep their state by the run's id. Two runs with the same settings may be in progress at once, and one may be
    # created under the name of another that was removed.
    about = folder.about()
    run_id = sha256_of_json([about.run_id, path.name, path.stat().st_ctime_ns])[:16]
    write_about(path, about.model_copy(update={"run_id": run_id}))
    return folder


def folder_of(name: str) -> Path:
    """The folder of a run: a path as it is, or a name among the SuperLink's runs.

    Raises:
        AmosError: a name, and no folder of runs.
    """
    if Path(name).is_absolute():
        return Path(name)
    runs = os.environ.get(RUNS)
    if runs is None:
        raise AmosError(f"run {name}: say with {RUNS} where the SuperLink keeps runs, or give the run's absolute path")
    return Path(runs) / run_name(name)


@contextmanager
def carried_out(folder: RunFolder, flower_run: int | None = None) -> Iterator[None]:
    """Hold a run's lock while its ServerApp works; the system releases it with the process, however that ends.

    `flower_run` is the submission that the ServerApp was started for.

    Raises:
        AmosError: another ServerApp holds it; the submission counts no longer.
    """
    with ExitStack() as held:
        try:
            held.enter_context(at_work(folder.path, wait_s=LOOK_S))
        except AtWork as other:
            if flower_run is not None:
                with (folder.path / DECLINED).open("a", encoding="ascii") as declined:
                    declined.write(f"{flower_run}\n")
            name = folder.path.name
            raise AmosError(f"run {name}: another process of this SuperLink carries it out already ({other})") from None
        yield


def is_carried_out(folder: RunFolder) -> bool:
    """Whether the process of a ServerApp works on this run."""
    return is_held(folder.path)


class _Submission(TypedDict):
    flower_run: int
    wait_s: float
    rounds_done: int


class _Begun(TypedDict):
    flower_run: int


class _Outcome(TypedDict):
    exit_code: int
    error: str | None


_SUBMISSIONS: TypeAdapter[list[_Submission]] = TypeAdapter(list[_Submission])
_BEGUN: TypeAdapter[_Begun] = TypeAdapter(_Begun)
_OUTCOME: TypeAdapter[_Outcome] = TypeAdapter(_Outcome)


def _json(path: Path, kind: TypeAdapter[Any], default: Any) -> Any:
    """The record in a file of the run; `default` if there is no file.

    Raises:
        AmosError: it is damaged.
    """
    return read_stored(path, kind, "remove it and submit the run again") if path.exists() else default


def note_begin(folder: RunFolder, flower_run: int) -> None:
    """Record that a ServerApp has begun, which invalidates an earlier one's outcome."""
    (folder.path / "outcome.json").unlink(missing_ok=True)
    write_json(folder.path / "begun.json", {"flower_run": flower_run})


def note_submission(folder: RunFolder, flower_run: int, wait_s: float) -> None:
    """Record Flower's id for a submission, and how long it may wait for its sites."""
    submissions = _json(folder.path / "submissions.json", _SUBMISSIONS, [])
    submissions.append({"flower_run": flower_run, "wait_s": wait_s, "rounds_done": folder.rounds_done})
    write_json(folder.path / "submissions.json", submissions)


def _submissions(folder: RunFolder) -> list[dict[str, Any]]:
    """The valid submissions, without those whose ServerApp left the run to another."""
    file = folder.path / DECLINED
    declined = set(file.read_text(encoding="ascii").split()) if file.is_file() else set()
    found = _json(folder.path / "submissions.json", _SUBMISSIONS, [])
    return [submission for submission in found if str(submission["flower_run"]) not in declined]


def submissions_of(folder: RunFolder) -> list[str]:
    """Flower's ids for a run's submissions, without those whose ServerApp left it to another."""
    return [str(submission["flower_run"]) for submission in _submissions(folder)]


def state_of(folder: RunFolder) -> RunState:
    """The present state of a run.

    Raises:
        AmosError: its settings cannot be read.
    """
    config = folder.config()
    submissions = _submissions(folder)
    begun = _json(folder.path / "begun.json", _BEGUN, {}).get("flower_run")
    submitted = submissions[-1]["flower_run"] if submissions else begun
    # The lock before the outcome: one that is written in between is then seen.
    running = is_carried_out(folder)
    outcome = _json(folder.path / "outcome.json", _OUTCOME, None)
    done = folder.rounds_done
    if running:
        state = "running"
    elif submitted is None:
        state = "created"
    elif submitted != begun:
        state, outcome = "waiting", None
    elif outcome is None and folder.stop_file.requested:
        # It died while stopping. A ServerApp that begins removes the request, so it belongs to this one.
        state, outcome = "stopped", {"exit_code": INTERRUPTED, "error": "stopped by request"}
    elif outcome is None:
        state = "died"
    else:
        state = {0: "finished", INTERRUPTED: "stopped"}.get(outcome["exit_code"], "failed")
    ended = outcome if outcome is not None and not running else {}
    found = RunState(
        name=folder.path.name,
        state=state,
        rounds_done=done,
        rounds=config.rounds,
        strategy=config.strategy,
        flower_run=submitted,
        exit_code=ended.get("exit_code"),
        error=ended.get("error"),
        wait_s=submissions[-1]["wait_s"] if submissions else WAIT_FOR_SITES_S,
        tries=sum(1 for submission in submissions if submission["rounds_done"] == done),
        changed=max((file.stat().st_mtime for file in folder.path.glob("*.json*")), default=0.0),
    )
    return unless_given_up(found)


def _is_of_another(path: Path) -> bool:
    """Whether a run was not made for this SuperLink: a simulation, for instance, lists its cases from the start."""
    if any((path / name).is_file() for name in ("submissions.json", "begun.json")):
        return False
    cohort = path / "cohort.csv"
    return cohort.is_file() and len(cohort.read_text(encoding="utf-8").splitlines()) > 1


@dataclass(frozen=True)
class ServedRuns:
    """All runs in one folder."""

    root: Path

    def folder(self, name: str) -> RunFolder:
        """The folder of a run.

        Raises:
            NoSuchRun: there is no run of this name, or it is a simulation's.
        """
        with suppress(AmosError):
            folder = open_run(self.root / run_name(name))
            if not _is_of_another(folder.path):
                return folder
        raise NoSuchRun(f"run {name}: is not at this SuperLink; 'amos-fl deploy status' lists those that are")

    def states(self) -> list[RunState]:
        """The state of each run of the deployment, most recently changed first."""
        found = []
        for path in self.root.iterdir() if self.root.is_dir() else ():
            if _NAME.fullmatch(path.name) and (path / "config.yaml").is_file() and not _is_of_another(path):
                try:
                    found.append(state_of(RunFolder(path)))
                except (AmosError, OSError, KeyError, TypeError):
                    continue  # of another version, or damaged
        return sorted(found, key=lambda run: run.changed, reverse=True)

    def files(self, folder: RunFolder) -> list[dict[str, Any]]:
        """The files of a run that its submitter gets: relative path, bytes, and time of the last change."""
        found = []
        for path in sorted(folder.path.rglob("*")):
            name = path.relative_to(folder.path)
            if path.is_symlink() or any(part.startswith(".") for part in name.parts) or name.as_posix() in _OWN:
                continue
            try:
                about = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                found.append({"path": name.as_posix(), "bytes": about.st_size, "changed_ns": about.st_mtime_ns})
        return found

    def file(self, folder: RunFolder, name: str) -> Path:
        """One of those files.

        Raises:
            NoSuchRun: it is not one of them.
        """
        if name not in {file["path"] for file in self.files(folder)}:
            raise NoSuchRun(f"run {folder.path.name}: has no file {name}")
        return folder.path / name


_OWN = {"stop", DECLINED, "begun.json", "submissions.json", "outcome.json"}
"""Files about how a run is carried out here, which its submitter does not get."""
