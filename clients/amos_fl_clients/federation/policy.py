"""A site's policy: requests beyond its own settings are refused, in words that reveal nothing inside the site."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from amos_fl.cohort.organ_names import difference_in_words
from amos_fl.cohort.table import SPLITS, Cohort
from amos_fl.errors import AmosError, Code
from amos_fl.files import private_folder
from amos_fl.methods import method_named
from amos_fl.own_code import module_of, sha256_of_module
from amos_fl.pseudonyms import pseudonym, secret_key
from amos_fl_clients.federation.messages import PERSONAL, SHARED
from amos_fl_clients.federation.settings import SiteSettings

_RUN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


class Refusal(AmosError):  # noqa: N818 - an answer, given on purpose
    """A request that the site's own settings do not allow."""

    def __init__(self, site: str, why: str, code: Code = "refused") -> None:
        super().__init__(f"refused by site {site}: {why}", code=code)


def pause_file(state: Path) -> Path:
    """The file whose presence pauses the site."""
    return state / "paused"


def pause(state: Path, why: str = "") -> None:
    """Refuse every request from now on; work in progress ends before its next step.

    `why` stays at the site.

    Raises:
        OSError: the state may not be written, so that the site is not paused.
    """
    private_folder(state)
    pause_file(state).write_text(f"{why}\n" if why else "", encoding="utf-8")


def resume(state: Path) -> bool:
    """Take part again; returns False if the site was not paused."""
    if not is_paused(state):
        return False
    pause_file(state).unlink(missing_ok=True)
    return True


def is_paused(state: Path) -> bool:
    return pause_file(state).exists()


def check_not_paused(settings: SiteSettings) -> None:
    """Raise Refusal if the site is paused."""
    if is_paused(settings.state):
        raise Refusal(settings.site, "it is paused", "paused")


def check_run(settings: SiteSettings, run_id: str) -> None:
    """Raise Refusal for a run id that is not a valid folder name, because the site keeps its state under it."""
    if not _RUN_ID.fullmatch(run_id):
        raise Refusal(settings.site, "the run's id may hold letters, digits, '.', '_' and '-' only")


def check_training(settings: SiteSettings, round_number: int, steps: int) -> None:
    """Raise Refusal for invalid rounds and steps, and for more steps than the site allows.

    They are not reduced, because an update with fewer steps than requested would be another experiment.
    """
    if round_number < 1 or steps < 0:
        raise Refusal(settings.site, "rounds are counted from 1 and steps from 0")
    allowed = settings.max_steps_per_round
    if allowed is not None and steps > allowed:
        raise Refusal(settings.site, f"it allows {allowed} steps a round, and {steps} were asked for")


def check_method(settings: SiteSettings, method: str, options: Mapping[str, object]) -> None:
    """Raise Refusal for a method that the site does not know or does not allow."""
    try:
        method_named(method, options)
    except AmosError as error:
        raise Refusal(settings.site, str(error)) from None
    allowed = settings.allowed_methods
    if allowed is not None and method not in allowed:
        raise Refusal(settings.site, f"it does not train in {method}; it allows {', '.join(allowed) or 'no method'}")


def check_modules(settings: SiteSettings, paths: Iterable[str], wanted: Mapping[str, str]) -> None:
    """Raise Refusal for a run's custom code that the site does not allow, or whose file differs from the server's.

    Nothing of a module is run before it is known to be allowed.
    """
    allowed = settings.allowed_modules
    for module in sorted({module_of(path) for path in paths}):
        asked, here = wanted.get(module, "unknown"), sha256_of_module(module)
        if allowed is not None and module not in allowed:
            why = (
                f"it does not run the module {module}; where the hospital agrees, it installs that file and lists it "
                f"under allowed_modules with its SHA-256, {asked}"
            )
        elif here is None:
            why = f"the module {module} is not installed there"
        elif allowed is not None and allowed[module] != here:
            why = f"its file of the module {module} has the SHA-256 {here}, and it allows {allowed[module]}"
        elif asked != here:
            why = f"its file of the module {module} has the SHA-256 {here}, and the run's {asked}; use the same file"
        else:
            continue
        raise Refusal(settings.site, why)


def check_evaluation(settings: SiteSettings, split: str) -> None:
    """Raise Refusal for an unknown split, or one that the site excludes from evaluation."""
    if split not in SPLITS:
        raise Refusal(settings.site, f"no such split; choose from {', '.join(SPLITS)}")
    if split in settings.refuse_evaluation_on:
        raise Refusal(settings.site, f"it does not allow evaluation on {split}")


def check_personal(settings: SiteSettings, model: str, method: str, options: Mapping[str, object]) -> None:
    """Raise Refusal for a personal model, if the run's method leaves the site none."""
    if model != PERSONAL:
        raise Refusal(settings.site, f"no such model; choose from {SHARED}, {PERSONAL}")
    check_method(settings, method, options)
    if not method_named(method, options).personal:
        raise Refusal(settings.site, f"{method} leaves it no personal model to score")


def check_histograms(settings: SiteSettings) -> None:
    """Raise Refusal if no histogram of the scans may leave."""
    if not settings.share_histograms:
        raise Refusal(settings.site, "it does not share histograms of its scans")


def check_organs(settings: SiteSettings, cohort: Cohort, organs: Mapping[int, str]) -> None:
    """Raise Refusal if a label value that the site's cases annotate means another organ in a run.

    Names may be spelled differently, and the site may lack organs of the run or have others.
    """
    used = {organ for case in cohort.cases if case.label is not None for organ in case.annotated}
    if differ := difference_in_words(cohort.organs, organs, ("in its cohort", "in this run"), used):
        raise Refusal(
            settings.site,
            f"{differ}; renumber its label maps with 'amos-fl data relabel', or correct organs.csv beside its "
            "cohort.csv if only the names there are wrong (without that file the numbers are AMOS's)",
        )


def shared_name(settings: SiteSettings, case: str) -> str:
    """The name under which a case's scores leave the site: its own, or a pseudonym.

    A pseudonym is a hash of the name under a key that stays at the site (HMAC-SHA256, RFC 2104), the same in every
    run. Without the key a guessed name cannot be verified.
    """
    if settings.share_case_scores == "named":
        return case
    return f"{settings.site}-{pseudonym(pseudonym_key(settings.state), case)}"


def pseudonym_key(state: Path) -> bytes:
    """The site's own key for pseudonyms, made on first use, readable by the site alone."""
    return secret_key(state / "pseudonym.key")
