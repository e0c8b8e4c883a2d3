"""`model/training_scans.json`: what a network's training scans were like, in numbers over many patients.

By modality the number of cases, the ranges of spacing and extent rounded outwards to a coarse scale, and the mean
histogram of normalised intensities. It holds no scan's own value: a modality with fewer than three cases is only named.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from amos_fl.cohort.table import Modality
from amos_fl.files import write_json
from amos_fl.planning.histogram import Histogram
from amos_fl.runs.stored import Stored, read_stored

TRAINING_SCANS = "training_scans.json"
LEAST_DISCLOSED_CASES = 3
"""As a site withholds by default: what fewer cases have in common may be known of one of them."""
_Length = Annotated[float, Field(gt=0, le=1e5)]
_Range = tuple[_Length, _Length]
Ranges = tuple[_Range, _Range, _Range]
"""Lowest and highest along x, y and z, in mm."""


class ScansOfModality(Stored):
    """The training scans of a modality; without ranges and intensities of fewer than `LEAST_DISCLOSED_CASES`.

    `intensities` is the mean over cases of their histograms, `furthest` the largest distance of a training case's from
    that of the others (`amos_fl.inference.unlike`), rounded upwards.
    """

    # Not strict: JSON has no tuples, and keys that are texts.
    model_config: ClassVar[ConfigDict] = ConfigDict(strict=False)

    cases: Annotated[int, Field(ge=1)]
    spacing_mm: Ranges | None = None
    extent_mm: Ranges | None = None
    intensities: Histogram = Histogram()
    furthest: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> "ScansOfModality":
        told = [self.spacing_mm is None, self.extent_mm is None, self.furthest is None, not self.intensities.counts]
        if len(set(told)) > 1 or (self.cases < LEAST_DISCLOSED_CASES and not told[0]):
            raise ValueError("ranges and intensities are there together, of enough cases, or not at all")
        return self


class TrainingScans(Stored):
    """The training scans of a network, by modality."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=False)

    version: Literal[1] = 1
    modalities: Annotated[dict[Modality, ScansOfModality], Field(min_length=1)]


def write_training_scans(model: Path, scans: TrainingScans) -> None:
    """Write it into a model folder."""
    write_json(model / TRAINING_SCANS, scans.model_dump(mode="json", exclude_none=True))


def read_training_scans(model: Path) -> TrainingScans | None:
    """What a model folder tells of its training scans; None if it is of an older version, or of a deployed run.

    Raises:
        AmosError: the file is damaged.
    """
    file = model / TRAINING_SCANS
    return read_stored(file, TrainingScans, "remove it, or copy it again from its run") if file.exists() else None
