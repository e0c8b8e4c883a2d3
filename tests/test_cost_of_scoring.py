"""What a dry run says of scoring: how many scans, in how many windows."""

import itertools

import pytest
from federations import tiny_config
from hypothesis import given
from hypothesis import strategies as st

from amos_fl.cohort.table import Cohort
from amos_fl.inference.cost import scoring
from amos_fl.inference.windows import window_starts, windows_over

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
