"""Options that several commands have, each said once."""

from pathlib import Path
from typing import Annotated

import typer

DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 or auto.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Decides all randomness of the run.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings as YAML, like a run folder's config.yaml.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Any setting, as key=value; may be given again.")]
SitesOption = Annotated[str | None, typer.Option("--sites", help="Only these sites, e.g. A,B,C.")]
HoldOutOption = Annotated[str | None, typer.Option("--hold-out", help="These sites train nothing, e.g. C.")]
StoreOption = Annotated[Path | None, typer.Option("--store", help="Where prepared cases are kept; default: the cache.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run folder; by default a new one under runs/.")]
ResumeOption = Annotated[Path | None, typer.Option("--resume", help="Continue what is in this folder.")]
AcceptChangesOption = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="With --resume: go on although settings, cases or scans were changed since; the ledger notes it.",
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the resolved plan and its cost; run nothing.")]
LikeOption = Annotated[
    Path | None, typer.Option("--like", help="Take everything from this federated run: settings, cohort and steps.")
]
AdaptOption = Annotated[
    bool | None,
    typer.Option(
        "--test-time-adaptation/--no-test-time-adaptation",
        help="Batch normalisation with each scan's own statistics; default: the run's.",
    ),
]
