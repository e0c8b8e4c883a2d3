"""Read untrusted YAML with bounds, so that no file takes minutes, gigabytes or overflows the stack.

It is first read event by event, which is flat, counting every alias at its full size; only a text of bounded depth and
size becomes values.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from amos_fl.errors import AmosError

MOST_BYTES = 1 << 20
"""A run's settings are two kilobytes, the largest sweep some ten."""
MOST_DEPTH = 32
MOST_VALUES = 100_000
MOST_DIGITS = 100
_NUMBER = re.compile(r"[-+0-9a-fA-FxXoO_:.]+")
_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml is ten times as fast


class _SetTwice(Exception):  # noqa: N818 - said of a key
    pass


class _Loader(_Fast):
    """A loader that refuses duplicate keys, of which YAML itself takes the last; merged keys may be overridden."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line, first = key.start_mark.line + 1, lines.get(key.value)
                if first is not None:
                    raise _SetTwice(f"{key.value!r} is set on line {first} and again on line {line}")
                lines[key.value] = line
        return super().construct_mapping(node, deep=deep)


class NotYaml(ValueError):  # noqa: N818 - said of a text
    """Why a text is not YAML, and on which line, if known."""

    def __init__(self, why: str, line: int | None = None) -> None:
        super().__init__(why)
        self.line = line

    def of(self, where: Path | str) -> str:
        """The sentence about a text from `where`.

        >>> NotYaml("a tab; indent with spaces", 3).of("run.yaml"), NotYaml("it is nested too deeply").of("run.yaml")
        ('run.yaml, line 3: is not YAML (a tab; indent with spaces)', 'run.yaml: is not YAML (it is nested too deeply)')
        """
        line = "" if self.line is None else f", line {self.line}"
        return f"{where}{line}: is not YAML ({self})"


_PROBLEMS = {
    "mapping values are not allowed": "a second ': ' on a line, or a wrong indentation",
    "cannot start any token": "a tab, or a sign that begins no value; indent with spaces, and quote such a value",
    "did not find expected ',' or ']'": "a [ that is not closed",
    "did not find expected ',' or '}'": "a { that is not closed",
    "unexpected end of stream": "a quotation mark that is not closed",
    "could not find expected ':'": "a line without ': ', where a name and its value were expected",
    "did not find expected key": "a wrong indentation, or a value that must be quoted",
    "did not find expected '-' indicator": "a wrong indentation in a list",
    "control characters are not allowed": "a control character",
}
"""What libyaml says, and what the user sees on that line."""


def _in_words(error: yaml.YAMLError) -> NotYaml:
    """The problem and its line; where something was not closed, the line on which it was opened."""
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read")
    words = next((said for found, said in _PROBLEMS.items() if found in problem), problem)
    opened = getattr(error, "context_mark", None) if words.endswith("not closed") else None
    mark = opened or getattr(error, "problem_mark", None)
    return NotYaml(words, None if mark is None else mark.line + 1)


def parsed_yaml(text: str, where: Path | str) -> Any:
    """The value of a YAML text.

    Raises:
        AmosError: a key that is set twice; the sentence begins with `where`.
        NotYaml: it is not YAML, or too long, too deep, or too large once its aliases are expanded.

    >>> parsed_yaml("a: [1, 2.5, x]", "run.yaml")
    {'a': [1, 2.5, 'x']}
    >>> parsed_yaml("[" * 1000, "run.yaml")
    Traceback (most recent call last):
    amos_fl.safe_yaml.NotYaml: it is nested too deeply
    >>> parsed_yaml("rounds: 10\\nrounds: 1000", "run.yaml")
    Traceback (most recent call last):
    amos_fl.errors.AmosError: run.yaml: 'rounds' is set on line 1 and again on line 2; keep the one that is meant
    """
    if len(text) > MOST_BYTES:
        raise NotYaml(f"it is longer than {MOST_BYTES} characters")
    try:
        _check_size(text)
        return yaml.load(text, _Loader)
    except _SetTwice as error:
        raise AmosError(f"{where}: {error}", "keep the one that is meant") from None
    except yaml.YAMLError as error:
        raise _in_words(error) from None
    except RecursionError:
        raise NotYaml("it is nested too deeply") from None
    except NotYaml:
        raise
    except (ValueError, OverflowError, TypeError, AttributeError, KeyError) as error:  # a date of the year 0, say
        raise NotYaml(f"it holds a value that cannot be read ({error})") from None


def _check_size(text: str) -> None:
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = [(None, 0)]  # of each collection: its anchor, the values in it so far
    for event in yaml.parse(text, _Fast):
        if isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, 1))
            if len(open_) > MOST_DEPTH:
                raise NotYaml("it is nested too deeply")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
        elif isinstance(event, yaml.AliasEvent):
            anchor, size = None, sizes.get(event.anchor, MOST_VALUES)  # of one that is still open: it holds itself
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
            if len(event.value) > MOST_DIGITS and event.implicit[0] and _NUMBER.fullmatch(event.value):
                raise NotYaml("a number is too long")  # one of 60:60:60... takes time with its square
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        outer, before = open_[-1]
        open_[-1] = outer, before + size
        if before + size > MOST_VALUES:
            raise NotYaml("it holds too many values")


def read_yaml_file(path: Path) -> Any:
    """The value of a YAML file; None for an empty one.

    Raises:
        OSError: no such file, or no permission to read it. AmosError, NotYaml: as `parsed_yaml`, or it is not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(MOST_BYTES * 4 + 1)
    try:
        return parsed_yaml(data.decode("utf-8-sig"), path)
    except UnicodeDecodeError:
        raise NotYaml("it is not UTF-8") from None
