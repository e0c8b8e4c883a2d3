"""A federation over TLS between separate processes, with the files that `amos-fl deploy` makes."""

import json
import os
import sys
from pathlib import Path

import pytest
from conftest import write_tiny_cohort
from federations import federate, hashes, tiny_config
from flower_deployment import Deployment, wait_until
from flower_home import write_flower_home
from loopback import free_port

from amos_fl.deploy.check import check_site
from amos_fl.deploy.create import create_deployment
from amos_fl.deploy.layout import site_folder
from amos_fl.runs.folder import RunFolder
from amos_fl_clients.federation.settings import read_settings
from amos_fl_clients.operation.allowed_apps import shipped_app
from amos_fl_clients.operation.registration import ask_registered
from amos_fl_server.operation.admission import admit_sites
from amos_fl_server.operation.run_registry import prepare_run
from amos_fl_server.operation.superlink import SUBMITTERS

SITES = ["A", "G"]


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower() in ("https_proxy", "http_proxy", "all_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.slow
def test_a_federation_over_tls_gives_the_weights_of_the_simulation(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = write_tiny_cohort(tmp_path / "cohort").only(SITES)
    root, run = tmp_path / "dep", tmp_path / "run"
    running = Deployment(tmp_path, free_port())
    create_deployment(root, SITES, hosts=["localhost"], port=running.port, cohort=cohort, demonstration_keys=True)
    monkeypatch.setenv(SUBMITTERS, str(root / "superlink/submitters.json"))
    files = root / "superlink"
    try:
        running.start(
            "superlink",
            *(sys.executable, "-m", "amos_fl_server.operation.superlink", "--port", str(running.port)),
            *("--database", str(files / "state/state.db"), "--ssl-ca-certfile", str(files / "ca.crt")),
            *("--ssl-certfile", str(files / "server.crt"), "--ssl-keyfile", str(files / "server.key")),
        )
        a = site_folder(root, "A")
        wait_until("the SuperLink", lambda: all_well(a, "registered") or None)
        assert admit_sites(root).new == ("A", "G")
        for site in SITES:
            folder = site_folder(root, site)
            assert all_well(folder), check_site(folder, ask_registered, read_settings)
            running.start(
                site,
                *(sys.executable, "-m", "amos_fl_clients.operation.command", "supernode", str(folder)),
                *("--port", str(free_port())),
            )
        prepare_run(run, tiny_config(rounds=2, sites=tuple(SITES), evaluation={"every": 2}), cohort.organs)
        write_flower_home(root, tmp_path / "homes/superlink")
        running.flwr("run", str(shipped_app()), "deployment", "--run-config", f'run-folder="{run}"')
        outcome = run / "outcome.json"
        ended = wait_until(
            "the end of the run", lambda: json.loads(outcome.read_text()) if outcome.is_file() else None, 300
        )
        assert ended == {"exit_code": 0, "error": None}, running.log("superlink")[-4000:]
        assert all_well(a)  # also while the site's SuperNode is connected, which the check does not disturb
        assert admit_sites(root).status == dict.fromkeys(SITES, "online")
    finally:
        running.end()
    simulated = federate(tmp_path / "simulated", cohort, store, rounds=2, evaluation={"every": 2})
    assert len(hashes(simulated)) == 2
    assert hashes(RunFolder(run)) == hashes(simulated)
    audit = (a / "state" / "audit.log").read_text().splitlines()
    asked = [line.split(" asked=")[1].split()[0] for line in audit if "answer=sent" in line]
    assert asked == ["query.describe", "train", "train", "evaluate", "evaluate"]


def all_well(folder: Path, but: str = "") -> bool:
    findings = check_site(folder, ask_registered, read_settings, timeout_s=5)
    return all(finding.outcome == "ok" for finding in findings if finding.check != but)
