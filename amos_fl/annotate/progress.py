"""The progress of a project by round, organ, person and case, for `status`, the report and its CSV files."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from amos_fl.annotate.ledger import Imported, OrganChange, ProjectEvent, Role, RoundBegun
from amos_fl.annotate.project import Project
from amos_fl.annotate.state import STAGES, ProjectState, Stage, project_state
from amos_fl.errors import AmosError
from amos_fl.escape.csv_cells import DictWriter, Writer
from amos_fl.files import whole_file
from amos_fl.runs.record import read_run


@dataclass(frozen=True)
class RoundRow:
    """A round: what was pre-labelled and imported, and how far the pre-labels were from the corrections.

    `dsc` and `nsd` are means over organs of their means over cases; `stages` counts the cases when the round ended.
    """

    round: int
    networks: str
    prelabelled: int
    junior: int
    senior: int
    dsc: float
    nsd: float
    changed_ml: float
    minutes: float
    stages: dict[Stage, int]


@dataclass(frozen=True)
class OrganRow:
    """An organ in a round: the pre-labels against the last corrections of that round, as means over cases."""

    round: int
    organ: str
    cases: int
    dsc: float
    nsd: float
    prelabel_ml: float
    corrected_ml: float
    changed_ml: float


@dataclass(frozen=True)
class PersonRow:
    """A person in a role: their changes from the starting point. `minutes` is a median, hand-out to import."""

    by: str
    role: Role
    corrections: int
    cases: int
    in_hand: int
    unchanged: int
    dsc: float
    nsd: float
    changed_ml: float
    minutes: float


@dataclass(frozen=True)
class CaseRow:
    """A case's present state. `need` is that of its latest pre-label."""

    case: str
    site: str
    modality: str
    split: str
    stage: Stage
    who: str
    versions: int
    annotated: int
    need: float
    reasons: str


@dataclass(frozen=True)
class ModelRow:
    """The network (or networks) that pre-label a round, with the mean test DSC of their runs by modality."""

    round: int
    name: str
    modality: str
    cases: int
    dsc: float


@dataclass(frozen=True)
class ProjectProgress:
    """All data shown about a project."""

    project: Project
    state: ProjectState
    rounds: list[RoundRow]
    organs: list[OrganRow]
    people: list[PersonRow]
    cases: list[CaseRow]
    models: list[ModelRow]
    imports: list[Imported]


def progress_of(project: Project) -> ProjectProgress:
    """Read the ledger, and the test scores of the runs that it names."""
    events = project.events()
    state = project_state(project, events)
    imports = [event for event in events if isinstance(event, Imported)]
    return ProjectProgress(
        project=project,
        state=state,
        rounds=[_round_row(project, events, begun, imports) for begun in state.rounds],
        organs=[row for begun in state.rounds for row in _organ_rows(project, begun.round, imports)],
        people=_people(state, imports),
        cases=_case_rows(project, state),
        models=_models(state),
        imports=imports,
    )


def last_of_round(imports: Sequence[Imported], round_number: int) -> dict[str, dict[int, OrganChange]]:
    """Per case and organ: the pre-label of a round against the last correction of the organ in that round."""
    found: dict[str, dict[int, OrganChange]] = {}
    for event in imports:
        if event.round == round_number:
            found.setdefault(event.case, {}).update(event.from_prelabel)
    return found


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _over_organs(changes: Iterable[Mapping[int, OrganChange]], metric: str) -> float:
    """The mean over organs of their mean over cases."""
    by_organ: dict[int, list[float]] = {}
    for case in changes:
        for organ, change in case.items():
            if (value := getattr(change, metric)) is not None:
                by_organ.setdefault(organ, []).append(value)
    return _mean(_mean(values) for values in by_organ.values())


def _changed_ml(changes: Mapping[int, OrganChange]) -> float:
    return math.fsum(change.changed_ml for change in changes.values())


def _round_row(
    project: Project, events: Sequence[ProjectEvent], begun: RoundBegun, imports: list[Imported]
) -> RoundRow:
    place = events.index(begun)
    after = next((i for i, e in enumerate(events) if i > place and isinstance(e, RoundBegun)), len(events))
    mine = [event for event in imports if event.round == begun.round]
    changes = last_of_round(imports, begun.round)
    state = project_state(project, events[:after])
    return RoundRow(
        round=begun.round,
        networks=", ".join(member.name for member in begun.members),
        prelabelled=sum(begun.round in case.prelabelled for case in state.cases.values()),
        junior=sum(event.role == "junior" for event in mine),
        senior=sum(event.role == "senior" for event in mine),
        dsc=_over_organs(changes.values(), "dsc"),
        nsd=_over_organs(changes.values(), "nsd"),
        changed_ml=_mean(map(_changed_ml, changes.values())),
        minutes=_median(event.minutes for event in mine),
        stages=state.stages(),
    )


def _median(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else math.nan


def _organ_rows(project: Project, round_number: int, imports: list[Imported]) -> list[OrganRow]:
    changes = last_of_round(imports, round_number)
    rows = []
    for organ, name in project.cohort.organs.items():
        mine = [case[organ] for case in changes.values() if organ in case]
        if mine:
            rows.append(
                OrganRow(
                    round=round_number,
                    organ=name,
                    cases=len(mine),
                    dsc=_mean(change.dsc for change in mine),
                    nsd=_mean(change.nsd for change in mine),
                    prelabel_ml=_mean(change.before_ml for change in mine),
                    corrected_ml=_mean(change.after_ml for change in mine),
                    changed_ml=_mean(change.changed_ml for change in mine),
                )
            )
    return rows


def _people(state: ProjectState, imports: list[Imported]) -> list[PersonRow]:
    held = [case.in_hand for case in state.cases.values() if case.in_hand is not None]
    everyone: list[tuple[Role, str]] = sorted({(e.role, e.by) for e in (*imports, *held)})
    rows = []
    for role, by in everyone:
        mine = [event for event in imports if (event.role, event.by) == (role, by)]
        rows.append(
            PersonRow(
                by=by,
                role=role,
                corrections=len(mine),
                cases=len({event.case for event in mine}),
                in_hand=sum((hand.role, hand.by) == (role, by) for hand in held),
                unchanged=sum(_changed_ml(event.change) == 0 for event in mine),
                dsc=_over_organs((event.change for event in mine), "dsc"),
                nsd=_over_organs((event.change for event in mine), "nsd"),
                changed_ml=_mean(_changed_ml(event.change) for event in mine),
                minutes=_median(event.minutes for event in mine),
            )
        )
    return rows


def _case_rows(project: Project, state: ProjectState) -> list[CaseRow]:
    rows = []
    for case in project.unlabelled:
        own = state.cases[case.case]
        need = own.latest.need if own.latest else None
        people = [own.in_hand.by] if own.in_hand else list(dict.fromkeys(v.by for v in own.versions))
        rows.append(
            CaseRow(
                case=case.case,
                site=case.site,
                modality=case.modality,
                split=case.split,
                stage=own.stage,
                who=", ".join(people),
                versions=len(own.versions),
                annotated=len(own.annotated()),
                need=need.score if need else math.nan,
                reasons="; ".join(need.reasons) if need else "",
            )
        )
    return rows


def _models(state: ProjectState) -> list[ModelRow]:
    """One row per round, network and modality, including the networks of the next round."""
    sources = [
        (begun.round, member.name, member.source, member.round) for begun in state.rounds for member in begun.members
    ]
    if state.round in state.retrained:
        sources += [(state.round + 1, run.name, run, -1) for run in state.retrained[state.round].runs]
    rows = []
    for round_number, name, source, chosen in sources:
        try:
            record = read_run(source)
        except (AmosError, OSError):  # a model/ folder apart from its run, or a run that was moved
            continue
        if chosen not in (-1, record.results.chosen.round):  # a checkpoint, which has no test scores
            continue
        rows += [
            ModelRow(round_number, name, row.modality, row.cases, row.dsc)
            for row in record.results.by_group
            if row.group == "seen"
        ]
    return rows


def write_progress(progress: ProjectProgress, folder: Path) -> dict[str, str]:
    """Write everything as CSV files into `folder`; returns their relative paths by name."""
    tables: dict[str, tuple[type, Sequence[Any]]] = {
        "rounds": (RoundRow, progress.rounds),
        "organs": (OrganRow, progress.organs),
        "people": (PersonRow, progress.people),
        "cases": (CaseRow, progress.cases),
        "models": (ModelRow, progress.models),
    }
    paths = {}
    for name, (kind, rows) in tables.items():
        head = [f.name for f in fields(kind) if f.name != "stages"] + (list(STAGES) if kind is RoundRow else [])
        with whole_file(folder / f"{name}.csv") as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = DictWriter(file, head)
            writer.writeheader()
            for row in rows:
                values = asdict(row)
                writer.writerow({**{k: v for k, v in values.items() if k != "stages"}, **values.get("stages", {})})
        paths[name] = f"{folder.name}/{name}.csv"
    return paths | {"changes": _write_changes(progress, folder)}


def _write_changes(progress: ProjectProgress, folder: Path) -> str:
    """Write every organ of every correction: what it was measured against, by whom, and what changed."""
    organs = progress.project.cohort.organs
    with whole_file(folder / "changes.csv") as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = Writer(file)
        numbers = list(OrganChange.model_fields)
        writer.writerow(["time", "round", "case", "version", "by", "role", "against", "organ", *numbers])
        for e in progress.imports:
            for against, changes in (("what they started from", e.change), ("pre-label", e.from_prelabel)):
                for organ, change in changes.items():
                    about = [e.time.isoformat(), e.round, e.case, e.version, e.by, e.role, against, organs[organ]]
                    writer.writerow([*about, *change.model_dump().values()])
    return f"{folder.name}/changes.csv"
