"""Write files and folders that appear whole or not at all, append lines to logs, and hash what is written."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from amos_fl.errors import AmosError, is_disk_full
from amos_fl.owner import exists, identity, is_alive

_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}

MOST_NAME_BYTES = 160
"""Longest name of a case, a site or a run. A file name may have 255, including what outputs and partial files add."""

LONGEST_NAME_BYTES = 255


def unfinished_name(path: Path) -> Path:
    """A hidden name beside `path` that identifies this process; also removes partial files of dead processes there."""
    _clear(path.parent)
    mark = f".{os.getpid()}-{identity()}{uuid.uuid4().hex[:6]}.tmp."
    # The suffixes are kept, because nibabel and others choose the format by them.
    name = path.name
    while len(os.fsencode(mark + name)) > LONGEST_NAME_BYTES:
        name = name[1:]
    return path.with_name(mark + name)


@lru_cache(maxsize=1024)
def _clear(folder: Path) -> None:
    """Remove abandoned files, once per process and folder."""
    with suppress(OSError):
        remove_abandoned(folder.glob(".*.tmp.*"))


def check_name(path: Path) -> None:
    """Refuse a file whose name is too long to be written, before work is put into it.

    Raises:
        AmosError: the name is longer than `LONGEST_NAME_BYTES`.
    """
    too_many = len(os.fsencode(path.name)) - LONGEST_NAME_BYTES
    if too_many > 0:
        raise AmosError(
            f"{path.name[:40]}...: this file name is {too_many} bytes too long to be written; give the scan or "
            "case a shorter name"
        )


@contextmanager
def whole_file(path: Path | str, *, private: bool = False) -> Iterator[Path]:
    """Yield a path to write to; on success it is renamed to `path`, on an error removed.

    The file's permissions follow the process's umask; a `private` file keeps the mode that it was made with. On a full
    disk the OSError names `path`.
    """
    path = Path(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = unfinished_name(path)
        try:
            yield beside
            if not private:
                _as_the_umask_says(beside)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the path to the system's error for a full disk, which does not name it."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            error.filename = str(path)
        raise


def _as_the_umask_says(path: Path) -> None:
    """Apply the umask, because safetensors, for one, writes through a temporary file that only its owner can read."""
    if path.is_file() and stat.S_IMODE(path.stat().st_mode) == 0o600:
        path.chmod(0o666 & ~_umask())


def _umask() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(re.search(r"^Umask:\s*([0-7]+)$", status, re.MULTILINE)[1], 8)  # pyright: ignore[reportOptionalSubscript] - caught below
    except (OSError, TypeError):  # not on Linux: it can only be asked for by setting it
        mask = os.umask(0o077)
        os.umask(mask)
        return mask


@contextmanager
def whole_folder(path: Path | str) -> Iterator[Path]:
    """Yield a new empty folder; on success it is renamed to `path`.

    If another process has made `path` in the meantime, that one is kept and ours removed: both were made from the same
    content.
    """
    path = Path(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = unfinished_name(path)
        beside.mkdir()
        try:
            yield beside
            try:
                os.rename(beside, path)
            except OSError:
                if not path.is_dir():
                    raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def in_words(error: OSError) -> AmosError | None:
    """The system's refusal to read or write a file as a sentence with its final name; None: it is something else."""
    if is_disk_full(error):
        where = f" while writing {final_name(error)}" if error.filename else ""
        return AmosError(f"no space is left on the disk{where}", "free some, or write elsewhere with --out")
    if error.errno in _REFUSED and error.filename:
        return AmosError(f"{final_name(error)}: permission denied", "check its permissions, or use --out")
    return None


def final_name(error: OSError) -> str:
    """The file as the user knows it: one that is being written has a temporary name until it is complete."""
    path = Path(str(error.filename))
    return str(path.with_name(path.name.rpartition(".tmp.")[2]))


def private_folder(path: Path) -> None:
    """Make a folder that its owner alone may enter, where scans or pictures of patients lie; one that is there stays.

    Raises:
        OSError: it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def scratch_folder(parent: Path | str) -> Iterator[Path]:
    """Yield a new hidden folder inside `parent`, removed at the end whatever happens; `remove_abandoned` knows it."""
    folder = unfinished_name(Path(parent) / "work")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_UNFINISHED = re.compile(r"\.(\d+)-(?:([0-9a-f]{16})[0-9a-f]{6}|[0-9a-f]{8})\.tmp\..+")
ABANDONED_S = 3600.0
CERTAINLY_ABANDONED_S = 86400.0


def remove_abandoned(paths: Iterable[Path], *, locked: bool = False) -> list[Path]:
    """Remove those of `paths` that a process left unfinished when it died; return them.

    Our file names carry the process's id and `identity()`. If the process ran on this machine and is dead, its file is
    removed at once. A process on another machine of a shared disk, or in another container, cannot be checked: then an
    unfinished file must also be untouched for an hour, or for a day if a process with that id exists here.
    With `locked`, the caller has locked their folder: then only files of processes known to be alive stay.
    """
    removed = []
    for path in paths:
        match = _UNFINISHED.fullmatch(path.name)
        if match is None or not _abandoned(path, int(match[1]), match[2] or "", locked):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        removed.append(path)
    return removed


def _abandoned(path: Path, pid: int, owner: str, locked: bool) -> bool:
    alive = is_alive(pid, owner) if owner else None
    if alive is not None or locked:
        return not alive
    return _untouched_s(path) >= (CERTAINLY_ABANDONED_S if exists(pid) else ABANDONED_S)


def _untouched_s(path: Path) -> float:
    """Seconds since the last change of a file or of anything in a folder; none if it has vanished meanwhile."""
    try:
        inside = path.rglob("*") if path.is_dir() else ()
        return time.time() - max(entry.lstat().st_mtime for entry in (path, *inside))
    except OSError:
        return 0.0


def write_text(path: Path | str, text: str) -> None:
    with whole_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def append_line(path: Path | str, line: str, *, mode: int = 0o666) -> None:
    """Append a line to a file, in one write, and wait until it is on disk; a new file has this mode, less the umask.

    A kill or a full disk may leave a part of the line, without its end.
    """
    path = Path(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, mode), "wb", buffering=0) as file:
            left = memoryview(f"{line}\n".encode())
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())


def write_json(path: Path | str, data: Any) -> None:
    """Write indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True) + "\n")


def sha256_of_file(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(data: Any) -> str:
    """The hash of a JSON-able value, the same for the same value in any order of keys.

    >>> sha256_of_json({"a": 1, "b": 2}) == sha256_of_json({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
