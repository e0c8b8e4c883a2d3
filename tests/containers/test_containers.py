"""What the containers may do, what they reach, and what the image holds."""

import json
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from eight_sites import IMAGE, ROOT, SITES, Federation, called, compose_command, docker

SERVICES = {"superlink", "submit", *(f"site-{letter}" for letter in SITES)}
SECRET = re.compile(rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[A-Za-z0-9+/=]{40}")
SCAN = re.compile(r"\.(nii|nii\.gz|mha|mhd|nrrd|dcm|dicom|b2nd|safetensors)$", re.IGNORECASE)
KEY = re.compile(r"(^|/)(id_(rsa|ecdsa|ed25519)|token|credentials\.yaml|[^/]+\.(key|p12|pfx|jks|pub))$", re.IGNORECASE)
TOOLS = "pip uv gcc cc make git"


def test_no_container_is_roots_or_may_change_its_own_files(federation: Federation) -> None:
    containers = federation.containers()
    assert set(containers) == SERVICES
    for service, said in containers.items():
        host = said["HostConfig"]
        assert said["Config"]["User"].partition(":")[0] not in ("", "0", "root"), service
        assert host["ReadonlyRootfs"], service
        assert not host["Privileged"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"], service
        assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"]), service
        assert not host["PortBindings"], service
    for service, mounted in (("superlink", ["/fl/superlink/x"]), ("site-a", ["/site/x", "/site/data/x"])):
        assert federation.inside(service, "id", "-u") != "0"
        for place in ("/x", "/opt/amos-fl/x", *mounted):
            assert "Read-only file system" in federation.inside(service, "touch", place, check=False), place
    federation.inside("site-a", "sh", "-c", "touch /site/state/written && rm /site/state/written")


def test_a_site_sees_its_own_scans_and_no_others(federation: Federation) -> None:
    for letter in "ad":
        rows = federation.inside(f"site-{letter}", "cat", "/site/data/cohort.csv").splitlines()[1:]
        assert rows
        assert {row.split(",")[1] for row in rows} == {letter.upper()}
        mounted = {mount["Source"] for mount in federation.containers()[f"site-{letter}"]["Mounts"]}
        own = str(federation.site(letter))
        assert all(source == own or source.startswith(own + "/") for source in mounted)
    for mount in federation.containers()["superlink"]["Mounts"]:
        assert not mount["Source"].startswith(str(federation.folder / "fl/sites"))
        assert not mount["Source"].startswith(str(federation.folder / "fl/authority"))


LISTEN = "import socket; s = socket.create_server(('0.0.0.0', 7000)); s.settimeout(120)\nwhile 1: s.accept()[0].close()"
REACH = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5); print('reached')"


def test_a_site_reaches_the_superlink_and_no_other_site_nor_the_outside(federation: Federation) -> None:
    """A listener at site B is heard by site B and by the SuperLink, and not by site A."""
    networks = federation.containers()["site-b"]["NetworkSettings"]["Networks"]
    (address,) = [network["IPAddress"] for network in networks.values()]

    def reaches(service: str, host: str, port: int) -> bool:
        said = federation.inside(service, "python", "-c", REACH, host, str(port), check=False)
        return said == "reached"

    docker("exec", "--detach", federation.container("site-b"), "python", "-c", LISTEN)
    assert any(reaches("site-b", address, 7000) for _ in range(20))
    assert reaches("superlink", address, 7000)
    assert not reaches("site-a", address, 7000)
    assert not reaches("site-a", "site-b", 7000)
    assert reaches("site-a", "superlink", 8000)
    assert not reaches("site-a", "192.0.2.1", 80)
    for letter in SITES:
        (own,) = federation.containers()[f"site-{letter}"]["NetworkSettings"]["Networks"]
        described = json.loads(docker("network", "inspect", own))[0]
        assert described["Internal"]
        members = {container["Name"] for container in described["Containers"].values()}
        assert len(members) == 2
        assert all(f"site-{letter}" in name or "superlink" in name for name in members), members


def files_of_the_image(image: str) -> Iterator[tuple[str, bytes]]:
    """Every file of every layer, with its first bytes; also those that a later layer removes."""
    with (
        subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving,
        tarfile.open(fileobj=saving.stdout, mode="r|") as archive,
    ):
        for member in archive:
            stream = archive.extractfile(member)
            if stream is None:
                continue
            try:
                layer = tarfile.open(fileobj=stream, mode="r|*")  # noqa: SIM115 - what is no layer is no archive
            except tarfile.ReadError:
                continue
            for file in layer:
                content = layer.extractfile(file) if file.isreg() else None
                yield file.name, content.read(200_000) if content is not None else b""


def test_the_image_holds_no_key_no_scan_and_nothing_that_builds(image: str) -> None:
    count = 0
    for name, head in files_of_the_image(image):
        count += 1
        assert not SCAN.search(name), name
        assert not KEY.search(name), name
        assert not SECRET.search(head), name
        assert "/.git/" not in f"/{name}"
    assert count > 10_000
    described = json.loads(docker("image", "inspect", image))[0]["Config"]
    assert described["User"] == "1000:1000"
    assert not [value for value in described["Env"] if re.search("TOKEN|SECRET|PASSWORD|PIP_", value)]
    found = docker(
        "run", "--rm", IMAGE, "sh", "-c", f"for tool in {' '.join(TOOLS[:-1])}; do command -v $tool; done; :"
    )
    assert not found
    assert "No module named pip" in docker("run", "--rm", IMAGE, "python", "-m", "pip", check=False)


PLACES = ("export", "data", "private")


def test_a_hospital_makes_its_cohort_in_the_image_from_an_export_of_its_archive(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service of the hospital's own compose file, on a series and a structure set that are made here."""
    pytest.importorskip("highdicom")
    from pacs import ID, NAME, STRAIGHT, box, write_ct, write_rtstruct

    site = tmp_path / "site-a"
    for folder in (site, *(tmp_path / name for name in PLACES)):
        folder.mkdir()
    (site / "docker-compose.yml").write_bytes((ROOT / "clients/docker-compose.yml").read_bytes())
    (site / "organs.csv").write_text("label,organ\n1,spleen\n6,liver\n")
    slices = write_ct(tmp_path / "export" / "series")
    liver = [(z, box((2, 3), (14, 12))) for z in range(3, 8)]
    write_rtstruct(tmp_path / "export" / "structures.dcm", slices, STRAIGHT, {"Liver": liver})
    for name in PLACES:
        monkeypatch.setenv(f"AMOS_FL_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("AMOS_FL_IMAGE", image)
    user = (os.getuid(), os.getgid()) if os.getuid() else (1000, 1000)
    monkeypatch.setenv("AMOS_FL_USER", "{}:{}".format(*user))
    if os.getuid() == 0:  # the image's user writes there
        for folder in (tmp_path / "data", tmp_path / "private"):
            os.chown(folder, *user)
    project = ["--project-name", f"amosfl{os.getpid()}cohort", "--project-directory", str(site)]
    compose = [*compose_command(), *project, "--file", str(site / "docker-compose.yml"), "run", "--rm", "cohort"]
    called(*compose, "--dry-run", "--suggestion", "/private/map.csv")
    called(*compose, "--label-map", "/private/map.csv", "--site", "A")
    _, row = (tmp_path / "data" / "cohort.csv").read_text().splitlines()
    assert ",A,CT," in row
    assert [len(list((tmp_path / "data" / kind).iterdir())) for kind in ("images", "labels")] == [1, 1]
    assert NAME not in row
    assert ID not in row
    assert "cases.csv" in {file.name for file in (tmp_path / "private").iterdir()}
