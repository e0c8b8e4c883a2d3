"""What the words of a page mean, said where it begins."""

from collections.abc import Sequence

from amos_fl.metrics.catalogue import METRICS, MetricName, title_of

Words = list[tuple[str, str]]
_MEASURED: dict[str, str] = {
    "dsc": "how much of prediction and reference (the label drawn by people) overlap; 0 is nothing, 1 all",
    "nsd": "which part of the two surfaces lies closer together than the tolerance; 0 is nothing, 1 all",
}


def words_of(metrics: Sequence[MetricName], tolerance_mm: float | None, *, unseen: bool = True) -> Words:
    """The scores, with their tolerance if it is known, and what seen and unseen scanners are."""
    words: Words = []
    for metric in metrics:
        about = METRICS[metric].about
        if tolerance_mm is None:
            about = about.partition(" with a tolerance of ")[0]
        else:
            about = about.format(tolerance_mm=f"{tolerance_mm:g}")
        words.append((title_of(metric), f"{about}: {_MEASURED[metric]}" if metric in _MEASURED else about))
    if unseen:
        words.append(("seen", "a scanner (site) on whose scans the network was trained; its test cases are others"))
        words.append(("unseen", "a scanner from which the network has had no scan"))
    return words


OUTCOMES: Words = [
    ("missed", "an organ of a case that the reference has and the prediction has not; it scores 0"),
    ("hallucinated", "an organ of a case that the prediction has and the reference has not; it scores 0"),
]
INTERVAL: Words = [
    (
        "95 % interval",
        "where a mean or a difference may well lie if other cases of the same sites are scored (a bootstrap over "
        "cases); what chance does to the training is not in it",
    )
]
TRAINED: Words = [
    ("patches", "blocks cut from the training scans, a few for each step; their number says how much was trained"),
    ("seed", "the number from which all chance in a run follows; between seeds, chance alone differs"),
]
POOLED: Words = [("pooled", "with the training scans of all sites in one place, as without a federation")]
COMPARED: Words = [
    ("arm", "what is compared: runs with the same settings, whatever their seeds, or one model for each site"),
    (
        "p after Holm",
        "how often so large a difference comes by chance where there is none, corrected for the number of tests",
    ),
]
