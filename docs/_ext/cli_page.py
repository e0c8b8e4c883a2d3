"""The commands of `amos-fl` as Markdown, walked from the program itself, so that page and `--help` cannot differ."""

from collections.abc import Iterator
from typing import Any

import click
import typer.main
from sphinx.util import logging

from amos_fl.cli.main import app

log = logging.getLogger(__name__)
IN_WORDS = {"text": "TEXT", "integer": "N", "integer range": "N", "float": "X", "float range": "X", "path": "PATH"}


def lines() -> Iterator[str]:
    """A section for every command and group, with its arguments and options."""
    yield from sections(typer.main.get_command(app), "amos-fl")


def sections(command: Any, name: str) -> Iterator[str]:
    help_text = (command.help or "").strip()
    if not help_text:
        log.warning("the command %s has no help", name, type="amos_fl", subtype="cli")
    context = click.Context(command, info_name=name)
    shown = [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    names = command.list_commands(context) if isinstance(command, click.Group) else []
    if name != "amos-fl":
        yield f"## {name}"
    yield from ("", f"```{{program}} {name}", "```", "", _plain(help_text), "")
    usage = [name, *command.collect_usage_pieces(context)]
    yield from ("```text", " ".join(usage), "```", "")
    for parameter in shown:
        yield from _parameter(parameter, name, context)
    for child in names:
        _, inner, _ = command.resolve_command(context, [child])
        if inner is not None and not inner.hidden:
            yield from sections(inner, f"{name} {child}")


def _parameter(parameter: Any, command: str, context: click.Context) -> Iterator[str]:
    text = getattr(parameter, "help", None) or ""
    is_option = parameter.param_type_name == "option"
    label = ", ".join([*parameter.opts, *parameter.secondary_opts]) if is_option else _metavar(parameter, context)
    if not text:
        log.warning("%s of %s has no help", label, command, type="amos_fl", subtype="cli")
    if is_option and not parameter.is_flag:
        label += f" {_metavar(parameter, context)}"
    further = []
    if parameter.required and is_option:
        further.append("Required.")
    if "default:" not in text.lower() and (default := _default(parameter)):
        further.append(f"Default: `{default}`.")
    if is_option and parameter.multiple:
        further.append("May be given several times.")
    if getattr(parameter, "envvar", None):
        further.append(f"Taken from the variable `{parameter.envvar}` where it is not given.")
    said = " ".join([_plain(text), *further])
    yield from (f":::{{option}} {label}", said, ":::", "") if is_option else (f"`{label}`", f": {said}", "")


def _metavar(parameter: Any, context: click.Context) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    if isinstance(parameter.type, click.Choice):
        return "|".join(map(str, parameter.type.choices))
    if parameter.param_type_name == "argument":
        return parameter.name.upper()
    return IN_WORDS.get(parameter.type.name, parameter.type.name.upper())


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or value == "" or callable(value) or isinstance(value, list | tuple):
        return ""
    if isinstance(value, bool):
        return (parameter.opts if value else parameter.secondary_opts or [""])[0]
    return str(value)


def _plain(text: str) -> str:
    """Help as Markdown: signs that have a meaning there stand for themselves."""
    text = " ".join(text.split()) if "\n\n" not in text else text
    return "".join(f"\\{sign}" if sign in "*_<>[]|" else sign for sign in text)
