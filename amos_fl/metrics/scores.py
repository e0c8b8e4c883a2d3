"""Scores per organ of a case on the scan's own grid, and their sums over cases.

The presence rule: an organ that neither the prediction nor the reference has is `absent` and does not count
(NaN); one that only the reference has is `missed`, one that only the prediction has is `hallucinated`, and
both score 0. An organ's mean is over the cases that count, and the mean over organs is the mean of these means
(AMOS paper, section 3.3). See `docs/scores.md`.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
from jaxtyping import Integer
from scipy import ndimage

from amos_fl.cohort.organs import AMOS_ORGANS, NOT_REPORTED_IN_MR
from amos_fl.errors import AmosError
from amos_fl.metrics.catalogue import FURTHER, METRICS, MetricName, stem_of
from amos_fl.metrics.overlap import dsc
from amos_fl.metrics.surface import checked_spacing, checked_tolerance, nsd_of_crops
from amos_fl.volumes.plan import Spacing

Outcome = Literal["scored", "missed", "hallucinated", "absent"]
OUTCOMES: tuple[Outcome, ...] = ("scored", "missed", "hallucinated", "absent")
BothEmpty = Literal["excluded", "one"]
UNIT = 2**40
"""Scores are summed in whole multiples of 1/UNIT, so that the order of cases or sites does not change a sum."""


@dataclass(frozen=True, eq=False)
class OrganScore:
    """One organ in one case. `dsc` and `nsd` lie between 0 and 1, or are NaN if the organ does not count.

    `hd95_mm` is NaN if it was not measured, or is undefined because prediction or reference lacks the organ. Two scores
    are equal where the same of their numbers are NaN and the others are equal.
    """

    dsc: float
    nsd: float
    outcome: Outcome
    reference_ml: float
    predicted_ml: float
    hd95_mm: float = math.nan

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OrganScore):
            return NotImplemented
        return self._comparable == other._comparable

    def __hash__(self) -> int:
        return hash(self._comparable)

    @property
    def _comparable(self) -> tuple[float | str | None, ...]:
        numbers = (self.dsc, self.nsd, self.reference_ml, self.predicted_ml, self.hd95_mm)
        return (self.outcome, *(None if math.isnan(number) else number for number in numbers))

    @property
    def volume_error_ml(self) -> float:
        """The predicted volume minus the reference's: positive if too much was predicted."""
        return self.predicted_ml - self.reference_ml


def score_case(
    prediction: Integer[np.ndarray, "x y z"],
    reference: Integer[np.ndarray, "x y z"],
    spacing_mm: Sequence[float],
    organs: Iterable[int],
    tolerance_mm: float | Mapping[int, float] = 1.0,
    *,
    both_empty: BothEmpty = "excluded",
    hd95: bool = False,
) -> dict[int, OrganScore]:
    """Score the label map of a case against its reference, on the scan's own grid.

    Args:
        prediction: label values, in the same axis order as `spacing_mm`.
        reference: label values on the same grid.
        organs: the label values that were annotated in this case; others are not looked at.
        tolerance_mm: of the NSD, one for all organs or one per organ.
        both_empty: what an organ scores that neither map has: nothing (`excluded`), or 1 (`one`, as in FLARE).
        hd95: whether to measure HD95 too, which takes about as long as DSC and NSD together, and any other metric that
            runs leave out.

    Raises:
        AmosError: maps of different shapes, or an invalid spacing, tolerance or label value.
    """
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise AmosError(
            f"the prediction is {prediction.shape}, the reference {reference.shape}; they must share one 3D grid"
        )
    organs = sorted(set(organs))
    for name, labels in (("prediction", prediction), ("reference", reference)):
        if labels.dtype.kind not in "iu":
            raise AmosError(f"the {name} holds {labels.dtype} values; a label map holds whole numbers")
    if organs and organs[0] < 1:
        raise AmosError(f"{organs[0]} is not an organ's label value; they are 1 or more, 0 is the background")
    spacing = checked_spacing(spacing_mm)
    if not isinstance(tolerance_mm, Mapping):
        tolerance_mm = dict.fromkeys(organs, tolerance_mm)
    elif missing := set(organs) - set(tolerance_mm):
        raise AmosError(f"no NSD tolerance for organ {min(missing)}; give one per organ, or one for all")
    tolerances = {organ: checked_tolerance(tolerance_mm[organ]) for organ in organs}
    boxes = [_boxes(labels, max(organs, default=1)) for labels in (prediction, reference)]
    scores = {}
    for organ in organs:
        box = _around([found[organ - 1] for found in boxes])
        predicted, real = prediction[box] == organ, reference[box] == organ
        scores[organ] = _score_organ(predicted, real, spacing, tolerances[organ], both_empty, hd95)
    return scores


def _score_organ(
    predicted: np.ndarray, real: np.ndarray, spacing: Spacing, tolerance_mm: float, both_empty: BothEmpty, hd95: bool
) -> OrganScore:
    in_prediction, in_reference = (int(np.count_nonzero(mask)) for mask in (predicted, real))
    voxel_ml = spacing[0] * spacing[1] * spacing[2] / 1000
    volumes_ml = {"reference_ml": in_reference * voxel_ml, "predicted_ml": in_prediction * voxel_ml}
    if not in_prediction and not in_reference:
        score = 1.0 if both_empty == "one" else math.nan
        return OrganScore(score, score, "absent", **volumes_ml)
    if not in_prediction or not in_reference:
        return OrganScore(0.0, 0.0, "missed" if in_reference else "hallucinated", **volumes_ml)
    nsd = nsd_of_crops(predicted, real, spacing, tolerance_mm)
    further: dict[MetricName, float] = {}
    for name in FURTHER:
        metric = METRICS[name]
        if metric.measure is not None and (metric.in_runs or hd95):
            further[name] = metric.measure(predicted, real, spacing)
    return OrganScore(dsc(predicted, real), nsd, "scored", **volumes_ml, **further)


def _boxes(labels: np.ndarray, most: int) -> list[tuple[slice, ...] | None]:
    """The box around each label value from 1 to `most`, None if it does not occur."""
    if np.isfortran(labels):  # as nibabel gives them: five times as fast when read in memory order
        return [box and box[::-1] for box in ndimage.find_objects(labels.T, max_label=most)]
    return ndimage.find_objects(labels, max_label=most)


def _around(boxes: Sequence[tuple[slice, ...] | None]) -> tuple[slice, ...]:
    found = [box for box in boxes if box is not None]
    if not found:
        return (slice(0, 0),) * 3
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*found, strict=True)
    )


@dataclass
class OrganSums:
    """Sums over the cases of one organ, in whole multiples of 1/UNIT.

    `counted` cases are in the sums of DSC and NSD, `hd95_counted` in that of HD95 (in mm); volumes are in ml.
    """

    dsc_sum: int = 0
    nsd_sum: int = 0
    counted: int = 0
    scored: int = 0
    missed: int = 0
    hallucinated: int = 0
    absent: int = 0
    hd95_sum: int = 0
    hd95_counted: int = 0
    reference_ml_sum: int = 0
    predicted_ml_sum: int = 0
    volume_error_sum: int = 0
    """The sum of absolute errors; that of the signed ones is the difference of the volumes."""

    def add(self, other: "OrganSums") -> None:
        """Add the sums of other cases, in place."""
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))

    @classmethod
    def of(cls, score: OrganScore) -> "OrganSums":
        """The sums of one case."""
        counts, further = not math.isnan(score.dsc), {}
        for name in FURTHER:
            value, stem = getattr(score, name), stem_of(name)
            measured = not math.isnan(value)
            further |= {f"{stem}_sum": round(value * UNIT) if measured else 0, f"{stem}_counted": int(measured)}
        reference, predicted = round(score.reference_ml * UNIT), round(score.predicted_ml * UNIT)
        return cls(
            dsc_sum=round(score.dsc * UNIT) if counts else 0,
            nsd_sum=round(score.nsd * UNIT) if counts else 0,
            counted=int(counts),
            reference_ml_sum=reference,
            predicted_ml_sum=predicted,
            volume_error_sum=abs(predicted - reference),
            **further,
            **{score.outcome: 1},
        )

    def of_metric(self, metric: MetricName) -> tuple[int, int]:
        """The sum of a metric, and of how many cases it is."""
        stem = stem_of(metric)
        return getattr(self, f"{stem}_sum"), getattr(self, f"{stem}_counted" if metric in FURTHER else "counted")

    def mean(self, total: int, present_only: bool) -> float:
        """The mean of a sum over the cases that count, or over those whose reference has the organ; NaN without any."""
        present = self.scored + self.missed
        if present_only:  # hallucinated organs add 0 to a sum, absent ones that count add 1 each
            absent = self.counted - present - self.hallucinated
            return (total - absent * UNIT) / (present * UNIT) if present else math.nan
        return total / (self.counted * UNIT) if self.counted else math.nan


@dataclass
class Scores:
    """Sums and counts per organ over cases, holding no single case. `add` and `merge` change it in place.

    Merging the scores of sites equals adding all their cases, exactly and in any order, because each case's score is
    rounded to 2**-40 (1e-12).

    >>> a = Scores.of([{6: OrganScore(0.9, 0.8, "scored", 1500.0, 1450.0)}])
    >>> b = Scores.of([{6: OrganScore(0.0, 0.0, "missed", 1200.0, 0.0)}])
    >>> round(a.merge(b).mean_dsc(), 6), a.outcomes()["missed"], a.cases
    (0.45, 1, 2)
    """

    organs: dict[int, OrganSums] = field(default_factory=dict)
    cases: int = 0

    @classmethod
    def of(cls, cases: Iterable[Mapping[int, OrganScore]]) -> "Scores":
        """The sums over cases, each as `score_case` returns it."""
        scores = cls()
        for case in cases:
            scores.add(case)
        return scores

    def add(self, case: Mapping[int, OrganScore]) -> "Scores":
        """Add one case, as `score_case` returns it."""
        return self.merge(Scores({organ: OrganSums.of(score) for organ, score in case.items()}, cases=1))

    def merge(self, other: "Scores") -> "Scores":
        """Add the sums and counts of other cases, for instance another site's."""
        for organ, sums in other.organs.items():
            self.organs.setdefault(organ, OrganSums()).add(sums)
        self.cases += other.cases
        return self

    def only(self, organs: Collection[int]) -> "Scores":
        """A copy restricted to some of the organs."""
        return Scores().merge(Scores({o: sums for o, sums in self.organs.items() if o in organs}, self.cases))

    def organ_mean(self, metric: MetricName, organ: int) -> float:
        """An organ's mean of a metric over the cases that count for it; NaN where none does."""
        total, number = self.organs.get(organ, OrganSums()).of_metric(metric)
        return total / (number * UNIT) if number else math.nan

    def mean(self, metric: MetricName) -> float:
        """The mean over organs of their means of a metric; NaN without any case that counts."""
        return _mean(self.organ_mean(metric, organ) for organ in self.organs)

    def dsc(self, organ: int, *, present_only: bool = False) -> float:
        """An organ's mean DSC over its cases; NaN if none counts. See `mean_dsc` for `present_only`."""
        sums = self.organs.get(organ, OrganSums())
        return sums.mean(sums.dsc_sum, present_only)

    def nsd(self, organ: int, *, present_only: bool = False) -> float:
        """An organ's mean NSD over its cases; NaN if none counts."""
        sums = self.organs.get(organ, OrganSums())
        return sums.mean(sums.nsd_sum, present_only)

    def mean_dsc(self, *, present_only: bool = False) -> float:
        """The mean over organs of their mean DSC; NaN without any case that counts.

        With `present_only`, over the cases whose reference has the organ, so hallucinated organs do not count.
        """
        return _mean(self.dsc(organ, present_only=present_only) for organ in self.organs)

    def mean_nsd(self, *, present_only: bool = False) -> float:
        """The mean over organs of their mean NSD; NaN without any case that counts."""
        return _mean(self.nsd(organ, present_only=present_only) for organ in self.organs)

    def hd95_mm(self, organ: int) -> float:
        """An organ's mean HD95 in mm over the cases in which both maps have it; NaN where none was measured."""
        return self.organ_mean("hd95_mm", organ)

    def volume_error_ml(self, organ: int, *, absolute: bool = False) -> float:
        """An organ's mean volume error in ml over the cases in which a map has it; NaN if none has.

        Signed (predicted minus reference, so errors may cancel), or `absolute`.
        """
        sums = self.organs.get(organ, OrganSums())
        cases = sums.scored + sums.missed + sums.hallucinated
        total = sums.volume_error_sum if absolute else sums.predicted_ml_sum - sums.reference_ml_sum
        return total / (cases * UNIT) if cases else math.nan

    def mean_volume_error_ml(self, *, absolute: bool = False) -> float:
        """The mean over organs of their mean volume error in ml; NaN if no map has an organ."""
        return _mean(self.volume_error_ml(organ, absolute=absolute) for organ in self.organs)

    def outcomes(self) -> dict[Outcome, int]:
        """The numbers of organs of cases that were scored, missed, hallucinated and absent."""
        return {name: sum(getattr(sums, name) for sums in self.organs.values()) for name in OUTCOMES}

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON values: whole numbers only, so that nothing is rounded."""
        return {"cases": self.cases, "organs": {str(o): asdict(self.organs[o]) for o in sorted(self.organs)}}


def reported_organs(organs: Mapping[int, str], modality: str) -> tuple[int, ...]:
    """The organs whose scores are reported: in MR without AMOS's bladder and prostate/uterus.

    >>> len(reported_organs(AMOS_ORGANS, "CT")), len(reported_organs(AMOS_ORGANS, "MR"))
    (15, 13)
    """
    left_out = NOT_REPORTED_IN_MR if modality == "MR" and dict(organs) == AMOS_ORGANS else ()
    return tuple(organ for organ in organs if organ not in left_out)


def _mean(values: Iterable[float]) -> float:
    counting = [value for value in values if not math.isnan(value)]
    return math.fsum(counting) / len(counting) if counting else math.nan
