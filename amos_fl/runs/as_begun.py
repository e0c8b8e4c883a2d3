"""Check that the settings, cases and organs in a run's folder are unchanged since the run began.

`versions.json` holds a copy of them. A truncated or edited file may read like a valid one with other settings or fewer
cases; nothing must be scored or compared under its name.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from amos_fl.cohort.table import Cohort
from amos_fl.errors import AmosError
from amos_fl.runs.about import AboutRun
from amos_fl.runs.config import RunConfig
from amos_fl.runs.folder import RunFolder, places_of
from amos_fl.runs.layers import dotted
from amos_fl.runs.stored import read_stored
from amos_fl.volumes.plan import Plan
from amos_fl.wording import MISSING

SCANS = "scans.json"
"""A hash per case of the content of its scan and label map when the run began."""
THE_SCANS = "the scans"
"""The kind of change reported if the content of a scan no longer matches `SCANS`."""
NOT_AS_BEGUN = "is not what the run was begun with"
_MOST_NAMED = 5
_HASHES: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])
_COPY = "put it back, from another copy of the run perhaps"


def config_as_begun(folder: RunFolder) -> RunConfig:
    """The settings of a run.

    Raises:
        AmosError: they cannot be read, or have changed since it began.
    """
    config = folder.config()
    _check(folder, changed_settings(folder.about(), config))
    return config


def cohort_as_begun(folder: RunFolder) -> Cohort:
    """The cohort of a run. One begun without cases is deployed: its sites describe theirs later.

    Raises:
        AmosError: it cannot be read, or its cases or organs have changed since the run began.
    """
    cohort, about = folder.cohort(), folder.about()
    if about.cases:
        _check(folder, changed_cases(about, cohort))
    return cohort


def contents_begun_with(folder: RunFolder) -> dict[str, str]:
    """The hashes in `SCANS`, by case; empty in a deployed run, and in one of an older version.

    Raises:
        AmosError: the file is damaged.
    """
    file = folder.path / SCANS
    return read_stored(file, _HASHES, "copy it from another copy of the run, or remove it") if file.exists() else {}


def _check(folder: RunFolder, changed: Mapping[str, Sequence[str]]) -> None:
    if any(changed.values()):
        raise changed_by(folder, changed, _COPY)


def changed_settings(about: AboutRun, config: RunConfig) -> dict[str, list[str]]:
    """The changes of a run's settings since it began, by file."""
    return {"config.yaml": _settings(about, config.science(), config)}


def changed_cases(about: AboutRun, cohort: Cohort) -> dict[str, list[str]]:
    """The changes of a run's cases and organs since it began, by file."""
    changed: dict[str, list[str]] = {}
    if about.cases is not None:
        changed["cohort.csv"] = _differences(about.cases, places_of(cohort))
        if about.organs is not None:
            changed["organs.csv"] = _differences(about.organs, organs_by_label(cohort))
    return changed


def changed_by(folder: RunFolder, changed: Mapping[str, Sequence[str]], remedy: str) -> AmosError:
    """The error that names the first changed file, and the differences in all of them."""
    found = [f"{file}: {change}" for file, changes in changed.items() for change in changes]
    file = next(file for file, changes in changed.items() if changes)
    what = NOT_AS_BEGUN
    if file == THE_SCANS:
        file, what = SCANS, "does not fit the scans any more"
    where = file if file.startswith("module ") else folder.path / file
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return AmosError(f"{where}: {what} ({'; '.join(found[:_MOST_NAMED])}{more})", remedy)


def _settings(about: AboutRun, settings: Mapping[str, Any], config: RunConfig) -> list[str]:
    if about.settings is None:  # begun by a version that did not record them
        return []
    changes = _since(dotted(about.settings), dotted(settings), dotted(RunConfig().science()))
    if about.plan is not None:
        plan = config.plan.model_dump(mode="json")
        optional = {name: field.default for name, field in Plan.model_fields.items() if not field.is_required()}
        changes += _since(dotted(about.plan, "plan."), dotted(plan, "plan."), dotted(optional, "plan."))
    return changes


def _since(then: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """What differs; what only one of the two versions of this program has is unchanged while it has its default."""
    now = {key: value for key, value in now.items() if key in then or value != defaults.get(key)}
    then = {key: value for key, value in then.items() if key in now or key not in defaults or value != defaults[key]}
    return _differences(then, now)


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {_text(then.get(name, MISSING))} and is {_text(now.get(name, MISSING))}"
        for name in dict.fromkeys([*then, *now])
        if then.get(name, MISSING) != now.get(name, MISSING)
    ]


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def organs_by_label(cohort: Cohort) -> dict[str, str]:
    return {str(label): name for label, name in cohort.organs.items()}
