"""Loading a batch from disk: the training store beside a copy in memory and beside nnU-Net's dataset.

    python benchmarks/loading.py [--patches 200] [--nnunet ~/nnunet/bin/python]

Two patches of 160x160x64 (image and label map) of a scan of 512x440x160 voxels, anywhere in it, without augmentation,
in one thread. The image has the smooth noise of a scan that was resampled. Prints the median wall-clock and the mean
processor time of a batch, and what the files take on disk. nnU-Net is measured where it is installed, or in the Python
of --nnunet: its preprocessed case in Blosc2, read as its data loader does.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _rows import OURS, note

SHAPE, PATCH = (512, 440, 160), (160, 160, 64)
WORK = "loading two patches of 160x160x64"


def made_scan() -> tuple[np.ndarray, np.ndarray]:
    """A float32 image and a uint8 label map (512, 440, 160)."""
    from scipy.ndimage import zoom

    draw = np.random.default_rng(0)
    coarse = draw.normal(size=tuple(side // 2 for side in SHAPE)).astype(np.float32)
    image = np.asarray(zoom(coarse, 2, order=1), np.float32)
    label = np.asarray(zoom(draw.integers(0, 16, tuple(side // 20 for side in SHAPE), np.uint8), 20, order=0))
    full = np.zeros(SHAPE, np.uint8)
    full[tuple(slice(side) for side in label.shape)] = label
    return image, full


def starts(count: int) -> list[tuple[int, ...]]:
    draw = np.random.default_rng(1)
    return [tuple(int(draw.integers(n - p + 1)) for n, p in zip(SHAPE, PATCH, strict=True)) for _ in range(count)]


def timed(read: Callable[[tuple[int, ...]], object], patches: int) -> tuple[float, float]:
    """Milliseconds of a batch of two: the median of the wall clock, and the mean of the processor's."""
    places = starts(patches)
    for place in places[:4]:
        read(place)
    walls, before = [], time.process_time()
    for first, second in zip(places[::2], places[1::2], strict=True):
        started = time.perf_counter()
        read(first)
        read(second)
        walls.append((time.perf_counter() - started) * 1e3)
    return statistics.median(walls), (time.process_time() - before) / len(walls) * 1e3


def from_nnunet(folder: Path, patches: int) -> None:
    """In nnU-Net's own Python: write the case as it does, read patches, and print the times as JSON."""
    from nnunetv2.training.dataloading.nnunet_dataset import (  # pyright: ignore[reportMissingImports]
        comp_blosc2_params,
        nnUNetDatasetBlosc2,
    )

    image, label = np.load(folder / "image.npy")[None], np.load(folder / "label.npy")[None].astype(np.int8)
    blocks, chunks = comp_blosc2_params(image.shape, PATCH, image.itemsize)
    label_blocks, label_chunks = comp_blosc2_params(label.shape, PATCH, label.itemsize)
    nnUNetDatasetBlosc2.save_case(
        image,
        label,
        {},
        str(folder / "case"),
        chunks=chunks,
        blocks=blocks,
        chunks_seg=label_chunks,
        blocks_seg=label_blocks,
    )
    dataset = nnUNetDatasetBlosc2(str(folder), ["case"])

    def read(start: tuple[int, ...]) -> object:
        found_image, found_label, *_ = dataset.load_case("case")
        box = (slice(None), *(slice(s, s + p) for s, p in zip(start, PATCH, strict=True)))
        return np.asarray(found_image[box]), np.asarray(found_label[box])

    wall, cpu = timed(read, patches)
    disk = sum(file.stat().st_size for file in folder.glob("case*.b2nd"))
    print(json.dumps({"wall": wall, "cpu": cpu, "disk": disk}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=200)
    parser.add_argument("--nnunet", type=Path, default=Path(sys.executable), help="a Python that has nnU-Net")
    parser.add_argument("--in-nnunet", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_nnunet:
        from_nnunet(given.in_nnunet, given.patches)
        return

    from amos_fl.prepared.store import PreparedCase, open_prepared, write_prepared

    image, label = made_scan()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        meta = {
            "case": "made",
            "site": "A",
            "modality": "CT",
            "annotated": list(range(1, 16)),
            "geometry": {
                "shape": list(SHAPE),
                "spacing_mm": [1.0, 1.0, 1.0],
                "crop": [[0, side] for side in SHAPE],
                "orientation": [[0, 1], [1, 1], [2, 1]],
            },
            "has_label": True,
            "padding": 0.0,
        }
        write_prepared(folder / "case", image=image, label=label, foreground={}, patch=PATCH, meta=meta)
        case: PreparedCase = open_prepared(folder / "case")

        def from_memory(start: tuple[int, ...]) -> object:
            box = tuple(slice(s, s + p) for s, p in zip(start, PATCH, strict=True))
            return image[box].copy(), label[box].copy()

        def from_store(start: tuple[int, ...]) -> object:
            return case.image_patch(start, PATCH), case.label_patch(start, PATCH)

        on_disk = sum(file.stat().st_size for file in (folder / "case").glob("*.b2nd"))
        for tool, read, disk in ((OURS, from_store, on_disk), ("a copy in memory", from_memory, 0)):
            wall, cpu = timed(read, given.patches)
            size = f"{disk / 1e6:.0f} MB on disk" if disk else ""
            print(f"{tool:18} {wall:6.1f} ms, {cpu:6.1f} ms of the processor; {size or 'nothing on disk'}")
            note(WORK, tool, wall, "ms", memory=size, limit=25.0 if tool == OURS else None)
        np.save(folder / "image.npy", image)
        np.save(folder / "label.npy", label)
        command = [given.nnunet, __file__, "--patches", str(given.patches), "--in-nnunet", folder]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            print(f"nnU-Net            not measured: {(ran.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
            note(WORK, "nnU-Net's Blosc2", None, "ms")
            return
        found = json.loads(ran.stdout.splitlines()[-1])
        size = f"{found['disk'] / 1e6:.0f} MB on disk"
        print(f"{'nnU-Net':18} {found['wall']:6.1f} ms, {found['cpu']:6.1f} ms of the processor; {size}")
        note(WORK, "nnU-Net's Blosc2", found["wall"], "ms", memory=size)


if __name__ == "__main__":
    main()
