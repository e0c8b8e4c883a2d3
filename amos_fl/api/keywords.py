"""The settings of a run as keyword arguments, so that an editor completes them and a type checker knows them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from amos_fl.runs.inference_settings import InferenceKeywords
from amos_fl.runs.layers import merge


class Settings(TypedDict, total=False):
    """Every setting of `amos_fl.runs.config.RunConfig`, where they are described.

    Sections are mappings: `training={"learning_rate": 0.02}`. From a mapping, dotted keys work as well:
    `**{"training.learning_rate": 0.02}`.
    """

    cohort: str | Path | None
    sites: str | Sequence[str] | None
    hold_out: str | Sequence[str]
    fold: int | None
    folds: int
    seed: int
    model: str
    plan: str | Path | Mapping[str, Any]
    planning: Mapping[str, Any]
    strategy: str
    strategy_options: Mapping[str, Any]
    rounds: int
    local_steps: int
    local_epochs: float | None
    local_seconds: float | None
    site_steps: Mapping[str, int]
    sites_per_round: float | None
    weighting: Literal["cases", "equal", "steps", "modality"]
    update_codec: Literal["none", "fp16", "int8", "top-k"]
    top_k_share: float
    optimizer_state: Literal["reset", "keep"]
    norm_statistics: Literal["average", "local", "group"]
    start_from: "str | Path | None"
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    selection: Literal["best", "last"]
    min_sites: int | None
    max_update_norm: float | None
    site_timeout_s: float | None
    engine: str | Mapping[str, Any]
    device: str
    prepare_workers: int
    trackers: Sequence[str]
    keep_checkpoints: Literal["needed", "all"]


class HowToPredict(InferenceKeywords, total=False):
    """How scans are predicted: which they are, what is written, and settings of inference (by default the run's).

    `modality` (CT or MR) is needed for NIfTI, which does not record it, unless `cohort` lists the scans; `series` is
    the number or UID if a folder has several, or `all`. `probabilities`, `preview`, `expected_dsc` and, for DICOM
    series, `seg` and `rtstruct` write more files, `overwrite` replaces them. `expected_dsc` needs a model that
    `amos_fl.calibrate` has been given.
    """

    modality: str | None
    cohort: str | Path | None
    series: str | None
    probabilities: bool
    preview: bool
    seg: bool
    rtstruct: bool
    expected_dsc: bool
    overwrite: bool
    device: str


def settings_of(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments as one layer of settings.

    >>> settings_of({"sites": "A, G", "engine": "ray", "training.learning_rate": 0.02})
    {'sites': ['A', 'G'], 'engine': {'name': 'ray'}, 'training': {'learning_rate': 0.02}}

    Raises:
        AmosError: an invalid dotted key.
    """
    layer: dict[str, Any] = {}
    for key, value in keywords.items():
        if key in ("sites", "hold_out") and value is not None:
            value = value.replace(",", " ").split() if isinstance(value, str) else list(value)
        elif key == "engine" and isinstance(value, str):
            value = {"name": value}
        elif key in ("cohort", "start_from") and value is not None:
            value = str(Path(value).resolve())
        elif isinstance(value, Path):
            value = str(value)
        if "." in key:
            section, _, rest = key.partition(".")
            layer = merge(layer, {section: settings_of({rest: value})})
        else:
            layer = merge(layer, {key: value})
    return layer
