"""NIfTI files with a header of one's choice: what a converter, an editor or a damaged disk leaves."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener

ACDC_MM = (1.316, 1.316, 10.0)
"""What qform and pixdim of a public data set say where its sform says 1 x 1 x 1 mm (nnU-Net's issue 2741)."""


def header_of(path: Path) -> Any:
    """The header as it is stored."""
    with ImageOpener(str(path)) as file:
        return nib.Nifti1Header.from_fileobj(file, check=False)


def rewritten(path: Path, **fields: Any) -> Path:
    """The file with these fields of its header (such as `pixdim`) set to other values, byte for byte else the same."""
    with ImageOpener(str(path)) as file:
        content = bytearray(file.read())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    with ImageOpener(str(path), "wb") as file:
        file.write(bytes(content))
    return path


def contradicting(path: Path) -> Path:
    """As ACDC's: 1 x 1 x 1 mm in the sform, the truth in qform and pixdim."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    return rewritten(
        path,
        pixdim=[1, *ACDC_MM, 1, 1, 1, 1],
        qform_code=1,
        quatern_b=0,
        quatern_c=0,
        quatern_d=1,
        sform_code=1,
        srow_x=affine[0],
        srow_y=affine[1],
        srow_z=affine[2],
    )


def sheared(path: Path, degrees: float = 20.0) -> Path:
    """A gantry's tilt, kept as shear in the sform; the voxel size in pixdim is that of the sform's columns."""
    header = header_of(path)
    affine = np.asarray(nib.load(path).affine, dtype=np.float64)
    affine[1, 2] = abs(affine[2, 2]) * np.tan(np.radians(degrees))
    pixdim = np.asarray(header["pixdim"], dtype=np.float64)
    pixdim[1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    return rewritten(
        path, sform_code=1, qform_code=0, srow_x=affine[0], srow_y=affine[1], srow_z=affine[2], pixdim=pixdim
    )


def mirrored(path: Path) -> Path:
    """sform and qform of one voxel size, of which one has left where the other has right."""
    image = nib.load(path)
    affine = np.asarray(image.affine, dtype=np.float64)
    other = np.diag([-1.0, 1.0, 1.0, 1.0]) @ affine
    header = nib.Nifti1Header()
    header.set_data_shape(image.shape)
    header.set_qform(other, 1)
    header.set_sform(affine, 1)
    names = ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z")
    names += tuple(f"{kind}_{axis}" for kind, axes in (("quatern", "bcd"), ("qoffset", "xyz")) for axis in axes)
    return rewritten(path, **{name: header[name] for name in names})


def wrong_sum(path: Path) -> Path:
    """A gzip file whose stored sum is another than its content's; every voxel comes out as it was."""
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(content)
    return path
