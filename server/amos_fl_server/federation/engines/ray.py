"""The ray engine: sites in parallel, in processes that Ray keeps on this machine or on a cluster.

Each process takes one message at a time, so that one that dies fails for its own site alone; it is used again when it
has answered after its restart. The round's weights go into Ray's object store once, for all sites of a machine, and
what a site sends back is read from there in place.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.runs.config import EngineSettings
from amos_fl.runs.events import Listener, ProgressFile, Said, SiteWork, silent
from amos_fl.runs.folder import RunFolder

# Read by Flower at its import: no reports to its makers.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

from amos_fl_server.federation.engines.base import SERVER_NODE
from amos_fl_server.federation.engines.ray_cluster import running_ray  # before Ray, which reads what it sets

# isort: split
from amos_fl_server.federation.engines.ray_grid import RayGrid
from amos_fl_server.federation.engines.ray_hosts import InRunFolder, Layout, Placement, Room, start_hosts


@dataclass
class RayEngine:
    """Sites in parallel on Ray."""

    settings: EngineSettings
    threads: int
    _folder: RunFolder | None = None
    _sites: tuple[str, ...] = ()
    _listener: Listener = silent
    _grid: RayGrid | None = None
    _shown: dict[str, SiteWork] = field(default_factory=dict)

    def run(self, server: ServerApp, folder: RunFolder, sites: Sequence[str], listener: Listener) -> None:
        self._folder, self._sites, self._listener = folder, tuple(sites), listener
        for site in sites:
            ProgressFile.of(folder.site(site) / "state").path.unlink(missing_ok=True)
        logging.getLogger("flwr").setLevel(logging.CRITICAL)
        layout = InRunFolder(folder.path.resolve(), self._sites)
        with ray_over(self.settings, self.threads, layout, lambda text: listener(Said(text))) as grid:
            self._grid = grid
            context = Context(run_id=1, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config={})
            server(self._grid, context)

    def phase_timeout_s(self, site_timeout_s: float | None, sites: int) -> float | None:
        return waves_s(site_timeout_s, sites, self._grid.hosts if self._grid is not None else sites)

    def poll(self) -> None:
        """Show the progress that the sites have written."""
        if self._folder is None:
            return
        for site in self._sites:
            work = ProgressFile.of(self._folder.site(site) / "state").read()
            if work is not None and work != self._shown.get(site):
                self._shown[site] = work
                self._listener(work)

    def end_site(self, site: str) -> None:
        """Give up what a site was asked, and the process that hangs with it; Ray starts another for the next round."""
        if self._grid is not None:
            self._grid.give_up(self._sites.index(site))

    def lost(self, site: str, sent_at: float) -> bool:
        """Whether the site has not begun since then: a process that had died before makes a message fail, too."""
        if self._folder is None:
            return False
        try:
            return (self._folder.site(site) / "state" / "process.json").stat().st_mtime < sent_at
        except OSError:
            return True


def waves_s(site_timeout_s: float | None, sites: int, at_once: int) -> float | None:
    """How long the server waits for this many sites, of which so many are at work at the same time."""
    if site_timeout_s is None:
        return None
    # The sites check their time themselves; this catches one that hangs.
    return -(-sites // at_once) * site_timeout_s + 5.0


@contextlib.contextmanager
def ray_over(settings: EngineSettings, threads: int, layout: Layout, say: Callable[[str], object]) -> Iterator[RayGrid]:
    """A context in which Ray runs, with processes for these sites; a site takes `threads` cores, if nothing is set.

    `say` receives what the user may have to wait for.

    Raises:
        AmosError: Ray does not start, or has no room for a site.
    """
    room = Room(settings.cpus_per_site or threads, settings.gpus_per_site)
    placement = Placement(settings.site_nodes)
    environment = {"env_vars": {"PYTHONPATH": _search_path()}}
    with contextlib.ExitStack() as ray_runs:
        try:
            ray_runs.enter_context(
                running_ray(runtime_env=environment, **_init_args(settings, room, len(layout.sites)))
            )
            starting = start_hosts(layout, room, settings.parallel_sites, placement, say)
        except AmosError:
            raise
        except Exception as error:
            raise AmosError(f"the ray engine did not start: {error.__cause__ or error}") from error
        yield RayGrid(starting, layout.sites, placement, settings.parallel_sites)


def _init_args(settings: EngineSettings, room: Room, sites: int) -> dict[str, Any]:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if settings.address:
        return {"address": settings.address, **quiet}
    fitting = max(1, min(sites, (os.cpu_count() or 1) // room.cpus))
    # "local": another Ray cluster on this machine must not be joined by accident.
    cpus = room.cpus * (settings.parallel_sites or fitting)
    return {"address": "local", "num_cpus": cpus, "include_dashboard": False, **quiet}


def _search_path() -> str:
    """The import path for Ray's processes, the same as this one's."""
    return os.pathsep.join([*filter(None, sys.path), *filter(None, [os.environ.get("PYTHONPATH")])])
