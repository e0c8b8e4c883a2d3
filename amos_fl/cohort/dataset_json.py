"""Read `dataset.json` of the Medical Segmentation Decathlon and of both versions of nnU-Net."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.strict import load_json

NAME = "dataset.json"


def read_description(folder: Path, what: str) -> dict[str, Any]:
    """Read the description of a dataset (`what`: the kind expected, such as `a task of ...`).

    Raises:
        AmosError: no such folder, no such file in it, or one that cannot be read.
    """
    if not folder.is_dir():
        raise AmosError(f"{folder}: no such folder; give the folder of {what}")
    file = folder / NAME
    if not file.is_file():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{NAME}"))
        hint = f"it has the folders {', '.join(inside[:5])} with one; give one of them" if inside else f"give {what}"
        raise AmosError(f"{folder}: holds no {NAME}; {hint}")
    try:
        about = load_json(file.read_text(encoding="utf-8-sig"), file)
    except (OSError, ValueError):
        raise AmosError(f"{file}: cannot be read as JSON; fetch it again") from None
    if not isinstance(about, dict) or not isinstance(about.get("labels"), dict):
        raise AmosError(f"{file}: does not say which organ has which label under 'labels'; is this {what}?")
    return about


def numbered_labels(labels: Mapping[str, Any], file: Path) -> dict[str, int]:
    """Names and values of labels written as `"1": "liver"`.

    Raises:
        AmosError: a key that is not a number, or a name that is not text.
    """
    found: dict[str, int] = {}
    for value, name in labels.items():
        if not str(value).strip().isdecimal() or not isinstance(name, str) or not name.strip():
            raise AmosError(f'{file}: labels must be written as \'"1": "liver"\', and one is {value!r}: {name!r}')
        if name in found and int(value) != 0:
            raise AmosError(f"{file}: two labels are called {name!r}; every label needs its own name")
        found[name] = int(value)
    return found


def stated_numbers(about: Mapping[str, Any], taken: Mapping[str, int]) -> list[str]:
    """Notes if a description's number of cases (`numTraining`, `numTest`) differs from the number taken."""
    notes = []
    for key, number in taken.items():
        said = str(about.get(key))
        if said.isdecimal() and int(said) != number:
            taken_too = f"{number} {'was' if number == 1 else 'were'} taken"
            notes.append(f"{NAME} says {key} {said}, and {taken_too}; is the download whole?")
    return notes


def file_in(folder: Path, name: Any) -> Path:
    """The file that a description names, with slashes of either kind."""
    return folder / str(name).replace("\\", "/")


def channels_of(channels: Any, file: Path) -> list[str]:
    """The names of a scan's channels in their order, from `{"0": "CT"}`.

    Raises:
        AmosError: they are not in this form.
    """
    try:
        ordered = sorted((int(number), str(name)) for number, name in channels.items())
    except (AttributeError, ValueError, TypeError):
        ordered = []
    if not ordered or [number for number, _ in ordered] != list(range(len(ordered))):
        raise AmosError(f'{file}: must name its channels as \'"0": "CT"\', counted from 0')
    return [name for _, name in ordered]


def chosen_channel(names: list[str], channel: int | None, folder: Path) -> int:
    """The channel to use, of those that a scan has.

    Raises:
        AmosError: several without a choice, or a choice that is not among them.
    """
    shown = ", ".join(f"{number} {name}" for number, name in enumerate(names))
    if channel is None and len(names) > 1:
        raise AmosError(
            f"{folder}: its scans have {len(names)} channels ({shown}), and a scan here has one; choose --channel"
        )
    if channel is not None and not 0 <= channel < len(names):
        raise AmosError(f"--channel {channel}: the scans of {folder} have {shown}")
    return channel or 0
