"""One round of training as its replies arrive: what each site did, and which are missing and why."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message

from amos_fl.codecs import Codec
from amos_fl.errors import AmosError
from amos_fl.runs.events import Listener, Said
from amos_fl.runs.ledger import LedgerEntry, SiteEntry
from amos_fl.weights import fingerprint_of
from amos_fl_clients.federation.messages import ARRAYS, size_in_bytes
from amos_fl_clients.federation.records import BadUpdate, views_of
from amos_fl_clients.federation.reply_models import Asked, TrainReply
from amos_fl_clients.federation.state import Lost
from amos_fl_server.federation.aggregate import Form, decode_update, in_order
from amos_fl_server.federation.exchange import sentences_of
from amos_fl_server.federation.incoming import arriving


@dataclass
class TrainingRound:
    """What was sent to each site, and per site what it `did` or why it is `missing`; complete after all `updates`.

    Bytes are counted if the run exchanges weights, as they travel; updates of this form that the sites encode with
    `codec` are decoded as they arrive.
    """

    number: int
    messages: dict[str, Message]
    asked: Mapping[str, Asked]
    exchanges_weights: bool
    listener: Listener
    form: Form
    codec: Codec
    did: dict[str, SiteEntry] = field(default_factory=dict)
    missing: dict[str, AmosError] = field(default_factory=dict)
    bytes_down: int = 0

    def updates(self, replies: Iterable[tuple[str, Message | None]]) -> Iterator[tuple[str, Message]]:
        """Yield the updates in site order, each once all before it have arrived or failed."""
        return in_order(self._noted(replies), list(self.messages))

    def _noted(self, replies: Iterable[tuple[str, Message | None]]) -> Iterator[tuple[str, Message | None]]:
        for site, reply, said in arriving(replies, TrainReply, self.asked.__getitem__, self.missing):
            if reply is not None and said is not None:
                bytes_up = self._bytes_of(reply)
                try:
                    decode_update(reply, self.form, self.codec, self.messages[site].content.array_records[ARRAYS])
                except BadUpdate as error:
                    self.missing[site] = AmosError(str(error), code="bad-reply")
                self._note(site, reply, said, bytes_up)
            yield site, None if site in self.missing else reply
            del reply  # and with it its weights

    def _note(self, site: str, reply: Message, said: TrainReply, bytes_up: int) -> None:
        self.did[site] = {
            "cases": said.cases,
            "steps": said.steps,
            "loss": float(said.train_loss),
            "seconds": round(float(said.seconds), 3),
            "bytes_down": self._bytes_of(self.messages[site]),
            "bytes_up": bytes_up,
            "update_fingerprint": _fingerprint(reply),
        }
        if said.restarted is not None:
            restarted = self.did[site]["restarted"] = Lost(said.restarted).sentence
            self.listener(Said(f"round {self.number}: site {site} {restarted}"))

    def let_go_of_messages(self) -> None:
        """Count the bytes sent, as they were sent, and free the weights in the messages."""
        self.bytes_down = sum(map(self._bytes_of, self.messages.values()))
        self.messages.clear()

    def entry(self, shares: Mapping[str, float | None], weights: Mapping[str, float], seconds: float) -> LedgerEntry:
        """The round's line in the ledger, the hash of its weights left empty.

        `shares` are those of the sites that are in the weights, as far as the strategy says; the others' are 0.
        """
        total = sum(weights[site] for site in shares)
        sites = {site: self.did[site] for site in sorted(self.did) if site not in self.missing}
        for site, did in sites.items():
            if (share := shares.get(site, 0.0)) is not None:
                did["share"] = share
        return {
            "round": self.number,
            "asked": sorted(self.asked),
            "sites": sites,
            "missing": sentences_of(self.missing),
            "loss": sum(self.did[site]["loss"] * weights[site] / total for site in shares),
            "seconds": seconds,
            "bytes_down": self.bytes_down,
            "bytes_up": sum(site["bytes_up"] for site in self.did.values()),
            "weights_sha256": "",
        }

    def _bytes_of(self, message: Message) -> int:
        return self.exchanges_weights * size_in_bytes(message)


def _fingerprint(reply: Message) -> str | None:
    """The checksum of a site's update; None for one that will be refused."""
    try:
        return fingerprint_of(views_of(reply.content.array_records[ARRAYS]))
    except (KeyError, BadUpdate):
        return None
