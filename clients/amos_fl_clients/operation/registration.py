"""Whether a SuperLink knows a site's key, asked without any effect there.

Flower has no such question. But it looks up the key of a SuperNode that wants to be activated before it looks at the
heartbeat's interval, so a request with an impossible interval is refused for the one reason or for the other, and
activates nothing.
"""

from pathlib import Path

from amos_fl.deploy.findings import Finding, holds, skipped, wrong
from amos_fl.deploy.keys import read_private_key, spoken_fingerprint
from amos_fl.deploy.layout import AUTHORITY, SiteConnection, address_of

IMPOSSIBLE_INTERVAL_S = -1.0
CHECK = "registered"


def ask_registered(folder: Path, connection: SiteConnection) -> Finding:
    """Ask the SuperLink whether it knows the key of the site in `folder`; the request is signed with that key."""
    import httpx
    from flwr.proto.fleet_pb2 import ActivateNodeRequest
    from flwr.supercore.error import ApiErrorCode, FlowerError
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    key = read_private_key(folder / connection.key)
    request = ActivateNodeRequest(
        public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=IMPOSSIBLE_INTERVAL_S
    )
    try:
        with FleetHttpClient.from_server_address(
            address_of(connection.host, connection.port),
            False,
            str(folder / AUTHORITY),
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
        ) as client:
            client.ActivateNode(request)
    except httpx.HTTPStatusError as error:
        refusal = FlowerError.from_json(error.response.text)
        code = refusal.code if refusal else None
        if code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
            return holds(CHECK, "the SuperLink knows this site's key")
        if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
            mark = spoken_fingerprint(key.public_key())
            return wrong(
                CHECK,
                f"the SuperLink does not know the key {mark}",
                "send keys/site.pub to the coordinator, who runs 'amos-fl deploy register'",
            )
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            return wrong(
                CHECK, "the SuperLink refuses this site's signature", "set this machine's clock, and try again"
            )
        return skipped(CHECK, f"the SuperLink answers {error.response.status_code}, which says nothing about the key")
    except httpx.HTTPError as error:
        return skipped(CHECK, f"the question got no answer ({type(error).__name__})")
    return skipped(CHECK, "the SuperLink gave an answer that it should not give")
