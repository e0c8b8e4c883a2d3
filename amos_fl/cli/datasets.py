"""`amos-fl data msd`, `nnunet`, `relabel` and `join`: other projects' folders as cohorts, cohorts in other labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from amos_fl.cli.progress import Progress
from amos_fl.cohort.dataset import Dataset, imported_cohort, read_table
from amos_fl.cohort.joining import joined, shared_patients
from amos_fl.cohort.label_map import LabelMap, label_map_in_words, label_map_named, suggested, to_amos, write_label_map
from amos_fl.cohort.msd import read_msd
from amos_fl.cohort.nnunet_raw import read_nnunet
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import SPLITS, Cohort, read_cohort, write_imported
from amos_fl.errors import AmosError, already_exists
from amos_fl.escape.console import Console
from amos_fl.wording import counted

FolderArgument = Annotated[Path, typer.Argument(help="The folder with dataset.json.")]
SiteOption = Annotated[str | None, typer.Option(help="The site that holds all of it.  [default: the dataset's name]")]
TableOption = Annotated[
    Path | None,
    typer.Option("--table", help="CSV with the column case and any of site, patient, split, modality."),
]
SplitOption = Annotated[
    str | None, typer.Option(help="Shares of train, val and test for labelled cases; by default 70,10,20.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the random split.")]
ChannelOption = Annotated[int | None, typer.Option(help="Which channel, counted from 0, where scans have several.")]
ModalityOption = Annotated[
    Literal["CT", "MR"] | None, typer.Option(help="CT or MR, if the channel's name does not say which.")
]
LabelMapOption = Annotated[
    str | None,
    typer.Option(help="Use AMOS's organs: a CSV or YAML file of organ and equals, or 'amos' to match by name."),
]
CohortOut = Annotated[Path | None, typer.Option(help="The cohort file to write.  [default: FOLDER/cohort.csv]")]


def msd(
    folder: FolderArgument,
    site: SiteOption = None,
    table: TableOption = None,
    split: SplitOption = None,
    seed: SeedOption = 0,
    modality: ModalityOption = None,
    channel: ChannelOption = None,
    label_map: LabelMapOption = None,
    out: CohortOut = None,
) -> None:
    """Turn a task of the Medical Segmentation Decathlon into a cohort."""
    target = target_of(folder, out)
    # Named after the cohort, so that two tasks in one folder do not share files of the same name.
    own = "" if target.name == "cohort.csv" else f"{target.stem}_"
    beside = target.parent / f"{own}channel_{channel}" if channel is not None else None
    with Progress("writing one channel") as progress:
        dataset = read_msd(folder, channel=channel, channel_folder=beside, on_case=progress)
    _finish(dataset, target, label_map, site, table, split, seed, modality)


def nnunet(
    folder: FolderArgument,
    site: SiteOption = None,
    table: TableOption = None,
    split: SplitOption = None,
    seed: SeedOption = 0,
    splits_file: Annotated[
        Path | None, typer.Option(help="nnU-Net's splits_final.json.  [default: the one in FOLDER, if any]")
    ] = None,
    fold: Annotated[int, typer.Option(min=0, help="Which fold of it divides train and val.")] = 0,
    modality: ModalityOption = None,
    channel: ChannelOption = None,
    label_map: LabelMapOption = None,
    out: CohortOut = None,
) -> None:
    """Turn a dataset in nnU-Net's raw layout, version 2 or 1, into a cohort."""
    dataset = read_nnunet(folder, channel=channel, splits_file=splits_file, fold=fold)
    _finish(dataset, target_of(folder, out), label_map, site, table, split, seed, modality)


def relabel(
    cohort: Annotated[Path, typer.Argument(help="A cohort.csv, or the folder that holds one.")],
    label_map: Annotated[str, typer.Option(help="A CSV or YAML file of organ and equals, or 'amos'.")] = "amos",
    out: Annotated[
        Path | None, typer.Option(help="The cohort file to write; without it, only show the result.")
    ] = None,
    suggestion: Annotated[Path | None, typer.Option(help="Write a label map to correct here, as CSV.")] = None,
) -> None:
    """Give a cohort AMOS's organs and label values; its label maps stay as they are."""
    found = read_cohort(cohort)
    chosen = label_map_named(label_map, found.organs)
    _show_label_map(chosen, len(found.organs))
    if suggestion is not None:
        if suggestion.exists():
            raise already_exists(suggestion, "choose another --suggestion")
        write_label_map(suggestion, chosen)
        typer.echo(f"wrote {suggestion}; correct it, then give it to --label-map")
    try:
        changed = to_amos(found, chosen)
    except AmosError as error:
        if suggestion is None or out is not None:
            raise
        typer.echo(f"note: as it stands it cannot be applied: {error}")
        return
    if out is not None:
        write(changed, target_of(out, out), sources=[cohort])


def join(
    cohorts: Annotated[list[Path], typer.Argument(help="Two or more cohorts of the same organs.")],
    out: Annotated[Path, typer.Option(help="The cohort file to write.")],
) -> None:
    """Join several cohorts into one, such as sites that annotated different organs."""
    found = [(str(path), read_cohort(path)) for path in cohorts]
    write(joined(found), target_of(out, out), sources=cohorts)
    if same := shared_patients(found):
        typer.echo(
            f"note: {counted(len(same), 'patient')} of the same name in several cohorts ({', '.join(same[:5])}), taken "
            "to be the same person; if they are not, rename them in the column patient"
        )


def target_of(folder: Path, out: Path | None) -> Path:
    """The cohort file that a command writes: `out`, or in a folder `cohort.csv`."""
    target = out or folder
    return target if target.suffix == ".csv" else target / "cohort.csv"


def _finish(
    dataset: Dataset,
    target: Path,
    label_map: str | None,
    site: str | None,
    table: Path | None,
    split: str | None,
    seed: int,
    modality: Literal["CT", "MR"] | None,
) -> None:
    """Make the dataset's cohort, in AMOS's labels if asked to, write it and describe it."""
    rows = read_table(table) if table is not None else None
    imported = imported_cohort(dataset, site=site, table=rows, split=split, seed=seed, modality=modality)
    cohort = imported.cohort
    organs = ", ".join(f"{label} {organ}" for label, organ in dataset.organs.items())
    typer.echo(f"{dataset.name}: {dataset.channel}; organs: {organs}")
    for note in imported.notes:
        typer.echo(f"- {note}")
    if label_map is not None:
        chosen = label_map_named(label_map, cohort.organs)
        _show_label_map(chosen, len(cohort.organs))
        cohort = to_amos(cohort, chosen)
    elif shared := ", ".join(_of_other_value(cohort.organs)):
        typer.echo(f"AMOS has {shared} too; add --label-map amos to use its label values")
    write(cohort, target)


def _of_other_value(organs: Mapping[int, str]) -> list[str]:
    """AMOS's organs among these, if any of them has another label value or name than AMOS's."""
    equal = suggested(organs)
    same = all(not equal[name] or AMOS_ORGANS.get(value) == name for value, name in organs.items())
    return [] if same else [name for name, equals in equal.items() if equals]


def _show_label_map(label_map: LabelMap, organs: int) -> None:
    typer.echo("the cohort's organs in AMOS's words:")
    for line in label_map_in_words(label_map):
        typer.echo(f"  {line}")
    if len(label_map) < organs:
        typer.echo(f"  {organs - len(label_map)} more that the label map does not name: not used")


def write(cohort: Cohort, target: Path, *, sources: Sequence[Path] = ()) -> None:
    """Write a cohort and show it; refuses to overwrite one of `sources`, or another cohort."""
    if any(target.resolve() == target_of(other, None).resolve() for other in sources):
        raise AmosError(f"{target}: is one of the cohorts given; choose another --out")
    write_imported(cohort, target)
    table = Table("site", "modality", *SPLITS, "without labels", "organs annotated")
    for site in cohort.sites:
        cases = cohort.of(site=site)
        labelled = cohort.of(site=site, labelled=True)
        counts = [str(sum(case.split == split for case in labelled)) for split in SPLITS]
        organs = len({organ for case in labelled for organ in case.annotated})
        modalities = " ".join(sorted({case.modality for case in cases}))
        table.add_row(site, modalities, *counts, str(len(cases) - len(labelled)), f"{organs} of {len(cohort.organs)}")
    Console(highlight=False, markup=False).print(table)
    typer.echo(f"wrote {target} ({len(cohort.cases)} cases); next: amos-fl data check {target}")
