"""The round loop, the same for every engine and strategy.

Send weights, train locally, collect updates in site order, aggregate, write a checkpoint; every few rounds score
validation cases and, separately, the unseen sites; at the end score the chosen weights on every site's test cases.
"""

import gc
import time
from collections.abc import Iterable
from dataclasses import dataclass

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from amos_fl.errors import AmosError, RunStopped
from amos_fl.runs.changes import accepted_before
from amos_fl.runs.checkpoint import remedy_for
from amos_fl.runs.events import Continued, RoundFinished, RoundStarted, Said, SiteFailed, Warned
from amos_fl.runs.folder import OWN
from amos_fl.runs.learned import names_unlearned, recorded_organs, write_learned
from amos_fl.runs.ledger import LedgerEntry, sites_in_weights
from amos_fl.runs.selection import bests_of, rounds_worth_keeping
from amos_fl.runs.start import begin
from amos_fl.runs.work import counts_of, sites_asked
from amos_fl.weights import arrays_of, hash_of
from amos_fl.wording import counted
from amos_fl_clients.federation.messages import (
    BEST_ROUND,
    Task,
    config_of,
    request_config,
)
from amos_fl_clients.federation.records import record_of, views_of
from amos_fl_clients.federation.reply_models import Asked
from amos_fl_server.federation.aggregate import Form, form_of, record_of_sums
from amos_fl_server.federation.exchange import exchange
from amos_fl_server.federation.plan_first import planned
from amos_fl_server.federation.requests import task_for, works_in
from amos_fl_server.federation.scoring import Scoring
from amos_fl_server.federation.strategies.base import RoundInput
from amos_fl_server.federation.training_round import TrainingRound


@dataclass
class Federation(Scoring):
    """One federated run on one run folder. `server_app` is what an engine runs."""

    def server_app(self) -> ServerApp:
        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None:
            self.run(grid)

        return app

    def run(self, grid: Grid) -> None:
        """Discover the sites, train the remaining rounds, and score the chosen weights.

        Raises:
            AmosError: no site can train. RunStopped: too few sites sent an update. Interrupted: stopped.
        """
        if self.config.lacks_plan:
            self._make_plan(grid)
        task = task_for(self.config, self.organs, self.folder.run_id, self.folder.path.name)
        self._discover(grid, task)
        aside = self.folder.set_poisoned_aside()
        first, record = self._start()
        self.bests = {kind: bests_of(self.folder, first - 1, kind) for kind in ("val", OWN["val"])}
        self._say_what_nobody_annotates()
        form = form_of(views_of(record))
        self._score_again(grid, task, aside, before=first - 1)
        if first > 1:
            self._evaluate_when_due(grid, task, first - 1, record)
        for number in range(first, self.config.rounds + 1):
            self._look_around(grid, task)
            given = self._round_input(grid, task, number, record, form)
            record, entry = self._round(given)
            # Flower's records refer to themselves: clearing them frees the old weights now, not at the next collection.
            given.arrays.clear()
            self._checkpoint(record, entry)
            self._evaluate_when_due(grid, task, number, record)
        self._finish(grid, task, record)

    def _round_input(self, grid: Grid, task: Task, number: int, record: ArrayRecord, form: Form) -> RoundInput:
        weights, withheld = self._training_weights(task), self._withheld(task)
        groups = {site: "+".join(self.described[site].modalities) for site in weights}
        works = works_in(self.config, number, self.described, sites_asked(self.config, number, list(weights)))
        return RoundInput(
            arrays=record,
            config=request_config(task, round=number),
            nodes={site: self.nodes[site] for site in works},
            weights={site: weights[site] for site in works},
            form={name: of for name, of in form.items() if name not in withheld},
            grid=grid,
            seed=self.config.seed,
            all_counts=counts_of(self.config, weights, groups),
            works=works,
            spool=self.folder.path / "updates",
            max_update_norm=self.config.max_update_norm,
        )

    def _make_plan(self, grid: Grid) -> None:
        """Make the run's plan from the fingerprints of its training sites, and write it into the run folder.

        Only training sites are asked for a fingerprint; first all sites introduce themselves, preparing nothing yet.
        """
        task = task_for(self.config, self.organs, self.folder.run_id, self.folder.path.name)
        self.prepares = False
        self._discover(grid, task)
        self.prepares = True
        trainers = {site: self.nodes[site] for site in self._training_weights(task)}
        self.config = planned(
            self.config, self.folder, task, trainers, self.described, grid, self.engine, self.listener
        )
        self._forget()

    def _start(self) -> tuple[int, ArrayRecord]:
        """The first round to carry out and its weights: fresh, or from the last checkpoint."""
        done = self.folder.rounds_with_checkpoints()
        if not done:
            self.ledger.begin()
            network, begun = begin(self.folder, self.config, self.organs)
            if begun is not None:
                self.listener(Said(begun.sentence))
                self.learned |= set(begun.learned)
            record = record_of(arrays_of(network).items())
            del network
            gc.collect()  # a network refers to itself
            return 1, record
        checkpoint = self.folder.read_checkpoint(done[-1])
        try:
            self.strategy.restore(checkpoint.strategy_arrays, checkpoint.strategy_values)
        except AmosError as error:
            damaged = self.folder.checkpoint_folder(checkpoint.round)
            raise AmosError(f"{damaged}: {error}; {remedy_for(damaged)}") from None
        self.ledger.go_on(checkpoint.ledger, checkpoint.round, self.folder.checkpoint_folder(checkpoint.round))
        # A run of an older version recorded nothing: what its sites annotate counts, as far as they are connected.
        known = recorded_organs(self.folder)
        self.learned |= set(self.organs if known is None and self.folder.about().start_sha256 else known or ())
        self._learn_from(self.ledger.averaged)
        self.listener(
            Said(f"this run has finished already, after {counted(checkpoint.round, 'round')}; nothing is trained")
            if self.folder.finished
            else Continued(checkpoint.round, self.config.rounds)
        )
        return checkpoint.round + 1, record_of_sums(checkpoint.weights)

    def _learn_from(self, sites: Iterable[str]) -> None:
        """Count the organs that these sites' training cases annotate as learned, and record them."""
        for site in sites:
            if site in self.described:
                self.learned |= set(self.described[site].annotated_in_training) & set(self.organs)
        if self.learned != self.recorded:
            write_learned(self.folder, self.organs, self.learned)
            self.recorded = set(self.learned)

    def _say_what_nobody_annotates(self) -> None:
        annotated = {organ for described in self.described.values() for organ in described.annotated_in_training}
        if never := names_unlearned(self.organs, self.learned | annotated):
            self.listener(
                Warned(
                    f"no training case annotates {', '.join(never)}; the network does not learn "
                    f"{'it' if len(never) == 1 else 'them'} and predicts background there"
                )
            )

    def _min_sites(self, asked: int) -> int:
        """The updates that a round needs which asks so many sites."""
        return min(self.config.min_sites or (asked + 1) // 2, asked)

    def _round(self, given: RoundInput) -> tuple[ArrayRecord, LedgerEntry]:
        """Carry out one round, from the weights in `given` to the next ones and its line in the ledger."""
        started = time.perf_counter()
        number, messages = given.number, self.strategy.messages(given)
        best = self.bests[OWN["val"]].of_sites() if self.strategy.personal else {}
        for site, message in messages.items():
            more = {**config_of(given.works[site]), BEST_ROUND: best.get(site, 0)}
            self._say_what_is_kept(message, site, number - 1, **more)
        self.listener(RoundStarted(number, self.config.rounds, tuple(messages)))
        asked = {
            site: Asked(
                self.organs,
                site=site,
                described=self.described[site],
                steps=given.works[site].steps,
                timed=self.config.local_seconds is not None,
                weight=int(given.weights[site]),
                reports=self.strategy.reports,
            )
            for site in messages
        }
        exchanges, codec = self.config.exchanges_weights, self.config.codec
        training = TrainingRound(number, messages, asked, exchanges, self.listener, given.form, codec)
        replies = exchange(
            given.grid,
            messages,
            training.missing,
            stop=self.folder.stop_file,
            timeout_s=self.engine.phase_timeout_s(self.config.site_timeout_s, len(messages)),
            poll=self.engine.poll,
            on_timeout=self.engine.end_site,
            lost=self.engine.lost,
        )
        arrays, shares = self.strategy.aggregate(given, training.updates(replies), training.missing)
        training.let_go_of_messages()
        for site, reason in sorted(training.missing.items()):
            self.listener(SiteFailed(site, "train", number, str(reason)))
        self._stop_where_a_disk_is_full(training.missing)
        came, needed = len(asked) - len(training.missing), self._min_sites(len(asked))
        if came < needed or not shares:
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(training.missing.items()))
            raise RunStopped(
                f"round {number}: {came} of {len(asked)} sites sent an update and {needed} are needed "
                f"({reasons}); the last checkpoint is of round {number - 1}"
            )
        if withheld := set(given.form) ^ set(before := views_of(given.arrays)):
            arrays = {name: before[name] if name in withheld else arrays[name] for name in before}
        record = record_of_sums(arrays)
        entry = training.entry(shares, given.weights, time.perf_counter() - started)
        if self.strategy.second_model:
            for did in entry["sites"].values():
                did["second_steps"] = did["steps"]
        return record, entry

    def _checkpoint(self, record: ArrayRecord, entry: LedgerEntry) -> None:
        """Write a round into the ledger, and then a checkpoint, which says how far the ledger is written.

        A kill between the two leaves a round in the ledger that a resume cuts off, and carries out again.
        """
        started = time.perf_counter()
        number = entry["round"]
        entry["weights_sha256"] = hash_of(views_of(record))
        self._learn_from(sites_in_weights(entry))
        entry["seconds"] = round(entry["seconds"] + time.perf_counter() - started, 3)
        if changes := accepted_before(self.folder, number):
            entry["changes"] = changes
        self.ledger.append(entry)
        arrays, values = self.strategy.state()
        self.folder.save_checkpoint(
            number, views_of(record), arrays, values, self.ledger.extent, entry["weights_sha256"]
        )
        if self.config.keep_checkpoints == "needed":
            kept = rounds_worth_keeping(self.bests["val"], self.bests[OWN["val"]], self.config, number)
            self.folder.prune_checkpoints({number - 1, number, *kept})
        seconds = entry["seconds"] + time.perf_counter() - started
        self.listener(RoundFinished(number, self.config.rounds, entry["loss"], seconds, tuple(sites_in_weights(entry))))
