"""Whether a site's SuperNode runs on this machine, when the SuperLink last answered it, and its own port."""

import errno
import socket
import time
from pathlib import Path

from amos_fl.deploy.findings import Finding, holds, wrong
from amos_fl.locks import is_locked
from amos_fl.wording import roughly

LOCK = "supernode.lock"
"""In a site's state, locked while its SuperNode runs."""
NODE, CONTACT = "node", "contact"
"""In a site's state: written when its SuperNode has signed in, and when the SuperLink answers a sign of life."""
OWN_PORT = 9094
"""The SuperNode's own port, for its processes on this machine alone; Flower's number, which --port changes."""
SILENT_S = 90.0
"""Signs of life are sent every 30 s, and one may be lost."""


def is_running(state: Path) -> bool:
    """Whether a SuperNode of the site with this state runs here."""
    try:
        return is_locked(state / LOCK)
    except OSError:  # not ours to write
        return False


def silent_s(state: Path) -> float | None:
    """Seconds since the SuperLink last answered this site; None: it never has."""
    marks = [(state / name).stat().st_mtime for name in (NODE, CONTACT) if (state / name).is_file()]
    return max(0.0, time.time() - max(marks)) if marks else None


def connection_in_words(folder: Path, state: Path) -> str:
    """What is known here of a site's connection, and what to do where there is none."""
    silence = silent_s(state)
    last = "the SuperLink has never answered" if silence is None else f"the SuperLink answered {roughly(silence)} ago"
    if not is_running(state):
        return f"its SuperNode does not run (last, {last}); start it with: amos-fl-site supernode {folder}"
    if silence is not None and silence < SILENT_S:
        return f"its SuperNode runs; {last}"
    return f"its SuperNode runs, but {last}; why says: amos-fl deploy check {folder}"


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server of this machine could take a port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was closed a moment ago is free
        try:
            probe.bind((host, port))
        except OSError as error:  # an address that a socket of IPv4 cannot have says nothing about the port
            return error.errno not in (errno.EADDRINUSE, errno.EACCES)
    return True


def free_port(after: int) -> int:
    """The first free port above one."""
    return next(port for port in range(after + 1, 65536) if is_free(port))


def check_own_port(state: Path, port: int = OWN_PORT) -> Finding:
    """Check that the SuperNode can take its own port, or has it."""
    if is_running(state):
        return holds("own port", "the site's SuperNode runs")
    if is_free(port):
        return holds("own port", f"{port} is free on this machine")
    return wrong(
        "own port",
        f"{port} is taken on this machine, perhaps by another site's SuperNode",
        f"start this site with another: 'amos-fl-site supernode FOLDER --port {free_port(port)}'; and give this check "
        "the same --port",
    )
