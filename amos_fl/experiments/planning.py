"""Plan the tasks of a preset: each step with its settings, its cohort, and a folder named by what it computes.

Two presets that train the same network on the same cases with the same settings get the same folder, and so does the
same preset after a kill: that is how runs are shared, skipped and continued.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from amos_fl.cohort.table import Cohort, Modality
from amos_fl.errors import AmosError
from amos_fl.experiments.data import MissingDataError, data_cohort, selected, sizes_of, write_selection
from amos_fl.experiments.preset import Budget, Compare, Evaluate, Family, OnData, Preset, Statistics, Train
from amos_fl.experiments.shared import shared
from amos_fl.experiments.workspace import StepWork, Workspace
from amos_fl.files import sha256_of_json
from amos_fl.runs.arms import centralized, finetunes_of, leave_one_out, locals_of
from amos_fl.runs.config import RunConfig
from amos_fl.runs.group import PlannedRun
from amos_fl.runs.layers import Layer
from amos_fl.runs.own_code import own_modules

Resolve = Callable[[list[Layer]], tuple[RunConfig, Cohort]]


@dataclass(frozen=True)
class StepTask:
    """A step that can be carried out, or the reason why not (`work.missing`)."""

    preset: str
    step: str
    work: StepWork
    needs: tuple[str, ...] = ()
    members: tuple[PlannedRun, ...] = ()  # one for a single run
    cohort: Cohort | None = None
    definition: Evaluate | Compare | Statistics | None = None


@dataclass
class Planner:
    """Plan presets in a workspace, keeping the cohorts made for the next one.

    `given` are the data sets by name, `resolve` fills in settings from the network's recipe, `flags` are settings from
    the command line, `steps` a budget instead of the presets'.
    """

    workspace: Workspace
    given: Mapping[str, Path]
    resolve: Resolve
    flags: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    _cohorts: dict[str, tuple[Path, Cohort]] = field(default_factory=dict)

    def plan(self, preset: Preset) -> list[StepTask]:
        """The tasks of a preset, in the order in which they are carried out; nothing but cohorts is written.

        Raises:
            AmosError: settings or data that cannot be used. Missing data is in the task's `work.missing`.
        """
        tasks: dict[str, StepTask] = {}
        for name in preset.steps:
            owner, step = preset.resolved(name)
            try:
                task = self._task(preset, owner, name, step, tasks)
            except MissingDataError as missing:
                task = StepTask(preset.name, name, StepWork("run", "", missing=str(missing)))
            tasks[name] = task
        return list(tasks.values())

    def _task(self, preset: Preset, owner: Preset, name: str, step: Any, tasks: dict[str, StepTask]) -> StepTask:
        match step:
            case Train():
                return self._training(preset, owner, name, step, tasks)
            case Family(of=of):
                return self._family(preset, name, step, _ready(tasks, of))
            case Evaluate(evaluate=of):
                run = _ready(tasks, of)
                file, cohort = self._cohort(step, {})
                key = sha256_of_json([cohort.content_hash(), sizes_of(cohort), step.split])[:8]
                folder = f"runs/evaluate-{Path(run.work.folder).name}-on-{step.needs}-{key}"
                work = StepWork("evaluation", folder, self._relative(file))
                return StepTask(preset.name, name, work, (of,), cohort=cohort, definition=step)
            case Compare(compare=compared):
                work = StepWork("comparison", f"{preset.name}/{name}")
                return StepTask(preset.name, name, work, compared, definition=step)
            case Statistics():
                file, cohort = self._cohort(step, {})
                key = sha256_of_json([cohort.content_hash(), sizes_of(cohort)])[:8]
                work = StepWork("statistics", f"runs/statistics-{step.needs}-{key}", self._relative(file))
                return StepTask(preset.name, name, work, cohort=cohort, definition=step)
        raise AssertionError(step)

    def _training(self, preset: Preset, owner: Preset, name: str, step: Train, tasks: dict[str, StepTask]) -> StepTask:
        quick = self.workspace.form == "quick"
        file, cohort = self._cohort(step, step.quick_take if quick else step.take)
        layers = [Layer("shared/paper.yaml", shared("paper"))] if owner.recipe == "paper" else []
        layers += [Layer(owner.name, owner.settings), Layer(name, step.settings)]
        budget = step.budget or owner.budget
        assert budget is not None, "the preset was checked"
        if quick:
            layers += [Layer("shared/quick.yaml", shared("quick")["settings"]), Layer(owner.name, owner.quick_settings)]
            budget = owner.quick_budget or Budget.model_validate(shared("quick")["budget"])
        if self.steps is not None:
            budget = Budget(steps=self.steps, rounds=min(budget.rounds, self.steps))
        pooled = step.train == "centralized"
        local_steps = budget.local_steps(1 if pooled else max(1, len(cohort.seen_sites)))
        work = {"cohort": str(file), "rounds": budget.rounds, "local_steps": local_steps}
        config, members = self.resolve([*layers, Layer("command line", self.flags, "options"), Layer("budget", work)])
        if pooled:
            config = centralized(config, members, "equal-steps").config
        start = _ready(tasks, step.start) if step.start else None
        begun_from = Path(start.work.folder).name if start else ""
        if start is not None:
            weights = self.workspace.root / start.work.folder / "model" / "weights.safetensors"
            config = config.model_copy(update={"start_from": weights.resolve()})
        own = filter(None, [own_modules(config)])
        key = sha256_of_json([config.science(), members.content_hash(), sizes_of(members), begun_from, *own])[:8]
        word = "pooled" if pooled else config.strategy.replace(":", ".").rpartition(".")[2].lower()
        network = config.model.rpartition(":")[2]
        parts = [word, network, step.needs, *([step.modality.lower()] if step.modality else []), key]
        folder = f"runs/{'-'.join(parts)}"
        needs = (step.start,) if step.start else ()
        member = PlannedRun(Path(folder).name, config, members)
        return StepTask(
            preset.name, name, StepWork("run", folder, self._relative(file)), needs, (member,), cohort=members
        )

    def _family(self, preset: Preset, name: str, step: Family, base: StepTask) -> StepTask:
        config, cohort = base.members[0].config, base.members[0].cohort
        if step.family == "local":
            members = locals_of(config, cohort)
        elif step.family == "leave-one-out":
            members = leave_one_out(config, cohort)
        else:
            weights = self.workspace.root / base.work.folder / "model" / "weights.safetensors"
            members = finetunes_of(config, cohort, weights)
        folder = f"runs/{step.family}-of-{Path(base.work.folder).name}"
        work = StepWork("group", folder, base.work.cohort)
        return StepTask(preset.name, name, work, (step.of,), tuple(members), cohort=cohort)

    def _cohort(self, on: OnData, take: Mapping[Modality, int]) -> tuple[Path, Cohort]:
        """A selection of a data set as a cohort file of the workspace, made once."""
        parts = [on.data.replace("/", "-").replace("|", "-or-"), *([on.modality.lower()] if on.modality else [])]
        parts += [f"{number}{of}" for of, number in sorted(take.items())]
        parts += [f"without-{'-'.join(on.hold_out)}"] if on.hold_out else []
        parts += [f"of-{'-'.join(on.sites)}"] if on.sites else []
        name = "-".join(parts)
        if name not in self._cohorts:
            cohort = data_cohort(on.needs, on.protocol, self.given, on.hold_out)
            cohort = selected(cohort.only(on.sites) if on.sites else cohort, on.modality, take)
            self._cohorts[name] = write_selection(self.workspace.cohorts.resolve(), name, cohort)
        return self._cohorts[name]

    def _relative(self, file: Path) -> str:
        return str(file.relative_to(self.workspace.root.resolve()))


def _ready(tasks: dict[str, StepTask], name: str) -> StepTask:
    """A task that another one needs.

    Raises:
        MissingDataError: it lacks data itself.
    """
    task = tasks[name]
    if task.work.missing:
        raise MissingDataError(task.work.missing)
    return task


def with_missing(tasks: list[StepTask]) -> list[StepTask]:
    """The tasks; a comparison leaves out steps that lack data, and lacks data itself if fewer than two are left."""
    lacking = {task.step: task.work.missing for task in tasks if task.work.missing}
    found = []
    for task in tasks:
        if isinstance(task.definition, Compare):
            left = tuple(step for step in task.needs if step not in lacking)
            if len(left) < 2:
                reason = next(iter(lacking.values()), "")
                task = replace(task, work=replace(task.work, missing=reason))
            task = replace(task, needs=left)
        found.append(task)
    return found


def refuse_cohort_for(preset: Preset) -> None:
    """Refuse `--cohort`, which replaces AMOS, for presets that need other data or none.

    Raises:
        AmosError: the preset needs another data set, or none.
    """
    if preset.data_sets() != ("amos",):
        needed = ", ".join(preset.data_sets())
        raise AmosError(f"--cohort replaces AMOS, and {preset.name} needs {needed}; use --data NAME=PATH")
