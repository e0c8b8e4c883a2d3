"""Group runs into arms, with their scores on one table of cases.

Runs that differ only in their seed are one arm. Local, fine-tuned and leave-one-out models are a family: each is a
separate arm, and together they make the arms that are compared with the others (see `comparison.Arm`).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from amos_fl.comparison.cases import CaseTable
from amos_fl.comparison.comparison import Arm, ArmKind, View
from amos_fl.comparison.statistics import Marks
from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_json
from amos_fl.metrics.catalogue import IN_RUNS, MetricName
from amos_fl.metrics.scores import Outcome
from amos_fl.runs.config import RunConfig
from amos_fl.runs.folder import open_run
from amos_fl.runs.layers import dotted
from amos_fl.runs.origin import Origin
from amos_fl.runs.record import RunCost, RunRecord
from amos_fl.wording import listed

OF_ONE_MODEL: tuple[ArmKind, ...] = ("federated", "centralized")
FAMILIES: tuple[ArmKind, ...] = ("local", "finetune", "leave-one-out")
_KINDS: tuple[ArmKind, ...] = ("federated", "centralized", "finetune", "leave-one-out", "local")
"""The order in which arms are shown."""
_WORDS: dict[ArmKind, str] = {
    "centralized": "pooled",
    "local": "local",
    "finetune": "fine-tuned",
    "leave-one-out": "leave-one-out",
}
_WHAT: dict[tuple[ArmKind, View], str] = {
    ("federated", ""): "one model, trained by all sites together",
    ("centralized", ""): "one model, trained on all sites' scans pooled in one place",
    ("federated", "at home"): "each site's own model of the federation, on that site's test cases",
    ("local", "at home"): "each site's own model, on that site's test cases",
    ("local", "elsewhere"): "the other sites' own models, their scores averaged",
    ("finetune", "at home"): "the federated model trained further at each site, on that site's test cases",
    ("finetune", "elsewhere"): "the models that other sites trained further, their scores averaged",
    ("leave-one-out", "left out"): "for each site the federation without it",
}


@dataclass(frozen=True)
class ArmScores:
    """An arm with its scores. `available` marks the cases for which it has scores.

    `own_name` is that after its strategy or kind, whatever it is called.
    """

    arm: Arm
    own_name: str
    available: Bool[np.ndarray, " case"]
    marks: dict[MetricName, Marks]
    by_seed: dict[int, dict[MetricName, Marks]]
    missed: Float[np.ndarray, "case organ"]  # per run
    hallucinated: Float[np.ndarray, "case organ"]


@dataclass(frozen=True)
class _ArmPart:
    """A run as part of an arm, with the cases for which its scores count."""

    record: RunRecord
    rows: Bool[np.ndarray, " case"]


def make_arms(
    records: Sequence[RunRecord], table: CaseTable, names: Mapping[str, str] | None = None
) -> list[ArmScores]:
    """All arms made from the runs, the main ones first, in display order.

    `names` gives the arm of a run (by name or folder of the run, or of its group) a name of its own. Other arms are
    named after strategy or kind, with the settings that set them apart.

    Raises:
        AmosError: a name for a run that is not there, two for the same arm, or one for two arms.
    """
    given = _given_names(records, names or {})
    trained = {site for record in records if record.arm in OF_ONE_MODEL for site in record.seen_sites}
    arms: list[ArmScores] = []
    for kind in _KINDS:
        mine = [record for record in records if record.arm == kind]
        bundles = _bundles(mine) if kind in FAMILIES else _by_settings(mine)
        words = _told_apart([_word(bundle[0], trained) for bundle in bundles], bundles)
        for word, seeds in zip(words, bundles, strict=True):
            made = _family(kind, word, seeds, table) if kind in FAMILIES else [_arm(kind, "", word, seeds, table)]
            arms += [_called(arm, word, _name_of(seeds, given)) for arm in (*made, *_personal(word, seeds, table))]
    times = Counter(arm.arm.name for arm in arms if arm.arm.main)
    if given and (twice := [name for name in times if times[name] > 1]):
        raise AmosError(f"the name {twice[0]} would be of two arms, whose runs differ in more than the seed", "use two")
    return sorted(arms, key=lambda a: (not a.arm.main, _KINDS.index(a.arm.kind), a.arm.view, a.arm.site, a.own_name))


def _called(arm: ArmScores, word: str, given: str | None) -> ArmScores:
    """The arm under the name given to its bundle, in place of the bundle's own word."""
    if given is None or not arm.own_name.startswith(word):
        return arm
    return replace(arm, arm=replace(arm.arm, name=given + arm.own_name.removeprefix(word)))


Bundle = list[list[RunRecord]]
"""The runs of one setting: per seed one run, or one per site of a family."""


def _given_names(records: Sequence[RunRecord], names: Mapping[str, str]) -> dict[str, str]:
    """The names given to arms, by the name of each run that has one."""
    found = {}
    for run, name in names.items():
        members = [record.name for record in records if _is_of(record, run)]
        if not members:
            raise AmosError(
                f"{name!r} names the arm of {run}: no such run; there are {listed([r.name for r in records])}"
            )
        if not name.strip():
            raise AmosError(f"the name given to the arm of {run} is empty", "leave it out, or write one")
        found |= dict.fromkeys(members, name.strip())
    return found


def _is_of(record: RunRecord, run: str) -> bool:
    """Whether a run, or its group, has this name or folder."""
    group, member, _ = record.name.partition("/")
    folder, path = Path(run).resolve(), record.folder.path.resolve()
    return run in (record.name, group) or folder == path or bool(member and folder == path.parent)


def _name_of(bundle: Bundle, given: Mapping[str, str]) -> str | None:
    """The name given to one of an arm's runs, or None."""
    names = sorted({given[record.name] for members in bundle for record in members if record.name in given})
    if len(names) > 1:
        raise AmosError(f"{listed(names)} name one arm, whose runs differ only in the seed", "give it one name")
    return names[0] if names else None


def _by_settings(records: Iterable[RunRecord]) -> list[Bundle]:
    found: dict[str, Bundle] = defaultdict(list)
    for record in sorted(records, key=_order):
        found[f"{record.settings_key()} {_begun_from(record)}"].append([record])
    return [found[key] for key in sorted(found)]


def _order(record: RunRecord) -> tuple[int, tuple[str, ...], str]:
    return record.config.seed, record.seen_sites, record.name


def _bundles(records: Iterable[RunRecord]) -> list[Bundle]:
    """Families: the runs of one folder, setting and seed, one per site; those that differ in the seed are one arm."""
    by_folder: dict[tuple[Path, str, int], list[RunRecord]] = defaultdict(list)
    times: Counter[tuple[Path, str, tuple[str, ...]]] = Counter()
    for record in sorted(records, key=_order):
        parent = record.folder.path.resolve().parent
        # Settings that differ by site within a family: the held-out site, and a budget in rounds and steps.
        science = dotted(record.science())
        shared = {k: v for k, v in science.items() if v != {} and k not in ("hold_out", "rounds", "local_steps")}
        setting = sha256_of_json([shared, _begun_from(record)])
        again = times[parent, setting, record.seen_sites]
        times[parent, setting, record.seen_sites] += 1
        by_folder[parent, setting, again].append(record)
    found: dict[str, Bundle] = defaultdict(list)
    for members in by_folder.values():
        settings = sorted({f"{record.settings_key()} {_begun_from(record)}" for record in members})
        found[" ".join(settings)].append(members)
    for bundle in found.values():
        bundle.sort(key=lambda members: (members[0].config.seed, members[0].name))
    return [found[key] for key in sorted(found)]


def _begun_from(record: RunRecord) -> str:
    """A run's start: the settings (but not the seed) of the run that it started from, or its file."""
    start = record.config.start_from
    if start is None:
        return ""
    if start.is_relative_to(record.folder.path.resolve()):  # sent by its submitter: nothing else is known about it
        return f"{Origin(start).name} {record.folder.about().start_sha256}"
    settings = settings_of_start(record)
    return str(start) if settings is None else str(sorted((key, str(value)) for key, value in settings.items()))


def settings_of_start(record: RunRecord) -> dict[str, Any] | None:
    """The settings, without the seed, of the run that a run started from; None if it started from none, or a file."""
    for folder in record.config.start_from.parents if record.config.start_from else ():
        if (folder / "config.yaml").is_file():
            return settings_but_seed(open_run(folder).config())
    return None


def settings_but_seed(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in config.science().items() if key != "seed"}


def _word(members: Sequence[RunRecord], trained: Collection[str]) -> str:
    """An arm's word, with the sites of other arms on which it did not train."""
    record = members[0]
    strategy = record.config.strategy.replace(":", ".").rpartition(".")[2]
    word = strategy if record.arm == "federated" else _WORDS[record.arm]
    without = sorted(set(trained) - set(record.seen_sites)) if record.arm in OF_ONE_MODEL else []
    return f"{word}, without {' '.join(without)}" if without else word


def _told_apart(names: list[str], bundles: list[Bundle]) -> list[str]:
    """Unique names: if two arms would share one, the settings that differ are added unless they are the usual ones."""
    told = list(names)
    for name in {name for name in names if names.count(name) > 1}:
        same = [i for i, other in enumerate(names) if other == name]
        settings = [compared_settings(bundles[i][0][0]) for i in same]
        differ = [
            key
            # A run's start is what a reader looks for first.
            for key in sorted(set().union(*settings) - {"seed", "hold_out"}, key=lambda key: (key != "start_from", key))
            if len({str(setting.get(key)) for setting in settings}) > 1
        ]
        usual = {key: _usual([str(setting.get(key)) for setting in settings]) for key in differ}
        for i, setting in zip(same, settings, strict=True):
            shown = [
                f"from {setting[key]}" if key == "start_from" else f"{key.rpartition('.')[2]}={setting[key]}"
                for key in differ
                if key in setting and str(setting[key]) != usual[key]
            ]
            told[i] = " ".join([name, *shown[:2]])
        for i in same:
            if told.count(told[i]) > 1:
                told[i] = f"{name} ({bundles[i][0][0].name.partition('/')[0]})"
    return told


def _usual(values: list[str]) -> str | None:
    """The value that more arms have than any other, which need not be named.

    >>> _usual(["keep", "keep", "reset"]), _usual(["0.01", "0.1"])
    ('keep', None)
    """
    [(value, times), *others] = Counter(values).most_common()
    return value if times > max((number for _, number in others), default=0) else None


def compared_settings(record: RunRecord) -> dict[str, Any]:
    """A run's settings, nested ones as `training.learning_rate`; a fine-tuning run is defined by its start."""
    settings = {key: value for key, value in dotted(record.science()).items() if value != {}}
    if record.arm == "finetune":
        return settings
    start = record.config.start_from
    return {**settings, "start_from": "scratch" if start is None else Origin(start).name}


def _family(kind: ArmKind, name: str, bundle: Bundle, table: CaseTable) -> list[ArmScores]:
    """The arms of a family: at home and elsewhere, or left out; and each of its models on its own."""
    sites = np.asarray([case.site for case in table.cases])
    if kind == "leave-one-out":
        return _left_out(name, bundle, table, sites)
    arms = []
    views: tuple[tuple[View, bool], ...] = (("at home", True), ("elsewhere", False))
    for view, at_home in views:
        parts = [[_ArmPart(r, np.isin(sites, r.seen_sites) == at_home) for r in members] for members in bundle]
        arms.append(_of_parts(kind, view, "", f"{name}, {view}", True, parts, table))
    for site in sorted({site for members in bundle for record in members for site in record.seen_sites}):
        seeds = [[record for record in members if site in record.seen_sites] for members in bundle]
        arms.append(_arm(kind, "", f"{name} {site}", [s for s in seeds if s], table, site=site))
    return arms


def _left_out(name: str, bundle: Bundle, table: CaseTable, sites: np.ndarray) -> list[ArmScores]:
    """The sites that a run left out: held out here but trained on by other runs of its family (all, if it is alone)."""
    trained = {site for members in bundle for record in members for site in record.seen_sites}
    alone = len({record.seen_sites for members in bundle for record in members}) == 1

    def without(record: RunRecord) -> list[str]:
        return [s for s in record.config.hold_out if alone or s in trained]

    parts = [[_ArmPart(r, np.isin(sites, without(r))) for r in members] for members in bundle]
    arms = [_of_parts("leave-one-out", "left out", "", name, True, parts, table)]
    for site in sorted({site for members in bundle for record in members for site in without(record)}):
        seeds = [[record for record in members if site in without(record)] for members in bundle]
        arms.append(_arm("leave-one-out", "", f"without {site}", [s for s in seeds if s], table, site=site))
    return arms


def _personal(name: str, bundle: Bundle, table: CaseTable) -> list[ArmScores]:
    """The arm of the sites' own models, each at home, for runs whose method leaves sites such models."""
    parts, sites = [], np.asarray([case.site for case in table.cases])
    for record in (record for members in bundle for record in members):
        if (own := record.results.personal) is None:
            return []
        scored = {part.site for part in own.parts}
        parts.append([_ArmPart(replace(record, results=own), np.isin(sites, sorted(scored)))])
    return [_of_parts("federated", "at home", "", f"{name}, at home", True, parts, table)] if parts else []


def _arm(kind: ArmKind, view: View, name: str, bundle: Bundle, table: CaseTable, *, site: str = "") -> ArmScores:
    everything = np.ones(len(table.cases), bool)
    parts = [[_ArmPart(record, everything) for record in members] for members in bundle]
    return _of_parts(kind, view, site, name, not site, parts, table)


def _of_parts(
    kind: ArmKind,
    view: View,
    site: str,
    name: str,
    main: bool,
    bundle: list[list[_ArmPart]],
    table: CaseTable,
) -> ArmScores:
    parts = [part for members in bundle for part in members]
    by_seed: dict[int, list[_ArmPart]] = defaultdict(list)
    for part in parts:
        by_seed[part.record.config.seed].append(part)
    what = _WHAT.get((kind, view)) or (
        f"a federation without {site}" if kind == "leave-one-out" else f"the model of site {site}, on all sites' cases"
    )
    arm = Arm(
        name=name,
        kind=kind,
        view=view,
        site=site,
        main=main,
        what=what,
        runs=tuple(sorted(part.record.name for part in parts)),
        seeds=tuple(sorted(by_seed)),
        cost=_cost_of_a_seed([[part.record.cost for part in members] for members in bundle]),
    )
    return ArmScores(
        arm=arm,
        own_name=name,
        available=np.any([part.rows for part in parts], axis=0),
        marks=_marks(parts, table),
        by_seed={seed: _marks(mine, table) for seed, mine in sorted(by_seed.items())},
        missed=_count(parts, table, "missed"),
        hallucinated=_count(parts, table, "hallucinated"),
    )


def _marks(parts: Sequence[_ArmPart], table: CaseTable) -> dict[MetricName, Marks]:
    rows = [part.rows for part in parts]
    return {
        metric: Marks.added([table.marks(part.record, metric) for part in parts], rows, table.sizes)
        for metric in IN_RUNS
    }


def _count(parts: Sequence[_ArmPart], table: CaseTable, outcome: Outcome) -> Float[np.ndarray, "case organ"]:
    return Marks.of([table.counts(part.record, outcome) for part in parts], [part.rows for part in parts]).sums


def _cost_of_a_seed(seeds: list[list[RunCost]]) -> RunCost:
    """The mean cost over seeds, summing the runs of a seed, which are independent of one another."""
    together = [
        RunCost(
            rounds=max(cost.rounds for cost in costs),
            steps=sum(cost.steps for cost in costs),
            sequential_steps=max(cost.sequential_steps for cost in costs),
            patches=sum(cost.patches for cost in costs),
            bytes_down=sum(cost.bytes_down for cost in costs),
            bytes_up=sum(cost.bytes_up for cost in costs),
            seconds=math.fsum(cost.seconds for cost in costs),
        )
        for costs in seeds
    ]
    n = len(together)
    whole = {
        key: round(sum(getattr(cost, key) for cost in together) / n)
        for key in ("rounds", "steps", "sequential_steps", "patches", "bytes_down", "bytes_up")
    }
    return RunCost(**whole, seconds=math.fsum(cost.seconds for cost in together) / n)


def _as_reference(arm: ArmScores) -> tuple[bool, bool]:
    """The order for the choice of a reference: arms that trained on all sites first, and of them fedavg."""
    word, _, without = arm.own_name.partition(", without ")
    return bool(without), word.split()[0] != "fedavg"


def with_reference(arms: list[ArmScores], name: str | None) -> tuple[list[ArmScores], ArmScores]:
    """The arms with the reference first, and the reference: by its name or a run's, or otherwise a federated arm.

    Of several federated arms it is `fedavg` if there is one, otherwise the first by strategy and settings, but one that
    trained on all sites before others; without any, the first arm. What an arm is called does not matter.

    Raises:
        AmosError: no main arm has that name.
    """
    main = [arm for arm in arms if arm.arm.main]
    if name is None:
        federated = [arm for arm in main if arm.arm.kind == "federated"]
        chosen = min(federated, key=_as_reference, default=main[0])
    else:
        named = [a for a in main if name == a.arm.name] or [a for a in main if name in a.arm.runs]
        if not named:
            raise AmosError(f"--reference {name}: no such arm; there are {', '.join(a.arm.name for a in main)}")
        chosen = named[0]
    return [chosen, *(arm for arm in arms if arm is not chosen)], chosen
