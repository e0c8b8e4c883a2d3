"""A federation whose sites come and go, and are discovered through their own descriptions."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from pydantic import ValidationError

from amos_fl.cohort.table import Case, Cohort, Modality, Split
from amos_fl.errors import AmosError, RunStopped
from amos_fl.files import write_json
from amos_fl.runs.changes import note_changes
from amos_fl.runs.events import Said, SiteFailed
from amos_fl.runs.work import check_sites_named
from amos_fl_clients.federation.messages import CONFIG, DESCRIBE, Task, request_config
from amos_fl_clients.federation.reply_models import Asked, DescribeReply, Description, claimed_site
from amos_fl_server.federation.engines.remote import SiteGrid
from amos_fl_server.federation.exchange import SiteMissing, exchange, sentences_of
from amos_fl_server.federation.incoming import arriving
from amos_fl_server.federation.rounds import Federation, LedgerEntry
from amos_fl_server.federation.strategies.base import RoundInput


@dataclass
class DeployedFederation(Federation):
    """A federation whose sites are discovered through their descriptions, before the run and before every exchange.

    `sites` are those expected; none: those connected when the run begins.
    """

    wait_for_sites_s: float = 600.0
    absent: dict[str, AmosError] = field(default_factory=dict)
    """Expected sites that have not described themselves, with the reasons."""
    known: dict[int, str] = field(default_factory=dict)
    ask_again_s: float = 30.0
    """A site that refuses to describe itself, perhaps because it is paused, is not asked again before this time."""
    asked: dict[int, float] = field(default_factory=dict)
    refusals: dict[int, AmosError] = field(default_factory=dict)
    claims: dict[int, str | None] = field(default_factory=dict)
    """The site that each node claims to be; None if that is not a valid name."""
    first_said: dict[str, Description] = field(default_factory=dict)
    """Each site's first description; if it changed within a run, the site would count as a different one."""
    changed: dict[str, AmosError] = field(default_factory=dict)
    """Sites whose description has changed, with the reason why their work is refused."""
    registered: dict[int, str] = field(default_factory=dict)
    """The site that each node's key was registered for, if nodes have keys."""
    waits_until: float | None = None
    """While the run waits for its sites: until when, in seconds since the epoch."""
    said_of: dict[str, str] = field(default_factory=dict)
    """What was said last of each site or node that is waited for."""

    def _discover(self, grid: Grid, task: Task) -> None:
        """Wait until every expected site has answered, or the time for that is over.

        A site that answers with an error of its own, as where it is paused, is not waited for once all others are there
        and are enough; it takes part from the round before which it describes itself.

        Raises:
            RunStopped: too few of the expected sites are connected.
        """
        deadline = time.monotonic() + self.wait_for_sites_s
        self.waits_until = time.time() + self.wait_for_sites_s
        self._look_around(grid, task)
        while self._is_worth_waiting() and time.monotonic() < deadline:
            self._say_who_is_waited_for()
            self.folder.stop_file.check()
            time.sleep(1.0)
            self._look_around(grid, task)
        self.waits_until = None
        for site, reason in sorted({**self._left_out(), **self.absent}.items()):
            self.listener(SiteFailed(site, "describe", 0, str(reason)))
        trainers, needed = self._trainers(), self._needed()
        if not self._are_enough():
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(self.absent.items()))
            raise RunStopped(
                f"{len(trainers)} training sites are connected and {max(needed, 1)} are needed"
                f"{f' ({reasons})' if reasons else ''}",
                "start the sites",
            )
        if not self.folder.rounds_done:  # later, a site that is away must not end a run
            may_train = [*trainers, *self.absent]
            check_sites_named(self.config, may_train)
            self.strategy.check_sites(may_train)

    def _trainers(self) -> list[str]:
        return [site for site, described in self.described.items() if described.cases["train"]]

    def _needed(self) -> int:
        # It is not known which of the absent ones would train: all are counted as if they did.
        return self.config.min_sites or (len(self._trainers()) + len(self.absent) + 1) // 2

    def _are_enough(self) -> bool:
        trainers = len(self._trainers())
        return bool(self.described) and trainers >= min(self._needed(), trainers + len(self.absent))

    def _is_worth_waiting(self) -> bool:
        return not self._are_enough() or any(self._answer_of(site) is None for site in self.absent)

    def _answer_of(self, site: str) -> AmosError | None:
        """What an expected site answered instead of its description; None if it did not answer."""
        for node, why in self.refusals.items():
            said = why.site if isinstance(why, SiteMissing) else self.claims.get(node)
            if said is not None and self.registered.get(node, said) == site:
                return why
        return None

    def _say_who_is_waited_for(self) -> None:
        if self.waits_until is None:
            return
        until = f"until {datetime.fromtimestamp(self.waits_until, UTC):%H:%M} UTC"
        for site, why in sorted(self.absent.items()) or [("a first site", AmosError("none is connected"))]:
            answer = self._answer_of(site)
            said = str(why) if answer is None else f"it answered: {answer}"
            self._say_once(site, f"waiting for {site} ({said}; {until})")

    def _say_once(self, of: str, sentence: str) -> None:
        """Say a sentence unless it was the last one of its subject."""
        if self.waits_until is not None and self.said_of.get(of) != sentence:
            self.said_of[of] = sentence
            self.listener(Said(sentence))

    def _look_around(self, grid: Grid, task: Task) -> None:
        """Ask new or returning nodes who they are; a site that has come back has another node."""
        nodes = set(grid.get_node_ids())
        if isinstance(grid, SiteGrid):
            self.registered = grid.registered_names()
        self.known = {node: site for node, site in self.known.items() if node in nodes}
        now = time.monotonic()
        self.refusals = {node: why for node, why in self.refusals.items() if node in nodes}
        new = [
            node
            for node in sorted(nodes - set(self.known))
            if node not in self.refusals or now - self.asked[node] >= self.ask_again_s
        ]
        content = RecordDict({CONFIG: request_config(task, prepare=self.prepares)})
        messages = {str(node): Message(content, node, DESCRIBE) for node in new}
        failed: dict[str, AmosError] = {}
        if messages:
            timeout = self.wait_for_sites_s
            stop, poll = self.folder.stop_file, self.engine.poll
            replies = exchange(grid, messages, failed, stop=stop, poll=poll, timeout_s=timeout)
            answers = arriving(self._claims_noted(replies), DescribeReply, self._asked_of, failed)
            for came, (node, _, said) in enumerate(answers, 1):
                self.asked[int(node)] = time.monotonic()
                self.refusals.pop(int(node), None)
                if said is not None:
                    self._note(int(node), said.description)
                elif int(node) in self.claims:
                    self._refuse(int(node), self._named(int(node)), failed[node])
                else:
                    self.refusals[int(node)] = failed[node]
                    if came < len(messages):  # the others may prepare their scans for long
                        self._say_once(f"node {node}", str(failed[node]))
            self._keep_answers([int(node) for node in messages])
        expected = self.sites or tuple(self.described)
        self.absent = {site: self._why_absent(site) for site in expected if site not in self.described}
        self.seen_sites = tuple(sorted(site for site, d in self.described.items() if d.cases["train"]))

    def _asked_of(self, node: str) -> Asked:
        return Asked(self.organs)  # `_note` checks whose node it is

    def _claims_noted(self, replies: Iterator[tuple[str, Message | None]]) -> Iterator[tuple[str, Message | None]]:
        """Yield the replies, recording the site that each answering node claims to be."""
        for node, reply in replies:
            self.claims.pop(int(node), None)
            if reply is not None:
                self.claims[int(node)] = claimed_site(reply)
            yield node, reply

    def _named(self, node: int) -> str | None:
        """The site of a node that was not admitted: as its key is registered, or as it claims."""
        return self.registered.get(node) or self.claims.get(node)

    def _refuse(self, node: int, site: str | None, why: AmosError) -> None:
        """Leave a node out, and report it: one hospital must not be able to stop the others."""
        self.refusals[node] = why.of(f"node {node}" if site is None else f"site {site}")
        self.listener(Said(str(self.refusals[node])))

    def _left_out(self) -> dict[str, AmosError]:
        """The sites that answered but were not admitted, with the reason; the run does not wait for them."""
        named = {node: self._named(node) for node in self.refusals if node in self.claims}
        return {
            site: self.refusals[node]
            for node, site in sorted(named.items())
            if site is not None and site not in self.described and (not self.sites or site in self.sites)
        }

    def _why_absent(self, site: str) -> AmosError:
        for node, why in self.refusals.items():
            # If keys are registered, the node's registered site counts, not the one it claims.
            claimed = why.site if isinstance(why, SiteMissing) else self.claims.get(node)
            if self.registered.get(node, claimed) == site:
                return why
        nameless = [why for node, why in self.refusals.items() if node in self.claims and self._named(node) is None]
        perhaps = f", unless it is {nameless[0]}" if nameless else ""
        return AmosError(f"it is not connected{perhaps}", code="not-connected")

    def _keep_answers(self, asked: list[int]) -> None:
        """Record each site's last answer, for those who look after the deployment."""
        file = self.folder.path / "answers.json"
        said = _read_json(file)
        for node in asked:
            site = self.registered.get(node) or self.known.get(node)
            if site is not None:
                why = self.refusals.get(node)
                answer = {"said": "it takes part"} if why is None else {"said": str(why), "code": why.code}
                said[site] = {"time": round(time.time(), 3), **answer}
        write_json(file, said)

    def _forget(self) -> None:
        super()._forget()
        self.known.clear()

    def _note(self, node: int, description: Description) -> None:
        site = description.site
        own = self.registered.get(node, site)
        if own != site:
            self._refuse(node, own, AmosError(f"its SuperNode claims to be site {site!r}, and is left out"))
            return
        if self.sites and site not in self.sites:
            self.listener(Said(f"site {site} is connected and has no part in this run"))
            self.known[node] = site
            return
        other = self.nodes.get(site)
        if other is not None and other != node and other in self.known:
            why = f"two SuperNodes claim to be site {site}, and one of them is left out"
            self._refuse(node, None, AmosError(why, "give each hospital its own site"))
            return
        before = self.first_said.get(site)
        if before is not None and before != description:
            why = f"its description has changed ({_changes(before, description)}), so it is left out"
            remedy = "put its cohort back, or stop the run and continue it with the new one"
            self._refuse(node, site, AmosError(why, remedy))
            self.changed[site] = self.refusals[node]
            return
        self.changed.pop(site, None)
        self._keep_description(description)
        if site in self.config.hold_out:
            nothing = {"cases": {**description.cases, "train": 0, "val": 0}, "annotated_in_training": []}
            description = description.model_copy(update=nothing)
        if self.described and site not in self.described and self.ledger.rounds:
            self.listener(Said(f"site {site} has joined"))
        self.described[site], self.nodes[site], self.known[node] = description, node, site

    def _keep_description(self, description: Description) -> None:
        """Record a site's description; report it if it has changed since before the run was continued."""
        site = description.site
        if site in self.first_said:
            return
        self.first_said[site] = description
        file = self.folder.path / "described.json"
        kept = _read_json(file)
        now = description.model_dump(mode="json")
        if site in kept and kept[site] != now:
            with contextlib.suppress(ValidationError):
                changed = _changes(Description.model_validate(kept[site]), description)
                sentence = f"site {site} has changed its description: {changed}"
                self.listener(Said(sentence))
                note_changes(self.folder, self.folder.about(), [sentence])
        write_json(file, {**kept, site: now})

    def _round(self, given: RoundInput) -> tuple[ArrayRecord, LedgerEntry]:
        record, entry = super()._round(given)
        changed = {site: why for site, why in self.changed.items() if site in entry["missing"]}
        missing = {**sentences_of({**self._left_out(), **self.absent}), **entry["missing"], **sentences_of(changed)}
        entry["missing"] = dict(sorted(missing.items()))
        return record, entry

    def cohort(self) -> Cohort:
        """The numbers of cases that the sites report, as a cohort of numbered cases without files."""
        cases = []
        for site, described in sorted(self.described.items()):
            modalities: list[Modality] = ["MR" if name == "MR" else "CT" for name in described.modalities] or ["CT"]
            for split in ("train", "val", "test"):
                cases += [self._case(site, split, n, modalities) for n in range(described.cases[split])]
        return Cohort(tuple(cases), dict(self.organs))

    def _case(self, site: str, split: Split, number: int, modalities: list[Modality]) -> Case:
        name = f"{site}-{split}-{number + 1}"
        elsewhere = self.folder.path.resolve() / "at-the-site" / name
        # A site does not say which modality each case has; each modality appears if there are enough cases.
        modality = modalities[number % len(modalities)]
        described = self.described[site]
        annotated = described.annotated_in_training if split == "train" else described.annotated
        here = tuple(organ for organ in annotated if organ in self.organs)
        return Case(name, site, modality, split, elsewhere, elsewhere, here)


def _read_json(file: Path) -> dict[str, Any]:
    """A record kept for people; empty if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _changes(before: Description, now: Description) -> str:
    """The differences between two descriptions, in words.

    >>> one = Description.model_validate(
    ...     {"site": "A", "modalities": ["CT"], "cases": {"train": 3, "val": 1, "test": 0}, "annotated": [1, 2]}
    ... )
    >>> _changes(one, one.model_copy(update={"cases": {"train": 4, "val": 1, "test": 0}}))
    'train cases 4, not 3'
    """
    counts = ((split, before.cases[split], count) for split, count in now.cases.items())
    found = [f"{split} cases {count}, not {old}" for split, old, count in counts if count != old]
    for name in ("modalities", "annotated", "annotated_in_training"):
        old, new = (" ".join(map(str, getattr(said, name))) or "none" for said in (before, now))
        found += [f"{name.replace('_', ' ')} {new}, not {old}"] if old != new else []
    return ", ".join(found) or "synthetic"
