"""What DICOM's stored numbers mean: Hounsfield units in CT, the scanner's intensities in MR.

A slope and an intercept, or a table, convert one to the other, slice by slice. What DICOM says about how an image is
to be displayed (MONOCHROME1, a presentation's shape, windows and their tables) does not matter here.
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from amos_fl.dicom.files import names_of
from amos_fl.dicom.header import DicomFile, DicomFrame, pydicom_or_sentence, without_bare_warnings
from amos_fl.errors import AmosError
from amos_fl.escape.terminal import one_line

_UNSAID = ("", "HU")
_DOUBTFUL = ("US", "HU_MOD")
"""Rescale types that do not say what the values are, or call them modified Hounsfield units."""
_END_OF_IMAGE = b"\xff\xd9"
"""The end of every JPEG, JPEG-LS and JPEG 2000 stream."""
_NOTHING = re.compile(r"'NoneType' object has no attribute '\w+'")
"""What pydicom says if GDCM returns no image."""
_DAMAGED = re.compile(r"corrupt|premature|unsupported|invalid|error|truncated", re.IGNORECASE)
_RLE = "1.2.840.10008.1.2.5"


def check_values(files: Sequence[DicomFile], modality: str) -> list[str]:
    """Check that the stored values of a series' files can be turned into HU or MR intensities; returns notes on doubts.

    Raises:
        AmosError: they cannot; the sentence lacks the name of the series.
    """
    if any(file.colours for file in files):
        raise AmosError("holds colours; a scan has one number per voxel")
    frames = [frame for file in files for frame in file.frames]
    tables = [file.path.name for file in files if file.has_lut]
    if tables and any(frame.rescale for file in files if file.has_lut for frame in file.frames):
        raise AmosError("states both a slope and a table (Modality LUT) for its values; export it again")
    if modality == "CT" and tables:  # such a table contains no number below 0
        raise AmosError(
            "converts its values by a table (Modality LUT), which cannot give Hounsfield units; export it again"
        )
    without = list(
        dict.fromkeys(f.path.name for file in files if not file.has_lut for f in file.frames if not f.rescale)
    )
    if modality == "CT" and without:
        raise AmosError(
            f"does not say how its values become Hounsfield units: no Rescale Slope and Intercept in "
            f"{names_of(without)}; export it again"
        )
    if without and len(without) < len({frame.path for frame in frames}):
        raise AmosError(f"scales the values of some slices but not of others ({names_of(without)}); export it again")
    if modality != "CT":
        return []
    types = {frame.rescale_type for frame in frames}
    if others := sorted(types - {*_UNSAID, *_DOUBTFUL}):
        raise AmosError(f"holds no Hounsfield units: its headers call the values {', '.join(others)} (Rescale Type)")
    if doubtful := sorted(types & set(_DOUBTFUL)):
        return [f"its headers do not say whether its values are Hounsfield units (Rescale Type {', '.join(doubtful)})"]
    return []


def voxels_of(frames: Sequence[DicomFrame], size: tuple[int, int]) -> np.ndarray:
    """The values of frames as float32 (frame, row, column), scaled as each frame's header says.

    Raises:
        AmosError: the pixels of a file are damaged; the sentence lacks the name of the series.
    """
    array = np.empty((len(frames), *size), dtype=np.float32)
    places: dict[Path, list[int]] = {}
    for place, frame in enumerate(frames):
        places.setdefault(frame.path, []).append(place)
    for path, where in places.items():
        try:
            numbers = stored_numbers(path, size)
        except AmosError as error:
            raise error.of(path.name) from None
        for place in where:
            frame = frames[place]
            if frame.index >= len(numbers):
                raise AmosError(f"{path.name} has changed since it was first read; start again")
            values = numbers[frame.index]
            if frame.rescale is not None:
                slope, intercept = frame.rescale
                values = values.astype(np.float64) * slope + intercept
            array[place] = values
    return array


def stored_numbers(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The stored numbers (frame, row, column) of a file, or what its table of values makes of them.

    Raises:
        AmosError: the pixels are damaged, or of another shape than `size` rows and columns; without the file's name.
    """
    pydicom = pydicom_or_sentence()
    from pydicom.pixels.processing import apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    syntax = ""
    with without_bare_warnings():
        try:
            ds = pydicom.dcmread(path)
            count, syntax = int(ds.get("NumberOfFrames") or 1), ds.file_meta.TransferSyntaxUID.name
            if "PixelData" not in ds:  # pydicom drops an element in which the file ends
                raise AmosError("is cut off", "fetch it again")
            if compressed := ds.file_meta.TransferSyntaxUID.is_encapsulated:
                _check_compressed(ds, count)
            with _decoders_words() if compressed else nullcontext([]) as words:
                stored = np.asarray(pixel_array(ds, raw=True))
            stored = stored.reshape(-1, *stored.shape[-2:])
            values = apply_modality_lut(stored, ds) if ds.get("ModalityLUTSequence") else stored
        except AmosError:
            raise
        except PermissionError:
            raise AmosError("cannot be read", "check its permissions") from None
        except Exception as error:  # a damaged stream can make decoders raise anything
            why = " ".join(str(error).split()).rpartition("all available plugins: ")[2] or type(error).__name__
            why = one_line(_NOTHING.sub("no image was found", why), 200)
            raise AmosError(
                f"its pixels cannot be decoded ({syntax or 'damaged header'}: {why})",
                "fetch it again, or decompress it first, for example with gdcmconv --raw",
            ) from None
    if words:
        raise AmosError(f"its pixels are damaged ({syntax}: {one_line(words[0], 200)})", "fetch it again")
    if values.shape != (count, *size):
        found = "x".join(map(str, values.shape))
        raise AmosError(f"holds pixels of a shape other than its header says ({found})", "fetch it again")
    return values


@contextmanager
def _decoders_words() -> Iterator[list[str]]:
    """What a decoder in C prints about a damaged stream on the process's own stderr while it continues with guesses."""
    words: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as heard:
        before = os.dup(2)
        try:
            os.dup2(heard.fileno(), 2)
            yield words
        finally:
            os.dup2(before, 2)
            os.close(before)
            heard.seek(0)
            lines = heard.read().decode(errors="replace").splitlines()
            words += [line.strip() for line in lines if _DAMAGED.search(line)]


def _check_compressed(ds: Any, count: int) -> None:
    """Check that each frame's stream has its end: decoders fill in what is missing without an error."""
    from pydicom.encaps import generate_frames

    syntax = ds.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    streams = list(generate_frames(ds.PixelData, number_of_frames=count))
    if len(streams) != count:
        raise AmosError(f"holds {len(streams)} of {count} frames; fetch it again")
    if syntax != _RLE and not all(stream.rstrip(b"\0").endswith(_END_OF_IMAGE) for stream in streams):
        raise AmosError("is cut off: its compressed pixels have no end; fetch it again")
