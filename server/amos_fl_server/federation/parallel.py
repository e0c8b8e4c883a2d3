"""Carry out several runs at the same time, each in a separate process, scheduled by Ray."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amos_fl.errors import AmosError, Interrupted
from amos_fl.report.after_run import write_report
from amos_fl.runs.events import Event, TrackerFailed, in_words
from amos_fl.runs.folder import RunFolder
from amos_fl.stopping import INTERRUPTED
from amos_fl_server.federation.engines.ray_cluster import running_ray  # before Ray, which reads what it sets
from amos_fl_server.federation.simulate import simulate

# isort: split
import ray
from ray.exceptions import RayError


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended: `error` is None, or why it did not finish, with the exit code."""

    folder: RunFolder
    error: str | None
    exit_code: int
    notes: tuple[str, ...] = ()


def _carry_out(
    path: str, device: str, store: str, accept_changes: bool, report: bool
) -> tuple[str | None, int, tuple[str, ...]]:
    """Carry out one run in a worker. Errors are returned as text, because Ray would wrap them."""
    folder, notes = RunFolder(Path(path)), list[str]()

    def listener(event: Event) -> None:
        if isinstance(event, TrackerFailed):
            notes.append(in_words(event) or "")

    def and_then() -> None:
        if report:
            write_report(folder.path, notes.append)

    try:
        config = folder.config().model_copy(update={"device": device})
        how: dict[str, Any] = {"accept_changes": accept_changes, "and_then": and_then}
        simulate(folder, config, folder.cohort(), Path(store), listener, **how)
    except AmosError as error:
        return str(error), error.exit_code, tuple(notes)
    except Interrupted as error:
        return str(error), INTERRUPTED, tuple(notes)
    return None, 0, tuple(notes)


def run_in_parallel(
    folders: Sequence[RunFolder],
    store: Path,
    *,
    at_once: int,
    device: str,
    gpus_per_run: float = 0.0,
    address: str | None = None,
    accept_changes: bool = False,
    report: bool = False,
    on_outcome: Callable[[RunOutcome], None],
    on_wait: Callable[[dict[RunFolder, int]], None] = lambda rounds: None,
    pause_s: float = 1.0,
) -> None:
    """Carry out runs, `at_once` of them at a time, on this machine or on the cluster at `address`.

    Each requests as many CPUs from Ray as its training has threads, and `gpus_per_run`. With `report`, each writes its
    page at its end. `on_outcome` is called as each run ends; while waiting, `on_wait` is called with the rounds that
    the running ones have finished. A KeyboardInterrupt asks every run to stop after its current step, waits for them,
    and is raised again.

    Raises:
        AmosError: Ray does not start.
    """
    threads = max(folder.config().training.threads for folder in folders)
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        arguments |= {"address": "local", "num_cpus": threads * at_once, "include_dashboard": False}
    else:
        arguments["address"] = address
    with ExitStack() as stack:
        try:
            stack.enter_context(running_ray(**arguments))
        except Exception as error:
            raise AmosError(f"ray did not start: {error}; try again without --parallel") from error
        task = ray.remote(num_cpus=threads, num_gpus=gpus_per_run, max_retries=0)(_carry_out)
        queue, running, interrupted = list(folders), {}, False
        while queue or running:
            try:
                # Only as many tasks as can run are handed to Ray: waiting ones look like running ones.
                while queue and len(running) < at_once and not interrupted:
                    folder = queue.pop(0)
                    where = str(folder.path.resolve()), device, str(store.resolve())
                    running[task.remote(*where, accept_changes, report)] = folder
                ready, _ = ray.wait(list(running), num_returns=1, timeout=pause_s)
                for reference in ready:
                    on_outcome(_outcome(running.pop(reference), reference))
                on_wait({folder: folder.rounds_done for folder in running.values()})
            except KeyboardInterrupt:
                if interrupted:
                    raise
                queue, interrupted = [], True
                for folder in running.values():
                    folder.stop_file.request()
        if interrupted:
            raise KeyboardInterrupt


def _outcome(folder: RunFolder, reference: Any) -> RunOutcome:
    try:
        error, code, notes = ray.get(reference)
    except RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return RunOutcome(folder, f"its process failed: {lines[-1] if lines else type(error).__name__}", 1)
    return RunOutcome(folder, error, code, notes)
