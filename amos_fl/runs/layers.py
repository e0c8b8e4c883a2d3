"""Nested settings, from files and elsewhere: read, merged, and by dotted key."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from amos_fl.errors import AmosError
from amos_fl.safe_yaml import NotYaml, read_yaml_file


@dataclass(frozen=True)
class Layer:
    """Some nested settings, over those of the layers before it. `source` is what errors call it.

    `kind` says whether a user gave them as a command's `options`, as a function's `keywords` or as one `--set`
    (`assignment`).
    """

    source: str
    settings: dict[str, Any] = field(default_factory=dict)
    kind: Literal["options", "keywords", "assignment", "other"] = "other"

    def where(self, keep: Callable[[str], bool]) -> "Layer":
        """Only the settings or sections whose name is to be kept."""
        return replace(self, settings={key: value for key, value in self.settings.items() if keep(key)})


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; an empty one is a value.

    >>> dotted({"training": {"threads": 2, "more": {}}})
    {'training.threads': 2, 'training.more': {}}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, nested mappings merged key by key."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def read_yaml(path: Path, remedy: str = "'amos-fl init' writes one") -> dict[str, Any]:
    """A YAML mapping of settings; `remedy` is what to do if there is no such file.

    Raises:
        AmosError: no such file, not YAML, not a mapping.
    """
    try:
        data = read_yaml_file(path)
    except IsADirectoryError:
        raise AmosError(f"{path}: is a folder, where a settings file was expected") from None
    except FileNotFoundError:
        raise AmosError(f"{path}: no such settings file", remedy) from None
    except OSError as error:
        raise AmosError(f"{path}: cannot be read ({error.strerror})") from None
    except NotYaml as error:
        raise AmosError(error.of(path)) from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise AmosError(f"{path}: must hold settings as 'key: value' lines")
    if unnamed := [key for key in data if not isinstance(key, str)]:
        raise AmosError(f"{path}: {unnamed[0]!r} is not the name of a setting; write settings as 'key: value' lines")
    return data
