"""Scoring two folders: `amos-fl score` on 100 cases of 15 organs at 256x256x100, as gzipped NIfTI files.

Cases are made on the spot: organ-shaped masks at 1.4x1.4x5 mm, each prediction's surfaces wavering around its
label's by a few mm. Times the installed command from start to end, with DSC, NSD, HD95, volumes and its files
written. On some of the cases, in the same run, DeepMind's surface-distance 0.1 computes DSC, NSD and HD95 of the
same organs after nibabel has read the files, in one process. Prints both, as wall-clock and as processor time (which
a busy machine disturbs less), and the largest difference between the scores.

    python benchmarks/score_folders.py [--cases 100] [--theirs 5] [--workers 2]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import scoring
from _rows import OURS, note
from surface_distance import metrics as deepmind

from amos_fl.metrics.table import read_scores

SHAPE = (256, 256, 100)
SPACING_MM = (1.4, 1.4, 5.0)
KINDS = 5  # of organ maps; making one takes a second


def write_folders(root: Path, cases: int) -> None:
    """`root/pred` and `root/labels` with as many cases each."""
    scoring.SHAPE, scoring.SPACING_MM = SHAPE, SPACING_MM
    label = scoring.organ_map(seed=0, waver=0.0)
    predictions = [scoring.organ_map(seed=1 + kind, waver=0.06) for kind in range(KINDS)]
    affine = np.diag([*SPACING_MM, 1.0])
    for folder in ("pred", "labels"):
        (root / folder).mkdir()
    for case in range(cases):
        shift = case // KINDS  # no two cases alike
        for folder, labels in (("labels", label), ("pred", predictions[case % KINDS])):
            moved = np.roll(labels, shift, axis=0)
            nibabel.save(nibabel.Nifti1Image(moved, affine), root / folder / f"case_{case:03d}.nii.gz")


def surface_distance_scores(root: Path, case: str) -> dict[int, tuple[float, float, float]]:
    prediction, reference = (
        np.asarray(nibabel.load(root / folder / f"{case}.nii.gz").dataobj)  # pyright: ignore[reportAttributeAccessIssue]
        for folder in ("pred", "labels")
    )
    scores = {}
    for organ in scoring.ORGANS:
        real, predicted = reference == organ, prediction == organ
        distances = deepmind.compute_surface_distances(real, predicted, SPACING_MM)
        scores[organ] = (
            float(deepmind.compute_dice_coefficient(real, predicted)),
            float(deepmind.compute_surface_dice_at_tolerance(distances, 1.0)),
            float(deepmind.compute_robust_hausdorff(distances, 95)),
        )
    return scores


def processor_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description="Time `amos-fl score` on two folders of label maps.")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--theirs", type=int, default=5, help="cases that surface-distance scores too")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_folders(root, options.cases)
        command = [sys.executable, "-m", "amos_fl.cli.main", "score", str(root / "pred"), str(root / "labels")]
        command += ["--modality", "CT", "--workers", str(options.workers), "--out", str(root / "out")]
        start, before = time.perf_counter(), processor_seconds_of_children()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        ours, ours_processor = time.perf_counter() - start, processor_seconds_of_children() - before
        scored = {case.case: case.scores for case in read_scores(root / "out" / "scores.csv")}
        start, before = time.perf_counter(), time.process_time()
        theirs = {case: surface_distance_scores(root, case) for case in sorted(scored)[: options.theirs]}
        seconds = (time.perf_counter() - start) / len(theirs)
        processor = (time.process_time() - before) / len(theirs)
    difference = max(
        abs(mine - other)
        for case, organs in theirs.items()
        for organ, marks in organs.items()
        for mine, other in zip(
            (scored[case][organ].dsc, scored[case][organ].nsd, scored[case][organ].hd95_mm), marks, strict=True
        )
    )
    print(f"{options.cases} cases, 15 organs, {'x'.join(map(str, SHAPE))}, {options.workers} workers")
    print(f"   amos-fl score: {ours:6.1f} s in all, {ours_processor:6.1f} s of processor time")
    print(f"surface-distance: {seconds:6.2f} s per case of {len(theirs)}, {processor:6.2f} s of processor time")
    ratio, processor_ratio = seconds * options.cases / ours, processor * options.cases / ours_processor
    print(f"           ratio: {ratio:6.1f} times as fast, {processor_ratio:.1f} times in processor time")
    print(f"largest difference between the scores: {difference:.1e}")
    work = "scoring a folder, processor time of a case"
    note(work, OURS, ours_processor / options.cases)
    note(work, "surface-distance", processor)


if __name__ == "__main__":
    main()
