"""A plan before the first round: the training sites' fingerprints, asked for, added up, and made into a plan."""

from collections.abc import Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.planning.fingerprint import Fingerprint, merged
from amos_fl.planning.planner import plan_from
from amos_fl.runs.about import write_about
from amos_fl.runs.config import RunConfig
from amos_fl.runs.events import Listener, Said, SiteFailed
from amos_fl.runs.folder import RunFolder
from amos_fl.volumes.plan import AUTO, Plan
from amos_fl_clients.messages import CONFIG, FINGERPRINT, Task, request_config
from amos_fl_clients.reply_models import Asked, Description, FingerprintReply
from amos_fl_server.arrivals import arriving
from amos_fl_server.engines.base import Engine
from amos_fl_server.exchange import exchange


def planned(
    config: RunConfig,
    folder: RunFolder,
    task: Task,
    trainers: Mapping[str, int],
    described: Mapping[str, Description],
    grid: Grid,
    engine: Engine,
    listener: Listener,
) -> RunConfig:
    """The settings with a plan made from the fingerprints of `trainers` (node by site), written into the run folder.

    `described` is what they have said of themselves. Sites that refuse or fail, or whose answer does not fit, are named
    and left out of the plan; they train all the same. `fingerprint.json` keeps the sum of what was sent, from whom, and
    who was left out and why.

    Raises:
        AmosError: no site has sent a fingerprint, or none of which a plan can be made. Interrupted: stopped.
    """
    content = RecordDict({CONFIG: request_config(task)})
    messages = {site: Message(content, node, FINGERPRINT) for site, node in sorted(trainers.items())}
    failed: dict[str, str] = {}
    replies = exchange(grid, messages, failed, stop=folder.stop_file, poll=engine.poll, lost=engine.lost)
    found: dict[str, Fingerprint] = {}

    def asked_of(site: str) -> Asked:
        return Asked(task.organs, site=site, described=described.get(site))

    for site, _, said in arriving(replies, FingerprintReply, asked_of, failed):
        if said is not None:
            found[site] = said.told
    for site, reason in sorted(failed.items()):
        listener(SiteFailed(site, "fingerprint", 0, reason))
    if not found:
        reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(failed.items()))
        raise AmosError(
            f"plan auto: no training site has sent its fingerprint ({reasons}); "
            "sites allow it with share_histograms, or name a plan"
        )
    together = merged(found[site] for site in sorted(found))
    plan = plan_from(together, len(task.organs), config.planning, name=AUTO)
    write_json(
        folder.path / "fingerprint.json",
        {
            "sites": sorted(found),
            "left_out": dict(sorted(failed.items())),
            "fingerprint": together.model_dump(mode="json"),
        },
    )
    config = config.model_copy(update={"plan": plan})
    folder.write_config(config)
    write_about(folder.path, folder.about().model_copy(update={"plan": plan.model_dump(mode="json")}))
    without = f", without {', '.join(sorted(failed))}" if failed else ""
    listener(Said(f"plan from the fingerprints of {', '.join(sorted(found))}{without}: {in_words(plan)}"))
    return config


def in_words(plan: Plan) -> str:
    """A plan's patch and spacing.

    >>> from amos_fl.volumes.plan import plan_named
    >>> in_words(plan_named("amos-ct"))
    '160x160x64 voxels of 0.69x0.69x2 mm'
    """
    return f"{'x'.join(map(str, plan.patch))} voxels of {'x'.join(f'{mm:g}' for mm in plan.spacing_mm)} mm"
