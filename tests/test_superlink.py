"""The SuperLink of a deployment: who may submit runs, who may take part, and what other machines are answered."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from flower_home import write_flower_home
from flwr.common.constant import ACCESS_TOKEN_KEY
from loopback import at, free_port, serving, superlink
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from amos_fl.api.doctor import PROGRAMS
from amos_fl.cli.main import run
from amos_fl.deploy.connection import STEPS, check_connection
from amos_fl.deploy.create import create_deployment
from amos_fl.deploy.enroll import enroll
from amos_fl.deploy.enroll import register as keep_key
from amos_fl.deploy.keys import token_hash, write_token
from amos_fl.deploy.layout import (
    PUBLIC_KEY,
    read_deployment,
    read_site,
    write_deployment,
)
from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl_clients.operation.registration import ask_registered
from amos_fl_server.operation.admission import admit_sites, not_admitted
from amos_fl_server.operation.connection import connection_of
from amos_fl_server.operation.superlink import SUBMITTERS, OwnProcessesOnly, SubmitterTokens, set_environment

UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create_deployment(tmp_path / "dep", ["A", "B"], hosts=["localhost"], port=free_port())
    for site in ("a", "b"):
        enroll(tmp_path / f"dep/sites/site-{site}")
    return tmp_path / "dep"


def test_a_site_learns_whether_its_key_is_registered_and_nothing_changes_there(root: Path) -> None:
    a, b = (root / f"sites/site-{site}" for site in ("a", "b"))
    with superlink(root / "superlink") as (port, register):
        register(a / PUBLIC_KEY)
        known = ask_registered(a, at(a, port))
        assert (known.check, known.outcome) == ("registered", "ok")
        assert "that it is this site's and no other's, the coordinator's register shows" in known.found
        finding = ask_registered(b, at(b, port))
        assert (finding.outcome, finding.remedy) == (
            "wrong",
            "send keys/site.pub to the coordinator, who runs 'amos-fl deploy register' and then 'amos-fl deploy admit'",
        )
        # had the question activated the node, its key would be in use and could not be asked for again
        assert ask_registered(a, at(a, port)).outcome == "ok"


def test_a_run_of_sites_that_are_not_admitted_is_told_before_anything_is_submitted(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = root / "sites/site-a" / PUBLIC_KEY
    keep_key(root, "A", key)
    with superlink(root / "superlink") as (port, register):
        write_deployment(root, read_deployment(root).model_copy(update={"port": port}))
        assert run(["deploy", "run", str(root), "--rounds", "1"]) == 2
        said = capsys.readouterr().err
        assert "site A is registered here and not admitted; site B has no key registered here: too few sites" in said
        assert f"then 'amos-fl deploy admit {root}'" in said
        register(key)
        assert not_admitted(root, ("A", "B"), connection_of(root)) == {"B": "has no key registered here"}
        assert run(["deploy", "run", str(root), "--rounds", "1", "--min-sites", "2"]) == 2
        assert "amos-fl: site B has no key registered here: too few sites" in capsys.readouterr().err


def test_a_real_superlink_passes_the_other_checks_and_says_its_version(root: Path) -> None:
    folder = root / "sites/site-a"
    with superlink(root / "superlink") as (port, _):
        findings = {finding.check: finding for finding in check_connection(folder, at(folder, port))}
    assert {findings[step].outcome for step in STEPS} == {"ok"}
    assert "(as it says)" in findings["version of flwr"].found


def test_a_server_that_is_no_superlink_says_nothing_about_keys(root: Path) -> None:
    folder = root / "sites/site-a"
    with serving(root / "superlink") as port:
        assert ask_registered(folder, at(folder, port)).outcome == "not checked"


def test_a_token_lets_its_submitter_pass_and_no_other(tmp_path: Path) -> None:
    known = {"ada": write_token(tmp_path / "ada"), "bo": write_token(tmp_path / "bo")}
    write_json(tmp_path / "submitters.json", known)
    plugin = SubmitterTokens(tmp_path / "submitters.json")
    token = (tmp_path / "bo").read_text().strip()
    assert plugin.submitter(token) == "bo"
    assert plugin.validate_tokens_in_metadata([(ACCESS_TOKEN_KEY, token)])[0]
    for wrong in ([], [(ACCESS_TOKEN_KEY, token[:-1])], [(ACCESS_TOKEN_KEY, "")], [("another-key", token)]):
        assert plugin.validate_tokens_in_metadata(wrong) == (False, None)
    assert plugin.submitter(known["ada"]) is None  # the hash is no token
    write_json(tmp_path / "submitters.json", {"ada": known["ada"]})
    assert not plugin.validate_tokens_in_metadata([(ACCESS_TOKEN_KEY, token)])[0]


def test_a_superlink_without_readable_submitters_does_not_start(tmp_path: Path) -> None:
    for text in ("", "[]", '{"ada": "secret"}'):
        (tmp_path / "submitters.json").write_text(text)
        with pytest.raises(AmosError, match="must map names to the SHA-256 of tokens"):
            SubmitterTokens(tmp_path / "submitters.json")


@pytest.mark.parametrize(
    ("path", "from_here", "from_elsewhere"),
    [
        ("/v1/fleet/pull-messages", 200, 200),
        ("/v1/control/start-run", 200, 200),
        ("/health", 200, 200),
        ("/v1/runtime/acquire-task", 200, 403),
        ("/docs", 200, 403),
        ("/v1//runtime/acquire-task", 200, 403),
    ],
)
def test_other_machines_are_answered_on_public_paths_alone(path: str, from_here: int, from_elsewhere: int) -> None:
    app = OwnProcessesOnly(Starlette(routes=[Route("/{rest:path}", lambda _: PlainTextResponse("ok"))]))
    for address, wanted in (("127.0.0.1", from_here), ("10.0.0.9", from_elsewhere), ("elsewhere", from_elsewhere)):
        assert TestClient(app, client=(address, 5)).get(f"http://superlink{path}").status_code == wanted


def test_another_machine_cannot_say_that_it_is_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "FORWARDED_ALLOW_IPS": "*"})
    set_environment(tmp_path)
    app: Any = OwnProcessesOnly(Starlette(routes=[Route("/{rest:path}", lambda _: PlainTextResponse(""))]))
    config = uvicorn.Config(app)
    config.load()
    loaded: Any = config.loaded_app
    other = TestClient(loaded, client=("10.0.0.9", 5), headers={"X-Forwarded-For": "127.0.0.1"})
    assert other.get("http://superlink/v1/runtime/acquire-task").status_code == 403


def test_flowers_programs_are_found_where_only_ours_are_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "PATH": str(tmp_path)})
    assert shutil.which("flower-superexec") is None
    set_environment(tmp_path)
    for program in PROGRAMS:
        assert shutil.which(program) is not None
    assert os.environ["PATH"].endswith(str(tmp_path))


def test_the_token_for_flowers_command_is_readable_by_its_owner_alone(root: Path, tmp_path: Path) -> None:
    write_flower_home(root, tmp_path / "home")
    assert (tmp_path / "home/credentials.yaml").stat().st_mode & 0o777 == 0o600
    assert (root / "submit/token").read_text().strip() not in (tmp_path / "home/config.toml").read_text()
    (root / "submit/token").unlink()
    with pytest.raises(AmosError, match=r"submit/token: is missing or cannot be read"):
        write_flower_home(root, tmp_path / "home")


@pytest.mark.slow
def test_flowers_own_commands_meet_the_guard(tmp_path: Path) -> None:
    """The real processes: with the token a key is registered and its SuperNode joins; all others are refused."""
    for name in ("dep", "foreign"):
        create_deployment(tmp_path / name, ["A", "B"], hosts=["localhost"], port=free_port())
    root = tmp_path / "dep"
    a, b = (root / f"sites/site-{site}" for site in ("a", "b"))
    for folder in (a, b):
        enroll(folder)
    token = Path(shutil.copy(root / "submit/token", tmp_path))
    write_flower_home(root, tmp_path / "with")
    write_flower_home(root, tmp_path / "without")
    (tmp_path / "without/credentials.yaml").unlink()
    with ExitStack() as stack:
        log = stack.enter_context((tmp_path / "superlink.log").open("w"))
        link = stack.enter_context(started(superlink_command(root), tmp_path / "link", log, root))
        folder, connection = a, read_site(a)
        wait_until(lambda: check_connection(folder, connection)[-1].outcome == "ok", link)

        listed = flower(tmp_path / "without", "flwr", "supernode", "register", a / PUBLIC_KEY, "deployment")
        assert "Authentication failed" in listed.stdout
        assert ask_registered(a, connection).outcome == "wrong"
        assert not_admitted(root, ("A", "B"), connection_of(root))["A"] == "has no key registered here"
        keep_key(root, "A", a / PUBLIC_KEY)
        assert not_admitted(root, ("A",), connection_of(root)) == {"A": "is registered here and not admitted"}
        done = admit_sites(root)
        assert not_admitted(root, ("A",), connection_of(root)) == {}
        assert (list(done.nodes), done.new, done.removed) == (["A"], ("A",), 0)
        assert admit_sites(root).new == ()
        assert ask_registered(a, connection).outcome == "ok"

        def node(key: Path | None, *trust: str | Path) -> list[str | Path]:
            where = ["--superlink", f"localhost:{connection.port}", "--port", str(free_port()), "--max-retries", "0"]
            return ["flower-supernode", *where, *(["--auth-supernode-private-key", key] if key else []), *trust]

        trust = ("--root-certificates", a / "ca.crt")
        for name, command, said in (
            ("unregistered", node(b / "keys/site.key", *trust), "2004"),
            (
                "foreign",
                node(a / "keys/site.key", "--root-certificates", tmp_path / "foreign/superlink/ca.crt"),
                UNTRUSTED,
            ),
            ("plain", node(a / "keys/site.key", "--insecure"), "TLS is not enabled"),
        ):
            left = flower(tmp_path / name, *command)
            assert left.returncode != 0, name
            assert said in left.stdout, name
        with started(node(a / "keys/site.key", *trust), tmp_path / "node", log, root) as joined:
            wait_until(lambda: admit_sites(root).status == {"A": "online"}, joined)
            assert str(done.nodes["A"]) in flower(tmp_path / "with", "flwr", "supernode", "list", "deployment").stdout
        enroll(a, replace=True)
        keep_key(root, "A", a / PUBLIC_KEY, replace=True)
        assert ask_registered(a, connection).outcome == "wrong"
        replaced = admit_sites(root)
        assert (replaced.new, replaced.removed) == (("A",), 1)
        assert replaced.nodes["A"] != done.nodes["A"]
        assert ask_registered(a, connection).outcome == "ok"
        (root / "submit/token").write_text("another")
        with pytest.raises(AmosError, match="refuses the token"):
            admit_sites(root)
    written = (tmp_path / "superlink.log").read_text()
    assert "request without a submitter's token refused" in written
    assert "No SuperNode found with the given public key" in written
    for secret in (token, a / "keys/site.key", root / "superlink/server.key"):
        assert not any(line in written for line in secret.read_text().split() if len(line) > 40)


def superlink_command(root: Path) -> list[str | Path]:
    files = root / "superlink"
    return [
        *(sys.executable, "-m", "amos_fl_server.operation.superlink", "--host", "127.0.0.1"),
        *("--port", str(read_site(root / "sites/site-a").port)),
        *("--database", files / "state/state.db"),
        *("--ssl-ca-certfile", files / "ca.crt", "--ssl-certfile", files / "server.crt"),
        *("--ssl-keyfile", files / "server.key"),
    ]


def environment(home: Path) -> dict[str, str]:
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **quiet, "PATH": path, "FLWR_HOME": str(home)}


def flower(home: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of Flower to its end; its output goes through a file.

    A SuperNode's SuperExec lives until the SuperNode's process is reaped, and would keep a pipe open until then.
    """
    home.mkdir(exist_ok=True)
    words = [str(word) for word in command]
    with (home / "output").open("w+") as output:
        done = subprocess.run(words, env=environment(home), stdout=output, stderr=output, check=False, timeout=120)
        output.seek(0)
        return subprocess.CompletedProcess(words, done.returncode, output.read())


@contextmanager
def started(command: list[str | Path], home: Path, log: object, root: Path) -> Iterator[subprocess.Popen[bytes]]:
    variables = {**environment(home), SUBMITTERS: str(root / "superlink/submitters.json")}
    process = subprocess.Popen([str(word) for word in command], env=variables, stdout=log, stderr=log)  # pyright: ignore
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait_until(holds: Callable[[], bool], process: subprocess.Popen[bytes], *, limit_s: float = 120.0) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert process.poll() is None, "the process ended"
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)


def test_a_hash_of_a_token_is_sha_256() -> None:
    assert token_hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
