"""A watchdog process that ends all of Ray's processes when their driver is done with Ray or has died.

If the driver was killed, Ray's own agents outlive it by more than half a minute: they try to report it to processes
that are dead as well. Runs as a program, using only the standard library. It finds processes in Linux's /proc, and none
on other systems.
"""

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

LOOK_S = 1.0
QUIET_S = 0.5
"""If no process has been found for this long, none is starting up, either."""
GIVEN_UP_S = 20.0
_PROC = Path("/proc")


def begin_watch() -> "subprocess.Popen[bytes]":
    """Watch over the Ray session that this process begins; closing the watch's standard input ends that session."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # so that signals to a terminal's or a job's processes do not reach this one
    )


def end_watch(watch: "subprocess.Popen[bytes]") -> None:
    """End the session's processes, and wait for it."""
    assert watch.stdin is not None
    watch.stdin.close()
    watch.wait()


def processes_of(driver: int) -> list[int]:
    """The processes of the Ray session that `driver` has begun, other than itself.

    They are known by the session's folder, which bears the driver's number, in their command or among their open files:
    Ray's processes write their titles over the command and a part of the environment.
    """
    session = re.compile(rf"/session_[-_0-9]+_{driver}(/|\0|\s|$)")
    found = []
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if entry.name.isdigit() and int(entry.name) not in (driver, os.getpid()):
            try:
                words = [os.fsdecode((entry / "cmdline").read_bytes())]
                words += [os.readlink(file) for file in (entry / "fd").iterdir()]
            except OSError:  # another user's, or gone
                continue
            if any(map(session.search, words)):
                found.append(int(entry.name))
    return found


def _end_session(driver: int) -> None:
    begun = quiet_since = time.monotonic()
    while (now := time.monotonic()) - quiet_since < QUIET_S and now - begun < GIVEN_UP_S:
        for process in processes_of(driver):
            quiet_since = now
            try:
                os.kill(process, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.05)


def _watch(driver: int) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # The pipe closes with the driver; in case another process has inherited it, also check the parent's id.
    while os.getppid() == driver and not select.select([sys.stdin], [], [], LOOK_S)[0]:
        pass
    _end_session(driver)


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
