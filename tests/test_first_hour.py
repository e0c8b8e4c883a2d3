"""What somebody types first: the doctor, and the settings of a first run."""

import json
import os
import re
import socket
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.table import Table

from amos_fl.api.doctor import GIB, examine, free_memory
from amos_fl.api.settings import resolve_run, settled
from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort, write_cohort
from amos_fl.escape.console import Console
from amos_fl.networks.catalogue import NETWORKS
from amos_fl.runs.layers import Layer, read_yaml
from amos_fl.volumes.plan import PLANS


def answering(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Answer the questions that `input` asks, which are returned as they come."""
    asked: list[str] = []
    rest = list(answers)

    def answer(question: str) -> str:
        asked.append(question)
        if not rest:
            raise EOFError
        return rest.pop(0)

    monkeypatch.setattr("builtins.input", answer)
    return asked


def test_the_doctor_says_what_is_there_in_json_and_exits_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMOS_FL_CACHE", str(tmp_path / "cache"))
    assert run(["doctor", "--no-ray", "--json", "--runs", str(tmp_path / "runs")]) == 0
    lines = {line["subject"]: line for line in json.loads(capsys.readouterr().out)}
    assert lines["Python"]["found"].startswith(".".join(map(str, sys.version_info[:3])))
    assert {"amos-fl", "PyTorch", "Flower", "GPU", "memory", "port 8000", "extra dicom"} <= set(lines)
    assert not (tmp_path / "runs").exists()


def test_the_doctor_exits_with_2_where_runs_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    assert run(["doctor", "--no-ray", "--runs", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().out
    assert "may not be written" in said
    assert "lacking: disk for runs" in said


def test_a_package_of_another_version_is_lacking_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from amos_fl.api import doctor

    there = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "1.40.0" if name == "flwr" else there(name))
    found = {line.subject: line for line in examine(tmp_path, ray=False)}["amos-fl"]
    assert (found.state, found.found) == ("lacks", "flwr is 1.40.0, not ==1.42.*")
    assert found.remedy.startswith("pip install")


def test_a_taken_port_is_said_and_lacks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr("amos_fl.api.doctor.PORTS", {taken: ("a SuperLink's", "another: --port")})
        lines = {line.subject: line for line in examine(tmp_path, ray=False)}
        assert lines[f"port {taken}"].state == "optional"
        assert "--port N" in lines[f"port {taken}"].remedy
    assert {line.subject: line for line in examine(tmp_path, ray=False)}[f"port {taken}"].state == "fine"


def test_a_container_may_have_less_memory_than_its_machine(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  16 kB\nMemAvailable:   8388608 kB\n")
    assert free_memory(tmp_path) == 8 * GIB
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{GIB}\n")
    (group / "memory.current").write_text(f"{GIB // 4}\n")
    assert free_memory(tmp_path) == GIB * 3 // 4
    (group / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) == 8 * GIB


def test_five_answers_become_settings_that_a_run_takes(
    tmp_path: Path, tiny_cohort: Cohort, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cohort(tiny_cohort, tmp_path / "cohort.csv")
    monkeypatch.chdir(tmp_path)
    asked = answering(monkeypatch, "", "-B", "", "fedprox", "3x7 cpu")
    assert run(["init", "--ask"]) == 0
    assert len(asked) == 5
    assert asked[0].endswith("[cohort.csv]: ")
    settings, cohort = resolve_run([Layer("run.yaml", read_yaml(Path("run.yaml")))])
    assert (settings.strategy, settings.rounds, settings.local_steps, settings.device) == ("fedprox", 3, 7, "cpu")
    assert settings.hold_out == ("B",)
    assert "B" not in cohort.seen_sites
    assert "amos-fl simulate --config run.yaml" in capsys.readouterr().out


def test_a_wrong_answer_is_said_at_once_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMOS_FL_CACHE", str(tmp_path / "cache"))
    asked = answering(monkeypatch, "nowhere", "phantom", "A,Z", "A,B", "smal", "small", "fedprx", "", "many", "2x3")
    assert run(["init", "mine.yaml", "--ask"]) == 0
    assert len(asked) == 10
    said = capsys.readouterr().out
    for words in ("no such cohort file", "no site Z", "did you mean 'small'?", "did you mean 'fedprox'?", "30x20 cpu"):
        assert words in said
    assert yaml.safe_load(Path("mine.yaml").read_text())["sites"] == ["A", "B"]
    assert not (tmp_path / "cache").exists()


def test_without_a_terminal_options_and_defaults_answer_and_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115 - as where no terminal is
    out = tmp_path / "run.yaml"
    assert run(["init", str(out), "--rounds", "4", "--learning-rate", "0.1", "--strategy-option", "mu=0.5"]) == 2
    assert run(["init", str(out), "--rounds", "4", "--learning-rate", "0.1", "--hold-out", "C"]) == 0
    written = out.read_text()
    settings, cohort = settled([Layer("run.yaml", read_yaml(out))])
    assert (settings.rounds, settings.local_steps, settings.training.learning_rate) == (4, 20, 0.1)
    assert "C" in cohort.unseen_sites
    assert all(f"# {name}:" in written or f"\n{name}:" in written for name in ("cohort", "model", "device"))
    capsys.readouterr()
    assert run(["init", str(out)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert out.read_text() == written


def test_settings_are_refused_before_the_phantom_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AMOS_FL_CACHE", str(tmp_path / "cache"))
    for wrong, words in (
        (["--sites", "A,Z"], "no site Z in this cohort"),
        (["--sites", "F"], "no site has a labelled training case"),
        (["--hold-out", "Q"], "no site Q"),
        (["--device", "cuda:99"], "has no such GPU"),
    ):
        assert run(["simulate", "--dry-run", *wrong]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("program", ["amos-fl", "amos-fl-site"])
def test_a_shell_completes_commands_options_and_their_words(program: str) -> None:
    module = {"amos-fl": "amos_fl.cli.main", "amos-fl-site": "amos_fl_clients.operation.command"}[program]
    start = f"from {module} import main; main()"

    def completed(line: str) -> list[str]:
        asked = {f"_{program.replace('-', '_').upper()}_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
        done = subprocess.run(
            [sys.executable, "-c", start], env={**os.environ, **asked}, capture_output=True, text=True, check=False
        )
        return re.findall(r'"([^"]+)":', done.stdout) or re.findall(r'"([^"]+)"', done.stdout)

    if program == "amos-fl":
        assert completed("amos-fl simul") == ["simulate"]
        assert completed("amos-fl deploy adm") == ["admit"]
        assert "--local-steps" in completed("amos-fl simulate --local-")
        assert completed("amos-fl simulate --weighting eq") == ["equal"]
        assert completed("amos-fl simulate --strategy fedad") == ["fedadam", "fedadagrad"]
        assert set(completed("amos-fl simulate --model ")) == set(NETWORKS)
        assert completed("amos-fl simulate --plan amos-") == [name for name in PLANS if name.startswith("amos-")]
        assert completed("amos-fl predict --device c") == ["cpu", "cuda"]
    else:
        assert completed("amos-fl-site stat") == ["status"]


def test_a_log_has_paths_in_one_piece_and_a_terminal_does_not_scroll_sideways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    path = "/".join(["folder of a run"] * 20)
    for terminal in ({}, {"force_terminal": True, "width": 80}):
        written = StringIO()
        console = Console(file=written, **terminal)
        console.print(f"everything is in {path}; begin there")
        table = Table("organ", "path")
        table.add_row("liver", path)
        console.print(table)
        text, *rows = re.sub(r"\x1b\[[\d;]*m", "", written.getvalue()).splitlines()
        if console.is_terminal:
            assert max(map(len, [text, *rows])) <= 80
        else:
            assert text == f"everything is in {path}; begin there"
            assert 80 < max(map(len, rows)) <= 120
