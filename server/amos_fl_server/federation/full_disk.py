"""Runs that stop at their last checkpoint, to be resumed: on a full disk as with too few sites, with a sentence."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from amos_fl.errors import AmosError, RunStopped, is_disk_full
from amos_fl.runs.folder import RunFolder


@contextmanager
def saying_how_to_go_on(folder: RunFolder) -> Iterator[None]:
    """Add to a stop of the run how it is continued on this machine.

    Raises:
        RunStopped: the run stopped.
    """
    try:
        yield
    except RunStopped as stopped:
        go_on = f"continue with --resume {folder.path}"
        raise RunStopped(stopped.what, f"{stopped.remedy}, then {go_on}" if stopped.remedy else go_on) from None


@contextmanager
def stopping_on_a_full_disk(folder: RunFolder) -> Iterator[None]:
    """Turn the system's error for a full disk into a resumable stop of the run.

    Raises:
        RunStopped: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        what = f" while writing {_final(str(error.filename))}" if error.filename else ""
        raise _stopped(folder, what) from None


def stop_where_a_disk_is_full(folder: RunFolder, failed: Mapping[str, AmosError]) -> None:
    """Stop a simulation if a site's disk is full: all sites share it, and leaving some out would change the run.

    Raises:
        RunStopped: a site has failed because its disk is full.
    """
    for site, error in sorted(failed.items()):
        if error.code == "disk-full":
            raise _stopped(folder, f" (site {site}: {error})")


def _stopped(folder: RunFolder, where: str) -> RunStopped:
    done = folder.rounds_done
    last = f"the last checkpoint is of round {done}" if done else "no round is finished"
    return RunStopped(f"{folder.path}: no space is left on the disk{where}; {last}", "free some space")


def _final(name: str) -> str:
    """The file's final name; until it is complete it has another one."""
    return str(Path(name).with_name(Path(name).name.rpartition(".tmp.")[2]))
