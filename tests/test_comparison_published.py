"""The AMOS paper's numbers stand beside the cases that they are of, and nowhere else."""

import dataclasses
from typing import Any

import pytest
from made_runs import amos, compared, constant, everything, made_run

from amos_fl.cohort.table import Cohort
from amos_fl.comparison.published import MARK, published_scores
from amos_fl.comparison.tables import all_tables
from amos_fl.runs.record import RunRecord
from amos_fl.runs.summary import PHANTOM_NOTE


def test_the_papers_table_10_agrees_with_itself_and_with_table_4() -> None:
    scores = [score for score in published_scores() if score.source[:7] not in ("Table 3", "Table 6")]
    for network in {score.network for score in scores}:
        for metric in ("dsc", "nsd"):
            mine = [s for s in scores if s.network == network and s.metric == metric and s.cases == "CT-val"]
            organs = [s.value for s in mine if s.organ]
            means = {s.source.split(",")[0]: s.value for s in mine if not s.organ and s.source[:7] != "Table 5"}
            assert len(organs) == 15
            assert sum(organs) / 15 == pytest.approx(means["Table 10"], abs=6e-5)
            assert means["Table 4"] == means["Table 10"]
    assert len(scores) == 300


def amos_runs(cohort: Cohort, **settings: Any) -> list[RunRecord]:
    given = {"model": "unet", "plan": "amos-ct", "cohort": cohort, **settings}
    return [made_run("f", constant(0.8), **given), made_run("p", constant(0.9), arm="centralized", **given)]


def test_published_numbers_stand_beside_the_cases_that_they_are_of() -> None:
    released = compared(amos_runs(amos({"train": "train", "val": "test"})))
    assert {(p.scope, p.cases) for p in released.published} == {("seen CT", "CT-val")}
    unet = {p.metric: p.value for p in released.published if not p.organ and "Table 4" in p.source}
    assert unet == {"dsc": 0.8887, "nsd": 0.7987}
    organs = next(t for t in all_tables(released) if t.key == "organs_seen_CT_dsc")
    assert organs.columns[-1] == MARK
    assert organs.rows[0][-1] == "0.963"

    paper = compared(amos_runs(amos({"train": "train", "val": "val", "test": "test"})))
    table_7 = {p.scope: p.value for p in paper.published if p.metric == "dsc" and "Table 7" in p.source}
    assert table_7 == {"seen CT": 0.8804, "unseen CT": 0.8967}


@pytest.mark.parametrize("different", ["synthetic", "network", "plan", "a case", "training", "scanner"])
def test_they_stand_nowhere_where_the_setting_is_another(different: str) -> None:
    cohort = amos({"train": "train", "val": "test"})
    other: dict[str, Any] = {}
    if different == "synthetic":
        other = {"synthetic": True}
    elif different == "network":
        other = {"model": "small"}
    elif different == "plan":
        other = {"plan": "coarse"}
    elif different == "scanner":
        swap = {"A": "B", "B": "A"}
        cases = tuple(dataclasses.replace(c, site=swap.get(c.site, c.site)) for c in cohort.cases)
        cohort = dataclasses.replace(cohort, cases=cases)
    else:
        split = "test" if different == "a case" else "train"
        left_out = next(case for case in cohort.cases if case.split == split)
        cohort = dataclasses.replace(cohort, cases=tuple(c for c in cohort.cases if c is not left_out))
    assert compared(amos_runs(cohort, **other)).published == ()


def test_beside_a_phantom_they_stand_only_when_asked_for_and_with_their_mark() -> None:
    records = [dataclasses.replace(record, synthetic=True) for record in everything()[:2]]
    assert compared(records).published == ()
    asked = compared(records, published=True)
    assert len(asked.published) == len(published_scores()) == 300 + 16 + 40
    assert not any(p.scope for p in asked.published)
    assert any("nothing follows from comparing the two" in note for note in asked.notes)
    table = next(t for t in all_tables(asked) if t.key == "published")
    assert MARK in table.title
    assert table.note == PHANTOM_NOTE


# Files
