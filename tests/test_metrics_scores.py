"""Scores of a case, how they add up, and their table."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import REAL, needs_real
from hypothesis import given
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Image
from surface_distance import metrics as deepmind

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.errors import AmosError
from amos_fl.metrics.rows import write_scores
from amos_fl.metrics.scores import OrganScore, Scores, reported_organs, score_case
from amos_fl.metrics.table import CaseScores, read_scores, sums_of
from amos_fl.randomness import generator
from amos_fl.runs.evaluation import SumsOfSite

# surface-distance 0.1 uses names that SciPy has moved.
pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")


def assert_as_deepmind(prediction, reference, spacing_mm, organs, tolerance_mm):
    scores = score_case(prediction, reference, spacing_mm, organs, tolerance_mm)
    compared = 0
    for organ, score in scores.items():
        real, predicted = reference == organ, prediction == organ
        if not real.any() or not predicted.any():
            assert score.outcome != "scored"
            continue
        distances = deepmind.compute_surface_distances(real, predicted, spacing_mm)
        nsd = deepmind.compute_surface_dice_at_tolerance(distances, tolerance_mm)
        assert score.outcome == "scored"
        assert score.nsd == pytest.approx(float(nsd), abs=1e-6)
        assert score.dsc == pytest.approx(float(deepmind.compute_dice_coefficient(real, predicted)), abs=1e-12)
        assert score.reference_ml == pytest.approx(np.count_nonzero(real) * np.prod(spacing_mm) / 1000)
        assert score.predicted_ml == pytest.approx(np.count_nonzero(predicted) * np.prod(spacing_mm) / 1000)
        compared += 1
    return compared


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i2", "int64"])
def test_a_random_label_map_scores_as_surface_distance_says(order, dtype):
    random = generator(0, "label map", order, dtype)
    blocks = random.integers(0, 5, (2, 5, 4, 3)).repeat(4, 1).repeat(3, 2).repeat(2, 3)
    noise = random.integers(0, 5, blocks.shape)
    prediction, reference = (np.array(m, dtype, order=order) for m in np.where(noise == 0, noise + 1, blocks))
    assert assert_as_deepmind(prediction, reference, (0.8, 1.0, 2.5), range(1, 5), 1.0) == 4


@needs_real
@pytest.mark.parametrize("name", ["chaos_mr_01", "ts_ct_3mm", "ts_mr_sm"])
def test_a_real_label_map_scores_as_surface_distance_says(name):
    image = Nifti1Image.from_filename(REAL / f"labels/{name}.nii.gz")
    reference = np.asarray(image.dataobj).astype(np.uint8)
    spacing_mm = tuple(float(s) for s in image.header.get_zooms()[:3])
    prediction = np.roll(reference, (2, -1, 1), axis=(0, 1, 2))
    prediction[generator(0, name).random(reference.shape) < 0.02] = 0
    assert assert_as_deepmind(prediction, reference, spacing_mm, AMOS_ORGANS, 1.0) >= 3


def test_the_presence_rule_says_what_was_missed_hallucinated_or_absent():
    prediction, reference = np.zeros((2, 4, 4, 4), np.uint8)
    prediction[0, :2, 0], reference[0, :, 0] = 1, 1
    reference[3, 3, 3], prediction[2, 2, 2] = 2, 3
    scores = score_case(prediction, reference, (10, 10, 10), [1, 2, 3, 4])
    assert {organ: score.outcome for organ, score in scores.items()} == {
        1: "scored",
        2: "missed",
        3: "hallucinated",
        4: "absent",
    }
    assert scores[1].dsc == pytest.approx(2 * 2 / (2 + 4))
    assert (scores[1].reference_ml, scores[1].predicted_ml) == (4.0, 2.0)
    assert scores[2] == OrganScore(0.0, 0.0, "missed", 1.0, 0.0)
    assert scores[3] == OrganScore(0.0, 0.0, "hallucinated", 0.0, 1.0)
    assert math.isnan(scores[4].dsc)
    assert math.isnan(scores[4].nsd)
    as_one = score_case(prediction, reference, (10, 10, 10), [1, 2, 3, 4], both_empty="one")
    assert as_one[4] == OrganScore(1.0, 1.0, "absent", 0.0, 0.0)
    assert [as_one[organ] for organ in (1, 2, 3)] == [scores[organ] for organ in (1, 2, 3)]


def test_organs_that_were_not_annotated_are_not_looked_at():
    labels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    assert list(score_case(labels, labels, (1, 1, 1), [6, 2])) == [2, 6]
    assert score_case(labels, labels, (1, 1, 1), []) == {}


def test_a_tolerance_of_its_own_counts_for_its_organ_alone():
    prediction, reference = np.zeros((2, 12, 6, 6), np.uint8)
    reference[1:4, 1:4, 1:4], prediction[1:5, 1:4, 1:4] = 1, 1
    reference[6:9, 1:4, 1:4], prediction[6:10, 1:4, 1:4] = 2, 2
    scores = score_case(prediction, reference, (2, 2, 2), [1, 2], tolerance_mm={1: 1.0, 2: 2.0})
    assert scores[1].nsd < 1.0
    assert scores[2].nsd == 1.0


@pytest.mark.parametrize(
    ("prediction", "settings", "said"),
    [
        (np.zeros((2, 2, 3), np.uint8), {}, "share one 3D grid"),
        (np.zeros((2, 2, 2), np.float32), {}, "whole numbers"),
        (np.zeros((2, 2, 2), np.uint8), {"organs": [0, 1]}, "0 is not an organ"),
        (np.zeros((2, 2, 2), np.uint8), {"tolerance_mm": {1: 1.0}}, "no NSD tolerance for organ 2"),
        (np.zeros((2, 2, 2), np.uint8), {"tolerance_mm": -2.0}, "tolerance is -2.0 mm"),
        (np.zeros((2, 2, 2), np.uint8), {"spacing_mm": (1, 1, math.nan)}, "three positive"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_a_sentence(prediction, settings, said):
    arguments = {"spacing_mm": (1, 1, 1), "organs": [1, 2]} | settings
    with pytest.raises(AmosError, match=said):
        score_case(prediction, np.zeros((2, 2, 2), np.uint8), **arguments)


unit = st.floats(0.0, 1.0)
volumes_ml = st.floats(0.0, 5000.0)
organ_scores = st.one_of(
    st.builds(
        OrganScore, unit, unit, st.just("scored"), volumes_ml, volumes_ml, st.just(math.nan) | st.floats(0.0, 500.0)
    ),
    st.builds(lambda ml: OrganScore(0.0, 0.0, "missed", ml, 0.0), volumes_ml),
    st.builds(lambda ml: OrganScore(0.0, 0.0, "hallucinated", 0.0, ml), volumes_ml),
    st.just(OrganScore(math.nan, math.nan, "absent", 0.0, 0.0)),
)
case_scores = st.dictionaries(st.integers(1, 6), organ_scores)


@given(st.lists(st.tuples(st.sampled_from("ABC"), case_scores)), st.randoms(use_true_random=False))
def test_merging_sites_in_any_order_equals_pooling_their_cases(cases, random):
    pooled = Scores.of(scores for _, scores in cases)
    random.shuffle(cases)
    sites = [Scores.of(scores for site, scores in cases if site == name) for name in "CAB"]
    merged = Scores()
    for site in sites:  # as a server gets them: through JSON
        merged.merge(SumsOfSite.model_validate_json(json.dumps(site.to_dict())).to_scores())
    assert merged == pooled
    assert math.isnan(pooled.mean_dsc()) == math.isnan(merged.mean_dsc())
    if not math.isnan(pooled.mean_dsc()):
        assert (merged.mean_dsc(), merged.mean_nsd()) == (pooled.mean_dsc(), pooled.mean_nsd())
        assert repr(merged.mean("hd95_mm")) == repr(pooled.mean("hd95_mm"))


@given(st.lists(case_scores, min_size=1))
def test_the_mean_is_over_cases_first_and_over_organs_then(cases):
    scores = Scores.of(cases)
    for mark, mean in (("dsc", scores.mean_dsc()), ("nsd", scores.mean_nsd())):
        of_organs = []
        for organ in range(1, 7):
            values = [getattr(case[organ], mark) for case in cases if organ in case]
            values = [value for value in values if not math.isnan(value)]
            if values:
                of_organs.append(sum(values) / len(values))
                assert getattr(scores, mark)(organ) == pytest.approx(of_organs[-1], abs=1e-9)
        assert mean == pytest.approx(sum(of_organs) / len(of_organs) if of_organs else math.nan, abs=1e-9, nan_ok=True)
    assert sum(scores.outcomes().values()) == sum(len(case) for case in cases)


def test_organs_count_alike_however_many_cases_have_them():
    good, poor = (OrganScore(value, value, "scored", 1.0, 1.0) for value in (1.0, 0.5))
    assert Scores.of([{1: good, 2: poor}, {1: good}, {1: good}]).mean_dsc() == 0.75


def test_over_present_organs_a_miss_counts_and_a_hallucination_does_not():
    scores = Scores.of(
        [
            {1: OrganScore(0.8, 0.6, "scored", 1.0, 1.0)},
            {1: OrganScore(0.0, 0.0, "missed", 1.0, 0.0)},
            {1: OrganScore(0.0, 0.0, "hallucinated", 0.0, 1.0)},
            {1: OrganScore(1.0, 1.0, "absent", 0.0, 0.0), 2: OrganScore(0.0, 0.0, "hallucinated", 0.0, 1.0)},
        ]
    )
    assert scores.dsc(1) == pytest.approx(1.8 / 4)
    assert scores.dsc(1, present_only=True) == pytest.approx(0.4)
    assert scores.mean_nsd(present_only=True) == pytest.approx(0.3)
    assert scores.mean_dsc() == pytest.approx((1.8 / 4 + 0) / 2)


def test_organs_that_are_asked_for_are_kept_and_nothing_is_shared_with_the_original():
    scores = Scores.of([{1: OrganScore(1.0, 1.0, "scored", 1.0, 1.0), 2: OrganScore(0.0, 0.0, "missed", 1.0, 0.0)}])
    part = scores.only([1])
    part.merge(part)
    assert (part.organs[1].scored, part.cases, list(part.organs)) == (2, 2, [1])
    assert (scores.organs[1].scored, scores.cases) == (1, 1)


def test_mr_is_reported_over_thirteen_organs_and_other_cohorts_over_all_of_theirs():
    assert reported_organs(AMOS_ORGANS, "MR") == tuple(range(1, 14))
    assert reported_organs(AMOS_ORGANS, "CT") == tuple(range(1, 16))
    assert reported_organs({14: "left lung", 15: "heart"}, "MR") == (14, 15)
    missed = {14: OrganScore(0.0, 0.0, "missed", 1.0, 0.0), 6: OrganScore(0.9, 0.9, "scored", 1.0, 1.0)}
    mr, ct = (CaseScores("a", "G", modality, True, "test", missed) for modality in ("MR", "CT"))
    assert sums_of([mr]).mean_dsc() == pytest.approx(0.9)
    assert sums_of([ct]).mean_dsc() == pytest.approx(0.45)
    assert sums_of([mr, ct]).organs[14].missed == 1


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)
rows = st.lists(
    st.builds(
        CaseScores,
        names,
        names,
        st.sampled_from(["CT", "MR"]),
        st.booleans(),
        st.sampled_from(["val", "test"]),
        case_scores.filter(bool),
    ),
    unique_by=lambda case: case.case,
)


@given(cases=rows)
def test_a_table_of_scores_reads_back_as_it_was_written(tmp_path_factory, cases):
    path = tmp_path_factory.mktemp("scores") / "scores.csv"
    write_scores(path, cases)
    assert repr(read_scores(path)) == repr(cases)  # repr, because NaN is not equal to itself
    assert sums_of(read_scores(path)) == sums_of(cases)


def test_a_table_has_one_row_per_case_and_organ_with_the_organ_named(tmp_path):
    scores = {
        6: OrganScore(0.5, 0.25, "scored", 1500.0, 1400.5, hd95_mm=4.5),
        14: OrganScore(math.nan, math.nan, "absent", 0.0, 0.0),
    }
    write_scores(tmp_path / "scores.csv", [CaseScores("amos_0001", "A", "CT", True, "test", scores)])
    assert (tmp_path / "scores.csv").read_text().splitlines() == [
        "case,site,modality,seen,split,organ,organ_name,dsc,nsd,outcome,reference_ml,predicted_ml,hd95_mm,volume_error_ml",
        "amos_0001,A,CT,yes,test,6,liver,0.5,0.25,scored,1500.0,1400.5,4.5,-99.5",
        "amos_0001,A,CT,yes,test,14,bladder,,,absent,0.0,0.0,,0.0",
    ]


def test_a_table_from_before_hd95_was_measured_is_read(tmp_path):
    (tmp_path / "scores.csv").write_text(
        "case,site,modality,seen,split,organ,organ_name,dsc,nsd,outcome,reference_ml,predicted_ml\n"
        "amos_0001,A,CT,yes,test,6,liver,0.5,0.25,scored,1500.0,1400.5\n"
    )
    (case,) = read_scores(tmp_path / "scores.csv")
    assert case.scores == {6: OrganScore(0.5, 0.25, "scored", 1500.0, 1400.5)}


def test_label_15_is_named_after_the_patients_sex_where_it_is_known(tmp_path):
    score = {15: OrganScore(0.5, 0.2, "scored", 1.0, 1.0)}
    cases = [CaseScores(name, "", "CT", False, "", score) for name in ("a", "b", "c")]
    write_scores(tmp_path / "scores.csv", cases, sexes={"a": "M", "b": "F"})
    rows = (tmp_path / "scores.csv").read_text().splitlines()[1:]
    assert [row.split(",")[6] for row in rows] == ["prostate", "uterus", "prostate/uterus"]
    assert read_scores(tmp_path / "scores.csv") == cases


def test_volumes_and_hd95_add_up_over_the_cases_that_have_them():
    scores = Scores.of(
        [
            {1: OrganScore(0.8, 0.6, "scored", 10.0, 13.0, hd95_mm=4.0)},
            {1: OrganScore(0.7, 0.6, "scored", 10.0, 9.0, hd95_mm=1.0), 2: OrganScore(1.0, 1.0, "absent", 0.0, 0.0)},
            {1: OrganScore(0.0, 0.0, "missed", 5.0, 0.0)},
        ]
    )
    assert scores.hd95_mm(1) == pytest.approx(2.5)
    assert scores.volume_error_ml(1) == pytest.approx((3 - 1 - 5) / 3)
    assert scores.volume_error_ml(1, absolute=True) == pytest.approx((3 + 1 + 5) / 3)
    assert math.isnan(scores.hd95_mm(2))
    assert math.isnan(scores.volume_error_ml(2))
    assert (scores.mean("hd95_mm"), scores.mean_volume_error_ml()) == (scores.hd95_mm(1), scores.volume_error_ml(1))


def test_hd95_is_measured_where_it_is_asked_for_and_both_maps_have_the_organ():
    prediction, reference = np.zeros((2, 12, 6, 6), np.uint8)
    reference[1:4, 1:4, 1:4], prediction[3:6, 1:4, 1:4] = 1, 1
    reference[8:10, 1:4, 1:4] = 2
    scores = score_case(prediction, reference, (2, 1, 1), [1, 2], hd95=True)
    assert scores[1].hd95_mm == 4.0
    assert math.isnan(scores[2].hd95_mm)
    assert math.isnan(score_case(prediction, reference, (2, 1, 1), [1])[1].hd95_mm)
    assert scores[2].volume_error_ml == pytest.approx(-2 * 9 * 2 / 1000)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("nsd", "NSD"), "no column nsd"),
        (("scored", "splendid"), "line 2"),
        (("yes", "perhaps"), "line 2"),
        (("0.5", "half"), "line 2"),
    ],
)
def test_a_table_that_was_spoilt_names_the_file_and_the_line(tmp_path, change, said):
    path = tmp_path / "scores.csv"
    write_scores(path, [CaseScores("c", "A", "CT", True, "test", {6: OrganScore(0.5, 0.2, "scored", 1.0, 1.0)})])
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(AmosError, match=f"scores.csv.*{said}"):
        read_scores(path)
    with pytest.raises(AmosError, match="no such file"):
        read_scores(tmp_path / "none.csv")


def test_two_scores_are_equal_where_the_same_numbers_are_undefined():
    missed, absent = OrganScore(0.0, 0.0, "missed", 3.0, 0.0), OrganScore(math.nan, math.nan, "absent", 0.0, 0.0)
    for score in (missed, absent):
        again = replace(score)
        assert (score, hash(score)) == (again, hash(again))
        assert score != replace(score, hd95_mm=1.0)
    assert missed != absent
    assert replace(missed, hd95_mm=2.0) == replace(missed, hd95_mm=2.0)
