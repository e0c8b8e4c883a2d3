"""A site's process for a message, forked from one that has already imported what it needs.

Flower starts a new process for every message, in which importing torch, MONAI and Flower takes longer than a round of
a small network. So a site keeps one process that has imported them and does nothing else: it reads no message, opens
no connection, unpacks no app. For each message it forks; the fork lives for that message only and starts from the same
imported packages as all others, so nothing of one message is visible in another. After the fork the same happens as in
`run_clientapp` in its own process, including the check of the app.
"""

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import FileIO

from amos_fl_clients.flower.endings import bell_here

PRELOADED = "AMOS_FL_PRELOADED"
"""If set to 0, every message gets a fresh process, at the cost of its imports."""
READY = "AMOS_FL_READY"
"""The environment variable that tells a preloaded process where to report that it is ready."""
IMPORTED = (
    "flwr.supernode.runtime.run_clientapp",
    "flwr.supernode.cli",
    "amos_fl_clients.flower.control",  # it builds the app that is allowed
    "torch._dynamo",  # imported by the first step of an optimizer, which takes a second
)


def can_fork() -> bool:
    """Whether forks are safe here: on Linux; elsewhere system libraries do not allow it."""
    return sys.platform == "linux" and os.environ.get(PRELOADED) != "0"


class PreloadedProcess:
    """The SuperExec's end: asks the preloaded process for forks, and restarts it if it is gone."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        """A new process; returns when it is ready for requests or has ended.

        Flower gives an accepted task half a minute for its first sign of life, and imports can take longer on a busy
        machine. So nothing is accepted before they are done.
        """
        hears, says = os.pipe()
        try:
            environment = {**os.environ, READY: str(says)}
            passed = [says, *bell_here()]
            process = subprocess.Popen(self._command, stdin=subprocess.PIPE, pass_fds=passed, env=environment)
        finally:
            os.close(says)
        os.read(hears, 1)
        os.close(hears)
        return process

    def launch(self, arguments: Sequence[str], *, quiet: bool = False) -> bool:
        """Fork a message's process with these arguments; false if there is no preloaded process to fork."""
        request = json.dumps({"arguments": list(arguments), "quiet": quiet}).encode() + b"\n"
        for _ in range(2):
            if self._process.poll() is None and self._process.stdin is not None:
                with suppress(OSError):
                    self._process.stdin.write(request)
                    self._process.stdin.flush()
                    return True
            self._process = self._start()
        return False

    def close(self) -> None:
        """End the preloaded process; its forks continue as long as their SuperNode runs."""
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()


def fork_for_each_request(work: Callable[[Sequence[str]], None], also: str | None = None) -> None:
    """Import, then fork for every line on standard input until it is closed; only the forks do `work`.

    `also` is the module of the ClientApp, which is imported together with Flower and torch.
    """
    says = int(os.environ.pop(READY))
    for name in (*IMPORTED, *filter(None, [also])):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or the first garbage collection in a fork would copy the memory of everything imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended forks are reaped automatically
    os.write(says, b".")
    os.close(says)
    requests = FileIO(0, "r", closefd=False)  # unbuffered, or a fork would find the next requests in its memory
    while line := requests.readline():
        request = json.loads(line)
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            _be_a_message_process(work, request["arguments"], request["quiet"])


def _be_a_message_process(work: Callable[[Sequence[str]], None], arguments: Sequence[str], quiet: bool) -> None:
    """Do one message's work and exit; never return into the loop of the forked process."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2) if quiet else (0,):  # the fork must not read requests
            os.dup2(nothing, descriptor)
        work(arguments)
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
