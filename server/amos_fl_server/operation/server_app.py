"""The ServerApp of a deployed SuperLink: the same federation as in a simulation, with sites that come and go.

The run folder is made beforehand (`prepare_run`) and named by `run-folder` in the run config, by its path or as one of
the SuperLink's runs. During the run `events.jsonl` in it records events, line by line; at the end `outcome.json`
records how it ended, because Flower's own commands do not: `{"exit_code": 0, "error": null}`. A process that is killed
leaves none, and the run may be started again.
"""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import Cohort, read_organs, write_cohort
from amos_fl.errors import AmosError, Interrupted
from amos_fl.escape.terminal import visible
from amos_fl.files import write_json
from amos_fl.runs.about import write_about
from amos_fl.runs.changes import check_unchanged
from amos_fl.runs.config import RunConfig
from amos_fl.runs.events import Event, Listener, Notice, in_words, line_of
from amos_fl.runs.finish import write_results
from amos_fl.runs.folder import RunFolder, open_run
from amos_fl.stopping import INTERRUPTED
from amos_fl_server.federation.discovery import DeployedFederation
from amos_fl_server.federation.engines.remote import RemoteEngine, SiteGrid
from amos_fl_server.federation.full_disk import stopping_on_a_full_disk
from amos_fl_server.federation.strategies import strategy_of
from amos_fl_server.operation.run_registry import carried_out, folder_of, note_begin

RUN_FOLDER, WAIT_S = "run-folder", "wait-for-sites-s"
FAULT = 1


@dataclass(frozen=True)
class EventLog:
    """A listener that appends every event to a file, and the main ones to Flower's own log."""

    path: Path

    def __call__(self, event: Event) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line_of(event, time.time()) + "\n")
        if isinstance(event, Notice):
            print(visible(in_words(event) or ""), flush=True)


def _described_in(folder: RunFolder, federation: DeployedFederation) -> Cohort:
    """The cohort of the run folder, or, if it has none, one made from the sites' descriptions."""
    with contextlib.suppress(AmosError):
        return folder.cohort()
    cohort = federation.cohort()
    synthetic = any(described.synthetic for described in federation.described.values())
    about = folder.about().model_copy(update={"cohort_sha256": cohort.content_hash(), "synthetic": synthetic})
    write_about(folder.path, about)
    write_cohort(cohort, folder.path / "cohort.csv")
    return cohort


def run_deployed(
    grid: Grid,
    folder: RunFolder,
    wait_for_sites_s: float,
    engine: RemoteEngine | None = None,
    *,
    ask_again_s: float = 30.0,
    listener: Listener | None = None,
) -> None:
    """Start or continue a run with the sites of a grid, and write its results.

    Events go to `listener`; without one, into the run's folder and to Flower's log.

    Raises:
        AmosError: bad settings. RunStopped: too few sites. Interrupted: a stop was requested.
    """
    with stopping_on_a_full_disk(folder):
        _run_deployed(grid, folder, wait_for_sites_s, engine, ask_again_s, listener)


def _run_deployed(
    grid: Grid,
    folder: RunFolder,
    wait_for_sites_s: float,
    engine: RemoteEngine | None,
    ask_again_s: float,
    listener: Listener | None,
) -> None:
    config = folder.config()
    check_unchanged(folder, config, None)
    organs, sites = _organs_and_sites(folder, config)
    folder.remove_unfinished()
    federation = DeployedFederation(
        config,
        folder,
        strategy_of(config),
        engine or RemoteEngine(),
        listener or EventLog(folder.path / "events.jsonl"),
        organs,
        sites,
        (),
        wait_for_sites_s=wait_for_sites_s,
        ask_again_s=ask_again_s,
    )
    federation.run(SiteGrid(grid))
    write_results(folder, federation.config, _described_in(folder, federation), federation.chosen_weights)


def _organs_and_sites(folder: RunFolder, config: RunConfig) -> tuple[Mapping[int, str], tuple[str, ...]]:
    """The organs to be learned, and the expected sites: from the settings, or from the run folder's cohort."""
    try:
        cohort = folder.cohort()
    except AmosError:  # no case is known here
        beside = folder.path / "organs.csv"
        return (read_organs(beside) if beside.is_file() else AMOS_ORGANS), tuple(sorted(config.sites or ()))
    return cohort.organs, cohort.sites


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """The entry point of the ServerApp at a SuperLink."""
    named = str(context.run_config.get(RUN_FOLDER) or "")
    if not named:
        raise AmosError(f"say which run this is: flwr run ... --run-config '{RUN_FOLDER}=\"/runs/name\"'")
    folder = open_run(folder_of(named))
    with carried_out(folder, context.run_id):
        if not folder.stop_file.is_of(str(context.run_id)):  # otherwise it was asked to stop before it began
            folder.stop_file.clear()
        note_begin(folder, context.run_id)
        outcome = None
        try:
            run_deployed(grid, folder, float(context.run_config.get(WAIT_S) or 600))
        except AmosError as known:
            outcome = (known.exit_code, str(known))
            raise
        except Interrupted as stopped:
            outcome = (INTERRUPTED, str(stopped))
            raise
        except httpx.HTTPError:
            raise  # the SuperLink is gone, or no longer knows this process; the run has not ended
        except Exception:
            outcome = (FAULT, "the program failed; the SuperLink's log says why")
            raise
        else:
            outcome = (0, None)
        finally:
            if outcome is not None:
                with contextlib.suppress(OSError):  # on a full disk, which the error has reported
                    write_json(folder.path / "outcome.json", {"exit_code": outcome[0], "error": outcome[1]})
