"""Cases whose labels are in several files: masks of one organ each, or several label maps, as one label map a case."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from amos_fl.cohort.dataset import Dataset, Found, ImportedCohort, Row, check_table, imported_cohort
from amos_fl.cohort.label_map import LabelMap, matches
from amos_fl.cohort.organ_names import organ_key
from amos_fl.cohort.overlaps import combined
from amos_fl.cohort.table import Modality, OnCase, Split
from amos_fl.errors import AmosError
from amos_fl.volumes.nifti import Volume, read_geometry, read_label, reconcile, write_label
from amos_fl.wording import counted, listed

_VALUES = range(1, 256)


@dataclass(frozen=True)
class LabelFile:
    """One of a case's label files: a mask of one structure, or a label map whose `values` mean structures."""

    path: Path
    structure: str = ""
    values: Mapping[int, str] = field(default_factory=dict)

    @property
    def structures(self) -> tuple[str, ...]:
        return (self.structure,) if self.structure else tuple(self.values.values())


@dataclass(frozen=True)
class LabelledScan:
    """A scan with its label files, and what the dataset says of it; `row` has no split, which is `split`."""

    case: str
    image: Path
    labels: tuple[LabelFile, ...]
    row: Row = field(default_factory=Row)
    split: Split | None = None


@dataclass(frozen=True)
class LabelledScans:
    """The scans of a dataset in a folder, and notes on what was left out."""

    folder: Path
    scans: tuple[LabelledScan, ...]
    notes: tuple[str, ...] = ()

    @property
    def structures(self) -> dict[str, int]:
        """Every structure with the number of scans that have it, by name."""
        found: dict[str, int] = {}
        for scan in self.scans:
            for name in {name for label in scan.labels for name in label.structures}:
                found[name] = found.get(name, 0) + 1
        return dict(sorted(found.items()))


def values_of(structures: Sequence[str], label_map: LabelMap, organs: Mapping[int, str]) -> dict[str, int]:
    """The label value of each structure that is an organ, by its name.

    >>> values_of(["liver", "spine"], {"liver": ("liver",), "spine": ()}, {6: "liver"})
    {'liver': 6}

    Raises:
        AmosError: as `matches`, a structure that equals several organs, or none that equals one.
    """
    if not any(label_map.values()):
        raise AmosError(
            f"none of the structures ({listed(structures, 5)}) has the name of an organ of the cohort",
            "say which is which: --suggestion FILE, then --label-map FILE",
        )
    numbered = dict(enumerate(structures, start=1))
    found: dict[str, int] = {}
    for match in matches(label_map, numbered, organs, "the new cohort"):
        value, *others = match.theirs
        if others:
            several = " and ".join(repr(organs[one]) for one in match.theirs)
            raise AmosError(
                f"label map: {numbered[match.ours[0]]!r} equals {several}, and nothing says which voxel is which",
                "leave it empty",
            )
        found |= {numbered[number]: value for number in match.ours}
    return found


def write_cohort_of(
    found: LabelledScans,
    values: Mapping[str, int],
    organs: Mapping[int, str],
    out: Path,
    *,
    site: str | None = None,
    table: Mapping[str, Row] | None = None,
    split: str | None = None,
    seed: int = 0,
    modality: Modality | None = None,
    on_case: OnCase = lambda done, total, case: None,
) -> ImportedCohort:
    """Write one label map for each scan below `out`, and make the cohort; the scans stay where they are.

    An organ counts as annotated in a case if there is a file, or a value, for every structure that it consists of: an
    empty mask says that the organ is absent. A case whose label files cannot be used is left out, and named.

    Raises:
        AmosError: no case is left, or as `imported_cohort`, before anything is written if it is about the table.
    """
    if table is not None:
        check_table(table, [scan.case for scan in found.scans], found.folder)
    kept: list[Found] = []
    rows: dict[str, Row] = {}
    annotated: dict[str, tuple[int, ...]] = {}
    notes = list(found.notes)
    for done, scan in enumerate(found.scans, start=1):
        try:
            target = out / "labels" / f"{scan.case}.nii.gz"
            annotated[scan.case], said = _write(scan, values, organs, target)
        except AmosError as error:
            notes.append(f"{scan.case}: left out: {error}")
            on_case(done, len(found.scans), scan.case)
            continue
        notes += [f"{scan.case}: {sentence}" for sentence in said]
        label = target if annotated[scan.case] else None
        kept.append(Found(scan.case, scan.image, label, scan.split if label else "test"))
        given, own = (table or {}).get(scan.case, Row()), scan.row
        rows[scan.case] = Row(
            given.site or (own.site if site is None else None),
            given.patient or own.patient,
            given.split or own.split,
            given.modality or own.modality,
        )
        on_case(done, len(found.scans), scan.case)
    if not kept:
        raise AmosError(f"{found.folder}: no case could be used; {notes[-1] if notes else 'it holds none'}")
    dataset = Dataset(
        found.folder.resolve().name, found.folder, dict(organs), None, "its files", tuple(kept), tuple(notes)
    )
    imported = imported_cohort(dataset, site=site, table=rows, split=split, seed=seed, modality=modality)
    cases = tuple(replace(case, annotated=annotated[case.case] or tuple(organs)) for case in imported.cohort.cases)
    return replace(imported, cohort=replace(imported.cohort, cases=cases))


def _write(
    scan: LabelledScan, values: Mapping[str, int], organs: Mapping[int, str], target: Path
) -> tuple[tuple[int, ...], list[str]]:
    """Write a scan's label map; the organs that were looked for in it, and notes. Without any, none is written."""
    shape, affine = read_geometry(scan.image)
    grid = Volume(np.broadcast_to(np.uint8(0), shape), affine)  # the grid alone; no voxel of the scan is read
    # By any spelling: one site's Liver is another's liver, and not a second part of it.
    there = {organ_key(name) for label in scan.labels for name in label.structures}
    wanted = {organ: {organ_key(name) for name, one in values.items() if one == organ} for organ in values.values()}
    looked_for = tuple(sorted(organ for organ, names in wanted.items() if names <= there))
    notes = [
        f"{organs[organ]} is not used, without {listed(sorted(names - there), 3)}"
        for organ, names in sorted(wanted.items())
        if names & there and not names <= there
    ]
    masks: dict[int, np.ndarray] = {}
    source: dict[str, Path] = {}
    for label in scan.labels:
        used = {name: values[name] for name in label.structures if values.get(name) in looked_for}
        for name in used:
            if (other := source.setdefault(organ_key(name), label.path)) != label.path:
                raise AmosError(f"{name} is in two of its files, {other.name} and {label.path.name}", "keep one")
        if not used:
            continue
        drawn = reconcile(grid, read_label(label.path, _VALUES), label.path.name).array
        for name, organ in used.items():
            packed = np.packbits(_mask(drawn, label, name))
            masks[organ] = masks[organ] | packed if organ in masks else packed
    if not looked_for:
        return (), [*notes, "none of the organs was looked for in it, so it can be predicted and not scored"]
    array, shared = combined(masks, shape, organs)
    write_label(target, array, scan.image)
    return looked_for, [*notes, *shared]


def _mask(drawn: np.ndarray, label: LabelFile, name: str) -> np.ndarray:
    if not label.structure:
        return drawn == next(value for value, one in label.values.items() if one == name)
    present = np.flatnonzero(np.bincount(drawn.ravel(order="K"), minlength=256)[1:])
    if len(present) > 1:
        raise AmosError(
            f"{label.path.name}: holds {counted(len(present), 'label value')}", "a mask of one organ has one beside 0"
        )
    return drawn != 0
