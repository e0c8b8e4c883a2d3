"""Pair predictions with label maps: two folders of NIfTI files, matched by the names of their cases.

Unpaired files are named, never guessed: a case is a file's name without `.nii` or `.nii.gz`, and only an equal
name is the same case.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from amos_fl.cohort.table import Case, Cohort, Split
from amos_fl.errors import AmosError
from amos_fl.scan_files import case_of, problem_of, scans_in, shown

Side = Literal["prediction", "label", "case"]


@dataclass(frozen=True)
class Problem:
    """Why a case cannot be scored, and which side is at fault."""

    case: str
    side: Side
    message: str


@dataclass(frozen=True)
class Pair:
    """One case to score. `prediction` is None if missing; `member` is its row in a cohort.

    `own_grid`: the label map is the cohort's own, and is used on the grid of its scan.
    """

    case: str
    prediction: Path | None
    label: Path
    member: Case | None = None
    own_grid: bool = False


@dataclass(frozen=True)
class Pairing:
    """The cases to score, the problems of others, and the extra cases."""

    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...]
    extra: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(pair.case for pair in self.pairs if pair.prediction is None)


def pair_up(
    predictions: Path,
    labels: Path | None,
    cohort: Cohort | None = None,
    *,
    split: Split | None = None,
    allow_missing: bool = False,
    allow_extra: bool = False,
) -> Pairing:
    """Pair predictions with label maps, sorted by case.

    Args:
        predictions, labels: two folders, or two files; without `labels` the cohort's own label maps are used. cohort:
        says where each case comes from; every label map must be of one of its cases. split: only the cohort's cases of
        this split. allow_missing: keep cases without a prediction, as pairs that have none. allow_extra: ignore
        predictions without a label map, and label maps of no case in the cohort.

    Raises:
        AmosError: no such file or folder, a file beside a folder, a folder without a NIfTI file, or no case at all.
    """
    if labels is not None and cohort is None and predictions.is_file() and labels.is_file():
        return Pairing((Pair(case_of(labels), predictions, labels),), ())
    problems: list[Problem] = []
    unread: set[str] = set()
    members = {case.case: case for case in cohort.cases} if cohort is not None else None
    predicted = _files(predictions, "prediction", problems, unread, members)
    if labels is not None:
        if predictions.is_dir() != labels.is_dir():
            raise AmosError(f"{predictions} and {labels}: one is a folder, the other a file; give two of a kind")
        wanted = _files(labels, "label", problems, unread, members)
    else:
        if members is None:
            raise AmosError("no label maps; name their folder after that of the predictions, or give a --cohort")
        wanted = {name: case.label for name, case in members.items() if case.label is not None}
    strangers: set[str] = set()
    if members is not None:
        strangers = set(wanted) - set(members)
        wanted = {n: path for n, path in wanted.items() if n in members and split in (None, members[n].split)}
        if not wanted:
            raise AmosError(f"none of the label maps is of a case of the cohort{f' in split {split}' if split else ''}")
        problems = [p for p in problems if p.side != "label" or p.case in wanted or p.case in strangers]
    # Unusable files have been named; of two files of one case one is still read, to report all problems at once.
    broken = {name for name in {**wanted, **predicted} if name in unread}
    if allow_extra:
        broken -= {name for name in broken if name not in wanted}
        problems = [p for p in problems if p.case in wanted or p.case not in unread]
    if not set(predicted) & set(wanted) and not broken:
        raise AmosError(
            f"{predictions}: holds no prediction of any case; predictions are named as their label maps, such as "
            f"{min(wanted)}.nii.gz, and {min(predicted)} is not among them"
        )
    extra = sorted(((set(predicted) - set(wanted)) | strangers) - broken)
    if not allow_extra:
        for name in extra:
            side: Side = "label" if name in strangers else "prediction"
            why = "no such case in the cohort" if name in strangers else _why_extra(name, members)
            problems.append(Problem(name, side, f"{why}; take the file away, or leave such files aside: --allow-extra"))
    pairs = []
    for name in sorted(set(wanted) - broken):
        if name in predicted or allow_missing:
            member = (members or {}).get(name)
            pairs.append(Pair(name, predicted.get(name), wanted[name], member, own_grid=labels is None))
        else:
            problems.append(
                Problem(name, "prediction", "missing; add it, or count its organs as missed: --allow-missing")
            )
    return Pairing(tuple(pairs), tuple(problems), tuple(extra))


def _why_extra(name: str, members: Mapping[str, Case] | None) -> str:
    if members and name in members:
        member = members[name]
        return f"its case is in split {member.split}" if member.label else "its case has no label map in the cohort"
    return "no label map has this name"


def _files(
    where: Path, side: Side, problems: list[Problem], unread: set[str], members: Mapping[str, Case] | None
) -> dict[str, Path]:
    """The scans by case. Files that seem to be scans but cannot be used are problems; other files are ignored.

    Cases whose file cannot be a scan at all are put into `unread`.
    A run keeps its predictions in a folder per site; these are read if a cohort says which site each case belongs to.
    """
    if where.is_file():
        return {case_of(where): where}
    if not where.is_dir():
        why = problem_of(where) if where.is_symlink() else None
        raise AmosError(f"{shown(where)}: {why or f'no such folder or file of {side}s'}")
    found = scans_in(where)
    folders = [child for child in sorted(where.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    if found.there or side == "label" or not folders:
        inside = [found]
    elif members is None:
        raise AmosError(
            f"{where}: holds no {side}, but folders ({', '.join(shown(f.name) for f in folders[:5])}); give one of "
            "them, or all of a run's with --cohort"
        )
    else:
        sites = {member.site for member in members.values()}
        inside = [scans_in(folder) for folder in folders if folder.name in sites]
    files: dict[str, Path] = {}
    for folder in inside:
        for bad in folder.unusable:
            problems.append(Problem(shown(bad.name), side, bad.sentence))
            files[shown(bad.name)] = bad.path  # present, so not reported as missing as well
            if not bad.several:
                unread.add(shown(bad.name))
        for name, path in folder.scans.items():
            if name in files:
                places = f"{files[name].parent.name}/ and {path.parent.name}/"
                problems.append(Problem(name, side, f"lies in {places}; keep the right one"))
            elif folder.path != where and members and name in members and members[name].site != folder.path.name:
                why = f"lies in the folder of site {folder.path.name}, and is a case of site {members[name].site}"
                problems.append(Problem(name, side, f"{why}; move it there"))
            files[name] = path
    if not files:
        raise AmosError(f"{where}: holds no {side}, which would end in .nii.gz or .nii")
    return files
