"""Deployed federations in one process for tests: hospitals with folders of their own behind an inline grid."""

from collections.abc import Callable, Iterable
from pathlib import Path

from federations import tiny_config
from flwr.clientapp import ClientApp
from hospitals import write_hospital

from amos_fl.cohort.table import Cohort
from amos_fl.runs.folder import RunFolder
from amos_fl_clients.federation.app import make_client_app
from amos_fl_clients.federation.settings import read_settings
from amos_fl_server.federation.engines.inline import InlineGrid
from amos_fl_server.federation.engines.remote import RemoteEngine
from amos_fl_server.operation.run_registry import prepare_run

AT_ONCE = RemoteEngine(poll_s=0.0)


class Hospitals(InlineGrid):
    """A grid over hospitals' own folders, of which `there` says, before every exchange, which are connected."""

    def __init__(
        self,
        root: Path,
        cohort: Cohort,
        sites: str,
        there: Callable[[], Iterable[str]] | None = None,
        **settings: object,
    ) -> None:
        members = sorted({case.site for case in cohort.cases})
        self.settings = [
            write_hospital(
                root / f"{number}-{site}", cohort.only([site]) if site in members else cohort, site, **settings
            )
            for number, site in enumerate(sites)
        ]
        super().__init__(self._app(), sites)
        self._names = list(sites)
        self._there = there

    def _app(self) -> ClientApp:
        return make_client_app(
            lambda context: read_settings(self.settings[int(str(context.node_config["partition-id"]))])
        )

    def get_node_ids(self) -> list[int]:
        there = self._names if self._there is None else set(self._there())
        return [node for node, site in zip(super().get_node_ids(), self._names, strict=True) if site in there]


def deployed_run(path: Path, cohort: Cohort, **settings: object) -> RunFolder:
    """The folder of a run over hospitals, as `deploy run` makes it."""
    return prepare_run(path, tiny_config(**{"engine": {"name": "deployment"}, **settings}), cohort.organs)
