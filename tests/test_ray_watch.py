"""No process of a Ray session is left, however the process ends that began it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amos_fl_server.federation.engines.ray_watch import begin_watch, end_watch, processes_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in Linux's /proc")
SLEEP = "import sys, time; print('begun', flush=True); time.sleep(600)"
WITH_RAY = """
import os, sys, time
from amos_fl_server.federation.engines.ray_cluster import running_ray
from amos_fl_server.federation.engines.ray_watch import processes_of
with running_ray(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR"):
    print(len(processes_of(os.getpid())), flush=True)
    if sys.argv[1] == "to be killed":
        time.sleep(600)
print(processes_of(os.getpid()), flush=True)
"""


def of_session(folder: Path, driver: int, *, by: str) -> "subprocess.Popen[str]":
    """A process known by its command, or by a file that it has open."""
    session = folder / f"session_2026-01-02_03-04-05_678901_{driver}"
    session.mkdir(exist_ok=True)
    with (session / "log").open("a") as log:
        more = [f"--session-dir={session}"] if by == "command" else []
        process = subprocess.Popen(
            [sys.executable, "-c", SLEEP, *more],
            stdout=subprocess.PIPE,
            stderr=log if by == "file" else None,
            text=True,
        )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_the_processes_of_a_session_are_ended_and_no_others(tmp_path: Path) -> None:
    mine = [of_session(tmp_path, os.getpid(), by=by) for by in ("command", "file")]
    other = of_session(tmp_path, int(f"1{os.getpid()}"), by="command")
    try:
        assert set(processes_of(os.getpid())) == {process.pid for process in mine}
        end_watch(begin_watch())
        assert [process.wait(timeout=10) for process in mine] == [-signal.SIGKILL, -signal.SIGKILL]
        assert other.poll() is None
    finally:
        for process in (*mine, other):
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_the_processes_of_ray_end_with_its_use_and_with_the_process_that_began_it() -> None:
    command = [sys.executable, "-c", WITH_RAY]
    done = subprocess.run([*command, "to its end"], capture_output=True, text=True, check=True)
    number, left = done.stdout.splitlines()
    assert int(number) > 3
    assert left == "[]"
    with subprocess.Popen([*command, "to be killed"], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert int(driver.stdout.readline()) > 3
        driver.kill()
    deadline = time.monotonic() + 15  # Ray's agents alone took more than 30 s
    while processes_of(driver.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
