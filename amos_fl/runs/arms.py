"""Derive the baselines of a federation from its settings, with equal budgets.

In a federation of K sites that each take S steps in each of R rounds, all sites together see K x R x S batches, and
R x S steps must wait for one another. The pooled run has the same rounds with K x S steps in each (`equal-samples`) or
with S (`equal-steps`); a site alone has S steps in each round (`site`) or K x S (`whole`). Where sites take unequal
steps, K x S is their sum and S the most, or the site's own; where rounds ask some sites alone, it is that part of the
sum. Nobody resets one trainer's momentum between rounds, so these runs keep it: their rounds only mark where they are
scored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.runs.config import ALONE, RunConfig
from amos_fl.runs.group import PlannedRun
from amos_fl.runs.work import sites_asked, steps_by_site

PooledBudget = Literal["equal-samples", "equal-steps"]
LocalBudget = Literal["site", "whole"]


def centralized(base: RunConfig, cohort: Cohort, budget: PooledBudget = "equal-samples") -> PlannedRun:
    """One trainer over the training cases of all seen sites, with the network, plan and recipe of `base`."""
    steps = _whole(base, cohort) if budget == "equal-samples" else max(_steps(base, cohort).values())
    changes = {**ALONE, "arm": "centralized", "local_steps": steps}
    return PlannedRun("centralized", base.model_copy(update=changes), cohort)


def locals_of(base: RunConfig, cohort: Cohort, budget: LocalBudget = "site") -> list[PlannedRun]:
    """Each seen site alone; on the way scored on its own validation cases, at its end on all sites."""
    scoring = base.evaluation.model_copy(update={"unseen": False})
    changes = {**ALONE, "arm": "local", "evaluation": scoring}
    own, whole = _steps(base, cohort), _whole(base, cohort)
    steps = dict.fromkeys(own, whole) if budget == "whole" else own
    return [
        _alone(base.model_copy(update={**changes, "local_steps": steps[site]}), cohort, site)
        for site in cohort.seen_sites
    ]


def finetunes_of(
    base: RunConfig, cohort: Cohort, weights: Path, *, rounds: int | None = None, learning_rate: float | None = None
) -> list[PlannedRun]:
    """The weights of a federation continued at each seen site alone.

    By default for a fifth of the federation's rounds, starting at a tenth of its learning rate: enough to adapt to one
    scanner, but little enough to keep what the federation has learned.
    """
    rounds = rounds or max(1, round(base.rounds / 5))
    rate = learning_rate or base.training.learning_rate / 10
    changes = {
        **ALONE,
        "arm": "finetune",
        "rounds": rounds,
        "start_from": weights.resolve(),
        "training": base.training.model_copy(update={"learning_rate": rate}),
        "evaluation": base.evaluation.model_copy(update={"every": min(base.evaluation.every, rounds), "unseen": False}),
    }
    own = _steps(base, cohort)
    return [
        _alone(base.model_copy(update={**changes, "local_steps": own[site]}), cohort, site)
        for site in cohort.seen_sites
    ]


def leave_one_out(base: RunConfig, cohort: Cohort) -> list[PlannedRun]:
    """The federation without each seen site in turn, which is then an unseen scanner.

    Raises:
        AmosError: only one seen site, without which no site would train.
    """
    if len(cohort.seen_sites) < 2:
        raise AmosError("leave-one-out needs at least two sites that train")
    changes = {"arm": "leave-one-out"}
    return [_without(base.model_copy(update=changes), cohort, [site], f"without-{site}") for site in cohort.seen_sites]


def _steps(base: RunConfig, cohort: Cohort) -> dict[str, int]:
    """The steps of each site in a round.

    Raises:
        AmosError: they are not known beforehand.
    """
    if base.local_seconds is not None:
        raise AmosError(
            "with local_seconds a site's steps are known after the run alone, and no other run can be given as many; "
            "leave local_seconds out and set local_steps"
        )
    return steps_by_site(base, cohort)


def _whole(base: RunConfig, cohort: Cohort) -> int:
    """The steps of all sites together in a round, on average over the rounds where these ask some of them."""
    steps = _steps(base, cohort)
    asked = sum(len(sites_asked(base, number, list(steps))) for number in range(1, base.rounds + 1))
    return max(1, round(sum(steps.values()) * asked / (base.rounds * len(steps)))) if any(steps.values()) else 0


def _alone(config: RunConfig, cohort: Cohort, site: str) -> PlannedRun:
    return _without(config, cohort, [other for other in cohort.seen_sites if other != site], site)


def _without(config: RunConfig, cohort: Cohort, sites: Sequence[str], name: str) -> PlannedRun:
    held = tuple(sorted({*config.hold_out, *sites}))
    return PlannedRun(name, config.model_copy(update={"hold_out": held}), cohort.holding_out(sites))
