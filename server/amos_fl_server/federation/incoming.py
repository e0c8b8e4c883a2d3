"""Read replies on arrival through the model of their kind; if one does not fit, its site counts as missing."""

from collections.abc import Callable, Iterable, Iterator

from flwr.app import Message

from amos_fl.errors import AmosError
from amos_fl_clients.federation.reply_models import Asked, BadReply, OneReply, read_reply


def bad_reply(why: str) -> AmosError:
    return AmosError(f"its reply was refused: {why}", code="bad-reply")


def arriving(
    replies: Iterable[tuple[str, Message | None]],
    model: type[OneReply],
    asked_of: Callable[[str], Asked],
    failed: dict[str, AmosError],
) -> Iterator[tuple[str, Message | None, OneReply | None]]:
    """Yield replies with their parsed values; both are None for a failed site, whose reason is then in `failed`."""
    for site, reply in replies:
        found = None
        if reply is not None:
            try:
                found = read_reply(reply, model, asked_of(site))
            except BadReply as error:
                failed[site] = bad_reply(str(error))
                reply = None
        yield site, reply, found
        del reply
