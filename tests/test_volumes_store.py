"""The training store: what is prepared, under which key, and how it is read."""

import multiprocessing
import os
import resource
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amos_fl.cohort.table import Case
from amos_fl.errors import AmosError
from amos_fl.prepared.prepare import content_hash, prepare_case, prepare_cases
from amos_fl.prepared.store import open_prepared, write_prepared
from amos_fl.volumes.plan import Plan

ORGANS = (1, 2, 3, 6)
PLAN = Plan(spacing_mm=(2.0, 2.0, 4.0), patch=(16, 16, 8), strides=((1, 1, 1),), kernels=((3, 3, 3),))
LAS = np.array([[-2.0, 0, 0, 5], [0, 2.0, 0, -7], [0, 0, 4.0, 9], [0, 0, 0, 1]])


def make_case(folder: Path, name: str = "one", seed: int = 0, shape=(30, 28, 12), affine=LAS, **changes) -> Case:
    """A CT case: a box of tissue in air, with a label block of every organ in it."""
    rng = np.random.default_rng(seed)
    image = np.full(shape, -1000, np.int16)
    image[4:-4, 4:-4] = 40 + rng.integers(-20, 20, (shape[0] - 8, shape[1] - 8, shape[2]))
    label = np.zeros(shape, np.uint8)
    for number, organ in enumerate(ORGANS):
        label[6 + 4 * number : 9 + 4 * number, 8:20, 2:10] = organ
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, array in (("image", image), ("label", label)):
        path = folder / f"{name}_{kind}.nii.gz"
        nib.save(nib.Nifti1Image(array, affine), path)
        paths.append(path)
    case = Case(name, "A", "CT", "train", paths[0], paths[1], ORGANS)
    return replace(case, **changes)


def entries(store: Path) -> list[Path]:
    return sorted(path for path in store.glob("*/*") if path.parent.name != "hashes")


def test_a_case_at_the_plans_spacing_keeps_its_voxels(tmp_path):
    case = make_case(tmp_path)
    prepared = prepare_case(case, PLAN, tmp_path / "store", ORGANS)
    whole = np.asarray(nib.load(case.image).dataobj, np.float32)[::-1]  # LAS to RAS
    inside = tuple(slice(low, high) for low, high in prepared.geometry.crop)
    np.testing.assert_allclose(prepared.image(), (np.clip(whole, -991, 362) - 50)[inside] / 141, atol=1e-5)
    np.testing.assert_array_equal(prepared.label(), np.asarray(nib.load(case.label).dataobj)[::-1][inside])
    assert prepared.image().dtype == np.float32
    assert prepared.label().dtype == np.uint8
    assert (prepared.case, prepared.site, prepared.modality, prepared.annotated) == ("one", "A", "CT", ORGANS)
    assert prepared.shape == prepared.image().shape


def test_organs_that_were_not_annotated_are_background(tmp_path):
    prepared = prepare_case(make_case(tmp_path, annotated=(1, 6)), PLAN, tmp_path / "store", ORGANS)
    assert set(np.unique(prepared.label())) == {0, 1, 6}
    assert set(prepared.foreground()) == {1, 6}
    fewer = prepare_case(make_case(tmp_path), PLAN, tmp_path / "store", (1, 2))
    assert fewer.annotated == (1, 2)
    assert set(np.unique(fewer.label())) == {0, 1, 2}


def test_listed_foreground_voxels_are_the_organs_and_always_the_same(tmp_path):
    case = make_case(tmp_path, shape=(60, 60, 40))
    first = prepare_case(case, PLAN, tmp_path / "a", ORGANS)
    label = first.label()
    for organ, positions in first.foreground().items():
        assert (label[tuple(positions.T)] == organ).all()
        assert len(np.unique(positions, axis=0)) == min(2000, np.count_nonzero(label == organ))
    second = prepare_case(case, PLAN, tmp_path / "b", ORGANS)
    for organ, positions in second.foreground().items():
        np.testing.assert_array_equal(positions, first.foreground()[organ])


def test_a_case_without_a_label_map_can_be_prepared_but_not_trained_on(tmp_path):
    prepared = prepare_case(make_case(tmp_path, label=None), PLAN, tmp_path / "store", ORGANS)
    assert not prepared.has_label
    assert prepared.foreground() == {}
    with pytest.raises(AmosError, match="one: has no label map"):
        prepared.label()


def test_the_label_does_not_decide_where_the_scan_is_cut(tmp_path):
    with_label = prepare_case(make_case(tmp_path), PLAN, tmp_path / "store", ORGANS)
    without = prepare_case(make_case(tmp_path, label=None), PLAN, tmp_path / "store", ORGANS)
    np.testing.assert_array_equal(with_label.image(), without.image())


def test_a_second_process_finds_the_case_at_once(tmp_path):
    case = make_case(tmp_path)
    first = prepare_case(case, PLAN, tmp_path / "store", ORGANS)
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    again = prepare_case(case, PLAN, tmp_path / "store", ORGANS)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in again.folder.iterdir()} == before


def test_the_key_follows_content_and_settings_and_nothing_else(tmp_path):
    store = tmp_path / "store"
    case = make_case(tmp_path / "here")
    known = prepare_case(case, PLAN, store, ORGANS).folder
    moved = make_case(tmp_path / "elsewhere")
    assert prepare_case(moved, PLAN, store, ORGANS).folder == known
    assert prepare_case(case, PLAN.model_copy(update={"kernels": ((1, 3, 3),)}), store, ORGANS).folder == known
    assert prepare_case(replace(case, split="test"), PLAN, store, ORGANS).folder == known
    others = [
        prepare_case(case, PLAN.model_copy(update={"spacing_mm": (3.0, 3.0, 4.0)}), store, ORGANS),
        prepare_case(case, PLAN.model_copy(update={"ct_mean_hu": 40.0}), store, ORGANS),
        prepare_case(replace(case, annotated=(1,)), PLAN, store, ORGANS),
        prepare_case(replace(case, modality="MR"), PLAN, store, ORGANS),
        prepare_case(replace(case, label=None), PLAN, store, ORGANS),
        prepare_case(replace(case, site="B"), PLAN, store, ORGANS),
        prepare_case(make_case(tmp_path / "changed", seed=1), PLAN, store, ORGANS),
    ]
    assert len({known, *(prepared.folder for prepared in others)}) == 8


def test_a_file_replaced_in_place_is_noticed(tmp_path):
    path, store = tmp_path / "scan", tmp_path / "store"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    first = content_hash(path, store)
    assert len(list(store.rglob("*.json"))) == 1
    assert content_hash(path, store) == first
    path.write_bytes(b"two")
    os.utime(path, (2, 2))
    assert content_hash(path, store) != first


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_noticed(tmp_path):
    path, store = tmp_path / "scan", tmp_path / "store"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    first = content_hash(path, store)
    other = tmp_path / "other"
    other.write_bytes(b"two")
    os.utime(other, (1, 1))
    os.replace(other, path)
    assert content_hash(path, store) != first


def test_of_a_pair_of_header_and_image_both_are_its_content(tmp_path):
    store = tmp_path / "store"
    (tmp_path / "a.hdr").write_bytes(b"header")
    (tmp_path / "a.img").write_bytes(b"voxels")
    first = content_hash(tmp_path / "a.hdr", store)
    assert content_hash(tmp_path / "a.img", store) == first
    (tmp_path / "a.img").write_bytes(b"others")
    assert content_hash(tmp_path / "a.hdr", store) != first


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path):
    path, store = tmp_path / "scan", tmp_path / "store"
    path.write_bytes(b"one")
    first = content_hash(path, store)
    stamp = path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(stamp, stamp))
    assert content_hash(path, store) != first


def _prepare_into(case: Case, store: Path, go) -> None:
    go.wait()
    prepare_case(case, PLAN, store, ORGANS)


def test_processes_that_prepare_the_same_case_do_not_disturb_each_other(tmp_path):
    case, store = make_case(tmp_path, shape=(90, 90, 40)), tmp_path / "store"
    context = multiprocessing.get_context("spawn")
    go = context.Barrier(3)
    processes = [context.Process(target=_prepare_into, args=(case, store, go)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(entries(store)) == 1
    alone = prepare_case(case, PLAN, tmp_path / "alone", ORGANS)
    together = open_prepared(entries(store)[0])
    np.testing.assert_array_equal(together.image(), alone.image())
    np.testing.assert_array_equal(together.label(), alone.label())


def _prepare_with_little_disk(case: Case, store: Path, answer) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        prepare_case(case, PLAN, store, ORGANS)
    except AmosError as error:
        answer.put(str(error))


def test_an_entry_that_could_not_be_written_whole_is_not_there(tmp_path):
    case, store = make_case(tmp_path, shape=(60, 60, 40)), tmp_path / "store"
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_prepare_with_little_disk, args=(case, store, answer))
    process.start()
    assert answer.get(timeout=60).startswith("one: cannot be prepared in ")
    process.join()
    # A hash is remembered there, where the scan's file is seconds old by then.
    assert [path for path in store.rglob("*") if path.is_file() and "hashes" not in path.parts] == []
    assert prepare_case(case, PLAN, store, ORGANS).shape


def test_several_workers_give_what_one_gives_in_the_same_order(tmp_path):
    cases = [make_case(tmp_path, f"case{i}", seed=i) for i in range(4)]
    told = []
    several = prepare_cases(cases, PLAN, tmp_path / "a", ORGANS, workers=2, on_case=lambda *args: told.append(args))
    one = prepare_cases(cases, PLAN, tmp_path / "b", ORGANS)
    assert [prepared.case for prepared in several] == ["case0", "case1", "case2", "case3"]
    assert [done for done, _, _ in told] == [1, 2, 3, 4]
    assert {total for _, total, _ in told} == {4}
    for a, b in zip(several, one, strict=True):
        np.testing.assert_array_equal(a.image(), b.image())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_case_is_named(tmp_path, workers):
    cases = [make_case(tmp_path, "good"), make_case(tmp_path, "bad")]
    cases[1].image.write_bytes(cases[1].image.read_bytes()[:2000])
    with pytest.raises(AmosError, match=r"^bad_image\.nii\.gz: is truncated"):
        prepare_cases(cases, PLAN, tmp_path / "store", ORGANS, workers=workers)


def test_a_missing_file_is_named(tmp_path):
    case = make_case(tmp_path)
    case.label.unlink()
    with pytest.raises(AmosError, match=r"^one_label\.nii\.gz: no such file"):
        prepare_case(case, PLAN, tmp_path / "store", ORGANS)


def noise_case(folder: Path, shape: tuple[int, int, int]):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    label = np.random.default_rng(1).integers(0, 5, shape).astype(np.uint8)
    geometry = {"shape": shape, "spacing_mm": (1, 1, 1), "crop": [(0, n) for n in shape]}
    geometry["orientation"] = ((0, 1), (1, 1), (2, 1))
    meta = {"case": "noise", "site": "A", "modality": "CT", "annotated": [1], "has_label": True, "padding": -7.5}
    write_prepared(
        folder, image=image, label=label, foreground={}, patch=(16, 16, 16), meta={**meta, "geometry": geometry}
    )
    return open_prepared(folder), image, label


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    return noise_case(tmp_path_factory.mktemp("store") / "noise", (40, 33, 21))


starts = st.integers(-30, 45)
sizes = st.integers(1, 30)


@settings(max_examples=60)
@given(st.tuples(starts, starts, starts), st.tuples(sizes, sizes, sizes))
def test_a_patch_is_the_volume_surrounded_by_air_wherever_it_lies(noise, start, size):
    prepared, image, label = noise
    around = 80
    where = tuple(slice(s + around, s + around + n) for s, n in zip(start, size, strict=True))
    np.testing.assert_array_equal(prepared.image_patch(start, size), np.pad(image, around, constant_values=-7.5)[where])
    np.testing.assert_array_equal(prepared.label_patch(start, size), np.pad(label, around)[where])


def test_a_region_is_that_part_of_the_volume(noise):
    prepared, image, label = noise
    region = (slice(3, 30), slice(0, 33), slice(20, 21))
    np.testing.assert_array_equal(prepared.image(region), image[region])
    np.testing.assert_array_equal(prepared.label(region), label[region])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="the kernel does not count the bytes read")
def test_a_patch_is_read_without_reading_the_volume(tmp_path):
    prepared, image, _ = noise_case(tmp_path / "noise", (128, 128, 128))

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = bytes_read()
    patch = prepared.image_patch((10, 20, 30), (16, 16, 16))
    assert bytes_read() - before < 0.1 * image.nbytes
    np.testing.assert_array_equal(patch, image[10:26, 20:36, 30:46])


def test_a_damaged_entry_says_what_to_do(tmp_path):
    prepared, _, _ = noise_case(tmp_path / "noise", (16, 16, 16))
    content = (prepared.folder / "image.b2nd").read_bytes()
    (prepared.folder / "image.b2nd").write_bytes(content[: len(content) // 2])
    with pytest.raises(AmosError, match="prepared copy is damaged; delete the folder"):
        prepared.image()
    (prepared.folder / "meta.json").write_text("{")
    with pytest.raises(AmosError, match="prepared copy is damaged"):
        open_prepared(prepared.folder)
    with pytest.raises(AmosError, match="holds no prepared case"):
        open_prepared(tmp_path / "nothing")
