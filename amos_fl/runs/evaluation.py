"""Models of an evaluation: scores of weights at each site, as sums and counts, and per case if a site shares them.

They are used for the files in a run's `evaluations/` and for sites' answers, and reject impossible values: an organ's
counts are at most the cases, its sums at most what the counts allow, and single cases, if shared, add up to the sums.
"""

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import Modality, Split, plain_name, read_organs
from amos_fl.errors import AmosError
from amos_fl.files import MOST_NAME_BYTES
from amos_fl.invalid import what_is_wrong
from amos_fl.metrics.catalogue import FURTHER, stem_of, title_of
from amos_fl.metrics.scores import UNIT, OrganScore, OrganSums, Outcome, Scores, reported_organs
from amos_fl.strict_json import parsed

MOST_CASES = 25_000
"""The most cases of a split at one site: the largest public collection of labelled abdominal scans has 20,460."""
MOST_ORGANS = 255
MOST_ML = 1e6
"""The largest volume of one organ in one case: a scan of a cubic metre."""
MOST_MM = 1e4
MOST_SECONDS = 1e8
MOST_REASON = 2000
MOST_FILE_BYTES = 1 << 30
SET_ASIDE = ".set-aside"
_AGAIN = "continue the run with --resume, which sets the file aside and has the round scored again"


def _name(name: str) -> str:
    if not name or not plain_name(name) or len(name.encode()) > MOST_NAME_BYTES:
        raise ValueError(f"a name is made of letters, digits, '.', '_' and '-', at most {MOST_NAME_BYTES} bytes")
    return name


def each_once(values: list[Any]) -> list[Any]:
    """The values, which must differ from one another."""
    if len(set(values)) < len(values):
        raise ValueError("an entry appears twice")
    return values


Name = Annotated[str, AfterValidator(_name)]
Count = Annotated[int, Field(ge=0, le=MOST_CASES)]
Seconds = Annotated[float, Field(ge=0, le=MOST_SECONDS)]
Score = Annotated[float, Field(ge=0, le=1)] | None
Organ = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,2}$")]
"""A label value, as JSON writes it."""
Modalities = Annotated[list[Modality], Field(max_length=2), AfterValidator(each_once)]
_ScoreSum = Annotated[int, Field(ge=0, le=MOST_CASES * UNIT)]
_VolumeSum = Annotated[int, Field(ge=0, le=int(MOST_CASES * MOST_ML) * UNIT)]
_LengthSum = Annotated[int, Field(ge=0, le=int(MOST_CASES * MOST_MM) * UNIT)]


class Strict(BaseModel):
    """Base model for untrusted data: no conversion, no extra keys, no NaN."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SumsOfOrgan(Strict):
    """Sums over the cases of one organ; the fields are those of `amos_fl.metrics.scores.OrganSums`."""

    dsc_sum: _ScoreSum
    nsd_sum: _ScoreSum
    counted: Count
    scored: Count
    missed: Count
    hallucinated: Count
    absent: Count
    hd95_sum: _LengthSum = 0
    hd95_counted: Count = 0
    reference_ml_sum: _VolumeSum = 0
    predicted_ml_sum: _VolumeSum = 0
    volume_error_sum: _VolumeSum = 0

    @model_validator(mode="after")
    def _can_be(self) -> "SumsOfOrgan":
        outcomes = self.scored + self.missed + self.hallucinated
        if self.counted not in (outcomes, outcomes + self.absent):  # the absent count in FLARE's rule alone
            raise ValueError("the number of cases contradicts the outcomes")
        perfect = (self.counted - self.missed - self.hallucinated) * UNIT
        if max(self.dsc_sum, self.nsd_sum) > perfect:
            raise ValueError("a sum of scores is more than its cases allow")
        for metric in FURTHER:
            total, counted = (getattr(self, f"{stem_of(metric)}_{part}") for part in ("sum", "counted"))
            if counted > self.scored or (total and not counted):
                raise ValueError(f"{title_of(metric)} counts more cases than have the organ in both maps")
        reference, predicted = self.reference_ml_sum, self.predicted_ml_sum
        if (reference and not self.scored + self.missed) or (predicted and not self.scored + self.hallucinated):
            raise ValueError("a volume is given though no case has the organ")
        if not abs(reference - predicted) <= self.volume_error_sum <= reference + predicted:
            raise ValueError("the volume errors contradict the volumes")
        return self


class SumsOfSite(Strict):
    """Sums over a site's cases."""

    cases: Count
    organs: Annotated[dict[Organ, SumsOfOrgan], Field(max_length=MOST_ORGANS)]

    @model_validator(mode="after")
    def _can_be(self) -> "SumsOfSite":
        for sums in self.organs.values():
            if sums.scored + sums.missed + sums.hallucinated + sums.absent > self.cases:
                raise ValueError("an organ has more outcomes than there are cases")
        return self

    def to_scores(self) -> Scores:
        """The sums as scores that can be merged with others."""
        return Scores({int(organ): OrganSums(**vars(sums)) for organ, sums in self.organs.items()}, self.cases)


class ScoreOfOrgan(Strict):
    """One organ in one case; the fields are those of `amos_fl.metrics.scores.OrganScore`, None for NaN."""

    dsc: Score
    nsd: Score
    outcome: Outcome
    reference_ml: Annotated[float, Field(ge=0, le=MOST_ML)]
    predicted_ml: Annotated[float, Field(ge=0, le=MOST_ML)]
    hd95_mm: Annotated[float, Field(ge=0, le=MOST_MM)] | None = None

    @model_validator(mode="after")
    def _can_be(self) -> "ScoreOfOrgan":
        scores = (self.dsc, self.nsd)
        allowed = {
            "scored": None not in scores,
            "missed": scores == (0, 0),
            "hallucinated": scores == (0, 0),
            "absent": scores in ((None, None), (1, 1)),
        }
        further = any(getattr(self, metric) is not None for metric in FURTHER)
        if not allowed[self.outcome] or (further and self.outcome != "scored"):
            raise ValueError("the scores contradict the outcome")
        has = {
            "scored": (True, True),
            "missed": (True, False),
            "hallucinated": (False, True),
            "absent": (False, False),
        }
        if (self.reference_ml > 0, self.predicted_ml > 0) != has[self.outcome]:
            raise ValueError("the volumes contradict the outcome")
        return self


class ScoresOfCase(Strict):
    """The scores of one case, under the name that the site gives it."""

    case: Name
    modality: Modality
    scores: Annotated[dict[Organ, ScoreOfOrgan], Field(max_length=MOST_ORGANS)]

    def by_organ(self) -> dict[int, OrganScore]:
        """The scores by label value, in its order."""
        found: dict[int, OrganScore] = {}
        for organ in sorted(self.scores, key=int):  # JSON's keys are sorted as text
            score = vars(self.scores[organ])
            values: dict[str, Any] = {name: math.nan if value is None else value for name, value in score.items()}
            found[int(organ)] = OrganScore(**values)
        return found


class SiteScores(Strict):
    """A site's scores of weights on one split; without `cases` if it withholds them."""

    modalities: Modalities
    scores: SumsOfSite
    cases: Annotated[list[ScoresOfCase], Field(max_length=MOST_CASES)]

    @model_validator(mode="after")
    def _can_be(self) -> "SiteScores":
        if bool(self.modalities) != bool(self.scores.cases):
            raise ValueError("cases and modalities contradict each other")
        if self.cases:
            each_once([case.case for case in self.cases])
            if len(self.cases) != self.scores.cases:
                raise ValueError("the number of cases does not match the sums")
            if {case.modality for case in self.cases} != set(self.modalities):
                raise ValueError("the modalities differ from those of the cases")
        return self

    def adds_up(self, organs: Mapping[int, str], *, older: bool = False) -> bool:
        """Whether the single cases, if shared, have these sums.

        With `older` a kind of sum that is not stated, as by a version that did not know it, is not missed.
        """
        if not self.cases:
            return True
        total = Scores()
        for case in self.cases:
            reported = reported_organs(organs, case.modality)
            total.add({organ: score for organ, score in case.by_organ().items() if organ in reported})
        if not older or set(total.organs) != {int(organ) for organ in self.scores.organs}:
            return total == self.scores.to_scores()
        return all(
            getattr(sums, part) == getattr(total.organs[int(organ)], part)
            for organ, sums in self.scores.organs.items()
            for part in sums.model_fields_set
        )


class SiteEvaluation(SiteScores):
    """A site's scores in an evaluation, with the split and whether its scanner was trained on."""

    seen: bool
    split: Split
    seconds: Seconds


class Evaluation(Strict):
    """The scores of a round's weights at each site, and the missing sites with the reasons."""

    round: Annotated[int, Field(ge=0, le=10**9)]
    sites: dict[Name, SiteEvaluation]
    missing: dict[Name, Annotated[str, Field(max_length=MOST_REASON)]]

    @model_validator(mode="after")
    def _can_be(self) -> "Evaluation":
        if set(self.sites) & set(self.missing):
            raise ValueError("a site is among the scores and among the missing")
        return self


def read_evaluation_file(file: Path, round_number: int) -> Evaluation:
    """The evaluation in a file of a run, below the run's folder.

    Raises:
        AmosError: it cannot be read, holds impossible values, or its cases do not add up to its sums.
    """
    try:
        about = file.stat()
        fresh = _checked(file, round_number, about.st_mtime_ns, about.st_size)
        with suppress(IndexError):
            return fresh.pop()
        return Evaluation.model_validate_json(file.read_bytes())
    except OSError as error:
        raise AmosError(f"{file}: cannot be read ({error.strerror})") from None


@lru_cache(maxsize=4096)  # pages and choices read every evaluation many times, and an old one never changes
def _checked(file: Path, round_number: int, changed_ns: int, size: int) -> list[Evaluation]:
    """A checked file's evaluation, for the first reader to take out; later ones parse the file by faster means.

    It is not held longer, because the evaluations of many rounds at many sites would fill the memory.
    """
    try:
        found = Evaluation.model_validate(parsed(file.read_bytes(), most_bytes=MOST_FILE_BYTES))
        if found.round != round_number:
            raise ValueError("it is of another round")
    except ValidationError as error:
        why = what_is_wrong(error, Evaluation)
    except ValueError as error:
        why = str(error)
    else:
        organs = stored_organs(file.parents[1])
        if all(site.adds_up(organs, older=True) for site in found.sites.values()):
            return [found]
        what = "the scores of its cases do not add up to its sums; it was changed after it was written"
        raise AmosError(f"{file}: {what}", f"put it back, from another copy of the run perhaps, or {_AGAIN}")
    raise AmosError(f"{file}: holds impossible scores ({why})", f"{_AGAIN}, or move it away")


def stored_organs(run: Path) -> dict[int, str]:
    """The organs of the run in a folder, by label value."""
    beside = run / "organs.csv"
    return read_organs(beside) if beside.is_file() else dict(AMOS_ORGANS)


def set_aside(file: Path) -> Path:
    """Rename a file so that it is not read again; returns its new path."""
    number = 0
    aside = file.with_name(file.name + SET_ASIDE)
    while aside.exists():
        number += 1
        aside = file.with_name(f"{file.name}{SET_ASIDE}-{number}")
    os.replace(file, aside)
    return aside
