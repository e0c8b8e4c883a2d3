"""Load a user's own code by import path, `module:name`, and identify it by the SHA-256 of the module's file."""

import importlib
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file
from amos_fl.wording import first_line

_hashes: dict[str, tuple[ModuleType, str]] = {}
"""The modules loaded in this process, and the SHA-256 that each one's file had then."""


def is_path(name: str) -> bool:
    """Whether a name is an import path, not a built-in name.

    >>> is_path("my_lab.nets:build"), is_path("my_lab.nets.build"), is_path("swin-unetr")
    (True, True, False)
    """
    return ":" in name or "." in name


def module_of(path: str) -> str:
    """The module in an import path.

    >>> module_of("my_lab.nets:build"), module_of("my_lab.nets.build")
    ('my_lab.nets', 'my_lab.nets')
    """
    return _parts(path)[0]


def load(path: str, what: str) -> Any:
    """The object at `module:name`. Modules in the working folder are found, as `python -m` finds them.

    `what` begins the sentence of an error: "strategy", "model", "training.loss".

    Raises:
        AmosError: it cannot be imported.
    """
    module, name = _parts(path)
    try:
        if module in sys.modules:
            return getattr(sys.modules[module], name)
        digest = sha256_of_module(module)
        found = importlib.import_module(module)
        if digest is not None:
            _hashes[module] = found, digest
        return getattr(found, name)
    except Exception as error:  # a module can raise anything while it is imported
        kind = "" if isinstance(error, (ImportError, AttributeError, ValueError)) else f"{type(error).__name__}: "
        why = f"{kind}{first_line(error)}"
        raise AmosError(
            f"{what} {path}: cannot be imported ({why}); give module:name of an installed package or of a file here"
        ) from None


def sha256_of_module(module: str) -> str | None:
    """The SHA-256 of a module's file, as it was when this process loaded it, without running any of it; None: no file.

    Not even its package is imported, so that a site can identify a module before it decides to run it.
    """
    loaded = sys.modules.get(module)
    if loaded is not None and module in _hashes and _hashes[module][0] is loaded:
        return _hashes[module][1]
    _look_here()
    file = _file_of(module)
    digest = None if file is None else sha256_of_file(file)
    if loaded is not None and digest is not None:
        _hashes[module] = loaded, digest
    return digest


def modules_of(paths: Iterable[str]) -> dict[str, str]:
    """The modules of import paths with the SHA-256 of each one's file; Flower's own are identified by its version.

    Raises:
        AmosError: a module has no file.
    """
    found = {}
    for path in filter(is_path, paths):
        module = module_of(path)
        if module.partition(".")[0] == "flwr":
            continue
        digest = sha256_of_module(module)
        if digest is None:
            raise AmosError(f"{path}: no file found for the module {module}; install it, or run from its folder")
        found[module] = digest
    return dict(sorted(found.items()))


def where_in(error: BaseException, path: str) -> str:
    """Where in a user's module an error arose, for a sentence; empty if none of its lines was on the way.

    Of several lines of the module it is the innermost, which is the user's even if the error is a library's.
    """
    file = getattr(sys.modules.get(module_of(path)), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f", in {Path(str(file)).name}, line {lines[-1]}" if lines else ""


def _parts(path: str) -> tuple[str, str]:
    module, _, name = path.rpartition(":" if ":" in path else ".")
    return module, name


def _look_here() -> None:
    """Make modules in the working folder importable, including those written a moment ago."""
    here = str(Path.cwd())
    if here not in sys.path:  # as a path, not as "", which is not passed on to Ray's processes
        sys.path.append(here)
    importlib.invalidate_caches()


def _file_of(module: str) -> Path | None:
    """A module's file, found without importing its package; None: there is none."""
    if not all(part.isidentifier() for part in module.split(".")):
        return None
    name, places, spec = "", None, None
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        found = (finder.find_spec(name, places) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next(filter(None, found), None)
        if spec is None:
            return None
        places = spec.submodule_search_locations
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None
