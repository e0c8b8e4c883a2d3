"""Hand out the next cases of the queue as working copies, and take cases back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amos_fl.annotate.compose import basis
from amos_fl.annotate.ledger import HandedOut, Released, Role
from amos_fl.annotate.project import Project
from amos_fl.annotate.state import CaseState, Stage, project_state
from amos_fl.cohort.table import Case
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file
from amos_fl.volumes.nifti import write_label

TAKES: dict[Role, Stage] = {"junior": "waiting", "senior": "for review"}
"""The stage from which a role takes its cases."""


@dataclass(frozen=True)
class InHand:
    """A case in a person's hands with its working copy; `new` unless the person had it before."""

    state: CaseState
    case: Case
    file: Path
    new: bool
    reasons: tuple[str, ...]


def checked_name(by: str) -> str:
    """A person's name, checked to be usable in file names.

    Raises:
        AmosError: it is not.
    """
    if not by or by.startswith(".") or not all(ch.isalnum() or ch in "._-" for ch in by):
        raise AmosError(f"--by {by!r}: a name holds letters, digits, '.', '_' and '-' only")
    return by


def hand_out(project: Project, by: str, role: Role, *, count: int = 1, wanted: Sequence[str] = ()) -> list[InHand]:
    """The cases in this person's hands, and new ones up to `count`: those in the greatest need, or the `wanted` ones.

    A junior takes waiting cases, a senior those that another person has corrected. A working copy holds the pre-label
    overlaid with earlier corrections. One with changes that were never imported is never overwritten.

    Raises:
        AmosError: a wanted case is with someone else, in another stage or unknown; a working copy has changes.
    """
    checked_name(by)
    with project.locked():
        state = project_state(project)
        held = [s for s in state.cases.values() if s.in_hand and (s.in_hand.by, s.in_hand.role) == (by, role)]
        if wanted:
            held = [s for s in held if s.case in wanted]
            new = [
                _may_take(project, state.cases, name, by, role) for name in wanted if name not in [s.case for s in held]
            ]
        else:
            queue = [s for s in state.queue(TAKES[role]) if role == "junior" or not _drew(s, by)]
            new = queue[: max(0, count - len(held))]
        handed = [InHand(s, project.case(s.case), project.working_copy(by, s.case), False, _reasons(s)) for s in held]
        handed += [_give(project, s, by, role) for s in new]
    return handed


def _drew(state: CaseState, by: str) -> bool:
    """Whether the person made the corrections to be reviewed."""
    return any(version.by == by and version.role == "junior" for version in state.owners().values())


def _reasons(state: CaseState) -> tuple[str, ...]:
    return state.latest.need.reasons if state.latest else ()


def _may_take(project: Project, cases: dict[str, CaseState], name: str, by: str, role: Role) -> CaseState:
    state = cases.get(project.case(name).case)
    assert state is not None
    if state.in_hand is not None:
        raise AmosError(
            f"{name}: {state.in_hand.by} has had it since {state.in_hand.time:%Y-%m-%d %H:%M} UTC; they import it, or "
            f"give it back: amos-fl annotate release {project.path} {name} --by {state.in_hand.by}"
        )
    if role == "senior" and _drew(state, by):
        raise AmosError(f"{name}: was corrected by {by}; another person reviews it")
    if state.stage == "not pre-labelled":
        raise AmosError(f"{name}: has no pre-label yet; run: amos-fl annotate start {project.path}")
    if role == "junior" and state.stage != "waiting":
        raise AmosError(f"{name}: is {state.stage}; a senior may take it: --role senior")
    return state


def _give(project: Project, state: CaseState, by: str, role: Role) -> InHand:
    case, file = project.case(state.case), project.working_copy(by, state.case)
    assert state.latest is not None
    if file.exists() and sha256_of_file(file) not in state.known_hashes():
        raise AmosError(
            f"{file}: holds changes that were never imported, so it is not replaced; import it with "
            f"'amos-fl annotate import {project.path} {file} --by {by} --role {role}', or move it away"
        )
    write_label(file, basis(project, case, state, state.latest.round, len(state.versions)), case.image)
    file.chmod(0o644)
    event = HandedOut(
        round=state.latest.round,
        case=case.case,
        by=by,
        role=role,
        versions=len(state.versions),
        sha256=sha256_of_file(file),
    )
    project.add(event)
    state.in_hand = event
    return InHand(state, case, file, True, _reasons(state))


def release(project: Project, name: str, by: str) -> Path | None:
    """Give a case back to the queue. Returns the working copy if it holds changes, which are kept.

    Raises:
        AmosError: the person doesn't have the case in hand.
    """
    with project.locked():
        state = project_state(project).cases.get(project.case(name).case)
        assert state is not None
        if state.in_hand is None or state.in_hand.by != by:
            whose = f"it is with {state.in_hand.by}" if state.in_hand else "nobody has it"
            raise AmosError(f"{name}: is not with {by}; {whose}")
        project.add(Released(case=name, by=by))
        file = project.working_copy(by, name)
        changed = file.is_file() and sha256_of_file(file) not in state.known_hashes()
    return file if changed else None
