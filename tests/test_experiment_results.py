"""The page of results: the paper's numbers beside ours, runs in rows, and runs of several seeds by their arms."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from made_runs import amos, constant, made_cohort, made_run
from PIL import Image

from amos_fl.cli.main import run
from amos_fl.cohort.table import Cohort, write_cohort
from amos_fl.comparison.compare import compare_runs
from amos_fl.comparison.write import write_comparison
from amos_fl.experiments.drops import drops_page
from amos_fl.experiments.outcome import outcome, outcome_in_markdown, write_outcome
from amos_fl.experiments.pictures import write_pictures
from amos_fl.experiments.preset import read_preset
from amos_fl.experiments.workspace import StepWork, Workspace
from amos_fl.files import write_text
from amos_fl.metrics.rows import write_scores
from amos_fl.metrics.table import read_scores
from amos_fl.runs.create import create_run
from amos_fl.runs.results import write_tables
from amos_fl.weights import save_arrays


def made_folder(
    path: Path, cohort: Cohort, *, score: float = 0.8, synthetic: bool = False, commit: str = "abc", **settings: Any
) -> Path:
    """A finished run's folder, made of numbers: whatever it trained has the same score."""
    record = made_run("made", constant(score), cohort=cohort, **settings)
    folder = create_run(path, record.config, record.cohort)
    about = json.loads((path / "versions.json").read_text())
    about |= {"synthetic": synthetic, "versions": {**about["versions"], "commit": commit}}
    (path / "versions.json").write_text(json.dumps(about))
    nothing: Any = {"bytes_up": 0, "bytes_down": 0, "seconds": 2.0}
    site: Any = {"cases": 1, "steps": record.config.local_steps, "loss": 1.0, **nothing}
    trained = dict.fromkeys(record.cohort.seen_sites, site)
    entry: Any = {"round": 1, "sites": trained, "loss": 1.0, "missing": {}, "weights_sha256": "", **nothing}
    folder.write_ledger([entry])
    write_tables(path, record.results)
    save_arrays({"a": np.zeros(1, np.float32)}, path / "model" / "weights.safetensors")
    write_text(path / "summary.md", "made")
    return path


def made_networks(out: Path, cohort: Cohort, **settings: Any) -> Workspace:
    """A workspace in which one training of the experiment `networks` is done."""
    workspace = Workspace(out, "full")
    write_cohort(cohort, workspace.cohorts / "made" / "cohort.csv")
    given = {"model": "unet", "plan": "amos-ct", "arm": "centralized", **settings}
    made_folder(workspace.runs / "made", cohort, **given)
    workspace.write_state("networks", {"unet-ct": StepWork("run", "runs/made", "cohorts/made/cohort.csv")})
    return workspace


def test_the_papers_number_stands_beside_ours_where_the_data_is_amos(tmp_path: Path) -> None:
    workspace = made_networks(tmp_path, amos({"train": "train", "val": "test"}))
    cells = {cell.organ: cell for cell in outcome(read_preset("networks"), workspace)}
    assert (cells[""].dsc, cells[""].published_dsc, cells[""].published_nsd) == (pytest.approx(0.8), 0.8887, 0.7987)
    assert cells["spleen"].published_dsc == 0.9631
    text = outcome_in_markdown(list(cells.values()))
    assert "(0.8887 / 0.7987)" in text
    assert "published, real AMOS" in text


@pytest.mark.parametrize("different", ["synthetic", "network", "plan", "a case", "training"])
def test_it_does_not_where_anything_is_another(tmp_path: Path, different: str) -> None:
    cohort = amos({"train": "train", "val": "test"})
    settings: dict[str, dict[str, Any]] = {
        "synthetic": {"synthetic": True},
        "network": {"model": "small"},
        "plan": {"plan": "coarse"},
    }
    if different in ("a case", "training"):
        split = "test" if different == "a case" else "train"
        left_out = next(case for case in cohort.cases if case.split == split)
        cohort = Cohort(tuple(case for case in cohort.cases if case is not left_out), cohort.organs)
    workspace = made_networks(tmp_path, cohort, **settings.get(different, {}))
    cells = outcome(read_preset("networks"), workspace)
    assert cells
    assert not any(cell.published_dsc == cell.published_dsc for cell in cells)
    assert "0.8887" not in outcome_in_markdown(cells)


def test_the_page_of_results_has_a_row_for_every_run_with_its_commit_and_budget(tmp_path: Path, capsys: Any) -> None:
    cohort = amos({"train": "train", "val": "test"}, {1, 2, 5, 8, 13})
    made_folder(tmp_path / "runs" / "one", cohort, rounds=7, local_steps=11, commit="1234abcd")
    made_folder(tmp_path / "runs" / "two", cohort, synthetic=True, commit="dirty")
    assert run(["experiments", "results", str(tmp_path / "runs")]) == 0
    page = capsys.readouterr().out
    one, two = (next(line for line in page.splitlines() if line.startswith(f"| {name}")) for name in ("one", "two"))
    assert "| 7 x 11 x 1, 22 patches | 0.800 / 0.720 |" in one
    assert one.endswith("| 2 | 1234abcd |")
    assert "| two* |" in two
    assert "0.800 / 0.720*" in two
    assert "synthetic" in page
    assert run(["experiments", "results", str(tmp_path)]) == 0
    shutil.rmtree(tmp_path / "runs")
    assert run(["experiments", "results", str(tmp_path)]) == 2
    assert "contains no finished run" in capsys.readouterr().err


def made_methods(out: Path, cohort: Cohort) -> Workspace:
    """A workspace in which two methods of the experiment `hippocampus` are done in two seeds, and compared."""
    workspace, works, records = Workspace(out, "full"), {}, []
    for method, score in (("fedavg", 0.8), ("median", 0.7)):
        for seed in (0, 1):
            folder, settings = f"runs/{method}-{seed}", {"strategy": method, "seed": seed}
            made_folder(workspace.root / folder, cohort, score=score + seed / 10, commit="1234abcd", **settings)
            works[f"{method}-{seed}"] = StepWork("run", folder)
            scores = constant(score + seed / 10)
            records.append(made_run(f"{method}-{seed}", scores, cohort=cohort, **settings))
    write_comparison(compare_runs(records, resamples=100), workspace.root / "hippocampus" / "comparison")
    works["comparison"] = StepWork("comparison", "hippocampus/comparison")
    workspace.write_state("hippocampus", works)
    return workspace


def test_the_page_shows_runs_of_several_seeds_by_their_arms_and_says_how_they_were_made(
    tmp_path: Path, capsys: Any
) -> None:
    sites: dict[str, Any] = {"A": ("MR", True, 6), "D": ("MR", False, 7)}
    workspace = made_methods(tmp_path, made_cohort(sites, {1: "anterior", 2: "posterior"}))
    other = workspace.preset("hippocampus") / "others" / "one"
    cases = read_scores(workspace.runs / "fedavg-0" / "scores.csv")
    write_scores(other / "scores.csv", cases, {1: "anterior", 2: "posterior"})
    about = {"name": "another net", "command": "python another.py", "steps": 400, "patches": 800, "seconds": 70.0}
    write_text(other / "about.json", json.dumps(about))
    assert run(["experiments", "results", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    headings = [line for line in page.splitlines() if line.startswith("##")]
    assert headings == ["## Methods, pooled and alone", "## Another program", "## How the runs were made"]
    assert "| fedavg | 0.850 [0.850, 0.850] ± 0.071 |" in page
    assert "| median | -0.100 [-0.100, -0.100], p " in page
    assert "| another net | 0.800 [0.800, 0.800] | 0.800 [0.800, 0.800] | 0.720 " in page
    assert "`amos-fl experiments run hippocampus --data hippocampus=FOLDER`: 4 trainings" in page
    assert "begun by commit 1234abcd" in page
    assert "| run |" not in page, "no row for each of the many runs"
    assert "CT" not in page
    assert "synthetic" not in page


def test_every_comparison_stands_below_a_heading_that_says_what_it_compares(tmp_path: Path, capsys: Any) -> None:
    workspace = made_methods(tmp_path, made_cohort({"A": ("MR", True, 6), "D": ("MR", False, 7)}))
    shutil.move(workspace.preset("hippocampus"), workspace.preset("unseen-scanners"))
    compared = workspace.preset("unseen-scanners") / "comparison"
    works = {step: StepWork("comparison", f"unseen-scanners/{step}") for step in ("without-G", "chaos")}
    for work in works.values():
        shutil.copytree(compared, workspace.root / work.folder)
    workspace.write_state("unseen-scanners", works | {"light-start": StepWork("run", "runs/fedavg-0")})
    assert run(["experiments", "results", str(tmp_path), str(tmp_path)]) == 0
    page = capsys.readouterr().out
    headings = [line for line in page.splitlines() if line.startswith("#")]
    assert headings[1:4] == [
        f"## {read_preset('unseen-scanners').title}",
        "### G held out",
        "### CHAOS (patients' scans)",
    ]
    assert run(["experiments", "results", str(tmp_path)]) == 0
    page = capsys.readouterr().out
    blocks = page.split("\n## ")
    assert [block.partition("\n")[0] for block in blocks[1:]] == ["G held out", "CHAOS (patients' scans)"]
    assert all("DSC on test cases:" in block for block in blocks[1:])


def test_results_of_a_quick_form_say_that_they_are_not_results_and_how_few_the_steps_are(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "title: Mine\nquestion: Which?\nrecipe: network\nbudget: {steps: 400, rounds: 1}\n"
        "steps:\n  one: {train: centralized, data: amos}\n  two: {train: centralized, data: amos}\n"
        "results:\n  - {row: one, column: MR, step: one}\n"
    )
    preset, cohort = read_preset(str(tmp_path / "mine.yaml")), made_cohort({"A": ("MR", True, 2)})
    told = {}
    for form in ("quick", "full"):
        workspace = Workspace(tmp_path / "out", form)
        write_cohort(cohort, workspace.cohorts / "made" / "cohort.csv")
        for step, steps in (("one", 4), ("two", 6)):
            made_folder(
                workspace.runs / step, cohort, arm="centralized", rounds=2, local_steps=steps // 2, synthetic=True
            )
        works = {step: StepWork("run", f"runs/{step}", "cohorts/made/cohort.csv") for step in ("one", "two")}
        workspace.write_state("mine", works)
        write_outcome(preset, workspace)
        told[form] = (workspace.preset("mine") / "results.md").read_text()
    assert "> Quick form: 4 to 6 optimizer steps a training, on the phantom. Not a result." in told["quick"]
    assert "Quick form" not in told["full"]


def test_pictures_show_the_same_slice_of_the_cases_at_the_quartiles_under_every_step(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "title: Mine\nquestion: Which?\nrecipe: network\nbudget: {steps: 4, rounds: 1}\n"
        "steps:\n  one: {train: federated, data: amos}\n  two: {train: federated, data: amos}\n"
        "pictures:\n  - {site: F, title: F is new., cases: 2, steps: {first: one, second: two}}\n"
    )
    preset, workspace = read_preset(str(tmp_path / "mine.yaml")), Workspace(tmp_path / "out", "full")
    cohort = with_scans(made_cohort({"A": ("MR", True, 1), "F": ("MR", False, 5)}), tmp_path / "scans")
    scores = {f"f_test_{number}": 0.9 - number / 10 for number in range(5)}
    works = {}
    for step in ("one", "two"):
        record = made_run(step, lambda case, site, organ: scores.get(case, 0.5), cohort=cohort)
        folder = create_run(workspace.runs / step, record.config, record.cohort)
        write_tables(folder.path, record.results)
        write_text(folder.path / "summary.md", "made")
        save_arrays({"a": np.zeros(1, np.float32)}, folder.path / "model" / "weights.safetensors")
        works[step] = StepWork("run", f"runs/{step}")
    workspace.write_state("mine", works)
    page = tmp_path / "docs"
    assert write_pictures(preset, workspace, page / "mine") == []  # no run kept its predictions
    for step, moved in (("one", 0), ("two", 3)):
        for case in cohort.of(site="F"):
            label = nib.load(case.label).get_fdata().astype(np.uint8)  # pyright: ignore
            found = nib.Nifti1Image(np.roll(label, moved, axis=0), np.eye(4))
            file = workspace.runs / step / "predictions" / "F" / f"{case.case}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            nib.save(found, file)  # pyright: ignore
    shown = write_pictures(preset, workspace, page / "mine")
    files = ["1-F-f_test_3.png", "1-F-f_test_1.png"]
    assert [line.rpartition("/")[2].rstrip(")\n") for line in shown[:2]] == files
    assert "the scan, the reference, first, second" in shown[-1]
    for file in files:
        picture = np.asarray(Image.open(page / "mine" / file).convert("RGB")).astype(int)
        wide, gap = (picture.shape[1] - 3 * 8) // 4, 8
        scan, reference, first, second = (picture[18:, n * (wide + gap) : n * (wide + gap) + wide] for n in range(4))
        coloured = [np.ptp(tile, axis=2) > 0 for tile in (scan, reference, first, second)]
        assert not coloured[0].any()
        assert coloured[1].any()
        assert np.array_equal(reference, first)
        assert not np.array_equal(reference, second)
        neither = ~(coloured[1] | coloured[3])
        assert np.array_equal(scan[neither], second[neither])


def test_a_drop_is_the_difference_on_the_cases_that_both_scored_over_all_seeds(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "title: Mine\nquestion: Which?\nrecipe: network\nbudget: {steps: 4, rounds: 1}\n"
        "each: {seed: [0, 1, 2]}\n"
        'steps:\n  "all-{seed}": {train: federated, data: amos}\n  "less-{seed}": {train: federated, data: amos}\n'
        'drops:\n  - {site: G, row: mine, trained: "all-{seed}", held_out: "less-{seed}"}\n'
    )
    preset, workspace = read_preset(str(tmp_path / "mine.yaml")), Workspace(tmp_path / "out", "full")
    assert drops_page(preset, workspace) == ""
    works, told = {}, {}
    for step, cases in (("all", 7), ("less", 9)):  # the held-out site tests with two cases more
        for seed in range(3 if step == "all" else 2):  # the third pair is not done
            scores = {f"g_test_{n}": 0.9 - n / 20 - seed / 50 - (step == "less") * (0.1 + n / 50) for n in range(cases)}
            told[f"{step}-{seed}"] = scores
            cohort = made_cohort({"A": ("MR", True, 1), "G": ("MR", step == "all", cases)})
            record = made_run(f"{step}-{seed}", lambda case, site, organ, s=scores: s.get(case, 0.0), cohort=cohort)
            folder = create_run(workspace.runs / f"{step}-{seed}", record.config, record.cohort)
            write_tables(folder.path, record.results)
            write_text(folder.path / "summary.md", "made")
            save_arrays({"a": np.zeros(1, np.float32)}, folder.path / "model" / "weights.safetensors")
            works[f"{step}-{seed}"] = StepWork("run", f"runs/{step}-{seed}")
    workspace.write_state("mine", works)
    shared = [f"g_test_{n}" for n in range(7)]
    trained, held_out = (
        float(np.mean([told[f"{step}-{seed}"][case] for seed in range(2) for case in shared]))
        for step in ("all", "less")
    )
    line = drops_page(preset, workspace).splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:4] == ["G", "mine", "7", "2"]
    values = [cell.split(" ")[0] for cell in cells[4:]]
    assert values == [f"{trained:.3f}", f"{held_out:.3f}", f"{trained - held_out:+.3f}"]
    low, high = (float(limit) for limit in cells[6].partition("[")[2].rstrip("]").split(", "))
    assert 0.1 < low < trained - held_out < high < 0.22


def with_scans(cohort: Cohort, folder: Path) -> Cohort:
    """The cohort with small scans of its own, in each an organ on another slice."""
    cases = []
    for number, case in enumerate(cohort.cases):
        label = np.zeros((24, 20, 12), np.uint8)
        label[6:14, 5:12, 3 + number % 6] = case.annotated[0]
        image = np.random.default_rng(number).integers(1, 200, label.shape).astype(np.int16)
        files = [folder / what / f"{case.case}.nii.gz" for what in ("images", "labels")]
        for file, array in zip(files, (image, label), strict=True):
            file.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), file)  # pyright: ignore
        cases.append(replace(case, image=files[0], label=files[1]))
    return Cohort(tuple(cases), cohort.organs)
