"""Score weights at the sites: validation cases after some rounds, test cases at the end; personal models at home."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from amos_fl.cohort.table import Split
from amos_fl.errors import AmosError
from amos_fl.runs.evaluation import Evaluation, SiteEvaluation
from amos_fl.runs.events import RoundScored, Said, SiteFailed
from amos_fl.runs.folder import OWN
from amos_fl.runs.selection import choose_round, own_rounds, seen_and_unseen
from amos_fl_clients.federation.messages import (
    ARRAYS,
    CONFIG,
    MODEL,
    PERSONAL,
    Task,
    request_config,
)
from amos_fl_clients.federation.records import views_of
from amos_fl_clients.federation.reply_models import Asked, EvaluateReply
from amos_fl_server.federation.aggregate import record_of_sums
from amos_fl_server.federation.connected import Connected
from amos_fl_server.federation.exchange import exchange, sentences_of
from amos_fl_server.federation.incoming import arriving


@dataclass
class Scoring(Connected):
    """The part of a federation that has weights scored."""

    def _evaluate_when_due(self, grid: Grid, task: Task, number: int, record: ArrayRecord) -> None:
        due = number % self.config.evaluation.every == 0 or number == self.config.rounds
        if not due:
            return
        seen = {s: "val" for s, d in self.described.items() if s in self.seen_sites and d.cases["val"]}
        unseen = {s: "test" for s, d in self.described.items() if self._is_unseen(s) and d.cases["test"]}
        asked = {**seen, **(unseen if self.config.evaluation.unseen else {})}
        new, result = self._scored(grid, task, number, record, asked, "val")
        at_home = None
        if self.strategy.personal:
            of_personal, own = self._scored(grid, task, number, record, seen, OWN["val"], personal=True)
            new, at_home = new or of_personal, seen_and_unseen(own)[0] if own else None
        if new and result is not None:
            self.listener(RoundScored(number, *seen_and_unseen(result), at_home))

    def _scored(
        self,
        grid: Grid,
        task: Task,
        number: int,
        record: ArrayRecord,
        asked: Mapping[str, str],
        kind: str,
        *,
        personal: bool = False,
    ) -> tuple[bool, Evaluation | None]:
        """Whether these scores are new, and the scores; None where nobody is asked."""
        found = self.folder.read_evaluation(number, kind)
        new = found is None and bool(asked)
        if new:
            found = self.evaluate(grid, task, number, record, asked, personal=personal)
            self.folder.write_evaluation(number, kind, found)
        if found is not None:
            self.bests[kind].add(number, found)
        return new, found

    def _score_again(self, grid: Grid, task: Task, aside: list[tuple[int, str, str]], before: int) -> None:
        """Score earlier rounds whose evaluations were set aside again, as far as their weights still exist."""
        kept = self.folder.rounds_with_checkpoints()
        for number, split, sentence in aside:
            due = split in ("val", OWN["val"])
            gone = due and number not in kept
            self.listener(Said(f"{sentence}; the weights of round {number} are gone" if gone else sentence))
            if due and number in kept and number < before:
                record = record_of_sums(self.folder.read_checkpoint(number).weights)
                self._evaluate_when_due(grid, task, number, record)

    def evaluate(
        self,
        grid: Grid,
        task: Task,
        number: int,
        record: ArrayRecord,
        splits: Mapping[str, str],
        *,
        personal: bool = False,
    ) -> Evaluation:
        """Scores of weights on one split of each site: sums and counts, and cases if the sites share them.

        Or, where `personal`, of each site's own model of that round.
        """
        self._look_around(grid, task)
        task = task.model_copy(update={"learned": tuple(sorted(self.learned))})
        messages = {}
        for site in sorted(splits):
            model = {MODEL: PERSONAL} if personal else {}
            config = request_config(task, round=number, split=splits[site], **model)
            content = RecordDict({ARRAYS: record, CONFIG: config})
            messages[site] = Message(content, self.nodes[site], MessageType.EVALUATE)
            self._say_what_is_kept(messages[site], site, number)
        failed: dict[str, AmosError] = {}
        sites: dict[str, SiteEvaluation] = {}
        engine, stop = self.engine, self.folder.stop_file

        def asked_of(site: str) -> Asked:
            return Asked(self.organs, site=site, described=self.described[site], split=cast(Split, splits[site]))

        replies = exchange(grid, messages, failed, stop=stop, poll=engine.poll, lost=engine.lost)
        for site, _, said in arriving(replies, EvaluateReply, asked_of, failed):
            if said is not None:
                sites[site] = SiteEvaluation(
                    seen=not self._is_unseen(site),
                    split=cast(Split, splits[site]),
                    modalities=said.modalities,
                    scores=said.scores,
                    cases=said.cases,
                    seconds=round(said.seconds, 3),
                )
        for site, reason in sorted(failed.items()):
            self.listener(SiteFailed(site, "evaluate", number, str(reason)))
        self._stop_where_a_disk_is_full(failed)
        scored = {site: sites[site] for site in sorted(sites)}
        return Evaluation(round=number, sites=scored, missing=sentences_of(failed))

    def _finish(self, grid: Grid, task: Task, record: ArrayRecord) -> None:
        """Score the chosen weights on every site's test cases, and keep them under model/."""
        chosen = choose_round(self.folder, self.config, self.config.rounds)
        if chosen.round != self.config.rounds:
            record = record_of_sums(self.folder.read_checkpoint(chosen.round).weights)
        self.listener(Said(chosen.sentence))
        tested = {site: "test" for site, description in self.described.items() if description.cases["test"]}
        if tested and self.folder.read_evaluation(chosen.round, "test") is None:
            self.folder.write_evaluation(chosen.round, "test", self.evaluate(grid, task, chosen.round, record, tested))
        if self.strategy.personal:
            self._score_personal_models(grid, task)
        self.chosen_weights: dict[str, np.ndarray] = views_of(record)

    def _score_personal_models(self, grid: Grid, task: Task) -> None:
        """Have each training site keep its own model, of the round that it chose, and score it on its test cases."""
        chosen, by_round = own_rounds(self.folder, self.config), dict[int, list[str]]()
        for site in self._training_weights(task):
            by_round.setdefault(chosen.get(site, self.config.rounds), []).append(site)
        for number, sites in sorted(by_round.items()):
            found = self.folder.read_evaluation(number, OWN["test"])
            if found is None or not set(sites) <= {*found.sites, *found.missing}:
                record = record_of_sums(self.folder.read_checkpoint(number).weights)
                found = self.evaluate(grid, task, number, record, dict.fromkeys(sites, "test"), personal=True)
                self.folder.write_evaluation(number, OWN["test"], found)
