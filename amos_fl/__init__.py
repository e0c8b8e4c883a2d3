"""Federated learning for organ segmentation in abdominal CT and MR, one site per scanner.

The few names that a script needs, each loaded when it is first used, so that `import amos_fl` costs
nothing and `amos_fl.read_cohort` does not load torch:

>>> import amos_fl
>>> amos_fl.plan_named("coarse").patch
(24, 24, 24)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amos_fl.cohort.table import Case, Cohort, read_cohort, write_cohort
    from amos_fl.errors import AmosError
    from amos_fl.inference.predict import predict_case
    from amos_fl.metrics.overlap import dsc
    from amos_fl.metrics.scores import Scores, score_case
    from amos_fl.metrics.surface import nsd
    from amos_fl.networks.registry import build_network
    from amos_fl.training.loop import train
    from amos_fl.training.settings import TrainingSettings
    from amos_fl.volumes.plan import Plan, plan_named
    from amos_fl.volumes.prepare import prepare_case, prepare_cases

    __version__: str

_HOME = {
    "AmosError": "amos_fl.errors",
    "Case": "amos_fl.cohort.table",
    "Cohort": "amos_fl.cohort.table",
    "Plan": "amos_fl.volumes.plan",
    "Scores": "amos_fl.metrics.scores",
    "TrainingSettings": "amos_fl.training.settings",
    "build_network": "amos_fl.networks.registry",
    "dsc": "amos_fl.metrics.overlap",
    "nsd": "amos_fl.metrics.surface",
    "plan_named": "amos_fl.volumes.plan",
    "predict_case": "amos_fl.inference.predict",
    "prepare_case": "amos_fl.volumes.prepare",
    "prepare_cases": "amos_fl.volumes.prepare",
    "read_cohort": "amos_fl.cohort.table",
    "score_case": "amos_fl.metrics.scores",
    "train": "amos_fl.training.loop",
    "write_cohort": "amos_fl.cohort.table",
}

__all__ = [
    "AmosError",
    "Case",
    "Cohort",
    "Plan",
    "Scores",
    "TrainingSettings",
    "__version__",
    "build_network",
    "dsc",
    "nsd",
    "plan_named",
    "predict_case",
    "prepare_case",
    "prepare_cases",
    "read_cohort",
    "score_case",
    "train",
    "write_cohort",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = import_module("importlib.metadata").version("amos-fl")
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'amos_fl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
