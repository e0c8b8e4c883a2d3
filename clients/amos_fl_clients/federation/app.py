"""A site's Flower ClientApp: it describes itself, trains, and evaluates on a named split."""

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from flwr.app import Context, Message
from torch import nn

from amos_fl.cohort.table import Case, Cohort, Split, write_organs
from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.inference.evaluate import evaluate_cases
from amos_fl.metrics.rows import write_scores
from amos_fl.metrics.scores import Scores, reported_organs
from amos_fl.metrics.table import CaseScores, scores_to_json
from amos_fl.owner import identity
from amos_fl.pictures.kept import SCORED_FILE, SCORES_FILE, keep_picture
from amos_fl.planning.measure import fingerprint_of_cases
from amos_fl.runs.events import Listener, ProgressFile, SiteWork, silent
from amos_fl.runs.inference_settings import RecordedInference
from amos_fl.runs.learned import annotated_for_training
from amos_fl.runs.origin import about_network, personal_model, write_model
from amos_fl.volumes.nifti import Volume
from amos_fl.weights import arrays_of
from amos_fl_clients.federation.cases import own_cohort, prepared
from amos_fl_clients.federation.guard import GuardedApp
from amos_fl_clients.federation.messages import (
    MODEL,
    PERSONAL,
    PREPARE,
    SHARED,
    WEIGHT,
    Task,
    reply_with,
    task_of,
    value_of,
)
from amos_fl_clients.federation.network import form_of_update, method_of, own_names, second_network, shared_network
from amos_fl_clients.federation.policy import check_not_paused, shared_name
from amos_fl_clients.federation.settings import SiteSettings
from amos_fl_clients.federation.training import RoundAtSite

Check = Callable[[], None]


def _nothing() -> None:
    pass


def progress_file(settings: SiteSettings) -> ProgressFile:
    """The listener of a site whose progress is read from its folder."""
    return ProgressFile.of(settings.state)


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
    app = GuardedApp(settings_of, form_of_update)

    def may_continue(settings: SiteSettings) -> None:
        check()
        check_not_paused(settings)

    @app.query("describe")
    def describe(message: Message, context: Context) -> Message:
        settings, task = settings_of(context), task_of(message)
        listen = listener_of(settings)
        _leave_address(settings)
        cohort = own_cohort(settings, task)
        labelled = tuple(case for case in cohort.cases if case.label is not None)

        def on_case(done: int, total: int, case: str) -> None:
            may_continue(settings)
            listen(SiteWork(settings.site, "prepare", 0, done, total))

        if value_of(message, PREPARE, True):
            prepared(settings, task, labelled, on_case)
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
        cases = own_cohort(settings, task).of(split="train", labelled=True)

        def on_case(done: int, total: int, case: str) -> None:
            may_continue(settings)
            listen(SiteWork(settings.site, "measure", 0, done, total))

        found = fingerprint_of_cases(
            cases, tuple(task.organs), store=settings.store, workers=task.prepare_workers, on_case=on_case
        )
        told = found.withholding(settings.withhold_counts_below)
        return reply_with(message, settings.site, fingerprint=told.model_dump(mode="json"))

    @app.train()
    def train_site(message: Message, context: Context) -> Message:
        settings = settings_of(context)
        _leave_address(settings)
        return RoundAtSite(message, settings, listener_of(settings), partial(may_continue, settings)).reply()

    @app.evaluate()
    def evaluate_site(message: Message, context: Context) -> Message:
        settings, task = settings_of(context), task_of(message)
        listen = listener_of(settings)
        _leave_address(settings)
        started = time.perf_counter()
        split: Split = value_of(message, "split")
        round_number = int(value_of(message, "round"))
        cohort = own_cohort(settings, task)
        cases = cohort.of(split=split, labelled=True)
        personal = value_of(message, MODEL, SHARED) == PERSONAL
        if personal and method_of(task).second_model:
            network, lost = second_network(message, task, settings)
        else:
            names = own_names(task, personal=personal)
            network, lost = shared_network(message, task, settings, own_after=round_number, own_names=names)
        if lost:  # with the server's arrays another network would be scored
            raise AmosError(f"site {settings.site}: {lost}")
        if personal and split == "test":  # the site's final model, which stays here
            _keep_model(settings, task, cohort, round_number, network)
        beside = split == "test" and not personal
        torch.set_num_threads(task.training.threads)

        def on_scored(case: Case, prediction: np.ndarray, reference: Volume) -> None:
            if settings.pictures is not None and beside:
                with suppress(AmosError, OSError):  # a score counts without its picture
                    keep_picture(settings.pictures, case, prediction, reference)

        results = evaluate_cases(
            network,
            list(zip(cases, prepared(settings, task, cases), strict=True)),
            task.plan,
            organs=tuple(task.organs),
            tolerance_mm=task.tolerance_mm,
            device=settings.device,
            inference=task.inference,
            check=partial(may_continue, settings),
            on_case=lambda done, total: listen(SiteWork(settings.site, "evaluate", round_number, done, total)),
            on_scored=on_scored,
            save_to=settings.predictions if beside else None,
            unlearned=task.unlearned_channels,
        )
        if settings.predictions is not None and beside:
            write_organs(task.organs, settings.predictions / "organs.csv")
        if settings.pictures is not None and beside:
            with suppress(OSError):
                write_scores(settings.pictures / SCORES_FILE, results, task.organs)
                write_json(settings.pictures / SCORED_FILE, {"tolerance_mm": task.tolerance_mm})
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


def _keep_model(settings: SiteSettings, task: Task, cohort: Cohort, round_number: int, network: nn.Module) -> None:
    """Write the site's personal network as a model folder at the site, from which `amos-fl predict` reads it."""
    write_model(
        personal_model(settings.state, task.run_id),
        arrays_of(network),
        round=round_number,
        network=about_network(task.model, task.plan, task.organs, task.norm_statistics, task.learned),
        modalities={case.modality for case in cohort.of(split="train", labelled=True)},
        synthetic=cohort.synthetic(),
        inference=RecordedInference(**task.inference.model_dump(), threads=task.training.threads),
    )


def _leave_address(settings: SiteSettings) -> None:
    """Record where this site's work runs, so that an engine on the same host can end it if it hangs."""
    where = {"pid": os.getpid(), "host": socket.gethostname(), "owner": identity()}
    write_json(settings.state / "process.json", where)


def _case_for_sharing(settings: SiteSettings, result: CaseScores) -> dict[str, object]:
    name = shared_name(settings, result.case)
    return {"case": name, "modality": result.modality, "scores": scores_to_json(result.scores)}
