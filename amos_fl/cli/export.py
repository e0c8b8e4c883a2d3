"""`amos-fl data export`: a cohort in the layout of another program."""

from pathlib import Path
from typing import Annotated

import typer

from amos_fl.cli.options import SitesOption
from amos_fl.cli.progress import Progress
from amos_fl.cohort.nnunet import ModalityChoice, Partial, export_nnunet
from amos_fl.cohort.table import read_cohort
from amos_fl.escape.console import Console


def nnunet(
    cohort: Annotated[Path, typer.Argument(help="A cohort.csv, or the folder that holds one (a run's folder, too).")],
    out: Annotated[Path, typer.Argument(help="An empty folder, or nnU-Net's nnUNet_raw.")],
    modality: Annotated[ModalityChoice | None, typer.Option(help="Needed where the cohort has both.")] = None,
    sites: SitesOption = None,
    hold_out: Annotated[str | None, typer.Option(help="Sites of which only the test cases are exported.")] = None,
    partial: Annotated[
        Partial,
        typer.Option(
            help="Training cases in which not all organs were annotated; ignore: nnU-Net's ignore label outside "
            "their annotated organs."
        ),
    ] = "refuse",
    dataset_id: Annotated[int, typer.Option(help="nnU-Net's number of the dataset, 1 to 999.")] = 701,
    name: Annotated[str | None, typer.Option(help="nnU-Net's name of the dataset.  [default: CohortCT, ...]")] = None,
    copy: Annotated[bool, typer.Option("--copy/--link", help="Copy the files, or link to them.")] = False,
) -> None:
    """Write a cohort in nnU-Net's raw layout (version 2)."""
    found = read_cohort(cohort)
    if sites:
        found = found.only(sites.replace(",", " ").split())
    if hold_out:
        found = found.holding_out(hold_out.replace(",", " ").split())
    with Progress("exporting") as progress:
        done = export_nnunet(
            found,
            out,
            dataset_id=dataset_id,
            name=name,
            modality=modality,
            partial=partial,
            copy=copy,
            on_case=progress,
        )
    console = Console(highlight=False, markup=False)
    counts = ", ".join(f"{len(cases)} {split}" for split, cases in (("train", done.train), ("val", done.val)))
    console.print(f"wrote {done.folder}: {counts} (nnU-Net trains on both), {len(done.test)} test", soft_wrap=True)
    for note in done.notes:
        console.print(f"- {note}", soft_wrap=True)
    fold = "0" if done.val else "all"
    console.print(
        f"\nnext: export nnUNet_raw={out.resolve()} nnUNet_preprocessed=... nnUNet_results=...\n"
        f"      nnUNetv2_plan_and_preprocess -d {dataset_id} --verify_dataset_integrity\n"
        f"      nnUNetv2_train {dataset_id} 3d_fullres {fold}\n"
        f"      nnUNetv2_predict -d {dataset_id} -c 3d_fullres -f {fold} -i {done.folder / 'imagesTs'} -o PREDICTIONS\n"
        f"      amos-fl score PREDICTIONS {done.folder / 'labelsTs'} --cohort {cohort}",
        soft_wrap=True,
    )
