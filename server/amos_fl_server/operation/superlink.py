"""`amos-fl-superlink`: Flower's SuperLink, to which only holders of a submitter's token can submit runs.

The open SuperLink of Flower 1.42 lets anyone who reaches its one port submit runs, register SuperNodes and take the
work of its ServerApps: its account authentication is part of another distribution, and the open one accepts every
request (`flwr.superlink.auth_plugin.NoOpControlAuthnPlugin`). A key per hospital means little if anyone can register
one. So this module supplies the plugin that Flower calls there, and reserves the SuperLink's internal requests for its
own processes. All options are those of `flower-superlink`; by default SuperNode authentication is on and runtime
installs are off.
"""

import hmac
import ipaddress
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from logging import WARNING
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from amos_fl.deploy.keys import token_hash
from amos_fl.errors import AmosError
from amos_fl.escape.terminal import visible
from amos_fl_clients.flower.superlink import FASTER, TokenPlugin, log, run
from amos_fl_server.operation.run_registry import RUNS
from amos_fl_server.operation.runs_api import PREFIX, RunsApi
from amos_fl_server.operation.starting import check_start, only_superlink

SUBMITTERS = "AMOS_FL_SUBMITTERS"
"""The environment variable with the path of submitters.json, which maps names to the SHA-256 of submitters' tokens."""
PUBLIC_PATHS = ("/v1/fleet/", "/v1/control/", f"{PREFIX}/", "/health", "/openapi.json")
"""Paths open to other machines. The fleet's calls are signed by SuperNodes; those of control and ours carry a token."""


class SubmitterTokens(TokenPlugin):
    """Accept a request of the Control API if it carries a token with a known hash."""

    def __init__(self, submitters: Path) -> None:
        self._submitters = submitters
        self._known()

    @property
    def folder(self) -> Path:
        """The folder of the file with the hashes."""
        return self._submitters.parent

    def _known(self) -> dict[str, str]:
        """The known hashes, read again for each request: submitters come and go without a restart."""
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


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


class OwnProcessesOnly:
    """Answer other machines only on the public paths; the rest is for the SuperLink's own processes."""

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


def with_defaults(arguments: Sequence[str]) -> list[str]:
    """The arguments with a deployment's defaults.

    Without TLS, which needs `--insecure`, Flower does not authenticate SuperNodes.

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
    """Whether a request's log line is worth keeping: followers of a run ask for its state every second."""
    return not (f'"GET {PREFIX}/' in record.getMessage() and record.getMessage().endswith(" 200"))


def set_environment(runs: Path) -> None:
    """Set the environment of this process and the ServerApps that it starts."""
    os.environ[RUNS] = str(runs)
    for name, value in FASTER.items():
        os.environ.setdefault(name, value)
    # Flower starts its programs by name, and they are on no path where `uv tool` installed them, or without `activate`.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    # With it uvicorn would trust other machines' claims about their address, and one could claim to be this one.
    os.environ.pop("FORWARDED_ALLOW_IPS", None)


def main() -> None:
    """Run `flower-superlink` with this process's arguments. Exit code 2: it cannot start, said in one line."""
    try:
        _main()
    except AmosError as error:
        print(f"amos-fl-superlink: {visible(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)


def _main() -> None:
    """Run `flower-superlink`, checking submitters and own processes."""
    arguments = with_defaults(sys.argv[1:])
    if SUBMITTERS not in os.environ:
        raise AmosError(f"{SUBMITTERS}: name the file submitters.json of the deployment in this variable")
    plugin = SubmitterTokens(Path(os.environ[SUBMITTERS]))
    runs = Path(os.environ.get(RUNS) or plugin.folder / "state/runs").resolve()
    set_environment(runs)
    logging.getLogger("uvicorn.access").addFilter(_says_something)

    def guard(app: Any) -> None:
        app.add_middleware(RunsApi, runs=runs, submitter=plugin.submitter)
        app.add_middleware(OwnProcessesOnly)  # outside of everything else

    sys.argv[1:] = arguments
    with only_superlink(arguments):
        check_start(arguments)
        run(plugin, guard)


if __name__ == "__main__":
    main()
