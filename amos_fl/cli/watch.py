"""`amos-fl watch`: a run or a group of runs as it goes on, on the terminal or as one page in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from amos_fl.escape.console import Console

PageOption = Annotated[bool, typer.Option("--page", help="Serve it as one page, to this machine alone.")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="With --page: the port; 0: a free one.")]
EveryOption = Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks at the files.")]


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or that of a group of runs.")],
    page: PageOption = False,
    port: PortOption = 0,
    every: EveryOption = 2.0,
) -> None:
    """Watch a run: rounds, sites, losses, scores, time left and failures, while it goes on and afterwards.

    It only reads files, so it may be started and stopped at any time; a deployed run is watched in the folder into
    which 'amos-fl deploy run' fetches it.
    """
    from amos_fl.live.command import watch_view
    from amos_fl.live.run_view import watched

    watch_view(watched(run).look, Console(highlight=False), page=page, port=port, every_s=every)
