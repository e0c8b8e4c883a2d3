"""A task of the Medical Segmentation Decathlon as a cohort (Antonelli et al. 2022, Nature Communications 13:4128).

Its layout: `dataset.json` names the channels (`modality`), the labels, the training cases as pairs of image and label,
and the test cases, whose labels are not public. Tasks of several channels (brain tumours, prostate) have scans of four
dimensions; one channel of them can be chosen, and is then written as scans of three dimensions to a folder of its own.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
from nibabel.nifti1 import Nifti1Image

from amos_fl.cohort.dataset import Dataset, Found, modality_of, read_organs_of
from amos_fl.cohort.dataset_json import NAME, channels_of, chosen_channel, numbered_labels, read_description
from amos_fl.cohort.wording import counted
from amos_fl.errors import AmosError
from amos_fl.files import whole_file
from amos_fl.metrics.pairs import case_of
from amos_fl.volumes.nifti_file import open_nifti

_WHAT = "a task of the Medical Segmentation Decathlon, such as Task09_Spleen"


def read_msd(
    folder: Path,
    *,
    channel: int | None = None,
    channel_folder: Path | None = None,
    on_case: Callable[[int, int, str], None] = lambda done, total, case: None,
) -> Dataset:
    """The task in a folder. With a `channel` of several, its scans are written to `channel_folder` (by default in it).

    Raises:
        AmosError: a description that is none, several channels without a choice, or files that are not there.
    """
    about = read_description(folder, _WHAT)
    file = folder / NAME
    names = channels_of(about.get("modality"), file)
    chosen = chosen_channel(names, channel, folder)
    if not isinstance(about.get("training"), list) or not about["training"]:
        raise AmosError(f"{file}: lists no training case under 'training'; is this {_WHAT}?")
    cases = [_training(folder, entry) for entry in about["training"]]
    cases += [Found(case_of(image), image, None, "test") for image in _tests(folder, about)]
    if missing := [path for found in cases for path in (found.image, found.label) if path and not path.is_file()]:
        raise AmosError(f"{missing[0]}: is not there ({counted(len(missing), 'file')} missing); unpack the task again")
    listed = [found.case for found in cases]
    if twice := sorted({name for name in listed if listed.count(name) > 1}):
        raise AmosError(f"{file}: lists case {twice[0]} twice; every case needs a name of its own")
    notes: list[str] = []
    if len(names) > 1:
        target = channel_folder or folder / f"channel_{chosen}"
        for done, found in enumerate(cases, start=1):
            write_channel(found.image, target / found.image.parent.name / found.image.name, chosen, len(names))
            on_case(done, len(cases), found.case)
        cases = [Found(f.case, target / f.image.parent.name / f.image.name, f.label, f.split) for f in cases]
        notes.append(f"channel {chosen} ({names[chosen]}) of {len(names)}: its scans are in {target}")
    organs = read_organs_of(numbered_labels(about["labels"], file), file)
    name = re.sub(r"^Task\d+_", "", folder.resolve().name)
    return Dataset(name, folder, organs, modality_of(names[chosen]), names[chosen], tuple(cases), tuple(notes))


def _training(folder: Path, entry: Any) -> Found:
    try:
        image, label = (folder / str(entry[key]) for key in ("image", "label"))
    except (TypeError, KeyError):
        raise AmosError(
            f"{folder / NAME}: lists a training case as {entry!r}; each needs an image and a label"
        ) from None
    return Found(case_of(image), image, label)


def _tests(folder: Path, about: dict[str, Any]) -> list[Path]:
    """The test images that lie there; a download may lack them all."""
    listed = about.get("test") or []
    paths = [folder / str(entry["image"] if isinstance(entry, dict) else entry) for entry in listed]
    return [path for path in paths if path.is_file()]


def write_channel(source: Path, target: Path, channel: int, channels: int) -> None:
    """Write one channel of a scan (x, y, z, channel) as a scan of three dimensions, with its type and place.

    A file that is there already and newer than its source stays.

    Raises:
        AmosError: the scan has other dimensions than its description says, or is damaged.
    """
    if target.is_file() and target.stat().st_mtime >= source.stat().st_mtime:
        return
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
    with whole_file(target) as beside:
        nibabel.save(plain, beside)
