"""The AMOS paper's statistics of its cohort (Tables 1, 8 and 9), as printed, and when to show them beside a cohort's.

Table 8 and 9 head the 0.5 percentile "5%". Table 8's slices of MR, 115 in the median, are CT's; its 535 is Table 9's.
Ji et al., AMOS: A Large-Scale Abdominal Multi-Organ Benchmark, NeurIPS 2022 (arXiv 2206.08023).
"""

from dataclasses import dataclass

from amos_fl.cohort.table import Cohort
from amos_fl.comparison.published import is_genuine


@dataclass(frozen=True)
class PaperRow:
    """A row of Table 8 or 9: intensity median, mean, 0.5 % and 99.5 %; slice spacing and slices as min, max, median."""

    table: str
    intensity: tuple[float, float, float, float] | None
    spacing_mm: tuple[float, float, float]
    slices: tuple[float, float, float]


PAPER: dict[str, PaperRow] = {
    "all": PaperRow("Table 8", None, (0.82, 6.0, 5.0), (40, 535, 115)),
    "CT": PaperRow("Table 8", (57, 50, -991, 362), (1.25, 5.0, 5.0), (67, 369, 115)),
    "MR": PaperRow("Table 8", (768, 25383, 32, 164273), (0.82, 6.0, 2.0), (40, 535, 115)),
    "A": PaperRow("Table 9", (69, 63.76, -967, 403), (5.0, 5.0, 5.0), (68, 140, 98)),
    "B": PaperRow("Table 9", (45, 25, -989, 158), (5.0, 5.0, 5.0), (68, 112, 93)),
    "C": PaperRow("Table 9", (63, 53.68, -996, 401), (1.25, 5.0, 2.0), (76, 353, 213)),
    "D": PaperRow("Table 9", (61, 54, -994, 337), (1.25, 5.0, 2.0), (78, 321, 203)),
    "E": PaperRow("Table 9", (59, 56, -979, 353), (1.25, 5.0, 2.0), (67, 369, 224)),
    "F": PaperRow("Table 9", (57422, 58761, 59, 170721), (0.86, 6.0, 1.40), (60, 535, 320)),
    "G": PaperRow("Table 9", (2560, 344, 16, 66331), (0.82, 3.0, 3.0), (64, 512, 72)),
    "H": PaperRow("Table 9", (845, 22937, 47, 1451508), (0.82, 2.0, 0.82), (100, 512, 512)),
}
PAPER_SCANS, PAPER_SLICES, PAPER_VOXELS_PER_SCAN = 600, 74026, 9952e3
"""Table 1."""


def paper_beside(cohort: Cohort) -> dict[str, PaperRow]:
    """The paper's rows by group, if the cohort is AMOS: its cases, scanners and organs, and not a phantom."""
    return PAPER if is_genuine(cohort) and not cohort.synthetic() else {}
