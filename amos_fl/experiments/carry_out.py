"""Carry out an experiment: skip finished steps, continue interrupted ones, report those that lack data."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError, all_of
from amos_fl.experiments.data import label_map_of
from amos_fl.experiments.outcome import write_outcome
from amos_fl.experiments.planning import StepTask, with_missing
from amos_fl.experiments.preset import Compare, Evaluate, Preset
from amos_fl.experiments.workspace import Workspace
from amos_fl.files import whole_folder
from amos_fl.runs.config import RunConfig
from amos_fl.runs.create import create_run
from amos_fl.runs.folder import RunFolder, open_run
from amos_fl.runs.group import Group, create_group, is_group, read_group
from amos_fl.runs.record import read_runs
from amos_fl.wording import counted

LARGE_BYTES = 10_000_000


@dataclass(frozen=True)
class Callbacks:
    """Callbacks of the command line, because the core depends on neither Flower nor a terminal.

    `train` carries out the run in a folder (its last argument is a title for the progress), `say` prints a line.
    `train_together`, if there is one, carries out several runs at the same time, on a device.
    """

    train: Callable[[RunFolder, RunConfig, Cohort, str], None]
    say: Callable[[str], None]
    store: Path
    train_together: Callable[[list[RunFolder], str], None] | None = None


@dataclass
class Report:
    """The outcome of an experiment's steps, by name, with the reason if a step lacks data or failed."""

    done_before: list[str] = field(default_factory=list)
    done_now: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def carry_out(preset: Preset, tasks: list[StepTask], workspace: Workspace, callbacks: Callbacks) -> Report:
    """Carry out the remaining steps of an experiment and write its tables.

    If a step fails, steps that do not need it are still carried out. May raise Interrupted, after which the same call
    continues where it stopped.
    """
    tasks = with_missing(tasks)
    workspace.write_state(preset.name, {task.step: task.work for task in tasks})
    report = Report()
    before = {task.step for task in tasks if not task.work.missing and workspace.done(task.work)}
    if callbacks.train_together is not None:
        _train_together(tasks, workspace, callbacks.train_together)
    for number, task in enumerate(tasks, start=1):
        title = f"{preset.name} {number}/{len(tasks)}, {task.step}"
        lacking = [step for step in task.needs if step in report.failed or step in report.missing]
        if task.work.missing:
            report.missing[task.step] = task.work.missing
        elif lacking and not (isinstance(task.definition, Compare) and len(task.needs) - len(lacking) > 1):
            report.failed[task.step] = f"needs {lacking[0]}, which does not exist"
        elif workspace.done(task.work) and not (isinstance(task.definition, Compare) and report.done_now):
            (report.done_before if task.step in before else report.done_now).append(task.step)
        else:
            try:
                _do(task, tasks, workspace, callbacks, title)
                report.done_now.append(task.step)
            except AmosError as error:
                callbacks.say(f"{title}: {error}")
                report.failed[task.step] = str(error)
    write_outcome(preset, workspace)
    if workspace.form == "quick" and not report.failed and not report.missing:
        _let_weights_go(tasks, workspace)
    return report


def _let_weights_go(tasks: list[StepTask], workspace: Workspace) -> None:
    """Remove the weights of large networks after a quick experiment: gigabytes that have learned nothing."""
    for task in tasks:
        weights = workspace.root / task.work.folder / "model" / "weights.safetensors"
        if task.work.kind == "run" and weights.is_file() and weights.stat().st_size > LARGE_BYTES:
            weights.unlink()


def _do(task: StepTask, tasks: list[StepTask], workspace: Workspace, callbacks: Callbacks, title: str) -> None:
    match task.work.kind:
        case "run":
            _run(task, workspace, callbacks, title)
        case "group":
            _group(task, workspace, callbacks, title)
        case "evaluation":
            _evaluate(task, tasks, workspace, callbacks, title)
        case "comparison":
            _compare(task, tasks, workspace, callbacks, title)
        case "statistics":
            _statistics(task, workspace, callbacks, title)


def _train_together(tasks: list[StepTask], workspace: Workspace, train: Callable[[list[RunFolder], str], None]) -> None:
    """Carry out together the runs that do not start from another's weights; those that fail are retried in turn."""
    folders: dict[Path, RunFolder] = {}
    for task in tasks:
        if task.work.missing or task.work.kind not in ("run", "group") or workspace.done(task.work):
            continue
        if any(member.config.start_from is not None for member in task.members):
            continue
        alone = task.work.kind == "run"
        left = [_run_folder(task, workspace)] if alone else _group_folder(task, workspace).unfinished
        folders |= {folder.path: folder for folder in left}
    if folders:
        train(list(folders.values()), next(task for task in tasks if task.members).members[0].config.device)
    for path in folders:
        _tidy(path, workspace)


def _run_folder(task: StepTask, workspace: Workspace) -> RunFolder:
    path = workspace.root / task.work.folder
    [member] = task.members
    if not (path / "config.yaml").is_file():
        shutil.rmtree(path, ignore_errors=True)  # left by a process that was killed before the folder became a run
        create_run(path, member.config, member.cohort)
    return RunFolder(path)


def _group_folder(task: StepTask, workspace: Workspace) -> Group:
    path = workspace.root / task.work.folder
    if not is_group(path):
        shutil.rmtree(path, ignore_errors=True)
        create_group(path, path.name.partition("-of-")[0], task.members)
    return read_group(path)


def _run(task: StepTask, workspace: Workspace, callbacks: Callbacks, title: str) -> None:
    _train(_run_folder(task, workspace).path, task.members[0].config.device, workspace, callbacks, title)


def _group(task: StepTask, workspace: Workspace, callbacks: Callbacks, title: str) -> None:
    failed: list[str] = []
    for folder in _group_folder(task, workspace).unfinished:
        try:
            _train(folder.path, task.members[0].config.device, workspace, callbacks, f"{title}, {folder.path.name}")
        except AmosError as error:
            callbacks.say(f"{title}, {folder.path.name}: {error}")
            failed.append(folder.path.name)
    if failed:
        raise AmosError(f"{', '.join(failed)}: did not finish; see above")


def _train(path: Path, device: str, workspace: Workspace, callbacks: Callbacks, title: str) -> None:
    """Carry out a run. It continues with its own settings; only where it computes may have changed."""
    folder = open_run(path)
    callbacks.train(folder, folder.config().model_copy(update={"device": device}), folder.cohort(), title)
    _tidy(path, workspace)


def _tidy(path: Path, workspace: Workspace) -> None:
    if workspace.form == "quick":
        # Quick runs are never continued, and six networks' checkpoints are gigabytes.
        shutil.rmtree(path / "checkpoints", ignore_errors=True)
        for state in path.glob("sites/*/state"):
            shutil.rmtree(state, ignore_errors=True)


def _evaluate(task: StepTask, tasks: list[StepTask], workspace: Workspace, callbacks: Callbacks, title: str) -> None:
    from amos_fl.inference.evaluate_model import Question, evaluate_model, write_evaluation
    from amos_fl.runs.model import read_model

    assert isinstance(task.definition, Evaluate)
    assert task.cohort is not None
    trained = _task_of(tasks, task.definition.evaluate)
    run, device = workspace.root / trained.work.folder, trained.members[0].config.device
    model = read_model(run)
    trained = set(model.run.cohort().seen_sites) if model.run else set()
    question = Question.of(
        model, task.cohort, split=task.definition.split, seen=sorted(trained & set(task.cohort.sites))
    )
    cases = counted(len(question.cases(task.cohort)), "case")
    callbacks.say(f"{title}: scoring {run.name} on {cases} of {task.definition.data}")
    # Other data sets spell and divide organs differently: KiTS's kidney is two organs of AMOS.
    name, theirs = task.definition.needs, task.cohort.organs
    organs = None if name == "amos" else label_map_of(name, theirs, model.organs)
    with whole_folder(workspace.root / task.work.folder) as beside:
        evaluation = evaluate_model(
            model, task.cohort, question, store=callbacks.store, device=device, label_map=organs
        )
        write_evaluation(beside, evaluation, model, run, workspace.root / task.work.cohort)


def _compare(task: StepTask, tasks: list[StepTask], workspace: Workspace, callbacks: Callbacks, title: str) -> None:
    from amos_fl.comparison.compare import compare_runs
    from amos_fl.comparison.write import write_comparison
    from amos_fl.report.page import write_comparison_report

    assert isinstance(task.definition, Compare)
    works = [_task_of(tasks, step).work for step in task.needs]
    records = read_runs([workspace.root / work.folder for work in works if workspace.done(work)])
    reference = task.definition.reference
    chosen = Path(_task_of(tasks, reference).work.folder).name if reference in task.needs and reference else None
    named = {name: _task_of(tasks, step).work for name, step in task.definition.names.items()}
    names = {str(workspace.root / work.folder): name for name, work in named.items() if workspace.done(work)}
    callbacks.say(f"{title}: comparing {len(records)} runs")
    resamples = 200 if workspace.form == "quick" else 10_000
    comparison = compare_runs(records, reference=chosen, names=names, resamples=resamples)
    folder = workspace.root / task.work.folder
    write_comparison(comparison, folder)
    write_comparison_report(comparison, folder)
    for finding in comparison.findings[:3] if workspace.form == "full" else ():
        callbacks.say(finding)


def _statistics(task: StepTask, workspace: Workspace, callbacks: Callbacks, title: str) -> None:
    from amos_fl.cohort.statistics import statistics_of
    from amos_fl.report.cohort_page import write_cohort_page

    assert task.cohort is not None
    callbacks.say(f"{title}: measuring {counted(len(task.cohort.cases), 'case')} at {' '.join(task.cohort.sites)}")
    with whole_folder(workspace.root / task.work.folder) as beside:
        cases, failed = statistics_of(task.cohort)
        if failed:
            raise all_of(failed, len(task.cohort.cases), "case")
        write_cohort_page(task.cohort, cases, beside)


def _task_of(tasks: list[StepTask], step: str) -> StepTask:
    return next(task for task in tasks if task.step == step)
