"""A run's report at its end, where no fault in it may fail what is finished."""

from collections.abc import Callable
from pathlib import Path


def write_report(path: Path, say: Callable[[str], None]) -> None:
    """Write the run's report; an error is reported, but does not fail a finished run."""
    try:
        from amos_fl.report.page import write_run_report
        from amos_fl.runs.record import read_run

        write_run_report(read_run(path))
    except Exception as error:  # the run itself is complete; its report can be made again
        say(f"the report could not be written ({type(error).__name__}: {error}); try: amos-fl report {path}")
