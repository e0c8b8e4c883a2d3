"""The phantom in experiments: as a data set of its own, and as a stand-in for others in their quick form.

A stand-in has the Decathlon's layout and becomes a cohort as with `amos-fl data msd`. All are in the user's cache,
made once for each version of the phantom.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Image

import amos_fl.phantom
from amos_fl.cohort.amos22 import import_amos22
from amos_fl.cohort.dataset import imported_cohort
from amos_fl.cohort.msd import read_msd
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import PHANTOM_MARK, OnCase, write_cohort
from amos_fl.experiments.data import StandIn, data_sets
from amos_fl.files import sha256_of_file, sha256_of_json, whole_folder, write_json
from amos_fl.phantom.release import ListedCase, listed_cases, write_release

SEED, OTHER_PATIENTS = 2, 5
"""Seeds of the phantoms: the stand-in for AMOS, and the one for other data sets."""
Wanted = tuple[str, str | None, str | None, int]
"""Scanner, hospital and part of the release (none: any), and how many of these cases."""
_QUICK: tuple[Wanted, ...] = (
    *((site, None, split, number) for site in "ABC" for split, number in (("train", 2), ("val", 1), ("test", 1))),
    *(("D", None, "test", 1), ("E", None, "test", 1)),
    # F trains under `release` and is unseen under `paper`; G's cases of the Central Hospital test under `paper`.
    *(("F", None, "train", 1), ("F", None, "test", 1), ("G", "people", "train", 2), ("G", "people", "val", 1)),
    *(("G", "center", "test", 1), ("H", None, "train", 1), ("H", None, "val", 1)),
)
_FULL: tuple[Wanted, ...] = (
    # As many training cases as in the demonstration, and enough test cases for intervals and tests.
    *((site, None, split, number) for site in "ABC" for split, number in (("train", 7), ("val", 2), ("test", 8))),
    *(("D", None, "test", 8), ("E", None, "test", 8), ("F", "center", None, 14)),
    *(("G", "people", None, 9), ("G", "center", None, 11), ("H", None, None, 7)),
)


_SCANNERS: tuple[Wanted, ...] = (
    # Whichever scanner is held out has test cases enough for an interval: F and H all that they have.
    *((site, None, split, number) for site in "ABC" for split, number in (("train", 7), ("val", 2), ("test", 6))),
    *(("F", None, None, 29), ("G", "people", None, 9), ("G", "center", None, 11), ("H", None, None, 7)),
)
PHANTOMS: dict[str, tuple[int, tuple[Wanted, ...]]] = {
    "phantom": (4, _FULL),
    "phantom-scanners": (6, _SCANNERS),
    "phantom-pilot": (9, _SCANNERS),
}
"""The data sets that are phantoms: their seeds and their cases."""


def chosen_cases(wanted: Iterable[Wanted]) -> list[int]:
    """The ids of the phantom's cases, as many per scanner, hospital and part as wanted."""
    chosen: list[int] = []
    for domain, hospital, split, number in wanted:
        mine = [c for c in listed_cases().values() if c.domain == domain and split in (None, c.split)]
        chosen += [c.amos_id for c in mine if hospital in (None, c.site)][:number]
    return sorted(chosen)


def phantom_data(name: str, cache: Path, on_case: OnCase | None = None) -> Path:
    """The release that is a data set of `PHANTOMS` in full."""
    seed, wanted = PHANTOMS[name]
    return _release(cache, seed, chosen_cases(wanted), on_case)


def quick_data(name: str, cache: Path, on_case: OnCase | None = None) -> Path:
    """The stand-in for a data set, made if it does not exist: a release for AMOS, a cohort for any other."""
    stand_in, quick_cases = data_sets()[name].stand_in, chosen_cases(_QUICK)
    if stand_in is None:
        return _release(cache, SEED, quick_cases, on_case)
    cases = [c for c in listed_cases().values() if c.domain == stand_in.scanner and c.amos_id in quick_cases]
    key = sha256_of_json([_sources(), OTHER_PATIENTS, stand_in.model_dump(), sha256_of_file(__file__)])[:12]
    folder = cache / f"phantom-{name}-{key}"
    if not folder.is_dir():
        release = _release(cache, OTHER_PATIENTS, [c.amos_id for c in cases], on_case)
        with whole_folder(folder) as beside:
            _relabelled(release, beside, cases, stand_in)
    return folder


def _sources() -> list[str]:
    return [sha256_of_file(file) for file in sorted(Path(amos_fl.phantom.__path__[0]).glob("*.py"))]


def _release(cache: Path, seed: int, cases: list[int], on_case: OnCase | None) -> Path:
    root = cache / f"phantom-quick-{sha256_of_json([_sources(), seed, cases])[:12]}"
    if not root.is_dir():
        with whole_folder(root) as beside:
            write_release(beside, seed=seed, size="quick", cases=cases, on_case=on_case)
    return root


def _relabelled(release: Path, folder: Path, cases: list[ListedCase], stand_in: StandIn) -> None:
    """Make a task in the Decathlon's layout from the release's cases, with some organs labelled; returns its cohort."""
    value_of = {organ: value for value, organ in AMOS_ORGANS.items()}
    table = np.zeros(max(AMOS_ORGANS) + 1, np.uint8)
    organs = dict(enumerate(stand_in.organs, start=1))
    for value, organ in organs.items():
        table[[value_of[part] for part in stand_in.organs[organ]]] = value
    sources = {case.case: case for case in import_amos22(release, protocol="paper").cohort.cases}
    pairs = []
    for number, case in enumerate(cases, start=1):
        source = sources[case.name]
        assert source.label is not None
        image, label = (f"{kind}Tr/case_{number:04d}.nii.gz" for kind in ("images", "labels"))
        for file in (image, label):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).write_bytes(source.image.read_bytes())
        drawn = Nifti1Image.from_filename(source.label)
        whole = table[np.asarray(drawn.dataobj).astype(np.intp)]
        Nifti1Image(whole, drawn.affine).to_filename(folder / label)
        pairs.append({"image": image, "label": label})
    description = {
        "name": "hospital",
        "description": f"{PHANTOM_MARK}, some organs labelled",
        "modality": {"0": "MRI" if cases[0].modality == "MR" else "CT"},
        "labels": {"0": "background"} | {str(value): organ for value, organ in organs.items()},
        "numTraining": len(pairs),
        "training": pairs,
        "test": [],
    }
    write_json(folder / "dataset.json", description)
    write_cohort(imported_cohort(read_msd(folder), site="hospital", split="50,25,25").cohort, folder / "cohort.csv")
