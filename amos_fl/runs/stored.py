"""Read the small files of a run as typed records, or raise one sentence that names the file.

Fields missing in a file of an older version have defaults; extra fields of a newer version are ignored.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from amos_fl.errors import AmosError
from amos_fl.invalid import what_is_wrong
from amos_fl.strict_json import parsed

MOST_BYTES = 256 << 20
"""Nothing that is read at once comes near this size: a round of ten thousand sites is a line of 4 MB in the ledger."""
Value = TypeVar("Value")


class Stored(BaseModel):
    """A record in a run's folder."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


def read_bytes(file: Path, remedy: str) -> bytes:
    """A file's content.

    Raises:
        AmosError: it is missing, cannot be read or is far too long.
    """
    with _in_words(file, remedy):
        if file.stat().st_size > MOST_BYTES:
            raise AmosError(f"{file}: is longer than {MOST_BYTES >> 20} MB, and so damaged; {remedy}")
        return file.read_bytes()


def read_lines(file: Path, remedy: str) -> Iterator[bytes]:
    """Yield the lines of a file of any length with their ends; one that is far too long comes in pieces.

    Raises:
        AmosError: it is missing or cannot be read.
    """
    with _in_words(file, remedy), file.open("rb") as opened:
        while line := opened.readline(MOST_BYTES):
            yield line


@contextmanager
def _in_words(file: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise AmosError(f"{file}: is missing; {remedy}") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise AmosError(f"{file}: cannot be read ({why}); {remedy}") from None


def read_stored(file: Path, kind: "type[BaseModel] | TypeAdapter[Any]", remedy: str) -> Any:
    """The record in a JSON file: an instance of a model, or a value of another type.

    Raises:
        AmosError: the file is missing, or damaged: it names the file, what is wrong in it, and the remedy.
    """
    return checked(read_bytes(file, remedy), kind, f"{file}", remedy)


def checked(text: str | bytes, kind: "type[BaseModel] | TypeAdapter[Any]", source: str, remedy: str) -> Any:
    """The record in a JSON text of `source`.

    Raises:
        AmosError: as `read_stored`.
    """
    try:
        value = parsed(text, most_bytes=MOST_BYTES)
    except ValueError as error:
        raise AmosError(f"{source}: cannot be read ({error}); {remedy}") from None
    return fitting(value, kind, source, remedy)


def fitting(value: Any, kind: "type[BaseModel] | TypeAdapter[Any]", source: str, remedy: str) -> Any:
    """Validate a JSON value as a record.

    Raises:
        AmosError: as `read_stored`.
    """
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        why = what_is_wrong(error, None if isinstance(kind, TypeAdapter) else kind, shows="keys")
    raise AmosError(f"{source}: cannot be read ({why}); {remedy}")


def without_nan(value: Any) -> Any:
    """A JSON value with NaN replaced by null, because JSON cannot express it."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def json_line(value: Any) -> str:
    """A value as one line of JSON."""
    return json.dumps(without_nan(value), sort_keys=True, allow_nan=False)
