"""A run that kills itself with SIGKILL at a given moment: `killed_run.py MOMENT RUN STORE`, in a process of its own."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import amos_fl.files
import amos_fl_server.federation.aggregate
from amos_fl.runs.events import Event, RoundFinished, SiteWork
from amos_fl.runs.folder import open_run
from amos_fl_server.federation.simulate import simulate

moment = ""
round_2 = False


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying(
    function: Callable[..., Any], when: str, is_it: Callable[[str], bool] = lambda target: True
) -> Callable[..., Any]:
    """`function`, killed before or after it runs in round 2 on a target that `is_it`."""

    def run_it(*arguments: Any) -> Any:
        mine = round_2 and is_it(str(arguments[-1]))
        if mine and when == "before":
            die()
        result = function(*arguments)
        if mine and when == "after":
            die()
        return result

    return run_it


def is_checkpoint(target: str) -> bool:
    return "checkpoints" in target


def is_site_state(target: str) -> bool:
    return "state" in target and target.endswith(".safetensors")


def on_event(event: Event) -> None:
    global round_2
    round_2 = round_2 or (isinstance(event, RoundFinished) and event.round == 1)
    if (
        moment == "training"
        and isinstance(event, SiteWork)
        and (event.activity, event.round, event.site) == ("train", 2, "B")
    ):
        die()
    if (
        moment == "scoring"
        and isinstance(event, SiteWork)
        and (event.activity, event.round, event.done) == ("evaluate", 2, 1)
    ):
        die()


if __name__ == "__main__":
    moment, run, store = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    what, _, when = moment.rpartition(" ")
    if what == "checkpoint rename":
        amos_fl.files.os.rename = dying(os.rename, when, is_checkpoint)
    elif what == "checkpoint write":
        import amos_fl.runs.checkpoint

        amos_fl.runs.checkpoint.save_arrays = dying(amos_fl.runs.checkpoint.save_arrays, when, is_checkpoint)
    elif what == "aggregation":
        mean = amos_fl_server.federation.aggregate.WeightedMean
        mean.add = dying(mean.add, when)
    elif what == "site state":
        amos_fl.files.os.replace = dying(os.replace, when, is_site_state)
    folder = open_run(run)
    simulate(folder, folder.config(), folder.cohort(), store, on_event)
