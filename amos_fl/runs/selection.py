"""Choose the round whose weights a run keeps, on the seen sites' validation cases, never on unseen scanners."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from amos_fl.metrics.catalogue import MetricName
from amos_fl.runs.config import RunConfig
from amos_fl.runs.evaluation import Evaluation
from amos_fl.runs.folder import OWN, RunFolder


@dataclass(frozen=True)
class ChosenRound:
    """The chosen round, and in words `of` which round or rounds the weights are, with the reason."""

    round: int
    of: str

    @property
    def sentence(self) -> str:
        """The same as a sentence of its own."""
        return f"weights of {self.of}"


_Best = tuple[float, int]
"""A score and its round, negative: the larger one is the better, and the earlier one in a tie."""


@dataclass
class Bests:
    """The best rounds of a run up to now, as evaluations are added in any order.

    The best of all sites together counts only rounds in which no site failed in the evaluation; that of a site is on
    its own validation cases. Sites without a score are not in it, and unseen sites choose nothing.
    """

    _together: _Best | None = None
    _of_sites: dict[str, _Best] = field(default_factory=dict)
    _missing: set[str] = field(default_factory=set)
    """The sites without which others were scored."""

    def add(self, number: int, evaluation: Evaluation) -> None:
        scores = _of_sites(evaluation, "dsc", seen=True)
        for site, score in scores.items():
            if not math.isnan(score):
                self._of_sites[site] = max(self._of_sites.get(site, (-math.inf, 0)), (score, -number))
        together = _mean(scores.values())
        if evaluation.missing and not math.isnan(together):
            self._missing |= set(evaluation.missing)
        elif not math.isnan(together):
            self._together = max(self._together or (-math.inf, 0), (together, -number))

    def choice(self, config: RunConfig, last: int) -> ChosenRound:
        """The best round of all sites together; `last` without scores, or with `selection: last`."""
        if config.selection == "last":
            return ChosenRound(last, f"round {last}, the last one, as the settings say")
        if self._together is None:
            why = "there are no validation scores"
            if self._missing:
                were = "was" if len(self._missing) == 1 else "were"
                why = f"not all sites were scored ({', '.join(sorted(self._missing))} {were} missing)"
            return ChosenRound(last, f"round {last}, the last one, because {why}")
        score, number = self._together
        why = f"the best on the seen sites' validation cases (DSC {score:.3f})"
        return ChosenRound(-number, f"round {-number}, {why}")

    def of_sites(self) -> dict[str, int]:
        """By seen site its best round."""
        return {site: -number for site, (_, number) in self._of_sites.items()}


def _of_sites(evaluation: Evaluation, metric: MetricName, *, seen: bool) -> dict[str, float]:
    return {name: site.scores.to_scores().mean(metric) for name, site in evaluation.sites.items() if site.seen == seen}


def _mean(scores: Iterable[float]) -> float:
    means = [mean for mean in scores if not math.isnan(mean)]
    return math.fsum(means) / len(means) if means else math.nan


def macro_dsc(evaluation: Evaluation, *, seen: bool) -> float:
    """The mean over the seen (or the unseen) sites of their mean DSC; NaN if none has a score."""
    return _mean(_of_sites(evaluation, "dsc", seen=seen).values())


def seen_and_unseen(evaluation: Evaluation, metric: MetricName = "dsc") -> tuple[float | None, float | None]:
    """The means of a metric over the seen and over the unseen sites; None if no site has a score."""
    seen, unseen = (_mean(_of_sites(evaluation, metric, seen=which).values()) for which in (True, False))
    return (None if math.isnan(seen) else seen, None if math.isnan(unseen) else unseen)


def bests_of(folder: RunFolder, last: int, kind: str = "val") -> Bests:
    """The best rounds up to `last`, read from the evaluations of a kind.

    `kind` is `val`, of the shared model, or `OWN["val"]`, of the sites' own.
    """
    found = Bests()
    for number, of in folder.evaluations():
        if of == kind and number <= last and (evaluation := folder.read_evaluation(number, kind)) is not None:
            found.add(number, evaluation)
    return found


def choose_round(folder: RunFolder, config: RunConfig, last: int) -> ChosenRound:
    """The round up to `last` with the highest macro mean of the seen sites' validation DSC, the earliest in a tie.

    A round counts only when no site failed in its evaluation. Without validation scores, or with
    `selection: last`, it is the last round.
    """
    return bests_of(folder, last).choice(config, last)


def best_rounds(folder: RunFolder, last: int, kind: str = "val") -> dict[str, int]:
    """By seen site the round up to `last` that is best on its validation cases, the earliest in a tie."""
    return bests_of(folder, last, kind).of_sites()


def own_rounds(folder: RunFolder, config: RunConfig) -> dict[str, int]:
    """Each site's chosen round of its personal model, which is its best one; sites not named keep the last."""
    return {} if config.selection == "last" else best_rounds(folder, config.rounds, OWN["val"])


def rounds_worth_keeping(shared: Bests, own: Bests, config: RunConfig, last: int) -> set[int]:
    """The rounds whose checkpoints are kept: the choice of all sites together, and that of each site."""
    return {*shared.of_sites().values(), *own.of_sites().values(), shared.choice(config, last).round}
