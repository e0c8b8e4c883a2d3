"""A run from its submitter's side: submit, follow and fetch it, and restart it after its process died."""

import json
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.files import sha256_of_file, whole_file
from amos_fl.runs.config import RunConfig
from amos_fl.runs.events import Listener, RoundFinished, RoundScored, event_of
from amos_fl.runs.origin import origin_of
from amos_fl.runs.own_code import own_modules
from amos_fl.stopping import INTERRUPTED
from amos_fl_clients.operation.allowed_apps import archive_of, sha256_of_app, shipped_app
from amos_fl_server.operation.connection import Connection, NoAnswer, NotThere, RunsClient, control_of
from amos_fl_server.operation.run_registry import WAIT_FOR_SITES_S, RunState, state_in, unless_given_up
from amos_fl_server.operation.server_app import RUN_FOLDER, WAIT_S

SMALL_BYTES = 1_000_000
PAUSES = 20
"""While a run is followed, its files are fetched in a twentieth of the time at most."""
NOT_SUBMITTED_S = 60.0
"""After this time a run that was made but not submitted counts as abandoned."""


@dataclass
class SubmittedRun:
    """One run at a SuperLink, by its name."""

    connection: Connection
    client: RunsClient
    name: str

    def make(self, config: RunConfig, organs: dict[int, str]) -> None:
        """Make its folder at the SuperLink; the weights in `config.start_from`, which fit the run, are sent along.

        Its trackers stay here, with whoever follows the run.

        Raises:
            AmosError: there is one already, or the SuperLink's version does not know the settings.
        """
        body: dict[str, Any] = {
            "config": config.model_dump(mode="json") | {"start_from": None, "trackers": []},
            "organs": organs,
        }
        body["modules"] = own_modules(config)
        if config.start_from is not None:
            origin = origin_of(config.start_from)
            body["start"] = {
                "sha256": sha256_of_file(origin.file),
                "name": re.sub("[^A-Za-z0-9._-]", "_", origin.name).lstrip(".")[:100] or "weights",
                "network": origin.about(),
            }
            self.client.send(f"/starts/{body['start']['sha256']}", origin.file)
        self.client.post(f"/runs/{self.name}", json.dumps(body))

    def submit(self, wait_s: float = WAIT_FOR_SITES_S) -> int:
        """Request a ServerApp that starts or continues the run; returns Flower's id for it."""
        content = archive_of(shipped_app())
        with control_of(self.connection) as control:
            run_id = control.start_run(sha256_of_app(content), content, {RUN_FOLDER: self.name, WAIT_S: wait_s})
        if run_id is None:
            raise AmosError(f"run {self.name}: the SuperLink did not accept the run; see its log")
        about = {"flower_run": run_id, "wait_s": wait_s}
        self.client.post(f"/runs/{self.name}/submissions", json.dumps(about))
        return run_id

    def state(self) -> RunState:
        """Its state, including what Flower knows of a run that none of our processes has picked up."""
        return with_flowers_word(self.connection, self.known_state(), self.known_state)

    def known_state(self) -> RunState:
        """Its state as its folder at the SuperLink has it."""
        return state_in(self.client.get(f"/runs/{self.name}"))

    def stop(self) -> None:
        """Ask it to stop; sites finish their current step, and their work on this round is lost."""
        self.client.post(f"/runs/{self.name}/stop")
        state = self.known_state()
        if state.state == "waiting" and state.flower_run is not None:
            self._stop_at_flower(state.flower_run)

    def go_on(self, state: RunState, wait_s: float) -> None:
        """Restart a run that no process carries out from its last complete round."""
        self.submit(wait_s)
        # Now, or its sites would go on with messages that nobody waits for; and not before, or whoever follows the run
        # would meanwhile learn from Flower that it was stopped by request.
        if state.flower_run is not None:
            self._stop_at_flower(state.flower_run)

    def _stop_at_flower(self, flower_run: int) -> None:
        with suppress(AmosError), control_of(self.connection) as control:
            control.stop_run(flower_run)


def with_flowers_word(connection: Connection, state: RunState, known_now: Callable[[], RunState]) -> RunState:
    """A run's state, completed by Flower's knowledge of whether it will still be picked up, or was stopped.

    A run that is restarted meanwhile is stopped at Flower under its old number, so what Flower adds counts only if
    `known_now`, asked after it, still gives the same submission.

    Raises:
        NoAnswer: the SuperLink does not answer now, which says nothing about the run.
    """
    while True:
        found = _with_flowers_word(connection, state)
        if found == state:
            return state
        now = known_now()
        if (now.state, now.flower_run) == (state.state, state.flower_run):
            return found
        state = now


def _with_flowers_word(connection: Connection, state: RunState) -> RunState:
    if state.state not in ("waiting", "died") or state.flower_run is None:
        return state
    status: Any = None
    try:
        with control_of(connection) as control:
            status = control.run_status(state.flower_run)
    except NoAnswer:
        raise
    except AmosError:
        pass  # Flower's way to say that it knows no such run
    if status is None:
        # A SuperLink that has forgotten it was started without --database.
        return unless_given_up(replace(state, state="died"))
    if status.status == "finished" and status.sub_status == "stopped":
        return replace(state, state="stopped", exit_code=INTERRUPTED, error="stopped by request")
    if status.status == "finished" and state.state == "waiting":
        return unless_given_up(replace(state, state="died", error=status.details or None))
    return state


@dataclass
class Following:
    """Pass a run's events to a listener as they arrive, and its files to a local folder.

    `folder` is None if the SuperLink's own folder of the run is accessible. `say` gets sentences for the user.
    """

    run: SubmittedRun
    folder: Path | None
    listener: Listener
    say: Callable[[str], None]
    after: int = 0
    pause_s: float = 0.5
    ask_flower_s: float = 5.0
    fetched_at: float = 0.0
    fetching_s: float = 0.0
    """When the files were last looked through, and how long that took: it takes longer with every round."""

    def to_the_end(self, asked_to_stop: Callable[[], bool] = lambda: False) -> RunState:
        """Follow until the run has ended; restart it if its process dies.

        Raises:
            AmosError: it cannot be restarted, or the SuperLink refuses an answer.
        """
        silent, stopping, asked_flower = False, False, 0.0
        while True:
            try:
                state = self.run.known_state()
                if state.state in ("waiting", "died") and time.monotonic() - asked_flower >= self.ask_flower_s:
                    asked_flower = time.monotonic()
                    state = with_flowers_word(self.run.connection, state, self.run.known_state)
                    if state.state == "died":
                        self.say(f"the process of run {self.run.name} died after round {state.rounds_done}")
                        if stopping:
                            return replace(state, state="stopped", exit_code=INTERRUPTED)
                        self.run.go_on(state, state.wait_s)
                        self.say(f"run {self.run.name} goes on from round {state.rounds_done + 1}")
                if asked_to_stop() and not stopping:
                    self.run.stop()
                    stopping = True
                self.new_events()
                if silent:
                    self.say("the SuperLink answers again")
                    silent = False
                if state.ended:
                    self.new_events()
                    self.fetch()
                    return state
            except NoAnswer as error:
                if not silent:
                    self.say(f"{error}; waiting for it (the run goes on when it is back)")
                silent = True
            time.sleep(self.pause_s)

    def new_events(self) -> None:
        """Pass on the events since the last time."""
        while content := self.run.client.read(f"/runs/{self.run.name}/events", after=self.after):
            whole = content[: content.rfind(b"\n") + 1]
            if not whole:
                return
            self.after += len(whole)
            for line in whole.decode(errors="replace").splitlines():
                if (found := event_of(line)) is not None:
                    self.listener(found[1])
                    waited_s = time.monotonic() - self.fetched_at
                    if isinstance(found[1], (RoundFinished, RoundScored)) and waited_s >= PAUSES * self.fetching_s:
                        started = time.monotonic()
                        self.fetch(at_most_bytes=SMALL_BYTES)
                        self.fetched_at = time.monotonic()
                        self.fetching_s = self.fetched_at - started

    def fetch(self, at_most_bytes: int | None = None) -> None:
        """Update the local folder; larger files are left for later."""
        if self.folder is None:
            return
        listed = self.run.client.get(f"/runs/{self.run.name}/files")
        for file in listed:
            target = self.folder / file["path"]
            if not target.resolve().is_relative_to(self.folder.resolve()):
                raise AmosError(f"the SuperLink names a file outside of the run's folder ({file['path']}); see its log")
            if at_most_bytes is not None and file["bytes"] > at_most_bytes:
                continue
            if not _is_same(target, file):
                try:
                    with whole_file(target) as beside:
                        self.run.client.save(f"/runs/{self.run.name}/files/{file['path']}", beside)
                except NotThere:
                    continue  # removed since it was listed, as checkpoints are
                os.utime(target, ns=(file["changed_ns"], file["changed_ns"]))
        there = {file["path"] for file in listed}
        for old in (self.folder / "checkpoints").rglob("*"):
            if old.is_file() and old.relative_to(self.folder).as_posix() not in there:
                old.unlink()
        for old in (self.folder / "checkpoints").glob("*"):
            with suppress(OSError):
                old.rmdir()  # of a checkpoint that is no longer kept


def _is_same(path: Path, file: dict[str, Any]) -> bool:
    try:
        about = path.stat()
    except OSError:
        return False
    return about.st_size == file["bytes"] and about.st_mtime_ns == file["changed_ns"]


def keep_runs_going(connection: Connection, say: Callable[[str], None], given_up: set[tuple[str, int]]) -> None:
    """Restart every run whose process died; runs tried too often are reported once, and added to `given_up`.

    Raises:
        AmosError: the SuperLink does not answer.
    """
    with RunsClient(connection) as client:
        for listed in client.get("/runs"):
            run = SubmittedRun(connection, client, state_in(listed).name)
            state = with_flowers_word(connection, state_in(listed), run.known_state)
            left = state.state == "created" and time.time() - state.changed > NOT_SUBMITTED_S
            mark = (state.name, state.tries)
            if state.given_up and mark not in given_up:
                given_up.add(mark)
                say(f"{state.error}, then continue with --resume")
            if (state.state != "died" and not left) or mark in given_up:
                continue
            try:
                run.go_on(state, state.wait_s)
                say(f"run {state.name}: brought up again after round {state.rounds_done} of {state.rounds}")
            except NoAnswer:
                raise
            except AmosError as error:
                given_up.add(mark)
                say(str(error))
