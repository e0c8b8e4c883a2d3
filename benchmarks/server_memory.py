"""What the server needs for the updates of 5 and of 50 sites, a network of 31.2 million parameters, by method.

    python benchmarks/server_memory.py             # all, each in a process of its own
    python benchmarks/server_memory.py median 50   # one

Replies come one at a time, as they do in a round, and nothing else is held beside them. Peak memory is what this
process had over what it had after its imports and with the round's weights, in copies of these weights (124.7 MB);
seconds are of the second round, making the replies not counted. Flower's strategies of the same kind stand beside ours.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_LOG_LEVEL="ERROR")
NUMBERS = (5, 50)
OPTIONS = {"krum": {"bad": 1}, "flwr.serverapp.strategy:Krum": {"num_malicious_nodes": 1}}
OURS = ("fedavg", "fedadam", "scaffold", "median", "geometric-median", "krum")
FLOWERS = ("FedAvg", "FedAdam", "FedMedian", "Krum")
MOST_SITES_OF_FLOWER = 20
"""With 50 a machine of 24 GB runs out of memory."""


def measured(name: str, number: int) -> tuple[float, float]:
    """Peak memory in copies of the weights, and seconds of a round without the making of the replies."""
    import numpy as np
    from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
    from round_overhead import network, resident_bytes

    from amos_fl.methods.base import Work
    from amos_fl.training.settings import TrainingSettings
    from amos_fl.weights import arrays_of
    from amos_fl_clients.federation.messages import ARRAYS, METRICS, WEIGHT
    from amos_fl_clients.federation.records import record_of
    from amos_fl_server.federation.aggregate import form_of
    from amos_fl_server.federation.engines.inline import InlineGrid
    from amos_fl_server.federation.strategies import make_strategy
    from amos_fl_server.federation.strategies.base import RoundInput

    arrays = {name: array.copy() for name, array in arrays_of(network()).items()}
    sites = [f"S{i:02d}" for i in range(number)]
    grid = InlineGrid(lambda message, context: message, sites)  # pyright: ignore[reportArgumentType]
    nodes, weights = dict(zip(sites, grid.get_node_ids(), strict=True)), dict.fromkeys(sites, 1.0)
    strategy = make_strategy(name, OPTIONS.get(name, {}))
    size = sum(array.nbytes for array in arrays.values())
    making = 0.0

    def replies():
        nonlocal making
        for i, site in enumerate(sites):
            started = time.perf_counter()
            moved = {
                key: array * np.float32(1 + i / 1000) if array.dtype.kind == "f" else array
                for key, array in arrays.items()
            }
            record = record_of(moved.items())
            del moved
            asked = Message(RecordDict(), nodes[site], "train")
            said = MetricRecord({WEIGHT: 1, "steps": 1, "train_loss": 1.0})
            message = Message(RecordDict({ARRAYS: record, METRICS: said}), reply_to=asked)
            del record
            making += time.perf_counter() - started
            yield site, message
            del message

    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    with tempfile.TemporaryDirectory() as folder:
        seconds = 0.0
        for round_number in (1, 2):
            work = Work(round_number, round_number - 1, 1, 10, TrainingSettings())
            config = ConfigRecord({"round": round_number})
            given = RoundInput(
                record_of(arrays.items()),
                config,
                nodes,
                weights,
                form_of(arrays),
                grid,
                0,
                all_counts=weights,
                works=dict.fromkeys(sites, work),
                spool=Path(folder) / "updates",
            )
            strategy.messages(given)
            making, started = 0.0, time.perf_counter()
            found, _ = strategy.aggregate(given, replies(), {})
            seconds = time.perf_counter() - started - making
            assert found
    return (resident_bytes("VmHWM") - before) / size, seconds


def main() -> None:
    if len(sys.argv) == 3:
        copies, seconds = measured(sys.argv[1], int(sys.argv[2]))
        print(f"{copies:.1f} {seconds:.1f}")
        return
    print("| strategy | sites | peak, in copies of the weights | seconds |\n|---|---|---|---|")
    every = [(name, NUMBERS) for name in OURS]
    every += [(f"flwr.serverapp.strategy:{name}", (NUMBERS[0], MOST_SITES_OF_FLOWER)) for name in FLOWERS]
    for name, numbers in every:
        for number in numbers:
            run = [sys.executable, __file__, name, str(number)]
            done = subprocess.run(run, capture_output=True, text=True)
            copies, seconds = done.stdout.split() if done.returncode == 0 else (f"failed ({done.returncode})", "-")
            whose = f"`{name.rpartition(':')[2]}`{' of Flower' if ':' in name else ''}"
            print(f"| {whose} | {number} | {copies} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
