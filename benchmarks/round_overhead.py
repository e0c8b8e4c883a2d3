"""What a round costs beside the training: five sites, a network of 31.2 million parameters, no training step.

    python benchmarks/round_overhead.py            # all, each in a process of its own
    python benchmarks/round_overhead.py inline torch   # some

`inline` and `ray` are this project's engines with everything that a run does in a round (checks for NaN,
checkpoint, hash, ledger). `flower` is Flower's own simulation with its FedAvg, `torch` a running sum in one
process: the least that can be had. Seconds are the median over rounds 2 and later; memory is the peak of
this process over what it had after its imports, in copies of the weights, and with Ray how many of them are pages of
the machine's object store, which exist once for all processes, as far as this one has read or written them.
"""

import contextlib
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _rows import OURS, note

os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0", FLWR_LOG_LEVEL="ERROR")
SITES, ROUNDS = ("A", "B", "C", "D", "E"), 6
KINDS = ("inline", "ray", "flower", "torch")
INLINE, RAY = "a round without training, inline, 5 sites, 31.2 M parameters", "the same on Ray"
ROWS: dict[str, dict[str, tuple[str, float | None]]] = {
    "inline": {INLINE: (OURS, 0.5)},
    "ray": {RAY: (OURS, None)},
    "flower": {INLINE: ("Flower's simulation", None), RAY: ("Flower's simulation", None)},
    "torch": {INLINE: ("a running sum in torch", None)},
}


def resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def network():
    from amos_fl.networks.registry import build_network

    return build_network("unet", plan(), 15, seed=0)


def plan():
    from amos_fl.volumes.plan import plan_named

    # The paper's network; a coarse spacing, because no voxel is looked at here.
    return plan_named("amos-ct").model_copy(update={"name": "overhead", "spacing_mm": (8, 8, 8), "patch": (32, 32, 16)})


def run_engine(engine: str) -> list[float]:
    """Rounds of one of this project's engines."""
    import nibabel as nib
    import numpy as np

    import amos_fl_server.federation.simulate
    from amos_fl.cohort.table import Case, Cohort
    from amos_fl.runs.config import resolve
    from amos_fl.runs.create import create_run
    from amos_fl.runs.events import Event, RoundFinished
    from amos_fl.runs.layers import Layer

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        cases = []
        for site in SITES:
            for name, array in (
                ("image", np.random.default_rng(0).integers(0, 99, (24, 24, 20))),
                ("label", np.ones((24, 24, 20))),
            ):
                nib.save(nib.Nifti1Image(array.astype(np.int16), np.diag([8, 8, 8, 1])), root / f"{site}_{name}.nii.gz")
            image, label = (root / f"{site}_{name}.nii.gz" for name in ("image", "label"))
            cases.append(Case(f"case_{site}", site, "CT", "train", image, label, tuple(range(1, 16))))
        settings = {
            "cohort": str(root),
            "model": "unet",
            "plan": plan().model_dump(),
            "rounds": ROUNDS,
            "local_steps": 0,
            "device": "cpu",
            "training": {"threads": 1},
            "engine": {"name": engine},
        }
        config = resolve([Layer("benchmark", settings)])
        cohort = Cohort(tuple(cases))
        folder = create_run(root / "run", config, cohort)
        seconds: list[float] = []

        def on_event(event: Event) -> None:
            if isinstance(event, RoundFinished):  # its seconds are those of all of the round, checkpoint included
                seconds.append(event.seconds)
                look_at_shared()

        measure_from_here()
        amos_fl_server.federation.simulate.simulate(folder, config, cohort, root / "store", on_event)
        return seconds


def run_flower() -> list[float]:
    """Rounds of Flower's own simulation: FedAvg, sites that load the weights and send them back."""
    import logging

    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    client, server = ClientApp(), ServerApp()
    seconds: list[float] = []

    @client.train()
    def train(message, context):
        model = network()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    @server.main()
    def main(grid, context):
        class Timed(FedAvg):
            def configure_train(self, server_round, arrays, config, grid):
                self.started = time.perf_counter()
                return super().configure_train(server_round, arrays, config, grid)

            def aggregate_train(self, server_round, replies):
                result = super().aggregate_train(server_round, replies)
                seconds.append(time.perf_counter() - self.started)
                look_at_shared()
                return result

        count = len(SITES)
        strategy = Timed(fraction_evaluate=0, min_train_nodes=count, min_available_nodes=count)
        strategy.start(grid, ArrayRecord(network().state_dict()), num_rounds=ROUNDS)

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    cores = os.cpu_count() or 1
    arguments = {"address": "local", "num_cpus": cores, "log_to_driver": False, "logging_level": "ERROR"}
    measure_from_here()
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": arguments}
    run_simulation(server, client, num_supernodes=len(SITES), backend_config=resources)
    return seconds


def run_torch() -> list[float]:
    """A running sum of five state dicts in one process, and nothing else."""
    import torch

    measure_from_here()
    model = network()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        total = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
        for _site in SITES:
            model.load_state_dict(weights)
            for name, tensor in model.state_dict().items():
                total[name].add_(tensor, alpha=1 / len(SITES))
        weights = total
        seconds.append(time.perf_counter() - started)
    return seconds


_before = 0
_shared = 0


def look_at_shared() -> None:
    """Note how much of a store that processes share is mapped here, if it is the most so far."""
    global _shared
    _shared = max(_shared, resident_bytes("RssShmem"))


def measure_from_here() -> None:
    """Take this process's memory as it is now, after the imports, as the one to compare with."""
    global _before
    import torch

    import amos_fl.networks.registry  # noqa: F401 - imports are not a round's memory

    torch.optim.SGD(torch.nn.Linear(1, 1).parameters())  # imports more on its first use
    with contextlib.suppress(ImportError):
        importlib.import_module("torch.utils.tensorboard.writer")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    _before = resident_bytes("VmRSS")


def main() -> None:
    if len(sys.argv) != 2:
        print("kind     s per round   first round   peak memory of this process, in copies; in the store", flush=True)
        for kind in sys.argv[1:] or KINDS:
            subprocess.run([sys.executable, __file__, kind], check=True)
        return
    kind = sys.argv[1]
    import amos_fl_server.federation.engines.inline
    import amos_fl_server.federation.simulate  # noqa: F401 - imports are not a round's memory

    seconds = {"flower": run_flower, "torch": run_torch}.get(kind, lambda: run_engine(kind))()
    weights_bytes = 4 * 31_175_008
    copies, shared = (resident_bytes("VmHWM") - _before) / weights_bytes, _shared / weights_bytes
    middle = statistics.median(seconds[1:])
    print(f"{kind:8} {middle:8.2f} {seconds[0]:13.2f} {copies:12.1f} {shared:12.1f}", flush=True)
    memory = f"{copies:.1f} copies" + (f", {shared:.1f} in the store" if shared > 0.1 else "")
    for work, (tool, limit) in ROWS.get(kind, {}).items():
        note(work, tool, middle, memory=memory, limit=limit)


if __name__ == "__main__":
    main()
