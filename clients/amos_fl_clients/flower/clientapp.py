"""The process that handles one message, with the site's own check around unpacking and loading the app.

Flower's functions, the tuple that one of them returns and the layout of an app's archive are known here alone; the
site's check is told of a message, an archive and a folder.
"""

import importlib
import io
import logging
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from flwr.app import Context, Error, Message

from amos_fl.errors import AmosError
from amos_fl_clients.flower import parts
from amos_fl_clients.flower.endings import end_with_the_supernode
from amos_fl_clients.flower.programs import run_program, say_nothing_to_others


class Check(Protocol):
    """What a site says about the one message of this process."""

    @property
    def failure(self) -> Error | None:
        """Why the site does not run the app, if it does not."""

    def received(self, message: Message, context: Context) -> None:
        """Note the message, before its app is looked at."""

    def unpacked(self, content: bytes, unpack: Callable[[], Path]) -> Path:
        """The folder of an allowed app, unpacked by `unpack`; raises for another."""
        ...

    def before_import(self, folder: Path) -> None:
        """Raise unless this is the folder of the checked app."""

    def words(self, reason: str) -> str:
        """What may leave the site of an app's own error."""
        ...


def run(arguments: Sequence[str], check: Check) -> None:
    """`flwr-clientapp`, with a check of its app."""
    say_nothing_to_others()
    end_with_the_supernode()
    sys.dont_write_bytecode = True  # the folder of the app stays as it was sent
    replace(check)
    run_program("flwr-clientapp", "flwr.supernode.cli", arguments)


def replace(check: Check) -> None:
    """Replace Flower's functions by those that ask a check."""
    own = CheckedProcess(check)
    parts.PULL_TASK.replace(own.pull_task_input)
    parts.INSTALL_APP.replace(own.install_from_fab)
    parts.LOAD_APP.replace(own.get_load_client_app_fn)
    parts.ERROR.replace(own.error)
    logging.getLogger("flwr").addFilter(in_a_sentence)


def in_a_sentence(record: logging.LogRecord) -> bool:
    """Have Flower log what a site refuses on purpose as its sentence; a traceback would look like a fault."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, AmosError):
        record.msg, record.args, record.exc_info, record.exc_text = "%s", (str(error),), None, None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return True


class CheckedProcess:
    """Flower's functions for one message, which ask a check; each has the name of the one that it wraps."""

    def __init__(self, check: Check) -> None:
        process: Any = importlib.import_module(parts.PULL_TASK.module)
        self._check = check
        self._pull: Callable[[Any], Any] = process.pull_task_input
        self._install: Callable[..., Path] = process.install_from_fab
        self._loader: Callable[..., Any] = process.get_load_client_app_fn
        self._error: Callable[..., Error] = process.Error
        self._folder_of: Callable[..., Path] = process.get_project_dir

    def pull_task_input(self, client: Any) -> Any:
        pulled = self._pull(client)
        message, context, *_ = pulled
        self._check.received(message, context)
        return pulled

    def install_from_fab(self, content: bytes, **options: Any) -> Path:
        return self._check.unpacked(content, lambda: self._exactly(content, **options))

    def _exactly(self, content: bytes, **options: Any) -> Path:
        """The folder of an app with exactly the content of its archive.

        Flower uses an existing folder of the right name as it is, and someone may have put something into it.
        """
        folder = self._install(content, **options)
        if not holds_exactly(folder, content):
            shutil.rmtree(folder)
            folder = self._install(content, **options)
        return folder

    def get_load_client_app_fn(self, **options: Any) -> Any:
        """Flower's loader for the checked folder; the server names that folder by parts, and could name another one."""
        load = self._loader(**options)

        def load_checked(fab_id: str, fab_version: str, fab_hash: str) -> Any:
            self._check.before_import(self._folder_of(fab_id, fab_version, fab_hash))
            return load(fab_id, fab_version, fab_hash)

        return load_checked

    def error(self, code: int, reason: str) -> Error:
        return self._check.failure or self._error(code=code, reason=self._check.words(reason))


def holds_exactly(folder: Path, content: bytes) -> bool:
    """Whether a folder holds exactly the files of an archive, byte for byte, and no others, such as compiled ones."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sent = {name: archive.read(name) for name in archive.namelist() if not name.startswith(".info/")}
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if not path.is_dir()}
    return sent.keys() == found.keys() and all(path.read_bytes() == sent[name] for name, path in found.items())
