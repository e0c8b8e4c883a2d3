"""A picture of all eight scanners: an axial and a coronal plane each, as it is and with the organs outlined."""

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from amos_fl.errors import AmosError
from amos_fl.files import whole_file
from amos_fl.phantom.release import FOLDERS, ListedCase, listed_cases
from amos_fl.phantom.scanners import SCANNERS

COLOURS = np.array(
    [
        (0, 0, 0), (235, 80, 60), (255, 205, 60), (255, 165, 40), (60, 205, 80), (245, 120, 205), (175, 95, 55),
        (255, 150, 185), (230, 30, 30), (70, 110, 255), (245, 245, 120), (0, 225, 225), (0, 185, 255),
        (185, 110, 245), (250, 250, 0), (255, 0, 255),
    ],
    np.uint8,
)  # fmt: skip
"""One colour per AMOS label value."""


def outlined(plane: np.ndarray, label: np.ndarray) -> np.ndarray:
    """An RGB picture (rows, columns, 3) of a grey plane (uint8) with every organ's border drawn in its colour."""
    picture = np.repeat(plane[..., None], 3, axis=-1)
    inner = (ndimage.grey_erosion(label, footprint=ndimage.generate_binary_structure(2, 1)) == label) & (
        ndimage.grey_dilation(label, footprint=ndimage.generate_binary_structure(2, 1)) == label
    )
    border = (label > 0) & ~inner
    picture[border] = COLOURS[np.minimum(label[border], len(COLOURS) - 1)]
    return picture


def grey(image: np.ndarray, modality: str) -> np.ndarray:
    """A plane or volume as uint8: CT in the window -135 to 215 HU, MR up to its 99th percentile."""
    low, high = (-135.0, 215.0) if modality == "CT" else (0.0, max(float(np.percentile(image[image > 0], 98.5)), 1e-6))
    return (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _upright(plane: np.ndarray, spacing: tuple[float, float], height: int, order: int) -> np.ndarray:
    """Of canonical axes (x or y or z, ...): rows from top to bottom, patient right on the left, isotropic pixels."""
    image = plane.transpose()[::-1, ::-1]
    size = (max(1, round(height * plane.shape[0] * spacing[0] / (plane.shape[1] * spacing[1]))), height)
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(image)).resize(
            size, (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)[order]
        )
    )


def tile(image: np.ndarray, label: np.ndarray, spacing_mm: Sequence[float], modality: str, height: int) -> np.ndarray:
    """Axial plane, axial plane with organs outlined, and the same of a coronal plane, side by side (RGB).

    `image`, `label` are (x, y, z) in canonical RAS order. The axial plane is the one with the most organs, the
    coronal one goes through the kidneys.
    """
    present = np.array([len(np.unique(label[:, :, k])) for k in range(label.shape[2])])
    k = int(np.median(np.flatnonzero(present == present.max())))
    where = np.argwhere((label == 2) | (label == 3) | (label == 8))
    j = int(np.median(where[:, 1])) if len(where) else label.shape[1] // 2
    shades = grey(image, modality)
    row = []
    for plane, organs, spacing in (
        (shades[:, :, k], label[:, :, k], (spacing_mm[0], spacing_mm[1])),
        (shades[:, j, :], label[:, j, :], (spacing_mm[0], spacing_mm[2])),
    ):
        picture = _upright(plane, spacing, height, 1)
        row += [np.repeat(picture[..., None], 3, -1), outlined(picture, _upright(organs, spacing, height, 0))]
    return np.concatenate(row, axis=1)


def _first_of_each(release: Path, listed: dict[int, ListedCase]) -> list[ListedCase]:
    chosen: dict[str, ListedCase] = {}
    for case in listed.values():
        if case.domain not in chosen and (release / f"images{FOLDERS[case.split]}" / f"{case.name}.nii.gz").is_file():
            chosen[case.domain] = case
    return [chosen[domain] for domain in sorted(chosen)]


def montage(
    release: Path, out_png: Path, *, cases: Sequence[int] | None = None, height: int = 210, columns: int = 2
) -> None:
    """Draw one case of each scanner of a phantom release (or `cases`, AMOS ids) into a PNG file.

    Raises:
        AmosError: the release holds none of AMOS's cases.
    """
    release = Path(release)
    listed = listed_cases()
    chosen = _first_of_each(release, listed) if cases is None else [listed[case] for case in cases]
    if not chosen:
        raise AmosError(f"{release}: holds no case to draw; write a phantom with 'amos-fl data phantom'")
    tiles = []
    for case in chosen:
        split = FOLDERS[case.split]
        # Boundaries of a label's own header may differ in the last digits, so the array is all that is taken.
        scan = nib.Nifti1Image.from_filename(release / f"images{split}" / f"{case.name}.nii.gz")
        organs = nib.Nifti1Image.from_filename(release / f"labels{split}" / f"{case.name}.nii.gz")
        organs = nib.Nifti1Image(np.asarray(organs.dataobj), scan.affine)
        scan, organs = nib.as_closest_canonical(scan), nib.as_closest_canonical(organs)
        image = np.asarray(scan.dataobj, np.float32)
        drawn = tile(image, np.asarray(organs.dataobj), scan.header.get_zooms()[:3], case.modality, height)
        tiles.append(_titled(drawn, f"{case.domain}  {SCANNERS[case.domain].model}, {case.modality}"))
    width = max(t.shape[1] for t in tiles)
    tiles = [np.pad(t, ((0, 0), (0, width - t.shape[1]), (0, 0))) for t in tiles]
    while len(tiles) % columns:
        tiles.append(np.zeros_like(tiles[0]))
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    with whole_file(out_png) as beside:
        Image.fromarray(np.concatenate(rows)).quantize(128).save(beside, format="PNG", optimize=True)


def _titled(picture: np.ndarray, text: str) -> np.ndarray:
    canvas = Image.fromarray(picture)
    ImageDraw.Draw(canvas).text((5, 3), text, fill=(255, 255, 255), font=ImageFont.load_default(14))
    return np.asarray(canvas)
