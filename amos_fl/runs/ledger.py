"""The ledger of a run, `ledger.jsonl`: one line per finished round, which is appended and never written again."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from amos_fl.errors import AmosError
from amos_fl.runs.stored import MOST_BYTES, checked, json_line, read_lines
from amos_fl.strict_json import parsed

_Count = Annotated[int, Field(ge=0, le=10**15)]
_Seconds = Annotated[float, Field(ge=0, le=10**10, allow_inf_nan=False)]
_Text = Annotated[str, Field(max_length=10_000)]
_Loss = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A mean loss; over no steps it is NaN, which JSON writes as null."""
# Extra fields of a newer version are kept when a ledger is rewritten.
_CONFIG = ConfigDict(strict=True, extra="allow")


@with_config(_CONFIG)
class SiteEntry(TypedDict):
    """What a site did in a round. An older ledger has no fingerprint of its update.

    `restarted` is there where the site has lost what it keeps between rounds and began again without it, and says why.
    `share` is what its update counts in the weights, of 1: 0 where it was left out; not there where nobody says.
    `second_steps` are those of its second model, where the method leaves it one.
    """

    cases: _Count
    steps: _Count
    second_steps: NotRequired[_Count]
    loss: _Loss
    seconds: _Seconds
    bytes_down: _Count
    bytes_up: _Count
    update_fingerprint: NotRequired[_Text | None]
    restarted: NotRequired[_Text]
    share: NotRequired[Annotated[float, Field(ge=0, le=1)]]


def steps_taken(did: SiteEntry) -> int:
    """The optimizer steps that a site took in a round, those of a second model among them."""
    return did["steps"] + did.get("second_steps", 0)


@with_config(_CONFIG)
class LedgerEntry(TypedDict):
    """A finished round: who trained, who was missing and why, and the hash of the weights after it.

    `asked` are all sites that were asked (not in an older ledger), `sites` those that answered; a strategy may have
    left some of them out of the weights, with a share of 0. `changes` are settings, cases and scans that were changed
    before this round, on request.
    """

    round: Annotated[int, Field(ge=1, le=10**9)]
    asked: NotRequired[list[_Text]]
    sites: dict[str, SiteEntry]
    missing: dict[str, _Text]
    loss: _Loss
    seconds: _Seconds
    bytes_down: _Count
    bytes_up: _Count
    weights_sha256: _Text
    changes: NotRequired[list[_Text]]


def sites_in_weights(entry: LedgerEntry) -> list[str]:
    """The sites whose updates are in a round's weights."""
    return [site for site, about in entry["sites"].items() if about.get("share") != 0]


def _of_an_older_version(entry: Any) -> Any:
    """An entry completed with fields that older ledgers lack."""
    if not isinstance(entry, dict):
        return entry
    more = {"missing": {}, "loss": None, "seconds": 0.0, "bytes_down": 0, "bytes_up": 0}
    sites = entry.get("sites")
    if isinstance(sites, dict):
        of_site = {key: value for key, value in more.items() if key != "missing"}
        sites = {name: {**of_site, **about} if isinstance(about, dict) else about for name, about in sites.items()}
    return {**more, **entry, **({"sites": sites} if "sites" in entry else {})}


ENTRY: TypeAdapter[LedgerEntry] = TypeAdapter(Annotated[LedgerEntry, BeforeValidator(_of_an_older_version)])
ENTRIES: TypeAdapter[list[LedgerEntry]] = TypeAdapter(
    list[Annotated[LedgerEntry, BeforeValidator(_of_an_older_version)]]
)


def entries_in(file: Path, remedy: str, *, growing: bool = False) -> Iterator[LedgerEntry]:
    """Yield the rounds in a `ledger.jsonl` one at a time, from the first on; none if there is no file.

    In one that is `growing` a last line without its end is left out: it is being written, or a kill has cut it off.

    Raises:
        AmosError: a line of it is damaged, or a round is missing.
    """
    if not file.exists():
        return
    for number, line in enumerate(read_lines(file, remedy), start=1):
        if growing and not line.endswith(b"\n"):
            return
        # As it was written before NaN became null.
        text = line.replace(b": NaN", b": null")
        entry: LedgerEntry = checked(text, ENTRY, f"{file}, line {number}", remedy)
        if entry["round"] != number:
            raise _out_of_place(number, str(file), remedy)
        yield entry


def glance_at_ledger(file: Path, *, growing: bool) -> tuple[int, float, int]:
    """The last round, its seconds, and the number of rounds with a site missing; zeros before the first one.

    For lists of many runs, like `entries_in` and not validated: a damaged line is any error of Python's.
    """
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    lines = (text[: text.rfind("\n") + 1] if growing else text).splitlines()
    if not lines:
        return 0, 0.0, 0
    last = parsed(lines[-1].replace(": NaN", ": null"), most_bytes=MOST_BYTES)
    # The fast reader, for thousands of lines: what only the strict one refuses changes a count and nothing else.
    return int(last["round"]), float(last["seconds"]), sum(bool(json.loads(line)["missing"]) for line in lines)


def in_sequence(entries: list[LedgerEntry], source: str, remedy: str) -> list[LedgerEntry]:
    """The entries, checked to be consecutive rounds from the first on.

    Raises:
        AmosError: they do not.
    """
    for number, entry in enumerate(entries, start=1):
        if entry["round"] != number:
            raise _out_of_place(number, source, remedy)
    return entries


def _out_of_place(number: int, source: str, remedy: str) -> AmosError:
    return AmosError(f"{source}: cannot be read (round {number} is not where it should be); {remedy}")


def ledger_text(entries: Iterable[LedgerEntry]) -> str:
    """The content of a `ledger.jsonl`."""
    return "".join(json_line(entry) + "\n" for entry in entries)
