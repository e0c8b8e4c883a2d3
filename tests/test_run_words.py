"""What a run says of itself: its arm's work and its cohort's organs, and nothing of another arm's or cohort's."""

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_case
from federations import federate, tiny_config

from amos_fl.cli.main import run
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.statistics import statistics_of
from amos_fl.cohort.table import Case, Cohort, read_cohort, write_cohort
from amos_fl.report.cohort_page import write_cohort_page
from amos_fl.report.page import write_run_report
from amos_fl.report.run_page import run_context
from amos_fl.runs.config import RunConfig
from amos_fl.runs.record import read_run
from amos_fl.runs.wording import left_out_in_mr, target_in_words, work_in_words


def config_of(arm: str, **settings: object) -> RunConfig:
    return tiny_config(arm=arm, rounds=15, local_steps=80, seed=3, **settings)


@pytest.mark.parametrize(
    ("arm", "hold_out", "words"),
    [
        ("federated", (), "strategy fedavg, 15 rounds of 80 steps at each of 3 training sites (A, B, G), seed 3"),
        (
            "leave-one-out",
            ("B",),
            "leave-one-out (without B): strategy fedavg, 15 rounds of 80 steps at each of 2 training sites (A, G), "
            "seed 3",
        ),
        (
            "centralized",
            (),
            "pooled training: 1200 steps on the 6 training cases of A, B, G together, seed 3; one trainer, without a "
            "strategy: its 15 rounds of 80 steps only mark where it is scored and kept",
        ),
        (
            "local",
            ("B", "G"),
            "training at A alone: 1200 steps on its 3 training cases, seed 3; one trainer, without a strategy: its 15 "
            "rounds of 80 steps only mark where it is scored and kept",
        ),
        (
            "finetune",
            ("A", "G"),
            "other weights trained further at B alone: 1200 steps on its 1 training case, seed 3; one trainer, without "
            "a strategy: its 15 rounds of 80 steps only mark where it is scored and kept",
        ),
    ],
)
def test_the_work_of_every_arm(arm: str, hold_out: tuple[str, ...], words: str, tiny_cohort: Cohort) -> None:
    assert work_in_words(config_of(arm, hold_out=hold_out), tiny_cohort.holding_out(hold_out)) == words


def test_a_pooled_run_speaks_of_no_strategy_and_no_rounds_at_sites(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = federate(tmp_path / "runs/pooled", tiny_cohort, store, arm="centralized", rounds=2, optimizer_state="keep")
    summary = (folder.path / "summary.md").read_text()
    card = (folder.path / "model/MODEL_CARD.md").read_text()
    page = write_run_report(read_run(folder.path)).read_text()
    for text in (summary, card):
        assert "ooled training: 4 steps on the 6 training cases of A, B, G together" in text
        assert "fedavg" not in text
    assert "no weights were exchanged" in summary
    assert "MB of weights" not in summary
    assert "One network was trained on the 6 training cases of A, B and G, pooled, in 4 steps." in page
    facts = dict(run_context(read_run(folder.path), defaultdict(str))["cost_facts"])
    assert facts["Weights"] == "nothing was exchanged"
    assert facts["Optimizer steps"] == "4, by one trainer"
    assert run(["runs", str(tmp_path / "runs")]) == 0
    assert "fedavg" not in capsys.readouterr().out
    assert run(["runs", str(tmp_path / "runs"), "--json"]) == 0
    [listed] = json.loads(capsys.readouterr().out)
    assert (listed["arm"], listed["strategy"]) == ("centralized", None)


def test_a_comparison_gives_a_pooled_arm_no_rounds_no_bytes_and_no_strategy(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federate(tmp_path / "fed", tiny_cohort, store, rounds=1)
    federate(tmp_path / "pooled", tiny_cohort, store, arm="centralized", rounds=1, local_steps=6)
    out = tmp_path / "answer"
    assert run(["compare", str(tmp_path / "fed"), str(tmp_path / "pooled"), "--out", str(out)]) == 0
    lines = (out / "comparison.md").read_text().splitlines()
    costs = lines[lines.index("## What each arm cost") :]
    rows = {line.split(" | ")[0].removeprefix("| "): line.split(" | ") for line in costs if line.startswith("| ")}
    assert (rows["fedavg"][1], rows["pooled"][1], rows["pooled"][2], rows["pooled"][5]) == ("1", "-", "6", "-")
    strategies = {line.split(",")[1]: line.split(",")[3] for line in (out / "runs.csv").read_text().splitlines()[1:]}
    assert strategies == {"fedavg": "fedavg", "pooled": ""}


def test_two_pooled_runs_part_in_their_training_and_at_no_site(
    tmp_path: Path, tiny_cohort: Cohort, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        federate(tmp_path / str(seed), tiny_cohort, store, arm="centralized", rounds=1, seed=seed)
    assert run(["diff", str(tmp_path / "0"), str(tmp_path / "1")]) == 1
    assert "the ledgers part in round 1 in the pooled training" in capsys.readouterr().out


def mr_alone(folder: Path, organs: dict[int, str]) -> Cohort:
    cases = []
    for split in ("train", "test"):
        image, label = write_case(folder, f"g_{split}", "MR")
        cases.append(Case(f"g_{split}", "G", "MR", split, image, label, (1, 2)))  # pyright: ignore[reportArgumentType]
    write_cohort(Cohort(tuple(cases), organs), folder / "cohort.csv")
    return read_cohort(folder)


@pytest.mark.parametrize("organs", [{1: "ball", 2: "box"}, dict(AMOS_ORGANS)], ids=["others", "AMOS's"])
def test_amoss_words_stand_where_amoss_organs_are(organs: dict[int, str], tmp_path: Path, store: Path) -> None:
    cohort = mr_alone(tmp_path / "cohort", organs)
    folder = federate(tmp_path / "run", cohort, store, rounds=1)
    amos = organs == AMOS_ORGANS
    summary, card = ((folder.path / name).read_text() for name in ("summary.md", "model/MODEL_CARD.md"))
    page = write_run_report(read_run(folder.path)).read_text()
    assert ("Segmentation of abdominal organs in MR scans" in card) == amos
    assert ("Segmentation of ball and box in MR scans" in card) != amos
    assert "- MR is z-scored\n" in card
    assert "HU" not in card
    for text in (summary, page):
        assert ("MR is reported without bladder and prostate/uterus." in text) == amos
    stats = write_cohort_page(cohort, statistics_of(cohort)[0], tmp_path / "stats").read_text()
    assert "HU (CT)" not in stats
    assert "As Table" not in stats
    assert "Intensities of the organs in the scanner" in stats
    assert ("annotated, of 15 listed in organs.csv" in stats) == amos


def test_ct_is_not_said_to_be_reported_without_organs(tiny_cohort: Cohort) -> None:
    assert left_out_in_mr(AMOS_ORGANS, ["CT"]) == ""
    assert left_out_in_mr(AMOS_ORGANS, ["CT and MR"]) == "MR is reported without bladder and prostate/uterus."
    assert left_out_in_mr(tiny_cohort.organs, ["MR"]) == ""
    assert target_in_words({**AMOS_ORGANS, 16: "hippocampus"}).startswith("spleen, right kidney")
    assert replace(tiny_cohort, organs={1: "Liver"}).organs != {}
