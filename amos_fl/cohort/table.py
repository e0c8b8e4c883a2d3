"""Read and write `cohort.csv`: the cases, their sites, and what was labelled in them.

One row per case with the columns `case, site, modality, split, image, label, annotated`. Paths are
relative to the file. `annotated` lists, separated by spaces, the label values of the organs that were
looked for in that case; empty means all of the cohort's organs. A case without a label file has an
empty `label` and can be predicted, but not trained on or scored. Organs other than AMOS's are named in an optional
`organs.csv` beside it (`label,organ`). An optional column `label_values` says, for label maps with other values than
the cohort's, what each value means (`1=6 2=0`; 0 is background); an optional column `patient` names the patient.

A file written by hand or by a spreadsheet is read as intended: a byte order mark, Windows line endings, spaces around
values, capitals in the header and in `split`, backslashes in paths and empty rows do no harm. A row with too few or too
many values is refused, because the missing value would have to be guessed.
"""

import csv
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.errors import AmosError
from amos_fl.escape.csv_cells import Writer, text_of
from amos_fl.files import MOST_NAME_BYTES, sha256_of_json, whole_file
from amos_fl.strict import columns_of, csv_rows
from amos_fl.wording import counted

Modality = Literal["CT", "MR"]
Split = Literal["train", "val", "test"]
PHANTOM_MARK = "synthetic phantom"
"""The mark of a phantom release in its `dataset.json`."""
COLUMNS = ("case", "site", "modality", "split", "image", "label", "annotated")
LABEL_VALUES = "label_values"
"""Optional column: what the values in a case's label map mean in the cohort."""
PATIENT = "patient"
"""Optional column: the patient, so that several scans of a patient do not count as several patients."""
SPLITS: tuple[Split, ...] = ("train", "val", "test")
OnCase = Callable[[int, int, str], None]
"""Called with the number of cases done, the total, and the name of the last one done."""
_WRONG_SEPARATORS = {"semicolons": ";", "tabs": "\t"}


@dataclass(frozen=True)
class Case:
    """One scan with its label map. `annotated` holds the label values looked for in it.

    `label_values` are pairs of a value in the file and the cohort's for it (0: background); without any, the file
    has the cohort's own values. `patient` identifies the patient, if known, and is never sent.
    """

    case: str
    site: str
    modality: Modality
    split: Split
    image: Path
    label: Path | None
    annotated: tuple[int, ...]
    label_values: tuple[tuple[int, int], ...] = ()
    patient: str = ""


@dataclass(frozen=True)
class Cohort:
    """All cases with their sites. `organs` maps label values to names; label 0 is background."""

    cases: tuple[Case, ...]
    organs: dict[int, str] = field(default_factory=lambda: dict(AMOS_ORGANS))

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites, sorted."""
        return tuple(sorted({case.site for case in self.cases}))

    @property
    def seen_sites(self) -> tuple[str, ...]:
        """Sites with at least one labelled training case."""
        return tuple(sorted({c.site for c in self.cases if c.split == "train" and c.label is not None}))

    @property
    def unseen_sites(self) -> tuple[str, ...]:
        """Sites that only evaluate: those without a labelled training case."""
        return tuple(site for site in self.sites if site not in self.seen_sites)

    def of(self, *, site: str | None = None, split: Split | None = None, labelled: bool = False) -> tuple[Case, ...]:
        """The cases of a site and a split, in the cohort's order; with `labelled`, those with a label map."""
        return tuple(
            c
            for c in self.cases
            if (site is None or c.site == site)
            and (split is None or c.split == split)
            and (not labelled or c.label is not None)
        )

    def only(self, sites: Iterable[str]) -> "Cohort":
        """The cohort restricted to some of its sites.

        Raises:
            AmosError: a site that the cohort does not have.
        """
        wanted = set(sites)
        if unknown := wanted - set(self.sites):
            raise AmosError(f"no site {', '.join(sorted(unknown))} in this cohort", f"it has {', '.join(self.sites)}")
        return replace(self, cases=tuple(c for c in self.cases if c.site in wanted))

    def holding_out(self, sites: Iterable[str]) -> "Cohort":
        """The cohort with `sites` held out: their training and validation cases are dropped."""
        held = set(sites)
        self.only(held)
        return replace(self, cases=tuple(c for c in self.cases if c.site not in held or c.split == "test"))

    def synthetic(self) -> bool:
        """Whether a case comes from a phantom release, which says so in its `dataset.json`."""
        folders = {case.image.parent.parent for case in self.cases}
        return any(PHANTOM_MARK in _text(folder / "dataset.json") for folder in sorted(folders))

    def content_hash(self) -> str:
        """A hash of the cases, their sites and annotated organs (not of the files' locations)."""

        def of(case: Case) -> list[Any]:
            values = [list(map(list, case.label_values))] if case.label_values else []
            patient = [{"patient": case.patient}] if case.patient else []
            return [case.case, case.site, case.modality, case.split, list(case.annotated), *values, *patient]

        return sha256_of_json([self.organs, [of(case) for case in self.cases]])


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _organs_beside(path: Path) -> dict[int, str]:
    organs_file = path.with_name("organs.csv")
    return read_organs(organs_file) if organs_file.is_file() else dict(AMOS_ORGANS)


def read_organs(organs_file: Path) -> dict[int, str]:
    """Label values and organ names from a CSV file with the columns `label` and `organ`.

    Raises:
        AmosError: a missing column, or a label or a name that is invalid or listed twice.
    """
    try:
        with organs_file.open(newline="", encoding="utf-8-sig") as file:
            rows = [(int(row["label"]), text_of(row["organ"].strip())) for row in csv_rows(file, organs_file)]
    except (OSError, KeyError, TypeError, ValueError, AttributeError, csv.Error):
        raise AmosError(f"{organs_file}: must have the columns label (a number) and organ") from None
    organs = dict(rows)
    if len(organs) < len(rows):
        raise AmosError(f"{organs_file}: a label is listed twice", "every organ needs its own label")
    if len(set(organs.values())) < len(rows) or "" in organs.values():
        raise AmosError(f"{organs_file}: every label needs its own organ name")
    if not organs or min(organs) < 1 or max(organs) > 255:
        raise AmosError(f"{organs_file}: labels must lie between 1 and 255")
    return dict(sorted(organs.items()))


def read_cohort(path: Path | str) -> Cohort:
    """Read `cohort.csv` (or the folder that holds it).

    Raises:
        AmosError: no such file, a missing column, a case listed twice, or an invalid value.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "cohort.csv"
    if not path.is_file():
        makers = "'amos-fl data amos22', 'msd', 'nnunet', 'dicom', 'masks' or 'bids' (amos-fl data --help)"
        raise AmosError(f"{path}: no such cohort file", f"make one with {makers}")
    if path.name.casefold().endswith((".nii", ".nii.gz", ".dcm")):
        raise AmosError(f"{path}: is a scan and not a cohort.csv", "give the cohort.csv that lists it")
    organs = _organs_beside(path)
    cases = tuple(_case(path, line, row, organs) for line, row in _rows(path))
    seen: set[str] = set()
    for case in cases:
        if case.case in seen:
            raise AmosError(f"{path}: case {case.case} is listed twice", "case names must be unique")
        seen.add(case.case)
    if not cases:
        raise AmosError(f"{path}: holds no case")
    return Cohort(cases, organs)


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line numbers and values by column, stripped, of the rows that are not empty."""
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = columns_of(next(reader, []), path)
            if missing := [column for column in COLUMNS if column not in header]:
                wrong = next((name for name, sign in _WRONG_SEPARATORS.items() if sign in "".join(header)), None)
                if wrong is not None:
                    raise AmosError(f"{path}: its values are separated by {wrong}", "save it with commas")
                wanted = ", ".join(COLUMNS)
                raise AmosError(f"{path}: no column {', '.join(missing)}", f"a cohort has the columns {wanted}")
            for values in reader:
                if not any(value.strip() for value in values):
                    continue
                if len(values) != len(header):
                    raise AmosError(
                        f"{path}, line {reader.line_num}: has {len(values)} values, the header {len(header)}",
                        "an empty value still needs its comma",
                    )
                row = {name: text_of(value.strip()) for name, value in zip(header, values, strict=True)}
                rows.append((reader.line_num, row))
    except UnicodeDecodeError:
        raise AmosError(f"{path}: is not a CSV text file in UTF-8", "save it again as such") from None
    except csv.Error as error:
        raise AmosError(f"{path}: is not a CSV text file ({error})") from None
    return rows


def _case(path: Path, line: int, value: dict[str, str], organs: dict[int, str]) -> Case:
    where = f"{path}, line {line}"
    for column in ("case", "site", "image"):
        if not value[column]:
            raise AmosError(f"{where}: the column {column} is empty")
    for column in ("image", "label"):
        if "\0" in value[column]:
            raise AmosError(f"{where}: the column {column} holds a character that no path can have", "rewrite it")
    if not plain_name(value["case"]) or not plain_name(value["site"]):
        raise AmosError(
            f"{where}: case and site names may hold letters, digits, '.', '_' and '-' only, up to "
            f"{MOST_NAME_BYTES} bytes of them"
        )
    modality = {"CT": "CT", "MR": "MR", "MRI": "MR"}.get(value["modality"].upper())
    if modality is None:
        raise AmosError(f"{where}: modality is {value['modality']!r}", "it must be CT or MR")
    split = value["split"].casefold()
    if split not in SPLITS:
        raise AmosError(f"{where}: split is {value['split']!r}", "it must be train, val or test")
    try:
        annotated = tuple(sorted({int(word) for word in value["annotated"].split()})) or tuple(organs)
    except ValueError:
        raise AmosError(f"{where}: annotated is {value['annotated']!r}", "it lists label values like '1 2 6'") from None
    if unknown := set(annotated) - set(organs):
        raise AmosError(f"{where}: annotated names {min(unknown)}, which is not an organ of this cohort")
    label_values = _label_values(where, value.get(LABEL_VALUES, ""), organs)
    return Case(
        case=value["case"],
        site=value["site"],
        modality=cast(Modality, modality),
        split=cast(Split, split),
        image=path.parent / value["image"].replace("\\", "/"),
        label=path.parent / value["label"].replace("\\", "/") if value["label"] else None,
        annotated=annotated,
        label_values=label_values,
        patient=value.get(PATIENT, ""),
    )


def _label_values(where: str, text: str, organs: dict[int, str]) -> tuple[tuple[int, int], ...]:
    try:
        pairs = [(int(old), int(new)) for old, new in (word.split("=") for word in text.split())]
    except ValueError:
        raise AmosError(f"{where}: {LABEL_VALUES} is {text!r}", "it lists values of the file like '1=6 2=0'") from None
    if len(dict(pairs)) < len(pairs) or any(not 0 < old < 65536 for old, _ in pairs):
        raise AmosError(f"{where}: {LABEL_VALUES} must name each value of the file once, between 1 and 65535")
    if unknown := {new for _, new in pairs} - {0, *organs}:
        raise AmosError(f"{where}: {LABEL_VALUES} names {min(unknown)}, which is not an organ of this cohort")
    return tuple(sorted(pairs))


def plain_name(name: str) -> bool:
    """Whether `name` is a valid case or site name: letters, digits, '.', '_' and '-', and not too long."""
    plain = all(ch.isalnum() or ch in "._-" for ch in name) and not name.startswith(".")
    return plain and len(name.encode(errors="replace")) <= MOST_NAME_BYTES


def write_organs(organs: Mapping[int, str], path: Path) -> None:
    """Write an `organs.csv`."""
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        Writer(file).writerows([("label", "organ"), *organs.items()])


def check_organs_beside(path: Path, organs: Mapping[int, str]) -> None:
    """Refuse to write a cohort with these organs to `path` if that would rename the organs of another cohort there.

    All cohorts in a folder share its `organs.csv`, or have AMOS's organs if there is none.

    Raises:
        AmosError: another cohort there has other organs.
    """
    others = [other for other in sorted(path.parent.glob("*.csv")) if other.name != path.name and _is_cohort(other)]
    if others and _organs_beside(path) != dict(organs):
        names = ", ".join(other.name for other in others[:3])
        raise AmosError(
            f"{path}: this cohort has other organs than {names} beside it, whose organs.csv it would replace",
            "choose another folder",
        )


def _is_cohort(file: Path) -> bool:
    """Whether a CSV file has a cohort's columns."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            header = {name.strip().casefold() for name in next(csv.reader(text), [])}
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return set(COLUMNS) <= header


def write_cohort(cohort: Cohort, path: Path | str) -> None:
    """Write `cohort.csv`, with paths relative to it, and `organs.csv` if the organs are not AMOS's.

    The columns `label_values` and `patient` are written if any case has a value.

    Raises:
        AmosError: another cohort in that folder has other organs, which `organs.csv` would give new names.
    """
    path = Path(path)
    check_organs_beside(path, cohort.organs)
    if cohort.organs != AMOS_ORGANS or path.with_name("organs.csv").exists():
        write_organs(cohort.organs, path.with_name("organs.csv"))
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        Writer(file).writerows(_written(cohort, path))


def _written(cohort: Cohort, path: Path) -> list[list[str]]:
    """The header and the rows of a cohort's file."""
    folder = path.parent.resolve()

    def relative(file: Path | None) -> str:
        # If the file is a link, its own name is kept: stores of large files link to names without a suffix.
        return "" if file is None else Path(os.path.relpath(file.parent.resolve() / file.name, folder)).as_posix()

    renumbered = any(case.label_values for case in cohort.cases)
    named = any(case.patient for case in cohort.cases)
    rows = [[*COLUMNS, *([LABEL_VALUES] if renumbered else []), *([PATIENT] if named else [])]]
    for c in cohort.cases:
        row = [c.case, c.site, c.modality, c.split, relative(c.image), relative(c.label)]
        row.append(" ".join(map(str, c.annotated)))
        values = [" ".join(f"{old}={new}" for old, new in c.label_values)] if renumbered else []
        rows.append([*row, *values, *([c.patient] if named else [])])
    return rows


def write_imported(cohort: Cohort, path: Path | str) -> None:
    """As `write_cohort`, unless that would change a `cohort.csv` or `organs.csv` that somebody may have edited.

    Raises:
        AmosError: as `write_cohort`, or one of the two is there already and differs.
    """
    path = Path(path)
    check_organs_beside(path, cohort.organs)
    organs = path.with_name("organs.csv")
    for file, how in ((path, _how_it_differs(cohort, path)), (organs, _other_organs(cohort, organs))):
        if how:
            raise AmosError(f"{file}: is there already and differs ({how})", "give another --out, or remove it")
    write_cohort(cohort, path)


def _how_it_differs(cohort: Cohort, path: Path) -> str:
    """How the cohort in a file differs from one, in words; empty if it does not, or there is no such file."""
    if not path.exists():
        return ""
    try:
        there = {row["case"]: row for _, row in _rows(path)}
    except AmosError:
        return "it is no cohort"
    header, *rows = _written(cohort, path)
    new = {row[0]: dict(zip(header, map(str, row), strict=True)) for row in rows}
    changed: list[str] = []
    columns: dict[str, None] = {}
    for case in there.keys() & new.keys():
        names = dict.fromkeys((*new[case], *there[case]))
        if own := [name for name in names if new[case].get(name, "") != there[case].get(name, "").replace("\\", "/")]:
            changed.append(case)
            columns |= dict.fromkeys(own)
    said = [f"{counted(len(changed), 'row')}: {', '.join(sorted(columns))}"] if changed else []
    said += [f"{counted(len(there.keys() - new.keys()), 'row')} more"] if there.keys() - new.keys() else []
    said += [f"{counted(len(new.keys() - there.keys()), 'row')} fewer"] if new.keys() - there.keys() else []
    return ", ".join(said)


def _other_organs(cohort: Cohort, organs_file: Path) -> str:
    if not organs_file.is_file():
        return ""
    try:
        return "" if read_organs(organs_file) == dict(sorted(cohort.organs.items())) else "other organs"
    except AmosError:
        return "it names no organs"
