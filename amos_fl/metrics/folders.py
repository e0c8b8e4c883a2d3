"""Score pairs of files with the functions of a run's own scores, one process per core."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.reference import label_of, reference_of
from amos_fl.errors import AmosError
from amos_fl.metrics.pairs import Pair, Problem
from amos_fl.metrics.scores import BothEmpty, OrganScore, score_case
from amos_fl.metrics.surface import know_surface_areas, surface_areas
from amos_fl.metrics.table import CaseScores
from amos_fl.volumes.nifti import Volume, read_geometry, read_label, reconcile
from amos_fl.volumes.plan import Spacing
from amos_fl.workers import each


@dataclass(frozen=True)
class Rules:
    """How pairs are scored. `organs` are the label values that may occur, `scored` those scored (default: all)."""

    organs: Mapping[int, str] = field(default_factory=lambda: dict(AMOS_ORGANS))
    scored: tuple[int, ...] | None = None
    tolerance_mm: float | Mapping[int, float] = 1.0
    both_empty: BothEmpty = "excluded"


def score_pairs(
    pairs: Sequence[Pair],
    rules: Rules,
    *,
    modalities: Mapping[str, str] | None = None,
    seen_sites: Sequence[str] = (),
    workers: int = 1,
    on_case: Callable[[int, int, str], None] | None = None,
) -> tuple[list[CaseScores], list[Problem]]:
    """The scores of every pair that can be scored, in order, and the problems of the others.

    A missing prediction is scored as an empty one. `modalities` by case, for cases that are in no cohort.
    Each worker holds one case in memory at a time; `on_case(done, total, case)` is called after each.

    Raises:
        AmosError: a worker process died.
    """
    cases: list[CaseScores] = []
    problems: list[Problem] = []
    # Otherwise each process would spend seconds on imports to compute this.
    spacings = _spacings(pairs) if workers > 1 and rules.scored != () else set()
    areas = {spacing: surface_areas(spacing) for spacing in spacings}
    results = each(partial(score_pair, rules=rules), pairs, workers=workers, start=partial(know_surface_areas, areas))
    for done, (pair, result) in enumerate(zip(pairs, results, strict=True), start=1):
        if isinstance(result, Problem):
            problems.append(result)
        else:
            member = pair.member
            where = (
                (member.site, member.modality, member.site in seen_sites, member.split)
                if member is not None
                else ("", (modalities or {}).get(pair.case, ""), False, "")
            )
            cases.append(CaseScores(pair.case, *where, result))
        if on_case is not None:
            on_case(done, len(pairs), pair.case)
    return cases, problems


def score_pair(pair: Pair, rules: Rules) -> dict[int, OrganScore] | Problem:
    """The scores of one pair by label value, on the grid of its label map; or why there are none."""
    scored = tuple(rules.organs) if rules.scored is None else rules.scored
    if pair.member is not None:
        scored = tuple(organ for organ in scored if organ in pair.member.annotated)
    try:
        reference = _reference(pair, rules)
    except AmosError as error:
        return Problem(pair.case, "label", str(error))
    try:
        if pair.prediction is None:
            prediction = np.zeros_like(reference.array)
        else:
            found = read_label(pair.prediction, rules.organs)
            prediction = reconcile(reference, found, pair.prediction.name, ("prediction", "label")).array
    except AmosError as error:
        return Problem(pair.case, "prediction", str(error))
    return score_case(
        prediction,
        reference.array,
        reference.spacing_mm,
        scored,
        rules.tolerance_mm,
        both_empty=rules.both_empty,
        hd95=True,
    )


def _reference(pair: Pair, rules: Rules) -> Volume:
    if pair.own_grid and pair.member is not None:
        organs = tuple(rules.organs)
        return reference_of(pair.member, organs) if pair.member.image.is_file() else label_of(pair.member, organs)
    return read_label(pair.label, rules.organs)


def _spacings(pairs: Sequence[Pair]) -> set[Spacing]:
    found = set()
    for pair in pairs:
        on_scan = pair.own_grid and pair.member is not None and pair.member.image.is_file()
        try:
            shape, affine = read_geometry(
                pair.member.image if on_scan and pair.member else pair.label, header_only=True
            )
        except AmosError:
            continue  # reported when the pair is scored
        found.add(Volume(np.broadcast_to(np.uint8(0), shape), affine).spacing_mm)
    return found
