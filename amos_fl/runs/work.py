"""What the training sites of a run are asked for: who of them in a round, how many steps each, and what it counts."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from amos_fl.errors import AmosError
from amos_fl.randomness import generator
from amos_fl.wording import counted

if TYPE_CHECKING:
    from amos_fl.cohort.table import Cohort
    from amos_fl.runs.config import RunConfig


def steps_at(config: "RunConfig", site: str, cases: int) -> int:
    """The steps that a site with so many training cases is asked for in a round, at most where they are timed.

    >>> from amos_fl.runs.config import resolve
    >>> from amos_fl.runs.layers import Layer
    >>> config = resolve([Layer("here", {"local_epochs": 2, "site_steps": {"B": 7}, "training": {"batch_size": 2}})])
    >>> steps_at(config, "A", 5), steps_at(config, "B", 5)
    (5, 7)
    """
    if site in config.site_steps:
        return config.site_steps[site]
    if config.local_epochs is None:
        return config.local_steps
    return max(1, math.ceil(config.local_epochs * cases / config.training.batch_size))


def steps_by_site(config: "RunConfig", cohort: "Cohort") -> dict[str, int]:
    """The steps of each training site in a round that asks it; a pooled run has one trainer of many sites."""
    if config.arm == "centralized":
        return {"pooled": config.local_steps}
    trained = [case.site for case in cohort.of(split="train", labelled=True)]
    return {site: steps_at(config, site, trained.count(site)) for site in cohort.seen_sites}


def steps_in_words(config: "RunConfig") -> str:
    """How much a site trains in a round.

    >>> from amos_fl.runs.config import resolve
    >>> from amos_fl.runs.layers import Layer
    >>> steps_in_words(resolve([Layer("here", {"local_steps": 20, "local_seconds": 30, "site_steps": {"B": 1}})]))
    '20 steps (B 1), at most 30 s'
    """
    unit = counted(config.local_steps, "step")
    if config.local_epochs is not None:
        unit = f"{config.local_epochs:g} epoch{'s' * (config.local_epochs != 1)}"
    others = ", ".join(f"{site} {steps}" for site, steps in sorted(config.site_steps.items()))
    timed = "" if config.local_seconds is None else f", at most {config.local_seconds:g} s"
    return f"{unit}{f' ({others})' if others else ''}{timed}"


def sites_asked(config: "RunConfig", number: int, trainers: Sequence[str]) -> list[str]:
    """The training sites that a round asks, sorted: all, or as many as are to be drawn, by the seed and the round.

    >>> from amos_fl.runs.config import resolve
    >>> from amos_fl.runs.layers import Layer
    >>> config = resolve([Layer("here", {"seed": 3, "sites_per_round": 0.5})])
    >>> [sites_asked(config, number, ["A", "B", "C", "G"]) for number in (1, 2)]
    [['C', 'G'], ['B', 'G']]
    """
    wanted = config.sites_per_round
    if wanted is None:
        return sorted(trainers)
    number_of = int(wanted) if wanted >= 1 else max(1, math.floor(wanted * len(trainers) + 0.5))
    if number_of >= len(trainers):
        return sorted(trainers)
    drawn = generator(config.seed, "sites", number).permutation(len(trainers))[:number_of]
    return sorted(sorted(trainers)[i] for i in drawn)


def counts_of(config: "RunConfig", weights: Mapping[str, float], groups: Mapping[str, str]) -> dict[str, float]:
    """What each training site's update counts: its agreed weight, or that within its share of the group.

    `groups` are the modalities of the sites' cases. With the weighting `modality` each group counts alike.

    >>> from amos_fl.runs.config import resolve
    >>> from amos_fl.runs.layers import Layer
    >>> config = resolve([Layer("here", {"weighting": "modality"})])
    >>> counts_of(config, {"A": 30.0, "B": 10.0, "G": 5.0}, {"A": "CT", "B": "CT", "G": "MR"})
    {'A': 0.75, 'B': 0.25, 'G': 1.0}
    """
    if config.weighting != "modality":
        return dict(weights)
    totals = {group: sum(w for site, w in weights.items() if groups[site] == group) for group in groups.values()}
    return {site: weight / totals[groups[site]] for site, weight in weights.items()}


def check_sites(config: "RunConfig", trainers: Sequence[str]) -> None:
    """Whether a run can begin with these training sites.

    Raises:
        AmosError: its settings name a site that does not train, or its method needs more sites.
    """
    check_sites_named(config, trainers)
    if config.exchanges_weights:
        from amos_fl.methods import kind_of, method_named  # with these comes NumPy

        if kind_of(config.strategy) is not None:  # Flower's strategies can do with any
            method_named(config.strategy, config.strategy_options).check_sites(trainers)


def check_sites_named(config: "RunConfig", trainers: Sequence[str]) -> None:
    """Whether the sites that have steps of their own train in the run.

    Raises:
        AmosError: one does not.
    """
    if unknown := sorted(set(config.site_steps) - set(trainers)):
        raise AmosError(f"site_steps names {unknown[0]!r}, which does not train in this run; {', '.join(trainers)} do")
