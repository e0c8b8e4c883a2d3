"""`amos-fl simulate`: a federation on this machine, from settings to scores."""

from amos_fl.api.begin import new_simulation
from amos_fl.api.settings import cache_folder
from amos_fl.cli.options import (
    AcceptChangesOption,
    ConfigOption,
    DryRunOption,
    OutOption,
    ResumeOption,
    SetOption,
    StoreOption,
)
from amos_fl.cli.progress import Progress
from amos_fl.cli.running import CONTINUES, carry_out_new, resume_run
from amos_fl.cli.setting_options import flag_of, takes_settings
from amos_fl.cli.settings import Flags, layers_of, refuse_beside, refuse_without


@takes_settings()
def simulate(
    flags: Flags,
    out: OutOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    store: StoreOption = None,
    resume: ResumeOption = None,
    accept_changes: AcceptChangesOption = False,
    dry_run: DryRunOption = False,
) -> None:
    """Train one network over the sites of a cohort, and score it on seen and unseen scanners."""
    layers = layers_of(config, flags, assignments)
    store = store or cache_folder() / "store"
    refuse_without("--resume", resume, {"--accept-changes": accept_changes})
    if resume is not None:
        refuse_beside("--resume", CONTINUES, {"--out": out, "--dry-run": dry_run})
        resume_run(resume, layers, store, accept_changes)
        return
    with Progress() as progress:
        new = new_simulation(layers, progress.of("drawing the phantom:"))
    of_ray = {flag_of(f"engine.{key}"): value for key, value in flags.get("engine", {}).items() if key != "name"}
    refuse_without("--engine ray", new.cohort is None or new.settings.engine.name == "ray", of_ray)
    if dry_run:
        from amos_fl.cli.dry_run import show_dry_run

        show_dry_run(new, store, out)
        return
    carry_out_new(new, out, store)
