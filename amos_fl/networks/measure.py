"""Measure a network's time and memory on this device: one training step and one inference window.

Each runs in a separate process, because a process's peak memory also counts what it held before.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from amos_fl.device import memory_said
from amos_fl.errors import AmosError
from amos_fl.networks.cost import plan_for
from amos_fl.networks.registry import build_network
from amos_fl.training.loss import DiceCrossEntropy
from amos_fl.training.supervision import supervision_of
from amos_fl.volumes.plan import Triple
from amos_fl.workers import WorkerKilled, apart

TIMED_STEPS = 2
"""Each figure is the least of this many trials; the first one warms up memory and code."""


@dataclass(frozen=True)
class Measured:
    """Seconds, and the peak bytes of the network, its optimizer and its activations.

    Bytes are None if the operating system does not report them.
    """

    window_seconds: float
    window_bytes: int | None
    step_seconds: float
    step_bytes: int | None


def measure(
    model: str, *, device: str, patch: Triple, batch_size: int, threads: int, organ_count: int = 15
) -> Measured:
    """Measure one network: a window of one patch in evaluation, then training steps on `batch_size` patches.

    A step is the forward pass, the loss, the backward pass, and SGD with momentum; in mixed precision on a GPU, as in
    training.

    Raises:
        AmosError: no such model, or it does not fit into the memory.
    """
    try:
        return apart(_measured, model, device, patch, batch_size, threads, organ_count)
    except WorkerKilled:
        raise AmosError(
            f"{model}: its process was killed while it was measured, perhaps out of memory; "
            "give a smaller patch or batch size"
        ) from None


def _measured(model: str, device: str, patch: Triple, batch_size: int, threads: int, organ_count: int) -> Measured:
    torch.set_num_threads(threads)
    on_gpu = torch.device(device).type == "cuda"
    memory = _gpu_memory if on_gpu else _peak_of_process
    if not on_gpu:
        _forget_peak()
    before = memory()
    with memory_said(f"{model} at {'x'.join(map(str, patch))}", "give a smaller patch or batch size"):
        network = build_network(model, plan_for(model, patch), organ_count, seed=0).to(device)
        image = torch.zeros(batch_size, 1, *patch, device=device)
        window_seconds = _least(lambda: _window(network, image[:1]), on_gpu)
        window_bytes = _above(before, memory())
        step_seconds = _least(_step_of(network, image, organ_count), on_gpu)
        return Measured(window_seconds, window_bytes, step_seconds, _above(before, memory()))


@torch.inference_mode()
def _window(network: nn.Module, image: torch.Tensor) -> None:
    with torch.autocast(image.device.type, dtype=torch.float16, enabled=image.is_cuda):
        network.eval()(image)


def _step_of(network: nn.Module, image: torch.Tensor, organ_count: int) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-9, momentum=0.99, nesterov=True)
    loss_of = DiceCrossEntropy(supervision=supervision_of(network))
    label = torch.zeros(len(image), *image.shape[2:], dtype=torch.long, device=image.device)
    annotated = torch.ones(len(image), 1 + organ_count, dtype=torch.bool, device=image.device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(image.device.type, dtype=torch.float16, enabled=image.is_cuda):
            outputs = network.train()(image)
        loss_of(outputs, label, annotated).backward()
        optimizer.step()

    return step


def _least(work: Callable[[], None], on_gpu: bool) -> float:
    seconds = []
    for _ in range(TIMED_STEPS):
        start = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _above(before: int | None, now: int | None) -> int | None:
    return None if before is None or now is None else now - before


def _gpu_memory() -> int:
    return torch.cuda.max_memory_allocated()


def _forget_peak() -> None:
    """Reset the peak to the process's present memory, because imports had used more (only on Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_of_process() -> int | None:
    """This process's peak memory, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux's other figure starts from that of the parent process
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
