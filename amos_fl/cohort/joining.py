"""Several cohorts as one: sites that annotated different organs in one federation."""

from collections.abc import Sequence

from amos_fl.cohort.organ_names import difference_in_words, same_organs
from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError


def joined(cohorts: Sequence[tuple[str, Cohort]]) -> Cohort:
    """All cases of cohorts (by name) that know the same organs; sites of one name become one site.

    Organs may be spelled differently; the first cohort's spelling counts.

    Raises:
        AmosError: other organs, or a case that two cohorts have.
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
            raise AmosError(f"{name}: case {twice} is in {owners[twice]} too; every case needs a name of its own")
        owners |= {case.case: name for case in cohort.cases}
        cases += cohort.cases
    return Cohort(tuple(cases), begin.organs)
