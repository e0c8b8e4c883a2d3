"""DICOM objects that label a series: structure sets of radiotherapy (RTSTRUCT) and segmentations (SEG)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool

from amos_fl.dicom.series import Series
from amos_fl.errors import AmosError

Kind = Literal["RTSTRUCT", "SEG"]


@dataclass(frozen=True)
class DrawnStructure:
    """One thing that a label draws. `meaning` is its coded name in words, where it has one.

    `absent` says why nothing is drawn, and is empty where something is.
    """

    number: int
    name: str
    meaning: str = ""
    absent: str = ""


@dataclass(frozen=True)
class Label:
    """A structure set or a segmentation, by its header: what it draws, and on what.

    `series_uids` and `instance_uids` are those of the images that it refers to.
    """

    path: Path
    kind: Kind
    description: str
    patient: str
    frames_of_reference: frozenset[str]
    series_uids: frozenset[str]
    instance_uids: frozenset[str]
    structures: tuple[DrawnStructure, ...]
    read: Callable[["Label", Series], Iterator["Drawn"]]
    notes: tuple[str, ...] = ()

    def drawn_on(self, series: Series) -> Iterator["Drawn"]:
        """What each of its structures covers of a series, one after another.

        Raises:
            AmosError: the file is damaged, or its geometry is not usable as a whole.
        """
        return self.read(self, series)


@dataclass(frozen=True)
class Drawn:
    """A structure on the grid of a series (slice, row, column); no mask where `problem` says why it cannot be used."""

    structure: DrawnStructure
    mask: Bool[np.ndarray, "slice row column"] | None
    problem: str = ""
    notes: tuple[str, ...] = ()


def grid_of(series: Series) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The affine (4, 4) from (column, row, slice) of a series to RAS mm, and its slices, rows and columns.

    Raises:
        AmosError: it is no stack of slices.
    """
    if series.stack is None:
        raise AmosError(f"{series.name}: {series.problem or 'is no stack of slices'}")
    return series.stack.affine, (len(series.stack.frames), *series.size)
