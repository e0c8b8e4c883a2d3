"""`amos-fl calibrate`: what DSC to expect of a network's predictions where nobody has a label."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from amos_fl.cli.options import DeviceOption, StoreOption
from amos_fl.cli.progress import Progress, plain_console
from amos_fl.cli.setting_options import setting
from amos_fl.runs.calibration import AGREEMENT_COLUMNS, Agreement
from amos_fl.runs.summary import PHANTOM_NOTE
from amos_fl.wording import counted


def calibrate(
    run: Annotated[Path, typer.Argument(help="A finished run, or a copy of its model/ folder.")],
    cohort: Annotated[
        Path | None, typer.Option(help="Use this cohort's validation cases; default: the run's own.")
    ] = None,
    copies: Annotated[
        int, typer.Option(metavar="N", help="Altered copies of each scan that are predicted, too (0 to 4).")
    ] = 2,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also say how well it does on the run's test cases, seen and unseen.")
    ] = False,
    device: DeviceOption = None,
    workers: Annotated[int, setting("prepare_workers", flag="--workers")] = 1,
    store: StoreOption = None,
) -> None:
    """Learn on validation cases what DSC to expect of predictions without a label."""
    from amos_fl.api.calibrating import calibrate as calibrated

    with Progress() as progress:
        found = calibrated(
            run,
            cohort,
            copies=copies,
            measure=measure,
            store=store,
            device=device or "auto",
            workers=workers,
            on_progress=progress.show,
        )
    console, learned = plain_console(), found.calibration
    if found.synthetic:
        console.print(PHANTOM_NOTE, soft_wrap=True)
    groups = {
        "validation": learned.validation,
        **(found.measured.groups if found.measured else {}),
    }
    console.print(_table(groups))
    console.print("validation: each of these cases was left out in turn", soft_wrap=True)
    what = f"organs of {counted(learned.validation.cases, 'validation case')} of {', '.join(learned.sites)}"
    console.print(f"learned on {what}; flagged: an expected DSC below {learned.flag_below:.2f}", soft_wrap=True)
    if found.measured and any(found.measured.missed.values()):
        told = ", ".join(f"{number} {group}" for group, number in found.measured.missed.items() if " " in group)
        console.print(f"not counted are organs of which nothing was drawn: {told}", soft_wrap=True)
    console.print(f"amos-fl predict {run} SCAN... -o OUT --expected-dsc now says what to expect", soft_wrap=True)


def _table(groups: Mapping[str, Agreement]) -> Table:
    """Correlations with their intervals, error, and the shares flagged, one row per group of cases."""
    table = Table(title="Expected and true DSC of organs", title_justify="left", title_style="bold")
    table.add_column("cases of", no_wrap=True)
    for name in AGREEMENT_COLUMNS:
        table.add_column(name, justify="right", no_wrap="flagged" not in name)
    for name, one in groups.items():
        table.add_row(name, *one.cells())
    return table
