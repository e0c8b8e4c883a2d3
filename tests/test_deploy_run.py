"""`amos-fl deploy run` on separate processes over TLS: the simulation's weights, kills, restarts, resumption."""

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml
from conftest import write_tiny_cohort
from federations import TINY, federate, hashes
from flower_deployment import wait_until as wait_for
from secure_deployment import EXAMPLES, SecureDeployment, secure_deployment, started_by

from amos_fl.cohort.table import Cohort
from amos_fl.deploy.layout import registered_key, site_folder
from amos_fl.networks.catalogue import NETWORKS
from amos_fl.runs.folder import RunFolder, open_run
from amos_fl.runs.layers import merge
from amos_fl_server.operation.admission import admit_sites
from amos_fl_server.operation.run_registry import is_carried_out, submissions_of
from amos_fl_server.operation.submitter import SubmittedRun, with_flowers_word

T = TypeVar("T")


def wait_until(what: str, look: Callable[[], T | None]) -> T:
    return wait_for(what, look, 400)


SITES = ("A", "G")
PR_SET_CHILD_SUBREAPER = 36
"""Orphans become this process's children, which it does not reap, as in a container without an init."""
LONG = 60
"""Steps of a round that lasts long enough to be met in the middle."""


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SecureDeployment, Cohort]]:
    """A SuperLink and two sites over TLS; each test leaves them running."""
    folder = tmp_path_factory.mktemp("deployed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in [name for name in os.environ if name.lower() in ("https_proxy", "http_proxy", "all_proxy")]:
            monkeypatch.delenv(name)
        cohort = write_tiny_cohort(folder / "cohort").only(list(SITES))
        with secure_deployment(folder, cohort, SITES) as running:
            yield running, cohort


def recipe() -> dict[str, Any]:
    """The settings of `deploy run` for the tests' tiny plan. Momentum is kept, so that sites have a state."""
    return merge(dict(NETWORKS["small"].recipe), TINY)


def settings(folder: Path, **more: object) -> Path:
    """A file for --config."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps({**TINY, **more}))))
    return path


def is_training(running: SecureDeployment, site: str, round_number: int) -> bool | None:
    try:
        work = json.loads((site_folder(running.root, site) / "state/progress.json").read_text())
    except (OSError, ValueError):
        return None
    return ((work["activity"], work["round"]) == ("train", round_number) and 0 < work["done"] < work["total"]) or None


def simulated(folder: Path, cohort: Cohort, store: Path, **more: object) -> list[str]:
    return hashes(federate(folder / "simulated", cohort, store, **merge(recipe(), more)))


@pytest.mark.slow
def test_a_killed_site_is_named_in_the_ledger_and_one_that_comes_back_takes_part_in_the_same_round(
    deployed: tuple[SecureDeployment, Cohort], tmp_path: Path
) -> None:
    running, _ = deployed
    config = settings(tmp_path, rounds=5, local_steps=LONG, evaluation={"every": 10})
    done = running.deploy("run", "--config", str(config), "--out", str(tmp_path / "kill"), "--detach")
    assert done.returncode == 0, done.stderr
    wait_until("training at G", lambda: is_training(running, "G", 1))
    running.kill("G")
    running.start_hospital("G")
    served = running.served("kill")
    wait_until("round 1", lambda: len(served.ledger()) > 0 or None)
    wait_until("training at G", lambda: is_training(running, "G", 2))
    running.kill("G")
    wait_until("round 2", lambda: len(served.ledger()) > 1 or None)
    running.start_hospital("G")
    followed = running.deploy("run", "--resume", str(tmp_path / "kill"))
    assert followed.returncode == 0, followed.stdout + followed.stderr
    ledger = open_run(tmp_path / "kill").ledger()
    assert [sorted(entry["sites"]) for entry in ledger[:2]] == [["A", "G"], ["A"]]
    assert any("G" in entry["sites"] for entry in ledger[2:])
    assert list(ledger[1]["missing"]) == ["G"]
    assert "round 2: site G trained nothing" in followed.stdout


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc")
def test_the_processes_of_a_killed_supernode_end_with_it_in_the_middle_of_a_round(tmp_path: Path) -> None:
    cohort = write_tiny_cohort(tmp_path / "cohort").only(["A"])
    with secure_deployment(tmp_path, cohort, ["A"]) as running:
        config = settings(tmp_path, rounds=1, local_steps=500 * LONG)
        done = running.deploy("run", "--config", str(config), "--out", str(tmp_path / "kill"), "--detach")
        assert done.returncode == 0, done.stderr
        wait_until("training at A", lambda: is_training(running, "A", 1))
        supernode = running.processes.pop("A")
        started = started_by(supernode.pid)
        try:
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            assert len(started) >= 3  # its SuperExec, the process that has imported everything, and a message's
            os.kill(supernode.pid, signal.SIGKILL)  # alone: nothing else is told
            supernode.wait(timeout=10)
            wait_for("the end of all that it started", lambda: not any(map(is_at_work, started)) or None, 20)
        finally:
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
            for number in started:
                with suppress(OSError):
                    os.kill(number, signal.SIGKILL)
                    os.waitpid(number, 0)


@pytest.mark.slow
def test_a_running_site_whose_key_is_withdrawn_ends_with_a_sentence(tmp_path: Path) -> None:
    cohort = write_tiny_cohort(tmp_path / "cohort").only(["A"])
    with secure_deployment(tmp_path, cohort, ["A"]) as running:
        wait_until("A", lambda: admit_sites(running.root).status == {"A": "online"} or None)
        registered_key(running.root, "A").unlink()
        assert admit_sites(running.root).removed == 1
        site = running.processes["A"]
        assert wait_for("its end", lambda: None if site.poll() is None else (site.returncode,), 60) == (2,)
        said = "amos-fl-site: site A: the SuperLink no longer accepts this site's key; ask the coordinator"
        assert said in running.log("A")


def is_at_work(number: int) -> bool:
    """Whether a process runs, and is not just waiting to be reaped."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.slow
def test_after_a_kill_of_superlink_and_server_the_service_brings_the_run_up_to_the_same_weights(
    deployed: tuple[SecureDeployment, Cohort], tmp_path: Path, store: Path
) -> None:
    running, cohort = deployed
    config = settings(tmp_path, rounds=3, local_steps=LONG, evaluation={"every": 3})
    running.start("service", *running.command("serve", str(running.root), "--every", "1"))
    done = running.deploy("run", "--config", str(config), "--out", str(tmp_path / "both"), "--detach")
    assert done.returncode == 0, done.stderr
    served = running.served("both")
    wait_until("training in round 2", lambda: (len(served.ledger()) == 1 and is_training(running, "A", 2)) or None)
    running.kill("superlink")  # and its ServerApp
    wait_until("the end of the ServerApp", lambda: not is_carried_out(served) or None)
    running.start_superlink()
    ended = wait_until("the end of the run", lambda: ((s := running.state("both")).ended and s) or None)
    running.end(["service"])
    assert (ended.state, ended.error) == ("finished", None)
    assert "brought up again after round 1 of 3" in running.log("service")
    # Flower was told to stop the first submission; whoever read its state before that is not misled.
    first = replace(ended, state="died", exit_code=None, flower_run=int(submissions_of(served)[0]))
    with running.runs() as client:
        run = SubmittedRun(client.connection, client, "both")
        assert with_flowers_word(client.connection, first, lambda: first).state == "stopped"
        assert with_flowers_word(client.connection, first, run.known_state).state == "finished"
    fetched = running.deploy("run", "--resume", str(tmp_path / "both"))
    assert fetched.returncode == 0, fetched.stderr
    assert "Test scores by site" in fetched.stdout
    folder = open_run(tmp_path / "both")
    assert folder.finished
    assert hashes(folder) == simulated(tmp_path, cohort, store, rounds=3, local_steps=LONG, evaluation={"every": 3})
    of_simulations = {"sites", "tensorboard", "tracking.json", "predictions", "scans.json"}
    left = {path.name for path in (tmp_path / "simulated").iterdir()} - of_simulations
    assert left | {"report.html"} <= {path.name for path in folder.path.iterdir()}
    assert "a deployment, each site on its own machine" in (folder.path / "summary.md").read_text()
    # What a site has prepared stays, while its state of the run is rolled back beside it.
    assert all(any((site_folder(running.root, site) / "state/store").iterdir()) for site in SITES)
    status = running.deploy("status")
    assert status.returncode == 0, status.stderr
    rows = [[cell.strip() for cell in line.split("│")] for line in status.stdout.splitlines() if line.startswith("│")]
    assert [row[1:3] for row in rows if row[1] in (*SITES, "both")] == [
        *([site, "online"] for site in SITES),
        ["both", "finished"],
    ]
    logs = running.deploy("logs", "both")
    assert "continuing after round 1 of 3" in logs.stdout
    assert "round 3/3: loss" in logs.stdout, logs.stderr
    of_flower = running.deploy("logs", "both", "--flower")
    assert of_flower.returncode == 0, of_flower.stderr
    assert "continuing after round 1 of 3" in of_flower.stdout


@pytest.mark.slow
def test_ctrl_c_stops_a_run_which_a_resumption_takes_to_the_same_weights(
    deployed: tuple[SecureDeployment, Cohort], tmp_path: Path, store: Path
) -> None:
    running, cohort = deployed
    config = settings(tmp_path, rounds=2, local_steps=LONG, evaluation={"every": 2})
    command = running.command("run", str(running.root), "--config", str(config), "--out", str(tmp_path / "stop"))
    pressed = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=running.environment("submitter"))
    served = running.served("stop")
    wait_until("training in round 2", lambda: (len(served.ledger()) == 1 and is_training(running, "A", 2)) or None)
    pressed.send_signal(signal.SIGINT)
    said, _ = pressed.communicate(timeout=200)
    assert pressed.returncode == 130, said
    assert "stopped after round 1 of 2; continue with: amos-fl deploy run --resume" in said
    done = running.deploy("run", "--resume", str(tmp_path / "stop"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert hashes(RunFolder(tmp_path / "stop")) == simulated(
        tmp_path, cohort, store, rounds=2, local_steps=LONG, evaluation={"every": 2}
    )


@pytest.mark.slow
def test_a_run_that_begins_with_another_ones_weights_ends_with_those_of_the_simulation(
    deployed: tuple[SecureDeployment, Cohort], tmp_path: Path, store: Path
) -> None:
    running, cohort = deployed
    parent = federate(tmp_path / "parent", cohort, store, **merge(recipe(), {"rounds": 1, "seed": 5}))
    config = settings(tmp_path, rounds=1, seed=1)
    done = running.deploy("run", "--config", str(config), "--init", str(parent.path), "--out", str(tmp_path / "begun"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "begins with the weights of parent: " in " ".join(done.stdout.split())
    begun = RunFolder(tmp_path / "begun")
    start = str(parent.path / "model/weights.safetensors")
    assert hashes(begun) == simulated(tmp_path, cohort, store, rounds=1, seed=1, start_from=start)
    assert hashes(begun) != hashes(parent)
    assert begun.config().start_from == tmp_path.resolve() / "begun/start/parent/model/weights.safetensors"


@pytest.mark.slow
def test_a_method_of_ones_own_at_sites_that_allow_its_file_gives_the_weights_of_the_simulation(
    deployed: tuple[SecureDeployment, Cohort], tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, cohort = deployed
    own = {"rounds": 2, "strategy": "my_lab.methods:FedCM", "optimizer_state": "reset", "evaluation": {"every": 2}}
    digest = hashlib.sha256((EXAMPLES / "my_lab/methods.py").read_bytes()).hexdigest()
    files = [site_folder(running.root, site) / "settings.yaml" for site in SITES]
    before = [file.read_text() for file in files]
    for file, text in zip(files, before, strict=True):
        file.write_text(f"{text}\nallowed_modules: {{my_lab.methods: {digest}}}\n")
    try:
        done = running.deploy("run", "--config", str(settings(tmp_path, **own)), "--out", str(tmp_path / "own"))
    finally:
        for file, text in zip(files, before, strict=True):
            file.write_text(text)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"sites must allow, under allowed_modules:  my_lab.methods: {digest}" in done.stdout
    monkeypatch.syspath_prepend(EXAMPLES)
    assert hashes(RunFolder(tmp_path / "own")) == simulated(tmp_path, cohort, store, **own)


@pytest.mark.slow
def test_the_exit_code_is_the_runs_own(deployed: tuple[SecureDeployment, Cohort], tmp_path: Path) -> None:
    running, _ = deployed
    settings_file = site_folder(running.root, "A") / "settings.yaml"
    before = settings_file.read_text()
    settings_file.write_text(before + "\nmax_steps_per_round: 1\n")
    try:
        done = running.deploy(
            "run", "--config", str(settings(tmp_path)), "--out", str(tmp_path / "few"), "--min-sites", "2"
        )
    finally:
        settings_file.write_text(before)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "refused by site A: it allows 1 steps a round, and 2 were asked for" in done.stderr
    assert "deploy run --resume" in done.stderr


@pytest.mark.slow
def test_a_run_whose_processes_are_killed_again_and_again_ends_with_equal_weights_or_a_sentence(
    deployed: tuple[SecureDeployment, Cohort], tmp_path: Path, store: Path
) -> None:
    running, cohort = deployed
    more = {"rounds": 3, "local_steps": LONG, "evaluation": {"every": 3}}
    config = settings(tmp_path, **more)
    running.start("service", *running.command("serve", str(running.root), "--every", "1"))
    done = running.deploy("run", "--config", str(config), "--out", str(tmp_path / "often"), "--detach")
    assert done.returncode == 0, done.stderr
    served = running.served("often")
    for _ in range(2):
        wait_until("work at A", lambda: (site_folder(running.root, "A") / "state/progress.json").exists() or None)
        (site_folder(running.root, "A") / "state/progress.json").unlink()
        running.kill("superlink", *SITES)
        running.start_superlink()
        for site in SITES:
            running.start_hospital(site)
    ended = wait_until("the end of the run", lambda: ((s := running.state("often")).ended and s) or None)
    running.end(["service"])
    if ended.state == "finished":
        entries = served.ledger()
        assert [entry["round"] for entry in entries] == [1, 2, 3]
        if all(not entry["missing"] for entry in entries):
            assert hashes(served) == simulated(tmp_path, cohort, store, **more)
    else:
        assert ended.error, "a run that stopped says why"
