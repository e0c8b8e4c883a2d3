"""Non-module files that come with an installation: in the wheel, or in the checkout beside the package."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from amos_fl.errors import AmosError

SITE_FILES = ("docker-compose.yml", "docker-compose.gpu.yml")
"""The files in clients/ with which a hospital runs its site."""
SERVER_FILES = ("docker-compose.yml",)
"""The files in server/ with which the coordinator runs the SuperLink."""


def shipped(package: str, name: str) -> Path:
    """A file or folder that comes with a package, located without importing it.

    Raises:
        AmosError: it is missing.
    """
    found = importlib.util.find_spec(package)
    if found is not None and found.origin is not None:
        inside = Path(found.origin).parent
        for folder in (inside, inside.parent):
            if (folder / name).exists():
                return folder / name
    raise AmosError(f"{name} of {package} is not in this installation; install amos-fl again")


def texts_of(package: str, names: Sequence[str]) -> dict[str, str]:
    """The texts of files that come with a package, by name.

    Raises:
        AmosError: one of them is not there.
    """
    return {name: shipped(package, name).read_text(encoding="utf-8") for name in names}
