"""Repair what can be repaired without a guess in the files of a cohort, as copies in a new folder.

Repaired are headers whose sform and qform disagree about the patient's position (the sform is taken, as by every
command here), negative voxel sizes, bytes behind the last voxel or behind the compressed content, a name that does not
say whether the file is compressed, a checksum that was cut off, and label maps that are not stored as whole numbers or
lie on their scan's grid in another orientation or with a slightly other affine. Everything else needs a person.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.orientations import aff2axcodes

from amos_fl.cohort.reference import reference_of
from amos_fl.cohort.table import PHANTOM_MARK, Case, Cohort, write_cohort
from amos_fl.errors import AmosError, already_exists
from amos_fl.files import whole_file, whole_folder, write_json
from amos_fl.scan_files import check_file, parts_of
from amos_fl.volumes.nifti import read_geometry, write_label
from amos_fl.volumes.nifti_file import NiftiFile, open_nifti
from amos_fl.volumes.plausible_grid import corner_distance_mm, forms_tolerance_mm
from amos_fl.warned import heard

_GZIP = b"\x1f\x8b"
_TRAILER_BYTES = 8
_LEVEL = 6


@dataclass(frozen=True)
class Repair:
    """What was done to a case's scan or label map (`kind`), or why nothing could be done."""

    case: str
    kind: str
    sentence: str


def repair_cohort(
    cohort: Cohort, out: Path, *, on_case: Callable[[int, int, str], None] = lambda done, total, case: None
) -> list[Repair]:
    """Write a cohort with repaired copies of faulty files to the new folder `out`; sound files stay where they are.

    No file of the cohort is changed. A file that cannot be repaired is listed as it is, for `data check` to say why.

    Raises:
        AmosError: there is something at `out`.
    """
    if out.exists():
        raise already_exists(out, "choose another folder for --fix")
    repairs: list[Repair] = []
    cases: list[Case] = []
    with whole_folder(out) as folder:
        for done, case in enumerate(cohort.cases, start=1):
            cases.append(_repaired(case, cohort, folder, repairs))
            on_case(done, len(cohort.cases), case.case)
        write_cohort(replace(cohort, cases=tuple(cases)), folder / "cohort.csv")
        if cohort.synthetic():
            write_json(folder / "dataset.json", {"description": f"repaired copies of a {PHANTOM_MARK}"})
    return repairs


def _repaired(case: Case, cohort: Cohort, folder: Path, repairs: list[Repair]) -> Case:
    image, label = folder / "images" / f"{case.case}.nii.gz", folder / "labels" / f"{case.case}.nii.gz"
    for kind, target in (("image", image), ("label", label)):
        source = case.image if kind == "image" else case.label
        try:
            with heard():  # what is odd is what is repaired; what is left is said when the cohort is checked
                done = [] if source is None else repair_file(source, target)
        except AmosError as error:
            repairs.append(Repair(case.case, kind, f"not repaired: {error}"))
            continue
        repairs += [Repair(case.case, kind, sentence) for sentence in done]
        if done:
            case = replace(case, **{kind: target})
    if case.label is not None:
        try:
            with heard():
                done = _label_problems(case)
                if done:
                    array = reference_of(case, cohort.organs).array
                    write_label(label, array, case.image)
        except AmosError:  # said by the check
            return case
        if done:
            repairs += [Repair(case.case, "label", sentence) for sentence in done]
            case = replace(case, label=label, label_values=())
    return case


def _label_problems(case: Case) -> list[str]:
    """What a label map's file needs to be written again for, so that every program reads it as it is meant."""
    assert case.label is not None
    file = open_nifti(case.label)
    shape, affine = read_geometry(case.image, header_only=True)
    found = []
    if not file.holds_whole_numbers:
        found.append("stored as whole numbers, which it means")
    if file.shape != shape or "".join(aff2axcodes(file.affine)) != "".join(aff2axcodes(affine)):
        found.append("turned to its scan's orientation")
    elif not np.allclose(file.affine, affine, atol=1e-3):
        found.append("given its scan's affine, from which its own differed slightly")
    return found


def repair_file(source: Path, target: Path) -> list[str]:
    """Write a repaired copy of a NIfTI file, compressed, and say what was done; nothing is written if nothing was.

    Voxels are copied as they are stored, bit for bit.

    Raises:
        AmosError: the file is damaged in a way that cannot be repaired, or is no NIfTI file.
    """
    check_file(source)
    if len(parts_of(source)) > 1 or not source.name.lower().endswith((".nii", ".nii.gz")):
        return []
    content, done = _content(source)
    if done:
        _write(target, content)
    try:
        file = open_nifti(target if done else source)
        rest = len(content) - file.data_bytes
        file.check_rest(rest)
        header, more = _header(file, content)
        if more:
            content = header.binaryblock + content[len(header.binaryblock) :]
        if rest:
            more.append(f"{rest} bytes after its last voxel removed")
            content = content[: file.data_bytes]
        if more:
            _write(target, content)
    except AmosError:
        target.unlink(missing_ok=True)
        raise
    return [*done, *more]


def _content(source: Path) -> tuple[bytes, list[str]]:
    """The uncompressed content of a file, and what its compression needs repaired.

    Raises:
        AmosError: it is cut off before its end, or its content is not what its checksum says.
    """
    stored, named = source.read_bytes(), source.name.lower().endswith(".gz")
    if not stored.startswith(_GZIP):
        return stored, ["compressed, as its name says"] if named else []
    parts: list[bytes] = []
    done = [] if named else ["named .nii.gz, because it is compressed"]
    while stored.startswith(_GZIP):  # a file may hold several members, one after another
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        start = _header_bytes(stored, source)
        try:
            part = inflate.decompress(stored[start:])
        except zlib.error:
            raise AmosError(f"{source.name}: is damaged inside its compressed content", "fetch it again") from None
        if not inflate.eof:
            raise AmosError(f"{source.name}: is cut off before its last voxel, or damaged", "fetch it again")
        trailer, stored = inflate.unused_data[:_TRAILER_BYTES], inflate.unused_data[_TRAILER_BYTES:]
        expected = zlib.crc32(part).to_bytes(4, "little") + (len(part) & 0xFFFFFFFF).to_bytes(4, "little")
        if trailer[:4] != expected[: min(4, len(trailer))]:
            raise AmosError(f"{source.name}: its content is not what its checksum says", "fetch it again")
        if len(trailer) < 4:
            done.append("its checksum, which was cut off, written anew; nothing can tell whether its voxels are right")
        elif trailer != expected:
            done.append("the length at its end corrected; its checksum is right")
        parts.append(part)
    if stored.strip(b"\0"):
        done.append(f"{len(stored)} bytes after its compressed content removed")
    return b"".join(parts), done


def _header_bytes(stored: bytes, source: Path) -> int:
    """Where the compressed content begins (RFC 1952, section 2.3)."""
    if len(stored) <= 10:
        raise AmosError(f"{source.name}: is cut off at its beginning", "fetch it again")
    flags, at = stored[3], 10
    if flags & 4:
        at += 2 + int.from_bytes(stored[at : at + 2], "little")
    for bit in (8, 16):  # the original name, and a comment
        if flags & bit:
            at = stored.find(b"\0", at) + 1
            if not at:
                raise AmosError(f"{source.name}: is damaged at its beginning", "fetch it again")
    return at + 2 * bool(flags & 2)


def _header(file: NiftiFile, content: bytes) -> tuple[Nifti1Header, list[str]]:
    """The header as stored, made to say one thing of where the patient lies, and what was done for that."""
    # nibabel's own copy of it lacks the scale and the place of the voxels, and has unknown codes set to 0.
    known = file.image.header
    header = type(known).from_fileobj(BytesIO(content), check=False)
    sform, qform = int(known["sform_code"]), int(known["qform_code"])
    done = []
    if sform > 0 and qform > 0:
        apart = corner_distance_mm(file.affine, np.asarray(known.get_qform(), dtype=np.float64), file.shape)
        if apart > forms_tolerance_mm(known.get_zooms()[:3], file.shape):
            done.append(f"its qform set to its sform, from which it placed voxels up to {apart:.1f} mm apart")
    sizes = np.asarray(header["pixdim"], dtype=np.float64)[1:4]
    if (sizes < 0).any():
        done.append("negative voxel sizes made positive")
        header["pixdim"][1:4] = np.abs(sizes)
    if done and (sform > 0 or qform > 0):
        header.set_sform(file.affine, sform or qform)
        header.set_qform(file.affine, qform or sform)
    return header, done


def _write(target: Path, content: bytes) -> None:
    """Write a compressed file without a name and time in its header, so that the same scan gives the same file."""
    compress = zlib.compressobj(_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    with whole_file(target) as beside, beside.open("wb") as file:
        file.write(compress.compress(content))
        file.write(compress.flush())
