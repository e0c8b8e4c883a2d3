"""One hospital for tests: its settings, its app, and requests to it, without a server."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from federations import tiny_config
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from amos_fl.cohort.table import Cohort, write_cohort
from amos_fl.networks.registry import build_network
from amos_fl.weights import arrays_of
from amos_fl_clients.federation.app import make_client_app
from amos_fl_clients.federation.guard import GuardedApp
from amos_fl_clients.federation.messages import ARRAYS, CONFIG, DESCRIBE, SITE, Task, request_config
from amos_fl_clients.federation.records import packed
from amos_fl_clients.federation.settings import SiteSettings, read_settings, write_settings
from amos_fl_server.federation.requests import task_for


def tiny_task(cohort: Cohort, **settings: object) -> Task:
    return task_for(tiny_config(), cohort.organs, "a-run").model_copy(update=settings)


def write_hospital(folder: Path, cohort: Cohort, site: str, **settings: object) -> Path:
    """A hospital's folder with its own cases of a cohort; the path of its settings."""
    members = tuple(case for case in cohort.cases if case.site == site)
    write_cohort(Cohort(members, cohort.organs), folder / "cohort.csv")
    own = {"site": site, "cohort": "cohort.csv", "store": "state/store", "state": "state", **settings}
    write_settings(SiteSettings.model_validate(own), folder / "settings.yaml")
    return folder / "settings.yaml"


@dataclass
class Hospital:
    """A site and the three requests that a server makes of it.

    `task` is the cohort's; weights are serialised as between machines.
    """

    settings_file: Path
    task: Task
    serialise: Callable[[Iterable[tuple[str, np.ndarray]]], ArrayRecord] = packed

    @property
    def settings(self) -> SiteSettings:
        return read_settings(self.settings_file)

    @property
    def app(self) -> GuardedApp:
        return make_client_app(lambda _: self.settings)

    @property
    def audit(self) -> list[str]:
        log = self.settings.state / "audit.log"
        return log.read_text().splitlines() if log.is_file() else []

    def weights(self) -> ArrayRecord:
        network = build_network(self.task.model, self.task.plan, len(self.task.organs), seed=0)
        return self.serialise(arrays_of(network).items())

    def ask(
        self,
        kind: str,
        *,
        app: GuardedApp | None = None,
        more: Mapping[str, ArrayRecord] | None = None,
        **values: str | int | float,
    ) -> Message:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 42, 1, 1
        content = RecordDict({CONFIG: request_config(self.task, **values)})
        if kind != DESCRIBE:
            content[ARRAYS] = self.weights()
        for name, record in (more or {}).items():
            content[name] = record
        message = Message(content, 7, kind)
        message.metadata.__dict__["_run_id"] = 42
        context = Context(run_id=42, node_id=7, node_config={}, state=RecordDict(), run_config={})
        return (app or self.app).answer(message, context)

    def describe(self) -> Message:
        return self.ask(DESCRIBE)

    def train(self, round_number: int = 1, steps: int = 1, more: Mapping[str, ArrayRecord] | None = None) -> Message:
        first = (round_number - 1) * steps
        work = {"round": round_number, "steps": steps, "first_step": first, "total_steps": max(6, first + steps)}
        return self.ask("train", more=more, **work)

    def evaluate(self, split: str, round_number: int = 1, **more: str) -> Message:
        return self.ask("evaluate", round=round_number, split=split, **more)


def hospital(folder: Path, cohort: Cohort, site: str = "A", **settings: object) -> Hospital:
    return Hospital(write_hospital(folder, cohort, site, **settings), tiny_task(cohort))


def json_of(message: Message, key: str) -> Any:
    return json.loads(str(message.content.config_records[SITE][key]))
