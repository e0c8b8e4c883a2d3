"""A process beside Ray's, which ends them all when the one that began them is through with Ray, or is no more.

Where that one was killed, Ray's own agents outlive it by more than half a minute: they try to report it to processes
that are dead as well. Run as a program, with nothing but the standard library. It finds processes in Linux's /proc, and
on other systems none.
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
"""No process has been found for so long: none is at its beginning, either."""
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
        start_new_session=True,  # what is sent to a terminal's or a job's processes is not for this one
    )


def end_watch(watch: "subprocess.Popen[bytes]") -> None:
    """Have the session's processes ended, and wait for it."""
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
            except OSError:  # another user's, or gone by now
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
    # The pipe ends with the driver; in case something has inherited it, look who is parent, too.
    while os.getppid() == driver and not select.select([sys.stdin], [], [], LOOK_S)[0]:
        pass
    _end_session(driver)


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
