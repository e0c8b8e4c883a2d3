"""The Decathlon's hippocampus task as a federation: its scans divided by the units of their intensities.

The task's description names no scanner, but the files show families: some are gray values up to 255, most are floats
up to a few thousand, and some are floats in units of 1e5 and more. Nobody trains on the last. The largest family is
divided by case number into three sites of unequal sizes. Cases 2k - 1 and 2k are the two sides of patient k, who is
never on two sides of a split.
"""

from pathlib import Path

import numpy as np

from amos_fl.cohort.dataset import Dataset, Row
from amos_fl.errors import AmosError
from amos_fl.volumes.nifti import read_image

MOST_OF_8_BITS, HUGE_UNITS = 255, 1e5
LAST_OF_NORTH, LAST_OF_EAST = 300, 362
"""Case numbers."""


def sites_of(dataset: Dataset) -> dict[str, Row]:
    """The site and the patient of every case of the task, and `test` as the split of cases in huge units.

    Raises:
        AmosError: a case has no number, or its scan cannot be read.
    """
    return {case.case: _row(case.case, case.image) for case in dataset.cases}


def _row(case: str, image: Path) -> Row:
    number = case.rpartition("_")[2]
    if not number.isdecimal():
        raise AmosError(f"{image}: has no number in its name; unpack Task04_Hippocampus again")
    patient = f"p{(int(number) + 1) // 2:03d}"
    largest = float(np.max(read_image(image).array))
    if largest <= MOST_OF_8_BITS:
        return Row(site="gray8", patient=patient)
    if largest >= HUGE_UNITS:
        return Row(site="hugeunits", patient=patient, split="test")
    site = "north" if int(number) <= LAST_OF_NORTH else "east" if int(number) <= LAST_OF_EAST else "west"
    return Row(site=site, patient=patient)
