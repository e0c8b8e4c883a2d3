"""The processes of a site, with the site's own check before any code of an app runs.

A SuperNode starts a SuperExec, which starts a new process for every message; that process fetches the message and the
app, unpacks the app, imports it and calls it. Flower has no setting for a custom check in that chain, so the same
programs are started with a few parts replaced (`amos_fl_clients.flower`): each is this module, run with the name of its
role, and the process of a message hashes an app before unpacking it.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, Error, Message

from amos_fl.deploy.running import LOCK
from amos_fl.errors import AmosError, code_of
from amos_fl.files import private_folder
from amos_fl.locks import AtWork, take
from amos_fl_clients.federation.audit import Audited
from amos_fl_clients.federation.error_replies import SiteFailure, error_reply, keep_details, words_that_may_travel
from amos_fl_clients.federation.policy import Refusal, check_not_paused
from amos_fl_clients.federation.settings import SiteSettings
from amos_fl_clients.flower import clientapp, superexec, supernode
from amos_fl_clients.flower.preloaded import fork_for_each_request
from amos_fl_clients.flower.refusals import Site
from amos_fl_clients.operation.allowed_apps import check_app
from amos_fl_clients.operation.settings_lookup import settings_of


def own_process(role: str, arguments: Sequence[str]) -> list[str]:
    """The command of a process of this module."""
    # -P: nothing that lies in the working folder is imported
    return [sys.executable, "-P", "-m", "amos_fl_clients.operation.processes", role, *arguments]


def run_supernode(arguments: Sequence[str], site: Site | None = None) -> None:
    """Run `flower-supernode`, which starts this module's SuperExec; that of a `site` takes over from a killed one.

    Raises:
        AmosError: the SuperLink does not let the site take part, or no longer does.
    """
    supernode.run(arguments, own_process, site)


def run_superexec(arguments: Sequence[str]) -> None:
    """Run `flower-superexec` for ClientApps only, each in this module's process."""
    superexec.run(arguments, own_process)


def run_clientapp(arguments: Sequence[str]) -> None:
    """Run `flwr-clientapp`, which checks the app before unpacking it, and the words of every error."""
    clientapp.run(arguments, AppCheck())


def run_preloaded(arguments: Sequence[str]) -> None:
    """Run the preloaded process that is forked for each message."""
    fork_for_each_request(run_clientapp, "amos_fl_clients.operation.client_app")


@contextmanager
def only_supernode(site: str, state: Path) -> Iterator[None]:
    """Hold a lock while this site's SuperNode runs, because two would each get some of the messages.

    Raises:
        AmosError: it runs already, or the site's state may not be written.
    """
    try:
        private_folder(state)
        lock = take(state / LOCK)
    except AtWork:
        raise AmosError(f"site {site}: its SuperNode runs already on {state}; end it first") from None
    except OSError as error:
        raise AmosError(
            f"site {site}: {state} may not be written ({error.strerror}); "
            f"let the user with id {os.getuid()} write there, or mount a volume there"
        ) from None
    try:
        yield
    finally:
        lock.release()


class AppCheck:
    """The check of an app between its arrival and its import, in the process of one message."""

    def __init__(self) -> None:
        self.failure: Error | None = None
        self._message: Message | None = None
        self._context: Context | None = None
        self._installed: Path | None = None
        self._share_details = False

    def received(self, message: Message, context: Context) -> None:
        self._message, self._context = message, context

    def unpacked(self, content: bytes, unpack: Callable[[], Path]) -> Path:
        """Unpack an app that is allowed.

        Raises:
            Refusal: it is not, or the site is paused. SiteFailure: the settings cannot be read.
        """
        message, settings = self._asked()
        self._share_details = settings.share_error_details
        try:
            check_not_paused(settings)
            check_app(settings, content)
            self._installed = unpack()
        except Refusal as refusal:
            Audited(settings.site, settings.state, message).refused(str(refusal))
            self.failure = error_reply(message, settings.site, refusal, in_full=False).error
            raise
        except Exception as error:
            self._fail(settings, message, error)
        assert self._installed is not None
        return self._installed

    def before_import(self, folder: Path) -> None:
        """Restrict the import to the folder into which the checked app was unpacked.

        Raises:
            SiteFailure: it is another.
        """
        if self._installed is None or folder != self._installed:
            message, settings = self._asked()
            failure = SiteFailure("the app that was sent and the app that was to be run are not the same")
            self.failure = error_reply(message, settings.site, failure, in_full=False).error
            raise failure

    def words(self, reason: str) -> str:
        """The reason of an app's own error, or no details at all."""
        return reason if self._share_details else "the site's program failed; its own log says why"

    def _asked(self) -> tuple[Message, SiteSettings]:
        assert self._message is not None
        assert self._context is not None
        return self._message, settings_of(self._context)

    def _fail(self, settings: SiteSettings, message: Message, error: Exception) -> None:
        words = words_that_may_travel(error, settings.site)
        Audited(settings.site, settings.state, message).failed(words)
        keep_details(settings, error)
        self.failure = error_reply(message, settings.site, error, in_full=False).error
        raise SiteFailure(words, code=code_of(error)) from None


if __name__ == "__main__":
    roles = {
        "superexec": run_superexec,
        "clientapp": run_clientapp,
        "supernode": run_supernode,
        "preloaded": run_preloaded,
    }
    roles[sys.argv[1]](sys.argv[2:])
