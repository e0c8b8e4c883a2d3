"""DICOMDIR: the list of files on a disc or in an export, which tells whether some are missing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amos_fl.dicom.header import pydicom_or_sentence, without_bare_warnings


def listed_instances(directories: Sequence[Path]) -> dict[str, dict[str, str]]:
    """By series UID, the images that DICOMDIR files list: SOP Instance UID to the path written there.

    A damaged list is ignored; the series are then judged by their own files.
    """
    pydicom = pydicom_or_sentence()
    listed: dict[str, dict[str, str]] = {}
    for path in directories:
        with without_bare_warnings():
            try:
                records = list(pydicom.dcmread(path).get("DirectoryRecordSequence") or [])
                _add(records, listed)
            except Exception:  # a damaged file can make pydicom raise anything
                continue
    return listed


def _add(records: Sequence[Any], listed: dict[str, dict[str, str]]) -> None:
    series = ""
    for record in records:  # a series' record comes before those of its images
        kind = str(record.get("DirectoryRecordType") or "")
        if kind in ("PATIENT", "STUDY"):
            series = ""
        elif kind == "SERIES":
            series = str(record.get("SeriesInstanceUID") or "")
        elif kind == "IMAGE" and series and record.get("ReferencedSOPInstanceUIDInFile"):
            name = record.get("ReferencedFileID")
            parts = [name] if isinstance(name, str) else list(name or [])
            listed.setdefault(series, {})[str(record.ReferencedSOPInstanceUIDInFile)] = "/".join(map(str, parts))
