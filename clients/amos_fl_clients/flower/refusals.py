"""Say in a sentence why a SuperNode cannot take part, or no longer can, where Flower prints a code or nothing.

Flower 1.42 answers a refusal with an exit code and the address of a page, tries an unreachable SuperLink for ever
without naming it, and ends like a stopped program when its key was withdrawn.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from amos_fl.errors import AmosError


@dataclass
class Site:
    """A site whose SuperNode runs: its name, its folders, where its SuperLink is, and why its SuperNode ended."""

    name: str
    folder: Path
    state: Path
    superlink: str
    why: AmosError | None = field(default=None, init=False)
    _unreached: bool = field(default=False, init=False)

    def error(self, what: str, remedy: str = "") -> AmosError:
        """An error of this site, by default with the command that says more."""
        return AmosError(f"site {self.name}: {what}", remedy or f"run amos-fl deploy check {self.folder}")

    def activating(self, activate: Callable[..., Any]) -> Callable[..., Any]:
        """Flower's `ActivateNode`, which keeps in words why it failed for good, and says once what it waits for."""

        def activate_node(client: Any, request: Any) -> Any:
            try:
                return activate(client, request)
            except httpx.TransportError as error:
                if is_about_trust(error):
                    self.why = self.error(f"the SuperLink at {self.superlink} is not trusted ({_reason(error)})")
                    raise self.why from None
                if not self._unreached:
                    self._unreached = True
                    words = self.error(f"the SuperLink at {self.superlink} does not answer ({_reason(error)})")
                    print(f"{words}; this is tried again until it answers", file=sys.stderr, flush=True)
                raise
            except httpx.HTTPStatusError as error:
                self.why = self._refusal(error, lambda again: activate(client, again), request)
                raise self.why or error from None

        return activate_node

    def _refusal(self, error: httpx.HTTPStatusError, ask: Callable[[Any], Any], request: Any) -> AmosError | None:
        from flwr.supercore.error import ApiErrorCode

        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            return self.error(f"the SuperLink at {self.superlink} refuses this site's signature")
        if _code(error) != ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
            return None
        if _is_known(ask, request.public_key):
            return self.error(
                f"the SuperLink at {self.superlink} believes that another SuperNode with this site's key is connected",
                "end that one, or start this one again in a minute",
            )
        return self.error(f"the SuperLink at {self.superlink} does not know this key")

    def asking(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        """A request of a SuperNode in operation, which notes that the SuperLink no longer accepts its key."""

        def ask_and_note(*arguments: Any, **more: Any) -> Any:
            try:
                return ask(*arguments, **more)
            except httpx.HTTPStatusError as error:
                if error.response.status_code == httpx.codes.UNAUTHORIZED:
                    self.why = self.error(
                        "the SuperLink no longer accepts this site's key",
                        f"ask the coordinator, or run amos-fl deploy check {self.folder}",
                    )
                raise

        return ask_and_note

    def leaving(self, leave: Callable[..., Any]) -> Callable[..., Any]:
        """Flower's end of a program, without its code and page where there is a sentence for `why`."""

        def leave_in_words(code: int, message: str | None = None, *rest: Any, **more: Any) -> Any:
            if self.why is None:
                leave(code, message, *rest, **more)
            from flwr.supercore.exit.exit_handler import trigger_exit_handlers

            for first in (True, False):
                trigger_exit_handlers(run_before_force_exit=first)
            raise SystemExit(2)

        return leave_in_words


def is_about_trust(error: Exception) -> bool:
    """Whether a connection failed because of a certificate; Flower does not try that again either."""
    return any(word in str(error).lower() for word in ("certificate", "ssl", "tls"))


def _reason(error: Exception) -> str:
    """What went wrong, without the numbers and names of the libraries that say it."""
    return str(error).rpartition("certificate verify failed: ")[2].rpartition("] ")[2].partition(" (_ssl.c")[0]


def _code(error: httpx.HTTPStatusError) -> int | None:
    from flwr.supercore.error import FlowerError

    refusal = FlowerError.from_json(error.response.text)
    return refusal.code if refusal else None


def _is_known(ask: Callable[[Any], Any], public_key: bytes) -> bool:
    from flwr.proto.fleet_pb2 import ActivateNodeRequest
    from flwr.supercore.error import ApiErrorCode

    from amos_fl_clients.flower.fleet import IMPOSSIBLE_INTERVAL_S

    try:
        ask(ActivateNodeRequest(public_key=public_key, heartbeat_interval=IMPOSSIBLE_INTERVAL_S))
    except httpx.HTTPStatusError as error:
        return _code(error) == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL
    return True
