"""Parse untrusted JSON: bounded in size and depth, and without ambiguity.

Python's own parser takes `NaN`, the last of two equal keys, numbers of thousands of digits, and as many brackets as
its stack has room for.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

MOST_DIGITS = 40
MOST_DEPTH = 32


def parsed(text: str | bytes, *, most_bytes: int) -> Any:
    """The value of a JSON text of at most `most_bytes`.

    Raises:
        ValueError: it is too long or too deep, is not JSON, names a key twice, or holds a number that is NaN, infinite
        or too long. The message quotes nothing from the text.

    >>> parsed('{"a": [1, 2.5, null]}', most_bytes=100)
    {'a': [1, 2.5, None]}
    >>> parsed('{"a": 1, "a": 2}', most_bytes=100)
    Traceback (most recent call last):
    ValueError: a key appears twice
    """
    size = len(text) if isinstance(text, bytes) else _bytes_of(text)
    if size > most_bytes:
        raise ValueError(f"it is longer than {most_bytes} bytes")
    try:
        value = json.loads(
            text, object_pairs_hook=_once_each, parse_int=_int, parse_float=_float, parse_constant=_no_constant
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError:
        raise ValueError("it is not JSON") from None
    if _deeper_than(value, MOST_DEPTH):
        raise ValueError("it is nested too deeply")
    return value


def _bytes_of(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("it is not Unicode") from None


def _once_each(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice")
    return found


def _int(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number has more than {MOST_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError("a number is NaN or infinite")


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
