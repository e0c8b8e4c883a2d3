"""Connect a submitter to the SuperLink of a deployment: Flower's requests and ours, with one token, over TLS."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from amos_fl.deploy.keys import OTHERS_MAY
from amos_fl.deploy.layout import address_of, read_deployment
from amos_fl.errors import AmosError
from amos_fl_clients.flower.control import Control, control_at
from amos_fl_server.operation.runs_api import PREFIX


class NoAnswer(AmosError):  # noqa: N818 - said of a SuperLink
    """The SuperLink cannot be reached now; it may come back."""


class NotThere(AmosError):  # noqa: N818 - said of what was asked for
    """The SuperLink lacks a run, a file of a run, or support for our requests."""


@dataclass(frozen=True)
class Connection:
    """A SuperLink's address and authority, and the submitter's token with its file."""

    address: str
    authority: Path
    token: str
    token_file: Path


def connection_of(root: Path, host: str | None = None) -> Connection:
    """The connection to the SuperLink of the deployment in a folder.

    `host` is the name by which the SuperLink is reached from here; by default that for hospitals.

    Raises:
        AmosError: no deployment there, or no readable token.
    """
    deployment = read_deployment(root)
    return Connection(
        address=address_of(host or deployment.host, deployment.port),
        authority=root / "superlink/ca.crt",
        token=read_token(root),
        token_file=root / "submit/token",
    )


def read_token(root: Path) -> str:
    """The submitter's token of the deployment in `root`.

    Raises:
        AmosError: it is not there, cannot be read, is empty, or others may read it.
    """
    file = root / "submit/token"
    try:
        mode, token = file.stat().st_mode, file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise AmosError(f"{file}: is missing or cannot be read; submit from where it is") from None
    if mode & OTHERS_MAY:
        raise AmosError(f"{file}: other users of this machine may read this token", "run 'chmod 600' on it")
    if not token:
        raise AmosError(f"{file}: is empty", "restore the token from a backup")
    return token


@contextmanager
def control_of(connection: Connection) -> Iterator[Control]:
    """Flower's own client, for submitting runs and registering SuperNodes.

    Raises:
        AmosError: the SuperLink does not answer, is not trusted, or refuses the token.
    """
    with (
        _in_words(connection),
        control_at(connection.address, connection.authority, connection.token) as control,
    ):
        yield control


@contextmanager
def _in_words(connection: Connection) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        kind = NotThere if error.response.status_code == httpx.codes.NOT_FOUND else AmosError
        raise kind(_refusal(connection, error.response)) from None
    except httpx.HTTPError as error:
        if "certificate" in str(error).lower():
            raise AmosError(_mistrust(connection, str(error))) from None
        raise NoAnswer(
            f"the SuperLink at {connection.address} does not answer; start it, or say with --host how it is reached"
        ) from None


def _mistrust(connection: Connection, words: str) -> str:
    where = f"the SuperLink at {connection.address}"
    if "expired" in words:
        return f"the certificate of {where} has expired; renew it with 'amos-fl deploy init DIR --renew-certificates'"
    if "mismatch" in words or "not valid for" in words:
        return (
            f"the certificate of {where} is not for that name; say with --host another by which it is reached, or add "
            "this one with 'amos-fl deploy init DIR --renew-certificates --host NAME'"
        )
    return (
        f"{where} is not trusted: {connection.authority} did not sign its certificate; take the superlink/ca.crt of "
        "that SuperLink's deployment, or let it have this deployment's superlink/server.crt and server.key"
    )


def _refusal(connection: Connection, response: httpx.Response) -> str:
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return (
            f"the SuperLink at {connection.address} refuses the token of {connection.token_file}; "
            "its submitters.json must hold that token's hash"
        )
    try:
        return str(json.loads(response.text)["error"])
    except (ValueError, KeyError, TypeError):
        pass
    if response.status_code == httpx.codes.NOT_FOUND:
        return f"the SuperLink at {connection.address} serves no runs; start it as amos-fl-superlink of this version"
    return f"the SuperLink at {connection.address} answers {response.status_code}; read its log"


class RunsClient:
    """Our own requests to a SuperLink; every method raises AmosError, in words, and NoAnswer."""

    def __init__(self, connection: Connection, timeout_s: float = 60.0) -> None:
        self.connection = connection
        with _in_words(connection):
            self._client = httpx.Client(
                base_url=f"https://{connection.address}{PREFIX}",
                headers={"Authorization": f"Bearer {connection.token}"},
                verify=_trust(connection.authority),
                timeout=timeout_s,
            )

    def __enter__(self) -> "RunsClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **query: str | int) -> Any:
        """The JSON at a path."""
        return self._ask("GET", path, params=query).json()

    def read(self, path: str, **query: str | int) -> bytes:
        """The bytes at a path."""
        return self._ask("GET", path, params=query).content

    def post(self, path: str, content: str = "{}") -> Any:
        """Post a JSON text and return the answer."""
        return self._ask("POST", path, content=content, headers={"Content-Type": "application/json"}).json()

    def send(self, path: str, source: Path) -> None:
        """Upload a file, piece by piece."""
        with source.open("rb") as file:
            self._ask("PUT", path, content=file)

    def save(self, path: str, target: Path) -> None:
        """Write the bytes at a path into a file, piece by piece."""
        with _in_words(self.connection), self._client.stream("GET", path) as response:
            if response.is_error:
                response.read()
            response.raise_for_status()
            with target.open("wb") as file:
                for part in response.iter_bytes(1 << 20):
                    file.write(part)

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        with _in_words(self.connection):
            response = self._client.request(method, path, **more)
            response.raise_for_status()
            return response


def _trust(authority: Path) -> Any:
    try:
        return ssl.create_default_context(cafile=str(authority))
    except (OSError, ssl.SSLError):
        raise AmosError(f"{authority}: is missing or is not a certificate; restore it from a backup") from None
