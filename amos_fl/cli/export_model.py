"""`amos-fl export`: a trained network for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from amos_fl.cli.options import PersonalModelOption
from amos_fl.cli.progress import plain_console
from amos_fl.cli.setting_options import takes_inference
from amos_fl.cohort.table import Modality
from amos_fl.runs.inference_settings import InferenceKeywords


@takes_inference()
def export(
    run: Annotated[Path, typer.Argument(help="A finished run, or a copy of its model/ folder.")],
    to: Annotated[str, typer.Option(help="monai-bundle, onnx or torchscript.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A new folder.")],
    site: PersonalModelOption = None,
    modality: Annotated[
        Modality | None,
        typer.Option(case_sensitive=False, help="Of the scans; a bundle of a network that knows both needs it."),
    ] = None,
    *,
    inference: InferenceKeywords,
) -> None:
    """Write a trained network for another program, with the preparation of scans and the way back to their grid.

    The settings of inference are the run's, and fixed in the export.
    """
    from amos_fl.api.model import TrainedModel

    trained = TrainedModel.read(run, site)
    written = trained.export(out, to, modality=modality, **inference)
    console = plain_console()
    if trained.about.synthetic:
        console.print("this network was trained on a synthetic phantom; what it draws says nothing about patients")
    for note in trained.about.notes:
        console.print(f"note: {note}", soft_wrap=True)
    guide = next(path for path in (written / "README.md", written / "docs/README.md") if path.is_file())
    console.print(f"wrote {written}; {guide} says how it is used", soft_wrap=True)
