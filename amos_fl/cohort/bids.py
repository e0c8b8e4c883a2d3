"""Find scans and their label files in a folder organised as BIDS (Gorgolewski et al. 2016, Scientific Data 3:160044).

Images are `sub-01[/ses-1]/anat/sub-01[_ses-1]_T2w.nii.gz` (`_ct` in extensions for CT), labels derivatives of them:
`sub-01_desc-manual_dseg.nii.gz`, a label map whose values a table `..._dseg.tsv` (columns `index` and `name`) explains,
and `sub-01_label-liver_mask.nii.gz`, a mask. They lie below `derivatives/PIPELINE/` or beside the images.
"""

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from amos_fl.cohort.dataset import Row, modality_of
from amos_fl.cohort.label_files import LabelFile, LabelledScan, LabelledScans
from amos_fl.cohort.table import SPLITS, Split
from amos_fl.errors import AmosError
from amos_fl.scan_files import scans_in, shown
from amos_fl.strict import csv_rows
from amos_fl.wording import counted, listed

_OF_LABELS = {"desc", "label", "seg", "atlas", "res", "den", "space"}
"""Entities that a label file has and its image need not have."""
_SITES = ("site", "centre", "center", "institution", "hospital", "scanner")
_MOST_NOTES = 20


@dataclass(frozen=True)
class _File:
    """A file by its name: entities such as `sub` and `ses`, and the suffix that says what it is."""

    path: Path
    name: str
    entities: Mapping[str, str]
    suffix: str

    @property
    def of_image(self) -> dict[str, str]:
        return {key: value for key, value in self.entities.items() if key not in _OF_LABELS}


def read_bids(folder: Path, pipeline: str | None = None) -> LabelledScans:
    """The CT and MR images of a BIDS folder with their label files; `pipeline` is one of several below `derivatives`.

    Raises:
        AmosError: no such folder, no image with a label, or an unknown pipeline.
    """
    if not folder.is_dir():
        raise AmosError(f"{folder}: no such folder", "give a folder in BIDS, with sub-01/anat and derivatives")
    made = folder / "derivatives"
    pipelines = [path.name for path in _folders(made)] if made.is_dir() else []
    if pipeline is not None and pipeline not in pipelines:
        raise AmosError(f"--derivative {pipeline}: is not below {made}", f"there are {', '.join(pipelines) or 'none'}")
    roots = [folder, *(made / name for name in pipelines if pipeline in (None, name))]
    files = [file for root in roots for subject in _folders(root, "sub-*") for file in _files_of(subject)]
    labels = [file for file in files if file.suffix in ("dseg", "mask")]
    images = [file for file in files if modality_of(file.suffix) and file.path.is_relative_to(folder)]
    images = [file for file in images if not file.path.is_relative_to(made)]
    people, splits = _participants(folder / "participants.tsv")
    notes: list[str] = []
    of: dict[Path, list[LabelFile]] = {image.path: [] for image in images}
    for label in labels:
        image = _image_of(label, images)
        if isinstance(image, str):
            notes.append(f"{shown(label.path.name)}: left out: {image}")
        elif label.suffix == "mask" and "label" not in label.entities:
            notes.append(f"{shown(label.path.name)}: left out: a mask whose name has no label-ORGAN")
        elif label.suffix == "mask":
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label.entities["label"])  # leftKidney: names have no other sign
            of[image.path].append(LabelFile(label.path, words))
        elif values := _values(label, roots):
            of[image.path].append(LabelFile(label.path, values=values))
        else:
            notes.append(f"{shown(label.path.name)}: left out: no table _dseg.tsv says which value is which organ")
    scans = []
    for image in images:
        if not of[image.path]:
            notes.append(f"{image.name}: left out: no label file of it")
            continue
        subject = f"sub-{image.entities['sub']}"
        row = Row(people.get(subject), subject, None, modality_of(image.suffix))
        scans.append(LabelledScan(image.name, image.path, tuple(of[image.path]), row, splits.get(subject)))
    if not scans:
        why = f" ({notes[0]})" if notes else ""
        raise AmosError(f"{folder}: holds no BIDS image of CT or MR with a label file{why}")
    more = [f"and {counted(len(notes) - _MOST_NOTES, 'more file')} left out"] if len(notes) > _MOST_NOTES else []
    return LabelledScans(folder, tuple(scans), (*notes[:_MOST_NOTES], *more))


def _folders(folder: Path, pattern: str = "*") -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_dir() and not path.name.startswith("."))


def _files_of(subject: Path) -> Iterable[_File]:
    """The NIfTI files of a subject, in its folder, its sessions' and their kinds'."""
    for folder in (subject, *_folders(subject), *_folders(subject, "*/*")):
        for name, path in scans_in(folder).scans.items():
            *pairs, suffix = name.split("_")
            entities = {key: value for key, is_, value in (pair.partition("-") for pair in pairs) if is_}
            if f"sub-{entities.get('sub', '')}" == subject.name:
                yield _File(path, name, entities, suffix)


def _image_of(label: _File, images: Iterable[_File]) -> "_File | str":
    """The image that a label file is of: the one that has all of its entities; or why there is none."""
    found = [image for image in images if label.of_image.items() <= image.entities.items()]
    if wanted := {value.casefold() for key, value in label.entities.items() if key in ("space", "desc")}:
        # space-T2w names the image where a session has several
        found = [image for image in found if image.suffix.casefold() in wanted] or found
    if len(found) == 1:
        return found[0]
    if found:
        return f"it may be of {listed([image.name for image in found], 3)}; name it so that it is of one"
    return "no image has the entities of its name"


def _values(label: _File, roots: Iterable[Path]) -> dict[int, str]:
    """Which value is which structure: by the table of the same name, or one above it that is less specific."""
    above = [label.path.parent, *label.path.parent.parents]
    last = next((n for n, folder in enumerate(above) if folder in set(roots)), 0)
    for folder in above[: last + 1]:
        for table in sorted(folder.glob("*dseg.tsv"), key=lambda path: -len(path.name)):
            entities = dict(pair.split("-", 1) for pair in table.name.split("_")[:-1] if "-" in pair)
            if entities.items() <= label.entities.items():
                return _read_values(table)
    return {}


def _read_values(table: Path) -> dict[int, str]:
    try:
        return {int(line["index"]): line["name"].strip() for line in _lines(table) if int(line["index"]) > 0}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise AmosError(f"{shown(table)}: must have the columns index (a number) and name") from None


def _lines(table: Path) -> list[dict[str, str]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
        return list(csv_rows(text.splitlines(), shown(table), delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise AmosError(f"{shown(table)}: cannot be read as a table", "repair or remove it") from None


def _participants(file: Path) -> tuple[dict[str, str], dict[str, Split]]:
    """Each subject's site and split, where the table of participants has such a column."""
    lines = _lines(file) if file.is_file() else []
    sites, splits = {}, {}
    for line in lines:
        subject = line.get("participant_id") or ""
        named = {(key or "").casefold(): value or "" for key, value in line.items() if isinstance(value, str)}
        site = next((named[key] for key in _SITES if named.get(key) not in (None, "", "n/a")), "")
        if name := re.sub(r"[^\w.-]+", "_", site).strip("._"):
            sites[subject] = name
        if (split := named.get("split", "").casefold()) in SPLITS:
            splits[subject] = cast(Split, split)
    return sites, splits
