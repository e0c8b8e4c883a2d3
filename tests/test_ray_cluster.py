"""A Ray cluster whose machines share no disk: the weights of one machine, and machines that leave and come back.

Each machine is a process of Ray in a mount namespace of its own, in which its own folder, and no other, lies at the
path `here`; the process that leads sees nothing there.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from federations import TINY, federate, hashes, tiny_config
from hospitals import write_hospital
from loopback import free_port

from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.errors import AmosError
from amos_fl.networks.catalogue import NETWORKS
from amos_fl.runs.events import Event, RoundFinished, silent
from amos_fl.runs.folder import open_run
from amos_fl.runs.layers import merge
from amos_fl.runs.record import read_run
from amos_fl_server.operation.cluster import simulate_on_nodes

NAMESPACE = ("unshare", "--mount", "--propagation", "private")


def _may_mount() -> bool:
    with suppress(OSError):
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _may_mount(), reason="no mount namespace can be made here, as the superuser on Linux may"),
]
SITES = "ABG"


def _with_children(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        listed = Path(f"/proc/{parent}/task/{parent}/children")
        with suppress(OSError):
            found += [int(child) for child in listed.read_text().split()]
    return found


@dataclass
class Machines:
    """A cluster with a machine for every site, each with its folder at the path `here`."""

    root: Path
    port: int = field(default_factory=free_port)
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def here(self) -> Path:
        return self.root / "here"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def engine(self) -> dict[str, Any]:
        """The engine's settings: a site works on the machine with its label, and has its settings there."""
        return {
            "name": "ray",
            "address": self.address,
            "cpus_per_site": 1,
            "site_nodes": {site: f"site={site}" for site in SITES},
            "site_settings": {site: str(self.here / "settings.yaml") for site in SITES},
        }

    def folder(self, site: str) -> Path:
        return self.root / f"machine-{site}"

    def start(self, name: str) -> None:
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--object-store-memory=100000000"]
        if name == "head":
            mine = ["--head", f"--port={self.port}", "--num-cpus=0", "--include-dashboard=false"]
            command = [*ray, "--node-ip-address=127.0.0.1", *mine]
        else:
            joined = f"--address={self.address} --num-cpus=1 --labels=site={name}"
            mount = f"mount --bind {self.folder(name)} {self.here} && exec {' '.join(ray)} {joined}"
            command = [*NAMESPACE, "sh", "-c", mount]
        log = (self.root / f"{name}.log").open("ab")
        self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def lose(self, name: str) -> None:
        """End all that runs on a machine: what was started there, whatever it has started since."""
        process = self.running.pop(name)
        for pid in _with_children(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def there(self) -> int:
        """How many machines the cluster has."""
        status = [str(Path(sys.executable).with_name("ray")), "status", "--address", self.address]
        said = subprocess.run(status, capture_output=True, text=True, check=False).stdout
        return said.count("\n 1 node_")

    def wait_for(self, number: int) -> None:
        deadline = time.monotonic() + 120
        while self.there() != number:
            assert time.monotonic() < deadline, "\n".join(log.read_text() for log in self.root.glob("*.log"))
            time.sleep(1.0)


def wait_until_ray_has(number: int) -> None:
    """Wait, in a process that is connected to the cluster, until so many of its machines are alive."""
    import ray

    deadline = time.monotonic() + 120
    while sum(node["Alive"] for node in ray.nodes()) != number:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> Iterator[Machines]:
    tiny_cohort = read_cohort(tiny_root)
    cluster = Machines(tmp_path_factory.mktemp("machines"))
    cluster.here.mkdir()
    for site in SITES:
        folder = cluster.folder(site)
        for name in ("images", "labels"):
            (folder / name).mkdir(parents=True)
        cases = []
        for case in tiny_cohort.only([site]).cases:
            assert case.label is not None
            files = {"image": folder / "images" / case.image.name, "label": folder / "labels" / case.label.name}
            shutil.copy(case.image, files["image"])
            shutil.copy(case.label, files["label"])
            cases.append(replace(case, **files))
        write_hospital(folder, Cohort(tuple(cases), tiny_cohort.organs), site, share_case_scores="named")
    try:
        cluster.start("head")
        cluster.wait_for(1)
        for number, site in enumerate(SITES, start=2):  # one after the other: all take free ports of one machine
            cluster.start(site)
            cluster.wait_for(number)
        yield cluster
    finally:
        for name in list(cluster.running):
            cluster.lose(name)


def test_sites_on_machines_of_their_own_give_the_weights_of_one_though_the_leading_process_is_killed(
    tmp_path: Path, machines: Machines, tiny_cohort: Cohort, store: Path
) -> None:
    longer = merge(TINY, {"rounds": 3, "local_steps": 30})
    recipe = dict(NETWORKS["small"].recipe)
    inline = federate(tmp_path / "inline", tiny_cohort.only(list(SITES)), store, **merge(recipe, longer))
    config, out = tmp_path / "run.yaml", tmp_path / "out"
    config.write_text(json.dumps({**longer, "engine": machines.engine}))
    command = [str(Path(sys.executable).with_name("amos-fl")), "simulate"]
    with (
        (tmp_path / "led").open("w") as log,
        subprocess.Popen([*command, "--config", str(config), "--out", str(out)], stdout=log, stderr=log) as led,
    ):
        deadline = time.monotonic() + 180
        while not (out / "ledger.jsonl").is_file():
            assert led.poll() is None, (tmp_path / "led").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        led.kill()
    assert not open_run(out).finished
    again = subprocess.run([*command, "--resume", str(out)], capture_output=True, text=True, timeout=180)
    assert again.returncode == 0, again.stdout + again.stderr
    run = open_run(out)
    assert hashes(run) == hashes(inline)
    assert (run.path / "scores.csv").read_bytes() == (inline.path / "scores.csv").read_bytes()
    assert run.config().engine.name == "deployment"
    assert "report.html" in again.stdout
    # Nothing of a site but its replies is here, and each machine has what its own site prepared and keeps.
    assert not list(machines.here.iterdir())
    assert not (out / "sites").exists()
    for site in SITES:
        assert list((machines.folder(site) / "state" / "store").iterdir())
        assert "asked=train round=3 " in (machines.folder(site) / "state" / "audit.log").read_text()
    assert {case.site for case in read_run(out).cohort.cases} == set(SITES)


def test_a_machine_that_leaves_the_cluster_is_missing_by_name_until_it_is_back_with_its_files(
    tmp_path: Path, machines: Machines
) -> None:
    settings_of_g = machines.folder("G") / "settings.yaml"
    aside = settings_of_g.with_suffix(".aside")

    def lose_g(event: Event) -> None:
        if not isinstance(event, RoundFinished):
            return
        if event.round == 1:
            machines.lose("G")
            wait_until_ray_has(3)
        if event.round == 3:
            settings_of_g.rename(aside)
            machines.start("G")
            wait_until_ray_has(4)
        if event.round == 4:
            aside.rename(settings_of_g)

    settings = {"rounds": 5, "min_sites": 2, "evaluation": {"every": 9}, "engine": machines.engine}
    simulate_on_nodes(tmp_path / "out", tiny_config(**settings), lose_g)
    ledger = open_run(tmp_path / "out").ledger()
    whole, without_g = ["A", "B", "G"], ["A", "B"]
    assert [sorted(entry["sites"]) for entry in ledger] == [whole, without_g, without_g, without_g, whole]
    assert "its machine, site=G, is not in the cluster" in ledger[2]["missing"]["G"]
    assert "here/settings.yaml: is not there on" in ledger[3]["missing"]["G"]


def test_a_machine_or_file_that_is_not_there_is_named_and_nothing_is_left(tmp_path: Path, machines: Machines) -> None:
    nodes, files = machines.engine["site_nodes"], machines.engine["site_settings"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"site_nodes": {**nodes, "B": "gpu-7"}}, "no machine of the Ray cluster is gpu-7, where site B works"),
        ({"site_nodes": {**nodes, "B": "site=C"}}, "no machine of the Ray cluster is site=C"),
        ({"site_settings": {**files, "A": f"{machines.here}/site.yaml"}}, "here/site.yaml: is not there on"),
        ({"gpus_per_site": 1.0}, "no machine of the Ray cluster has 1 CPUs and 1 GPUs"),
    ]
    for wrong, said in cases:
        with pytest.raises(AmosError, match=said):
            simulate_on_nodes(tmp_path / "out", tiny_config(engine={**machines.engine, **wrong}), silent)
        assert not (tmp_path / "out").exists()
