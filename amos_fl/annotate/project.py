"""The folder of a labelling project.

project.json                     what is asked of every case
cohort.csv                       all cases, labelled and not (organs.csv where the organs are not AMOS's)
ledger.jsonl                     what happened, one line per event
rounds/round_01/prelabels/       what the networks drew, one NIfTI per case; members/ what each of them drew
rounds/round_01/labels/          the corrected label maps as they were trained on; cohort.csv; runs/ the training runs
work/NAME/                       the working copies of one person; theirs alone
versions/CASE/                   every correction that was imported, never changed again
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from amos_fl.annotate.ledger import ProjectEvent, append_events, read_events
from amos_fl.cohort.organ_names import difference_in_words, same_organs
from amos_fl.cohort.table import Case, Cohort, read_cohort, write_cohort
from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.locks import at_work

SETTINGS = "project.json"


class ProjectSettings(BaseModel):
    """The organs that are looked for in every case (label values), and the tolerance of the NSD in mm."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    organs: tuple[int, ...]
    tolerance_mm: float = 1.0


@dataclass(frozen=True)
class Project:
    """A labelling project by the names of its files."""

    path: Path
    settings: ProjectSettings
    cohort: Cohort

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.jsonl"

    def events(self) -> list[ProjectEvent]:
        return read_events(self.ledger)

    def add(self, *events: ProjectEvent) -> None:
        """Append to the ledger; call it within `locked`."""
        append_events(self.ledger, events)

    def case(self, name: str) -> Case:
        """A case by its name.

        Raises:
            AmosError: the cohort has no such case, or it was labelled before.
        """
        for case in self.cohort.cases:
            if case.case == name:
                if case.label is not None:
                    raise AmosError(f"{name}: already has a label map in the cohort; this project labels the others")
                return case
        raise AmosError(f"{name}: no such case in {self.path / 'cohort.csv'}; a file is named after its case")

    @property
    def unlabelled(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cohort.cases if case.label is None)

    def round(self, number: int) -> Path:
        return self.path / "rounds" / f"round_{number:02d}"

    def prelabel(self, number: int, case: str) -> Path:
        return self.round(number) / "prelabels" / f"{case}.nii.gz"

    def working_copy(self, by: str, case: str) -> Path:
        return self.path / "work" / by / f"{case}.nii.gz"

    def versions(self, case: str) -> Path:
        return self.path / "versions" / case

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the project against changes by other processes, waiting for them; a kill releases the lock."""
        with FileLock(self.path / ".lock"):
            yield

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Keep a second `what` (a long-running command) from working here at the same time.

        Raises:
            AtWork: one is at work already.
        """
        with at_work(self.path, to=what):
            yield


def open_project(path: Path) -> Project:
    """The project in a folder.

    Raises:
        AmosError: there is none, or its settings or cohort are damaged.
    """
    if not (path / SETTINGS).is_file():
        raise AmosError(f"{path}: holds no labelling project; start one with 'amos-fl annotate start'")
    try:
        settings = ProjectSettings.model_validate(json.loads((path / SETTINGS).read_text(encoding="utf-8")))
    except (ValueError, ValidationError):
        raise AmosError(f"{path / SETTINGS}: is damaged; restore it from a copy") from None
    return Project(path, settings, read_cohort(path / "cohort.csv"))


def create_project(path: Path, cohort: Cohort, organs: Iterable[int], tolerance_mm: float = 1.0) -> Project:
    """Create a project with a copy of a cohort; scans and labels stay where they are.

    Raises:
        AmosError: the folder is not empty, or every case has a label.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise AmosError(f"{path}: is not an empty folder; name a new one for the project")
    if all(case.label is not None for case in cohort.cases):
        raise AmosError("every case of the cohort has a label map; list the scans to label with an empty 'label'")
    if tolerance_mm < 0:
        raise AmosError(f"--tolerance-mm {tolerance_mm:g}: must be 0 mm or more")
    path.mkdir(parents=True, exist_ok=True)
    settings = ProjectSettings(organs=tuple(sorted(set(organs))), tolerance_mm=tolerance_mm)
    write_cohort(cohort, path / "cohort.csv")
    # Last, because its presence says that the folder is a project.
    write_json(path / SETTINGS, settings.model_dump(mode="json"))
    return open_project(path)


def extend_project(project: Project, cohort: Cohort) -> tuple[Project, list[str]]:
    """The project with the cases of `cohort` that it did not have, and their names.

    Raises:
        AmosError: other organs, or a case that is another scan here.
    """
    if not same_organs(cohort.organs, project.cohort.organs):
        differ = difference_in_words(cohort.organs, project.cohort.organs, ("there", "in the project"))
        raise AmosError(
            f"this cohort has other organs than the project{f': {differ}' if differ else ''}; start a separate "
            "project for it, or renumber it with 'amos-fl data relabel'"
        )
    known = {case.case: case for case in project.cohort.cases}
    for case in cohort.cases:
        if case.case in known and case.image.resolve() != known[case.case].image.resolve():
            raise AmosError(f"{case.case}: is {known[case.case].image} in this project; give the new scan another name")
    new = [case for case in cohort.cases if case.case not in known]
    if new:
        write_cohort(Cohort((*project.cohort.cases, *new), project.cohort.organs), project.path / "cohort.csv")
    return open_project(project.path), [case.case for case in new]
