"""A site's key is made at the site, its public half is registered, and a bundle holds one site's things alone."""

import hashlib
import re
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort, read_cohort
from amos_fl.deploy.bundle import write_bundle
from amos_fl.deploy.create import create_deployment
from amos_fl.deploy.enroll import enroll, register, registered_keys
from amos_fl.deploy.keys import fingerprint, new_key, public_line, read_private_key, read_public_key, spoken_fingerprint
from amos_fl.deploy.layout import DEMONSTRATION_KEY, KEY, PUBLIC_KEY, read_site
from amos_fl.deploy.shipped import SITE_FILES, texts_of
from amos_fl.errors import AmosError
from amos_fl_clients.federation.settings import read_settings
from amos_fl_clients.operation.command import app


@pytest.fixture
def root(tmp_path: Path) -> Path:
    create_deployment(tmp_path / "dep", ["A", "B"])
    return tmp_path / "dep"


def unpacked(root: Path, site: str, at: Path) -> Path:
    """The bundle of a site, unpacked at its hospital."""
    write_bundle(root, site, at / f"{site}.zip", beside=texts_of("amos_fl_clients", SITE_FILES))
    with zipfile.ZipFile(at / f"{site}.zip") as archive:
        archive.extractall(at)
    return at / f"site-{site.lower()}"


def test_ssh_keygen_reads_the_key_and_prints_the_same_fingerprint(tmp_path: Path) -> None:
    tool = shutil.which("ssh-keygen")
    if tool is None:
        pytest.skip("ssh-keygen is not installed")
    made = enroll(tmp_path / "site", "A")
    listed = subprocess.run([tool, "-l", "-f", made.public_key_file], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["384", fingerprint(made.public_key), "amos-fl", "site", "A", "(ECDSA)"]
    derived = subprocess.run([tool, "-y", "-f", tmp_path / "site" / KEY], capture_output=True, text=True, check=True)
    assert derived.stdout.split()[:2] == made.public_key_file.read_text().split()[:2]


def test_flowers_own_readers_take_both_halves(tmp_path: Path) -> None:
    from argparse import Namespace

    from flwr.cli.supernode.register import try_load_public_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

    made = enroll(tmp_path / "site", "A")
    arguments = Namespace(auth_supernode_private_key=str(tmp_path / "site" / KEY), auth_supernode_public_key=None)
    loaded = _try_setup_client_authentication(arguments)
    assert loaded is not None
    assert public_key_to_bytes(loaded[1]) == try_load_public_key(made.public_key_file)


def test_enrolling_leaves_a_private_key_and_settings_that_the_site_can_read(root: Path, tmp_path: Path) -> None:
    folder = unpacked(root, "A", tmp_path)
    made = enroll(folder)
    assert made.site == "A"
    assert stat.S_IMODE((folder / KEY).stat().st_mode) == 0o600
    assert read_private_key(folder / KEY).public_key() == read_public_key(folder / PUBLIC_KEY)
    assert read_settings(folder / "settings.yaml").state == folder / "state"


def test_enroll_prints_the_fingerprint_and_nothing_of_the_private_half(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = unpacked(root, "A", tmp_path)
    assert run(["deploy", "enroll", str(folder)]) == 0
    assert run(["deploy", "register", str(root), "A", str(folder / PUBLIC_KEY)]) == 0
    out, err = capfd.readouterr()
    assert out.count(spoken_fingerprint(read_public_key(folder / PUBLIC_KEY))) == 2
    private = (folder / KEY).read_text().splitlines()[1:-1]
    assert not any(line in out + err for line in private)


def test_a_key_is_replaced_only_where_that_is_asked_for(root: Path, tmp_path: Path) -> None:
    folder = unpacked(root, "A", tmp_path)
    first = enroll(folder)
    with pytest.raises(AmosError, match=r"site\.key: site A has its key already"):
        enroll(folder)
    register(root, "A", first.public_key_file)
    second = enroll(folder, replace=True)
    assert fingerprint(second.public_key) != fingerprint(first.public_key)
    with pytest.raises(AmosError, match="site A: has another key already; give --replace"):
        register(root, "A", second.public_key_file)
    register(root, "A", second.public_key_file, replace=True)
    assert fingerprint(read_public_key(registered_keys(root)["A"])) == fingerprint(second.public_key)


def test_registering_the_same_key_again_changes_nothing(root: Path, tmp_path: Path) -> None:
    made = enroll(tmp_path / "a", "A")
    kept = register(root, "A", made.public_key_file).public_key_file.read_bytes()
    assert register(root, "A", made.public_key_file).public_key_file.read_bytes() == kept


def test_two_sites_cannot_share_a_key(root: Path, tmp_path: Path) -> None:
    made = enroll(tmp_path / "a", "A")
    register(root, "A", made.public_key_file)
    with pytest.raises(AmosError, match="is the key of site A; every site makes a key of its own"):
        register(root, "B", made.public_key_file)


def test_a_private_key_is_refused_where_a_public_one_belongs_and_not_quoted(root: Path, tmp_path: Path) -> None:
    enroll(tmp_path / "a", "A")
    with pytest.raises(AmosError, match="is a private key, which must never leave its site") as refused:
        register(root, "A", tmp_path / "a" / KEY)
    assert not any(line in str(refused.value) for line in (tmp_path / "a" / KEY).read_text().splitlines()[1:-1])
    assert registered_keys(root) == {}


def test_keys_of_another_kind_and_rubbish_are_refused(root: Path, tmp_path: Path) -> None:
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    for text in (
        other.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        b"",
        b"hello",
        b"ecdsa-sha2-nistp384 AAAA",
    ):
        (tmp_path / "x.pub").write_bytes(text)
        with pytest.raises(AmosError, match=r"x\.pub: holds no public key of a site"):
            register(root, "A", tmp_path / "x.pub")


def test_a_damaged_private_key_is_not_quoted(tmp_path: Path) -> None:
    enroll(tmp_path / "a", "A")
    file = tmp_path / "a" / KEY
    lines = file.read_text().splitlines()
    with file.open("w") as opened:
        opened.write("\n".join([lines[0], *lines[2:]]))
    with pytest.raises(AmosError, match=r"site\.key: holds no key that can be used") as refused:
        read_private_key(file)
    assert not any(line in str(refused.value) for line in lines[1:-1])
    assert refused.value.__cause__ is None


def test_unknown_sites_are_named_with_the_known_ones(root: Path, tmp_path: Path) -> None:
    with pytest.raises(AmosError, match=r"site C: is not in .*, which has A, B"):
        write_bundle(root, "C", tmp_path / "c.zip")
    with pytest.raises(AmosError, match="is the folder of site A, not B"):
        enroll(unpacked(root, "A", tmp_path), "B")


def test_a_bundle_holds_what_one_site_needs_and_nothing_else(tmp_path: Path, tiny_cohort: Cohort) -> None:
    root = tmp_path / "dep"
    create_deployment(root, tiny_cohort.sites, cohort=tiny_cohort)
    for site in ("A", "B"):  # keys of hospitals that run on the coordinator's own machine
        enroll(root / f"sites/site-{site.lower()}")
    (root / "sites/site-a/state/secret-of-the-site").write_text("x")
    assert run(["deploy", "bundle", str(root), "A", "-o", str(tmp_path / "a.zip")]) == 0
    folders, compose = ("data/", "state/", "keys/"), ("docker-compose.yml", "docker-compose.gpu.yml")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = {f"site-a/{name}" for name in (*folders, "site.yaml", "organs.csv", "ca.crt", "README.md", *compose)}
        assert set(archive.namelist()) == names
        assert b"amos-fl-site, supernode, /site" in archive.read("site-a/docker-compose.yml")
        content = b"".join(archive.read(name) for name in archive.namelist())
        assert archive.testzip() is None
    assert b"PRIVATE KEY" not in content
    assert b"site-b" not in content
    for other in (site for site in tiny_cohort.sites if site != "A"):
        assert not any(case.case.encode() in content for case in tiny_cohort.of(site=other))
    assert (root / "submit/token").read_bytes().strip() not in content


def test_the_page_of_a_bundle_says_how_to_start_look_pause_stop_and_update_by_commands_that_exist(
    root: Path, tmp_path: Path
) -> None:
    assert run(["deploy", "bundle", str(root), "A", "-o", str(tmp_path / "a.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        page = archive.read("site-a/README.md").decode()
        services = yaml.safe_load(archive.read("site-a/docker-compose.yml"))["services"]
    for heading in ("## 5. Take part", "## Updating", "## Keep"):
        assert heading in page
    for what in ("**start**", "**look**", "**pause**", "take part again", "**stop**", "read its log"):
        assert f"| {what}" in page
    assert "    1,spleen\n" in page
    named = set(re.findall(r"`docker compose (?:run --rm|exec|logs -f) (\S+?)[ `]", page))
    assert named == {"site", "check", "cohort", "enroll"}
    assert named <= services.keys()
    sites_own = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    used = set(re.findall(r"amos-fl-site ([a-z-]+) (?:site-a|/site)`", page))
    assert used == {"supernode", "status", "watch", "report", "pause", "resume"}
    assert used <= sites_own
    assert set(re.findall(r"amos-fl deploy ([a-z]+) site-a", page)) == {"enroll", "check"}
    assert "compare both: the key's" in page
    assert "the authority's" in page
    assert page.count("pip install 'amos-fl[dicom]'") == 2
    assert "--dry-run --suggestion PRIVATE/map.csv" in page
    assert "--label-map PRIVATE/map.csv --site A" in page
    assert "kill -TERM" in page
    assert "the network of a finished run" in page
    assert "The coordinator can read each of your updates" in page


def test_a_hospital_makes_its_cohort_in_the_container_without_a_network_and_out_of_sight_of_the_site(
    root: Path, tmp_path: Path
) -> None:
    folder = unpacked(root, "A", tmp_path)
    services = yaml.safe_load((folder / "docker-compose.yml").read_text())["services"]
    cohort, site = services["cohort"], services["site"]
    assert cohort["network_mode"] == "none"
    assert cohort["profiles"] == ["cohort"]
    assert cohort["read_only"]
    assert cohort["cap_drop"] == ["ALL"]
    mounts = {place: (source, mode) for source, place, mode in map(mounted, cohort["volumes"])}
    assert mounts == {
        "/export": ("${AMOS_FL_EXPORT:-../export}", "ro"),
        "/organs.csv": ("./organs.csv", "ro"),
        "/data": ("${AMOS_FL_DATA:-./data}", "rw"),
        "/private": ("${AMOS_FL_PRIVATE:-../private}", "rw"),
    }
    assert (folder / "organs.csv").is_file()
    # What the site is given as its scans is what is written here, and it reads neither the export nor the way back.
    assert ("${AMOS_FL_DATA:-./data}", "/site/data", "ro") in map(mounted, site["volumes"])
    assert not [source for source, _, _ in map(mounted, site["volumes"]) if "EXPORT" in source or "PRIVATE" in source]


def mounted(volume: str) -> tuple[str, str, str]:
    """What is mounted, where, and how: of `SOURCE:PLACE` or `SOURCE:PLACE:ro`."""
    found = re.fullmatch(r"(.+?):(/[^:]*)(?::(ro))?", volume)
    assert found is not None
    return found[1], found[2], found[3] or "rw"


def test_the_command_of_the_service_makes_a_cohort_as_this_sites_from_an_export(root: Path, tmp_path: Path) -> None:
    """The command of the compose file, with its places on this machine; no container is needed for that."""
    pytest.importorskip("highdicom")
    from pacs import STRAIGHT, box, write_ct, write_rtstruct

    folder = unpacked(root, "A", tmp_path)
    slices = write_ct(tmp_path / "export" / "series")
    liver = [(z, box((2, 3), (14, 12))) for z in range(3, 8)]
    write_rtstruct(tmp_path / "export" / "structures.dcm", slices, STRAIGHT, {"Liver": liver})
    (tmp_path / "private").mkdir()
    service = yaml.safe_load((folder / "docker-compose.yml").read_text())["services"]["cohort"]
    places = {"/export": tmp_path / "export", "/organs.csv": folder / "organs.csv"}
    places |= {"/data": folder / "data", "/private": tmp_path / "private"}
    _, *command = (str(places.get(part, part)) for part in service["entrypoint"])
    suggestion = tmp_path / "private" / "map.csv"
    assert run([*command, "--dry-run", "--suggestion", str(suggestion)]) == 0
    assert run([*command, "--label-map", str(suggestion), "--site", "A"]) == 0
    [case] = read_cohort(folder / "data").cases
    assert (case.site, case.modality) == ("A", "CT")
    assert (tmp_path / "private" / "cases.csv").is_file()


def test_a_newer_bundle_leaves_the_hospitals_settings_and_key(root: Path, tmp_path: Path) -> None:
    folder = unpacked(root, "A", tmp_path)
    enroll(folder)
    (folder / "settings.yaml").write_text("site: A\n# the hospital's own words\n")
    before = {name: (folder / name).read_bytes() for name in ("settings.yaml", KEY, PUBLIC_KEY)}
    (tmp_path / "A.zip").unlink()
    unpacked(root, "A", tmp_path)
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_bundles_hash_is_printed_for_the_hospital_to_compare(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["deploy", "bundle", str(root), "B", "-o", str(tmp_path)]) == 0
    digest = hashlib.sha256((tmp_path / "site-b.zip").read_bytes()).hexdigest()
    assert f"SHA-256:     {digest}\n" in capfd.readouterr().out


def test_a_bundle_is_not_written_over_another_file(root: Path, tmp_path: Path) -> None:
    write_bundle(root, "A", tmp_path / "a.zip")
    with pytest.raises(AmosError, match=r"a\.zip: there is such a file already"):
        write_bundle(root, "A", tmp_path / "a.zip")
    write_bundle(root, "B", tmp_path)
    assert (tmp_path / "site-b.zip").is_file()


def test_keys_made_centrally_say_what_they_are_for_wherever_they_appear(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "dep", tmp_path / "a.zip"
    create_deployment(root, ["A", "B"], demonstration_keys=True)
    assert sorted(registered_keys(root)) == ["A", "B"]
    assert run(["deploy", "bundle", str(root), "A", "-o", str(out)]) == 0
    assert "FOR THE DEMONSTRATION ONLY" in capfd.readouterr().err
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with zipfile.ZipFile(out) as archive:
        keys = [name for name in archive.namelist() if b"PRIVATE KEY" in archive.read(name)]
        assert keys == [f"site-a/{DEMONSTRATION_KEY}"]
        assert archive.getinfo(keys[0]).external_attr >> 16 == 0o100600
        assert b"FOR THE DEMONSTRATION ONLY" in archive.read("site-a/site.yaml")
        assert b"for the demonstration only" in archive.read("site-a/README.md")
        assert b"for the demonstration only" in archive.read(f"site-a/{PUBLIC_KEY}")


def test_a_site_of_a_demonstration_can_become_real(tmp_path: Path) -> None:
    root = tmp_path / "dep"
    create_deployment(root, ["A"], demonstration_keys=True)
    folder = unpacked(root, "A", tmp_path)
    made = enroll(folder, replace=True)
    assert read_site(folder).key == KEY
    assert not (folder / DEMONSTRATION_KEY).exists()
    register(root, "A", made.public_key_file, replace=True)
    names = write_bundle(root, "A", tmp_path / "again.zip")
    assert not any("keys/" in name and not name.endswith("/") for name in names)


def test_a_site_is_added_by_a_line_in_the_deployments_file(root: Path, tmp_path: Path) -> None:
    file = root / "deployment.yaml"
    file.write_text(file.read_text().replace("  - B\n", "  - B\n  - C\n"))
    folder = unpacked(root, "C", tmp_path)
    register(root, "C", enroll(folder).public_key_file)
    assert sorted(registered_keys(root)) == ["C"]


def test_others_may_not_read_the_key_that_is_used(tmp_path: Path) -> None:
    enroll(tmp_path / "a", "A")
    (tmp_path / "a" / KEY).chmod(0o640)
    with pytest.raises(AmosError, match="other users of this machine may read this key; run 'chmod 600'"):
        read_private_key(tmp_path / "a" / KEY)


def test_a_spoken_fingerprint_is_that_of_the_key() -> None:
    one, other = new_key().public_key(), new_key().public_key()
    assert spoken_fingerprint(one) != spoken_fingerprint(other)
    assert len(spoken_fingerprint(one).split()) == 8
    assert public_line(one, "x").startswith("ecdsa-sha2-nistp384 ")


def test_a_folder_that_may_not_be_written_is_said_without_an_option_that_there_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/keys").touch()  # in the way, for the superuser, too
    assert run(["deploy", "enroll", str(tmp_path / "site"), "--site", "A"]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(
        r"amos-fl: \S+/site: may not be written \(.*\); let the user with id \d+ write there, .*\n", said
    )
