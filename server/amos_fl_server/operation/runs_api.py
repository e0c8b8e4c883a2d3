"""The SuperLink's API for runs, on the same port as Flower's own requests: make, follow and fetch runs.

Flower only accepts a run and streams its log. A run's settings, events and folder are transferred here, under
`/amos-fl/`, with the same submitter's token.
"""

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from logging import INFO
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from amos_fl.deploy.layout import versions
from amos_fl.errors import AmosError
from amos_fl.escape.terminal import one_line
from amos_fl.files import whole_file, whole_folder, write_json
from amos_fl.invalid import what_is_wrong
from amos_fl.runs.config import RunConfig
from amos_fl.runs.origin import BROUGHT, NETWORK, WEIGHTS
from amos_fl.runs.own_code import own_modules
from amos_fl.strict_json import parsed
from amos_fl_server.operation.run_registry import (
    NoSuchRun,
    ServedRuns,
    note_submission,
    prepare_run,
    run_name,
    state_of,
    submissions_of,
)

log = logging.getLogger("flwr").log
PREFIX = "/amos-fl"
MOST_EVENT_BYTES = 1_000_000
MOST_WORDS_BYTES = 4_000_000
"""The longest JSON text that a request may contain."""
MOST_WEIGHTS_BYTES = 8 << 30
MOST_WAIT_S = 1e7
STARTS = ".starts"
"""The folder, beside the runs, of weights that a submitter has sent, until the run that starts from them is made."""
START_KEPT_S = 86400.0
_making = Lock()
"""A lock, so that of two requests for one name the second learns that it is taken."""

Submitter = Callable[[str], str | None]


def _named_once(organs: dict[int, str]) -> dict[int, str]:
    names = set(organs.values())
    if len(names) < len(organs) or not all(name.strip() and name.isprintable() for name in names):
        raise ValueError("every organ needs a name of its own")
    return organs


Label = Annotated[int, Field(ge=1, le=255)]
OrganName = Annotated[str, Field(min_length=1, max_length=100)]


class Start(BaseModel):
    """A run's initial weights: their hash, the name of the run they are from, and their `network.json`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    name: str = Field(pattern="^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$")
    network: dict[str, Any] | None


class RunRequest(BaseModel):
    """The request to make a run: its settings, its organs by label, and weights that were sent before."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    config: RunConfig
    organs: Annotated[dict[Label, OrganName], Field(min_length=1, max_length=255), AfterValidator(_named_once)]
    start: Start | None = None
    modules: dict[str, str] = Field(default_factory=dict)
    """The modules of the run's own code, each with the SHA-256 of its file at the submitter."""


class Submission(BaseModel):
    """Flower's id for a run, and how long it may wait for its sites."""

    flower_run: int = Field(ge=0, lt=1 << 64)
    wait_s: float = Field(ge=0, le=MOST_WAIT_S, allow_inf_nan=False)


class RunsApi:
    """Answer requests below `PREFIX` and pass on all others. `submitter` gives the name that a token belongs to."""

    def __init__(self, app: ASGIApp, runs: Path, submitter: Submitter) -> None:
        self._others = app
        self._submitter = submitter
        self._app = _app(ServedRuns(runs))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(f"{PREFIX}/"):
            await self._others(scope, receive, send)
            return
        kind, _, token = Request(scope).headers.get("authorization", "").partition(" ")
        submitter = self._submitter(token) if kind == "Bearer" else None
        if submitter is None:
            await _said("a submitter's token is needed", 401)(scope, receive, send)
            return
        if scope["method"] in ("POST", "PUT"):
            log(INFO, "[Runs] %s by submitter %s", scope["path"], submitter)
        await self._app(scope, receive, send)


def _said(sentence: str, status: int) -> Response:
    return JSONResponse({"error": sentence}, status_code=status)


def _app(runs: ServedRuns) -> Starlette:
    def about(request: Request) -> Response:
        return JSONResponse({"versions": versions()})

    def listed(request: Request) -> Response:
        return JSONResponse([asdict(state) for state in runs.states()])

    async def brought(request: Request) -> Response:
        await _bring(runs, request.path_params["sha256"], request)
        return JSONResponse({}, status_code=201)

    async def made(request: Request) -> Response:
        return await run_in_threadpool(_make, runs, request.path_params["name"], await _words(request))

    def state(request: Request) -> Response:
        return JSONResponse(asdict(state_of(runs.folder(request.path_params["name"]))))

    async def submitted(request: Request) -> Response:
        folder = runs.folder(request.path_params["name"])
        try:
            about = Submission.model_validate(parsed(await _words(request), most_bytes=MOST_WORDS_BYTES))
        except ValueError:
            return _said("a submission needs Flower's run id and the seconds to wait; run the same version", 400)
        note_submission(folder, about.flower_run, about.wait_s)
        return JSONResponse({})

    def stopped(request: Request) -> Response:
        folder = runs.folder(request.path_params["name"])
        # Two followers may have submitted a run at once; one of the submissions carries it out.
        folder.stop_file.request(submissions_of(folder))
        return JSONResponse({})

    def events(request: Request) -> Response:
        file = runs.folder(request.path_params["name"]).path / "events.jsonl"
        after = request.query_params.get("after", "0")
        if not re.fullmatch("[0-9]{1,15}", after):
            return _said("after: must be a number of bytes", 400)
        if not file.is_file():
            return Response(b"")
        with file.open("rb") as opened:
            opened.seek(int(after))
            return Response(opened.read(MOST_EVENT_BYTES))

    def files(request: Request) -> Response:
        return JSONResponse(runs.files(runs.folder(request.path_params["name"])))

    def file(request: Request) -> Response:
        folder = runs.folder(request.path_params["name"])
        return FileResponse(runs.file(folder, request.path_params["path"]))

    def wrong(request: Request, error: Exception) -> Response:
        return _said(str(error), 404 if isinstance(error, NoSuchRun) else 400)

    run = f"{PREFIX}/runs/{{name}}"
    return Starlette(
        routes=[
            Route(f"{PREFIX}/about", about),
            Route(f"{PREFIX}/starts/{{sha256}}", brought, methods=["PUT"]),
            Route(f"{PREFIX}/runs", listed),
            Route(run, state, methods=["GET"]),
            Route(run, made, methods=["POST"]),
            Route(f"{run}/submissions", submitted, methods=["POST"]),
            Route(f"{run}/stop", stopped, methods=["POST"]),
            Route(f"{run}/events", events),
            Route(f"{run}/files", files),
            Route(f"{run}/files/{{path:path}}", file),
        ],
        exception_handlers={AmosError: wrong},
    )


async def _words(request: Request) -> bytes:
    """The text of a request, checked not to be too long.

    Raises:
        AmosError: it is.
    """
    text = b""
    async for part in request.stream():
        text += part
        if len(text) > MOST_WORDS_BYTES:
            raise AmosError(f"a request may hold {MOST_WORDS_BYTES // 1_000_000} MB of text at most")
    return text


async def _bring(runs: ServedRuns, sha256: str, request: Request) -> None:
    """Store the weights in a request, for a run that is about to be made.

    Raises:
        AmosError: they do not match that hash, or there is no room for them.
    """
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise AmosError("weights must be sent under their SHA-256")
    starts = runs.root / STARTS
    starts.mkdir(parents=True, exist_ok=True)
    found, size = hashlib.sha256(), 0
    try:
        with whole_file(starts / sha256) as beside, beside.open("wb") as file:
            async for part in request.stream():
                size += len(part)
                if size > MOST_WEIGHTS_BYTES:
                    raise AmosError(f"weights of more than {MOST_WEIGHTS_BYTES >> 30} GiB are not accepted")
                found.update(part)
                await run_in_threadpool(file.write, part)
            if found.hexdigest() != sha256:
                raise AmosError("the weights were changed in transit; submit the run again")
    except OSError as error:
        raise AmosError(f"the SuperLink cannot keep the weights ({error.strerror}); make room on its disk") from None


def _forget_old(starts: Path) -> None:
    """Remove weights that were sent long ago; runs have links to them."""
    for path in starts.iterdir() if starts.is_dir() else ():
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > START_KEPT_S:
                path.unlink()


def _make(runs: ServedRuns, name: str, body: bytes) -> Response:
    """Make a new run's folder, whole or not at all."""
    path = runs.root / run_name(name)
    try:
        new = RunRequest.model_validate(parsed(body, most_bytes=MOST_WORDS_BYTES))
    except ValidationError as error:
        why = one_line(what_is_wrong(error, RunRequest, shows="keys"))
        return _said(f"the SuperLink does not know these settings ({why}); run the same version", 400)
    except ValueError as error:
        return _said(f"the SuperLink cannot read these settings: {error}", 400)
    if new.config.start_from is not None:
        raise AmosError("start_from: weights are sent along with a run, not named by a path; run the same version")
    for module, digest in own_modules(new.config).items():
        if new.modules.get(module) != digest:
            raise AmosError(
                f"module {module}: the SuperLink has a different file (SHA-256 {digest}); use the same file"
            )
    _forget_old(runs.root / STARTS)
    with _making:
        if path.exists():
            return _said(f"run {name}: the SuperLink has a run of this name already; choose another --out", 409)
        with whole_folder(path) as beside:
            if new.start is None:
                prepare_run(beside, new.config, new.organs)
            else:
                file = beside.resolve() / BROUGHT / new.start.name / "model" / WEIGHTS
                config = new.config.model_copy(update={"start_from": file})
                prepare_run(beside, config, new.organs, new.start.sha256)
                _take(runs.root / STARTS, new.start, file)
    return JSONResponse({}, status_code=201)


def _take(starts: Path, start: Start, file: Path) -> None:
    """Link weights that were sent into a run's folder, with their `network.json`; other runs may use them, too.

    Raises:
        AmosError: they were not sent, or too long ago.
    """
    sent = starts / start.sha256
    if not sent.is_file():
        raise AmosError("the SuperLink does not have the initial weights; submit the run again")
    file.parent.mkdir(parents=True)
    try:
        os.link(sent, file)
    except OSError:  # a file system without links
        shutil.copyfile(sent, file)
    if start.network is not None:
        write_json(file.with_name(NETWORK), start.network)
