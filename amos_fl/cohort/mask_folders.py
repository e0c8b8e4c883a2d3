"""Find scans with one label file for each organ, as TotalSegmentator's dataset and its predictions have them.

The dataset (Wasserthal et al. 2023, Radiology AI 5:e230024) has a folder for each scan, `s0011/ct.nii.gz` (`mri.nii.gz`
in its MR edition) and `s0011/segmentations/liver.nii.gz`, and a table `meta.csv` with each scan's institute and split.
Its program writes `liver.nii.gz` and the others into a folder of the user's choice for each scan.
"""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from amos_fl.cohort.dataset import Row, modality_of
from amos_fl.cohort.label_files import LabelFile, LabelledScan, LabelledScans
from amos_fl.cohort.table import SPLITS, Split
from amos_fl.errors import AmosError
from amos_fl.scan_files import scans_in, shown
from amos_fl.strict import csv_rows
from amos_fl.wording import listed

META = "meta.csv"
_WHAT = "a folder with CASE/ct.nii.gz and CASE/segmentations/ORGAN.nii.gz, or of scans with --labels FOLDER"
_SCANS = ("ct", "mri", "mr", "image", "img", "scan")


def read_mask_folders(folder: Path, labels: Path | None = None) -> LabelledScans:
    """The scans of a folder that has a folder for each, or of a folder of scans whose masks are below `labels`.

    Below `labels` a scan's masks may be `CASE/ORGAN.nii.gz`, `ORGAN/CASE.nii.gz` or `CASE_ORGAN.nii.gz`.

    Raises:
        AmosError: no such folder, or no scan with a mask in it.
    """
    if not folder.is_dir():
        raise AmosError(f"{folder}: no such folder", f"give {_WHAT}")
    if labels is not None and not labels.is_dir():
        raise AmosError(f"--labels {labels}: no such folder", "give the folder of the label files")
    notes: list[str] = []
    rows, splits = _meta(folder / META)
    found = _folders(folder, notes) if labels is None else _beside(folder, labels, notes)
    scans = tuple(
        LabelledScan(case, image, masks, rows.get(case, _by_name(image)), splits.get(case))
        for case, (image, masks) in found.items()
    )
    if not scans:
        raise AmosError(
            f"{folder}: holds no scan with label files",
            f"give {_WHAT}",
        )
    return LabelledScans(folder, scans, tuple(notes))


_Found = dict[str, tuple[Path, tuple[LabelFile, ...]]]


def _masks(scans: Mapping[str, Path]) -> list[LabelFile]:
    return [LabelFile(path, name) for name, path in scans.items()]


def _folders(folder: Path, notes: list[str]) -> _Found:
    found: _Found = {}
    for case in _below(folder):
        here, inside = scans_in(case), [scans_in(below) for below in _below(case)]
        names = [name for name in here.scans if name.lower() in (*_SCANS, case.name.lower())] or list(here.scans)
        masks = [mask for one in inside for mask in _masks(one.scans)]
        if len(names) != 1 or not (masks or len(here.scans) > 1):
            if here.there or masks:
                which = f"several scans, {listed(names, 3)}" if len(names) > 1 else "no scan with label files"
                notes.append(f"{case.name}: left out: it holds {which}")
            continue
        masks += _masks({name: path for name, path in here.scans.items() if name != names[0]})
        notes += [f"{case.name}: not used: {bad.sentence}" for one in (here, *inside) for bad in one.unusable]
        found[case.name] = here.scans[names[0]], tuple(masks)
    return found


def _beside(folder: Path, labels: Path, notes: list[str]) -> _Found:
    images, flat = scans_in(folder), scans_in(labels)
    below = {one.name: scans_in(one) for one in _below(labels)}
    notes += [f"not used: {bad.sentence}" for one in (images, flat, *below.values()) for bad in one.unusable]
    found: _Found = {}
    for case, image in images.scans.items():
        inside = [below[case], *map(scans_in, _below(labels / case))] if case in below else []
        masks = [mask for one in inside for mask in _masks(one.scans)]
        masks += _masks({organ: one.scans[case] for organ, one in below.items() if organ != case and case in one.scans})
        longer = [other for other in images.scans if other != case and other.startswith(f"{case}_")]
        masks += _masks(
            {
                name.removeprefix(f"{case}_"): path
                for name, path in flat.scans.items()
                if name.startswith(f"{case}_") and not name.startswith(tuple(f"{other}_" for other in longer))
            }
        )
        if masks:
            found[case] = image, tuple(masks)
        else:
            notes.append(f"{case}: left out: no label file of it below {labels}")
    return found


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _by_name(image: Path) -> Row:
    return Row(modality=modality_of(image.name.partition(".")[0]))


def _meta(file: Path) -> tuple[dict[str, Row], dict[str, Split]]:
    """Each scan's institute and split, as TotalSegmentator's table names them; none without it."""
    if not file.is_file():
        return {}, {}
    try:
        text = file.read_text(encoding="utf-8-sig")
        lines = list(csv_rows(text.splitlines(), shown(file), delimiter=";" if ";" in text.partition("\n")[0] else ","))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise AmosError(f"{shown(file)}: cannot be read as a table", "repair or remove it") from None
    rows, splits = {}, {}
    for line in lines:
        case, institute = line.get("image_id") or "", re.sub(r"[^\w.-]+", "_", line.get("institute") or "").strip("._")
        image = next(iter((file.parent / case).glob("*.nii*")), None) if case else None
        rows[case] = Row(site=institute or None, modality=_by_name(image).modality if image else None)
        if (split := (line.get("split") or "").casefold()) in SPLITS:
            splits[case] = cast(Split, split)
    return rows, splits
