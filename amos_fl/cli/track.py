"""`amos-fl track`: what a run's folder holds, sent to trackers afterwards."""

from pathlib import Path
from typing import Annotated

import typer

from amos_fl.cli.options import TrackerOption
from amos_fl.errors import AmosError
from amos_fl.runs.events import Event, Notice, TrackerFailed, in_words
from amos_fl.runs.folder import open_run
from amos_fl.runs.group import is_group, read_group
from amos_fl.runs.tracking.tracker import check_trackers
from amos_fl.wording import counted


def track(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or of groups of runs.")],
    tracker: TrackerOption = None,
) -> None:
    """Send runs to trackers: what these have not been told yet of rounds, scores and results."""
    from amos_fl.runs.tracking.follow import send

    failed: set[Path] = set()

    def listener(event: Event) -> None:
        if isinstance(event, TrackerFailed):
            failed.add(folder.path)
        if isinstance(event, Notice):
            typer.echo(in_words(event))

    folders = [open_run(path) for run in runs for path in (read_group(run).members if is_group(run) else [run])]
    for folder in folders:
        names = tracker or folder.config().trackers
        if not names:
            raise AmosError(f"{folder.path}: has no trackers of its own; name one, like --tracker mlflow")
        check_trackers(names)
        send(folder, names, listener)
        if folder.path not in failed:
            typer.echo(f"{folder.path}: sent to {', '.join(names)}")
    if failed:
        raise AmosError(f"{len(failed)} of {counted(len(folders), 'run')} could not be sent; see above")
