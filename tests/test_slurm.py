"""A sweep in parts: its runs one by one, by several processes, and by SLURM's array jobs with stand-ins for SLURM."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from federations import TINY, federate, hashes

from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort
from amos_fl.locks import at_work
from amos_fl.networks.catalogue import NETWORKS
from amos_fl.runs.folder import open_run
from amos_fl.runs.layers import merge

SCRIPTS = Path(__file__).parents[1] / "examples" / "slurm"


def test_the_runs_of_a_sweep_can_be_carried_out_one_by_one_while_others_work_on_the_rest(
    tmp_path: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = merge(TINY, {"cohort": str(tiny_root), "sites": ["A"], "rounds": 1, "local_steps": 1})
    file, out, store = tmp_path / "sweep.yaml", tmp_path / "out", ["--store", str(tmp_path / "store")]
    file.write_text(yaml.safe_dump({"settings": settings, "grid": {"seed": [0, 1]}}).replace("!!python/tuple", ""))
    assert run(["sweep", str(file), "--out", str(out), "--prepare"]) == 0
    assert capsys.readouterr().out == "seed0\nseed1\n"
    with at_work(out), at_work(out / "seed0"):  # as another process would be, at the group and at its other run
        assert run(["sweep", "--resume", str(out), "--only", "seed1", *store]) == 0
        capsys.readouterr()
        assert run(["sweep", "--resume", str(out), "--only", "seed0", *store]) == 2
        assert "has worked here since" in capsys.readouterr().err
    assert run(["sweep", "--resume", str(out), "--prepare"]) == 0
    assert capsys.readouterr().out == "seed0\n"
    assert run(["sweep", "--resume", str(out), "--only", "seed2", *store]) == 2
    assert "has no run of that name; did you mean 'seed" in capsys.readouterr().err
    assert run(["sweep", str(file), "--out", str(out), "--only", "seed0", "--only", "seed1", *store]) == 0
    assert "seed1: finished before; skipped" in capsys.readouterr().out
    one, other = (open_run(out / name) for name in ("seed0", "seed1"))
    assert one.finished
    assert hashes(one) != hashes(other)


STAND_INS = {
    # Three runs; the second runs out of time twice (143, as test_working_at_once has it), the third fails.
    "amos-fl": """
        case "$*" in
          *--prepare) mkdir -p "$OUT"; printf '%s\\n' one two three ;;
          *"--only two") echo x >> "$OUT/tries"; [ "$(wc -l < "$OUT/tries")" -gt 2 ] || exit 143 ;;
          *"--only three") exit 3 ;;
        esac
        echo "$*" >> "$OUT/called"
    """,
    "srun": '"$@"',
    "scontrol": 'echo "$2" >> "$OUT/requeued"',
    # Carries out every task of the array, and those that are queued again until none is.
    "sbatch": """
        echo "$*" > "$OUT/submitted"
        while [[ "$1" == --* ]]; do [[ "$1" == --array=* ]] && range=${1#--array=}; shift; done
        for task in $(seq "${range%-*}" "${range#*-}"); do
          while :; do
            rm -f "$OUT/requeued"
            SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task bash "$@"
            echo "$task $?" >> "$OUT/ended"
            [ "$(cat "$OUT/requeued" 2>/dev/null)" == "7_$task" ] || break
          done
        done
    """,
}


def with_stand_ins(folder: Path, programs: dict[str, str]) -> dict[str, str]:
    """An environment in which these programs, each a bash script, stand before all others, and this Python's next."""
    (folder / "bin").mkdir()
    for name, text in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_the_scripts_submit_an_array_and_queue_again_what_ran_out_of_time(tmp_path: Path) -> None:
    out = tmp_path / "my sweep"
    env = with_stand_ins(tmp_path, STAND_INS) | {"OUT": str(out)}
    command = ["bash", str(SCRIPTS / "submit.sh"), "sweep.yaml", str(out), "--partition=gpu"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--array=0-2" in (out / "submitted").read_text()
    assert "--partition=gpu" in (out / "submitted").read_text()
    assert (out / "ended").read_text().splitlines() == ["0 0", "1 0", "1 0", "1 0", "2 3"]
    called = (out / "called").read_text().splitlines()
    assert called == [
        f"sweep sweep.yaml --out {out} --prepare",
        f"sweep --resume {out} --only one",
        f"sweep --resume {out} --only two",
    ]


WITHOUT_SLURM = {
    "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "scontrol": """
        case "$1" in
          show) printf '%s\\n' 127.0.0.1 127.0.0.1 ;;
          requeue) echo "$2" >> "$OUT/requeued" ;;
        esac
    """,
}


@pytest.mark.slow
def test_one_run_over_the_nodes_of_a_job_that_runs_out_of_time_ends_with_the_weights_of_one_machine(
    tmp_path: Path, tiny_root: Path, tiny_cohort: Cohort, store: Path
) -> None:
    """Ray is real, on two nodes of one machine; SLURM is not."""
    longer = merge(TINY, {"rounds": 3, "local_steps": 40})
    expected = hashes(
        federate(tmp_path / "inline", tiny_cohort, store, **merge(dict(NETWORKS["small"].recipe), longer))
    )
    file, out = tmp_path / "run.yaml", tmp_path / "out"
    file.write_text(json.dumps({**longer, "cohort": str(tiny_root)}))
    environment = with_stand_ins(tmp_path, WITHOUT_SLURM) | {
        "OUT": str(tmp_path),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_CPUS_PER_TASK": "1",
    }
    command = ["bash", str(SCRIPTS / "ray.sh"), "simulate", "--config", str(file), "--out", str(out)]
    command += ["--store", str(store)]
    said = tmp_path / "said"
    with said.open("w") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as job:
        deadline = time.monotonic() + 300
        while not (out / "ledger.jsonl").is_file():
            assert job.poll() is None, said.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=120) == 0, said.read_text()
    assert (tmp_path / "requeued").read_text() == f"{os.getpid()}\n"
    assert hashes(open_run(out)) == expected[: len(hashes(open_run(out)))]
    assert not open_run(out).finished
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stdout + again.stderr
    assert hashes(open_run(out)) == expected
