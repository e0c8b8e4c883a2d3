"""The AMOS paper's numbers (Tables 3 to 7 and 10), matched to comparisons with the same setting.

They are in `published.csv` as printed, in percent, with the paper's own slips: UNet's NSD on CT-Val is 79.87 in
Tables 4 and 10 and 79.97 in Table 5. Ji et al., AMOS: A Large-Scale Abdominal Multi-Organ Benchmark for Versatile
Medical Image Segmentation, NeurIPS 2022 (arXiv 2206.08023).
"""

import csv
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import cast

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.scanners import LAST_CT_ID, SCANNERS, id_modality, published_cases
from amos_fl.cohort.table import Case, Cohort
from amos_fl.comparison.cases import CaseTable, rows_of
from amos_fl.comparison.comparison import Arm, PublishedScore, Scope
from amos_fl.metrics.catalogue import MetricName
from amos_fl.networks.catalogue import NETWORKS
from amos_fl.runs.record import RunRecord

MARK = "published, real AMOS"
PAPER_PLANS = {"CT": "amos-ct", "MR": "amos-mr", "CT+MR": "amos-ct"}


@cache
def published_scores() -> tuple[PublishedScore, ...]:
    """All numbers of the six tables; none has a scope.

    In Tables 3 and 6 `training` is the set that was trained on first (`scratch`: none), `cases` the set that was
    scored.

    >>> unet = published_scores()[0]
    >>> unet.source, unet.training, unet.cases, unet.metric, unet.value
    ('Table 4, UNet, CT-val', 'CT', 'CT-val', 'dsc', 0.8887)
    """
    text = resources.files("amos_fl.comparison").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(
        PublishedScore(
            source=f"Table {row['table']}, {row['network']}, {row['cases']}",
            network=row["network"],
            training=row["training"],
            cases=row["cases"],
            organ=AMOS_ORGANS[int(row["organ"])] if row["organ"] else "",
            metric=cast(MetricName, row["metric"]),
            value=round(float(row["percent"]) / 100, 6),
            scope="",
        )
        for row in csv.DictReader(text.splitlines())
    )


def published_beside(
    records: Sequence[RunRecord],
    arms: Sequence[Arm],
    scopes: Sequence[Scope],
    table: CaseTable,
    *,
    everything: bool = False,
) -> list[PublishedScore]:
    """The published numbers whose setting is that of a federated or pooled run, each with its scope.

    The setting is the same if the cases are AMOS's own, on the scanners and in the splits of the paper, and the
    network and its plan are the paper's. With `everything` the other numbers follow, without a scope.
    """
    settings = {
        setting for record in records if record.arm in ("federated", "centralized") and (setting := _setting(record))
    }
    if not settings and not everything:
        return []
    of_scope = {scope.name: _cases_of(table, scope) for scope in scopes if scope.kind == "group"}
    beside = [
        PublishedScore(**{**vars(score), "scope": scope})
        for score in published_scores()
        for scope, cases in of_scope.items()
        if cases == score.cases and (score.network, score.training) in settings
    ]
    if everything:
        shown = {score.source for score in beside}
        beside += [score for score in published_scores() if score.source not in shown]
    return beside


def _setting(record: RunRecord) -> tuple[str, str] | None:
    """The network and the training cases in the paper's words; None if the paper has no such training."""
    network = network_in_the_papers_words(record.config.model)
    if record.synthetic or not network or not is_genuine(record.cohort):
        return None
    training = [case for case in record.cohort.of(split="train", labelled=True) if case.site in record.seen_sites]
    numbers = {_amos_id(case.case) for case in training}
    ct = {number for number in numbers if id_modality(number) == "CT"}
    released = {i for i, case in published_cases().items() if case.release_split == "train" and id_modality(i) == "CT"}
    # Which of the Prisma scans trained is not published: their number and their hospital are.
    mr = sorted(published_cases()[number].record.domain for number in numbers - ct)
    wanted_mr = sorted("G" * SCANNERS["G"].table2[0] + "H" * SCANNERS["H"].table2[0])
    parts = [name for name, fits in (("CT", ct == released), ("MR", mr == wanted_mr)) if fits]
    if not parts or (ct and "CT" not in parts) or (mr and "MR" not in parts):
        return None
    name = "+".join(parts)
    return (network, name) if record.config.plan.name == PAPER_PLANS[name] else None


def is_genuine(cohort: Cohort) -> bool:
    """Whether the cases are AMOS's by their names, each with the scanner and modality that AMOS's case has."""
    return cohort.organs == AMOS_ORGANS and all(map(_is_amos_case, cohort.cases))


def _is_amos_case(case: Case) -> bool:
    known = published_cases().get(_amos_id(case.case))
    return known is not None and (known.record.domain, id_modality(known.record.amos_id)) == (
        case.site,
        case.modality,
    )


def _amos_id(name: str) -> int:
    """
    >>> _amos_id("amos_0042"), _amos_id("patient_7")
    (42, -1)
    """
    match = re.fullmatch(r"amos_(\d{4})", name)
    return int(match[1]) if match else -1


def _cases_of(table: CaseTable, scope: Scope) -> str:
    """The paper's name for a scope's cases, or "" if it scored no such set."""
    numbers = {_amos_id(table.cases[row].case) for row in rows_of(table, scope)}
    for name, wanted in _scored_sets().items():
        if numbers == wanted:
            return name
    known = [published_cases()[number].record for number in numbers if number in published_cases()]
    prisma = [record for record in known if record.domain == "G" and record.institution == "people"]
    # The paper's validation cases of the Prisma: as many cases, from that hospital.
    return "MR-val" if len(prisma) == len(numbers) == SCANNERS["G"].table2[1] else ""


def network_in_the_papers_words(model: str) -> str:
    """The paper's name of a network, "" for one that it does not have."""
    return NETWORKS[model].paper if model in NETWORKS else ""


def training_in_the_papers_words(cohort: Cohort) -> str:
    """The paper's name for a training on these cases ("CT", "160CT+40MR"), or "" if it has none.

    For MR both Table 2's split and the release's count, although they differ: the paper prints the first, and its
    authors' code trains on the second.
    """
    if not is_genuine(cohort):
        return ""
    numbers = {_amos_id(case.case) for case in cohort.of(split="train", labelled=True)}
    ct = {number for number in numbers if id_modality(number) == "CT"}
    mr = numbers - ct
    sizes = (len(ct), len(mr))
    if sizes in ((160, 40), (10, 30)):
        return f"{sizes[0]}CT+{sizes[1]}MR"
    released = {i for i, case in published_cases().items() if case.release_split == "train"}
    table2 = sorted("G" * SCANNERS["G"].table2[0] + "H" * SCANNERS["H"].table2[0])
    is_ct = ct == {number for number in released if id_modality(number) == "CT"}
    is_mr = mr == {number for number in released if id_modality(number) == "MR"}
    is_mr = is_mr or sorted(published_cases()[number].record.domain for number in mr) == table2
    if (ct and not is_ct) or (mr and not is_mr):
        return ""
    return "+".join(name for name, there in (("CT", ct), ("MR", mr)) if there)


def are_the_papers_cases(names: Sequence[str], cases: str) -> bool:
    """Whether AMOS cases with these names are those that the paper calls `cases` ("CT-val", "MR-test-OOD").

    >>> are_the_papers_cases(["amos_0008"], "CT-val")
    False
    """
    numbers = {_amos_id(name) for name in names}
    sets = dict(_scored_sets())
    sets |= {
        f"{modality}-test": sets[f"{modality}-test-ID"] | sets[f"{modality}-test-OOD"] for modality in ("CT", "MR")
    }
    if cases == "MR-val":  # as released, or as many of the Prisma's as Table 2 has
        released = {n for n, case in published_cases().items() if n > LAST_CT_ID and case.release_split == "val"}
        prisma = [n for n in numbers if n in published_cases() and published_cases()[n].record.domain == "G"]
        return numbers == released or len(prisma) == len(numbers) == SCANNERS["G"].table2[1]
    return cases in sets and numbers == sets[cases]


@cache
def _scored_sets() -> dict[str, set[int]]:
    """The ids of the paper's validation and test cases, as far as Table 2, the hospitals and the release fix them."""
    sets: dict[str, set[int]] = {name: set() for name in ("CT-val", "CT-test-ID", "CT-test-OOD")}
    sets |= {"MR-test-ID": set(), "MR-test-OOD": set()}
    for number, case in published_cases().items():
        domain = case.record.domain
        if domain in "DE":
            sets["CT-test-OOD"].add(number)
        elif domain == "F":
            sets["MR-test-OOD"].add(number)
        elif domain == "G" and case.record.institution == "center":
            sets["MR-test-ID"].add(number)
        elif domain in "ABC" and case.release_split != "train":
            sets["CT-val" if case.release_split == "val" else "CT-test-ID"].add(number)
    return sets
