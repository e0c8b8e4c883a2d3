"""Simulate a federation, from settings to a finished run folder: lay out sites, run the engine, write results."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from amos_fl import stopping
from amos_fl.cohort.table import Cohort, write_cohort
from amos_fl.errors import AmosError
from amos_fl.inference.unlike import training_scans
from amos_fl.locks import at_work
from amos_fl.owner import is_alive
from amos_fl.prepared.prepare import prepare_cases, remove_leftovers
from amos_fl.runs.about import versions
from amos_fl.runs.changes import check_unchanged
from amos_fl.runs.config import RunConfig
from amos_fl.runs.events import Listener, Said
from amos_fl.runs.finish import write_results
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.moved import note_places
from amos_fl.runs.tracking.follow import tracked
from amos_fl.runs.training_scans import write_training_scans
from amos_fl.runs.watched_files import WatchedFiles
from amos_fl.runs.work import check_sites_named
from amos_fl.warned import heard
from amos_fl_clients.federation.settings import SiteSettings, write_settings
from amos_fl_server.federation.engines import make_engine
from amos_fl_server.federation.full_disk import saying_how_to_go_on, stopping_on_a_full_disk
from amos_fl_server.federation.rounds import Federation
from amos_fl_server.federation.strategies import strategy_of

ORPHANS_S = 10.0
"""How long the processes of sites have to end after their run has ended."""
POOLED = "pooled"
"""The one trainer of a centralized run."""


def lay_out_sites(folder: RunFolder, cohort: Cohort, config: RunConfig, store: Path) -> tuple[str, ...]:
    """Give each site a folder with its settings and its own rows of the cohort, and no others.

    In a centralized run an additional trainer, `pooled`, has the training cases of all sites, which only evaluate.

    Raises:
        AmosError: a centralized run on a cohort with a site called `pooled`.
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
            allowed_modules=None,
            predictions=folder.path.resolve() / "predictions" / site if config.evaluation.predictions else None,
            pictures=own / "pictures",
        )
        settings.state.mkdir(parents=True, exist_ok=True)
        write_settings(settings, own / "site.json")
    return tuple(sorted(members))


@contextmanager
def stopping_on_request(folder: RunFolder, listener: Listener) -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or SIGHUP asks the run to stop after the current step; the second ends it at once."""
    folder.stop_file.clear()

    def on_request(count: int) -> None:
        if count > 1:
            os._exit(stopping.exit_code())
        folder.stop_file.request()
        with suppress(OSError):  # a closed terminal
            listener(Said("stopping after this step; press Ctrl-C again to stop at once"))
        if stopping.may_stop_here():
            folder.stop_file.check()

    try:
        with stopping.taking_requests(on_request):
            yield
    finally:
        folder.stop_file.clear()


def _end_orphans(folder: RunFolder, sites: tuple[str, ...]) -> None:
    """End site processes left over from an earlier process of this run, which this one has taken over."""
    for site in sites:
        with suppress(OSError, ValueError, KeyError, TypeError):
            where = json.loads((folder.site(site) / "state" / "process.json").read_text(encoding="utf-8"))
            pid, owner = int(where["pid"]), str(where["owner"])
            deadline = time.monotonic() + ORPHANS_S
            while pid != os.getpid() and is_alive(pid, owner):
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)


def simulate(
    folder: RunFolder,
    config: RunConfig,
    cohort: Cohort,
    store: Path,
    listener: Listener,
    *,
    accept_changes: bool = False,
    and_then: Callable[[], object] = lambda: None,
) -> None:
    """Start or continue a federation in `folder`, and write its results.

    `and_then` is called after them, before the run's trackers learn that it ended. With `accept_changes` it is
    continued although its settings, cases or scans have changed since it began.

    Raises:
        AmosError: bad input. AtWork: another process works on this run. RunStopped: too few sites, or the disk is full.
            Interrupted: Ctrl-C, SIGTERM or SIGHUP.
    """
    with saying_how_to_go_on(folder), stopping_on_a_full_disk(folder), at_work(folder.path):
        note_places(folder, cohort)
        _check(folder, config, cohort, store, listener, accept_changes)
        with tracked(folder, config.trackers, WatchedFiles(folder.path).beside(listener)) as listen:
            _simulate(folder, config, cohort, store, listen)
            and_then()


def _check(
    folder: RunFolder, config: RunConfig, cohort: Cohort, store: Path, listener: Listener, accept_changes: bool
) -> None:
    recorded, now = folder.about().versions, versions()
    if changed := sorted(name for name in now if recorded.get(name) != now[name]):
        names = ", ".join(f"{name} {recorded.get(name)} -> {now[name]}" for name in changed)
        listener(Said(f"this run was begun with other versions ({names}); its weights may differ from then on"))
    for change in check_unchanged(folder, config, cohort, store, accept=accept_changes):
        listener(Said(f"changed since the run was begun, and noted in its ledger: {change}"))
    strategy_of(config)
    if not cohort.seen_sites:
        raise AmosError("no site has a labelled training case; give a cohort with cases whose split is train")
    check_sites_named(config, cohort.seen_sites)
    _end_orphans(folder, cohort.sites)
    folder.remove_unfinished()


def _simulate(folder: RunFolder, config: RunConfig, cohort: Cohort, store: Path, listener: Listener) -> None:
    sites = lay_out_sites(folder, cohort, config, store)
    strategy, engine = strategy_of(config), make_engine(config)
    try:
        with stopping_on_request(folder, listener):
            federation = Federation(config, folder, strategy, engine, listener, cohort.organs, sites, cohort.seen_sites)
            engine.run(federation.server_app(), folder, sites, listener)
    finally:  # site processes that were killed may have left partial files
        _end_orphans(folder, sites)
        folder.remove_unfinished()
        remove_leftovers(store)
    write_results(folder, federation.config, cohort, federation.chosen_weights)
    try:
        _note_training_scans(folder, federation.config, cohort, store)
    except AmosError as error:  # of a site, perhaps, that was left out of every round
        listener(Said(f"training-scan statistics could not be written: {error}"))


def _note_training_scans(folder: RunFolder, config: RunConfig, cohort: Cohort, store: Path) -> None:
    """Write beside the model what its training scans were like; they lie in the store, as their sites prepared them."""
    trainer = {"site": POOLED} if config.arm == "centralized" else {}
    cases = [replace(case, **trainer) for case in cohort.of(split="train", labelled=True)]
    with heard():  # of what their sites have said
        prepared = prepare_cases(cases, config.plan, store, tuple(cohort.organs), workers=config.prepare_workers)
    write_training_scans(folder.path / "model", training_scans(prepared))
