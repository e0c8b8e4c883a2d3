"""A SuperNode that takes over from its own predecessor that was killed.

Flower's SuperLink does not activate a SuperNode that it believes to be online, which it does for a minute after the
last sign of life. A site that is restarted within that minute is therefore refused. So a site keeps its node's number,
and signs its predecessor off before it signs in.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from amos_fl.deploy.running import CONTACT, NODE
from amos_fl.files import write_text


def taking_over(activate: Callable[..., Any], state: Path) -> Callable[..., Any]:
    """Flower's `ActivateNode`, which first signs off an earlier process of this site if that is in the way."""
    kept = state / NODE

    def activate_node(client: Any, request: Any) -> Any:
        try:
            answer = activate(client, request)
        except httpx.HTTPStatusError:
            if not _signed_off(client, kept):
                raise
            answer = activate(client, request)
        with suppress(OSError):  # a full disk does not stop a site; after a kill it then takes a minute to return
            write_text(kept, f"{answer.node_id}\n")
        return answer

    return activate_node


def noting_contact(heartbeat: Callable[..., Any], state: Path) -> Callable[..., Any]:
    """Flower's sign of life to the SuperLink, which leaves a mark in the site's state when it was answered."""

    def send_and_note(client: Any, request: Any) -> Any:
        answer = heartbeat(client, request)
        with suppress(OSError):
            (state / CONTACT).touch()
        return answer

    return send_and_note


def _signed_off(client: Any, kept: Path) -> bool:
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest

    with suppress(OSError, ValueError, httpx.HTTPStatusError):
        client.DeactivateNode(DeactivateNodeRequest(node_id=int(kept.read_text())))
        return True
    return False
