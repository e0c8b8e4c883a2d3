"""The tables of a comparison in LaTeX, with booktabs: one file each, and a document that shows them all."""

import re
from collections.abc import Sequence

from amos_fl.comparison.comparison import Comparison
from amos_fl.comparison.tables import TextTable
from amos_fl.escape.terminal import visible
from amos_fl.runs.summary import PHANTOM_NOTE
from amos_fl.wording import MISSING

_SIGNS = (
    {"±": "pm", "≤": "leq", "≥": "geq", "≈": "approx", "→": "to", "Δ": "Delta", "Σ": "Sigma", "Ω": "Omega"}
    | {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "η": "eta", "θ": "theta", "κ": "kappa"}
    | {"λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi", "ω": "omega"}
)
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": r"\ensuremath{-}",
    **{sign: rf"\ensuremath{{\{name}}}" for sign, name in _SIGNS.items()},
}
"""LaTeX's own signs, and others that it prints in mathematics alone; accented letters are printed as they are."""
MOST_ROWS = 36
"""The most rows that fit on a page."""
_NUMBER = re.compile(r"(?<![\w.])([+-]?\d+\.\d+)(?![\w.])")


def escape(text: str) -> str:
    r"""Text that LaTeX prints as it is.

    >>> print(escape("50 % of a_b & {c} \\ 1<2"))
    50 \% of a\_b \& \{c\} \textbackslash{} 1\textless{}2
    """
    return "".join(_SPECIAL.get(letter, letter) for letter in visible(text))


def cell(text: str) -> str:
    """Escape a cell, with numbers in math mode, so that a minus is a minus; a dash for a missing value.

    >>> print(cell("-0.012 [-0.030, +0.006]"), cell("-"))
    $-0.012$ [$-0.030$, $+0.006$] --
    """
    return "--" if text == MISSING else _NUMBER.sub(r"$\1$", escape(text))


def latex_table(table: TextTable, *, synthetic: bool) -> str:
    """One table, to be read with `\\input` by a document that loads booktabs and graphicx.

    It is scaled down if it is wider than the page, and continued in another table if it is longer. The caption says if
    the scores are a phantom's.
    """
    parts = [range(first, min(first + MOST_ROWS, len(table.rows))) for first in range(0, len(table.rows), MOST_ROWS)]
    return "\n".join(_float(table, part, synthetic=synthetic) for part in parts)


def _float(table: TextTable, rows: range, *, synthetic: bool) -> str:
    continued = "" if rows.start == 0 else " (continued)"
    caption = " ".join(
        part for part in (f"{table.title}{continued}.", table.note, PHANTOM_NOTE if synthetic else "") if part
    )
    label = table.key.replace("_", "-") + (f"-{rows.start // MOST_ROWS + 1}" if rows.start else "")
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{cell(caption)}}}",
        rf"\label{{tab:{label}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{'l' * table.names}{'r' * (len(table.columns) - table.names)}}}",
        r"\toprule",
        _row(table.columns),
        r"\midrule",
    ]
    for i in rows:
        if i in table.sections and i > rows.start:
            lines.append(r"\midrule")
        lines.append(_row(table.rows[i]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""])


def _row(cells: Sequence[str]) -> str:
    # A row that begins with a bracket would be read as an argument of the \\ before it.
    first, *rest = map(cell, cells)
    return " & ".join([f"{{}}{first}" if first.startswith("[") else first, *rest]) + r" \\"


def latex_document(comparison: Comparison, tables: Sequence[TextTable]) -> str:
    """A document that shows all tables and says the findings and notes in words; compile it with pdflatex."""
    said = [("Findings", comparison.findings), ("Notes", comparison.notes), ("Problems", comparison.problems)]
    parts = [
        r"\documentclass{article}",
        r"\usepackage[utf8]{inputenc}",
        r"\usepackage[margin=2cm]{geometry}",
        r"\usepackage{booktabs,graphicx}",
        r"\begin{document}",
        r"\section*{Comparison}",
        *([rf"\textbf{{{escape(PHANTOM_NOTE)}}}"] if comparison.synthetic else []),
    ]
    for title, sentences in said:
        if sentences:
            items = [rf"\item {cell(sentence)}" for sentence in sentences]
            parts += [rf"\subsection*{{{title}}}", r"\begin{itemize}", *items, r"\end{itemize}"]
    parts += [rf"\input{{{name}}}" for name in ("paper", *(table.key for table in tables))]
    return "\n".join([*parts, r"\end{document}", ""])
