"""What this documentation needs of Sphinx beyond pages: generated references, and faults where something is missing.

Pages hold a comment `<!-- generated: NAME -->` where the command line or the settings go, written from the program
itself. A public name without a docstring or a place on the page of the Python API, a command or option without help and
a setting without a description are warnings, which `make docs` takes for errors.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import cast

import cli_page
import settings_page
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import amos_fl

log = logging.getLogger(__name__)
GENERATED: dict[str, Callable[[], Iterator[str]]] = {
    "command line": cli_page.lines,
    "settings": settings_page.lines_of_runs,
    "site settings": settings_page.lines_of_sites,
}
MARK = re.compile(r"<!-- generated: ([a-z ]+) -->")
OUTSIDE = {"../benchmarks/README.md": "benchmarks.md", "../CONTRIBUTING.md": "contributing.md"}
"""Pages that lie elsewhere in the repository and are shown here, too."""
WITHOUT_DOCSTRING = {"__version__"}
NEEDS_DOCSTRING = {"class", "exception", "function"}
MEMBERS = (FunctionType, classmethod, staticmethod, property, cached_property)


def write_generated(app: Sphinx, docname: str, source: list[str]) -> None:
    """Fill in the generated parts of a page, and lead its links to where its neighbours are in this site."""
    text = MARK.sub(lambda found: "\n".join(GENERATED[found[1]]()), source[0])
    for path, page in OUTSIDE.items():
        text = text.replace(f"]({path}", f"]({page}")
    source[0] = text


def lead_included_links(app: Sphinx, path: Path, parent: str, source: list[str]) -> None:
    """The links of a page that is included from elsewhere, as seen from this folder."""
    source[0] = source[0].replace("](docs/", "](").replace("](benchmarks/README.md", "](benchmarks.md")


def require_docstring(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    if what in NEEDS_DOCSTRING and not any(lines):
        log.warning("%s is public and has no docstring", name, type="amos_fl", subtype="docstring")
    if what != "class" or getattr(thing, "_is_protocol", False):  # its members are described where they are
        return
    for member, value in vars(thing).items():
        if isinstance(value, MEMBERS) and not member.startswith("_") and not inspect.getdoc(getattr(thing, member)):
            log.warning("%s.%s is public and has no docstring", name, member, type="amos_fl", subtype="docstring")


def readable_signature(
    app: Sphinx, what: str, name: str, thing: object, options: object, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """A model of settings has its fields on the page of settings, not in a signature of twenty keywords.

    A default that a factory makes is written in a way that Sphinx can parse; else it shows the signature as plain text.
    """
    if what == "class" and issubclass(cast(type, thing), BaseModel):
        return "", None
    return (signature.replace("<factory>", "..."), returns) if signature else None


def require_public_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Every name of `amos_fl.__all__` is on a page and says what it is."""
    documented = env.domains.python_domain.objects
    for name in amos_fl.__all__:
        if f"amos_fl.{name}" not in documented:
            log.warning("amos_fl.%s is public and on no page; add it to docs/api.md", name, type="amos_fl")
        if name not in WITHOUT_DOCSTRING and not inspect.getdoc(getattr(amos_fl, name)):
            log.warning("amos_fl.%s is public and has no docstring", name, type="amos_fl", subtype="docstring")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_object_type("setting", "setting", indextemplate="single: %s (setting)", objname="setting")
    app.add_object_type(
        "site-setting", "site-setting", indextemplate="single: %s (setting of a site)", objname="setting of a site"
    )
    app.connect("source-read", write_generated)
    app.connect("include-read", lead_included_links)
    app.connect("autodoc-process-docstring", require_docstring)
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("env-check-consistency", require_public_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
