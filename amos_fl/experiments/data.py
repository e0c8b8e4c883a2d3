"""The data that experiments need: the data sets, their locations, and the cohorts made from them.

`shared/data.yaml` lists the sets. AMOS is given as the folder of its release and imported under each protocol that a
preset asks for; the phantom is generated; the Decathlon's hippocampus is given as its task's folder; every other set is
given as a cohort. A quick experiment uses the phantom as AMOS and, for another set, other phantom patients with only
that set's organs labelled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field

from amos_fl.cohort.amos22 import import_amos22
from amos_fl.cohort.dataset import imported_cohort
from amos_fl.cohort.label_map import LabelMap, suggested
from amos_fl.cohort.msd import read_msd
from amos_fl.cohort.organ_names import organ_key
from amos_fl.cohort.protocols import Protocol
from amos_fl.cohort.table import Cohort, Modality, read_cohort, write_cohort
from amos_fl.errors import AmosError
from amos_fl.experiments.hippocampus import sites_of
from amos_fl.experiments.shared import shared
from amos_fl.files import sha256_of_json, write_text
from amos_fl.randomness import generator
from amos_fl.runs.layers import read_yaml
from amos_fl.wording import nearest


class StandIn(BaseModel):
    """A data set's stand-in in a quick experiment: patients of a phantom scanner, with some organs labelled."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    scanner: str
    organs: dict[str, tuple[str, ...]] = Field(description="what each is of AMOS's organs, in the order of the labels")


class DataSet(BaseModel):
    """A data set that experiments name. `make` is the command that makes its cohort."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    title: str
    kind: Literal["amos22", "phantom", "msd", "cohort"] = "cohort"
    make: str
    training_sites: int = 5
    label_map: dict[str, tuple[str, ...]] = Field(default={}, description="organs that no name tells to equal others")
    stand_in: StandIn | None = None


@cache
def data_sets() -> dict[str, DataSet]:
    """Every data set that a preset may name."""
    return {name: DataSet.model_validate(entry) for name, entry in shared("data").items()}


class MissingDataError(AmosError):
    """A data set is missing; the message says how to get it."""


def parse_given(texts: list[str]) -> dict[str, Path]:
    """`NAME=PATH` options as paths by data set.

    Raises:
        AmosError: no `=`, an unknown data set, or no such path.
    """
    given = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals:
            raise AmosError(f"--data {text}: must have the form NAME=PATH, like amos=path/to/amos22")
        if name not in data_sets():
            raise AmosError(f"--data {text}: no data set {name!r}; {nearest(name, data_sets())}")
        if not Path(path).exists():
            raise AmosError(f"--data {text}: {path} is not there")
        given[name] = Path(path).resolve()
    return given


def remembered(file: Path, given: Mapping[str, Path]) -> dict[str, Path]:
    """The data sets given now and earlier; those given now are saved to `file` for the next time."""
    before = {name: Path(path) for name, path in (read_yaml(file) if file.is_file() else {}).items()}
    together = {**before, **given}
    if together != before:
        write_text(file, yaml.safe_dump({name: str(path) for name, path in sorted(together.items())}))
    return together


def data_cohort(name: str, protocol: str, given: Mapping[str, Path], hold_out: Sequence[str] = ()) -> Cohort:
    """The cohort of a data set; for AMOS under a protocol, unless a cohort is given instead of the release.

    Of sites held out a release's cases all test; of another cohort's, its test cases alone are left.

    `paper|public` means the first of these with labels.

    Raises:
        MissingDataError: it is not given, or has no test labels where the protocol needs them.
        AmosError: what is given cannot be read.
    """
    about = data_sets()[name]
    if name not in given:
        raise MissingDataError(
            f"{name} ({about.title}) is not given; {about.make}, and add --data {name}=PATH"
            if about.kind == "cohort"
            else f"{name} ({about.title}) is not given; {about.make}"
        )
    path = given[name]
    if about.kind == "msd" and path.is_dir() and not (path / "cohort.csv").is_file():
        dataset = read_msd(path)
        return imported_cohort(dataset, table=sites_of(dataset)).cohort.holding_out(hold_out)
    is_cohort = about.kind in ("cohort", "msd") or path.suffix == ".csv"
    if is_cohort or ((path / "cohort.csv").is_file() and not _is_release(path)):
        return read_cohort(path).holding_out(hold_out)
    first, _, others = protocol.partition("|")
    try:
        return import_amos22(path, protocol=cast(Protocol, first or "public"), hold_out=hold_out).cohort
    except AmosError as error:
        if error.code == "no-test-labels":
            if others:
                return data_cohort(name, others, given, hold_out)
            raise MissingDataError(
                f"{name}/{first}: {path} has no labels of the test images, which AMOS does not publish; "
                "if you have them, put them into labelsTs"
            ) from None
        raise


def label_map_of(name: str, organs: Mapping[int, str], others: Mapping[int, str]) -> LabelMap:
    """The label map from a data set's cohort to a network's organs: by name, and from `shared/data.yaml`."""
    known = {organ_key(organ) for organ in others.values()}
    listed = {organ_key(organ): equals for organ, equals in data_sets()[name].label_map.items()}
    told = {
        organ: listed[organ_key(organ)]
        for organ in organs.values()
        if organ_key(organ) in listed and {organ_key(other) for other in listed[organ_key(organ)]} <= known
    }
    return {**suggested(organs, others), **told}


def _is_release(path: Path) -> bool:
    return any((folder / "dataset.json").is_file() for folder in (path, *path.glob("*")))


def selected(cohort: Cohort, modality: Modality | None, take: Mapping[Modality, int]) -> Cohort:
    """The labelled cases of one modality, or of both; with `take`, that many training cases of each, drawn.

    The draw is a function of the case names alone: the same on every machine, whatever the seed of the run.

    Raises:
        AmosError: there are too few, or no case is left.
    """
    cases = [c for c in cohort.cases if c.label is not None and modality in (None, c.modality)]
    for of, wanted in sorted(take.items()):
        names = sorted((c.case, c.site) for c in cases if c.modality == of and c.split == "train")
        if len(names) < wanted:
            raise AmosError(f"this experiment trains on {wanted} {of} cases, and the cohort has {len(names)}")
        order = generator(0, "experiment", "training cases", of).permutation(len(names))
        drawn = {names[i] for i in order[:wanted]}
        cases = [c for c in cases if (c.modality, c.split) != (of, "train") or (c.case, c.site) in drawn]
    if not cases:
        raise AmosError(f"the cohort has no labelled case{f' in {modality}' if modality else ''}")
    return replace(cohort, cases=tuple(cases))


def write_selection(folder: Path, name: str, cohort: Cohort) -> tuple[Path, Cohort]:
    """Write a cohort once below `folder`, named by its content; returns its file and the cohort as read."""
    key = sha256_of_json([cohort.content_hash(), sizes_of(cohort), sorted({str(c.image.parent) for c in cohort.cases})])
    file = folder / f"{name}-{key[:8]}" / "cohort.csv"
    if not file.is_file():
        write_cohort(cohort, file)
    return file, read_cohort(file)


def sizes_of(cohort: Cohort) -> list[int]:
    """The size of every scan's file, which tells cohorts with the same names but other scans apart."""
    try:
        return [case.image.stat().st_size for case in cohort.cases]
    except OSError as error:
        raise AmosError(f"{error.filename}: no such scan; check the cohort with: amos-fl data check") from None
