"""`amos-fl evaluate`: a run's chosen weights scored on any cohort."""

from pathlib import Path
from typing import Annotated

import typer

from amos_fl.cli.display import show_results
from amos_fl.cli.options import DeviceOption, SitesOption, StoreOption, WithOption
from amos_fl.cli.progress import Progress, plain_console
from amos_fl.cli.setting_options import setting, takes_inference
from amos_fl.cohort.table import Split
from amos_fl.runs.inference_settings import InferenceKeywords
from amos_fl.runs.summary import PHANTOM_NOTE


@takes_inference()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run, a copy of its model/ folder, or a group of runs.")],
    others: WithOption = None,
    cohort: Annotated[Path | None, typer.Option(help="cohort.csv or its folder; default: the run's own.")] = None,
    split: Annotated[Split, typer.Option(help="The split whose cases are scored.")] = "test",
    sites: SitesOption = None,
    seen: Annotated[
        str | None,
        typer.Option(help="Sites whose scanners trained the network, or none; default: the run's, by name."),
    ] = None,
    tolerance_mm: Annotated[float | None, setting("evaluation.tolerance_mm", "the run's")] = None,
    label_map: Annotated[
        str | None,
        typer.Option(
            help="Which of the cohort's organs equal which of the network's: a CSV or YAML file of organ and equals, "
            "or 'amos' for a suggestion by name; default: those of one name."
        ),
    ] = None,
    device: DeviceOption = None,
    workers: Annotated[int, setting("prepare_workers", flag="--workers")] = 1,
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option(help="A new folder; by default one under runs/.")] = None,
    predictions: Annotated[bool, typer.Option("--predictions", help="Keep the label maps there, too.")] = False,
    *,
    inference: InferenceKeywords,
) -> None:
    """Score a run's chosen weights on the cases of a cohort, by site and by organ."""
    from amos_fl.api.functions import evaluate as scored

    with Progress() as progress:
        found = scored(
            [run, *(others or [])],
            cohort,
            split=split,
            sites=sites,
            seen=[] if seen == "none" else seen,
            tolerance_mm=tolerance_mm,
            label_map=label_map,
            predictions=predictions,
            out=out,
            store=store,
            device=device or "auto",
            workers=workers,
            on_progress=progress.show,
            **inference,
        )
    console, evaluation = plain_console(), found.evaluation
    if evaluation.synthetic:
        console.print(PHANTOM_NOTE, soft_wrap=True)
    for line in [evaluation.results.chosen.sentence, *evaluation.notes]:
        console.print(line, soft_wrap=True)
    show_results(console, evaluation.results)
    console.print(f"everything is in {found.path}; begin with {found.path / 'summary.md'}", soft_wrap=True)
