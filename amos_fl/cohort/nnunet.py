"""Export a cohort to nnU-Net's raw layout (version 2), so that nnU-Net can train on the same cases for comparison.

The format is nnU-Net's own (`documentation/dataset_format.md`, `ignore_label.md` and `manual_data_splits.md` of
MIC-DKFZ/nnUNet): `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, the same with `Ts`, `dataset.json`, and for
cohorts with validation cases `splits_final.json`.
"""

import gzip
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Image

from amos_fl.cohort.reference import label_of
from amos_fl.cohort.table import PHANTOM_MARK, Case, Cohort
from amos_fl.errors import AmosError, all_of
from amos_fl.files import whole_folder, write_json, write_text
from amos_fl.volumes.nifti import Volume, read_geometry, read_image, reconcile, write_label
from amos_fl.volumes.nifti_file import open_nifti
from amos_fl.wording import counted, listed

ModalityChoice = Literal["CT", "MR", "joint"]
Partial = Literal["refuse", "leave-out", "ignore"]

_ENDING = ".nii.gz"
_LEAST_FOR_FOLDS = 5
_DATASET = re.compile(r"Dataset(\d{3})_.+")


@dataclass(frozen=True)
class Exported:
    """Result of an export: the dataset's folder, its cases by split, and notes for the user."""

    folder: Path
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """The planned content of an export. `taught` are the organs annotated in at least one training case."""

    modality: str
    training: tuple[Case, ...]
    test: tuple[Case, ...]
    taught: frozenset[int]
    organs: frozenset[int]
    labels: dict[str, int]
    notes: tuple[str, ...]

    @property
    def channel(self) -> str:
        """nnU-Net normalises a channel called CT over the dataset, and any other scan by scan."""
        return "CT and MR" if self.modality == "Joint" else self.modality

    @property
    def ignore(self) -> int | None:
        return self.labels.get("ignore")

    def of(self, split: str) -> tuple[str, ...]:
        return tuple(case.case for case in self.training if case.split == split)


def export_nnunet(
    cohort: Cohort,
    out: Path,
    *,
    dataset_id: int = 701,
    name: str | None = None,
    modality: ModalityChoice | None = None,
    partial: Partial = "refuse",
    copy: bool = False,
    on_case: Callable[[int, int, str], None] = lambda done, total, case: None,
) -> Exported:
    """Write `out/DatasetID_NAME`, whole or not at all; `out` is empty or nnU-Net's folder of raw datasets.

    Labelled training and validation cases become nnU-Net's training cases, test cases its test cases. Files are
    symbolic links unless `copy` is set; a file that is not `.nii.gz`, lies on another grid than its scan, needs other
    label values or is a label map not stored as whole numbers is rewritten. nnU-Net cannot express that an organ was
    not looked for, so a training case that lacks an organ annotated in others is refused (`partial="refuse"`), left out
    (`"leave-out"`), or gets nnU-Net's ignore label outside its annotated organs (`"ignore"`).

    Raises:
        AmosError: a cohort of two modalities without a choice, no training case, partial annotation that is refused, an
        `out` that holds other things, or unreadable scans or label maps (all are named).
    """
    plan = _plan(cohort, modality, partial)
    folder = _new_folder(out, dataset_id, name or f"Cohort{plan.modality}")
    cases = [*((case, "Tr") for case in plan.training), *((case, "Ts") for case in plan.test)]
    with whole_folder(folder) as beside:
        for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (beside / part).mkdir()
        failed: list[AmosError] = []
        for done, (case, part) in enumerate(cases, 1):
            try:
                _write_image(case, beside / f"images{part}" / f"{case.case}_0000{_ENDING}", copy)
                if case.label is not None:
                    target = beside / f"labels{part}" / f"{case.case}{_ENDING}"
                    # A test case's labels are for scoring, which knows from the cohort what was looked for.
                    lookup = _lookup(case, plan) if part == "Tr" else None
                    _write_label(case, case.label, target, cohort.organs, lookup, copy)
            except AmosError as error:
                failed.append(error)
            on_case(done, len(cases), case.case)
        if failed:
            raise all_of(failed, len(cases), "case")
        description = _description(plan, folder.name, synthetic=cohort.synthetic())
        # Labels in their own order, which write_json would sort by name.
        write_text(beside / "dataset.json", json.dumps(description, indent=2) + "\n")
        if plan.of("val"):
            write_json(beside / "splits_final.json", [{"train": plan.of("train"), "val": plan.of("val")}])
    return Exported(folder, plan.of("train"), plan.of("val"), tuple(case.case for case in plan.test), plan.notes)


def _plan(cohort: Cohort, modality: ModalityChoice | None, partial: Partial) -> _Plan:
    there = sorted({case.modality for case in cohort.cases})
    if modality is None and len(there) > 1:
        raise AmosError(
            "this cohort holds CT and MR, and nnU-Net normalises all scans of a dataset in one way; export two "
            "with --modality CT and --modality MR, or one, normalised scan by scan, with --modality joint"
        )
    cases = [case for case in cohort.cases if modality in (None, "joint", case.modality)]
    notes: list[str] = []
    training = [case for case in cases if case.split != "test" and case.label is not None]
    if unlabelled := [case for case in cases if case.split != "test" and case.label is None]:
        notes.append(f"left out, without a label map: {_names(unlabelled)}")
    if not any(case.split == "train" for case in training):
        raise AmosError(f"this cohort has no labelled training case{f' of {modality}' if modality else ''}")
    taught = frozenset(organ for case in training for organ in case.annotated)
    lacking = [case for case in training if not taught <= set(case.annotated)]
    whole = [case for case in training if case not in lacking]
    if lacking and partial == "refuse":
        raise AmosError(
            f"nnU-Net cannot express that an organ was not looked for, and {counted(len(lacking), 'case')} "
            f"({_names(lacking)}) lack organs that others have annotated; add --partial leave-out or --partial ignore"
        )
    if lacking and not any(case.split == "train" for case in whole):
        raise AmosError(
            "no training case has all organs annotated that the others have, so nothing would teach nnU-Net what "
            "background is; export sites with the same organs separately, with --sites"
        )
    labels = {"background": 0} | _classes(cohort)
    if lacking and partial == "leave-out":
        training = whole
        notes.append(f"left out, not all organs annotated: {_names(lacking)}")
    elif lacking:
        labels["ignore"] = max(labels.values()) + 1
        notes.append(f"with the ignore label outside their annotated organs: {_names(lacking)}")
    if never := [organ for label, organ in cohort.organs.items() if label not in taught]:
        notes.append(f"background everywhere, because no training case has them annotated: {', '.join(never)}")
    if not any(case.split == "val" for case in training) and len(training) < _LEAST_FOR_FOLDS:
        notes.append("too few training cases for nnU-Net's five folds; train with fold 'all'")
    test = tuple(case for case in cases if case.split == "test")
    return _Plan(
        "Joint" if modality == "joint" else modality or there[0],
        tuple(training),
        test,
        taught,
        frozenset(cohort.organs),
        labels,
        tuple(notes),
    )


def _classes(cohort: Cohort) -> dict[str, int]:
    """Names of all labels; nnU-Net wants them without gaps, and a class that never occurs does no harm."""
    classes = {cohort.organs.get(label, f"unused {label}"): label for label in range(1, max(cohort.organs) + 1)}
    if reserved := {"background", "ignore"} & classes.keys():
        raise AmosError(f"an organ of this cohort is called {min(reserved)!r}, which nnU-Net reserves; rename it")
    return classes


def _names(cases: Sequence[Case]) -> str:
    return listed([case.case for case in cases], 5)


def _new_folder(out: Path, dataset_id: int, name: str) -> Path:
    if not 1 <= dataset_id <= 999:
        raise AmosError(f"--dataset-id {dataset_id}: must lie between 1 and 999")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise AmosError(f"--name {name}: may hold letters, digits, '_' and '-' only")
    if out.exists() and not out.is_dir():
        raise AmosError(f"{out}: is a file; name a folder to write to")
    for path in out.iterdir() if out.is_dir() else ():
        found = _DATASET.fullmatch(path.name)
        if found is None:
            raise AmosError(f"{out}: is not empty and no folder of nnU-Net datasets ({path.name}); name another")
        if int(found[1]) == dataset_id:
            raise AmosError(f"{path}: has the id {dataset_id} already; choose another with --dataset-id, or remove it")
    return out / f"Dataset{dataset_id:03d}_{name}"


def _description(plan: _Plan, name: str, *, synthetic: bool) -> dict[str, object]:
    note = f"a {PHANTOM_MARK}, made by amos-fl; scores on it say nothing about patients" if synthetic else ""
    return {
        "name": name,
        "description": note or "a cohort of amos-fl",
        "channel_names": {"0": plan.channel},
        "labels": plan.labels,
        "numTraining": len(plan.training),
        "file_ending": _ENDING,
    }


def _put(source: Path, target: Path, copy: bool) -> None:
    """Place a file with the same content: as a link, a copy, or compressed."""
    if source.name.lower().endswith(_ENDING):
        if copy:
            shutil.copyfile(source, target)
            return
        try:
            # If the file is a link, its own name is kept: stores of large files link to names without a suffix.
            target.symlink_to(source.parent.resolve() / source.name)
        except OSError as error:
            raise AmosError(f"symbolic links cannot be made there ({error.strerror}); add --copy") from None
        return
    # Without a name and time in its header, the same scan gives the same file.
    with source.open("rb") as plain, target.open("wb") as file, gzip.GzipFile("", "wb", 6, file, 0) as compressed:
        shutil.copyfileobj(plain, compressed, 1 << 20)


def _is_plain(path: Path) -> bool:
    """Whether nnU-Net reads the file as it is: one file of three dimensions, compressed or not."""
    scan = open_nifti(path).image
    return isinstance(scan, Nifti1Image) and len(scan.shape) == 3 and path.name.lower().endswith((".nii", _ENDING))


def _write_image(case: Case, target: Path, copy: bool) -> None:
    read_geometry(case.image)
    if _is_plain(case.image):
        _put(case.image, target, copy)
        return
    volume = read_image(case.image)
    nibabel.save(Nifti1Image(volume.array, volume.affine), target)


def _lookup(case: Case, plan: _Plan) -> np.ndarray | None:
    """The exported value of each label value (256,) in a training case; None if all stay as they are.

    If other cases have organs annotated that this one lacks, everything but its annotated organs is ignored, because
    its background may hold one of them.
    """
    known = set(case.annotated) & plan.taught
    if known == plan.organs:
        return None
    elsewhere = 0 if plan.taught <= known or plan.ignore is None else plan.ignore
    lookup = np.full(256, elsewhere, dtype=np.uint8)
    lookup[sorted(known)] = sorted(known)
    return lookup


def _write_label(
    case: Case, label: Path, target: Path, organs: dict[int, str], lookup: np.ndarray | None, copy: bool
) -> None:
    shape, affine = read_geometry(case.image)
    label_shape, label_affine = read_geometry(label)
    same_grid = shape == label_shape and np.allclose(affine, label_affine)
    as_it_is = same_grid and _is_plain(label) and open_nifti(label).holds_whole_numbers and not case.label_values
    if as_it_is and lookup is None:
        _put(label, target, copy)
        return
    scan = Volume(np.broadcast_to(np.uint8(0), shape), affine)
    values = reconcile(scan, label_of(case, organs), label.name).array
    exported = values if lookup is None else lookup[values]
    if as_it_is and np.array_equal(exported, values):
        _put(label, target, copy)
    else:
        write_label(target, exported, case.image)
