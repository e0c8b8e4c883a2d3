"""Pictures of a scored case, small enough to keep: slices in three directions, with label and prediction.

A site saves them as `CASE.npz`, which holds plain arrays only. Which slices are kept, and which part of them, follows
from scan and label alone: every model's picture of a case shows the same ones.
"""

import io
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from amos_fl.cohort.table import Case
from amos_fl.errors import AmosError
from amos_fl.files import private_folder, whole_file
from amos_fl.pictures.planes import AXES, around, grey_levels, pixel_mm_of, upright, window_of
from amos_fl.volumes.nifti import Volume, read_image, to_canonical

MOST_SLICES = {"axial": 20, "coronal": 10, "sagittal": 10}
"""The slices that are kept at most, equally far apart."""
JPEG_QUALITY = 75
SCORES_FILE = "scores.csv"
"""Beside the pictures: the scores of their cases, which a site may keep to itself."""
SCORED_FILE = "scored.json"
"""Beside the scores: how they were measured, `tolerance_mm` of NSD."""


@dataclass(frozen=True)
class KeptSlices:
    """The slices of a case in one view, from the feet, the back and the left on.

    `jpeg` holds the scan's grey levels, one slice below another; `label` and `prediction` are label values. Rows go
    from top to bottom, the patient's right is on the left (sagittal: the front). `positions` are the slices' indices
    along their axis of the scan in canonical order, and `of` is how many that has.
    """

    view: str
    jpeg: bytes
    label: UInt8[np.ndarray, "slice row column"]
    prediction: UInt8[np.ndarray, "slice row column"]
    positions: tuple[int, ...]
    of: int

    @cached_property
    def grey(self) -> UInt8[np.ndarray, "slice row column"]:
        """The scan's grey levels."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg))).reshape(self.label.shape)


@dataclass(frozen=True)
class CasePicture:
    """What is kept of a case. Pixels are square, `pixel_mm` wide, black and white are the values of `window`.

    `outside_ml` is the volume of the prediction that lies outside the part shown.
    """

    modality: str
    stacks: tuple[KeptSlices, ...]
    pixel_mm: float
    window: tuple[float, float]
    outside_ml: float

    def shows_the_same_as(self, other: "CasePicture") -> bool:
        """Whether both show the same slices of one case, with the same label."""
        return len(self.stacks) == len(other.stacks) and all(
            (mine.positions, mine.of) == (theirs.positions, theirs.of) and np.array_equal(mine.label, theirs.label)
            for mine, theirs in zip(self.stacks, other.stacks, strict=True)
        )


def picture_of(
    image: Volume,
    label: UInt8[np.ndarray, "x y z"],
    prediction: UInt8[np.ndarray, "x y z"],
    modality: str,
    left_out: Bool[np.ndarray, "256"] | None = None,
) -> CasePicture:
    """The picture of a case, from its scan and the two label maps on the scan's grid, in whatever orientation.

    Label values that are `left_out` are drawn as background.
    """
    scan = to_canonical(image)
    values = np.arange(256, dtype=np.uint8)
    if left_out is not None:
        values[left_out] = 0
    maps = [values[to_canonical(Volume(array, image.affine)).array] for array in (label, prediction)]
    box = around(maps[0], scan.spacing_mm)
    inside = scan.array[box], maps[0][box], maps[1][box]
    window, pixel_mm = window_of(scan.array, modality), pixel_mm_of(inside[0].shape, scan.spacing_mm)
    outside = np.count_nonzero(maps[1]) - np.count_nonzero(inside[2])
    stacks = []
    for view, axis in AXES.items():
        spacing = [mm for a, mm in enumerate(scan.spacing_mm) if a != axis]
        size = inside[0].shape[axis]
        at = np.unique(np.linspace(0, size - 1, min(size, MOST_SLICES[view])).round().astype(int))
        sides = [np.moveaxis(part, axis, 0)[at] for part in inside]
        grey = np.stack([upright(grey_levels(side, window), spacing, pixel_mm, smooth=True) for side in sides[0]])
        marked, found = (np.stack([upright(side, spacing, pixel_mm, smooth=False) for side in of]) for of in sides[1:])
        positions = tuple((at + box[axis].start).tolist())
        stacks.append(KeptSlices(view, _jpeg(grey), marked, found, positions, scan.shape[axis]))
    return CasePicture(modality, tuple(stacks), pixel_mm, window, outside * scan.voxel_ml)


def _jpeg(grey: UInt8[np.ndarray, "slice row column"]) -> bytes:
    written = io.BytesIO()
    Image.fromarray(grey.reshape(-1, grey.shape[-1])).save(written, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return written.getvalue()


def save_picture(path: Path, picture: CasePicture) -> None:
    """Write a picture as one compressed file, whole or not at all."""
    about = [picture.modality == "CT", picture.pixel_mm, *picture.window, picture.outside_ml]
    arrays: dict[str, np.ndarray] = {"about": np.array(about, np.float64)}
    for stack in picture.stacks:
        arrays[f"{stack.view}_jpeg"] = np.frombuffer(stack.jpeg, np.uint8)
        arrays[f"{stack.view}_label"] = stack.label
        arrays[f"{stack.view}_prediction"] = stack.prediction
        arrays[f"{stack.view}_at"] = np.array([*stack.positions, stack.of], np.int64)
    with whole_file(path) as beside, beside.open("wb") as file:
        cast(Any, np.savez_compressed)(file, **arrays)


def load_picture(path: Path) -> CasePicture:
    """The picture that `save_picture` wrote.

    Raises:
        AmosError: no such file, or one that holds no picture.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            is_ct, pixel_mm, low, high, outside_ml = arrays["about"].astype(float).tolist()
            stacks = tuple(_stack(view, arrays) for view in AXES)
    except FileNotFoundError:
        raise AmosError(f"{path}: no such picture") from None
    except (
        *(OSError, ValueError, KeyError, TypeError, EOFError),
        *(zlib.error, zipfile.BadZipFile, Image.DecompressionBombError),
    ):
        raise AmosError(f"{path}: holds no picture of a case; remove it") from None
    return CasePicture("CT" if is_ct else "MR", stacks, pixel_mm, (low, high), outside_ml)


def _stack(view: str, arrays: Any) -> KeptSlices:
    label, prediction = arrays[f"{view}_label"], arrays[f"{view}_prediction"]
    *positions, of = arrays[f"{view}_at"].astype(int).tolist()
    jpeg = arrays[f"{view}_jpeg"].tobytes()
    with Image.open(io.BytesIO(jpeg)) as grey:
        size, mode = grey.size, grey.mode
    whole = label.ndim == 3 and label.shape == prediction.shape and len(label) == len(positions) > 0
    if not whole or label.dtype != np.uint8 or prediction.dtype != np.uint8 or mode != "L":
        raise ValueError(view)
    if size != (label.shape[2], label.shape[0] * label.shape[1]):
        raise ValueError(view)
    return KeptSlices(view, jpeg, label, prediction, tuple(positions), of)


def keep_picture(folder: Path, case: Case, prediction: np.ndarray, reference: Volume) -> None:
    """Write the picture of a scored case to `folder/CASE.npz`, without organs that nobody annotated in it.

    Raises:
        AmosError: the scan cannot be read.
    """
    private_folder(folder)
    # Organs that were not looked for are neither right nor wrong.
    left_out = ~np.isin(np.arange(256), case.annotated)
    picture = picture_of(read_image(case.image), reference.array, prediction, case.modality, left_out)
    save_picture(folder / f"{case.case}.npz", picture)
