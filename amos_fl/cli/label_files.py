"""`amos-fl data masks` and `bids`: folders with several label files for each scan as a cohort."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from amos_fl.cli.datasets import ModalityOption, SeedOption, SplitOption, TableOption, target_of, write
from amos_fl.cli.progress import Progress, plain_console
from amos_fl.cohort.bids import read_bids
from amos_fl.cohort.dataset import read_table
from amos_fl.cohort.label_files import LabelledScans, values_of, write_cohort_of
from amos_fl.cohort.label_map import SUGGESTED, label_map_named, write_label_map
from amos_fl.cohort.mask_folders import read_mask_folders
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import Modality, check_organs_beside, read_organs
from amos_fl.errors import already_exists
from amos_fl.wording import counted

OutOption = Annotated[Path, typer.Option("-o", "--out", help="The folder of the cohort, with its label maps.")]
OrgansOption = Annotated[Path | None, typer.Option(help="The cohort's organs, as an organs.csv; default: AMOS's.")]
LabelMapOption = Annotated[
    str, typer.Option(help="A CSV or YAML file: organ (the structure's name) and equals; 'amos': those of one name.")
]
SuggestionOption = Annotated[
    Path | None, typer.Option(help="Only write the label map here, as CSV to be corrected and given to --label-map.")
]
SiteOption = Annotated[str | None, typer.Option(help="Who holds all of it.  [default: as the dataset says]")]


def masks(
    folder: Annotated[Path, typer.Argument(help="A folder for each scan, or with --labels a folder of scans.")],
    out: OutOption,
    labels: Annotated[
        Path | None, typer.Option(help="Where the masks are: CASE/ORGAN, ORGAN/CASE or CASE_ORGAN (.nii.gz).")
    ] = None,
    organs: OrgansOption = None,
    label_map: LabelMapOption = SUGGESTED,
    suggestion: SuggestionOption = None,
    site: SiteOption = None,
    table: TableOption = None,
    split: SplitOption = None,
    seed: SeedOption = 0,
    modality: ModalityOption = None,
) -> None:
    """Turn scans with one label file for each organ, as TotalSegmentator's, into a cohort."""
    found = read_mask_folders(folder, labels)
    _make(found, out, organs, label_map, suggestion, site, table, split, seed, modality)


def bids(
    folder: Annotated[Path, typer.Argument(help="The folder with sub-01, sub-02 and so on.")],
    out: OutOption,
    derivative: Annotated[str | None, typer.Option(help="The folder below derivatives/ with the labels.")] = None,
    organs: OrgansOption = None,
    label_map: LabelMapOption = SUGGESTED,
    suggestion: SuggestionOption = None,
    site: SiteOption = None,
    table: TableOption = None,
    split: SplitOption = None,
    seed: SeedOption = 0,
    modality: ModalityOption = None,
) -> None:
    """Turn a BIDS folder, with label maps or masks as derivatives, into a cohort."""
    found = read_bids(folder, derivative)
    _make(found, out, organs, label_map, suggestion, site, table, split, seed, modality)


def _make(
    found: LabelledScans,
    out: Path,
    organs: Path | None,
    label_map: str,
    suggestion: Path | None,
    site: str | None,
    table: Path | None,
    split: str | None,
    seed: int,
    modality: Modality | None,
) -> None:
    """Show the structures and what they become, write the label maps and the cohort, and say what was left out."""
    of = read_organs(organs) if organs is not None else dict(AMOS_ORGANS)
    structures = found.structures
    map_ = label_map_named(label_map, dict(enumerate(structures, start=1)), of)
    if suggestion is not None:
        if suggestion.exists():
            raise already_exists(suggestion, "choose another --suggestion")
        write_label_map(suggestion, {name: map_.get(name, ()) for name in structures})
        typer.echo(f"wrote {suggestion}; correct it, then give it to --label-map")
        return
    values = values_of(list(structures), map_, of)
    shown = Table("structure", "scans", "organ")
    for name in values:
        shown.add_row(name, str(structures[name]), f"{values[name]} {of[values[name]]}")
    console = plain_console()
    console.print(shown)
    if others := len(structures) - len(values):
        console.print(f"not used: {counted(others, 'structure')} of other organs; --suggestion FILE lists all")
    rows = read_table(table) if table is not None else None
    target = target_of(out, out)
    check_organs_beside(target, of)
    with Progress("writing the label map of") as progress:
        imported = write_cohort_of(
            found,
            values,
            of,
            target.parent,
            site=site,
            table=rows,
            split=split,
            seed=seed,
            modality=modality,
            on_case=progress,
        )
    for note in imported.notes:
        console.print(f"- {note}", soft_wrap=True)
    write(imported.cohort, target)
