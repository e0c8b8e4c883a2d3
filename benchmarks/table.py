"""All benchmarks as one table: the work, ours, each peer, the ratio, and the value to reach.

    python benchmarks/table.py              # small sizes, under five minutes on two cores
    python benchmarks/table.py --full       # real sizes
    python benchmarks/table.py loading.py   # some of them

A ratio above 1 says that the peer takes so many times as long as ours. A peer that is not installed is named in the
table, and skipped: MONAI, Flower and surface-distance come with the `test` extra, nnU-Net has an environment of its own
(--nnunet ~/nnunet/bin/python). Every benchmark runs in a process of its own, one after another; one that fails is named
at the end, with exit code 1, and does not take the others along. Run it on an otherwise idle machine.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _rows import FILE, OURS, Row, read_rows

HERE = Path(__file__).parent
RUNS: dict[str, tuple[list[str], list[str]]] = {
    "scoring.py": (["--runs", "3"], []),
    "score_folders.py": (["--cases", "12", "--theirs", "2"], []),
    "stitching.py": (["--runs", "1", "--shape", "256", "256", "96"], []),
    "loading.py": (["--patches", "40"], ["--patches", "200"]),
    "training_step.py": (["--steps", "3", "--batches", "12", "--threads", "1"], ["--threads", "1"]),
    "round_overhead.py": (["inline", "torch"], ["inline", "ray", "flower", "torch"]),
    "whole_commands.py": (["--scans", "4"], ["--scans", "40"]),
}
"""Arguments of each benchmark at the small and at the real size."""
TAKES_NNUNET = ("stitching.py", "loading.py", "whole_commands.py")


def said(value: float | None, unit: str) -> str:
    """A value with its unit, to two or three digits."""
    if value is None:
        return "not there"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def table(rows: Sequence[Row]) -> str:
    """The Markdown table: a line for every peer of every work, or one for work without a peer."""
    lines = ["| work | ours | peer | the peer's | ratio | to reach |", "|---|---:|---|---:|---:|---:|"]
    for work in dict.fromkeys(row.work for row in rows):
        of_work = [row for row in rows if row.work == work]
        ours = next((row for row in of_work if row.tool == OURS), Row(work, OURS, None))
        mine = said(ours.value, ours.unit) + (f", {ours.memory}" if ours.memory else "")
        reach = "-" if ours.limit is None else said(ours.limit, ours.unit)
        if ours.limit is not None and ours.value is not None:
            reach += " (reached)" if ours.value <= ours.limit else " (missed)"
        for peer in [row for row in of_work if row.tool != OURS] or [Row(work, "-", None)]:
            theirs = "-" if peer.tool == "-" else said(peer.value, peer.unit)
            theirs += f", {peer.memory}" if peer.memory else ""
            ratio = f"{peer.value / ours.value:.1f}" if peer.value and ours.value else "-"
            lines.append(f"| {work} | {mine} | {peer.tool} | {theirs} | {ratio} | {reach} |")
    return "\n".join(lines)


def commit() -> str:
    """The short name of the checkout's commit, marked if files were changed since."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", metavar="FILE", help=f"some of: {', '.join(RUNS)}")
    parser.add_argument("--full", action="store_true", help="at real sizes; takes half an hour or more")
    parser.add_argument("--nnunet", type=Path, help="a Python that has nnU-Net")
    options = parser.parse_args()
    if unknown := set(options.only) - set(RUNS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))} in the table; there are {', '.join(RUNS)}")
    failed, started = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows"
        for name in options.only or RUNS:
            arguments = RUNS[name][1 if options.full else 0]
            if options.nnunet and name in TAKES_NNUNET:
                arguments = [*arguments, "--nnunet", str(options.nnunet)]
            print(f"{name} {' '.join(arguments)}".rstrip(), file=sys.stderr, flush=True)
            environment = {**os.environ, FILE: str(file)}
            if subprocess.run([sys.executable, HERE / name, *arguments], env=environment, stdout=sys.stderr).returncode:
                failed.append(name)
        print(table(read_rows(file)))
    size = "real sizes" if options.full else "small sizes"
    print(
        f"\n{size}, commit {commit()}, {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, in {time.monotonic() - started:.0f} s"
    )
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
