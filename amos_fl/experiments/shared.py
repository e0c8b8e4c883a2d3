"""Find the presets, and the files that they share."""

from functools import cache
from pathlib import Path
from typing import Any

from amos_fl.safe_yaml import read_yaml_file

_BESIDE = Path(__file__).resolve().parent


def presets_folder() -> Path:
    """The folder of the presets: beside this file in the wheel, or in the checkout."""
    inside = _BESIDE / "presets"
    return inside if inside.is_dir() else _BESIDE.parents[1] / "experiments"


@cache
def shared(name: str) -> dict[str, Any]:
    """A file that the presets share: `paper` and `quick` settings, `data` sets, `costs`."""
    file = presets_folder() / "shared" / f"{name}.yaml"
    return read_yaml_file(file)
