"""`amos-fl evaluate`: a run's chosen weights scored on any cohort."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import typer

from amos_fl.api.settings import cache_folder, next_out
from amos_fl.cli.options import AdaptOption, DeviceOption, StoreOption
from amos_fl.cli.settings import names
from amos_fl.cohort.table import SPLITS, Split
from amos_fl.errors import AmosError


def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run, or a copy of its model/ folder.")],
    cohort: Annotated[Path | None, typer.Option(help="cohort.csv or its folder; default: the run's own.")] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    sites: Annotated[str | None, typer.Option(help="Only these sites, e.g. D,E,F.")] = None,
    seen: Annotated[
        str | None,
        typer.Option(help="Sites whose scanners trained the network, or none; default: the run's, by name."),
    ] = None,
    tolerance_mm: Annotated[float | None, typer.Option(help="Tolerance of the NSD; default: the run's.")] = None,
    label_map: Annotated[
        str | None,
        typer.Option(
            help="Which of the cohort's organs equal which of the network's: a CSV or YAML file of organ and equals, "
            "or 'amos' for a suggestion by name; default: those of one name."
        ),
    ] = None,
    test_time_adaptation: AdaptOption = None,
    device: DeviceOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that prepare cases.")] = 1,
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option(help="A new folder; by default one under runs/.")] = None,
    predictions: Annotated[bool, typer.Option("--predictions", help="Keep the label maps there, too.")] = False,
) -> None:
    """Score a run's chosen weights on the cases of a cohort, by site and by organ."""
    from amos_fl.cli.display import show_results
    from amos_fl.cli.progress import Progress, plain_console
    from amos_fl.cohort.label_map import label_map_named
    from amos_fl.cohort.table import read_cohort
    from amos_fl.device import device_named
    from amos_fl.files import whole_folder
    from amos_fl.inference.evaluate_model import Question, evaluate_model, write_evaluation
    from amos_fl.runs.model import inference_settings, read_model
    from amos_fl.runs.summary import PHANTOM_NOTE

    if split not in SPLITS:
        raise AmosError(f"--split {split}: there is no such split; there are {', '.join(SPLITS)}")
    model = read_model(run)
    model = replace(model, inference=inference_settings(model, test_time_adaptation=test_time_adaptation))
    if cohort is None and model.run is None:
        raise AmosError(f"{run}: this model lies apart from its run, so its cohort is unknown; add --cohort")
    cohort_file = cohort if cohort is not None else run / "cohort.csv"
    members = read_cohort(cohort_file)
    organs_map = label_map_named(label_map, members.organs, model.organs) if label_map is not None else None
    question = Question.of(
        model,
        members,
        split=cast(Split, split),
        sites=names(sites),
        seen=[] if seen == "none" else names(seen),
        tolerance_mm=tolerance_mm,
    )
    folder = out or next_out("evaluate")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise AmosError(f"{folder}: is there already; choose another --out")
    console = plain_console()
    with whole_folder(folder) as beside, Progress() as progress:
        evaluation = evaluate_model(
            model,
            members,
            question,
            store=store or cache_folder() / "store",
            device=device_named(device or "auto"),
            workers=workers,
            on_prepared=progress.of("preparing"),
            on_scored=progress.of("scoring"),
            label_map=organs_map,
            save_to=beside / "predictions" if predictions else None,
        )
        write_evaluation(beside, evaluation, model, run, cohort_file)
    if evaluation.synthetic:
        console.print(PHANTOM_NOTE, soft_wrap=True)
    for line in [evaluation.results.chosen.sentence, *evaluation.notes]:
        console.print(line, soft_wrap=True)
    show_results(console, evaluation.results)
    console.print(f"everything is in {folder}; begin with {folder / 'summary.md'}", soft_wrap=True)
