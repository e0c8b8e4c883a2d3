"""A SuperNode that takes over from one of its own that was killed.

Flower's SuperLink activates no SuperNode that it takes to be online, and takes one to be so for a minute after its last
sign of life. A site that is started again within that minute is therefore turned away. So a site keeps its node's
number, and signs its predecessor off before it signs in.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from amos_fl.files import write_text


def taking_over(activate: Callable[..., Any], state: Path) -> Callable[..., Any]:
    """Flower's `ActivateNode`, which signs an earlier process of this site off where that is in the way."""
    kept = state / "node"

    def activate_node(client: Any, request: Any) -> Any:
        try:
            answer = activate(client, request)
        except httpx.HTTPStatusError:
            if not _signed_off(client, kept):
                raise
            answer = activate(client, request)
        with suppress(OSError):  # a full disk keeps no site away; after a kill it then waits a minute to come back
            write_text(kept, f"{answer.node_id}\n")
        return answer

    return activate_node


def _signed_off(client: Any, kept: Path) -> bool:
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest

    with suppress(OSError, ValueError, httpx.HTTPStatusError):
        client.DeactivateNode(DeactivateNodeRequest(node_id=int(kept.read_text())))
        return True
    return False
