"""Open a NIfTI file and check it: its header at once, its voxels when they are read.

nibabel does the reading. This module adds the checks that it leaves out: whether the file can hold what its header
promises, before memory is allocated; whether a compressed file is intact to its end, whose checksum goes unchecked if
reading stops at the last voxel; and an error message that names the file for every fault.
"""

import bz2
import gzip
import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, cast

import nibabel
import numpy as np
from nibabel import imageglobals
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Pair
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from amos_fl.errors import AmosError
from amos_fl.scan_files import check_file, not_nifti
from amos_fl.volumes.plausible_grid import check_header, check_memory
from amos_fl.warned import heard, warn

_CUT = (EOFError, zlib.error, gzip.BadGzipFile, WrapStructError)
_UNREADABLE = (*_CUT, ImageFileError, HeaderDataError, OSError, ValueError, ArithmeticError, KeyError, TypeError)
_DEFLATE_AT_MOST = 1032
"""The highest compression ratio of deflate (zlib's technical details): a file that promises more is damaged."""
_COMPRESSED = (".gz", ".bz2", ".zst")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class NiftiFile:
    """A NIfTI file whose header is plausible: its shape (without trailing ones) and its affine (4, 4) to mm in RAS."""

    name: str
    image: Nifti1Pair
    shape: tuple[int, ...]
    affine: np.ndarray

    @property
    def _proxy(self) -> ArrayProxy:
        return cast(ArrayProxy, self.image.dataobj)

    @property
    def _data_path(self) -> Path:
        return Path(str(self.image.file_map["image"].filename))

    @property
    def data_bytes(self) -> int:
        """The position in the (uncompressed) file at which the last voxel ends."""
        return int(self._proxy.offset) + math.prod(self.shape) * self._proxy.dtype.itemsize

    @property
    def holds_whole_numbers(self) -> bool:
        """Whether its values are stored as whole numbers, without fractions or a scale.

        A resampling tool's 0.99995 is 1 to a reader that rounds, but 0 to one that truncates.
        """
        stored = self.image.dataobj
        return isinstance(stored, ArrayProxy) and stored.dtype.kind in "iu" and (stored.slope, stored.inter) == (1, 0)

    def voxels(self, dtype: Any = None, channel: int | None = None) -> np.ndarray:
        """All voxels, scaled as the header says; `dtype` float32, or None for the file's own type.

        With a `channel`, that channel of a four-dimensional file as stored: (x, y, z), not scaled.

        Raises:
            AmosError: the file is truncated or damaged, or its voxels do not fit into memory.
        """
        wide = np.dtype(dtype or np.float32).itemsize
        check_memory(math.prod(self.shape), self._proxy.dtype.itemsize + wide, self.name)
        try:
            proxy = self._proxy
            if not _is_compressed(self._data_path):
                return self._array(proxy, dtype, channel)
            spec = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
            with _inflated(self._data_path) as stream:
                array = self._array(ArrayProxy(stream, spec, mmap=False, order=proxy.order), dtype, channel)
                self.check_rest(_read_to_end(stream, self.name))
            return array
        except MemoryError:
            raise AmosError(f"{self.name}: does not fit into this machine's memory", "is its header right?") from None
        except _UNREADABLE as error:
            if str(error).startswith("Expected"):  # nibabel's words for a stream that was whole, and too short
                self.check_rest(-1)
            raise AmosError(f"{self.name}: is truncated or damaged", "fetch it again") from None

    def _array(self, proxy: ArrayProxy, dtype: Any, channel: int | None) -> np.ndarray:
        if channel is not None:
            # Not a slice of the proxy, which reads only a part of the file: damage in the rest would go unnoticed.
            return np.asanyarray(proxy.get_unscaled()).reshape(self.shape)[..., channel]
        return np.asanyarray(proxy, dtype=dtype).reshape(self.shape)

    def check_whole(self) -> None:
        """Read a compressed file to its end, where its length and checksum are; once per process and content.

        Raises:
            AmosError: it is truncated or damaged.
        """
        path = self._data_path
        if not _is_compressed(path):
            return  # its size was checked when it was opened
        try:
            status = path.stat()
            length = _inflated_bytes(path, status.st_size, status.st_mtime_ns, self.name)
        except _UNREADABLE:
            raise AmosError(f"{self.name}: is truncated or damaged", "fetch it again") from None
        self.check_rest(length - self.data_bytes)

    def check_rest(self, rest: int) -> None:
        """Check that `rest` bytes after the last voxel are no more than padding; below 0 voxels are missing.

        Raises:
            AmosError: the file is shorter than its header says, or longer by as much as a plane of voxels.
        """
        if rest < 0:
            raise AmosError(
                f"{self.name}: is truncated or damaged: its header promises {'x'.join(map(str, self.shape))} voxels, "
                "more than the file holds",
                "fetch it again",
            )
        planes = [math.prod(self.shape) // side for side in self.shape]
        if rest >= min(planes) * self._proxy.dtype.itemsize:
            raise AmosError(
                f"{self.name}: holds {rest:,} bytes more than the {'x'.join(map(str, self.shape))} voxels that its "
                "header counts",
                "header and voxels belong to different scans: fetch it again",
            )
        if rest:
            warn(f"{self.name}: holds {rest} bytes after its last voxel, which are taken for padding")


def open_nifti(path: Path | str, *, channels: bool = False, name: str = "") -> NiftiFile:
    """Open a NIfTI file (also NIfTI-2 and pairs of .hdr and .img) and check its header; voxels are not read yet.

    With `channels` it has four dimensions, the last being the channels. Warns if the header leaves the patient's
    position open. Errors and warnings call the file `name`, by default its own.

    Raises:
        AmosError: not a NIfTI file, one that cannot hold what its header promises, a wrong number of dimensions, or an
        implausible header (`plausible_grid`).
    """
    path = Path(path)
    name = name or path.name
    _check_kind(path)
    try:
        with heard() as ours, _library_speaks(name) as theirs:
            image = nibabel.load(path)
            if not isinstance(image, Nifti1Pair):  # NIfTI-2 and .hdr/.img pairs are Nifti1Pairs as well
                raise not_nifti(path)
            found = _checked(name, image, 4 if channels else 3)
    except AmosError:
        raise
    except _CUT:
        raise AmosError(f"{name}: is truncated or damaged", "fetch it again") from None
    except FileNotFoundError as error:
        other = Path(str(error.filename or "")).name or f"{path.stem}.img or .hdr"
        raise AmosError(f"{name}: the other half of the pair, {other}, is not there", "put it beside") from None
    except PermissionError:
        raise AmosError(f"{name}: cannot be read", "check its permissions") from None
    except ImageFileError:
        raise not_nifti(path) from None
    except _UNREADABLE as error:
        raise AmosError(f"{name}: its header is damaged ({_field(error)})", "fetch it again") from None
    for sentence in (*theirs, *ours):
        warn(sentence)
    return found


def _check_kind(path: Path) -> None:
    """Check that the file exists, can be read, and is what its name promises."""
    name = path.name
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:  # for instance a name that no file can have
        raise AmosError(f"{name[:60]}: cannot be accessed ({error.strerror})", "correct the path") from None
    check_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(352)
    except OSError:
        raise AmosError(f"{name}: cannot be read", "check its permissions") from None
    gzipped, ending = start.startswith(b"\x1f\x8b"), name.lower().endswith(".gz")
    plain = start[344:348] in (b"n+1\0", b"ni1\0") or start[4:8] in (b"n+2\0", b"ni2\0")
    if ending and plain:
        raise AmosError(f"{name}: is not compressed, though its name ends in .gz", f"rename it to {name[:-3]}")
    if gzipped and not ending:
        raise AmosError(f"{name}: is compressed, though its name does not say so", f"rename it to {name}.gz")


@contextmanager
def _library_speaks(name: str) -> Iterator[list[str]]:
    """Collect nibabel's messages about a file, which otherwise reach the terminal without the file's name."""
    said: list[str] = []

    class Collects(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if not text.startswith("pixdim") and record.levelno < logging.CRITICAL:  # we judge the voxel size ourselves
                said.append(f"{name}: its header is odd ({text})")

    logger, collects = imageglobals.logger, Collects(logging.WARNING)
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [collects], False
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
    finally:
        logger.handlers, logger.propagate = handlers, propagate
    said += [f"{name}: its header is odd ({one.message})" for one in caught]


def _checked(name: str, image: Nifti1Pair, dimensions: int) -> NiftiFile:
    dtype = np.dtype(image.get_data_dtype())
    if dtype.names or dtype.kind not in "iuf":
        raise AmosError(f"{name}: holds colours or complex numbers", "a scan has one number per voxel")
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > dimensions and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != dimensions or min(shape) < 1:
        what = "a scan has three dimensions" if dimensions == 3 else "a scan of several channels has four"
        raise AmosError(f"{name}: has the shape {'x'.join(map(str, image.shape))}", what)
    header = _as_stored(image)
    for field in ("scl_slope", "scl_inter"):
        if np.isinf(header[field]):
            raise AmosError(f"{name}: its header is damaged ({field} is infinite)", "fetch it again")
    affine = np.asarray(image.affine, dtype=np.float64)
    file = NiftiFile(name, image, shape, affine)
    _check_room(file)
    check_header(header, image.header, affine, shape[:3], name)
    return file


def _as_stored(image: Nifti1Pair) -> Any:
    """The header as it is in the file: nibabel silently corrects what it takes for a slip."""
    holder = image.file_map.get("header") or image.file_map["image"]
    with ImageOpener(str(holder.filename)) as file:
        return type(image.header).from_fileobj(file, check=False)


def _check_room(file: NiftiFile) -> None:
    """Whether the file can hold its voxels, by its size alone."""
    path = Path(str(file.image.file_map["image"].filename))
    size = path.stat().st_size
    if not _is_compressed(path):
        file.check_rest(size - file.data_bytes)
    elif path.suffix.lower() == ".gz" and file.data_bytes > size * _DEFLATE_AT_MOST:
        file.check_rest(-1)


def _is_compressed(path: Path) -> bool:
    return path.suffix.lower() in _COMPRESSED


@contextmanager
def _inflated(path: Path) -> Iterator[IO[bytes]]:
    if path.suffix.lower() == ".gz":  # Python's own reader, which checks length and checksum at the end
        with gzip.open(path) as stream:
            yield cast(IO[bytes], stream)
    elif path.suffix.lower() == ".bz2":
        with bz2.open(path) as stream:
            yield cast(IO[bytes], stream)
    else:
        with ImageOpener(str(path)) as stream:
            yield cast(IO[bytes], stream)


def _read_to_end(stream: IO[bytes], name: str) -> int:
    """Read to the end and return the number of bytes; the reader checks length and checksum on the way."""
    rest = 0
    # One piece at a time: if a larger read ended in an error, what it had read so far would be lost.
    read = getattr(stream, "read1", stream.read)
    try:
        while piece := read(_CHUNK_BYTES):
            rest += len(piece)
    except gzip.BadGzipFile as error:
        if "Not a gzipped file" not in str(error):
            raise
        # Everything before was intact, its checksum verified: warn and go on, as gzip itself does.
        warn(f"{name}: holds bytes after its compressed content that do not belong to it; they are ignored")
    return rest


@lru_cache(maxsize=4096)
def _inflated_bytes(path: Path, size: int, changed_ns: int, name: str) -> int:
    with _inflated(path) as stream:
        return _read_to_end(stream, name)


def _field(error: BaseException) -> str:
    """The header field that an error from nibabel is about, in a few words."""
    text = str(error).strip().splitlines()
    text = text[0] if text else type(error).__name__
    for mark, field in (("w2 should", "qform"), ("intercept", "scl_inter"), ("infinity", "an infinite number")):
        if mark in text:
            return field
    return text
