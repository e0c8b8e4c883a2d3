"""`amos-fl plan`: the fingerprint of a cohort's training cases, and the plan made from it."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, cast

import typer
import yaml
from rich.console import Console
from rich.table import Table

from amos_fl.api.settings import cache_folder
from amos_fl.cli.options import HoldOutOption, SitesOption, StoreOption, WorkersOption
from amos_fl.cli.progress import Progress, plain_console
from amos_fl.cli.setting_options import setting
from amos_fl.cli.settings import names, phantom
from amos_fl.cohort.organ_names import same_organs
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import SPLITS, Cohort, Modality, Split, read_cohort
from amos_fl.errors import AmosError
from amos_fl.files import write_text
from amos_fl.planning.fingerprint import HU_RANGE, Fingerprint, merged
from amos_fl.planning.fingerprint import SPACING_BINS_PER_MM as BINS
from amos_fl.planning.histogram import mean_bound
from amos_fl.planning.measure import fingerprint_of_cases, measured_cases, median_grids
from amos_fl.planning.planner import memory_gb, plan_from
from amos_fl.planning.settings import PlanningSettings, Resolution
from amos_fl.volumes.plan import Plan, plan_named
from amos_fl.wording import MISSING, either


def plan(
    cohort: Annotated[Path | None, typer.Argument(help="cohort.csv or its folder; none: the phantom.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the plan to this YAML file.")] = None,
    memory_gb: Annotated[float, setting("planning.memory_gb")] = PlanningSettings().memory_gb,
    resolution: Annotated[Resolution, setting("planning.resolution")] = PlanningSettings().resolution,
    mr_percentile: Annotated[float | None, setting("planning.mr_percentile")] = None,
    sites: SitesOption = None,
    hold_out: HoldOutOption = None,
    splits: Annotated[str, typer.Option(help="Whose labelled cases are measured, e.g. train,val as nnU-Net does.")] = (
        "train"
    ),
    by_site: Annotated[
        bool, typer.Option("--by-site", help="Also add up the sites' own fingerprints and compare with the pooled one.")
    ] = False,
    withhold: Annotated[
        int, typer.Option(min=1, help="With --by-site: sites withhold bins of fewer cases or voxels than this.")
    ] = 1,
    workers: WorkersOption = 2,
    store: StoreOption = None,
) -> None:
    """Make a plan from the training cases' spacing, shape and CT intensities, as nnU-Net does."""
    found = phantom() if cohort is None else read_cohort(cohort)
    found = found.only(names(sites) or found.sites)
    if held := names(hold_out):
        found = found.holding_out(held)
    cases = measured_cases(found, _splits(names(splits) or ["train"]))
    where = store or cache_folder() / "store"
    with Progress() as progress:
        pooled = fingerprint_of_cases(
            cases, found.organs, store=where, workers=workers, on_case=progress.of("measuring")
        )
    settings = PlanningSettings(memory_gb=memory_gb, resolution=resolution, mr_percentile=mr_percentile)
    made = plan_from(pooled, len(found.organs), settings)
    console = plain_console()
    console.print(_fingerprint_table(pooled, median_grids(cases)))
    annotated = sorted({organ for case in cases for organ in case.annotated})
    organs = f"{len(annotated)} of {len(found.organs)}" if len(annotated) < len(found.organs) else str(len(annotated))
    console.print(f"organs annotated in these cases: {organs}")
    if by_site:
        parts = {
            site: fingerprint_of_cases(
                [case for case in cases if case.site == site], found.organs, store=where, workers=workers
            ).withholding(withhold)
            for site in sorted({case.site for case in cases})
        }
        together = merged(parts.values())
        _show_sites(console, parts, pooled, together, settings, found)
        made = plan_from(together, len(found.organs), settings)
    console.print(_plan_table(made, pooled, found.organs))
    if found.synthetic():
        console.print("These scans are a phantom's: the plan fits patients' scans only as far as those are similar.")
    if out is not None:
        _write(out, made, pooled, settings, organs)
        console.print(f"wrote {out}; next: amos-fl simulate --plan {out}", soft_wrap=True)


def _splits(words: Sequence[str]) -> tuple[Split, ...]:
    if unknown := [word for word in words if word not in SPLITS]:
        raise AmosError(f"--splits is {unknown[0]!r}: choose {either(SPLITS)}, or several, as in train,val")
    return tuple(cast(Split, word) for word in words)


def _triple(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _fingerprint_table(fingerprint: Fingerprint, grids: Mapping[Modality, tuple[list[float], list[float]]]) -> Table:
    table = Table(title="Fingerprint", title_justify="left")
    for column in ("", *fingerprint.modalities):
        table.add_column(column, justify="left" if not column else "right")
    groups = [fingerprint.group(modality) for modality in fingerprint.modalities]
    table.add_row("cases", *(str(group.cases) for group in groups))
    for name, share in (("smallest", 0.0), ("median", 0.5), ("largest", 1.0)):
        table.add_row(
            f"{name} spacing (x, y, z), mm",
            *(_triple([h.quantile(share) / BINS for h in group.spacing]) for group in groups),
        )
    table.add_row("median shape, voxels", *(_triple(grids[modality][0]) for modality in fingerprint.modalities))
    extents = [[round(mm, 1) for mm in grids[modality][1]] for modality in fingerprint.modalities]
    table.add_row("median extent, mm", *map(_triple, extents))
    for name, share in (("0.5 %", 0.005), ("median", 0.5), ("99.5 %", 0.995)):
        table.add_row(
            f"organs' intensity, {name}",
            *(f"{g.intensity.quantile(share):g} HU" if g.intensity.counts else "per scan" for g in groups),
        )
    table.add_row(
        "organs' intensity, mean and sd",
        *(f"{g.intensity.mean():.1f} ± {g.intensity.sd():.1f} HU" if g.intensity.counts else "" for g in groups),
    )
    return table


def _plan_table(plan: Plan, fingerprint: Fingerprint, organs: Mapping[int, str]) -> Table:
    """The plan; for a cohort with AMOS's organs next to the paper's, whose patches are z first."""
    table = Table("", "this plan", title="Plan (x, y, z)", title_justify="left")
    plans = [plan]
    if same_organs(organs, AMOS_ORGANS):
        plans.append(plan_named("amos-mr" if fingerprint.modalities == ("MR",) else "amos-ct"))
        table.add_column(f"AMOS's ({plans[-1].name})")
    rows: list[tuple[str, Callable[[Plan], str]]] = [
        ("spacing, mm", lambda p: _triple(p.spacing_mm)),
        ("patch, voxels", lambda p: _triple(p.patch)),
        ("patch, z first", lambda p: "x".join(map(str, reversed(p.patch)))),
        ("pooling", lambda p: " ".join("".join(map(str, stride)) for stride in p.strides[1:])),
        ("kernels", lambda p: " ".join("".join(map(str, kernel)) for kernel in p.kernels)),
        ("memory as nnU-Net estimates it", lambda p: f"{memory_gb(p, len(organs)):.2f} GB"),
    ]
    if fingerprint.CT.cases:
        rows += [
            ("CT window, HU", lambda p: f"{p.ct_clip_hu[0]:g} to {p.ct_clip_hu[1]:g}"),
            ("CT mean and sd, HU", lambda p: f"{p.ct_mean_hu:g} ± {p.ct_sd_hu:g}"),
        ]
    for name, of in rows:
        table.add_row(name, *map(of, plans))
    return table


def _show_sites(
    console: Console,
    parts: dict[str, Fingerprint],
    pooled: Fingerprint,
    together: Fingerprint,
    settings: PlanningSettings,
    cohort: Cohort,
) -> None:
    table = Table(title="What each site would send", title_justify="left")
    for column in ("site", "cases", "organ voxels sent", "withheld", "spacings and lengths sent", "withheld"):
        table.add_column(column, justify="left" if column == "site" else "right")
    for site, part in parts.items():
        voxels = part.CT.intensity
        others = [h for m in part.modalities for n, h in part.group(m).histograms().items() if n != "intensity"]
        table.add_row(
            site,
            str(part.cases),
            f"{voxels.told:,}",
            f"{voxels.withheld:,}",
            str(sum(h.told for h in others)),
            str(sum(h.withheld for h in others)),
        )
    console.print(table)
    if together == pooled:
        console.print(f"The sum of the {len(parts)} sites' fingerprints equals the fingerprint of the pooled cases.")
        return
    if not together.withheld:
        raise AmosError("the sites' fingerprints do not add up to the pooled one; this is a bug in amos-fl")
    _show_bounds(console, pooled, together)


def _show_bounds(console: Console, pooled: Fingerprint, together: Fingerprint) -> None:
    """The effect of withholding counts, and the largest that it can have."""
    all_of, told_of = pooled.pooled().histograms(), together.pooled().histograms()
    table = Table("", "all", "sent", "bounds", title="With counts withheld", title_justify="left")
    asked = [(f"{what} {axis}", 0.5, "median") for what in ("spacing", "extent") for axis in "xyz"]
    asked += [("intensity", 0.005, "0.5 %"), ("intensity", 0.5, "median"), ("intensity", 0.995, "99.5 %")]
    for name, share, word in asked:
        every, told = all_of[name], told_of[name]
        if every.total:
            unit = BINS if name.startswith("spacing") else 1
            low, high = (f"{end / unit:g}" if math.isfinite(end) else "any" for end in told.quantile_bounds(share))
            kept = f"{told.quantile(share) / unit:g}" if told.counts else MISSING
            table.add_row(f"{name}, {word}", f"{every.quantile(share) / unit:g}", kept, f"{low} to {high}")
    every, told = all_of["intensity"], told_of["intensity"]
    if told.counts:
        bound = mean_bound(told, *HU_RANGE)
        table.add_row("intensity, mean", f"{every.mean():.3f}", f"{told.mean():.3f}", f"sent ± {bound:.3f}")
    console.print(table)


def _write(out: Path, plan: Plan, fingerprint: Fingerprint, settings: PlanningSettings, organs: str) -> None:
    counts = " and ".join(f"{fingerprint.group(m).cases} {m}" for m in fingerprint.modalities)
    head = (
        f"# Made by amos-fl plan from {counts} cases with {organs} organs annotated, for {settings.memory_gb:g} GB at "
        f"{settings.resolution} resolution.\n# For --plan, --config, or --set plan=. Axes are x, y, z.\n"
    )
    write_text(
        out, head + yaml.safe_dump({"plan": plan.model_dump(mode="json")}, sort_keys=False, default_flow_style=None)
    )
