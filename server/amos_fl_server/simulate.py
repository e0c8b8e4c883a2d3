"""A simulation from settings to a finished run folder: sites laid out, engine run, results written."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from amos_fl.cohort.table import Cohort, write_cohort
from amos_fl.errors import AmosError
from amos_fl.runs.about import versions
from amos_fl.runs.changes import check_unchanged
from amos_fl.runs.config import RunConfig
from amos_fl.runs.events import Listener, Said
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.results import write_results
from amos_fl.runs.tensorboard import with_tensorboard
from amos_fl_clients.settings import SiteSettings, write_settings
from amos_fl_server.engines import make_engine
from amos_fl_server.full_disk import stopping_on_a_full_disk
from amos_fl_server.rounds import Federation
from amos_fl_server.strategies import make_strategy

INTERRUPTED = 130
POOLED = "pooled"
"""The one trainer of a centralized run."""


def lay_out_sites(folder: RunFolder, cohort: Cohort, config: RunConfig, store: Path) -> tuple[str, ...]:
    """Give each site a folder with its own rows of the cohort and its settings, and nothing of the others'.

    In a centralized run one more trainer, `pooled`, has the training cases of all sites; they only evaluate.

    Raises:
        AmosError: a centralized run of a cohort that has a site called `pooled`.
    """
    members = {site: cohort.of(site=site) for site in cohort.sites}
    if config.arm == "centralized":
        if POOLED in members:
            raise AmosError(f"a site of this cohort is called {POOLED!r}, like the trainer over all sites; rename it")
        members = {site: tuple(c for c in cases if c.split != "train") for site, cases in members.items()}
        members = {site: cases for site, cases in members.items() if cases}
        members[POOLED] = tuple(replace(case, site=POOLED) for case in cohort.of(split="train", labelled=True))
    for site, cases in members.items():
        own = folder.site(site).resolve()
        write_cohort(replace(cohort, cases=cases), own / "cohort.csv")
        settings = SiteSettings(
            site=site,
            cohort=own / "cohort.csv",
            store=store.resolve(),
            state=own / "state",
            device=config.device,
            share_case_scores="named",
            share_histograms=True,
            withhold_counts_below=1,
            share_error_details=True,
            predictions=folder.path.resolve() / "predictions" / site if config.evaluation.predictions else None,
            pictures=own / "pictures",
        )
        settings.state.mkdir(parents=True, exist_ok=True)
        write_settings(settings, own / "site.json")
    return tuple(sorted(members))


@contextmanager
def _stopping_on_ctrl_c(folder: RunFolder, listener: Listener) -> Iterator[None]:
    """The first Ctrl-C asks the run to stop after the current step; the second ends it at once."""
    folder.stop_file.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(signum: int, frame: object) -> None:
        if folder.stop_file.requested:
            os._exit(INTERRUPTED)
        folder.stop_file.request()
        listener(Said("stopping after this step; press Ctrl-C again to stop at once"))

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        folder.stop_file.clear()


def simulate(
    folder: RunFolder,
    config: RunConfig,
    cohort: Cohort,
    store: Path,
    listener: Listener,
    *,
    accept_changes: bool = False,
) -> None:
    """Run, or continue, a federation in `folder`, and write its results.

    With `accept_changes` it is continued although its settings, cases or scans are not those it was begun with.

    Raises:
        AmosError: bad input. RunStopped: too few sites, or the disk is full. Interrupted: Ctrl-C.
    """
    with stopping_on_a_full_disk(folder):
        _simulate(folder, config, cohort, store, listener, accept_changes)


def _simulate(
    folder: RunFolder, config: RunConfig, cohort: Cohort, store: Path, listener: Listener, accept_changes: bool
) -> None:
    recorded, now = folder.about().versions, versions()
    if changed := sorted(name for name in now if recorded.get(name) != now[name]):
        names = ", ".join(f"{name} {recorded.get(name)} -> {now[name]}" for name in changed)
        listener(Said(f"this run was begun with other versions ({names}); its weights may differ from then on"))
    for change in check_unchanged(folder, config, cohort, store, accept=accept_changes):
        listener(Said(f"changed since the run was begun, and noted in its ledger: {change}"))
    strategy = make_strategy(config.strategy, config.strategy_options)
    if not cohort.seen_sites:
        raise AmosError("no site has a labelled training case; give a cohort with cases whose split is train")
    folder.remove_unfinished()
    sites = lay_out_sites(folder, cohort, config, store)
    engine = make_engine(config)
    with with_tensorboard(folder.path / "tensorboard", listener) as listen, _stopping_on_ctrl_c(folder, listen):
        federation = Federation(config, folder, strategy, engine, listen, cohort.organs, sites, cohort.seen_sites)
        engine.run(federation.server_app(), folder, sites, listen)
    write_results(folder, federation.config, cohort, federation.chosen_weights)
