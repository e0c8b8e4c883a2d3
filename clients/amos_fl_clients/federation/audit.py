"""The site's audit log: one line of plain text per request, for the people of the site.

    2026-03-01T09:30:12Z run=42 name=ct asked=train round=3 steps=50 answer=sent records=arrays,metrics,site ...
    2026-03-01T09:31:40Z run=42 name=ct asked=evaluate split=test answer=refused why="refused by site A: it is ..." ...

It never holds a case's name, a path or a voxel. Lines are only appended, and are on disk before the answer leaves.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import Message

from amos_fl.errors import AmosError
from amos_fl.files import append_line
from amos_fl_clients.federation.records import size_of, views_of

AUDIT_LOG = "audit.log"
LOG_MODE = 0o640
_PLAIN = re.compile(r"[A-Za-z0-9_.,:+-]+")


class NotRecorded(AmosError):  # noqa: N818 - named after what happened
    """A request could not be written to the audit log, and is therefore not answered."""


def _now() -> datetime:
    return datetime.now(UTC)


def audit_line(when: datetime, values: Mapping[str, object]) -> str:
    """One log line; values that are not plain are quoted as JSON, so that none can end the line or pose as another.

    >>> audit_line(datetime(2026, 3, 1, 9, 30, 12, tzinfo=UTC), {"asked": "train", "why": "no\\nasked=nothing"})
    '2026-03-01T09:30:12Z asked=train why="no\\\\nasked=nothing"'
    """
    words = [when.strftime("%Y-%m-%dT%H:%M:%SZ")]
    for key, value in values.items():
        text = str(value)[:300]
        words.append(f"{key}={text if _PLAIN.fullmatch(text) else json.dumps(text)}")
    return " ".join(words)


def what_was_asked(message: Message) -> dict[str, object]:
    """The request for the log: the run, and the values that say how much was asked and on which split."""
    asked: dict[str, object] = {"run": message.metadata.run_id}
    config = message.content.config_records.get("config", {}) if message.has_content() else {}
    task: dict[str, object] = {}
    with suppress(KeyError, TypeError, ValueError):  # a request that is about to be refused
        task = dict(json.loads(str(config["task"])))
    if task.get("name"):
        asked["name"] = task["name"]
    asked["asked"] = message.metadata.message_type
    asked |= {key: config[key] for key in ("round", "steps", "split", "model") if key in config}
    if message.metadata.message_type == "train" and "method" in task:
        asked["method"] = task["method"]
    return asked


def what_is_sent(reply: Message) -> dict[str, object]:
    """The reply for the log: names of records, number of arrays, and bytes of arrays, numbers and texts."""
    records = reply.content
    arrays = [array for record in records.array_records.values() for array in record.values()]
    plain = [record.items() for record in (*records.metric_records.values(), *records.config_records.values())]
    rest = sum(len(key) + len(value if isinstance(value, bytes) else str(value)) for r in plain for key, value in r)
    return {
        "answer": "sent",
        "records": ",".join(sorted(records)),
        "arrays": sum(len(views_of(record)) for record in records.array_records.values()),
        "bytes": sum(map(size_of, arrays)) + rest,
    }


class Audited:
    """One request to a site, from its arrival to its line in the log; its methods raise NotRecorded."""

    def __init__(self, site: str, state: Path, message: Message, clock: Callable[[], datetime] = _now) -> None:
        self._site = site
        self._path = state / AUDIT_LOG
        self._asked = what_was_asked(message)
        self._clock = clock
        self._when = clock()
        self._started = time.monotonic()

    def sent(self, reply: Message) -> None:
        self._write(what_is_sent(reply))

    def refused(self, why: str) -> None:
        self._write({"answer": "refused", "why": why})

    def failed(self, why: str) -> None:
        self._write({"answer": "failed", "why": why})

    def _write(self, answer: Mapping[str, object]) -> None:
        seconds = f"{time.monotonic() - self._started:.2f}"
        try:
            line = audit_line(self._when, {**self._asked, **answer, "seconds": seconds})
            append_line(self._path, line, mode=LOG_MODE)
        except OSError as error:
            why = error.strerror or "an unknown error"
        else:
            return
        raise NotRecorded(f"site {self._site}: its audit log cannot be written ({why}), and without it nothing is sent")
