"""`amos-fl-site supernode` refuses to start, or ends, in one sentence where the site cannot take part."""

import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from loopback import at, free_port, serving, superlink
from test_flower_parts import PARTS, Answers, own_process_in, site_in
from test_site_command import site_command

from amos_fl.deploy.certificates import read_authority, write_server_certificate
from amos_fl.deploy.create import create_deployment
from amos_fl.deploy.enroll import enroll
from amos_fl.deploy.layout import KEY, SETTINGS, read_site, write_site
from amos_fl.errors import AmosError
from amos_fl_clients.flower import supernode
from amos_fl_clients.operation import command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_deployment(tmp_path / "dep", ["A", "B"], hosts=["localhost"])
    for site in ("a", "b"):
        enroll(tmp_path / f"dep/sites/site-{site}")
    return tmp_path / "dep/sites/site-a"


def no_gpu(folder: Path) -> None:
    settings = folder / SETTINGS
    settings.write_text(settings.read_text().replace("device: cpu", "device: cuda:99"))


def of_another_version(folder: Path) -> None:
    write_site(folder, read_site(folder).model_copy(update={"amos_fl": "9.9.9"}))


def of_another_flower(folder: Path) -> None:
    write_site(folder, read_site(folder).model_copy(update={"flwr": "9.9.9"}))


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no key": (lambda folder: (folder / KEY).unlink(), "key: {folder}/keys/site.key: no such key; make it with"),
    "no key in it": (lambda folder: (folder / KEY).write_text("x"), "key: {folder}/keys/site.key: holds no key that"),
    "others may read it": (lambda folder: (folder / KEY).chmod(0o644), "other users of this machine may read this key"),
    "damaged ca.crt": (lambda folder: (folder / "ca.crt").write_text("x"), "certificate: ca.crt is missing or damaged"),
    "no settings": (lambda folder: (folder / SETTINGS).unlink(), "settings: {folder}/settings.yaml is not there; "),
    "another's settings": (
        lambda folder: shutil.copy(folder.parent / "site-b" / SETTINGS, folder / SETTINGS),
        "settings: {folder}/settings.yaml is for site B, and site.yaml for site A",
    ),
    "no such GPU": (no_gpu, "device: device cuda:99: this machine has no such GPU"),
    "another amos-fl": (of_another_version, "version of amos-fl: "),
    "another Flower": (of_another_flower, "version of flwr: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_site_that_deploy_check_finds_wrong_on_its_own_machine_does_not_start(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, said = WRONG[name]
    spoil(folder)
    monkeypatch.setattr(sys, "argv", ["amos-fl-site", "supernode", str(folder), "--port", str(free_port())])
    with pytest.raises(SystemExit) as left:
        command.main()
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert error.startswith("amos-fl-site: site A: ")
    assert said.format(folder=folder) in error
    assert error.count("\n") == 1


def started(folder: Path) -> tuple[int, str]:
    """The exit code of a site's SuperNode that ends by itself, and the sentences that are ours."""
    done = site_command("supernode", folder, "--port", str(free_port()), "--max-retries", "2")
    assert "Traceback" not in done.stderr
    assert "Exit Code" not in done.stderr
    return done.returncode, "\n".join(line for line in done.stderr.splitlines() if "site A" in line)


def assert_refused(folder: Path, port: int, why: str) -> None:
    """The site ends with one sentence about the SuperLink on this port, which names the remedy."""
    at(folder, port)
    sentence = f"site A: the SuperLink at localhost:{port} {why}; run amos-fl deploy check {folder}"
    assert started(folder) == (2, f"amos-fl-site: {sentence}")


def test_a_site_whose_key_is_not_known_ends_with_a_sentence(folder: Path) -> None:
    with superlink(folder.parents[1] / "superlink") as (port, _):
        assert_refused(folder, port, "does not know this key")


def test_a_site_that_does_not_trust_its_superlink_ends_with_a_sentence(folder: Path) -> None:
    root = folder.parents[1]
    made = datetime.now(UTC) - timedelta(days=40)
    write_server_certificate(root / "superlink", read_authority(root / "authority"), ["localhost"], days=30, now=made)
    with serving(root / "superlink") as port:
        assert_refused(folder, port, "is not trusted (certificate has expired)")


def test_a_superlink_that_does_not_answer_is_named_once_with_the_reason(folder: Path) -> None:
    port = free_port()
    at(folder, port)
    said = site_command("supernode", folder, "--port", str(free_port()), "--max-retries", "1").stderr
    assert said.count(f"the SuperLink at localhost:{port} does not answer (Connection refused); ") == 1
    assert "this is tried again until it answers" in said


def test_a_site_whose_key_was_withdrawn_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What Flower does then: it interrupts its own process, which ends as if it had been stopped.
    def program(*_: object) -> None:
        with suppress(httpx.HTTPStatusError):
            Answers(401).client().SendNodeHeartbeat(SendNodeHeartbeatRequest())
        raise SystemExit(0)

    monkeypatch.setattr(supernode, "run_program", program)
    before = [(part, part.present) for part in PARTS]
    try:
        with pytest.raises(AmosError, match=r"^site A: the SuperLink no longer accepts this site's key; ask the coord"):
            supernode.run([], own_process_in(tmp_path), site_in(tmp_path))
    finally:
        for part, present in before:
            part.replace(present)
