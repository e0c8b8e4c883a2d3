"""Slices of a case as SVG: the scan as a small picture, the label filled and the prediction as an outline on it."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from contourpy import contour_generator
from jaxtyping import Bool, UInt8
from markupsafe import Markup, escape
from PIL import Image

from amos_fl.pictures.kept import JPEG_QUALITY, KeptSlices
from amos_fl.report.palette import organ_line

NUMBER_HEIGHT = 0.04
"""Of an organ's number, in heights of the picture."""


@dataclass(frozen=True)
class OrganLine:
    """How an organ is drawn: its number (the label value), name, colour, and the dashes of its outline."""

    value: int
    name: str
    colour: str
    dash: str


def organ_lines(organs: Mapping[int, str]) -> dict[int, OrganLine]:
    """How each organ of a cohort is drawn, by label value: the same on every page of the cohort."""
    return {value: OrganLine(value, name, *organ_line(i)) for i, (value, name) in enumerate(sorted(organs.items()))}


def outline_path(mask: np.ndarray) -> str:
    """The border of a mask (rows, columns) as an SVG path in half pixels; "" if the mask is empty.

    >>> outline_path(np.array([[True]]))
    'M0 1l1 -1l1 1l-1 1l-1 -1z'
    """
    padded = np.pad(mask, 1).astype(np.float32)
    parts = []
    # The generator's default kind of lines is a list of (point, 2).
    for line in cast("list[np.ndarray]", contour_generator(z=padded).lines(0.5)):
        points = np.rint(2 * (line - 0.5)).astype(int)  # pixel centres lie at half a pixel, and one was padded
        steps = np.diff(points, axis=0)
        parts.append(f"M{points[0, 0]} {points[0, 1]}" + "".join(f"l{x} {y}" for x, y in _merged(steps)) + "z")
    return "".join(parts)


def _merged(steps: np.ndarray) -> list[tuple[int, int]]:
    """Merge consecutive steps of equal direction."""
    merged: list[tuple[int, int]] = []
    before: tuple[int, int] | None = None
    for x, y in steps.tolist():
        if (x, y) == before:
            merged[-1] = (merged[-1][0] + x, merged[-1][1] + y)
        else:
            merged.append((x, y))
        before = (x, y)
    return merged


def data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _picture(grey: UInt8[np.ndarray, "row column"]) -> str:
    written = io.BytesIO()
    Image.fromarray(grey).save(written, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return data_url(written.getvalue(), "jpeg")


def slice_svg(stack: KeptSlices, at: int, lines: Mapping[int, OrganLine], name: str, title: str) -> Markup:
    """One slice with every organ: the label filled, the prediction as a line, and the organ's number.

    `name` is unique on the page and begins all ids.
    """
    label, prediction = stack.label[at], stack.prediction[at]
    height, width = label.shape
    name = escape(name)
    drawn, numbers = [], []
    for value in np.unique(np.concatenate([label[label > 0], prediction[prediction > 0]])).tolist():
        line = lines.get(value) or OrganLine(value, f"label {value}", *organ_line(value - 1))
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        for kind, labels, how in (
            ("label", label, f'fill="{line.colour}"'),
            ("prediction", prediction, f'stroke="{line.colour}"{dash}'),
        ):
            if path := outline_path(labels == value):
                what = escape(f"{line.name}: {kind}")
                drawn.append(f'<path class="{kind}" data-organ="{value}" {how} d="{path}"><title>{what}</title></path>')
        mask = label == value
        x, y = number_place(mask if mask.any() else prediction == value, NUMBER_HEIGHT * height)
        numbers.append(f'<text data-organ="{value}" x="{x}" y="{y}">{value}</text>')
    return Markup(
        f'<svg role="img" aria-labelledby="{name}-title {name}-desc" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" class="plane"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(_told(stack, at, lines))}</desc>'
        f'<image width="{width}" height="{height}" href="{_picture(stack.grey[at])}"/>'
        f'<g transform="scale(.5)" fill="none">{"".join(drawn)}</g>'
        f'<g class="organ-numbers" font-size="{NUMBER_HEIGHT * height:.1f}">{"".join(numbers)}</g></svg>'
    )


def number_place(mask: Bool[np.ndarray, "row column"], size: float) -> tuple[int, int]:
    """Where an organ's number, `size` pixels high, stands, as column and row.

    It is on the pixel nearest to the organ's middle, or beside a cut so small that it would hide it.

    >>> number_place(np.ones((15, 15), bool), 4), number_place(np.eye(4, dtype=bool), 4)
    ((7, 7), (6, 0))
    """
    rows, columns = np.nonzero(mask)
    if len(rows) < (2.5 * size) ** 2:
        return round(int(columns.max()) + 0.7 * size), int(rows.min())
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(columns[nearest]), int(rows[nearest])


def _told(stack: KeptSlices, at: int, lines: Mapping[int, OrganLine]) -> str:
    label, prediction = stack.label[at], stack.prediction[at]
    found = np.unique(label[label > 0]).tolist()
    shown = [lines[value].name if value in lines else f"label {value}" for value in found]
    either = (label > 0) | (prediction > 0)
    equal = float((label == prediction)[either].mean() * 100) if either.any() else 100.0
    return (
        f"{where(stack, at)}, through {', '.join(shown) or 'no labelled organ'}; "
        f"label and prediction agree on {equal:.0f} % of the pixels that either of them marks."
    )


def where(stack: KeptSlices, at: int) -> str:
    """The place of a slice: `axial 34 of 90`."""
    return f"{stack.view} {stack.positions[at] + 1} of {stack.of}"
