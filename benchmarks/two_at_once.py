"""One training on all cores, and two at once, with threads that spin briefly and as OpenMP has them wait.

    python benchmarks/two_at_once.py

prints milliseconds per optimizer step of the small network (two threads, two patches of 24x24x24, as on the phantom) in
processes that do the same work: alone, and two beside each other. OpenMP's threads spin while they wait for one
another; where more of them are at work than there are cores, they spin on a core that the other needs. The commands
set `GOMP_SPINCOUNT=1000`, unless the environment says otherwise: then they sleep soon.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from _rows import OURS, note

from amos_fl.threads import SPINS

WAYS = {OURS: {"GOMP_SPINCOUNT": SPINS}, "as OpenMP waits": {}}


def work(steps: int, threads: int) -> None:
    """Train, and print the milliseconds of a step."""
    import torch

    from amos_fl.networks.registry import build_network
    from amos_fl.volumes.plan import plan_named

    torch.set_num_threads(threads)
    plan = plan_named("coarse")
    network = build_network("small", plan, 15, seed=0).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    patches = torch.randn(2, 1, *plan.patch, generator=torch.Generator().manual_seed(0))
    for step in range(steps + 5):
        if step == 5:  # what is made once is made
            begun = time.perf_counter()
        optimizer.zero_grad()
        torch.stack([logits.square().mean() for logits in network(patches)]).sum().backward()
        optimizer.step()
    print((time.perf_counter() - begun) / steps * 1000)


def measured(way: dict[str, str], processes: int, steps: int, threads: int) -> float:
    """The mean milliseconds of a step over processes that run at the same time."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    command = [sys.executable, __file__, "--work", "--steps", str(steps), "--threads", str(threads)]
    running = [
        subprocess.Popen(command, env={**environment, **way}, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    return statistics.mean(float(process.communicate()[0]) for process in running)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--runs", type=int, default=3, help="how often each is measured, in turn")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.steps, given.threads)
        return
    print(f"{given.threads} threads each, {os.cpu_count()} cores")
    for processes in (1, 2):
        taken: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(given.runs):
            for name, way in WAYS.items():
                taken[name].append(measured(way, processes, given.steps, given.threads))
        title = "a step of a training" + (" beside another" if processes > 1 else "")
        for name, values in taken.items():
            print(f"{title:40} {name:20} {statistics.median(values):7.1f} ms")
            note(title, name, statistics.median(values), "ms")


if __name__ == "__main__":
    main()
