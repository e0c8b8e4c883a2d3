"""A SuperLink and SuperNodes as real processes on this machine, for tests: started, waited for, ended by their ids."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.request import urlopen

from loopback import free_port

BIN = Path(sys.executable).parent
T = TypeVar("T")


def wait_until(what: str, look: Callable[[], T | None], seconds: float = 120.0) -> T:
    """What `look` gives as soon as it gives anything."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found is not None:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")


@dataclass
class Deployment:
    """A SuperLink on loopback without TLS; `logs` keeps what each process printed."""

    folder: Path
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self, name: str) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(self.folder / "homes" / name),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
            "OMP_NUM_THREADS": "1",
            "RAY_ADDRESS": "local",  # Flower's simulation: a Ray of its own beside that of another test
        }

    def start(self, name: str, *command: str) -> None:
        log = self.log_file(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            self.processes[name] = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=self.environment(name), start_new_session=True
            )

    def log_file(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def log(self, name: str) -> str:
        return self.log_file(name).read_text(errors="replace")

    def start_superlink(self, *more: str) -> None:
        where = ("--host", "127.0.0.1", "--port", str(self.port))
        off = ("--insecure", "--disable-runtime-dependency-installation")
        self.start("superlink", str(BIN / "flower-superlink"), *where, *off, *more)
        config = self.folder / "homes" / "superlink" / "config.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(f'[superlink]\ndefault="d"\n[superlink.d]\naddress="127.0.0.1:{self.port}"\ninsecure=true\n')
        wait_until("the SuperLink's health", self._healthy)

    def _healthy(self) -> bool | None:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1):
                return True
        except OSError:
            return None

    def start_site(self, name: str, settings: Path, *, guarded: bool = True) -> None:
        """A SuperNode as a hospital starts it; without `guarded`, Flower's own."""
        where = ("--insecure", "--superlink", f"127.0.0.1:{self.port}", "--port", str(free_port()))
        if guarded:
            command = (sys.executable, "-m", "amos_fl_clients.operation.command", "supernode", str(settings), *where)
        else:
            node_config = f'site-settings="{settings}"'
            command = (str(BIN / "flower-supernode"), *where, "--node-config", node_config)
        self.start(name, *command)

    def flwr(self, *arguments: str) -> str:
        command = [str(BIN / "flwr"), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=self.environment("superlink"), check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, app: Path, run_config: str, *more: str) -> str:
        """Hand an app in; the id of its run."""
        answer = json.loads(self.flwr("run", str(app), "d", "--format", "json", "--run-config", run_config, *more))
        return str(answer["run-id"])

    def ended(self, run_id: str) -> str | None:
        """The status of a run that has come to an end."""
        status = json.loads(self.flwr("list", "d", "--run-id", run_id, "--format", "json"))["runs"][0]["status"]
        return status if status.startswith("finished") else None

    def end(self, names: Sequence[str] = ()) -> None:
        for name in names or list(self.processes):
            process = self.processes.pop(name)
            for sent in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, sent)
                except ProcessLookupError:
                    break
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    continue


@contextmanager
def deployment(folder: Path, *more: str) -> Iterator[Deployment]:
    """A running SuperLink with further arguments of its own, ended with everything that was started."""
    running = Deployment(folder)
    try:
        running.start_superlink(*more)
        yield running
    finally:
        running.end()
