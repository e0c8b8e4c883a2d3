"""The ledger of a labelling project: one JSON line per event, in order.

The ledger is the project's only state: who has which case, which versions exist and what each of them changed is read
from it. It is also readable by people.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from amos_fl.errors import AmosError
from amos_fl.files import write_text

Role = Literal["junior", "senior"]
Variant = Literal["none", "windows", "mirror"]
"""How a network predicts a second time, to see where it is unsure: with shifted windows, or with mirrored ones."""


def now() -> datetime:
    """The current time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


class _LedgerRecord(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")


class MemberRecord(_LedgerRecord):
    """One network that pre-labels: the folder of its run (or model), its round, and the hash of its weights."""

    name: str
    source: Path
    round: int
    weights_sha256: str


class Need(_LedgerRecord):
    """Why a pre-label is expected to need correction. Each part is a fraction of the organs, from 0 to 1."""

    disagreement: float
    implausible: float
    broken: float
    reasons: tuple[str, ...] = ()

    @property
    def score(self) -> float:
        """The sum of the parts, from 0 to 3."""
        return self.disagreement + self.implausible + self.broken


class OrganChange(_LedgerRecord):
    """The change of one organ: scores of the map before against the map after, and volumes in ml.

    `changed_ml` is the volume of all voxels that were added or removed. DSC and NSD are None if neither map has the
    organ.
    """

    dsc: float | None
    nsd: float | None
    before_ml: float
    after_ml: float
    changed_ml: float


class _Event(_LedgerRecord):
    time: datetime = Field(default_factory=now)


class RoundBegun(_Event):
    """A round of pre-labels: the networks that make them, and how a single one predicts a second time."""

    event: Literal["round begun"] = "round begun"
    round: int
    members: tuple[MemberRecord, ...]
    variant: Variant


class PreLabelled(_Event):
    """A pre-label as it was made, and its need of correction. Older ledgers lack `scan_sha256`."""

    event: Literal["pre-labelled"] = "pre-labelled"
    round: int
    case: str
    sha256: str
    need: Need
    scan_sha256: str = ""


class HandedOut(_Event):
    """A case handed to a person: the working copy as written, from the pre-label and earlier versions."""

    event: Literal["handed out"] = "handed out"
    round: int
    case: str
    by: str
    role: Role
    versions: int
    sha256: str


class Released(_Event):
    """A case given back; changes in its working copy stay there."""

    event: Literal["given back"] = "given back"
    case: str
    by: str


class Imported(_Event):
    """A person's correction of `organs`, kept as a version of the case.

    `change` is measured against the person's starting point, `from_prelabel` against the pre-label of `round`.
    `minutes` are those between hand-out and import (not all of them work), None without a hand-out.
    """

    event: Literal["imported"] = "imported"
    round: int
    case: str
    version: int
    by: str
    role: Role
    organs: tuple[int, ...]
    file: str
    sha256: str
    began_from: str
    change: dict[int, OrganChange]
    from_prelabel: dict[int, OrganChange]
    not_used: tuple[int, ...] = ()
    minutes: float | None = None
    comment: str = ""


class RetrainBegun(_Event):
    """The enlarged set of a round is written, and training on it begins."""

    event: Literal["retraining begun"] = "retraining begun"
    round: int
    cases: tuple[str, ...]
    runs: tuple[Path, ...]


class Retrained(_Event):
    """All training runs of a round have finished; the next round begins with their networks."""

    event: Literal["retrained"] = "retrained"
    round: int
    runs: tuple[Path, ...]


ProjectEvent = RoundBegun | PreLabelled | HandedOut | Released | Imported | RetrainBegun | Retrained
_EVENT: TypeAdapter[ProjectEvent] = TypeAdapter(Annotated[ProjectEvent, Field(discriminator="event")])


def read_events(path: Path) -> list[ProjectEvent]:
    """The events of a ledger, in order.

    Raises:
        AmosError: a line that is not an event.
    """
    if not path.is_file():
        return []
    events: list[ProjectEvent] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            events.append(_EVENT.validate_json(line))
        except ValidationError:
            raise AmosError(
                f"{path}, line {number}: is not an event of this version of amos-fl; restore the file from a copy"
            ) from None
    return events


def append_events(path: Path, events: Iterable[ProjectEvent]) -> None:
    """Append events, rewriting the whole file. Only one process may do so at a time (`Project.locked`)."""
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = [json.dumps(_plain(event), ensure_ascii=False) for event in events]
    write_text(path, before + "".join(line + "\n" for line in lines))


def _plain(event: ProjectEvent) -> dict[str, object]:
    """The event with its name and time first, for people to read."""
    values = event.model_dump(mode="json")
    return {"time": values.pop("time"), "event": values.pop("event"), **values}
