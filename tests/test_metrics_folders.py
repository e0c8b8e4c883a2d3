"""Folders of label maps, paired and scored."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage
from surface_distance import metrics as deepmind
from torch import nn

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.reference import reference_of
from amos_fl.cohort.table import read_cohort
from amos_fl.csv_table import write_table
from amos_fl.errors import AmosError
from amos_fl.inference.evaluate import evaluate_cases
from amos_fl.metrics.folders import Rules, score_pairs
from amos_fl.metrics.pairs import Pair, pair_up
from amos_fl.metrics.rules import organs_asked_for, tolerance_asked_for
from amos_fl.metrics.scores import OrganScore, Scores, score_case
from amos_fl.metrics.summary import COLUMNS_OF_TABLES, tables_of
from amos_fl.metrics.table import CaseScores, sums_of
from amos_fl.prepared.prepare import prepare_case
from amos_fl.runs.evaluation import SumsOfSite
from amos_fl.volumes.plan import Plan

# surface-distance 0.1 uses names that SciPy has moved.
pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")

ORGANS = {1: "spleen", 6: "liver"}


def save(path: Path, labels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([2.0, 2.0, 5.0, 1.0]) if affine is None else affine), path)
    return path


def block(shift: int = 0) -> np.ndarray:
    labels = np.zeros((12, 10, 6), np.uint8)
    labels[1 + shift : 4 + shift, 2:6, 1:4], labels[6 + shift : 9 + shift, 2:6, 1:4] = 1, 6
    return labels


def perturbed(labels: np.ndarray, number: int) -> np.ndarray:
    """A copy that is shifted, one organ grown, one dropped, and one invented that is not there."""
    changed = np.roll(labels, ((number % 3) - 1, 1, 0), axis=(0, 1, 2))
    present = [organ for organ in AMOS_ORGANS if (labels == organ).any()]
    grown, dropped = present[number % len(present)], present[(number + 1) % len(present)]
    changed[changed == dropped] = 0
    changed[ndimage.binary_dilation(changed == grown, iterations=2)] = grown
    if absent := [organ for organ in AMOS_ORGANS if organ not in present]:
        changed[:4, :5, :2] = absent[0]
    return changed


def independent(prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple) -> tuple[float, ...]:
    """DSC, NSD at 1 mm, HD95 and the volume error in plain NumPy and by surface-distance."""
    error_ml = (prediction.sum() - reference.sum()) * float(np.prod(spacing_mm)) / 1000
    if not prediction.any() and not reference.any():
        return math.nan, math.nan, math.nan, error_ml
    if not prediction.any() or not reference.any():
        return 0.0, 0.0, math.nan, error_ml
    distances = deepmind.compute_surface_distances(reference, prediction, spacing_mm)
    return (
        2 * float((prediction & reference).sum()) / float(prediction.sum() + reference.sum()),
        float(deepmind.compute_surface_dice_at_tolerance(distances, 1.0)),
        float(deepmind.compute_robust_hausdorff(distances, 95)),
        error_ml,
    )


def test_perturbed_copies_of_real_labels_score_as_an_independent_computation_says(real_data, tmp_path):
    cohort = read_cohort(real_data)
    expected: dict[tuple[str, int], tuple[float, ...]] = {}
    for number, case in enumerate(cohort.cases):
        assert case.label is not None
        image = nibabel.Nifti1Image.from_filename(case.label)
        labels = np.asarray(image.dataobj).astype(np.uint8)
        prediction = perturbed(labels, number)
        save(tmp_path / "pred" / f"{case.case}.nii.gz", prediction, image.affine)
        spacing_mm = tuple(float(s) for s in np.linalg.norm(image.affine[:3, :3], axis=0))
        for organ in AMOS_ORGANS:
            expected[case.case, organ] = independent(prediction == organ, labels == organ, spacing_mm)
    modality = {case.case: case.modality for case in cohort.cases}
    pairing = pair_up(tmp_path / "pred", real_data / "labels", allow_missing=True)
    pairs = [pair for pair in pairing.pairs if pair.prediction is not None]
    cases, problems = score_pairs(pairs, Rules(), modalities=modality)
    assert not problems
    found = {(case.case, organ): score for case in cases for organ, score in case.scores.items()}
    assert set(found) == set(expected)
    for key, score in found.items():
        marks = score.dsc, score.nsd, score.hd95_mm, score.volume_error_ml
        assert marks == pytest.approx(expected[key], abs=1e-6, nan_ok=True), key
    outcomes = [score.outcome for score in found.values()]
    assert set(outcomes) == {"scored", "missed", "hallucinated", "absent"}
    # The means, anew: cases first, then organs, in MR without bladder and prostate/uterus.
    for place, mean in ((0, sums_of(cases).mean_dsc()), (1, sums_of(cases).mean_nsd())):
        by_organ = []
        for organ in range(1, 16):
            values = [
                value[place]
                for (case, its_organ), value in expected.items()
                if its_organ == organ and not (organ > 13 and modality[case] == "MR") and not math.isnan(value[place])
            ]
            by_organ += [sum(values) / len(values)] if values else []
        assert mean == pytest.approx(sum(by_organ) / len(by_organ), abs=1e-6)


def test_merging_the_scores_of_sites_equals_scoring_their_cases_together(tmp_path):
    for number in range(6):
        save(tmp_path / "labels" / f"c{number}.nii.gz", block())
        save(tmp_path / "pred" / f"c{number}.nii.gz", block(number % 3))
    pooled, _ = score_pairs(pair_up(tmp_path / "pred", tmp_path / "labels").pairs, Rules(ORGANS))
    for folder in ("pred", "labels"):
        for number, path in enumerate(sorted((tmp_path / folder).iterdir())):
            site = tmp_path / f"site{number % 2}" / folder
            site.mkdir(parents=True, exist_ok=True)
            path.rename(site / path.name)
    merged = Scores()
    for site in ("site1", "site0"):
        cases, _ = score_pairs(pair_up(tmp_path / site / "pred", tmp_path / site / "labels").pairs, Rules(ORGANS))
        merged.merge(SumsOfSite.model_validate(sums_of(cases, ORGANS).to_dict()).to_scores())
    assert merged == sums_of(pooled, ORGANS)
    assert merged.mean("hd95_mm") > 0


def test_several_processes_give_what_one_gives(tmp_path):
    for number in range(3):
        save(tmp_path / "labels" / f"c{number}.nii", block())
        save(tmp_path / "pred" / f"c{number}.nii.gz", block(number))
    pairs = pair_up(tmp_path / "pred", tmp_path / "labels").pairs
    told: list[tuple[int, int, str]] = []
    alone, together = (
        score_pairs(pairs, Rules()),
        score_pairs(pairs, Rules(), workers=2, on_case=lambda *a: told.append(a)),
    )
    assert repr(alone) == repr(together)
    assert told == [(1, 3, "c0"), (2, 3, "c1"), (3, 3, "c2")]


def test_a_prediction_stored_in_another_orientation_of_the_same_grid_is_turned(tmp_path):
    save(tmp_path / "labels" / "a.nii.gz", block())
    turned = np.diag([-2.0, 2.0, 5.0, 1.0])
    turned[0, 3] = 2.0 * 11
    save(tmp_path / "pred" / "a.nii.gz", block()[::-1], turned)
    ((case,), problems) = score_pairs(pair_up(tmp_path / "pred", tmp_path / "labels").pairs, Rules())
    assert not problems
    assert (case.scores[1].dsc, case.scores[6].dsc, case.scores[2].outcome) == (1.0, 1.0, "absent")


def test_a_cohorts_own_labels_are_scored_on_the_grid_of_the_scan_and_over_what_was_annotated(tiny_cohort, tmp_path):
    wanted = tiny_cohort.of(split="test")
    for case in wanted:
        label = reference_of(case, (1, 2))
        save(tmp_path / f"{case.case}.nii.gz", np.roll(label.array, 1, axis=0), label.affine)
    pairing = pair_up(tmp_path, None, tiny_cohort, split="test")
    cases, problems = score_pairs(pairing.pairs, Rules(tiny_cohort.organs), seen_sites=tiny_cohort.seen_sites)
    assert not problems
    assert [(c.case, c.site, c.modality, c.seen, c.split) for c in cases] == [
        ("a_test_8", "A", "CT", True, "test"),
        ("d_test_8", "D", "CT", False, "test"),
        ("g_test_8", "G", "MR", True, "test"),
    ]
    label = reference_of(wanted[0], (1, 2))
    assert cases[0].scores == score_case(
        np.roll(label.array, 1, axis=0), label.array, label.spacing_mm, (1, 2), hd95=True
    )


class Brightness(nn.Module):
    """Bright voxels are organ 1, dark ones organ 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), x - 0.8, -x - 0.8], dim=1)


def test_predictions_that_a_site_saved_score_as_the_site_scored_them(tiny_cohort, tmp_path, store):
    plan = Plan(spacing_mm=(8.0, 8.0, 8.0), patch=(16, 16, 16), strides=((1, 1, 1),), kernels=((3, 3, 3),))
    wanted, organs = tiny_cohort.of(split="test"), tuple(tiny_cohort.organs)
    prepared = [(case, prepare_case(case, plan, store, organs)) for case in wanted]
    of_sites = evaluate_cases(Brightness(), prepared, plan, organs=organs, save_to=tmp_path)
    pairs = pair_up(tmp_path, None, tiny_cohort, split="test").pairs
    cases, _ = score_pairs(pairs, Rules(tiny_cohort.organs))
    assert 0 < of_sites[0].scores[1].dsc < 1
    for site, case in zip(of_sites, cases, strict=True):
        scored = {organ: replace(score, hd95_mm=math.nan) for organ, score in case.scores.items()}
        assert repr((site.case, site.site, site.scores)) == repr((case.case, case.site, scored))


def test_what_does_not_pair_is_named(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz"):
        save(tmp_path / "labels" / name, block())
    for name in ("b.nii.gz", "c.nii", "c.nii.gz", "d.nii.gz"):
        save(tmp_path / "pred" / name, block())
    (tmp_path / "pred" / "dataset.json").write_text("{}")  # nnU-Net leaves it beside its predictions
    (tmp_path / "pred" / "._b.nii.gz").write_text("of macOS")
    pairing = pair_up(tmp_path / "pred", tmp_path / "labels")
    assert [(p.case, p.side, p.message.split(";")[0]) for p in pairing.problems] == [
        ("c", "prediction", "c.nii and c.nii.gz are one case"),
        ("d", "prediction", "no label map has this name"),
        ("a", "prediction", "missing"),
    ]
    allowed = pair_up(tmp_path / "pred", tmp_path / "labels", allow_missing=True, allow_extra=True)
    assert [(pair.case, pair.prediction is None) for pair in allowed.pairs] == [("a", True), ("b", False), ("c", False)]
    assert (allowed.missing, allowed.extra) == (("a",), ("d",))
    missing = score_pairs(allowed.pairs[:1], Rules())[0][0].scores
    assert missing[1].reference_ml == pytest.approx(3 * 4 * 3 * 20 / 1000)
    assert missing[1] == OrganScore(0.0, 0.0, "missed", missing[1].reference_ml, 0.0)
    assert missing[2].outcome == "absent"


def test_what_cannot_be_read_or_compared_is_named_with_its_side(tmp_path):
    for name in ("cut", "fine", "flat", "label", "moved", "strange", "wrong"):
        save(tmp_path / "labels" / f"{name}.nii.gz", block())
        save(tmp_path / "pred" / f"{name}.nii.gz", block())
    save(tmp_path / "labels" / "label.nii.gz", block() / 4)
    save(tmp_path / "pred" / "wrong.nii.gz", block()[:, :, :5])
    away = np.diag([2.0, 2.0, 5.0, 1.0])
    away[:3, 3] = 0, 30, 0
    save(tmp_path / "pred" / "moved.nii.gz", block(), away)
    save(tmp_path / "pred" / "strange.nii.gz", block() * 4)
    save(tmp_path / "pred" / "flat.nii.gz", block()[:, :, 0])
    (tmp_path / "pred" / "cut.nii.gz").unlink()
    cut = save(tmp_path / "pred" / "cut.nii", block())
    cut.write_bytes(cut.read_bytes()[:-40])
    cases, problems = score_pairs(pair_up(tmp_path / "pred", tmp_path / "labels").pairs, Rules(ORGANS))
    assert [case.case for case in cases] == ["fine"]
    remedy = "they must share a grid: take the label that it was drawn on, or resample it to this one"
    assert [(p.case, p.side, p.message) for p in problems] == [
        (
            "cut",
            "prediction",
            "cut.nii: is truncated or damaged: its header promises 12x10x6 voxels, more than the file holds; "
            "fetch it again",
        ),
        ("flat", "prediction", "flat.nii.gz: has the shape 12x10; a scan has three dimensions"),
        ("label", "label", "label.nii.gz: holds values that are not whole numbers; is it a label map?"),
        (
            "moved",
            "prediction",
            f"moved.nii.gz: prediction lies 30.0 mm away from its label; {remedy}, or give it the affine of the label "
            "if only its header is wrong",
        ),
        (
            "strange",
            "prediction",
            "strange.nii.gz: holds the labels 4, 24, which are not organs of this cohort; name them in organs.csv, or "
            "correct the label map",
        ),
        ("wrong", "prediction", f"wrong.nii.gz: prediction is 12x10x5, label 12x10x6; {remedy}"),
    ]


def test_cases_outside_the_cohort_or_its_split_are_named(tiny_cohort, tmp_path):
    for name in ("a_test_8", "a_train_0", "nobody"):
        save(tmp_path / "labels" / f"{name}.nii.gz", block())
        save(tmp_path / "pred" / f"{name}.nii.gz", block())
    pairing = pair_up(tmp_path / "pred", tmp_path / "labels", tiny_cohort, split="test")
    assert [pair.case for pair in pairing.pairs] == ["a_test_8"]
    assert [(p.case, p.side, p.message.split(";")[0]) for p in pairing.problems] == [
        ("a_train_0", "prediction", "its case is in split train"),
        ("nobody", "label", "no such case in the cohort"),
    ]
    assert pair_up(tmp_path / "pred", tmp_path / "labels", tiny_cohort, allow_extra=True).extra == ("nobody",)


def test_two_files_are_one_pair_whatever_their_names(tmp_path):
    prediction, label = save(tmp_path / "mine.nii.gz", block()), save(tmp_path / "amos_0001.nii.gz", block())
    assert pair_up(prediction, label).pairs == (Pair("amos_0001", prediction, label),)


def test_folders_that_hold_nothing_to_score_are_refused(tmp_path):
    one = save(tmp_path / "labels" / "a.nii.gz", block())
    save(tmp_path / "pred" / "a_0000.nii.gz", block())
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ((tmp_path / "none", tmp_path / "labels"), "none: no such folder or file of predictions"),
        ((tmp_path / "empty", tmp_path / "labels"), "empty: holds no prediction, which would end in"),
        ((tmp_path / "pred", one), "one is a folder, the other a file"),
        ((tmp_path / "pred", tmp_path / "labels"), "such as a.nii.gz, and a_0000 is not among them"),
        ((tmp_path / "pred", None), "no label maps"),
    ):
        with pytest.raises(AmosError, match=said):
            pair_up(*arguments)


def test_tolerances_per_organ_come_from_yaml_and_csv_by_name_or_label(tmp_path):
    (tmp_path / "t.yaml").write_text("liver: 3\n1: 1.5\n")
    (tmp_path / "t.csv").write_text("organ,tolerance_mm\nSpleen,1.5\ndefault,3\n")
    for name in ("t.yaml", "t.csv"):
        assert tolerance_asked_for(str(tmp_path / name), ORGANS) == {1: 1.5, 6: 3.0}
    assert tolerance_asked_for("2", ORGANS) == 2.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("liver: 3\n", "no tolerance for spleen; add them"),
        ("liver: 3\nheart: 1\n", "no organ 'heart'; there are spleen, liver"),
        ("liver: 3\n6: 3\n", "liver is listed twice"),
        ("liver: wide\n", "the tolerance of liver is 'wide'"),
        ("liver: -1\n", "the tolerance of liver is -1"),
        ("- liver\n", "must say 'organ: mm'"),
    ],
)
def test_tolerances_that_cannot_be_are_refused_in_a_sentence(tmp_path, text, said):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(AmosError, match=said):
        tolerance_asked_for(str(tmp_path / "t.yaml"), ORGANS)


def test_organs_are_asked_for_by_name_label_or_file(tmp_path):
    (tmp_path / "organs.csv").write_text("label,organ\n1,heart\n")
    assert organs_asked_for("LIVER, 1", ORGANS) == (ORGANS, (1, 6))
    assert organs_asked_for(str(tmp_path / "organs.csv"), ORGANS) == ({1: "heart"}, None)
    for text, said in (("heart", "no organ 'heart'"), ("none.csv", "no such file"), (" ,", "names no organ")):
        with pytest.raises(AmosError, match=said):
            organs_asked_for(text, ORGANS)


def test_tables_tell_prostate_from_uterus_and_leave_both_out_of_mr(tmp_path):
    def case(name: str, modality: str, dsc: float) -> CaseScores:
        score = OrganScore(dsc, dsc, "scored", 2.0, 3.0, hd95_mm=1.0)
        return CaseScores(
            name, "A" if modality == "CT" else "G", modality, modality == "CT", "test", {15: score, 6: score}
        )

    cases = [case("a", "CT", 0.8), case("b", "CT", 0.4), case("c", "CT", 0.6), case("d", "MR", 0.1)]
    tables = tables_of(cases, AMOS_ORGANS, {"a": "M", "b": "F"})
    assert tables.overall.cases == 4
    over_all = {line.name: line for line in tables.organs if line.over == "all"}
    assert {name: (line.cases, round(line.dsc, 6)) for name, line in over_all.items()} == {
        "liver": (4, 0.475),
        "prostate/uterus": (3, 0.6),
        "prostate": (1, 0.8),
        "uterus": (1, 0.4),
    }
    assert tables.overall.dsc == pytest.approx((0.475 + 0.6) / 2)
    assert [(line.name, line.cases) for line in tables.groups] == [("seen CT", 3), ("unseen MR", 1)]
    assert [line.name for line in tables.sites] == ["A", "G"]
    assert tables.overall.volume_error_ml == tables.overall.absolute_volume_error_ml == 1.0
    write_table(tmp_path / "by_organ.csv", COLUMNS_OF_TABLES, tables.organs)
    with (tmp_path / "by_organ.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["over"]) for row in rows if row["over"] == "unseen MR"] == [("liver", "unseen MR")]


def test_men_and_women_are_told_apart_within_each_group_of_scanners():
    def case(name: str, seen: bool, dsc: float) -> CaseScores:
        score = OrganScore(dsc, dsc, "scored", 2.0, 3.0, hd95_mm=1.0)
        return CaseScores(name, "A" if seen else "D", "CT", seen, "test", {15: score})

    cases = [case("a", True, 0.8), case("b", True, 0.4), case("c", False, 0.2), case("d", False, 0.3)]
    tables = tables_of(cases, AMOS_ORGANS, {"a": "M", "b": "F", "c": "M", "d": "M"})
    men = {row.over: (row.cases, round(row.dsc, 6)) for row in tables.organs if row.name == "prostate"}
    women = {row.over: (row.cases, round(row.dsc, 6)) for row in tables.organs if row.name == "uterus"}
    assert men == {"all": (3, round(1.3 / 3, 6)), "seen CT": (1, 0.8), "unseen CT": (2, 0.25)}
    assert women == {"all": (1, 0.4), "seen CT": (1, 0.4)}


def test_organs_that_a_cohort_says_were_not_annotated_are_not_scored(real_data, tmp_path):
    cohort = read_cohort(real_data)
    case = next(case for case in cohort.cases if len(case.annotated) < 5)
    (tmp_path / f"{case.case}.nii.gz").symlink_to(case.label)
    pairing = pair_up(tmp_path, real_data / "labels", cohort, allow_missing=True, allow_extra=True)
    ((scored,), _) = score_pairs([pair for pair in pairing.pairs if pair.prediction is not None], Rules())
    assert tuple(scored.scores) == case.annotated
    assert {score.dsc for score in scored.scores.values()} == {1.0}
