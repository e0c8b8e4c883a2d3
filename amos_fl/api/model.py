"""A trained network in Python: scans in, label maps out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

import numpy as np
from jaxtyping import UInt8

from amos_fl.device import device_named
from amos_fl.errors import AmosError
from amos_fl.export.write import export_model
from amos_fl.inference.predict_scans import predict_scans
from amos_fl.inference.predicted_files import Wanted
from amos_fl.inference.scans import find_scans
from amos_fl.runs.ensemble import read_ensemble
from amos_fl.runs.inference_settings import InferenceKeywords
from amos_fl.runs.model import Model, read_model
from amos_fl.volumes.nifti import read_label, write_label


@dataclass(frozen=True)
class Prediction:
    """The label map of one scan, on the scan's own grid.

    `labels` holds 0 (background) and the keys of `organs`; `affine` (4, 4) takes voxel indices to mm in RAS space.
    `notes` are sentences that a reader of the map should know. `expected_dsc` has by name the DSC to expect of each
    organ that was found, if it was asked for.
    """

    scan: Path
    labels: UInt8[np.ndarray, "x y z"]
    affine: np.ndarray
    organs: dict[int, str]
    notes: tuple[str, ...]
    expected_dsc: dict[str, float] = field(default_factory=dict)

    @property
    def volumes_ml(self) -> dict[str, float]:
        """The volume of every organ in ml, 0 if it was not found."""
        voxel_ml = abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000
        counts = np.bincount(self.labels.ravel(), minlength=max(self.organs, default=0) + 1)
        return {organ: float(counts[label]) * voxel_ml for label, organ in self.organs.items()}

    def save(self, path: str | Path) -> Path:
        """Write the label map as NIfTI, so that it overlays its scan; return the path.

        Raises:
            AmosError: the scan's file no longer fits the label map.
        """
        write_label(path, self.labels, self.scan)
        return Path(path)


@dataclass(frozen=True)
class TrainedModel:
    """A run's final network: `amos_fl.open_run(RUN).model`, or `read(FOLDER)` of a copy of its model/."""

    about: Model

    @classmethod
    def read(cls, path: str | Path, site: str | None = None) -> "TrainedModel":
        """The model in a run folder, or in a copy of its `model/`; with `site`, that site's own of a personal method.

        Raises:
            AmosError: there is none, or it is damaged.
        """
        return cls(read_model(Path(path), site))

    @classmethod
    def ensemble(cls, paths: Sequence[str | Path], site: str | None = None) -> "TrainedModel":
        """Several networks of one form as one, whose probabilities are averaged: runs, `model/` folders or groups.

        A group is a sweep's folder whose runs differ in seed and fold alone. An ensemble predicts and is evaluated; it
        has no network of its own, no calibration and no export.

        Raises:
            AmosError: as `read`, or networks that differ in form or plan.
        """
        return cls(read_ensemble([Path(path) for path in paths], site))

    @property
    def organs(self) -> dict[int, str]:
        """Label values and organs, in the order of the network's channels after the background's."""
        return dict(self.about.organs)

    def network(self, device: str = "cpu") -> Any:
        """The `torch.nn.Module` with its weights, in evaluation mode on `device`."""
        self.about.check_single("network()")
        return self.about.network(device)

    def predict(
        self,
        scan: str | Path,
        modality: str | None = None,
        *,
        device: str = "auto",
        expected_dsc: bool = False,
        **how: Unpack[InferenceKeywords],
    ) -> Prediction:
        """Predict one scan: a NIfTI file, or a folder with a DICOM series.

        `modality` is CT or MR; a NIfTI file does not say, so it has to be given unless the network knows only one.
        With `expected_dsc`, the prediction says what DSC to expect, by the model's calibration (`amos_fl.calibrate`).
        `how` are settings of inference, by default the run's: see `InferenceKeywords`.

        Raises:
            AmosError: a scan that cannot be read or predicted, no modality, or no calibration.
        """
        if modality is None and len(self.about.modalities) == 1:
            modality = self.about.modalities[0]
        wanted = Wanted(self.about.inference.changed(how), device_named(device), expected_dsc=expected_dsc)
        found = find_scans([Path(scan)], modality)
        if len(found) != 1:
            raise AmosError(f"{scan}: holds {len(found)} scans; give one, or use amos_fl.predict for a folder")
        with TemporaryDirectory() as folder:
            [outcome] = predict_scans(self.about, found, Path(folder), wanted)
            if outcome.state == "failed":
                raise AmosError(outcome.notes[0])
            label = read_label(Path(folder) / f"{found[0].name}.nii.gz", tuple(self.about.organs))
        expected = outcome.expected.by_name if outcome.expected else {}
        return Prediction(found[0].path, label.array, label.affine, self.organs, outcome.notes, expected)

    def export(
        self, out: str | Path, to: str, *, modality: str | None = None, **how: Unpack[InferenceKeywords]
    ) -> Path:
        """Write the network for another program into the new folder `out`; return that folder.

        `to` is `monai-bundle`, `onnx` (which needs the extra `export`) or `torchscript`. The preparation of scans and
        the way back to their grid go with it: in each format a scan has the same label map as by `predict`. `modality`
        is CT or MR, of the scans; a bundle of a network that knows both needs it. `how` are settings of inference,
        fixed in the export, by default the run's.

        Raises:
            AmosError: `out` exists, or the network cannot be written so that it gives the same.
        """
        self.about.check_single("an export")
        return export_model(self.about, Path(out), to, self.about.inference.changed(how), modality=modality)

    def __repr__(self) -> str:
        where = f"round {self.about.round} of {self.about.folder}"
        if self.about.others:
            return f"TrainedModel(ensemble of {len(self.about.members)} {self.about.architecture})"
        return f"TrainedModel({self.about.architecture}, {len(self.about.organs)} organs, {where})"
