"""Names, numbers and hints for sentences."""

import difflib
from collections.abc import Collection, Iterable


def case_name(amos_id: int) -> str:
    """A case's name as used in file names.

    >>> case_name(42)
    'amos_0042'
    """
    return f"amos_{amos_id:04d}"


def case_names(amos_ids: Collection[int], at_most: int = 8) -> str:
    """Case names for a sentence, the first few and a count of the rest.

    >>> case_names({3, 1, 2}, at_most=2)
    'amos_0001, amos_0002 and 1 more'
    """
    ids = sorted(amos_ids)
    names = ", ".join(case_name(amos_id) for amos_id in ids[:at_most])
    return f"{names} and {len(ids) - at_most} more" if len(ids) > at_most else names


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(0, "image"), counted(2, "patch", "patches")
    ('1 image', '0 images', '2 patches')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {plural or f'{noun}s'}"


def nearest(word: str, words: Iterable[str]) -> str:
    """A hint that names the nearest of `words`, or all of them if none is near.

    >>> nearest("fedprx", ["fedavg", "fedprox"])
    "did you mean 'fedprox'?"
    """
    words = list(words)
    section = word.rpartition(".")[0]
    inside = [other for other in words if section and other.startswith(f"{section}.")]
    close = difflib.get_close_matches(word, inside or words, n=1, cutoff=0.75 if inside else 0.6)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(inside or words)}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its kind, if it says nothing.

    >>> first_line(ValueError("too\\nlong")), first_line(KeyError())
    ('too', 'KeyError')
    """
    return next(iter(str(error).splitlines()), type(error).__name__)
