"""FedAvg and FedProx to the bit: against a loop of thirty lines, and against the hashes that were recorded once.

What PyTorch computes depends on its version and on the processor, so hashes are recorded for each combination. Where
one is missing, the comparison with the loop remains, and

    AMOS_FL_RECORD_WEIGHTS=1 python -m pytest tests/test_recorded_weights.py

records it, on a commit whose weights are right.
"""

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from federations import federate, hashes, tiny_config

from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.networks.registry import build_network
from amos_fl.prepared.prepare import prepare_cases
from amos_fl.training.loop import train
from amos_fl.training.pull import Pull
from amos_fl.weights import hash_of

RECORDED = Path(__file__).parent / "recorded_weights.json"
METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedprox": {"strategy": "fedprox", "strategy_options": {"mu": 0.5}},
}


def this_machine() -> str:
    """What the bits of a training depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    processor = f"{named or platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"torch {torch.__version__}, numpy {np.__version__}, {processor}"


def by_hand(cohort: Cohort, store: Path, mu: float) -> list[str]:
    """The hash of the weights after every round: sites one after another, and their weighted mean in their order."""
    config = tiny_config()
    plan, organs = config.plan, tuple(cohort.organs)
    sites = {
        site: prepare_cases(cohort.only([site]).of(split="train"), plan, store, organs) for site in ("A", "B", "G")
    }
    network = build_network(config.model, plan, len(organs), seed=config.seed)
    weights = {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
    total, found = sum(map(len, sites.values())), []
    for number in range(config.rounds):
        mean: dict[str, np.ndarray] = {}
        for site, cases in sites.items():
            network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
            steps = {"steps": config.local_steps, "first_step": number * config.local_steps}
            train(
                network,
                cases,
                plan,
                config.training,
                organs=organs,
                seed=config.seed,
                site=site,
                total_steps=config.rounds * config.local_steps,
                pull=Pull(mu=mu),
                **steps,
            )
            for name, tensor in network.state_dict().items():
                part = tensor.numpy() * (len(cases) / total)
                mean[name] = mean[name] + part if name in mean else part
        weights = mean
        found.append(hash_of(weights))
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> dict[str, list[str]]:
    """The hashes after every round of a run of each method."""
    folder, cohort = tmp_path_factory.mktemp("weights"), read_cohort(tiny_root)
    return {name: hashes(federate(folder / name, cohort, store, **settings)) for name, settings in METHODS.items()}


@pytest.mark.parametrize(("name", "mu"), [("fedavg", 0.0), ("fedprox", 0.5)])
def test_a_runs_weights_are_those_of_a_plain_loop_to_the_bit(
    tiny_cohort: Cohort, store: Path, found: dict[str, list[str]], name: str, mu: float
) -> None:
    assert len(set(found[name])) == 3
    assert by_hand(tiny_cohort, store, mu) == found[name]


def test_weights_are_those_that_were_recorded(found: dict[str, list[str]]) -> None:
    recorded, here = json.loads(RECORDED.read_text()), this_machine()
    if os.environ.get("AMOS_FL_RECORD_WEIGHTS"):
        RECORDED.write_text(json.dumps({**recorded, here: found}, indent=2, sort_keys=True) + "\n")
    elif here not in recorded:
        pytest.skip(f"no weights are recorded for {here}; AMOS_FL_RECORD_WEIGHTS=1 records them")
    else:
        assert found == recorded[here]
