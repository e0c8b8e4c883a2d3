"""The API of a SuperLink's runs in this process, and a run made by it."""

from pathlib import Path

from federations import tiny_config
from starlette.applications import Starlette
from starlette.testclient import TestClient

from amos_fl_server.operation.runs_api import RunsApi

ORGANS = {1: "ball", 2: "box"}
HEADERS = {"Authorization": "Bearer right"}


def client_of(runs: Path) -> TestClient:
    api = RunsApi(Starlette(), runs, lambda token: "coordinator" if token == "right" else None)
    return TestClient(api, headers=HEADERS, raise_server_exceptions=True)


def made(client: TestClient, name: str = "one", **settings: object) -> dict[str, object]:
    body = {"config": tiny_config(**settings).model_dump(mode="json"), "organs": ORGANS}
    answer = client.post(f"/amos-fl/runs/{name}", json=body)
    return {"status": answer.status_code, **answer.json()}
