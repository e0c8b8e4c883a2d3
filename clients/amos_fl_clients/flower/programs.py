"""Flower's programs, run in this process with their own arguments."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

OwnProcess = Callable[[str, Sequence[str]], list[str]]
"""The command of one of the site's own processes, by its role and arguments."""


def say_nothing_to_others() -> None:
    """Switch off Flower's telemetry and its check for newer versions, which has to be done before its import."""
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    for name in ("FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES", "FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PULLS"):
        os.environ.setdefault(name, "8")  # pieces of a network's weights in transit at a time; read at import, too


def run_program(name: str, module: str, arguments: Sequence[str]) -> None:
    """Run Flower's program `name`, a function of `module`, under its own name."""
    cli: Any = importlib.import_module(module)
    sys.argv = [name, *arguments]
    getattr(cli, name.replace("-", "_"))()


def options_in(arguments: Sequence[str]) -> dict[str, str]:
    """The options among a program's arguments that have a value, as two words or as one.

    >>> options_in(["--insecure", "--port", "1", "--host=here"])["--port"]
    '1'
    """
    found = dict(pairwise(arguments))
    return found | {name: value for name, is_, value in (word.partition("=") for word in arguments) if is_}


def check_command(command: Sequence[str], known: str) -> None:
    """Allow Flower to start no program at a site other than the one that ours replaces.

    Raises:
        RuntimeError: Flower would start another one.
    """
    if command[0] != known:
        raise RuntimeError(f"this version of Flower starts {command[0]} at a site, which amos-fl does not know")
