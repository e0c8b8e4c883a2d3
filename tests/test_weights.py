"""A network's weights as arrays: into it, out of it, and the memory that is given back on the way."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from amos_fl.weights import arrays_of, given_up_by, handed_over, hash_of, load_arrays
from amos_fl_clients.federation.records import record_holding, record_of, views_of


def wide() -> nn.Module:
    """Eight million weights in one array, and a few in another."""
    torch.manual_seed(0)
    return nn.Linear(2048, 4096)


def resident_mb() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def test_a_network_that_is_given_up_is_sent_as_it_was() -> None:
    network = wide()
    before = hash_of(arrays_of(network))
    assert hash_of(views_of(record_of(given_up_by(network)))) == before


def test_a_network_that_was_given_up_takes_weights_as_before() -> None:
    network = wide()
    kept = {name: array.copy() for name, array in arrays_of(network).items()}
    for _ in given_up_by(network):
        pass
    load_arrays(network, kept)
    assert hash_of(arrays_of(network)) == hash_of(kept)
    network(torch.ones(1, 2048)).sum().backward()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back on Linux alone")
def test_giving_a_network_up_returns_the_memory_of_its_large_arrays() -> None:
    network = wide()
    held = resident_mb()
    for _ in given_up_by(network):
        pass
    assert resident_mb() < held - 28  # of the 33.6 MB of its weight
    assert not np.any(arrays_of(network)["weight"][1:-1])


def test_memory_that_two_names_share_is_not_given_up_before_both_are_read() -> None:
    network = nn.ModuleDict({"one": wide(), "two": wide()})
    network["two"].weight = network["one"].weight
    expected = {name: array.copy() for name, array in arrays_of(network).items()}
    seen = {name: array.copy() for name, array in given_up_by(network)}
    assert hash_of(seen) == hash_of(expected)


def memory_of(network: nn.Module) -> int:
    return arrays_of(network)["weight"].ctypes.data


def test_weights_that_were_handed_over_stay_as_they_were_whatever_is_loaded_and_trained() -> None:
    network = wide()
    before = hash_of(arrays_of(network))
    record = record_holding(handed_over(network))
    parameters = list(network.parameters())
    load_arrays(network, {name: np.zeros_like(array) for name, array in views_of(record).items()})
    network(torch.ones(1, 2048)).sum().backward()
    torch.optim.SGD(network.parameters(), lr=1.0).step()
    assert np.any(arrays_of(network)["weight"])
    assert hash_of(views_of(record)) == before
    assert all(new is old for new, old in zip(network.parameters(), parameters, strict=True))


def test_memory_handed_over_is_taken_back_once_nobody_holds_it() -> None:
    network = wide()
    kept, memory = {name: array.copy() for name, array in arrays_of(network).items()}, memory_of(network)
    record = record_holding(handed_over(network))
    assert views_of(record)["weight"].ctypes.data == memory  # without a copy
    del record
    load_arrays(network, kept)
    assert memory_of(network) == memory
    part = views_of(record_holding(handed_over(network)))["weight"][5:9]  # a view of some rows holds it all
    load_arrays(network, {name: -array for name, array in kept.items()})
    assert memory_of(network) != memory
    assert np.array_equal(part, kept["weight"][5:9])


def test_memory_that_two_names_share_is_handed_over_as_copies() -> None:
    network = nn.ModuleDict({"one": wide(), "two": wide()})
    network["two"].weight = network["one"].weight
    kept = {name: array.copy() for name, array in arrays_of(network).items()}
    record = record_holding(handed_over(network))
    load_arrays(network, {name: -array for name, array in kept.items()})
    assert hash_of(views_of(record)) == hash_of(kept)
    assert network["two"].weight is network["one"].weight
