"""A group of runs that belong together: a folder with a run folder for each, and `group.yaml` that lists them.

`amos-fl local`, `finetune`, `leave-one-out` and `sweep` make one. All its run folders are made at the start, so that
the remaining runs can be listed, and carried out, from the folder alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.files import write_text
from amos_fl.locks import at_work, is_empty
from amos_fl.runs.config import RunConfig
from amos_fl.runs.create import create_run
from amos_fl.runs.folder import RunFolder, no_such_folder
from amos_fl.runs.layers import read_yaml


@dataclass(frozen=True)
class PlannedRun:
    """A planned run: its name within the group, its settings, and its cohort."""

    name: str
    config: RunConfig
    cohort: Cohort


@dataclass(frozen=True)
class Group:
    """A group's folder, its kind (`local`, `finetune`, `leave-one-out` or `sweep`) and the names of its runs."""

    path: Path
    kind: str
    names: tuple[str, ...]

    @property
    def members(self) -> list[Path]:
        return [self.path / name for name in self.names]

    @property
    def unfinished(self) -> list[RunFolder]:
        return [RunFolder(path) for path in self.members if not RunFolder(path).finished]


def is_group(path: Path) -> bool:
    return (path / "group.yaml").is_file()


def create_group(path: Path, kind: str, members: Sequence[PlannedRun]) -> Group:
    """Make the folders of all runs of a new group.

    Raises:
        AmosError: the folder is not empty, or two runs have the same name.
    """
    if is_group(path):
        raise AmosError(
            f"{path}: holds a group of runs already; continue it with --resume {path}, or choose another folder"
        )
    if path.is_dir() and not is_empty(path):
        raise AmosError(f"{path}: is not empty; choose another folder")
    names = tuple(member.name for member in members)
    if len(set(names)) < len(names):
        raise AmosError(f"{path}: two runs of this group would share a name ({', '.join(names)})")
    with at_work(path):
        if not is_empty(path):
            raise AmosError(f"{path}: another process has begun a group of runs there; choose another folder")
        for member in members:
            create_run(path / member.name, member.config, member.cohort)
        # Last, because its presence says that the folder is a whole group.
        write_text(path / "group.yaml", yaml.safe_dump({"kind": kind, "runs": list(names)}, sort_keys=False))
    return Group(path, kind, names)


def read_group(path: Path) -> Group:
    """The group in a folder.

    Raises:
        AmosError: there is no such folder, it holds none, or a damaged one.
    """
    if not path.exists():
        raise no_such_folder(path)
    if not is_group(path):
        raise AmosError(f"{path}: holds no group of runs (there is no group.yaml in it)")
    data = read_yaml(path / "group.yaml")
    names = data.get("runs")
    if (
        not isinstance(names, list)
        or not names
        or not all((path / str(name) / "config.yaml").is_file() for name in names)
    ):
        raise AmosError(
            f"{path / 'group.yaml'}: names a run that is not there; remove its line, or run the group again"
        )
    return Group(path, str(data.get("kind")), tuple(map(str, names)))
