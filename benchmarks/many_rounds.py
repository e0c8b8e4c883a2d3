"""What a server does in a round beside the weights, at rounds 10, 100 and 1000 of a federation of 500 sites.

    python benchmarks/many_rounds.py
    python benchmarks/many_rounds.py --sites 50 --rounds 100

The sites are in this process and answer at once, with arrays of a few numbers and with made scores, validation in every
round. Per round: seconds (the median over the ten rounds up to it), bytes written and read by the process, and its
memory. The last column is what the same round took in earlier versions for the ledger and the choice of checkpoints:
the ledger was written whole, twice, and every evaluation read again.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import nn

from amos_fl.cohort.table import Case, Cohort
from amos_fl.files import write_text
from amos_fl.metrics.scores import UNIT
from amos_fl.randomness import generator
from amos_fl.runs.config import resolve
from amos_fl.runs.create import create_run
from amos_fl.runs.events import Event, Listener, RoundScored
from amos_fl.runs.finish import write_results
from amos_fl.runs.folder import RunFolder, open_run
from amos_fl.runs.layers import Layer
from amos_fl.runs.ledger import ledger_text
from amos_fl.runs.selection import bests_of
from amos_fl.runs.stored import json_line
from amos_fl.volumes.plan import Plan
from amos_fl_clients.federation.messages import ARRAYS, DESCRIBE, WEIGHT, reply_with, value_of
from amos_fl_clients.federation.records import record_of, views_of
from amos_fl_server.federation.engines.inline import InlineEngine, InlineGrid
from amos_fl_server.federation.rounds import Federation
from amos_fl_server.federation.strategies import strategy_of

ORGANS = {1: "liver", 2: "spleen"}
STEPS = {"strides": ((1, 1, 1), (2, 2, 2), (2, 2, 2)), "kernels": ((3, 3, 3),) * 3}
PLAN = {"name": "light", "spacing_mm": (8, 8, 8), "patch": (16, 16, 16), **STEPS}


def light_network(plan: Plan, organ_count: int) -> nn.Module:
    return nn.Conv3d(1, 1 + organ_count, 1)


def light_app(sites: tuple[str, ...]) -> Callable[[Message, Context], Message]:
    """The app of every site: one case per split, weights that move a little, scores that rise slowly and with noise."""

    def app(message: Message, context: Context) -> Message:
        index = int(str(context.node_config["partition-id"]))
        site = sites[index]
        kind = message.metadata.message_type
        if kind == DESCRIBE:
            cases = {"train": 1, "val": 1, "test": 1}
            annotated = {"annotated": [*ORGANS], "annotated_in_training": [*ORGANS]}
            description = {"site": site, "modalities": ["CT"], "cases": cases, **annotated}
            return reply_with(message, site, description=description)
        number = int(value_of(message, "round"))
        if kind == "train":
            given, step = views_of(message.content.array_records[ARRAYS]), np.float32(1 / (index + number))
            arrays = record_of((name, array + step) for name, array in given.items())
            steps = int(value_of(message, "steps"))
            metrics = {WEIGHT: 1, "cases": 1, "steps": steps, "train_loss": 1 / number, "seconds": 0.0}
            return reply_with(message, site, metrics=metrics, arrays=arrays)
        dsc = number / 3000 + generator(0, "light scores", site, number).uniform(0.2, 0.3)
        counts = {"counted": 1, "scored": 1, "missed": 0, "hallucinated": 0, "absent": 0}
        sums = {"dsc_sum": int(dsc * UNIT), "nsd_sum": int(dsc * UNIT), **counts}
        sums |= {"reference_ml_sum": UNIT, "predicted_ml_sum": UNIT}
        scores = {"cases": 1, "organs": {str(organ): sums for organ in ORGANS}}
        metrics = {WEIGHT: 1, "seconds": 0.0}
        return reply_with(message, site, metrics=metrics, scores=scores, modalities=["CT"], cases=[])

    return app


def light_run(folder: Path, sites: int, rounds: int, **settings: Any) -> RunFolder:
    """A new run of so many light sites."""
    names = [f"S{number:04d}" for number in range(sites)]
    file = Path("scans") / "none.nii.gz"
    cases = [
        Case(f"{site}-{split}", site, "CT", split, file, file, tuple(ORGANS))
        for site in names
        for split in ("train", "val", "test")
    ]
    light = {"model": f"{Path(__file__).stem}:light_network", "plan": PLAN, "rounds": rounds, "local_steps": 1}
    config = resolve([Layer("light", {"device": "cpu", "evaluation": {"every": 1}, **light, **settings})])
    return create_run(folder, config, Cohort(tuple(cases), ORGANS))


def carry_out(folder: RunFolder, listener: Listener) -> None:
    """Begin or continue a run of light sites, to its results."""
    config, cohort = folder.config(), folder.cohort()
    sites = cohort.sites
    federation = Federation(
        config, folder, strategy_of(config), InlineEngine(), listener, cohort.organs, sites, cohort.seen_sites
    )
    federation.run(InlineGrid(cast(ClientApp, light_app(sites)), sites))
    write_results(folder, federation.config, cohort, federation.chosen_weights)


def of_this_process(file: str, name: str) -> int:
    """A number in /proc/self/FILE."""
    lines = Path(f"/proc/self/{file}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


class Watch:
    """A listener that notes, after each round with its scores, the seconds since the one before and what was used."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.bookkeeping: list[float] = []
        self.used: list[tuple[int, int, int]] = []
        self._before = time.perf_counter()

    def __call__(self, event: Event) -> None:
        if isinstance(event, RoundScored):
            now = time.perf_counter()
            self.seconds.append(now - self._before)
            self._before = now
            written, read = of_this_process("io", "wchar"), of_this_process("io", "rchar")
            memory = of_this_process("status", "VmRSS") * 1024
            self.used.append((written, read, memory))
            if event.round % 50 == 0:
                print(f"round {event.round}: {self.seconds[-1]:.2f} s, {memory / 1e6:.0f} MB", file=sys.stderr)


def the_old_way_s(folder: RunFolder, scratch: Path, number: int) -> float:
    """Seconds for the whole ledger after a round, written twice, and for every evaluation up to it, read again."""
    entries = [entry for _, entry in zip(range(number), folder.entries(), strict=False)]
    started = time.perf_counter()
    write_text(scratch / "state.json", json_line({"ledger": entries}))
    write_text(scratch / "ledger.jsonl", ledger_text(entries))
    bests_of(folder, number)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1000)
    given = parser.parse_args()
    numbers = [number for number in (10, 100, 1000, 10000) if number <= given.rounds] or [given.rounds]
    with tempfile.TemporaryDirectory() as temporary:
        folder = light_run(Path(temporary) / "run", given.sites, given.rounds)
        watch = Watch()
        carry_out(folder, watch)
        started = time.perf_counter()
        carry_out(open_run(folder.path), lambda event: None)
        resumed_s = time.perf_counter() - started
        print(
            "| round | seconds | written, MB | read, MB | memory, MB | the old way, s more |\n|---|---|---|---|---|---|"
        )
        for number in numbers:
            seconds = statistics.median(watch.seconds[max(number - 10, 1) : number])
            (wrote, read, _), (wrote_after, read_after, memory) = watch.used[number - 2 : number]
            moved = " | ".join(f"{amount / 1e6:.2f}" for amount in (wrote_after - wrote, read_after - read))
            old = the_old_way_s(folder, Path(temporary), number)
            print(f"| {number} | {seconds:.2f} | {moved} | {memory / 1e6:.0f} | {old:.2f} |", flush=True)
        print(f"going on after the last round, results included: {resumed_s:.0f} s")


if __name__ == "__main__":
    main()
