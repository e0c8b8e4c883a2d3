"""The network of a site's process with the weights that a request, or the site itself, has for it."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from flwr.app import Message
from torch import nn

from amos_fl.methods import method_named
from amos_fl.methods.base import Method
from amos_fl.networks.parts import Parts, parts_of
from amos_fl.networks.registry import build_network
from amos_fl.training.settings import NormStatistics
from amos_fl.volumes.plan import Plan
from amos_fl.weights import Arrays, is_statistic, load_arrays
from amos_fl_clients.federation.messages import ARRAYS, KEPT_AFTER, Task, value_of
from amos_fl_clients.federation.records import views_of
from amos_fl_clients.federation.replies import ArrayForm, names_and_forms
from amos_fl_clients.federation.settings import SiteSettings
from amos_fl_clients.federation.state import PRIVATE, SECOND_MODEL, Kept, load_kept

_WEIGHTS, _MOMENTUM = "weights/", "momentum/"
"""The prefixes of names among the stored arrays of a second model."""


@lru_cache(maxsize=1)
def _network(model: str, plan_json: str, organ_count: int, norm_statistics: NormStatistics, device: str) -> nn.Module:
    """The network of this process; every use overwrites all its weights."""
    plan = Plan.model_validate_json(plan_json)
    return build_network(model, plan, organ_count, seed=0, norm_statistics=norm_statistics).to(device)


def _network_of(task: Task, device: str) -> nn.Module:
    return _network(task.model, task.plan.model_dump_json(), len(task.organs), task.norm_statistics, device)


def method_of(task: Task) -> Method:
    return method_named(task.method, task.method_options)


def shared_network(
    message: Message, task: Task, settings: SiteSettings, *, own_after: int, own_names: frozenset[str]
) -> tuple[nn.Module, str]:
    """The network with the weights of a request, those of `own_names` as the site had them in round `own_after`.

    Or in its last round before. If they are lost, the request's are used, and the second value says why.
    """
    network, own = _network_of(task, settings.device), Kept({})
    if own_names:
        own = load_kept(settings.state, task.run_id, PRIVATE, own_after, value_of(message, KEPT_AFTER))
    arrays = views_of(message.content.array_records[ARRAYS])
    load_arrays(network, {**arrays, **{name: own.value[name] for name in own_names & own.value.keys()}})
    return network, own.lost


def second_network(message: Message, task: Task, settings: SiteSettings) -> tuple[nn.Module, str]:
    """The site's own network after the request's round; the request's weights before the site's first.

    The second value says why it is lost, if it is.
    """
    after = int(value_of(message, "round"))
    own = load_kept(settings.state, task.run_id, SECOND_MODEL, after, value_of(message, KEPT_AFTER))
    network = _network_of(task, settings.device)
    load_arrays(network, second_model(own.value)[0] or views_of(message.content.array_records[ARRAYS]))
    return network, own.lost


def second_model(kept: Mapping[str, np.ndarray]) -> tuple[Arrays, Arrays]:
    """The weights and the momentum among the stored arrays of a second model."""
    weights, momentum = Arrays(), Arrays()
    for name, array in kept.items():
        (weights if name.startswith(_WEIGHTS) else momentum)[name.partition("/")[2]] = array
    return weights, momentum


def as_second_model(weights: Mapping[str, np.ndarray], momentum: Mapping[str, np.ndarray]) -> Arrays:
    """The stored arrays of a second model."""
    return {
        **{_WEIGHTS + name: array for name, array in weights.items()},
        **{_MOMENTUM + name: array for name, array in momentum.items()},
    }


def own_names(task: Task, *, personal: bool) -> frozenset[str]:
    """The arrays of which a site uses its own in training and in its personal model, or in scoring the shared one."""
    parts = _parts(task)
    local = frozenset(filter(is_statistic, parts.everything)) if task.norm_statistics == "local" else frozenset()
    return local | method_of(task).private(parts) if personal else local


def withheld(task: Task) -> frozenset[str]:
    """The arrays that no site of this task sends."""
    return method_of(task).withheld(_parts(task))


def form_of_update(settings: SiteSettings, task: Task) -> dict[str, ArrayForm]:
    """The arrays that an update of this task must consist of."""
    forms, stay = names_and_forms(_network_of(task, settings.device).state_dict()), withheld(task)
    return task.codec.form({name: form for name, form in forms.items() if name not in stay})


def _parts(task: Task) -> Parts:
    return parts_of(task.model, task.plan, len(task.organs), task.norm_statistics)
