"""Find out what the label values of a folder of label maps mean, from files beside them."""

import json
from pathlib import Path
from typing import Any

from amos_fl.cohort.organ_names import difference_in_words
from amos_fl.cohort.table import read_organs
from amos_fl.errors import AmosError

OUTPUTS = "predictions"
"""The folder in which runs and evaluations keep label maps, one folder per site, below their `organs.csv`."""


def organs_beside(path: Path) -> tuple[Path, dict[int, str]] | None:
    """The file that says what the label values of a file or folder of label maps mean, and its organs.

    It is an `organs.csv`, the `predict.json` of `amos-fl predict`, or a `dataset.json` as nnU-Net, the Medical
    Segmentation Decathlon and AMOS write it, in the folder itself, or above one like `labelsTr` or `predictions/SITE`.
    None if there is none, or none in such a form.

    Raises:
        AmosError: an `organs.csv` that cannot be read.
    """
    folder = path.parent if path.is_file() else path
    above = [folder.parent] if folder.name.startswith(("labels", "images")) or folder.parent.name == OUTPUTS else []
    for place in (folder, *above):
        if (place / "organs.csv").is_file():
            return place / "organs.csv", read_organs(place / "organs.csv")
        for name, key in (("predict.json", "organs"), ("dataset.json", "labels")):
            if (place / name).is_file() and (found := _organs_in(place / name, key)):
                return place / name, found
    return None


def _organs_in(file: Path, key: str) -> dict[int, str]:
    """The organs in a JSON file, written as `"1": "liver"` or as `"liver": 1`, without background."""
    try:
        labels: dict[str, Any] = json.loads(file.read_text(encoding="utf-8-sig"))[key]
        pairs = [(int(k), str(v)) if k.strip().isdecimal() else (int(v), k) for k, v in labels.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {label: name for label, name in pairs if 0 < label < 256 and name.casefold() not in ("background", "ignore")}


def check_meaning(path: Path | None, organs: dict[int, str], whose: str) -> None:
    """Refuse label maps whose stated label values mean other organs than `organs` (those of `whose`).

    Raises:
        AmosError: naming the file, the label value and both organs.
    """
    beside = organs_beside(path) if path is not None else None
    if beside is None:
        return
    file, said = beside
    if differ := difference_in_words(said, organs, ("there", f"in {whose}")):
        raise AmosError(
            f"{file}: {differ}; renumber the label maps ('amos-fl data relabel'), or say with --organs organs.csv what "
            "the label values of both mean"
        )
