"""The ray engine: Flower's simulation on Ray, for parallel sites, several GPUs, or a cluster.

Its quirks are handled here: the ServerApp runs in a thread while Ray has the main one; nodes appear after the ServerApp
has started; a dead actor is not replaced unless restarts are requested; and a hung site would keep the run from ending.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.runs.config import EngineSettings
from amos_fl.runs.events import Listener, ProgressFile, SiteWork, silent
from amos_fl.runs.folder import RunFolder

# Read by these packages at import: no reports to their makers, no warnings that a user cannot act on.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from amos_fl_clients.federation.app import make_client_app
from amos_fl_clients.federation.settings import SiteSettings
from amos_fl_server.federation.engines.base import SimulatedSites
from amos_fl_server.federation.engines.ray_cluster import running_ray


def _progress_file(settings: SiteSettings) -> ProgressFile:
    return ProgressFile(settings.state / "progress.json")


def _client_app(folder: RunFolder, sites: Sequence[str]) -> ClientApp:
    sites_of = SimulatedSites(folder.path.resolve() / "sites", tuple(sites))
    stop = RunFolder(folder.path.resolve()).stop_file
    return make_client_app(sites_of, listener_of=_progress_file, check=stop.check)


@dataclass
class RayEngine:
    """Sites in parallel on Ray."""

    settings: EngineSettings
    threads: int
    _folder: RunFolder | None = None
    _sites: tuple[str, ...] = ()
    _listener: Listener = silent
    _shown: dict[str, SiteWork] = field(default_factory=dict)

    def run(self, server: ServerApp, folder: RunFolder, sites: Sequence[str], listener: Listener) -> None:
        self._folder, self._sites, self._listener = folder, tuple(sites), listener
        for site in sites:
            (folder.site(site) / "state" / "progress.json").unlink(missing_ok=True)
        raised: list[BaseException] = []
        wrapped = ServerApp()

        @wrapped.main()
        def main(grid: Grid, context: Context) -> None:
            try:
                server(grid, context)
            except BaseException as error:
                # Caught here: Flower would wrap some of them, and its log would print a traceback.
                raised.append(error)

        logging.getLogger("flwr").setLevel(logging.CRITICAL)
        try:
            config: Any = {"client_resources": self._resources()}
            with running_ray(runtime_env={"env_vars": {"PYTHONPATH": _search_path()}}, **self._init_args()):
                run_simulation(wrapped, _client_app(folder, sites), num_supernodes=len(sites), backend_config=config)
        except Exception as error:
            folder.stop_file.request()  # the ServerApp's thread would wait for nodes forever
            if not raised:
                raise AmosError(f"the ray engine did not start: {error.__cause__ or error}") from error
        if raised:
            raise raised[0]

    def _resources(self) -> dict[str, int | float]:
        return {
            "num_cpus": self.settings.cpus_per_site or self.threads,
            "num_gpus": self.settings.gpus_per_site,
            "max_restarts": -1,  # an actor that died comes back for the next round
        }

    def _init_args(self) -> dict[str, Any]:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.settings.address:
            return {"address": self.settings.address, **quiet}
        cpus = (self.settings.cpus_per_site or self.threads) * (self.settings.parallel_sites or self._fitting())
        # "local": another Ray cluster on this machine must not be joined by accident.
        return {"address": "local", "num_cpus": cpus, "include_dashboard": False, **quiet}

    def _fitting(self) -> int:
        cores = os.cpu_count() or 1
        return max(1, min(len(self._sites), cores // (self.settings.cpus_per_site or self.threads)))

    def phase_timeout_s(self, site_timeout_s: float | None, sites: int) -> float | None:
        if site_timeout_s is None:
            return None
        waves = -(-sites // (self.settings.parallel_sites or self._fitting()))
        # The sites check their time themselves; this catches one that hangs.
        return waves * site_timeout_s + 5.0

    def poll(self) -> None:
        """Show the progress that the sites have written."""
        if self._folder is None:
            return
        for site in self._sites:
            work = _progress_file_of(self._folder, site).read()
            if work is not None and work != self._shown.get(site):
                self._shown[site] = work
                self._listener(work)

    def end_site(self, site: str) -> None:
        """End the process of a hung site when it runs on this host; Ray starts another for the next round."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError, ValueError, KeyError):
            where = json.loads(_address_file(self._folder, site).read_text())
            if where["host"] == socket.gethostname() and where["pid"] != os.getpid():
                os.kill(int(where["pid"]), signal.SIGKILL)

    def lost(self, site: str, sent_at: float) -> bool:
        """Whether the site has not begun since then: a dead process makes the next site's message fail, too."""
        try:
            return self._folder is not None and _address_file(self._folder, site).stat().st_mtime < sent_at
        except OSError:
            return True


def _search_path() -> str:
    """The import path for Ray's processes, the same as this one's, as Flower sets it when it starts Ray itself."""
    return os.pathsep.join([*filter(None, sys.path), *filter(None, [os.environ.get("PYTHONPATH")])])


def _address_file(folder: RunFolder, site: str) -> Path:
    return folder.site(site) / "state" / "process.json"


def _progress_file_of(folder: RunFolder, site: str) -> ProgressFile:
    return ProgressFile(Path(folder.site(site)) / "state" / "progress.json")
