"""Planes of a case as SVG: the scan as a small picture, prediction and label as outlines on it."""

import base64
import io
from typing import cast

import numpy as np
from contourpy import contour_generator
from markupsafe import Markup, escape
from PIL import Image

from amos_fl.pictures.planes import Plane
from amos_fl.report.palette import LABEL_LINE, PREDICTION_LINE

JPEG_QUALITY = 82


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


def picture(grey: np.ndarray) -> str:
    """A grey plane as a JPEG in a data URL."""
    written = io.BytesIO()
    Image.fromarray(grey).save(written, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode("ascii")


def plane_svg(plane: Plane, organs: dict[int, str], name: str, title: str) -> Markup:
    """One plane with every organ's outline; pointing at an outline names its organ.

    `name` is unique on the page and begins all ids.
    """
    height, width = plane.grey.shape
    name = escape(name)
    lines = []
    for kind, labels in (("label", plane.label), ("prediction", plane.prediction)):
        for value in np.unique(labels[labels > 0]).tolist():
            what = escape(f"{organs.get(value, f'label {value}')}: {kind}")
            lines.append(f'<path class="{kind}" d="{outline_path(labels == value)}"><title>{what}</title></path>')
    return Markup(
        f'<svg role="img" aria-labelledby="{name}-title {name}-desc" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" class="plane"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(_told(plane, organs))}</desc>'
        f'<image width="{width}" height="{height}" href="{picture(plane.grey)}"/>'
        f'<g transform="scale(.5)" fill="none">{"".join(lines)}</g></svg>'
    )


def _told(plane: Plane, organs: dict[int, str]) -> str:
    shown = [organs.get(v, f"label {v}") for v in np.unique(plane.label[plane.label > 0]).tolist()]
    equal = (
        float((plane.label == plane.prediction)[(plane.label > 0) | (plane.prediction > 0)].mean() * 100)
        if ((plane.label > 0) | (plane.prediction > 0)).any()
        else 100.0
    )
    return (
        f"{plane.view} plane {plane.position + 1} of {plane.of}, through {', '.join(shown) or 'no labelled organ'}; "
        f"label and prediction agree on {equal:.0f} % of the pixels that either of them marks."
    )


def legend_line(kind: str) -> Markup:
    """A short piece of the line that stands for `label` or `prediction`, for a legend."""
    colour = {"label": LABEL_LINE, "prediction": PREDICTION_LINE}[kind]
    return Markup('<svg class="key" aria-hidden="true" viewBox="0 0 34 12" width="34" height="12">{}</svg>').format(
        Markup('<rect width="34" height="12" fill="#444"/><path class="{}" d="M3 6h28" stroke="{}"/>').format(
            kind, colour
        )
    )
