"""Predict scans, one after another, into a folder of label maps.

The folder records in `predict.json` which weights, settings and scans its files came from, so that a second run does
what is missing and never passes one network's label map off as another's.
"""

import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL.Image import Image
from torch import nn

from amos_fl._version import __version__
from amos_fl.cohort.organ_codes import code_of
from amos_fl.cohort.table import Case
from amos_fl.dicom.segmentation_written import highdicom_or_sentence, write_segmentation
from amos_fl.dicom.sources import Maker, Region
from amos_fl.dicom.structure_set_written import write_structure_set
from amos_fl.errors import AmosError
from amos_fl.files import check_name, remove_abandoned, scratch_folder, write_json
from amos_fl.inference.expected import Expecting
from amos_fl.inference.predict import drawing, write_prediction
from amos_fl.inference.probability_map import ProbabilityMap
from amos_fl.inference.scans import Scan, read_scan
from amos_fl.inference.unlike import unlike
from amos_fl.inference.windows import windows_over
from amos_fl.locks import at_work
from amos_fl.pictures.preview import colours_of, preview, write_preview
from amos_fl.prepared.prepare import prepare_case
from amos_fl.runs.expected import ScanExpected
from amos_fl.runs.inference_settings import RecordedInference
from amos_fl.runs.model import Model
from amos_fl.runs.training_scans import TrainingScans, read_training_scans
from amos_fl.scan_files import problem_of
from amos_fl.warned import heard

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
class ScanOutcome:
    """The outcome of a scan. `notes` are sentences about a `predicted` one, or why it `failed`.

    `expected` are the DSC to expect, if they were asked for.
    """

    scan: Scan
    state: Literal["predicted", "kept", "failed"]
    notes: tuple[str, ...] = ()
    organs: int = 0
    seconds: float = 0.0
    expected: ScanExpected | None = None


@dataclass(frozen=True)
class _Files:
    """The outputs of one scan."""

    label: Path
    probabilities: Path | None
    preview: Path | None
    seg: Path | None
    rtstruct: Path | None
    expected: Path | None

    @classmethod
    def of(cls, out: Path, name: str, wanted: Wanted) -> "_Files":
        return cls(
            label=out / f"{name}.nii.gz",
            probabilities=out / f"{name}_probabilities.nii.gz" if wanted.probabilities else None,
            preview=out / f"{name}_preview.png" if wanted.preview else None,
            seg=out / f"{name}_seg.dcm" if wanted.seg else None,
            rtstruct=out / f"{name}_rtstruct.dcm" if wanted.rtstruct else None,
            expected=out / f"{name}_expected.json" if wanted.expected_dsc else None,
        )

    @classmethod
    def every(cls, out: Path, name: str) -> "_Files":
        """All files that a scan may have, written now or by an earlier run."""
        everything = Wanted(
            RecordedInference(), probabilities=True, preview=True, seg=True, rtstruct=True, expected_dsc=True
        )
        return cls.of(out, name, everything)

    def all(self) -> list[Path]:
        paths = (self.label, self.probabilities, self.preview, self.seg, self.rtstruct, self.expected)
        return [path for path in paths if path is not None]


def predict_scans(
    model: Model,
    scans: Sequence[Scan],
    out: Path,
    wanted: Wanted,
    *,
    on_window: Callable[[Scan, int, int], None] | None = None,
) -> Iterator[ScanOutcome]:
    """Predict each scan into `out`; a scan that cannot be predicted is an outcome, and the others continue.

    `<name>.nii.gz` is the label map on the scan's own grid; `<name>_probabilities.nii.gz`, `<name>_preview.png`,
    `<name>_expected.json` and, of a DICOM series, `<name>_seg.dcm` and `<name>_rtstruct.dcm` are written if wanted.
    Existing files from the same scan, weights and settings are kept. `on_window(scan, done, total)` is called for
    every window and may raise; nothing unfinished is left.

    Raises:
        AmosError: `out` is not a folder, the model's weights are damaged, it has no calibration and one is needed, or
            packages are missing for what is wanted.
    """
    if wanted.seg:
        highdicom_or_sentence()
    expecting = Expecting.of(model, wanted.inference) if wanted.expected_dsc else None
    trained_on = [told for member in model.members if (told := read_training_scans(member.folder)) is not None]
    if out.exists() and not out.is_dir():
        raise AmosError(f"{out}: is a file; give a folder with -o")
    network = model.network(wanted.device)
    model.turns(network, wanted.inference)  # once, before each scan would be refused
    torch.set_num_threads(wanted.inference.threads)
    out.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out.glob(".*.tmp.*"))
    with at_work(out), scratch_folder(out) as scratch:
        record = _Record.read(out, model, wanted.inference)
        for scan in scans:
            started = time.monotonic()
            files = _Files.of(out, scan.name, wanted)
            try:
                if scan.problem:
                    raise AmosError(scan.problem)
                for file in _Files.every(out, scan.name).all():
                    check_name(file)
                if scan.series is None and (files.seg or files.rtstruct):
                    raise AmosError(
                        f"{scan.path.name}: is NIfTI, and DICOM SEG and RTSTRUCT refer to the images of a DICOM series",
                        "give the folder of the series, or leave out --seg and --rtstruct",
                    )
                if scan.series is None and (why := problem_of(scan.path)):
                    raise AmosError(f"{scan.path.name}: {why}")
                content = scan.content_hash()
                same = record.has(scan, content)
                if same and not wanted.overwrite and all(file.is_file() for file in files.all()):
                    expected = expecting.kept(files.expected) if expecting and files.expected else None
                    if (expected is not None) == wanted.expected_dsc:
                        yield ScanOutcome(scan, "kept", expected=expected)
                        continue
                _refuse_to_replace(scan, files, wanted.overwrite or same)
                with heard() as notes:
                    drawn = _predict(model, network, scan, files, wanted, expecting, trained_on, scratch, on_window)
                for file in files.all() if same else _Files.every(out, scan.name).all():
                    file.unlink(missing_ok=True)
                record.add(scan, content)
                with heard():  # the scan's header, which is read again
                    drawn.write_dicom(files, model, scan)
                    drawn.write(files)
                notes = tuple(dict.fromkeys([*notes, *drawn.notes]))
                yield ScanOutcome(scan, "predicted", notes, drawn.organs, time.monotonic() - started, drawn.expected)
            except AmosError as error:
                yield ScanOutcome(scan, "failed", (str(error),))
            except PermissionError as error:
                if error.filename is None or Path(error.filename).is_relative_to(out):
                    raise
                yield ScanOutcome(scan, "failed", (f"{scan.path.name}: cannot be read; check its permissions",))
            finally:
                for leftover in scratch.iterdir():
                    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


@dataclass(frozen=True)
class _Drawn:
    """A finished prediction, not yet written."""

    path: Path
    label: np.ndarray
    probabilities: ProbabilityMap | None
    picture: Image | None
    expected: ScanExpected | None
    notes: list[str]

    @property
    def organs(self) -> int:
        return len(np.unique(self.label[self.label > 0]))

    def write(self, files: _Files) -> None:
        """Write the outputs, the label map last."""
        if self.probabilities is not None and files.probabilities is not None:
            self.probabilities.write(files.probabilities)
        if self.picture is not None and files.preview is not None:
            write_preview(files.preview, self.picture)
        if self.expected is not None and files.expected is not None:
            write_json(files.expected, self.expected.model_dump(mode="json"))
        write_prediction(self.label, self.path, files.label)

    def write_dicom(self, files: _Files, model: Model, scan: Scan) -> None:
        """Write what goes back to an archive, with references to the series.

        Raises:
            AmosError: the series cannot be referred to.
        """
        if scan.series is None or not (files.seg or files.rtstruct):
            return
        if not self.organs:
            self.notes.append(f"{scan.name}: no organ was found, so no SEG or RTSTRUCT is written")
            return
        maker = Maker(__version__, model.architecture, model.weights_sha256())
        regions = [_region(label, organ) for label, organ in model.organs.items()]
        slices = self.label.transpose(2, 1, 0)  # (column, row, slice) to (slice, row, column)
        if files.seg is not None:
            write_segmentation(files.seg, slices, scan.series, regions, maker)
        if files.rtstruct is not None:
            write_structure_set(files.rtstruct, slices, scan.series, regions, maker)


def _predict(
    model: Model,
    network: nn.Module,
    scan: Scan,
    files: _Files,
    wanted: Wanted,
    expecting: Expecting | None,
    trained_on: Sequence[TrainingScans],
    scratch: Path,
    on_window: Callable[[Scan, int, int], None] | None,
) -> _Drawn:
    path = scan.as_nifti(scratch)
    volume, notes = read_scan(path, scan.path.name, scan.modality)
    notes = [*scan.notes(), *notes]
    shown = volume if files.preview is not None else None
    del volume  # as large as the scan, and only a preview needs it later
    case = Case(scan.name, "predict", scan.modality, "test", path, None, ())
    prepared = prepare_case(case, model.plan, scratch / "store", ())
    odd = [unlike(prepared, told) for told in trained_on]
    if odd and all(odd):  # where one member of an ensemble knows such scans, they are not unlike
        it = "this network was" if len(odd) == 1 else "these networks were"
        notes.append(f"{scan.path.name}: is unlike the scans that {it} trained on in {odd[0]}")
    settings, patch = wanted.inference, model.plan.patch
    # A copy of another scale has a few windows more or less.
    passes = len(model.members) + len(expecting.copies if expecting else ())
    total = passes * windows_over(prepared.shape, patch, settings.overlap)
    done = itertools.count()

    def check() -> None:
        if on_window is not None:
            on_window(scan, min(next(done), total - 1), total)

    room = ProbabilityMap(path, 1 + len(model.organs), scratch) if files.probabilities else None
    draw = drawing(model, network, inference=settings, device=wanted.device, check=check)
    shares = room.canonical if room else None
    expected = None
    if expecting is None:
        label = draw(prepared, probabilities=shares)
    else:
        label, expected = expecting.predict(draw, prepared, shares)
    picture = None
    if shown is not None:
        where = "trained on a synthetic phantom; " if model.synthetic else ""
        picture = preview(shown, label, scan.modality, model.organs, scan.name, f"{where}not for diagnosis")
    return _Drawn(path, label, room, picture, expected, notes)


def _region(label: int, organ: str) -> Region:
    red, green, blue = (int(colour) for colour in colours_of(np.array(label)))
    code = code_of(organ)
    return Region(label, organ, (red, green, blue), code.value, code.meaning, code.side)


def _refuse_to_replace(scan: Scan, files: _Files, overwrite: bool) -> None:
    for file in files.all():
        if file.resolve() == scan.path.resolve():
            raise AmosError(f"{scan.path.name}: its label map would replace the scan itself; give another folder")
        if file.exists() and not overwrite:
            raise AmosError(
                f"{file.name}: already exists, from another scan, other weights or other settings; "
                "add --overwrite, or give another folder"
            )


class _Record:
    """What the files in a folder of predictions were made from."""

    def __init__(self, path: Path, source: dict[str, Any], scans: dict[str, Any]) -> None:
        self.path, self.source, self.scans = path, source, scans

    @classmethod
    def read(cls, out: Path, model: Model, settings: RecordedInference) -> "_Record":
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
