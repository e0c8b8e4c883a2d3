"""What position alone achieves: an atlas of where organs usually are, which never looks inside the body.

A phantom on which this scored well would teach a network coordinates. The atlas is as strong as position
makes it: it finds the body's outline in each image and aligns to it, there is one for each modality, and the
share of training cases from which on it draws an organ is the one with the best mean DSC on them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from scipy import ndimage

from amos_fl.cohort.reference import label_of
from amos_fl.cohort.table import Case
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file, sha256_of_json, write_json
from amos_fl.prepared.prepare import content_hash
from amos_fl.volumes.nifti import read_image

BINS = (48, 40, 72)
DEPTH_MM = 560.0  # along z, from the scan's top
LEAST_STEP_MM = 4.0  # of a finer scan only so many voxels are looked at: an atlas is no finer than this
THRESHOLDS = np.arange(0.05, 0.75, 0.05)


@dataclass(frozen=True)
class _Located:
    """A label map and where its voxels lie on the atlas's lattice (x, y in the body's box, z from the top)."""

    label: np.ndarray  # (x, y, z) in the scan's own voxel order
    place: np.ndarray  # (3, x, y, z), lattice coordinates
    modality: str


def _located(case: Case) -> _Located:
    if case.label is None:
        raise AmosError(f"{case.case}: has no label map; an atlas is built from and scored on labelled cases")
    image, label = read_image(case.image), label_of(case, range(1, 256))
    steps = [max(1, int(LEAST_STEP_MM // spacing)) for spacing in voxel_sizes(image.affine)]
    every = tuple(slice(None, None, step) for step in steps)
    array, labels, affine = image.array[every], label.array[every], image.affine.copy()
    affine[:3, :3] *= steps
    level = -500.0 if case.modality == "CT" else 0.25 * float(np.mean(array[array > 0])) if (array > 0).any() else 0.0
    body = ndimage.binary_opening(array > level, iterations=1)
    corners = np.argwhere(body if body.any() else np.ones_like(body))
    index = np.indices(array.shape, dtype=np.float32)
    world = np.tensordot(affine[:3, :3].astype(np.float32), index, 1)
    world += affine[:3, 3].astype(np.float32)[:, None, None, None]
    inside = world[(slice(None), *corners.T)]
    place = np.empty_like(world)
    for axis in (0, 1):
        low, high = np.percentile(inside[axis], [0.5, 99.5])
        place[axis] = (world[axis] - low) / max(high - low, 1e-3) * (BINS[axis] - 1)
    place[2] = (world[2].max() - world[2]) / DEPTH_MM * (BINS[2] - 1)
    return _Located(labels, place, case.modality)


def _dsc(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float(np.count_nonzero(a & b)) / max(int(np.count_nonzero(a)) + int(np.count_nonzero(b)), 1)


def _probabilities(cases: Sequence[_Located], organs: Sequence[int]) -> np.ndarray:
    """Per organ the share of voxels on each lattice place that carry it, smoothed a little: (organ, *BINS)."""
    seen = np.zeros(BINS, np.float32)
    found = np.zeros((len(organs), *BINS), np.float32)
    for case in cases:
        bins = np.rint(case.place).astype(int)
        ok = np.all((bins >= 0) & (bins < np.array(BINS)[:, None, None, None]), axis=0)
        flat = (bins[0][ok] * BINS[1] + bins[1][ok]) * BINS[2] + bins[2][ok]
        seen += np.bincount(flat, minlength=seen.size).reshape(BINS)
        labels = case.label[ok]
        for number, organ in enumerate(organs):
            found[number] += np.bincount(flat[labels == organ], minlength=seen.size).reshape(BINS)
    seen = ndimage.gaussian_filter(seen, 0.8)
    for number in range(len(organs)):
        found[number] = ndimage.gaussian_filter(found[number], 0.8)
    return found / np.maximum(seen, 1e-3)


def _looked_up(probability: np.ndarray, case: _Located) -> np.ndarray:
    return ndimage.map_coordinates(probability, case.place, order=1, mode="constant")


def atlas_dsc(training: Sequence[Case], test: Sequence[Case], organs: Sequence[int]) -> dict[int, float]:
    """Mean DSC per organ of the atlas of `training` on `test`, each modality by its own.

    Counted are the cases whose reference has the organ, on the scan's own grid; organs that no test case has
    are left out. Cases of a modality without training cases count 0.
    """
    cases = [_located(case) for case in training]
    scores: dict[int, list[float]] = {organ: [] for organ in organs}
    for modality in sorted({case.modality for case in test}):
        tests = [_located(case) for case in test if case.modality == modality]
        known = [case for case in cases if case.modality == modality]
        blank = [np.zeros_like(case.label) for case in tests]
        predictions = _predicted(known, tests, organs) if known else blank
        for case, prediction in zip(tests, predictions, strict=True):
            for organ in organs:
                if (case.label == organ).any():
                    scores[organ].append(_dsc(prediction == organ, case.label == organ))
    return {organ: float(np.mean(found)) for organ, found in scores.items() if found}


def kept_atlas_dsc(
    training: Sequence[Case], test: Sequence[Case], organs: Sequence[int], store: Path
) -> dict[int, float]:
    """As `atlas_dsc`, computed once for the same scans and label maps: the scores are kept in the training store."""
    content = [
        [[case.modality, *(content_hash(path, store) for path in (case.image, case.label) if path)] for case in cases]
        for cases in (training, test)
    ]
    key = sha256_of_json([sha256_of_file(__file__), content, list(organs)])
    file = store / "atlas" / f"{key}.json"
    if (kept := _kept(file)) is None:
        kept = atlas_dsc(training, test, organs)
        write_json(file, {str(organ): score for organ, score in kept.items()})
    return kept


def _kept(file: Path) -> dict[int, float] | None:
    """Scores written earlier; None if there are none or they cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {int(organ): float(score) for organ, score in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _predicted(known: list[_Located], tests: list[_Located], organs: Sequence[int]) -> list[np.ndarray]:
    probabilities = _probabilities(known, organs)
    thresholds = []
    for number, organ in enumerate(organs):
        reference = [(_looked_up(probabilities[number], case), case.label == organ) for case in known[:12]]
        gained = [np.mean([_dsc(p > t, r) for p, r in reference if r.any()] or [0.0]) for t in THRESHOLDS]
        thresholds.append(float(THRESHOLDS[int(np.argmax(gained))]))
    predictions = []
    for case in tests:
        best = np.ones(case.label.shape, np.float32)
        prediction = np.zeros_like(case.label)
        for number, organ in enumerate(organs):
            strength = _looked_up(probabilities[number], case) / thresholds[number]
            better = strength > best
            best[better] = strength[better]
            prediction[better] = organ
        predictions.append(prediction)
    return predictions
