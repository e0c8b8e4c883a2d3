"""DSC, NSD, HD95, and how cases add up to a score."""

from amos_fl.metrics.hausdorff import hd95
from amos_fl.metrics.overlap import dsc
from amos_fl.metrics.rows import write_scores
from amos_fl.metrics.scores import OrganScore, Scores, reported_organs, score_case
from amos_fl.metrics.surface import nsd
from amos_fl.metrics.table import CaseScores, read_scores, sums_of

__all__ = [
    "CaseScores",
    "OrganScore",
    "Scores",
    "dsc",
    "hd95",
    "nsd",
    "read_scores",
    "reported_organs",
    "score_case",
    "sums_of",
    "write_scores",
]
