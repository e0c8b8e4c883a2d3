"""The state of a deployment: the SuperLink, the sites with their last answers, and the runs."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from amos_fl.deploy.enroll import registered_keys
from amos_fl.deploy.keys import read_public_key
from amos_fl.deploy.layout import read_deployment, versions
from amos_fl.errors import AmosError
from amos_fl.runs.events import event_of, in_words
from amos_fl_clients.flower.control import public_key_bytes
from amos_fl_server.operation.connection import Connection, NoAnswer, RunsClient, connection_of, control_of
from amos_fl_server.operation.run_registry import RunState, state_in
from amos_fl_server.operation.submitter import SubmittedRun, with_flowers_word


@dataclass(frozen=True)
class SiteState:
    """The state of a site.

    `state` is `online`, `offline`, `paused` (online, but refusing everything), `registered` (admitted, and it has never
    connected), `not admitted` (its key is registered here, but the SuperLink does not know it), or `unregistered` (it
    has sent no key). `since` is when that began, if known; `said` is the site's answer when a run last asked.
    """

    site: str
    state: str
    since: float | None
    said: str


@dataclass(frozen=True)
class Overview:
    """The state of a whole deployment; `warnings` are sentences."""

    address: str
    flwr: str
    amos_fl: str
    warnings: tuple[str, ...]
    sites: tuple[SiteState, ...]
    runs: tuple[RunState, ...]


Answer = tuple[float, str, str]
"""When a site answered, its words, and the error code if it was an error."""


def overview(root: Path, host: str | None = None) -> Overview:
    """The state of the deployment in a folder.

    Raises:
        AmosError: no deployment there; the SuperLink does not answer, is not trusted, or refuses the token.
    """
    deployment, connection = read_deployment(root), connection_of(root, host)
    with RunsClient(connection, timeout_s=15.0) as client:
        there = client.get("/about")["versions"]
        listed = [state_in(run) for run in client.get("/runs")]
        answers = _answers(client, listed)
        runs = tuple(
            with_flowers_word(connection, run, SubmittedRun(connection, client, run.name).known_state) for run in listed
        )
    with control_of(connection) as control:
        known = control.nodes()
    keys = {site: public_key_bytes(read_public_key(path)) for site, path in registered_keys(root).items()}
    sites = tuple(
        _site(site, known.get(keys[site]) if site in keys else None, site in keys, answers) for site in deployment.sites
    )
    here = versions()
    warnings = tuple(
        f"here is {name.replace('_', '-')} {here[name]}, there {there[name]}; use the same"
        for name in here
        if here[name] != there.get(name)
    )
    return Overview(connection.address, there["flwr"], there["amos_fl"], warnings, sites, runs)


def _answers(client: RunsClient, runs: list[RunState]) -> dict[str, Answer]:
    """Each site's answer when a run last asked it."""
    found: dict[str, Answer] = {}
    for run in runs[:20]:
        with suppress(AmosError, ValueError, KeyError, TypeError):
            for site, answer in json.loads(client.read(f"/runs/{run.name}/files/answers.json")).items():
                if answer["time"] > found.get(site, (0.0, "", ""))[0]:
                    found[site] = (answer["time"], answer["said"], answer.get("code", ""))
    return found


def _site(site: str, node: Any, registered: bool, answers: dict[str, Answer]) -> SiteState:
    when, said, code = answers.get(site, (0.0, "", ""))
    if node is None:
        return SiteState(site, "not admitted" if registered else "unregistered", None, "")
    online = node.status == "online"
    said_when = f"{said} ({time.strftime('%Y-%m-%d %H:%M', time.localtime(when))})" if said else ""
    if online and code == "paused":
        return SiteState(site, "paused", when, said_when)
    since = node.last_activated_at if online else node.last_deactivated_at
    return SiteState(site, str(node.status), _seconds(since), said_when)


def _seconds(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def events_of(client: RunsClient, name: str, *, follow: bool, pause_s: float = 1.0) -> Iterator[tuple[float, str]]:
    """Yield the events of a run, time and words; with `follow`, until it has ended.

    Raises:
        AmosError: no such run.
    """
    after, ended = 0, not follow
    while True:
        try:
            ended = ended or state_in(client.get(f"/runs/{name}")).ended
            while content := client.read(f"/runs/{name}/events", after=after):
                whole = content[: content.rfind(b"\n") + 1]
                if not whole:
                    break
                after += len(whole)
                for line in whole.decode(errors="replace").splitlines():
                    found = event_of(line)
                    if found is not None and (text := in_words(found[1])) is not None:
                        yield found[0], text
            if ended:
                return
        except NoAnswer:
            if not follow:
                raise
        time.sleep(pause_s)


def flower_log(connection: Connection, state: RunState, *, follow: bool) -> Iterator[str]:
    """Flower's log of the run's last server process.

    Raises:
        AmosError: the run was never submitted.
    """
    if state.flower_run is None:
        raise AmosError(f"run {state.name}: has not been submitted yet, so it has no log")
    with control_of(connection) as control:
        for line in control.log_of(state.flower_run):
            yield line
            if not follow and state.state in ("running", "waiting"):
                return
