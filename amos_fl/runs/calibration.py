"""`model/calibration.json`: the DSC to be expected of a prediction without a label, and how accurate it was.

A calibration is learned on validation cases of seen sites alone, and holds no case.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from amos_fl.files import write_json
from amos_fl.runs.evaluation import Count, Name
from amos_fl.runs.stored import Stored
from amos_fl.wording import MISSING

CALIBRATION = "calibration.json"
FAILURE = 0.5
"""A DSC below it is a failure."""
FALSE_ALARMS = 0.1
"""The share of organs that did not fail and are flagged all the same, on the validation cases."""
Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Text = Annotated[str, Field(min_length=1, max_length=100)]
AGREEMENT_COLUMNS = ("cases", "organs", "Pearson", "Spearman", "error", "failures flagged", "others flagged")
OrganCount = Annotated[int, Field(ge=0, le=10**7)]


class Interval(Stored):
    """A number with its 95 % bootstrap interval over cases; without one where there are few cases."""

    value: float
    low: float | None = None
    high: float | None = None

    def in_words(self) -> str:
        """The number, and its interval in brackets.

        >>> Interval(value=0.8749, low=0.85, high=0.9).in_words()
        '0.87 [0.85, 0.90]'
        """
        interval = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}{interval}"


class Agreement(Stored):
    """How expected and true DSC agree on the organs of some cases that the prediction found.

    Correlations are None if they are not defined. `error` is the mean distance of both, `bias` the mean of expected
    minus true. `failures` are organs whose true DSC is below `FAILURE`, `sound` the others.
    """

    cases: Count
    organs: OrganCount
    pearson: Interval | None = None
    spearman: Interval | None = None
    pearson_of_cases: Interval | None = None
    error: float
    bias: float
    failures: OrganCount
    failures_flagged: OrganCount
    sound: OrganCount
    sound_flagged: OrganCount

    def cells(self) -> list[str]:
        """A row of a table under `AGREEMENT_COLUMNS`."""
        correlations = (each.in_words() if each else MISSING for each in (self.pearson, self.spearman))
        failures, sound = f"{self.failures_flagged} of {self.failures}", f"{self.sound_flagged} of {self.sound}"
        return [str(self.cases), str(self.organs), *correlations, f"{self.error:.3f}", failures, sound]


class Line(Stored):
    """`intercept` plus each feature times its weight, between 0 and 1."""

    intercept: float
    weights: Annotated[dict[Text, Annotated[float, Field(ge=0)]], Field(min_length=1, max_length=20)]

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
    weights_sha256: Sha256
    inference: dict[str, Any]
    copies: Annotated[list[Text], Field(max_length=20)]
    expected_dsc: Line
    flag_below: Share
    sites: list[Name]
    validation: Agreement


def write_calibration(model: Path, calibration: Calibration) -> None:
    """Write it into a model folder."""
    write_json(model / CALIBRATION, calibration.model_dump(mode="json", exclude_none=True))
