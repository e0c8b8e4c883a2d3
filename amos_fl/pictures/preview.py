"""Draw a preview of a prediction: three planes through the organs, each plain and with the organs outlined."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from amos_fl.files import whole_file
from amos_fl.pictures.planes import Plane, planes_of
from amos_fl.volumes.nifti import Volume

COLOURS = np.array(
    [
        (0, 0, 0), (235, 80, 60), (255, 205, 60), (255, 165, 40), (60, 205, 80), (245, 120, 205), (175, 95, 55),
        (255, 150, 185), (230, 30, 30), (70, 110, 255), (245, 245, 120), (0, 225, 225), (0, 185, 255),
        (185, 110, 245), (250, 250, 0), (255, 0, 255),
    ],
    np.uint8,
)  # fmt: skip
"""One colour per AMOS label value, black for the background."""

_HEIGHT, _LINE = 480, 2
_GAP, _TEXT = 8, 18
_GREY = (190, 190, 190)


def colours_of(labels: np.ndarray) -> np.ndarray:
    """RGB colours (..., 3) of label values; beyond AMOS's fifteen they repeat."""
    return COLOURS[np.where(labels > 0, (labels.astype(int) - 1) % (len(COLOURS) - 1) + 1, 0)]


def outlined(plane: np.ndarray, label: np.ndarray, width: int = 1) -> np.ndarray:
    """An RGB picture (rows, columns, 3) of a grey plane (uint8) with every organ's border drawn in its colour.

    The border is the outermost `width` pixels of the organ.
    """
    picture = np.repeat(plane[..., None], 3, axis=-1)
    near = ndimage.iterate_structure(ndimage.generate_binary_structure(2, 1), width)
    inner = (ndimage.grey_erosion(label, footprint=near) == label) & (
        ndimage.grey_dilation(label, footprint=near) == label
    )
    border = (label > 0) & ~inner
    picture[border] = colours_of(label[border])
    return picture


def preview(
    image: Volume, prediction: np.ndarray, modality: str, organs: Mapping[int, str], title: str, notes: str = ""
) -> Image.Image:
    """Draw the prediction (x, y, z) on its scan: axial, coronal and sagittal, where most organs are cut.

    Patients lie as in radiology: the right on the left, sagittal with the front on the left. Below are the names of
    the organs found, in their colours, with their volumes.
    """
    planes = planes_of(image, prediction, prediction, modality)
    scale = _HEIGHT / max(plane.grey.shape[0] for plane in planes)  # their pixels are equally wide
    columns = [_column(plane, scale) for plane in planes]
    width = sum(plain.width for plain, _ in columns) + _GAP * (len(columns) + 1)
    lines = _legend(prediction, image.voxel_ml, organs, width - 2 * _GAP)
    top = _GAP + _TEXT * (2 if notes else 1)
    row = max(plain.height for plain, _ in columns)
    body = 2 * row + _GAP
    canvas = Image.new("RGB", (width, top + body + 2 * _GAP + _TEXT * len(lines)))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    draw.text((_GAP, 4), title, fill=(255, 255, 255), font=font)
    draw.text((_GAP, 4 + _TEXT), notes, fill=_GREY, font=font)
    x = _GAP
    for plain, drawn in columns:
        canvas.paste(plain, (x, top))
        canvas.paste(drawn, (x, top + row + _GAP))
        x += plain.width + _GAP
    for number, entries in enumerate(lines):
        x = _GAP
        for text, colour in entries:
            draw.text((x, top + body + _GAP + number * _TEXT), text, fill=colour, font=font)
            x += _width(text)
    return canvas


def write_preview(path: Path, picture: Image.Image) -> None:
    """Write a preview as PNG, whole or not at all."""
    with whole_file(path) as beside:
        picture.save(beside, format="PNG", optimize=True)


def row_of(title: str, planes: Mapping[str, Plane], height: int) -> Image.Image:
    """Planes in a row, each `height` pixels high: the first plain under the title, then all outlined, named."""
    scale = height / next(iter(planes.values())).grey.shape[0]
    drawn = {name: drawn_plane(plane, scale) for name, plane in planes.items()}
    tiles = [(title, next(iter(drawn.values()))[0]), *((name, outline) for name, (_, outline) in drawn.items())]
    canvas = Image.new("RGB", (sum(t.width for _, t in tiles) + _GAP * (len(tiles) - 1), height + _TEXT))
    x = 0
    for name, tile in tiles:
        canvas.paste(tile, (x, _TEXT))
        ImageDraw.Draw(canvas).text((x + 2, 2), name, fill=(255, 255, 255), font=ImageFont.load_default(12))
        x += tile.width + _GAP
    return canvas


def drawn_plane(plane: Plane, scale: float) -> tuple[Image.Image, Image.Image]:
    """A plane `scale` times as large, plain and with its prediction outlined."""
    rows, columns = plane.grey.shape
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    grey = np.asarray(Image.fromarray(plane.grey).resize(size, Image.Resampling.BICUBIC))
    label = np.asarray(Image.fromarray(plane.prediction).resize(size, Image.Resampling.NEAREST))
    return Image.fromarray(grey).convert("RGB"), Image.fromarray(outlined(grey, label, _LINE))


def _column(plane: Plane, scale: float) -> tuple[Image.Image, Image.Image]:
    """A plane, plain with its place, and outlined."""
    plain, outline = drawn_plane(plane, scale)
    where = f"{plane.view} {plane.position + 1}/{plane.of}"
    ImageDraw.Draw(plain).text((4, 2), where, fill=_GREY, font=ImageFont.load_default(12))
    return plain, outline


def _legend(
    prediction: np.ndarray, voxel_ml: float, organs: Mapping[int, str], width: int
) -> list[list[tuple[str, tuple[int, ...]]]]:
    """Lines of (text, colour) that fit into `width` pixels."""
    counts = np.bincount(prediction.ravel(order="K"), minlength=256)
    found = [(f"{organs[o]} {_in_ml(counts[o] * voxel_ml)}    ", o) for o in organs if counts[o]]
    if not found:
        return [[("no organ was found", _GREY)]]
    lines: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    used = 0.0
    for text, organ in found:
        if lines[-1] and used + _width(text) > width:
            lines.append([])
            used = 0.0
        lines[-1].append((text, tuple(int(c) for c in colours_of(np.array(organ)))))
        used += _width(text)
    return lines


def _width(text: str) -> float:
    return ImageFont.load_default(13).getlength(text)


def _in_ml(volume_ml: float) -> str:
    return f"{volume_ml:.0f} ml" if volume_ml >= 100 else f"{volume_ml:.2g} ml"
