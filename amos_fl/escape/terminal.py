"""Escape text for a terminal or a log, so that no character moves the cursor, changes colours or hides another."""

import re
import unicodedata

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def visible(text: str, keep: str = "\n\t") -> str:
    r"""The text with control characters written out, as Python writes them; those to `keep` stay.

    >>> print(visible("ok\x1b[2J\a"))
    ok\x1b[2J\x07
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or _is_letter(c) else _written_out(c) for c in text)


def one_line(text: str, most: int = 500) -> str:
    r"""The text as one line of at most `most` characters, with control characters written out.

    >>> one_line("disk\r\n  full")
    'disk full'
    >>> one_line("x" * 30, most=10)
    'xxxxxxx...'
    """
    words = visible(" ".join(text[: 4 * most].split()))
    return words if len(words) <= most else words[: most - 3] + "..."


def without_colours(text: str) -> str:
    """The text without another program's colour codes; `visible` handles the rest."""
    return visible(_COLOURS.sub("", text))


def _is_letter(c: str) -> bool:
    """Whether a character only shows itself, unlike, for example, one that changes the writing direction."""
    return c.isprintable() or unicodedata.category(c) == "Zs"


def _written_out(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
