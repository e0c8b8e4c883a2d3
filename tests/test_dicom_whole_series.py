"""What looks like a slice and cannot be used is named and counted, and never makes a shorter scan."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom")

import pydicom
from dicom_series import assert_same_in_space, converted, even_volume, rewrite, turned, write_enhanced, write_series
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from amos_fl.errors import AmosError
from amos_fl.inference.scans import find_scans

AFFINE = turned((0, 0, 0), (0.7, 0.8, 2.0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A series of 16 slices in files named IM0000 to IM0015, in their order in space."""
    rewrite(tmp_path / "PAT1", write_series(tmp_path / "PAT1", even_volume((14, 11, 16)), AFFINE))
    return tmp_path / "PAT1"


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_in_its_pixels(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_its_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:900])


def cut_before_its_series(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:450])


def cut_after_the_mark(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:132])


def cut_in_its_preamble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


def without_preamble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[132:])


def a_web_page(path: Path) -> None:
    path.write_text("<html>Your session has expired</html>" * 20)


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_download(path: Path) -> None:
    cut_in_its_preamble(path)
    path.rename(path.with_name(f"{path.name}.part"))


DAMAGE: dict[Callable[[Path], None], str] = {
    empty: "is empty",
    cut_in_its_pixels: "is cut off: 208 of 308 bytes of its pixels are present",
    cut_in_its_header: "is cut off",
    cut_before_its_series: "is cut off",
    cut_after_the_mark: "is cut off",
    cut_in_its_preamble: "is cut off",
    zeros: "holds nothing but zeros",
    dangling: "is a link whose target is gone",
    without_preamble: "lacks DICOM's preamble; add it, for example with DCMTK: dcmconv FILE FILE",
    a_web_page: "is not a DICOM file, or damaged at its start",
    a_pipe: "is not a regular file",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("which", [(13, 14, 15), (6, 7, 8)], ids=["last", "middle"])
def test_thirteen_of_sixteen_slices_are_no_scan(folder: Path, damage: Callable, which: tuple[int, ...]) -> None:
    for k in which:
        damage(folder / f"IM{k:04d}")
    with pytest.raises(AmosError) as refused:
        find_scans([folder], None)
    sentence = str(refused.value)
    assert "PAT1" in sentence
    assert f"3 of 16 files cannot be used (IM{which[0]:04d}, IM{which[1]:04d} and IM{which[2]:04d}: " in sentence
    assert DAMAGE[damage] in sentence


def test_an_unfinished_download_is_named(folder: Path) -> None:
    a_download(folder / "IM0015")
    with pytest.raises(AmosError, match=r"1 of 16 files cannot be used \(IM0015\.part: is an unfinished download\)"):
        find_scans([folder], None)


def test_a_series_of_which_nothing_is_left_is_no_empty_folder(folder: Path) -> None:
    for path in folder.iterdir():
        cut_before_its_series(path)
    with pytest.raises(AmosError, match=r"PAT1: 16 of 16 files cannot be used \(IM0000, IM0001, IM0002, IM0003 and 12"):
        find_scans([folder], None)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of a user whom permissions hold back, where this one is the superuser."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        superuser = os.geteuid() == 0
        yield Path(place)
        if superuser:
            os.seteuid(0)


def test_slices_and_folders_that_may_not_be_read_are_named(folder: Path, nobody: Path) -> None:
    shutil.copytree(folder, nobody / "PAT1")
    (nobody / "PAT1/IM0015").chmod(0)
    shutil.copytree(folder, nobody / "PAT2/all")
    (nobody / "PAT2/more").mkdir(mode=0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    with pytest.raises(AmosError, match=r"1 of 16 files cannot be used \(IM0015: cannot be read; check its permiss"):
        find_scans([nobody / "PAT1"], None)
    with pytest.raises(AmosError, match=r"1 of 17 files cannot be used \(more: is a folder that cannot be read\)"):
        find_scans([nobody / "PAT2"], None)


def test_what_lies_beside_slices_on_a_disc_is_no_slice(folder: Path) -> None:
    for name in ("README", "LICENSE", "autorun.inf", "viewer.exe", "index.html", "report.pdf", ".DS_Store", "a.json"):
        (folder / name).write_text("something")
    (folder / "empty.txt").write_text("")
    [scan] = find_scans([folder], None)
    assert (scan.series and scan.series.slices, scan.notes()) == (16, [])


def test_damage_in_the_folder_of_another_series_is_none_of_this_one(folder: Path) -> None:
    study = folder.parent / "study"
    shutil.move(folder, study / "CT")
    write_series(study / "scout", even_volume((14, 11, 2)), AFFINE, number=1, description="scout")
    empty(study / "scout/IM0000")
    [scan] = find_scans([study], None)
    assert scan.series
    assert (scan.series.number, scan.series.slices) == ("3", 16)


def test_a_copy_of_a_slice_is_left_out_and_said(folder: Path) -> None:
    shutil.copy(folder / "IM0003", folder / "IM0003 (1)")
    [scan] = find_scans([folder], None)
    assert scan.notes() == [
        "PAT1, DICOM series 3: 1 file left out that is a copy of others (IM0003 (1)), 16 of 17 files taken"
    ]
    assert_same_in_space(converted(folder), even_volume((14, 11, 16)), AFFINE)


def test_two_files_that_claim_to_be_one_image_are_named(folder: Path) -> None:
    ds = pydicom.dcmread(folder / "IM0003")
    ds.RescaleIntercept = "0"
    ds.save_as(folder / "IM0003b")
    with pytest.raises(AmosError, match=r"IM0003 and IM0003b claim to be the same image .* but differ; remove the"):
        find_scans([folder], None)


def test_files_of_two_patients_are_no_series(folder: Path) -> None:
    ds = pydicom.dcmread(folder / "IM0003")
    ds.PatientID = "2"
    ds.save_as(folder / "IM0003")
    with pytest.raises(AmosError, match="its files name 2 patients; separate them"):
        find_scans([folder], None)


def test_series_of_two_patients_are_not_chosen_from(folder: Path) -> None:
    write_series(folder.parent / "study/a", even_volume(), AFFINE)
    write_series(folder.parent / "study/b", even_volume((14, 11, 2)), AFFINE, number=1, PatientID="2")
    with pytest.raises(AmosError, match="several series of 2 patients; choose one with --series"):
        find_scans([folder.parent / "study"], None)
    assert find_scans([folder.parent / "study"], None, series="3")[0].series


def test_slices_in_two_frames_of_reference_are_no_stack(folder: Path) -> None:
    ds = pydicom.dcmread(folder / "IM0003")
    ds.FrameOfReferenceUID = generate_uid()
    ds.save_as(folder / "IM0003")
    with pytest.raises(AmosError, match="several Frames of Reference"):
        find_scans([folder], None)


def test_a_localizer_among_the_slices_is_left_out_and_said(folder: Path) -> None:
    ds = pydicom.dcmread(folder / "IM0003")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    ds.save_as(folder / "SCOUT")
    [scan] = find_scans([folder], None)
    assert scan.notes() == ["PAT1, DICOM series 3: 1 localizer among its slices left out (SCOUT), 16 slices taken"]
    assert_same_in_space(converted(folder), even_volume((14, 11, 16)), AFFINE)


def test_a_series_of_localizers_alone_is_no_scan(folder: Path) -> None:
    kinds = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(folder, even_volume(), AFFINE, number=1, prefix="LOC", ImageType=kinds)
    [scan] = find_scans([folder], None)
    assert scan.series
    assert scan.series.number == "3"


@pytest.mark.parametrize("modality", ["SEG", "RTSTRUCT", "SR", "PR", "KO"])
@pytest.mark.parametrize("series", ["its own", "that of the scan"])
def test_what_others_made_of_a_scan_beside_it_is_no_scan(folder: Path, modality: str, series: str) -> None:
    classes = {
        "SEG": "1.2.840.10008.5.1.4.1.1.66.4",
        "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3",
        "SR": "1.2.840.10008.5.1.4.1.1.88.33",
        "PR": "1.2.840.10008.5.1.4.1.1.11.1",
        "KO": "1.2.840.10008.5.1.4.1.1.88.59",
    }
    ds = pydicom.dcmread(folder / "IM0003")
    made = Dataset()
    made.file_meta = ds.file_meta
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = classes[modality]
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.SeriesInstanceUID = ds.SeriesInstanceUID if series == "that of the scan" else generate_uid()
    made.Modality, made.SeriesNumber, made.PatientID = modality, 3, "1"
    if modality == "SEG":
        made.NumberOfFrames, made.Rows, made.Columns, made.PixelData = 16, 11, 14, bytes(16 * 11 * 14)
        made.BitsAllocated, made.SamplesPerPixel, made.PhotometricInterpretation = 8, 1, "MONOCHROME2"
        made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 7, 0
    pydicom.dcmwrite(folder / "MADE", made, enforce_file_format=True)
    for wanted in (None, "3"):
        [scan] = find_scans([folder], None, series=wanted)
        assert scan.series
        assert (scan.series.modality, scan.series.slices, scan.notes()) == ("CT", 16, [])
    assert_same_in_space(converted(folder), even_volume((14, 11, 16)), AFFINE)


def test_a_slice_that_calls_itself_another_series_is_named(folder: Path) -> None:
    ds = pydicom.dcmread(folder / "IM0015")
    ds.SeriesInstanceUID = generate_uid()
    ds.save_as(folder / "IM0015")
    [scan] = find_scans([folder], None)
    [note] = scan.notes()
    assert "ignored, as they have fewer than 4 slices: number 3 'abdomen' (CT, 1 slice, UID" in note


def test_pictures_of_a_screen_are_no_scan_even_where_they_call_themselves_ct(folder: Path) -> None:
    screen = "1.2.840.10008.5.1.4.1.1.7"
    write_series(folder, even_volume(), AFFINE, number=99, prefix="SC", SOPClassUID=screen)
    [scan] = find_scans([folder], None)
    assert scan.series
    assert scan.series.number == "3"


def directory(folder: Path, series: str, instances: list[str]) -> None:
    """A DICOMDIR in `folder` that lists the instances of a series."""
    ds = Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.FileSetID = "DISC"
    records = []
    for kind in ("PATIENT", "STUDY", "SERIES", *("IMAGE" for _ in instances)):
        record = Dataset()
        record.DirectoryRecordType = kind
        if kind == "SERIES":
            record.SeriesInstanceUID = series
        if kind == "IMAGE":
            record.ReferencedSOPInstanceUIDInFile = instances[len(records) - 3]
            record.ReferencedFileID = ["PAT1", f"IM{len(records) - 3:04d}"]
        records.append(record)
    ds.DirectoryRecordSequence = records
    pydicom.dcmwrite(folder / "DICOMDIR", ds, enforce_file_format=True)


def test_images_that_the_disc_lists_and_lacks_are_named(folder: Path) -> None:
    slices = [pydicom.dcmread(folder / f"IM{k:04d}") for k in range(16)]
    directory(folder, slices[0].SeriesInstanceUID, [ds.SOPInstanceUID for ds in slices])
    [scan] = find_scans([folder], None)
    assert scan.notes() == []
    for k in (13, 14, 15):
        (folder / f"IM{k:04d}").unlink()
    with pytest.raises(AmosError, match=r"3 of 16 images that the DICOMDIR lists are not here \(PAT1/IM0013, PAT1/IM0"):
        find_scans([folder], None)


@pytest.mark.parametrize(
    ("tags", "kept", "said"),
    [
        ({"ImagesInAcquisition": 16}, range(13), "13 slices are here, but its headers mention 16 (Images in Acqu"),
        ({"NumberOfSlices": 16}, range(13), "13 slices are here, but its headers mention 16 (Number of Slices)"),
        ({}, range(3, 16), "13 slices are here, but its headers mention 16 (Instance Number)"),
        ({"ImagesInAcquisition": 16}, range(16), None),
        ({"ImagesInAcquisition": 8}, range(16), None),
        ({}, range(0, 16, 2), None),  # one of two echoes
    ],
)
def test_headers_that_speak_of_more_images_than_there_are_make_a_warning(folder: Path, tags, kept, said) -> None:
    slices = [pydicom.dcmread(folder / f"IM{k:04d}") for k in kept]
    for ds in slices:
        for tag, value in tags.items():
            setattr(ds, tag, value)
    rewrite(folder, slices)
    [scan] = find_scans([folder], None)
    assert len(scan.notes()) == (said is not None)
    assert said is None or said in scan.notes()[0]


def test_several_series_that_cannot_be_used_are_all_named_with_what_is_wrong(folder: Path) -> None:
    study = folder.parent / "study"
    write_series(study / "a", even_volume(), AFFINE, number=4, leave_out=(3,))
    write_series(study / "b", even_volume(), AFFINE, number=5)
    empty(study / "b/IM0002")
    write_series(study / "c", even_volume(), AFFINE, number=6)
    with pytest.raises(AmosError) as refused:
        find_scans([study], None)
    listed = str(refused.value).split("; choose one with --series NUMBER or UID (or all): ")[1]
    assert "number 4 'abdomen' (CT, 7 slices, UID" in listed
    assert "not usable: slices are missing in between" in listed
    assert "not usable: 1 of 8 files cannot be used (IM0002: is empty)" in listed
    assert listed.count("not usable") == 2
    assert find_scans([study], None, series="6")
    with pytest.raises(AmosError, match="DICOM series 5: 1 of 8 files"):
        find_scans([study], None, series="5")


def test_one_bad_series_leaves_the_others(folder: Path) -> None:
    write_series(folder.parent / "PAT2", even_volume(), AFFINE, leave_out=(3,))
    write_series(folder.parent / "PAT3", even_volume(), AFFINE)
    found = find_scans([folder.parent / name for name in ("PAT2", "PAT1", "PAT9", "PAT3")], None)
    problems = [scan.problem.split(":")[0].split("/")[-1] for scan in found]
    assert problems == ["PAT2, DICOM series 3", "", "PAT9", ""]
    assert [scan.name for scan in found if not scan.problem] == ["PAT1", "PAT3"]


def test_libraries_say_nothing_that_names_no_file(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    slices = [pydicom.dcmread(folder / f"IM{k:04d}") for k in range(16)]
    for ds in slices:
        ds.SpecificCharacterSet = "ISO_IR 999"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rewrite(folder, slices)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted(folder)
    assert capfd.readouterr() == ("", "")


def test_no_damage_to_a_file_is_a_traceback_or_a_shorter_scan(folder: Path) -> None:
    """Bytes changed at random in headers: the series is refused in a sentence, or has all of its slices."""
    write_enhanced(folder.parent / "ENH/all.dcm", even_volume(), AFFINE)
    random = np.random.default_rng(0)
    for path, slices in ((folder / "IM0007", 16), (folder.parent / "ENH/all.dcm", 8)):
        whole = path.read_bytes()
        for _ in range(50):
            damaged = bytearray(whole)
            for place in random.integers(132, 1400, int(random.integers(1, 6))):
                damaged[place] = random.integers(256)
            path.write_bytes(damaged)
            try:
                found = converted(path.parent).shape[2]
            except AmosError:
                continue
            assert found == slices
        path.write_bytes(whole)
