"""Make a plan before the first round: collect the training sites' fingerprints, add them up, and plan from the sum."""

from collections.abc import Mapping
from contextlib import suppress

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.planning.fingerprint import Fingerprint, merged
from amos_fl.planning.planner import plan_from
from amos_fl.planning.settings import PlanningSettings
from amos_fl.runs.about import write_about
from amos_fl.runs.config import RunConfig
from amos_fl.runs.events import Listener, Said, SiteFailed
from amos_fl.runs.folder import RunFolder
from amos_fl.volumes.plan import AUTO, Plan
from amos_fl_clients.federation.messages import CONFIG, FINGERPRINT, Task, request_config
from amos_fl_clients.federation.reply_models import Asked, Description, FingerprintReply
from amos_fl_server.federation.engines.base import Engine
from amos_fl_server.federation.exchange import exchange, sentences_of
from amos_fl_server.federation.incoming import arriving


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

    `described` are their descriptions. Sites that refuse or fail, or whose answer does not fit, are named and left out
    of the plan, but still train. `fingerprint.json` records the sum, the sites included, and those left out with the
    reasons.

    Raises:
        AmosError: no site has sent a fingerprint, or no plan can be made from them. Interrupted: stopped.
    """
    content = RecordDict({CONFIG: request_config(task)})
    messages = {site: Message(content, node, FINGERPRINT) for site, node in sorted(trainers.items())}
    failed: dict[str, AmosError] = {}
    replies = exchange(grid, messages, failed, stop=folder.stop_file, poll=engine.poll, lost=engine.lost)
    found: dict[str, Fingerprint] = {}

    def asked_of(site: str) -> Asked:
        return Asked(task.organs, site=site, described=described.get(site))

    for site, _, said in arriving(replies, FingerprintReply, asked_of, failed):
        if said is not None:
            found[site] = said.told
    if not found:
        _say(failed, listener)
        reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(failed.items()))
        raise AmosError(
            f"plan auto: no training site has sent its fingerprint ({reasons}); "
            "sites allow it with share_histograms, or name a plan"
        )
    together, plan = _plan_of_most(found, failed, len(task.organs), config.planning)
    _say(failed, listener)
    write_json(
        folder.path / "fingerprint.json",
        {
            "sites": sorted(found),
            "left_out": sentences_of(failed),
            "fingerprint": together.model_dump(mode="json"),
        },
    )
    config = config.model_copy(update={"plan": plan})
    folder.write_config(config)
    write_about(folder.path, folder.about().model_copy(update={"plan": plan.model_dump(mode="json")}))
    without = f", without {', '.join(sorted(failed))}" if failed else ""
    listener(Said(f"plan from the fingerprints of {', '.join(sorted(found))}{without}: {plan_in_words(plan)}"))
    return config


def _say(failed: Mapping[str, AmosError], listener: Listener) -> None:
    for site, reason in sorted(failed.items()):
        listener(SiteFailed(site, "fingerprint", 0, str(reason)))


def _plan_of_most(
    found: dict[str, Fingerprint], failed: dict[str, AmosError], organs: int, planning: PlanningSettings
) -> tuple[Fingerprint, Plan]:
    """The sum of the fingerprints and its plan, without one site if no plan can be made with it.

    A site that is left out moves from `found` to `failed`: one hospital's numbers must not prevent all planning.

    Raises:
        AmosError: no plan can be made from all of them, nor from all but one.
    """
    sites = sorted(found)
    together = merged(found[site] for site in sites)
    try:
        return together, plan_from(together, organs, planning, name=AUTO)
    except AmosError as error:
        for left_out in sites if len(sites) > 1 else ():
            rest = merged(found[site] for site in sites if site != left_out)
            with suppress(AmosError):
                plan = plan_from(rest, organs, planning, name=AUTO)
                failed[left_out] = AmosError(f"no plan can be made with its fingerprint: {error}")
                del found[left_out]
                return rest, plan
        raise


def plan_in_words(plan: Plan) -> str:
    """A plan's patch and spacing.

    >>> from amos_fl.volumes.plan import plan_named
    >>> plan_in_words(plan_named("amos-ct"))
    '160x160x64 voxels of 0.69x0.69x2 mm'
    """
    return f"{'x'.join(map(str, plan.patch))} voxels of {'x'.join(f'{mm:g}' for mm in plan.spacing_mm)} mm"
