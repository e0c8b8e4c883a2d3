"""Detect changes in a run between a stop and its resume: settings, cases, organs, and the content of scans.

Resuming a changed run would mix two experiments, so it is refused, or continued on request, and then its ledger records
what was changed and when.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amos_fl.cohort.table import Case, Cohort
from amos_fl.files import sha256_of_json, write_json
from amos_fl.prepared.prepare import content_hash
from amos_fl.runs.about import AboutRun, Accepted, write_about
from amos_fl.runs.as_begun import (
    SCANS,
    THE_SCANS,
    changed_by,
    changed_cases,
    changed_settings,
    contents_begun_with,
    organs_by_label,
)
from amos_fl.runs.config import RunConfig
from amos_fl.runs.folder import RunFolder, places_of
from amos_fl.runs.own_code import changed_modules, own_modules

ACCEPT = "--accept-changes"


def check_unchanged(
    folder: RunFolder, config: RunConfig, cohort: Cohort | None, store: Path | None = None, *, accept: bool = False
) -> list[str]:
    """Compare a run with its initial state; returns the changes, in words, if they are accepted.

    Without a `cohort` (its cases are at the sites) only settings are compared, without a `store` no content.

    Raises:
        AmosError: something was changed and not accepted; it names the file and the differences.
    """
    about = folder.about()
    changed = changed_settings(about, config) | changed_modules(about)
    changed |= {} if cohort is None else changed_cases(about, cohort)
    scans: dict[str, str] | None = None
    if cohort is not None and store is not None:
        scans = _contents(cohort.cases, store)
        changed[THE_SCANS] = _scans(folder, cohort.cases, scans)
    found = [f"{file}: {change}" for file, changes in changed.items() for change in changes]
    if found and not accept:
        request = f", or go on with {ACCEPT}, which notes it in the ledger" if cohort is not None else ""
        raise changed_by(folder, changed, f"put it back, or start a new run{request}")
    if found:
        update: dict[str, Any] = {"settings": config.science(), "modules": own_modules(config) or None}
        if about.plan is not None:
            update["plan"] = config.plan.model_dump(mode="json")
        if cohort is not None:
            update |= {
                "cases": places_of(cohort),
                "organs": organs_by_label(cohort),
                "cohort_sha256": cohort.content_hash(),
            }
        note_changes(folder, about.model_copy(update=update), found)
    if scans is not None and (found or not (folder.path / SCANS).exists()):
        write_json(folder.path / SCANS, scans)
    return found


def note_changes(folder: RunFolder, about: AboutRun, what: list[str]) -> None:
    """Record these changes in the next round's ledger entry."""
    accepted = Accepted(after_round=folder.rounds_done, what=what)
    write_about(folder.path, about.model_copy(update={"accepted": [*about.accepted, accepted]}))


def accepted_before(folder: RunFolder, round_number: int) -> list[str]:
    """The accepted changes right before this round."""
    mine = (change.what for change in folder.about().accepted if change.after_round == round_number - 1)
    return [word for what in mine for word in what]


def check_contents(folder: RunFolder, cases: Sequence[Case], store: Path) -> None:
    """Check that these cases of a run still have the content with which it began.

    Raises:
        AmosError: a scan or a label map has another; or is missing.
    """
    if changes := _scans(folder, cases, _contents(cases, store)):
        remedy = "put it back, or name the cohort with --cohort to score what is there now"
        raise changed_by(folder, {THE_SCANS: changes}, remedy)


def _contents(cases: Iterable[Case], store: Path) -> dict[str, str]:
    return {case.case: _content(case, store) for case in cases}


def _content(case: Case, store: Path) -> str:
    files = (case.image, case.label)
    return sha256_of_json([None if file is None else content_hash(file, store) for file in files])


def _scans(folder: RunFolder, cases: Iterable[Case], scans: Mapping[str, str]) -> list[str]:
    then = contents_begun_with(folder)
    files = {case.case: case.image.name for case in cases}
    return [
        f"{name} ({files[name]} or its label map) has another content"
        for name, content in scans.items()
        if name in then and then[name] != content
    ]
