"""Group the compared cases by patient, because several scans of one patient must not count as several patients."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from amos_fl.errors import AmosError
from amos_fl.runs.record import RunRecord
from amos_fl.wording import counted

_T = TypeVar("_T")


def patients_of(records: Sequence[RunRecord]) -> dict[str, str]:
    """The patient of each test case, if the cohort of any run names one.

    Raises:
        AmosError: two runs name different patients for one case.
    """
    found: dict[str, tuple[str, str]] = {}
    for record in records:
        for case in record.cohort.of(split="test"):
            if not case.patient:
                continue
            patient, first = found.setdefault(case.case, (case.patient, record.name))
            if patient != case.patient:
                raise AmosError(
                    f"{record.name}: case {case.case} is of patient {case.patient}, and of {patient} in {first}; "
                    "compare runs on one cohort"
                )
    return {case: patient for case, (patient, _) in found.items()}


def units_of(patients: Sequence[str]) -> Int[np.ndarray, " case"] | None:
    """The number of each case's patient, in the order of their first cases; None if no patient has two cases.

    A case without a named patient ("") counts as its own patient.

    >>> units_of(["p1", "", "p1", "", "p2"]).tolist(), units_of(["p1", "", "p2"])
    ([0, 1, 0, 2, 3], None)
    """
    numbers: dict[str | int, int] = {}
    units = [numbers.setdefault(patient or place, len(numbers)) for place, patient in enumerate(patients)]
    return None if len(numbers) == len(units) else np.array(units)


def of_first_cases(units: Int[np.ndarray, " case"] | None, values: Sequence[_T]) -> list[_T]:
    """The values of each patient's first case, such as the site that a patient belongs to."""
    if units is None:
        return list(values)
    return [values[int(place)] for place in np.unique(units, return_index=True)[1]]


def patients_in_words(cases: Sequence[str], patients: Mapping[str, str], least: int) -> str:
    """A sentence on what the comparison treats as independent: cases or patients."""
    named = [case for case in cases if case in patients]
    if not named:
        return (
            "Cases are taken as patients: the cohort does not say which are of one. Below "
            f"{least} cases there is no interval and no p."
        )
    number = len({patients[case] for case in named}) + len(cases) - len(named)
    unnamed = f" ({counted(len(cases) - len(named), 'case')} without a name as a patient each)"
    return (
        f"The {counted(len(cases), 'case')} are of {counted(number, 'patient')}, as the cohort says"
        f"{unnamed if len(named) < len(cases) else ''}: the bootstrap draws patients, and the test exchanges the "
        f"scores of patients, each with all their scans. Below {least} patients there is no interval and no p."
    )
