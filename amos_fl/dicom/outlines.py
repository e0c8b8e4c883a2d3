"""The outlines of a mask as closed contours, from which `contours.filled` makes the same mask again."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import numpy as np
from jaxtyping import Bool, Float


def outlines(mask: Bool[np.ndarray, "row column"]) -> list[Float[np.ndarray, "point 2"]]:
    """Contours (column, row), halfway between the pixels inside and outside; a hole is a keyhole of the one around it.

    A keyhole is what every reader of structure sets knows (DICOM PS3.3, C.8.8.6.3): its channel goes to and fro on one
    line, and covers nothing.
    """
    from contourpy import FillType, contour_generator

    drawn = contour_generator(z=np.pad(mask.astype(float), 1), fill_type=FillType.OuterOffset)
    points, offsets = cast(tuple[list[np.ndarray], list[np.ndarray]], drawn.filled(0.5, 2.0))
    found = []
    for polygons, bounds in zip(points, offsets, strict=True):
        rings = [_corners(polygons[a : b - 1] - 1) for a, b in pairwise(bounds)]
        found.append(_keyhole(rings))
    return found


def _corners(ring: np.ndarray) -> np.ndarray:
    """The ring without points on straight lines between others."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9]


def _keyhole(rings: Sequence[np.ndarray]) -> np.ndarray:
    joined, *holes = rings
    for hole in holes:
        apart = np.linalg.norm(joined[:, None] - hole[None], axis=2)
        i, j = np.unravel_index(int(apart.argmin()), apart.shape)
        there = np.roll(hole, -j, axis=0)
        joined = np.concatenate([joined[: i + 1], there, there[:1], joined[i:]])
    return joined
