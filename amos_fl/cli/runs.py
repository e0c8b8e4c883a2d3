"""`amos-fl runs` and `amos-fl diff`: the list of runs, and where two of them differ."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from amos_fl.cli.progress import plain_console
from amos_fl.errors import AmosError
from amos_fl.escape.console import Console
from amos_fl.runs.config import has_strategy
from amos_fl.runs.difference import Change, compare_folders
from amos_fl.runs.listing import ListedGroup, ListedRun, list_runs
from amos_fl.runs.summary import PHANTOM_NOTE

_MOST_CHANGES = 20
_GROUPS = ("seen CT", "seen MR", "unseen CT", "unseen MR")


def runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Folders with runs.  [default: runs]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List runs: their state, strategy, test DSC on seen and unseen scanners, and size."""
    where = folders or [Path("runs")]
    found = list_runs(where)
    if as_json:
        typer.echo(json.dumps([_as_json(entry) for entry in found], indent=2))
        return
    if not found:
        typer.echo(f"no runs in {', '.join(map(str, where))}")
        return

    members = [run for entry in found for run in (entry.runs if isinstance(entry, ListedGroup) else (entry,))]
    groups = [group for group in _GROUPS if any(group in run.dsc for run in members)]
    table = Table()
    table.add_column("run", overflow="fold")
    table.add_column("state")
    table.add_column("arm")
    table.add_column("strategy")
    # A word per line, so that the states have room.
    for column in ("seed", *("\n".join(["DSC", *group.split()]) for group in groups), "MB"):
        table.add_column(column, justify="right")
    for entry in found:
        if isinstance(entry, ListedGroup):
            nothing = [""] * (len(groups) + 2)
            table.add_row(entry.name, entry.state_in_words, entry.kind, *nothing, _megabytes(entry.size_bytes))
            for number, run in enumerate(entry.runs, 1):
                _add(table, run, groups, "└ " if number == len(entry.runs) else "├ ")
        else:
            _add(table, entry, groups, "")
    console = plain_console(160)
    console.print(table)
    if any(run.synthetic for run in members):
        console.print(f"* phantom. {PHANTOM_NOTE}")


def _add(table: Any, run: ListedRun, groups: list[str], branch: str) -> None:
    scores = (f"{run.dsc[group]:.3f}{'*' * bool(run.synthetic)}" if group in run.dsc else "" for group in groups)
    seed = "" if run.seed is None else str(run.seed)
    name = f"{branch}{run.name}{' *' * bool(run.synthetic)}"
    strategy = (run.strategy or "") if has_strategy(run.arm) else ""
    table.add_row(name, run.state_in_words, run.arm or "", strategy, seed, *scores, _megabytes(run.size_bytes))


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f}"


def _as_json(entry: ListedRun | ListedGroup) -> dict[str, Any]:
    values = {**dataclasses.asdict(entry), "path": str(entry.path), "state_in_words": entry.state_in_words}
    if not has_strategy(getattr(entry, "arm", None)) and "strategy" in values:
        values["strategy"] = None
    members = getattr(entry, "runs", None)
    return values if members is None else {**values, "runs": [_as_json(run) for run in members]}


def diff(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
) -> None:
    """Find the first round and site at which two runs differ, and the settings, cases and versions that do.

    Exit code 0: the same settings, cases, rounds and scores. 1: they differ. 2: a run cannot be read.
    """
    for path in (first, second):
        if (path / "group.yaml").is_file():
            raise AmosError(f"{path}: is a group of runs; name one of the runs in it")
    found = compare_folders(first, second)
    if as_json:
        typer.echo(json.dumps({"same": found.same, **dataclasses.asdict(found)}, indent=2))
        raise typer.Exit(int(not found.same))
    console = plain_console(160)
    _print_changes(console, "settings that differ", found.settings, first, second)
    _print_changes(console, "cases that differ", found.cases, first, second)
    _print_changes(console, "where and how they were run", found.where, first, second)
    one, other = found.rounds
    if found.parting is not None:
        console.print(found.parting.sentence)
        _print_changes(console, f"round {found.parting.round}", found.parting.changes, first, second)
    elif min(one, other):
        console.print(f"the ledgers are the same over {min(one, other)} rounds")
    if one != other:
        console.print(f"rounds finished: {one} and {other}")
    if found.scores:
        console.print(found.scores)
    if found.same:
        console.print("the two runs are the same: settings, cases, rounds and scores")
    raise typer.Exit(int(not found.same))


def _print_changes(console: Console, title: str, changes: tuple[Change, ...], first: Path, second: Path) -> None:
    if not changes:
        return
    table = Table("", str(first), str(second), title=title, title_justify="left")
    for change in changes[:_MOST_CHANGES]:
        table.add_row(change.name, change.first, change.second)
    console.print(table)
    if len(changes) > _MOST_CHANGES:
        console.print(f"and {len(changes) - _MOST_CHANGES} more; --json has all of them")
