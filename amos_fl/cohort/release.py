"""Read an AMOS22 release from disk: its folders and `dataset.json`, with notes on anything odd."""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.protocols import Part
from amos_fl.cohort.scanners import published_cases
from amos_fl.cohort.table import Split
from amos_fl.errors import AmosError
from amos_fl.scan_files import importable, scans_in, shown
from amos_fl.strict import load_json
from amos_fl.wording import case_name, case_names, counted

PARTS: tuple[Part, ...] = ("Tr", "Va", "Ts")
_DEEPEST = 3
_FILE_NAME = re.compile(r"amos_(\d{4})")
_PART_SPLIT: dict[Part, Split] = {"Tr": "train", "Va": "val", "Ts": "test"}
_RELEASE_SPELLING = {8: "arota", 9: "postcava"}


@dataclass(frozen=True)
class ReleaseCase:
    """An image of the release, its part (imagesTr, imagesVa, imagesTs), and its label if it has one."""

    amos_id: int
    part: Part
    image: Path
    label: Path | None


@dataclass(frozen=True)
class Release:
    """The folder that holds imagesTr, its cases by id, and notes on anything odd."""

    folder: Path
    cases: dict[int, ReleaseCase]
    notes: tuple[str, ...]


def read_release(root: Path) -> Release:
    """Find the release in or below `root` and list its cases.

    Raises:
        AmosError: no imagesTr within three folders, several, no scan in it, two files of one case, or a damaged
            `dataset.json`.
    """
    folder = _release_folder(root)
    notes: list[str] = []
    cases: dict[int, ReleaseCase] = {}
    for part in PARTS:
        for case in _cases_of_part(folder, part, notes):
            other = cases.get(case.amos_id)
            if other is None:
                cases[case.amos_id] = case
                continue
            # The challenge of May 2022 gave today's imagesVa as imagesTs; both may have been unpacked here.
            better = case if other.label is None and case.label is not None else other
            cases[case.amos_id] = better
            notes.append(
                f"{case_name(case.amos_id)} is in images{other.part} and images{part}; images{better.part} counts"
            )
    if not cases:
        raise AmosError(f"{folder}: its image folders hold no amos_0001.nii.gz or the like; unpack the release again")
    notes += _beside_json(folder / "dataset.json", cases)
    notes += _beside_published(cases)
    return Release(folder, dict(sorted(cases.items())), tuple(notes))


def _release_folder(root: Path) -> Path:
    if not root.is_dir():
        raise AmosError(f"{root}: no such folder; give the folder in which amos22.zip was unpacked")
    level = [root]
    for _ in range(_DEEPEST + 1):
        found = [folder for folder in level if (folder / "imagesTr").is_dir()]
        if len(found) > 1:
            names = " and ".join(str(folder.relative_to(root)) for folder in found)
            raise AmosError(f"{root}: holds several releases, in {names}; give one of these folders")
        if found:
            return found[0]
        level = [
            child
            for folder in level
            for child in sorted(folder.iterdir())
            if child.is_dir() and child.name != "__MACOSX" and not child.name.startswith(".")
        ]
    archives = sorted(path.name for path in root.glob("*.zip"))
    remedy = f"unpack {archives[0]} first" if archives else "give the folder in which amos22.zip was unpacked"
    raise AmosError(f"{root}: no folder imagesTr in it or up to {_DEEPEST} folders below; {remedy}")


def folders_between(root: Path, folder: Path) -> list[Path]:
    """`folder`, its parents, up to and including `root`."""
    between = [folder]
    while between[-1] != root:
        between.append(between[-1].parent)
    return between


def _cases_of_part(folder: Path, part: Part, notes: list[str]) -> list[ReleaseCase]:
    images = _scans(folder / f"images{part}", notes)
    labels = _scans(folder / f"labels{part}", notes)
    if alone := set(labels) - set(images):
        notes.append(f"labels{part}: label without image: {case_names(alone)}")
    return [ReleaseCase(amos_id, part, image, labels.get(amos_id)) for amos_id, image in images.items()]


def _scans(folder: Path, notes: list[str]) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    found = scans_in(folder)
    notes += importable(found)
    scans: dict[int, Path] = {}
    strangers = list(found.others)
    for name, path in found.scans.items():
        if number := _FILE_NAME.fullmatch(name):
            scans[int(number[1])] = path
        else:
            strangers.append(path.name)
    if strangers:
        some = ", ".join(map(shown, sorted(strangers)[:3])) + (" ..." if len(strangers) > 3 else "")
        notes.append(f"{folder.name}: {counted(len(strangers), 'file')} not named as in AMOS ignored: {some}")
    return scans


def _beside_json(path: Path, cases: dict[int, ReleaseCase]) -> list[str]:
    """Notes where `dataset.json` differs from the folders. Its `modality` says CT for MR too and is not read."""
    if not path.is_file():
        return ["no dataset.json: the folders alone say which cases there are"]
    damaged = f"{path}: is damaged or not AMOS's; fetch it again, or remove it to use the folders alone"
    try:
        content = load_json(path.read_text(encoding="utf-8-sig"), path)
        named: dict[int, Part] = {}
        for section in ("training", "validation", "test"):
            for entry in content.get(section) or ():
                amos_id, part = _named_case(entry)
                named.setdefault(amos_id, part)
        labels = {int(value): str(name) for value, name in (content.get("labels") or {}).items()}
    except (UnicodeDecodeError, ValueError, AttributeError, KeyError, TypeError):
        raise AmosError(damaged) from None
    notes: list[str] = []
    by_part: dict[Part, set[int]] = defaultdict(set)
    for amos_id, part in named.items():
        if amos_id not in cases:
            by_part[part].add(amos_id)
    for part, missing in by_part.items():
        notes.append(f"images{part}: {counted(len(missing), 'case')} of dataset.json missing: {case_names(missing)}")
    if named and (unnamed := set(cases) - set(named)):
        notes.append(
            f"{counted(len(unnamed), 'image')} not named in dataset.json, but taken as well: {case_names(unnamed)}"
        )
    if moved := {i for i, part in named.items() if i in cases and cases[i].part != part}:
        moved_cases = counted(len(moved), "case")
        notes.append(f"{moved_cases} in another folder than dataset.json says; the folder counts: {case_names(moved)}")
    for value, name in labels.items():
        ours = {AMOS_ORGANS.get(value, ""), _RELEASE_SPELLING.get(value, "")}
        if value and name.strip().casefold() not in ours:
            notes.append(f"dataset.json calls label {value} {name!r}; here it is {AMOS_ORGANS.get(value, 'no organ')}")
    return notes


def _named_case(entry: Any) -> tuple[int, Part]:
    """The case of an entry, which is a path (the challenge's test list) or {"image": path, ...}."""
    path = entry if isinstance(entry, str) else entry["image"]
    found = re.search(r"images(Tr|Va|Ts)[/\\]+amos_(\d{4})", path)
    if found is None:
        raise ValueError(path)
    part: Part = next(part for part in PARTS if part == found[1])
    return int(found[2]), part


def _beside_published(cases: dict[int, ReleaseCase]) -> list[str]:
    """Notes where it differs from the published release: cases that are absent or in another part."""
    published = published_cases()
    notes: list[str] = []
    for part in ("Tr", "Va"):
        expected = {i for i, case in published.items() if case.release_split == _PART_SPLIT[part]}
        if absent := expected - set(cases):
            notes.append(
                f"images{part}: {len(absent)} of the release's {len(expected)} cases absent: {case_names(absent)}"
            )
    moved = {i for i, case in cases.items() if i in published and published[i].release_split != _PART_SPLIT[case.part]}
    if moved and not any(case.part == "Va" for case in cases.values()):
        notes.append("this is the challenge's first release: its imagesTs became imagesVa later, with labels")
    elif moved:
        notes.append(
            f"{counted(len(moved), 'case')} in another part than in the published release: {case_names(moved)}"
        )
    return notes
