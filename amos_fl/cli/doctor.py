"""`amos-fl doctor`: what this machine and this installation have, what they lack, and what to do."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from amos_fl.cli.options import JsonOption
from amos_fl.cli.progress import Progress, plain_console

STYLES = {"fine": "green", "lacks": "bold red", "optional": "yellow"}


def doctor(
    runs: Annotated[Path, typer.Option(help="Where run folders will go.")] = Path("runs"),
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Try whether Ray starts, which takes seconds.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine and this installation have and lack. Exit code 2 if a run would lack something."""
    from amos_fl.api.doctor import examine

    lines = []
    with Progress() as progress:
        for line in examine(runs, ray=ray):
            lines.append(line)
            progress.show(f"examined {line.subject}", len(lines), len(lines) + 1)
    lacking = [line.subject for line in lines if line.state == "lacks"]
    if as_json:
        typer.echo(json.dumps([asdict(line) for line in lines], indent=2))
    else:
        table = Table("", "", "what was found", "what to do")
        for line in lines:
            table.add_row(line.subject, line.state, line.found, line.remedy, style=STYLES[line.state])
        plain_console().print(table)
        typer.echo(f"lacking: {', '.join(lacking)}" if lacking else "nothing needed is lacking")
    if lacking:
        raise typer.Exit(2)
