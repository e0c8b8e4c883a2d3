"""Map organs of one cohort to another's, from a small file or a suggestion by name.

A label map relates names. One to one is a renaming; several organs of a cohort may become one (a liver and its tumour).
One organ of a cohort may equal several (kidneys for a left and a right one) only when label maps are compared, not when
a cohort is relabelled, because nothing says which voxel is which.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from amos_fl.cohort.organ_names import organ_key
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import Case, Cohort
from amos_fl.errors import AmosError
from amos_fl.escape.csv_cells import Writer, text_of
from amos_fl.files import whole_file
from amos_fl.safe_yaml import NotYaml, parsed_yaml

LabelMap = dict[str, tuple[str, ...]]
"""Each organ of a cohort, by name, with the organs that it equals; none if it has no counterpart."""

LABEL_MAP_COLUMNS = ("organ", "equals")
SUGGESTED = "amos"
"""The value of `--label-map` that asks for the suggestion by name instead of a file."""
_TUMOURS = {"tumour", "tumor", "cancer", "lesion", "lesions", "cyst"}


@dataclass(frozen=True)
class Match:
    """Corresponding label values: those of a cohort (`ours`) and those of the other organs."""

    ours: tuple[int, ...]
    theirs: tuple[int, ...]


def read_label_map(path: Path) -> LabelMap:
    """A label map from a CSV file with the columns `organ` and `equals`, or from YAML lines `organ: equals`.

    `equals` is a name or a label value, a list of them in YAML, or empty. In CSV an organ may have several rows.

    Raises:
        AmosError: no such file, or one with another format.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise AmosError(
            f"{path}: no such label map; give a CSV or YAML file, or {SUGGESTED!r} for a suggestion"
        ) from None
    if path.suffix.lower() in (".yaml", ".yml"):
        return _from_yaml(path, text)
    found: LabelMap = {}
    rows = list(csv.reader(text.splitlines()))
    if not rows or [name.strip().casefold() for name in rows[0]] != list(LABEL_MAP_COLUMNS):
        raise AmosError(f"{path}: must have the columns {' and '.join(LABEL_MAP_COLUMNS)}, separated by a comma")
    for number, row in enumerate(rows[1:], start=2):
        values = [text_of(value.strip()) for value in row]
        if not any(values):
            continue
        if len(values) != len(LABEL_MAP_COLUMNS) or not values[0]:
            raise AmosError(
                f"{path}, line {number}: must name an organ and, after a comma, what it equals (or nothing)"
            )
        found[values[0]] = (*found.get(values[0], ()), *([values[1]] if values[1] else []))
    return found


def _from_yaml(path: Path, text: str) -> LabelMap:
    try:
        data = parsed_yaml(text, path)
    except NotYaml as error:
        raise AmosError(error.of(path)) from None
    if not isinstance(data, dict):
        raise AmosError(f"{path}: must hold lines of the form 'organ: what it equals'")
    found: LabelMap = {}
    for organ, equals in data.items():
        listed = equals if isinstance(equals, list) else [] if equals is None else [equals]
        if not all(isinstance(word, str | int) for word in listed):
            raise AmosError(f"{path}: {organ} must equal a name, a label value, a list of them, or nothing")
        found[str(organ)] = tuple(str(word) for word in listed)
    return found


def write_label_map(path: Path, label_map: LabelMap) -> None:
    """Write a label map as CSV, for a user to correct."""
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = Writer(file)
        writer.writerow(LABEL_MAP_COLUMNS)
        for organ, equals in label_map.items():
            writer.writerows([organ, word] for word in equals or ("",))


def suggested(organs: Mapping[int, str], others: Mapping[int, str] = AMOS_ORGANS) -> LabelMap:
    """A label map by name, whatever the spelling.

    A tumour or cyst counts as the organ it is in, if its name says which or there is only one.

    >>> suggested({1: "pancreas", 2: "cancer", 3: "Kidney_Left", 4: "portal vein"})
    {'pancreas': ('pancreas',), 'cancer': (), 'Kidney_Left': ('left kidney',), 'portal vein': ()}
    >>> suggested({1: "liver", 2: "cancer"})
    {'liver': ('liver',), 'cancer': ('liver',)}
    """
    by_key = {organ_key(name): name for name in others.values()}
    found: LabelMap = {}
    for name in organs.values():
        match = by_key.get(organ_key(name))
        found[name] = (match,) if match else ()
    matched = {equals for words in found.values() for equals in words}
    for name, equals in found.items():
        words = organ_key(name).split()
        if not equals and _TUMOURS & set(words):
            within = by_key.get(organ_key(" ".join(word for word in words if word not in _TUMOURS)))
            alone = next(iter(matched)) if len(words) == 1 and len(matched) == 1 else None
            found[name] = (within,) if within in matched else (alone,) if alone else ()
    return found


def label_map_named(text: str | Path, organs: Mapping[int, str], others: Mapping[int, str] = AMOS_ORGANS) -> LabelMap:
    """The label map that a command line asks for: the suggestion, or a file.

    Raises:
        AmosError: as `read_label_map`.
    """
    return suggested(organs, others) if str(text) == SUGGESTED else read_label_map(Path(text))


def matches(label_map: LabelMap, organs: Mapping[int, str], others: Mapping[int, str], what: str) -> list[Match]:
    """Match label values of `organs` to those of `others`, in the order of `organs`; matches that share an organ are
    merged.

    Raises:
        AmosError: a name or label value that the cohort, or the other side (`what`), does not have, or no organ in
            common.
    """
    found: list[Match] = []
    for name, equals in label_map.items():
        ours = _label(name, organs)
        if ours is None:
            raise AmosError(f"label map: the cohort has no organ {name!r}; it has {', '.join(organs.values())}")
        theirs = set()
        for word in equals:
            label = _label(word, others)
            if label is None:
                raise AmosError(f"label map: {what} has no organ {word!r}; there are {', '.join(others.values())}")
            theirs.add(label)
        if not theirs:
            continue
        joined = Match((ours,), tuple(sorted(theirs)))
        for other in [m for m in found if ours in m.ours or theirs & set(m.theirs)]:
            found.remove(other)
            joined = Match(tuple(sorted({*joined.ours, *other.ours})), tuple(sorted({*joined.theirs, *other.theirs})))
        found.append(joined)
    if not found:
        raise AmosError(
            f"label map: it names no organ that the cohort ({', '.join(organs.values())}) shares with {what}"
        )
    return sorted(found, key=lambda match: match.ours)


def _label(word: str, organs: Mapping[int, str]) -> int | None:
    """The label value of an organ by its name, or by that value as text."""
    named = {name: label for label, name in organs.items()} | {str(label): label for label in organs}
    if word in named:
        return named[word]
    return {organ_key(name): label for label, name in organs.items()}.get(organ_key(word))


def relabelled(cohort: Cohort, values: Mapping[int, int], organs: Mapping[int, str]) -> Cohort:
    """The cohort with other label values and organs; its files are not changed.

    `values` has the new label value of each old one; those without one become background. An organ counts as annotated
    in a case if all its parts were. A case with no annotated organ left loses its label map.
    """

    def of(case: Case) -> Case:
        before = case.label_values or tuple((label, label) for label in cohort.organs)
        after = tuple((file, values.get(label, 0)) for file, label in before)
        annotated = tuple(
            new
            for new in sorted(set(values.values()))
            if {old for old, one in values.items() if one == new} <= set(case.annotated)
        )
        if case.label is None or not annotated:
            return replace(case, label=None, label_values=(), annotated=tuple(organs))
        return replace(case, label_values=after, annotated=annotated)

    return Cohort(tuple(of(case) for case in cohort.cases), dict(organs))


def to_amos(cohort: Cohort, label_map: LabelMap) -> Cohort:
    """The cohort with AMOS's organs and label values, partially annotated if the label map lacks some.

    Raises:
        AmosError: as `matches`, or an organ of the cohort that would become several of AMOS's.
    """
    values: dict[int, int] = {}
    for match in matches(label_map, cohort.organs, AMOS_ORGANS, "AMOS"):
        becomes, *others = match.theirs
        if others:
            ours, theirs = (
                " and ".join(repr(organs[label]) for label in labels)
                for organs, labels in ((cohort.organs, match.ours), (AMOS_ORGANS, match.theirs))
            )
            raise AmosError(
                f"label map: {ours} cannot become {theirs}, because nothing says which voxel is which; leave it empty, "
                "or keep the cohort's own organs and give the label map to 'amos-fl evaluate'"
            )
        values |= dict.fromkeys(match.ours, becomes)
    return relabelled(cohort, values, AMOS_ORGANS)


def label_map_in_words(label_map: LabelMap) -> list[str]:
    """One line for each organ.

    >>> label_map_in_words({"liver": ("liver",), "cancer": ("liver",), "vessel": ()})
    ['liver = liver', 'cancer = liver', 'vessel = nothing']
    """
    return [f"{organ} = {' and '.join(equals) or 'nothing'}" for organ, equals in label_map.items()]
