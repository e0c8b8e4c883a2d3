"""The organs that a run learns: those that a training case annotated, or that its initial weights had learned.

Every other organ has an untrained channel: the loss treats it and background as one class, so its probability alone
means nothing and is added to the background's in every prediction.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from amos_fl.cohort.table import Case, Cohort
from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.runs.folder import RunFolder

LEARNED = "learned.json"


@dataclass(frozen=True)
class Learned:
    """The label values of the learned organs, and how they are known if the run did not record them."""

    organs: tuple[int, ...]
    note: str = ""


def annotated_for_training(cases: Iterable[Case]) -> tuple[int, ...]:
    """The label values that at least one labelled training case annotates, in ascending order."""
    return tuple(sorted({o for case in cases if case.split == "train" and case.label for o in case.annotated}))


def channels_unlearned(organs: Iterable[int], learned: Collection[int] | None) -> tuple[int, ...]:
    """The channels (1 and up) of organs that were not learned; none if `learned` is None (all were).

    >>> channels_unlearned([1, 2, 6], [1, 6]), channels_unlearned([1, 2], None)
    ((2,), ())
    """
    if learned is None:
        return ()
    return tuple(channel for channel, organ in enumerate(organs, start=1) if organ not in learned)


def names_unlearned(organs: Mapping[int, str], learned: Collection[int]) -> tuple[str, ...]:
    """The names of the organs that were not learned."""
    return tuple(name for organ, name in organs.items() if organ not in learned)


def write_learned(folder: RunFolder, organs: Mapping[int, str], learned: Collection[int]) -> None:
    """Record in a run folder the organs learned so far."""
    about = {
        "learned": sorted(learned),
        "not_learned": {str(organ): name for organ, name in organs.items() if organ not in learned},
    }
    write_json(folder.path / LEARNED, about)


def recorded_organs(folder: RunFolder) -> tuple[int, ...] | None:
    """The organs that `write_learned` recorded; None if there is no record.

    Raises:
        AmosError: the file is damaged.
    """
    file = folder.path / LEARNED
    if not file.is_file():
        return None
    try:
        return tuple(sorted(int(organ) for organ in json.loads(file.read_text(encoding="utf-8"))["learned"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise AmosError(
            f"{file}: is damaged; remove it, then the organs that were learned are worked out from cohort.csv"
        ) from None


def learned_in(folder: RunFolder, cohort: Cohort) -> Learned:
    """The organs that a run has learned: as recorded, or otherwise from its cohort's training cases.

    Raises:
        AmosError: `learned.json` is damaged.
    """
    recorded = recorded_organs(folder)
    if recorded is not None:
        return Learned(recorded)
    if folder.about().start_sha256 is not None:
        return Learned(
            tuple(cohort.organs),
            "this run began with other weights before runs wrote down which organs they learned: all count as learned",
        )
    found = annotated_for_training(cohort.cases)
    if not found:
        return Learned(tuple(cohort.organs), "its cohort has no training case: all organs count as learned")
    return Learned(found, "which organs were learned is worked out from the training cases of its cohort.csv")


def not_learned_in_words(names: Sequence[str]) -> str:
    """The sentence about organs that a network has not learned.

    >>> not_learned_in_words(["aorta"])
    'not learned, because no training case annotates it: aorta; a prediction has background there'
    """
    them = "it" if len(names) == 1 else "them"
    return (
        f"not learned, because no training case annotates {them}: {', '.join(names)}; a prediction has background there"
    )
