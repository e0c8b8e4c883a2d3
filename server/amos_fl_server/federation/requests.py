"""What a server asks of sites: the task of a run, and the work of a round."""

from collections.abc import Iterable, Mapping

from amos_fl.errors import AmosError
from amos_fl.methods.base import Work
from amos_fl.runs.config import RunConfig
from amos_fl.runs.own_code import own_modules
from amos_fl.runs.work import steps_at
from amos_fl_clients.federation.messages import Task, agreed_weight
from amos_fl_clients.federation.reply_models import Description
from amos_fl_server.federation.strategies import is_flowers


def task_for(config: RunConfig, organs: Mapping[int, str], run_id: str, name: str = "") -> Task:
    """The task that the run sends to every site."""
    of_flower = is_flowers(config.strategy)
    return Task(
        run_id=run_id,
        name=name[:200],
        seed=config.seed,
        model=config.model,
        plan=config.plan,
        organs=dict(organs),
        training=config.training,
        optimizer_state=config.optimizer_state,
        # Flower's strategies have no client side here: their sites train as in FedAvg.
        method="fedavg" if of_flower else config.strategy,
        method_options={} if of_flower else config.strategy_options,
        modules=own_modules(config),
        weighting=config.weighting,
        update_codec=config.update_codec,
        top_k_share=config.top_k_share,
        local_seconds=config.local_seconds,
        tolerance_mm=config.evaluation.tolerance_mm,
        inference=config.evaluation.inference,
        site_timeout_s=config.site_timeout_s,
        prepare_workers=config.prepare_workers,
        norm_statistics=config.norm_statistics,
    )


def agreed_weights(config: RunConfig, task: Task, described: Mapping[str, Description]) -> dict[str, float]:
    """The agreed weight of each training site, in sorted order.

    Raises:
        AmosError: no site trains.
    """
    steps = _steps(config, described, sorted(site for site, about in described.items() if about.cases["train"]))
    if not steps:
        raise AmosError("no site has a labelled training case; give a cohort with cases whose split is train")
    return {site: float(agreed_weight(task, described[site].cases["train"], of)) for site, of in steps.items()}


def works_in(
    config: RunConfig, number: int, described: Mapping[str, Description], sites: Iterable[str]
) -> dict[str, Work]:
    """The work of each of `sites` in round `number`."""
    return {
        site: Work(number, (number - 1) * steps, steps, config.rounds * steps, config.training)
        for site, steps in _steps(config, described, sites).items()
    }


def _steps(config: RunConfig, described: Mapping[str, Description], sites: Iterable[str]) -> dict[str, int]:
    return {site: steps_at(config, site, described[site].cases["train"]) for site in sites}
