"""Read a sweep from a YAML file: settings, some with several values, and baselines.

settings: {rounds: 10, local_steps: 50}        # what all runs have in common, as in --config
runs:                                          # sets of settings that belong together
  - {strategy: fedavg}
  - {strategy: fedprox, strategy_options: {mu: 0.01}}
grid:                                          # every combination of these, with each of the runs
  seed: [0, 1, 2]
  training.learning_rate: [0.1, 0.25]
baselines: [centralized, local]                # beside them, once for all strategies
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_json
from amos_fl.runs.config import nested_setting
from amos_fl.runs.layers import Layer, dotted, merge, read_yaml
from amos_fl.wording import nearest

MOST_NAME = 100
"""Characters of a run's name; the end of a longer one is replaced by a hash."""
KEYS = ("settings", "runs", "grid", "baselines")
BASELINES = ("centralized", "local", "leave-one-out")
_OTHER_NAMES = {
    "pooled": "centralized",
    "central": "centralized",
    "alone": "local",
    "single": "local",
    "loso": "leave-one-out",
}


@dataclass(frozen=True)
class Combination:
    """One set of settings of a sweep, and its run's name, made of the values that distinguish it."""

    name: str
    layers: list[Layer]


@dataclass(frozen=True)
class Sweep:
    """The federated runs of a sweep, and the kinds of baselines beside them."""

    combinations: tuple[Combination, ...]
    baselines: tuple[str, ...]


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's file.

    Raises:
        AmosError: no such file, an unknown key, a grid without values, or two runs with the same settings.
    """
    data = read_yaml(path, "give the YAML file of a sweep, as docs/baselines.md describes it")
    if unknown := sorted(set(data) - set(KEYS)):
        raise AmosError(f"{path}: no key {unknown[0]!r} in a sweep; {nearest(unknown[0], KEYS)}")
    common, runs, grid = data.get("settings") or {}, data.get("runs") or [{}], data.get("grid") or {}
    if not isinstance(common, dict) or not isinstance(grid, dict):
        raise AmosError(f"{path}: settings and grid must hold 'key: value' lines")
    if not isinstance(runs, list) or not all(isinstance(entry, dict) for entry in runs):
        raise AmosError(f"{path}: runs must be a list of settings, each like '- {{strategy: fedavg}}'")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise AmosError(f"{path}: grid.{key} must list its values, like [0, 1, 2]")
    baselines = data.get("baselines") or []
    for kind in baselines if isinstance(baselines, list) else [baselines]:
        if kind not in BASELINES:
            meant = nearest(_OTHER_NAMES.get(str(kind), str(kind)), BASELINES)
            raise AmosError(f"{path}: no baseline {kind!r}", meant)
    combinations = []
    for entry, values in itertools.product(runs, itertools.product(*grid.values())):
        chosen = dict(zip(grid, values, strict=True))
        nested: dict[str, Any] = {}
        for key, value in chosen.items():
            nested = merge(nested, nested_setting(str(key), value, f"{path}: grid.{key}"))
        own = {key: value for key, value in dotted(entry).items() if value != {}}
        layers = [Layer(str(path), common), Layer(f"{path}: runs", entry), Layer(str(path), nested)]
        name = _name(own | {str(key): value for key, value in chosen.items()})
        combinations.append(Combination(name, layers))
    names = [combination.name for combination in combinations]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise AmosError(f"{path}: two of its runs have the same settings ({twice[0]}); leave one out")
    return Sweep(tuple(combinations), tuple(dict.fromkeys(baselines)))


def _name(values: dict[str, Any]) -> str:
    """A folder's name from settings by dotted key.

    >>> _name({"strategy": "fedprox", "strategy_options.mu": 0.01, "seed": 1})
    'fedprox-mu0.01-seed1'
    >>> _name({})
    'run'
    """
    parts = []
    for key, value in values.items():
        word = str(value).rpartition(":")[2] if key == "strategy" else f"{key.rpartition('.')[2]}{value}"
        parts.append(re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-."))
    name = "-".join(part for part in parts if part).lower() or "run"
    if len(name) <= MOST_NAME:
        return name
    return f"{name[: MOST_NAME - 9]}-{sha256_of_json(name)[:8]}"
