"""Which round's weights a run ends with: chosen on the seen sites' validation cases, never on unseen scanners."""

import math
from dataclasses import dataclass
from typing import Any

from amos_fl.metrics.scores import Scores
from amos_fl.runs.config import RunConfig
from amos_fl.runs.folder import RunFolder


@dataclass(frozen=True)
class Choice:
    """The chosen round, and why in a sentence."""

    round: int
    is_best: bool
    sentence: str


def macro_dsc(evaluation: dict[str, Any], *, seen: bool) -> float:
    """The mean over the seen (or the unseen) sites of their mean DSC; NaN where none has a score."""
    sites = evaluation["sites"].values()
    means = [Scores.from_dict(site["scores"]).mean_dsc() for site in sites if site["seen"] == seen]
    means = [mean for mean in means if not math.isnan(mean)]
    return math.fsum(means) / len(means) if means else math.nan


def seen_and_unseen_dsc(evaluation: dict[str, Any]) -> tuple[float | None, float | None]:
    """The macro means of a round's evaluation, None where there is none."""
    seen, unseen = macro_dsc(evaluation, seen=True), macro_dsc(evaluation, seen=False)
    return (None if math.isnan(seen) else seen, None if math.isnan(unseen) else unseen)


def choose_round(folder: RunFolder, config: RunConfig, last: int) -> Choice:
    """The round up to `last` with the highest macro mean over the seen sites' validation DSC, the earliest of equals.

    A round counts only when no site failed in its evaluation. Without validation scores, or with
    `selection: last`, it is the last round.
    """
    if config.selection == "last":
        return Choice(last, False, f"weights of round {last}, the last one, as the settings say")
    best: tuple[float, int] | None = None
    for number in range(1, last + 1):
        evaluation = folder.read_evaluation(number, "val")
        if evaluation is None or evaluation["missing"]:
            continue
        score = macro_dsc(evaluation, seen=True)
        if not math.isnan(score) and (best is None or score > best[0]):
            best = (score, number)
    if best is None:
        return Choice(last, False, f"weights of round {last}, the last one, because there are no validation scores")
    score, number = best
    why = f"the best on the seen sites' validation cases (DSC {score:.3f})"
    return Choice(number, True, f"weights of round {number}, {why}")
