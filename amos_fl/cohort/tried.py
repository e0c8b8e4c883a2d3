"""Process the cases of a cohort, collecting the errors of faulty ones."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from amos_fl.cohort.table import Case, OnCase
from amos_fl.errors import AmosError
from amos_fl.workers import each_tried

Result = TypeVar("Result")


def tried_cases(
    work: Callable[[Case], Result], cases: Sequence[Case], *, workers: int = 1, on_case: OnCase | None = None
) -> tuple[list[Result], list[AmosError]]:
    """Apply `work` to each case; returns the results and the errors of cases that failed, both in order.

    `workers` cases are processed at a time.

    Raises:
        WorkerKilled: a worker died.
    """
    found: list[Result] = []
    failed: list[AmosError] = []
    for case, result in zip(cases, each_tried(work, cases, workers=workers), strict=True):
        failed.append(result) if isinstance(result, AmosError) else found.append(result)
        if on_case is not None:
            on_case(len(found) + len(failed), len(cases), case.case)
    return found, failed
