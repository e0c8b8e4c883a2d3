"""Text for a terminal or a log: no character in it moves the cursor, changes colours or hides another one."""

import re
import unicodedata

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_CONTROLS = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of control and format characters (among them those that turn the direction of writing),
surrogates, and separators of lines."""


def visible(text: str) -> str:
    r"""The text with control characters written out, as Python writes them; line ends and tabs stay.

    >>> print(visible("ok\x1b[2J\a"))
    ok\x1b[2J\x07
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in _CONTROLS else _written_out(c) for c in text)


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
    """The text without the codes of colours that another program has put into it; see `visible` for what else."""
    return visible(_COLOURS.sub("", text))


def _written_out(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
