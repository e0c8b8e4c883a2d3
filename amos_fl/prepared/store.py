"""The training store: cases prepared once, laid out for fast patch reads.

A case is a folder `<first two letters of its key>/<key>` holding `image.b2nd` (float32, normalised),
`label.b2nd` (uint8), `foreground.safetensors` (voxel positions per organ) and `meta.json`. Both arrays are
Blosc2 with chunks of half a patch's sides, cut into small blocks, so that a patch is read without the rest of the
volume. LZ4 is read in half of Zstandard's time and needs a tenth more of disk.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from safetensors.numpy import load_file

from amos_fl.errors import AmosError
from amos_fl.files import whole_folder, write_json
from amos_fl.volumes.plan import Triple
from amos_fl.weights import save_arrays

GridRegion = tuple[slice, slice, slice]
FORMAT = 4
"""Raised whenever preparation changes its result, so that old cases are not found."""
_BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Geometry:
    """A scan's own grid, to which predictions are restored.

    `shape` and `spacing_mm` are those of the whole scan in canonical voxel order, `crop` the box (low, high per axis)
    that was resampled, and `orientation` the file's voxel order as nibabel's (axis, flip) per axis.
    """

    shape: Triple
    spacing_mm: tuple[float, float, float]
    crop: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    orientation: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

    @property
    def crop_shape(self) -> Triple:
        """Sides (x, y, z) of the box, in voxels."""
        x, y, z = (high - low for low, high in self.crop)
        return (x, y, z)


@dataclass(frozen=True)
class PreparedCase:
    """A case in the store. It holds no voxels: every read opens the file, so it can be sent to any process.

    `shape` (x, y, z) is that of the prepared arrays; `padding` is the image's value for air outside them. `warnings`
    are sentences about its files for the user.
    """

    folder: Path
    case: str
    site: str
    modality: str
    annotated: tuple[int, ...]
    shape: Triple
    geometry: Geometry
    has_label: bool
    padding: float
    warnings: tuple[str, ...] = ()

    def image(self, region: GridRegion | None = None) -> np.ndarray:
        """Read float32 voxels of a region (by default all); only the blocks it touches are read.

        Raises:
            AmosError: the store entry is damaged.
        """
        return self._read("image.b2nd", region)

    def label(self, region: GridRegion | None = None) -> np.ndarray:
        """Read uint8 labels of a region (by default all); organs that were not annotated are 0.

        Raises:
            AmosError: the case has no label map, or the store entry is damaged.
        """
        if not self.has_label:
            raise AmosError(f"{self.case}: has no label map", "it can be predicted, not trained on")
        return self._read("label.b2nd", region)

    def image_patch(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """Read a float32 image patch (size) from `start` on; outside the volume it is `padding`."""
        return self._patch("image.b2nd", start, size, self.padding, np.float32)

    def label_patch(self, start: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """Read a uint8 label patch (size) from `start` on; outside the volume it is 0.

        Raises:
            AmosError: as `label`.
        """
        if not self.has_label:
            raise AmosError(f"{self.case}: has no label map", "it can be predicted, not trained on")
        return self._patch("label.b2nd", start, size, 0, np.uint8)

    def foreground(self) -> dict[int, np.ndarray]:
        """Voxel positions (n, 3) as int32 of each organ present: all, or an even draw of a few thousand."""
        if not self.has_label:
            return {}
        try:
            positions = load_file(self.folder / "foreground.safetensors")
        except Exception as error:  # safetensors raises its own error, outside of any hierarchy
            raise _damaged(self.case, self.folder) from error
        return {int(organ): positions[organ] for organ in sorted(positions, key=int)}

    def _read(self, name: str, region: GridRegion | None) -> np.ndarray:
        try:
            array: Any = blosc2.open(self.folder / name, mode="r", dparams={"nthreads": 1})
            if tuple(array.shape) != self.shape:
                raise ValueError(f"{name} is {array.shape}, not {self.shape}")
            return array[:] if region is None else array[region]
        except (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, MemoryError) as error:
            raise _damaged(self.case, self.folder) from error

    def _patch(self, name: str, start: Sequence[int], size: Sequence[int], padding: float, dtype: Any) -> np.ndarray:
        inside = [slice(max(0, s), min(n, s + w)) for s, w, n in zip(start, size, self.shape, strict=True)]
        x, y, z = inside
        if all(side.stop - side.start == w for side, w in zip(inside, size, strict=True)):
            return self._read(name, (x, y, z))
        patch = np.full(tuple(size), padding, dtype=dtype)
        if all(side.stop > side.start for side in inside):
            there = tuple(slice(side.start - s, side.stop - s) for side, s in zip(inside, start, strict=True))
            patch[there] = self._read(name, (x, y, z))
        return patch


def _damaged(case: str, folder: Path) -> AmosError:
    return AmosError(f"{case}: its prepared copy is damaged", f"delete the folder {folder} and it is prepared again")


def _block(chunk: Sequence[int], item_bytes: int) -> Triple:
    """The chunk halved along its longest side until it is cheap to read for a single voxel."""
    block = list(chunk)
    while np.prod(block) * item_bytes > _BLOCK_BYTES:
        longest = int(np.argmax(block))
        block[longest] = -(-block[longest] // 2)
    return (block[0], block[1], block[2])


def _write_array(path: Path, array: np.ndarray, patch: Sequence[int]) -> None:
    chunks = [min(-(-p // 2), n) for p, n in zip(patch, array.shape, strict=True)]
    voxels: Any = np.ascontiguousarray(array)
    shuffled = blosc2.Filter.NOFILTER if array.itemsize == 1 else blosc2.Filter.SHUFFLE
    compressed: Any = blosc2.asarray(
        voxels,
        chunks=tuple(chunks),
        blocks=_block(chunks, array.itemsize),
        cparams=blosc2.CParams(codec=blosc2.Codec.LZ4, clevel=1, filters=[shuffled], nthreads=1),
        dparams=blosc2.DParams(nthreads=1),
    )
    # Written by Python, not by Blosc2, which doesn't distinguish a full disk from other failures.
    path.write_bytes(compressed.to_cframe())


def write_prepared(
    folder: Path,
    *,
    image: np.ndarray,
    label: np.ndarray | None,
    foreground: dict[int, np.ndarray],
    patch: Sequence[int],
    meta: dict[str, Any],
) -> None:
    """Write a store entry, whole or not at all; an entry made meanwhile by another process is kept."""
    with whole_folder(folder) as beside:
        _write_array(beside / "image.b2nd", image, patch)
        if label is not None:
            _write_array(beside / "label.b2nd", label, patch)
            positions = {str(organ): found for organ, found in foreground.items()}
            save_arrays(positions, beside / "foreground.safetensors")
        write_json(beside / "meta.json", {"format": FORMAT, "shape": list(image.shape), **meta})


def open_prepared(folder: Path | str) -> PreparedCase:
    """Open the prepared case in a folder of the store.

    Raises:
        AmosError: there is none, or it is damaged.
    """
    folder = Path(folder)
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        geometry = meta["geometry"]
        return PreparedCase(
            folder=folder,
            case=meta["case"],
            site=meta["site"],
            modality=meta["modality"],
            annotated=tuple(meta["annotated"]),
            shape=_triple(meta["shape"]),
            geometry=Geometry(
                shape=_triple(geometry["shape"]),
                spacing_mm=_triple(geometry["spacing_mm"]),
                crop=_triple([tuple(side) for side in geometry["crop"]]),
                orientation=_triple([tuple(side) for side in geometry["orientation"]]),
            ),
            has_label=meta["has_label"],
            padding=meta["padding"],
            warnings=tuple(meta.get("warnings", ())),
        )
    except FileNotFoundError:
        raise AmosError(f"{folder}: holds no prepared case") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(folder.name, folder) from error


def _triple(values: Sequence[Any]) -> Any:
    a, b, c = values
    return (a, b, c)
