"""Compare a cohort's counts with Table 2 of the paper, with the reason for every difference."""

from collections.abc import Iterable

from amos_fl.cohort.protocols import Division, LabelledCase, Protocol
from amos_fl.cohort.scanners import SCANNERS, published_cases
from amos_fl.cohort.table import SPLITS

Counts = dict[str, tuple[int, int, int]]
"""Per scanner the numbers of training, validation and test cases."""


def differences_from_table2(
    counts: Counts,
    protocol: Protocol,
    held: tuple[str, ...],
    division: Division,
    usable: list[LabelledCase],
) -> Iterable[str]:
    """One sentence per scanner whose counts are not Table 2's, with the reasons."""
    for site, scanner in SCANNERS.items():
        if counts[site] == scanner.table2:
            continue
        here, paper = (
            ", ".join(f"{name} {n}" for name, n in zip(SPLITS, row, strict=True))
            for row in (counts[site], scanner.table2)
        )
        reasons = [_protocol_reason(protocol, site)] if site not in held else ["held out, so all its cases test"]
        if absent := _absent(site, protocol, usable):
            reasons.append(f"{absent} of its cases are absent or have no label here")
        left_out = sum(case.amos_id in division.left_out for case in usable if case.site == site)
        if left_out:
            reasons.append(f"{left_out} are left out, because their patients train or validate elsewhere")
        yield f"{site}: {here}; Table 2 has {paper}: {'; '.join(r for r in reasons if r) or 'other cases are here'}"


def _protocol_reason(protocol: Protocol, site: str) -> str:
    if protocol == "paper":
        return ""
    if site in "DE":
        return "no public labels"
    if protocol == "release":
        if SCANNERS[site].modality == "CT":
            return "imagesVa is scored as test, imagesTs has no public labels"
        return (
            "the release splits MR differently from Table 2, imagesVa is scored as test, imagesTs has no public labels"
        )
    if site == "F":
        return "only its labelled cases, which the release trains on, are an unseen scanner here"
    if SCANNERS[site].modality == "CT":
        return "imagesVa is divided into val and test, imagesTs has no public labels"
    return "the release splits MR differently from Table 2, imagesVa is divided into val and test"


def _absent(site: str, protocol: Protocol, usable: list[LabelledCase]) -> int:
    """How many of the scanner's published cases the protocol would use but cannot."""
    expected = {
        i
        for i, case in published_cases().items()
        if case.record.domain == site and (protocol == "paper" or case.release_split != "test")
    }
    return len(expected - {case.amos_id for case in usable})
