"""A deployment as `amos-fl deploy` makes it, with TLS and keys, as real processes on this machine, for tests."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from flower_deployment import Deployment, wait_until
from loopback import free_port

from amos_fl.cohort.table import Cohort
from amos_fl.deploy.create import create_deployment
from amos_fl.deploy.layout import read_site, site_folder
from amos_fl.errors import AmosError
from amos_fl.runs.folder import RunFolder
from amos_fl_server.operation.admission import admit_sites
from amos_fl_server.operation.connection import RunsClient, connection_of
from amos_fl_server.operation.run_registry import RunState
from amos_fl_server.operation.submitter import SubmittedRun

EXAMPLES = Path(__file__).parents[1] / "examples"
"""Installed at the SuperLink and at the sites, as modules of a researcher's own."""


@dataclass
class SecureDeployment(Deployment):
    """The SuperLink and the sites of the deployment in `root`."""

    ports: dict[str, int] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "dep"

    def environment(self, name: str) -> dict[str, str]:
        own = {
            "AMOS_FL_HEARTBEAT_S": "15",
            "AMOS_FL_SUBMITTERS": str(self.root / "superlink/submitters.json"),
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": os.pathsep.join([str(EXAMPLES), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        return {**super().environment(name), **own}

    def start_superlink(self, *more: str) -> None:
        files = self.root / "superlink"
        self.start(
            "superlink",
            *(sys.executable, "-m", "amos_fl_server.operation.superlink", "--port", str(self.port)),
            *("--database", str(files / "state/state.db"), "--ssl-ca-certfile", str(files / "ca.crt")),
            *("--ssl-certfile", str(files / "server.crt"), "--ssl-keyfile", str(files / "server.key")),
            *more,
        )
        wait_until("the SuperLink", self.answers)

    def answers(self) -> bool | None:
        try:
            with self.runs() as client:
                client.get("/about")
                return True
        except AmosError:
            return None

    def runs(self) -> RunsClient:
        return RunsClient(connection_of(self.root))

    def state(self, name: str) -> RunState:
        with self.runs() as client:
            return SubmittedRun(client.connection, client, name).state()

    def served(self, name: str) -> RunFolder:
        """The folder of a run at the SuperLink."""
        return RunFolder(self.root / "superlink/state/runs" / name)

    def start_hospital(self, site: str) -> None:
        folder = site_folder(self.root, site)
        self.start(
            site,
            *(sys.executable, "-m", "amos_fl_clients.operation.command", "supernode", str(folder)),
            *("--superlink", f"localhost:{self.port}", "--port", str(self.ports.setdefault(site, free_port()))),
            *("--root-certificates", str(folder / "ca.crt")),
            *("--auth-supernode-private-key", str(folder / read_site(folder).key)),
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "amos_fl.cli.main", "deploy", *arguments]

    def deploy(self, *arguments: str, seconds: float = 500) -> "subprocess.CompletedProcess[str]":
        """One `amos-fl deploy` command to its end, in the deployment's folder."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            env={**self.environment("submitter"), "AMOS_FL_DEPLOYMENT": str(self.root)},
            cwd=self.folder,
            check=False,
            timeout=seconds,
        )

    def kill(self, *names: str) -> None:
        """SIGKILL for these and everything that they started, at once; Flower's own are in sessions of their own."""
        for name in names:
            process = self.processes.pop(name)
            for number in [process.pid, *started_by(process.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            process.wait(timeout=10)


def started_by(number: int) -> list[int]:
    """The numbers of the processes that one has started, and that those have."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, rest = [], [number]
    while rest:
        started = children.get(rest.pop(), [])
        found += started
        rest += started
    return found


@contextmanager
def secure_deployment(folder: Path, cohort: Cohort, sites: Sequence[str]) -> Iterator[SecureDeployment]:
    """A running SuperLink that knows the sites, and the sites; all of it is ended at the end."""
    running = SecureDeployment(folder)
    create_deployment(
        running.root, sites, hosts=["localhost"], port=running.port, cohort=cohort, demonstration_keys=True
    )
    try:
        running.start_superlink()
        admit_sites(running.root)
        for site in sites:
            running.start_hospital(site)
        yield running
    finally:
        running.end()
