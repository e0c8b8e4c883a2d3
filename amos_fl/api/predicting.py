"""`amos-fl predict` as a function: the same settings, the same files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from amos_fl.api.arguments import Place, models_of
from amos_fl.api.keywords import HowToPredict
from amos_fl.api.model import TrainedModel
from amos_fl.api.run import Run
from amos_fl.cohort.table import read_cohort
from amos_fl.device import device_named
from amos_fl.errors import AmosError
from amos_fl.inference.predict_scans import ScanOutcome, predict_scans
from amos_fl.inference.predicted_files import Wanted
from amos_fl.inference.scans import Scan, find_scans
from amos_fl.runs.inference_settings import RecordedInference
from amos_fl.runs.training_scans import TRAINING_SCANS


@dataclass(frozen=True)
class Predicting:
    """A prediction in progress: the scans found, notes for the reader, and the outcomes as they arrive."""

    scans: tuple[Scan, ...]
    notes: tuple[str, ...]
    outcomes: Iterator[ScanOutcome]


def predicting(
    run: "Run | TrainedModel | Place | Sequence[Run | Place]",
    scans: "Place | Sequence[Place]",
    out: Place,
    *,
    on_window: Callable[[Scan, int, int], None] | None = None,
    **how: Unpack[HowToPredict],
) -> Predicting:
    """As `predict`, scan by scan: each is predicted when its outcome is requested.

    `on_window(scan, done, total)` is called after each batch of windows.

    Raises:
        AmosError: no model, no scan, or no modality.
    """
    modality, listed = how.get("modality"), how.get("cohort")
    if modality is not None:
        if (known := {"CT": "CT", "MR": "MR", "MRI": "MR"}.get(modality.upper())) is None:
            raise AmosError(f"modality is {modality!r}: choose CT or MR")
        modality = known
    model = models_of(run).about
    paths = [Path(scans)] if isinstance(scans, str | Path) else [Path(scan) for scan in scans]
    inference = {name: how.get(name) for name in RecordedInference.model_fields}
    wanted = Wanted(
        inference=model.inference.changed(inference),
        device=device_named(how.get("device", "auto")),
        probabilities=how.get("probabilities", False),
        preview=how.get("preview", False),
        seg=how.get("seg", False),
        rtstruct=how.get("rtstruct", False),
        expected_dsc=how.get("expected_dsc", False),
        overwrite=how.get("overwrite", False),
    )
    notes: list[str] = []
    cohort = read_cohort(listed) if listed else None
    found = find_scans(paths, modality, cohort=cohort, series=how.get("series"), on_note=notes.append)
    usable = [scan for scan in found if not scan.problem]
    told = all(
        (member.folder / TRAINING_SCANS).exists() for member in model.members
    )  # then each such scan is said to be unlike them
    new = {scan.modality for scan in usable} - set(model.modalities) if model.modalities and not told else set()
    if untrained := sorted(new):
        notes.append(f"this network was trained on {' and '.join(model.modalities)} only, not on {untrained[0]}")
    notes += model.notes
    return Predicting(tuple(found), tuple(notes), predict_scans(model, found, Path(out), wanted, on_window=on_window))


def predict(
    run: "Run | TrainedModel | Place | Sequence[Run | Place]",
    scans: "Place | Sequence[Place]",
    out: Place,
    **how: Unpack[HowToPredict],
) -> list[ScanOutcome]:
    """Predict the organs of scans and write a folder of label maps, each on its scan's own grid.

    Several runs, or a group's folder, predict as one ensemble: the mean of their probabilities.
    Returns one outcome per scan, in order: `predicted`, `kept` (exists already from this scan and these weights), or
    `failed` with the reason in its notes; a failing scan does not affect the others. `how`: see `HowToPredict`.

    Raises:
        AmosError: no model, no scan, or no modality.
    """
    return list(predicting(run, scans, out, **how).outcomes)
