"""Names, numbers and hints for sentences."""

import difflib
import re
from collections.abc import Collection, Iterable, Sequence

MISSING = "-"
"""In the place of a value that is missing, in every table, page and picture."""


def case_name(amos_id: int) -> str:
    """A case's name as used in file names.

    >>> case_name(42)
    'amos_0042'
    """
    return f"amos_{amos_id:04d}"


def case_names(amos_ids: Collection[int]) -> str:
    """Case names for a sentence, in order."""
    return listed([case_name(amos_id) for amos_id in sorted(amos_ids)], 8)


def listed(names: Sequence[str], at_most: int | None = None) -> str:
    """Names for a sentence: all of them, or the first few and a count of the rest.

    >>> listed(["A", "B", "C"]), listed(["A", "B", "C"], 2), listed(["A"]), listed([])
    ('A, B and C', 'A, B and 1 more', 'A', 'none')
    """
    if at_most is not None and len(names) > at_most:
        return f"{', '.join(names[:at_most])} and {len(names) - at_most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names) or "none"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(0, "image"), counted(2, "patch", "patches")
    ('1 image', '0 images', '2 patches')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {plural or f'{noun}s'}"


def nearest(word: str, words: Iterable[str], otherwise: str = "") -> str:
    """A hint that names the nearest of `words`, or all of them (or `otherwise`) if none is near.

    Sections may be left out, and initials stand for a name.

    >>> nearest("fedprx", ["fedavg", "fedprox"])
    "did you mean 'fedprox'?"
    >>> nearest("batch_size", ["training.batch_size", "evaluation.batch_size", "seed"])
    "did you mean 'training.batch_size' or 'evaluation.batch_size'?"
    >>> nearest("training.lr", ["training.loss", "training.learning_rate"])
    "did you mean 'training.learning_rate'?"
    >>> nearest("mu", ["seed", "rounds"], "see --help")
    'see --help'
    """
    words = list(words)
    section, _, last = word.rpartition(".")
    if not section and (elsewhere := [repr(other) for other in words if other.endswith(f".{word}")]):
        return f"did you mean {either(elsewhere)}?"
    inside = [other for other in words if section and other.startswith(f"{section}.")]
    if meant := [repr(other) for other in inside or words if last.casefold() == _initials(other)]:
        return f"did you mean {either(meant)}?"
    close = difflib.get_close_matches(word, inside or words, n=1, cutoff=0.75 if inside else 0.6)
    return f"did you mean {close[0]!r}?" if close else otherwise or f"there are {', '.join(inside or words)}"


def _initials(name: str) -> str:
    """The first letters of a name's words; empty for a single word.

    >>> _initials("training.learning_rate"), _initials("trimmed-mean"), _initials("training.loss")
    ('lr', 'tm', '')
    """
    parts = [part for part in re.split(r"[-_ ]+", name.rpartition(".")[2].casefold()) if part]
    return "".join(part[0] for part in parts) if len(parts) > 1 else ""


def either(words: Iterable[object]) -> str:
    """Words to choose from.

    >>> either(["a", "b", "c"]), either(["a"])
    ('a, b or c', 'a')
    """
    *others, last = map(str, words)
    return f"{', '.join(others)} or {last}" if others else last


def limits(**bounds: float | None) -> str:
    """The bounds of a number in words; bounds that no user reaches are left out.

    >>> limits(ge=0, lt=1), limits(gt=0), limits(ge=0, lt=2**63)
    ('at least 0 and below 1', 'above 0', 'at least 0')
    """
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    known = {sign: bounds[name] for name, sign in signs.items() if bounds.get(name) is not None}
    return " and ".join(f"{sign} {bound:,}" for sign, bound in known.items() if bound is not None and bound < 2**62)


def must_be(kind: type, bounds: str) -> str:
    """What a number has to be.

    >>> must_be(int, limits(ge=1))
    'must be a whole number, at least 1'
    """
    return ", ".join([f"must be a {'whole ' * (kind is int)}number", *([bounds] if bounds else [])])


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its kind, if it says nothing.

    >>> first_line(ValueError("too\\nlong")), first_line(KeyError())
    ('too', 'KeyError')
    """
    return next(iter(str(error).splitlines()), type(error).__name__)


def duration(seconds: float) -> str:
    """A measured time.

    >>> duration(42.3), duration(312), duration(7300)
    ('42 s', '5 min 12 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def roughly(seconds: float) -> str:
    """A time in its largest unit of which there are at least two: for estimates, and how long ago something was.

    >>> roughly(12.3), roughly(400), roughly(8000), roughly(400_000)
    ('12 s', '7 min', '2 h', '5 days')
    """
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{round(seconds / length)} {unit}"
    return f"{max(0, round(seconds))} s"


def clock(seconds: float) -> str:
    """A time as a clock shows it, for what is left of work.

    >>> clock(75), clock(4000)
    ('1:15', '1:06:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
