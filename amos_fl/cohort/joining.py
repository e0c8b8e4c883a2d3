"""Join several cohorts into one, so that sites that annotated different organs form one federation."""

from collections import Counter
from collections.abc import Sequence

from amos_fl.cohort.organ_names import difference_in_words, same_organs
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError


def shared_patients(cohorts: Sequence[tuple[str, Cohort]]) -> list[str]:
    """The names of patients that several of the cohorts have."""
    found = Counter(name for _, cohort in cohorts for name in {case.patient for case in cohort.cases if case.patient})
    return sorted(name for name, number in found.items() if number > 1)


def joined(cohorts: Sequence[tuple[str, Cohort]]) -> Cohort:
    """Join cohorts (by name) with the same organs; sites and patients of the same name become one.

    Organs may be spelled differently; the first cohort's spelling counts.

    Raises:
        AmosError: different organs, or a case in two cohorts.
    """
    (first, begin), *rest = cohorts
    owners = {case.case: first for case in begin.cases}
    cases = list(begin.cases)
    for name, cohort in rest:
        if not same_organs(cohort.organs, begin.organs):
            differ = difference_in_words(cohort.organs, begin.organs, ("there", f"in {first}"))
            raise AmosError(
                f"{name}: has other organs than {first}{f': {differ}' if differ else ''}; give both the same with "
                "'amos-fl data relabel ... --label-map'"
            )
        if twice := next((case.case for case in cohort.cases if case.case in owners), None):
            raise AmosError(f"{name}: case {twice} is in {owners[twice]} too; case names must be unique")
        owners |= {case.case: name for case in cohort.cases}
        cases += cohort.cases
    return Cohort(tuple(cases), begin.organs)
