"""Whole pieces of work on full-size scans, start and imports included, beside what others take for the same files.

    python benchmarks/whole_commands.py [--scans 40] [--nnunet ~/nnunet/bin/python]

Scans of 512x512x100 voxels at 0.8x0.8x5 mm with a label map of 15 organs, as gzipped NIfTI files, made on the spot.

- `data check` of all, with two processes, beside nnU-Net's own check of the same files (it looks at less), and beside
  reading the files once with nibabel in one process.
- Preparing one for training, in one process and one thread, beside MONAI's transforms for the same work.
- `predict` of one and of three more scans with the small network, beside `import torch, monai` alone.
- The first optimizer step of `simulate` on a cohort that is already prepared, beside the same imports.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import scoring
from _rows import OURS, note

SPACING_MM = (0.8, 0.8, 5.0)
COMMAND = [sys.executable, "-m", "amos_fl.cli.main"]
IMPORTS = "import torch, monai.networks.nets.dynunet"
FIRST_STEP = """
import os, sys
import amos_fl

def heard(event):
    if getattr(event, "activity", "") == "train" and event.done >= 1:
        os._exit(0)

amos_fl.simulate(listener=heard, cohort=sys.argv[1], out=sys.argv[2], store=sys.argv[3], sites=["A"], rounds=1,
                 local_steps=2, device="cpu", engine={"name": "inline"})
"""
NNUNETS_CHECK = """
import sys
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
if __name__ == "__main__":
    verify_dataset_integrity(sys.argv[1], 2)
"""


def write_scans(root: Path, count: int) -> None:
    """`root` becomes a cohort of `count` scans at site A, all for training but the last, which is for validation."""
    from amos_fl.cohort.table import Case, Cohort, write_cohort

    scoring.SPACING_MM = SPACING_MM
    label, affine = scoring.organ_map(seed=0, waver=0.0), np.diag([*SPACING_MM, 1.0])
    draw = np.random.default_rng(0)
    body = np.where(label > 0, 60, -20) + 4 * label.astype(np.int16)
    noise = draw.normal(0, 15, label.shape)
    cases = []
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        name = f"case_{number:03d}"
        image = (body + np.roll(noise, 7 * number, axis=0)).astype(np.int16)
        files = root / "images" / f"{name}.nii.gz", root / "labels" / f"{name}.nii.gz"
        moved = np.roll(label, number, axis=0), np.roll(image, number, axis=0)
        nib.save(nib.Nifti1Image(moved[1], affine), files[0])
        nib.save(nib.Nifti1Image(moved[0], affine), files[1])
        split = "val" if number == count - 1 else "train"
        cases.append(Case(name, "A", "CT", split, *files, tuple(range(1, 16))))
    write_cohort(Cohort(tuple(cases)), root / "cohort.csv")


def as_nnunets(root: Path, to: Path, count: int) -> Path:
    """The same files in the layout of nnU-Net's raw data."""
    for folder in ("imagesTr", "labelsTr"):
        (to / folder).mkdir(parents=True)
    for number in range(count):
        name = f"case_{number:03d}"
        (to / "imagesTr" / f"{name}_0000.nii.gz").symlink_to(root / "images" / f"{name}.nii.gz")
        (to / "labelsTr" / f"{name}.nii.gz").symlink_to(root / "labels" / f"{name}.nii.gz")
    about = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{f"organ {organ}": organ for organ in range(1, 16)}},
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (to / "dataset.json").write_text(json.dumps(about))
    return to


def seconds_of(command: Sequence[object], times: int = 1) -> float | None:
    """The median wall-clock time of a command; None if it fails, with its last line printed."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        ran = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        taken.append(time.perf_counter() - started)
        if ran.returncode:
            print(f"  {command[1]}: {((ran.stderr or ran.stdout).strip().splitlines() or ['failed'])[-1]}")
            return None
    return statistics.median(taken)


def told(work: str, measured: dict[str, float | None], limit: float | None = None) -> None:
    """Print and keep the seconds of each tool."""
    print(work)
    for tool, seconds in measured.items():
        print(f"  {tool:34} {'not measured' if seconds is None else f'{seconds:6.2f} s'}", flush=True)
        note(work, tool, seconds, limit=limit if tool == OURS else None)


def check(root: Path, place: Path, count: int, nnunet: Path) -> None:
    def read_all() -> None:
        for folder in ("images", "labels"):
            for file in sorted((root / folder).glob("*.nii.gz")):
                np.asarray(nib.load(file).dataobj)  # pyright: ignore[reportAttributeAccessIssue, reportPrivateImportUsage]

    raw = as_nnunets(root, place / "raw", count)
    script = place / "check.py"
    script.write_text(NNUNETS_CHECK)
    measured = {
        OURS: seconds_of([*COMMAND, "data", "check", root, "--workers", "2"]),
        "nnU-Net": seconds_of([nnunet, script, raw]),
        "reading, nibabel, one process": timed(read_all),
    }
    told(f"data check of {count} scans of 512x512x100", measured, limit=10.0 if count == 40 else None)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def prepare(root: Path, place: Path) -> None:
    import torch
    from monai.transforms.compose import Compose
    from monai.transforms.croppad.dictionary import CropForegroundd
    from monai.transforms.intensity.dictionary import ScaleIntensityRanged
    from monai.transforms.io.dictionary import LoadImaged
    from monai.transforms.spatial.dictionary import Orientationd, Spacingd
    from monai.transforms.utility.dictionary import EnsureChannelFirstd

    from amos_fl.cohort.table import read_cohort
    from amos_fl.prepared.prepare import prepare_case
    from amos_fl.volumes.plan import plan_named

    torch.set_num_threads(1)
    plan, case = plan_named("amos-ct"), read_cohort(root).cases[0]
    both = ("image", "label")
    pipeline = Compose(
        [
            LoadImaged(both),
            EnsureChannelFirstd(both),
            Orientationd(both, axcodes="RAS", labels=None),
            CropForegroundd(both, source_key="image", select_fn=lambda x: x > -500, allow_smaller=True),
            Spacingd(both, pixdim=plan.spacing_mm, mode=("bilinear", "nearest")),
            ScaleIntensityRanged(("image",), -991, 362, -1, 1, clip=True),
        ]
    )
    files = {"image": str(case.image), "label": str(case.label)}
    prepare_case(case, plan, place / "warm", range(1, 16))
    measured: dict[str, float | None] = {
        OURS: timed(lambda: prepare_case(case, plan, place / "store", range(1, 16))),
        "MONAI, not written to disk": timed(lambda: pipeline(files)),
    }
    told("preparing a scan of 512x512x100 for training", measured)


def commands(root: Path, place: Path) -> None:
    settings = ["--cohort", root, "--sites", "A", "--rounds", "1", "--local-steps", "1", "--device", "cpu"]
    run, store = place / "run", place / "prepared"
    if seconds_of([*COMMAND, "simulate", *settings, "--out", run, "--store", store]) is None:
        return
    imports = seconds_of([sys.executable, "-c", IMPORTS], 3)
    scans = sorted((root / "images").glob("*.nii.gz"))
    predict = [*COMMAND, "predict", run, "--modality", "CT", "--device", "cpu"]
    one = seconds_of([*predict, scans[0], "--out", place / "one"])
    four = seconds_of([*predict, *scans[:4], "--out", place / "four"])
    told("predict, one scan of 512x512x100, the small network", {OURS: one, "imports of torch and MONAI": imports})
    if one is not None and four is not None and len(scans) > 3:
        told("predict, every further scan", {OURS: (four - one) / 3})
    first = [seconds_of([sys.executable, "-c", FIRST_STEP, root, place / f"first-{n}", store]) for n in range(3)]
    if None not in first:
        middle = statistics.median(seconds for seconds in first if seconds is not None)
        told("first step of simulate", {OURS: middle, "imports of torch and MONAI": imports}, limit=3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=40)
    parser.add_argument("--nnunet", type=Path, default=Path(sys.executable), help="a Python that has nnU-Net")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_scans(place / "cohort", options.scans)
        check(place / "cohort", place, options.scans, options.nnunet)
        prepare(place / "cohort", place)
        commands(place / "cohort", place)


if __name__ == "__main__":
    main()
