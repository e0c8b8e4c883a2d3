"""`amos-fl predict`: predicts label maps of unlabelled scans."""

from pathlib import Path
from typing import Annotated

import typer

from amos_fl.cli.options import DeviceOption, PersonalModelOption, WithOption
from amos_fl.cli.progress import Progress, plain_console
from amos_fl.cli.setting_options import takes_inference
from amos_fl.cohort.table import Modality
from amos_fl.inference.scans import Scan
from amos_fl.runs.inference_settings import InferenceKeywords
from amos_fl.wording import counted


@takes_inference()
def predict(
    run: Annotated[Path, typer.Argument(help="A finished run, a copy of its model/ folder, or a group of runs.")],
    scans: Annotated[list[Path], typer.Argument(help="NIfTI files, folders of them, or folders with DICOM series.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder for the label maps.")],
    others: WithOption = None,
    site: PersonalModelOption = None,
    modality: Annotated[
        Modality | None, typer.Option(case_sensitive=False, help="Needed for NIfTI files, which do not say.")
    ] = None,
    cohort: Annotated[Path | None, typer.Option(help="A cohort that lists the scans and their modality.")] = None,
    series: Annotated[
        str | None, typer.Option(help="Number or UID, where a folder has several DICOM series, or all.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also NAME_probabilities.nii.gz, one volume per class.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also NAME_preview.png, three planes with the organs outlined.")
    ] = False,
    seg: Annotated[
        bool, typer.Option("--seg", help="Also NAME_seg.dcm, a DICOM segmentation of the DICOM series.")
    ] = False,
    rtstruct: Annotated[
        bool, typer.Option("--rtstruct", help="Also NAME_rtstruct.dcm, a structure set on the DICOM series.")
    ] = False,
    expected_dsc: Annotated[
        bool, typer.Option("--expected-dsc", help="Also NAME_expected.json, the DSC to expect of each organ.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    device: DeviceOption = None,
    *,
    inference: InferenceKeywords,
) -> None:
    """Predict the organs of scans, each on its own grid. Exit code 2 if a scan failed."""
    from amos_fl.api.model import TrainedModel
    from amos_fl.api.predicting import predicting

    states = {"predicted": 0, "kept": 0, "failed": 0}
    with Progress() as progress:

        def on_window(scan: Scan, done: int, total: int) -> None:
            number = sum(states.values()) + 1
            progress.show(f"predicting {scan.name} ({number}/{len(begun.scans)})", done, total)

        trained = TrainedModel.ensemble([run, *(others or [])], site)
        begun = predicting(
            trained,
            scans,
            out,
            modality=modality,
            cohort=cohort,
            series=series,
            probabilities=probabilities,
            preview=preview,
            seg=seg,
            rtstruct=rtstruct,
            expected_dsc=expected_dsc,
            overwrite=overwrite,
            device=device or "auto",
            on_window=on_window,
            **inference,
        )
        console, model = plain_console(), trained.about
        if model.synthetic:
            console.print("this network was trained on a synthetic phantom; what it draws says nothing about patients")
        for note in begun.notes:
            console.print(f"note: {note}", soft_wrap=True)
        for outcome in begun.outcomes:
            states[outcome.state] += 1
            if outcome.state == "failed":
                typer.echo(f"amos-fl: {outcome.notes[0]}", err=True)
                continue
            for note in outcome.notes:
                typer.echo(f"amos-fl: warning: {note}", err=True)
            can_draw = len(model.organs) - len(model.unlearned)
            what = f"{outcome.organs} of {can_draw} organs found in {outcome.seconds:.1f} s"
            kept = "already there from this scan and these weights, kept"
            expected = f"; {outcome.expected.in_words()}" if outcome.expected else ""
            said = kept if outcome.state == "kept" else what
            console.print(f"{outcome.scan.name}: {said}{expected}", soft_wrap=True)
    parts = [f"{number} {state}" for state, number in states.items() if number or state == "predicted"]
    console.print(f"{counted(len(begun.scans), 'scan')}: {', '.join(parts)}; label maps are in {out}", soft_wrap=True)
    if states["failed"]:
        raise typer.Exit(2)
