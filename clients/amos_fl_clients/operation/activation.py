"""A SuperNode that takes over from one of its own that was killed.

Flower's SuperLink activates no SuperNode that it takes to be online, and takes one to be so for a minute after its last
sign of life. A site that is started again within that minute is therefore turned away. So a site keeps its node's
number, and signs its predecessor off before it signs in.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from amos_fl.errors import AmosError
from amos_fl.files import write_text


@contextmanager
def only_supernode(site: str, state: Path) -> Iterator[None]:
    """Hold a lock while this site's SuperNode runs: of two, each would get some of the messages.

    Raises:
        AmosError: it runs already, or the site's state may not be written.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(state / "supernode.lock", os.O_RDWR | os.O_CREAT, 0o640)
    except OSError as error:
        raise AmosError(
            f"site {site}: {state} may not be written ({error.strerror}); "
            f"let the user with id {os.getuid()} write there, or mount a volume there"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AmosError(f"site {site}: its SuperNode runs already on {state}; end it first") from None
    try:
        yield
    finally:
        os.close(descriptor)


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
