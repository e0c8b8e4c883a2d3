"""Read and write `versions.json`: a run's initial settings, cases and versions, and accepted changes since."""

import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from amos_fl.files import write_json
from amos_fl.runs.source import source_commit
from amos_fl.runs.stored import MOST_BYTES, Stored, read_stored
from amos_fl.strict_json import parsed

VERSIONS = "versions.json"
_REMEDY = "copy it from another copy of the run, or start a new one with --config and the config.yaml beside it"
_Text = Annotated[str, Field(max_length=10_000)]


class Accepted(Stored):
    """Changes with which a run was continued, and the last round before them."""

    after_round: Annotated[int, Field(ge=0)]
    what: list[_Text]


class AboutRun(Stored):
    """A run's initial state.

    `run_id` is the name under which sites keep their state: a hash of what the run computes and of its cohort.
    `start_sha256` is that of the initial weights, None if they are fresh. `modules` are those of the user's own code,
    each with the SHA-256 of its file, None if there is none. `settings`, `cases` and `organs` are those
    that decide the weights, None in runs of older versions; `plan` is set once the run has made its own.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    run_id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
    cohort_sha256: _Text
    synthetic: bool
    versions: dict[str, _Text]
    start_sha256: _Text | None = None
    settings: dict[str, Any] | None = None
    modules: dict[str, _Text] | None = None
    plan: dict[str, Any] | None = None
    cases: dict[str, _Text] | None = None
    organs: dict[str, _Text] | None = None
    accepted: list[Accepted] = Field(default_factory=list)


def read_about(folder: Path) -> AboutRun:
    """Read a run's initial state.

    Raises:
        AmosError: its `versions.json` is missing or damaged.
    """
    return read_stored(folder / VERSIONS, AboutRun, _REMEDY)


def glance_at_about(folder: Path) -> Any:
    """What a run's `versions.json` holds, not validated, for lists of runs; an OSError or ValueError if damaged."""
    return parsed((folder / VERSIONS).read_bytes(), most_bytes=MOST_BYTES)


def write_about(folder: Path, about: AboutRun) -> None:
    data = about.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    write_json(folder / VERSIONS, {**data, "start_sha256": about.start_sha256})


def versions() -> dict[str, str]:
    """The versions of everything that decides the numbers of a run, its commit if known, and the processor."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": sys.platform}
    for package in ("amos-fl", "flwr", "torch", "monai", "nibabel", "numpy", "scipy", "blosc2", "ray"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    if commit := source_commit():
        found["commit"] = commit
    if cpu := _cpu():
        found["cpu"] = cpu
    return found


def _cpu() -> str:
    """The processor's model, because the last bits of a sum depend on it; empty if the system does not say."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        named = (line.partition(":")[2] for line in lines if line.partition(":")[0].strip() == "model name")
        if model := " ".join(next(named, "").split()):
            return model[:200]
    return platform.processor()[:200]
