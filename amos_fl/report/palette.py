"""The colours of a report: safe for colour-blind readers, with one value for light and one for dark mode.

Figures are drawn in stand-in colours, which `amos_fl.report.svg` turns into CSS variables; the page gives those their
values. The series are those of Okabe and Ito (2008), darker or lighter where the background needs it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tint:
    """A colour of the page: the name of its CSS variable, and its values on a light and a dark background."""

    name: str
    light: str
    dark: str
    stand_in: str
    """The stand-in colour in which a figure is drawn; no figure uses it otherwise."""


def _tints(*named: tuple[str, str, str]) -> tuple[Tint, ...]:
    return tuple(Tint(name, light, dark, f"#0d0e{index:02x}") for index, (name, light, dark) in enumerate(named))


TINTS = _tints(
    ("ink", "#1c2024", "#e4e8ec"),
    ("muted", "#5a6470", "#a3adb8"),
    ("rule", "#d5dae0", "#3a424b"),
    ("paper", "#ffffff", "#14181d"),
    ("series-1", "#0072b2", "#4aa3df"),
    ("series-2", "#d55e00", "#f2803a"),
    ("series-3", "#008a65", "#2cc79a"),
    ("series-4", "#b8578d", "#e09ac2"),
    ("series-5", "#b37800", "#f0b740"),
    ("series-6", "#2b8fc4", "#93d3ff"),
    ("series-7", "#4c5661", "#c9d1d9"),
    ("series-8", "#8a8000", "#f0e442"),
)
INK, MUTED, RULE, PAPER = (tint.stand_in for tint in TINTS[:4])
SERIES = tuple(tint.stand_in for tint in TINTS[4:])
SEEN, UNSEEN = SERIES[0], SERIES[1]
ORGAN_COLOURS = ("#56b4e9", "#e69f00", "#f0e442", "#cc79a7", "#009e73", "#f2702d", "#5a6cff", "#f2f2f2")
"""Colours of organs on a scan, which is dark on any page: those of Okabe and Ito, lighter where black needs it."""
DASHES = ("", "5 2.5", "1.5 2")
"""Of the lines of the first eight organs, of the next eight, and of all others, so that colour is not all there is."""


def organ_line(place: int) -> tuple[str, str]:
    """The colour and the dashes (SVG, empty: a solid line) of the organ at a place of the cohort's list, from 0 on.

    >>> organ_line(0), organ_line(8)
    (('#56b4e9', ''), ('#56b4e9', '5 2.5'))
    """
    return ORGAN_COLOURS[place % len(ORGAN_COLOURS)], DASHES[min(place // len(ORGAN_COLOURS), len(DASHES) - 1)]


def css_variables(scheme: str) -> str:
    """The declarations of all tints for `light` or `dark`.

    >>> css_variables("dark").split(";")[0]
    '--ink:#e4e8ec'
    """
    return ";".join(f"--{tint.name}:{getattr(tint, scheme)}" for tint in TINTS)
