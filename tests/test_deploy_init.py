"""`amos-fl deploy init`: the authority, certificates, tokens and folders of a deployment."""

import hashlib
import os
import shutil
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.deploy.certificates import checked_host, new_authority, read_certificate
from amos_fl.deploy.create import copy_cases, create_deployment, renew_certificate
from amos_fl.deploy.layout import (
    Deployment,
    SiteConnection,
    checked_sites,
    read_deployment,
    read_site,
    write_deployment,
    write_site,
)
from amos_fl.errors import AmosError
from amos_fl_clients.federation.settings import read_settings

SECRETS = {"authority/ca.key", "superlink/server.key", "submit/token"}


def files_of(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_deployment_has_an_authority_a_superlink_a_token_and_a_folder_for_each_site(tmp_path: Path) -> None:
    create_deployment(tmp_path / "dep", ["A", "North.2"])
    site = {"site.yaml", "settings.yaml", "organs.csv", "ca.crt", "README.md"}
    assert files_of(tmp_path / "dep") == {
        ".gitignore",
        "deployment.yaml",
        "organs.csv",
        "authority/ca.crt",
        "authority/ca.key",
        *(f"superlink/{name}" for name in ("ca.crt", "server.crt", "server.key", "submitters.json")),
        "submit/token",
        *(f"sites/{folder}/{name}" for folder in ("site-a", "site-north.2") for name in site),
    }
    assert all((tmp_path / "dep/sites/site-a" / name).is_dir() for name in ("data", "state", "keys"))
    assert (tmp_path / "dep/runs").is_dir()


def test_private_files_have_mode_0600_from_their_first_byte_whatever_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_chmod(*_: object, **__: object) -> None:
        raise AssertionError("a mode set afterwards leaves a moment in which others may read")

    for name in ("chmod", "fchmod", "lchmod"):
        monkeypatch.setattr(os, name, no_chmod, raising=False)
    monkeypatch.setattr(shutil, "copymode", lambda *_, **__: None)  # of public files
    umask = os.umask(0)
    try:
        create_deployment(tmp_path / "dep", ["A"], demonstration_keys=True)
    finally:
        os.umask(umask)
    private = {*SECRETS, "sites/site-a/keys/for-the-demonstration-only.key"}
    assert {name for name in files_of(tmp_path / "dep") if mode_of(tmp_path / "dep" / name) == 0o600} == private
    for folder in ("authority", "submit", "superlink", "sites/site-a/keys", "sites/site-a/state", "sites/site-a/data"):
        assert mode_of(tmp_path / "dep" / folder) == 0o700


def test_git_would_add_nothing_of_a_deployment(tmp_path: Path) -> None:
    create_deployment(tmp_path / "dep", ["A"], demonstration_keys=True)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    shown = subprocess.run(
        ["git", "status", "--short", "-uall"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert shown.stdout == ""


def test_openssl_trusts_the_server_certificate_for_every_name_and_for_no_other(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    create_deployment(tmp_path / "dep", ["A"], hosts=["fl.example.org", "10.1.2.3"])

    def accepts(option: str, name: str) -> bool:
        files = [tmp_path / "dep/superlink/ca.crt", tmp_path / "dep/superlink/server.crt"]
        command = [openssl, "verify", "-x509_strict", "-purpose", "sslserver", option, name, "-CAfile", *files]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert all(accepts("-verify_hostname", name) for name in ("superlink", "localhost", "fl.example.org"))
    assert all(accepts("-verify_ip", address) for address in ("127.0.0.1", "10.1.2.3"))
    assert not accepts("-verify_hostname", "example.org")
    assert not accepts("-verify_ip", "10.1.2.4")


def test_the_authority_signs_no_further_authority_and_the_server_nothing(tmp_path: Path) -> None:
    create_deployment(tmp_path / "dep", ["A"], days=30)
    authority = read_certificate(tmp_path / "dep/authority/ca.crt")
    server = read_certificate(tmp_path / "dep/superlink/server.crt")
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert timedelta(days=29) < server.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=30)
    assert authority.public_key() != server.public_key()


def test_init_refuses_to_overwrite_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "dep"
    assert run(["deploy", "init", str(root), "--sites", "A"]) == 0
    before = {name: (root / name).read_bytes() for name in files_of(root)}
    capsys.readouterr()
    assert run(["deploy", "init", str(root), "--sites", "A"]) == 2
    assert capsys.readouterr().err == (
        f"amos-fl: {root}: is not empty; choose another folder, "
        "or give --renew-certificates to renew the certificate of a deployment\n"
    )
    assert {name: (root / name).read_bytes() for name in files_of(root)} == before


def test_renewing_keeps_the_authority_and_everything_else(tmp_path: Path) -> None:
    root = tmp_path / "dep"
    create_deployment(root, ["A"], hosts=["fl.example.org"])
    before = {name: (root / name).read_bytes() for name in files_of(root)}
    renew_certificate(root, hosts=["new.example.org"])
    after = {name: (root / name).read_bytes() for name in files_of(root)}
    assert {name for name in after if after[name] != before.get(name)} == {
        "superlink/server.crt",
        "superlink/server.key",
        "deployment.yaml",
    }
    names = ("superlink", "localhost", "127.0.0.1", "fl.example.org", "new.example.org")
    assert read_deployment(root).names == names
    server = read_certificate(root / "superlink/server.crt")
    covered = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in covered} == set(names)
    assert mode_of(root / "superlink/server.key") == 0o600
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(root / "superlink/server.crt", root / "superlink/server.key")  # they belong together


def test_a_certificate_is_not_renewed_with_another_authoritys_key(tmp_path: Path) -> None:
    for name in ("one", "other"):
        create_deployment(tmp_path / name, ["A"])
    shutil.copy(tmp_path / "other/authority/ca.key", tmp_path / "one/authority/ca.key")
    with pytest.raises(AmosError, match=r"ca\.key: is not the key of ca\.crt beside it"):
        renew_certificate(tmp_path / "one")


def test_each_site_gets_its_own_cases_and_no_others(tmp_path: Path, tiny_cohort: Cohort) -> None:
    create_deployment(tmp_path / "dep", tiny_cohort.sites, cohort=tiny_cohort)
    for site in tiny_cohort.sites:
        folder = tmp_path / f"dep/sites/site-{site.lower()}"
        settings = read_settings(folder / "settings.yaml")
        assert (settings.site, settings.cohort, settings.device) == (site, folder / "data/cohort.csv", "cpu")
        own = read_cohort(settings.cohort)
        wanted = tiny_cohort.only([site])
        assert [c.case for c in own.cases] == [c.case for c in wanted.cases]
        assert own.content_hash() == wanted.content_hash()
        assert [digests(c) for c in own.cases] == [digests(c) for c in wanted.cases]
        scans = [name for name in files_of(folder / "data") if name.endswith(".nii.gz")]
        assert len(scans) == 2 * len(wanted.cases)


def digests(case: object) -> list[str]:
    paths = [getattr(case, "image"), getattr(case, "label")]  # noqa: B009 - whichever class of case it is
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_synthetic_cases_stay_known_as_synthetic(tmp_path: Path, tiny_root: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_root, source)
    (source / "dataset.json").write_text('{"description": "a synthetic phantom"}')
    copy_cases(read_cohort(source).only(["A"]), tmp_path / "data")
    assert read_cohort(tmp_path / "data").synthetic()


def test_a_cohort_with_a_missing_scan_leaves_no_half_deployment(tmp_path: Path, tiny_root: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(tiny_root, source)
    (source / "images/g_train_0.nii.gz").unlink()
    with pytest.raises(AmosError, match=r"g_train_0\.nii\.gz: no such file, which the cohort names for case g_train_0"):
        create_deployment(tmp_path / "dep", ["A", "G"], cohort=read_cohort(source))
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


@pytest.mark.parametrize(
    "name", ["https://fl.example.org", "fl.example.org:8000", "", "a b", "-a", "300.1.1.1", "ä.org"]
)
def test_what_is_no_host_is_refused_by_name(name: str) -> None:
    with pytest.raises(AmosError, match="is no host name or IP address"):
        checked_host(name)


def test_sites_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(AmosError, match="sites a, A: would share one folder"):
        checked_sites(["a", "B", "A"])
    with pytest.raises(AmosError, match=r"site '\.\./x'"):
        checked_sites(["../x"])


@given(st.lists(st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,9}", fullmatch=True), min_size=1, unique_by=str.lower))
def test_names_that_yaml_would_take_for_numbers_or_truth_values_survive_the_files(
    tmp_path_factory: pytest.TempPathFactory, sites: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("yaml")
    deployment = Deployment(host=sites[0], port=8000, names=tuple(sites), sites=tuple(sites))
    write_deployment(folder, deployment)
    assert read_deployment(folder) == deployment
    connection = SiteConnection(site=sites[0], host=sites[-1], port=1, flwr="1.10", amos_fl="1e3")
    write_site(folder, connection)
    assert read_site(folder) == connection


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    create_deployment(tmp_path / "dep", ["A"])
    file = tmp_path / "dep/deployment.yaml"
    file.write_text(file.read_text().replace("port: 8000", "port: 80000"))
    with pytest.raises(AmosError, match=r"deployment\.yaml: port is 80000: must be a whole number"):
        read_deployment(tmp_path / "dep")
    file.write_text("sites: [A\n")
    with pytest.raises(AmosError, match=r"deployment\.yaml, line \d: is not valid YAML"):
        read_deployment(tmp_path / "dep")


def test_init_says_what_it_made_and_no_secret(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "dep"
    assert run(["deploy", "init", str(root), "--sites", "A,B", "--host", "fl.example.org", "--demo-keys"]) == 0
    out, err = capfd.readouterr()
    assert "hospitals reach the SuperLink at fl.example.org, port 8000" in out
    assert "FOR THE DEMONSTRATION ONLY" in err
    for secret in secrets_of(root):
        assert secret not in out + err
        assert not any(secret in (root / name).read_text() for name in files_of(root) if not is_private(root / name))


def secrets_of(root: Path) -> list[str]:
    """The lines of all private files, without their first and last line where these are armour."""
    lines = [line for name in files_of(root) if is_private(root / name) for line in (root / name).read_text().split()]
    return [line for line in lines if len(line) > 20]


def is_private(path: Path) -> bool:
    return mode_of(path) == 0o600


def test_a_repr_of_the_authority_shows_no_key() -> None:
    authority = new_authority("x")
    number = authority.key.private_numbers().private_value
    assert str(number) not in repr(authority)
    assert f"{number:x}" not in repr(authority)


def test_the_token_is_kept_at_the_superlink_as_a_hash_alone(tmp_path: Path) -> None:
    create_deployment(tmp_path / "dep", ["A"])
    token = (tmp_path / "dep/submit/token").read_text().strip()
    kept = (tmp_path / "dep/superlink/submitters.json").read_text()
    assert len(token) >= 40
    assert hashlib.sha256(token.encode()).hexdigest() in kept
    assert token not in kept


def test_the_coordinators_compose_file_and_its_port_lie_in_the_deployment(tmp_path: Path) -> None:
    assert run(["deploy", "init", str(tmp_path / "dep"), "--sites", "A", "--port", "8123"]) == 0
    assert "amos-fl-superlink" in (tmp_path / "dep/docker-compose.yml").read_text()
    assert (tmp_path / "dep/.env").read_text() == "AMOS_FL_PORT=8123\n"
