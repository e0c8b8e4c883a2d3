"""Find a run's scans: by its `cohort.csv`, at their place when it began, or in a cohort given now.

`cohort.csv` has paths relative to the run folder, so scans are found if both were moved together; the settings have the
cohort's original place, so scans are found if only the run folder was moved.
"""

from dataclasses import replace

from amos_fl.cohort.table import Case, Cohort, read_cohort, write_cohort
from amos_fl.errors import AmosError
from amos_fl.runs.folder import RunFolder


def cohort_of(folder: RunFolder, elsewhere: Cohort | None = None) -> Cohort:
    """A run's cohort with the present paths of its scans, in `elsewhere` if given.

    Raises:
        AmosError: a scan is in none of these places, or `elsewhere` lacks the run's cases.
    """
    members = folder.cohort()
    if elsewhere is not None:
        return _placed(members, elsewhere, "the cohort that was given")
    absent = _first_absent(members)
    if absent is None:
        return members
    config = folder.config()
    try:
        begun_with = read_cohort(config.cohort) if config.cohort is not None else None
        if begun_with is not None and _first_absent(begun_with, {case.case for case in members.cases}) is None:
            return _placed(members, begun_with, str(config.cohort))
    except AmosError:
        pass  # nothing, or something else, is there now
    raise AmosError(
        f"{absent}: is not there any more; where run folder or scans were moved, say with --cohort in which cohort "
        "the scans are now"
    )


def note_places(folder: RunFolder, cohort: Cohort) -> None:
    """Update `cohort.csv` with the present paths of the scans; call it while holding the run's lock."""
    if cohort != folder.cohort():
        write_cohort(cohort, folder.path / "cohort.csv")


def _first_absent(cohort: Cohort, names: set[str] | None = None) -> str | None:
    for case in cohort.cases:
        for file in (case.image, case.label):
            if file is not None and not file.exists() and (names is None or case.case in names):
                return str(file)
    return None


def _placed(members: Cohort, elsewhere: Cohort, where: str) -> Cohort:
    """The run's cases with their files in `elsewhere`; everything else is unchanged.

    Raises:
        AmosError: a case that is missing, or has another site, modality or label values.
    """
    there = {case.case: case for case in elsewhere.cases}
    cases: list[Case] = []
    for case in members.cases:
        found = there.get(case.case)
        if found is None:
            raise AmosError(
                f"{case.case}: is in this run and not in {where}; give a cohort with all of the run's cases"
            )
        for name in ("site", "modality", "label_values"):
            if getattr(found, name) != getattr(case, name) and case.site != "pooled":
                raise AmosError(
                    f"{case.case}: {name} is {getattr(found, name)} in {where} and {getattr(case, name)} in this run; "
                    "these are not the same cases"
                )
        if case.label is not None and found.label is None:
            raise AmosError(f"{case.case}: has a label map in this run and none in {where}")
        cases.append(replace(case, image=found.image, label=found.label if case.label is not None else None))
    if absent := _first_absent(Cohort(tuple(cases), members.organs)):
        raise AmosError(f"{absent}: is not there, though {where} lists it; check its paths")
    return replace(members, cases=tuple(cases))
