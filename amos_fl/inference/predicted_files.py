"""The files of predicted scans in a folder, and its record of what they were made from.

The folder records in `predict.json` which weights, settings and scans its files came from, so that a second run does
what is missing and never passes one network's label map off as another's.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.inference.scans import Scan
from amos_fl.runs.inference_settings import RecordedInference
from amos_fl.runs.model import Model

RECORD = "predict.json"


@dataclass(frozen=True)
class Wanted:
    """What to write for each scan besides its label map, and how to compute it."""

    inference: RecordedInference
    device: str = "cpu"
    probabilities: bool = False
    preview: bool = False
    seg: bool = False
    rtstruct: bool = False
    expected_dsc: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class ScanFiles:
    """The outputs of one scan."""

    label: Path
    probabilities: Path | None
    preview: Path | None
    seg: Path | None
    rtstruct: Path | None
    expected: Path | None

    @classmethod
    def of(cls, out: Path, name: str, wanted: Wanted) -> "ScanFiles":
        return cls(
            label=out / f"{name}.nii.gz",
            probabilities=out / f"{name}_probabilities.nii.gz" if wanted.probabilities else None,
            preview=out / f"{name}_preview.png" if wanted.preview else None,
            seg=out / f"{name}_seg.dcm" if wanted.seg else None,
            rtstruct=out / f"{name}_rtstruct.dcm" if wanted.rtstruct else None,
            expected=out / f"{name}_expected.json" if wanted.expected_dsc else None,
        )

    @classmethod
    def every(cls, out: Path, name: str) -> "ScanFiles":
        """All files that a scan may have, written now or by an earlier run."""
        everything = Wanted(
            RecordedInference(), probabilities=True, preview=True, seg=True, rtstruct=True, expected_dsc=True
        )
        return cls.of(out, name, everything)

    def all(self) -> list[Path]:
        paths = (self.label, self.probabilities, self.preview, self.seg, self.rtstruct, self.expected)
        return [path for path in paths if path is not None]


def refuse_to_replace(scan: Scan, files: ScanFiles, overwrite: bool) -> None:
    for file in files.all():
        if file.resolve() == scan.path.resolve():
            raise AmosError(f"{scan.path.name}: its label map would replace the scan itself; give another folder")
        if file.exists() and not overwrite:
            raise AmosError(
                f"{file.name}: already exists, from another scan, other weights or other settings; "
                "add --overwrite, or give another folder"
            )


class PredictionRecord:
    """What the files in a folder of predictions were made from."""

    def __init__(self, path: Path, source: dict[str, Any], scans: dict[str, Any]) -> None:
        self.path, self.source, self.scans = path, source, scans

    @classmethod
    def read(cls, out: Path, model: Model, settings: RecordedInference) -> "PredictionRecord":
        """The record of `out`; scans of other weights or settings are dropped."""
        source = {
            "weights_sha256": model.weights_sha256(),
            "model": model.architecture,
            "round": model.round,
            "organs": {str(label): organ for label, organ in model.organs.items()},
            "synthetic_training": model.synthetic,
            **({"members": [member.weights_sha256() for member in model.members]} if model.others else {}),
            **({"not_learned": list(model.unlearned)} if model.unlearned else {}),
            "inference": settings.decisive,
        }
        try:
            known = json.loads((out / RECORD).read_text(encoding="utf-8"))
            # A folder of an older version lacks settings that were added later; it was made with their defaults.
            known["inference"] |= RecordedInference.model_validate(known["inference"]).decisive
            scans = known["scans"] if {**known, "scans": None} == {**source, "scans": None} else {}
        except (OSError, ValueError, KeyError, TypeError):
            scans = {}
        return cls(out / RECORD, source, scans)

    def has(self, scan: Scan, content: str) -> bool:
        """Whether the folder's files of this name were made from this scan."""
        return self.scans.get(scan.name) == _about(scan, content)

    def add(self, scan: Scan, content: str) -> None:
        self.scans[scan.name] = _about(scan, content)
        write_json(self.path, {**self.source, "scans": self.scans})


def _about(scan: Scan, content: str) -> dict[str, str]:
    return {"source": scan.path.name, "modality": scan.modality, "sha256": content}
