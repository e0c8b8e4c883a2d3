"""What `amos-fl deploy run` makes of its options before anything is submitted, and what it says when that fails."""

import json
import socket
from pathlib import Path

import pytest

from amos_fl.api.settings import next_out
from amos_fl.cli.deploy_run import deployed_settings, deployment_folder, runs_folder, submitted_as
from amos_fl.cli.main import run
from amos_fl.deploy.create import create_deployment
from amos_fl.deploy.layout import Deployment
from amos_fl.errors import AmosError
from amos_fl.networks.catalogue import DEMONSTRATION, NETWORKS
from amos_fl.runs.layers import Layer
from amos_fl.volumes.plan import plan_named
from amos_fl_server.operation.connection import NoAnswer, connection_of
from amos_fl_server.operation.run_registry import RunState
from amos_fl_server.operation.submitter import with_flowers_word

HERE = Deployment(host="fl.example.org", port=8000, names=("fl.example.org",), sites=("A", "B", "C"))


def test_a_run_has_the_recipe_of_its_network_and_leaves_the_device_to_the_sites() -> None:
    settings = deployed_settings([Layer("command line", {"rounds": 7})], HERE)
    assert settings.training.learning_rate == NETWORKS["small"].recipe["training"]["learning_rate"]
    assert (settings.rounds, settings.sites, settings.engine.name, settings.device) == (
        7,
        HERE.sites,
        "deployment",
        "auto",
    )


def test_sites_with_the_phantom_run_the_demonstration_as_a_simulation_does() -> None:
    phantom = HERE.model_copy(update={"phantom": True})
    settings = deployed_settings([], phantom)
    assert (settings.rounds, settings.local_steps) == (DEMONSTRATION["rounds"], DEMONSTRATION["local_steps"])
    assert deployed_settings([Layer("command line", {"rounds": 2})], phantom).rounds == 2


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"sites": ["A", "X"]}, "site X: is not in this deployment, which has A, B, C"),
        ({"hold_out": ["Y"]}, "site Y: is not in this deployment"),
        ({"start_from": "weights.safetensors"}, "weights.safetensors: no such weights"),
        ({"strategy": "fedfoo"}, "fedfoo"),
        ({"model": "smal"}, "no model 'smal'"),
        ({"fold": 1}, "each site has divided its own cases"),
    ],
)
def test_settings_that_a_deployment_cannot_have_are_refused_here(layer: dict[str, object], words: str) -> None:
    with pytest.raises(AmosError, match=words):
        deployed_settings([Layer("command line", layer)], HERE)


def test_a_run_that_begins_with_weights_has_their_network_and_plan_and_refuses_another(tmp_path: Path) -> None:
    plan = plan_named("coarse").model_copy(update={"name": "theirs", "spacing_mm": (7.0, 7.0, 7.0)})
    (tmp_path / "weights.safetensors").touch()
    about = {"model": "vnet", "plan": plan.model_dump(mode="json"), "organs": {"1": "liver"}}
    (tmp_path / "network.json").write_text(json.dumps(about))
    asked: dict[str, object] = {"start_from": str(tmp_path)}
    settings = deployed_settings([Layer("command line", asked)], HERE)
    assert (settings.model, settings.plan.name) == ("vnet", "theirs")
    assert settings.start_from == tmp_path.resolve() / "weights.safetensors"
    with pytest.raises(AmosError, match="are of the network 'vnet', and this run trains 'unet'"):
        deployed_settings([Layer("command line", {**asked, "model": "unet"})], HERE)


def test_the_settings_of_a_simulation_run_in_a_deployment_without_its_cohort() -> None:
    settings = deployed_settings([Layer("config.yaml", {"cohort": "/data/cohort.csv", "device": "cuda"})], HERE)
    assert (settings.cohort, settings.device) == (None, "auto")


def test_a_deployment_is_no_engine_of_a_simulation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["simulate", "--set", "engine.name=deployment", "--out", str(tmp_path / "run"), "--rounds", "1"]) == 2
    assert "is for 'amos-fl deploy run'" in capsys.readouterr().err


def test_a_superlink_that_does_not_answer_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    create_deployment(tmp_path / "fl", ["A"], hosts=["localhost"], port=9)
    for command in (["run"], ["run", "--deployment"], ["status"], ["logs", "--deployment"]):
        assert run(["deploy", *command, str(tmp_path / "fl")]) == 2
        said = capsys.readouterr().err
        assert said.splitlines() == [
            "amos-fl: the SuperLink at localhost:9 does not answer; start it, or say with --host how it is reached"
        ]


def test_a_run_is_found_again_by_its_folder_or_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AMOS_FL_RUNS", raising=False)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "deployment.json").write_text(json.dumps({"run": "ct", "deployment": "/fl", "host": "localhost"}))
    assert submitted_as(None, None, folder) == ("ct", Path("/fl"), "localhost", folder)
    assert submitted_as(Path("/other"), "superlink", folder) == ("ct", Path("/other"), "superlink", folder)
    assert submitted_as(Path("/fl"), None, Path("ct")) == ("ct", Path("/fl"), None, Path("runs/ct"))
    with pytest.raises(AmosError, match="say which deployment"):
        submitted_as(None, None, Path("ct"))
    (tmp_path / "simulated").mkdir()
    with pytest.raises(
        AmosError, match="was not made by 'amos-fl deploy run'; continue it with: amos-fl simulate --resume"
    ):
        submitted_as(Path("/fl"), None, tmp_path / "simulated")
    (tmp_path / "deployment.yaml").write_text("")
    assert deployment_folder(None) == Path()


def test_a_new_run_takes_a_name_that_is_free_here_and_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMOS_FL_RUNS", str(tmp_path))
    (tmp_path / "fedavg-001").mkdir()
    assert next_out("fedavg", runs_folder(), {"fedavg-002"}) == tmp_path / "fedavg-003"


def test_a_superlink_that_does_not_answer_says_nothing_about_a_run(tmp_path: Path) -> None:
    """A run that waits for its turn would otherwise be taken for dead, and submitted once more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    create_deployment(tmp_path / "fl", ["A"], hosts=[], port=port, days=1, cohort=None, demonstration_keys=False)
    connection = connection_of(tmp_path / "fl", "127.0.0.1")
    for state in ("waiting", "died"):
        known = RunState("one", state, 0, 3, "fedavg", flower_run=7)
        with pytest.raises(NoAnswer):
            with_flowers_word(connection, known, lambda known=known: known)
