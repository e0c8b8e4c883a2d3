"""`amos-fl experiments`: the paper's tables and our comparison over the scanners, one command each."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from amos_fl.api.settings import cache_folder
from amos_fl.cli.display import Display
from amos_fl.cli.options import DeviceOption, RunsAtOnceOption, SeedOption, StoreOption, TrackerOption
from amos_fl.cli.progress import Progress, plain_console
from amos_fl.cli.running import carry_out_at_once
from amos_fl.cli.settings import resolve_run
from amos_fl.comparison.published import MARK
from amos_fl.errors import AmosError, Interrupted
from amos_fl.experiments.carry_out import Callbacks, Report, carry_out
from amos_fl.experiments.cost import preset_cost
from amos_fl.experiments.data import data_sets, parse_given, remembered
from amos_fl.experiments.outcome import outcome, outcome_in_words, published_of
from amos_fl.experiments.planning import Planner, refuse_cohort_for
from amos_fl.experiments.preset import Borrowed, Compare, Evaluate, Family, Preset, Train, preset_names, read_preset
from amos_fl.experiments.quick_data import PHANTOMS, phantom_data, quick_data
from amos_fl.experiments.results_page import results_page
from amos_fl.experiments.workspace import Workspace
from amos_fl.files import write_text
from amos_fl.report.after_run import write_report
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.summary import number
from amos_fl.stopping import INTERRUPTED
from amos_fl.wording import MISSING, counted

OUT = Path("runs/experiments")
OutOption = Annotated[Path, typer.Option("--out", help="The folder of all experiments; runs are shared in it.")]


def experiments(context: typer.Context, out: OutOption = OUT) -> None:
    """List the experiments with their subject, cost and progress."""
    if context.invoked_subcommand is not None:
        if out != OUT:
            sub = context.invoked_subcommand
            raise AmosError(f"--out: give it after the subcommand, as in: amos-fl experiments {sub} ... --out {out}")
        return

    table = Table("experiment", "paper", "what")
    for column in ("trainings", "takes", "full", "quick"):
        table.add_column(column, justify="right")
    for name in preset_names():
        preset = read_preset(name)
        cost = preset_cost(preset)
        states = [_state_in_words(Workspace(out, form), name) for form in ("full", "quick")]
        takes = preset.takes or (f"{cost.gpu_hours:,.0f} GPU hours" if cost.trainings else MISSING)
        table.add_row(name, ", ".join(preset.paper) or "ours", preset.title, str(cost.trainings), takes, *states)
    console = plain_console(160)
    console.print(table)
    console.print(f"state of {out}; more: amos-fl experiments show NAME, and: amos-fl experiments run NAME --quick")


def _state_in_words(workspace: Workspace, name: str) -> str:
    state, done, steps = workspace.state(name)
    return f"partial, {done} of {steps} steps" if state == "partial" else state


def show(
    name: Annotated[str, typer.Argument(help="An experiment, as listed by: amos-fl experiments.")],
    out: OutOption = OUT,
) -> None:
    """Describe an experiment: its question, data and cost, its steps and their folders, and what the paper printed."""
    preset = read_preset(name)
    console = plain_console(160)
    source = f" ({', '.join(preset.paper)} of the AMOS paper)" if preset.paper else " (ours)"
    console.print(f"{preset.title}{source}\n\n{preset.question.strip()}\n", soft_wrap=True)
    if preset.about:
        console.print(f"{preset.about.strip()}\n", soft_wrap=True)
    for needed in preset.data_sets():
        console.print(f"data: {needed}, {data_sets()[needed].title}; {data_sets()[needed].make}", soft_wrap=True)
    cost = preset_cost(preset)
    if cost.trainings:
        budget = f", {preset.budget.steps:,} steps in {preset.budget.rounds:,} rounds each" if preset.budget else ""
        in_all = f"{cost.steps:,} steps on {cost.patches:,} patches in all"
        console.print(f"budget: {cost.trainings} trainings{budget}, {in_all}", soft_wrap=True)
        estimate = f"{cost.gpu_hours:,.0f} GPU hours without scoring; {cost.basis}"
        console.print(f"expected cost: {preset.takes or estimate}", soft_wrap=True)
    console.print(_steps_table(preset, [Workspace(out, "full"), Workspace(out, "quick")]))
    if published := published_of(preset):
        console.print(_published_table(published))


def _steps_table(preset: Preset, workspaces: list[Workspace]) -> Any:
    table = Table("step", "what", *(workspace.form for workspace in workspaces), title="Steps", title_justify="left")
    for step in preset.steps:
        states = []
        for workspace in workspaces:
            work = workspace.works(preset.name).get(step)
            if work is None:
                states.append("not run")
            elif work.missing:
                states.append("lacks data")
            else:
                there = (workspace.root / work.folder).is_dir()
                what = "done" if workspace.done(work) else "begun" if there else "not run"
                states.append(f"{what}: {workspace.root / work.folder}" if there else what)
        table.add_row(step, _in_words(preset, step), *states)
    return table


def _in_words(preset: Preset, name: str) -> str:
    _, step = preset.resolved(name)
    borrowed = preset.steps[name]
    theirs = f", shared with {borrowed.borrow}" if isinstance(borrowed, Borrowed) else ""
    match step:
        case Train():
            drawn = "".join(f", {number} {modality} cases drawn" for modality, number in step.take.items())
            start = f", from the weights of {step.start}" if step.start else ""
            return f"train {step.train} on {step.data} {step.modality or ''}".rstrip() + drawn + start + theirs
        case Family():
            return f"{step.family} of {step.of}: one training run per site{theirs}"
        case Evaluate():
            return f"score {step.evaluate} on {step.data} {step.modality or ''}".rstrip() + theirs
        case Compare():
            return f"compare {', '.join(step.compare)}{theirs}"
        case _:
            return f"statistics of {step.data}{theirs}"


def _published_table(published: list[tuple[str, str, float, float]]) -> Any:
    columns = list(dict.fromkeys(column for _, column, _, _ in published))
    table = Table("", *columns, title=f"What the paper printed, DSC / NSD ({MARK})", title_justify="left")
    at = {(row, column): f"{number(dsc, 4)} / {number(nsd, 4)}" for row, column, dsc, nsd in published}
    for row in dict.fromkeys(row for row, _, _, _ in published):
        table.add_row(row, *(at.get((row, column), MISSING) for column in columns))
    return table


def run(
    name: Annotated[str | None, typer.Argument(help="An experiment of the list, or the file of your own.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every experiment, one after another.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="On the phantom and in a few steps, to see that it works.")
    ] = False,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="A data set, as NAME=PATH; it is remembered.")
    ] = None,
    cohort: Annotated[
        Path | None, typer.Option(help="A cohort to use instead of AMOS, if no other data is needed.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps of each training, instead of the experiment's.")
    ] = None,
    parallel: RunsAtOnceOption = 1,
    device: DeviceOption = None,
    seed: SeedOption = None,
    tracker: TrackerOption = None,
    store: StoreOption = None,
    out: OutOption = OUT,
) -> None:
    """Carry out an experiment. When repeated, it skips what is done and resumes where it stopped."""
    if (name is None) != everything:
        raise AmosError("experiments run needs the name of one, or --all; they are listed by: amos-fl experiments")
    if quick and (data or cohort):
        raise AmosError("--quick runs on the phantom; leave out --data and --cohort")
    presets = [read_preset(each) for each in (preset_names() if name is None else (name,))]
    workspace = Workspace(out, "quick" if quick else "full")
    given = _quick_given(presets) if quick else remembered(workspace.data_file, parse_given(data or []))
    if not quick:
        given |= _phantoms_of(presets, given)
    if cohort is not None:
        for preset in presets:
            refuse_cohort_for(preset)
        given["amos"] = cohort.resolve()  # not remembered: the next experiment means AMOS when it says so
    flags = {
        key: value
        for key, value in {"device": device, "seed": seed, "trackers": tracker or None}.items()
        if value is not None
    }
    planner = Planner(workspace, given, partial(resolve_run, headers=False), flags, steps)
    store = store or cache_folder() / "store"
    together = None if parallel == 1 else _together(store, quick, parallel)
    callbacks = Callbacks(_trainer(store, quick), typer.echo, store, together)
    problems = [problem for preset in presets if (problem := _run_one(preset, planner, workspace, callbacks))]
    if problems:
        raise AmosError(problems[0] if len(problems) == 1 else f"{len(problems)} experiments lack something; see above")


def _phantoms_of(presets: list[Preset], given: dict[str, Path]) -> dict[str, Path]:
    wanted = {name for preset in presets for name in preset.data_sets()} - set(given)
    with Progress() as progress:
        return {
            name: phantom_data(name, cache_folder(), progress.of("drawing the phantom"))
            for name in PHANTOMS
            if name in wanted
        }


def _quick_given(presets: list[Preset]) -> dict[str, Path]:
    needed = dict.fromkeys(name for preset in presets for name in preset.data_sets())
    with Progress() as progress:
        return {name: quick_data(name, cache_folder(), progress.of("drawing the phantom")) for name in needed}


def _trainer(store: Path, quick: bool) -> Any:
    """A function that carries out a run on this terminal; a quick run gets no report of its own."""
    from amos_fl_server.federation.simulate import simulate

    def train(folder: Any, config: Any, members: Any, title: str) -> None:
        with Display() as display:
            display.line(f"{title}: run folder {folder.path}")

            def report() -> None:
                if not quick:
                    write_report(folder.path, display.line)

            simulate(folder, config, members, store, display, and_then=report)

    return train


def _together(store: Path, quick: bool, at_once: int) -> Any:
    """A function that carries out several runs at a time, each in its own process."""

    def train(folders: list[RunFolder], device: str) -> None:
        typer.echo(f"{counted(len(folders), 'run')} to train, {at_once} at a time")
        try:
            carry_out_at_once(
                folders,
                store,
                name_of=lambda folder: "/".join(folder.path.parts[-2:]),
                report=not quick,
                at_once=at_once,
                device=device,
            )
        except KeyboardInterrupt:
            raise Interrupted("stopped") from None

    return train


def _run_one(preset: Preset, planner: Planner, workspace: Workspace, callbacks: Callbacks) -> str:
    """Carry out one experiment; returns a sentence if it could not finish, otherwise an empty text."""
    quick = " --quick" if workspace.form == "quick" else ""
    again = f"amos-fl experiments run {preset.name}{quick} --out {workspace.out}"
    typer.echo(f"{preset.name}: {preset.title}")
    try:
        report = carry_out(preset, planner.plan(preset), workspace, callbacks)
    except Interrupted:
        typer.echo(f"stopped; continue with: {again}")
        raise typer.Exit(INTERRUPTED) from None
    _say(preset, report)
    if report.missing and not (report.done_now or report.done_before or report.failed):
        return f"{preset.name}: {next(iter(report.missing.values()))}"
    cells = [cell for cell in outcome(preset, workspace) if not cell.organ]
    typer.echo(outcome_in_words(preset, workspace, cells))
    typer.echo(f"everything is in {workspace.preset(preset.name)}; begin with results.md")
    if report.failed:
        return f"{preset.name}: {', '.join(report.failed)} did not finish; see above, then: {again}"
    return ""


def _say(preset: Preset, report: Report) -> None:
    now, before = len(report.done_now), len(report.done_before)
    typer.echo(f"{preset.name}: {now} of {len(preset.steps)} steps done now, {before} before")
    for sentence in dict.fromkeys(report.missing.values()):
        waiting = [step for step, reason in report.missing.items() if reason == sentence]
        typer.echo(f"not run for lack of data: {', '.join(waiting)}: {sentence}")


def results(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUNS]...", help="Folders of experiments, or of runs.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Show the quick form, whose scores are no results.")] = False,
    only: Annotated[str | None, typer.Option(metavar="NAME", help="Show this experiment alone.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page to write, pictures beside it in a folder; default: the terminal."),
    ] = None,
) -> None:
    """Write the results of experiments and runs as one page: commit, settings, budget, scores by group of scanners."""
    where = folders or [OUT]
    told = [*map(str, where), *(["--quick"] if quick else []), *(["--only", only] if only else [])]
    command = " ".join(["amos-fl experiments results", *told, *(["-o", str(out)] if out else [])])
    names = preset_names() if only is None else (read_preset(only).name,)
    pictures = None if out is None else out.parent / out.stem
    page = results_page(where, command, "quick" if quick else "full", names=names, pictures=pictures)
    if out is None:
        typer.echo(page)
    else:
        write_text(out, page)
        typer.echo(f"wrote {out}")
