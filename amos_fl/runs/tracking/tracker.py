"""What a tracker is: something that is told of a run's settings, rounds, scores and files as they come.

A user's own tracker is a subclass of `Tracker`, or any callable that takes an event (`amos_fl.runs.events`), named by
its import path. It is called in a thread of its own: the run never waits for it, and goes on when it fails.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from amos_fl.errors import AmosError
from amos_fl.own_code import is_path, load
from amos_fl.runs.events import Event
from amos_fl.wording import first_line, nearest

End = Literal["finished", "stopped", "failed"]
Value = str | int | float | bool | None


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker learns of it.

    `group` is the folder of the group of runs that it belongs to, if any. `parameters` are its settings by dotted key,
    `tags` what else tells runs apart. `known_as` is what `begin` returned earlier, of a run that is continued.
    """

    folder: Path
    name: str
    group: Path | None
    parameters: Mapping[str, Value]
    tags: Mapping[str, str]
    known_as: str | None


class Tracker:
    """Override what is of interest; the methods are called in this order, all in one thread."""

    @property
    def place(self) -> str:
        """Where this tracker keeps runs, so that the same run at another place counts as another."""
        return ""

    def begin(self, run: TrackedRun) -> str | None:
        """A run begins, or is continued; returns a name by which it is known from now on, if it needs one."""

    def event(self, event: Event) -> None:
        """Something has happened, at this moment; of a run that is sent afterwards there are no events."""

    def round(self, number: int, values: Mapping[str, float]) -> None:
        """Losses or scores of a round, by names such as `loss/A`, `DSC/A` and `DSC/seen`; each once."""

    def end(self, how: End, values: Mapping[str, float], files: Sequence[Path]) -> None:
        """The run has ended, with these test scores and files (tables, report, the folder of the model)."""


class _Called(Tracker):
    """A function of events."""

    def __init__(self, listener: Callable[[Event], object]) -> None:
        self._listener = listener

    def event(self, event: Event) -> None:
        self._listener(event)


_OURS = {
    "tensorboard": ("amos_fl.runs.tracking.to_tensorboard", "TensorBoard", "tensorboard"),
    "mlflow": ("amos_fl.runs.tracking.to_mlflow", "MLflow", "mlflow"),
    "wandb": ("amos_fl.runs.tracking.to_wandb", "Wandb", "wandb"),
}
"""By name the module and the class, and the package of the extra of that name."""


def is_installed(name: str) -> bool:
    """Whether the package of one of our trackers is installed."""
    return find_spec(_OURS[name][2]) is not None


def check_trackers(names: Sequence[str]) -> None:
    """Check the trackers of a run, before it is begun.

    Raises:
        AmosError: no such tracker, its package is not installed, or a user's own cannot be imported or made.
    """
    for name in names:
        if is_path(name):
            tracker_named(name)
        elif name not in _OURS:
            raise AmosError(f"tracker {name}: there is none of that name; {nearest(name, _OURS)}, or module:name")
        elif not is_installed(name):
            raise AmosError(f"tracker {name}: its package is not installed; pip install 'amos-fl[{name}]'")


def tracker_named(name: str) -> Tracker:
    """A new tracker.

    Raises:
        AmosError: a user's own that cannot be imported, cannot be made without arguments, or is none.
    """
    if not is_path(name):
        module, kind, _ = _OURS[name]
        return getattr(import_module(module), kind)()
    found = load(name, "tracker")
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:
            why = f"{type(error).__name__}: {first_line(error)}"
            raise AmosError(f"tracker {name}: cannot be made without arguments ({why})") from None
    if isinstance(found, Tracker):
        return found
    if not callable(found):
        raise AmosError(f"tracker {name}: must be a subclass of amos_fl.Tracker, or a function of an event")
    return _Called(found)
