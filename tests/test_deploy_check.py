"""`amos-fl deploy check`, with real sockets and certificates on the loopback interface."""

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from loopback import Answers, proxying, serving

from amos_fl.cli.main import run
from amos_fl.cohort.table import read_cohort, write_organs
from amos_fl.deploy.certificates import new_authority, read_authority, write_authority, write_server_certificate
from amos_fl.deploy.check import check_site
from amos_fl.deploy.connection import STEPS, check_connection
from amos_fl.deploy.create import copy_cases, create_deployment, make_site_folder, renew_certificate
from amos_fl.deploy.enroll import enroll
from amos_fl.deploy.findings import Finding, holds
from amos_fl.deploy.layout import KEY, PUBLIC_KEY, SiteConnection, read_deployment, read_site, versions, write_site
from amos_fl.deploy.local_checks import check_device, check_disk, check_key, check_scans, check_version
from amos_fl_clients.federation.settings import SiteSettings, read_settings


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower() in ("https_proxy", "http_proxy", "all_proxy", "no_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create_deployment(tmp_path / "dep", ["A"], hosts=["localhost"])
    enroll(tmp_path / "dep/sites/site-a")
    return tmp_path / "dep"


@pytest.fixture
def folder(root: Path, tiny_root: Path) -> Path:
    """A site with everything in place."""
    cohort = read_cohort(tiny_root).only(["A"])
    write_organs(cohort.organs, root / "organs.csv")
    make_site_folder(root, read_deployment(root), "A")
    copy_cases(cohort, root / "sites/site-a/data")
    return root / "sites/site-a"


def connected(folder: Path, port: int, host: str = "localhost", **more: str) -> SiteConnection:
    """What the site's bundle says, with the port of a server of a test."""
    connection = read_site(folder).model_copy(update={"host": host, "port": port, **more})
    write_site(folder, connection)
    return connection


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def settings_of(folder: Path) -> SiteSettings:
    return read_settings(folder / "settings.yaml")


@contextmanager
def found(root: Path, answers: Answers | None = None, *, host: str = "localhost") -> Iterator[dict[str, Finding]]:
    """What a site of the deployment finds at a server that has the deployment's certificate."""
    site = root / "sites/site-a"
    with serving(root / "superlink", answers) as port:
        yield by_check(check_connection(site, connected(site, port, host), timeout_s=5))


def test_a_superlink_in_order_passes_every_step(root: Path) -> None:
    with found(root) as findings:
        assert [(name, findings[name].outcome) for name in STEPS] == [(name, "ok") for name in STEPS]


def test_a_name_that_is_not_known(root: Path) -> None:
    site = root / "sites/site-a"
    findings = by_check(check_connection(site, connected(site, 1, "no-such-host.invalid")))
    assert findings["name"].outcome == "wrong"
    assert "no-such-host.invalid, the name of the SuperLink, is not known here" in findings["name"].found
    assert {findings[step].found for step in STEPS[1:]} == {"needs: name"}


def test_a_port_at_which_nothing_listens(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    site = root / "sites/site-a"
    finding = by_check(check_connection(site, connected(site, port)))["port"]
    assert finding == Finding("port", "wrong", f"localhost answers, but nothing listens at port {port}", finding.remedy)
    assert "whether the SuperLink runs" in finding.remedy


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="full queues answer otherwise elsewhere")
def test_a_port_that_a_firewall_leaves_unanswered(root: Path) -> None:
    # A listener that accepts nobody and whose queue is full drops what comes after, as a firewall does.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = []
        for _ in range(4):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(("127.0.0.1", port))
        site = root / "sites/site-a"
        finding = by_check(check_connection(site, connected(site, port), timeout_s=0.5))["port"]
        for one in waiting:
            one.close()
    assert "does not answer within 0.5 s" in finding.found
    assert f"connections outwards to localhost:{port}" in finding.remedy


def test_another_authority_is_not_trusted(root: Path, tmp_path: Path) -> None:
    create_deployment(tmp_path / "foreign", ["A"], hosts=["localhost"])
    site = root / "sites/site-a"
    with serving(tmp_path / "foreign/superlink") as port:
        findings = by_check(check_connection(site, connected(site, port)))
    assert "was not signed by the authority in ca.crt" in findings["certificate"].found
    assert findings["SuperLink"].found == "needs: certificate"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_for_other_names(root: Path, host: str) -> None:
    authority = read_authority(root / "authority")
    write_server_certificate(root / "superlink", authority, ["fl.example.org", "10.1.2.3"], days=30)
    with found(root, host=host) as findings:
        assert findings["certificate"].found == f"the SuperLink's certificate is not for the name {host}"
        assert "--renew-certificates --host NAME" in findings["certificate"].remedy


@pytest.mark.parametrize(
    ("made", "days", "said"),
    [
        (timedelta(days=-40), 30, "the SuperLink's certificate has expired, by this machine's clock"),
        (timedelta(days=2), 30, "the SuperLink's certificate is not valid yet, by this machine's clock"),
    ],
)
def test_a_certificate_out_of_its_time(root: Path, made: timedelta, days: int, said: str) -> None:
    authority = read_authority(root / "authority")
    write_server_certificate(root / "superlink", authority, ["localhost"], days=days, now=datetime.now(UTC) + made)
    with found(root) as findings:
        assert findings["certificate"].found == said
        assert findings["clock"].outcome == "ok"  # it is asked all the same, and here it is not to blame


def test_an_authority_out_of_its_time(root: Path) -> None:
    authority = new_authority("old", days=30, now=datetime.now(UTC) - timedelta(days=40))
    write_authority(root / "authority", authority)
    write_server_certificate(root / "superlink", authority, ["localhost"], days=30)
    shutil.copy(root / "authority/ca.crt", root / "sites/site-a/ca.crt")
    with found(root) as findings:
        assert findings["certificate"].found == "the authority's certificate has expired, by this machine's clock"


def test_a_certificate_that_ends_soon_is_good_and_says_so(root: Path) -> None:
    renew_certificate(root, days=10)
    with found(root) as findings:
        assert findings["certificate"].outcome == "ok"
        assert "it expires in 9 days, tell the coordinator" in findings["certificate"].found


def test_a_server_without_tls(root: Path) -> None:
    site = root / "sites/site-a"
    with serving(None) as port:
        findings = by_check(check_connection(site, connected(site, port), timeout_s=5))
    assert findings["certificate"].found == f"localhost:{port} answers without TLS"
    assert findings["clock"].outcome == "not checked"


def test_a_missing_or_damaged_authority(root: Path) -> None:
    for spoil in (lambda path: path.write_text("nonsense"), lambda path: path.unlink()):
        spoil(root / "sites/site-a/ca.crt")
        with found(root) as findings:
            assert findings["certificate"].found == "ca.crt is missing or damaged"
            assert "ask the coordinator for a new bundle" in findings["certificate"].remedy


@pytest.mark.parametrize(
    ("ahead_s", "said"),
    [
        (-60, " s ahead of"),
        (3600 * 3, "3 h behind"),
        (-86400 * 400, "400 days ahead of"),
        (290, ""),
        (-4, ""),
    ],
)
def test_the_clock_is_compared_within_what_flower_allows(root: Path, ahead_s: float, said: str) -> None:
    # a server's clock that is ahead is a site's that is behind
    with found(root, Answers(clock_ahead_s=ahead_s)) as findings:
        clock = findings["clock"]
        assert clock.outcome == ("wrong" if said else "ok")
        assert said in clock.found
        assert findings["SuperLink"].outcome == "ok"


def test_what_is_not_well_or_no_superlink(root: Path) -> None:
    with found(root, Answers(health=502)) as findings:
        assert findings["SuperLink"].found == "answers 502 to /health instead of 200"


def test_another_flwr_at_the_superlink_is_named_as_the_superlink_says_it(root: Path) -> None:
    with found(root, Answers(flwr="1.28.0")) as findings:
        here = versions()["flwr"]
        assert findings["version of flwr"].found == f"{here} here, 1.28.0 at the SuperLink (as it says)"
        assert findings["version of flwr"].remedy == "install the image of this deployment, or flwr 1.28.0"


def test_a_patch_release_of_flwr_is_as_good(root: Path) -> None:
    major, minor = versions()["flwr"].split(".")[:2]
    with found(root, Answers(flwr=f"{major}.{minor}.99")) as findings:
        assert findings["version of flwr"].outcome == "ok"


def test_the_bundle_says_the_version_where_the_superlink_does_not(root: Path) -> None:
    site = root / "sites/site-a"
    with serving(root / "superlink", Answers(flwr=None)) as port:
        findings = by_check(check_connection(site, connected(site, port, flwr="1.30.0")))
    assert findings["version of flwr"].outcome == "wrong"
    assert "1.30.0 at the SuperLink (by the bundle)" in findings["version of flwr"].found


def test_another_amos_fl_than_the_bundles() -> None:
    connection = SiteConnection(site="A", host="x", port=1, flwr=versions()["flwr"], amos_fl="9.9.9")
    finding = check_version(connection)
    assert finding.outcome == "wrong"
    assert "9.9.9 at the SuperLink" in finding.found


def test_the_way_goes_through_the_proxy_of_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxying() as (proxy, asked):
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@127.0.0.1:{proxy}")
        with found(root) as findings:
            assert {findings[step].outcome for step in STEPS} == {"ok"}
            assert "through the proxy 127.0.0.1" in findings["name"].found
    assert all(line.startswith("CONNECT localhost:") for line in asked)
    assert "Proxy-Authorization: Basic dXNlcjpwQHNz" in asked[0]


def test_a_proxy_that_refuses_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxying(refuse=True) as (proxy, _):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy}")
        with found(root) as findings:
            assert "the proxy 127.0.0.1 refuses to connect to localhost:" in findings["port"].found
            assert "403 Not allowed here" in findings["port"].found
            assert "NO_PROXY" in findings["port"].remedy


def test_no_proxy_is_honoured(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "localhost")
    with found(root) as findings:
        assert findings["SuperLink"].outcome == "ok"


def test_a_key_that_is_missing_open_to_others_or_not_the_public_ones(root: Path, tmp_path: Path) -> None:
    folder = root / "sites/site-a"
    connection = read_site(folder)
    assert check_key(folder, connection).outcome == "ok"
    (folder / KEY).chmod(0o644)
    assert check_key(folder, connection).remedy == "run 'chmod 600' on it"
    (folder / KEY).chmod(0o600)
    shutil.copy(enroll(tmp_path / "other", "A").public_key_file, folder / PUBLIC_KEY)
    assert "keys/site.pub is not the public half of keys/site.key" in check_key(folder, connection).found
    (folder / KEY).unlink()
    assert "no such key" in check_key(folder, connection).found
    assert "amos-fl deploy enroll" in check_key(folder, connection).remedy


def test_the_key_pair_of_another_site_is_not_taken_for_this_ones(root: Path, tmp_path: Path) -> None:
    folder, other = root / "sites/site-a", tmp_path / "other"
    enroll(other, "B")
    for name in (KEY, PUBLIC_KEY):
        shutil.copy(other / name, folder / name)
    finding = check_key(folder, read_site(folder))
    assert finding.outcome == "wrong"
    assert finding.found == "keys/site.pub is the key of site B, and site.yaml is of site A"
    assert "restore this site's own key" in finding.remedy
    create_deployment(tmp_path / "demo", ["A"], demonstration_keys=True)
    demonstration = tmp_path / "demo/sites/site-a"
    assert check_key(demonstration, read_site(demonstration)).outcome == "ok"


def test_scans_of_this_site_that_can_be_read_are_counted(folder: Path) -> None:
    finding, cases = check_scans(settings_of(folder))
    assert finding.found.startswith("3 train, 1 val, 1 test; 5 with a label map")
    assert len(cases) == 5


def test_a_single_case_to_score_is_named_with_the_setting_that_keeps_its_scores_here(folder: Path) -> None:
    place = settings_of(folder)
    counts = "3 train, 1 val, 1 test; 5 with a label map"
    note = "1 val case, 1 test case: sums are its scores; refuse_evaluation_on: [val, test] keeps them here"
    assert check_scans(place)[0] == holds("scans", f"{counts}; {note}")
    kept = place.model_copy(update={"refuse_evaluation_on": ("val",)})
    note = "1 test case: sums are its scores; refuse_evaluation_on: [test] keeps them here"
    assert check_scans(kept)[0] == holds("scans", f"{counts}; {note}")
    kept = place.model_copy(update={"refuse_evaluation_on": ("val", "test")})
    assert check_scans(kept)[0] == holds("scans", counts)


def test_a_data_folder_that_is_empty_or_holds_anothers_or_unreadable_scans(folder: Path, tiny_root: Path) -> None:
    place = settings_of(folder)
    image = folder / "data/images/a_train_0.nii.gz"
    content = image.read_bytes()
    image.unlink()
    assert check_scans(place)[0].found == "a_train_0: a_train_0.nii.gz is not there"
    image.mkdir()
    assert check_scans(place)[0].found == "a_train_0: a_train_0.nii.gz cannot be read"
    image.rmdir()
    image.touch()
    assert check_scans(place)[0].found == "a_train_0: a_train_0.nii.gz is an empty file"
    image.write_bytes(content)
    assert check_scans(place.model_copy(update={"site": "B"}))[0].found == "cohort.csv names cases of site A"
    shutil.rmtree(folder / "data")
    (folder / "data").mkdir()
    assert check_scans(place)[0].found == f"{folder / 'data'} is empty or not there"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_data_folder_that_may_not_be_read(folder: Path) -> None:
    (folder / "data").chmod(0)
    try:
        finding, _ = check_scans(settings_of(folder))
    finally:
        (folder / "data").chmod(0o755)
    assert finding.found == f"{folder / 'data'} cannot be read"
    assert f"user with id {os.getuid()}" in finding.remedy


def test_a_gpu_that_is_asked_for_and_not_there(folder: Path) -> None:
    settings = folder / "settings.yaml"
    settings.write_text(settings.read_text().replace("device: cpu", f"device: cuda:{torch.cuda.device_count()}"))
    finding = check_device(settings_of(folder))
    assert finding.outcome == "wrong"
    assert "this machine has no such GPU" in finding.found
    assert "device: cpu" in finding.remedy


def test_a_disk_that_cannot_hold_the_prepared_scans(folder: Path, tmp_path: Path) -> None:
    place = settings_of(folder)
    _, cases = check_scans(place)
    assert check_disk(place, cases).outcome == "ok"
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((14000, 14000, 14000))
    header.set_sform(np.diag([0.1, 0.1, 0.1, 1]), 1)
    header["pixdim"][1:4] = 0.1
    header["magic"], header["vox_offset"] = b"n+1", 352
    with (folder / "data/images/a_train_0.nii").open("wb") as file:
        file.write(header.binaryblock + b"\0" * 4)
        file.truncate(352 + 14000**3)  # a hole, which takes no room on the disk
    text = (folder / "data/cohort.csv").read_text()
    (folder / "data/cohort.csv").write_text(text.replace("images/a_train_0.nii.gz", "images/a_train_0.nii"))
    _, cases = check_scans(place)
    finding = check_disk(place, cases)
    assert finding.outcome == "wrong"
    assert "1372" in finding.found  # 14000 cubed, times 5 bytes, in GB
    (tmp_path / "file").touch()
    blocked = place.model_copy(update={"store": tmp_path / "file/store"})
    assert "may not be written" in check_disk(blocked, cases).found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "settings.yaml is not there"),
        ("site: A\nstore: x\n", "settings.yaml: cohort: is missing"),
        ("- 1\n", "settings.yaml: must hold settings"),
        ("site: B\ncohort: x\nstore: x\nstate: x\n", "settings.yaml is for site B, and site.yaml for site A"),
    ],
)
def test_settings_that_cannot_be_used_are_named(folder: Path, text: str | None, said: str) -> None:
    (folder / "settings.yaml").unlink()
    if text is not None:
        (folder / "settings.yaml").write_text(text)
    connected(folder, 1, "no-such-host.invalid")
    findings = by_check(check_site(folder, lambda *_: holds("registered", "yes"), read_settings))
    assert findings["settings"].outcome == "wrong"
    assert said in findings["settings"].found
    assert findings["scans"].found == "needs: settings"


def test_the_superlink_is_asked_for_the_key_only_over_a_trusted_connection(folder: Path) -> None:
    asked: list[Path] = []

    def ask(where: Path, connection: SiteConnection) -> Finding:
        asked.append(where)
        return holds("registered", "yes")

    with serving(None) as port:
        connected(folder, port)
        assert by_check(check_site(folder, ask, read_settings, timeout_s=2))["registered"].outcome == "not checked"
    assert asked == []
    with serving(folder.parents[1] / "superlink") as port:
        connected(folder, port)
        findings = check_site(folder, ask, read_settings)
    assert asked == [folder]
    assert {finding.outcome for finding in findings} == {"ok"}


def test_the_command_prints_a_table_and_leaves_with_2_when_something_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(folder.parents[1] / "superlink", Answers(health=503)) as port:
        connected(folder, port)
        assert run(["deploy", "check", str(folder), "--timeout", "5"]) == 2
    out, err = capsys.readouterr()
    assert err == ""
    assert "answers 503 to /health instead of 200" in out
    assert "15 checks: 1 wrong, 2 not checked" in out
    assert not any(line in out for line in (folder / KEY).read_text().splitlines()[1:-1])


def test_a_folder_without_a_bundle_is_said_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["deploy", "check", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert (
        said == f"amos-fl: {tmp_path / 'site.yaml'}: no such file; unpack the coordinator's bundle into this folder\n"
    )
