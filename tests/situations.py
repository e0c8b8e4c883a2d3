"""What each command that reads scans says of faulty input, as a table: `python tests/situations.py` writes the page.

Every command runs on a small world of its own, in a process of its own, with one faulty input among good ones.
"""

import importlib
import os
import pkgutil
import re
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import bad_tables
import yaml
from bad_scans import SITUATIONS, Kind, Situation, series
from conftest import write_case
from fake_amos import write_release
from federations import TINY_PLAN
from other_datasets import write_msd, write_nnunet

import amos_fl
import amos_fl_clients
import amos_fl_server
from amos_fl.cli import main as command_line
from amos_fl.cohort.table import Case, Cohort, read_cohort, write_cohort
from amos_fl.escape.markdown import text

PAGE = Path(__file__).parents[1] / "docs/bad-input.md"
ORGANS = {1: "ball", 2: "box"}
SETTINGS = {
    "model": "small",
    "plan": {name: [*value] if isinstance(value, tuple) else value for name, value in TINY_PLAN.items()},
    "rounds": 1,
    "local_steps": 1,
    "min_sites": 1,
    "device": "cpu",
    "training": {"threads": 1, "learning_rate": 0.2},
}
TITLES: dict[Kind, str] = {
    "file": "Files of scans",
    "scan": "Headers and voxels of scans",
    "label": "Label maps",
    "dicom": "DICOM series",
    "table": "cohort.csv and organs.csv",
    "settings": "Settings",
    "data set": "Data sets of other projects",
}
COHORT = ["data check", "data stats", "plan", "simulate", "evaluate", "annotate start", "data export nnunet"]
IMPORTS = ["data nnunet", "data msd", "data amos22"]
COMMANDS: dict[Kind, list[str]] = {
    "file": [*COHORT, "predict", "score", "annotate import", *IMPORTS],
    "scan": [*COHORT, "predict", "score", "annotate import"],
    "label": [*(name for name in COHORT if name != "annotate start"), "score", "annotate import"],
    "dicom": ["predict"],
    "table": [*COHORT, "predict", "score"],
    "settings": ["simulate"],
    "data set": ["data nnunet", "data msd"],
}
"""Which commands read what."""
TESTED = {"evaluate", "score"}
"""They look at cases for testing, so the faulty one is one of those."""
MOST_SENTENCES = 3


def lines(kind: Kind) -> dict[str, list[str]]:
    """The command lines, relative to the world's folder."""
    of_table = kind == "table"
    scans = "series" if kind == "dicom" else "cohort/images"
    return {
        "data check": ["data", "check", "cohort", "--workers", "1"],
        "data stats": ["data", "stats", "cohort", "--workers", "1", "--out", "out"],
        "plan": ["plan", "cohort", "--workers", "1"],
        "simulate": [
            *("simulate", "--config", "settings.yaml", "--cohort", "cohort", "--out", "out", "--store", "store"),
        ],
        "evaluate": ["evaluate", "run", "--cohort", "cohort", "--out", "out", "--store", "store", "--device", "cpu"],
        "annotate start": ["annotate", "start", "new", "--run", "run", "--cohort", "cohort", "--device", "cpu"],
        "data export nnunet": ["data", "export", "nnunet", "cohort", "out"],
        "predict": [
            *("predict", "run", scans, "--out", "out", "--device", "cpu"),
            *(["--cohort", "cohort"] if of_table else [] if kind == "dicom" else ["--modality", "CT"]),
        ],
        "score": ["score", "predictions", "--cohort", "cohort", "--split", "test", "--workers", "1"],
        "annotate import": ["annotate", "import", "project", "corrections", "--by", "anna", "--role", "junior"],
        "data nnunet": ["data", "nnunet", "nnunet", "--site", "A", "--out", "out/cohort.csv"],
        "data msd": ["data", "msd", "msd", "--site", "A", "--out", "out/cohort.csv"],
        "data amos22": ["data", "amos22", "release", "--protocol", "release", "--out", "out/cohort.csv"],
    }


# --- a world --------------------------------------------------------------------------------------


def write_template(folder: Path) -> None:
    """Good input of every kind, a finished run, and a project in which somebody has corrected a case."""
    cases = []
    for name, site, split in (("good", "A", "train"), ("unseen", "A", "test"), ("bad", "B", "train")):
        image, label = write_case(folder / "cohort", name, "CT")
        cases.append(Case(name, site, "CT", split, image, label, tuple(ORGANS)))
    write_cohort(Cohort(tuple(cases), ORGANS), folder / "cohort/cohort.csv")
    (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    (folder / "store").mkdir()
    shutil.copytree(folder / "cohort/labels", folder / "predictions")
    (folder / "predictions/good.nii.gz").unlink()
    for name, write in (("nnunet", write_nnunet), ("msd", write_msd)):
        _named_bad(write(folder / name))
    write_release(folder / "release", ids=[1, 4, 5])
    for path in sorted((folder / "release").rglob("amos_*.nii.gz")):
        shutil.copy(folder / "cohort" / ("labels" if "labels" in path.parent.name else "images") / "good.nii.gz", path)
    _done(folder, [*lines("scan")["simulate"][:-4], "--out", "run", "--store", "store"])
    _done(folder, ["annotate", "start", "project", *lines("scan")["annotate start"][3:]], without_label=True)
    _done(folder, ["annotate", "next", "project", "--by", "anna", "--role", "junior", "--case", "bad"])
    (folder / "corrections").mkdir()
    shutil.copy(folder / "cohort/labels/bad.nii.gz", folder / "corrections/bad.nii.gz")


def _named_bad(folder: Path) -> None:
    shutil.rmtree(folder / "made", ignore_errors=True)
    for path in folder.rglob("case_0*"):
        path.rename(path.with_name(path.name.replace("case_0", "bad", 1)))
    file = folder / "dataset.json"
    file.write_text(file.read_text().replace("case_0", "bad"))


def _done(folder: Path, arguments: list[str], without_label: bool = False) -> None:
    if without_label:
        with _table(folder / "cohort/cohort.csv", without_label=True):
            return _done(folder, arguments)
    outcome = carried_out(arguments, folder)
    assert outcome.code == 0, (arguments, outcome)


@contextmanager
def _table(path: Path, **how: bool) -> Iterator[None]:
    before = path.read_bytes()
    arrange(path, **how)
    yield
    path.write_bytes(before)


def arrange(path: Path, *, without_label: bool = False, tested: bool = False) -> None:
    """Have the case bad be one for testing, or one that nobody labelled."""
    found = read_cohort(path)
    change = {"split": "test"} if tested else {}
    change |= {"label": None} if without_label else {}
    cases = tuple(replace(case, **change) if case.case == "bad" else case for case in found.cases)
    write_cohort(Cohort(cases, found.organs), path)


def faulty_world(template: Path, folder: Path, command: str, situation: Situation | None, kind: Kind) -> bool:
    """A copy of the good world with the one fault in what the command reads; whether the fault can be told to it."""
    shared = ("run", "store")
    for path in template.iterdir():
        if path.name in shared:
            (folder / path.name).symlink_to(path)
        elif path.is_dir():
            shutil.copytree(path, folder / path.name, symlinks=True)
        else:
            shutil.copy(path, folder / path.name)
    table = folder / "cohort/cohort.csv"
    arrange(table, without_label=command == "annotate start", tested=command in TESTED)
    if kind == "dicom" and situation is None:
        series(folder / "series")
    if situation is None:
        return True
    path = folder / _target(kind, command)
    if kind == "dicom" or command not in {*COHORT, "predict", "score"} or kind not in ("scan", "file", "label"):
        situation.make(path)
        return True
    found = situation.make(path)
    if found is None or command == "predict" or path.parent.name == "predictions":
        return True
    try:
        bad_tables.replaced(table, f"{path.parent.name}/{path.name}", f"{path.parent.name}/{found.name}")
    except UnicodeEncodeError:
        return False  # no cohort.csv can hold this name
    return True


def _target(kind: Kind, command: str) -> str:
    if kind in ("dicom", "settings"):
        return {"dicom": "series", "settings": "settings.yaml"}[kind]
    if kind == "table":
        return "cohort/cohort.csv"
    if kind == "data set":
        return command.split()[-1]
    part = "labels" if kind == "label" else "images"
    match command:
        case "score" if part == "images":
            return "predictions/bad.nii.gz"
        case "annotate import":
            return "corrections/bad.nii.gz"
        case "data nnunet":
            return f"nnunet/{part}Tr/bad{'' if kind == 'label' else '_0000'}.nii.gz"
        case "data msd":
            return f"msd/{part}Tr/bad.nii.gz"
        case "data amos22":
            return f"release/{part}Tr/amos_0001.nii.gz"
        case _:
            return f"cohort/{part}/bad.nii.gz"


# --- what is said ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and the sentences in which it said why."""

    code: int
    sentences: tuple[str, ...]
    traceback: bool


def carried_out(arguments: list[str], folder: Path) -> Outcome:
    """A command line in a process of its own, which begins with everything imported."""
    with tempfile.TemporaryDirectory() as aside:
        files = [Path(aside) / name for name in ("out", "err")]
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os._exit(_in_child(arguments, folder, files))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out, err = (file.read_text(encoding="utf-8", errors="backslashreplace") for file in files)
    said = [*_rows(out), *(line.lstrip(" -") for line in out.splitlines() if re.match(r" *(note|warning|- )", line))]
    said += [line.removeprefix("amos-fl: ") for line in err.splitlines() if line.startswith("amos-fl: ")]
    if code and not said:
        said = [line for line in err.splitlines() if line.strip()][-1:]
    clean = dict.fromkeys(_without_this_machine(sentence, folder) for sentence in said)
    return Outcome(code, tuple(clean), "Traceback" in out + err)


def _in_child(arguments: list[str], folder: Path, files: list[Path]) -> int:
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace")
    os.environ["COLUMNS"] = "3000"
    os.chdir(folder)
    warnings.resetwarnings()
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.showwarning = command_line._showwarning
    try:
        code = command_line.run(arguments)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _rows(out: str) -> Iterable[str]:
    """The rows of findings that `data check` and `score` print: how bad, the case, what is wrong."""
    for line in out.splitlines():
        cells = [cell.strip() for cell in line.split("│")[1:-1]]
        if len(cells) == 3 and cells[0] in ("error", "warning"):
            yield f"{cells[0]}: {cells[2]}" if cells[1] in cells[2] else f"{cells[0]}: {cells[1]}: {cells[2]}"
        elif len(cells) == 3 and cells[1] in ("prediction", "label map", "label", "reference"):
            yield f"{cells[0]}: {cells[1]} {cells[2]}"


def _without_this_machine(sentence: str, folder: Path) -> str:
    sentence = sentence.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "").replace(str(folder), ".")
    sentence = re.sub(r"this machine has [\d.,]+", "this machine has ...", sentence)
    sentence = re.sub(r"UID [\d.]+", "UID ...", sentence)
    sentence = re.sub(r"x{20,}", "xxx...", sentence)
    return re.sub(r"\d+(\.\d+)? s\b", "... s", " ".join(sentence.split()))


def import_everything() -> None:
    """What commands import when they begin their work is imported once, and every command's process has it."""
    for package in (amos_fl, amos_fl_clients, amos_fl_server):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            # Ray's engine, and the trackers of extras.
            if not any(part in module.name for part in (".ray", ".to_mlflow", ".to_wandb", "__main__")):
                importlib.import_module(module.name)
    for name in (
        "torch",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "pydicom",
        "highdicom",
        "scipy.ndimage",
    ):
        importlib.import_module(name)


def tried(
    folder: Path, chosen: Callable[[Situation, str], bool] = lambda situation, command: True
) -> Iterator[tuple[Situation, str, Outcome]]:
    """What every command that is chosen says of every situation, without what it says of good input."""
    import_everything()
    write_template(folder / "template")
    usual: dict[tuple[Kind, str], Outcome] = {}
    numbers = iter(range(10**6))

    def world(command: str, situation: Situation | None, kind: Kind) -> Outcome | None:
        place = folder / f"{next(numbers)}"
        place.mkdir()
        told = faulty_world(folder / "template", place, command, situation, kind)
        outcome = carried_out(lines(kind)[command], place) if told else None
        shutil.rmtree(place)
        return outcome

    for situation in SITUATIONS:
        for command in COMMANDS[situation.kind]:
            if not chosen(situation, command):
                continue
            if (situation.kind, command) not in usual:
                good = world(command, None, situation.kind)
                assert good, command
                assert good.code == 0, (command, good)
                usual[situation.kind, command] = good
            outcome = world(command, situation, situation.kind)
            if outcome is not None:
                new = tuple(said for said in outcome.sentences if said not in usual[situation.kind, command].sentences)
                yield situation, command, replace(outcome, sentences=new)


# --- the page -------------------------------------------------------------------------------------

HEAD = """\
# Messages for faulty input

What each command that reads scans says about faulty input as it occurs in practice: damaged, self-contradictory, half
downloaded. Each time there is one faulty file, called `bad`, among good ones; messages that good input also causes
are left out. Exit code 0: done; 2: something has to be repaired first. One bad scan never affects the others:
`predict`, `annotate start` and `annotate import` name it, carry out the rest, and end with exit code 2. `data
nnunet`, `data msd` and `data amos22` list files without opening them (`data check` opens them), so they appear only
under files. For `score` and `annotate import` the faulty file is a prediction and a correction instead of a scan.

The tables are generated by trying every situation: `python tests/situations.py` rewrites this page.
"""


def page(results: Iterable[tuple[Situation, str, Outcome]]) -> str:
    """The tables in Markdown; commands that say the same of a situation share a row."""
    rows: dict[Kind, list[str]] = defaultdict(list)
    grouped: dict[Situation, dict[tuple[int, tuple[str, ...]], list[str]]] = defaultdict(lambda: defaultdict(list))
    for situation, command, outcome in results:
        grouped[situation][outcome.code, outcome.sentences].append(command)
    for situation, answers in grouped.items():
        words = text(situation.words)
        for (code, sentences), commands in answers.items():
            said = "<br>".join(map(text, sentences[:MOST_SENTENCES])) or "*taken without a word*"
            if len(sentences) > MOST_SENTENCES:
                said += f"<br>*and {len(sentences) - MOST_SENTENCES} more*"
            rows[situation.kind].append(f"| {words} | {', '.join(commands)} | {code} | {said} |")
            words = ""
    tables = (
        f"## {TITLES[kind]}\n\n| situation | commands | exit code | what is said |\n|---|---|---|---|\n"
        + "\n".join(rows[kind])
        for kind in TITLES
    )
    return "\n".join([HEAD, "\n\n".join(tables), ""])


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for situation, command, outcome in tried(Path(folder), _named_on_the_command_line()):
            print(f"{situation.kind}: {situation.words} | {command} | {outcome.code} | {outcome.sentences}", flush=True)
            results.append((situation, command, outcome))
    if len(sys.argv) == 1:
        PAGE.write_text(page(results), encoding="utf-8")


def _named_on_the_command_line() -> Callable[[Situation, str], bool]:
    """Words of situations and commands: only those are tried, and no page is written."""
    wanted = sys.argv[1:]
    return lambda situation, command: all(word in f"{situation.kind}: {situation.words} | {command}" for word in wanted)


if __name__ == "__main__":
    main()
