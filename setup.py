"""Everything is in pyproject.toml, but that the Flower app goes into the wheel as it is, and into no package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

APP = Path("server/flower-app")


class WithFlowerApp(build_py):
    """The Flower app is no package of ours: Flower builds it from its own folder, with its own pyproject.toml."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for file in (APP / "pyproject.toml", *sorted((APP / "amos_fl_flower_app").glob("*.py"))):
                target = Path(self.build_lib, "amos_fl_server", "flower-app", file.relative_to(APP))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)


setup(cmdclass={"build_py": WithFlowerApp})
