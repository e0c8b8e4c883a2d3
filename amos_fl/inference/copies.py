"""Lightly changed copies of a prepared case, on which a network that is sure of its ground draws the same organs.

Nothing is mirrored: a network that was trained without mirror images tells left from right by position. The changes are
those that every recipe trains against: another scale, a gamma, noise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from amos_fl.prepared.store import GridRegion, PreparedCase
from amos_fl.randomness import generator
from amos_fl.volumes.plan import Spacing
from amos_fl.volumes.resample import resample_image

Alteration = Callable[[np.ndarray, np.random.Generator], np.ndarray]
GAMMA, NOISE_SD = 0.75, 0.15
"""Of intensities between 0 and 1, and of noise in standard deviations of the normalised scan."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AlteredCase(PreparedCase):
    """A prepared case with another image, held in memory; its label map is unavailable."""

    array: np.ndarray

    def _read(self, name: str, region: GridRegion | None) -> np.ndarray:
        assert name == "image.b2nd"
        return self.array if region is None else self.array[region]


def _gamma(image: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """Intensities to a power between their 0.5 and 99.5 percentiles; mean and standard deviation stay."""
    low, high = np.percentile(image[::2, ::2], [0.5, 99.5])
    if high <= low:
        return image
    powered = np.clip((image - low) / (high - low), 0, 1) ** GAMMA
    deviation = powered - powered.mean(dtype=np.float64)
    sd = max(float(powered.std(dtype=np.float64)), 1e-6)
    return deviation * (image.std(dtype=np.float64) / sd) + image.mean(dtype=np.float64)


def _noise(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return image + np.float32(NOISE_SD) * random.standard_normal(image.shape, dtype=np.float32)


COPIES: dict[str, tuple[float, Alteration | None]] = {
    "smaller": (0.9, None),
    "larger": (1.1, None),
    "gamma": (1.0, _gamma),
    "noise": (1.0, _noise),
}
"""By name the scale of a copy, and what is done to its intensities; the most telling come first."""


def copy_of(prepared: PreparedCase, name: str, spacing_mm: Spacing) -> PreparedCase:
    """A copy of a case, a function of the case's name and the copy's; its geometry leads back to the scan's own grid.

    `spacing_mm` is that of the case's plan.
    """
    scale, change = COPIES[name]
    image = prepared.image()
    padding = prepared.padding
    if scale != 1:
        image = resample_image(image, (scale * spacing_mm[0], scale * spacing_mm[1], scale * spacing_mm[2]), spacing_mm)
    if change is not None:
        image = np.asarray(change(image, generator(0, "copy", name, prepared.case)), np.float32)
        padding = min(padding, float(image.min()))
    x, y, z = image.shape
    return AlteredCase(**{**vars(prepared), "shape": (x, y, z), "padding": padding}, array=image)
