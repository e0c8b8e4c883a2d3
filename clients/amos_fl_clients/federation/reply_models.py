"""Models of a site's replies, one for each kind, with bounds.

A site checks its reply against them before sending, the server on arrival. Replies are not built from them but from
plain values, so that the check catches mistakes in making them. `against` compares a reply with the request and with
the site's description.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from flwr.app import ConfigRecord, Error, Message, MetricRecord
from pydantic import AfterValidator, Field, ValidationError, model_validator

from amos_fl.cohort.table import Split
from amos_fl.invalid import what_is_wrong
from amos_fl.methods.base import VAL_AFTER, VAL_BEFORE
from amos_fl.planning.fingerprint import EXTENT_BIN_MM, HU_RANGE, SHAPE_BIN, SPACING_BINS_PER_MM, Fingerprint
from amos_fl.runs.evaluation import MOST_CASES, Count, Modalities, Name, Seconds, SiteScores, Strict, each_once
from amos_fl.strict_json import parsed
from amos_fl_clients.federation.messages import ARRAYS, DESCRIBE, FINGERPRINT, METRICS, RESTARTED, SITE
from amos_fl_clients.federation.state import ALL_LOST

MOST_STEPS = 10**9
MOST_LOSS = 1e39
"""Beyond what single precision can hold."""
MOST_VOXELS_OF_A_CASE = 1 << 31
MOST_VALUES = MOST_CASES * MOST_VOXELS_OF_A_CASE
LEAST_SPACING_MM, MOST_SPACING_MM, MOST_VOXELS, MOST_EXTENT_MM = 0.05, 50, 4096, 4000
"""Bounds of a scan of the body; planning takes long if values are far beyond."""
MOST_BYTES = {"description": 1 << 16, "fingerprint": 8 << 20, "scores": 1 << 20, "modalities": 100, "failure": 1 << 14}
"""The longest text, before it is parsed; that of single cases has room for all cases of the site."""
CASE_BYTES, ORGAN_BYTES = 1200, 300


class BadReply(Exception):  # noqa: N818 - said of a site's reply, and caught there
    """A reply does not fit, and why, in our own words only."""


@dataclass(frozen=True)
class Asked:
    """What is known of the answering site. `described` is its description; None if it has not been asked yet.

    `steps` and `weight` are of a request to train, which may end before its steps where it is `timed`; `reports` are
    what its method has sites report. `split` is of a request to evaluate.
    """

    organs: Mapping[int, str]
    site: str | None = None
    described: "Description | None" = None
    steps: int | None = None
    timed: bool = False
    weight: int | None = None
    reports: tuple[str, ...] = ()
    split: Split | None = None

    @property
    def cases(self) -> int | None:
        """The cases that the site described in the split."""
        return None if self.described is None or self.split is None else self.described.cases[self.split]


Organs = Annotated[list[Annotated[int, Field(ge=1, le=255)]], Field(max_length=255), AfterValidator(each_once)]


REPORTED = 1000
"""The code of Flower's error replies whose reason is a `Failure`; Flower's own codes are smaller."""
MOST_SENTENCE = 500
"""The most characters of a failure's sentence."""


class Failure(Strict):
    """Why a site does not answer a request: a sentence for people, and one of `amos_fl.errors.Code` for the server.

    A code that the server does not know, perhaps from a newer site, counts as a general failure.
    """

    site: Name
    code: Annotated[str, Field(pattern=r"^[a-z-]{1,40}$")]
    sentence: Annotated[str, Field(max_length=MOST_SENTENCE)]


def read_failure(error: Error) -> Failure | None:
    """A site's failure from an error reply; None if the error is Flower's own, or does not fit."""
    if error.code != REPORTED:
        return None
    try:
        return Failure.model_validate(parsed(error.reason or "", most_bytes=MOST_BYTES["failure"]))
    except ValueError:  # a ValidationError is one
        return None


class Description(Strict):
    """A site's description of itself: mainly the numbers of its labelled cases per split.

    `annotated` are the organs annotated in any of these cases, `annotated_in_training` those in its training cases.
    `synthetic` says that its scans are a phantom's, so that their scores are not taken for patients'.
    """

    site: Name
    modalities: Modalities
    cases: Annotated[dict[Split, Count], Field(min_length=3, max_length=3)]
    annotated: Organs
    annotated_in_training: Organs = Field(default_factory=list)
    synthetic: bool = False

    @model_validator(mode="after")
    def _can_be(self) -> "Description":
        some = any(self.cases.values())
        if some != bool(self.modalities) or (self.annotated and not some):
            raise ValueError("cases, modalities and annotated organs contradict one another")
        if not set(self.annotated_in_training) <= set(self.annotated):
            raise ValueError("an organ is annotated in its training cases and in none of its cases")
        if self.annotated_in_training and not self.cases["train"]:
            raise ValueError("an organ is annotated in training cases that it does not have")
        return self


class DescribeReply(Strict):
    site: Name
    description: Description

    def against(self, asked: Asked) -> str | None:
        if self.description.site != self.site:
            return "its description belongs to another site"
        if self.description.modalities and not set(self.description.annotated) & set(asked.organs):
            return "none of the organs of this run is annotated in its cases"
        return None


class WireHistogram(Strict):
    """A histogram as transmitted: its keys are JSON texts."""

    counts: dict[Annotated[str, Field(pattern=r"^-?(0|[1-9][0-9]{0,4})$")], Annotated[int, Field(ge=1, le=MOST_VALUES)]]
    withheld: Annotated[int, Field(ge=0, le=MOST_VALUES)]

    @property
    def total(self) -> int:
        return sum(self.counts.values()) + self.withheld

    def lies_within(self, low: int, high: int, step: int = 1) -> bool:
        return all(low <= int(value) <= high and int(value) % step == 0 for value in self.counts)


_SPACING_BINS = (round(LEAST_SPACING_MM * SPACING_BINS_PER_MM), MOST_SPACING_MM * SPACING_BINS_PER_MM)
Axes = Annotated[list[WireHistogram], Field(min_length=3, max_length=3)]


class WireGroup(Strict):
    """The cases of one modality, as transmitted."""

    cases: Count
    spacing: Axes
    shape: Axes
    extent_mm: Axes
    intensity: WireHistogram

    @model_validator(mode="after")
    def _can_be(self) -> "WireGroup":
        if any(axis.total != self.cases for axes in (self.spacing, self.shape, self.extent_mm) for axis in axes):
            raise ValueError("a histogram counts a different number of cases")
        if not (
            all(axis.lies_within(*_SPACING_BINS) for axis in self.spacing)
            and all(axis.lies_within(SHAPE_BIN, MOST_VOXELS, SHAPE_BIN) for axis in self.shape)
            and all(axis.lies_within(EXTENT_BIN_MM, MOST_EXTENT_MM, EXTENT_BIN_MM) for axis in self.extent_mm)
            and self.intensity.lies_within(*HU_RANGE)
        ):
            raise ValueError("a value is outside what a scan can have")
        if self.intensity.total > self.cases * MOST_VOXELS_OF_A_CASE:
            raise ValueError("there are more intensities than its cases have voxels")
        return self


class WireFingerprint(Strict):
    """A fingerprint as transmitted."""

    CT: WireGroup
    MR: WireGroup

    @model_validator(mode="after")
    def _can_be(self) -> "WireFingerprint":
        if self.MR.intensity.total:
            raise ValueError("MR has no intensities to report")
        return self


class FingerprintReply(Strict):
    site: Name
    fingerprint: WireFingerprint

    def against(self, asked: Asked) -> str | None:
        if asked.described is not None:
            groups = {"CT": self.fingerprint.CT.cases, "MR": self.fingerprint.MR.cases}
            if sum(groups.values()) != asked.described.cases["train"]:
                return "its fingerprint covers a different number of cases than it described"
            if not {name for name, cases in groups.items() if cases} <= set(asked.described.modalities):
                return "its fingerprint covers a modality that it did not describe"
        return None

    @property
    def told(self) -> Fingerprint:
        """The fingerprint in the reply."""
        return Fingerprint.model_validate(self.fingerprint.model_dump())


ValidationLoss = Annotated[float, Field(ge=-MOST_LOSS, le=MOST_LOSS)]


class TrainReply(Strict):
    """The values sent with an update; its arrays are checked separately, against the network's."""

    site: Name
    weight: Annotated[int, Field(alias="num-examples", ge=1, le=MOST_STEPS)]
    cases: Count
    steps: Annotated[int, Field(ge=0, le=MOST_STEPS)]
    # The mean over no steps is NaN.
    train_loss: Annotated[float, Field(allow_inf_nan=True)]
    seconds: Seconds
    restarted: Annotated[int, Field(ge=1, le=ALL_LOST)] | None = None
    val_loss_before: ValidationLoss | None = None
    val_loss_after: ValidationLoss | None = None

    @property
    def reports(self) -> dict[str, float]:
        """What it reports for the run's method."""
        return self.model_dump(include={VAL_BEFORE, VAL_AFTER}, exclude_none=True)

    @model_validator(mode="after")
    def _can_be(self) -> "TrainReply":
        if self.steps and not abs(self.train_loss) <= MOST_LOSS:
            raise ValueError("train_loss is not finite")
        if not self.steps and self.train_loss == self.train_loss:
            raise ValueError("train_loss is given though no step was taken")
        return self

    def against(self, asked: Asked) -> str | None:
        if asked.steps is not None and (self.steps > asked.steps or (self.steps < asked.steps and not asked.timed)):
            return f"it claims {self.steps} steps, and {asked.steps} were asked for"
        if asked.described is not None and self.cases != asked.described.cases["train"]:
            return f"it claims {self.cases} training cases, and described {asked.described.cases['train']}"
        if asked.weight is not None and self.weight != asked.weight:
            return f"its update claims a weight of {self.weight}, and {asked.weight} was agreed"
        if self.reports and set(self.reports) != set(asked.reports):
            return "it reports other numbers than the run's method asks for"
        if self.reports and asked.described is not None and not asked.described.cases["val"]:
            return "it reports losses on validation cases, and described none"
        return None


class EvaluateReply(SiteScores):
    site: Name
    weight: Annotated[int, Field(alias="num-examples", ge=0, le=MOST_CASES)]
    seconds: Seconds

    def against(self, asked: Asked) -> str | None:
        if self.weight != self.scores.cases:
            return "its scores cover a different number of cases than it says"
        organs = {str(organ) for organ in asked.organs}
        if asked.described is not None:
            if asked.cases not in (None, self.weight):
                return f"its scores are of {self.weight} cases, and it described {asked.cases}"
            if not set(self.modalities) <= set(asked.described.modalities):
                return "its scores cover a modality that it did not describe"
            organs &= {str(organ) for organ in asked.described.annotated}
        if not set(self.scores.organs).union(*(case.scores for case in self.cases)) <= organs:
            return "its scores include an organ that this run does not ask for or that is not annotated there"
        if not self.adds_up(asked.organs):
            return "its sums contradict its cases"
        return None


Reply = DescribeReply | FingerprintReply | TrainReply | EvaluateReply
OneReply = TypeVar("OneReply", DescribeReply, FingerprintReply, TrainReply, EvaluateReply)
MODELS: dict[str, type[Reply]] = {
    DESCRIBE: DescribeReply,
    FINGERPRINT: FingerprintReply,
    "train": TrainReply,
    "evaluate": EvaluateReply,
}
OPTIONAL = {RESTARTED, VAL_BEFORE, VAL_AFTER}
NUMBERS = {"num-examples", "cases", "steps", "train_loss", "seconds", *OPTIONAL}
"""The keys of `metrics`, except the `cases` of an evaluation, which are a text."""


def numbers_and_texts(model: type[Reply]) -> tuple[set[str], set[str]]:
    """The keys of a reply's two records of values.

    >>> sorted(numbers_and_texts(EvaluateReply)[1])
    ['cases', 'modalities', 'scores', 'site']
    """
    keys = {field.alias or name for name, field in model.model_fields.items()}
    numbers = {"num-examples", "seconds"} & keys if model is EvaluateReply else NUMBERS & keys
    return numbers, keys - numbers


def read_reply(reply: Message, model: type[OneReply], asked: Asked) -> OneReply:
    """The values in a reply.

    Raises:
        BadReply: it is of the wrong kind, or has forbidden, missing or impossible values.
    """
    kind = next(kind for kind, of in MODELS.items() if of is model)
    if not reply.has_content() or reply.metadata.message_type != kind:
        raise BadReply("it answers a different request")
    records: dict[str, Any] = dict(reply.content)
    kinds: dict[str, type] = {METRICS: MetricRecord, SITE: ConfigRecord}
    _expect(set(records), {*kinds, *({ARRAYS} if model is TrainReply else ())}, "record")
    if not all(isinstance(records[name], of) for name, of in kinds.items()):
        raise BadReply("the kind of a record does not match its name")
    numbers, texts = numbers_and_texts(model)
    values = _values(records[METRICS], numbers, "number")
    said = _values(records[SITE], texts, "text")
    if type(said["site"]) is not str or asked.site not in (None, said["site"]):
        raise BadReply("it names another site")
    for key in texts - {"site"}:
        values[key] = _parsed(key, said[key], asked)
    try:
        found = model.model_validate({**values, "site": said["site"]})
    except ValidationError as error:
        raise BadReply(f"it does not fit: {what_is_wrong(error, model)}") from None
    if why := found.against(asked):
        raise BadReply(why)
    return found


def claimed_site(reply: Message) -> str | None:
    """The site that a reply claims to be from, whatever else is in it; None if that is not a valid name."""
    try:
        return _Claim.model_validate({"site": dict(reply.content)[SITE]["site"]}).site  # pyright: ignore
    except (ValidationError, KeyError, TypeError, ValueError):
        return None


class _Claim(Strict):
    site: Name


def _expect(found: set[str], expected: set[str], what: str) -> None:
    if found - expected:  # without its name, which might carry information
        raise BadReply(f"it holds a {what} that is not on the list")
    if expected - found:
        raise BadReply(f"the {what} {min(expected - found)} is not in it")


def _values(record: Mapping[str, Any], expected: set[str], what: str) -> dict[str, Any]:
    found = dict(record)
    _expect(set(found) | (expected & OPTIONAL), expected, what)
    return found


def _parsed(key: str, text: Any, asked: Asked) -> Any:
    if type(text) is not str:
        raise BadReply(f"{key} is not text")
    try:
        return parsed(text, most_bytes=most_bytes(key, asked))
    except ValueError as error:
        raise BadReply(f"{key}: {error}") from None


def most_bytes(key: str, asked: Asked) -> int:
    """The longest text allowed under a key."""
    if key in MOST_BYTES:
        return MOST_BYTES[key]
    cases = MOST_CASES if asked.cases is None else asked.cases
    return 100 + cases * (CASE_BYTES + ORGAN_BYTES * len(asked.organs))
