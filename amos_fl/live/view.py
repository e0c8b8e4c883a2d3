"""What there is to see of work in progress, apart from how it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Bar:
    """How far a piece of work is, and what is said beside it."""

    label: str
    done: int
    total: int
    text: str = ""


@dataclass(frozen=True)
class Chart:
    """Lines over rounds, by name; each a list of (round, value)."""

    title: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Table:
    """Rows of text below a head."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class View:
    """All there is to see at one moment. `over` says that nothing will change any more; `alarms` are said first."""

    title: str
    state: str
    over: bool = False
    notes: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    bars: tuple[Bar, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    lines: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The view for the page."""
        return asdict(self)
