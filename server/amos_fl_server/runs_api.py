"""What a SuperLink of amos-fl answers beside Flower's own requests, at the same port: runs made, followed and fetched.

Flower takes a run in and streams its log, and no more. The settings of a run, what happens in it and the folder that
it leaves go this way, under `/amos-fl/`, with the same submitter's token.
"""

import re
from collections.abc import Callable
from dataclasses import asdict
from logging import INFO
from pathlib import Path
from threading import Lock
from typing import Any

from flwr.supercore import log
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from amos_fl.deploy.layout import versions
from amos_fl.errors import AmosError
from amos_fl.files import whole_folder
from amos_fl.runs.config import RunConfig
from amos_fl_server.served_runs import NoSuchRun, ServedRuns, note_submission, prepare_run, run_name, state_of

PREFIX = "/amos-fl"
MOST_EVENT_BYTES = 1_000_000
_making = Lock()
"""Of two requests for one name, the second is told that it is taken."""

Submitter = Callable[[str], str | None]


class NewRun(BaseModel):
    """What makes a run: its settings and the organs that it is to learn, by label."""

    model_config = ConfigDict(extra="forbid")

    config: RunConfig
    organs: dict[int, str]


class Submission(BaseModel):
    """Under which number Flower was given a run, and how long it may wait for its sites."""

    flower_run: int
    wait_s: float = Field(ge=0, allow_inf_nan=False)


class RunsApi:
    """Answers requests below `PREFIX` and hands on all others. `submitter` gives the name that a token belongs to."""

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
        if scope["method"] == "POST":
            log(INFO, "[Runs] %s by submitter %s", scope["path"], submitter)
        await self._app(scope, receive, send)


def _said(sentence: str, status: int) -> Response:
    return JSONResponse({"error": sentence}, status_code=status)


def _app(runs: ServedRuns) -> Starlette:
    def about(request: Request) -> Response:
        return JSONResponse({"versions": versions()})

    def listed(request: Request) -> Response:
        return JSONResponse([asdict(state) for state in runs.states()])

    async def made(request: Request) -> Response:
        return await run_in_threadpool(_make, runs, request.path_params["name"], await request.body())

    def state(request: Request) -> Response:
        return JSONResponse(asdict(state_of(runs.folder(request.path_params["name"]))))

    async def submitted(request: Request) -> Response:
        folder = runs.folder(request.path_params["name"])
        try:
            about = Submission.model_validate_json(await request.body())
        except ValidationError:
            return _said("a submission is a number of Flower's and the seconds to wait; run the same version", 400)
        note_submission(folder, about.flower_run, about.wait_s)
        return JSONResponse({})

    def stopped(request: Request) -> Response:
        runs.folder(request.path_params["name"]).stop_file.request()
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


def _make(runs: ServedRuns, name: str, body: bytes) -> Response:
    """Make a new run's folder; it is there with all its files, or not at all."""
    path = runs.root / run_name(name)
    try:
        new = NewRun.model_validate_json(body)
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        return _said(f"the SuperLink does not know these settings ({where}: {first['msg']}); run the same version", 400)
    if new.config.start_from is not None:
        raise AmosError("start_from: a deployed run begins with fresh weights; leave it out")
    with _making:
        if path.exists():
            return _said(f"run {name}: the SuperLink has a run of this name already; choose another --out", 409)
        with whole_folder(path) as beside:
            prepare_run(beside, new.config, new.organs)
    return JSONResponse({}, status_code=201)
