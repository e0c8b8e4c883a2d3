"""An AMOS22 release as downloaded, read into a cohort."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amos_fl.cohort.metadata import Metadata, builtin_metadata, find_metadata, read_metadata
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.protocols import PROTOCOLS, LabelledCase, Protocol, divide_cases
from amos_fl.cohort.release import Release, ReleaseCase, folders_between, read_release
from amos_fl.cohort.scanners import SCANNERS
from amos_fl.cohort.table import Case, Cohort, Split
from amos_fl.cohort.table2 import Counts, differences_from_table2
from amos_fl.errors import AmosError
from amos_fl.wording import case_name, case_names, counted


@dataclass(frozen=True)
class ImportResult:
    """A cohort made from a release.

    `counts` has the cases per scanner (train, val, test) for all eight scanners; `differences` explains each scanner
    whose counts differ from Table 2; `notes` is everything else a reader should know.
    """

    cohort: Cohort
    protocol: Protocol
    folder: Path
    metadata: Path | None
    counts: Counts
    differences: tuple[str, ...]
    notes: tuple[str, ...]


def import_amos22(
    root: Path, *, protocol: Protocol, hold_out: Sequence[str] = (), metadata: Path | None = None
) -> ImportResult:
    """Turn a release into a cohort under one of the three protocols (see `amos_fl.cohort.protocols`).

    Without `metadata` the metadata table is looked for in `root`, down to the release's folder, and beside `root`; if
    there is none, the built-in list of cases and scanners is used.

    Raises:
        AmosError: no release there, a damaged `dataset.json` or metadata table, test labels that `paper`
            needs, a held-out site that is unknown or has no case, or nothing to train on.
    """
    if protocol not in PROTOCOLS:
        raise AmosError(f"no protocol {protocol!r}", f"there are {', '.join(PROTOCOLS)}")
    root = Path(root)
    release = read_release(root)
    table = metadata or find_metadata(*folders_between(root, release.folder), root.absolute().parent)
    known = read_metadata(table) if table else builtin_metadata()
    notes = [*release.notes, *known.notes]
    if not table:
        notes.append("no metadata table: scanners are taken from the built-in list")
    if absent := known.absent & set(release.cases):
        notes.append(f"not in the metadata table, scanner taken from the built-in list: {case_names(absent)}")
    if not known.knows_patients:
        notes.append("patients cannot be grouped without birth dates; only 13 and 138 are known to be one patient")
    usable, set_aside = _usable(release, known, protocol)
    held = _held_out(hold_out, usable, protocol)
    division = divide_cases(usable, protocol, held)
    notes += [*set_aside, *division.notes]
    cohort = Cohort(tuple(_case(release.cases[i], known, split) for i, split in division.splits.items()))
    counts = {
        site: (found["train"], found["val"], found["test"])
        for site in SCANNERS
        for found in [Counter(case.split for case in cohort.of(site=site))]
    }
    return ImportResult(
        cohort=cohort,
        protocol=protocol,
        folder=release.folder,
        metadata=table,
        counts=counts,
        differences=tuple(differences_from_table2(counts, protocol, held, division, usable)),
        notes=tuple(notes),
    )


def _case(case: ReleaseCase, known: Metadata, split: Split) -> Case:
    site = known.records[case.amos_id].domain
    return Case(
        case=case_name(case.amos_id),
        site=site,
        modality=SCANNERS[site].modality,
        split=split,
        image=case.image,
        label=case.label,
        annotated=tuple(AMOS_ORGANS),
    )


def _usable(release: Release, known: Metadata, protocol: Protocol) -> tuple[list[LabelledCase], list[str]]:
    """The cases with a scanner and a label that the protocol draws on, and notes about the others."""
    notes: list[str] = []
    if unknown := set(release.cases) - set(known.records):
        notes.append(f"no scanner is known for {case_names(unknown)}; left out")
    cases = [case for i, case in release.cases.items() if i in known.records]
    unlabelled = [case for case in cases if case.label is None]
    for part in ("Tr", "Va"):
        if ids := {case.amos_id for case in unlabelled if case.part == part}:
            notes.append(f"labels{part}: {counted(len(ids), 'image')} without label left out: {case_names(ids)}")
    test = [case for case in cases if case.part == "Ts"]
    if protocol == "paper":
        labelled = [case for case in test if case.label is not None]
        if not labelled:
            raise AmosError(
                f"{release.folder}: --protocol paper needs the labels of the test images, and labelsTs has none",
                "use --protocol public or release",
                code="no-test-labels",
            )
        if len(labelled) < len(test):
            without = {case.amos_id for case in test if case.label is None}
            notes.append(
                f"labelsTs: {len(without)} of {len(test)} test images without label left out: {case_names(without)}"
            )
    elif test:
        notes.append(f"imagesTs: {counted(len(test), 'image')} not used, as AMOS's test labels are not public")
    if protocol == "public":
        for site in "DE":
            count = sum(known.records[case.amos_id].domain == site for case in test)
            notes.append(
                f"site {site} ({SCANNERS[site].model}) has no public labels; {counted(count, 'image')} without are here"
            )
    usable = [
        LabelledCase(known.records[case.amos_id], case.part)
        for case in cases
        if case.label is not None and (protocol == "paper" or case.part != "Ts")
    ]
    return usable, notes


def _held_out(hold_out: Iterable[str], usable: list[LabelledCase], protocol: Protocol) -> tuple[str, ...]:
    there = {case.site for case in usable}
    sites = tuple(dict.fromkeys(site.strip().upper() for site in hold_out))
    for site in sites:
        if site not in SCANNERS:
            raise AmosError(f"--hold-out {site}: AMOS has no such scanner", f"there are {', '.join(SCANNERS)}")
        if site not in there:
            raise AmosError(
                f"--hold-out {site}: {SCANNERS[site].model} has no labelled case under --protocol {protocol}",
                f"there are {', '.join(sorted(there))}",
            )
    return sites
