"""What is said of a SuperLink that cannot start, does not answer, is not trusted or has no token."""

import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from loopback import free_port, serving

from amos_fl.deploy.certificates import read_authority, write_server_certificate
from amos_fl.deploy.create import create_deployment
from amos_fl.deploy.layout import read_deployment, write_deployment
from amos_fl.errors import AmosError
from amos_fl_server.operation.admission import admit_sites
from amos_fl_server.operation.connection import connection_of
from amos_fl_server.operation.starting import only_superlink
from amos_fl_server.operation.superlink import SUBMITTERS, main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create_deployment(tmp_path / "dep", ["A"], hosts=["localhost"], port=free_port())
    return tmp_path / "dep"


def test_a_superlink_that_does_not_answer_is_said_in_one_sentence(root: Path) -> None:
    with pytest.raises(AmosError, match=r"the SuperLink at localhost:\d+ does not answer; start it"):
        admit_sites(root)


def another_key(root: Path) -> str:
    create_deployment(root.parent / "foreign", ["A"], hosts=["localhost"])
    shutil.copy(root.parent / "foreign/superlink/server.key", root / "superlink/server.key")
    return "server.key: is not the key of server.crt; restore both from one backup, or renew it with"


def expired(root: Path) -> str:
    made = datetime.now(UTC) - timedelta(days=40)
    write_server_certificate(root / "superlink", read_authority(root / "authority"), ["localhost"], days=30, now=made)
    return "server.crt: this certificate has expired on "


def no_submitters(root: Path) -> str:
    return "AMOS_FL_SUBMITTERS: name the file submitters.json"


def taken_port(root: Path) -> str:
    return "of this machine is taken, perhaps by another SuperLink; end that one, or choose a --port"


def same_database(root: Path) -> str:
    return "state.db: another SuperLink runs on this database; end it first"


@pytest.mark.parametrize("spoil", [another_key, expired, no_submitters, taken_port, same_database])
def test_a_superlink_that_cannot_start_says_so_in_one_sentence(
    spoil: Callable[[Path], str], root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said, files = spoil(root), root / "superlink"
    monkeypatch.setenv(SUBMITTERS, str(files / "submitters.json"))
    if spoil is no_submitters:
        monkeypatch.delenv(SUBMITTERS)
    monkeypatch.setattr("amos_fl_server.operation.superlink.set_environment", lambda runs: None)  # this process's
    arguments = ["--database", str(files / "state/state.db"), "--ssl-certfile", str(files / "server.crt")]
    with ExitStack() as held:
        port = free_port()
        if spoil is taken_port:
            held.enter_context(socket.create_server(("127.0.0.1", port)))
        if spoil is same_database:
            held.enter_context(only_superlink(arguments))
        monkeypatch.setattr(
            sys, "argv", ["amos-fl-superlink", "--port", str(port), *arguments, "--ssl-keyfile", f"{files}/server.key"]
        )
        with pytest.raises(SystemExit) as left:
            main()
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert error.startswith("amos-fl-superlink: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_token_that_is_empty_or_that_others_may_read_is_said(root: Path) -> None:
    token = root / "submit/token"
    token.chmod(0o640)
    with pytest.raises(AmosError, match=r"submit/token: other users of this machine may read this token; run 'chmod"):
        connection_of(root)
    token.chmod(0o600)
    token.write_text("\n")
    with pytest.raises(AmosError, match=r"submit/token: is empty; restore the token from a backup"):
        connection_of(root)


def test_a_superlink_that_is_not_trusted_is_told_apart_from_one_that_is_down(root: Path) -> None:
    create_deployment(root.parent / "foreign", ["A"], hosts=["localhost"])
    with serving(root.parent / "foreign/superlink") as port:
        deployed = read_deployment(root).model_copy(update={"port": port})
        write_deployment(root, deployed)
        with pytest.raises(AmosError, match=r"is not trusted: .*superlink/ca\.crt did not sign its certificate; take"):
            admit_sites(root)
    expired(root)
    with serving(root / "superlink") as port:
        write_deployment(root, deployed.model_copy(update={"port": port}))
        with pytest.raises(AmosError, match=r"has expired; renew it with 'amos-fl deploy init DIR --renew-cert"):
            admit_sites(root)
