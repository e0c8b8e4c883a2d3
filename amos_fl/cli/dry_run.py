"""`amos-fl simulate --dry-run`: the resolved plan of a run, its work and its cost."""

from pathlib import Path

import yaml
from rich.table import Table

from amos_fl.api.begin import NewRun
from amos_fl.cli.settings import with_plan_made
from amos_fl.cohort.table import SPLITS, Cohort
from amos_fl.escape.console import Console
from amos_fl.inference.cost import scoring
from amos_fl.runs.config import RunConfig
from amos_fl.runs.create import check_free
from amos_fl.runs.estimate import disk, estimate
from amos_fl.runs.start import start_weights
from amos_fl.wording import counted, roughly


def estimate_in_words(config: RunConfig, cohort: Cohort) -> tuple[str, float]:
    """The time, traffic and disk of a run of a group, and its seconds; without augmentation and preparation."""
    if config.lacks_plan:
        return "its plan is made first, so its time is not known", 0.0
    cost, scored = estimate(config, cohort), scoring(config, cohort)
    sent = (cost.bytes_down + cost.bytes_up) / 1e6
    said = f"about {roughly(cost.training_seconds)} of training and {roughly(scored.seconds)} of scoring"
    kept = _disk_in_words(config, cohort, cost.parameters)
    return f"{said}, {sent:,.0f} MB sent; disk: {kept}", cost.training_seconds + scored.seconds


def _disk_in_words(config: RunConfig, cohort: Cohort, parameters: int) -> str:
    need = disk(config, cohort, parameters)
    return (
        f"at most {bytes_in_words(need.store_bytes)} of prepared scans in the store and "
        f"{bytes_in_words(need.checkpoint_bytes)} of weights in checkpoints"
    )


def bytes_in_words(number: float) -> str:
    """A size on disk.

    >>> bytes_in_words(20_000), bytes_in_words(2_500_000), bytes_in_words(12_300_000_000)
    ('0.0 MB', '2.5 MB', '12.3 GB')
    """
    return f"{number / 1e6:.1f} MB" if number < 1e9 else f"{number / 1e9:,.1f} GB"


def show_dry_run(new: NewRun, store: Path, out: Path | None = None) -> None:
    """Print settings, sites, work in steps and bytes, and an estimate of time, memory and disk.

    Of sites with cases of their own the settings are all that is known.

    Raises:
        AmosError: the run could not be created in `out`.
    """
    if out is not None:
        check_free(out)
    config, cohort = new.settings, new.cohort
    if cohort is not None:
        config = with_plan_made(config, cohort, store)
    console = Console(highlight=False)
    console.print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), markup=False)
    if cohort is None:
        return
    table = Table(title="Labelled cases", title_justify="left", title_style="bold")
    for name in ("site", "role", "modality", *SPLITS):
        table.add_column(name)
    for site in cohort.sites:
        cases = cohort.of(site=site)
        role = "trains" if site in cohort.seen_sites else "unseen"
        counts = [str(sum(case.split == split for case in cases)) for split in SPLITS]
        table.add_row(site, role, " ".join(sorted({case.modality for case in cases})), *counts)
    console.print(table)
    if config.start_from is not None:
        _, begun = start_weights(config, cohort.organs)
        if begun is not None:
            console.print(begun.sentence, markup=False, soft_wrap=True)
    cost, scored = estimate(config, cohort), scoring(config, cohort)
    console.print(
        f"network: {cost.parameters:,} parameters\n"
        f"work: {cost.steps_per_site:,} steps at each of {counted(len(cost.training_sites), 'site')}, "
        f"{cost.steps:,} in all, {cost.patches:,} patches\n"
        f"weights sent: {cost.bytes_down / 1e6:,.1f} MB to the sites and {cost.bytes_up / 1e6:,.1f} MB back\n"
        f"estimate on {config.device}: {cost.seconds_per_step:.3g} s a step, {cost.training_seconds / 60:,.1f} min of "
        f"training without augmentation, {scored.seconds / 60:,.1f} min of scoring ({counted(scored.scans, 'scan')} in "
        f"all), {cost.memory_bytes / 2**30:.2f} GiB for training one site\n"
        f"disk: {_disk_in_words(config, cohort, cost.parameters)}",
        markup=False,
    )
    if out is not None:
        console.print(f"run folder: {out}", markup=False, soft_wrap=True)
