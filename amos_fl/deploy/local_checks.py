"""Check what a site needs on its own machine: versions, key, settings, scans, GPU and disk."""

import math
import os
import shutil
from pathlib import Path
from typing import Protocol

from amos_fl.cohort.organ_names import difference_in_words
from amos_fl.cohort.table import Case, Cohort, Split, read_cohort, read_organs
from amos_fl.deploy.findings import Finding, holds, skipped, wrong
from amos_fl.deploy.keys import fingerprint, read_private_key, read_public_key, site_of_public_key, spoken_fingerprint
from amos_fl.deploy.layout import DEMONSTRATION_KEY, ORGANS, PUBLIC_KEY, SITE, SiteConnection, versions
from amos_fl.errors import AmosError

BYTES_PER_VOXEL = 5
"""A prepared voxel before compression: float32 of the scan and uint8 of its label map."""
RESERVE_BYTES = 2 * 1024**3
"""Additional bytes needed for weights, state and logs."""


_CHECK_DATA = "run 'amos-fl data check' on the data folder"


class SitePlace(Protocol):
    """The part of a site's settings with the places of its files."""

    @property
    def site(self) -> str: ...
    @property
    def cohort(self) -> Path: ...
    @property
    def store(self) -> Path: ...
    @property
    def state(self) -> Path: ...
    @property
    def device(self) -> str: ...
    @property
    def refuse_evaluation_on(self) -> tuple[Split, ...]: ...


def check_version(connection: SiteConnection) -> Finding:
    """Check that this is the amos-fl version that the coordinator deploys."""
    here = versions()["amos_fl"]
    if here != connection.amos_fl:
        return wrong(
            "version of amos-fl",
            f"{here} here, {connection.amos_fl} at the SuperLink (by the bundle)",
            f"install amos-fl {connection.amos_fl}, or the image of this deployment; "
            "if the SuperLink was upgraded meanwhile, ask for a new bundle",
        )
    return holds("version of amos-fl", f"{here}, as at the SuperLink (by the bundle)")


def check_key(folder: Path, connection: SiteConnection) -> Finding:
    """Check that the site's key can be used, and whether it is the site's own."""
    path = folder / connection.key
    try:
        key = read_private_key(path)
    except AmosError as error:
        return wrong("key", error.what, error.remedy)
    mark, spoken = fingerprint(key.public_key()), spoken_fingerprint(key.public_key())
    try:
        public = fingerprint(read_public_key(folder / PUBLIC_KEY))
    except AmosError:
        public = mark  # sent and removed; it is not needed here
    if public != mark:
        return wrong(
            "key",
            f"{PUBLIC_KEY} is not the public half of {connection.key}",
            "restore both from one backup, or make new ones with 'amos-fl deploy enroll --replace'",
        )
    if (site := site_of_public_key(folder / PUBLIC_KEY)) not in (None, connection.site):
        return wrong(
            "key",
            f"{PUBLIC_KEY} is the key of site {site}, and {SITE} is of site {connection.site}",
            "restore this site's own key from its backup, or make one with 'amos-fl deploy enroll --replace'",
        )
    if connection.key == DEMONSTRATION_KEY:
        return holds("key", f"{spoken}; made centrally, for the demonstration only")
    return holds("key", spoken)


def check_scans(place: SitePlace) -> tuple[Finding, tuple[Case, ...]]:
    """Check that the cohort file names only scans of this site, and that all can be opened."""
    from amos_fl.cohort.reference import check_header_of

    where, site = place.cohort.parent, place.site
    try:
        if not where.is_dir() or not any(where.iterdir()):
            remedy = "put the scans and cohort.csv there, or mount them there"
            return wrong("scans", f"{where} is empty or not there", remedy), ()
        cohort = read_cohort(place.cohort)
    except AmosError as error:
        return wrong("scans", error.what, error.remedy or "correct the cohort file"), ()
    except PermissionError:
        remedy = f"let the user with id {os.getuid()} read the folder and what is in it"
        return wrong("scans", f"{where} cannot be read", remedy), ()
    if cohort.sites != (site,):
        others = ", ".join(name for name in cohort.sites if name != site)
        found = f"{place.cohort.name} names cases of site {others}"
        return wrong("scans", found, f"keep the cases of site {site} only"), ()
    for case in cohort.cases:
        for file in (case.image, case.label):
            if file is None:
                continue
            try:
                with file.open("rb") as opened:
                    empty = not opened.read(1)
            except FileNotFoundError:
                return wrong("scans", f"{case.case}: {file.name} is not there", "correct cohort.csv or the mount"), ()
            except OSError:
                remedy = f"let the user with id {os.getuid()} read the folder and what is in it"
                return wrong("scans", f"{case.case}: {file.name} cannot be read", remedy), ()
            if empty:
                return wrong("scans", f"{case.case}: {file.name} is an empty file", "copy it again"), ()
        try:
            check_header_of(case)
        except AmosError as error:
            return wrong("scans", f"{case.case}: {error.what}", error.remedy or _CHECK_DATA), ()
    counts = ", ".join(f"{len(cohort.of(split=split))} {split}" for split in ("train", "val", "test"))
    labelled = sum(case.label is not None for case in cohort.cases)
    if not labelled:
        return wrong("scans", f"{counts}, none with a label map", "name the label maps in cohort.csv"), ()
    return holds("scans", f"{counts}; {labelled} with a label map{_single(cohort, place)}"), cohort.cases


def _single(cohort: Cohort, place: SitePlace) -> str:
    """A note on each split with a single case to score, whose scores leave as sums of one."""
    scored: tuple[Split, ...] = ("val", "test")
    alone = [
        split
        for split in scored
        if split not in place.refuse_evaluation_on and len(cohort.of(split=split, labelled=True)) == 1
    ]
    if not alone:
        return ""
    named = ", ".join(f"1 {split} case" for split in alone)
    return f"; {named}: sums are its scores; refuse_evaluation_on: [{', '.join(alone)}] keeps them here"


def check_organs(folder: Path, place: SitePlace) -> Finding:
    """Check that the label values of the site's cases mean the organs that the deployment's runs learn."""
    if not (folder / ORGANS).is_file():
        remedy = "ask the coordinator for a new bundle; this one is of a version that did not say"
        return wrong("organs", f"{folder / ORGANS} is not there: what the runs learn is not known here", remedy)
    try:
        learns, cohort = read_organs(folder / ORGANS), read_cohort(place.cohort)
    except AmosError as error:
        return wrong(
            "organs", error.what, error.remedy or "unpack the coordinator's bundle again, or correct organs.csv"
        )
    used = {organ for case in cohort.cases if case.label is not None for organ in case.annotated}
    if differ := difference_in_words(cohort.organs, learns, ("in the site's cohort", "in the deployment"), used):
        return wrong(
            "organs",
            differ,
            "renumber the label maps with 'amos-fl data relabel', or correct organs.csv beside cohort.csv if only the "
            "names there are wrong (without that file the numbers are AMOS's)",
        )
    told = ", ".join(f"{organ} {learns[organ]}" for organ in sorted(used & set(learns)))
    return holds("organs", f"{told or 'none'} annotated here; the runs learn {len(learns)}")


def check_device(place: SitePlace) -> Finding:
    """Check that the device in the settings exists."""
    if place.device == "cpu":
        return holds("device", "cpu")
    from amos_fl.device import device_named  # it brings torch, which a SuperNode does without

    try:
        device = device_named(place.device)
    except AmosError as error:
        return wrong(
            "device",
            error.what,
            "give the container a GPU (see the page on deploying), or set 'device: cpu' in settings.yaml",
        )
    return holds("device", device if device == place.device else f"{device} ({place.device})")


def check_disk(place: SitePlace, cases: tuple[Case, ...]) -> Finding:
    """Check that the store's disk has room for the prepared scans, from their headers alone."""
    if not cases:
        return skipped("disk", "needs: scans")
    for folder in (place.store, place.state):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".check-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            found = f"{folder} may not be written ({error.strerror or type(error).__name__})"
            return wrong("disk", found, f"let the user with id {os.getuid()} write there, or mount a volume there")
    try:
        need = sum(_voxels(case.image) for case in cases) * BYTES_PER_VOXEL
    except AmosError as error:
        return wrong("disk", error.what, _CHECK_DATA)
    there = sum(file.stat().st_size for file in place.store.rglob("*.b2nd"))
    free = shutil.disk_usage(place.store).free
    wanted = max(0, need - there) + RESERVE_BYTES
    text = f"{_size(free)} free for {place.store}, {_size(wanted)} wanted"
    if free < wanted:
        return wrong("disk", text, "free some, or put 'store' in settings.yaml on a larger disk")
    return holds("disk", text)


def _voxels(path: Path) -> int:
    from amos_fl.volumes.nifti import read_geometry

    return math.prod(read_geometry(path, header_only=True)[0])


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
