"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from amos_fl.cli.setting_options import setting

DeviceOption = Annotated[str | None, setting("device")]
TrackerOption = Annotated[list[str] | None, setting("trackers")]
SeedOption = Annotated[int | None, setting("seed")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings as YAML, like a run folder's config.yaml.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as key=value; may be repeated.")]
SitesOption = Annotated[str | None, setting("sites")]
HoldOutOption = Annotated[str | None, setting("hold_out")]
StoreOption = Annotated[Path | None, typer.Option("--store", help="Where prepared cases are kept; default: the cache.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run folder; by default a new one under runs/.")]
ResumeOption = Annotated[Path | None, typer.Option("--resume", help="Continue what is in this folder.")]
AcceptChangesOption = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="With --resume: continue although settings, cases or scans have changed; the ledger notes it.",
    ),
]
PersonalModelOption = Annotated[
    str | None, typer.Option("--site", help="The model that a personal method (fedbn, fedper, ditto) left this site.")
]
WithOption = Annotated[
    list[Path] | None,
    typer.Option("--with", metavar="RUN", help="One more run, for the mean of their probabilities; may be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes; each holds one scan in memory.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and its cost; run nothing.")]
LikeOption = Annotated[
    Path | None, typer.Option("--like", help="Take everything from this federated run: settings, cohort and steps.")
]
RunsAtOnceOption = Annotated[int, typer.Option(min=1, help="Runs at the same time, each in a process through Ray.")]
