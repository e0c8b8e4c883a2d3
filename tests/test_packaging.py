"""The distribution: its versions, its pinned dependencies, what importing it loads, and what git may not hold."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import amos_fl

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN_NAME = canonicalize_name(PROJECT["name"])


def locked() -> dict[str, Version]:
    """The versions of requirements.lock by canonical name."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(number) for name, number in pins}


def declared() -> list[Requirement]:
    """Every dependency of pyproject.toml, those of the extras included, without the project itself."""
    extras = [line for group in PROJECT["optional-dependencies"].values() for line in group]
    requirements = [Requirement(line) for line in [*PROJECT["dependencies"], *extras]]
    return [r for r in requirements if canonicalize_name(r.name) != OWN_NAME]


def needed(requirement: Requirement, seen: set[tuple[str, str]]) -> Iterator[str]:
    """The canonical names of what is installed because of `requirement`, itself included."""
    name = canonicalize_name(requirement.name)
    for extra in ("", *requirement.extras):
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        yield name
        try:
            children = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:  # an extra that this environment was made without
            continue
        for child in children:
            if child.marker is None or child.marker.evaluate({"extra": extra}):
                yield from needed(child, seen)


def of_torch_for_gpus(name: str) -> bool:
    """torch's CUDA build pins NVIDIA's libraries and Triton itself; its CPU build has none of them."""
    return name.startswith(("nvidia-", "cuda-")) or name == "triton"


def tracked_texts() -> Iterator[tuple[str, str]]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    for name in listing.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            yield name, (ROOT / name).read_bytes().decode("utf-8", errors="replace")


def modules_after(statements: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `statements`."""
    program = f"import sys, json\n{statements}\nprint(json.dumps(sorted(sys.modules)))"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "PYTHON"))}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_every_place_that_names_the_version_names_the_same():
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    changelog = re.search(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert citation is not None
    assert changelog is not None
    assert citation.group(1) == PROJECT["version"]
    assert changelog.group(1) == PROJECT["version"]
    assert amos_fl.__version__ == PROJECT["version"]


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_the_lock_pins_each_dependency_within_its_range(requirement: Requirement):
    pinned = locked().get(canonicalize_name(requirement.name))
    assert pinned is not None, f"{requirement.name} is not in requirements.lock; run make lock"
    assert requirement.specifier.contains(pinned, prereleases=True)


def test_the_lock_pins_what_the_dependencies_need_in_turn():
    seen: set[tuple[str, str]] = set()
    names = {name for requirement in declared() for name in needed(requirement, seen)}
    missing = {name for name in names - set(locked()) if not of_torch_for_gpus(name)}
    assert not missing - {"setuptools", "pip"}, "run make lock"
    assert len(names) > len(declared()), "the dependencies' own dependencies were not walked"


def test_the_image_installs_what_reading_a_hospitals_export_needs():
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    found = re.search(r'RUN python3 -c "([^"]+)" +> /needed\.txt', recipe)
    assert found is not None
    printed = subprocess.run([sys.executable, "-c", found[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines() == [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dicom"]]


def test_the_lock_names_versions_that_any_index_has():
    assert not {name: str(number) for name, number in locked().items() if number.local}
    assert not {name for name in locked() if of_torch_for_gpus(name)}


def test_this_environment_has_the_locked_versions_of_what_decides_the_weights():
    if not os.environ.get("CI"):
        pytest.skip("only where the environment is made from the lock: CI")
    pins = locked()
    for name in ("torch", "numpy", "scipy", "monai", "flwr", "ray", "nibabel", "blosc2"):
        assert Version(version(name)).public == pins[name].public, name


def test_an_editable_install_is_a_path_file_that_editors_read():
    direct = distribution(OWN_NAME).read_text("direct_url.json")
    if direct is None or not json.loads(direct).get("dir_info", {}).get("editable"):
        pytest.skip("amos-fl is not installed from a checkout here")
    listed = [path for path in distribution(OWN_NAME).files or () if path.suffix == ".pth"]
    assert len(listed) == 1
    folders = [Path(line) for line in Path(str(listed[0].locate())).read_text(encoding="utf-8").split("\n") if line]
    roots = {next(iter(folder.glob("amos_fl*/__init__.py"))).parent.name for folder in folders}
    assert roots == {"amos_fl", "amos_fl_clients", "amos_fl_server"}


@pytest.mark.parametrize("package", ["amos_fl", "amos_fl_clients", "amos_fl_server"])
def test_the_types_of_public_names_are_known_to_whoever_imports_them(package: str):
    pytest.importorskip("pyright", reason="pyright is not installed here; make lint installs it")
    roots = os.pathsep.join(str(ROOT / folder) for folder in ("", "clients", "server"))
    # What they import is looked for beside the first Python on the path.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-m", "pyright", "--verifytypes", package]
    done = subprocess.run(
        [*command, "--ignoreexternal", "--outputjson"],
        env=os.environ | {"PYTHONPATH": roots, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout)["typeCompleteness"]["completenessScore"] >= 0.95


def test_no_range_keeps_a_newer_release_out():
    capped = {str(r) for r in declared() if any(s.operator in ("<", "<=", "~=", "==") for s in r.specifier)}
    # Flower's private parts are replaced in places; surface-distance is what scores are compared with.
    assert capped == {"flwr[simulation]==1.42.*", "surface-distance==0.1"}


def test_what_is_said_of_a_version_of_flower_is_said_of_the_one_that_is_pinned():
    """The places named are to be read again when Flower moves. Changelog and benchmarks are of the version that was."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    modules = [file for folder in ("amos_fl", "clients", "server") for file in (ROOT / folder).rglob("*.py")]
    said = [
        (f"{file.relative_to(ROOT)}: {found[0]}", found[1])
        for file in (*pages, *modules)
        for found in re.finditer(r"\bFlower\s+(\d+\.\d+)", file.read_text(encoding="utf-8"))
    ]
    pinned = "{0.major}.{0.minor}".format(locked()["flwr"])
    assert said
    assert [place for place, version_said in said if version_said != pinned] == []


def test_importing_the_package_loads_nothing_heavy():
    loaded = modules_after("import amos_fl")
    assert not loaded & {"torch", "numpy", "monai", "scipy", "pydantic", "flwr", "ray"}


def test_reading_a_cohort_needs_no_torch():
    assert "torch" not in modules_after("import amos_fl; amos_fl.read_cohort; amos_fl.plan_named")


def test_the_faces_load_flower_and_ray_only_in_the_functions_that_need_them():
    faces = ", ".join(f"amos_fl.api.{name}" for name in ("functions", "comparing", "predicting", "running"))
    loaded = modules_after(f"import {faces}, amos_fl.cli.main")
    assert {"amos_fl.api.settings", "amos_fl.runs.config"} <= loaded
    assert not loaded & {"flwr", "ray"}


@pytest.mark.parametrize("name", amos_fl.__all__)
def test_each_public_name_is_there_and_stays_the_same_object(name: str):
    assert getattr(amos_fl, name) is getattr(amos_fl, name)
    assert name in dir(amos_fl)


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="train_all"):
        _ = amos_fl.train_all  # pyright: ignore[reportAttributeAccessIssue] - that it is not there is the subject


def test_no_tracked_file_holds_the_path_of_somebodys_home():
    home = re.compile(r"(?<![\w.~$}>-])/(?:home|Users|root)/[\w.-]+")
    found = {name: match.group() for name, text in tracked_texts() if (match := home.search(text))}
    assert not found


def test_no_tracked_file_is_under_the_gpl():
    words = ("GNU " + "General Public", "GNU " + "Lesser General", "SPDX-License-Identifier: " + "GPL")
    found = {name for name, text in tracked_texts() if any(w.lower() in text.lower() for w in words)}
    assert not found
