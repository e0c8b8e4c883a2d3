"""Matplotlib's figures as SVG for a web page, where they follow its colours and fonts and can be read aloud.

Beside a page they are files, too: SVG and PDF, complete in themselves, in the colours for a light background.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.colors import is_color_like, to_hex
from matplotlib.figure import Figure

from amos_fl.files import whole_file
from amos_fl.report.palette import INK, MUTED, RULE, TINTS

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "amos-fl",
    "text.parse_math": False,  # a site may be called $A$
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12,
}
_VARIABLES = {tint.stand_in: f"var(--{tint.name})" for tint in TINTS}
_STAND_IN = re.compile("|".join(_VARIABLES))
_FONT = re.compile(r"font: (?:(bold|[1-9]00) )?([\d.]+)px [^;]*")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


_LIGHT = {tint.stand_in: tint.light for tint in TINTS}
# Letters as outlines in SVG and as TrueType in PDF: neither needs a font of the reader's.
_AS_FILES: dict[Any, Any] = {**_STYLE, "svg.fonttype": "path", "pdf.fonttype": 42, "savefig.facecolor": "white"}


class Drawing(Markup):
    """An inline SVG element; `file` is the address of its files beside the page, without suffix, or empty."""

    file: str = ""


@dataclass(frozen=True)
class _Files:
    folder: Path
    address: str


_KEPT: ContextVar[_Files | None] = ContextVar("files of figures", default=None)


@contextmanager
def figures_as_files(page: Path, folder: str = "") -> Iterator[None]:
    """Within it, every figure is also written as SVG and PDF into a folder beside a page; others are removed there."""
    files = _Files(page.parent / folder, f"{folder}/" if folder else "")
    if folder:
        for old in [*files.folder.glob("*.svg"), *files.folder.glob("*.pdf")]:
            old.unlink()
    token = _KEPT.set(files)
    try:
        yield
    finally:
        _KEPT.reset(token)


@contextmanager
def page_style() -> Iterator[None]:
    """Matplotlib's settings within which figures are made and written."""
    with mpl.rc_context(_STYLE):
        yield


def to_svg(figure: Figure, name: str, title: str, description: str) -> Drawing:
    """A figure as an inline SVG element.

    `name` is unique on the page and the prefix of all ids. Screen readers read `title` and `description` in its place.
    The same figure gives the same text.
    """
    written = io.StringIO()
    with page_style():
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(written.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _adapted(_local(key), value, name) for key, value in element.attrib.items()}
    width, height = (float(size) for size in root.attrib["viewBox"].split()[2:])
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": f"{width * 4 / 3:.0f}",  # points to the page's pixels
        "height": f"{height * 4 / 3:.0f}",
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
    }
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, id=f"{name}-{tag}")
        element.text = text
        root.insert(place, element)
    drawing = Drawing(ElementTree.tostring(root, encoding="unicode"))
    if (files := _KEPT.get()) is not None:
        _write(figure, files.folder / name, title)
        drawing.file = files.address + name
    return drawing


def _write(figure: Figure, path: Path, title: str) -> None:
    """Write a figure as `path`.svg and `path`.pdf; the same figure gives the same files."""
    for artist in figure.findobj():
        for part in ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor"):
            if (colour := _LIGHT.get(_one_colour(artist, part))) is not None:
                getattr(artist, f"set_{part}")(colour)
    figure.set_layout_engine("none")  # as it is laid out on the page
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with mpl.rc_context(_AS_FILES):
        for kind, metadata in undated.items():
            with whole_file(path.with_name(f"{path.name}.{kind}")) as beside:
                figure.savefig(beside, format=kind, metadata={"Title": title, "Creator": "amos-fl", **metadata})


def _one_colour(artist: Any, part: str) -> str:
    """The colour of a part of an artist, without opacity; empty if it has none, or many."""
    found = getattr(artist, f"get_{part}", lambda: None)()
    if isinstance(found, np.ndarray) and found.ndim == 2:
        found = found[0] if len(found) == 1 else None
    return to_hex(cast(Any, found)) if is_color_like(found) else ""


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _adapted(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    value = _REFERENCE.sub(rf"url(#{name}-\1)", value)
    if key == "style":
        value = _FONT.sub(lambda found: f"font-size:{found[2]}px;font-weight:{found[1] or 'normal'}", value)
        value = _STAND_IN.sub(lambda found: _VARIABLES[found[0]], value)
    return value
