"""`amos-fl runs`: what runs there are, also where some of them are damaged."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from federations import federate

from amos_fl.cli.main import run
from amos_fl.cohort.table import read_cohort
from amos_fl.errors import AmosError
from amos_fl.locks import HOLDERS, at_work
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.listing import ListedGroup, ListedRun, list_runs
from amos_fl.runs.results import results_of

LONG_AGO = time.time() - 7 * 24 * 3600


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> RunFolder:
    """A run of three rounds; not to be changed."""
    return federate(tmp_path_factory.mktemp("runs") / "fedavg-001", read_cohort(tiny_root), store)


def copied(finished: RunFolder, to: Path) -> RunFolder:
    shutil.copytree(finished.path, to)
    return RunFolder(to)


def unfinished(finished: RunFolder, to: Path, rounds: int) -> RunFolder:
    """A run whose process ended a week ago, after `rounds` rounds."""
    folder = copied(finished, to)
    (to / "summary.md").unlink()
    (to / "scores_by_site.csv").unlink()
    folder.write_ledger(folder.ledger()[:rounds])
    if not rounds:
        for name in ("ledger.jsonl", "sites", "checkpoints", "evaluations"):
            path = to / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in [to, *to.rglob("*")]:
        os.utime(path, (LONG_AGO, LONG_AGO))
    return folder


def the_run(path: Path) -> ListedRun:
    (found,) = list_runs([path])
    assert isinstance(found, ListedRun)
    return found


def test_a_finished_run_is_listed_with_its_settings_scores_and_size(finished: RunFolder) -> None:
    found = the_run(finished.path)
    assert (found.name, found.state, found.arm, found.strategy, found.seed) == (
        *("fedavg-001", "finished"),
        *("federated", "fedavg", 0),
    )
    assert (found.round, found.rounds, found.gaps, found.synthetic) == (3, 3, 0, False)
    groups = results_of(finished, finished.config(), finished.cohort()).by_group
    assert found.dsc == {row.name: row.dsc for row in groups}
    assert found.nsd == {row.name: row.nsd for row in groups}
    assert set(found.dsc) == {"seen CT", "seen MR", "unseen CT"}
    assert found.size_bytes == sum(path.stat().st_size for path in finished.path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("rounds", "state", "words"),
    [
        (0, "not begun", "not begun"),
        (2, "stopped", "stopped at round 2 of 3"),
        (3, "stopped", "stopped after round 3, before its last scores"),
    ],
)
def test_a_run_that_did_not_come_to_its_end_says_how_far_it_came(
    finished: RunFolder, tmp_path: Path, rounds: int, state: str, words: str
) -> None:
    found = the_run(unfinished(finished, tmp_path / "run", rounds).path)
    assert (found.state, found.state_in_words) == (state, words)


def test_an_unfinished_run_is_running_while_a_process_works_in_it_and_has_stopped_at_once(
    finished: RunFolder, tmp_path: Path
) -> None:
    folder = unfinished(finished, tmp_path / "run", 2)
    with at_work(folder.path):
        assert the_run(folder.path).state_in_words == "at round 2 of 3, running?"
    os.utime(folder.path / "ledger.jsonl")
    assert the_run(folder.path).state_in_words == "stopped at round 2 of 3"


def test_a_fresh_trace_of_another_machine_may_be_a_running_run(finished: RunFolder, tmp_path: Path) -> None:
    folder = unfinished(finished, tmp_path / "run", 2)
    another = {"pid": 1, "host": "elsewhere", "since": "today", "owner": "0" * 16}
    (folder.path / HOLDERS).write_text(json.dumps(another))
    os.utime(folder.path / "ledger.jsonl")
    assert the_run(folder.path).state_in_words == "at round 2 of 3, running?"
    for trace in folder.path.rglob("*"):
        os.utime(trace, (1, 1))
    assert the_run(folder.path).state_in_words == "stopped at round 2 of 3"


def test_rounds_without_a_site_are_counted(finished: RunFolder, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    ledger = folder.ledger()
    ledger[1]["missing"] = {"B": "disk full"}
    folder.write_ledger(ledger)
    assert the_run(folder.path).state_in_words == "finished, sites missing in 1 of 3 rounds"


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("config.yaml", None, "there is no config.yaml in it"),
        ("config.yaml", "a: [", "config.yaml cannot be read"),
        ("config.yaml", "- a list", "config.yaml cannot be read"),
        ("config.yaml", "\x00", "config.yaml cannot be read"),
        ("config.yaml", "rounds: many\nstrategy: fedavg\nseed: 0\n", "config.yaml cannot be read"),
        ("versions.json", None, "versions.json is missing"),
        ("versions.json", "{", "versions.json cannot be read"),
        ("versions.json", "[]", "versions.json cannot be read"),
        ("ledger.jsonl", '{"round": 1}\n{"rou', "ledger.jsonl cannot be read"),
        ("ledger.jsonl", "7\n", "ledger.jsonl cannot be read"),
        ("scores_by_site.csv", None, "scores_by_site.csv is missing"),
        ("scores_by_site.csv", "name,group\nseen CT,seen\n", "scores_by_site.csv cannot be read"),
        ("scores_by_site.csv", "name,group,modality,dsc,nsd\nseen CT,seen,CT,high,\n", "scores_by_site.csv cannot be"),
    ],
)
def test_a_damaged_run_is_in_the_list_with_the_reason(
    finished: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    file: str,
    text: str | None,
    words: str,
) -> None:
    copied(finished, tmp_path / "good")
    bad = copied(finished, tmp_path / "bad").path / file
    bad.unlink() if text is None else bad.write_text(text)
    assert run(["runs", str(tmp_path)]) == 0
    capsys.readouterr()
    damaged, good = list_runs([tmp_path])
    assert isinstance(damaged, ListedRun)
    assert damaged.state_in_words.startswith(f"damaged: {words}")
    assert isinstance(good, ListedRun)
    assert good.state == "finished"


def test_a_group_is_a_tree_of_its_runs(finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group = tmp_path / "runs" / "local-001"
    copied(finished, group / "A")
    unfinished(finished, group / "B", 0)
    (group / "group.yaml").write_text("kind: local\nruns: [A, B, G]\n")
    copied(finished, tmp_path / "runs" / "demo" / "fedavg")
    nested, found = list_runs([tmp_path / "runs"])
    assert isinstance(found, ListedGroup)
    assert (found.kind, found.state_in_words) == ("local", "1 of 3 finished")
    assert [(member.name, member.state) for member in found.runs] == [
        ("A", "finished"),
        ("B", "not begun"),
        ("G", "damaged"),
    ]
    assert nested.name == "demo/fedavg"
    assert run(["runs", str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    for words in ("local-001", "1 of 3 finished", "├ A", "└ G", "demo/fedavg"):
        assert words in printed
    (group / "group.yaml").write_text("kind: [")
    assert run(["runs", str(group)]) == 0
    assert "damaged: group.yaml cannot be read" in capsys.readouterr().out


def test_scores_on_a_phantom_are_marked(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(finished, tmp_path / "run")
    assert run(["runs", str(folder.path)]) == 0
    assert "synthetic" not in capsys.readouterr().out
    for name in ("versions.json", "model/network.json"):
        about = json.loads((folder.path / name).read_text())
        (folder.path / name).write_text(json.dumps({**about, "synthetic": True}))
    assert run(["runs", str(folder.path)]) == 0
    printed = capsys.readouterr().out
    assert f"{the_run(folder.path).dsc['seen CT']:.3f}*" in printed
    assert "The scans of this run are synthetic" in " ".join(printed.split())


def test_the_json_has_every_run_once(finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(finished, tmp_path / "group" / "A").path
    (tmp_path / "group" / "group.yaml").write_text("kind: sweep\nruns: [A]\n")
    assert run(["runs", "--json", str(tmp_path), str(tmp_path / "group"), str(finished.path)]) == 0
    group, single = json.loads(capsys.readouterr().out)
    assert (group["kind"], group["runs"][0]["path"]) == ("sweep", str(folder))
    assert (single["state"], single["dsc"]) == ("finished", group["runs"][0]["dsc"])


def test_without_runs_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["runs"]) == 2
    assert "runs: no such folder" in capsys.readouterr().err
    (tmp_path / "runs" / "notes").mkdir(parents=True)
    assert run(["runs"]) == 0
    assert capsys.readouterr().out == "no runs in runs\n"
    with pytest.raises(AmosError):
        list_runs([tmp_path / "elsewhere"])


def test_listing_runs_does_not_wait_for_torch(finished: RunFolder) -> None:
    code = (
        "import sys; from amos_fl.cli.main import run; run(['runs', sys.argv[1]]) and sys.exit(9); "
        "assert not {'torch', 'flwr', 'monai'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(finished.path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
