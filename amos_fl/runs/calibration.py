"""`model/calibration.json`: the DSC to be expected of a prediction whose label nobody has, and how well it was hit.

A calibration is learned on validation cases of seen sites alone, and holds no case. `measured.json` beside it says how
well the same calibration did on the run's test cases, seen and unseen, which chose nothing.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file, write_json
from amos_fl.runs.evaluation import Count, Name
from amos_fl.runs.stored import Stored, read_stored

if TYPE_CHECKING:
    from amos_fl.runs.model import Model

CALIBRATION, MEASURED = "calibration.json", "measured.json"
FAILURE = 0.5
"""A DSC below it is a failure."""
FALSE_ALARMS = 0.1
"""The share of organs that did not fail and are flagged all the same, on the validation cases."""
_Share = Annotated[float, Field(ge=0, le=1)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Text = Annotated[str, Field(min_length=1, max_length=100)]
Organs = Annotated[int, Field(ge=0, le=10**7)]


class Interval(Stored):
    """A number with its 95 % bootstrap interval over cases; without one where there are few cases."""

    value: float
    low: float | None = None
    high: float | None = None


class Agreement(Stored):
    """How expected and true DSC agree on the organs of some cases that the prediction found.

    Correlations are None if they are not defined. `error` is the mean distance of both, `bias` the mean of expected
    minus true. `failures` are organs whose true DSC is below `FAILURE`, `sound` the others.
    """

    cases: Count
    organs: Organs
    pearson: Interval | None = None
    spearman: Interval | None = None
    pearson_of_cases: Interval | None = None
    error: float
    bias: float
    failures: Organs
    failures_flagged: Organs
    sound: Organs
    sound_flagged: Organs


class Line(Stored):
    """`intercept` plus each feature times its weight, between 0 and 1."""

    intercept: float
    weights: Annotated[dict[_Text, Annotated[float, Field(ge=0)]], Field(min_length=1, max_length=20)]

    def at(self, features: Mapping[str, float]) -> float:
        """Its value for these features."""
        parts = [weight * features[name] for name, weight in sorted(self.weights.items())]
        return min(1.0, max(0.0, math.fsum([self.intercept, *parts])))


class Calibration(Stored):
    """How to expect a DSC from the features of an organ in a prediction.

    It is of the weights and settings of inference that it names, and of the altered `copies` of a scan. An organ that
    is expected to have a DSC below `flag_below` is flagged. `validation` is how well it does on validation cases that
    were left out when it was learned, each in turn.
    """

    version: Literal[1] = 1
    weights_sha256: _Sha256
    inference: dict[str, Any]
    copies: Annotated[list[_Text], Field(max_length=20)]
    expected_dsc: Line
    flag_below: _Share
    sites: list[Name]
    validation: Agreement


class Measured(Stored):
    """How well a calibration did on test cases: by group (`seen CT`, `unseen MR`; `seen` and `unseen` together).

    `missed` are organs that a case has and its prediction lacks: of them nothing is expected, and they count nowhere.
    """

    version: Literal[1] = 1
    calibration_sha256: _Sha256
    groups: dict[_Text, Agreement]
    missed: dict[_Text, Organs]


class OrganExpected(Stored):
    """An organ that a prediction found: its volume, the DSC to expect, and whether that is low enough to be flagged."""

    organ: _Text
    volume_ml: Annotated[float, Field(ge=0)]
    expected_dsc: _Share
    flagged: bool


class ScanExpected(Stored):
    """What to expect of a scan's label map; by label value the organs that were found."""

    version: Literal[1] = 1
    calibration_sha256: _Sha256
    flag_below: _Share
    organs: dict[_Text, OrganExpected]

    @property
    def mean(self) -> float:
        """The mean expected DSC of the organs that were found; NaN without any."""
        values = [organ.expected_dsc for organ in self.organs.values()]
        return math.fsum(values) / len(values) if values else math.nan

    def in_words(self) -> str:
        """The mean, and the organs that are flagged."""
        if not self.organs:
            return "no organ found, so no DSC to expect"
        low = sorted((one.expected_dsc, one.organ) for one in self.organs.values() if one.flagged)
        named = ", ".join(f"{organ} {value:.2f}" for value, organ in low)
        return f"expected DSC {self.mean:.2f}" + (
            f"; below {self.flag_below:.2f}, to be checked: {named}" if low else ""
        )


def write_calibration(model: Path, calibration: Calibration) -> None:
    """Write it into a model folder; what was measured of an earlier one goes."""
    write_json(model / CALIBRATION, calibration.model_dump(mode="json", exclude_none=True))
    (model / MEASURED).unlink(missing_ok=True)


def read_calibration(model: "Model") -> Calibration:
    """The calibration of a model.

    Raises:
        AmosError: it has none, or one of other weights, or a damaged one.
    """
    file = model.folder / CALIBRATION
    run = model.folder if model.run is None else model.run.path
    if not file.exists():
        raise AmosError(
            f"{run}: what DSC to expect of its predictions has not been learned yet",
            f"run: amos-fl calibrate {run}{'' if model.run else ' --cohort COHORT'}",
        )
    found: Calibration = read_stored(file, Calibration, f"make it again with: amos-fl calibrate {run}")
    if found.weights_sha256 != model.weights_sha256():
        raise AmosError(f"{file}: is of other weights than the model's", f"make it again with: amos-fl calibrate {run}")
    return found


def calibration_sha256(model: "Model") -> str:
    """The hash of a model's calibration, by which what was made with it is known."""
    return sha256_of_file(model.folder / CALIBRATION)
