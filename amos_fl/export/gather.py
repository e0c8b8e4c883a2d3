"""Gather functions and classes, and all of this program that they use, into one file that needs none of it.

An export has to prepare scans exactly as its run did, where amos-fl is not installed. So that there is no second copy
to keep in step, that file is made from this program's own modules when the export is written: definition by
definition, word for word.
"""

import ast
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

_OURS = "amos_fl"
_HEAD = '''"""{what}

Gathered from the modules of amos-fl {version} that its comments name, by `amos-fl export`. Apache License 2.0.
"""

from __future__ import annotations

{imports}

if TYPE_CHECKING:  # not needed to run this file
{types}
'''


@dataclass(frozen=True)
class _Module:
    """A module's top-level definitions: the lines of each by name, and where imported names come from."""

    lines: tuple[str, ...]
    defined: dict[str, tuple[ast.stmt, int, int]] = field(default_factory=dict)
    imported: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    def source(self, name: str) -> str:
        _, first, last = self.defined[name]
        return "\n".join(self.lines[first:last])


@cache
def _module(name: str) -> _Module:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    text = Path(spec.origin or "").read_text(encoding="utf-8")
    found = _Module(tuple(text.splitlines()))
    before: str | None = None
    for statement in ast.parse(text).body:
        first, last = statement.lineno - 1, statement.end_lineno or statement.lineno
        names: list[str] = []
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                found.imported[alias.asname or alias.name] = alias.name, None
        elif isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                found.imported[alias.asname or alias.name] = statement.module or "", alias.name
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
            first = min([first, *(decorator.lineno - 1 for decorator in statement.decorator_list)])
            names = [statement.name]
        elif isinstance(statement, ast.Assign):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names = [statement.target.id]
        elif isinstance(statement, ast.Expr) and before is not None:  # the docstring of a value
            found.defined[before] = (*found.defined[before][:2], last)
        while names and first and found.lines[first - 1].startswith("#"):  # the comment above it
            first -= 1
        found.defined.update(dict.fromkeys(names, (statement, first, last)))
        before = names[0] if names and isinstance(statement, ast.Assign | ast.AnnAssign) else None
    return found


def _names(node: ast.AST, annotations: bool) -> Iterator[str]:
    """The names in a definition that are looked up when it runs, or only those in its annotations."""
    for name, value in ast.iter_fields(node):
        inside = name in ("annotation", "returns")
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.Name) and inside == annotations:
                yield child.id
            if inside and annotations:
                yield from (each.id for each in ast.walk(child) if isinstance(each, ast.Name))
            elif not inside:
                yield from _names(child, annotations)


class _Gathered:
    """What has been found so far: the module of each name, and which modules each module uses."""

    def __init__(self) -> None:
        self.uses: dict[str, set[str]] = {}
        self.taken: dict[str, str] = {}
        self.imports: set[str] = {"from typing import TYPE_CHECKING"}

    def take(self, module: str, name: str) -> None:
        if self.taken.get(name) == module:
            return
        if name in self.taken:
            raise RuntimeError(f"{name} stands in both {module} and {self.taken[name]}; rename one of them")
        self.taken[name] = module
        self.uses.setdefault(module, set())
        source = _module(module)
        for used in _names(source.defined[name][0], annotations=False):
            if used in source.defined:
                self.take(module, used)
            elif used in source.imported:  # what is in neither is the definition's own, or Python's
                place, original = source.imported[used]
                if place.partition(".")[0] != _OURS:
                    self.imports.add(_import(place, original, used))
                elif original != used:
                    raise RuntimeError(f"{module} gives {original} of {place} another name")
                else:
                    self.uses[module].add(place)
                    self.take(place, used)

    def types(self) -> set[str]:
        """Imports of the names that stand in annotations alone."""
        found: set[str] = set()
        for name, module in self.taken.items():
            source = _module(module)
            for used in _names(source.defined[name][0], annotations=True):
                if used in source.imported and used not in self.taken:
                    found.add(_import(*source.imported[used], used))
                elif used in source.defined and used not in self.taken:
                    found.add(_import(module, used, used))
        return found - self.imports


def _import(module: str, name: str | None, known_as: str) -> str:
    last = name or module
    what = known_as if known_as == last else f"{last} as {known_as}"
    return f"import {what}" if name is None else f"from {module} import {what}"


def gathered(roots: Iterable[tuple[str, str]], what: str, version: str) -> str:
    """The text of a module with these definitions, pairs of module and name, and all of ours that they use.

    `what` is the first sentence of its docstring. Imports of other packages stand at its head.

    Raises:
        RuntimeError: two definitions of one name.
    """
    found = _Gathered()
    for module, name in roots:
        found.take(module, name)
    imports = sorted(found.imports, key=lambda line: (line.startswith("from"), line))
    types = sorted(f"    {line}" for line in found.types())
    parts = [_HEAD.format(what=what, version=version, imports="\n".join(imports), types="\n".join(types))]
    for module in TopologicalSorter(found.uses).static_order():
        source = _module(module)
        names = [name for name, place in found.taken.items() if place == module]
        places = sorted({source.defined[name][1]: name for name in names}.items())
        parts.append(f"\n# {module}\n\n\n" + "\n\n\n".join(source.source(name) for _, name in places) + "\n")
    return "\n".join(parts)
