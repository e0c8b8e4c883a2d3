"""`amos-fl annotate`: scans are labelled as AMOS was, by networks first and then by people."""

from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import typer

from amos_fl.annotate.colours import ITK_SNAP, write_colours
from amos_fl.annotate.hand_out import TAKES, InHand, hand_out
from amos_fl.annotate.hand_out import release as give_back
from amos_fl.annotate.progress import progress_of
from amos_fl.annotate.project import SETTINGS, Project, create_project, extend_project, open_project
from amos_fl.annotate.state import project_state
from amos_fl.annotate.take_in import ImportRequest, Taken, files_of, named_files, take_in
from amos_fl.cli.annotate_retrain import retrain_round
from amos_fl.cli.annotate_tables import change_table, show_queue, show_status
from amos_fl.cli.options import DeviceOption, SetOption, StoreOption
from amos_fl.cli.progress import Progress, plain_console
from amos_fl.cli.setting_options import setting, takes_inference
from amos_fl.cohort.table import read_cohort
from amos_fl.errors import AmosError
from amos_fl.escape.console import Console
from amos_fl.metrics.rules import organ_called
from amos_fl.runs.inference_settings import InferenceKeywords
from amos_fl.wording import counted

ProjectArgument = Annotated[Path, typer.Argument(metavar="PROJECT", help="The folder of the labelling project.")]
ByOption = Annotated[str, typer.Option("--by", help="Who is working: a name or an ID, as recorded in the ledger.")]
RoleOption = Annotated[
    Literal["junior", "senior"], typer.Option("--role", help="A junior corrects; a senior reviews what a junior drew.")
]
OrgansOption = Annotated[
    str | None, typer.Option("--organs", help="Organs by name or label value, separated by commas; default: all.")
]


_PASSES = {
    "none": "",
    "windows": ", each applied twice, with shifted windows",
    "mirror": ", each applied twice, once mirrored",
}


def _organs(text: str | None, known: dict[int, str]) -> tuple[int, ...] | None:
    if text is None:
        return None

    words = [word for word in text.split(",") if word.strip()]
    if not words:
        raise AmosError(f"--organs {text!r}: names no organ; give names or label values")
    return tuple(sorted({organ_called(word, known, "--organs") for word in words}))


@takes_inference("mirror")  # the variant decides about mirroring
def start(
    project: ProjectArgument,
    run: Annotated[
        list[str] | None,
        typer.Option("--run", help="A finished run, its model/, or RUN@ROUND; several make an ensemble."),
    ] = None,
    cohort: Annotated[
        Path | None,
        typer.Option(help="For a new project: the cohort whose unlabelled cases to label. Later: one with more cases."),
    ] = None,
    organs: OrgansOption = None,
    variant: Annotated[
        Literal["windows", "mirror", "none"] | None,
        typer.Option(
            help="How a network is applied twice to see where it is unsure; default: windows for one network."
        ),
    ] = None,
    new_round: Annotated[bool, typer.Option("--new-round", help="Begin another round with these networks.")] = False,
    tolerance_mm: Annotated[float, setting("evaluation.tolerance_mm")] = 1.0,
    device: DeviceOption = None,
    *,
    inference: InferenceKeywords,
) -> None:
    """Pre-label the unlabelled scans, or resume after an interruption. Exit code 2 if a scan failed."""
    from amos_fl.annotate.members import read_members, recorded_members
    from amos_fl.annotate.prelabel import begin_round, prelabel_round
    from amos_fl.device import device_named

    opened = _opened(project, run, cohort, organs, tolerance_mm)
    console = plain_console()
    with opened.alone("start"):
        members = read_members(run, opened.cohort) if run else None
        if members is None:
            state = project_state(opened)
            if not state.rounds:
                raise AmosError("name the network that pre-labels, with --run RUN")
            if state.round in state.retrained:
                members = read_members([str(path) for path in state.retrained[state.round].runs], opened.cohort)
            else:
                members = recorded_members(state.rounds[-1].members, opened.cohort)
        begun = begin_round(opened, members, variant=variant, new=new_round)
        write_colours(opened.path, opened.cohort.organs)
        if any(member.model.synthetic for member in members):
            console.print(
                "these networks were trained on a synthetic phantom; what they draw says nothing about patients"
            )
        drawn = " and ".join([f"{member.name} (round {member.model.round})" for member in members])
        console.print(f"round {begun.round}: pre-labels by {drawn}" + _PASSES[begun.variant])

        counts = {"drawn": 0, "kept": 0, "failed": 0}
        with Progress() as progress:
            for done in prelabel_round(
                opened,
                begun,
                members,
                inference=lambda member: member.model.inference.changed(inference),
                device=device_named(device or "auto"),
                on_window=lambda member, case, number, total: progress.show(f"{member}: {case}", number, total),
            ):
                counts[done.state] += 1
                for note in done.notes:
                    warning = "" if done.state == "failed" else "warning: "
                    typer.echo(f"amos-fl: {warning}{note}", err=True)
                if done.state == "drawn" and done.event is not None:
                    console.print(f"{done.case}: need {done.event.need.score:.2f}", soft_wrap=True)
    splits = [case.split for case in opened.unlabelled]
    console.print(
        f"{counted(len(splits), 'case')} without a label: {counts['drawn']} pre-labelled, "
        f"{counts['kept']} already there, {counts['failed']} failed",
        soft_wrap=True,
    )
    if scored := len(splits) - splits.count("train"):
        console.print(
            f"note: {scored} of them are not in split train, so they will be scored and never trained on; labels "
            "that a network drew first favour similar networks",
            soft_wrap=True,
        )
    console.print(
        f"next: amos-fl annotate queue {project}, then amos-fl annotate next {project} --by NAME --role junior"
    )
    if counts["failed"]:
        raise typer.Exit(2)


def _opened(path: Path, run: list[str] | None, cohort: Path | None, organs: str | None, tolerance: float) -> Project:
    """The project; created or extended if a cohort is given."""
    from amos_fl.annotate.members import read_members

    if (path / SETTINGS).is_file():
        project = open_project(path)
        asked = _organs(organs, project.cohort.organs)
        if asked is not None and asked != project.settings.organs:
            named = ", ".join(project.cohort.organs[organ] for organ in project.settings.organs)
            raise AmosError(f"--organs: this project is about {named}; start another one for other organs")
        if cohort is None:
            return project
        with project.locked():
            extended, new = extend_project(project, read_cohort(cohort))
        typer.echo(f"{counted(len(new), 'new case')} in the project")
        return extended
    if cohort is None:
        raise AmosError(f"{path}: holds no labelling project; start one with --cohort COHORT and --run RUN")
    if not run:
        raise AmosError("name the network that pre-labels, with --run RUN")
    everyone = read_cohort(cohort)
    read_members(run, everyone)  # before anything is written
    return create_project(path, everyone, _organs(organs, everyone.organs) or tuple(everyone.organs), tolerance)


def queue(
    project: ProjectArgument,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many to show.")] = 20,
    role: Annotated[Literal["junior", "senior"], typer.Option("--role", help="Whose queue.")] = "junior",
) -> None:
    """List the waiting cases with the reasons, those in greatest need of correction first."""
    opened = open_project(project)
    console = plain_console()
    waiting = project_state(opened).queue(TAKES[role])
    if not waiting:
        console.print(f"nothing waits for a {role}; see amos-fl annotate status {project}", soft_wrap=True)
        return
    show_queue(console, opened, waiting[:count])
    if len(waiting) > count:
        console.print(f"and {len(waiting) - count} more; show them with --count {len(waiting)}")


def next_case(
    project: ProjectArgument,
    by: ByOption,
    role: RoleOption,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many cases to have in hand.")] = 1,
    case: Annotated[
        list[str] | None, typer.Option("--case", help="Take this case instead of the next in the queue.")
    ] = None,
) -> None:
    """Take the next case from the queue; prints its working copy, why it needs correction and how to open it."""
    opened = open_project(project)
    handed = hand_out(opened, by, role, count=count, wanted=tuple(case or ()))
    console = plain_console()
    if not handed:
        console.print(f"nothing waits for a {role}; see amos-fl annotate status {project}", soft_wrap=True)
        return
    for one in handed:
        _show_in_hand(console, opened, one)
    console.print(f"when done: amos-fl annotate import {project} --by {by} --role {role}", soft_wrap=True)


def _show_in_hand(console: Console, project: Project, one: InHand) -> None:
    scan, label = quote(str(one.case.image)), quote(str(one.file))
    console.print(f"{one.case.case}: {'yours now' if one.new else 'already in your hands'}", soft_wrap=True)
    for reason in one.reasons or ("nothing stands out",):
        console.print(f"  - {reason}", soft_wrap=True)
    for version in one.state.versions:
        named = ", ".join(project.cohort.organs[organ] for organ in version.organs)
        said = f': "{version.comment}"' if version.comment else ""
        console.print(f"  - version {version.version} by {version.by} ({version.role}): {named}{said}", soft_wrap=True)
    colours = quote(str(project.path / ITK_SNAP))
    console.print(f"  ITK-SNAP:  itksnap -g {scan} -s {label} -l {colours}", soft_wrap=True)
    console.print(f"  3D Slicer: open {scan}, then {label} as a segmentation; save it to the same file", soft_wrap=True)


def release(
    project: ProjectArgument, case: Annotated[str, typer.Argument(help="The case to give back.")], by: ByOption
) -> None:
    """Give a case back to the queue. What was drawn in its working copy stays there."""
    changed = give_back(open_project(project), case, by)
    console = plain_console()
    console.print(f"{case}: back in the queue")
    if changed is not None:
        console.print(f"note: {changed} holds changes that were never imported; they stay there", soft_wrap=True)


def import_files(
    project: ProjectArgument,
    by: ByOption,
    role: RoleOption,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE...]", help="Corrections or folders of them; default: work/NAME/."),
    ] = None,
    organs: OrgansOption = None,
    case: Annotated[str | None, typer.Option(help="The case, for a file that is not named after it.")] = None,
    comment: Annotated[str, typer.Option(help="A remark, kept and shown to whoever has the case next.")] = "",
    allow_empty: Annotated[bool, typer.Option("--allow-empty", help="Take a file in which nothing is drawn.")] = False,
    relabelled: Annotated[
        bool, typer.Option("--relabelled", help="Take a file in which three or more organs changed their label.")
    ] = False,
) -> None:
    """Check, measure and store corrections. Exit code 2 if a file was refused."""
    opened = open_project(project)
    question = ImportRequest(by, role, _organs(organs, opened.cohort.organs), allow_empty, relabelled, comment)
    brought = named_files(files, {c.case for c in opened.unlabelled}) if files else files_of(opened, by)
    found = brought.files
    if case is not None and len(found) + len(brought.refused) != 1:
        raise AmosError(f"--case {case}: names the case of one file; give that file alone")
    named = {file.resolve() for file in files or ()}
    console = plain_console()
    states = {"imported": 0, "known": 0, "untouched": 0, "refused": 0}
    took = (take_in(opened, file, question, named=file.resolve() in named, case=case) for file in found)
    for taken in (*brought.refused, *took):
        states[taken.state] += 1
        _show_taken(console, opened, taken)
    parts = [f"{number} {state}" for state, number in states.items() if number or state == "imported"]
    console.print(f"{counted(len(found) + len(brought.refused), 'file')}: {', '.join(parts)}", soft_wrap=True)
    if brought.aside:
        console.print(
            f"note: {counted(len(brought.aside), 'file')} skipped, not named after a case that waits for labels: "
            + ", ".join(brought.aside),
            soft_wrap=True,
        )
    if states["refused"]:
        raise typer.Exit(2)


def _show_taken(console: Console, project: Project, taken: Taken) -> None:
    if taken.state == "refused":
        typer.echo(f"amos-fl: {taken.note}", err=True)
        return
    if taken.state != "imported" or taken.event is None:
        console.print(f"{taken.file.name}: {taken.note}", soft_wrap=True)
        return
    event, names = taken.event, project.cohort.organs
    console.print(
        f"{event.case}: version {event.version} by {event.by} ({event.role}), {counted(len(event.organs), 'organ')}, "
        f"kept as {event.file}",
        soft_wrap=True,
    )
    console.print(change_table(event, names))
    if event.not_used:
        listed = ", ".join(names[organ] for organ in event.not_used)
        console.print(
            f"note: {listed} changed too, but {'is' if len(event.not_used) == 1 else 'are'} not among the "
            "annotated organs; kept in the version, not used for training",
            soft_wrap=True,
        )


def retrain(
    project: ProjectArgument,
    arm: Annotated[
        Literal["federated", "centralized"] | None,
        typer.Option(help="Per site, or pooled; default: as the network was trained."),
    ] = None,
    reviewed: Annotated[bool, typer.Option("--reviewed", help="Use only organs that a senior has reviewed.")] = False,
    rounds: Annotated[int | None, setting("rounds", "as before")] = None,
    local_steps: Annotated[int | None, setting("local_steps", "as before")] = None,
    learning_rate: Annotated[float | None, setting("training.learning_rate", "as before")] = None,
    assignments: SetOption = None,
    device: DeviceOption = None,
    store: StoreOption = None,
) -> None:
    """Continue training the round's networks on everything annotated so far, or resume that training."""
    flags: dict[str, Any] = {"rounds": rounds, "local_steps": local_steps, "device": device, "arm": arm}
    if learning_rate is not None:
        flags["training"] = {"learning_rate": learning_rate}
    retrain_round(project, flags, assignments, reviewed=reviewed, store=store)


def status(project: ProjectArgument) -> None:
    """Show the project's progress: cases, rounds, organs and people."""
    show_status(plain_console(), progress_of(open_project(project)))


def report(project: ProjectArgument) -> None:
    """Write report.html, with its numbers in report_data/, into the project."""
    from amos_fl.report.page import write_annotation_report

    typer.echo(write_annotation_report(open_project(project)))
