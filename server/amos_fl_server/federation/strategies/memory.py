"""Save a Flower strategy's state between rounds as arrays and JSON values, and restore it exactly.

Its attributes may be nested: lists, tuples and dictionaries of arrays, numbers and texts, Flower's records, and wrapped
strategies. Anything that a checkpoint cannot hold is refused by name, because without it a resumed run would differ.
"""

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import Strategy as FlowerBase

from amos_fl.errors import AmosError
from amos_fl_clients.federation.records import record_of, views_of

Tree = dict[str, Any]
_RECORDS: dict[str, Any] = {"config": ConfigRecord, "metrics": MetricRecord}
_SEQUENCES: dict[str, type] = {"list": list, "tuple": tuple}
_MOST_DEPTH = 8


class CannotBeKept(AmosError):  # noqa: N818 - said of what was asked for
    """A strategy has a value that no checkpoint can hold."""


def memory_of(strategy: FlowerBase) -> tuple[dict[str, np.ndarray], dict[str, Tree]]:
    """The attributes of a strategy: arrays by path, and per attribute a tree of their structure.

    Functions are left out: they come from its class and options.

    Raises:
        CannotBeKept: an attribute holds anything other than arrays, numbers, texts, records and containers of them.
    """
    arrays: dict[str, np.ndarray] = {}
    return arrays, _fields(strategy, "", arrays, 0)


def remember(strategy: FlowerBase, arrays: Mapping[str, np.ndarray], trees: Mapping[str, Tree]) -> None:
    """Restore a strategy's attributes from the result of `memory_of`.

    Raises:
        AmosError: the two do not belong together, as in a damaged checkpoint or in one of another strategy.
    """
    try:
        _set_fields(strategy, trees, arrays)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError):
        name = type(strategy).__name__
        raise AmosError(f"the state kept by the strategy {name} is damaged or belongs to another strategy") from None


def _fields(strategy: FlowerBase, path: str, arrays: dict[str, np.ndarray], depth: int) -> dict[str, Tree]:
    found = {}
    for name, value in vars(strategy).items():
        if callable(value) and not isinstance(value, FlowerBase):
            continue
        found[name] = _kept(value, f"{path}{name}", arrays, depth, type(strategy).__name__)
    return found


def _kept(value: Any, path: str, arrays: dict[str, np.ndarray], depth: int, owner: str) -> Tree:
    if depth > _MOST_DEPTH:
        raise CannotBeKept(f"strategy {owner}: its {path} is nested more than {_MOST_DEPTH} deep, too deep to be kept")

    def inner(part: Any, name: Any) -> Tree:
        return _kept(part, f"{path}/{name}", arrays, depth + 1, owner)

    match value:
        case FlowerBase():
            return {"kind": "strategy", "fields": _fields(value, f"{path}/", arrays, depth + 1)}
        case ArrayRecord():
            parts = views_of(value)
            arrays.update({f"{path}/{name}": array for name, array in parts.items()})
            # Pairs, here and below: a JSON object would come back in the order of its keys.
            return {"kind": "record", "pairs": [[name, f"{path}/{name}"] for name in parts]}
        case ConfigRecord() | MetricRecord():
            kind = "config" if isinstance(value, ConfigRecord) else "metrics"
            return {"kind": kind, "pairs": [[name, inner(part, name)] for name, part in value.items()]}
        case np.ndarray() | np.generic() if value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
            arrays[path] = np.asarray(value)
            return {"kind": "array" if isinstance(value, np.ndarray) else "scalar", "at": path}
        case list() | tuple() if type(value) in (list, tuple):
            items = [inner(part, number) for number, part in enumerate(value)]
            return {"kind": type(value).__name__, "items": items}
        case dict() if type(value) is dict:
            # Keys may be numbers (nodes, rounds) as well as names, and JSON's are texts.
            pairs = [[inner(key, f"{i}-key"), inner(part, i)] for i, (key, part) in enumerate(value.items())]
            return {"kind": "map", "pairs": pairs}
        case bytes():
            return {"kind": "bytes", "value": base64.b64encode(value).decode()}
        case float() if not math.isfinite(value):
            return {"kind": "float", "value": repr(value)}
        case None | bool() | int() | float() | str() if type(value) in (type(None), bool, int, float, str):
            return {"kind": "value", "value": value}
    raise CannotBeKept(
        f"strategy {owner}: its {path} is a {type(value).__name__}, which no checkpoint can hold; a run with it could "
        "not be continued as it was begun. Keep arrays, numbers, texts, and lists or dictionaries of them"
    )


def _set_fields(strategy: FlowerBase, trees: Mapping[str, Tree], arrays: Mapping[str, np.ndarray]) -> None:
    for name, tree in trees.items():
        if tree["kind"] == "strategy":
            _set_fields(getattr(strategy, name), tree["fields"], arrays)
        else:
            setattr(strategy, name, _value(tree, arrays, name))


def _value(tree: Tree, arrays: Mapping[str, np.ndarray], path: str) -> Any:
    kind = tree["kind"]
    if "keys" in tree:  # as it was written before lists were kept: arrays alone, by name
        parts = {key: arrays[f"{path}/{key}"] for key in tree["keys"]}
        return record_of(parts.items()) if kind == "record" else parts
    match kind:
        case "record":
            return record_of((name, arrays[at]) for name, at in tree["pairs"])
        case "config" | "metrics":
            return _RECORDS[kind]({name: _value(part, arrays, path) for name, part in tree["pairs"]})
        case "array":
            return arrays[tree.get("at", f"{path}/")]
        case "scalar":
            return arrays[tree["at"]][()]
        case "list" | "tuple":
            return _SEQUENCES[kind](_value(part, arrays, path) for part in tree["items"])
        case "map":
            return {_value(key, arrays, path): _value(part, arrays, path) for key, part in tree["pairs"]}
        case "bytes":
            return base64.b64decode(tree["value"], validate=True)
        case "float":
            return float(tree["value"])
        case "value":
            return tree["value"]
    raise ValueError(kind)
