"""`amos-fl simulate`: a federation on this machine, from settings to scores."""

import typer
import yaml

from amos_fl.api.settings import cache_folder, next_out, settled_on_nodes
from amos_fl.cli.options import (
    AcceptChangesOption,
    ConfigOption,
    DryRunOption,
    OutOption,
    ResumeOption,
    SetOption,
    StoreOption,
)
from amos_fl.cli.running import CONTINUES, carry_out, carry_out_on_nodes, resume_run
from amos_fl.cli.setting_options import flag_of, takes_settings
from amos_fl.cli.settings import Flags, layers_of, refuse_beside, refuse_without, resolve_run, with_plan_made
from amos_fl.runs.create import check_free, create_run


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
    if (on_nodes := settled_on_nodes(layers)) is not None:
        if dry_run:
            typer.echo(yaml.safe_dump(on_nodes.model_dump(mode="json"), sort_keys=False), nl=False)
            return
        path = out or next_out(on_nodes.strategy)
        check_free(path)
        carry_out_on_nodes(path, on_nodes)
        return
    settings, members = resolve_run(layers)
    of_ray = {flag_of(f"engine.{key}"): value for key, value in flags.get("engine", {}).items() if key != "name"}
    refuse_without("--engine ray", settings.engine.name == "ray", of_ray)
    if dry_run:
        from amos_fl.cli.dry_run import show_dry_run

        show_dry_run(with_plan_made(settings, members, store), members, out)
        return

    folder = create_run(out or next_out(settings.strategy), settings, members)
    carry_out(folder.path, settings, members, store)
