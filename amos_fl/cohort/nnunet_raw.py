"""Read a dataset in nnU-Net's raw layout, version 2 or 1, as a cohort; the inverse of `amos-fl data export nnunet`.

The formats are nnU-Net's own (`documentation/dataset_format.md`, `manual_data_splits.md` and `region_based_training.md`
of MIC-DKFZ/nnUNet): images are `CASE_0000.nii.gz`, with a number for each channel, their labels `CASE.nii.gz`.
Version 1 writes `modality` and `"1": "liver"` where version 2 writes `channel_names` and `"liver": 1`.
"""

import re
from pathlib import Path
from typing import Any

from amos_fl.cohort.dataset import Dataset, Found, modality_of, read_organs_of
from amos_fl.cohort.dataset_json import (
    NAME,
    channels_of,
    chosen_channel,
    file_in,
    numbered_labels,
    read_description,
    stated_numbers,
)
from amos_fl.cohort.table import Split
from amos_fl.errors import AmosError
from amos_fl.scan_files import ScanFolder, importable, problem_of, scans_in, shown
from amos_fl.strict import load_json
from amos_fl.wording import counted, listed

_WHAT = "a dataset of nnU-Net's, such as nnUNet_raw/Dataset701_CohortCT"
_NIFTI = (".nii.gz", ".nii")
_CHANNEL = re.compile(r"(.+)_(\d{4})")
SPLITS_FILE = "splits_final.json"


def read_nnunet(folder: Path, *, channel: int | None = None, splits_file: Path | None = None, fold: int = 0) -> Dataset:
    """Read the dataset in a folder. `splits_file` is its `splits_final.json` unless another is named.

    Training cases are split by one `fold` of that file. Without one they are all for training if test cases have labels
    (`labelsTs`), and otherwise without a split.

    Raises:
        AmosError: an invalid description, regions, an ignore label, several channels without a choice, files of
            another format, or cases without their files.
    """
    about = read_description(folder, _WHAT)
    file = folder / NAME
    version_2 = "channel_names" in about
    names = channels_of(about.get("channel_names") if version_2 else about.get("modality"), file)
    chosen = chosen_channel(names, channel, folder)
    ending = str(about.get("file_ending", ".nii.gz"))
    if ending not in _NIFTI:
        raise AmosError(
            f"{file}: its files end in {ending}; scans are read from NIfTI files (.nii.gz, .nii), convert them"
        )
    organs = read_organs_of(_labels(about, file), file)
    notes: list[str] = []
    training = _cases(folder, "Tr", ending, chosen, about, notes)
    tests = _cases(folder, "Ts", ending, chosen, {}, notes)
    notes += stated_numbers(about, {"numTraining": len(training), "numTest": len(tests)})
    if not training:
        odd = f" ({notes[0]})" if notes else ""
        raise AmosError(f"{folder / 'imagesTr'}: holds no scan called CASE_{chosen:04d}{ending}; is this {_WHAT}?{odd}")
    if lacking := [case for case, _, label in training if label is None]:
        raise AmosError(
            f"{folder / 'labelsTr'}: lacks the label map of {lacking[0]} ({counted(len(lacking), 'case')} without); "
            "every training case needs one"
        )
    labelled_tests = any(label is not None for _, _, label in tests)
    splits: dict[str, Split] | None = _splits(folder, splits_file, fold, [case for case, _, _ in training])
    if splits is None and labelled_tests:
        splits = dict.fromkeys((case for case, _, _ in training), "train")
        notes.append("test cases have labels, so every training case trains; --split 90,10,0 draws val")
    found = [Found(case, image, label, splits[case] if splits else None) for case, image, label in training]
    found += [Found(case, image, label, "test") for case, image, label in tests]
    if twice := {case for case, _, _ in training} & {case for case, _, _ in tests}:
        raise AmosError(f"{folder}: case {min(twice)} is among the training and the test cases; rename one")
    if len(names) > 1:
        notes.append(f"channel {chosen} ({names[chosen]}) of {len(names)}")
    name = re.sub(r"^(Dataset|Task)\d+_", "", folder.resolve().name)
    return Dataset(name, folder, organs, modality_of(names[chosen]), names[chosen], tuple(found), tuple(notes))


def _labels(about: dict[str, Any], file: Path) -> dict[str, int]:
    """Names and values of labels, of either version.

    Raises:
        AmosError: regions, an ignore label, or an invalid value.
    """
    labels = about["labels"]
    if regions := [name for name, value in labels.items() if isinstance(value, list)]:
        raise AmosError(
            f"{file}: {regions[0]!r} is a region of several labels, and an organ here has one; write each label "
            'separately under \'labels\', such as "kidney": 1, "tumour": 2, and join them with a label map'
        )
    if "channel_names" not in about or all(str(key).isdecimal() for key in labels):
        return numbered_labels(labels, file)
    found: dict[str, int] = {}
    for name, value in labels.items():
        if isinstance(value, bool) or not str(value).isdecimal():
            raise AmosError(f"{file}: the label of {name!r} is {value!r}; it must be a whole number")
        found[name] = int(value)
    if found.get("ignore"):
        raise AmosError(
            f"{file}: its label maps ignore voxels (label {found['ignore']}), which a cohort cannot express; remove "
            "those cases, or list what was annotated in each of them in a cohort.csv"
        )
    return found


def _cases(
    folder: Path, part: str, ending: str, channel: int, about: dict[str, Any], notes: list[str]
) -> list[tuple[str, Path, Path | None]]:
    """Names, images and label maps (if any) of the cases in `imagesTr` or `imagesTs`, sorted by name.

    A note gives the number taken and names the files that seem to belong but are not taken.
    """
    if part == "Tr" and isinstance(about.get("dataset"), dict):
        return _listed(folder, about["dataset"], channel)
    images, labels = (_scans(folder / f"{kind}{part}", notes) for kind in ("images", "labels"))
    odd: list[str] = []
    of_case: dict[str, Path] = {}
    known: set[str] = set()
    with_channels: set[str] = set()
    for name, image in images.scans.items():
        numbered = _CHANNEL.fullmatch(name)
        known.add(numbered[1] if numbered else name)
        if numbered is None:
            odd.append(f"{shown(image.name)} has no channel in its name, such as {shown(name)}_{channel:04d}{ending}")
            continue
        if int(numbered[2]) != channel:
            with_channels.add(numbered[1])
        elif image.name.lower().endswith(ending):
            of_case[numbered[1]] = image
        else:
            odd.append(f"{shown(image.name)} does not end in {ending}, as {NAME} says")
            with_channels.discard(numbered[1])
    odd += [f"{shown(case)} lacks its channel {channel:04d}" for case in sorted(with_channels - set(of_case))]
    if odd:
        notes.append(
            f"images{part}: {len(of_case)} of {counted(len(known), 'case')} taken. Left out: {'; '.join(odd[:5])}"
            + (f"; and {len(odd) - 5} more" if len(odd) > 5 else "")
        )
    if alone := sorted(set(labels.scans) - set(of_case)):
        notes.append(f"labels{part}: label map without a usable image: {listed(list(map(shown, alone)), 5)}")
    if part == "Tr" and (bad := [bad for bad in labels.unusable if bad.name in of_case]):
        raise AmosError(f"{labels.path}: {bad[0].sentence}; every training case needs its label map")
    return [(case, image, labels.scans.get(case)) for case, image in sorted(of_case.items())]


def _scans(folder: Path, notes: list[str]) -> ScanFolder:
    if not folder.is_dir():
        return ScanFolder(folder, {})
    found = scans_in(folder)
    notes += importable(found)
    return found


def _listed(folder: Path, listed: dict[str, Any], channel: int) -> list[tuple[str, Path, Path | None]]:
    """Version 2 may name the files of each case instead: `"dataset": {"case": {"images": [...], "label": ...}}`."""
    found = []
    for case, files in sorted(listed.items()):
        try:
            image, label = file_in(folder, files["images"][channel]), file_in(folder, files["label"])
        except (TypeError, KeyError, IndexError):
            raise AmosError(f"{folder / NAME}: case {case} must name its images and its label") from None
        if why := problem_of(image):
            raise AmosError(f"{image}: {why}; {NAME} names it for case {case}")
        found.append((case, image, label if label.is_file() else None))
    return found


def _splits(folder: Path, splits_file: Path | None, fold: int, cases: list[str]) -> dict[str, Split] | None:
    """The split of every training case in one fold; None without a splits file.

    Raises:
        AmosError: no such file or fold, or a case that is in neither part or in both.
    """
    file = splits_file or folder / SPLITS_FILE
    if not file.is_file():
        if splits_file is not None:
            raise AmosError(f"{file}: no such file of splits")
        return None
    try:
        folds = load_json(file.read_text(encoding="utf-8-sig"), file)
        parts = [(set(map(str, one["train"])), set(map(str, one["val"]))) for one in folds]
    except (OSError, ValueError, TypeError, KeyError):
        raise AmosError(f"{file}: must be a list of folds, each with 'train' and 'val'") from None
    if not 0 <= fold < len(parts):
        raise AmosError(f"--fold {fold}: {file} has {counted(len(parts), 'fold')}, counted from 0")
    train, val = parts[fold]
    for case in cases:
        if (case in train) == (case in val):
            where = "both parts" if case in train else "neither part"
            raise AmosError(f"{file}: case {case} is in {where} of fold {fold}; every training case belongs to one")
    return {case: "train" if case in train else "val" for case in cases}
