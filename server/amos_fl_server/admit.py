"""Bringing a SuperLink's list of SuperNodes in line with the keys that the coordinator registered."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from amos_fl.deploy.enroll import registered_keys
from amos_fl.deploy.keys import read_public_key
from amos_fl.deploy.layout import address_of, read_deployment
from amos_fl.errors import AmosError
from amos_fl_server.submit import read_token


@dataclass(frozen=True)
class Admission:
    """The SuperNode of each admitted site, which sites are new, and how many keys were removed."""

    nodes: dict[str, int]
    status: dict[str, str]
    new: tuple[str, ...]
    removed: int


class _Token:
    """Sends the submitter's token with each request."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers["Authorization"] = f"Bearer {self._token}"
        return call_next(context)


def admit_sites(root: Path, *, host: str | None = None) -> Admission:
    """Register every site's present key at the running SuperLink, and remove keys that are no site's any more.

    A SuperNode whose key is removed is turned away with its next request. `host` is the name by which the SuperLink is
    reached from here; by default that for hospitals.

    Raises:
        AmosError: the SuperLink does not answer, is not trusted, or refuses the token.
    """
    wanted = {
        public_key_to_bytes(read_public_key(path)): site for site, path in registered_keys(root).items()
    }  # by PEM, as Flower keeps them
    with _control(root, host) as client:
        known = {node.public_key: node for node in client.ListNodes(ListNodesRequest()).nodes_info}
        gone = [node for key, node in known.items() if key not in wanted and node.status != "unregistered"]
        for node in gone:
            client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))
        new = {key: site for key, site in wanted.items() if key not in known}
        for key, site in new.items():
            client.RegisterNode(RegisterNodeRequest(public_key=key, name=site))
        after = {node.public_key: node for node in client.ListNodes(ListNodesRequest()).nodes_info}
    admitted = {site: after[key] for key, site in wanted.items() if key in after}
    return Admission(
        nodes={site: node.node_id for site, node in admitted.items()},
        status={site: node.status for site, node in admitted.items()},
        new=tuple(sorted(new.values())),
        removed=len(gone),
    )


@contextmanager
def _control(root: Path, host: str | None) -> Iterator[ControlHttpClient]:
    deployment = read_deployment(root)
    address = address_of(host or deployment.host, deployment.port)
    interceptors = [
        CliClientHttpInterceptor(),
        RuntimeVersionHttpInterceptor(component_name="amos-fl"),
        _Token(read_token(root)),
    ]
    authority = str(root / "superlink/ca.crt")
    try:
        with ControlHttpClient.from_server_address(address, False, authority, interceptors=interceptors) as client:
            yield client
    except httpx.HTTPStatusError as error:
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            raise AmosError(
                f"the SuperLink at {address} refuses the token of {root / 'submit/token'}; "
                "its submitters.json must hold that token's hash"
            ) from None
        raise AmosError(f"the SuperLink at {address} answers {error.response.status_code}; read its log") from None
    except httpx.HTTPError as error:
        said = "is not trusted" if "CERTIFICATE" in str(error).upper() else "does not answer"
        raise AmosError(f"the SuperLink at {address} {said}; start it, or say with --host how it is reached") from None
