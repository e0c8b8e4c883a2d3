"""Find the commit of amos-fl that is running, if it runs from a checkout."""

import subprocess
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


@cache
def source_commit(root: Path = _ROOT) -> str | None:
    """The commit of the checkout at `root`, with `-dirty` if files differ from it; None if there is none.

    Only `root` itself counts: a package installed inside another checkout has no commit.
    """
    if not (root / ".git").exists():
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
