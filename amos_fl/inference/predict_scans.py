"""Predict scans, one after another, into a folder of label maps.

While the network is at work on one, the next is read and prepared, and the files of the one before are written.
"""

import itertools
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL.Image import Image
from torch import nn

from amos_fl._version import __version__
from amos_fl.cohort.organ_codes import code_of
from amos_fl.cohort.table import Case
from amos_fl.dicom.segmentation_written import highdicom_or_sentence, write_segmentation
from amos_fl.dicom.sources import CodedOrgan, Maker
from amos_fl.dicom.structure_set_written import write_structure_set
from amos_fl.errors import AmosError
from amos_fl.files import check_name, remove_abandoned, scratch_folder, write_json
from amos_fl.inference.expected import Expecting
from amos_fl.inference.predict import drawing, write_prediction
from amos_fl.inference.predicted_files import PredictionRecord, ScanFiles, Wanted, refuse_to_replace
from amos_fl.inference.probability_map import ProbabilityMap
from amos_fl.inference.scans import Scan, read_scan
from amos_fl.inference.unlike import unlike
from amos_fl.inference.windows import windows_over
from amos_fl.locks import at_work
from amos_fl.pictures.preview import colours_of, preview, write_preview
from amos_fl.prepared.prepare import prepare_case
from amos_fl.prepared.store import PreparedCase
from amos_fl.runs.expected import ScanExpected
from amos_fl.runs.model import Model
from amos_fl.runs.training_scans import TrainingScans, read_training_scans
from amos_fl.scan_files import problem_of
from amos_fl.volumes.nifti import Volume
from amos_fl.warned import heard


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
    every window and may raise; nothing unfinished is left. While the network is at work on a scan, the next one is read
    and prepared and the last one's files are written, so that memory is needed for all three. A scan's outcome comes
    when its files are there.

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
        record = PredictionRecord.read(out, model, wanted.inference)
        ready = partial(
            _ready, out=out, wanted=wanted, record=record, model=model, expecting=expecting, told=trained_on
        )
        rooms = [scratch / str(number) for number in range(len(scans))]
        with (
            closing(_one_ahead(list(zip(scans, rooms, strict=True)), ready)) as coming,
            ThreadPoolExecutor(1, "files-of-last-scan") as writer,  # at its end it waits for what is being written
        ):
            writing: Future[ScanOutcome] | None = None
            for scan, room, reading in coming:
                found = _drawn(model, network, scan, reading, wanted, expecting, out, room, on_window)
                if writing is not None:
                    yield writing.result()
                    writing = None
                if isinstance(found, ScanOutcome):
                    shutil.rmtree(room, ignore_errors=True)
                    yield found
                else:
                    writing = writer.submit(_written, found, out, record, model, scan, room)
            if writing is not None:
                yield writing.result()


@contextmanager
def _failing_alone(scan: Scan, out: Path) -> Iterator[list[ScanOutcome]]:
    """Turn what is wrong with one scan into its outcome, in the list; what is wrong with the folder is raised."""
    failed: list[ScanOutcome] = []
    try:
        yield failed
    except AmosError as error:
        failed.append(ScanOutcome(scan, "failed", (str(error),)))
    except PermissionError as error:
        if error.filename is None or Path(error.filename).is_relative_to(out):
            raise
        failed.append(ScanOutcome(scan, "failed", (f"{scan.path.name}: cannot be read; check its permissions",)))


@dataclass(frozen=True)
class _Drawn:
    """A finished prediction, not yet written. It took `seconds`, and `content` is the scan's hash.

    `same` says that the folder's files of its name were made from the same scan.
    """

    path: Path
    files: ScanFiles
    content: str
    same: bool
    seconds: float
    label: np.ndarray
    probabilities: ProbabilityMap | None
    picture: Image | None
    expected: ScanExpected | None
    notes: list[str]

    @property
    def organs(self) -> int:
        return len(np.unique(self.label[self.label > 0]))

    def write(self, files: ScanFiles) -> None:
        """Write the outputs, the label map last."""
        if self.probabilities is not None and files.probabilities is not None:
            self.probabilities.write(files.probabilities)
        if self.picture is not None and files.preview is not None:
            write_preview(files.preview, self.picture)
        if self.expected is not None and files.expected is not None:
            write_json(files.expected, self.expected.model_dump(mode="json"))
        write_prediction(self.label, self.path, files.label)

    def write_dicom(self, files: ScanFiles, model: Model, scan: Scan) -> None:
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


@dataclass(frozen=True)
class _Ready:
    """A scan that was read and prepared. `same` says that the folder's files of its name were made from it.

    `path` is its NIfTI file, `volume` its voxels where a preview needs them, `notes` sentences about it.
    """

    files: ScanFiles
    path: Path
    volume: Volume | None
    prepared: PreparedCase
    content: str
    same: bool
    notes: tuple[str, ...]


def _ready(
    scan: Scan,
    room: Path,
    *,
    out: Path,
    wanted: Wanted,
    record: PredictionRecord,
    model: Model,
    expecting: Expecting | None,
    told: Sequence[TrainingScans],
) -> _Ready | ScanOutcome:
    """Read and prepare a scan in the scratch folder `room`; an outcome if its files are kept.

    Raises:
        AmosError: it cannot be read, or its files may not be written.
    """
    files = ScanFiles.of(out, scan.name, wanted)
    if scan.problem:
        raise AmosError(scan.problem)
    for file in ScanFiles.every(out, scan.name).all():
        check_name(file)
    if scan.series is None and (files.seg or files.rtstruct):
        raise AmosError(
            f"{scan.path.name}: is NIfTI, and DICOM SEG and RTSTRUCT refer to the images of a DICOM series",
            "give the folder of the series, or leave out seg and rtstruct",
        )
    if scan.series is None and (why := problem_of(scan.path)):
        raise AmosError(f"{scan.path.name}: {why}")
    content = scan.content_hash()
    same = record.has(scan, content)
    if same and not wanted.overwrite and all(file.is_file() for file in files.all()):
        expected = expecting.kept(files.expected) if expecting and files.expected else None
        if (expected is not None) == wanted.expected_dsc:
            return ScanOutcome(scan, "kept", expected=expected)
    refuse_to_replace(scan, files, wanted.overwrite or same)
    room.mkdir()
    with heard() as warned:
        path = scan.as_nifti(room)
        volume, notes = read_scan(path, scan.path.name, scan.modality)
        shown = volume if files.preview is not None else None
        del volume  # as large as the scan, and only a preview needs it later
        case = Case(scan.name, "predict", scan.modality, "test", path, None, ())
        prepared = prepare_case(case, model.plan, room / "store", ())
        notes = [*scan.notes(), *notes]
        odd = [unlike(prepared, scans) for scans in told]
        if odd and all(odd):  # where one member of an ensemble knows such scans, they are not unlike
            it = "this network was" if len(odd) == 1 else "these networks were"
            notes.append(f"{scan.path.name}: is unlike the scans that {it} trained on in {odd[0]}")
    return _Ready(files, path, shown, prepared, content, same, (*warned, *notes))


def _one_ahead(
    scans: Sequence[tuple[Scan, Path]], ready: Callable[[Scan, Path], _Ready | ScanOutcome]
) -> Generator[tuple[Scan, Path, Future[_Ready | ScanOutcome]]]:
    """Each scan, its room and what `ready` makes of it; the next one's begins when this one's is taken."""
    ahead = ThreadPoolExecutor(1, "next-scan")
    try:
        coming = deque(ahead.submit(ready, *first) for first in scans[:1])
        for number, (scan, room) in enumerate(scans):
            coming.extend(ahead.submit(ready, *following) for following in scans[number + 1 : number + 2])
            yield scan, room, coming.popleft()
    finally:
        ahead.shutdown(cancel_futures=True)  # waits for the thread, which may still be writing to its room


def _drawn(
    model: Model,
    network: nn.Module,
    scan: Scan,
    reading: Future[_Ready | ScanOutcome],
    wanted: Wanted,
    expecting: Expecting | None,
    out: Path,
    room: Path,
    on_window: Callable[[Scan, int, int], None] | None,
) -> _Drawn | ScanOutcome:
    """The prediction of a scan when it is ready; its outcome if there is none."""
    with _failing_alone(scan, out) as failed:
        ready = reading.result()
        if isinstance(ready, ScanOutcome):
            return ready
        return _predict(model, network, scan, ready, wanted, expecting, room, on_window)
    return failed[0]


def _predict(
    model: Model,
    network: nn.Module,
    scan: Scan,
    ready: _Ready,
    wanted: Wanted,
    expecting: Expecting | None,
    room: Path,
    on_window: Callable[[Scan, int, int], None] | None,
) -> _Drawn:
    started = time.monotonic()
    settings, patch = wanted.inference, model.plan.patch
    # A copy of another scale has a few windows more or less.
    passes = len(model.members) + len(expecting.copies if expecting else ())
    total = passes * windows_over(ready.prepared.shape, patch, settings.overlap)
    done = itertools.count()

    def check() -> None:
        if on_window is not None:
            on_window(scan, min(next(done), total - 1), total)

    classes = ProbabilityMap(ready.path, 1 + len(model.organs), room) if ready.files.probabilities else None
    draw = drawing(model, network, inference=settings, device=wanted.device, check=check)
    shares = classes.canonical if classes else None
    expected = None
    with heard() as warned:
        if expecting is None:
            label = draw(ready.prepared, probabilities=shares)
        else:
            label, expected = expecting.predict(draw, ready.prepared, shares)
    picture = None
    if ready.volume is not None:
        where = "trained on a synthetic phantom; " if model.synthetic else ""
        picture = preview(ready.volume, label, scan.modality, model.organs, scan.name, f"{where}not for diagnosis")
    return _Drawn(
        ready.path,
        ready.files,
        ready.content,
        ready.same,
        time.monotonic() - started,
        label,
        classes,
        picture,
        expected,
        [*ready.notes, *warned],
    )


def _written(drawn: _Drawn, out: Path, record: PredictionRecord, model: Model, scan: Scan, room: Path) -> ScanOutcome:
    """Write a prediction's files, and remove its room in the scratch folder."""
    started = time.monotonic()
    try:
        with _failing_alone(scan, out) as failed:
            for file in drawn.files.all() if drawn.same else ScanFiles.every(out, scan.name).all():
                file.unlink(missing_ok=True)
            record.add(scan, drawn.content)
            with heard():  # the scan's header, which is read again
                drawn.write_dicom(drawn.files, model, scan)
                drawn.write(drawn.files)
            seconds = drawn.seconds + time.monotonic() - started
            notes = tuple(dict.fromkeys(drawn.notes))
            return ScanOutcome(scan, "predicted", notes, drawn.organs, seconds, drawn.expected)
        return failed[0]
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _region(label: int, organ: str) -> CodedOrgan:
    red, green, blue = (int(colour) for colour in colours_of(np.array(label)))
    code = code_of(organ)
    return CodedOrgan(label, organ, (red, green, blue), code.value, code.meaning, code.side)
