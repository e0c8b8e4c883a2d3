"""Read a task of the Medical Segmentation Decathlon (Antonelli et al. 2022, Nature Communications 13:4128) as a cohort.

Its layout: `dataset.json` names the channels (`modality`), the labels, the training cases as pairs of image and label,
and the test cases, whose labels are not public. Tasks with several channels (brain tumours, prostate) have
four-dimensional scans; one channel can be chosen, and is then written as three-dimensional scans to its own folder.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
from nibabel.nifti1 import Nifti1Image

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
from amos_fl.errors import AmosError
from amos_fl.files import whole_file
from amos_fl.scan_files import case_of, importable, problem_of, scans_in, sha256_of_scan, shown
from amos_fl.volumes.nifti_file import open_nifti
from amos_fl.wording import counted, listed

_WHAT = "a task of the Medical Segmentation Decathlon, such as Task09_Spleen"


def read_msd(
    folder: Path,
    *,
    channel: int | None = None,
    channel_folder: Path | None = None,
    on_case: Callable[[int, int, str], None] = lambda done, total, case: None,
) -> Dataset:
    """Read the task in a folder. A chosen `channel` is written as scans to `channel_folder` (by default inside the
    folder).

    Raises:
        AmosError: an invalid description, several channels without a choice, or missing files.
    """
    about = read_description(folder, _WHAT)
    file = folder / NAME
    names = channels_of(about.get("modality"), file)
    chosen = chosen_channel(names, channel, folder)
    if not isinstance(about.get("training"), list) or not about["training"]:
        raise AmosError(f"{file}: lists no training case under 'training'; is this {_WHAT}?")
    cases = [_training(folder, entry) for entry in about["training"]]
    notes: list[str] = []
    tests = _tests(folder, about, notes)
    if missing := [path for found in cases for path in (found.image, found.label) if path and problem_of(path)]:
        others = f" ({counted(len(missing), 'listed file')} cannot be used)" if len(missing) > 1 else ""
        raise AmosError(f"{missing[0]}: {problem_of(missing[0])}{others}; unpack the task again")
    notes += stated_numbers(about, {"numTraining": len(cases)})
    cases += [Found(case_of(image), image, None, "test") for image in tests]
    notes += _not_listed(folder, cases)
    listed = [found.case for found in cases]
    if twice := sorted({name for name in listed if listed.count(name) > 1}):
        raise AmosError(f"{file}: lists case {twice[0]} twice; case names must be unique")
    if len(names) > 1:
        target = channel_folder or folder / f"channel_{chosen}"
        whats = {f.case: _made_of(f.image, chosen) for f in cases}
        made = {f.case: target / f.image.parent.name / f.image.name for f in cases}
        for found in cases:
            _refuse_another_source(made[found.case], found.image, whats[found.case])
        for done, found in enumerate(cases, start=1):
            if not made[found.case].is_file():
                write_channel(found.image, made[found.case], chosen, len(names), whats[found.case])
            on_case(done, len(cases), found.case)
        cases = [Found(f.case, made[f.case], f.label, f.split) for f in cases]
        notes.append(f"channel {chosen} ({names[chosen]}) of {len(names)}: its scans are in {target}")
    organs = read_organs_of(numbered_labels(about["labels"], file), file)
    name = re.sub(r"^Task\d+_", "", folder.resolve().name)
    return Dataset(name, folder, organs, modality_of(names[chosen]), names[chosen], tuple(cases), tuple(notes))


def _training(folder: Path, entry: Any) -> Found:
    try:
        image, label = (file_in(folder, entry[key]) for key in ("image", "label"))
    except (TypeError, KeyError):
        raise AmosError(
            f"{folder / NAME}: lists a training case as {entry!r}; each needs an image and a label"
        ) from None
    return Found(case_of(image), image, label)


def _tests(folder: Path, about: dict[str, Any], notes: list[str]) -> list[Path]:
    """The test images found; a download may lack them, which a note reports."""
    listed = about.get("test") or []
    paths = [file_in(folder, entry.get("image", "") if isinstance(entry, dict) else entry) for entry in listed]
    there = [path for path in paths if problem_of(path) is None]
    if absent := [path for path in paths if problem_of(path)]:
        notes.append(
            f"{len(there)} of {counted(len(paths), 'test image')} of {NAME} taken; {shown(absent[0].name)} "
            f"{problem_of(absent[0])}"
        )
    return there


def _not_listed(folder: Path, cases: Sequence[Found]) -> list[str]:
    """Notes about files in the task's folders that its description does not list."""
    taken = {path.resolve() for found in cases for path in (found.image, found.label) if path}
    notes = []
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        if (folder / name).is_dir():
            found = scans_in(folder / name)
            notes += importable(found)
            if more := [path.name for path in found.scans.values() if path.resolve() not in taken]:
                some = listed(list(map(shown, more)), 5)
                notes.append(f"{name}: {found.there - len(more)} of {found.there} are in {NAME}; not taken: {some}")
    return notes


def _made_of(source: Path, channel: int) -> str:
    """The header text (at most 80 bytes) that says which scan and channel a file was made from."""
    return f"channel {channel} of {sha256_of_scan(source)}"


def _refuse_another_source(target: Path, source: Path, made_of: str) -> None:
    """Refuse to use or replace a file of that name that was made from another scan."""
    if not target.exists():
        return
    try:
        said = str(open_nifti(target).image.header["descrip"].astype(str))
    except AmosError:
        said = ""
    if said != made_of:
        raise AmosError(
            f"{target}: already exists, made from another scan than the present {source}; choose another --out, or "
            f"remove {target.parent.parent} if no cohort needs it any more"
        )


def write_channel(source: Path, target: Path, channel: int, channels: int, made_of: str) -> None:
    """Write one channel of a scan (x, y, z, channel) as a three-dimensional scan, with its type and affine.

    Its header says what it is `made_of`.

    Raises:
        AmosError: the scan's dimensions differ from its description, or it is damaged.
    """
    try:
        file = open_nifti(source, channels=True)
    except AmosError as error:
        raise AmosError(f"{error}; its description says {channels} channels") from None
    scan = file.image
    if file.shape[3] != channels:
        raise AmosError(f"{source.name}: has the shape {scan.shape}, and its description says {channels} channels")
    header = scan.header.copy()
    header.set_data_shape(scan.shape[:3])
    # Unscaled values with the scale kept in the header: the same numbers, in the same type.
    slope, inter = scan.header.get_slope_inter()
    values = file.voxels(channel=channel)
    plain = Nifti1Image(values, scan.affine, header)
    plain.header.set_slope_inter(slope, inter)
    plain.header["descrip"] = made_of
    with whole_file(target) as beside:
        nibabel.save(plain, beside)
