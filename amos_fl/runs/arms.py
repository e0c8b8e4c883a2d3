"""Derive the baselines of a federation from its settings, with equal budgets.

In a federation of K sites that each take S steps in each of R rounds, all sites together see K x R x S batches, and
R x S steps are sequential. The pooled run has the same rounds with K x S steps in each (`equal-samples`) or with S
(`equal-steps`); a site alone has S steps in each round (`site`) or K x S (`whole`). These runs have one trainer, so
they keep its momentum between rounds: their rounds only mark where they are scored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.runs.config import RunConfig
from amos_fl.runs.group import PlannedRun

PooledBudget = Literal["equal-samples", "equal-steps"]
LocalBudget = Literal["site", "whole"]

ALONE: dict[str, Any] = {
    "strategy": "fedavg",
    "strategy_options": {},
    "optimizer_state": "keep",
    "weighting": "cases",
    "min_sites": None,
}
"""Settings of a run with one trainer, which has nothing to average."""


def centralized(base: RunConfig, cohort: Cohort, budget: PooledBudget = "equal-samples") -> PlannedRun:
    """One trainer over the training cases of all seen sites, with the network, plan and recipe of `base`."""
    factor = len(cohort.seen_sites) if budget == "equal-samples" else 1
    changes = {**ALONE, "arm": "centralized", "local_steps": base.local_steps * factor}
    return PlannedRun("centralized", base.model_copy(update=changes), cohort)


def locals_of(base: RunConfig, cohort: Cohort, budget: LocalBudget = "site") -> list[PlannedRun]:
    """Each seen site alone; scored during training on its own validation cases, at the end on all sites."""
    factor = len(cohort.seen_sites) if budget == "whole" else 1
    scoring = base.evaluation.model_copy(update={"unseen": False})
    changes = {**ALONE, "arm": "local", "local_steps": base.local_steps * factor, "evaluation": scoring}
    return [_alone(base.model_copy(update=changes), cohort, site) for site in cohort.seen_sites]


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
    return [_alone(base.model_copy(update=changes), cohort, site) for site in cohort.seen_sites]


def leave_one_out(base: RunConfig, cohort: Cohort) -> list[PlannedRun]:
    """The federation without each seen site in turn, which is then an unseen scanner.

    Raises:
        AmosError: only one seen site, without which no site would train.
    """
    if len(cohort.seen_sites) < 2:
        raise AmosError("leave-one-out needs at least two sites that train")
    changes = {"arm": "leave-one-out"}
    return [_without(base.model_copy(update=changes), cohort, [site], f"without-{site}") for site in cohort.seen_sites]


def _alone(config: RunConfig, cohort: Cohort, site: str) -> PlannedRun:
    return _without(config, cohort, [other for other in cohort.seen_sites if other != site], site)


def _without(config: RunConfig, cohort: Cohort, sites: Sequence[str], name: str) -> PlannedRun:
    held = tuple(sorted({*config.hold_out, *sites}))
    return PlannedRun(name, config.model_copy(update={"hold_out": held}), cohort.holding_out(sites))
