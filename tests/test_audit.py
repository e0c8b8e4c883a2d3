"""The audit log of a site, and the search for a patient in everything that leaves one."""

import logging
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import write_tiny_cohort
from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from hospitals import Hospital, hospital, write_hospital
from hypothesis import given
from hypothesis import strategies as st

from amos_fl.cohort.table import Case, Cohort, read_cohort
from amos_fl.errors import AmosError
from amos_fl_clients.federation.audit import NotRecorded, audit_line
from amos_fl_clients.federation.error_replies import SiteFailure, words_that_may_travel
from amos_fl_clients.federation.messages import ARRAYS
from amos_fl_clients.federation.policy import Refusal, pause
from amos_fl_clients.federation.records import views_of

MARKER = "JaneDoe19470101"
VOXEL = 12345
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ( [a-z]+=([A-Za-z0-9_.,:+-]+|\"([^\"\\]|\\.)*\"))+")


def values_of(line: str) -> dict[str, str]:
    return dict(re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', line))


def bytes_of(reply: Message) -> bytes:
    """Everything of a message that travels, as Flower sends it."""
    return b"".join(part.deflate() for part in get_all_nested_objects(reply).values())


def test_each_request_is_one_line_that_says_who_asked_what_and_what_was_sent(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    site = hospital(tmp_path, tiny_cohort, refuse_evaluation_on=["test"])
    reply = site.train(round_number=1, steps=2)
    site.evaluate("val")
    with pytest.raises(Refusal):
        site.evaluate("test")
    trained, scored, refused = map(values_of, site.audit)
    assert all(LINE.fullmatch(line) for line in site.audit)
    sizes = [len(array.data) for array in reply.content.array_records[ARRAYS].values()]
    assert trained["run"] == "42"
    assert (trained["asked"], trained["round"], trained["steps"]) == ("train", "1", "2")
    assert (trained["answer"], trained["records"]) == ("sent", "arrays,metrics,site")
    assert int(trained["arrays"]) == len(views_of(reply.content.array_records[ARRAYS]))
    assert sum(sizes) < int(trained["bytes"]) < sum(sizes) + 200
    assert (scored["asked"], scored["split"], scored["arrays"]) == ("evaluate", "val", "0")
    assert (refused["answer"], refused["split"]) == ("refused", "test")
    assert "does not allow evaluation on test" in refused["why"]
    assert all(float(values["seconds"]) >= 0 for values in (trained, scored, refused))


def test_lines_are_only_added(tmp_path: Path, tiny_cohort: Cohort) -> None:
    site = hospital(tmp_path, tiny_cohort)
    site.describe()
    first = (site.settings.state / "audit.log").read_bytes()
    pause(site.settings.state)
    with pytest.raises(Refusal):
        site.describe()
    assert (site.settings.state / "audit.log").read_bytes().startswith(first)
    assert len(site.audit) == 2


def test_what_cannot_be_recorded_is_not_sent(tmp_path: Path, tiny_cohort: Cohort) -> None:
    site = hospital(tmp_path / MARKER, tiny_cohort)
    (site.settings.state / "audit.log").mkdir(parents=True)
    with pytest.raises(SiteFailure, match="without it nothing is sent") as failure:
        site.train()
    assert MARKER not in str(failure.value)
    assert issubclass(NotRecorded, AmosError)


@given(st.text())
def test_no_value_can_end_its_line_or_pose_as_another(value: str) -> None:
    line = audit_line(datetime(2026, 1, 2, tzinfo=UTC), {"why": value, "seconds": "1"})
    assert len(line.splitlines()) == 1
    assert line.isascii()
    assert LINE.fullmatch(line)
    assert list(values_of(line)) == ["why", "seconds"]


def _marked(folder: Path) -> Cohort:
    """A cohort in whose case names, paths, headers and voxels a patient is to be found."""
    cohort = write_tiny_cohort(folder / MARKER)
    cases = []
    for number, case in enumerate(cohort.of(site="A")):
        image = case.image.with_name(f"{MARKER}_{number}.nii.gz")
        scan: Any = nib.load(case.image)
        voxels = np.asanyarray(scan.dataobj).copy()
        voxels[2:12, 2:12, 2:12] = VOXEL
        header = scan.header.copy()
        header["descrip"] = MARKER.encode()
        header["db_name"] = MARKER.encode()
        nib.save(nib.Nifti1Image(voxels, scan.affine, header), image)
        assert case.label is not None
        label = case.label.with_name(f"{MARKER}_{number}.nii.gz")
        shutil.move(case.label, label)
        cases.append(replace(case, case=f"{MARKER}_{number}", image=image, label=label))
    return Cohort(tuple(cases), cohort.organs)


def _holds_the_patient(sent: bytes) -> bool:
    patterns = [MARKER.encode(), MARKER.lower().encode(), MARKER[:7].encode(), MARKER[7:].encode()]
    for dtype in ("<i2", "<i4", "<f4", "<f8", ">i2"):
        patterns.append(np.full(3, VOXEL, dtype=dtype).tobytes())
    patterns.append(str(VOXEL).encode())
    return any(pattern in sent for pattern in patterns)


def _harm(site: Hospital, how: str) -> None:
    """Break one thing at a site, so that the next request meets an error."""
    settings = site.settings
    first: Case = next(case for case in read_cohort(settings.cohort).cases if case.split == "train")
    assert first.label is not None
    if how == "a scan is missing":
        first.image.unlink()
    elif how == "a scan is cut short":
        first.image.write_bytes(first.image.read_bytes()[:500])
    elif how == "a scan is something else":
        first.image.write_bytes(b"GIF89a " + MARKER.encode())
    elif how == "a label has another grid":
        nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), first.label)
    elif how == "the cohort's table is wrong":
        settings.cohort.write_text(settings.cohort.read_text().replace(",train,", f",{MARKER},", 1))
    elif how == "the cohort's table is missing":
        settings.cohort.unlink()
    elif how == "the store is a file":
        settings.store.parent.mkdir(parents=True, exist_ok=True)
        settings.store.write_text(MARKER)
    else:
        raise AssertionError(how)


HARM = [
    "a scan is missing",
    "a scan is cut short",
    "a scan is something else",
    "a label has another grid",
    "the cohort's table is wrong",
    "the cohort's table is missing",
    "the store is a file",
]


@pytest.mark.parametrize("share", ["none", "pseudonyms"])
def test_a_patient_is_in_no_reply_and_not_in_the_audit_log(tmp_path: Path, share: str) -> None:
    site = hospital(tmp_path / "hospital", _marked(tmp_path / "scans"), share_case_scores=share)
    replies = [site.describe(), site.train(), site.evaluate("val"), site.evaluate("test")]
    assert not any(_holds_the_patient(bytes_of(reply)) for reply in replies)
    assert not _holds_the_patient((site.settings.state / "audit.log").read_bytes())


def test_the_search_finds_a_patient_where_there_is_one(tmp_path: Path) -> None:
    """The test above would be worth nothing if it could not fail."""
    cohort = _marked(tmp_path / "scans")
    site = hospital(tmp_path / "hospital", cohort, share_case_scores="named")
    assert _holds_the_patient(bytes_of(site.evaluate("test")))
    scan: Any = nib.load(cohort.cases[0].image)
    assert _holds_the_patient(np.asanyarray(scan.dataobj).astype("<i2").tobytes("F"))
    assert _holds_the_patient(scan.header.binaryblock)


@pytest.mark.parametrize("how", HARM)
def test_errors_that_travel_name_no_path_and_no_patient(
    tmp_path: Path, how: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    site = hospital(tmp_path / "hospital", _marked(tmp_path / "scans"))
    _harm(site, how)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(SiteFailure) as failure:
        site.train()
    assert str(failure.value).startswith("site A: ")
    assert failure.value.__cause__ is None
    assert failure.value.__context__ is None
    printed = capfd.readouterr()
    log = (site.settings.state / "audit.log").read_text()
    for leaving in (str(failure.value), repr(failure.value), log, caplog.text, printed.out, printed.err):
        assert not _holds_the_patient(leaving.encode())
        assert str(tmp_path) not in leaving
    assert "answer=failed" in site.audit[-1]
    # What happened is not lost: the site can read it.
    details = (site.settings.state / "errors.log").read_text()
    assert MARKER in details or str(tmp_path) in details
    assert "Traceback" not in details.splitlines()[0]
    assert "Error)" not in str(failure.value)


@given(
    st.sampled_from([OSError, FileNotFoundError, PermissionError, ValueError, KeyError, RuntimeError, AmosError]),
    st.text(min_size=5),
)
def test_no_word_of_a_foreign_error_travels(kind: type[Exception], text: str) -> None:
    said = words_that_may_travel(kind(text), "A")
    assert said == words_that_may_travel(kind("another message"), "A")


def test_a_simulated_site_says_its_errors_in_full(tmp_path: Path) -> None:
    site = hospital(tmp_path / "hospital", _marked(tmp_path / "scans"), share_error_details=True)
    _harm(site, "a scan is missing")
    with pytest.raises(AmosError, match=MARKER):
        site.train()


def test_a_settings_file_that_cannot_be_read_is_not_described_to_the_server(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    from flwr.app import Context, RecordDict

    from amos_fl_clients.operation.settings_lookup import settings_of

    path = write_hospital(tmp_path / MARKER, tiny_cohort, "A")
    context = Context(1, 7, {"site-settings": str(path)}, RecordDict(), {})
    assert settings_of(context).site == "A"
    path.write_text(f"patient: {MARKER}")
    with pytest.raises(SiteFailure) as failure:
        settings_of(context)
    assert MARKER not in str(failure.value)
