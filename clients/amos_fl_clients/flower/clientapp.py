"""The process that handles one message, with the site's own check around unpacking and loading the app."""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from amos_fl_clients.flower import parts
from amos_fl_clients.flower.programs import run_program, say_nothing_to_others


class Check(Protocol):
    """What replaces Flower's own functions."""

    def pull_task_input(self, client: Any) -> Any: ...
    def install_from_fab(self, content: bytes, **options: Any) -> Any: ...
    def get_load_client_app_fn(self, **options: Any) -> Any: ...
    def error(self, code: int, reason: str) -> Any: ...


def run(arguments: Sequence[str], check: Callable[[Any], Check]) -> None:
    """`flwr-clientapp`; `check` is given Flower's module, with the functions that it wraps."""
    say_nothing_to_others()
    sys.dont_write_bytecode = True  # the folder of the app stays as it was sent
    replace(check)
    run_program("flwr-clientapp", "flwr.supernode.cli", arguments)


def replace(check: Callable[[Any], Check]) -> None:
    """Replace Flower's functions by those of a check."""
    own = check(clientapp_module())
    parts.PULL_TASK.replace(own.pull_task_input)
    parts.INSTALL_APP.replace(own.install_from_fab)
    parts.LOAD_APP.replace(own.get_load_client_app_fn)
    parts.ERROR.replace(own.error)


def clientapp_module() -> Any:
    """Flower's module for the process that handles one message."""
    return importlib.import_module(parts.PULL_TASK.module)
