"""Check the route from a site to its SuperLink, step by step: name, port, certificate, clock, answer, version.

Only the standard library is used, because an HTTP client would not distinguish the steps. If HTTPS_PROXY names a proxy
for the SuperLink, the steps go through it, as Flower does.
"""

import email.utils
import http.client
import json
import socket
import ssl
import time
import urllib.request
from base64 import b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cryptography import x509

from amos_fl.deploy.certificates import read_certificate
from amos_fl.deploy.findings import Finding, holds, skipped, wrong
from amos_fl.deploy.layout import AUTHORITY, SiteConnection, address_of, versions
from amos_fl.errors import AmosError
from amos_fl.wording import roughly

AHEAD_S, BEHIND_S = 5.0, 300.0
"""How far a site's clock may be ahead of or behind the SuperLink's; Flower refuses signatures beyond that."""
SOON_DAYS = 30
_NAMES = {62, 64}  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_NOT_YET, _EXPIRED = 9, 10
STEPS = ("name", "port", "certificate", "clock", "SuperLink", "version of flwr")


@dataclass(frozen=True)
class Route:
    """Where a connection goes first, and through which proxy."""

    host: str
    port: int
    proxy: tuple[str, int] | None = None
    proxy_headers: tuple[tuple[str, str], ...] = ()

    @property
    def first(self) -> tuple[str, int]:
        return self.proxy or (self.host, self.port)

    @property
    def address(self) -> str:
        return address_of(self.host, self.port)


def route_to(connection: SiteConnection) -> Route:
    """The route to a SuperLink, with the proxy that the environment names for it."""
    route = Route(connection.host, connection.port)
    proxy = urllib.request.getproxies().get("https")
    if not proxy or urllib.request.proxy_bypass(connection.host):
        return route
    parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    headers = ()
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers = (("Proxy-Authorization", f"Basic {b64encode(login).decode()}"),)
    return replace(route, proxy=(parts.hostname or "", parts.port or 80), proxy_headers=headers)


def check_connection(folder: Path, connection: SiteConnection, *, timeout_s: float = 10.0) -> list[Finding]:
    """Check the route to the SuperLink step by step; steps that depend on a failed one are skipped."""
    route = route_to(connection)
    findings = [_name(route)]
    if findings[-1].outcome == "ok":
        findings.append(_port(route, timeout_s))
    if findings[-1].outcome == "ok":
        certificate, trusted = _certificate(folder, route, timeout_s)
        # Read even if the certificate is not trusted: a wrong clock makes a good certificate look expired.
        findings += [certificate, _clock(route, timeout_s)]
        if trusted is not None:
            findings += _answers(route, trusted, connection, timeout_s)
    failed = next((finding.check for finding in findings if finding.outcome == "wrong"), "a step before")
    done = {finding.check for finding in findings}
    return findings + [skipped(step, f"needs: {failed}") for step in STEPS if step not in done]


def _name(route: Route) -> Finding:
    host, port = route.first
    whose = "the proxy" if route.proxy else "the SuperLink"
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except (OSError, UnicodeError):
        return wrong(
            "name",
            f"{host}, the name of {whose}, is not known here",
            "ask the network's administrators for a DNS entry (or a line in /etc/hosts), and the coordinator "
            "whether the name in site.yaml is right",
        )
    through = f", through the proxy {host}" if route.proxy else ""
    return holds("name", f"{host} is {', '.join(found[:3])}{through}")


def _port(route: Route, timeout_s: float) -> Finding:
    host, port = route.first
    try:
        _socket_to(route, timeout_s).close()
    except ConnectionRefusedError:
        return wrong(
            "port",
            f"{host} answers, but nothing listens at port {port}",
            "ask the coordinator whether the SuperLink runs, and whether the port in site.yaml is right",
        )
    except TimeoutError:
        return wrong(
            "port",
            f"port {port} of {host} does not answer within {timeout_s:g} s",
            f"ask the network's administrators to allow connections outwards to {route.address}, "
            "or name the proxy to use in HTTPS_PROXY",
        )
    except _ProxyRefusal as error:
        return wrong(
            "port",
            f"the proxy {host} refuses to connect to {route.address} ({error})",
            "ask the network's administrators to allow it, or name the SuperLink in NO_PROXY",
        )
    except OSError as error:
        return wrong(
            "port",
            f"{host} cannot be reached ({error.strerror or type(error).__name__})",
            "ask the network's administrators for a route to it",
        )
    return holds("port", f"port {route.port} of {route.host} is open")


_NEW_BUNDLE = "ask the coordinator for a new bundle, and compare the fingerprint of ca.crt over the phone"


def check_authority(folder: Path) -> tuple[Finding, ssl.SSLContext | None]:
    """Whether the site's file of the authority can be used, without any connection; and if so, what trusts it."""
    file = folder / AUTHORITY
    try:
        ends = read_certificate(file).not_valid_after_utc
        trusted = ssl.create_default_context(cafile=str(file))
    except (AmosError, ssl.SSLError, OSError):
        return wrong("certificate", f"{file.name} is missing or damaged", _NEW_BUNDLE), None
    return holds("certificate", f"the authority's is valid until {ends:%Y-%m-%d}"), trusted


def _certificate(folder: Path, route: Route, timeout_s: float) -> tuple[Finding, ssl.SSLContext | None]:
    """The finding, and if it is good the TLS context for the next steps."""
    readable, trusted = check_authority(folder)
    if trusted is None:
        return readable, None
    try:
        with trusted.wrap_socket(_socket_to(route, timeout_s), server_hostname=route.host) as secured:
            ends = _end_of(secured)
    except ssl.SSLCertVerificationError as error:
        ends = read_certificate(folder / AUTHORITY).not_valid_after_utc
        return _not_trusted(error.verify_code, route, ends, _NEW_BUNDLE), None
    except (ssl.SSLError, OSError) as error:
        if isinstance(error, ssl.SSLError) and error.reason in (
            "WRONG_VERSION_NUMBER",
            "HTTP_REQUEST",
            "UNKNOWN_PROTOCOL",
        ):
            found = f"{route.address} answers without TLS"
            return wrong("certificate", found, "tell the coordinator; nothing may be sent unencrypted"), None
        found = f"{route.address} breaks off the TLS handshake"
        return wrong("certificate", found, "ask whether another service runs there, or a firewall inspects it"), None
    left = (ends - datetime.now(UTC)).days
    soon = f"; it expires in {left} days, tell the coordinator" if left < SOON_DAYS else ""
    return holds("certificate", f"trusted, and valid until {ends:%Y-%m-%d}{soon}"), trusted


def _not_trusted(code: int, route: Route, authority_ends: datetime, again: str) -> Finding:
    if code in _NAMES:
        return wrong(
            "certificate",
            f"the SuperLink's certificate is not for the name {route.host}",
            "use the name that the coordinator gave, or ask the coordinator to add this one "
            "(amos-fl deploy init DIR --renew-certificates --host NAME)",
        )
    if code == _EXPIRED:
        whose = "the authority's" if authority_ends < datetime.now(UTC) else "the SuperLink's"
        return wrong(
            "certificate",
            f"{whose} certificate has expired, by this machine's clock",
            "see the clock below; if that is right, ask the coordinator to renew it "
            "(amos-fl deploy init DIR --renew-certificates)",
        )
    if code == _NOT_YET:
        return wrong(
            "certificate",
            "the SuperLink's certificate is not valid yet, by this machine's clock",
            "set this machine's clock (see the clock below)",
        )
    return wrong(
        "certificate",
        "the SuperLink's certificate was not signed by the authority in ca.crt",
        f"this may be another server, or a firewall that inspects TLS; {again}",
    )


def _clock(route: Route, timeout_s: float) -> Finding:
    try:
        # Nothing secret is sent or trusted here: only the time is read, to explain other failures.
        blind = ssl._create_unverified_context()
        before = time.time()
        answer, _ = _get(route, blind, "/health", timeout_s)
        here = (before + time.time()) / 2
        said = email.utils.parsedate_to_datetime(answer.headers.get("Date", ""))
    except (OSError, ValueError, http.client.HTTPException):
        return skipped("clock", "the SuperLink does not report its time")
    ahead = here - said.timestamp()
    # The header has whole seconds, rounded down.
    if ahead - 1 > AHEAD_S or ahead < -BEHIND_S:
        side = "ahead of" if ahead > 0 else "behind"
        return wrong(
            "clock",
            f"this machine's clock is {roughly(abs(ahead))} {side} the SuperLink's",
            "set it by a time service (NTP); the SuperLink refuses signatures from another time",
        )
    return holds("clock", f"agrees with the SuperLink's to {max(1, round(abs(ahead)))} s")


def _answers(route: Route, trusted: ssl.SSLContext, connection: SiteConnection, timeout_s: float) -> list[Finding]:
    try:
        answer, _ = _get(route, trusted, "/health", timeout_s)
        status = answer.status
    except (OSError, http.client.HTTPException):
        status = 0
    if status != 200:
        found = f"answers {status or 'nothing'} to /health instead of 200"
        remedy = "ask the coordinator whether the SuperLink is healthy, and whether there is a proxy in front of it"
        return [wrong("SuperLink", found, remedy)]
    running = connection.flwr
    said_by = "by the bundle"
    try:
        answer, body = _get(route, trusted, "/openapi.json", timeout_s)
        running, said_by = str(json.loads(body)["info"]["version"]), "as it says"
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        pass  # a proxy may hide it; then the bundle's version counts
    return [holds("SuperLink", f"{route.address} is well"), check_flwr(running, said_by)]


def check_flwr(running: str, said_by: str) -> Finding:
    """Check that this is the minor version of Flower that runs at the SuperLink."""
    here = versions()["flwr"]
    if here.split(".")[:2] != running.split(".")[:2]:
        return wrong(
            "version of flwr",
            f"{here} here, {running} at the SuperLink ({said_by})",
            f"install the image of this deployment, or flwr {running}",
        )
    return holds("version of flwr", f"{here} here, {running} at the SuperLink ({said_by})")


class _ProxyRefusal(OSError):  # noqa: N818 - named after what happened
    pass


def _socket_to(route: Route, timeout_s: float) -> socket.socket:
    """A connected socket to the SuperLink, through the proxy if there is one.

    Raises:
        OSError: it cannot be reached.
    """
    connected = socket.create_connection(route.first, timeout=timeout_s)
    if route.proxy is None:
        return connected
    lines = [
        f"CONNECT {route.address} HTTP/1.1",
        f"Host: {route.address}",
        *(f"{k}: {v}" for k, v in route.proxy_headers),
    ]
    try:
        connected.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        # Byte by byte up to the empty line: what comes after it belongs to the TLS handshake.
        head = b""
        while not head.endswith(b"\r\n\r\n") and len(head) < 65536:
            if not (byte := connected.recv(1)):
                break
            head += byte
        status = head.split(b"\r\n")[0].decode("latin-1").split(" ", 1)[-1]
        if not status.startswith("2"):
            raise _ProxyRefusal(status or "no answer")
    except BaseException:
        connected.close()
        raise
    return connected


def _get(route: Route, context: ssl.SSLContext, path: str, timeout_s: float) -> tuple[http.client.HTTPResponse, bytes]:
    with context.wrap_socket(_socket_to(route, timeout_s), server_hostname=route.host) as secured:
        secured.sendall(f"GET {path} HTTP/1.1\r\nHost: {route.address}\r\nConnection: close\r\n\r\n".encode("latin-1"))
        answer = http.client.HTTPResponse(secured, method="GET")
        answer.begin()
        return answer, answer.read(4_000_000)


def _end_of(secured: ssl.SSLSocket) -> datetime:
    certificate = secured.getpeercert(binary_form=True)
    assert certificate is not None  # a server's is always there after a handshake that verified it
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc
