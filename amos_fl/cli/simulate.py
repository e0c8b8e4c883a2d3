"""`amos-fl simulate`: a federation on this machine, from settings to scores."""

from typing import Annotated

import typer

from amos_fl.api.settings import cache_folder, next_out
from amos_fl.cli.options import (
    AcceptChangesOption,
    CohortOption,
    ConfigOption,
    DeviceOption,
    DryRunOption,
    HoldOutOption,
    InitOption,
    LocalStepsOption,
    MinSitesOption,
    ModelOption,
    OptimizerStateOption,
    OutOption,
    PlanOption,
    ResumeOption,
    RoundsOption,
    SeedOption,
    SetOption,
    SitesOption,
    SiteTimeoutOption,
    StoreOption,
    StrategyOption,
    WeightingOption,
)
from amos_fl.cli.running import CONTINUES, carry_out, resume_run
from amos_fl.cli.settings import flags_of, layers_of, refuse_beside, refuse_without, resolve_run, with_plan_made


def simulate(
    strategy: StrategyOption = None,
    cohort: CohortOption = None,
    rounds: RoundsOption = None,
    local_steps: LocalStepsOption = None,
    model: ModelOption = None,
    plan: PlanOption = None,
    engine: Annotated[str | None, typer.Option(help="inline or ray.")] = None,
    device: DeviceOption = None,
    seed: SeedOption = None,
    out: OutOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    sites: SitesOption = None,
    hold_out: HoldOutOption = None,
    weighting: WeightingOption = None,
    optimizer_state: OptimizerStateOption = None,
    min_sites: MinSitesOption = None,
    site_timeout: SiteTimeoutOption = None,
    parallel_sites: Annotated[int | None, typer.Option(help="ray: sites at the same time.")] = None,
    gpus_per_site: Annotated[float | None, typer.Option(help="ray: share of a GPU for each site.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="ray: an existing cluster, host:port.")] = None,
    init: InitOption = None,
    store: StoreOption = None,
    resume: ResumeOption = None,
    accept_changes: AcceptChangesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Train one network over the sites of a cohort, and score it on seen and unseen scanners."""
    flags, own = flags_of(locals()), {"name": engine, "parallel_sites": parallel_sites}
    own |= {"gpus_per_site": gpus_per_site, "address": ray_address}
    flags["engine"] = {key: value for key, value in own.items() if value is not None}
    layers = layers_of(config, flags, assignments)
    store = store or cache_folder() / "store"
    refuse_without("--resume", resume, {"--accept-changes": accept_changes})
    if resume is not None:
        refuse_beside("--resume", CONTINUES, {"--out": out, "--dry-run": dry_run})
        resume_run(resume, layers, store, accept_changes)
        return
    settings, members = resolve_run(layers)
    of_ray = {"--parallel-sites": parallel_sites, "--gpus-per-site": gpus_per_site, "--ray-address": ray_address}
    refuse_without("--engine ray", settings.engine.name == "ray", of_ray)
    if dry_run:
        from amos_fl.cli.dry_run import show_dry_run

        show_dry_run(with_plan_made(settings, members, store), members, out)
        return
    from amos_fl.runs.create import create_run

    folder = create_run(out or next_out(settings.strategy), settings, members)
    carry_out(folder.path, settings, members, store)
