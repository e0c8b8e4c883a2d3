"""What encoded updates save and cost: bytes of a round, and DSC of the same federation on the phantom.

    python benchmarks/codecs.py FOLDER            # 15 runs, two at a time
    python benchmarks/codecs.py FOLDER --rounds 1 --steps 1 --seeds 0 1   # whether it runs

Five sites of the embedded phantom (synthetic) train the small network; every run has the same seeds, patches and steps,
and only the encoding of the updates differs. Bytes are those of the ledger, a site's update of one round. DSC is the
mean over the organs on the test cases of the sites that train, and of the scanners that do not, averaged over the
seeds; beside it the difference from updates in full on the same cases, with its 95 % interval (`amos-fl compare`). Runs
that are in FOLDER already are not carried out again.
"""

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import amos_fl

CODECS = {
    "none": ["--update-codec", "none"],
    "fp16": ["--update-codec", "fp16"],
    "int8": ["--update-codec", "int8"],
    "top-k, 10 %": ["--update-codec", "top-k", "--top-k-share", "0.1"],
    "top-k, 1 %": ["--update-codec", "top-k", "--top-k-share", "0.01"],
}
AT_ONCE = 2
SCOPES = ("seen", "unseen")


def carried_out(out: Path, codec: str, seed: int, rounds: int, steps: int) -> Path:
    """The finished run of a codec and a seed."""
    if not (out / "scores.csv").is_file():
        options = ["--rounds", rounds, "--local-steps", steps, "--evaluate-every", rounds, "--seed", seed]
        options += ["--model", "small", "--threads", 1, "--device", "cpu", "--no-unseen", "--selection", "last"]
        command = [sys.executable, "-m", "amos_fl.cli.main", "simulate", "--out", out, *options, *CODECS[codec]]
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

    compared = amos_fl.compare(list(wanted.values()), asked.folder / f"comparison-{time.time():.0f}")
    print(compared.comparison.arms)
    print(compared.differences.to_string())


if __name__ == "__main__":
    main()
