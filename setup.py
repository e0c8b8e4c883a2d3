"""Everything is in pyproject.toml, but that the Flower app, the presets and the compose files go into the wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

APP = Path("server/flower-app")
PRESETS = Path("experiments")


class WithData(build_py):
    """The Flower app is no package of ours: Flower builds it from its own folder, with its own pyproject.toml.

    The presets lie at the top of the checkout, where a reader looks for experiments, and what hospitals and their
    coordinator deploy lies beside the packages of both.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        app = [APP / "pyproject.toml", *sorted((APP / "amos_fl_flower_app").glob("*.py"))]
        self._carry(APP, app, Path("amos_fl_server", "flower-app"))
        self._carry(PRESETS, sorted(PRESETS.rglob("*.yaml")), Path("amos_fl", "experiments", "presets"))
        for folder, package in (("clients", "amos_fl_clients"), ("server", "amos_fl_server")):
            self._carry(Path(folder), sorted(Path(folder).glob("docker-compose*.yml")), Path(package))

    def _carry(self, base: Path, files: list[Path], into: Path) -> None:
        for file in files:
            target = Path(self.build_lib, into, file.relative_to(base))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


setup(cmdclass={"build_py": WithData})
