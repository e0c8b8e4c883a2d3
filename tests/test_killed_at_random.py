"""Runs killed at random moments end with the weights of one that nobody disturbed; the whole: killed_at_random.py."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes that were left in Linux's /proc"),
]


@pytest.mark.parametrize(("share_of_ray", "kills", "terms"), [(0.0, 3, 1), (1.0, 1, 1)])
def test_runs_killed_at_random_moments_leave_nothing_and_end_with_equal_bits(
    tmp_path: Path, share_of_ray: float, kills: int, terms: int
) -> None:
    program = Path(__file__).with_name("killed_at_random.py")
    how_many = ["--kills", str(kills), "--terms", str(terms), "--ray-share", str(share_of_ray)]
    done = subprocess.run(
        [sys.executable, str(program), *how_many, "--place", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"kills={kills}, terms={terms}" in done.stdout.splitlines()[-1]
