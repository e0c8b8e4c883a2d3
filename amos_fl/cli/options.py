"""Options that several commands have, each said once."""

from pathlib import Path
from typing import Annotated

import typer

CohortOption = Annotated[Path | None, typer.Option("--cohort", help="cohort.csv or its folder; none: the phantom.")]
RoundsOption = Annotated[int | None, typer.Option("--rounds", help="Rounds of the federation.")]
LocalStepsOption = Annotated[int | None, typer.Option("--local-steps", help="Optimizer steps at each site in a round.")]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="small, unet, vnet, cotr, nnformer, unetr or swin-unetr.")
]
PlanOption = Annotated[
    str | None,
    typer.Option(
        "--plan",
        help="coarse, amos-ct, amos-mr, a file, or auto: from the training cases. Default: the model's.",
    ),
]
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
StrategyOption = Annotated[
    str | None,
    typer.Option("--strategy", help="A method (amos-fl methods lists them), or module:Class of a Flower strategy."),
]
WeightingOption = Annotated[str | None, typer.Option("--weighting", help="Updates weigh by cases, equal or steps.")]
OptimizerStateOption = Annotated[
    str | None, typer.Option("--optimizer-state", help="Each round: reset or keep the momentum.")
]
MinSitesOption = Annotated[
    int | None, typer.Option("--min-sites", help="Stop when fewer sites send an update; default: half.")
]
SiteTimeoutOption = Annotated[
    float | None, typer.Option("--site-timeout", help="A site's seconds for one round's training.")
]
InitOption = Annotated[
    Path | None,
    typer.Option(
        "--init",
        help="Begin with the weights of this run (or file); its head is remade where organs differ. "
        "Its model and plan count where nothing else is said.",
    ),
]
