"""One of three sites sends what no honest site sends: it is missing by name, and the others' run is as without it."""

import gc
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import write_tiny_cohort
from deployments import AT_ONCE, Hospitals, deployed_run
from federations import hashes
from flwr.app import Context, Error, Message, RecordDict
from hostile_replies import ENCODED, HOSTILE, MARK, Tamper

from amos_fl.cohort.table import Cohort
from amos_fl.runs.evaluation import Evaluation
from amos_fl.runs.folder import RunFolder, open_run
from amos_fl.runs.record import read_run
from amos_fl.weights import hash_of
from amos_fl_clients.federation.messages import ARRAYS, CONFIG, DESCRIBE, FINGERPRINT, task_of
from amos_fl_clients.federation.records import views_of
from amos_fl_server.operation.server_app import run_deployed

HOSTILE_SITE = "A"
MOST_SECONDS = 5.0


class Remembering:
    """Sites' apps that do the same work once: what one has answered before to the same request it answers again."""

    def __init__(self, app: Callable[[Message, Context], Message]) -> None:
        self._app = app
        self._known: dict[tuple[object, ...], RecordDict] = {}

    def __call__(self, message: Message, context: Context) -> Message:
        config = message.content.config_records[CONFIG]
        arrays = message.content.array_records.get(ARRAYS)
        key = (
            context.node_id,
            message.metadata.message_type,
            *(config.get(name) for name in ("round", "steps", "split", "prepare")),
            None if arrays is None else hash_of(views_of(arrays)),
            task_of(message).codec,
        )
        if key not in self._known:
            self._known[key] = self._app(message, context).content
        # The server takes a reply's records apart.
        records = {name: type(record)(dict(record)) for name, record in self._known[key].items()}
        return Message(RecordDict(records), reply_to=message)  # pyright: ignore[reportArgumentType]


class OneHostile(Hospitals):
    """A grid on which one site's replies to one kind of request are tampered with; without a `tamper` it fails."""

    kind = ""
    tamper: Tamper | None = None

    def __init__(self, root: Path, cohort: Cohort, sites: str, **settings: object) -> None:
        super().__init__(root, cohort, sites, **settings)
        self._honest = Remembering(self._app)  # pyright: ignore[reportArgumentType]
        self._app = self._answer  # pyright: ignore[reportAttributeAccessIssue]

    def _answer(self, message: Message, context: Context) -> Message:
        reply = self._honest(message, context)
        if self._names[int(str(context.node_config["partition-id"]))] == HOSTILE_SITE and (
            message.metadata.message_type == self.kind
        ):
            if self.tamper is None:
                return Message(Error(2, f"site {HOSTILE_SITE}: it has failed"), reply_to=message)
            self.tamper(reply)
        return reply

    def be(self, kind: str, tamper: Tamper | None) -> "OneHostile":
        self.kind, self.tamper = kind, tamper
        return self


SETTINGS: dict[str, Any] = {
    "sites": ("A", "B", "G"),
    "rounds": 1,
    "local_steps": 1,
    "min_sites": 2,
    "evaluation": {"every": 1, "overlap": 0.0},
    "selection": "last",
}


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OneHostile]:
    folder = tmp_path_factory.mktemp("hospitals")
    cohort = write_tiny_cohort(folder / "cohort")
    shared = {"share_case_scores": "named", "share_histograms": True, "withhold_counts_below": 1}
    grid = OneHostile(folder, cohort, "ABG", **shared)
    grid.cohort = cohort  # pyright: ignore[reportAttributeAccessIssue]
    # The server collects garbage in every run, for which it would look through all that the tests have imported.
    gc.collect()
    gc.freeze()
    yield grid
    gc.unfreeze()


def carried_out(path: Path, grid: OneHostile, kind: str, tamper: Tamper | None, codec: str = "none") -> RunFolder:
    """A run to its end with one site that is hostile, or that fails where there is no `tamper`."""
    encoded = {"update_codec": codec, "top_k_share": 0.01}
    planned = {"plan": "auto", "planning": {"memory_gb": 0.1}} if kind == FINGERPRINT else {}
    folder = deployed_run(path, grid.cohort, **SETTINGS, **planned, **encoded)  # pyright: ignore[reportAttributeAccessIssue]
    run_deployed(grid.be(kind, tamper), folder, 0, AT_ONCE, ask_again_s=1000)
    return folder


@pytest.fixture(scope="module")
def without(hospitals: OneHostile, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunFolder]:
    """The run in which the site fails, for each kind of request and codec."""
    root, known = tmp_path_factory.mktemp("without"), {}

    def run(kind: str, codec: str = "none") -> RunFolder:
        if (kind, codec) not in known:
            known[kind, codec] = carried_out(root / f"{kind}-{codec}", hospitals, kind, None, codec)
        return known[kind, codec]

    return run


def of_others(folder: RunFolder) -> dict[str, Any]:
    """What a run has found out, without the clock and without the reasons why the site is missing."""
    ledger = [
        {
            "sites": {
                site: {key: value for key, value in about.items() if key != "seconds"}
                for site, about in entry["sites"].items()
            },
            "missing": sorted(entry["missing"]),
            "loss": entry["loss"],
        }
        for entry in folder.ledger()
    ]
    scores = {}
    for split in ("val", "test"):
        found = folder.read_evaluation(1, split)
        sites = {s: r.model_dump(exclude={"seconds"}) for s, r in found.sites.items()} if found else {}
        scores[split] = (sites, sorted(found.missing) if found else [])
    return {"ledger": ledger, "scores": scores, "plan": folder.config().plan}


def reasons(folder: RunFolder, kind: str) -> list[str]:
    """Why the site is missing, where the kind of request has its place for that."""
    if kind == "evaluate":
        found = [folder.read_evaluation(1, split) for split in ("val", "test")]
        return [evaluation.missing.get(HOSTILE_SITE, "") if evaluation else "" for evaluation in found]
    if kind == FINGERPRINT:
        return [folder.plan_sources()[1].get(HOSTILE_SITE, "")]
    return [folder.ledger()[0]["missing"].get(HOSTILE_SITE, "")]


def texts(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


@pytest.mark.parametrize(("kind", "what"), HOSTILE, ids=[f"{kind}: {what}" for kind, what in HOSTILE])
def test_a_hostile_reply_makes_its_site_missing_by_name_and_changes_nothing_else(
    tmp_path: Path, hospitals: OneHostile, without: Callable[[str], RunFolder], kind: str, what: str
) -> None:
    expected = without(kind)
    started = time.process_time()
    folder = carried_out(tmp_path / "run", hospitals, kind, HOSTILE[kind, what])
    seconds = time.process_time() - started
    assert folder.finished
    assert seconds < MOST_SECONDS
    for reason in reasons(folder, kind):
        assert reason
        assert len(reason) < 500
        assert reason.isprintable()
    assert hashes(folder) == hashes(expected)
    assert of_others(folder) == of_others(expected)
    for path, content in texts(folder.path):
        assert MARK.encode() not in content, path
        assert b"\x1b" not in content or path.suffix == ".safetensors", path
        assert len(content) < 1_000_000 or path.suffix == ".safetensors", path
    for file in (folder.path / "evaluations").glob("*.json"):
        Evaluation.model_validate(json.loads(file.read_text()))
    assert HOSTILE_SITE in (folder.path / "summary.md").read_text()
    read_run(open_run(folder.path).path)


@pytest.mark.parametrize(("codec", "what"), ENCODED, ids=[f"{codec}: {what}" for codec, what in ENCODED])
def test_a_hostile_encoded_update_makes_its_site_missing_by_name_and_changes_nothing_else(
    tmp_path: Path, hospitals: OneHostile, without: Callable[..., RunFolder], codec: str, what: str
) -> None:
    expected = without("train", codec)
    folder = carried_out(tmp_path / "run", hospitals, "train", ENCODED[codec, what], codec)
    assert folder.finished
    [reason] = reasons(folder, "train")
    assert "update" in reason
    assert reason.isprintable()
    assert hashes(folder) == hashes(expected)
    assert of_others(folder) == of_others(expected)
    assert all(MARK.encode() not in content for _, content in texts(folder.path))


def test_there_are_at_least_eighty_of_them() -> None:
    assert len(HOSTILE) >= 80
    assert {kind for kind, _ in HOSTILE} == {DESCRIBE, FINGERPRINT, "train", "evaluate"}


REASONS = {
    "terminal codes": "\x1b[2J\x1b]0;gone\a its disk is full",
    "many lines": "line\n" * 1000 + "# the last one\r\n",
    "HTML": "Message: <script>alert(1)</script>",
    "Markdown": "Message: [click](https://x.example) | **x**",
    "a formula": '=HYPERLINK("http://x.example")',
    "ten megabytes": "x" * 10_000_000,
    "what a pattern could be slow at": "amos_fl" * 300_000,
    "lines that turn the direction of writing": "\u202egnp.exe",
    "nothing": "",
    "spaces": " \n \t ",
    "a surrogate": "\ud800",
    "wrappings alone": "<class 'x'>:<'" * 1000,
}


class Failing(OneHostile):
    """The site fails in words of its own."""

    reason = ""

    def _answer(self, message: Message, context: Context) -> Message:
        if self._names[int(str(context.node_config["partition-id"]))] == HOSTILE_SITE and (
            message.metadata.message_type == self.kind
        ):
            return Message(Error(2, self.reason), reply_to=message)
        return self._honest(message, context)


@pytest.mark.parametrize("kind", [DESCRIBE, "train"])
@pytest.mark.parametrize("what", REASONS)
def test_whatever_a_site_gives_as_the_reason_of_its_failure_is_one_plain_line(
    tmp_path: Path, hospitals: OneHostile, without: Callable[[str], RunFolder], kind: str, what: str
) -> None:
    expected = without(kind)
    failing = object.__new__(Failing)
    failing.__dict__.update(hospitals.__dict__, _app=failing._answer, reason=REASONS[what])
    started = time.process_time()
    folder = carried_out(tmp_path / "run", failing, kind, None)
    assert time.process_time() - started < MOST_SECONDS
    assert hashes(folder) == hashes(expected)
    for reason in reasons(folder, kind):
        assert reason
        assert len(reason) <= 500
        assert reason.isprintable()
    summary = (folder.path / "summary.md").read_text()
    assert HOSTILE_SITE in summary
    assert "<script" not in summary
    assert not re.search(r"(?<!\\)\]\(", summary)
    assert "://" not in summary
    assert "\n#" not in summary.replace("\n# ", "\n## ").replace("\n## ", "\n")
    assert "\x1b" not in (folder.path / "events.jsonl").read_text()
