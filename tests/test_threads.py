"""The commands have PyTorch's threads spin only briefly while they wait, unless their user says otherwise."""

import os
import subprocess
import sys

import pytest

SHOWS = """
import os
import amos_fl.cli.main
from amos_fl.cli.start import main

amos_fl.cli.main.main = lambda: print(os.environ.get("GOMP_SPINCOUNT"))
main()
"""


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_spin_briefly_unless_the_environment_says_otherwise(given: dict[str, str], found: str) -> None:
    others = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", SHOWS], env={**others, **given}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == found
