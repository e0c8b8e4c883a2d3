"""A round of training at a site, from the request to the reply."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Message
from torch import nn

from amos_fl.errors import AmosError, SiteTimeout
from amos_fl.methods.base import VAL_AFTER, VAL_BEFORE, Method, SiteRound, Work
from amos_fl.prepared.store import PreparedCase
from amos_fl.runs.events import Listener, SiteWork
from amos_fl.training.loop import StepReport, TrainingResult, train
from amos_fl.training.pull import Pull
from amos_fl.training.validation import validation_loss
from amos_fl.weights import Arrays, arrays_of, given_up_by, handed_over, is_trained, load_arrays
from amos_fl_clients.federation.cases import own_cohort, prepared
from amos_fl_clients.federation.error_replies import keep_details
from amos_fl_clients.federation.messages import (
    ARRAYS,
    BEST_ROUND,
    CONFIG,
    KEPT_AFTER,
    PROXIMAL_MU,
    RESTARTED,
    WEIGHT,
    Task,
    agreed_weight,
    reply_with,
    task_of,
    value_of,
    work_of,
)
from amos_fl_clients.federation.network import (
    as_second_model,
    method_of,
    own_names,
    second_model,
    shared_network,
    withheld,
)
from amos_fl_clients.federation.policy import Refusal
from amos_fl_clients.federation.records import is_packed, packed, record_holding, record_of, views_of
from amos_fl_clients.federation.settings import SiteSettings
from amos_fl_clients.federation.state import (
    METHOD,
    MOMENTUM,
    PRIVATE,
    RESIDUAL,
    SECOND_MODEL,
    Lost,
    load_kept,
    save_kept,
)


@dataclass
class RoundAtSite:
    """A site's round, as a request asks for it. `check` is called between steps and may raise."""

    message: Message
    settings: SiteSettings
    listen: Listener
    check: Callable[[], None]
    started: float = field(default_factory=time.perf_counter)
    lost: dict[Lost, str] = field(default_factory=dict)
    """By kind why what the site should have kept is not there; empty where nothing is missing."""

    def __post_init__(self) -> None:
        self.task: Task = task_of(self.message)
        self.work: Work = work_of(self.task, self.message.content.config_records[CONFIG])
        self.method: Method = method_of(self.task)
        self.received: Arrays = views_of(self.message.content.array_records[ARRAYS])

    def reply(self) -> Message:
        """Train the shared network, and the site's second one if the method has it, and answer with the update.

        What the site remembers is on disk before.
        """
        task, settings, method = self.task, self.settings, self.method
        cohort, own = own_cohort(settings, task), own_names(task, personal=True)
        cases = cohort.of(split="train", labelled=True)
        network, self.lost[Lost.PRIVATE] = shared_network(
            self.message, task, settings, own_after=self.work.number - 1, own_names=own
        )
        keeps = task.optimizer_state == "keep"
        momentum = self._kept(Lost.MOMENTUM, MOMENTUM) if keeps else {}
        residual = self._kept(Lost.RESIDUAL, RESIDUAL) if task.update_codec != "none" else {}
        memory = self._kept(Lost.METHOD, METHOD) if method.site_models else {}
        own_model = self._kept(Lost.SECOND_MODEL, SECOND_MODEL) if method.second_model else {}
        weights, own_momentum = second_model(own_model)
        for why in filter(None, self.lost.values()):
            keep_details(settings, AmosError(why))
        given = SiteRound(self.work, self._sent_beside(), memory)
        reporting = bool(method.reports) and "val" not in settings.refuse_evaluation_on
        validation = prepared(settings, task, cohort.of(split="val", labelled=True)) if reporting else []
        patches = prepared(settings, task, cases) if self.work.steps else []

        reports = self._reported(VAL_BEFORE, network, validation)
        mu = value_of(self.message, PROXIMAL_MU)  # of Flower's own FedProx
        pull = method.pull(given) if mu is None else Pull(mu=float(mu))
        result = self._train("train", network, patches, self.work.steps, momentum, pull, task.local_seconds)
        reports |= self._reported(VAL_AFTER, network, validation)

        if keeps:
            self._save(MOMENTUM, _arrays(result.momentum_buffers))
        if own:
            self._save(PRIVATE, {name: array for name, array in arrays_of(network).items() if name in own})
        update = self._update(network, replace(given, work=replace(self.work, steps=result.steps)), residual)
        if method.second_model:  # in the same network, whose shared weights are in the update by now
            load_arrays(network, weights or self.received)
            pull = method.personal_pull(_trained(self.received))
            second = self._train("personalise", network, patches, result.steps, own_momentum, pull, None)
            buffers = _arrays(second.momentum_buffers) if keeps else {}
            self._save(SECOND_MODEL, as_second_model(arrays_of(network), buffers))
        restarted = sum(kind for kind, why in self.lost.items() if why)
        metrics: dict[str, Any] = {
            WEIGHT: agreed_weight(task, len(cases), self.work.steps),
            "cases": len(cases),
            "steps": result.steps,
            "train_loss": result.mean_loss,
            "seconds": time.perf_counter() - self.started,
            **({RESTARTED: restarted} if restarted else {}),
            **reports,
        }
        return reply_with(self.message, settings.site, arrays=update, metrics=metrics)

    def _kept(self, kind: Lost, name: str) -> Arrays:
        """What the site stored of a kind after its last round before this one."""
        kept_after = value_of(self.message, KEPT_AFTER)
        kept = load_kept(self.settings.state, self.task.run_id, name, self.work.number - 1, kept_after)
        self.lost[kind] = kept.lost
        return kept.value

    def _save(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        best_round = int(value_of(self.message, BEST_ROUND, 0)) if name == SECOND_MODEL else None
        save_kept(self.settings.state, self.task.run_id, name, self.work.number, arrays, best_round=best_round)

    def _sent_beside(self) -> dict[str, Arrays]:
        """The arrays that the method sends beside the weights, one per trained array.

        Raises:
            Refusal: they are not in the request, or belong to another network.
        """
        records, sends = self.message.content.array_records, self.method.sends
        forms = {name: (array.shape, array.dtype) for name, array in _trained(self.received).items()}
        sent = {name: views_of(records[name]) for name in sends if name in records}
        for name in sends:
            if {key: (array.shape, array.dtype) for key, array in sent.get(name, {}).items()} != forms:
                why = f"the request lacks {name!r}, which this run's method sends, or has another network's"
                raise Refusal(self.settings.site, why)
        return sent

    def _train(
        self,
        activity: str,
        network: nn.Module,
        cases: list[PreparedCase],
        steps: int,
        momentum: Mapping[str, np.ndarray],
        pull: Pull,
        seconds: float | None,
    ) -> TrainingResult:
        task, site = self.task, self.settings.site

        def on_step(report: StepReport) -> None:
            self.check()
            if task.site_timeout_s is not None and time.perf_counter() - self.started > task.site_timeout_s:
                raise SiteTimeout(f"it was stopped after {task.site_timeout_s:g} s, at step {report.step + 1}")
            done = report.step - self.work.first_step + 1
            self.listen(SiteWork(site, activity, self.work.number, done, steps, report.loss))

        self.check()
        return train(
            network,
            cases,
            task.plan,
            task.training,
            organs=tuple(task.organs),
            seed=task.seed,
            site=site,
            steps=steps,
            first_step=self.work.first_step,
            total_steps=self.work.total_steps,
            device=self.settings.device,
            momentum_buffers={name: torch.from_numpy(np.array(a)) for name, a in momentum.items()},
            pull=pull,
            seconds=seconds,
            on_step=on_step,
        )

    def _reported(self, name: str, network: nn.Module, validation: list[PreparedCase]) -> dict[str, float]:
        """The site's loss on its validation cases, if the method has it reported and the site has such cases."""
        if not validation or name not in self.method.reports:
            return {}
        task = self.task
        loss = validation_loss(
            network,
            validation,
            task.plan,
            task.training,
            organs=tuple(task.organs),
            seed=task.seed,
            site=self.settings.site,
            device=self.settings.device,
            check=self.check,
        )
        return {name: loss}

    def _update(self, network: nn.Module, given: SiteRound, residual: Arrays) -> ArrayRecord:
        """The update in the form in which it is sent; the network's values are lost in the process."""
        codec, stay = self.task.codec, withheld(self.task)
        before = {name: array for name, array in self.received.items() if name not in stay}
        after = {name: array for name, array in arrays_of(network).items() if name not in stay}
        encoded: Arrays | None = None
        if codec.name != "none":
            try:
                encoded, left_out = codec.encode(before, after, residual)
            except AmosError as error:
                raise error.of(f"site {self.settings.site}") from None
            self._save(RESIDUAL, left_out)
        if self.method.site_models:
            if encoded is not None:  # what the server goes on with
                after = codec.decode(before, encoded)
            self._save(METHOD, self.method.keep(given, _trained(before), _trained(after)))
        del after
        # In the form of the request: packed from another machine, Flower's arrays in a simulation.
        travels = is_packed(self.message.content.array_records[ARRAYS])
        if encoded is not None:
            return (packed if travels else record_of)(encoded.items())
        arrays = given_up_by(network) if travels else handed_over(network)
        kept = ((name, array) for name, array in arrays if name not in stay)
        return packed(kept) if travels else record_holding(kept)


def _trained(arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {name: array for name, array in arrays.items() if is_trained(name, array)}


def _arrays(tensors: Mapping[str, torch.Tensor]) -> Arrays:
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
