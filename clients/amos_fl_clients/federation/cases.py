"""A site's own cases: checked against what a run means by its label values, and prepared for its plan."""

from collections.abc import Callable

from amos_fl.cohort.table import Case, Cohort, read_cohort
from amos_fl.errors import AmosError
from amos_fl.prepared.prepare import prepare_cases
from amos_fl.prepared.store import PreparedCase
from amos_fl_clients.federation.messages import Task
from amos_fl_clients.federation.policy import check_organs
from amos_fl_clients.federation.settings import SiteSettings


def own_cohort(settings: SiteSettings, task: Task) -> Cohort:
    """The site's cohort, checked to have the same meaning of label values as the run.

    Raises:
        AmosError: cases of another site. Refusal: a label value that means another organ.
    """
    cohort = read_cohort(settings.cohort)
    if cohort.sites != (settings.site,):
        raise AmosError(f"site {settings.site}: its cohort holds cases of {', '.join(cohort.sites)}")
    check_organs(settings, cohort, task.organs)
    return cohort


def prepared(
    settings: SiteSettings,
    task: Task,
    cases: tuple[Case, ...],
    on_case: Callable[[int, int, str], None] | None = None,
) -> list[PreparedCase]:
    """The cases as the run's plan wants them.

    Raises:
        AmosError: one of them cannot be read, in a sentence that names the site.
    """
    organs = tuple(task.organs)
    try:
        return prepare_cases(cases, task.plan, settings.store, organs, workers=task.prepare_workers, on_case=on_case)
    except AmosError as error:
        if type(error) is not AmosError:
            raise
        raise error.of(f"site {settings.site}") from error
