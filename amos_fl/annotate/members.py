"""The networks that pre-label a round: one, or several as an ensemble."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amos_fl.annotate.ledger import MemberRecord
from amos_fl.cohort.organ_names import organ_key
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.runs.model import Model, read_model


@dataclass(frozen=True)
class NamedModel:
    """A network and its name in this project."""

    name: str
    source: Path
    model: Model

    def record(self) -> MemberRecord:
        return MemberRecord(
            name=self.name,
            source=self.source.resolve(),
            round=self.model.round,
            weights_sha256=self.model.weights_sha256(),
        )


def read_member(text: str, cohort: Cohort) -> NamedModel:
    """A network as the user names it: a run folder, a copy of its `model/`, or `RUN@ROUND` for a checkpoint.

    Raises:
        AmosError: no such run or checkpoint, or organs that are not the cohort's.
    """
    source, at, number = text.rpartition("@")
    if not at or not number.isdigit():
        source, number = text, ""
    model = read_model(Path(source))
    name = model.run.path.resolve().name if model.run else Path(source).resolve().name
    if number:
        if model.run is None or int(number) not in model.run.rounds_with_checkpoints():
            kept = ", ".join(map(str, model.run.rounds_with_checkpoints())) if model.run else "none: it is no run"
            raise AmosError(
                f"{text}: no checkpoint of round {number}; there are {kept} (keep_checkpoints: all keeps all)"
            )
        model = replace(model, folder=model.run.checkpoint_folder(int(number)), round=int(number))
        name = f"{name}-round-{number}"
    for label, organ in model.organs.items():
        if organ_key(cohort.organs.get(label, "")) != organ_key(organ):
            raise AmosError(
                f"{text}: draws {organ} as label {label}, which is {cohort.organs.get(label, 'no organ')} in the "
                "cohort; label values and names must agree, see organs.csv beside cohort.csv"
            )
    return NamedModel(name, Path(source), model)


def read_members(names: Sequence[str], cohort: Cohort) -> list[NamedModel]:
    """All networks of a round, with names that differ.

    Raises:
        AmosError: as `read_member`, or the same weights twice.
    """
    members = [read_member(name, cohort) for name in names]
    hashes = [member.model.weights_sha256() for member in members]
    if len(set(hashes)) < len(hashes):
        raise AmosError("two of the networks have the same weights, so they would always agree; name each one once")
    taken = [member.name for member in members]
    return [
        replace(member, name=f"{place}-{member.name}") if taken.count(member.name) > 1 else member
        for place, member in enumerate(members, start=1)
    ]


def recorded_members(records: Sequence[MemberRecord], cohort: Cohort) -> list[NamedModel]:
    """The networks of a round that was begun.

    Raises:
        AmosError: one is missing, or its weights have changed.
    """
    members = []
    for record in records:
        model = read_model(record.source)
        member = read_member(
            str(record.source) if model.round == record.round else f"{record.source}@{record.round}", cohort
        )
        if member.model.weights_sha256() != record.weights_sha256:
            raise AmosError(
                f"{record.source}: has other weights than when this round began; put them back, or begin another "
                "round with --new-round"
            )
        members.append(replace(member, name=record.name))
    return members
