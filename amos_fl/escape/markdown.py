"""Escape text for Markdown, so that it is shown literally even if HTML is allowed and addresses become links."""

import re
from collections.abc import Sequence

from amos_fl.escape.terminal import visible

_SPECIAL = re.compile(r"[\\`|]|[*~](?=\S)|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")
"""Characters with a meaning in Markdown: an underscore between letters, a star after a number and a bracket around an
interval have none, and stay as they are."""
_AT_THE_START = re.compile(r"^(\s*)([#>+-]|\d+[.)])(?=\s|$)")


def text(value: str) -> str:
    r"""One line of Markdown that shows `value`.

    >>> print(text("b_train_0 has <b>, a | and [x](y)"))
    b_train_0 has &lt;b>, a \| and [x\](y)
    >>> print(text("see https://example.org"), text("# a"))
    see https&#58;//example.org \# a
    """
    line = " ".join(visible(value).split())
    line = re.sub(r"&(?=#?\w+;)", "&amp;", line)
    line = _SPECIAL.sub(lambda found: "\\" + found[0], line).replace("<", "&lt;")
    line = line.replace("://", "&#58;//").replace("www.", "www&#46;")
    return _AT_THE_START.sub(lambda found: f"{found[1]}{found[2][:-1]}\\{found[2][-1]}", line)


def code(value: str) -> str:
    """A value set as code.

    >>> print(code("a`b"))
    `a'b`
    """
    return "`" + " ".join(visible(value).split()).replace("`", "'") + "`"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of plain texts; the first column is text, the others are numbers.

    >>> print(table(["site", "DSC"], [["A", "0.71"]]))
    | site | DSC |
    |---|---:|
    | A | 0.71 |
    """
    lines = [_row(head), "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + [_row(row) for row in rows])


def _row(cells: Sequence[str]) -> str:
    # A lone dash stands for a missing value, and has no meaning inside a table.
    return "| " + " | ".join(cell if cell == "-" else text(cell) for cell in cells) + " |"
