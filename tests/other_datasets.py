"""Small folders in the layouts of other projects, made on the spot."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from conftest import ORGANS, write_case


def write_msd(folder: Path, *, labelled: int = 5, tests: int = 1, modality: str = "CT", **about: Any) -> Path:
    """A task of the Decathlon with the organs of the tiny cases."""
    for number in range(labelled + tests):
        image, label = write_case(folder / "made", f"case_{number}", "MR" if modality == "MRI" else "CT", seed=number)
        part = "Tr" if number < labelled else "Ts"
        for kind, path in (("images", image), ("labels", label)):
            (folder / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
            if (kind, part) != ("labels", "Ts"):
                path.rename(folder / f"{kind}{part}" / path.name)
    names = [f"case_{number}.nii.gz" for number in range(labelled + tests)]
    description = {
        "name": "Tiny",
        "tensorImageSize": "3D",
        "modality": {"0": modality},
        "labels": {"0": "background"} | {str(label): organ for label, organ in ORGANS.items()},
        "numTraining": labelled,
        "numTest": tests,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names[:labelled]],
        "test": [f"./imagesTs/{n}" for n in names[labelled:]],
    }
    (folder / "dataset.json").write_text(json.dumps(description | about))
    return folder


def with_channels(folder: Path, names: list[str]) -> Path:
    """The task with scans of four dimensions, every channel one more than the one before."""
    for path in folder.glob("images*/*.nii.gz"):
        scan = nib.Nifti1Image.from_filename(path)
        voxels = np.asarray(scan.dataobj)
        nib.save(nib.Nifti1Image(np.stack([voxels + i for i in range(len(names))], axis=-1), scan.affine), path)
    return with_description(folder, modality={str(i): name for i, name in enumerate(names)}, tensorImageSize="4D")


def write_nnunet(folder: Path, *, version: int = 2, labelled: int = 3, labelled_tests: bool = False) -> Path:
    """A dataset in nnU-Net's raw layout with the organs of the tiny cases and one test case."""
    for number in range(labelled + 1):
        image, label = write_case(folder / "made", f"case_{number}", "CT", seed=number)
        part = "Tr" if number < labelled else "Ts"
        for kind in ("images", "labels"):
            (folder / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
        image.rename(folder / f"images{part}" / f"case_{number}_0000.nii.gz")
        if part == "Tr" or labelled_tests:
            label.rename(folder / f"labels{part}" / f"case_{number}.nii.gz")
    about: dict[str, Any] = {"numTraining": labelled}
    if version == 2:
        about |= {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
        about["labels"] = {"background": 0} | {organ: label for label, organ in ORGANS.items()}
    else:
        about |= {"modality": {"0": "CT"}, "tensorImageSize": "4D"}
        about["labels"] = {"0": "background"} | {str(label): organ for label, organ in ORGANS.items()}
        names = [f"case_{number}.nii.gz" for number in range(labelled)]
        about["training"] = [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names]
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def with_description(folder: Path, **about: Any) -> Path:
    """The dataset with another description; None takes a key away."""
    file = folder / "dataset.json"
    merged = json.loads(file.read_text()) | about
    file.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))
    return folder
