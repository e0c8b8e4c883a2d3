"""A view for whoever asked for it: on the terminal, or as a page until Ctrl-C."""

from collections.abc import Callable
from contextlib import suppress

from rich.console import Console

from amos_fl.errors import AmosError
from amos_fl.live.serve import HOST, page_server
from amos_fl.live.terminal import show
from amos_fl.live.view import View


def watch_view(look: Callable[[], View], console: Console, *, page: bool, port: int, every_s: float) -> None:
    """Show a view on the terminal or serve its page until Ctrl-C.

    Raises:
        AmosError: the view cannot be read at first, the port is taken, or a port is given without a page.
    """
    if not page:
        if port:
            raise AmosError("--port needs --page; add it, or leave out --port")
        show(look, console, every_s)
        return
    look()  # what cannot be read is said here, and not in the page
    with page_server(look, port, every_s) as server:
        console.print(f"open http://{HOST}:{server.server_port}/ in a browser here; Ctrl-C ends it", soft_wrap=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.2)
