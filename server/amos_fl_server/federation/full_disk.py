"""Stop a run on a full disk as with too few sites: with a sentence, at its last checkpoint, to be resumed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from amos_fl.errors import AmosError, RunStopped, is_disk_full
from amos_fl.runs.folder import RunFolder


@contextmanager
def stopping_on_a_full_disk(folder: RunFolder, *, deployed: bool = False) -> Iterator[None]:
    """Turn the system's error for a full disk into a resumable stop of the run.

    A deployed run is continued from another machine, whose command says how.

    Raises:
        RunStopped: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        what = f" while writing {_final(str(error.filename))}" if error.filename else ""
        raise RunStopped(f"{folder.path}: no space is left on the disk{what}; {_then(folder, deployed)}") from None


def stop_where_a_disk_is_full(folder: RunFolder, failed: Mapping[str, AmosError]) -> None:
    """Stop a simulation if a site's disk is full: all sites share it, and leaving some out would change the run.

    Raises:
        RunStopped: a site has failed because its disk is full.
    """
    for site, error in sorted(failed.items()):
        if error.code == "disk-full":
            raise RunStopped(f"{folder.path}: no space is left on the disk (site {site}: {error}); {_then(folder)}")


def _then(folder: RunFolder, deployed: bool = False) -> str:
    done = folder.rounds_done
    last = f"the last checkpoint is of round {done}" if done else "no round is finished"
    return f"{last}; free some space, then continue{'' if deployed else f' with --resume {folder.path}'}"


def _final(name: str) -> str:
    """The file's final name; until it is complete it has another one."""
    return str(Path(name).with_name(Path(name).name.rpartition(".tmp.")[2]))
