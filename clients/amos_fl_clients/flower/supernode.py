"""A SuperNode that starts the site's own SuperExec, looks for messages sooner, and retries where Flower gives up."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from amos_fl_clients.flower import parts
from amos_fl_clients.flower.backoff import BELL, Backoff, Doorbell, asking_again
from amos_fl_clients.flower.message_sync import MessageSync
from amos_fl_clients.flower.programs import OwnProcess, check_command, run_program, say_nothing_to_others
from amos_fl_clients.flower.taking_over import noting_contact, taking_over

HEARTBEAT = "AMOS_FL_HEARTBEAT_S"
"""Seconds between a site's signs of life, at least 10; a site that misses two of them counts as down."""


def run(arguments: Sequence[str], own_process: OwnProcess, state: Path | None) -> None:
    """`flower-supernode`; with the site's `state` folder, it takes over from one that was killed."""
    say_nothing_to_others()
    replace(own_process, state)
    run_program("flower-supernode", "flwr.supernode.cli", arguments)


def replace(own_process: OwnProcess, state: Path | None) -> None:
    """Replace everything that a SuperNode of amos-fl does differently from Flower's."""
    if state is not None:
        parts.ACTIVATE_NODE.replace(taking_over(parts.ACTIVATE_NODE.present, state))
        parts.HEARTBEAT.replace(noting_contact(parts.HEARTBEAT.present, state))
    for request in parts.ASKED_AGAIN:
        request.replace(asking_again(request.present))
    if (heartbeat_s := os.environ.get(HEARTBEAT)) is not None:
        for heartbeat in parts.HEARTBEATS:
            heartbeat.replace(float(heartbeat_s))
    bell, backoff, sync = Doorbell(), Backoff(), MessageSync()
    pull = parts.PULL_MESSAGE.present

    def pull_and_tell(*arguments: Any, **more: Any) -> Any:
        run_id = pull(*arguments, **more)
        if run_id is not None:
            backoff.begin_anew()
            bell.ring()
        return run_id

    def start(command: Sequence[str]) -> "subprocess.Popen[bytes]":
        check_command(command, "flower-superexec")
        environment = {**os.environ, BELL: str(bell.heard_at)}
        return subprocess.Popen(own_process("superexec", command[1:]), env=environment, pass_fds=[bell.heard_at])

    parts.START_SUPEREXEC.replace(SimpleNamespace(Popen=start))
    parts.PULL_MESSAGE.replace(sync.pulling(pull_and_tell))
    parts.PUSH_MESSAGES.replace(sync.pushing(parts.PUSH_MESSAGES.present))
    parts.SUPERNODE_WAITS.replace(SimpleNamespace(sleep=backoff.sleep))
