"""A SuperNode that starts the site's own SuperExec, looks for messages sooner, and retries where Flower gives up."""

import os
import subprocess
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from amos_fl_clients.flower import parts
from amos_fl_clients.flower.backoff import BELL, Backoff, Doorbell, asking_again
from amos_fl_clients.flower.message_sync import MessageSync
from amos_fl_clients.flower.programs import OwnProcess, check_command, run_program, say_nothing_to_others
from amos_fl_clients.flower.refusals import Site
from amos_fl_clients.flower.taking_over import noting_contact, taking_over

HEARTBEAT = "AMOS_FL_HEARTBEAT_S"
"""Seconds between a site's signs of life, at least 10; a site that misses two of them counts as down."""


def run(arguments: Sequence[str], own_process: OwnProcess, site: Site | None) -> None:
    """`flower-supernode`; that of a `site` takes over from one that was killed.

    Raises:
        AmosError: the SuperLink does not let the site take part, or no longer does.
    """
    say_nothing_to_others()
    replace(own_process, site)
    try:
        run_program("flower-supernode", "flwr.supernode.cli", arguments)
    except SystemExit:
        if site is None or site.why is None:
            raise
        raise site.why from None


def replace(own_process: OwnProcess, site: Site | None) -> None:
    """Replace everything that a SuperNode of amos-fl does differently from Flower's."""
    if site is not None:
        parts.ACTIVATE_NODE.replace(site.activating(taking_over(parts.ACTIVATE_NODE.present, site.state)))
        parts.HEARTBEAT.replace(site.asking(noting_contact(parts.HEARTBEAT.present, site.state)))
        parts.CONNECTION_LEAVES.replace(site.leaving(parts.CONNECTION_LEAVES.present))
    for request in parts.ASKED_AGAIN:
        again = asking_again(request.present)
        request.replace(again if site is None else site.asking(again))
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
