"""What is wrong with data that do not fit a pydantic model, in the same words whoever gave them."""

import re
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic.fields import FieldInfo

from amos_fl.errors import AmosError
from amos_fl.wording import either, limits, must_be, nearest

MOST_SHOWN = 60
"""The most characters of a key or of a wrong value that an error repeats."""
BOUNDS = ("ge", "gt", "le", "lt")
_NUMBERS = {
    *("int_type", "int_parsing", "int_from_float", "float_type", "float_parsing", "finite_number"),
    *("greater_than", "greater_than_equal", "less_than", "less_than_equal"),
}
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not known",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must hold 'name: value' pairs",
    "model_type": "must hold 'name: value' pairs",
    "model_attributes_type": "must hold 'name: value' pairs",
}
_OF_THE_CODE = re.compile(r" or instance of \w+")


def what_is_wrong(error: ValidationError, model: Any = None, *, shows: Literal["nothing", "keys"] = "nothing") -> str:
    """The first error of data that do not fit a model, or another type.

    Names and values come from the sender and are not repeated: a key that is not the model's is shown as `*`. With
    `shows="keys"` keys are repeated, though not values.

    >>> class Small(BaseModel):
    ...     counts: dict[str, int]
    >>> try:
    ...     Small.model_validate({"counts": {"<script>": "many"}})
    ... except ValidationError as error:
    ...     what_is_wrong(error, Small)
    'counts.*: must be a whole number'
    """
    first = _first(error)
    known = _names_in(model) if shows == "nothing" else None
    parts = [str(part)[:MOST_SHOWN] if known is None or part in known else "*" for part in first["loc"]]
    return ": ".join(filter(None, [".".join(parts), _in_words(first, model)]))


def wrong_setting(
    error: ValidationError, model: type[BaseModel], source: str = "", *, meant: Callable[[str], str] | None = None
) -> AmosError:
    """The first error of a user's own settings from `source`, with the wrong value and the names that there are.

    `meant` gives the remedy for a name that is not known, where listing all names would not help.

    >>> from pydantic import Field
    >>> class Small(BaseModel, extra="forbid"):
    ...     rounds: int = Field(ge=1, le=1_000_000)
    >>> for given in {"rounds": 0}, {"rounds": 1, "round": 5}, {}:
    ...     try:
    ...         Small.model_validate(given)
    ...     except ValidationError as error:
    ...         print(wrong_setting(error, Small, "a.yaml"))
    a.yaml: rounds is 0: must be a whole number, at least 1 and at most 1,000,000
    a.yaml: no setting 'round'; did you mean 'rounds'?
    a.yaml: rounds: is missing
    """
    first = _first(error)
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden" and key in setting_keys(model):  # its dot is in a file's key
        section, _, last = key.rpartition(".")
        what, remedy = f"no setting {key!r} with a dot in its name", f"write it as {section}: {{{last}: ...}}"
    elif first["type"] == "extra_forbidden":
        what, remedy = f"no setting {key!r}", meant(key) if meant else nearest(key, setting_keys(model))
    elif not key or first["type"] == "missing":
        what, remedy = ": ".join(filter(None, [key, _in_words(first, model)])), ""
    else:
        shown = "the given mapping" if isinstance(first["input"], dict) else repr(first["input"])
        shown = shown if len(shown) <= MOST_SHOWN else f"{shown[:MOST_SHOWN]}..."
        what, remedy = f"{key} is {shown}: {_in_words(first, model)}", ""
    return AmosError(": ".join(filter(None, [source, what])), remedy)


def setting_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The names of a model's fields, and by dotted key those of the models within it."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += setting_keys(field.annotation, f"{prefix}{name}.")
    return keys


def requirement(annotation: Any) -> str:
    """What a value of this type must be, with its bounds; empty where its type does not say it plainly.

    >>> from pydantic import Field
    >>> requirement(Annotated[float | None, Field(ge=0, lt=1)]), requirement(Literal["a", "b"])
    ('must be a number, at least 0 and below 1', 'choose a or b')
    """
    kind, rules = _plain(annotation)
    if kind in (int, float):
        return must_be(kind, limits_of(rules))
    return f"choose {either(get_args(kind))}" if get_origin(kind) is Literal else ""


def limits_of(rules: list[Any]) -> str:
    """The bounds that a field's metadata give a number, in words."""
    return limits(**{name: getattr(rule, name) for rule in rules for name in BOUNDS if hasattr(rule, name)})


def _first(error: ValidationError) -> Any:
    return error.errors(include_url=False)[0]


def _in_words(first: Any, model: Any) -> str:
    """What a value must be, without its name."""
    kind, context = first["type"], first.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in _NUMBERS or kind == "literal_error":
        if known := requirement(_at(model, first["loc"])):
            return known
        if kind == "literal_error":
            return f"choose {context['expected']!s}"
        return must_be(int if kind.startswith("int") else float, limits(**{n: context.get(n) for n in BOUNDS}))
    if kind in _WORDS:
        return _WORDS[kind]
    said = _OF_THE_CODE.sub("", str(first["msg"])).replace("Input should ", "must ", 1)
    return f"{said[0].lower()}{said[1:]}" if said[1:2].islower() else said


def _plain(annotation: Any) -> tuple[Any, list[Any]]:
    """A type without `Annotated` and None, and its metadata."""
    rules: list[Any] = []
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            rules += [rule for one in more for rule in (one.metadata if isinstance(one, FieldInfo) else [one])]
        elif get_origin(annotation) in (Union, UnionType):
            kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
            if len(kinds) != 1:
                return annotation, rules
            [annotation] = kinds
        else:
            return annotation, rules


def _at(annotation: Any, place: tuple[int | str, ...]) -> Any:
    """The type at a place within a model; None where that cannot be told."""
    for part in place:
        kind, _ = _plain(annotation)
        inside = get_args(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = {field.alias or name: field for name, field in kind.model_fields.items()}
            field = kind.model_fields.get(str(part)) or fields.get(str(part))
            annotation = None if field is None else Annotated[(field.annotation, None, *field.metadata)]  # pyright: ignore[reportInvalidTypeForm]
        elif get_origin(kind) in (Union, UnionType):
            tagged = (
                one for one in inside if any(isinstance(rule, Tag) and rule.tag == part for rule in _plain(one)[1])
            )
            annotation = next(tagged, None)
        elif get_origin(kind) is tuple and isinstance(part, int):
            annotation = inside[0] if inside[-1] is Ellipsis else inside[part] if part < len(inside) else None
        else:
            annotation = inside[-1] if inside else None
    return annotation


def _names_in(model: Any) -> set[str]:
    """The names of a model's fields and of the models within it."""
    seen: set[type] = set()
    names: set[str] = set()
    kinds: list[Any] = [model]
    while kinds:
        kind = kinds.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
            seen.add(kind)
            for name, field in kind.model_fields.items():
                names |= {name, field.alias or name}
                kinds.append(field.annotation)
        else:
            kinds.extend(getattr(kind, "__args__", ()))
    return names
