"""Split labelled cases into train, val and test, by site and patient, as a function of the seed alone."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from amos_fl.cohort.table import Split
from amos_fl.errors import AmosError
from amos_fl.randomness import derived_seed

DEFAULT = "70,10,20"


@dataclass(frozen=True)
class Shares:
    """The relative shares of training, validation and test cases."""

    train: float
    val: float
    test: float

    @classmethod
    def of(cls, text: str) -> "Shares":
        """Parse three numbers such as `70,10,20`.

        Raises:
            AmosError: not three numbers, a negative one, or none for training.
        """
        try:
            train, val, test = (float(word) for word in text.replace(",", " ").split())
        except ValueError:
            raise AmosError(f"--split {text}: give three numbers for train, val and test, such as {DEFAULT}") from None
        if min(train, val, test) < 0 or train <= 0:
            raise AmosError(f"--split {text}: none may be negative, and train must be more than 0")
        return cls(train, val, test)


@dataclass(frozen=True)
class CaseToPlace:
    """A case to be placed: its site, and its patient if known (otherwise the case itself)."""

    case: str
    site: str
    patient: str


def divide(members: Sequence[CaseToPlace], shares: Shares, seed: int) -> dict[str, Split]:
    """The split of every case.

    Each site's patients are put in an order that depends only on the seed and their names; the first go to test, the
    next to val, the others to train. A non-zero share gets at least one patient if the site has three or more, and
    training always has one. A patient with cases at several sites is placed with the first of them.

    >>> cases = [CaseToPlace(f"c{i}", "A", f"c{i}") for i in range(10)]
    >>> sorted(divide(cases, Shares(70, 10, 20), seed=0).values()).count("test")
    2
    """
    home: dict[str, str] = {}
    for member in sorted(members, key=lambda member: (member.site, member.case)):
        home.setdefault(member.patient, member.site)
    at: dict[str, list[str]] = defaultdict(list)
    for patient, site in home.items():
        at[site].append(patient)
    placed: dict[str, Split] = {}
    for patients in at.values():
        ordered = sorted(patients, key=lambda patient: (derived_seed(seed, "split", patient), patient))
        test, val = _numbers(len(ordered), shares)
        for number, patient in enumerate(ordered):
            placed[patient] = "test" if number < test else "val" if number < test + val else "train"
    return {member.case: placed[member.patient] for member in members}


def _numbers(patients: int, shares: Shares) -> tuple[int, int]:
    """How many patients of a site are for test and for val."""
    total = shares.train + shares.val + shares.test
    test, val = (
        max(round(patients * share / total), int(share > 0 and patients >= 3)) for share in (shares.test, shares.val)
    )
    while test + val >= patients and test + val > 0:
        test, val = (test - 1, val) if test > val else (test, val - 1)
    return test, val
