"""One label map out of a mask for each organ."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from amos_fl.wording import counted


def combined(
    masks: Mapping[int, UInt8[np.ndarray, " byte"]], shape: tuple[int, int, int], organs: Mapping[int, str]
) -> tuple[UInt8[np.ndarray, "x y z"], list[str]]:
    """The label map (C order) of masks by label value, and notes on voxels that two organs share.

    Masks are packed (`np.packbits`), because fifteen organs of a whole scan are gigabytes. Where two meet, the smaller
    organ is taken, as a lesion in an organ or a duodenum in a sloppy stomach should.

    >>> liver, lesion = np.array([1, 1, 1, 0]), np.array([0, 1, 0, 0])
    >>> combined({6: np.packbits(liver), 7: np.packbits(lesion)}, (1, 1, 4), {6: "liver", 7: "lesion"})
    (array([[[6, 7, 6, 0]]], dtype=uint8), ['lesion and liver share 1 voxel, taken as the smaller: lesion'])
    """
    array = np.zeros(shape, dtype=np.uint8)
    sizes = {organ: int(np.unpackbits(packed).sum()) for organ, packed in masks.items()}
    notes = []
    for organ in sorted(masks, key=lambda organ: (-sizes[organ], organ)):
        mask = np.unpackbits(masks[organ], count=array.size).reshape(shape).astype(bool)
        before = np.bincount(array[mask], minlength=256)
        for other in np.flatnonzero(before[1:]) + 1:
            both = counted(int(before[other]), "voxel")
            taken = organs[organ]
            notes.append(f"{taken} and {organs[int(other)]} share {both}, taken as the smaller: {taken}")
        array[mask] = organ
    return array, notes
