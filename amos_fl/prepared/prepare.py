"""Prepare cases once: canonical orientation, crop to the body, resampling, normalisation, and the store.

The key of a prepared case is a hash of the content of its files and of every setting it depends on, so a
changed file or setting makes a new entry and an unchanged one is found at once, by any process.
"""

import errno
import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

import numpy as np
from scipy import ndimage

from amos_fl.cohort.reference import label_of
from amos_fl.cohort.table import Case, OnCase
from amos_fl.errors import AmosError, DiskFull, all_of
from amos_fl.files import remove_abandoned, sha256_of_json, write_json
from amos_fl.prepared.image import prepare_image
from amos_fl.prepared.store import FORMAT, PreparedCase, open_prepared, write_prepared
from amos_fl.randomness import generator
from amos_fl.scan_files import check_file, parts_of, sha256_of_scan
from amos_fl.stopping import at_once
from amos_fl.volumes.body import crop
from amos_fl.volumes.nifti import read_image, reconcile, to_canonical
from amos_fl.volumes.plan import Plan
from amos_fl.volumes.resample import resample_label
from amos_fl.warned import heard, warn
from amos_fl.workers import each_tried

FOREGROUND_VOXELS = 2000
"""The most positions per organ that the store lists."""
_SETTLED_NS = 2_000_000_000


def content_hash(path: Path, store: Path) -> str:
    """The SHA-256 of a scan's content (both files of a pair), cached in the store by path and file state.

    The state is size, inode, and the times of change of content and of inode. Programs cannot set the last, so a new
    file with an old name and time stamp is recognised. A file that changed within the last two seconds is not cached,
    because it might change again within the resolution of its time stamp.

    Raises:
        AmosError: no such file, or no permission to read it.
    """
    try:
        stamp = _stamp(path)
        if (known := _remembered(path, stamp, store)) is not None:
            return known
        sha256 = sha256_of_scan(path)
    except OSError:
        check_file(path)
        raise
    if time.time_ns() - max(changed_ns for _, _, changed_ns, _ in stamp) > _SETTLED_NS:
        write_json(_hash_file(path, store), {"sha256": sha256, "stamp": stamp})
    return sha256


def _stamp(path: Path) -> list[list[int]]:
    states = (part.stat() for part in parts_of(path))
    return [[s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns] for s in states]


def _hash_file(path: Path, store: Path) -> Path:
    name = sha256_of_json(os.path.abspath(path))
    return store / "hashes" / name[:2] / f"{name}.json"


def _remembered(path: Path, stamp: list[list[int]], store: Path) -> str | None:
    """The cached hash of a file in this state; None if there is none or it cannot be read."""
    try:
        known = json.loads(_hash_file(path, store).read_text(encoding="utf-8"))
        return str(known["sha256"]) if known["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remembered_hash(path: Path, store: Path) -> str:
    """As `content_hash`, without reading the file: empty if its hash is not cached."""
    return _remembered(path, _stamp(path), store) or ""


def prepared_key(
    case: Case,
    plan: Plan,
    store: Path,
    organs: Collection[int],
    hash_of: Callable[[Path, Path], str] = content_hash,
) -> str:
    """The key under which `case` is stored: a hash of its files' content and of all settings it depends on."""
    return sha256_of_json(
        {
            "format": FORMAT,
            "case": case.case,
            "site": case.site,
            "modality": case.modality,
            "image": hash_of(case.image, store),
            "label": hash_of(case.label, store) if case.label else None,
            "annotated": sorted(set(case.annotated) & set(organs)),
            "preparation": plan.preparation(),
            # Only if there are any, so that cases prepared earlier are still found.
            **({"label_values": case.label_values} if case.label_values else {}),
        }
    )


def prepare_case(case: Case, plan: Plan, store: Path, organs: Collection[int]) -> PreparedCase:
    """Return the prepared case from the store, preparing it first if it is not there.

    Labels of organs that were not annotated are set to 0. Several processes may prepare the same case.

    Raises:
        AmosError: a file that is missing, unreadable or not a scan. DiskFull: no room in the store.
    """
    store = Path(store)
    try:
        key = prepared_key(case, plan, store, organs)
        folder = store / key[:2] / key
        if not folder.is_dir():
            _tidy(store)
            _prepare(case, plan, folder, organs)
    except MemoryError:
        raise AmosError(
            f"{case.case}: preparing it takes more memory than there is",
            "check its header with 'amos-fl data check', or use fewer workers",
            code="out-of-memory",
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"{case.case}: the disk of {store} is full", "free space or choose another store") from None
        raise AmosError(f"{case.case}: cannot be prepared in {store} ({error.strerror or error})") from error
    prepared = open_prepared(folder)
    for sentence in prepared.warnings:
        warn(sentence)
    return prepared


def _prepare(case: Case, plan: Plan, folder: Path, organs: Collection[int]) -> None:
    with heard() as sentences:
        original = read_image(case.image)
        marked = None
        if case.label is not None:
            marked = reconcile(original, label_of(case, {*organs, *case.annotated}), case.label.name)
    ready = prepare_image(original, case.modality, plan, case.image.name)
    annotated = tuple(sorted(set(case.annotated) & set(organs)))
    label, foreground = None, {}
    if marked is not None:
        kept = np.zeros(256, dtype=np.uint8)
        kept[list(annotated)] = annotated
        label = kept[crop(to_canonical(marked).array, ready.geometry.crop)]
        label = resample_label(label, ready.geometry.spacing_mm, plan.spacing_mm)
        foreground = foreground_positions(label, case.case)
    write_prepared(
        folder,
        image=ready.image,
        label=label,
        foreground=foreground,
        patch=plan.patch,
        meta={
            "case": case.case,
            "site": case.site,
            "modality": case.modality,
            "annotated": list(annotated),
            "warnings": sentences,
            "geometry": asdict(ready.geometry),
            "has_label": label is not None,
            "padding": ready.normalisation.padding,
            "normalisation": asdict(ready.normalisation),
            "preparation": plan.preparation(),
        },
    )


def foreground_positions(label: np.ndarray, case: str) -> dict[int, np.ndarray]:
    """Per organ present in a label map (x, y, z) its voxels' positions (n, 3), int32, in scan order.

    If there are more than `FOREGROUND_VOXELS`, that many are drawn evenly, the same for the same case.
    """
    positions = {}
    for organ, box in enumerate(ndimage.find_objects(label), start=1):
        if box is None:
            continue
        found = np.argwhere(label[box] == organ)
        if len(found) > FOREGROUND_VOXELS:
            drawn = generator(0, "foreground", case, organ).choice(len(found), FOREGROUND_VOXELS, replace=False)
            found = found[np.sort(drawn)]
        # argwhere returns columns; safetensors writes memory in its order and would mix up the axes.
        positions[organ] = np.ascontiguousarray(found + [side.start for side in box], dtype=np.int32)
    return positions


def prepare_cases(
    cases: Sequence[Case],
    plan: Plan,
    store: Path,
    organs: Collection[int],
    *,
    workers: int = 1,
    on_case: OnCase | None = None,
) -> list[PreparedCase]:
    """Prepare cases, `workers` at a time in separate processes; returns them in the order of `cases`.

    `on_case(done, total, case)` is called after each.

    Raises:
        AmosError: as `prepare_case`, naming every case that fails, after the others are prepared; or a worker died.
    """
    work = partial(prepare_case, plan=plan, store=store, organs=organs)
    prepared: dict[int, PreparedCase] = {}
    failed: dict[int, AmosError] = {}
    _tidy(Path(store))
    try:
        with at_once():
            # A process takes seconds to start, and most calls find everything prepared. Hashing is left to the workers.
            several = workers > 1 and len(cases) > 1
            there = [i for i, case in enumerate(cases) if several and _is_prepared(case, plan, Path(store), organs)]
            others = [number for number in range(len(cases)) if number not in set(there)]
            new = each_tried(work, [cases[i] for i in others], workers=workers)
            found = chain(each_tried(work, [cases[i] for i in there], workers=1), new)
            for done, (number, result) in enumerate(zip([*there, *others], found, strict=True), start=1):
                if isinstance(result, AmosError):
                    failed[number] = result
                else:
                    prepared[number] = result
                if on_case:
                    on_case(done, len(cases), cases[number].case)
    except BaseException:
        remove_leftovers(store)  # of workers that did not clean up in time
        raise
    if failed:
        raise all_of([failed[number] for number in sorted(failed)], len(cases), "case")
    return [prepared[number] for number in range(len(cases))]


def _is_prepared(case: Case, plan: Plan, store: Path, organs: Collection[int]) -> bool:
    try:
        key = prepared_key(case, plan, store, organs, _remembered_hash)
    except OSError:
        return False  # reported when it is prepared
    return (store / key[:2] / key).is_dir()


@lru_cache(maxsize=64)
def _tidy(store: Path) -> None:
    """Remove leftovers, once per process and store."""
    remove_leftovers(store)


def remove_leftovers(store: Path) -> None:
    """Remove partial files that dead processes left in a store."""
    for folders in ("*", "hashes/*", "fingerprints/*"):
        remove_abandoned(Path(store).glob(f"{folders}/.*.tmp.*"))
