"""`amos-fl deploy status`, `logs` and `serve`: the state of a deployment, the events of a run, and runs kept going."""

import dataclasses
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from amos_fl.cli.deploy_run import HostOption, RootArgument, deployment_folder, submitted_as
from amos_fl.cli.options import JsonOption
from amos_fl.cli.progress import plain_console
from amos_fl.errors import AmosError
from amos_fl.escape.terminal import visible, without_colours
from amos_fl.wording import roughly
from amos_fl_server.operation.run_registry import state_in

if TYPE_CHECKING:
    from amos_fl_server.operation.overview import Overview

RunArgument = Annotated[
    Path | None,
    typer.Argument(metavar="[RUN]", help="A run's folder here, or its name.  [default: the one that changed last]"),
]


def status(
    root: RootArgument = None,
    as_json: JsonOption = False,
    host: HostOption = None,
) -> None:
    """Show the state of a deployment: SuperLink, sites and runs. Exit code 2: the SuperLink does not answer."""
    from amos_fl_server.operation.overview import overview

    found = overview(deployment_folder(root), host)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found), indent=2))
        return
    _show(found)


def _show(found: "Overview") -> None:
    console = plain_console()
    console.print(f"SuperLink at {found.address}: answers, flwr {found.flwr}, amos-fl {found.amos_fl}")
    for warning in found.warnings:
        console.print(f"  {warning}")
    table = Table("site", "state", "since", "what it said last")
    for site in found.sites:
        table.add_row(site.site, site.state, _ago(site.since), site.said)
    console.print(table)
    if not found.runs:
        console.print("no runs")
        return
    table = Table("run", "state", "rounds", "strategy", "last changed", "")
    for run in found.runs:
        note = run.error or ""
        table.add_row(run.name, run.state, f"{run.rounds_done}/{run.rounds}", run.strategy, _ago(run.changed), note)
    console.print(table)


def _ago(when: float | None) -> str:
    return f"{roughly(time.time() - when)} ago" if when else ""


def logs(
    run: RunArgument = None,
    root: Annotated[
        Path | None,
        typer.Option("--deployment", envvar="AMOS_FL_DEPLOYMENT", help="The folder of the deployment."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    flower: Annotated[bool, typer.Option("--flower", help="Print Flower's log of its server process instead.")] = False,
    host: HostOption = None,
) -> None:
    """Print what happened in a run: rounds, losses, scores, sites that were missing and why."""
    from amos_fl_server.operation.connection import RunsClient, connection_of
    from amos_fl_server.operation.overview import events_of, flower_log

    name: str | None = None
    if run is None:
        place = deployment_folder(root)
    else:
        name, place, host, _ = submitted_as(root, host, run)
    with RunsClient(connection_of(place, host)) as client:
        if name is None:
            listed = client.get("/runs")
            if not listed:
                raise AmosError("there is no run at this SuperLink; submit one with 'amos-fl deploy run'")
            name = str(listed[0]["name"])
        if flower:
            state = state_in(client.get(f"/runs/{name}"))
            for text in flower_log(client.connection, state, follow=follow):
                typer.echo(without_colours(text), nl=False)
            return
        for when, text in events_of(client, name, follow=follow):
            typer.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(when))}  {visible(text)}")


def serve(
    root: RootArgument = None,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between checks of the runs.")] = 10.0,
    host: HostOption = None,
) -> None:
    """Keep runs going: restart each run whose server process died, from its last completed round.

    This command keeps no state; stop and start it at any time. Runs that were stopped, or ended with an error of
    their own, are left alone.
    """
    from amos_fl_server.operation.connection import NoAnswer, connection_of
    from amos_fl_server.operation.submitter import keep_runs_going

    connection = connection_of(deployment_folder(root), host)
    given_up: set[tuple[str, int]] = set()
    silent = False
    _say(f"keeping the runs of the SuperLink at {connection.address} going")
    while True:
        try:
            keep_runs_going(connection, _say, given_up)
            if silent:
                _say("the SuperLink answers again")
            silent = False
        except NoAnswer as error:
            if not silent:
                _say(f"{error}; waiting for it")
            silent = True
        time.sleep(every)


def _say(text: Any) -> None:
    typer.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {visible(str(text))}")
