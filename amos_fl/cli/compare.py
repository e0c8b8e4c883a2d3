"""`amos-fl compare`: compares runs, with intervals, tests, the gap in words, and costs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import click
import typer

from amos_fl.cli.progress import plain_console
from amos_fl.comparison.tables import all_tables, rich_table
from amos_fl.errors import AmosError
from amos_fl.metrics.catalogue import IN_RUNS
from amos_fl.runs.summary import PHANTOM_NOTE


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of groups of runs.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the comparison; by default a new one under runs/.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Compare with this arm or run; default: a federated one.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="RUN=NAME", help="What the arm of this run is called in tables and figures; repeatable."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(click_type=click.Choice(IN_RUNS, case_sensitive=False), help="Only this score; default: both."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap and the permutations.")] = 0,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap draws, and permutations of a test.")] = 10_000,
    published: Annotated[
        bool, typer.Option("--published", help="Show the paper's numbers even if no setting matches theirs.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only what went wrong and the answer, without tables.")
    ] = False,
) -> None:
    """Compare finished runs on the same test cases: federated, centralized, local, fine-tuned, leave-one-out."""
    from amos_fl.api.comparing import compare as compared

    found = compared(
        runs,
        out,
        reference=reference,
        names=_names(name or ()),
        metrics=[one for one in IN_RUNS if not metric or one in metric],
        seed=seed,
        resamples=resamples,
        published=published,
    )
    folder, comparison = found.path, found.comparison
    console = plain_console()
    for problem in comparison.problems:
        console.print(f"problem: {problem}", markup=False, style="bold red", soft_wrap=True)
    if comparison.synthetic:
        console.print(PHANTOM_NOTE, soft_wrap=True)
    if not quiet:
        for table in all_tables(comparison):
            if table.brief:
                console.print(rich_table(table))
    for sentence in (*(() if quiet else (*comparison.notes, "")), *comparison.findings):
        console.print(sentence, markup=False, soft_wrap=True)
    console.print(f"everything is in {folder}; begin with {folder / 'report.html'}", markup=False, soft_wrap=True)


def _names(given: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in given:
        run, equals, name = text.partition("=")
        if not equals:
            raise AmosError(f"--name {text}: is not a run and the name of its arm; write RUN=NAME")
        found[run] = name
    return found
