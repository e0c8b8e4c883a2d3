"""Import corrections into a project: check and measure them, and keep them as versions that are never overwritten."""

import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from amos_fl.annotate.colours import SLICER
from amos_fl.annotate.compose import basis
from amos_fl.annotate.corrections import SAVE_AGAIN, changed_organs, changes, read_correction, renumbered
from amos_fl.annotate.hand_out import checked_name
from amos_fl.annotate.ledger import Imported, Role, now
from amos_fl.annotate.project import Project
from amos_fl.annotate.state import CaseState, project_state
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file, whole_file
from amos_fl.scan_files import SUFFIXES, ScanFolder, Unusable, case_of, problem_of, scans_in, shown
from amos_fl.volumes.nifti import read_label
from amos_fl.wording import counted

_SWAPPED = 2
"""The number of organs that may swap labels without suspicion, such as two kidneys that were mixed up."""


@dataclass(frozen=True)
class ImportRequest:
    """The person who imports corrections, and what counts. `organs` None: the default organs of the case."""

    by: str
    role: Role
    organs: tuple[int, ...] | None = None
    allow_empty: bool = False
    relabelled: bool = False
    comment: str = ""


@dataclass(frozen=True)
class Taken:
    """The outcome of importing a file. `note` says why it was `refused` or left as it is."""

    file: Path
    state: Literal["imported", "known", "untouched", "refused"]
    event: Imported | None = None
    note: str = ""


@dataclass(frozen=True)
class Brought:
    """A person's files: those to import, those that cannot be used with the reason, and those ignored."""

    files: tuple[Path, ...]
    refused: tuple[Taken, ...] = ()
    aside: tuple[str, ...] = ()


def files_of(project: Project, by: str) -> Brought:
    """A person's working copies, by name.

    Raises:
        AmosError: there is no working copy.
    """
    folder = project.path / "work" / checked_name(by)
    found = scans_in(folder) if folder.is_dir() else ScanFolder(folder, {})
    if not found.there:
        raise AmosError(f"{folder}: holds no NIfTI file; take a case with 'amos-fl annotate next', or name the files")
    return Brought(tuple(found.scans.values()), _refused(found.unusable))


def _refused(unusable: Sequence[Unusable]) -> tuple[Taken, ...]:
    return tuple(Taken(bad.path, "refused", note=bad.sentence) for bad in unusable)


def take_in(project: Project, file: Path, question: ImportRequest, *, named: bool, case: str | None = None) -> Taken:
    """Import one file. Its case is that of its name, or `case`.

    A file that is unchanged since it was handed out is a correction (nothing to correct) if the user `named` it, and
    `untouched` if the whole working folder is imported. The same file twice is `known`.

    Returns `refused` with the reason if it cannot be imported; the file stays where it is.
    """
    checked_name(question.by)
    try:
        with project.locked():
            return _take_in(project, file, question, named, case or case_of(file))
    except AmosError as error:
        return Taken(file, "refused", note=str(error))


def _take_in(project: Project, file: Path, question: ImportRequest, named: bool, name: str) -> Taken:
    case = project.case(name)
    state = project_state(project).cases[name]
    if why := problem_of(file):
        raise AmosError(f"{file}: {why}")
    if not file.name.lower().endswith(SUFFIXES):
        raise AmosError(f"{file.name}: is not named as a NIfTI file; {SAVE_AGAIN} ({' or '.join(SUFFIXES)})")
    sha256 = sha256_of_file(file)
    hand = state.in_hand
    # A person who has the case again makes a new statement, even if the file equals an earlier version.
    for version in state.versions if hand is None or hand.by != question.by else ():
        if (version.sha256, version.by, version.role) == (sha256, question.by, question.role):
            return Taken(file, "known", version, f"is already version {version.version}")
    if hand is not None and hand.by != question.by:
        raise AmosError(
            f"{name}: is with {hand.by}, so a correction by {question.by} is not taken; {hand.by} imports "
            f"theirs first, or gives it back: amos-fl annotate release {project.path} {name} --by {hand.by}"
        )
    given = next((event for event in reversed(state.handed) if event.by == question.by), None)
    if not named and given is not None and given.sha256 == sha256:
        return Taken(file, "untouched", note="is as it was handed out; name the file if nothing is to be corrected")
    round_number, versions = _began_from(state, question)
    organs = _organs(project, state, question)
    correction = read_correction(file, case, project.cohort.organs)
    before = basis(project, case, state, round_number, versions)
    if before.any() and not correction.array.any() and not question.allow_empty:
        raise AmosError(
            f"{file.name}: nothing is drawn in it, though the person started from a map with organs; save the "
            "segmentation again, or pass --allow-empty"
        )
    moved = renumbered(before, correction.array)
    if len(moved) > _SWAPPED and not question.relabelled:
        told = ", ".join(f"{organ} where {was} was" for organ, was in moved.items())
        raise AmosError(
            f"{file.name}: its labels seem to have been renumbered ({told}); export with the colour table {SLICER}, or "
            "pass --relabelled if that is intended"
        )
    prelabel = read_label(project.prelabel(round_number, name), project.cohort.organs).array
    spacing, tolerance = correction.spacing_mm, project.settings.tolerance_mm
    others = tuple(organ for organ in changed_organs(before, correction.array) if organ not in organs)
    minutes = (now() - given.time).total_seconds() / 60 if hand is not None and given is not None else None
    event = Imported(
        round=round_number,
        case=name,
        version=_next_version(project, state),
        by=question.by,
        role=question.role,
        organs=organs,
        file="",
        sha256=sha256,
        began_from=f"pre-label and {counted(versions, 'version')}" if versions else "pre-label",
        change=changes(before, correction.array, spacing, organs, tolerance),
        from_prelabel=changes(prelabel, correction.array, spacing, organs, tolerance),
        not_used=others,
        minutes=None if minutes is None else round(minutes, 1),
        comment=question.comment,
    )
    kept = _keep(project, file, event)
    event = event.model_copy(update={"file": kept.relative_to(project.path).as_posix()})
    project.add(event)
    return Taken(file, "imported", event)


def _began_from(state: CaseState, question: ImportRequest) -> tuple[int, int]:
    """The round and the number of versions of this person's starting point."""
    hand = state.in_hand
    if hand is not None:
        if hand.role != question.role:
            raise AmosError(f"{state.case}: was handed to {hand.by} as {hand.role}; import it with --role {hand.role}")
        return hand.round, hand.versions
    if state.latest is None:
        raise AmosError(f"{state.case}: has no pre-label to compare with; run 'amos-fl annotate start' first")
    return state.latest.round, len(state.versions)


def _organs(project: Project, state: CaseState, question: ImportRequest) -> tuple[int, ...]:
    """The organs that the person vouches for.

    By default for a junior all that no senior has reviewed, for a senior those that are waiting for review, or all if
    none are.
    """
    owners = state.owners()
    if question.organs is None:
        reviewed = set(state.annotated("senior"))
        organs = tuple(o for o in project.settings.organs if o not in reviewed)
        if question.role == "senior":
            organs = state.annotated("junior") or project.settings.organs
    else:
        organs = tuple(sorted(set(question.organs)))
    names = project.cohort.organs
    if not organs:
        raise AmosError(f"{state.case}: a senior has reviewed all its organs; a senior may correct it again")
    for organ in organs:
        owner = owners.get(organ)
        if question.role == "junior" and owner is not None and owner.role == "senior":
            raise AmosError(
                f"{state.case}: {names[organ]} was reviewed by {owner.by} (senior), so a junior's correction of it "
                "is not taken; leave it out with --organs"
            )
        if question.role == "senior" and owner is not None and (owner.by, owner.role) == (question.by, "junior"):
            raise AmosError(f"{state.case}: {names[organ]} was corrected by {question.by}; another person reviews it")
    return organs


def _next_version(project: Project, state: CaseState) -> int:
    """One more than any version in the ledger or on disk, because a kill between the two leaves a file behind."""
    pattern = re.compile(r"_v(\d+)_")
    on_disk = [int(m[1]) for f in project.versions(state.case).glob("*") if (m := pattern.search(f.name))]
    return max([0, *on_disk, *(version.version for version in state.versions)]) + 1


def _keep(project: Project, file: Path, event: Imported) -> Path:
    suffix = next(s for s in SUFFIXES if file.name.lower().endswith(s))
    kept = project.versions(event.case) / f"{event.case}_v{event.version:02d}_{event.role}_{event.by}{suffix}"
    with whole_file(kept) as beside:
        shutil.copyfile(file, beside)
        if sha256_of_file(beside) != event.sha256:
            raise AmosError(f"{file.name}: was changed while it was being read; save it, and import it again")
        beside.chmod(0o444)
    return kept


def named_files(paths: Sequence[Path], cases: Collection[str]) -> Brought:
    """The files to import: those named, and files in folders that are named after a case; others are reported.

    Raises:
        AmosError: no such file, or a folder without a file named after a case.
    """
    files: list[Path] = []
    refused: list[Taken] = []
    aside: list[str] = []
    for path in paths:
        if path.is_dir():
            found = scans_in(path)
            mine = [file for name, file in found.scans.items() if name in cases]
            bad = [one for one in found.unusable if one.name in cases]
            if not mine and not bad:
                raise AmosError(f"{path}: holds no file that is named after a case, such as {min(cases)}.nii.gz")
            files += mine
            refused += _refused(bad)
            others = [file for name, file in found.scans.items() if name not in cases]
            aside += [shown(file.name) for file in others]
            aside += [one.sentence for one in found.unusable if one.name not in cases]
        elif path.exists() or path.is_symlink():
            files.append(path)
        else:
            raise AmosError(f"{path}: no such file or folder")
    of_case: dict[str, list[Path]] = {}
    for file in dict.fromkeys(files):
        of_case.setdefault(case_of(file), []).append(file)
    for same in of_case.values():
        if len(same) > 1:  # otherwise the last file imported would count, not the last one drawn
            why = f"{' and '.join(shown(file) for file in same)} are one case; name the right one"
            refused.append(Taken(same[0], "refused", note=why))
    return Brought(tuple(same[0] for same in of_case.values() if len(same) == 1), tuple(refused), tuple(aside))
