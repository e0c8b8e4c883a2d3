"""A run in MLflow: settings, losses and scores by round, test scores, report and model; groups as nested runs.

Where it goes is said by MLflow's own environment variables: MLFLOW_TRACKING_URI (a server, or `file:FOLDER`) and
MLFLOW_EXPERIMENT_NAME. The client of `mlflow-skinny` is enough.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from amos_fl.locks import at_work
from amos_fl.runs.tracking.tracker import End, TrackedRun, Tracker, Value

# A run must not wait minutes for a server that is down, nor report to MLflow's makers; the user's own choice counts.
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_name, _value)

import mlflow  # noqa: E402 - it reads some of these while it is imported  # pyright: ignore[reportMissingImports]
from mlflow.entities import Metric, Param, RunTag  # noqa: E402  # pyright: ignore[reportMissingImports]
from mlflow.tracking import MlflowClient  # noqa: E402  # pyright: ignore[reportMissingImports]

EXPERIMENT = "amos-fl"
GROUP, PARENT = "amos_fl.group", "mlflow.parentRunId"
_STATES: dict[End, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_MOST_PARAMETERS, _MOST_TEXT = 100, 500
"""Of one request, and characters of a value, which every version of MLflow takes."""


class MLflow(Tracker):
    """Writes by the client alone, so that an active run of the caller's own is left alone."""

    def __init__(self) -> None:
        self._client = MlflowClient()

    @property
    def place(self) -> str:
        return mlflow.get_tracking_uri()

    def begin(self, run: TrackedRun) -> str:
        if run.known_as is not None:
            self._run = run.known_as
            self._client.update_run(self._run, status="RUNNING")
            return self._run
        experiment = self._experiment()
        tags = dict(run.tags)
        if run.group is not None:
            with at_work(run.group, to="tracking", wait_s=60):  # runs of a group may begin at the same time
                tags[PARENT] = self._parent(experiment, run.group)
        self._run = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        parameters = [Param(key, _text(value)) for key, value in run.parameters.items()]
        for first in range(0, len(parameters), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=parameters[first : first + _MOST_PARAMETERS])
        return self._run

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        return self._client.create_experiment(name) if found is None else found.experiment_id

    def _parent(self, experiment: str, group: Path) -> str:
        """The run that stands for a group, made by the first of its runs."""
        found = self._client.search_runs([experiment], f"tags.`{GROUP}` = '{_quoted(group)}'", max_results=1)
        if found:
            return found[0].info.run_id
        made = self._client.create_run(experiment, run_name=group.name, tags={GROUP: _quoted(group)})
        self._client.set_terminated(made.info.run_id)
        return made.info.run_id

    def round(self, number: int, values: Mapping[str, float]) -> None:
        now = round(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, number) for name, value in values.items()])

    def end(self, how: End, values: Mapping[str, float], files: Sequence[Path]) -> None:
        now = round(time.time() * 1000)
        metrics = [Metric(name, value, now, 0) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics, tags=[RunTag("amos_fl.end", how)])
        for file in files:
            if file.is_dir():
                self._client.log_artifacts(self._run, str(file), file.name)
            else:
                self._client.log_artifact(self._run, str(file))
        self._client.set_terminated(self._run, _STATES[how])


def _text(value: Value) -> str:
    text = str(value)
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 3]}..."


def _quoted(group: Path) -> str:
    """A folder as a text in MLflow's filters, which know no escapes."""
    return group.as_posix().replace("'", "_")
