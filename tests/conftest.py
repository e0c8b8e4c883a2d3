"""Small cohorts made on the spot: boxes and balls in noise, as NIfTI files."""

import importlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# A shell has what it starts in the background ignore Ctrl-C, and nohup a hangup; so would what a test starts and tells.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

os.environ["COLUMNS"] = "200"  # tables and paths stay in one piece, however long pytest's own folder is called
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Tests run beside each other, so that more threads than one each only get into each other's way; those of trainings are
# settings, and wait as the commands' do (`amos_fl.threads`).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings

from amos_fl.cohort.table import Case, Cohort, read_cohort, write_cohort
from amos_fl.randomness import generator

if TYPE_CHECKING:
    from labelling import Desk
    from playwright.sync_api import Browser
    from reports import Pages

# An example takes as long as the machine lets it; what is wrong is never how long.
settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")

SHAPE, SPACING_MM = (24, 22, 20), (8.0, 8.0, 8.0)
ORGANS = {1: "ball", 2: "box"}
TEST_DATA = Path(os.environ.get("AMOS_FL_TEST_DATA") or "no-test-data").absolute()
"""Real scans under `real/`, and faulty inputs under `cases/`; neither is part of the project."""
REAL = TEST_DATA / "real"
NOT_HERE = "AMOS_FL_TEST_DATA names no folder with these scans"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=NOT_HERE)


def write_case(folder: Path, name: str, modality: str, *, seed: int = 0) -> tuple[Path, Path]:
    """One synthetic scan: a body with a bright ball and a dark box at random places."""
    random = generator(seed, "tiny case", name)
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    body = ((x - 12) / 11) ** 2 + ((y - 11) / 10) ** 2 < 1
    centre = random.uniform(8, 14, 3)
    ball = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < 16
    corner = random.integers(6, 12, 3)
    box = np.all([(a >= c) & (a < c + 4) for a, c in zip((x, y, z), corner, strict=True)], axis=0) & ~ball
    label = (ball * 1 + box * 2).astype(np.uint8)
    image = np.where(body, 40.0, -1000.0) + 120 * ball - 120 * box + random.normal(0, 8, SHAPE)
    if modality == "MR":
        image = np.where(body, 400 - image, 0) * 3
    affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    paths = folder / "images" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz"
    for path, array in zip(paths, (image.astype(np.int16), label), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), path)
    return paths


def write_tiny_cohort(folder: Path) -> Cohort:
    """A, B (CT) and G (MR) train; D (CT) is unseen. A and G have validation cases."""
    rows = [
        *[
            (site, modality, "train", i)
            for site, modality, n in (("A", "CT", 3), ("B", "CT", 1), ("G", "MR", 2))
            for i in range(n)
        ],
        ("A", "CT", "val", 7),
        ("G", "MR", "val", 7),
        *[(site, modality, "test", 8) for site, modality in (("A", "CT"), ("D", "CT"), ("G", "MR"))],
    ]
    cases = []
    for site, modality, split, number in rows:
        name = f"{site.lower()}_{split}_{number}"
        image, label = write_case(folder, name, modality)
        cases.append(Case(name, site, modality, split, image, label, tuple(ORGANS)))
    write_cohort(Cohort(tuple(cases), dict(ORGANS)), folder / "cohort.csv")
    return read_cohort(folder)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny cohort of four sites; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_cohort(folder)
    return folder


@pytest.fixture
def tiny_cohort(tiny_root: Path) -> Cohort:
    return read_cohort(tiny_root)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of prepared cases that the tests share, as runs do."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> Path:
    """A tiny run that has come to its end and finds something; not to be changed."""
    from federations import federate

    out = tmp_path_factory.mktemp("finished") / "run"
    training = {"learning_rate": 0.2, "class_balance": 0.5, "foreground_share": 0.67}
    federate(out, read_cohort(tiny_root), store, rounds=2, local_steps=25, optimizer_state="keep", training=training)
    return out


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real scans that are not part of the project."""
    if not (REAL / "cohort.csv").is_file():
        pytest.skip(NOT_HERE)
    return REAL


@pytest.fixture(scope="session")
def wheel_contents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built and unpacked; not to be changed."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "contents")
    return folder / "contents"


@pytest.fixture(scope="session")
def report_pages(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> "Pages":
    """The reports of a finished run and of a comparison; what a test changes in them it puts back."""
    from reports import make_pages

    return make_pages(tmp_path_factory.mktemp("reports"), read_cohort(tiny_root), store)


@pytest.fixture(scope="session")
def begun(finished_run: Path, tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelling project with its pre-labels; not to be changed."""
    from labelling import Desk, open_cohort

    folder = tmp_path_factory.mktemp("labelling")
    desk = Desk(folder / "project", tiny_root)
    cohort = open_cohort(tiny_root, folder)
    assert desk.start("--cohort", str(cohort), "--run", str(finished_run)) == 0
    return desk.path


@pytest.fixture
def desk(begun: Path, tiny_root: Path) -> "Desk":
    """A copy of the labelling project beside it, so that its relative paths hold."""
    from labelling import Desk

    number = sum(1 for _ in begun.parent.iterdir())
    shutil.copytree(begun, begun.parent / f"copy-{number}")
    return Desk(begun.parent / f"copy-{number}", tiny_root)


_own_modules = itertools.count()


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples are on the import path."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a module; its name, which no other test uses."""
    (tmp_path / "code").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "code")

    def write(text: str) -> str:
        name = f"own_{next(_own_modules)}"
        (tmp_path / "code" / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    return write


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from browsing import started

    with started() as browser:
        yield browser
