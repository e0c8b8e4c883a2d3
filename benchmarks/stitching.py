"""From windows to a label map: `amos_fl.inference` beside MONAI and nnU-Net, with a network that costs next to nothing.

A prepared scan of 512x512x100 voxels goes through a 1x1x1 convolution to 16 classes, in windows of 160x160x64 that
overlap by half (108 of them), on one thread. Every tool runs in a process of its own and ends with the label map in
memory. Prints the median wall-clock time, the peak of resident memory above what the process had before, and the share
of voxels whose label differs from ours. nnU-Net is measured where it is installed, or in the Python of --nnunet.

    python benchmarks/stitching.py [--runs 3] [--shape 512 512 100] [--patch 160 160 64] [--nnunet ~/nnunet/bin/python]
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _rows import OURS, note

CLASSES = 16


def network_of() -> torch.nn.Module:
    """A 1x1x1 convolution to 16 classes, the same in every process."""
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, CLASSES, 1).eval()


def by_amos_fl(image: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    from amos_fl.inference.restore import restore
    from amos_fl.inference.windows import InMemory, finished_planes, slab_axis
    from amos_fl.prepared.store import Geometry
    from amos_fl.runs.inference_settings import DEFAULT

    x, y, z = image.shape
    axis = slab_axis((x, y, z), patch)
    cpu = torch.device("cpu")
    planes = finished_planes(
        network_of(), InMemory(image), patch, CLASSES, axis=axis, device=cpu, inference=DEFAULT, check=None
    )
    geometry = Geometry((x, y, z), (1.0, 1.0, 1.0), ((0, x), (0, y), (0, z)), ((0, 1), (1, 1), (2, 1)))
    with torch.inference_mode():
        return restore(planes, axis, (x, y, z), geometry, range(1, CLASSES))


def by_monai(image: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    from monai.inferers.utils import sliding_window_inference

    network = network_of()
    with torch.inference_mode():
        shares = sliding_window_inference(
            torch.from_numpy(image)[None, None],
            patch,
            1,
            lambda x: network(x).softmax(1),
            overlap=0.5,
            mode="gaussian",
            sigma_scale=0.125,
        )
        return shares[0].argmax(dim=0).to(torch.uint8).numpy()


def by_nnunet(image: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # pyright: ignore[reportMissingImports]

    predictor = nnUNetPredictor(0.5, True, False, False, torch.device("cpu"), allow_tqdm=False)
    predictor.network, predictor.configuration_manager = network_of(), argparse.Namespace(patch_size=patch)
    predictor.label_manager = argparse.Namespace(num_segmentation_heads=CLASSES)
    logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(image)[None])
    return logits.argmax(dim=0).to(torch.uint8).numpy()


TOOLS: dict[str, Callable[[np.ndarray, tuple[int, int, int]], np.ndarray]] = {
    OURS: by_amos_fl,
    "MONAI": by_monai,
    "nnU-Net": by_nnunet,
}


def measured(tool: str, image: Path, patch: tuple[int, int, int], out: Path) -> None:
    """In a process of its own: the label map into `out`, and seconds and peak memory printed as JSON."""
    torch.set_num_threads(1)
    TOOLS[tool](np.zeros((patch[0], patch[1], patch[2]), np.float32), patch)  # imports and what is set up once
    scan = np.load(image)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    found = TOOLS[tool](scan, patch)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.save(out, found)
    print(json.dumps({"seconds": seconds, "peak_mb": (peak - before) / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 100))
    parser.add_argument("--patch", type=int, nargs=3, default=(160, 160, 64))
    parser.add_argument("--nnunet", type=Path, default=Path(sys.executable), help="a Python that has nnU-Net")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    patch = (given.patch[0], given.patch[1], given.patch[2])
    if given.one:
        measured(given.one[0], Path(given.one[1]), patch, Path(given.one[2]))
        return
    with tempfile.TemporaryDirectory() as place:
        image, labels = Path(place) / "image.npy", {}
        np.save(image, np.random.default_rng(0).normal(size=given.shape).astype(np.float32))
        print(f"{'tool':<10} {'seconds':>8} {'peak':>9} {'ratio':>6} {'other labels':>13}")
        ours, work = 0.0, f"windows to a label map of {'x'.join(map(str, given.shape))}"
        for tool in TOOLS:
            python = given.nnunet if tool == "nnU-Net" else sys.executable
            if tool == "nnU-Net" and subprocess.run([python, "-c", "import nnunetv2"], capture_output=True).returncode:
                print(f"{tool:<10} is not installed for {shutil.which(python) or python}")
                note(work, tool, None)
                continue
            out = Path(place) / f"{tool}.npy"
            command = [python, __file__, "--patch", *map(str, patch), "--one", tool, image, out]
            printed = [
                json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
                for _ in range(given.runs)
            ]
            labels[tool] = np.load(out)
            seconds = statistics.median(one["seconds"] for one in printed)
            ours = ours or seconds
            differing = float(np.mean(labels[tool] != labels[OURS]))
            peak = max(one["peak_mb"] for one in printed)
            print(f"{tool:<10} {seconds:>8.2f} {peak:>6.0f} MB {seconds / ours:>6.2f} {differing:>13.2e}")
            limit = 12.0 if tool == OURS and tuple(given.shape) == (512, 512, 100) else None
            note(work, tool, seconds, memory=f"{peak:.0f} MB", limit=limit)


if __name__ == "__main__":
    main()
