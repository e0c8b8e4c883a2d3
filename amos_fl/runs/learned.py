"""Which organs a run learns: those that a training case annotated, or that the weights it began with had learned.

Every other organ has a channel that no training case has taught: the loss takes it and the background for one class,
so its probability means nothing by itself and is added to the background's wherever a scan is predicted.
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
    """The label values of the organs that were learned, and how that is known where the run did not write it down."""

    organs: tuple[int, ...]
    note: str = ""


def annotated_for_training(cases: Iterable[Case]) -> tuple[int, ...]:
    """The label values that at least one labelled training case annotates, in ascending order."""
    return tuple(sorted({o for case in cases if case.split == "train" and case.label for o in case.annotated}))


def channels_unlearned(organs: Iterable[int], learned: Collection[int] | None) -> tuple[int, ...]:
    """The channels (1 and up) of organs that were not learned; none where `learned` is None: all were.

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
    """Write down in a run folder which organs were learned up to now."""
    about = {
        "learned": sorted(learned),
        "not_learned": {str(organ): name for organ, name in organs.items() if organ not in learned},
    }
    write_json(folder.path / LEARNED, about)


def recorded_organs(folder: RunFolder) -> tuple[int, ...] | None:
    """What `write_learned` wrote; None where there is nothing.

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
    """The organs that a run has learned: as it wrote them down, or else as its cohort's training cases say it.

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
