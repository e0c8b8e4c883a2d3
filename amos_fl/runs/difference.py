"""Find where two runs diverge: the settings and cases that differ, and the first round and site whose numbers do."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amos_fl.cohort.table import Cohort
from amos_fl.runs.as_begun import cohort_as_begun, config_as_begun, contents_begun_with
from amos_fl.runs.folder import RunFolder, open_run, places_of
from amos_fl.runs.layers import dotted
from amos_fl.runs.ledger import LedgerEntry
from amos_fl.runs.record import read_run
from amos_fl.wording import MISSING

_OF_A_SITE = {"cases": "training cases", "steps": "steps", "loss": "loss"}
_LATER = {"update_fingerprint": "update", "share": "share in the weights"}
"""What a ledger of an older version does not say."""


@dataclass(frozen=True)
class Change:
    """A value in which the two runs differ, as text; `-` if one has none."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class Parting:
    """The first round in which the ledgers differ, the sites at which they do, and what differs.

    Without sites only the weights differ: the updates were the same, or the ledgers do not record them.
    """

    round: int
    sites: tuple[str, ...]
    changes: tuple[Change, ...]
    sentence: str


@dataclass(frozen=True)
class RunDifference:
    """All differences between two runs.

    `settings` and `cases` decide what is computed. `where` says how and on what it was carried out (engine, device,
    versions): two runs that differ only in this should give equal weights on one machine. `rounds` are the numbers of
    rounds that each has finished.
    """

    settings: tuple[Change, ...]
    cases: tuple[Change, ...]
    where: tuple[Change, ...]
    rounds: tuple[int, int]
    parting: Parting | None
    scores: str | None

    @property
    def same(self) -> bool:
        """Whether both had the same task and the same result, wherever and however they were carried out."""
        ended = self.rounds[0] == self.rounds[1] and self.parting is None and self.scores is None
        return ended and not self.settings and not self.cases


def compare_folders(first: Path, second: Path) -> RunDifference:
    """Compare the runs in two folders, which need not be finished.

    Raises:
        AmosError: a folder holds no run, or one that cannot be read, or a finished one that has been changed since.
    """
    one, other = open_run(first), open_run(second)
    settings, where = _settings(one, other)
    cohorts = [read_run(run.path).cohort if run.finished else cohort_as_begun(run) for run in (one, other)]
    ledgers = one.ledger(), other.ledger()
    return RunDifference(
        settings=settings,
        cases=_cases(*cohorts) + _contents(one, other),
        where=where,
        rounds=(len(ledgers[0]), len(ledgers[1])),
        parting=_parting(*ledgers),
        scores=_scores(one, other),
    )


def _changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[Change, ...]:
    a, b = dotted(first), dotted(second)
    return tuple(
        Change(name, _text(a.get(name, MISSING)), _text(b.get(name, MISSING)))
        for name in dict.fromkeys([*a, *b])
        if a.get(name, MISSING) != b.get(name, MISSING)
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _settings(one: RunFolder, other: RunFolder) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """Differences in the settings that decide the weights, and in everything else about how a run was made."""
    configs, abouts = (config_as_begun(one), config_as_begun(other)), (one.about(), other.about())
    science = [config.science() for config in configs]
    rest = [
        {key: value for key, value in config.model_dump(mode="json").items() if key not in chosen}
        for config, chosen in zip(configs, science, strict=True)
    ]
    for chosen, about in zip(science, abouts, strict=True):
        chosen["start_from (SHA-256)"] = about.start_sha256
        chosen["module (SHA-256)"] = about.modules or MISSING
    versions = [{"version": about.versions} for about in abouts]
    return _changes(*science), _changes(*rest) + _changes(*versions)


def _cases(one: Cohort, other: Cohort) -> tuple[Change, ...]:
    """Cases that one run lacks, or that have another site, split or annotated organs; and differing organ names."""
    a, b = (places_of(cohort) for cohort in (one, other))
    organs = [{f"organ {label}": organ for label, organ in cohort.organs.items()} for cohort in (one, other)]
    order = (Change("order of the cases", "one", "another"),) if a == b and list(a) != list(b) else ()
    return _changes(a, b) + _changes(*organs) + order


def _contents(one: RunFolder, other: RunFolder) -> tuple[Change, ...]:
    """Cases of both runs whose scan or label map is another, by the hashes that both recorded."""
    a, b = (contents_begun_with(run) for run in (one, other))
    return tuple(
        Change(f"{case}: content of scan and label map", a[case][:16], b[case][:16])
        for case in a
        if case in b and a[case] != b[case]
    )


def _parting(first: Sequence[LedgerEntry], second: Sequence[LedgerEntry]) -> Parting | None:
    """The first round that differs between both ledgers, as far as both go."""
    names = _OF_A_SITE | _LATER
    for a, b in zip(first, second, strict=False):
        changes: list[Change] = []
        sites: list[str] = []
        for site in sorted({*a["sites"], *b["sites"], *a["missing"], *b["missing"]}):
            mine = [_taken_part(entry, site) for entry in (a, b)]
            shared = [key for key in ("taken part", *_OF_A_SITE) if key in mine[0] or key in mine[1]]
            shared += [key for key in _LATER if key in mine[0] and key in mine[1]]
            found = [
                Change(
                    f"{site}: {names.get(key, key)}",
                    *(_text(values.get(key, MISSING)) for values in mine),
                )
                for key in shared
                if mine[0].get(key) != mine[1].get(key)
            ]
            if found:
                sites.append(site)
                changes += found
        same_weights = a["weights_sha256"] == b["weights_sha256"]
        if sites or not same_weights:
            told = all("update_fingerprint" in site for entry in (a, b) for site in entry["sites"].values())
            changes += (
                [] if same_weights else [Change("weights after it", a["weights_sha256"][:16], b["weights_sha256"][:16])]
            )
            return Parting(a["round"], tuple(sites), tuple(changes), _sentence(a["round"], sites, same_weights, told))
    return None


def _taken_part(entry: LedgerEntry, site: str) -> dict[str, Any]:
    reason = entry["missing"].get(site)
    if reason is not None:
        return {"taken part": f"missing: {reason}"}
    return {"taken part": "yes", **entry["sites"][site]} if site in entry["sites"] else {"taken part": "no"}


def _sentence(number: int, sites: list[str], same_weights: bool, told: bool) -> str:
    if sites:
        rest = f" (and at {', '.join(sites[1:])} in the same round)" if len(sites) > 1 else ""
        ending = "; the weights after it are the same" if same_weights else ""
        where = "in the pooled training" if sites == ["pooled"] else f"at site {sites[0]}"
        return f"the ledgers part in round {number} {where}{rest}{ending}"
    if told:
        return f"the ledgers part in round {number}: all sites' updates are the same, and what became of them is not"
    return f"the ledgers part in round {number}; losses and steps are the same, so the site cannot be named"


def _scores(one: RunFolder, other: RunFolder) -> str | None:
    """The first evaluation that both runs have and whose scores differ, in a sentence."""
    evaluations = [set(run.evaluations()) for run in (one, other)]
    for number, split in sorted(evaluations[0] & evaluations[1]):
        a, b = (run.scores_of_sites(number, split) for run in (one, other))
        for site in sorted({*a, *b}):
            mine, theirs = a.get(site), b.get(site)
            if mine is None or theirs is None or (mine.split, mine.scores) != (theirs.split, theirs.scores):
                return f"the {split} scores of round {number} part at site {site}"
            cases = [{case.case: case for case in result.cases} for result in (mine, theirs)]
            if all(cases):  # a site may have withheld them in one of the runs
                for case in cases[0] | cases[1]:
                    if cases[0].get(case) != cases[1].get(case):
                        return f"the {split} scores of round {number} part at site {site} in case {case}"
    if only := sorted(evaluations[0] ^ evaluations[1]):
        number, split = only[0]
        which = "first" if only[0] in evaluations[0] else "second"
        return f"the {which} run alone has {split} scores of round {number}"
    return None
