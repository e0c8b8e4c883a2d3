"""The state of every case in a project, read from the ledger."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from amos_fl.annotate.ledger import (
    HandedOut,
    Imported,
    PreLabelled,
    ProjectEvent,
    Released,
    RetrainBegun,
    Retrained,
    Role,
    RoundBegun,
)
from amos_fl.annotate.project import Project

Stage = Literal["not pre-labelled", "waiting", "with a junior", "for review", "with a senior", "done"]
STAGES: tuple[Stage, ...] = ("not pre-labelled", "waiting", "with a junior", "for review", "with a senior", "done")


@dataclass
class CaseState:
    """One case: its latest pre-label, the person who has it, and its versions in order."""

    case: str
    wanted: tuple[int, ...]
    prelabelled: dict[int, PreLabelled] = field(default_factory=dict)
    in_hand: HandedOut | None = None
    handed: list[HandedOut] = field(default_factory=list)
    versions: list[Imported] = field(default_factory=list)

    @property
    def latest(self) -> PreLabelled | None:
        return self.prelabelled[max(self.prelabelled)] if self.prelabelled else None

    def owners(self) -> dict[int, Imported]:
        """For each annotated organ the version that counts: the latest one that covers it."""
        return {organ: version for version in self.versions for organ in version.organs}

    def annotated(self, role: Role | None = None) -> tuple[int, ...]:
        """The organs whose latest version is by a person (of this role)."""
        return tuple(sorted(o for o, version in self.owners().items() if role in (None, version.role)))

    @property
    def complete(self) -> bool:
        """Whether every organ's latest version is by a senior."""
        return set(self.wanted) <= set(self.annotated("senior"))

    @property
    def stage(self) -> Stage:
        """The stage of the case; a partly annotated one waits again after a later round has pre-labelled it."""
        if self.in_hand is not None:
            return "with a junior" if self.in_hand.role == "junior" else "with a senior"
        if self.annotated("junior"):
            return "for review"
        latest = self.latest
        if self.versions and (self.complete or latest is None or latest.round <= self.versions[-1].round):
            return "done"
        return "waiting" if latest is not None else "not pre-labelled"

    def known_hashes(self) -> set[str]:
        """Hashes of working copies that were written by the program or are kept as a version."""
        return {event.sha256 for event in (*self.handed, *self.versions)}


@dataclass
class ProjectState:
    """All cases without a label, and the rounds."""

    cases: dict[str, CaseState]
    rounds: list[RoundBegun] = field(default_factory=list)
    retraining: dict[int, RetrainBegun] = field(default_factory=dict)
    retrained: dict[int, Retrained] = field(default_factory=dict)
    new_imports: int = 0
    """Corrections since the last retraining was begun."""

    @property
    def round(self) -> int:
        """The last round that was begun; 0 before the first."""
        return self.rounds[-1].round if self.rounds else 0

    def queue(self, *stages: Stage) -> list[CaseState]:
        """The cases in these stages that have a pre-label, those with the greatest need first; ties by name."""
        found = [state for state in self.cases.values() if state.stage in stages and state.latest is not None]
        # Rounded, so that needs that look equal also sort as equal.
        return sorted(found, key=lambda s: (-round(s.latest.need.score, 6) if s.latest else 0.0, s.case))

    def stages(self) -> dict[Stage, int]:
        """How many cases are in each stage."""
        counts = dict.fromkeys(STAGES, 0)
        for state in self.cases.values():
            counts[state.stage] += 1
        return counts


def project_state(project: Project, events: Sequence[ProjectEvent] | None = None) -> ProjectState:
    """The state after `events`, by default all of the ledger."""
    cases = {c.case: CaseState(c.case, project.settings.organs) for c in project.unlabelled}
    return _after(ProjectState(cases), project.events() if events is None else events)


def _after(state: ProjectState, events: Iterable[ProjectEvent]) -> ProjectState:
    for event in events:
        if getattr(event, "case", None) not in {None, *state.cases}:
            continue  # of a case that was removed from the project's cohort.csv
        match event:
            case RoundBegun():
                state.rounds.append(event)
            case PreLabelled():
                state.cases[event.case].prelabelled[event.round] = event
            case HandedOut():
                state.cases[event.case].in_hand = event
                state.cases[event.case].handed.append(event)
            case Released():
                state.cases[event.case].in_hand = None
            case Imported():
                case = state.cases[event.case]
                case.versions.append(event)
                state.new_imports += 1
                if case.in_hand is not None and case.in_hand.by == event.by:
                    case.in_hand = None
            case RetrainBegun():
                state.retraining[event.round] = event
                state.new_imports = 0
            case Retrained():
                state.retrained[event.round] = event
    return state
