"""Error replies of a site: enough for the server to act on, with every path and name kept at the site."""

import traceback
from contextlib import suppress
from datetime import UTC, datetime

from flwr.app import Error, Message

from amos_fl.errors import AmosError, Code, SiteTimeout, TrainingDiverged, code_of
from amos_fl.escape.terminal import one_line
from amos_fl.files import append_line
from amos_fl_clients.federation.audit import LOG_MODE, NotRecorded
from amos_fl_clients.federation.policy import Refusal
from amos_fl_clients.federation.reply_models import MOST_SENTENCE, REPORTED, Failure
from amos_fl_clients.federation.settings import SiteSettings

ERROR_LOG = "errors.log"


class SiteFailure(AmosError):  # noqa: N818 - named after what happened
    """A site's error in words that may leave it, with the error's code."""


class ReplyWithheld(AmosError):  # noqa: N818 - named after what happened
    """A reply with forbidden content was not sent. The message names a record or an array, but no value."""


_TRAVELS_AS_IT_IS = (NotRecorded, Refusal, ReplyWithheld, SiteFailure, SiteTimeout, TrainingDiverged)
"""Errors whose sentences contain only numbers, splits, and the site's and arrays' names."""


def words_that_may_travel(error: BaseException, site: str) -> str:
    """The sentence that may leave the site for an error of any kind.

    >>> words_that_may_travel(FileNotFoundError(2, "No such file", "/data/jane_doe.nii.gz"), "A")
    "site A: a file of its own is missing or cannot be read; run 'amos-fl deploy check' there (errors.log says more)"
    """
    if isinstance(error, _TRAVELS_AS_IT_IS):
        return str(error)
    code = code_of(error)
    if code == "failed":
        return f"site {site}: {_KINDS[code]} ({type(error).__name__}); the site's {ERROR_LOG} says more"
    kind = _KINDS.get(code, "its scans, settings or state are not as they should be")
    return f"site {site}: {kind}; run 'amos-fl deploy check' there ({ERROR_LOG} says more)"


_KINDS: dict[Code, str] = {
    "out-of-memory": "it ran out of memory",
    "disk-full": "no space is left on its disk",
    "file-unreadable": "a file of its own is missing or cannot be read",
    "failed": "its program failed",
}


def error_reply(message: Message, site: str, error: Exception, *, in_full: bool) -> Message:
    """The reply to a failed request: the error's code with the sentence that may leave the site, or the full error."""
    sentence = words_that_may_travel(error, site)
    if in_full:
        sentence = str(error) if isinstance(error, AmosError) else f"{type(error).__name__}: {error}"
    failure = Failure(site=site, code=code_of(error), sentence=one_line(sentence, MOST_SENTENCE))
    return Message(Error(REPORTED, failure.model_dump_json()), reply_to=message)


def keep_details(settings: SiteSettings, error: BaseException) -> None:
    """Add an error, its sentence first and then its traceback, to a log that stays at the site."""
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    said = one_line(str(error), MOST_SENTENCE) or type(error).__name__
    text = f"{said}\n{''.join(traceback.format_exception(error)).rstrip()}"
    with suppress(OSError):  # a failure to log must not become another error, with a path in it
        append_line(settings.state / ERROR_LOG, f"{when} {text}\n", mode=LOG_MODE)
