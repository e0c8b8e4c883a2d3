"""Divide the training and validation cases of a cohort into folds, for cross-validation.

As in nnU-Net (Isensee et al. 2021) all cases that are not test cases are divided: those of one fold validate a run, the
others train it. Each site is divided by itself and whole patients stay together. Test cases, and sites that train
nothing, stay as they are.
"""

from collections import defaultdict
from dataclasses import replace

from amos_fl.cohort.table import Case, Cohort
from amos_fl.errors import AmosError
from amos_fl.randomness import derived_seed


def fold_of_cases(cohort: Cohort, folds: int) -> dict[str, int | None]:
    """The fold, from 0 on, in which each labelled training and validation case of a training site validates.

    A site's patients (or cases, where the cohort names no patients) are put in an order that depends on their names
    alone, never on a run's seed, and dealt out to the folds in turn. A patient with cases at several sites is dealt
    with the first of them. None: the only patient of a site, who always trains.

    >>> from pathlib import Path
    >>> cases = [Case(f"c{i}", "A", "CT", "train", Path(), Path(), ()) for i in range(5)]
    >>> sorted(fold_of_cases(Cohort(tuple(cases)), 2).values())
    [0, 0, 1, 1, 1]
    """
    seen = set(cohort.seen_sites)
    divided = [c for c in cohort.cases if c.site in seen and c.split != "test" and c.label is not None]
    home: dict[tuple[str, str], str] = {}
    for case in sorted(divided, key=lambda case: (case.site, case.case)):
        home.setdefault(_patient(case), case.site)
    at: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for patient, site in home.items():
        at[site].append(patient)
    folds_of: dict[tuple[str, str], int | None] = {}
    for site, patients in at.items():
        # Sites with few patients would otherwise all lack the same folds.
        first = derived_seed(0, "folds", site)
        ordered = sorted(patients, key=lambda patient: (derived_seed(0, "fold", *patient), patient))
        for number, patient in enumerate(ordered):
            folds_of[patient] = (first + number) % folds if len(ordered) > 1 else None
    return {case.case: folds_of[_patient(case)] for case in divided}


def in_fold(cohort: Cohort, fold: int, folds: int) -> Cohort:
    """The cohort with one of its folds as validation cases, and the others as training cases.

    Raises:
        AmosError: nothing would validate, or a site would train nothing.
    """
    found = fold_of_cases(cohort, folds)
    if fold not in found.values():
        most = len({_patient(case) for case in cohort.cases if found.get(case.case) is not None})
        raise AmosError(
            f"fold {fold} of {folds} has no validation case, for the training sites have {most} patients to divide; "
            "set fewer folds"
        )
    divided = replace(cohort, cases=tuple(_placed(case, found, fold) for case in cohort.cases))
    if lost := set(cohort.seen_sites) - set(divided.seen_sites):
        raise AmosError(
            f"fold {fold} of {folds}: site {min(lost)} would train nothing, for all of its patients validate; set "
            "fewer folds, or leave out the site"
        )
    return divided


def _placed(case: Case, folds_of: dict[str, int | None], fold: int) -> Case:
    if case.case not in folds_of:
        return case
    return replace(case, split="val" if folds_of[case.case] == fold else "train")


def _patient(case: Case) -> tuple[str, str]:
    """A case without a named patient is its own; its name is no other's patient."""
    return ("patient", case.patient) if case.patient else ("case", case.case)
