"""Looking at a case: three views side by side, the same slices for every model, which can be scrolled through."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from amos_fl.pictures.kept import CasePicture, KeptSlices
from amos_fl.pictures.planes import best_slice
from amos_fl.report.slices import OrganLine, data_url, organ_lines, slice_svg, where

PAGE_BUDGET_BYTES = 10_000_000
"""Of the slices on a page itself; of further cases it shows one slice a view, and the rest on a page of their own."""
_SCALES_MM = (100, 50, 20, 10, 5, 2)


@dataclass
class PageBudget:
    """What a page may still take up with slices that can be scrolled through."""

    left: int = PAGE_BUDGET_BYTES

    def spend(self, amount: int) -> bool:
        """Whether there was so much left, which is then spent."""
        if amount > self.left:
            return False
        self.left -= amount
        return True


def case_view(
    name: str,
    title: str,
    organs: Mapping[int, str],
    pictures: Sequence[tuple[str, CasePicture]],
    budget: PageBudget | None = None,
) -> dict[str, Any]:
    """A case for the template's macro `viewer`: a row of views for each model, named, all with the same slices.

    `name` is unique on the page. Pictures of other slices than the first one's are left out. Without a `budget` all
    slices are there; with one, they are if there is enough of it left.
    """
    first = pictures[0][1]
    shown = [(what, picture) for what, picture in pictures if picture.shows_the_same_as(first)]
    lines = _lines(organs, [picture for _, picture in shown])
    starts = [_start([picture.stacks[i] for _, picture in shown]) for i in range(len(first.stacks))]
    data = _data(shown, lines)
    low, high = (f"{end:.0f}".replace("-", "−") for end in first.window)
    return {
        "name": name,
        "window": f"{low} to {high} HU" if first.modality == "CT" else f"{low} to {high}, the scanner's own unit",
        "outside": [
            f"{picture.outside_ml:.0f} ml of the prediction{f' of {what}' if what else ''} lie outside what is shown."
            for what, picture in shown
            if picture.outside_ml >= 0.5
        ],
        "organs": list(lines.values()),
        "views": [_view(stack, at, first.pixel_mm) for stack, at in zip(first.stacks, starts, strict=True)],
        "rows": [
            {
                "what": what,
                "planes": [
                    slice_svg(stack, at, lines, f"{name}-{row}-{stack.view}", _titled(title, what, stack.view))
                    for stack, at in zip(picture.stacks, starts, strict=True)
                ],
            }
            for row, (what, picture) in enumerate(shown)
        ],
        "data": Markup(data) if budget is None or budget.spend(len(data)) else "",
    }


def _titled(*parts: str) -> str:
    return ", ".join(filter(None, parts))


def _lines(organs: Mapping[int, str], pictures: Sequence[CasePicture]) -> dict[int, OrganLine]:
    """The organs that any of the slices shows."""
    maps = [part for picture in pictures for stack in picture.stacks for part in (stack.label, stack.prediction)]
    found = np.unique(np.concatenate([np.unique(part) for part in maps])).tolist()
    named = {**{value: f"label {value}" for value in found if value}, **organs}
    return {value: line for value, line in organ_lines(named).items() if value in found}


def _start(stacks: Sequence[KeptSlices]) -> int:
    """The slice that is shown at first: one for all models."""
    wrong = np.sum([stack.label != stack.prediction for stack in stacks], axis=0)
    return best_slice(stacks[0].label, wrong)


def _view(stack: KeptSlices, at: int, pixel_mm: float) -> dict[str, Any]:
    _, height, width = stack.label.shape
    scale_mm = next((mm for mm in _SCALES_MM if mm <= 0.4 * width * pixel_mm), _SCALES_MM[-1])
    sides = ("A", "P") if stack.view == "sagittal" else ("R", "L")
    return {
        "view": stack.view,
        # Equal heights side by side: each view's width follows from its proportions.
        "share": f"{width / height:.3f}",
        "sides": sides,
        "words": "front" if stack.view == "sagittal" else "the patient's right",
        "scale_mm": scale_mm,
        "scale_percent": f"{100 * scale_mm / (width * pixel_mm):.1f}",
        "at": at,
        "last": len(stack.positions) - 1,
        "where": where(stack, at),
    }


def _data(shown: Sequence[tuple[str, CasePicture]], lines: Mapping[int, OrganLine]) -> str:
    """The slices as JSON that cannot end the script element around it."""
    first = shown[0][1]
    views = [
        {
            "width": stack.label.shape[2],
            "height": stack.label.shape[1],
            "where": [where(stack, i) for i in range(len(stack.positions))],
            "grey": data_url(stack.jpeg, "jpeg"),
            "label": _map(stack.label),
            "predictions": [_map(picture.stacks[i].prediction) for _, picture in shown],
        }
        for i, stack in enumerate(first.stacks)
    ]
    drawn = {line.value: [line.colour, line.dash] for line in lines.values()}
    return json.dumps({"views": views, "organs": drawn}, separators=(",", ":")).replace("<", "\\u003c")


def _map(labels: np.ndarray) -> str:
    """Label values, one slice below another, as the grey levels of a picture without loss."""
    written = io.BytesIO()
    Image.fromarray(labels.reshape(-1, labels.shape[-1])).save(written, format="PNG", optimize=True)
    return data_url(written.getvalue(), "png")
