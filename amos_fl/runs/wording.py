"""Describe a run in words that fit its arm and cohort, for the summary, the report and the model card."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from amos_fl.cohort.organ_names import organ_key
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.metrics.scores import reported_organs
from amos_fl.runs.config import has_strategy
from amos_fl.runs.learned import learned_in, names_unlearned, not_learned_in_words
from amos_fl.runs.work import steps_in_words
from amos_fl.wording import counted, listed

if TYPE_CHECKING:
    from amos_fl.cohort.table import Cohort
    from amos_fl.runs.config import RunConfig
    from amos_fl.runs.folder import RunFolder
    from amos_fl.runs.ledger import LedgerEntry

ABDOMINAL = frozenset(map(organ_key, AMOS_ORGANS.values()))


def untrained_sites(config: "RunConfig", cohort: "Cohort", entries: Iterable["LedgerEntry"]) -> list[str]:
    """The training sites of a federated run that trained in none of its rounds; none before the first round."""
    trained = [set(entry["sites"]) for entry in entries]
    if not trained or not has_strategy(config.arm):
        return []
    return [site for site in cohort.seen_sites if not any(site in sites for sites in trained)]


def untrained_in_words(untrained: Sequence[str]) -> list[str]:
    """A problem for each site that trained in no round.

    >>> untrained_in_words(["south"])
    ['south trained in no round: its scores, under seen, are those of an unseen scanner']
    """
    return [f"{site} trained in no round: its scores, under seen, are those of an unseen scanner" for site in untrained]


def contributed_in_words(cohort: "Cohort", untrained: Sequence[str]) -> str:
    """How many of the training sites are in the network; empty if all are."""
    if not untrained:
        return ""
    seen = len(cohort.seen_sites)
    return (
        f"{seen - len(untrained)} of {counted(seen, 'training site')} contributed; "
        f"{listed(untrained)} trained in none of the rounds"
    )


def work_in_words(config: "RunConfig", cohort: "Cohort", untrained: Sequence[str] = ()) -> str:
    """What was trained, by whom, for how long, with the seed, and which sites trained in no round."""
    seen, seed = cohort.seen_sites, f"seed {config.seed}"
    names, steps = ", ".join(seen), config.rounds * config.local_steps
    if has_strategy(config.arm):
        word = f"leave-one-out (without {', '.join(config.hold_out)}): " if config.arm == "leave-one-out" else ""
        sites = f"{len(seen)} training site{'s' * (len(seen) != 1)} ({names})"
        each = f"{counted(config.rounds, 'round')} of {steps_in_words(config)}"
        less = contributed_in_words(cohort, untrained)
        return f"{word}strategy {config.strategy}, {each} at each of {sites}, {seed}" + (f"; {less}" if less else "")
    cases = counted(len(cohort.of(split="train", labelled=True)), "training case")
    what = {
        "centralized": f"pooled training: {counted(steps, 'step')} on the {cases} of {names} together",
        "local": f"training at {names} alone: {counted(steps, 'step')} on its {cases}",
        "finetune": f"other weights trained further at {names} alone: {counted(steps, 'step')} on its {cases}",
    }[config.arm]
    return f"{what}, {seed}; {_one_trainer(config)}"


def _one_trainer(config: "RunConfig") -> str:
    if config.rounds == 1:
        return "one trainer, without a strategy"
    return (
        f"one trainer, without a strategy: its {config.rounds} rounds of {counted(config.local_steps, 'step')} only "
        "mark where it is scored and kept"
    )


def spent_in_words(config: "RunConfig", seconds: float, bytes_down: int, bytes_up: int) -> str:
    """The time of the rounds, and the weights exchanged."""
    if not config.exchanges_weights:
        return f"{seconds:.0f} s of training; no weights were exchanged"
    down, up = bytes_down / 1e6, bytes_up / 1e6
    return f"{seconds:.0f} s in rounds, {down:.1f} MB of weights to the sites and {up:.1f} MB back"


def left_out_in_mr(organs: Mapping[int, str], modalities: Collection[str]) -> str:
    """A sentence about the organs whose scores are not reported in MR; empty if there are none, or no MR."""
    reported = reported_organs(organs, "MR")
    names = [name for organ, name in organs.items() if organ not in reported]
    if not names or not any("MR" in modality for modality in modalities):
        return ""
    return f"MR is reported without {' and '.join(names)}."


def target_in_words(organs: Mapping[int, str]) -> str:
    """What a network for these organs segments.

    >>> target_in_words({1: "liver", 2: "Kidney_left"}), target_in_words({1: "hippocampus", 2: "liver"})
    ('abdominal organs', 'hippocampus and liver')
    """
    names = list(organs.values())
    if set(map(organ_key, names)) <= ABDOMINAL:
        return "abdominal organs"
    if len(names) > 6:
        return f"{', '.join(names[:5])} and {len(names) - 5} other organs"
    return listed(names)


def unlearned_in_words(folder: "RunFolder", cohort: "Cohort") -> list[str]:
    """Sentences about organs that the run did not learn, and which of them its test cases annotate."""
    learned = learned_in(folder, cohort).organs
    never = names_unlearned(cohort.organs, learned)
    if not never:
        return []
    found = [not_learned_in_words(never)]
    asked = {organ for case in cohort.of(split="test", labelled=True) for organ in case.annotated}
    if empty := [name for organ, name in cohort.organs.items() if organ in asked and organ not in learned]:
        found.append(f"annotated in test cases but not learned, so the prediction counts as empty: {', '.join(empty)}")
    return found
