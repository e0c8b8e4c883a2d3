"""Let one process at a time work in a folder, and tell a second one which process works there.

The lock is the operating system's (`flock`, by filelock), so a dead process never holds it. A file beside it names the
holder. On a shared disk it works if the file system shares locks between machines, as NFS does; otherwise, or without
locks at all, only that file tells of another process.
"""

import errno
import json
import os
import shlex
import shutil
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from amos_fl.errors import AmosError, AmosWarning
from amos_fl.files import write_json
from amos_fl.owner import identity, is_alive

LOCK = ".lock"
HOLDERS = ".at_work"
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_LOOK_AGAIN_S = 0.05
_OTHERS_LOOK_S = 0.2
"""Whether a lock is held can only be seen by taking it, and another process may be looking, too."""
_WRITING_S = 1.0


class AtWork(AmosError):  # noqa: N818 - said of the other process
    """Another process works in this folder."""


@contextmanager
def at_work(folder: Path, *, to: str = "", wait_s: float = 0.0) -> Iterator[None]:
    """Keep other processes from doing the same work in a folder, which is made if necessary.

    `to` names the work if several kinds may go on in a folder at once (`report`). Waits up to `wait_s` seconds for the
    lock.

    Raises:
        AtWork: another process has it; the sentence says which, where and since when.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / f"{LOCK}{_suffix(to)}"), folder / f"{HOLDERS}{_suffix(to)}"
    try:
        lock.acquire(timeout=wait_s, poll_interval=_LOOK_AGAIN_S)
    except Timeout:
        raise _told(folder, _patiently(holder)) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        before = _read(holder)
        if before is not None and is_alive(before["pid"], before["owner"]):
            raise _told(folder, before) from None
    try:
        before = _read(holder)
        if before is not None and is_alive(before["pid"], before["owner"]) is None:
            warnings.warn(
                f"{folder}: process {before['pid']} on {before['host']} has worked here since {before['since']} and "
                "did not record that it ended; if it is still running, stop one of the two",
                AmosWarning,
                stacklevel=3,
            )
        write_json(holder, _me())
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
            # Done last under the lock. A waiting process finds the file gone, and makes a new one (filelock).
            Path(lock.lock_file).unlink(missing_ok=True)
            if made and is_empty(folder):  # nothing was written
                shutil.rmtree(folder)
        lock.release()


def is_held(folder: Path) -> bool:
    """Whether a process works in a folder."""
    return is_locked(folder / LOCK)


def take(path: Path, mode: int = 0o640) -> FileLock:
    """Lock a file, which is made if necessary and stays, until this process releases the lock or ends.

    Raises:
        AtWork: another process has locked it. OSError: it may not be written, or its disk has no locks.
    """
    lock = FileLock(path, mode=mode, fallback_to_soft=False)
    try:
        lock.acquire(timeout=_OTHERS_LOOK_S, poll_interval=_LOOK_AGAIN_S)
    except Timeout:
        raise AtWork(f"{path}: another process has locked it; wait for it, or stop it") from None
    return lock


def is_locked(path: Path) -> bool:
    """Whether a process has locked a file.

    Raises:
        OSError: it is there and may not be written, or its disk has no locks.
    """
    if not path.exists():
        return False
    try:
        take(path).release()
    except AtWork:
        return True
    return False


def is_at_work(folder: Path) -> bool | None:
    """Whether a process works in a folder, by its name there alone, so that looking takes no lock; None: perhaps.

    A process that was killed here counts as gone; of one elsewhere nothing is known.
    """
    holder = _read(folder / HOLDERS)
    return False if holder is None else is_alive(holder["pid"], holder["owner"])


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what this module leaves there."""
    return all(entry.name.startswith((LOCK, HOLDERS)) for entry in folder.iterdir())


def _suffix(to: str) -> str:
    return f".{to}" if to else ""


def _me() -> dict[str, Any]:
    is_ours = sys.argv[0].rpartition("/")[2] in ("amos-fl", "main.py")
    command = shlex.join(["amos-fl", *sys.argv[1:]]) if is_ours else ""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        "owner": identity(),
        "command": command,
    }


def _read(holder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(holder.read_text(encoding="utf-8"))
        return {**found, "pid": int(found["pid"]), **{key: str(found[key]) for key in ("host", "since", "owner")}}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _patiently(holder: Path) -> dict[str, Any] | None:
    """Retry reading the holder, which may have taken the lock but not written its name yet."""
    deadline = time.monotonic() + _WRITING_S
    while (found := _read(holder)) is None and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN_S)
    return found


def _told(folder: Path, by: dict[str, Any] | None) -> AtWork:
    if by is None:
        return AtWork(f"{folder}: another process works here; wait for it")
    command = f" ({by['command']})" if by.get("command") else ""
    return AtWork(
        f"{folder}: process {by['pid']} on {by['host']} has worked here since {by['since']}{command}; "
        "wait for it, or stop it"
    )
