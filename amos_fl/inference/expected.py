"""The DSC to expect of a predicted scan, by what a model's calibration says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file
from amos_fl.inference.copies import COPIES
from amos_fl.inference.features import AGREEMENT, CONFIDENCE, Predict, judged
from amos_fl.prepared.store import PreparedCase
from amos_fl.runs.calibration import CALIBRATION, Calibration
from amos_fl.runs.expected import OrganExpected, ScanExpected
from amos_fl.runs.inference_settings import RecordedInference
from amos_fl.runs.model import Model
from amos_fl.runs.stored import read_stored
from amos_fl.volumes.plan import Plan


@dataclass(frozen=True)
class Expecting:
    """A model's calibration, and all that is needed to use it on a scan."""

    calibration: Calibration
    sha256: str
    plan: Plan
    organs: Mapping[int, str]

    @classmethod
    def of(cls, model: Model, inference: RecordedInference) -> "Expecting":
        """The calibration of a model that is used with these settings.

        Raises:
            AmosError: it has none, or one of other weights or settings.
        """
        model.check_single("the expected DSC")
        found, file = read_calibration(model), model.folder / CALIBRATION
        if unknown := {*found.copies, *found.expected_dsc.weights} - {*COPIES, AGREEMENT, CONFIDENCE}:
            raise AmosError(f"{file}: is of a newer version of amos-fl ({sorted(unknown)[0]} is not known here)")
        if AGREEMENT in found.expected_dsc.weights and not found.copies:
            raise AmosError(f"{file}: cannot be read (agreement without copies); make it again with amos-fl calibrate")
        for name, value in inference.decisive.items():
            if (learned := found.inference.get(name, value)) != value:
                raise AmosError(
                    f"{file}: was learned with {name} {learned}, not {value}",
                    f"leave out {name}, or the expected DSC",
                )
        return cls(found, calibration_sha256(model), model.plan, model.organs)

    @property
    def copies(self) -> Sequence[str]:
        return self.calibration.copies

    def predict(
        self, draw: Predict, prepared: PreparedCase, probabilities: UInt8[np.ndarray, "x y z class"] | None = None
    ) -> tuple[UInt8[np.ndarray, "x y z"], ScanExpected]:
        """The label map of a case, and what to expect of each organ in it."""
        found = judged(draw, prepared, self.plan, tuple(self.organs), self.copies, probabilities)
        voxel_ml = float(np.prod(prepared.geometry.spacing_mm)) / 1000
        organs = {}
        for organ, features in found.features.items():
            expected = self.calibration.expected_dsc.at(features)
            organs[str(organ)] = OrganExpected(
                organ=self.organs[organ],
                volume_ml=round(int(np.count_nonzero(found.label == organ)) * voxel_ml, 3),
                expected_dsc=expected,
                flagged=expected < self.calibration.flag_below,
            )
        about = {"calibration_sha256": self.sha256, "flag_below": self.calibration.flag_below}
        return found.label, ScanExpected(organs=organs, **about)

    def kept(self, file: Path) -> ScanExpected | None:
        """What was written of a scan with this calibration; None if with another, or if it cannot be read."""
        try:
            found: ScanExpected = read_stored(file, ScanExpected, "")
        except AmosError:
            return None
        return found if found.calibration_sha256 == self.sha256 else None


def read_calibration(model: Model) -> Calibration:
    """The calibration of a model.

    Raises:
        AmosError: it has none, or one of other weights, or a damaged one.
    """
    file = model.folder / CALIBRATION
    run = model.folder if model.run is None else model.run.path
    if not file.exists():
        raise AmosError(
            f"{file}: is not there, so nobody knows what DSC to expect",
            f"learn it with: amos-fl calibrate {run}{'' if model.run else ' --cohort COHORT'}",
        )
    found: Calibration = read_stored(file, Calibration, f"make it again with: amos-fl calibrate {run}")
    if found.weights_sha256 != model.weights_sha256():
        raise AmosError(f"{file}: is of other weights than the model's", f"make it again with: amos-fl calibrate {run}")
    return found


def calibration_sha256(model: Model) -> str:
    """The hash of a model's calibration, by which what was made with it is known."""
    return sha256_of_file(model.folder / CALIBRATION)
