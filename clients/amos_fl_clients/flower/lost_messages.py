"""What Flower's SuperLink and SuperNode answer in a site's place, in plain words and with our codes."""

from flwr.app import Error
from flwr.common.constant import ErrorCode

from amos_fl.errors import Code

_IN_WORDS: dict[int, tuple[str, Code]] = {
    ErrorCode.NODE_UNAVAILABLE: ("it is offline", "not-connected"),
    ErrorCode.MESSAGE_UNAVAILABLE: ("the request to it is gone from the SuperLink", "failed"),
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: ("its answer came too late and is gone", "timed-out"),
    ErrorCode.CLIENT_APP_CRASHED: ("its process died", "process-died"),
}


def lost_in_words(error: Error) -> tuple[str, Code] | None:
    """A sentence and a code for an error of Flower's own; None for one that a site or an app reports.

    >>> lost_in_words(Error(5, "Error: Node Unavailable - The destination node failed to report a heartbeat"))
    ('it is offline', 'not-connected')
    """
    return _IN_WORDS.get(error.code)
