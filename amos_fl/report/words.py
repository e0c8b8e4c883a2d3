"""What the words of a page mean, said where it begins."""

from collections.abc import Sequence

from amos_fl.metrics.catalogue import METRICS, MetricName, title_of

Words = list[tuple[str, str]]
_MEASURED: dict[str, str] = {
    "dsc": "how much of prediction and reference (the label drawn by people) overlap; 0 is nothing, 1 all",
    "nsd": "which part of the two surfaces lies closer together than that; 0 is nothing, 1 all",
}


def words_of(metrics: Sequence[MetricName], tolerance_mm: float | None, *, unseen: bool = True) -> Words:
    """The scores, with their tolerance if it is known, and what seen and unseen scanners are."""
    words: Words = []
    for metric in metrics:
        tolerance = "some" if tolerance_mm is None else f"{tolerance_mm:g}"
        about = METRICS[metric].about.format(tolerance_mm=tolerance)
        words.append((title_of(metric), f"{about}: {_MEASURED[metric]}" if metric in _MEASURED else about))
    if unseen:
        words.append(("seen", "a scanner (site) on whose scans the network was trained; its test cases are others"))
        words.append(("unseen", "a scanner from which the network has had no scan"))
    return words


OUTCOMES: Words = [
    ("missed", "an organ of a case that the reference has and the prediction has not; it scores 0"),
    ("hallucinated", "an organ of a case that the prediction has and the reference has not; it scores 0"),
]
COMPARED: Words = [
    ("arm", "what is compared: runs with the same settings, whatever their seeds, or one model for each site"),
    (
        "p after Holm",
        "how often so large a difference comes by chance where there is none, corrected for the number of tests",
    ),
]
