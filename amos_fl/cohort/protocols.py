"""The three protocols: which AMOS cases are for training, validation and testing.

`paper`    Table 2 of the paper. It needs the labels of the test images. Scanner, release part and hospital determine
every case except the Prisma scans of the People's Hospital: which of them train and which validate is drawn here.
`release`  train on imagesTr, score on imagesVa. Nothing is selected, so there are no validation cases. `public`   what
has public labels: A, B, C, G and H train on imagesTr, their imagesVa is divided by patient
           into val and test, and F is an unseen scanner.

The draws are a function of the case ids alone, so they are the same for everyone.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from amos_fl.cohort.scanners import SCANNERS, ScanRecord
from amos_fl.cohort.table import Split
from amos_fl.errors import AmosError
from amos_fl.randomness import derived_seed
from amos_fl.wording import case_names

Protocol = Literal["paper", "release", "public"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
Part = Literal["Tr", "Va", "Ts"]

UNSEEN_IN_PAPER = frozenset("DEF")
_SPLIT_OF_PART: dict[Part, Split] = {"Tr": "train", "Va": "val", "Ts": "test"}


@dataclass(frozen=True)
class LabelledCase:
    """A case that can be trained on or scored: its origin and its part of the release."""

    record: ScanRecord
    part: Part

    @property
    def amos_id(self) -> int:
        return self.record.amos_id

    @property
    def site(self) -> str:
        return self.record.domain

    @property
    def patient(self) -> str:
        """An identifier shared by a patient's scans; a case of unknown patient counts as its own patient."""
        return self.record.patient or f"case {self.amos_id}"


@dataclass
class Division:
    """The split of each case by id, the cases left out, and notes for the reader."""

    splits: dict[int, Split] = field(default_factory=dict)
    left_out: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def divide_cases(cases: Sequence[LabelledCase], protocol: Protocol, hold_out: Iterable[str] = ()) -> Division:
    """Divide labelled cases by a protocol; the cases of held-out sites all become test cases.

    No split drawn here separates the scans of one patient: such a scan is put where its patient is, or left out of the
    test cases of an unseen site.

    Raises:
        AmosError: nothing would train.
    """
    held = set(hold_out)
    division = Division()
    free: list[LabelledCase] = []
    moved: list[LabelledCase] = []
    for case in sorted(cases, key=lambda c: c.amos_id):
        fixed = _fixed_split(case, protocol)
        unseen = case.site in held or (protocol == "public" and case.site == "F")
        if unseen and fixed != "test":
            moved.append(case)
        elif fixed is None:
            free.append(case)
        else:
            division.splits[case.amos_id] = fixed
    patients = {case.amos_id: case.patient for case in cases}
    training = {patients[i] for i, split in division.splits.items() if split == "train"}
    validating = {patients[i] for i, split in division.splits.items() if split == "val"}
    # Under `public` a drawn case can follow its patient to the test split; under `paper` it trains or validates.
    elsewhere = training | validating | {case.patient for case in free if protocol == "paper"}
    for case in moved:
        if case.patient in elsewhere:
            division.left_out.add(case.amos_id)
        else:
            division.splits[case.amos_id] = "test"
    if division.left_out:
        division.notes.append(
            f"left out, because their patients train or validate at another site: {case_names(division.left_out)}"
        )
    if protocol == "paper":
        _draw_prisma(free, training, validating, division)
    elif protocol == "public":
        testing = {case.patient for case in moved if division.splits.get(case.amos_id) == "test"}
        _divide_validation(free, training, testing, division)
    if "train" not in division.splits.values():
        raise AmosError("no labelled training case is left; check --hold-out and that imagesTr and labelsTr are there")
    division.splits = dict(sorted(division.splits.items()))
    division.notes += _on_both_sides(division.splits, patients)
    return division


def _fixed_split(case: LabelledCase, protocol: Protocol) -> Split | None:
    """The split that the protocol fixes for a case, or None if it is drawn."""
    if protocol == "release":
        return "train" if case.part == "Tr" else "test"
    if protocol == "public":
        return "train" if case.part == "Tr" else None
    if case.site in UNSEEN_IN_PAPER:
        return "test"
    if case.site == "H":
        return "train"
    if case.site == "G":
        return "test" if case.record.institution == "center" else None
    return _SPLIT_OF_PART[case.part]


def _draw_prisma(free: list[LabelledCase], training: set[str], validating: set[str], division: Division) -> None:
    """Draw Table 2's 33 training and 20 validation cases of the Prisma, in that proportion if some are absent."""
    if not free:
        return
    train, val, _ = SCANNERS["G"].table2
    groups = _by_patient(free)
    wanted = round(len(free) * val / (train + val))
    fixed = [g for g in groups if g[0].patient in training | validating]
    already = [c for group in fixed for c in group if c.patient not in training]
    drawn = {c.amos_id for c in already}
    drawn |= _draw([g for g in groups if g not in fixed], max(0, wanted - len(already)), "paper")
    for case in free:
        division.splits[case.amos_id] = "val" if case.amos_id in drawn else "train"
    division.notes.append(
        f"ours: which of the {len(free)} Prisma cases of the People's Hospital train ({len(free) - len(drawn)}) and "
        f"which validate ({len(drawn)}) is in no release; it is drawn here, the same for everyone, by patient"
    )


def _divide_validation(free: list[LabelledCase], training: set[str], testing: set[str], division: Division) -> None:
    """Half of each site's released validation cases (rounded down) validate, the others test, by patient."""
    wanted = {site: count // 2 for site, count in Counter(case.site for case in free).items()}
    per_site: dict[str, list[list[LabelledCase]]] = defaultdict(list)
    for group in _by_patient(free):
        patient, sites = group[0].patient, {case.site for case in group}
        if patient in training or patient in testing:
            # A patient with a training case must not be tested on.
            split: Split = "val" if patient in training else "test"
        elif len(sites) > 1:
            split = "val" if _order(group, "public") % 2 else "test"
        else:
            per_site[sites.pop()].append(group)
            continue
        for case in group:
            division.splits[case.amos_id] = split
            wanted[case.site] -= split == "val"
    for site, groups in sorted(per_site.items()):
        drawn = _draw(groups, max(0, wanted[site]), "public")
        for case in (case for group in groups for case in group):
            division.splits[case.amos_id] = "val" if case.amos_id in drawn else "test"
    if free:
        division.notes.append(
            "ours: imagesVa is divided by patient into val and test, half and half per scanner; the draw is the same "
            "for everybody"
        )


def _by_patient(cases: Iterable[LabelledCase]) -> list[list[LabelledCase]]:
    groups: dict[str, list[LabelledCase]] = defaultdict(list)
    for case in cases:
        groups[case.patient].append(case)
    return list(groups.values())


def _order(group: list[LabelledCase], protocol: Protocol) -> int:
    return derived_seed(0, "amos22", protocol, min(case.amos_id for case in group))


def _draw(groups: list[list[LabelledCase]], wanted: int, protocol: Protocol) -> set[int]:
    """Draw whole groups with `wanted` cases in total, or the nearest lower number possible; returns their ids.

    The order of groups depends only on their own ids, so that an absent case changes little for the others.
    """
    groups = sorted(groups, key=lambda group: _order(group, protocol))
    # reachable[i] has bit n set when some of groups[i:] hold n cases together.
    reachable = [1]
    for group in reversed(groups):
        reachable.append(reachable[-1] | reachable[-1] << len(group))
    reachable.reverse()
    while not reachable[0] >> wanted & 1:
        wanted -= 1
    drawn: set[int] = set()
    for i, group in enumerate(groups):
        rest = wanted - len(group)
        if rest >= 0 and reachable[i + 1] >> rest & 1:
            drawn |= {case.amos_id for case in group}
            wanted = rest
    return drawn


def _on_both_sides(splits: dict[int, Split], patients: dict[int, str]) -> list[str]:
    """One note per patient in several splits; only a release or the paper causes this."""
    of_patient: dict[str, list[int]] = defaultdict(list)
    for amos_id in splits:
        of_patient[patients[amos_id]].append(amos_id)
    return [
        f"one patient on both sides, as released: {', '.join(f'{case_names([i])} ({splits[i]})' for i in ids)}"
        for ids in of_patient.values()
        if len({splits[i] for i in ids}) > 1
    ]
