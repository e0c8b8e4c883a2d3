"""The origin of a run's initial weights: a file, and what is known of its network.

A run folder and a copy of its `model/` folder record the network, plan and organs of their weights; a bare weights file
does not.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from amos_fl.cohort.organ_names import organ_key
from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.own_code import modules_of
from amos_fl.runs.about import VERSIONS
from amos_fl.runs.as_begun import config_as_begun
from amos_fl.runs.config import RunConfig
from amos_fl.runs.evaluation import stored_organs
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.inference_settings import RecordedInference
from amos_fl.runs.learned import learned_in
from amos_fl.runs.network_file import read_network_file
from amos_fl.training.settings import NormStatistics
from amos_fl.volumes.plan import Plan
from amos_fl.weights import save_arrays

WEIGHTS, NETWORK = "weights.safetensors", "network.json"
BROUGHT = "start"
"""In a deployed run's folder: its initial weights, sent by its submitter."""


@dataclass(frozen=True)
class Origin:
    """A file of weights; the rest if known, `organs` by label in the order of the channels."""

    file: Path
    model: str | None = None
    plan: Plan | None = None
    organs: dict[int, str] | None = None
    norm_statistics: NormStatistics | None = None
    learned: tuple[int, ...] | None = None
    """The labels of the organs that its run had learned; None if unknown."""

    @property
    def name(self) -> str:
        """The run's name, or the file's."""
        folder = self.file.parent
        return folder.parent.name if folder.name == "model" else f"{folder.name}/{self.file.name}"

    def about(self) -> dict[str, Any] | None:
        """The content of a `network.json` beside the file, from which `origin_of` reads the same; None if unknown."""
        if self.model is None or self.plan is None or self.organs is None:
            return None
        return about_network(self.model, self.plan, self.organs, self.norm_statistics, self.learned)

    def is_like(self, config: RunConfig, organs: dict[int, str]) -> bool:
        """Whether its network is known to be that of a run, including the order of its organs."""
        plan = config.plan
        return (
            self.organs is not None
            and self.plan is not None
            and self.model == config.model
            and (self.norm_statistics == "group") == (config.norm_statistics == "group")
            and (self.plan.strides, self.plan.kernels, self.plan.patch) == (plan.strides, plan.kernels, plan.patch)
            and [*map(organ_key, self.organs.values())] == [*map(organ_key, organs.values())]
        )


def write_model(
    folder: Path,
    weights: Mapping[str, np.ndarray],
    *,
    round: int,
    network: Mapping[str, Any],
    modalities: Collection[str],
    synthetic: bool,
    inference: RecordedInference,
) -> None:
    """Write a model folder: the weights of a round, and all that is needed to predict with nothing but the folder.

    `network` is what `about_network` returns, `modalities` those of the training cases.
    """
    save_arrays(weights, folder / WEIGHTS, {"model": network["model"], "round": round})
    own = modules_of([network["model"]])
    about = {
        **network,
        **({"modules": own} if own else {}),
        "round": round,
        "modalities": sorted(modalities),
        "synthetic": synthetic,
        "inference": inference.model_dump(mode="json"),
    }
    write_json(folder / NETWORK, about)


def personal_model(state: Path, run_id: str) -> Path:
    """The model folder of a site's personal network, in the site's folder for its state."""
    return state / "models" / run_id


def about_network(
    model: str,
    plan: Plan,
    organs: Mapping[int, str],
    norm_statistics: NormStatistics | None,
    learned: Collection[int] | None = None,
) -> dict[str, Any]:
    """The content of `network.json` about a network, as `origin_of` reads it."""
    known = {} if learned is None else {"learned": sorted(learned)}
    return {
        "model": model,
        "plan": plan.model_dump(mode="json"),
        "organs": {str(label): name for label, name in organs.items()},
        "norm_statistics": norm_statistics,
        **known,
    }


def weights_file(path: Path) -> Path:
    """The weights file of a run folder, a `model/` folder, or the file itself.

    Raises:
        AmosError: there is none, or the run has not finished.
    """
    if path.is_file():
        return path
    for candidate in (path / "model" / WEIGHTS, path / WEIGHTS):
        if candidate.is_file():
            return candidate
    if (path / "config.yaml").is_file():
        raise AmosError(
            f"{path}: this run has not finished; continue it with 'amos-fl simulate --resume {path}', or name "
            f"a file of its checkpoints, such as {path / 'checkpoints/round_0001' / WEIGHTS}"
        )
    if (path / "group.yaml").is_file():
        raise AmosError(f"{path}: holds several runs; name the folder of one of them")
    raise AmosError(f"{path}: no such weights; give a finished run, a copy of its model/, or a safetensors file")


def origin_of(file: Path) -> Origin:
    """The origin of a weights file, from the `network.json` beside it or the run it is in.

    Raises:
        AmosError: they are damaged.
    """
    beside = file.with_name(NETWORK)
    if beside.is_file():
        try:
            about: dict[str, Any] = {**read_network_file(beside)}
            organs = sorted((int(label), str(organ)) for label, organ in about["organs"].items())
            statistics = about.get("norm_statistics")
            plan = Plan.model_validate(about["plan"])
            learned = tuple(map(int, about["learned"])) if "learned" in about else _learned_around(file)
            return Origin(file, about["model"], plan, dict(organs), statistics, learned)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError):
            raise AmosError(f"{beside}: is damaged; copy it again from its run") from None
    if not (around := _runs_around(file)):
        return Origin(file)
    config, organs = config_as_begun(around[0]), sorted(stored_organs(around[0].path).items())
    return Origin(file, config.model, config.plan, dict(organs), config.norm_statistics, _learned_around(file))


def _runs_around(file: Path) -> list[RunFolder]:
    """The runs that contain a weights file, the innermost first."""
    around = list(file.resolve().parents)[:3]
    return [RunFolder(path) for path in around if (path / "config.yaml").is_file() and (path / VERSIONS).is_file()]


def _learned_around(file: Path) -> tuple[int, ...] | None:
    """The organs learned by the run that contains a weights file; None outside a run."""
    for run in _runs_around(file):
        with suppress(AmosError):  # a run that has not come so far holds no cohort
            return learned_in(run, run.cohort()).organs
    return None


def start_of(config: RunConfig) -> Origin | None:
    """The origin of a run's initial weights; None if they are fresh.

    Raises:
        AmosError: no such weights, or those of another network than the run's.
    """
    if config.start_from is None:
        return None
    origin = origin_of(weights_file(config.start_from))
    if origin.model not in (None, config.model):
        raise AmosError(
            f"{origin.file}: these weights are of the network {origin.model!r}, and this run trains {config.model!r}; "
            f"leave out --model, or begin from another run"
        )
    return origin
