"""Make a round of pre-labels: predict every open scan, combine, assess the need, and record it in the ledger.

Finished cases are kept: a second call continues where the first one was killed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from amos_fl.annotate.compose import changed_by_hand, check_scan
from amos_fl.annotate.ledger import PreLabelled, RoundBegun, Variant
from amos_fl.annotate.members import NamedModel
from amos_fl.annotate.need import need_of, vote
from amos_fl.annotate.project import Project
from amos_fl.annotate.state import CaseState, ProjectState, project_state
from amos_fl.cohort.table import Case
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file
from amos_fl.inference.predict_scans import predict_scans
from amos_fl.inference.predicted_files import Wanted
from amos_fl.inference.scans import Scan
from amos_fl.metrics.scores import reported_organs
from amos_fl.runs.inference_settings import RecordedInference
from amos_fl.scan_files import sha256_of_scan
from amos_fl.volumes.nifti import read_label, write_label
from amos_fl.warned import heard


@dataclass(frozen=True)
class PreLabelOutcome:
    """The outcome of a case. `notes` are warnings about one that was `drawn`, or why it `failed`."""

    case: str
    state: Literal["drawn", "kept", "failed"]
    event: PreLabelled | None = None
    notes: tuple[str, ...] = ()


OnWindow = Callable[[str, str, int, int], None]
"""Called as (member, case, done, total) before each batch of windows."""


def begin_round(
    project: Project, members: Sequence[NamedModel], *, variant: Variant | None = None, new: bool = False
) -> RoundBegun:
    """The round that these networks pre-label: the current one if it is theirs, otherwise the next.

    By default a single network predicts a second time with shifted windows, and several predict once each.

    Raises:
        AmosError: the current round was begun with other networks and has not been retrained from.
    """
    records = tuple(member.record() for member in members)
    chosen: Variant = variant or ("windows" if len(members) == 1 else "none")
    with project.locked():
        state = project_state(project)
        if state.rounds and not new and state.round not in state.retrained:
            current = state.rounds[-1]
            if [m.weights_sha256 for m in current.members] != [m.weights_sha256 for m in records] or (
                variant is not None and variant != current.variant
            ):
                raise AmosError(
                    f"round {current.round} was begun with {', '.join(m.name for m in current.members)} or other "
                    "settings; continue without naming networks, or begin another round with --new-round"
                )
            return current
        begun = RoundBegun(round=state.round + 1, members=records, variant=chosen)
        project.add(begun)
    return begun


def open_cases(project: Project, state: ProjectState) -> list[CaseState]:
    """The cases to pre-label: those not complete, not in anyone's hands and not waiting for review."""
    return [s for s in state.cases.values() if s.stage in ("not pre-labelled", "waiting", "done") and not s.complete]


def prelabel_round(
    project: Project,
    begun: RoundBegun,
    members: Sequence[NamedModel],
    *,
    inference: Callable[[NamedModel], RecordedInference],
    device: str = "cpu",
    on_window: OnWindow | None = None,
) -> Iterator[PreLabelOutcome]:
    """Pre-label all open cases; a failing case is reported and skipped. Files that people changed are kept.

    Raises:
        AmosError: the networks learned none of the project's organs.
    """
    state = project_state(project)
    open_states = open_cases(project, state)
    cases = {c.case: c for c in project.unlabelled}
    kept, wanted, refused = _sorted_out(project, begun, open_states, cases)
    yield from kept
    yield from refused
    failed: dict[str, str] = {}
    notes: dict[str, tuple[str, ...]] = {}
    # A network cannot draw an organ that it has not learned.
    can_draw = {
        label for member in members for label, name in member.model.organs.items() if name not in member.model.unlearned
    }
    organs = {o: name for o, name in project.cohort.organs.items() if o in can_draw & set(project.settings.organs)}
    if wanted and not organs:
        asked = ", ".join(project.cohort.organs[organ] for organ in project.settings.organs)
        raise AmosError(
            f"{', '.join(member.name for member in members)}: learned none of the organs that this project asks for "
            f"({asked}); begin the round with another network"
        )
    drawings = list(_drawings(project.round(begun.round) / "members", begun, members, inference))
    for name, folder, member, settings in drawings:
        scans = [Scan(c, cases[c].image, cases[c].modality) for c in wanted if c not in failed]

        def told(scan: Scan, done: int, total: int, name: str = name) -> None:
            if on_window is not None:
                on_window(name, scan.name, done, total)

        for outcome in predict_scans(member.model, scans, folder, Wanted(settings, device), on_window=told):
            if outcome.state == "failed":
                failed[outcome.scan.name] = outcome.notes[0]
            elif outcome.notes:
                notes[outcome.scan.name] = outcome.notes
    for name in wanted:
        if name in failed:
            yield PreLabelOutcome(name, "failed", notes=(failed[name],))
            continue
        try:
            drawn = [folder / f"{name}.nii.gz" for _, folder, _, _ in drawings]
            with heard() as further:
                event = _combine(project, begun, cases[name], drawn, organs)
        except AmosError as error:
            yield PreLabelOutcome(name, "failed", notes=(str(error),))
        else:
            yield PreLabelOutcome(name, "drawn", event, tuple(dict.fromkeys([*notes.get(name, ()), *further])))


def _sorted_out(
    project: Project, begun: RoundBegun, states: Sequence[CaseState], cases: Mapping[str, Case]
) -> tuple[list[PreLabelOutcome], list[str], list[PreLabelOutcome]]:
    """Cases with a pre-label, cases to pre-label, and cases whose pre-label was changed by hand."""
    kept: list[PreLabelOutcome] = []
    wanted: list[str] = []
    refused: list[PreLabelOutcome] = []
    for state in states:
        file = project.prelabel(begun.round, state.case)
        event = state.prelabelled.get(begun.round)
        if not file.is_file() or event is None:  # a file without an event: killed between the two
            wanted.append(state.case)
        elif why := _of_another_scan(cases[state.case], event):
            refused.append(PreLabelOutcome(state.case, "failed", notes=(why,)))
        elif sha256_of_file(file) == event.sha256:
            kept.append(PreLabelOutcome(state.case, "kept", event))
        else:
            refused.append(PreLabelOutcome(state.case, "failed", notes=(changed_by_hand(project, file),)))
    return kept, wanted, refused


def _of_another_scan(case: Case, event: PreLabelled) -> str:
    try:
        check_scan(case, event)
    except AmosError as error:
        return str(error)
    return ""


def _drawings(
    folder: Path,
    begun: RoundBegun,
    members: Sequence[NamedModel],
    inference: Callable[[NamedModel], RecordedInference],
) -> Iterator[tuple[str, Path, NamedModel, RecordedInference]]:
    """The networks and their output folders: every member, then their variants. In a tied vote the first one counts."""
    for member in members:
        yield member.name, folder / member.name, member, inference(member)
    if begun.variant == "none":
        return
    for member in members:
        name = f"{member.name}-{begun.variant}"
        yield name, folder / name, member, _varied(inference(member), begun.variant)


def _varied(settings: RecordedInference, variant: Variant) -> RecordedInference:
    """The settings of the second prediction. With half the overlap, windows are shifted and see other context."""
    if variant == "mirror":
        return settings.model_copy(update={"mirror": not settings.mirror})
    return settings.model_copy(update={"overlap": settings.overlap / 2 if settings.overlap > 0 else 0.5})


def _combine(
    project: Project, begun: RoundBegun, case: Case, drawn: Sequence[Path], organs: dict[int, str]
) -> PreLabelled:
    """Write a case's pre-label from its predictions, and record it in the ledger with its need over `organs`."""
    every = project.cohort.organs
    volumes = [read_label(path, every) for path in drawn]
    label = vote([volume.array for volume in volumes])
    voxel_ml = volumes[0].voxel_ml
    expected = [o for o in reported_organs(every, case.modality) if o in organs]
    need = need_of(label, [volume.array for volume in volumes], voxel_ml, organs, expected)
    file = project.prelabel(begun.round, case.case)
    with project.locked():
        if file.exists():  # written by a start that was killed, or changed since: kept if it is different
            aside = file.with_name(f".{file.name}")
            write_label(aside, label, case.image)
            same = sha256_of_file(aside) == sha256_of_file(file)
            aside.unlink()
            if not same:
                raise AmosError(changed_by_hand(project, file))
        else:
            write_label(file, label, case.image)
        file.chmod(0o444)
        event = PreLabelled(
            round=begun.round,
            case=case.case,
            sha256=sha256_of_file(file),
            need=need,
            scan_sha256=sha256_of_scan(case.image),
        )
        project.add(event)
    return event
