"""The probabilities of all classes as one NIfTI file on the scan's grid, in little memory.

The file is (x, y, z, class), background first, as uint8 with the slope 1/255: accurate to 0.002 and a quarter the size
of float32. The planes arrive one after another with all classes, but the file is ordered class by class, so they are
first put into a file on disk.
"""

import gzip
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from nibabel import orientations
from nibabel.nifti1 import Nifti1Header

from amos_fl.files import whole_file
from amos_fl.volumes.nifti import orientation_of
from amos_fl.volumes.nifti_file import open_nifti

_COMPRESSION = 4


class ProbabilityMap:
    """Space on disk for the probabilities of a scan, which `predict_case` fills and `write` turns into NIfTI."""

    def __init__(self, like: Path, classes: int, scratch: Path) -> None:
        scan = open_nifti(like)
        self._like, self._affine = scan.image, scan.affine
        x, y, z = scan.shape
        self._voxels = np.memmap(scratch / "probabilities", np.uint8, "w+", shape=(x, y, z, classes), order="F")

    @property
    def canonical(self) -> UInt8[np.ndarray, "x y z class"]:
        """The voxels in canonical order, a view to be filled."""
        return orientations.apply_orientation(self._voxels, orientation_of(self._affine))

    def write(self, path: Path) -> None:
        """Write them as a gzipped NIfTI file, whole or not at all."""
        header = Nifti1Header() if not self._like.header.is_single else self._like.header.copy()
        header.set_data_shape(self._voxels.shape)
        header.set_data_dtype(np.uint8)
        header.set_data_offset(0)
        header.extensions.clear()
        for text in ("descrip", "aux_file", "intent_name", "db_name"):
            if text in header:
                header[text] = b""
        header["cal_min"], header["cal_max"] = 0, 1
        header.set_sform(self._affine, code=int(self._like.header["sform_code"]) or 1)
        header.set_xyzt_units("mm")
        header.set_slope_inter(1 / 255, 0)
        with whole_file(path) as beside, gzip.open(beside, "wb", compresslevel=_COMPRESSION) as file:
            header.write_to(file)
            for one in range(self._voxels.shape[3]):
                for plane in range(self._voxels.shape[2]):
                    file.write(self._voxels[:, :, plane, one].tobytes(order="F"))
