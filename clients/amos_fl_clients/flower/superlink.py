"""A SuperLink whose submitters have tokens, whose app is wrapped in ours, and whose database may take its time."""

import logging
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from logging import INFO, WARNING
from typing import Any

from amos_fl_clients.flower.programs import run_program, say_nothing_to_others

say_nothing_to_others()  # before Flower is imported

# ruff: noqa: E402
from flwr.common.constant import ACCESS_TOKEN_KEY, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore.auth.typing import AccountAuthCredentials, AccountAuthLoginDetails, AccountInfo
from flwr.superlink.auth_plugin import ControlAuthnPlugin

from amos_fl_clients.flower import parts

FASTER = {
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds from a submission to its ServerApp, instead of 1
    "FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES": "8",  # pieces of weights in transit at a time, instead of 2
    "FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PULLS": "8",
}
"""Environment variables for Flower's processes on this machine, unless they are already set."""
BUSY_TIMEOUT_MS = 25_000

log = logging.getLogger("flwr").log
Metadata = Sequence[tuple[str, str | bytes]]


class TokenPlugin(ControlAuthnPlugin):
    """Lets a request of the Control API pass if it carries a submitter's token."""

    @abstractmethod
    def submitter(self, token: str) -> str | None:
        """The submitter that a token belongs to."""

    def validate_tokens_in_metadata(self, metadata: Metadata) -> tuple[bool, AccountInfo | None]:
        for key, value in metadata:
            if key == ACCESS_TOKEN_KEY:
                name = self.submitter(value if isinstance(value, str) else value.decode("ascii", "replace"))
                if name is not None:
                    log(INFO, "[Control] request of submitter %s", name)
                    # One account for all, because runs and SuperNodes of other accounts would be invisible.
                    return True, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)
        log(WARNING, "[Control] request without a submitter's token refused")
        return False, None

    def get_login_details(self) -> AccountAuthLoginDetails | None:
        return None

    def get_auth_tokens(self, device_code: str) -> AccountAuthCredentials | None:
        return None

    def refresh_tokens(self, metadata: Metadata) -> tuple[Metadata | None, AccountInfo | None]:
        return None, None


def run(plugin: TokenPlugin, wrap: Callable[[Any], None]) -> None:
    """`flower-superlink` with this process's arguments; `wrap` is given the app before it serves."""
    replace(plugin, wrap)
    run_program("flower-superlink", parts.AUTHN_PLUGIN.module, sys.argv[1:])


def replace(plugin: TokenPlugin, wrap: Callable[[Any], None]) -> None:
    """Replace everything that a SuperLink of amos-fl does differently from Flower's."""
    create_app = parts.CREATE_APP.present

    def create_and_wrap(*arguments: Any, **more: Any) -> Any:
        app = create_app(*arguments, **more)
        wrap(app)
        return app

    parts.AUTHN_PLUGIN.replace(lambda: plugin)
    parts.CREATE_APP.replace(create_and_wrap)
    patient_database()


def patient_database() -> None:
    """Let a request wait for the database as long as Flower's clients wait for an answer: 30 s instead of 5 s.

    This is needed if many sites send large weights at once and the disk is slow; a failed request loses its message.
    """
    parts.PRAGMAS.replace(tuple({**dict(parts.PRAGMAS.present), "busy_timeout": str(BUSY_TIMEOUT_MS)}.items()))
