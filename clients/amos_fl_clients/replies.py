"""The check of a reply right before it leaves: records, keys, dtypes and shapes that a site may send, and nothing else.

The list is written out here and shares nothing with the code that makes replies, so that a mistake there is caught.
"""

import json
import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from flwr.app import Message

from amos_fl.errors import AmosError
from amos_fl.metrics.scores import OUTCOMES, OrganScore, Scores
from amos_fl_clients.failures import ReplyWithheld
from amos_fl_clients.records import BadUpdate, view_of
from amos_fl_clients.settings import SiteSettings

ArrayForm = tuple[tuple[int, ...], str]
"""An array's shape and the name of its dtype."""

_METRICS: dict[str, dict[str, tuple[type, ...]]] = {
    "query.describe": {},
    "query.fingerprint": {},
    "train": {
        "num-examples": (int,),
        "cases": (int,),
        "steps": (int,),
        "train_loss": (float,),
        "seconds": (float,),
    },
    "evaluate": {"num-examples": (int,), "seconds": (float,)},
}
_TEXTS = {
    "query.describe": {"site", "description"},
    "query.fingerprint": {"site", "fingerprint"},
    "train": {"site"},
    "evaluate": {"site", "scores", "modalities", "cases"},
}
_MODALITIES = {"CT", "MR"}


def check_reply(
    reply: Message, settings: SiteSettings, *, organs: Sequence[int], form: Mapping[str, ArrayForm] | None
) -> None:
    """Let a reply pass that holds exactly what its kind of request is answered with.

    `form` are the arrays of the network under training, by name; None where none are to be sent.

    Raises:
        ReplyWithheld: anything else is in it.
    """
    kind = reply.metadata.message_type
    if kind not in _METRICS or reply.has_error():
        raise ReplyWithheld(f"site {settings.site}: a reply of an unknown kind was withheld")
    records = reply.content
    expected = {"metrics", "site"} | ({"arrays"} if form is not None else set())
    _expect(settings, set(records), expected, "record")
    if [set(group) for group in (records.array_records, records.metric_records, records.config_records)] != [
        expected & {"arrays"},
        {"metrics"},
        {"site"},
    ]:
        raise _withheld(settings, "a record is of another kind than its name says")
    _check_numbers(settings, dict(records.metric_records["metrics"]), _METRICS[kind])
    _check_texts(settings, dict(records.config_records["site"]), _TEXTS[kind], organs)
    if form is not None:
        _check_arrays(settings, records.array_records["arrays"], form)


def _withheld(settings: SiteSettings, why: str) -> ReplyWithheld:
    return ReplyWithheld(f"site {settings.site}: its reply was withheld: {why}")


def _expect(settings: SiteSettings, found: set[str], expected: set[str], what: str) -> None:
    if found - expected:  # without its name, which might say something itself
        raise _withheld(settings, f"it holds a {what} that is not on the list")
    if expected - found:
        raise _withheld(settings, f"the {what} {min(expected - found)} is not in it")


def _check_numbers(settings: SiteSettings, numbers: dict[str, Any], allowed: dict[str, tuple[type, ...]]) -> None:
    _expect(settings, set(numbers), set(allowed), "number")
    for key, types in allowed.items():
        if type(numbers[key]) not in types:
            raise _withheld(settings, f"{key} is no single number of its type")


def _check_texts(settings: SiteSettings, texts: dict[str, Any], allowed: set[str], organs: Sequence[int]) -> None:
    _expect(settings, set(texts), allowed, "text")
    if texts["site"] != settings.site:
        raise _withheld(settings, "it names another site")
    checks = {
        "description": _is_description,
        "fingerprint": _is_fingerprint,
        "scores": _are_sums,
        "modalities": _are_modalities,
        "cases": _are_cases,
    }
    for key in allowed - {"site"}:
        try:
            data = json.loads(texts[key])
            # As it is written, too: of a key that is there twice, say, reading would show the second alone.
            fits = json.dumps(data) == texts[key] and checks[key](data, settings, set(organs))
        except (AmosError, ValueError, TypeError, KeyError, AttributeError):
            fits = False
        if not fits:
            raise _withheld(settings, f"{key} is not of its form")


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_description(data: Any, settings: SiteSettings, organs: set[int]) -> bool:
    return (
        set(data) == {"site", "modalities", "cases", "annotated", "annotated_in_training", "synthetic"}
        and type(data["synthetic"]) is bool
        and data["site"] == settings.site
        and _are_modalities(data["modalities"], settings, organs)
        and set(data["cases"]) == {"train", "val", "test"}
        and all(map(_is_count, data["cases"].values()))
        and type(data["annotated"]) is list
        and type(data["annotated_in_training"]) is list
        and set(data["annotated_in_training"]) <= set(data["annotated"])
        and all(type(organ) is int and 0 < organ < 256 for organ in data["annotated"] + data["annotated_in_training"])
    )


def _is_fingerprint(data: Any, settings: SiteSettings, organs: set[int]) -> bool:
    return (
        settings.share_histograms
        and set(data) == _MODALITIES
        and all(
            set(group) == {"cases", "spacing", "shape", "extent_mm", "intensity"}
            and _is_count(group["cases"])
            and all(type(group[name]) is list and len(group[name]) == 3 for name in ("spacing", "shape", "extent_mm"))
            and all(_is_histogram(h, settings) for name in ("spacing", "shape", "extent_mm") for h in group[name])
            and _is_histogram(group["intensity"], settings)
            for group in data.values()
        )
        and not data["MR"]["intensity"]["counts"]
    )


def _is_histogram(data: Any, settings: SiteSettings) -> bool:
    """Whole numbers alone, and no bin with fewer values than the site tells."""
    return (
        set(data) == {"counts", "withheld"}
        and _is_count(data["withheld"])
        and all(re.fullmatch(r"-?\d{1,5}", value) for value in data["counts"])
        and all(_is_count(count) and count >= settings.withhold_counts_below for count in data["counts"].values())
    )


def _are_sums(data: Any, settings: SiteSettings, organs: set[int]) -> bool:
    return set(data) == {"cases", "organs"} and set(Scores.from_dict(data).organs) <= organs


def _are_modalities(data: Any, settings: SiteSettings, organs: set[int]) -> bool:
    return type(data) is list and set(data) <= _MODALITIES


def _are_cases(data: Any, settings: SiteSettings, organs: set[int]) -> bool:
    if type(data) is not list or (data and settings.share_case_scores == "none"):
        return False
    pseudonym = re.compile(rf"{re.escape(settings.site)}-[0-9a-f]{{12}}")
    named = settings.share_case_scores == "named"
    fields = set(OrganScore.__dataclass_fields__)
    return all(
        set(case) == {"case", "modality", "scores"}
        and type(case["case"]) is str
        and (named or pseudonym.fullmatch(case["case"]))
        and case["modality"] in _MODALITIES
        and {int(organ) for organ in case["scores"]} <= organs
        and all(set(score) == fields for score in case["scores"].values())
        and all(_is_number_or_outcome(value) for score in case["scores"].values() for value in score.values())
        for case in data
    )


def _is_number_or_outcome(value: Any) -> bool:
    return value is None or type(value) in (int, float) or value in OUTCOMES


def _check_arrays(settings: SiteSettings, arrays: Mapping[str, Any], form: Mapping[str, ArrayForm]) -> None:
    if set(arrays) == {"layout", "values"}:
        # Packed: the one text that may stand in the layout, and as many bytes as the network's numbers take.
        text = json.dumps([[name, dtype, list(shape)] for name, (shape, dtype) in form.items()], separators=(",", ":"))
        size = sum(prod(shape) * np.dtype(dtype).itemsize for shape, dtype in form.values())
        form = {"layout": ((len(text.encode()),), "uint8"), "values": ((size,), "uint8")}
    else:
        text = None
    _expect(settings, set(arrays), set(form), "array")
    for name, (shape, dtype) in form.items():
        array = arrays[name]
        try:
            values = view_of(array)  # refuses bytes beyond the values, which might hold anything
        except BadUpdate:
            raise _withheld(settings, f"the array {name} is no plain array of numbers") from None
        if (tuple(values.shape), str(values.dtype)) != (shape, dtype) or array.stype != "numpy.ndarray":
            raise _withheld(settings, f"the array {name} is not of the network's shape and dtype")
        if name == "layout" and text is not None and values.tobytes() != text.encode():
            raise _withheld(settings, "its packed weights are laid out otherwise than the network's")


def names_and_forms(state: Mapping[str, Any]) -> dict[str, ArrayForm]:
    """The form of every array in a network's state, which may lie on a GPU or have given its memory up.

    >>> from torch import nn
    >>> names_and_forms(nn.Linear(3, 2).state_dict())
    {'weight': ((2, 3), 'float32'), 'bias': ((2,), 'float32')}
    """
    return {name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in state.items()}
