"""Create a run folder with its settings, cohort and versions, whole or not at all."""

from pathlib import Path

from amos_fl.cohort.table import Cohort, write_cohort
from amos_fl.errors import AmosError
from amos_fl.files import MOST_NAME_BYTES, remove_abandoned, sha256_of_json
from amos_fl.locks import HOLDERS, LOCK, at_work
from amos_fl.runs.about import VERSIONS, AboutRun, versions, write_about
from amos_fl.runs.config import RunConfig
from amos_fl.runs.folder import RunFolder, places_of
from amos_fl.runs.own_code import own_modules
from amos_fl.runs.work import check_sites


def check_free(path: Path) -> None:
    """Check that a run can be created in a folder.

    Raises:
        AmosError: it holds a run already, or other files, or cannot be looked into.
    """
    if len(path.name.encode(errors="replace")) > MOST_NAME_BYTES:
        raise AmosError(f"{path}: its name is longer than {MOST_NAME_BYTES} bytes; choose a shorter one")
    try:
        if (path / "config.yaml").exists():
            raise AmosError(f"{path}: holds a run already; continue it with --resume {path}, or choose another folder")
        if path.exists() and not path.is_dir():
            raise AmosError(f"{path}: is a file; choose another folder")
        if path.is_dir():
            remove_abandoned(path.glob(".*.tmp.*"))
            found = {entry.name for entry in path.iterdir() if not entry.name.startswith((LOCK, HOLDERS))}
            # A run that was killed during creation has only the files written before its settings.
            if found and not (VERSIONS in found and found <= {VERSIONS, "cohort.csv", "organs.csv"}):
                raise AmosError(f"{path}: is not empty; choose another folder")
    except OSError as error:
        raise AmosError(f"{path}: cannot be looked into ({error.strerror}); choose another folder") from None


def create_run(path: Path, config: RunConfig, cohort: Cohort, start_sha256: str | None = None) -> RunFolder:
    """Make a new run folder with its settings, cohort and versions.

    `start_sha256` is that of the initial weights, if they are known to fit; otherwise `config.start_from` is checked.

    Raises:
        AmosError: the folder holds a run already, or other files, or the run cannot begin with the cohort's sites.
    """
    check_free(path)
    if cohort.cases:  # a deployment learns of them later
        check_sites(config, cohort.seen_sites)
    start = start_sha256
    if start is None and config.start_from is not None:
        from amos_fl.runs.start import check_start  # needs torch, which nothing else here does

        start = check_start(config, cohort.organs)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AmosError(f"{path}: cannot make this folder ({error.strerror}); choose another folder") from None
    with at_work(path):
        check_free(path)  # two processes may have begun at once
        try:
            _write_run(RunFolder(path), config, cohort, start)
        except OSError:  # for instance a full disk: a partial run would be in the way of a new one
            for name in ("config.yaml", "cohort.csv", "organs.csv", VERSIONS):
                (path / name).unlink(missing_ok=True)
            raise
    return RunFolder(path)


def _write_run(folder: RunFolder, config: RunConfig, cohort: Cohort, start: str | None) -> None:
    path = folder.path
    modules = own_modules(config)
    run_id = sha256_of_json([config.science(), cohort.content_hash(), start, *filter(None, [modules])])[:16]
    about = AboutRun(
        run_id=run_id,
        start_sha256=start,
        cohort_sha256=cohort.content_hash(),
        synthetic=cohort.synthetic(),
        versions=versions(),
        settings=config.science(),
        modules=modules or None,
        cases=places_of(cohort),
        organs={str(label): name for label, name in cohort.organs.items()},
    )
    write_about(path, about)
    write_cohort(cohort, path / "cohort.csv")
    # Last, because its presence says that the folder is a run.
    folder.write_config(config)
