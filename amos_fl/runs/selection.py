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


def best_round_of_site(folder: RunFolder, site: str, last: int, *, personal: bool = False) -> int | None:
    """The round up to `last` that is best on one seen site's validation cases, the earliest in a tie.

    With `personal`, of the site's own models in place of the shared one. None if the site has no validation score;
    unseen sites do not choose.
    """
    return _first_best_of_site(_evaluations(folder, last, OWN["val"] if personal else "val"), site)


def personal_round_of_site(folder: RunFolder, config: RunConfig, site: str) -> int:
    """The round whose personal model a site keeps: its own best, or the last one if the settings say so."""
    best = None if config.selection == "last" else best_round_of_site(folder, site, config.rounds, personal=True)
    return config.rounds if best is None else best


def _first_best_of_site(evaluations: list[tuple[int, dict[str, Any]]], site: str) -> int | None:
    scores = {}
    for number, evaluation in evaluations:
        found = evaluation["sites"].get(site)
        if found is not None and found["seen"]:
            scores[number] = Scores.from_dict(found["scores"]).mean_dsc()
    return _first_best(scores)


def rounds_worth_keeping(folder: RunFolder, config: RunConfig, last: int) -> set[int]:
    """The rounds whose checkpoints are kept: the choice of all sites together, and that of each site."""
    evaluations = _evaluations(folder, last)
    sites = {site for _, evaluation in evaluations for site in evaluation["sites"]}
    chosen = {_first_best_of_site(evaluations, site) for site in sites}
    own = _evaluations(folder, last, OWN["val"])
    chosen |= {_first_best_of_site(own, site) for site in sites} if own else set()
    return {number for number in chosen if number is not None} | {choose_round(folder, config, last).round}


def _evaluations(folder: RunFolder, last: int, kind: str = "val") -> list[tuple[int, dict[str, Any]]]:
    found = ((number, folder.read_evaluation(number, kind)) for number in range(1, last + 1))
    return [(number, evaluation) for number, evaluation in found if evaluation is not None]


def _first_best(scores: Mapping[int, float]) -> int | None:
    known = {number: score for number, score in scores.items() if not math.isnan(score)}
    return max(sorted(known), key=lambda number: known[number], default=None)
