"""One image and one federation for all tests in this folder, which need Docker; `make deployment-test` runs them."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from eight_sites import IMAGE, Federation, called


@pytest.fixture(scope="session")
def image() -> str:
    """The image, built from this checkout; PYTHON_IMAGE, PIP_ARGS and BUILD_NETWORK as for docker-compose.yml."""
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine is running")
    arguments = [
        part
        for name in ("PYTHON_IMAGE", "PIP_ARGS", "TORCH_BACKEND")
        if os.environ.get(name)
        for part in ("--build-arg", f"{name}={os.environ[name]}")
    ]
    network = os.environ.get("BUILD_NETWORK", "default")
    called("docker", "build", "--network", network, *arguments, "--tag", IMAGE, ".", seconds=1800)
    return IMAGE


@pytest.fixture(scope="session")
def federation(image: str) -> Iterator[Federation]:
    """`docker compose up`, in a folder of its own."""
    running = Federation(Path(tempfile.mkdtemp(prefix="amos-fl-")), f"amosfl{os.getpid()}")
    try:
        running.compose("up", "--detach")
        yield running
    finally:
        running.remove()
