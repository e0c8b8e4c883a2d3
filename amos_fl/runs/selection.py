"""Choose the round whose weights a run keeps, on the seen sites' validation cases, never on unseen scanners."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amos_fl.metrics.scores import Scores
from amos_fl.runs.config import RunConfig
from amos_fl.runs.folder import OWN, RunFolder


@dataclass(frozen=True)
class Choice:
    """The chosen round, and the reason in a sentence."""

    round: int
    sentence: str


def macro_dsc(evaluation: dict[str, Any], *, seen: bool) -> float:
    """The mean over the seen (or the unseen) sites of their mean DSC; NaN if none has a score."""
    sites = evaluation["sites"].values()
    means = [Scores.from_dict(site["scores"]).mean_dsc() for site in sites if site["seen"] == seen]
    means = [mean for mean in means if not math.isnan(mean)]
    return math.fsum(means) / len(means) if means else math.nan


def seen_and_unseen_dsc(evaluation: dict[str, Any]) -> tuple[float | None, float | None]:
    """The macro means of a round's evaluation, None if there is none."""
    seen, unseen = macro_dsc(evaluation, seen=True), macro_dsc(evaluation, seen=False)
    return (None if math.isnan(seen) else seen, None if math.isnan(unseen) else unseen)


def choose_round(folder: RunFolder, config: RunConfig, last: int) -> Choice:
    """The round up to `last` with the highest macro mean of the seen sites' validation DSC, the earliest in a tie.

    A round counts only when no site failed in its evaluation. Without validation scores, or with
    `selection: last`, it is the last round.
    """
    if config.selection == "last":
        return Choice(last, f"weights of round {last}, the last one, as the settings say")
    number = _first_best({n: macro_dsc(e, seen=True) for n, e in _evaluations(folder, last) if not e["missing"]})
    if number is None:
        return Choice(last, f"weights of round {last}, the last one, because there are no validation scores")
    score = macro_dsc(folder.read_evaluation(number, "val") or {"sites": {}}, seen=True)
    why = f"the best on the seen sites' validation cases (DSC {score:.3f})"
    return Choice(number, f"weights of round {number}, {why}")


def best_rounds(folder: RunFolder, last: int, kind: str = "val") -> dict[str, int]:
    """By seen site the round up to `last` that is best on its validation cases, the earliest in a tie.

    `kind` is that of the evaluations: of the shared model, or `OWN["val"]` of the sites' own. A site without a
    validation score is not in it; unseen sites do not choose.
    """
    scores: dict[str, dict[int, float]] = {}
    for number, evaluation in _evaluations(folder, last, kind):
        for site, found in evaluation["sites"].items():
            if found["seen"]:
                scores.setdefault(site, {})[number] = Scores.from_dict(found["scores"]).mean_dsc()
    best = {site: _first_best(of_site) for site, of_site in scores.items()}
    return {site: number for site, number in best.items() if number is not None}


def own_rounds(folder: RunFolder, config: RunConfig) -> dict[str, int]:
    """By site the round of its own model that it keeps: its best; those not named, the last one."""
    return {} if config.selection == "last" else best_rounds(folder, config.rounds, OWN["val"])


def rounds_worth_keeping(folder: RunFolder, config: RunConfig, last: int) -> set[int]:
    """The rounds whose checkpoints are kept: the choice of all sites together, and that of each site."""
    of_sites = {number for kind in ("val", OWN["val"]) for number in best_rounds(folder, last, kind).values()}
    return of_sites | {choose_round(folder, config, last).round}


def _evaluations(folder: RunFolder, last: int, kind: str = "val") -> list[tuple[int, dict[str, Any]]]:
    rounds = [number for number, of in folder.evaluations() if of == kind and number <= last]
    found = ((number, folder.read_evaluation(number, kind)) for number in rounds)
    return [(number, evaluation) for number, evaluation in found if evaluation is not None]


def _first_best(scores: Mapping[int, float]) -> int | None:
    known = {number: score for number, score in scores.items() if not math.isnan(score)}
    return max(sorted(known), key=lambda number: known[number], default=None)
