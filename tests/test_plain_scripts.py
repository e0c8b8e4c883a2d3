"""Scripts without `if __name__ == "__main__"`: their processes do not run them once more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from federations import TINY

from amos_fl.workers import apart, each

WORK = """
import sys
from os.path import basename
from amos_fl.workers import apart, each

print("begun")
print(list(each(basename, ["/a/b", "/c/d", "/e/f"], workers=2)), apart(basename, "/g/h"))
main = sys.modules["__main__"]
print("as before:", [name in vars(main) for name in ("__file__", "__spec__")] + [__name__])
"""
SIMULATE = """
import json, sys
import amos_fl

print("begun")
settings = json.loads(sys.argv[1])
run = amos_fl.simulate(progress=False, **settings)
print("finished", len(run.rounds))
"""


def ran(*command: str, cwd: Path, given: str | None = None) -> list[str]:
    done = subprocess.run(
        [sys.executable, *command], input=given, capture_output=True, text=True, cwd=cwd, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_processes_for_a_plain_script_do_not_run_it_again_however_it_was_started(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(WORK)
    found = ["begun", "['b', 'd', 'f'] h"]
    assert ran("plain.py", cwd=tmp_path) == [*found, "as before: [True, True, '__main__']"]
    assert ran("-m", "plain", cwd=tmp_path) == [*found, "as before: [True, True, '__main__']"]
    assert ran("-", cwd=tmp_path, given=WORK)[:2] == found
    assert ran("-c", WORK, cwd=tmp_path) == [*found, "as before: [False, True, '__main__']"]


def test_a_plain_script_simulates_with_processes_that_prepare_and_draw_and_ends_once(
    tmp_path: Path, tiny_root: Path
) -> None:
    (tmp_path / "plain.py").write_text(SIMULATE)
    settings = {**TINY, "rounds": 1, "prepare_workers": 2, "training": {**TINY["training"], "workers": 1}}
    where = {"cohort": str(tiny_root), "out": str(tmp_path / "run"), "store": str(tmp_path / "store")}
    assert ran("plain.py", json.dumps({**settings, **where}), cwd=tmp_path) == ["begun", "finished 3"]


def test_batches_are_drawn_by_spawned_processes_of_a_plain_script(tmp_path: Path, tiny_root: Path) -> None:
    """Spawned as they are on macOS and Windows."""
    (tmp_path / "plain.py").write_text("import torch.multiprocessing as m; m.set_start_method('spawn')\n" + SIMULATE)
    settings = {**TINY, "rounds": 1, "training": {**TINY["training"], "workers": 1}}
    where = {"cohort": str(tiny_root), "out": str(tmp_path / "run"), "store": str(tmp_path / "store")}
    assert ran("plain.py", json.dumps({**settings, **where}), cwd=tmp_path) == ["begun", "finished 3"]


def test_work_of_the_main_module_is_refused_and_not_taken_for_a_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(number: int) -> int:
        return number

    monkeypatch.setattr(work, "__module__", "__main__")
    with pytest.raises(ValueError, match="defined in the main module"):
        list(each(work, [1, 2], workers=2))
    with pytest.raises(ValueError, match="defined in the main module"):
        apart(work, 1)
