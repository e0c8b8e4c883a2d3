"""A phantom release: folders, files, dataset.json and metadata table exactly as AMOS22's, in miniature.

Two things differ from what can be downloaded: the test split has labels, and every scan is synthetic.
"""

import csv
import datetime
import importlib.resources
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Image

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import PHANTOM_MARK, OnCase
from amos_fl.errors import AmosError
from amos_fl.escape.csv_cells import Writer
from amos_fl.files import whole_file, write_json, write_text
from amos_fl.phantom.scan import Contrast, Size, make_scan, scan_grid
from amos_fl.phantom.scanners import ACHIEVA, PHANTOM_SCANNERS
from amos_fl.randomness import generator
from amos_fl.workers import each

FOLDERS = {"train": "Tr", "val": "Va", "test": "Ts"}
TABLE_NAME = "labeled_data_meta_0000_0599.csv"
TABLE_HEADER = (
    "amos_id",
    "Patient's Birth Date",
    "Patient's Sex",
    "Patient's Age",
    "Manufacturer's Model Name",
    "Manufacturer",
    "Acquisition Date",
    "Site",
)
SAME_PATIENT = {138: 13}
"""AMOS's table gives cases 13 and 138 one birth date and sex, one on each side of the release's split."""


@dataclass(frozen=True)
class ListedCase:
    """One row of the built-in list of AMOS's cases."""

    amos_id: int
    modality: str
    domain: str
    scanner: str
    site: str
    split: str

    @property
    def name(self) -> str:
        return f"amos_{self.amos_id:04d}"

    @property
    def patient(self) -> int:
        return SAME_PATIENT.get(self.amos_id, self.amos_id)


def listed_cases() -> dict[int, ListedCase]:
    """AMOS's 600 cases by id."""
    text = importlib.resources.files("amos_fl.cohort").joinpath("scanners.csv").read_text(encoding="utf-8")
    return {
        int(row["amos_id"]): ListedCase(
            int(row["amos_id"]), row["modality"], row["domain"], row["scanner"], row["site"], row["release_split"]
        )
        for row in csv.DictReader(io.StringIO(text))
    }


def demo_cases() -> list[int]:
    """The ids of a small cohort with all eight scanners in it.

    By Table 2's splits: A, B and C train on 7 cases each, validate on 2 and test on 3; G has 8 cases of the
    hospital whose Prisma cases train and validate and 3 of the other's, which test; H has its 7 training cases;
    D, E and F have 3 test cases each.
    """
    wanted = [(domain, split, n) for domain in "ABC" for split, n in (("train", 7), ("val", 2), ("test", 3))]
    wanted += [("D", "test", 3), ("E", "test", 3)]
    chosen: list[int] = []
    cases = listed_cases().values()
    for domain, split, count in wanted:
        chosen += [c.amos_id for c in cases if c.domain == domain and c.split == split][:count]
    for domain, site, count in (("F", "center", 3), ("G", "people", 8), ("G", "center", 3)):
        chosen += [c.amos_id for c in cases if c.domain == domain and c.site == site][:count]
    chosen += [c.amos_id for c in cases if c.domain == "H"]
    return sorted(chosen)


@dataclass(frozen=True)
class Person:
    """What the metadata table says about a case."""

    birth: datetime.date
    sex: str
    age: int | None
    acquired: datetime.date


def person_of(seed: int, case: ListedCase) -> Person:
    """Birth, sex and age of a case's patient, and the day of the scan. Patients' birth dates are all different."""
    random = generator(seed, "phantom", "person", case.patient)
    ct = case.modality == "CT"
    sex = "M" if random.random() < (0.63 if ct else 0.55) else "F"
    median, low, high = (54, 14, 94) if ct else (50, 22, 85)
    age = int(np.clip(round(random.normal(median, 15)), low, high))
    acquired = datetime.date(2015, 1, 1) + datetime.timedelta(days=int(random.integers(0, 365 * 6 + 200)))
    born = acquired - datetime.timedelta(days=round(365.25 * age) + int(random.integers(0, 365)))
    # The nearest day whose number leaves the patient's number over when divided by 601.
    born = datetime.date.fromordinal(born.toordinal() - (born.toordinal() - case.patient) % 601)
    age = int((acquired - born).days / 365.25)
    if case.patient != case.amos_id:
        acquired += datetime.timedelta(days=30)
    return Person(born, sex, None if case.amos_id == 539 else age, acquired)


def header_of(
    seed: int, size: Size, case: ListedCase, contrast: Contrast = "scanners"
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape (x, y, z) and affine (4, 4) of a case's scan in the release, without drawing it."""
    return scan_grid(seed, case.amos_id, case.patient, person_of(seed, case).sex, case.domain, size, contrast)


def write_release(
    out: Path,
    *,
    seed: int = 0,
    size: Size = "quick",
    contrast: Contrast = "scanners",
    cases: Sequence[int] | None = None,
    workers: int = 1,
    on_case: OnCase | None = None,
) -> None:
    """Write a phantom AMOS22 release into the folder `out`.

    `cases` are AMOS ids (default: all 600); `on_case(done, total, name)` is called after each. The files are a
    function of seed, size, contrast and case alone.

    Raises:
        AmosError: an id that AMOS does not have, or `out` holds something already.
    """
    out = Path(out)
    listed = listed_cases()
    wanted = sorted(set(listed if cases is None else cases))
    if unknown := [case for case in wanted if case not in listed]:
        raise AmosError(f"case {unknown[0]}: AMOS has no such case; its ids run from 1 to 600")
    if not wanted:
        raise AmosError(f"{out}: no case to write; name at least one of AMOS's ids 1 to 600")
    if size not in ("quick", "full"):
        raise AmosError(f"size {size!r}: a phantom is written at size quick or full")
    if contrast not in ("scanners", "random"):
        raise AmosError(f"contrast {contrast!r}: a phantom's contrast is scanners or random")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AmosError(f"{out}: is not an empty folder; name a new one for the phantom")
    chosen = [listed[case] for case in wanted]
    for split in FOLDERS.values():
        for kind in ("images", "labels"):
            (out / f"{kind}{split}").mkdir(parents=True, exist_ok=True)
    write = partial(_write_case, out, seed, size, contrast)
    for done, name in enumerate(each(write, chosen, workers=min(workers, os.cpu_count() or 1)), start=1):
        if on_case is not None:
            on_case(done, len(chosen), name)
    _write_table(out / TABLE_NAME, [(case, person_of(seed, case)) for case in chosen])
    # Last, so that a release that was interrupted has none and is refused as no release.
    write_json(out / "dataset.json", _dataset(chosen, contrast))


def _write_case(out: Path, seed: int, size: Size, contrast: Contrast, case: ListedCase) -> str:
    sex = person_of(seed, case).sex
    scan = make_scan(seed, case.amos_id, case.patient, sex, case.domain, size, contrast)
    split = FOLDERS[case.split]
    label_affine = scan.affine
    random = generator(seed, "phantom", "header", case.amos_id)
    if random.random() < 0.3:  # in AMOS too, some label headers differ a little from their image's
        label_affine = scan.affine + np.vstack([random.uniform(-1e-4, 1e-4, (3, 4)), np.zeros((1, 4))])
    for kind, array, affine in (("images", scan.image, scan.affine), ("labels", scan.label, label_affine)):
        image = Nifti1Image(array, affine)
        image.header.set_xyzt_units("mm", "sec")
        with whole_file(out / f"{kind}{split}" / f"{case.name}.nii.gz") as beside:
            image.to_filename(beside)
    return case.name


def _write_table(path: Path, rows: list[tuple[ListedCase, Person]]) -> None:
    text = io.StringIO()
    writer = Writer(text, lineterminator="\n")
    writer.writerow(TABLE_HEADER)
    for case, person in rows:
        scanner = PHANTOM_SCANNERS[case.domain]
        model, manufacturer = scanner.model, scanner.manufacturer
        if case.amos_id == 539:
            model, manufacturer = ACHIEVA
        writer.writerow(
            [
                500 if case.amos_id == 600 else case.amos_id,  # AMOS's table has 500 twice and no 600
                f"{person.birth:%Y%m%d}",
                person.sex,
                "" if person.age is None else f"{person.age:03d}Y",
                model,
                manufacturer,
                f"{person.acquired:%Y%m%d}",
                case.site,
            ]
        )
    write_text(path, text.getvalue())


def _dataset(chosen: list[ListedCase], contrast: Contrast) -> dict[str, object]:
    def pairs(split: str) -> list[dict[str, str]]:
        folder = FOLDERS[split]
        return [
            {"image": f"./images{folder}/{c.name}.nii.gz", "label": f"./labels{folder}/{c.name}.nii.gz"}
            for c in chosen
            if c.split == split
        ]

    names = {0: "background", **AMOS_ORGANS, 8: "arota", 9: "postcava"}  # spelled as in AMOS's own file
    return {
        "name": "AMOS",
        "description": f"{PHANTOM_MARK}{' of random contrast' if contrast == 'random' else ''} in the layout of AMOS22",
        "author": "",
        "reference": "",
        "licence": "Apache-2.0",
        "release": "1.0 01/05/2022",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(value): name for value, name in names.items()},
        "numTraining": len(pairs("train")),
        "numValidation": len(pairs("val")),
        "numTest": len(pairs("test")),
        "training": pairs("train"),
        "validation": pairs("val"),
        "test": pairs("test"),
    }
