"""The settings of runs and of sites as Markdown, from their models: key, values, default, description."""

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel
from sphinx.util import logging

from amos_fl.runs.config import RunConfig
from amos_fl_clients.federation.settings import SiteSettings

log = logging.getLogger(__name__)
TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
LIMITS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
BY_NAME = {"plan"}
"""Sections that may be given by a name, too."""


def lines_of_runs() -> Iterator[str]:
    """A section for what stands at the top of a run's `config.yaml`, and one for each of its sections."""
    yield from sections(RunConfig, "setting", "The run")


def lines_of_sites() -> Iterator[str]:
    """The settings of one site."""
    yield from sections(SiteSettings, "site-setting")


def sections(model: type[BaseModel], directive: str, title: str = "") -> Iterator[str]:
    schema = model.model_json_schema()
    inner: dict[str, dict[str, Any]] = {}
    if title:
        yield from (f"## {title}", "")
    for name, field in schema["properties"].items():
        section = _section(field, schema)
        if section:
            inner[name] = {**section, "description": _description(name, {**section, **field})}
        if not section or name in BY_NAME:
            yield from _setting(directive, name, {"type": "string", **field} if section else field)
    for name, section in inner.items():
        yield from (f"## {name}", "", section["description"], "")
        for key, field in section["properties"].items():
            yield from _setting(directive, f"{name}.{key}", field)


def _section(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    name = field.get("$ref", "").rpartition("/")[2]
    return schema["$defs"][name] if name else None


def _setting(directive: str, key: str, field: dict[str, Any]) -> Iterator[str]:
    facts = [_values(field)]
    if "default" in field:
        facts.append(f"default `{_shown(field['default'])}`")
    yield from (f":::{{{directive}}} {key}", _description(key, field), "", f"*{'; '.join(facts)}*", ":::", "")


def _description(key: str, field: dict[str, Any]) -> str:
    text = " ".join(field.get("description", "").split())
    if not text:
        log.warning("the setting %s has no description", key, type="amos_fl", subtype="settings")
    return text


def _values(field: dict[str, Any]) -> str:
    """What a value may be, in words."""
    if "anyOf" in field:
        kinds = list(dict.fromkeys(_values(kind) for kind in field["anyOf"] if kind.get("type") != "null"))
        if "number" in kinds and "whole number" in kinds:
            kinds.remove("whole number")
        return ", ".join(kinds) + (" or `null`" if any(kind.get("type") == "null" for kind in field["anyOf"]) else "")
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "prefixItems" in field:
        return f"{len(field['prefixItems'])} × {_values(field['prefixItems'][0])}"
    if field.get("type") == "array":
        return f"list, each {_values(field['items'])}"
    if field.get("type") == "object":
        return f"names with values, each {_values(field['additionalProperties'])}"
    limits = [f"{words} {field[limit]:g}" for limit, words in LIMITS.items() if limit in field]
    kind = "path" if field.get("format") == "path" else TYPES[field["type"]]
    return ", ".join([kind, " and ".join(limits)] if limits else [kind])


def _shown(value: Any) -> str:
    """A default as it is written in YAML.

    >>> _shown(1 / 3), _shown(True), _shown(None), _shown([-991.0, 362.0])
    ('0.333', 'true', 'null', '[-991.0, 362.0]')
    """
    if isinstance(value, float):
        return f"{value:.3g}"
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
