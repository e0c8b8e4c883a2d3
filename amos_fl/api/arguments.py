"""What several functions of the Python interface take, and how it is read."""

from collections.abc import Callable, Sequence
from pathlib import Path

from amos_fl.api.model import TrainedModel
from amos_fl.api.run import Run
from amos_fl.api.settings import OnCase, cache_folder

Place = str | Path
OnProgress = Callable[[str, int, int], None]
"""What is being done, how many cases are done, and how many there are."""


def model_of(run: Run | TrainedModel | Place) -> TrainedModel:
    """The model of a finished run, or the one in a folder.

    Raises:
        AmosError: there is none.
    """
    if isinstance(run, TrainedModel):
        return run
    return TrainedModel.read(run.path if isinstance(run, Run) else run)


def models_of(run: "Run | TrainedModel | Place | Sequence[Run | Place]") -> TrainedModel:
    """As `model_of`; of several runs, or the folder of a group of runs, all models as one ensemble.

    Raises:
        AmosError: there is none, or they cannot be averaged.
    """
    if isinstance(run, TrainedModel):
        return run
    runs = [run] if isinstance(run, str | Path | Run) else run
    return TrainedModel.ensemble([one.path if isinstance(one, Run) else one for one in runs])


def store_at(store: Place | None) -> Path:
    """The training store: the one given, or the cache's."""
    return Path(store) if store else cache_folder() / "store"


def saying(on_progress: OnProgress | None, verb: str) -> OnCase | None:
    """`on_progress` as a callback after each case, which says what was done with it."""
    if on_progress is None:
        return None
    return lambda done, total, case: on_progress(f"{verb} {case}", done, total)
