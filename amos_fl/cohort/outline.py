"""Which sites the embedded phantom has and which of them train, known before it is drawn."""

from pathlib import Path

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.scanners import SCANNERS
from amos_fl.cohort.table import SPLITS, Case, Cohort


def outline() -> Cohort:
    """A case for each site and split that the embedded phantom has, by Table 2 of the paper; no file is there.

    >>> outline().seen_sites, outline().unseen_sites
    (('A', 'B', 'C', 'G', 'H'), ('D', 'E', 'F'))
    """
    nowhere = Path("not-drawn-yet")
    return Cohort(
        tuple(
            Case(
                f"{scanner.domain}-{split}", scanner.domain, scanner.modality, split, nowhere, nowhere, (*AMOS_ORGANS,)
            )
            for scanner in SCANNERS.values()
            for split, number in zip(SPLITS, scanner.table2, strict=True)
            if number
        )
    )
