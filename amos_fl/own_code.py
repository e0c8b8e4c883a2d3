"""Load a user's own code by import path, `module:name`: a network, a Flower strategy."""

import importlib
import sys
from pathlib import Path
from typing import Any

from amos_fl.errors import AmosError


def is_path(name: str) -> bool:
    """Whether a name is an import path, not a built-in name.

    >>> is_path("my_lab.networks:build"), is_path("unet")
    (True, False)
    """
    return ":" in name


def load(path: str, what: str) -> Any:
    """The object at `module:name`. Modules in the working folder are found, as `python -m` finds them.

    `what` begins the sentence of an error: "strategy", "model".

    Raises:
        AmosError: it cannot be imported.
    """
    module_name, _, name = path.rpartition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise AmosError(
            f"{what} {path}: cannot be imported ({error}); give module:name of an installed package or of a file here"
        ) from None


def source_file(found: Any) -> Path | None:
    """The file that an object was defined in; None if unknown."""
    module = sys.modules.get(getattr(found, "__module__", ""))
    file = getattr(module, "__file__", None)
    return Path(file) if file else None
