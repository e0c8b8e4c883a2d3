"""The Flower app that travels, the sites that run no other, and the SuperLink that gives a simulation's weights."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import write_tiny_cohort
from federations import federate, hashes, tiny_config
from flower_deployment import BIN, Deployment, deployment, wait_until
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hospitals import write_hospital

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.runs.create import create_run
from amos_fl_clients.federation.error_replies import SiteFailure
from amos_fl_clients.federation.policy import Refusal, pause
from amos_fl_clients.federation.settings import SiteSettings, read_settings
from amos_fl_clients.flower.clientapp import CheckedProcess, holds_exactly
from amos_fl_clients.operation.allowed_apps import (
    archive_of,
    check_app,
    sha256_of_app,
    sha256_of_shipped_app,
    shipped_app,
)
from amos_fl_clients.operation.processes import AppCheck
from amos_fl_server.federation.exchange import failure_of
from amos_fl_server.federation.simulate import lay_out_sites

ROOT = Path(__file__).resolve().parents[1]
CURIOUS = '''\
"""An app that reads what is at the site as soon as it is imported."""
import os
from pathlib import Path

Path(os.environ["FLWR_HOME"], "was-here").write_text(os.getcwd())

from flwr.clientapp import ClientApp
from flwr.app import ConfigRecord, Message, RecordDict

app = ClientApp()


@app.query("describe")
def describe(message, context):
    text = Path(context.node_config["site-settings"]).read_text()
    return Message(RecordDict({"stolen": ConfigRecord({"settings": text})}), reply_to=message)
'''
CURIOUS_SERVER = """\
import json, time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    nodes = []
    while len(nodes) < 2:
        time.sleep(0.1)
        nodes = list(grid.get_node_ids())
    replies = grid.send_and_receive([Message(RecordDict(), node, "query.describe") for node in nodes], timeout=100)
    said = [r.error.reason if r.has_error() else r.content["stolen"]["settings"] for r in replies]
    Path(context.run_config["run-folder"], "loot.json").write_text(json.dumps(said))
"""


def curious_app(folder: Path) -> Path:
    """The shipped app with other code under the same names."""
    app = folder / "curious-app"
    shutil.copytree(shipped_app(), app, ignore=shutil.ignore_patterns("__pycache__"))
    (app / "amos_fl_flower_app" / "client_app.py").write_text(CURIOUS)
    (app / "amos_fl_flower_app" / "server_app.py").write_text(CURIOUS_SERVER)
    return app


def settings(folder: Path, *apps: str) -> SiteSettings:
    values = {"site": "A", "cohort": folder / "cohort.csv", "store": folder / "store", "state": folder / "state"}
    return SiteSettings.model_validate({**values, **({"allowed_apps": apps} if apps else {})})


def test_flwr_builds_the_app_with_the_hash_that_sites_expect(tmp_path: Path) -> None:
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    environment["FLWR_HOME"] = str(tmp_path / "home")
    command = [str(BIN / "flwr"), "build", "--app", str(shipped_app())]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.fab")
    assert built.name.startswith("amos-fl.amos-fl-app.")
    assert hashlib.sha256(built.read_bytes()).hexdigest() == sha256_of_shipped_app()


def test_the_app_is_a_stub_without_dependencies() -> None:
    with zipfile.ZipFile(io.BytesIO(archive_of(shipped_app()))) as archive:
        names = set(archive.namelist())
        config = tomllib.loads(archive.read("pyproject.toml").decode())
        modules = {name: archive.read(name).decode() for name in names if name.endswith("_app.py")}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    folder = "amos_fl_flower_app"
    stub = {f"{folder}/__init__.py", f"{folder}/client_app.py", f"{folder}/server_app.py"}
    assert names == {"pyproject.toml", ".info/CONTENT", *stub}
    assert config["project"]["dependencies"] == []
    for text in modules.values():
        assert [line for line in text.splitlines() if line.startswith("app = ")] == ["app = _app"]
        assert len(text.splitlines()) == 5


def test_the_wheel_carries_the_app(wheel_contents: Path) -> None:
    carried = wheel_contents / "amos_fl_server" / "flower-app"
    assert sha256_of_app(archive_of(carried)) == sha256_of_shipped_app()
    assert not (wheel_contents / "amos_fl_flower_app").exists()


def test_a_site_allows_the_app_of_its_own_installation_and_those_that_it_names(tmp_path: Path) -> None:
    ours, other = archive_of(shipped_app()), archive_of(curious_app(tmp_path))
    check_app(settings(tmp_path), ours)
    check_app(settings(tmp_path, sha256_of_app(other).upper()), other)
    for allowed, content in ((settings(tmp_path), other), (settings(tmp_path, sha256_of_app(other)), ours)):
        with pytest.raises(Refusal, match=rf"^refused by site A: .*{sha256_of_app(content)}$"):
            check_app(allowed, content)
    with pytest.raises(AmosError, match="is not a Flower app"):
        archive_of(tmp_path)


class OneMessage:
    """The check of one message's process, with the message of a SuperNode and without its network."""

    def __init__(self, settings_file: Path) -> None:
        check = AppCheck()
        self.check = CheckedProcess(check)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        message = Message(RecordDict(), 7, "train")
        context = Context(1, 7, {"site-settings": str(settings_file)}, RecordDict(), {})
        check.received(message, context)


@pytest.fixture
def one_message(tmp_path: Path, tiny_cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> OneMessage:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    return OneMessage(write_hospital(tmp_path / "site", tiny_cohort, "A"))


def test_an_app_that_is_not_allowed_is_not_even_unpacked(tmp_path: Path, one_message: OneMessage) -> None:
    with pytest.raises(Refusal):
        one_message.check.install_from_fab(archive_of(curious_app(tmp_path)), skip_prompt=True)
    assert not (tmp_path / "home").exists()
    log = (tmp_path / "site/state/audit.log").read_text()
    assert "answer=refused" in log
    assert "do not allow the Flower app" in log


def test_a_paused_site_unpacks_nothing(tmp_path: Path, one_message: OneMessage) -> None:
    pause(read_settings(tmp_path / "site" / "settings.yaml").state)
    with pytest.raises(Refusal) as refused:
        one_message.check.install_from_fab(archive_of(shipped_app()), skip_prompt=True)
    assert not (tmp_path / "home").exists()
    sent = one_message.check.error(code=2, reason=repr(refused.value))
    assert (failure_of(sent).code, failure_of(sent).site) == ("paused", "A")


def test_a_server_cannot_have_another_folder_imported_than_that_of_the_checked_app(
    tmp_path: Path, one_message: OneMessage
) -> None:
    content = archive_of(shipped_app())
    one_message.check.install_from_fab(content, skip_prompt=True)
    load = one_message.check.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
    sha256 = sha256_of_app(content)
    elsewhere = tmp_path / f"x.{sha256[:8]}"
    shutil.copytree(curious_app(tmp_path), elsewhere)
    with pytest.raises(SiteFailure, match="are not the same"):
        load("amos-fl/amos-fl-app", f"0.1.0/../../../{elsewhere.name[:1]}", sha256)
    assert not (tmp_path / "home" / "was-here").exists()
    assert load("amos-fl/amos-fl-app", "0.1.0", sha256) is not None


@pytest.mark.parametrize("planted", ["amos_fl_flower_app/client_app.py", "torch.py", "__pycache__/x.pyc"])
def test_what_somebody_put_into_the_apps_folder_is_not_imported(one_message: OneMessage, planted: str) -> None:
    content = archive_of(shipped_app())
    folder = one_message.check.install_from_fab(content, skip_prompt=True)
    assert holds_exactly(folder, content)
    (folder / planted).parent.mkdir(exist_ok=True)
    (folder / planted).write_text("raise SystemExit")
    assert one_message.check.install_from_fab(content, skip_prompt=True) == folder
    assert holds_exactly(folder, content)


def test_errors_of_other_code_leave_without_their_words(one_message: OneMessage) -> None:
    foreign = one_message.check.error(code=2, reason="<class 'OSError'>:<'/data/jane.nii.gz'>")
    assert "jane" not in foreign.reason
    posing = "<class 'amos_fl_clients.federation.policy.Refusal'>:<'/data/jane.nii.gz'>"
    assert "jane" not in one_message.check.error(code=2, reason=posing).reason


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, Cohort]]:
    """A SuperLink on loopback with site A as amos-fl starts it and site G as Flower would."""
    folder = tmp_path_factory.mktemp("deployed")
    cohort = write_tiny_cohort(folder / "cohort").only(["A", "G"])
    with deployment(folder) as running:
        for site, guarded in (("A", True), ("G", False)):
            running.start_site(site, write_hospital(folder / site, cohort, site), guarded=guarded)
        yield running, cohort


@pytest.mark.slow
def test_a_malicious_app_is_refused_before_a_line_of_it_runs(deployed: tuple[Deployment, Cohort]) -> None:
    running, _ = deployed
    running.submit(curious_app(running.folder), f'run-folder="{running.folder}"')
    loot = running.folder / "loot.json"
    said = wait_until("the end of the run", lambda: json.loads(loot.read_text()) if loot.is_file() else None)
    assert not (running.folder / "homes" / "A" / "was-here").exists()
    assert not list((running.folder / "homes" / "A").glob("apps/*"))
    assert any("refused by site A: its settings do not allow the Flower app" in text for text in said)
    assert "answer=refused" in (running.folder / "A" / "state" / "audit.log").read_text()
    # The same app at a site without the check: it would have read there what it liked.
    assert (running.folder / "homes" / "G" / "was-here").exists()
    assert any('"site": "G"' in text for text in said)


@pytest.mark.slow
def test_flowers_own_simulation_gives_the_same_weights_too(tmp_path: Path, store: Path) -> None:
    cohort = write_tiny_cohort(tmp_path / "cohort").only(["A", "G"])
    config = tiny_config(rounds=2, evaluation={"every": 2})
    run = create_run(tmp_path / "run", config, cohort)
    lay_out_sites(run, cohort, config, store)
    two_nodes = "num-supernodes=2 client-resources-num-cpus=1 init-args-num-cpus=1"
    with deployment(tmp_path, "--simulation") as running:
        running.submit(shipped_app(), f'run-folder="{run.path}"', "--federation-config", two_nodes)
        outcome = run.path / "outcome.json"
        ended = wait_until("the end of the run", lambda: outcome.read_text() if outcome.is_file() else None, 300)
    assert json.loads(ended) == {"exit_code": 0, "error": None}
    simulated = federate(tmp_path / "simulated", cohort, store, rounds=2, evaluation={"every": 2})
    assert hashes(run) == hashes(simulated)
