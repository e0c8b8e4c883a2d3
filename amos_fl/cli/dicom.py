"""`amos-fl data dicom`: an export of a hospital's archive (PACS), with structure sets or segmentations, as a cohort."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from amos_fl.cli.datasets import SeedOption, SplitOption, TableOption, target_of, write
from amos_fl.cli.label_files import LabelMapOption
from amos_fl.cli.progress import Progress, plain_console
from amos_fl.cohort.dataset import read_table
from amos_fl.cohort.dicom_cohort import cohort_of, write_cases
from amos_fl.cohort.dicom_export import Export, LeftOut, SeriesChoice, read_export, series_name
from amos_fl.cohort.dicom_organs import StructureNames
from amos_fl.cohort.label_map import SUGGESTED, read_label_map, write_label_map
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import check_organs_beside, read_organs
from amos_fl.errors import AmosError, already_exists
from amos_fl.wording import counted

_MOST_LISTED = 20


def dicom(
    folder: Annotated[Path, typer.Argument(help="The export: DICOM files at any depth, under any names.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The folder of the cohort; needed unless --dry-run.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what is found; write no cohort.")] = False,
    modality: Annotated[Literal["CT", "MR"] | None, typer.Option(help="Only series of this modality.")] = None,
    description: Annotated[
        list[str] | None,
        typer.Option(
            help="Only series with this in their description, or that fit it with * and ?; may be given again."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="No series with this in their description; may be given again.")
    ] = None,
    labels: Annotated[
        list[str] | None, typer.Option(help="Only labels with this in their description; may be given again.")
    ] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Also series without a label, as test cases to be predicted.")
    ] = False,
    organs: Annotated[
        Path | None, typer.Option(help="The cohort's organs, such as the organs.csv of a bundle; default: AMOS's.")
    ] = None,
    label_map: LabelMapOption = SUGGESTED,
    suggestion: Annotated[
        Path | None, typer.Option(help="Write the label map here, as CSV to be corrected and given to --label-map.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Who holds all of it.  [default: site]")] = None,
    table: TableOption = None,
    split: SplitOption = None,
    seed: SeedOption = 0,
    private: Annotated[
        Path | None,
        typer.Option(help="Where to keep which case is which series, and the key of names.  [default: OUT-private]"),
    ] = None,
) -> None:
    """Turn an export of a hospital's archive into a cohort: CT and MR series with RTSTRUCT or SEG labels."""
    if out is None and not dry_run:
        raise AmosError("data dicom: needs --out, the folder of the cohort; or --dry-run to see what is found")
    if suggestion is not None and suggestion.exists():
        raise already_exists(suggestion, "choose another --suggestion")
    of = read_organs(organs) if organs is not None else dict(AMOS_ORGANS)
    rows = read_table(table) if table is not None else None
    choice = SeriesChoice(modality, tuple(description or ()), tuple(exclude or ()), tuple(labels or ()), unlabelled)
    typer.echo(f"reading the headers below {folder}")
    export = read_export(folder, choice)
    names = StructureNames(export.labels)
    map_ = names.suggestion(of) if label_map == SUGGESTED else read_label_map(Path(label_map))
    values, strangers = names.values(map_, of)
    if dry_run:
        _show_series(export)
    _show_structures(names, values, of)
    if suggestion is not None and not names.counts:
        typer.echo(f"no structure was found, so {suggestion} is not written")
    elif suggestion is not None:
        write_label_map(suggestion, {name: map_.get(name, ()) for name in sorted(names.counts)})
        typer.echo(f"wrote {suggestion}; correct it, then give it to --label-map")
    if dry_run or out is None:
        _show_notes([*strangers, *export.notes])
        _show_left_out(export.left_out)
        return
    target = target_of(out, out)
    check_organs_beside(target, of)
    home = target.parent.resolve()
    beside = private or home.with_name(f"{home.name}-private")
    with Progress() as progress:
        imported = write_cases(export, names, values, of, home, beside, on_case=progress.of("writing"))
    _show_left_out(imported.left_out)
    if not imported.cases:
        raise AmosError(f"{folder}: no series could become a case; why is said above and in {beside / 'left_out.csv'}")
    found = cohort_of(imported, of, site=site, table=rows, split=split, seed=seed)
    _show_notes([*strangers, *imported.notes, *found.notes])
    typer.echo(f"which case is which series, what was left out, and the key of the names: {beside}; keep it here")
    write(found.cohort, target)


def _show_series(export: Export) -> None:
    table = Table("where", "series", "slices", "labels", title=counted(len(export.cases), "series", "series"))
    for case in export.cases:
        series = case.series
        labels = ", ".join(f"{label.kind} of {counted(len(label.structures), 'structure')}" for label in case.labels)
        table.add_row(export.where(series), series_name(series), str(series.slices), labels or "none")
    plain_console().print(table)


def _show_structures(names: StructureNames, values: dict[str, int], organs: dict[int, str]) -> None:
    table = Table("structure", "labels", "organ")
    for name, count in sorted(names.counts.items()):
        value = values.get(name)
        table.add_row(
            name or "(without a name)", str(count), "nothing" if value is None else f"{value} {organs[value]}"
        )
    if not names.counts:
        return
    console = plain_console()
    console.print(table)
    if nothing := sum(name not in values for name in names.counts):
        console.print(
            f"{counted(nothing, 'structure')} {'is' if nothing == 1 else 'are'} no organ here; "
            "to say which one is, write a label map with --suggestion FILE, correct it, and give it to --label-map",
            soft_wrap=True,
        )


def _show_notes(notes: Iterable[str]) -> None:
    for note in dict.fromkeys(notes):
        plain_console().print(f"- {note}", soft_wrap=True)


def _show_left_out(left_out: Iterable[LeftOut]) -> None:
    by_reason: dict[str, list[LeftOut]] = defaultdict(list)
    for one in left_out:
        by_reason[one.why].append(one)
    console = plain_console()
    total = sum(map(len, by_reason.values()))
    if total:
        console.print(f"left out: {total}")
    for why, several in list(by_reason.items())[:_MOST_LISTED]:
        shown = ", ".join(f"{one.what} in {one.where}" for one in several[:3])
        more = f" and {len(several) - 3} more" if len(several) > 3 else ""
        console.print(f"  - {shown}{more}: {why}", soft_wrap=True)
    if len(by_reason) > _MOST_LISTED:
        console.print(f"  - for {len(by_reason) - _MOST_LISTED} more reasons see left_out.csv")
