"""What encoded updates save and cost: bytes of a round, and DSC of the same federation on the phantom.

    python benchmarks/codecs.py FOLDER            # 15 runs, two at a time
    python benchmarks/codecs.py FOLDER --rounds 1 --steps 1 --seeds 0 1   # whether it runs

Five sites of the embedded phantom (synthetic) train the small network; every run has the same seeds, patches and steps,
and only the encoding of the updates differs. Bytes are those of the ledger, a site's update of one round. DSC is the
mean over the organs on the test cases of the sites that train, and of the scanners that do not, averaged over the
seeds; beside it the difference from updates in full on the same cases, with its 95 % interval (`amos-fl compare`). What
is in FOLDER already is not carried out again.
"""

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from amos_fl.comparison.compare import compare_runs
from amos_fl.comparison.statistics import Estimate
from amos_fl.runs.record import read_runs

CODECS = {
    "none": ["--update-codec", "none"],
    "fp16": ["--update-codec", "fp16"],
    "int8": ["--update-codec", "int8"],
    "top-k, 10 %": ["--update-codec", "top-k", "--top-k-share", "0.1"],
    "top-k, 1 %": ["--update-codec", "top-k", "--top-k-share", "0.01"],
}
AT_ONCE = 2
SCOPES = ("seen sites", "unseen sites")


def carried_out(out: Path, codec: str, seed: int, rounds: int, steps: int) -> Path:
    """The finished run of a codec and a seed."""
    if not (out / "scores.csv").is_file():
        options = ["--rounds", rounds, "--local-steps", steps, "--evaluate-every", rounds, "--seed", seed]
        options += ["--model", "small", "--threads", 1, "--device", "cpu", "--no-unseen", "--selection", "last"]
        asked = ["--resume", out] if out.exists() else ["--out", out, *options, *CODECS[codec]]
        command = [sys.executable, "-m", "amos_fl.cli.main", "simulate", *asked]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{codec}, seed {seed}: {done.stderr or done.stdout}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=25, help="of each site in a round")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    started = time.perf_counter()
    wanted = {
        (codec, seed): asked.folder / f"{codec.replace(', ', '-').replace(' %', '')}-{seed}"
        for codec in CODECS
        for seed in asked.seeds
    }
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [pool.submit(carried_out, out, *which, asked.rounds, asked.steps) for which, out in wanted.items()]
        for run in runs:
            print(f"{time.perf_counter() - started:4.0f} s  {run.result()}", file=sys.stderr, flush=True)

    records = read_runs(list(wanted.values()))
    of_run = {run: arm for arm in compare_runs(records, metrics=("dsc",), resamples=100).arms for run in arm.runs}
    by_codec = {codec: of_run[wanted[codec, asked.seeds[0]].name] for codec in CODECS}
    compared = compare_runs(records, metrics=("dsc",), reference=by_codec["none"].name)
    print("| updates | kB of an update | DSC, seen sites | difference | DSC, unseen | difference |")
    print("|---|---|---|---|---|---|")
    for codec, arm in by_codec.items():
        exchanges = sum(len(entry["sites"]) for entry in records[0].ledger)  # of a seed, as are the arm's bytes
        row = [codec, f"{arm.cost.bytes_up / exchanges / 1000:,.0f}"]
        for scope in SCOPES:
            score, apart = compared.cell(arm.name, scope, "dsc"), compared.difference(arm.name, scope, "dsc")
            assert score is not None
            row += [f"{score.estimate.value:.3f}", "-" if apart is None else in_words(apart.estimate)]
        print(f"| {' | '.join(row)} |")


def in_words(apart: Estimate) -> str:
    return f"{apart.value:+.4f} ({apart.low:+.4f} to {apart.high:+.4f})"


if __name__ == "__main__":
    main()
