"""`amos-fl-site`, as the people of a hospital type it."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from hospitals import hospital, write_hospital

from amos_fl.cohort.table import Cohort
from amos_fl.deploy.running import CONTACT, check_own_port
from amos_fl.errors import AmosError
from amos_fl_clients.federation.policy import Refusal
from amos_fl_clients.federation.settings import SiteSettings, read_settings
from amos_fl_clients.flower.taking_over import noting_contact
from amos_fl_clients.operation.allowed_apps import sha256_of_shipped_app
from amos_fl_clients.operation.processes import only_supernode
from amos_fl_clients.operation.scores_sent import scores_in_words


def site_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "amos_fl_clients.operation.command", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_one_command_pauses_a_site_and_one_resumes_it(tmp_path: Path, tiny_cohort: Cohort) -> None:
    site = hospital(tmp_path, tiny_cohort)
    paused = site_command("pause", tmp_path, "--why", "maintenance")
    assert (paused.returncode, paused.stdout.startswith("site A is paused")) == (0, True)
    with pytest.raises(Refusal):
        site.describe()
    assert "site A is PAUSED" in site_command("status", site.settings_file).stdout
    assert "takes part again" in site_command("resume", tmp_path).stdout
    assert "was not paused" in site_command("resume", tmp_path).stdout
    site.describe()
    status = site_command("status", tmp_path, "--lines", "1").stdout
    assert "site A takes part" in status
    assert len(re.findall(r"asked=", status)) == 1
    assert "answer=sent" in status


def test_status_says_whether_the_supernode_runs_and_when_the_superlink_answered(
    tmp_path: Path, tiny_cohort: Cohort
) -> None:
    settings = write_hospital(tmp_path, tiny_cohort, "A")
    state = read_settings(settings).state
    state.mkdir()

    def connection() -> str:
        return re.search(r"^connection: +(.*)$", site_command("status", tmp_path).stdout, re.MULTILINE)[1]  # pyright: ignore

    assert connection().startswith("its SuperNode does not run (last, the SuperLink has never answered); start it with")
    with only_supernode("A", state):
        assert "runs, but the SuperLink has never answered; why says: amos-fl deploy check" in connection()
        noting_contact(lambda client, request: "answer", state)("client", "request")
        assert re.fullmatch(r"its SuperNode runs; the SuperLink answered \d+ s ago", connection())
        os.utime(state / CONTACT, (time.time() - 400,) * 2)
        assert "runs, but the SuperLink answered 7 min ago; why says" in connection()
    with pytest.raises(httpx.ConnectError):
        noting_contact(unreachable, state)("client", "request")
    assert "(last, the SuperLink answered 7 min ago)" in connection()


def unreachable(client: object, request: object) -> None:
    raise httpx.ConnectError("no route")


def test_what_is_sent_of_scores_follows_the_settings_and_the_audit_log(tmp_path: Path) -> None:
    settings = SiteSettings(site="A", cohort=tmp_path, store=tmp_path, state=tmp_path)
    sums = "The sums of these scores and volumes are sent to the coordinator when a run asks for them"
    said = scores_in_words(settings)
    assert said == f"No picture and no case name is sent. {sums}; of one case they are its own."
    named = scores_in_words(settings.model_copy(update={"share_case_scores": "named"}))
    assert named.startswith("No picture is sent, but the scores and volumes of each case, with its name. The sums")
    (tmp_path / "audit.log").write_text(
        "2026-03-01T09:30:12Z run=4 asked=evaluate round=2 split=test answer=sent records=metrics seconds=1.0\n"
        "2026-03-01T09:31:12Z run=4 asked=evaluate round=2 split=val answer=sent records=metrics seconds=1.0\n"
        '2026-03-01T09:32:12Z run=4 asked=evaluate split=test answer=refused why="it is paused" seconds=1.0\n'
    )
    refusing = scores_in_words(settings.model_copy(update={"refuse_evaluation_on": ("test",)}))
    assert "Nothing is sent of these scores either: the settings refuse evaluation on test." in refusing
    assert refusing.endswith("By audit.log scores on test cases were sent 1 time, last at 2026-03-01T09:30:12Z.")


def test_a_taken_port_is_said_in_a_sentence_with_a_free_one(tmp_path: Path, tiny_cohort: Cohort) -> None:
    write_hospital(tmp_path, tiny_cohort, "A")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for given in (["--port", str(port)], [f"--port={port}"]):
            said = site_command("supernode", tmp_path, "--insecure", *given)
            assert said.returncode == 2
            assert re.fullmatch(
                rf"amos-fl-site: port {port} of this machine is taken, .* SuperNode; add --port \d+ \(only .*\)\n",
                said.stderr,
            )
        finding = check_own_port(tmp_path / "state", port)
        assert finding.outcome == "wrong"
        assert "--port" in finding.remedy
    assert check_own_port(tmp_path / "state", port).outcome == "ok"


def test_the_hash_of_the_app_is_printed_for_a_sites_settings(tmp_path: Path) -> None:
    assert site_command("app-hash").stdout.strip() == sha256_of_shipped_app()
    wrong = site_command("app-hash", tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr == f"amos-fl-site: {tmp_path}: is not a Flower app (it has no pyproject.toml)\n"


def test_module_hash_prints_a_line_of_a_sites_settings_and_does_not_run_the_module(
    tmp_path: Path, tiny_cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_lab").mkdir()
    (tmp_path / "their_lab" / "__init__.py").write_text("raise SystemExit(9)")
    (tmp_path / "their_lab" / "nets.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    printed = site_command("module-hash", "their_lab.nets")
    digest = hashlib.sha256(b"raise SystemExit(9)").hexdigest()
    assert (printed.returncode, printed.stdout) == (0, f"their_lab.nets: {digest}\n")
    missing = site_command("module-hash", "their_lab.other")
    assert missing.returncode == 2
    assert missing.stderr.startswith("amos-fl-site: their_lab.other: no file found for this module; install it")
    site = hospital(tmp_path, tiny_cohort)
    assert "own code allowed:    none" in site_command("status", site.settings_file).stdout
    site.settings_file.write_text(
        f"{site.settings_file.read_text()}".replace(
            '"allowed_modules": {}', f'"allowed_modules": {{"their_lab.nets": "{digest}"}}'
        )
    )
    assert "own code allowed:    their_lab.nets" in site_command("status", site.settings_file).stdout


def test_wrong_settings_are_one_line_and_no_site_starts_with_them(tmp_path: Path, tiny_cohort: Cohort) -> None:
    missing = site_command("pause", tmp_path / "nowhere.yaml")
    assert (missing.returncode, len(missing.stderr.splitlines())) == (2, 1)
    path = write_hospital(tmp_path, tiny_cohort, "A")
    path.write_text(path.read_text().replace("share_case_scores", "share_all"))
    wrong = site_command("supernode", path, "--insecure")
    assert wrong.returncode == 2
    assert "no setting 'share_all'" in wrong.stderr


def test_a_folder_that_no_system_can_have_is_named_with_its_setting(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(f"site: A\ncohort: c\nstore: s\nstate: {'n' * 300}\n")
    with pytest.raises(AmosError, match="state: cannot be a file or folder here"):
        read_settings(file)


def test_a_site_says_itself_which_settings_count(tmp_path: Path, tiny_cohort: Cohort) -> None:
    path = write_hospital(tmp_path, tiny_cohort, "A")
    other = site_command("supernode", path, "--insecure", "--node-config", 'site-settings="/other.yaml"')
    assert other.returncode == 2
    assert "leave it out" in other.stderr


def test_a_site_whose_state_may_not_be_written_says_so_in_one_sentence(tmp_path: Path, tiny_cohort: Cohort) -> None:
    path = write_hospital(tmp_path, tiny_cohort, "A")
    (tmp_path / "file").touch()
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "state": str(tmp_path / "file/state")}))
    wrong = site_command("supernode", path, "--insecure")
    assert wrong.returncode == 2
    assert "may not be written (Not a directory)" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pause"], "site A is NOT paused: {state} may not be written (Not a directory); stop its SuperNode"),
        (["report", "--out", "{state}/page"], "{state}/page: cannot be read or written (Not a directory)"),
    ],
)
def test_what_may_not_be_written_is_one_sentence_and_a_pause_that_failed_says_so(
    arguments: list[str], said: str, tmp_path: Path, tiny_cohort: Cohort
) -> None:
    state = tmp_path / "file/state"
    path = write_hospital(tmp_path, tiny_cohort, "A", state=str(state), pictures="pictures")
    (tmp_path / "file").touch()
    name, *options = [argument.format(state=state) for argument in arguments]
    done = site_command(name, path, *options)
    assert (done.returncode, done.stderr) == (2, f"amos-fl-site: {said.format(state=state)}\n")


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    for command in ("status", "report", "pause", "supernode"):
        done = site_command(command, tmp_path / "nosuch")
        assert done.returncode == 2
        assert done.stderr.startswith(f"amos-fl-site: {tmp_path / 'nosuch'}: no such file; give the site's folder")


def test_the_state_of_a_site_is_its_owners_alone(tmp_path: Path, tiny_cohort: Cohort) -> None:
    site = read_settings(write_hospital(tmp_path, tiny_cohort, "A"))
    with only_supernode("A", site.state):
        assert site.state.stat().st_mode & 0o777 == 0o700
