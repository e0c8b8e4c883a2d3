"""Ask a SuperLink whether it knows a SuperNode's key, without any effect there.

Flower has no such request. But on activation it looks up the SuperNode's key before it checks the heartbeat interval,
so a request with an impossible interval is refused for one reason or the other, and activates nothing.
"""

from pathlib import Path
from typing import Any

import httpx
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

IMPOSSIBLE_INTERVAL_S = -1.0


def knows_key(address: str, authority: Path, key: Any) -> bool | None:
    """Whether the SuperLink knows a key; the request is signed with it. None: an unexpected answer.

    Raises:
        httpx.HTTPError: no answer, or one that says nothing about the key.
    """
    public = key.public_key()
    request = ActivateNodeRequest(public_key=public_key_to_bytes(public), heartbeat_interval=IMPOSSIBLE_INTERVAL_S)
    signed = NodeAuthHttpInterceptor(key, public)
    try:
        with FleetHttpClient.from_server_address(address, False, str(authority), interceptors=[signed]) as client:
            client.ActivateNode(request)
    except httpx.HTTPStatusError as error:
        refusal = FlowerError.from_json(error.response.text)
        code = refusal.code if refusal else None
        if code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
            return True
        if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
            return False
        raise
    return None
