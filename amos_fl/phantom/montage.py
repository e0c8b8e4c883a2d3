"""A picture of all eight scanners: an axial plane, plain and with the organs outlined, and a coronal one.

python -m amos_fl.phantom.montage PHANTOM_FOLDER PICTURE.png
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nibabel.funcs import as_closest_canonical
from nibabel.nifti1 import Nifti1Image
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from amos_fl.errors import AmosError
from amos_fl.files import whole_file
from amos_fl.phantom.release import FOLDERS, ListedCase, listed_cases
from amos_fl.phantom.scanners import ACHIEVA, PHANTOM_SCANNERS
from amos_fl.pictures.planes import upright
from amos_fl.pictures.preview import COLOURS, outlined


def grey(image: np.ndarray, modality: str) -> np.ndarray:
    """A plane or volume as uint8: CT in the window -135 to 215 HU, MR up to its 99th percentile."""
    low, high = (-135.0, 215.0) if modality == "CT" else (0.0, max(float(np.percentile(image[image > 0], 98.5)), 1e-6))
    return (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def column(
    image: np.ndarray, label: np.ndarray, spacing_mm: tuple[float, float, float], modality: str, scale: float
) -> list[np.ndarray]:
    """Three RGB pictures: an axial plane, the same with organs outlined, and a coronal plane with organs outlined.

    `image`, `label` are (x, y, z) in canonical RAS order. The axial plane is the one with the most organs, the
    coronal one goes through the kidneys' and the aorta's middle.
    """
    present = np.array([len(np.unique(label[:, :, k])) for k in range(label.shape[2])])
    k = int(np.median(np.flatnonzero(present == present.max())))
    where = np.argwhere(np.isin(label, (2, 3, 8)))
    j = int(np.median(where[:, 1])) if len(where) else label.shape[1] // 2
    shades = grey(image, modality)
    # Only what the body fills, so that the pictures are of a kind whatever the fields of view.
    body = ndimage.binary_opening(shades > (10 if modality == "CT" else 50), iterations=2)
    across = [np.flatnonzero(body.any(axis=(1 - a, 2))) for a in (0, 1)]
    inside = tuple(slice(a[0], a[-1] + 1) if len(a) else slice(None) for a in across)
    shades, label, j = shades[inside], label[inside], j - (inside[1].start or 0)
    x, y, z = spacing_mm
    axial = upright(shades[:, :, k], (x, y), 1 / scale, smooth=True)
    coronal = upright(shades[:, j, :], (x, z), 1 / scale, smooth=True)
    return [
        np.repeat(axial[..., None], 3, -1),
        outlined(axial, upright(label[:, :, k], (x, y), 1 / scale, smooth=False)),
        outlined(coronal, upright(label[:, j, :], (x, z), 1 / scale, smooth=False)),
    ]


def _stacked(pictures: list[np.ndarray], axis: int) -> np.ndarray:
    """RGB pictures one after another along an axis, each in the middle of the widest's extent on the other."""
    other = 1 - axis
    widest = max(p.shape[other] for p in pictures)
    padded = []
    for picture in pictures:
        gap = widest - picture.shape[other]
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[other] = (0, gap) if axis == 1 else (gap // 2, gap - gap // 2)
        padded.append(np.pad(picture, pad))
    return np.concatenate(padded, axis=axis)


def _first_of_each(release: Path, listed: dict[int, ListedCase]) -> list[ListedCase]:
    chosen: dict[str, ListedCase] = {}
    for case in listed.values():
        if case.domain not in chosen and (release / f"images{FOLDERS[case.split]}" / f"{case.name}.nii.gz").is_file():
            chosen[case.domain] = case
    return [chosen[domain] for domain in sorted(chosen)]


def montage(
    release: Path, out_png: Path, *, cases: Sequence[int] | None = None, scale: float = 0.75, columns: int = 4
) -> None:
    """Draw one case of each scanner of a phantom release (or `cases`, AMOS ids) into a PNG, `scale` pixels per mm.

    Raises:
        AmosError: the release holds none of AMOS's cases.
    """
    release = Path(release)
    listed = listed_cases()
    chosen = _first_of_each(release, listed) if cases is None else [listed[case] for case in cases]
    if not chosen:
        raise AmosError(f"{release}: holds no case to draw; write a phantom with 'amos-fl data phantom'")
    drawn = [_drawn(release, case, scale) for case in chosen]
    rows = [drawn[i : i + columns] for i in range(0, len(drawn), columns)]
    whole = _stacked([_stacked([_stacked(pictures, 0) for pictures in row], 1) for row in rows], 0)
    with whole_file(out_png) as beside:
        # A palette of the organs' colours and 40 greys: a third of the size, and no organ changes its colour.
        palette = Image.new("P", (1, 1))
        greys = np.repeat(np.linspace(0, 255, 40).round().astype(np.uint8)[:, None], 3, axis=1)
        palette.putpalette(np.concatenate([greys, COLOURS[1:]]).tobytes())
        Image.fromarray(whole).quantize(palette=palette, dither=Image.Dither.NONE).save(
            beside, format="PNG", optimize=True
        )


def _drawn(release: Path, case: ListedCase, scale: float) -> list[np.ndarray]:
    folder = FOLDERS[case.split]
    scan = Nifti1Image.from_filename(release / f"images{folder}" / f"{case.name}.nii.gz")
    organs = Nifti1Image.from_filename(release / f"labels{folder}" / f"{case.name}.nii.gz")
    # The label's own header may differ in the last digits, so only its array is taken.
    organs = Nifti1Image(np.asarray(organs.dataobj), scan.affine)
    scan, organs = as_closest_canonical(scan), as_closest_canonical(organs)
    x, y, z = (float(mm) for mm in scan.header.get_zooms()[:3])
    image, label = np.asarray(scan.dataobj, np.float32), np.asarray(organs.dataobj)
    pictures = column(image, label, (x, y, z), case.modality, scale)
    model = ACHIEVA[0] if case.scanner == ACHIEVA[0] else PHANTOM_SCANNERS[case.domain].model
    return [_titled(pictures[0], f"{case.domain}  {model}, {case.modality}"), *pictures[1:]]


def _titled(picture: np.ndarray, text: str) -> np.ndarray:
    canvas = Image.fromarray(np.pad(picture, ((20, 0), (0, 0), (0, 0))))
    ImageDraw.Draw(canvas).text((6, 2), text, fill=(255, 255, 255), font=ImageFont.load_default(14))
    return np.asarray(canvas)


if __name__ == "__main__":
    montage(Path(sys.argv[1]), Path(sys.argv[2]))
