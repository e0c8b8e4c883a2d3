"""A run on a disk that fills up stops in a sentence, at every size of the disk, and goes on to the same weights."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import TINY_PLAN, federate, hashes, tiny_config

from amos_fl.cli.main import run
from amos_fl.cohort.table import read_cohort
from amos_fl.files import whole_file, write_text
from amos_fl.runs.create import create_run
from amos_fl.runs.folder import RunFolder
from amos_fl.weights import save_arrays

SETTINGS: dict[str, Any] = {
    "rounds": 3,
    "local_steps": 1,
    "optimizer_state": "keep",
    "evaluation": {"every": 3, "predictions": True},
    # One level more than the other tests' network has, so that the run takes more than 20 MB.
    "plan": {**TINY_PLAN, "strides": (*TINY_PLAN["strides"], (2, 2, 2)), "kernels": ((3, 3, 3),) * 4},
}


@contextmanager
def disk(path: Path, kilobytes: int) -> Iterator[None]:
    """A disk of that size at `path`."""
    path.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here (it takes root)")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def grown(path: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(path)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path, store: Path) -> RunFolder:
    return federate(tmp_path_factory.mktemp("roomy") / "run", read_cohort(tiny_root), store, **SETTINGS)


@pytest.mark.parametrize("megabytes", [1, 2, 4, 6, 9, 12, 16, 20])
def test_a_run_that_fills_its_disk_says_so_and_goes_on_to_the_same_weights_with_more_room(
    tmp_path: Path, tiny_root: Path, store: Path, whole: RunFolder, capsys: pytest.CaptureFixture[str], megabytes: int
) -> None:
    place = tmp_path / "disk"
    with disk(place, megabytes * 1000):
        config, cohort = tiny_config(cohort=str(tiny_root), **SETTINGS), read_cohort(tiny_root)
        folder = create_run(place / "run", config, cohort)
        command = ["simulate", "--resume", str(folder.path), "--store", str(store)]
        assert run(command) == 3
        said = capsys.readouterr()
        assert "no space is left on the disk" in said.err
        assert f"continue with --resume {folder.path}" in said.err
        assert said.err.count("\n") == 1
        assert "Traceback" not in said.err + said.out
        grown(place, 200_000)
        assert run(command) == 0
        assert hashes(folder) == hashes(whole)
        assert (folder.path / "scores.csv").read_bytes() == (whole.path / "scores.csv").read_bytes()
        assert not list(folder.path.rglob("*.tmp.*"))


def test_a_store_on_a_full_disk_stops_the_run_and_leaves_no_half_case(
    tmp_path: Path, tiny_root: Path, whole: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "disk"
    with disk(place, 64):
        config = tiny_config(cohort=str(tiny_root), **SETTINGS)
        folder = create_run(tmp_path / "run", config, read_cohort(tiny_root))
        command = ["simulate", "--resume", str(folder.path), "--store", str(place / "store")]
        assert run(command) == 3
        assert "no space is left on the disk" in (said := capsys.readouterr().err)
        assert said.count("\n") == 1
        grown(place, 200_000)
        assert run(command) == 0
        assert hashes(folder) == hashes(whole)


def test_a_run_folder_that_could_not_be_made_is_not_in_the_way(
    tmp_path: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "disk"
    with disk(place, 8):
        out = place / "run"
        settings = tmp_path / "settings.yaml"
        settings.write_text(f"cohort: {tiny_root}\ndevice: cpu\n")
        assert run(["simulate", "--config", str(settings), "--out", str(out)]) == 2
        assert "no space is left on the disk while writing" in capsys.readouterr().err
        grown(place, 200_000)
        create_run(out, tiny_config(cohort=str(tiny_root)), read_cohort(tiny_root))


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o027, 0o077])
def test_files_are_readable_by_whom_the_umask_says_and_secrets_by_their_owner_alone(tmp_path: Path, mask: int) -> None:
    from amos_fl.deploy.keys import write_secret

    before = os.umask(mask)
    try:
        save_arrays({"w": np.zeros(3)}, tmp_path / "weights.safetensors")
        write_text(tmp_path / "text", "")
        with whole_file(tmp_path / "plain") as beside:
            beside.write_bytes(b"")
        write_secret(tmp_path / "key", b"")
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {**dict.fromkeys(("weights.safetensors", "text", "plain"), 0o666 & ~mask), "key": 0o600}


def test_whatever_a_run_and_its_store_hold_is_readable_by_a_colleague(
    tmp_path: Path, tiny_root: Path, whole: RunFolder
) -> None:
    own = tmp_path / "store"
    run_folder = federate(tmp_path / "run", read_cohort(tiny_root), own, rounds=1, local_steps=1)
    mask = os.umask(0o022)
    os.umask(mask)
    for folder in (run_folder.path, own):
        for file in folder.rglob("*"):
            if file.is_file() and file.name != "audit.log":  # a site's own, and its group's
                assert stat.S_IMODE(file.stat().st_mode) & 0o666 == 0o666 & ~mask, file
