"""Where two runs part: the settings and cases that differ, and the first round and site whose numbers do."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amos_fl.cohort.table import Case, Cohort
from amos_fl.errors import AmosError
from amos_fl.runs.folder import RunFolder, open_run

WORDS = 4096
ABSENT = "-"
_OF_A_SITE = {"cases": "training cases", "steps": "steps", "loss": "loss", "update_fingerprint": "update"}


def fingerprint_of(arrays: Mapping[str, np.ndarray]) -> str:
    """A check value of weights that differs when their bits do, at a tenth of the time of a hash of all bytes.

    Every 32 kB are added up as whole numbers of 64 bits, and the sums are hashed with the arrays' names, dtypes and
    shapes. It finds accidental differences; it does not resist somebody who constructs one.

    >>> ones, more = {"a": np.ones(3, np.float32)}, {"a": np.array([1, 1, 1.0000001], np.float32)}
    >>> fingerprint_of(ones) == fingerprint_of(dict(ones)), fingerprint_of(ones) == fingerprint_of(more)
    (True, False)
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        data = np.asarray(array, order="C").reshape(-1).view(np.uint8)
        whole = data.size // (8 * WORDS) * (8 * WORDS)
        digest.update(data[:whole].view(np.uint64).reshape(-1, WORDS).sum(axis=1, dtype=np.uint64).tobytes())
        digest.update(data[whole:].tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Change:
    """A value that the two runs do not share, as text; `-` where one has none."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class Parting:
    """The first round in which the ledgers differ, the sites that do in it, and what differs.

    Without sites it is the weights alone: the updates were the same, or the ledgers do not tell.
    """

    round: int
    sites: tuple[str, ...]
    changes: tuple[Change, ...]
    sentence: str


@dataclass(frozen=True)
class RunDifference:
    """All that two runs do not share.

    `settings` and `cases` decide what is computed. `where` says how and on what it was carried out (engine, device,
    versions): two runs that differ in nothing else should give equal weights on one machine. `rounds` are how many
    rounds each has finished.
    """

    settings: tuple[Change, ...]
    cases: tuple[Change, ...]
    where: tuple[Change, ...]
    rounds: tuple[int, int]
    parting: Parting | None
    scores: str | None

    @property
    def same(self) -> bool:
        """Whether both computed the same and got the same; where and how they were carried out does not matter."""
        ended = self.rounds[0] == self.rounds[1] and self.parting is None and self.scores is None
        return ended and not self.settings and not self.cases


def compare_folders(first: Path, second: Path) -> RunDifference:
    """What the runs in two folders do not share. They need not be finished.

    Raises:
        AmosError: a folder holds no run, or one that cannot be read.
    """
    one, other = open_run(first), open_run(second)
    settings, where = _settings(one, other)
    ledgers = _ledger(one), _ledger(other)
    return RunDifference(
        settings=settings,
        cases=_cases(one.cohort(), other.cohort()),
        where=where,
        rounds=(len(ledgers[0]), len(ledgers[1])),
        parting=_parting(*ledgers),
        scores=_scores(one, other),
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[Change, ...]:
    a, b = dict(_flat(first)), dict(_flat(second))
    return tuple(
        Change(name, _text(a.get(name, ABSENT)), _text(b.get(name, ABSENT)))
        for name in dict.fromkeys([*a, *b])
        if a.get(name, ABSENT) != b.get(name, ABSENT)
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _about(run: RunFolder) -> dict[str, Any]:
    file = run.path / "versions.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        return {"versions": dict(about["versions"]), "start_sha256": about.get("start_sha256")}
    except FileNotFoundError:
        raise AmosError(f"{file}: is missing; this run cannot be compared") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise AmosError(f"{file}: cannot be read; this run cannot be compared") from None


def _settings(one: RunFolder, other: RunFolder) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """What differs in the settings that decide the weights, and in everything else about how a run was made."""
    configs, abouts = (one.config(), other.config()), (_about(one), _about(other))
    science = [config.science() for config in configs]
    rest = [
        {key: value for key, value in config.model_dump(mode="json").items() if key not in chosen}
        for config, chosen in zip(configs, science, strict=True)
    ]
    for chosen, about in zip(science, abouts, strict=True):
        chosen["start_from (SHA-256)"] = about["start_sha256"]
    versions = [{"version": about["versions"]} for about in abouts]
    return _changes(*science), _changes(*rest) + _changes(*versions)


def _cases(one: Cohort, other: Cohort) -> tuple[Change, ...]:
    """Cases that one run lacks, or that stand elsewhere or have other organs annotated; and organs' names."""
    a, b = ({case.case: _place(case) for case in cohort.cases} for cohort in (one, other))
    organs = [{f"organ {label}": organ for label, organ in cohort.organs.items()} for cohort in (one, other)]
    order = (Change("order of the cases", "one", "another"),) if a == b and list(a) != list(b) else ()
    return _changes(a, b) + _changes(*organs) + order


def _place(case: Case) -> str:
    unlabelled = "" if case.label is not None else ", unlabelled"
    values = "".join(f" {old}={new}" for old, new in case.label_values)
    renumbered = f", label values{values}" if values else ""
    organs = " ".join(map(str, case.annotated))
    return f"{case.split} at {case.site} ({case.modality}), organs {organs}{renumbered}{unlabelled}"


def _ledger(run: RunFolder) -> list[dict[str, Any]]:
    try:
        ledger = run.ledger()
        if all({"round", "sites", "missing", "weights_sha256"} <= entry.keys() for entry in ledger):
            return ledger
    except (OSError, ValueError, AttributeError):
        pass
    raise AmosError(f"{run.path / 'ledger.jsonl'}: cannot be read; this run cannot be compared")


def _parting(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> Parting | None:
    """The first round that is not the same in both ledgers, as far as both go."""
    for a, b in zip(first, second, strict=False):
        changes: list[Change] = []
        sites: list[str] = []
        for site in sorted({*a["sites"], *b["sites"], *a["missing"], *b["missing"]}):
            mine = [_taken_part(entry, site) for entry in (a, b)]
            # A ledger of an older version has no fingerprints.
            shared = [key for key in ("taken part", *_OF_A_SITE) if key in mine[0] or key in mine[1]]
            if not all("update_fingerprint" in values for values in mine):
                shared = [key for key in shared if key != "update_fingerprint"]
            found = [
                Change(f"{site}: {_OF_A_SITE.get(key, key)}", *(_text(values.get(key, ABSENT)) for values in mine))
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


def _taken_part(entry: Mapping[str, Any], site: str) -> dict[str, Any]:
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
    files = [{file.name for file in (run.path / "evaluations").glob("round_*.json")} for run in (one, other)]
    for name in sorted(files[0] & files[1]):
        number, split = name.removesuffix(".json").split("_")[1:3]
        a, b = (_evaluation(run, int(number), split) for run in (one, other))
        for site in sorted({*a, *b}):
            if a.get(site) != b.get(site):
                return f"the {split} scores of round {int(number)} part at site {site}"
    if only := sorted(files[0] ^ files[1]):
        number, split = only[0].removesuffix(".json").split("_")[1:3]
        which = "first" if only[0] in files[0] else "second"
        return f"the {which} run alone has {split} scores of round {int(number)}"
    return None


def _evaluation(run: RunFolder, number: int, split: str) -> dict[str, Any]:
    """What each site answered, without how long it took."""
    try:
        evaluation = run.read_evaluation(number, split) or {"sites": {}}
        return {site: [result["split"], result["scores"]] for site, result in evaluation["sites"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise AmosError(f"{run.evaluation_file(number, split)}: cannot be read; this run cannot be compared") from None
