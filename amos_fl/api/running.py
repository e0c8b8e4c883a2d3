"""A run carried out: rounds, results and report, for the command line and for Python alike."""

from collections.abc import Callable
from pathlib import Path

from amos_fl.api.settings import with_layers
from amos_fl.cohort.table import Cohort
from amos_fl.runs.config import RunConfig
from amos_fl.runs.events import Listener, Said
from amos_fl.runs.folder import RunFolder


def carry_out(
    path: Path,
    settings: RunConfig,
    members: Cohort,
    store: Path,
    listener: Listener,
    *,
    accept_changes: bool = False,
) -> RunConfig:
    """Run, or continue, the run in a folder, and write its report; return the settings with the plan that it made.

    With `accept_changes` it is continued although its settings, cases or scans are not those it was begun with.

    Raises:
        AmosError: bad input. RunStopped: too few sites. Interrupted: a stop was asked for.
    """
    from amos_fl_server.simulate import simulate

    folder = RunFolder(path)
    simulate(folder, settings, members, store, listener, accept_changes=accept_changes)
    write_report(path, lambda text: listener(Said(text)))
    return with_layers(folder.config(), [])


def write_report(path: Path, say: Callable[[str], None]) -> None:
    """The run's report; a fault in it is said, and does not take a finished run down."""
    try:
        from amos_fl.report.page import write_run_report
        from amos_fl.runs.record import read_run

        write_run_report(read_run(path))
    except Exception as error:  # the run itself is complete; its report can be made again
        say(f"the report could not be written ({type(error).__name__}: {error}); try: amos-fl report {path}")
