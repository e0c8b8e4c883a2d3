"""A federation over the machines of a Ray cluster that share no disk: a deployment whose messages Ray carries.

Each site has its folder on its own machine, as a hospital has: its settings, scans, prepared cases and state. What the
run's folder and its report need comes back in the sites' replies.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amos_fl.locks import at_work
from amos_fl.runs.config import RunConfig
from amos_fl.runs.events import Listener, Said
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.tracking.follow import tracked
from amos_fl.runs.watched_files import WatchedFiles
from amos_fl_server.federation.engines.ray import ray_over, waves_s
from amos_fl_server.federation.engines.ray_grid import RayGrid
from amos_fl_server.federation.engines.ray_hosts import OnTheirNodes
from amos_fl_server.federation.engines.remote import RemoteEngine
from amos_fl_server.federation.full_disk import saying_how_to_go_on
from amos_fl_server.federation.simulate import stopping_on_request
from amos_fl_server.operation.run_registry import prepare_run
from amos_fl_server.operation.server_app import run_deployed

WAIT_FOR_SITES_S = 60.0


@dataclass
class ClusterEngine(RemoteEngine):
    """The engine of a deployment on a Ray cluster, where a process that hangs can be ended from here."""

    grid: RayGrid | None = None
    sites: tuple[str, ...] = ()

    def phase_timeout_s(self, site_timeout_s: float | None, sites: int) -> float | None:
        return waves_s(site_timeout_s, sites, self.grid.hosts if self.grid is not None else sites)

    def end_site(self, site: str) -> None:
        if self.grid is not None:
            self.grid.give_up(self.sites.index(site))


def simulate_on_nodes(
    path: Path, config: RunConfig, listener: Listener, and_then: Callable[[], object] = lambda: None
) -> None:
    """Start or continue a federation of sites with folders of their own, and write its results.

    `config.engine` says on which machine each site works, and where its settings are there. The run's folder is made if
    it is not there, with the organs of the first site; a site whose labels mean others is left out by name.

    Raises:
        AmosError: bad settings, here or of a site. AtWork: another process works on this run. RunStopped: too few
            sites. Interrupted: Ctrl-C, SIGTERM or SIGHUP.
    """
    files = config.engine.site_settings
    sites = tuple(sorted(site for site in files if config.sites is None or site in config.sites))
    nodes = {site: node for site, node in config.engine.site_nodes.items() if site in sites}
    engine = config.engine.model_copy(update={"site_nodes": nodes})
    layout = OnTheirNodes(tuple((site, files[site]) for site in sites))
    with ray_over(engine, config.training.threads, layout, lambda text: listener(Said(text))) as grid:
        folder = RunFolder(path)
        if not (path / "config.yaml").is_file():
            folder = prepare_run(path, config.model_copy(update={"sites": sites}), grid.organs())
        with (
            at_work(path),
            saying_how_to_go_on(folder),
            tracked(folder, config.trackers, WatchedFiles(path).beside(listener)) as listen,
            stopping_on_request(folder, listen),
        ):
            carrier = ClusterEngine(poll_s=0.0, grid=grid, sites=sites)
            run_deployed(grid, folder, WAIT_FOR_SITES_S, carrier, listener=listen)
            and_then()
