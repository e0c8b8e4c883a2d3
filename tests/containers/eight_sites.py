"""The federation of docker-compose.yml for tests: its containers, what they print, and the folder on the host."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
SITES = "abcdefgh"
IMAGE = "amos-fl:under-test"
T = TypeVar("T")


def called(*command: str, seconds: float = 600, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """A command carried out to its end, with both of its outputs in one text."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False, cwd=ROOT
    )
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}"
    return done


def docker(*arguments: str, seconds: float = 600, check: bool = True) -> str:
    return called("docker", *arguments, seconds=seconds, check=check).stdout.strip()


def compose_command() -> list[str]:
    """`docker compose`, or the generation before it."""
    if called("docker", "compose", "version", check=False).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"]


def wait_until(what: str, look: Callable[[], T | None], seconds: float) -> T:
    """What `look` gives as soon as it gives anything."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found is not None and found is not False:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")


@dataclass
class Federation:
    """Eight sites and a SuperLink, with their files in `folder`; `name` is the project's."""

    folder: Path
    name: str

    def environment(self) -> dict[str, str]:
        own = (
            {} if os.getuid() == 0 else {"AMOS_FL_USER": f"{os.getuid()}:{os.getgid()}"}
        )  # root's files would be root's
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {
            **inherited,
            **own,
            "AMOS_FL_FOLDER": str(self.folder),
            "AMOS_FL_IMAGE": IMAGE,
            "COMPOSE_PROJECT_NAME": self.name,
        }

    @property
    def user(self) -> str:
        return self.environment().get("AMOS_FL_USER", "1000:1000")

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """A command of compose, not waited for."""
        return subprocess.Popen(
            [*compose_command(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
            cwd=ROOT,
        )

    def compose(self, *arguments: str, seconds: float = 900) -> str:
        """A command of compose, which must succeed; what it printed."""
        process = self.start(*arguments)
        try:
            printed, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
            raise AssertionError(f"{arguments} took more than {seconds:g} s:\n{printed[-6000:]}") from None
        assert process.returncode == 0, f"{arguments}: {process.returncode}\n{printed[-6000:]}\n{self.log('superlink')}"
        return printed

    def container(self, service: str) -> str:
        """The id of a service's container, running or not."""
        labelled = self._labelled(project=self.name, service=service, oneoff="False")
        return docker("ps", "--all", "--quiet", *labelled).split()[0]

    def _labelled(self, **labels: str) -> list[str]:
        return [
            part for name, value in labels.items() for part in ("--filter", f"label=com.docker.compose.{name}={value}")
        ]

    def containers(self) -> dict[str, dict[str, Any]]:
        """What the engine says of each running container, by service; without those of single commands."""
        listed = docker("ps", "--quiet", *self._labelled(project=self.name, oneoff="False")).split()
        described = json.loads(docker("inspect", *listed))
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in described}

    def inside(self, service: str, *command: str, check: bool = True, seconds: float = 60) -> str:
        return docker("exec", self.container(service), *command, check=check, seconds=seconds)

    def log(self, service: str, last: int = 60) -> str:
        return docker("logs", "--tail", str(last), self.container(service), check=False)

    def network(self, name: str) -> str:
        return f"{self.name}_{name}"

    def site(self, letter: str) -> Path:
        return self.folder / "fl/sites" / f"site-{letter}"

    def doing(self, letter: str) -> tuple[str, int, int]:
        """What a site did last: the phase, the round, and the step."""
        try:
            said = json.loads((self.site(letter) / "state/progress.json").read_text())
        except (OSError, ValueError):
            return "", 0, 0
        return said["activity"], said["round"], said["done"]

    def kill(self, service: str) -> None:
        """End every process of a container with SIGKILL, as a crash would; the engine starts it again."""
        self.inside(service, "sh", "-c", "kill -9 -1", check=False)

    @property
    def beside(self) -> Path:
        """A folder for runs that are not the SuperLink's."""
        folder = self.folder / "fl/beside"
        if not folder.is_dir():
            folder.mkdir()
            os.chown(folder, *map(int, self.user.split(":")))
        return folder

    def run_folder(self, name: str) -> Path:
        ours, served = self.beside / name, self.folder / "runs" / name
        return ours if ours.is_dir() else served

    def ledger(self, name: str) -> list[dict[str, Any]]:
        try:
            lines = (self.run_folder(name) / "ledger.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def weights(self, name: str) -> list[str]:
        """The hash of the weights after each round."""
        return [entry["weights_sha256"] for entry in self.ledger(name)]

    def in_the_image(self, *command: str, more: Sequence[str] = (), seconds: float = 600) -> str:
        """A command in a container of its own, without a network, whose /runs is `beside`."""
        return docker(
            *("run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp:mode=1777", "--shm-size", "512m"),
            *("--user", self.user, "--volume", f"{self.beside}:/runs", "--env", "AMOS_FL_CACHE=/runs/cache"),
            *more,
            IMAGE,
            *command,
            seconds=seconds,
        )

    def remove(self) -> None:
        self.compose("--profile", "coordinator", "down", "--volumes", "--timeout", "2")
        # What a container wrote as its own user is removed by it.
        docker(
            "run", "--rm", "--user", "0", "--volume", f"{self.folder}:/folder", IMAGE, "sh", "-c", "rm -rf /folder/*"
        )
        shutil.rmtree(self.folder, ignore_errors=True)
