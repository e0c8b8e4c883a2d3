"""Identify processes: ids alone are reused, and on another machine they belong to other processes."""

import hashlib
import os
import socket
import subprocess
from functools import lru_cache
from pathlib import Path

_PROC = Path("/proc")


def identity() -> str:
    """16 hexadecimal digits that identify this process: 8 for its machine or container, 8 for its start time."""
    return _identity(os.getpid())


@lru_cache(maxsize=2)
def _identity(pid: int) -> str:  # by id, because a forked child is another process
    return _place() + (_birth(pid) or "0" * 8)


def is_alive(pid: int, owner: str) -> bool | None:
    """Whether the process with this id and `identity()` is still alive; None if that cannot be known here."""
    place, birth = owner[:8], owner[8:]
    if place != _place() or birth == "0" * 8:
        return None
    return exists(pid) and _birth(pid) in (birth, None)


def exists(pid: int) -> bool:
    """Whether a process with this id exists here."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's
        return True
    return True


@lru_cache(maxsize=1)
def _place() -> str:
    parts = [socket.gethostname(), _read(Path("/etc/machine-id"))]
    try:
        parts.append(os.readlink(_PROC / "self/ns/pid"))
    except OSError:
        parts.append("")
    return _short("|".join(parts))


def _birth(pid: int) -> str | None:
    """A process's start time, with the machine's boot if it counts from there; None if unknown."""
    if fields := _read(_PROC / str(pid) / "stat").rpartition(")")[2].split():  # after its name, which may hold spaces
        dead = fields[0] in "ZX"  # dead, but not yet reaped by its parent
        return "" if dead else _short(_read(_PROC / "sys/kernel/random/boot_id") + fields[19])
    if _PROC.joinpath("self/stat").exists():
        return None
    try:  # macOS
        told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return _short(told.stdout.strip())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
