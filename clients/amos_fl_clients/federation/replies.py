"""The check of a reply right before it leaves: records, keys, values, dtypes and shapes that a site may send.

`reply_models` defines what may be in any reply, and the server checks it again on arrival. This module checks what the
site's own settings allow of that, and that each text and array is written in its one valid form. It shares no code with
the making of replies, so that a mistake there is caught.
"""

import json
import re
from collections.abc import Mapping
from math import prod
from typing import Any, cast

import numpy as np
from flwr.app import Message

from amos_fl.codecs import ArrayForm
from amos_fl_clients.federation.error_replies import ReplyWithheld
from amos_fl_clients.federation.messages import ARRAYS, SITE
from amos_fl_clients.federation.records import BadUpdate, view_of
from amos_fl_clients.federation.reply_models import (
    MODELS,
    Asked,
    BadReply,
    EvaluateReply,
    FingerprintReply,
    numbers_and_texts,
    read_reply,
)
from amos_fl_clients.federation.settings import SiteSettings


def check_reply(
    reply: Message,
    settings: SiteSettings,
    *,
    organs: Mapping[int, str],
    form: Mapping[str, ArrayForm] | None,
    reports: tuple[str, ...] = (),
) -> None:
    """Check that a reply holds exactly what answers its kind of request.

    `organs` are the task's; `form` are the arrays of an update, by name; None if none may be sent. `reports` are what
    the task's method has sites report.

    Raises:
        ReplyWithheld: anything else is in it.
    """
    kind = reply.metadata.message_type
    if kind not in MODELS or reply.has_error():
        raise ReplyWithheld(f"site {settings.site}: a reply of an unknown kind was withheld")
    model = MODELS[kind]
    try:
        found: Any = read_reply(reply, cast(Any, model), Asked(organs, site=settings.site, reports=reports))
    except BadReply as error:
        raise _withheld(settings, str(error)) from None
    said = reply.content.config_records[SITE]
    for key in numbers_and_texts(model)[1] - {"site"}:
        # Its form is checked, too: spaces and other ways to write a letter might carry information.
        if json.dumps(json.loads(cast(str, said[key]))) != said[key]:
            raise _withheld(settings, f"{key} is not in its only allowed form")
    if isinstance(found, FingerprintReply):
        _check_fingerprint(found, settings)
    elif isinstance(found, EvaluateReply):
        _check_cases(found, settings)
    if (form is None) != (ARRAYS not in reply.content.array_records):
        raise _withheld(settings, "weights belong to a training's reply and to no other")
    if form is not None:
        _check_arrays(settings, reply.content.array_records[ARRAYS], form)


def _withheld(settings: SiteSettings, why: str) -> ReplyWithheld:
    return ReplyWithheld(f"site {settings.site}: its reply was withheld: {why}")


def _check_fingerprint(reply: FingerprintReply, settings: SiteSettings) -> None:
    """Check that the settings share histograms, and that no bin is below the smallest count they allow."""
    if not settings.share_histograms:
        raise _withheld(settings, "it does not share histograms of its scans")
    for group in (reply.fingerprint.CT, reply.fingerprint.MR):
        for histogram in (*group.spacing, *group.shape, *group.extent_mm, group.intensity):
            if any(count < settings.withhold_counts_below for count in histogram.counts.values()):
                raise _withheld(settings, "its fingerprint holds a count that is too small to be sent")


def _check_cases(reply: EvaluateReply, settings: SiteSettings) -> None:
    """Check that the settings share single cases, and that these have the names they ask for."""
    if reply.cases and settings.share_case_scores == "none":
        raise _withheld(settings, "it does not share the scores of single cases")
    pseudonym = re.compile(rf"{re.escape(settings.site)}-[0-9a-f]{{12}}")
    if settings.share_case_scores == "pseudonyms" and not all(pseudonym.fullmatch(c.case) for c in reply.cases):
        raise _withheld(settings, "a case is sent under its own name")


def _check_arrays(settings: SiteSettings, arrays: Mapping[str, Any], form: Mapping[str, ArrayForm]) -> None:
    if set(arrays) == {"layout", "values"}:
        # Packed: the only valid layout, and exactly as many bytes as the network's numbers take.
        text = json.dumps([[name, dtype, list(shape)] for name, (shape, dtype) in form.items()], separators=(",", ":"))
        size = sum(prod(shape) * np.dtype(dtype).itemsize for shape, dtype in form.values())
        form = {"layout": ((len(text.encode()),), "uint8"), "values": ((size,), "uint8")}
    else:
        text = None
    if set(arrays) != set(form):
        raise _withheld(settings, "its arrays do not match the network's")
    for name, (shape, dtype) in form.items():
        array = arrays[name]
        try:
            values = view_of(array)  # refuses extra bytes beyond the values, which might hold anything
        except BadUpdate:
            raise _withheld(settings, f"the array {name} is not a plain array of numbers") from None
        if (tuple(values.shape), str(values.dtype)) != (shape, dtype) or array.stype != "numpy.ndarray":
            raise _withheld(settings, f"the array {name} does not have the network's shape and dtype")
        if name == "layout" and text is not None and values.tobytes() != text.encode():
            raise _withheld(settings, "the layout of its packed weights is not the network's")


def names_and_forms(state: Mapping[str, Any]) -> dict[str, ArrayForm]:
    """The form of every array in a network's state, which may be on a GPU or have released its memory.

    >>> from torch import nn
    >>> names_and_forms(nn.Linear(3, 2).state_dict())
    {'weight': ((2, 3), 'float32'), 'bias': ((2,), 'float32')}
    """
    return {name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in state.items()}
