"""The sites of a run as its server knows them: who they are, what they described, and where they are reached."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from amos_fl.errors import AmosError
from amos_fl.networks.parts import parts_of
from amos_fl.runs.config import RunConfig
from amos_fl.runs.events import Listener
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.ledger_file import LedgerFile
from amos_fl.runs.selection import Bests
from amos_fl_clients.federation.messages import (
    CONFIG,
    DESCRIBE,
    KEPT_AFTER,
    Task,
    request_config,
)
from amos_fl_clients.federation.reply_models import Asked, DescribeReply, Description
from amos_fl_server.federation.engines.base import Engine
from amos_fl_server.federation.exchange import exchange
from amos_fl_server.federation.full_disk import stop_where_a_disk_is_full
from amos_fl_server.federation.incoming import arriving, bad_reply
from amos_fl_server.federation.requests import agreed_weights
from amos_fl_server.federation.strategies.base import Strategy


@dataclass
class Connected:
    """A federated run on one run folder, and the sites that are connected to it.

    `sites` are the site names; `seen_sites` are those whose cases are trained on, at the site or in a pooled trainer.
    """

    config: RunConfig
    folder: RunFolder
    strategy: Strategy
    engine: Engine
    listener: Listener
    organs: Mapping[int, str]
    sites: tuple[str, ...]
    seen_sites: tuple[str, ...]
    ledger: LedgerFile = field(init=False)
    bests: dict[str, Bests] = field(default_factory=dict)
    """The best rounds up to now, by the kind of evaluation."""
    nodes: dict[str, int] = field(default_factory=dict)
    described: dict[str, Description] = field(default_factory=dict)
    learned: set[int] = field(default_factory=set)
    """The organs that the initial weights had learned, or that a site whose updates were averaged annotates."""
    recorded: set[int] | None = None
    """Those of them that this process has recorded."""
    prepares: bool = True
    """Whether sites prepare their cases when they describe themselves; without a plan they cannot."""

    def __post_init__(self) -> None:
        self.ledger = self.folder.ledger_file()

    def _withheld(self, task: Task) -> frozenset[str]:
        """The arrays that no site sends."""
        return self.strategy.withheld(parts_of(task.model, task.plan, len(task.organs), task.norm_statistics))

    def _forget(self) -> None:
        """Forget the sites, so that they introduce themselves again."""
        self.nodes.clear()
        self.described.clear()

    def _discover(self, grid: Grid, task: Task) -> None:
        """Ask every node which site it is; nothing depends on the nodes' ids or on the order of the answers."""
        node_ids = list(grid.get_node_ids())
        while len(node_ids) < len(self.sites):  # a simulation's nodes appear after its server has started
            self.folder.stop_file.check()
            time.sleep(0.05)
            node_ids = list(grid.get_node_ids())
        content = RecordDict({CONFIG: request_config(task, prepare=self.prepares)})
        messages = {str(node): Message(content, node, DESCRIBE) for node in node_ids}
        failed: dict[str, AmosError] = {}
        replies = exchange(grid, messages, failed, stop=self.folder.stop_file, poll=self.engine.poll)
        for node, _, said in arriving(replies, DescribeReply, lambda _: Asked(self.organs), failed):
            if said is not None:
                site = said.site
                if site not in self.sites or site in self.described:
                    failed[node] = bad_reply(f"it is from site {site}, which this run does not expect there")
                    continue
                self.described[site], self.nodes[site] = said.description, int(node)
        self._stop_where_a_disk_is_full(failed)
        if failed:
            node, why = next(iter(failed.items()))
            raise why.of(f"node {node}") if why.code == "bad-reply" else why

    def _stop_where_a_disk_is_full(self, failed: Mapping[str, AmosError]) -> None:
        if self.config.engine.name != "deployment":
            stop_where_a_disk_is_full(self.folder, failed)

    def _look_around(self, grid: Grid, task: Task) -> None:
        """Called before every exchange with the sites; overridden where sites come and go."""

    def _training_weights(self, task: Task) -> dict[str, float]:
        """The agreed weight of each training site, in sorted order."""
        return agreed_weights(self.config, task, self.described)

    def _is_unseen(self, site: str) -> bool:
        return site not in self.seen_sites and not self.described[site].cases["train"]

    def _say_what_is_kept(self, message: Message, site: str, up_to: int, **more: int) -> None:
        """Tell a site after which round it last took part, so that it knows what it should have kept, and `more`."""
        last = self.ledger.last_round_with(site, up_to)
        # Messages may share one content; the weights in it are not copied.
        config = ConfigRecord({**message.content.config_records[CONFIG], **more, KEPT_AFTER: last})
        message.content = RecordDict({**message.content, CONFIG: config})
