"""Flower's requests to a SuperLink, to submit runs and register SuperNodes with a submitter's token."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from flwr.cli.build import build_fab_from_disk
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    StreamLogsRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext

build_app: Callable[[Path], bytes] = build_fab_from_disk
"""The archive (FAB) of an app's folder; ValueError if it holds none."""


def public_key_bytes(key: Any) -> bytes:
    """A public key as Flower keeps it (PEM)."""
    typed: EllipticCurvePublicKey = key
    return public_key_to_bytes(typed)


class _Token:
    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: Callable[..., httpx.Response]) -> httpx.Response:
        context.request.headers["Authorization"] = f"Bearer {self._token}"
        return call_next(context)


class Control:
    """Flower's own client; every method raises what httpx raises."""

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def nodes(self) -> dict[bytes, Any]:
        """What the SuperLink knows about each SuperNode, by its public key."""
        return {node.public_key: node for node in self._client.ListNodes(ListNodesRequest()).nodes_info}

    def register(self, public_key: bytes, name: str) -> None:
        self._client.RegisterNode(RegisterNodeRequest(public_key=public_key, name=name))

    def unregister(self, node_id: int) -> None:
        self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def start_run(self, sha256: str, app: bytes, config: dict[str, Any]) -> int | None:
        """Submit an app with settings that override its own; None: the SuperLink did not accept it."""
        fab, override = fab_to_proto(Fab(sha256, app, {})), user_config_to_proto(config)
        answer = self._client.StartRun(StartRunRequest(fab=fab, override_config=override))
        return answer.run_id if answer.HasField("run_id") else None

    def stop_run(self, run_id: int) -> None:
        self._client.StopRun(StopRunRequest(run_id=run_id))

    def run_status(self, run_id: int) -> Any:
        """The status of a run, or None."""
        known = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        return known[run_id].status if run_id in known else None

    def log_of(self, run_id: int) -> Iterator[str]:
        for answer in self._client.StreamLogs(StreamLogsRequest(run_id=run_id, after_timestamp=0.0)):
            yield answer.log_output


@contextmanager
def control_at(address: str, authority: Path, token: str) -> Iterator[Control]:
    """A client of the SuperLink at an address, whose certificate is signed by an authority."""
    interceptors = [
        CliClientHttpInterceptor(),
        RuntimeVersionHttpInterceptor(component_name="amos-fl"),
        _Token(token),
    ]
    with ControlHttpClient.from_server_address(address, False, str(authority), interceptors=interceptors) as client:
        yield Control(client)
