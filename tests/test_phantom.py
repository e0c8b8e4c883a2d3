"""The phantom: a patient that is the same on every grid, organs of AMOS's sizes, eight scanners, one release layout."""

import csv
import hashlib
import json
from pathlib import Path

import cc3d
import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import voxel_sizes

from amos_fl.cli.main import run
from amos_fl.cohort.amos22 import import_amos22
from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import Case
from amos_fl.errors import AmosError
from amos_fl.files import write_json
from amos_fl.phantom import organs, release, tissues
from amos_fl.phantom.anatomy import Patient, draw_patient
from amos_fl.phantom.atlas import atlas_dsc, kept_atlas_dsc
from amos_fl.phantom.montage import montage
from amos_fl.phantom.pose import Slab
from amos_fl.phantom.release import FOLDERS, demo_cases, header_of, listed_cases, person_of, write_release
from amos_fl.phantom.scan import make_scan
from amos_fl.phantom.scanners import PHANTOM_SCANNERS
from amos_fl.phantom.tissues import RANDOM, Tissue, hu_of_tissues, signal_of_tissues
from amos_fl.randomness import generator

ONE_OF_EACH = {"A": 4, "B": 7, "C": 203, "D": 209, "E": 236, "F": 503, "G": 506, "H": 553}


def label_map(patient: Patient, spacing_mm: float) -> np.ndarray:
    """The patient from the lungs' bases to the pelvic floor, (z, y, x)."""
    shape = tuple(int(mm / spacing_mm) for mm in (530, 300, 430))
    affine = np.diag([-spacing_mm, -spacing_mm, -spacing_mm, 1.0])
    top = patient.pose.to_world(np.array([[0.0, 5, -32]]))[0]
    affine[:3, 3] = top + np.array([shape[2] / 2, shape[1] / 2, 0]) * spacing_mm
    return patient.paint(affine, 0, (shape[0], shape[1], shape[2]))[1]


@pytest.fixture(scope="module")
def patients() -> list[tuple[Patient, np.ndarray]]:
    drawn = [draw_patient(5, number, "MF"[number % 2]) for number in range(24)]
    return [(patient, label_map(patient, 4.0)) for patient in drawn]


@pytest.fixture(scope="module")
def small_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "amos22"
    write_release(out, cases=[*ONE_OF_EACH.values(), 500, 539, 600])
    return out


@pytest.mark.parametrize(
    ("cases", "protocol"), [("1,8,508", "release"), ("1,2,8", "paper"), ("1", "release"), ("2", "")]
)
def test_the_protocol_that_is_proposed_for_a_phantom_works(
    tmp_path: Path, cases: str, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ph"
    assert run(["data", "phantom", str(out), "--cases", cases, "--workers", "1"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    command = said.partition("next: amos-fl ")[2].split()
    assert command[-1:] == ([protocol] if protocol else [])
    assert not command or run(command) == 0


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_median_volumes_are_near_those_of_amos_and_none_is_outside_its_range(patients):
    ml = np.array([np.bincount(label.ravel(), minlength=16) for _, label in patients]) * 4.0**3 / 1000
    for organ, (median, sigma, least, most, _) in organs.VOLUMES.items():
        present = ml[[organ not in patient.missing for patient, _ in patients], organ]
        # A fifth for overlaps, and two and a half standard errors of a median.
        factor = 1.2 * np.exp(2.5 * 1.25 * sigma / np.sqrt(len(present)))
        assert median / factor < np.median(present) < median * factor, AMOS_ORGANS[organ]
        assert least * 0.4 < present.min(), AMOS_ORGANS[organ]
        assert present.max() < most * 1.8, AMOS_ORGANS[organ]


def test_every_organ_is_mostly_one_piece(patients):
    loose = 0
    pieces_of_all = 0
    for _, label in patients:
        for organ in set(np.unique(label)) - {0}:
            sizes = np.bincount(cc3d.connected_components(label == organ, connectivity=26).ravel())[1:]
            pieces_of_all += 1
            loose += sizes.max() / sizes.sum() < 0.95
    assert loose <= 0.03 * pieces_of_all


def test_organs_lie_where_anatomy_puts_them(patients):
    for patient, label in patients:
        z, y, x = ({o: np.mean(np.nonzero(label == o)[axis]) for o in np.unique(label)} for axis in range(3))
        assert x[6] < x[1]  # liver on the right, spleen on the left; +x is the patient's left on this grid
        assert x[2] < x[3]
        assert x[9] < x[8]  # vena cava right of the aorta
        assert y[7] < y[8] if 7 in y else True  # stomach before the aorta
        assert z[11] < z[2] if 11 in z else True  # right adrenal above its kidney
        if 14 in z and 15 in z and patient.sex == "M":
            assert z[14] < z[15]  # bladder above the prostate


def test_missing_organs_are_missing_and_only_those_that_amos_misses():
    drawn = [draw_patient(1, number, "M") for number in range(400)]
    missing = [organ for patient in drawn for organ in patient.missing]
    assert set(missing) <= set(organs.PRESENCE)
    assert 10 <= missing.count(4) <= 40  # gall bladder: 11 of AMOS's 200
    without = next(patient for patient in drawn if 4 in patient.missing)
    assert not (label_map(without, 6.0) == 4).any()


def test_label_15_follows_the_sex(patients):
    tissues = {
        sex: {s.tissue for p, _ in patients if p.sex == sex for s in p.structures if s.label == 15} for sex in "MF"
    }
    assert tissues == {"M": {Tissue.PROSTATE}, "F": {Tissue.UTERUS}}


def test_another_seed_is_another_patient_and_the_same_seed_the_same():
    first, again, other = (label_map(draw_patient(seed, 2, "M"), 8.0) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    liver = [label == 6 for label in (first, other)]
    assert 2 * np.count_nonzero(liver[0] & liver[1]) / sum(map(np.count_nonzero, liver)) < 0.9


def test_a_box_holds_every_voxel_that_lies_in_it_on_an_oblique_grid():
    pose = draw_patient(3, 8, "F").pose
    turn = nib.eulerangles.euler2mat(0.1, 0.2, 0.15)
    affine = nib.affines.from_matvec(turn @ np.diag([-5.0, 4, 6]), [200, -140, -450])
    slab = Slab(pose, affine, 10, (60, 64, 80))
    random = np.random.default_rng(0)
    for _ in range(60):
        middle = random.uniform((-120, -80, 0), (120, 80, 400))
        half = random.uniform(5, 70, 3)
        coordinates = np.stack([slab.x, slab.y, slab.z], -1)
        inside = (np.abs(coordinates - middle) < half).all(-1)
        box = slab.box(middle - half, middle + half)
        if box is None:
            assert not inside.any()
        else:
            inside[box] = False
            assert not inside.any()


def test_slabs_and_a_whole_volume_are_painted_alike():
    patient = draw_patient(0, 4, "F")
    affine = np.diag([-6.0, -6, -6, 1])
    affine[:3, 3] = patient.pose.to_world(np.array([[0.0, 0, 0]]))[0] + (190, 150, 20)
    whole = patient.paint(affine, 0, (60, 50, 64))
    parts = [patient.paint(affine, start, (20, 50, 64)) for start in (0, 20, 40)]
    for number in range(2):
        assert np.array_equal(whole[number], np.concatenate([part[number] for part in parts]))


@pytest.mark.slow
def test_quick_and_full_show_the_same_patient():
    """On a scanner with thick slices, so that the full case is small."""
    sizes = [make_scan(0, 4, 4, "M", "A", size) for size in ("quick", "full")]
    ml = [np.bincount(s.label.ravel(), minlength=16) * np.prod(voxel_sizes(s.affine)) / 1000 for s in sizes]
    for organ in (1, 2, 3, 6, 7, 8, 9, 10, 13):
        assert ml[0][organ] == pytest.approx(ml[1][organ], rel=0.15), AMOS_ORGANS[organ]
    assert sizes[1].image.shape[:2] == (512, 512)


@pytest.mark.slow
def test_ct_scanners_lie_close_together_and_the_one_without_contrast_medium_below_the_others():
    medians, brightest = {}, {}
    for domain in "ABCDE":
        values = []
        for case in range(1, 13):
            scan = make_scan(2, case, case, "M", domain, "quick")
            values.append(scan.image[scan.label > 0])
        foreground = np.concatenate(values)
        medians[domain], brightest[domain] = np.median(foreground), np.percentile(foreground, 99.5)
    assert 35 < medians["B"] < min(medians[d] for d in "ACDE")
    assert max(medians.values()) - min(medians.values()) < 60
    assert brightest["B"] < min(brightest[d] for d in "ACDE")


def test_mr_scanners_lie_orders_of_magnitude_apart_and_one_of_them_from_itself():
    medians = {}
    for domain in "FGH":
        scans = [make_scan(2, case, case, "F", domain, "quick") for case in range(510, 516)]
        medians[domain] = np.array([np.median(s.image[s.label > 0]) for s in scans])
    assert 10_000 < np.median(medians["F"]) < 200_000
    assert np.median(medians["F"]) > 10 * np.median(medians["G"])
    assert medians["H"].min() < np.median(medians["G"])
    assert medians["H"].max() > 100 * medians["H"].min()


def test_mr_stops_above_the_pelvis_in_most_scans():
    labels = [make_scan(4, case, case, "M", "G", "quick").label for case in range(520, 532)]
    assert sum((label == 14).any() for label in labels) <= 3


def test_enhancement_follows_the_phase():
    hu = {phase: hu_of_tissues(phase, generator(0, "test")) for phase in ("unenhanced", "arterial", "portal")}
    aorta, liver = Tissue.ARTERY, Tissue.LIVER
    assert hu["arterial"][aorta] > hu["portal"][aorta] + 80 > hu["unenhanced"][aorta] + 120
    assert hu["portal"][liver] > hu["arterial"][liver] + 20


def test_a_release_has_the_layout_of_amos22(small_release):
    dataset = json.loads((small_release / "dataset.json").read_text())
    listed = listed_cases()
    assert dataset["labels"]["15"] == "prostate/uterus"
    entries = [entry for part in ("training", "validation", "test") for entry in dataset[part]]
    assert len(entries) == 11
    for entry in entries:
        image, label = (nib.load(small_release / entry[key]) for key in ("image", "label"))
        amos_id = int(Path(entry["image"]).name[5:9])
        folder = FOLDERS[listed[amos_id].split]
        assert entry["image"] == f"./images{folder}/amos_{amos_id:04d}.nii.gz"
        assert image.shape == label.shape
        assert np.allclose(image.affine, label.affine, atol=2e-4)
        assert set(np.unique(np.asarray(label.dataobj))) <= set(range(16))
        scanner = PHANTOM_SCANNERS[listed[amos_id].domain]
        assert image.get_data_dtype() == np.dtype(scanner.dtype)
        assert np.allclose(image.header.get_zooms(), scanner.quick.spacing_mm, atol=1e-3)


def test_the_metadata_table_has_the_known_faults_of_amos22(small_release):
    with (small_release / release.TABLE_NAME).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == release.TABLE_HEADER
    ids = [row["amos_id"] for row in rows]
    assert ids.count("500") == 2
    assert "600" not in ids
    assert {row["Manufacturer's Model Name"] for row in rows if row["amos_id"] == "500"} == {"Optima CT540", "Ingenia"}
    achieva = next(row for row in rows if row["amos_id"] == "539")
    assert achieva["Manufacturer's Model Name"] == "Achieva"
    assert achieva["Patient's Age"] == ""
    assert "4" in ids


def test_patients_differ_but_for_the_one_who_appears_twice():
    people = {case.amos_id: person_of(0, case) for case in listed_cases().values()}
    keys = [(person.birth, person.sex) for person in people.values()]
    assert len(set(keys)) == 599
    assert (people[13].birth, people[13].sex) == (people[138].birth, people[138].sex)
    men = np.mean([person.sex == "M" for amos_id, person in people.items() if amos_id <= 500])
    assert 0.57 < men < 0.69


def test_some_scans_are_oblique_and_orientations_differ(small_release):
    affines = [nib.load(path).affine for path in small_release.glob("images*/*.nii.gz")]
    assert len({nib.aff2axcodes(affine) for affine in affines}) >= 4
    cosines = [np.abs(affine[:3, :3] / voxel_sizes(affine)).max(axis=0).min() for affine in affines]
    assert min(cosines) < np.cos(np.deg2rad(8))


def test_some_label_headers_differ_a_little_from_their_images(tmp_path):
    write_release(tmp_path / "out", cases=[539, 553, 556, 557, 591, 593, 595])
    differing = 0
    for path in (tmp_path / "out").glob("images*/*.nii.gz"):
        label = nib.load(str(path).replace("/images", "/labels"))
        differing += not np.array_equal(nib.load(path).affine, label.affine)
    assert 1 <= differing < 7


def test_the_same_seed_writes_the_same_bytes_with_any_number_of_workers(tmp_path):
    cases = [553, 506, 557]
    write_release(tmp_path / "one", seed=3, cases=cases)
    write_release(tmp_path / "two", seed=3, cases=cases[::-1], workers=2)
    write_release(tmp_path / "other", seed=4, cases=cases)
    first, second, other = (files_of(tmp_path / name) for name in ("one", "two", "other"))
    assert first == second
    assert all(first[name] != other[name] for name in first if name.endswith(".nii.gz"))


@pytest.fixture(scope="module")
def random_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("random") / "amos22"
    write_release(out, contrast="random", cases=[203, 506, 553])
    return out


def test_random_contrast_keeps_patients_names_and_tables_and_says_that_it_is_a_phantoms(random_release, small_release):
    dataset = json.loads((random_release / "dataset.json").read_text())
    assert dataset["description"] == "synthetic phantom of random contrast in the layout of AMOS22"
    with (random_release / release.TABLE_NAME).open() as drawn, (small_release / release.TABLE_NAME).open() as usual:
        assert set(drawn.read().splitlines()) <= set(usual.read().splitlines())
    cohort = import_amos22(random_release, protocol="paper").cohort
    assert [(case.case, case.site, case.modality) for case in cohort.cases] == [
        ("amos_0203", "C", "CT"),
        ("amos_0506", "G", "MR"),
        ("amos_0553", "H", "MR"),
    ]
    assert cohort.synthetic()
    for case in cohort.cases:
        image, label = nib.load(case.image), nib.load(case.label)
        usual = nib.load(small_release / case.label.relative_to(random_release))
        ml = [
            np.bincount(np.asarray(n.dataobj).ravel(), minlength=16) * np.prod(voxel_sizes(n.affine)) / 1000
            for n in (label, usual)
        ]
        assert ml[0][6] == pytest.approx(ml[1][6], rel=0.15)
        assert (voxel_sizes(image.affine) > voxel_sizes(usual.affine)).all()  # another resolution
        listed = listed_cases()[int(case.case[5:])]
        shape, affine = header_of(0, "quick", listed, "random")
        assert image.shape == shape
        np.testing.assert_allclose(image.affine, affine, atol=1e-3)


def test_random_contrast_is_the_same_with_any_number_of_workers(random_release, tmp_path):
    write_release(tmp_path / "two", contrast="random", cases=[553, 203, 506], workers=2)
    assert files_of(tmp_path / "two") == files_of(random_release)


def test_random_contrast_reaches_the_order_of_tissues_of_a_sequence_that_usual_draws_never_show():
    organs = [tissue for tissue in range(Tissue.SPLEEN, Tissue.PROSTATE) if tissue != Tissue.GAS]
    t2 = np.array([tissues._SIGNAL[Tissue(tissue)][1] for tissue in organs])

    def agreement(brightness: np.ndarray) -> float:
        return float(np.corrcoef(brightness[organs], t2)[0, 1])

    draws = [generator(0, "reach", n) for n in range(400)]
    random = np.array([agreement(signal_of_tissues(RANDOM, draw)) for draw in draws])
    hu = np.array([agreement(hu_of_tissues(RANDOM, draw)) for draw in draws])
    usual = np.array([agreement(signal_of_tissues("t1-fat-sat", draw)) for draw in draws])
    assert usual.max() < 0.5
    for drawn in (random, hu):
        assert np.mean(drawn > 0.5) > 0.01
        assert np.mean(drawn > 0) == pytest.approx(0.5, abs=0.08)


def test_ct_of_random_contrast_keeps_air_and_lung_and_the_scale_of_organs():
    drawn = np.array([hu_of_tissues(RANDOM, generator(1, "scale", n)) for n in range(200)])
    assert drawn[:, Tissue.AIR].max() < -990
    assert drawn[:, Tissue.LUNG].max() < -700
    soft = drawn[:, [Tissue.LIVER, Tissue.SPLEEN, Tissue.FAT, Tissue.MUSCLE]]
    assert soft.mean() == pytest.approx(50, abs=15)
    assert soft.std() == pytest.approx(141, abs=10)


def test_the_demo_cohort_has_all_scanners_and_is_small():
    listed = listed_cases()
    chosen = [listed[case] for case in demo_cases()]
    assert {case.domain for case in chosen} == set("ABCDEFGH")
    assert 45 <= len(chosen) <= 65
    for domain in "ABC":
        splits = [case.split for case in chosen if case.domain == domain]
        assert [splits.count(split) for split in ("train", "val", "test")] == [7, 2, 3]


def test_wrong_wishes_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(AmosError, match="case 601"):
        write_release(tmp_path / "a", cases=[601])
    with pytest.raises(AmosError, match="no case to write"):
        write_release(tmp_path / "a", cases=[])
    with pytest.raises(AmosError, match="contrast is scanners or random"):
        write_release(tmp_path / "a", cases=[553], contrast="loud")  # pyright: ignore[reportArgumentType] - on purpose
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "something.txt").write_text("mine")
    with pytest.raises(AmosError, match="not an empty folder"):
        write_release(tmp_path / "b", cases=[553])
    with pytest.raises(AmosError, match="holds no case to draw"):
        montage(tmp_path / "b", tmp_path / "picture.png")


def test_a_montage_shows_one_case_of_each_scanner(small_release, tmp_path):
    from PIL import Image

    montage(small_release, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size[0] > 600
        colours = {tuple(colour) for colour in np.asarray(picture.convert("RGB")).reshape(-1, 3)}
    assert (175, 95, 55) in colours  # the liver's outline


def test_an_atlas_knows_a_patient_it_has_seen_and_not_one_it_has_not(tmp_path):
    out = tmp_path / "amos22"
    write_release(out, cases=[553, 557, 591, 593, 595])

    def case(amos_id: int) -> Case:
        listed = listed_cases()[amos_id]
        name = f"{FOLDERS[listed.split]}/{listed.name}.nii.gz"
        return Case(listed.name, "H", "MR", "train", out / f"images{name}", out / f"labels{name}", tuple(AMOS_ORGANS))

    large = (1, 2, 3, 6)
    seen = atlas_dsc([case(553)], [case(553)], large)
    unseen = atlas_dsc([case(i) for i in (557, 591, 593, 595)], [case(553)], large)
    assert min(seen.values()) > 0.8
    assert np.mean(list(unseen.values())) < 0.75


def test_the_atlas_of_the_same_scans_is_computed_once(tmp_path, small_release):
    cases = [case for case in import_amos22(small_release, protocol="paper").cohort.cases if case.label is not None][:2]
    first = kept_atlas_dsc(cases, cases, (1, 6), tmp_path)
    assert first == atlas_dsc(cases, cases, (1, 6))
    (file,) = (tmp_path / "atlas").iterdir()
    write_json(file, {"1": 0.5})
    assert kept_atlas_dsc(cases, cases, (1, 6), tmp_path) == {1: 0.5}
    file.write_text("{")
    assert kept_atlas_dsc(cases, cases, (1, 6), tmp_path) == first
    assert kept_atlas_dsc(cases[:1], cases, (1, 6), tmp_path) == atlas_dsc(cases[:1], cases, (1, 6))
