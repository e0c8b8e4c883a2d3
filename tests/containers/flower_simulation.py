"""In the image: the run of a folder once more, by `flwr run` with Flower's own local simulation.

flower_simulation.py OLD NEW
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from amos_fl.api.settings import cache_folder
from amos_fl.runs.create import create_run
from amos_fl.runs.folder import open_run
from amos_fl_clients.operation.allowed_apps import shipped_app
from amos_fl_server.federation.simulate import lay_out_sites

CONFIG = """\
[superlink]
default = "local"
[superlink.local]
address = ":local-in-memory:"
"""


def main(old: Path, new: Path) -> None:
    config, cohort = open_run(old).config(), open_run(old).cohort()
    run = create_run(new, config, cohort)
    sites = lay_out_sites(run, cohort, config, cache_folder() / "store")
    home = Path(os.environ["FLWR_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(CONFIG)
    os.environ["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
    federation = f"num-supernodes={len(sites)} client-resources-num-cpus=1 init-args-num-cpus=2"
    command = ["flwr", "run", str(shipped_app()), "local", "--federation-config", federation]
    subprocess.run([*command, "--run-config", f'run-folder="{run.path}"'], check=True)
    outcome, end = run.path / "outcome.json", time.monotonic() + 1500
    while not outcome.is_file():
        if time.monotonic() > end:
            sys.exit("Flower's simulation did not come to an end")
        time.sleep(0.5)
    if (said := json.loads(outcome.read_text())) != {"exit_code": 0, "error": None}:
        sys.exit(f"Flower's simulation ended with {said}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
