"""Serve a view as one page to this machine alone, by the standard library's server.

The page asks for the view every few seconds. Only requests to 127.0.0.1 or localhost by name are answered, so that no
web page of elsewhere can read it through the user's browser, and the page itself may load nothing from anywhere.
"""

import json
import secrets
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from amos_fl.errors import AmosError
from amos_fl.live.page import page
from amos_fl.live.view import View

HOST = "127.0.0.1"
_NAMES = {HOST, "localhost"}


def page_server(look: Callable[[], View], port: int = 0, every_s: float = 2.0) -> ThreadingHTTPServer:
    """A server of the view; its `server_port` is the one given, or a free one for 0. Nothing is answered yet.

    Raises:
        AmosError: the port is taken, or may not be used.
    """
    looking = threading.Lock()
    nonce = secrets.token_urlsafe(16)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if (self.headers.get("Host") or "").partition(":")[0] not in _NAMES:
                self._answer(HTTPStatus.FORBIDDEN, "text/plain", "this page is for this machine alone")
            elif self.path == "/":
                self._answer(HTTPStatus.OK, "text/html", page(nonce, every_s))
            elif self.path == "/view.json":
                try:
                    with looking:  # two windows may ask at once, and a look remembers what it has read
                        text = json.dumps(look().as_json())
                except Exception as error:  # of a file that is being written, perhaps: the page asks again
                    self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", str(error) or type(error).__name__)
                    return
                self._answer(HTTPStatus.OK, "application/json", text)
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", "there is one page here, /")

        def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", policy)
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise AmosError(f"--port {port}: cannot be served on ({why}); choose another, or leave it out") from None
