"""What the round loop needs of Flower's strategies beyond their interface: the error they raise, and Krum's choice."""

from collections.abc import Sequence

from flwr.app import RecordDict
from flwr.app.exception import AppExitException
from flwr.serverapp.strategy import MultiKrum
from flwr.serverapp.strategy import Strategy as FlowerBase
from flwr.serverapp.strategy.multikrum import select_multikrum

StrategyError: type[Exception] = AppExitException
"""Raised by a strategy that cannot aggregate the replies; in Flower's own server it ends the run."""


def used_of(strategy: FlowerBase, replies: Sequence[RecordDict]) -> list[int]:
    """Which of a round's replies the strategy has taken: all, except of a `MultiKrum`, which Krum is, too."""
    if not isinstance(strategy, MultiKrum):
        return list(range(len(replies)))
    chosen = select_multikrum(list(replies), strategy.num_malicious_nodes, strategy.num_nodes_to_select)
    return [number for number, reply in enumerate(replies) if any(reply is one for one in chosen)]
