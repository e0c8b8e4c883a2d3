"""What a round of a deployment costs beside the training: sites over TLS with keys, each in processes of its own.

    python benchmarks/deployed_round.py                   # both networks in all three ways: 40 minutes
    python benchmarks/deployed_round.py small ours        # one of them
    python benchmarks/deployed_round.py small 2           # with two sites instead of eight

Sites on this machine, one SuperLink with its database in a file, one step of training on a small patch and one small
validation case at each site in every round: what is left is start-up, waiting and transport. The server's loop is ours.

- `flower`: the sites are `flower-supernode`, with a new process for every message, its waits and its transfers at a
  time; every array of the weights travels as one of Flower's.
- `arrays`: the sites are `amos-fl-site`; the weights travel as with `flower`.
- `ours`: the weights travel packed, which is what a deployment does.

`small` is the network for CPUs, `unet` the paper's with 31.2 million parameters. Seconds are the median over rounds 2
and later, training and scoring together and apart; processor seconds, which other work on the machine changes little,
are the mean of those rounds, over all processes and by what they are: `messages` are the sites' work itself.
"""

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.update(FLWR_TELEMETRY_ENABLED="0", FLWR_DISABLE_UPDATE_CHECK="1", FLWR_LOG_LEVEL="ERROR")
SITES = tuple("ABCDEFGH"[: int(next((word for word in sys.argv[1:] if word.isdigit()), "8"))])
ROUNDS = {"small": 4, "unet": 3}
KINDS = ("flower", "arrays", "ours")
FLOWERS = {
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1.0",
    "FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES": "2",
    "FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PULLS": "2",
}
BIN = Path(sys.executable).parent
AS_ARRAYS = """
import sys
if any(word.endswith("flwr-serverapp") for word in sys.orig_argv):
    import amos_fl_server.federation.engines.remote
    amos_fl_server.federation.engines.remote._packed = lambda record: record
"""
"""A sitecustomize.py, which Python imports at its start: the server does not pack."""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


ROLES = {
    "flower-superlink": "SuperLink",
    "amos_fl_server.operation.superlink": "SuperLink",
    "serverapp": "ServerApp",
    "clientapp": "messages",
    "warm": "messages",
    "superexec": "SuperExecs",
    "supernode": "SuperNodes",
}
"""What a process is, by a word of its command."""


class ProcessorTime(threading.Thread):
    """Adds up the processor time of some processes and their descendants by role, also of those that live shortly."""

    def __init__(self, started: list[int]) -> None:
        super().__init__(daemon=True)
        self.started, self.ended = started, threading.Event()
        self.samples: list[tuple[float, dict[str, float]]] = []
        self._ours: dict[int, tuple[str, float]] = {}

    def run(self) -> None:
        while not self.ended.wait(0.25):
            for stat in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
                try:
                    values = stat.read_text().rpartition(")")[2].split()
                    command = stat.with_name("cmdline").read_text(errors="replace")
                except OSError:
                    continue
                pid, parent = int(stat.parent.name), int(values[1])
                if pid in self.started or parent in self._ours or pid in self._ours:
                    before = self._ours.get(pid, ("others", 0.0))[0]  # one that has ended has no command any more
                    role = next((role for word, role in ROLES.items() if word in command), before)
                    ticks = int(values[11]) + int(values[12])
                    self._ours[pid] = role, ticks / os.sysconf("SC_CLK_TCK")
            total = dict.fromkeys(ROLES.values(), 0.0)
            for role, seconds in self._ours.values():
                total[role] = total.get(role, 0.0) + seconds
            self.samples.append((time.time(), total))

    def between(self, begin: float, end: float) -> dict[str, float]:
        inside = [seconds for when, seconds in self.samples if begin <= when <= end]
        return {role: total - inside[0].get(role, 0.0) for role, total in inside[-1].items()}


def make_cohort(folder: Path) -> Any:
    """One case to train on and one to score at each site."""
    import nibabel as nib
    import numpy as np

    from amos_fl.cohort.table import Case, Cohort

    random, cases = np.random.default_rng(0), []
    for site in SITES:
        for split in ("train", "val"):
            name = f"{site}{split}"
            for part, array in (
                ("image", random.normal(0, 100, (32, 32, 16)).astype(np.int16)),
                ("label", random.integers(0, 16, (32, 32, 16)).astype(np.uint8)),
            ):
                nib.save(nib.Nifti1Image(array, np.diag([8.0, 8, 8, 1])), folder / f"{name}_{part}.nii.gz")
            image, label = folder / f"{name}_image.nii.gz", folder / f"{name}_label.nii.gz"
            cases.append(Case(name, site, "CT", split, image, label, tuple(range(1, 16))))
    from amos_fl.cohort.organs import AMOS_ORGANS

    return Cohort(tuple(cases), dict(AMOS_ORGANS))


def settings(model: str) -> dict[str, Any]:
    from amos_fl.volumes.plan import plan_named

    plan = plan_named("amos-ct" if model == "unet" else "coarse")
    patch = (64, 64, 32) if model == "unet" else (32, 32, 16)  # what its strides leave something of
    small = plan.model_copy(update={"name": "small-patches", "spacing_mm": (8.0, 8.0, 8.0), "patch": patch})
    return {
        "model": model,
        "plan": small.model_dump(mode="json"),
        "rounds": ROUNDS[model],
        "local_steps": 1,
        "sites": list(SITES),
        "evaluation": {"every": 1},
        "training": {"threads": 1, "batch_size": 1, "augmentation": "none"},
        "engine": {"name": "deployment"},
    }


def measure(model: str, kind: str) -> None:
    """Print what a round takes."""
    from amos_fl.deploy.create import create_deployment
    from amos_fl.deploy.layout import read_site, site_folder
    from amos_fl.runs.config import resolve
    from amos_fl.runs.events import silent
    from amos_fl.runs.layers import Layer
    from amos_fl_server.operation.admission import admit_sites
    from amos_fl_server.operation.connection import RunsClient, connection_of
    from amos_fl_server.operation.submitter import Following, SubmittedRun

    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *command: str, **environment: str) -> None:
        own = {"FLWR_HOME": str(root / "homes" / name), "OMP_NUM_THREADS": "1", **environment}
        with (root / f"{name}.log").open("wb") as log:
            processes.append(
                subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **own}, start_new_session=True)
            )
            started.append(processes[-1].pid)

    started: list[int] = []
    used = ProcessorTime(started)
    used.start()
    with tempfile.TemporaryDirectory() as temporary:
        root, port = Path(temporary), free_port()
        cohort = make_cohort(root)
        dep = root / "dep"
        create_deployment(dep, SITES, hosts=["localhost"], port=port, cohort=cohort, demonstration_keys=True)
        theirs = FLOWERS if kind == "flower" else {}
        (root / "sitecustomize.py").write_text(AS_ARRAYS)
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        at_server = {**theirs, **({} if kind == "ours" else {"PYTHONPATH": path})}
        files = dep / "superlink"
        start(
            "superlink",
            *(sys.executable, "-m", "amos_fl_server.operation.superlink", "--port", str(port)),
            *("--database", str(files / "state/state.db"), "--ssl-ca-certfile", str(files / "ca.crt")),
            *("--ssl-certfile", str(files / "server.crt"), "--ssl-keyfile", str(files / "server.key")),
            AMOS_FL_SUBMITTERS=str(files / "submitters.json"),
            **at_server,
        )
        try:
            connection = connection_of(dep)
            wait_for(connection)
            admit_sites(dep)
            for site in SITES:
                folder = site_folder(dep, site)
                if kind == "flower":
                    command = [str(BIN / "flower-supernode")]
                    config = ["--node-config", f'site-settings="{folder / "settings.yaml"}"']
                else:
                    command = [sys.executable, "-m", "amos_fl_clients.operation.command", "supernode", str(folder)]
                    config = []
                start(
                    site,
                    *(*command, "--superlink", f"localhost:{port}", "--port", str(free_port())),
                    *("--root-certificates", str(folder / "ca.crt")),
                    *("--auth-supernode-private-key", str(folder / read_site(folder).key), *config),
                    **theirs,
                )
            with RunsClient(connection) as client:
                run = SubmittedRun(connection, client, "bench")
                run.make(resolve([Layer("benchmark", settings(model))]), dict(cohort.organs))
                run.submit(300.0)
                state = Following(run, None, silent, lambda _: None).to_the_end()
                assert state.state == "finished", state
                lines = client.read("/runs/bench/events").decode().splitlines()
        finally:
            used.ended.set()
            for process in processes:
                os.killpg(process.pid, signal.SIGTERM)
            for process in processes:
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
    report(model, kind, lines, used)


def wait_for(connection: Any) -> None:
    from amos_fl.errors import AmosError
    from amos_fl_server.operation.connection import RunsClient

    end = time.monotonic() + 120
    while True:
        try:
            with RunsClient(connection) as client:
                client.get("/about")
                return
        except AmosError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def report(model: str, kind: str, lines: list[str], used: ProcessorTime) -> None:
    from amos_fl.runs.events import RoundFinished, RoundScored, RoundStarted, event_of

    began, trained, scored = {}, {}, {}
    for when, event in (found for found in map(event_of, lines) if found is not None):
        match event:
            case RoundStarted(round=number):
                began[number] = when
            case RoundFinished(round=number):
                trained[number] = when
            case RoundScored(round=number):
                scored[number] = when
    rounds = [number for number in scored if number > 1]
    training = statistics.median(trained[n] - began[n] for n in rounds)
    scoring = statistics.median(scored[n] - trained[n] for n in rounds)
    seconds = used.between(scored[1], scored[max(scored)])
    by_role = {role: total / len(rounds) for role, total in seconds.items()}
    print(
        f"{model:6} {kind:7} {training + scoring:7.1f} s a round ({training:.1f} training, {scoring:.1f} scoring), "
        f"{sum(by_role.values()):.1f} s of processors "
        f"({', '.join(f'{role} {share:.1f}' for role, share in sorted(by_role.items()))}); "
        f"rounds: {', '.join(f'{scored[n] - began[n]:.1f}' for n in sorted(scored))}",
        flush=True,
    )


def main() -> None:
    models = [word for word in sys.argv[1:] if word in ROUNDS] or list(ROUNDS)
    kinds = [word for word in sys.argv[1:] if word in KINDS] or list(KINDS)
    for model in models:
        for kind in kinds:
            measure(model, kind)


if __name__ == "__main__":
    main()
