"""The DSC expected of predictions: of a scan that nobody labelled, and of a run's test cases, beside the true one."""

import math
from typing import Annotated, Literal

from pydantic import Field

from amos_fl.cohort.table import Modality
from amos_fl.files import sha256_of_file, write_json
from amos_fl.runs.calibration import CALIBRATION, Agreement, OrganCount, Sha256, Share, Text
from amos_fl.runs.evaluation import Name
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.stored import Stored, read_stored

EXPECTED = "expected.json"


class OrganExpected(Stored):
    """An organ that a prediction found: its volume, the DSC to expect, and whether that is low enough to be flagged."""

    organ: Text
    volume_ml: Annotated[float, Field(ge=0)]
    expected_dsc: Share
    flagged: bool


class ScanExpected(Stored):
    """What to expect of a scan's label map; by label value the organs that were found."""

    version: Literal[1] = 1
    calibration_sha256: Sha256
    flag_below: Share
    organs: dict[Text, OrganExpected]

    @property
    def mean(self) -> float:
        """The mean expected DSC of the organs that were found; NaN without any."""
        values = [organ.expected_dsc for organ in self.organs.values()]
        return math.fsum(values) / len(values) if values else math.nan

    @property
    def by_name(self) -> dict[str, float]:
        """The expected DSC of every organ that was found."""
        return {one.organ: one.expected_dsc for one in self.organs.values()}

    def in_words(self) -> str:
        """The mean, and the organs that are flagged."""
        if not self.organs:
            return "no organ found, so no DSC to expect"
        low = sorted((one.expected_dsc, one.organ) for one in self.organs.values() if one.flagged)
        named = ", ".join(f"{organ} {value:.2f}" for value, organ in low)
        return f"expected DSC {self.mean:.2f}" + (
            f"; below {self.flag_below:.2f}, to be checked: {named}" if low else ""
        )


class Expected(Stored):
    """One organ that was found in a case: its expected DSC, and the true one."""

    case: Name
    site: Name
    modality: Modality
    seen: bool
    organ: Annotated[int, Field(ge=1, le=255)]
    expected_dsc: Share
    dsc: Share


class MeasuredAgreement(Stored):
    """How well a calibration did on test cases: by group (`seen`, `unseen`, `seen CT`, `unseen MR` ...) and organ.

    `missed` are organs that a case has and its prediction lacks: of them nothing is expected, and they count nowhere.
    """

    version: Literal[1] = 1
    calibration_sha256: Sha256
    flag_below: Share
    groups: dict[Text, Agreement]
    missed: dict[Text, OrganCount]
    organs: list[Expected]


def write_measured(run: RunFolder, found: MeasuredAgreement) -> None:
    """Write `expected.json` into a run's folder."""
    write_json(run.path / EXPECTED, found.model_dump(mode="json", exclude_none=True))


def read_measured(run: RunFolder) -> MeasuredAgreement | None:
    """What was measured of a run's present calibration; None if it was not.

    Raises:
        AmosError: the file is damaged.
    """
    file, calibration = run.path / EXPECTED, run.path / "model" / CALIBRATION
    if not file.exists() or not calibration.exists():
        return None
    found: MeasuredAgreement = read_stored(
        file, MeasuredAgreement, f"remove it, or run: amos-fl calibrate {run.path} --measure"
    )
    return found if found.calibration_sha256 == sha256_of_file(calibration) else None
