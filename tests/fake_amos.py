"""A release with AMOS's folders, names, dataset.json and metadata table; its scans are empty files."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

from amos_fl.cohort.scanners import published_cases

HEADER = (
    "amos_id",
    "Patient's Birth Date",
    "Patient's Sex",
    "Patient's Age",
    "Manufacturer's Model Name",
    "Manufacturer",
    "Acquisition Date",
    "Site",
)
MODELS = {
    "A": ("Aquilion ONE", "TOSHIBA"),
    "B": ("Brilliance16", "Philips"),
    "C": ("SOMATOM Force", "SIEMENS"),
    "D": ("Optima CT660", "GE MEDICAL SYSTEMS"),
    "E": ("Optima CT540", "GE MEDICAL SYSTEMS"),
    "F": ("Ingenia", "Philips"),
    "G": ("Prisma", "SIEMENS"),
    "H": ("SIGNA HDe", "GE MEDICAL SYSTEMS"),
}
PARTS = {"train": "Tr", "val": "Va", "test": "Ts"}
TABLE = "labeled_data_meta_0000_0599.csv"


def metadata_rows(same_patient: Iterable[tuple[int, ...]] = ((13, 138),)) -> list[list[str]]:
    """The table's rows with AMOS's faults: 500 twice, 600 absent, one Achieva; every patient another birth date."""
    first = {amos_id: min(ids) for ids in same_patient for amos_id in ids}
    rows = []
    for amos_id, case in published_cases().items():
        model, maker = MODELS[case.record.domain]
        if amos_id == 539:
            model, maker = "Achieva", "Philips Medical Systems"
        patient = first.get(amos_id, amos_id)
        birth = f"{1930 + patient // 12}{1 + patient % 12:02d}15"
        shown = 500 if amos_id == 600 else amos_id
        rows.append([str(shown), birth, "FM"[patient % 2], "", model, maker, "20200101", case.record.institution])
    return rows[::-1]


def write_metadata(path: Path, rows: list[list[str]], header: Iterable[str] = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(header), *rows])
    return path


def write_release(
    folder: Path,
    *,
    test_labels: bool = True,
    metadata: bool = True,
    ids: Iterable[int] | None = None,
    same_patient: Iterable[tuple[int, ...]] = ((13, 138),),
) -> Path:
    """All 600 cases (or `ids`) in `folder`; test entries of dataset.json are paths, as in the challenge."""
    published = published_cases()
    listing: dict[str, list] = {"training": [], "validation": [], "test": []}
    for kind in ("images", "labels"):
        for part in PARTS.values():
            (folder / f"{kind}{part}").mkdir(parents=True)
    for amos_id in published if ids is None else ids:
        split = published[amos_id].release_split
        part, name = PARTS[split], f"amos_{amos_id:04d}.nii.gz"
        (folder / f"images{part}" / name).write_bytes(b"as released")
        if split != "test" or test_labels:
            (folder / f"labels{part}" / name).write_bytes(b"as released")
        image = f"./images{part}/{name}"
        if split == "test":
            listing["test"].append(image)
        else:
            section = "training" if split == "train" else "validation"
            listing[section].append({"image": image, "label": f"./labels{part}/{name}"})
    (folder / "dataset.json").write_text(
        json.dumps(
            {"name": "AMOS", "modality": {"0": "CT"}, "labels": {"8": "arota", "15": "prostate/uterus"}, **listing}
        )
    )
    if metadata:
        write_metadata(folder / TABLE, metadata_rows(same_patient))
    return folder
