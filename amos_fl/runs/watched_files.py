"""What a simulated run leaves for whoever watches it: its events, line by line, and the work that sites are at.

A deployed run has the same `events.jsonl`, from its server.
"""

import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from amos_fl.files import write_json
from amos_fl.runs.events import Event, Listener, SiteWork, line_of

EVENTS = "events.jsonl"
WORK = Path("sites") / "work.json"
"""By site the last piece of work, as `SiteWork` has it, with its time."""
EVERY_S = 2.0


@dataclass
class WatchedFiles:
    """A listener that writes these files below a run's folder; a full disk does not stop it, nor the run."""

    folder: Path
    _work: dict[str, dict[str, Any]] = field(default_factory=dict)
    _written: float = 0.0

    def __call__(self, event: Event) -> None:
        now = time.time()
        with suppress(OSError):
            if isinstance(event, SiteWork):
                self._work[event.site] = {**asdict(event), "time": round(now, 1)}
                if now - self._written >= EVERY_S and (self.folder / "sites").is_dir():
                    write_json(self.folder / WORK, self._work)
                    self._written = now
            else:
                with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
                    file.write(line_of(event, now) + "\n")

    def beside(self, listener: Listener) -> Listener:
        """A listener that writes an event, and passes it on."""

        def both(event: Event) -> None:
            self(event)
            listener(event)

        return both
