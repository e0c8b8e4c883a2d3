"""Exchange requests and replies, one at a time, with deadlines, stop requests and failures by site."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import cast, get_args

from flwr.app import Error, Message
from flwr.serverapp import Grid

from amos_fl.errors import AmosError, Code
from amos_fl.escape.terminal import one_line
from amos_fl.runs.events import StopFile
from amos_fl_clients.federation.reply_models import read_failure
from amos_fl_clients.flower.lost_messages import lost_in_words


class SiteMissing(AmosError):  # noqa: N818 - said of a site
    """Why a site's answer is missing. `site` is the site's own claim; None if it makes none."""

    def __init__(self, what: str, *, code: Code = "failed", site: str | None = None) -> None:
        super().__init__(what, code=code)
        self.site = site


def sentences_of(failed: Mapping[str, AmosError]) -> dict[str, str]:
    """The sentences by site, sorted, as a ledger keeps them."""
    return {site: str(failed[site]) for site in sorted(failed)}


def failure_of(error: Error) -> SiteMissing:
    """A site's error reply as an error; without a code, or with an unknown one, it is a general failure.

    >>> failure_of(Error(1000, '{"site": "B", "code": "paused", "sentence": "refused by site B: it is paused"}')).code
    'paused'
    """
    said = read_failure(error)
    if said is None:
        if lost := lost_in_words(error):
            return SiteMissing(lost[0], code=lost[1])
        sentence, died = failure_in_words(error.reason)
        return SiteMissing(sentence, code="process-died" if died else "failed")
    code = cast(Code, said.code) if said.code in get_args(Code) else "failed"
    return SiteMissing(one_line(said.sentence) or "it gave no reason", code=code, site=said.site)


def failure_in_words(reason: str | None) -> tuple[str, bool]:
    """Flower's error as one plain line without traceback and wrapping, and whether Ray lost the site's process.

    >>> failure_in_words("<class 'ClientAppException'>:<'\\\\nException occurred. Message: disk full'>")
    ('disk full', False)
    """
    # Only as much of a site's text is examined as a traceback has, and one line of it is reported.
    text = str(reason or "it gave no reason")[-MOST_TRACEBACK:].replace("\\n", "\n")
    if "ActorDiedError" in text or "ActorUnavailable" in text or "actor died" in text.lower():
        return "its process died", True
    found = re.findall(r"amos_fl[\w.]*\.[A-Z]\w+: (.+)", text) or re.findall(r"Message: (.+)", text)
    if found:
        text = found[-1]
    text = re.sub(r"^<class '[^']+'>:<['\"]|['\"]>$", "", text.strip())
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else "it gave no reason"
    return one_line(re.sub(r"['\"]>$", "", last)) or "it gave no reason", False


MOST_TRACEBACK = 8000
"""Characters."""
MOST_TRIES = 30
"""Maximum number of attempts, one second apart, for a message that no process has picked up: enough to start one."""


def exchange(
    grid: Grid,
    messages: Mapping[str, Message],
    failed: dict[str, AmosError],
    *,
    stop: StopFile,
    timeout_s: float | None = None,
    poll: Callable[[], None] = lambda: None,
    on_timeout: Callable[[str], None] = lambda site: None,
    lost: Callable[[str, float], bool] = lambda site, sent_at: False,
    pause_s: float = 0.05,
) -> Iterator[tuple[str, Message | None]]:
    """Send one message to each site and yield the replies as they come; None for a site that failed.

    Failures go into `failed`. `poll` is called while waiting. Sites that have not answered after `timeout_s` have
    failed, and `on_timeout` is called for each. `lost(site, sent_at)` says whether a failed message was never picked up
    by a process: then the site has not failed, and the message is sent again.

    Raises:
        Interrupted: a stop was requested.
    """
    stop.check()
    sent_at, tries = time.time(), dict.fromkeys(messages, 1)
    pushed = list(messages.items())
    grid.push_messages([message for _, message in pushed])
    waiting = {message.metadata.message_id: site for site, message in pushed}
    del pushed
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while waiting:
        poll()
        stop.check()
        replies = list(grid.pull_messages(list(waiting)))
        # Sites that an interrupt stopped answer with errors; the stop request itself explains more.
        stop.check()
        if not replies:
            if deadline is not None and time.monotonic() > deadline:
                for site in sorted(waiting.values()):
                    failed[site] = SiteMissing(f"it did not answer within {timeout_s:g} s", code="timed-out")
                    on_timeout(site)
                    yield site, None
                return
            time.sleep(pause_s)
        while replies:
            reply = replies.pop(0)
            site = waiting.pop(reply.metadata.reply_to_message_id, None)
            if site is None:
                continue
            failure = failure_of(reply.error) if reply.has_error() else None
            if (
                failure is not None
                and failure.code == "process-died"
                and tries[site] < MOST_TRIES
                and lost(site, sent_at)
            ):
                tries[site] += 1
                time.sleep(1.0)
                again = messages[site]
                again = Message(again.content, again.metadata.dst_node_id, again.metadata.message_type)
                grid.push_messages([again])
                waiting[again.metadata.message_id] = site
            elif failure is not None:
                failed[site] = failure
                yield site, None
            else:
                yield site, reply
            del reply
