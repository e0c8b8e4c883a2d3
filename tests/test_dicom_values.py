"""DICOM's stored numbers become Hounsfield units and MR intensities, or the series is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom")

import gdcm
import pydicom
from dicom_series import assert_same_in_space, converted, even_volume, rewrite, turned, write_enhanced, write_series
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from amos_fl.errors import AmosError
from amos_fl.inference.scans import find_scans

AFFINE = turned((0, 0, 0), (0.7, 0.8, 2.0))


def table(values: np.ndarray, first: int) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(values), first, 16]
    item.ModalityLUTType = "US"
    item.LUTData = values.astype("<u2").tobytes()
    return item


def shown(how: str) -> dict[str, Any]:
    """What a header says of how an image is to be shown."""
    return {
        "white air": {"PhotometricInterpretation": "MONOCHROME1"},
        "inverse shape": {"PresentationLUTShape": "INVERSE"},
        "both": {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        "window": {"WindowCenter": "40", "WindowWidth": "400"},
        "table for display": {"VOILUTSequence": [table(np.array([9, 5, 3, 1]), 0)]},
    }[how]


@pytest.mark.parametrize("how", ["white air", "inverse shape", "both", "window", "table for display"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("kind", ["single", "enhanced"])
def test_how_an_image_is_to_be_shown_changes_no_value(tmp_path: Path, kind: str, modality: str, how: str) -> None:
    array = even_volume()
    if kind == "single":
        write_series(tmp_path / "series", array, AFFINE, modality=modality, **shown(how))
    else:
        write_enhanced(tmp_path / "series/all.dcm", array, AFFINE, modality=modality, **shown(how))
    assert_same_in_space(converted(tmp_path / "series"), array, AFFINE)


def test_values_are_those_that_gdcm_finds(tmp_path: Path) -> None:
    array = even_volume()
    write_series(tmp_path / "series", array, AFFINE, PhotometricInterpretation="MONOCHROME1")
    theirs = []
    for path in (tmp_path / "series").iterdir():
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        image = reader.GetImage()
        stored = np.frombuffer(image.GetBuffer().encode("utf-8", "surrogateescape"), np.uint16)
        theirs.append(stored * image.GetSlope() + image.GetIntercept())
    ours = np.asarray(converted(tmp_path / "series").dataobj)
    np.testing.assert_array_equal(np.sort(ours.ravel()), np.sort(np.concatenate(theirs)))


@pytest.mark.parametrize(
    "rescales",
    [
        [(1.0 + k % 3, -1024.0 + 8 * k) for k in range(8)],
        [(1.0, 0.0) if k == 0 else (2.0, -1000.0) for k in range(8)],
    ],
)
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_each_frame_of_an_enhanced_file_has_its_own_scale(tmp_path: Path, modality: str, rescales) -> None:
    array = even_volume() * 3 + 2400
    array -= array % 6  # what every frame can hold: multiples of its slope above its intercept
    for k, (slope, intercept) in enumerate(rescales):
        array[..., k] = (array[..., k] - intercept) // slope * slope + intercept
    write_enhanced(tmp_path / "series/all.dcm", array, AFFINE, modality=modality, rescales=rescales)
    assert_same_in_space(converted(tmp_path / "series"), array, AFFINE)


def test_the_scale_that_all_frames_of_an_enhanced_file_share_is_taken(tmp_path: Path) -> None:
    array = even_volume()
    write_enhanced(tmp_path / "series/all.dcm", array, AFFINE, shared_rescale=(2.0, -1000.0))
    assert_same_in_space(converted(tmp_path / "series"), array, AFFINE)


@pytest.mark.parametrize(
    ("lack", "words"),
    [
        ({"RescaleSlope": None, "RescaleIntercept": None}, "no Rescale Slope and Intercept in IM"),
        ({"RescaleSlope": "", "RescaleIntercept": ""}, "no Rescale Slope and Intercept in IM"),
        ({"RescaleSlope": None}, "states a slope or an intercept for its values, but not both"),
        ({"RescaleSlope": "0"}, r"scales its values by 0 and -\d+ \(slope and intercept\)"),
        ({"SamplesPerPixel": 1, "PhotometricInterpretation": "PALETTE COLOR"}, "holds colours"),
        ({"RescaleType": "MGML"}, r"holds no Hounsfield units: .* MGML \(Rescale Type\)"),
    ],
)
@pytest.mark.parametrize("which", ["all slices", "one slice"])
def test_a_ct_without_hounsfield_units_is_refused(tmp_path: Path, which: str, lack: dict, words: str) -> None:
    slices = write_series(tmp_path / "series", even_volume(), AFFINE)
    for ds in slices if which == "all slices" else slices[3:4]:
        for tag, value in lack.items():
            delattr(ds, tag) if value is None else setattr(ds, tag, value)
    rewrite(tmp_path / "series", slices)
    with pytest.raises(AmosError, match=words):
        converted(tmp_path / "series")


def test_an_enhanced_ct_of_which_one_frame_has_no_scale_is_refused(tmp_path: Path) -> None:
    rescales = [(1.0, -1024.0), None, *[(1.0, -1024.0)] * 6]
    write_enhanced(tmp_path / "series/all.dcm", even_volume() + 800, AFFINE, rescales=rescales)
    with pytest.raises(AmosError, match="no Rescale Slope and Intercept"):
        converted(tmp_path / "series")


def test_a_frame_with_two_scales_is_refused(tmp_path: Path) -> None:
    top = {"RescaleSlope": "3", "RescaleIntercept": "0"}
    write_enhanced(tmp_path / "series/all.dcm", even_volume(), AFFINE, **top)
    with pytest.raises(AmosError, match=r"all\.dcm: states two slopes or intercepts"):
        converted(tmp_path / "series")


def test_an_mr_needs_no_scale_but_all_slices_or_none_have_one(tmp_path: Path) -> None:
    array = even_volume() + 800
    slices = write_series(tmp_path / "series", array, AFFINE, modality="MR")
    for k, ds in enumerate(slices):
        del ds.RescaleSlope, ds.RescaleIntercept
        ds.PixelData = array[:, :, k].T.astype(np.uint16).tobytes()
    rewrite(tmp_path / "series", slices)
    assert_same_in_space(converted(tmp_path / "series"), array, AFFINE)
    slices[2].RescaleSlope, slices[2].RescaleIntercept = "2", "0"
    rewrite(tmp_path / "series", slices)
    with pytest.raises(AmosError, match="scales the values of some slices but not of others"):
        converted(tmp_path / "series")


def test_a_table_gives_an_mr_its_values_and_a_ct_none(tmp_path: Path) -> None:
    stored = even_volume() + 800
    values = np.rint(np.sqrt(np.arange(1700)) * 100).astype(int)
    for modality in ("MR", "CT"):
        slices = write_series(tmp_path / modality, stored, AFFINE, modality=modality)
        for k, ds in enumerate(slices):
            del ds.RescaleSlope, ds.RescaleIntercept
            ds.ModalityLUTSequence = [table(values[10:], 10)]
            ds.PixelData = stored[:, :, k].T.astype(np.uint16).tobytes()
        rewrite(tmp_path / modality, slices)
    assert_same_in_space(converted(tmp_path / "MR"), values[np.maximum(stored, 10)], AFFINE)
    with pytest.raises(AmosError, match=r"by a table \(Modality LUT\), which cannot give Hounsfield units"):
        converted(tmp_path / "CT")


def test_a_ct_that_leaves_open_what_its_values_are_is_read_with_a_warning(tmp_path: Path) -> None:
    write_series(tmp_path / "series", even_volume(), AFFINE, RescaleType="US")
    [scan] = find_scans([tmp_path / "series"], None)
    [note] = scan.notes()
    assert "do not say whether its values are Hounsfield units (Rescale Type US)" in note


def test_drawings_in_unused_bits_are_no_values(tmp_path: Path) -> None:
    array = even_volume()
    slices = write_series(tmp_path / "series", array, AFFINE, BitsStored=12, HighBit=11)
    random = np.random.default_rng(0)
    for ds in slices:
        stored = np.frombuffer(ds.PixelData, np.uint16)
        assert stored.max() < 4096
        ds.PixelData = (stored | (random.integers(0, 16, stored.shape, dtype=np.uint16) << 12)).tobytes()
    rewrite(tmp_path / "series", slices)
    assert_same_in_space(converted(tmp_path / "series"), array, AFFINE)


def test_numbers_in_the_upper_bits_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "series", even_volume(), AFFINE, BitsStored=12, HighBit=15)
    with pytest.raises(AmosError, match=r"not store its numbers in the lowest bits \(High Bit 15, Bits Stored 12\)"):
        converted(tmp_path / "series")


def test_negative_numbers_of_twelve_bits_keep_their_sign(tmp_path: Path) -> None:
    array = even_volume()
    slices = write_series(tmp_path / "series", array, AFFINE, BitsStored=12, HighBit=11, PixelRepresentation=1)
    for k, ds in enumerate(slices):
        ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
        ds.PixelData = (array[:, :, k].T.astype(np.int16) & 0x0FFF).astype(np.uint16).tobytes()
    rewrite(tmp_path / "series", slices)
    assert_same_in_space(converted(tmp_path / "series"), array, AFFINE)


def compressed(folder: Path, array: np.ndarray, syntax: str) -> None:
    slices = write_series(folder, array, AFFINE)
    if syntax in (RLELossless, JPEGLSLossless):
        for ds in slices:
            ds.compress(syntax)
        rewrite(folder, slices)
        return
    rewrite(folder, slices)
    wanted = {
        JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
        JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    }[syntax]
    for path in folder.iterdir():
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(wanted))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1])
def test_compressed_pixels_that_are_damaged_or_cut_name_the_file(
    tmp_path: Path, syntax: str, capfd: pytest.CaptureFixture[str]
) -> None:
    array = even_volume((60, 50, 5))
    compressed(tmp_path / "series", array, syntax)
    assert_same_in_space(converted(tmp_path / "series"), array, AFFINE)
    victim = tmp_path / "series/IM0002"
    whole = victim.read_bytes()
    for damaged in (whole[:-600], whole[: len(whole) // 2]):
        victim.write_bytes(damaged)
        with pytest.raises(AmosError, match=r"DICOM series 3: .*IM0002"):
            converted(tmp_path / "series")
    # The stream itself is cut, and the file around it is whole.
    victim.write_bytes(whole)
    ds = pydicom.dcmread(victim)
    [frame] = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)
    ds.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) // 2 * 2 // 3]])
    ds.save_as(victim)
    with pytest.raises(AmosError, match=r"DICOM series 3: IM0002.*fetch it again"):
        converted(tmp_path / "series")
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_stream_that_its_decoder_calls_corrupt_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    compressed(tmp_path / "series", even_volume((60, 50, 5)), JPEGLosslessSV1)
    victim = tmp_path / "series/IM0002"
    ds = pydicom.dcmread(victim)
    [frame] = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)
    ds.PixelData = pydicom.encaps.encapsulate([frame[: len(frame) // 2] + b"\xff\xd9"])
    ds.save_as(victim)
    with pytest.raises(AmosError, match=r"IM0002: its pixels are damaged \(JPEG Lossless.*Corrupt.*; fetch it again"):
        converted(tmp_path / "series")
    assert capfd.readouterr() == ("", "")


def test_pixels_of_another_size_than_the_header_says_are_refused(tmp_path: Path) -> None:
    slices = write_series(tmp_path / "series", even_volume(), AFFINE)
    for ds in slices:
        ds.Columns -= 1
    rewrite(tmp_path / "series", slices)
    words = r"holds 308 bytes of pixels, but its header says 286 \(11x13\)"
    with pytest.raises(AmosError, match=words):
        converted(tmp_path / "series")


def test_frames_that_the_header_does_not_count_are_refused(tmp_path: Path) -> None:
    ds = write_enhanced(tmp_path / "series/all.dcm", even_volume(), AFFINE)
    ds.NumberOfFrames = 6
    ds.PerFrameFunctionalGroupsSequence = ds.PerFrameFunctionalGroupsSequence[:6]
    rewrite(tmp_path / "series", [ds])
    with pytest.raises(AmosError, match=r"holds 2464 bytes of pixels, but its header says 1848 \(6x11x14\)"):
        converted(tmp_path / "series")
