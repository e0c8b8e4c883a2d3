"""A site's Flower ClientApp: it describes itself, trains, and evaluates on a named split."""

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from flwr.app import Context, Message
from torch import nn

from amos_fl.cohort.table import Case, Cohort, Split, read_cohort, write_organs
from amos_fl.errors import AmosError, SiteTimeout
from amos_fl.files import write_json
from amos_fl.inference.evaluate import evaluate_cases
from amos_fl.methods import method_named
from amos_fl.methods.base import VAL_AFTER, VAL_BEFORE, Method, SiteRound
from amos_fl.metrics.scores import Scores, reported_organs
from amos_fl.metrics.table import CaseScores, scores_to_json
from amos_fl.networks.registry import build_network
from amos_fl.owner import identity
from amos_fl.pictures.planes import keep_picture
from amos_fl.planning.measure import fingerprint_of_cases
from amos_fl.prepared.prepare import prepare_cases
from amos_fl.prepared.store import PreparedCase
from amos_fl.runs.events import Listener, SiteWork, silent
from amos_fl.runs.learned import annotated_for_training
from amos_fl.training.loop import StepReport, train
from amos_fl.training.pull import Pull
from amos_fl.training.settings import NormStatistics
from amos_fl.training.validation import validation_loss
from amos_fl.volumes.nifti import Volume
from amos_fl.volumes.plan import Plan
from amos_fl.weights import Arrays, arrays_of, given_up_by, is_statistic, is_trained, load_arrays
from amos_fl_clients.federation.error_replies import keep_details
from amos_fl_clients.federation.guard import GuardedApp
from amos_fl_clients.federation.messages import (
    ARRAYS,
    CONFIG,
    KEPT_AFTER,
    PREPARE,
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
from amos_fl_clients.federation.policy import Refusal, check_not_paused, check_organs, shared_name
from amos_fl_clients.federation.records import is_packed, packed, record_of, views_of
from amos_fl_clients.federation.replies import ArrayForm, names_and_forms
from amos_fl_clients.federation.settings import SiteSettings
from amos_fl_clients.federation.state import (
    METHOD,
    MOMENTUM,
    RESIDUAL,
    STATISTICS,
    Kept,
    Lost,
    load_kept,
    save_kept,
)

Check = Callable[[], None]


def _nothing() -> None:
    pass


@lru_cache(maxsize=1)
def _network(model: str, plan_json: str, organ_count: int, norm_statistics: NormStatistics, device: str) -> nn.Module:
    """The network of this process; every use overwrites all its weights."""
    plan = Plan.model_validate_json(plan_json)
    return build_network(model, plan, organ_count, seed=0, norm_statistics=norm_statistics).to(device)


def _network_of(task: Task, device: str) -> nn.Module:
    return _network(task.model, task.plan.model_dump_json(), len(task.organs), task.norm_statistics, device)


def _loaded_network(message: Message, task: Task, settings: SiteSettings, *, own_after: int) -> tuple[nn.Module, str]:
    """The network with the weights of a request, and the site's own statistics of round `own_after` or earlier.

    If those are lost, the request's are used, and the second value says why.
    """
    network = _network_of(task, settings.device)
    arrays = views_of(message.content.array_records[ARRAYS])
    own = Kept({})
    if task.norm_statistics == "local" and any(map(is_statistic, arrays)):
        own = load_kept(settings.state, task.run_id, STATISTICS, own_after, value_of(message, KEPT_AFTER))
    load_arrays(network, {**arrays, **own.value})
    return network, own.lost


def _kept(message: Message, task: Task, settings: SiteSettings, kind: str) -> Kept:
    """The site's stored state of a kind from its last round before the request's."""
    up_to, kept_after = int(value_of(message, "round")) - 1, value_of(message, KEPT_AFTER)
    return load_kept(settings.state, task.run_id, kind, up_to, kept_after)


def _sent_beside(message: Message, method: Method, site: str) -> dict[str, Arrays]:
    """The arrays that a method sends beside the weights, one per trained array.

    Raises:
        Refusal: they are not in the request, or belong to another network.
    """
    records = message.content.array_records
    forms = {name: (array.shape, array.dtype) for name, array in _trained(views_of(records[ARRAYS])).items()}
    sent = {name: views_of(records[name]) for name in method.sends if name in records}
    for name in method.sends:
        if {key: (array.shape, array.dtype) for key, array in sent.get(name, {}).items()} != forms:
            raise Refusal(site, f"the request lacks {name!r}, which this run's method sends, or has another network's")
    return sent


def _trained(arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {name: array for name, array in arrays.items() if is_trained(name, array)}


def _form(settings: SiteSettings, task: Task) -> dict[str, ArrayForm]:
    """The arrays that an update of this task must consist of."""
    return task.codec.form(names_and_forms(_network_of(task, settings.device).state_dict()))


def _own_cohort(settings: SiteSettings, task: Task) -> Cohort:
    """The site's cohort, checked to have the same meaning of label values as the run.

    Raises:
        AmosError: cases of another site. Refusal: a label value that means another organ.
    """
    cohort = read_cohort(settings.cohort)
    if cohort.sites != (settings.site,):
        raise AmosError(f"site {settings.site}: its cohort holds cases of {', '.join(cohort.sites)}")
    check_organs(settings, cohort, task.organs)
    return cohort


def _prepare(
    settings: SiteSettings,
    task: Task,
    cases: tuple[Case, ...],
    on_case: Callable[[int, int, str], None] | None = None,
) -> list[PreparedCase]:
    organs = tuple(task.organs)
    try:
        return prepare_cases(cases, task.plan, settings.store, organs, workers=task.prepare_workers, on_case=on_case)
    except AmosError as error:
        if type(error) is not AmosError:
            raise
        raise error.of(f"site {settings.site}") from error


def make_client_app(
    settings_of: Callable[[Context], SiteSettings],
    *,
    listener_of: Callable[[SiteSettings], Listener] = lambda _: silent,
    check: Check = _nothing,
) -> GuardedApp:
    """A site's app.

    `settings_of` finds the settings of the site that a Flower context belongs to. `listener_of` gives the listener of
    the site's progress. `check` is called between steps, windows and cases, and may raise Interrupted. Requests beyond
    the site's settings are refused, and every request is in its audit log.
    """
    app = GuardedApp(settings_of, _form)

    @app.query("describe")
    def describe(message: Message, context: Context) -> Message:
        settings, task = settings_of(context), task_of(message)
        listen = listener_of(settings)
        _leave_address(settings)
        cohort = _own_cohort(settings, task)
        labelled = tuple(case for case in cohort.cases if case.label is not None)

        def on_case(done: int, total: int, case: str) -> None:
            check()
            check_not_paused(settings)
            listen(SiteWork(settings.site, "prepare", 0, done, total))

        if value_of(message, PREPARE, True):
            _prepare(settings, task, labelled, on_case)
        description = {
            "site": settings.site,
            "modalities": sorted({case.modality for case in labelled}),
            "cases": {split: sum(case.split == split for case in labelled) for split in ("train", "val", "test")},
            "annotated": sorted({organ for case in labelled for organ in case.annotated} & set(task.organs)),
            "annotated_in_training": sorted(set(annotated_for_training(labelled)) & set(task.organs)),
            "synthetic": cohort.synthetic(),
        }
        return reply_with(message, settings.site, description=description)

    @app.query("fingerprint")
    def fingerprint(message: Message, context: Context) -> Message:
        settings, task = settings_of(context), task_of(message)
        listen = listener_of(settings)
        _leave_address(settings)
        cases = _own_cohort(settings, task).of(split="train", labelled=True)

        def on_case(done: int, total: int, case: str) -> None:
            check()
            check_not_paused(settings)
            listen(SiteWork(settings.site, "measure", 0, done, total))

        found = fingerprint_of_cases(
            cases, tuple(task.organs), store=settings.store, workers=task.prepare_workers, on_case=on_case
        )
        told = found.withholding(settings.withhold_counts_below)
        return reply_with(message, settings.site, fingerprint=told.model_dump(mode="json"))

    @app.train()
    def train_site(message: Message, context: Context) -> Message:
        settings, task = settings_of(context), task_of(message)
        listen = listener_of(settings)
        _leave_address(settings)
        started = time.perf_counter()
        work = work_of(task, message.content.config_records[CONFIG])
        round_number, steps = work.number, work.steps
        cohort = _own_cohort(settings, task)
        cases = cohort.of(split="train", labelled=True)
        network, statistics_lost = _loaded_network(message, task, settings, own_after=round_number - 1)
        method = method_named(task.method, task.method_options)
        keep = task.optimizer_state == "keep"
        momentum = _kept(message, task, settings, MOMENTUM) if keep else Kept({})
        own_memory = _kept(message, task, settings, METHOD) if method.site_models else Kept({})
        encodes = task.update_codec != "none"
        residual = _kept(message, task, settings, RESIDUAL) if encodes else Kept({})
        lost = {
            Lost.MOMENTUM: momentum.lost,
            Lost.STATISTICS: statistics_lost,
            Lost.METHOD: own_memory.lost,
            Lost.RESIDUAL: residual.lost,
        }
        for why in filter(None, lost.values()):
            keep_details(settings, AmosError(why))
        given = SiteRound(work, _sent_beside(message, method, settings.site), own_memory.value)
        mu = value_of(message, PROXIMAL_MU)  # of Flower's own FedProx

        def on_step(report: StepReport) -> None:
            check()
            check_not_paused(settings)
            if task.site_timeout_s is not None and time.perf_counter() - started > task.site_timeout_s:
                raise SiteTimeout(f"it was stopped after {task.site_timeout_s:g} s, at step {report.step + 1}")
            done = report.step - work.first_step + 1
            listen(SiteWork(settings.site, "train", round_number, done, steps, report.loss))

        def check_between_batches() -> None:
            check()
            check_not_paused(settings)

        reporting = method.reports and "val" not in settings.refuse_evaluation_on
        validation = _prepare(settings, task, cohort.of(split="val", labelled=True)) if reporting else []

        def reported(name: str) -> dict[str, float]:
            if not validation or name not in method.reports:
                return {}
            loss = validation_loss(
                network,
                validation,
                task.plan,
                task.training,
                organs=tuple(task.organs),
                seed=task.seed,
                site=settings.site,
                device=settings.device,
                check=check_between_batches,
            )
            return {name: loss}

        reports = reported(VAL_BEFORE)
        check()
        result = train(
            network,
            _prepare(settings, task, cases) if steps else [],
            task.plan,
            task.training,
            organs=tuple(task.organs),
            seed=task.seed,
            site=settings.site,
            steps=steps,
            first_step=work.first_step,
            total_steps=work.total_steps,
            device=settings.device,
            momentum_buffers={name: torch.from_numpy(np.array(a)) for name, a in momentum.value.items()},
            pull=method.pull(given) if mu is None else Pull(mu=float(mu)),
            seconds=task.local_seconds,
            on_step=on_step,
        )
        reports |= reported(VAL_AFTER)
        if keep:
            buffers = {name: buffer.cpu().numpy() for name, buffer in result.momentum_buffers.items()}
            save_kept(settings.state, task.run_id, MOMENTUM, round_number, buffers)
        after = arrays_of(network)
        own = {name: array for name, array in after.items() if is_statistic(name)}
        if own and task.norm_statistics == "local":
            save_kept(settings.state, task.run_id, STATISTICS, round_number, own)
        received, encoded = views_of(message.content.array_records[ARRAYS]), Arrays()
        if encodes:
            try:
                encoded, left_out = task.codec.encode(received, after, residual.value)
            except AmosError as error:
                raise error.of(f"site {settings.site}") from None
            save_kept(settings.state, task.run_id, RESIDUAL, round_number, left_out)
        if method.site_models:
            if encodes:  # what the server goes on with
                after = task.codec.decode(received, encoded)
            done = replace(given, work=replace(work, steps=result.steps))
            remembered = method.keep(done, _trained(received), _trained(after))
            save_kept(settings.state, task.run_id, METHOD, round_number, remembered)
        del after
        restarted = sum(kind for kind, why in lost.items() if why)
        # In the form of the request: packed from another machine, Flower's arrays in a simulation.
        serialise = packed if is_packed(message.content.array_records[ARRAYS]) else record_of
        return reply_with(
            message,
            settings.site,
            arrays=serialise(encoded.items() if encodes else given_up_by(network)),
            metrics={
                WEIGHT: agreed_weight(task, len(cases), steps),
                "cases": len(cases),
                "steps": result.steps,
                "train_loss": result.mean_loss,
                "seconds": time.perf_counter() - started,
                **({RESTARTED: restarted} if restarted else {}),
                **reports,
            },
        )

    @app.evaluate()
    def evaluate_site(message: Message, context: Context) -> Message:
        settings, task = settings_of(context), task_of(message)
        listen = listener_of(settings)
        _leave_address(settings)
        started = time.perf_counter()
        split: Split = value_of(message, "split")
        round_number = int(value_of(message, "round"))
        cases = _own_cohort(settings, task).of(split=split, labelled=True)
        network, lost = _loaded_network(message, task, settings, own_after=round_number)
        if lost:  # with the server's statistics another network would be scored
            raise AmosError(f"site {settings.site}: {lost}")
        torch.set_num_threads(task.training.threads)

        def check_between_windows() -> None:
            check()
            check_not_paused(settings)

        def on_scored(case: Case, prediction: np.ndarray, reference: Volume) -> None:
            if settings.pictures is not None and split == "test":
                with suppress(AmosError, OSError):  # a score counts without its picture
                    keep_picture(settings.pictures, case, prediction, reference)

        results = evaluate_cases(
            network,
            list(zip(cases, _prepare(settings, task, cases), strict=True)),
            task.plan,
            organs=tuple(task.organs),
            tolerance_mm=task.tolerance_mm,
            device=settings.device,
            inference=task.inference,
            check=check_between_windows,
            on_case=lambda done, total: listen(SiteWork(settings.site, "evaluate", round_number, done, total)),
            on_scored=on_scored,
            save_to=settings.predictions if split == "test" else None,
            unlearned=task.unlearned_channels,
        )
        if settings.predictions is not None and split == "test":
            write_organs(task.organs, settings.predictions / "organs.csv")
        scores = Scores()
        for result in results:
            reported = reported_organs(task.organs, result.modality)
            scores.add({organ: score for organ, score in result.scores.items() if organ in reported})
        shared = settings.share_case_scores != "none"
        return reply_with(
            message,
            settings.site,
            metrics={WEIGHT: len(cases), "seconds": time.perf_counter() - started},
            scores=scores.to_dict(),
            modalities=sorted({case.modality for case in cases}),
            cases=[_case_for_sharing(settings, result) for result in results] if shared else [],
        )

    return app


def _leave_address(settings: SiteSettings) -> None:
    """Record where this site's work runs, so that an engine on the same host can end it if it hangs."""
    where = {"pid": os.getpid(), "host": socket.gethostname(), "owner": identity()}
    write_json(settings.state / "process.json", where)


def _case_for_sharing(settings: SiteSettings, result: CaseScores) -> dict[str, object]:
    name = shared_name(settings, result.case)
    return {"case": name, "modality": result.modality, "scores": scores_to_json(result.scores)}
