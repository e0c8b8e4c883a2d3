"""Carry out runs, with their results and reports, for the command line and Python alike."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from amos_fl.api.settings import with_layers
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.locks import at_work
from amos_fl.report.after_run import write_report
from amos_fl.runs.config import RunConfig
from amos_fl.runs.events import Listener, Said
from amos_fl.runs.folder import RunFolder, open_run
from amos_fl.runs.group import Group
from amos_fl.wording import clock, counted


def carry_out(
    path: Path,
    settings: RunConfig,
    members: Cohort | None,
    store: Path,
    listener: Listener,
    *,
    accept_changes: bool = False,
) -> RunConfig:
    """Start or continue the run in a folder, and write its report; returns the settings with the plan that it made.

    `members` are None if sites have their cases on machines of their own (`engine.site_settings`). With
    `accept_changes` a run is continued although its settings, cases or scans have changed since it began.

    Raises:
        AmosError: bad input. RunStopped: too few sites. Interrupted: a stop was requested.
    """
    folder, report = RunFolder(path), _reporting(path, listener)
    if members is None:
        from amos_fl_server.operation.cluster import simulate_on_nodes

        simulate_on_nodes(path, settings, listener, report)
    else:
        from amos_fl_server.federation.simulate import simulate

        simulate(folder, settings, members, store, listener, accept_changes=accept_changes, and_then=report)
    return with_layers(folder.config(), [])


def _reporting(path: Path, listener: Listener) -> Callable[[], object]:
    return lambda: write_report(path, lambda text: listener(Said(text)))


def carry_out_members(
    group: Group, one: Callable[[RunFolder, str], object], say: Callable[[str], None]
) -> list[tuple[str, int]]:
    """Carry out the remaining runs of a group, one after another; returns the names and exit codes of those that
    failed.

    `one(folder, title)` carries out a run. If a run fails, the others continue.

    Raises:
        AtWork: another process works on the group.
    """
    failed: list[tuple[str, int]] = []
    with at_work(group.path):
        left = {folder.path for folder in group.unfinished}
        took: list[float] = []
        for number, path in enumerate(group.members, start=1):
            title = f"{group.kind} {number}/{len(group.members)}, {path.name}: "
            if path not in left:
                say(f"{title}finished before; skipped")
                continue
            if took:
                rest = len(left) - len(took) - len(failed)
                say(f"{group.kind}: about {clock(sum(took) / len(took) * rest)} left for {counted(rest, 'run')}")
            begun = time.monotonic()
            try:
                one(open_run(path), title)
                took.append(time.monotonic() - begun)
            except AmosError as error:
                say(f"{title}{error}")
                failed.append((path.name, error.exit_code))
    return failed


def check_all_finished(group: Group, failed: Sequence[tuple[str, int]]) -> None:
    """Check that no run of a group failed.

    Raises:
        AmosError: naming the runs that failed (by name and exit code), with the first one's code.
    """
    if failed:
        names = ", ".join(name for name, _ in failed)
        error = AmosError(f"{names}: did not finish; see above, then: amos-fl {group.kind} --resume {group.path}")
        error.exit_code = failed[0][1]
        raise error
