"""A run knows the commit that it was made with, where there is one."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from amos_fl.runs.source import source_commit


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed here")
    (tmp_path / "file").write_text("one")
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    for arguments in (("init", "-q"), ("add", "file"), (*identity, "commit", "-q", "-m", "one")):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True)
    return tmp_path


def test_the_commit_of_a_clean_checkout_is_its_hash(checkout: Path) -> None:
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert source_commit(checkout) == head.stdout[:12]


def test_changed_files_are_said(checkout: Path) -> None:
    (checkout / "file").write_text("two")
    assert re.fullmatch("[0-9a-f]{12}-dirty", source_commit(checkout) or "")


def test_a_folder_inside_somebody_elses_checkout_has_no_commit(checkout: Path) -> None:
    (checkout / "site-packages").mkdir()
    assert source_commit(checkout / "site-packages") is None
