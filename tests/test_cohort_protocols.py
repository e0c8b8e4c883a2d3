"""The three protocols, over any grouping of AMOS's cases by patient."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amos_fl.cohort.protocols import PROTOCOLS, LabelledCase, Part, Protocol, divide_cases
from amos_fl.cohort.scanners import SCANNERS, published_cases
from amos_fl.errors import AmosError

PART: dict[str, Part] = {"train": "Tr", "val": "Va", "test": "Ts"}


def released(protocol: Protocol, patients: dict[int, str] | None = None) -> list[LabelledCase]:
    """The cases that a protocol draws on in a complete release whose test images have labels."""
    return [
        LabelledCase(replace(case.record, patient=(patients or {}).get(i, "")), PART[case.release_split])
        for i, case in published_cases().items()
        if protocol == "paper" or case.release_split != "test"
    ]


def counts(splits: Mapping[int, str]) -> dict[str, tuple[int, int, int]]:
    found = Counter((published_cases()[i].record.domain, split) for i, split in splits.items())
    return {site: (found[site, "train"], found[site, "val"], found[site, "test"]) for site in SCANNERS}


# Few enough patients for many to have several scans, on several scanners and in several parts.
def repeats(seed: int, most: int) -> dict[int, str]:
    random = Random(seed)
    return {i: f"patient {random.randint(1, most)}" if random.random() < 0.95 else "" for i in range(1, 601)}


patient_maps = st.builds(repeats, st.integers(0, 10**6), st.integers(2, 2000))
few_repeats = st.lists(st.sets(st.integers(1, 600), min_size=2, max_size=5), max_size=40).map(
    lambda groups: {i: f"patient {n}" for n, group in enumerate(groups) for i in group}
)


def test_paper_is_table_2() -> None:
    assert counts(divide_cases(released("paper"), "paper").splits) == {d: s.table2 for d, s in SCANNERS.items()}


@settings(max_examples=20)
@given(few_repeats)
def test_paper_is_table_2_however_patients_repeat(patients: dict[int, str]) -> None:
    division = divide_cases(released("paper", patients), "paper")
    found = counts(division.splits)
    people = [c for c in released("paper", patients) if c.site == "G" and c.record.institution == "people"]
    fixed = {patients[c.amos_id] for c in released("paper", patients) if c.amos_id in patients} & {
        patients.get(c.amos_id) for c in people
    }
    for site in "ABCDEFH":
        assert found[site] == SCANNERS[site].table2
    assert found["G"][2] == 11
    if not fixed:  # otherwise a Prisma patient may be bound to the side of an earlier scan
        assert found["G"] == (33, 20, 11)


@settings(max_examples=30)
@given(st.lists(st.sets(st.sampled_from(range(542, 600)), min_size=2, max_size=4), max_size=12))
def test_the_prisma_draw_is_33_and_20_with_whole_patients(groups: list[set[int]]) -> None:
    people = [i for i, c in published_cases().items() if c.record.domain == "G" and c.record.institution == "people"]
    patients = {i: f"patient {n}" for n, group in enumerate(groups) for i in group if i in people}
    division = divide_cases(released("paper", patients), "paper")
    assert counts(division.splits)["G"] == (33, 20, 11)
    sides: dict[str, set[str]] = defaultdict(set)
    for i, patient in patients.items():
        sides[patient].add(division.splits[i])
    assert all(len(side) == 1 for side in sides.values())


def test_release_trains_on_tr_scores_va_and_selects_nothing() -> None:
    cases = released("release")
    division = divide_cases(cases, "release")
    assert all(division.splits[c.amos_id] == ("train" if c.part == "Tr" else "test") for c in cases)
    assert counts(division.splits)["F"] == (9, 0, 0)


def test_public_divides_va_in_halves_and_leaves_f_unseen() -> None:
    assert counts(divide_cases(released("public"), "public").splits) == {
        "A": (82, 13, 14),
        "B": (68, 11, 12),
        "C": (50, 25, 25),
        "D": (0, 0, 0),
        "E": (0, 0, 0),
        "F": (0, 0, 9),
        "G": (27, 9, 9),
        "H": (4, 1, 1),
    }


@pytest.mark.parametrize(
    ("protocol", "expected"), [("paper", (0, 0, 128)), ("release", (0, 0, 100)), ("public", (0, 0, 100))]
)
def test_a_held_out_scanner_tests_with_all_its_cases(protocol: Protocol, expected: tuple[int, int, int]) -> None:
    before, after = (counts(divide_cases(released(protocol), protocol, held).splits) for held in ((), ["C"]))
    assert after["C"] == expected
    assert {site: n for site, n in after.items() if site != "C"} == {s: n for s, n in before.items() if s != "C"}


def test_holding_out_every_scanner_leaves_nothing_to_train_on() -> None:
    with pytest.raises(AmosError, match="no labelled training case is left"):
        divide_cases(released("public"), "public", SCANNERS)


@settings(max_examples=60)
@given(st.one_of(patient_maps, few_repeats), st.sampled_from(PROTOCOLS), st.sets(st.sampled_from("ABCFGH"), max_size=3))
def test_no_patient_is_on_both_sides_of_a_division_made_here(
    patients: dict[int, str], protocol: Protocol, held: set[str]
) -> None:
    cases = released(protocol, patients)
    division = divide_cases(cases, protocol, held)
    assert set(division.splits) | division.left_out == {c.amos_id for c in cases}
    assert not set(division.splits) & division.left_out

    def placed_here(case: LabelledCase) -> bool:
        """Whether neither the release nor the paper says where the case goes."""
        if case.site in held or (protocol == "public" and case.site == "F"):
            by_the_release = {"paper": case.site in "F" or case.part == "Ts", "release": case.part == "Va"}
            if case.site == "G":
                by_the_release["paper"] = case.record.institution == "center"
            if case.site == "H":
                by_the_release["paper"] = False
            return not by_the_release.get(protocol, False)
        if protocol == "public":
            return case.part == "Va"
        return protocol == "paper" and case.site == "G" and case.record.institution == "people"

    splits_of_fixed: dict[str, set[str]] = defaultdict(set)
    splits_of_placed: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        if case.amos_id in division.splits:
            which = splits_of_placed if placed_here(case) else splits_of_fixed
            which[case.patient].add(division.splits[case.amos_id])
    for patient, placed in splits_of_placed.items():
        assert len(placed) == 1, "the scans of one patient were drawn apart"
        fixed = splits_of_fixed[patient]
        if placed == {"test"}:
            assert not fixed & {"train", "val"}, "a patient who trains was put among the test cases"
        if protocol == "paper" and placed == {"train"}:
            assert fixed != {"val"}
        if protocol == "paper" and placed == {"val"}:
            assert "train" not in fixed


@settings(max_examples=10)
@given(few_repeats, st.sampled_from(PROTOCOLS), st.randoms())
def test_the_order_in_which_cases_are_found_changes_nothing(
    patients: dict[int, str], protocol: Protocol, random
) -> None:
    cases = released(protocol, patients)
    expected = divide_cases(cases, protocol)
    random.shuffle(cases)
    assert divide_cases(cases, protocol) == expected


def test_the_draw_is_the_same_for_everybody() -> None:
    drawn = {
        protocol: [
            i for i, split in divide_cases(released(protocol), protocol).splits.items() if split == "val" and i > 500
        ]
        for protocol in PROTOCOLS
    }
    assert drawn == {
        "paper": [549, 552, 559, 565, 569, 570, 573, 574, 575, 576, 580, 581, 582, 584, 586, 587, 589, 590, 592, 599],
        "release": [],
        "public": [545, 546, 547, 552, 556, 562, 563, 573, 581, 598],
    }


def test_one_case_that_is_absent_moves_at_most_a_few_others() -> None:
    complete = divide_cases(released("public"), "public").splits
    without = divide_cases([c for c in released("public") if c.amos_id != 200], "public").splits
    assert sum(complete[i] != split for i, split in without.items()) <= 1


def test_patients_whom_the_release_puts_on_both_sides_are_named() -> None:
    patients = {13: "one", 138: "one", 1: "two", 4: "two"}
    for protocol, split in zip(PROTOCOLS, ("val", "test", "val"), strict=True):
        notes = divide_cases(released(protocol, patients), protocol).notes
        assert [n for n in notes if "both sides" in n] == [
            f"one patient on both sides, as released: amos_0013 ({split}), amos_0138 (train)"
        ]
