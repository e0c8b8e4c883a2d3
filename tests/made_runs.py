"""Finished runs as records, made of numbers: no run was carried out."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.scanners import id_modality, published_cases
from amos_fl.cohort.table import Case, Cohort, Modality, Split
from amos_fl.comparison.compare import compare_runs
from amos_fl.comparison.comparison import Comparison
from amos_fl.metrics.scores import OrganScore
from amos_fl.metrics.table import CaseScores
from amos_fl.randomness import generator
from amos_fl.runs.config import resolve
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.layers import Layer
from amos_fl.runs.record import RunCost, RunRecord
from amos_fl.runs.results import Results
from amos_fl.runs.selection import choose_round

FEW = 200
ORGANS = {1: "liver", 2: "spleen", 3: "pancreas"}
SITES: dict[str, tuple[Modality, bool, int]] = {
    "A": ("CT", True, 8),
    "B": ("CT", True, 6),
    "D": ("CT", False, 7),
    "F": ("MR", False, 6),
    "G": ("MR", True, 6),
}
"""Per site its modality, whether it trains, and its test cases."""
Score = Callable[[str, str, int], OrganScore | float | None]
"""From case, site and organ a score; None where the organ is absent from both maps."""


def made_cohort(sites: dict[str, tuple[Modality, bool, int]] = SITES, organs: dict[int, str] = ORGANS) -> Cohort:
    cases = []
    for site, (modality, trains, number) in sites.items():
        splits = [("train", 0)] * trains + [("test", i) for i in range(number)]
        for split, i in splits:
            name = f"{site.lower()}_{split}_{i}"
            file = Path("images") / f"{name}.nii.gz"
            cases.append(Case(name, site, modality, split, file, file, tuple(organs)))  # pyright: ignore[reportArgumentType]
    return Cohort(tuple(cases), dict(organs))


def made_run(
    name: str,
    score: Score,
    *,
    cohort: Cohort | None = None,
    parent: str = "runs",
    problems: Sequence[str] = (),
    synthetic: bool = False,
    cost: RunCost | None = None,
    **settings: Any,
) -> RunRecord:
    """A record whose test cases have the given scores. Its folder does not exist."""
    config = resolve([Layer("made", settings)])
    everyone = cohort or made_cohort()
    cohort = everyone.holding_out(config.hold_out)
    if config.sites is not None:
        cohort = cohort.only(config.sites)
    cases = [
        CaseScores(c.case, c.site, c.modality, c.site in cohort.seen_sites, "test", made_scores(c, cohort, score))
        for c in cohort.of(split="test")
    ]
    folder = RunFolder(Path("/nowhere") / parent / name.rpartition("/")[2])
    return RunRecord(
        folder=folder,
        name=name,
        config=config,
        cohort=cohort,
        synthetic=synthetic,
        cohort_sha256=cohort.content_hash(),
        results=Results(choose_round(folder, config, 1), list(problems), cases, cohort.organs),
        ledger=[],
        cost=cost or RunCost(1, 30, 10, 60, 1000, 1000, 1.0),
    )


def made_scores(case: Case, cohort: Cohort, score: Score) -> dict[int, OrganScore]:
    made = {}
    for organ in case.annotated:
        value = score(case.case, case.site, organ)
        if isinstance(value, OrganScore):
            made[organ] = value
        elif value is None:
            made[organ] = OrganScore(float("nan"), float("nan"), "absent", 0.0, 0.0)
        else:
            made[organ] = OrganScore(value, value * 0.9, "scored" if value else "missed", 100.0, 90.0 if value else 0.0)
    return made


def noisy(mean: float, *, sd: float = 0.02, name: str = "", unseen: float = 0.0) -> Score:
    """Scores about a mean, part of whose noise belongs to the case and part (by `name`) to the run."""

    def score(case: str, site: str, organ: int) -> float:
        shared = generator(0, "case", case, organ).normal(0, 0.05)
        own = generator(0, "run", name, case, organ).normal(0, sd)
        drop = unseen if site in "DF" else 0.0
        return float(min(1.0, max(0.01, mean - drop + shared + own)))

    return score


def with_cases(record: RunRecord, cases: Sequence[CaseScores]) -> RunRecord:
    """The record with other test cases."""
    return replace(record, results=replace(record.results, cases=list(cases)))


def everything(seeds: Sequence[int] = (0,)) -> list[RunRecord]:
    """A federated, a pooled, three local and three leave-one-out runs per seed."""
    runs = []
    for seed in seeds:
        mark = f" {seed}"
        runs.append(made_run(f"fedavg-{seed}", noisy(0.80, unseen=0.10, name=f"f{mark}"), seed=seed))
        runs.append(made_run(f"pooled-{seed}", noisy(0.85, unseen=0.05, name=f"p{mark}"), seed=seed, arm="centralized"))
        for site in "ABG":
            others = [s for s in "ABG" if s != site]
            group = {"parent": f"local-{seed}", "seed": seed, "hold_out": others, "arm": "local"}
            runs.append(made_run(f"local-{seed}/{site}", at_home(site, f"l{mark}"), **group))
            group = {"parent": f"without-{seed}", "seed": seed, "hold_out": [site], "arm": "leave-one-out"}
            runs.append(made_run(f"without-{seed}/{site}", noisy(0.76, unseen=0.1, name=f"w{site}{mark}"), **group))
    return runs


def at_home(home: str, name: str) -> Score:
    good, bad = noisy(0.75, name=name + home), noisy(0.55, name=name + home)
    return lambda case, site, organ: (good if site == home else bad)(case, site, organ)


def constant(seen: float, unseen: float | None = None) -> Any:
    """The same score for every case and organ, on unseen scanners another."""
    return lambda case, site, organ: seen if site in "ABG" or unseen is None else unseen


def amos(parts: dict[str, Split], numbers: set[int] | None = None) -> Cohort:
    """AMOS's CT cases of some parts of the release, each in the split given."""
    cases = []
    for number, case in published_cases().items():
        split = parts.get(case.release_split)
        if split and id_modality(number) == "CT" and (numbers is None or number in numbers):
            file = Path(f"images/amos_{number:04d}.nii.gz")
            cases.append(Case(f"amos_{number:04d}", case.record.domain, "CT", split, file, file, tuple(AMOS_ORGANS)))
    return Cohort(tuple(cases), dict(AMOS_ORGANS))


def compared(records: list[RunRecord], **options: Any) -> Comparison:
    return compare_runs(records, **{"resamples": FEW, **options})
