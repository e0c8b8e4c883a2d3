"""What a DICOM object that is made from a series takes over from it: the patient, the study, and the references."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amos_fl.dicom.header import damage_said, pydicom_or_sentence
from amos_fl.dicom.labels import grid_of
from amos_fl.dicom.series import Series
from amos_fl.errors import AmosError

TYPE_2 = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""What every DICOM object has, and may leave empty."""
NOT_FOR_DIAGNOSIS = "amos-fl: research only, not for diagnosis"


@dataclass(frozen=True)
class CodedOrgan:
    """An organ of a label map: its value there, its name and colour, and its SNOMED CT code with the side."""

    value: int
    name: str
    colour: tuple[int, int, int]
    code: str
    meaning: str
    side: str = ""


@dataclass(frozen=True)
class Maker:
    """What drew a label map: the program's version, the network, and the hash of its weights."""

    version: str
    network: str
    weights_sha256: str

    def uid(self, series: Series, label: np.ndarray, what: str) -> str:
        """A new UID that is the same for the same label map of the same series."""
        from pydicom.uid import generate_uid

        content = hashlib.sha256(np.ascontiguousarray(label).data).hexdigest()
        return str(generate_uid(entropy_srcs=[self.version, self.weights_sha256, series.uid, content, what]))


def source_images(series: Series) -> tuple[list[Any], list[int]]:
    """The headers of a series' files in the order of its slices, and the frame of its file that each slice is.

    Raises:
        AmosError: it cannot be referred to, or a file is not what it was.
    """
    grid_of(series)
    assert series.stack is not None
    if not series.frame_of_reference:
        raise AmosError(f"{series.name}: names no Frame of Reference, so nothing can refer to its space")
    frames = series.stack.frames
    read: dict[Path, Any] = {}
    for path in dict.fromkeys(frame.path for frame in frames):
        try:
            with damage_said():
                read[path] = pydicom_or_sentence().dcmread(path, stop_before_pixels=True)
        except AmosError as error:
            raise AmosError(f"{path.name}: {error}") from None
        for keyword in TYPE_2:
            if keyword not in read[path]:
                setattr(read[path], keyword, "")
    return [read[frame.path] for frame in frames], [frame.index for frame in frames]


def present(label: np.ndarray, regions: Sequence[CodedOrgan]) -> list[CodedOrgan]:
    """The regions that a label map holds, in their order."""
    values = set(np.unique(label).tolist())
    return [region for region in regions if region.value in values]
