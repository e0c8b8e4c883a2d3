"""What a wheel carries beside its packages: presets, the stub Flower app and compose files, kept where readers look."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CARRIED = {
    "experiments": "amos_fl/experiments/presets",
    "clients/docker-compose.yml": "amos_fl_clients/docker-compose.yml",
    "clients/docker-compose.gpu.yml": "amos_fl_clients/docker-compose.gpu.yml",
    "server/docker-compose.yml": "amos_fl_server/docker-compose.yml",
    "server/flower-app": "amos_fl_server/flower-app",
}


class CarriedFiles(BuildHookInterface):
    """Copies them into a wheel, and not into an editable install, which reads them where they are."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            build_data["force_include"].update(CARRIED)
