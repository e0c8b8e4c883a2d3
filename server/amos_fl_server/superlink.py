"""`amos-fl-superlink`: Flower's SuperLink, in which runs are submitted by those who hold a submitter's token.

Flower's open SuperLink 1.41 lets everybody who reaches its one port submit runs, register SuperNodes and take the work
of its ServerApps: its account authentication comes with another distribution, and what is left accepts every request
(`flwr.superlink.auth_plugin.NoOpControlAuthnPlugin`). A key per hospital means little where anybody may register one.
So the plugin that Flower calls at that place is given here, and what only the SuperLink's own processes ask is answered
only to them. All options are those of `flower-superlink`; by default SuperNode authentication is on and runtime
installs are off.
"""

import hmac
import importlib
import ipaddress
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from logging import INFO, WARNING
from pathlib import Path
from typing import Any

from flwr.common.constant import ACCESS_TOKEN_KEY, NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore import log
from flwr.supercore.auth.typing import AccountAuthCredentials, AccountAuthLoginDetails, AccountInfo
from flwr.superlink.auth_plugin import ControlAuthnPlugin
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from amos_fl.deploy.keys import token_hash
from amos_fl.errors import AmosError
from amos_fl_server.runs_api import PREFIX, RunsApi
from amos_fl_server.served_runs import RUNS

SUBMITTERS = "AMOS_FL_SUBMITTERS"
"""The environment variable that names submitters.json: by name, the SHA-256 of a submitter's token."""
PUBLIC_PATHS = ("/v1/fleet/", "/v1/control/", f"{PREFIX}/", "/health", "/openapi.json")
"""What is answered to other machines. The fleet's calls are signed by SuperNodes; those of control and ours carry a
token."""

FASTER = {
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds from a submission to its ServerApp, instead of 1
    "FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES": "8",  # pieces of weights on their way at a time, instead of 2
    "FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PULLS": "8",
}
"""What Flower's processes on this machine take from the environment, unless it says otherwise."""

BUSY_TIMEOUT_MS = 25_000

CallMetadata = Sequence[tuple[str, str | bytes]]


class SubmitterTokens(ControlAuthnPlugin):
    """Lets a request of the Control API pass when it carries a token whose hash is known."""

    def __init__(self, submitters: Path) -> None:
        self._submitters = submitters
        self._known()

    @property
    def folder(self) -> Path:
        """Where the file with the hashes lies."""
        return self._submitters.parent

    def _known(self) -> dict[str, str]:
        """Read anew for each request, so that a submitter is added or removed without a restart."""
        try:
            known = json.loads(self._submitters.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = None
        if not isinstance(known, dict) or not all(_is_hash(value) for value in known.values()):
            raise AmosError(f"{self._submitters}: must map names to the SHA-256 of tokens; restore it from a backup")
        return known

    def submitter(self, token: str) -> str | None:
        """The name that a token belongs to."""
        digest = token_hash(token)
        found = [name for name, kept in self._known().items() if hmac.compare_digest(kept, digest)]
        return found[0] if found else None

    def validate_tokens_in_metadata(self, metadata: CallMetadata) -> tuple[bool, AccountInfo | None]:
        for key, value in metadata:
            if key == ACCESS_TOKEN_KEY:
                name = self.submitter(value if isinstance(value, str) else value.decode("ascii", "replace"))
                if name is not None:
                    log(INFO, "[Control] request of submitter %s", name)
                    # One account for all, because runs and SuperNodes of another account would not be seen.
                    return True, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)
        log(WARNING, "[Control] request without a submitter's token refused")
        return False, None

    def get_login_details(self) -> AccountAuthLoginDetails | None:
        return None

    def get_auth_tokens(self, device_code: str) -> AccountAuthCredentials | None:
        return None

    def refresh_tokens(self, metadata: CallMetadata) -> tuple[CallMetadata | None, AccountInfo | None]:
        return None, None


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


class OwnProcessesOnly:
    """Answers other machines on the public paths alone; the rest is for the SuperLink's own processes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(PUBLIC_PATHS) and not _from_here(scope):
            log(WARNING, "request from another machine for %s refused", scope["path"])
            await PlainTextResponse("not for other machines", status_code=403)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _from_here(scope: Scope) -> bool:
    client = scope.get("client")
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def guarded(create_app: Any, runs: Path, tokens: SubmitterTokens) -> Any:
    """Flower's maker of the SuperLink's app, with `OwnProcessesOnly` outside of everything else, and our requests."""

    def create(*arguments: Any, **more: Any) -> Any:
        app = create_app(*arguments, **more)
        app.add_middleware(RunsApi, runs=runs, submitter=tokens.submitter)
        app.add_middleware(OwnProcessesOnly)
        return app

    return create


def with_defaults(arguments: Sequence[str]) -> list[str]:
    """The arguments with what a deployment always wants.

    Without TLS, which takes `--insecure`, Flower authenticates no SuperNode.

    >>> with_defaults(["--port", "8000"])
    ['--port', '8000', '--disable-runtime-dependency-installation', '--enable-supernode-auth']
    >>> with_defaults(["--insecure"])
    ['--insecure', '--disable-runtime-dependency-installation']
    """
    wanted = ["--disable-runtime-dependency-installation"]
    if "--insecure" not in arguments:
        wanted.append("--enable-supernode-auth")
    return [*arguments, *(option for option in wanted if option not in arguments)]


def _says_something(record: logging.LogRecord) -> bool:
    """Whether a line on a request is worth keeping: those who follow a run ask every second how it is."""
    return not (f'"GET {PREFIX}/' in record.getMessage() and record.getMessage().endswith(" 200"))


def patient_database() -> None:
    """Let a request wait for the database for as long as Flower's clients wait for an answer (30 s), and not for 5 s.

    Many sites that bring large weights at once on a slow disk need that; a request that fails loses its message.
    """
    mixin: Any = importlib.import_module("flwr.supercore.sql_mixin")
    pragmas = dict(mixin.SQLITE_PRAGMAS)  # an AttributeError here: another version of Flower
    mixin.SQLITE_PRAGMAS = tuple({**pragmas, "busy_timeout": str(BUSY_TIMEOUT_MS)}.items())


def set_environment(runs: Path) -> None:
    """What this process, and the ServerApps that it starts, find in the environment."""
    os.environ[RUNS] = str(runs)
    for name, value in FASTER.items():
        os.environ.setdefault(name, value)
    # With it uvicorn believes other machines what they say of their address, and one could say that it is this one.
    os.environ.pop("FORWARDED_ALLOW_IPS", None)


def main() -> None:
    """Run `flower-superlink` with this process's arguments, submitters and own processes told from others."""
    # As modules, because the package gives its functions under the modules' names.
    http = importlib.import_module("flwr.superlink.main")
    command = importlib.import_module("flwr.superlink.cli.flower_superlink")
    if SUBMITTERS not in os.environ:
        raise SystemExit(f"{SUBMITTERS}: name the file submitters.json of the deployment in this variable")
    try:
        plugin = SubmitterTokens(Path(os.environ[SUBMITTERS]))
    except AmosError as error:
        raise SystemExit(str(error)) from None
    runs = Path(os.environ.get(RUNS) or plugin.folder / "state/runs").resolve()
    set_environment(runs)
    patient_database()
    logging.getLogger("uvicorn.access").addFilter(_says_something)
    for module, name, ours in (
        (command, "load_control_authn_plugin", lambda: plugin),
        (http, "create_app", guarded(http.create_app, runs, plugin)),
    ):
        getattr(module, name)  # an AttributeError here is better than a SuperLink without its guard
        setattr(module, name, ours)
    sys.argv[1:] = with_defaults(sys.argv[1:])
    command.flower_superlink()


if __name__ == "__main__":
    main()
