"""Keep trackers informed of a run, each in a thread of its own, so that none can hold it up or end it."""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from amos_fl.errors import Interrupted
from amos_fl.files import write_json
from amos_fl.runs.events import Event, Listener, RoundFinished, RoundScored, Said, TrackerFailed
from amos_fl.runs.folder import RunFolder
from amos_fl.runs.tracking.content import Rounds, described, files_of, final_scores_of, read_state
from amos_fl.runs.tracking.tracker import End, Tracker, is_installed, tracker_named
from amos_fl.wording import first_line

TRACKING = "tracking.json"
"""In a run's folder: what each tracker has been told, so that a resume goes on there."""
FINISHED_S, STOPPED_S, SOON_S = 600.0, 10.0, 3.0
"""How long a finished run waits until everything is sent, one that was stopped or failed, and either without a word."""
_changing = threading.Lock()


class _Sender(threading.Thread):
    """Tells one tracker of a run. `failure` is why it gave up."""

    def __init__(self, name: str, folder: RunFolder) -> None:
        super().__init__(name=f"tracker {name}", daemon=True)
        self.tracker_name, self.folder = name, folder
        self.failure: str | None = None
        self.told = False
        self._inbox: queue.SimpleQueue[Event | End] = queue.SimpleQueue()

    def put(self, item: Event | End) -> None:
        if self.failure is None:
            self._inbox.put(item)

    def run(self) -> None:
        try:
            self._follow(tracker_named(self.tracker_name))
        except BaseException as error:  # whatever a tracker raises is its own, SystemExit too
            said = first_line(error) if str(error) else type(error).__name__
            self.failure = said.rstrip(".")

    def _follow(self, tracker: Tracker) -> None:
        key = f"{self.tracker_name} {tracker.place}".strip()
        file = self.folder.path / TRACKING
        state: dict[str, Any] = read_state(file).get(key, {})
        if state.get("ended") == "finished":
            return
        rounds = Rounds(self.folder, int(state.get("trained", 0)), dict(state.get("scored", {})))
        known_as = tracker.begin(described(self.folder, state.get("known_as"))) or state.get("known_as")

        def note(ended: End | None = None) -> None:
            about = {"known_as": known_as, "trained": rounds.trained, "scored": rounds.scored, "ended": ended}
            with _changing:
                write_json(file, {**read_state(file), key: about})

        def tell_news() -> None:
            for number, values in rounds.news():
                tracker.round(number, values)
            note()

        note()
        while True:
            item = self._inbox.get()
            if isinstance(item, str):
                break
            tracker.event(item)
            if isinstance(item, RoundFinished | RoundScored):
                tell_news()
        tell_news()
        tracker.end(item, final_scores_of(self.folder), files_of(self.folder) if item == "finished" else [])
        note(item)


@contextmanager
def tracked(folder: RunFolder, names: Sequence[str], listener: Listener) -> Iterator[Listener]:
    """A listener that also keeps the named trackers informed, and TensorBoard if it is installed.

    At the end they are told how the run ended, with the results that its folder holds then. A tracker that fails is
    said once, and left out from then on; nothing of it reaches the run.
    """
    usual = ["tensorboard"] if is_installed("tensorboard") else []
    senders = [_Sender(name, folder) for name in dict.fromkeys([*usual, *names])]
    for sender in senders:
        sender.start()

    def say_failures() -> None:
        for sender in senders:
            if sender.failure is not None and not sender.told:
                sender.told = True
                listener(TrackerFailed(sender.tracker_name, sender.failure, _later(sender, folder)))

    def also_tell(event: Event) -> None:
        for sender in senders:
            sender.put(event)
        listener(event)
        say_failures()

    how: End = "failed"
    try:
        yield also_tell
        how = "finished" if folder.finished else "stopped"
    except (Interrupted, KeyboardInterrupt):
        how = "stopped"
        raise
    finally:
        for sender in senders:
            sender.put(how)
        for sender in senders:
            sender.join(min(SOON_S, FINISHED_S))
            if sender.is_alive() and how == "finished":
                listener(Said(f"waiting until {sender.tracker_name} has the results, at most {FINISHED_S:.0f} s"))
            sender.join(FINISHED_S if how == "finished" else STOPPED_S)
            if sender.is_alive() and sender.failure is None:
                sender.failure = "does not answer"
        say_failures()


def _later(sender: _Sender, folder: RunFolder) -> str:
    return f"amos-fl track {folder.path} --tracker {sender.tracker_name}"


def send(folder: RunFolder, names: Sequence[str], listener: Listener) -> None:
    """Tell trackers of a run as it is now: what they have not been told yet of its rounds, scores and files."""
    with tracked(folder, names, listener):
        pass
