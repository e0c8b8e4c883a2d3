"""The example for Kubernetes: Ray's version everywhere, one volume, and options that the command has."""

import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from amos_fl.cli.main import app

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "kubernetes"


def _job() -> dict[str, Any]:
    return yaml.safe_load((EXAMPLE / "rayjob.yaml").read_text(encoding="utf-8"))["spec"]


def test_every_pod_has_the_image_the_volume_and_rays_version_of_the_lock_file() -> None:
    (locked,) = re.findall(r"^ray==(\S+)$", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    cluster = _job()["rayClusterSpec"]
    assert cluster["rayVersion"] == locked
    assert f"FROM rayproject/ray:{locked}-py311\n" in (EXAMPLE / "Dockerfile").read_text(encoding="utf-8")
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1
    for pod in pods:
        assert [volume["name"] for volume in pod["volumes"]] == ["shared"]
        assert pod["containers"][0]["volumeMounts"] == [{"name": "shared", "mountPath": "/shared"}]


def test_the_entrypoint_begins_or_resumes_a_run_with_options_that_simulate_has() -> None:
    shell, flag, script = shlex.split(_job()["entrypoint"])
    assert (shell, flag) == ("bash", "-c")
    commands = re.findall(r"exec amos-fl simulate ([^;]*);", script)
    assert [command.split()[0] for command in commands] == ["--resume", "--config"]
    known = CliRunner().invoke(app, ["simulate", "--help"], env={"COLUMNS": "200"}).output
    for option in {word for command in commands for word in command.split() if word.startswith("--")}:
        assert f"{option} " in known, option
