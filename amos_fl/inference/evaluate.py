"""Predict cases and score them against their own label files on their own grids."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from amos_fl.cohort.reference import reference_of
from amos_fl.cohort.table import Case
from amos_fl.errors import AmosError
from amos_fl.inference.predict import predict_case, write_prediction
from amos_fl.metrics.scores import score_case
from amos_fl.metrics.table import CaseScores
from amos_fl.prepared.store import PreparedCase
from amos_fl.runs.inference_settings import DEFAULT, InferenceSettings
from amos_fl.volumes.nifti import Volume
from amos_fl.volumes.plan import Plan


def evaluate_cases(
    network: nn.Module,
    pairs: Sequence[tuple[Case, PreparedCase]],
    plan: Plan,
    *,
    organs: Sequence[int],
    tolerance_mm: float | Mapping[int, float] = 1.0,
    device: torch.device | str = "cpu",
    inference: InferenceSettings = DEFAULT,
    check: Callable[[], None] | None = None,
    on_case: Callable[[int, int], None] | None = None,
    on_scored: Callable[[Case, np.ndarray, Volume], None] | None = None,
    save_to: Path | None = None,
    labels: Collection[int] = (),
    unlearned: Collection[int] = (),
    seen: Collection[str] = (),
    turns: Sequence[Callable[[], None]] = (),
) -> list[CaseScores]:
    """Predict and score each case, in order; organs that were not annotated in a case are skipped.

    The reference is the case's own label file, not its prepared copy. With `save_to`, predictions are written
    there as `<case>.nii.gz`. `on_case(done, total)` is called after each case, `on_scored(case, prediction,
    reference)` with its two label maps (x, y, z), `check` between windows; all may raise. The other arguments are
    those of `predict_case`. If several channels map to one organ, their predictions are merged. `seen` are the sites
    whose scanners trained the network.

    Raises:
        AmosError: a case without a label map, or an unreadable file.
    """
    results = []
    for number, (case, prepared) in enumerate(pairs, start=1):
        if case.label is None:
            raise AmosError(f"{case.case}: has no label map; it can be predicted but not scored")
        prediction = predict_case(
            network,
            prepared,
            plan,
            organs=organs,
            device=device,
            inference=inference,
            check=check,
            unlearned=unlearned,
            turns=turns,
        )
        if save_to is not None:
            write_prediction(prediction, case.image, save_to / f"{case.case}.nii.gz")
        reference = reference_of(case, {*organs, *labels})
        annotated = [organ for organ in dict.fromkeys(organs) if organ in case.annotated]
        scores = score_case(prediction, reference.array, reference.spacing_mm, annotated, tolerance_mm)
        results.append(CaseScores(case.case, case.site, case.modality, case.site in seen, case.split, scores))
        if on_scored is not None:
            on_scored(case, prediction, reference)
        if on_case is not None:
            on_case(number, len(pairs))
    return results
