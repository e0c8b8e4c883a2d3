"""`amos-fl data`: makes a cohort from an AMOS22 release or its phantom, and checks one."""

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from amos_fl.cli.datasets import target_of
from amos_fl.cli.options import WorkersOption
from amos_fl.cli.progress import Progress, plain_console
from amos_fl.cohort.amos22 import ImportResult, import_amos22
from amos_fl.cohort.check import check_cohort
from amos_fl.cohort.protocols import Protocol
from amos_fl.cohort.repair import repair_cohort
from amos_fl.cohort.scanners import SCANNERS
from amos_fl.cohort.table import Cohort, read_cohort, write_imported
from amos_fl.errors import AmosError
from amos_fl.escape.console import Console
from amos_fl.phantom.montage import montage as draw_montage
from amos_fl.phantom.release import demo_cases, write_release
from amos_fl.phantom.scan import Contrast, Size
from amos_fl.wording import MISSING, counted

_WORKERS = min(4, os.cpu_count() or 1)


def _list(console: Console, title: str, lines: tuple[str, ...]) -> None:
    if lines:
        console.print(f"\n{title}")
        for line in lines:
            console.print(f"  - {line}", soft_wrap=True)


def amos22(
    root: Annotated[Path, typer.Argument(help="The folder in which amos22.zip was unpacked.")],
    protocol: Annotated[
        Protocol,
        typer.Option(
            help="public: what has public labels. release: train on imagesTr, score on imagesVa. "
            "paper: Table 2, which needs the test labels."
        ),
    ] = "public",
    hold_out: Annotated[
        list[str] | None, typer.Option(help="Scanners (A to H) kept out of training; may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The cohort file to write, or its folder.  [default: ROOT/cohort.csv]")
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="AMOS's metadata table.  [default: looked for in and beside ROOT]")
    ] = None,
) -> None:
    """Turn an AMOS22 release, as downloaded, into a cohort."""
    sites = [site for word in hold_out or () for site in word.replace(",", " ").split()]
    result = import_amos22(root, protocol=protocol, hold_out=sites, metadata=metadata)
    target = target_of(root, out)
    write_imported(result.cohort, target)
    console = plain_console()
    console.print(f"release: {result.folder}\nmetadata table: {result.metadata or 'none'}\n", soft_wrap=True)
    console.print(_beside_table2(result))
    _list(console, "Differences from Table 2", result.differences or ("none",))
    _list(console, "Notes", result.notes)
    console.print(f"\nwrote {target} ({len(result.cohort.cases)} cases)", soft_wrap=True)


def _beside_table2(result: ImportResult) -> Table:
    table = Table(title=f"{len(result.cohort.cases)} cases under protocol {result.protocol}")
    for column in ("site", "scanner", "modality"):
        table.add_column(column)
    for column in ("train", "val", "test", "Table 2: train", "val", "test"):
        table.add_column(column, justify="right")
    for modality in ("CT", "MR"):
        sites = [scanner for scanner in SCANNERS.values() if scanner.modality == modality]
        for scanner in sites:
            numbers = (*result.counts[scanner.domain], *scanner.table2)
            table.add_row(scanner.domain, scanner.model, modality, *(str(n) if n else MISSING for n in numbers))
        sums = [sum(row) for row in zip(*((*result.counts[s.domain], *s.table2) for s in sites), strict=True)]
        table.add_row("", f"all {modality}", "", *map(str, sums), end_section=True)
    return table


def check(
    cohort: Annotated[Path, typer.Argument(help="A cohort.csv, or the folder that holds one.")],
    workers: WorkersOption = _WORKERS,
    fix: Annotated[
        Path | None,
        typer.Option(help="A new folder for repaired copies of what can be repaired safely, and a cohort with them."),
    ] = None,
) -> None:
    """Read every scan and label map of a cohort and say what is wrong. Exit code 2 on errors."""
    found = read_cohort(cohort)
    if fix is not None:
        found = _fixed(found, fix)
    with Progress() as progress:
        findings = check_cohort(found, workers=workers, on_case=progress.of("checking"))
    console = plain_console()
    if findings:
        table = Table("", "case", "finding")
        for finding in findings:
            table.add_row(finding.severity, finding.case or "all", finding.message)
        console.print(table)
    count = Counter(finding.severity for finding in findings)
    sites = len(found.sites)
    console.print(
        f"{counted(len(found.cases), 'case')} of {counted(sites, 'site')}: "
        f"{counted(count['error'], 'error')}, {counted(count['warning'], 'warning')}"
    )
    if count["error"]:
        raise typer.Exit(2)


def _fixed(cohort: Cohort, out: Path) -> Cohort:
    """The cohort with its repaired files, which is written to `out`; what was repaired is shown."""
    with Progress() as progress:
        repairs = repair_cohort(cohort, out, on_case=progress.of("repairing"))
    console = plain_console()
    if repairs:
        table = Table("case", "file", "repair")
        for repair in repairs:
            table.add_row(repair.case, repair.kind, repair.sentence)
        console.print(table)
    else:
        console.print("nothing to repair")
    console.print(f"wrote {out / 'cohort.csv'}; its check, with what only a person can decide:", soft_wrap=True)
    return read_cohort(out)


def phantom(
    out: Annotated[Path, typer.Argument(help="The folder to write the release to.")],
    seed: Annotated[int, typer.Option(min=0, help="Other seeds give other patients.")] = 0,
    size: Annotated[Size, typer.Option(help="quick: coarse, for CPUs; full: AMOS's own grids.")] = "quick",
    contrast: Annotated[
        Contrast,
        typer.Option(
            help="scanners: as on AMOS's eight. random: brightness, field, resolution and noise of no scanner, for a "
            "run that others start from (--init)."
        ),
    ] = "scanners",
    cases: Annotated[str, typer.Option(help="demo, all (600), or ids such as 1,2,507.")] = "demo",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = _WORKERS,
    montage: Annotated[Path | None, typer.Option(help="Also draw the scanners with their labels to this PNG.")] = None,
) -> None:
    """Write a synthetic release in AMOS22's layout, with labels for all its cases."""
    chosen = _phantom_cases(cases)

    with Progress() as progress:
        write_release(
            out, seed=seed, size=size, contrast=contrast, cases=chosen, workers=workers, on_case=progress.of("drawing")
        )
    typer.echo(f"wrote {out}{_next_of(out)}")
    if montage is not None:
        draw_montage(out, montage)
        typer.echo(f"wrote {montage}")


def _next_of(release: Path) -> str:
    """The command that makes a cohort of a phantom, with the first protocol for which it has the cases."""
    for protocol in ("paper", "release", "public"):
        with suppress(AmosError):
            import_amos22(release, protocol=protocol)
            return f"; next: amos-fl data amos22 {release} --protocol {protocol}"
    return "; it has no case to train on, so it makes no cohort"


def _phantom_cases(text: str) -> list[int] | None:
    """The ids that `--cases` asks for; None for all."""
    if text == "all":
        return None
    if text == "demo":
        return demo_cases()
    try:
        ids = sorted({int(word) for word in text.replace(",", " ").split()})
    except ValueError:
        ids = []
    if not ids:
        raise AmosError(f"--cases {text}: give demo, all, or ids from 1 to 600 such as 1,2,507")
    return ids
