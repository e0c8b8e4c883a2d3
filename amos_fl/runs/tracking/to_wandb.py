"""A run in Weights & Biases: settings, losses and scores by round, test scores, report and model; groups as groups.

Where it goes is said by its own environment variables: WANDB_MODE=offline writes `wandb/` into the run's folder, for
`wandb sync` later; WANDB_PROJECT, WANDB_ENTITY and WANDB_BASE_URL name the place.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import wandb  # pyright: ignore[reportMissingImports]

from amos_fl.errors import AmosError
from amos_fl.runs.tracking.tracker import End, TrackedRun, Tracker

PROJECT = "amos-fl"
_EXIT_CODES: dict[End, int] = {"finished": 0, "stopped": 255, "failed": 1}


class Wandb(Tracker):
    """Nothing of the terminal, the code or the machine is recorded."""

    @property
    def place(self) -> str:
        offline = os.environ.get("WANDB_MODE") == "offline"
        return "offline" if offline else os.environ.get("WANDB_PROJECT", PROJECT)

    def begin(self, run: TrackedRun) -> str:
        online = os.environ.get("WANDB_MODE", "online") == "online"
        if online and not wandb.login(prompt=False, verify=False):  # it would ask on the terminal, in the run's way
            raise AmosError("there is no API key; give it by: wandb login, or set WANDB_MODE=offline")
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            host="amos-fl",  # instead of the machine's name
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            init_timeout=60,
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.known_as,
            resume="allow" if run.known_as else None,
            group=run.group.name if run.group else None,
            job_type=run.tags["amos_fl.arm"],
            config={**run.parameters, **run.tags},
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            reinit="create_new",
            settings=settings,
        )
        self._run.define_metric("*", step_metric="round")
        self._name = re.sub(r"[^A-Za-z0-9._-]", "-", f"{run.group.name}-{run.name}" if run.group else run.name)
        return self._run.id

    def round(self, number: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "round": number})

    def end(self, how: End, values: Mapping[str, float], files: Sequence[Path]) -> None:
        self._run.summary.update(dict(values))
        if files:
            results = wandb.Artifact(f"{self._name}-results", type="results")
            for file in files:
                if not file.is_dir():
                    results.add_file(str(file), policy="immutable")
            self._run.log_artifact(results)
            for folder in (file for file in files if file.is_dir()):
                model = wandb.Artifact(f"{self._name}-{folder.name}", type=folder.name)
                model.add_dir(str(folder), policy="immutable")  # of the file itself, not of a copy
                self._run.log_artifact(model)
        self._run.finish(exit_code=_EXIT_CODES[how])
