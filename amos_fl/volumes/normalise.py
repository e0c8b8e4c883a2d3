"""Normalise intensities for the network: CT on one fixed scale, MR relative to the patient's own body."""

from dataclasses import dataclass

import numpy as np

from amos_fl.errors import AmosError
from amos_fl.volumes.body import body_threshold
from amos_fl.volumes.plan import Plan


@dataclass(frozen=True)
class Normalisation:
    """normalised = (clip(value, low, high) - mean) / sd; `padding` is the normalised value of air."""

    low: float | None
    high: float | None
    mean: float
    sd: float
    padding: float

    def apply(self, image: np.ndarray) -> np.ndarray:
        """A new float32 array of the same shape."""
        result = np.array(image, dtype=np.float32)
        if self.low is not None or self.high is not None:
            np.clip(result, self.low, self.high, out=result)
        result -= np.float32(self.mean)
        result /= np.float32(self.sd)
        return result


def normalisation_of(image: np.ndarray, modality: str, plan: Plan, name: str) -> Normalisation:
    """How to normalise one scan (x, y, z), cropped to the body.

    CT: the plan's window, mean and standard deviation in HU, the same for every scan. MR has no unit: the mean and
    standard deviation of the scan's own voxels above the body threshold. If the plan has a percentile, brighter voxels
    are clipped to it, and mean and standard deviation are taken between it and its opposite: a few bright voxels beside
    a coil otherwise set the scale of all others. Outside the scan is air: the lower end of the CT window, or the first
    percentile in MR.

    Raises:
        AmosError: an MR scan without contrast; it starts with `name`.
    """
    if modality == "CT":
        low, high = plan.ct_clip_hu
        return Normalisation(low, high, plan.ct_mean_hu, plan.ct_sd_hu, (low - plan.ct_mean_hu) / plan.ct_sd_hu)
    body = image[image > body_threshold(image, modality)].astype(np.float64)
    high = None
    if plan.mr_percentile is not None and body.size:
        # Air stays darker than the darkest of the body.
        low, high = (float(value) for value in np.percentile(body, (100 - plan.mr_percentile, plan.mr_percentile)))
        body = body.clip(low, high)
    mean, sd = (float(body.mean()), float(body.std())) if body.size else (0.0, 0.0)
    if not sd > 1e-6 * max(1.0, abs(mean)):
        raise AmosError(f"{name}: every voxel has the same value", "leave out this scan")
    return Normalisation(None, high, mean, sd, (float(np.percentile(image[::2, ::2], 1.0)) - mean) / sd)
