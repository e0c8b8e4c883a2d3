"""What a dry run says of scoring, how many scans, in how many windows, and of the disk that a run takes."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from federations import federate, tiny_config
from hypothesis import given
from hypothesis import strategies as st

from amos_fl.cohort.table import Cohort
from amos_fl.inference.cost import scoring
from amos_fl.inference.windows import window_starts, windows_over
from amos_fl.prepared.store import open_prepared
from amos_fl.runs.estimate import disk, estimate

SIDES = st.tuples(*[st.integers(1, 90)] * 3)


@given(SIDES, st.tuples(*[st.integers(1, 40)] * 3), st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_as_many_windows_are_counted_as_a_prediction_takes(
    grid: tuple[int, int, int], patch: tuple[int, int, int], overlap: float
) -> None:
    padded = tuple(max(n, p) for n, p in zip(grid, patch, strict=True))
    taken = sum(map(len, window_starts(padded, patch, overlap, 2).values()))  # pyright: ignore[reportArgumentType]
    assert windows_over(grid, patch, overlap) == taken


@pytest.mark.parametrize(("rounds", "every", "unseen"), itertools.product((1, 4), (1, 3), (True, False)))
def test_every_validation_and_the_final_test_are_counted(
    tiny_cohort: Cohort, rounds: int, every: int, unseen: bool
) -> None:
    config = tiny_config(rounds=rounds, evaluation={"every": every, "unseen": unseen})
    validated = sum(number % every == 0 or number == rounds for number in range(1, rounds + 1))
    validation, beside, test = 2, 1, 3  # A and G have a case to validate on, D is unseen, A, D and G are tested
    found = scoring(config, tiny_cohort)
    assert found.scans == validated * (validation + beside * unseen) + test
    assert found.seconds > 0


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["needed", "all"])
def test_a_run_takes_no_more_disk_than_is_said_and_not_much_less(
    tmp_path: Path, tiny_cohort: Cohort, keep: str
) -> None:
    settings: dict[str, Any] = {"rounds": 3, "evaluation": {"every": 1}, "keep_checkpoints": keep}
    config = tiny_config(**settings)
    said = disk(config, tiny_cohort, estimate(config, tiny_cohort).parameters)
    folder = federate(tmp_path / "run", tiny_cohort, tmp_path / "store", **settings)
    prepared = [open_prepared(meta.parent) for meta in (tmp_path / "store").rglob("meta.json")]
    voxels = sum(math.prod(case.shape) for case in prepared)
    assert len(prepared) == len(tiny_cohort.of(labelled=True))
    assert 0.5 * said.store_bytes < 5 * voxels <= said.store_bytes
    weights = [file.stat().st_size for file in folder.path.glob("checkpoints/*/weights.safetensors")]
    header = 20_000  # of each safetensors file
    assert sum(weights) - header * len(weights) <= said.checkpoint_bytes
    if keep == "all":
        assert said.checkpoint_bytes <= sum(weights)
