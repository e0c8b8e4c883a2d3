"""Servers on the loopback interface that behave as a SuperLink does, or as one should not."""

import email.utils
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from amos_fl.deploy.keys import read_public_key
from amos_fl.deploy.layout import SiteConnection, read_site, versions, write_site


@dataclass
class Answers:
    """What a server says: its version, how far its clock is ahead, and its health."""

    flwr: str | None = field(default_factory=lambda: versions()["flwr"])
    clock_ahead_s: float = 0.0
    health: int = 200


@contextmanager
def serving(certificates: Path | None, answers: Answers | None = None) -> Iterator[int]:
    """Serve on a free port of 127.0.0.1, with server.crt and server.key of a folder, or without TLS; yield the port."""
    says = answers or Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b""
            status = says.health if self.path == "/health" else 404
            if self.path == "/openapi.json" and says.flwr is not None:
                status, body = 200, json.dumps({"info": {"title": "SuperLink API", "version": says.flwr}}).encode()
            self.send_response_only(status)
            self.send_header("Date", email.utils.formatdate(time.time() + says.clock_ahead_s, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a refused handshake is what some tests are about

    with Server(("127.0.0.1", 0), Handler) as server:
        if certificates is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def proxying(*, refuse: bool = False) -> Iterator[tuple[int, list[str]]]:
    """An HTTP proxy for CONNECT on a free port; yield the port and the requests that it was sent."""
    asked: list[str] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def handle(taken: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (part := taken.recv(4096)):
            head += part
        asked.append(head.decode())
        if not head:
            return
        if refuse:
            taken.sendall(b"HTTP/1.1 403 Not allowed here\r\n\r\n")
            taken.close()
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        onward = socket.create_connection((host, int(port)))
        taken.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=pump, args=(onward, taken), daemon=True).start()
        pump(taken, onward)

    def accept() -> None:
        while True:
            try:
                taken, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=(taken,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1], asked
        listener.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    """A port that nobody had a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def at(folder: Path, port: int) -> SiteConnection:
    """Let the site in a folder take this port for its SuperLink's."""
    connection = read_site(folder).model_copy(update={"port": port})
    write_site(folder, connection)
    return connection


@contextmanager
def superlink(certificates: Path) -> Iterator[tuple[int, Callable[[Path], None]]]:
    """Flower's own SuperLink over TLS, in this process; yield its port and what registers a public key."""
    import uvicorn
    from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.superlink.main import create_app  # it reads the environment at its import

    app = create_app()
    files = {"ssl_certfile": certificates / "server.crt", "ssl_keyfile": certificates / "server.key"}
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", **files))  # pyright: ignore
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]

        def register(public_key: Path) -> None:
            key = public_key_to_bytes(read_public_key(public_key))
            app.state.linkstate_factory.state().create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0)

        yield port, register
    finally:
        server.should_exit = True
        thread.join()
