"""`predict.py` of an export: the label maps of NIfTI files, with nothing of amos-fl installed."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from torch import Tensor

from amos_fl.errors import AmosError
from amos_fl.export.portable import MODALITIES, PortableNetwork, predict_scan
from amos_fl.volumes.nifti import Volume


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict every scan that is named; 2 if one could not be."""
    here = Path(__file__).parent
    about = json.loads((here / "recipe.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=f"Segment {', '.join(about['organs'].values())}. {about['notice']}")
    parser.add_argument("scans", nargs="+", type=Path, help="NIfTI files")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder for the label maps")
    parser.add_argument("--modality", choices=MODALITIES, default=about["modality"], help="of the scans")
    parser.add_argument("--threads", type=int, default=about["inference"]["threads"], help="CPU threads")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    network, recipe = opened(here, given.threads), PortableNetwork.read(about)
    given.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for path in given.scans:
        try:
            out = given.out / f"{path.name.removesuffix('.gz').removesuffix('.nii')}.nii.gz"
            if out.resolve() == path.resolve():
                raise AmosError("its label map would replace the scan itself; give another folder")
            image: Any = nibabel.load(path)
            scan = Volume(np.asanyarray(image.dataobj, dtype=np.float32), image.affine)
            if scan.array.ndim != 3:
                raise AmosError(f"has {scan.array.ndim} dimensions, and a scan has three")
            label = predict_scan(scan, given.modality, network, recipe)
            beside = out.with_name(f".{os.getpid()}.{out.name}")
            nibabel.save(nibabel.Nifti1Image(label, image.affine), beside)
            os.replace(beside, out)
            print(f"{path.name}: {len(np.unique(label[label > 0]))} of {len(recipe.organs)} organs found")
        except (AmosError, OSError, ImageFileError) as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            failed = 2
    return failed


def opened(folder: Path, threads: int) -> Callable[[Tensor], Tensor]:
    """The network in an export: windows (window, 1, x, y, z) to logits (window, class, x, y, z)."""
    if (folder / "network.onnx").is_file():
        import onnxruntime  # pyright: ignore[reportMissingImports] - of the extra `export`

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(folder / "network.onnx", options, providers=["CPUExecutionProvider"])
        return lambda windows: torch.from_numpy(session.run(None, {"windows": windows.numpy()})[0])
    return torch.jit.load(folder / "network.ts", map_location="cpu")
