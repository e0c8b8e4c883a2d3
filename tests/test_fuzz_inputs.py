"""Damaged scans, cohort tables and YAML, through the commands that read them: one sentence each, and not for long."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from conftest import write_case
from federations import TINY, TINY_PLAN
from fuzzing import SEED, Budget, damages, flipped, judged, put
from hospitals import write_hospital

from amos_fl.cohort.table import Case, Cohort, write_cohort
from amos_fl.runs.config import RunConfig
from amos_fl_clients.operation.command import main as site_main

HEADER = 352
SWEEP = {
    "settings": {**TINY, "sites": ["A", "B", "G"]},
    "runs": [{"strategy": "fedavg"}, {"strategy": "fedprox", "strategy_options": {"mu": 0.01}}],
    "grid": {"seed": [0, 1], "training.learning_rate": [0.1, 0.25]},
    "baselines": ["centralized", "local"],
}


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """One case for training, one for testing, one without a label map."""
    cases = []
    for split in ("train", "test"):
        image, label = write_case(tmp_path / "cohort", f"a_{split}", "CT")
        cases.append(Case(f"a_{split}", "A", "CT", split, image, label, (1, 2)))
    write_cohort(Cohort(tuple(cases), {1: "ball", 2: "box"}), tmp_path / "cohort/cohort.csv")
    return tmp_path / "cohort"


def test_scans_and_label_maps_with_damaged_headers_are_named_or_read(
    tmp_path: Path, cohort: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import nibabel as nib

    random_ = random.Random(SEED)
    table = cohort / "cohort.csv"
    table.write_text(table.read_text().replace("a_train.nii.gz", "a_train.nii"))
    files = [cohort / "images/a_train.nii", cohort / "labels/a_train.nii"]
    for file in files:
        nib.save(nib.Nifti1Image.from_filename(f"{file}.gz"), file)
        Path(f"{file}.gz").unlink()
    files += [cohort / "images/a_test.nii.gz", cohort / "labels/a_test.nii.gz"]
    whole = {file: file.read_bytes() for file in files}
    numbers = iter(range(10**6))
    organs = ["--modality", "CT", "--organs", str(cohort / "organs.csv")]

    def line(name: str, file: Path) -> list[str]:
        out = str(tmp_path / f"out-{next(numbers)}")
        return {
            "check": ["data", "check", str(cohort), "--workers", "1"],
            "plan": ["plan", str(cohort), "--workers", "1"],
            "score": ["score", str(file), str(cohort / "labels/a_test.nii.gz"), *organs, "--workers", "1"],
            "predict": ["predict", str(finished_run), str(file), "--modality", "CT", "--out", out, "--device", "cpu"],
        }[name]

    budget = Budget(150)
    while budget.left:
        for file in files:
            most = HEADER if file.suffix == ".nii" else None
            put(file, random_.choice([flipped, flipped, flipped, cut])(whole[file], random_, most))
            code, said = judged(
                line(random_.choice(["check", "check", "check", "plan", "score", "predict"]), file), capsys
            )
            if code == 2:
                assert file.name in said or "a_t" in said, said
            budget.count(code)
            file.write_bytes(whole[file])
    assert budget.refused > budget.tried / 4


def cut(content: bytes, random_: random.Random, most: int | None) -> bytes:
    return content[: random_.randrange(len(content) if random_.random() < 0.5 else most or 400)]


def tried(
    budget: Budget,
    files: dict[Path, Callable[[], list[str]]],
    capsys: pytest.CaptureFixture[str],
    named: tuple[str, ...] = (),
    **run: Callable[[list[str]], int],
) -> None:
    """Damage each file in one way after another, and have a command read it.

    What is refused is named: the file, or one of the cases or settings that stand in it.
    """
    random_ = random.Random(SEED)
    ways: dict[Path, tuple[bytes, Iterator[bytes | None]]] = {
        file: (file.read_bytes(), damages(file.read_bytes(), file.suffix, random_)) for file in files
    }
    while budget.left:
        for file, line in files.items():
            put(file, next(ways[file][1]))
            code, said = judged(line(), capsys, **run)
            if code == 2:
                assert any(name in said for name in (file.name, *named)), said
            budget.count(code)
            file.write_bytes(ways[file][0])
    assert budget.refused > budget.tried / 4


def test_damaged_cohort_tables_are_named_or_read(cohort: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random_ = random.Random(SEED)

    def line() -> list[str]:
        return random_.choice(
            [
                ["data", "check", str(cohort), "--workers", "1"],
                ["plan", str(cohort), "--workers", "1"],
                ["simulate", "--cohort", str(cohort), "--plan", "coarse", "--model", "small", "--dry-run"],
                ["score", str(cohort / "labels"), "--cohort", str(cohort), "--workers", "1"],
            ]
        )

    named = ("a_train", "a_test", "site", "split", "cohort file")
    tried(Budget(150), {cohort / "cohort.csv": line, cohort / "organs.csv": line}, capsys, named)


def test_damaged_settings_plans_and_sweeps_are_named_or_read(
    tmp_path: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"settings": TINY, "plan": TINY_PLAN, "sweep": SWEEP}
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(yaml.safe_load(yaml.dump(content, Dumper=Plain))))
    at = {name: tmp_path / f"{name}.yaml" for name in files}
    run = ["--cohort", str(tiny_root), "--dry-run"]
    lines: dict[Path, Callable[[], list[str]]] = {
        at["settings"]: lambda: ["simulate", "--config", str(at["settings"]), *run],
        at["plan"]: lambda: ["simulate", "--plan", str(at["plan"]), "--model", "small", *run],
        at["sweep"]: lambda: ["sweep", str(at["sweep"]), "--dry-run"],
    }
    tried(Budget(300), lines, capsys, named=tuple(RunConfig.model_fields))


class Plain(yaml.SafeDumper):
    """Tuples as lists."""


Plain.add_representer(tuple, yaml.SafeDumper.represent_list)


def test_damaged_settings_of_a_site_are_named_or_read(
    tmp_path: Path, tiny_cohort: Cohort, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def site_command(arguments: list[str]) -> int:
        monkeypatch.setattr("sys.argv", ["amos-fl-site", *arguments])
        with pytest.raises(SystemExit) as leaving:
            site_main()
        return int(leaving.value.code or 0)

    file = write_hospital(tmp_path, tiny_cohort, "A")
    tried(Budget(60), {file: lambda: ["status", str(file)]}, capsys, run=site_command)
