"""A release as people have it on disk: nested, with test labels or without, with more or fewer files than it should."""

import json
import shutil
from pathlib import Path

import pytest
from fake_amos import TABLE, metadata_rows, write_metadata, write_release

from amos_fl.cohort.amos22 import ImportResult, import_amos22
from amos_fl.cohort.protocols import PROTOCOLS, Protocol
from amos_fl.cohort.scanners import SCANNERS, published_cases
from amos_fl.cohort.table import read_cohort, write_cohort
from amos_fl.errors import AmosError


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_release(tmp_path_factory.mktemp("amos") / "amos22")


def splits(result: ImportResult) -> dict[str, str]:
    return {case.case: case.split for case in result.cohort.cases}


def rewrite_json(folder: Path, **changes: object) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def has(notes: tuple[str, ...], part: str) -> bool:
    return any(part in note for note in notes)


def test_paper_gives_table_2_exactly_and_says_what_was_drawn_here(complete: Path) -> None:
    result = import_amos22(complete, protocol="paper")
    assert result.counts == {domain: scanner.table2 for domain, scanner in SCANNERS.items()}
    assert result.differences == ()
    assert has(result.notes, "ours: which of the 53 Prisma cases of the People's Hospital train (33)")
    assert has(result.notes, "one patient on both sides, as released: amos_0013 (val), amos_0138 (train)")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_cohort_is_written_and_read_back(complete: Path, tmp_path: Path, protocol: Protocol) -> None:
    result = import_amos22(complete, protocol=protocol)
    write_cohort(result.cohort, tmp_path / "cohort.csv")
    found = read_cohort(tmp_path)
    assert found.content_hash() == result.cohort.content_hash()
    assert all(case.image.is_file() and case.label is not None and case.label.is_file() for case in found.cases)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_counts_are_those_of_the_cohort_and_every_difference_is_named(complete: Path, protocol: Protocol) -> None:
    result = import_amos22(complete, protocol=protocol)
    for site, scanner in SCANNERS.items():
        cases = result.cohort.of(site=site)
        assert result.counts[site] == tuple(sum(c.split == s for c in cases) for s in ("train", "val", "test"))
        named = [text for text in result.differences if text.startswith(f"{site}: ")]
        assert bool(named) == (result.counts[site] != scanner.table2)
        assert all(not text.rstrip().endswith("other cases are here") for text in named)


def test_release_has_no_validation_cases_so_that_nothing_is_selected(complete: Path) -> None:
    result = import_amos22(complete, protocol="release")
    assert set(splits(result).values()) == {"train", "test"}
    assert sum(split == "test" for split in splits(result).values()) == 120


def test_public_lists_d_and_e_as_without_public_labels(complete: Path) -> None:
    result = import_amos22(complete, protocol="public")
    assert result.cohort.unseen_sites == ("F",)
    assert has(result.notes, "site D (Optima CT660) has no public labels; 64 images")
    assert has(result.notes, "site E (Optima CT540) has no public labels; 58 images")


def test_a_held_out_scanner_is_unseen(complete: Path) -> None:
    result = import_amos22(complete, protocol="public", hold_out=["c"])
    assert result.cohort.unseen_sites == ("C", "F")
    assert has(result.differences, "C: train 0, val 0, test 100; Table 2 has train 50, val 50, test 28: held out")


def test_a_patient_of_a_held_out_scanner_who_trains_elsewhere_is_left_out_and_named(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "amos22", same_patient=[(1, 202)])
    result = import_amos22(folder, protocol="public", hold_out=["C"])
    assert "amos_0202" not in splits(result)
    assert has(result.notes, "left out, because their patients train or validate at another site: amos_0202")
    assert has(result.differences, "1 are left out, because their patients train or validate elsewhere")


@pytest.mark.parametrize("nesting", [".", "amos22", "amos22/amos22", "a/b/c"])
def test_the_release_is_found_in_nested_folders_beside_macos_leftovers(
    complete: Path, tmp_path: Path, nesting: str
) -> None:
    write_release(tmp_path / "download" / nesting, ids=range(1, 20), metadata=False)
    leftovers = tmp_path / "download" / "__MACOSX" / "imagesTr"
    leftovers.mkdir(parents=True)
    (leftovers / "amos_0001.nii.gz").write_bytes(b"as released")
    (tmp_path / "download" / nesting / "imagesTr" / "._amos_0001.nii.gz").touch()
    (tmp_path / "download" / nesting / "imagesTr" / "._amos_0400.nii.gz").touch()
    result = import_amos22(tmp_path / "download", protocol="paper")
    assert len(result.cohort.cases) == 19
    assert result.folder == tmp_path / "download" / nesting


@pytest.mark.parametrize("where", [".", "amos22", ".."])
def test_the_metadata_table_is_found_in_and_beside_the_release(tmp_path: Path, where: str) -> None:
    root = tmp_path / "download"
    write_release(root / "amos22", ids=range(1, 20), metadata=False)
    table = write_metadata(root / where / TABLE, metadata_rows())
    found = import_amos22(root, protocol="paper").metadata
    assert found is not None
    assert found.resolve() == table.resolve()


def test_the_builtin_list_gives_the_same_cohort_and_says_that_patients_cannot_be_grouped(
    complete: Path, tmp_path: Path
) -> None:
    without = write_release(tmp_path / "amos22", metadata=False)
    for protocol in PROTOCOLS:
        expected, found = (import_amos22(folder, protocol=protocol) for folder in (complete, without))
        assert splits(found) == splits(expected)
        assert found.metadata is None
        assert has(found.notes, "no metadata table: scanners are taken from the built-in list")
        assert has(found.notes, "patients cannot be grouped")
        assert not has(expected.notes, "patients cannot be grouped")


def test_both_forms_of_dataset_json_are_read(complete: Path, tmp_path: Path) -> None:
    folder = write_release(tmp_path / "amos22")
    content = json.loads((folder / "dataset.json").read_text())
    rewrite_json(folder, test=[{"image": path, "label": "./labelsTs"} for path in content["test"]])
    assert import_amos22(folder, protocol="paper").notes == import_amos22(complete, protocol="paper").notes


def test_what_dataset_json_says_otherwise_than_the_folders_is_named(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "amos22")
    (folder / "imagesTr" / "amos_0001.nii.gz").unlink()
    (folder / "imagesTr" / "readme.txt").touch()
    content = json.loads((folder / "dataset.json").read_text())
    content["training"] = [e for e in content["training"] if "amos_0004" not in e["image"]]
    moved = content["validation"].pop(0)["image"]
    rewrite_json(
        folder,
        **{**content, "test": [*content["test"], moved.replace("Va", "Ts")], "labels": {"1": "heart", "8": "arota"}},
    )
    notes = import_amos22(folder, protocol="public").notes
    assert has(notes, "imagesTr: 1 case of dataset.json missing: amos_0001")
    assert has(notes, "1 image not named in dataset.json, but taken as well: amos_0004")
    assert has(notes, "1 case in another folder than dataset.json says; the folder counts: amos_0008")
    assert has(notes, "imagesTr: 1 of the release's 240 cases absent: amos_0001")
    assert has(notes, "labelsTr: label without image: amos_0001")
    assert has(notes, "imagesTr: 1 file not named as in AMOS ignored: readme.txt")
    assert has(notes, "dataset.json calls label 1 'heart'; here it is spleen")
    assert not has(notes, "arota")


def test_without_dataset_json_the_folders_say_which_cases_there_are(complete: Path, tmp_path: Path) -> None:
    folder = write_release(tmp_path / "amos22")
    (folder / "dataset.json").unlink()
    result = import_amos22(folder, protocol="paper")
    assert splits(result) == splits(import_amos22(complete, protocol="paper"))
    assert has(result.notes, "no dataset.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"training": [3]}', '{"test": ["amos_0001.nii.gz"]}', "\x00"])
def test_a_damaged_dataset_json_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_release(tmp_path / "amos22", ids=[1])
    (folder / "dataset.json").write_text(text)
    with pytest.raises(AmosError, match=r"dataset\.json: is damaged or not AMOS's; fetch it again, or remove it"):
        import_amos22(folder, protocol="public")


@pytest.mark.parametrize("count", [0, 1, 120, 240])
def test_any_number_of_unlabelled_test_images_is_fine(tmp_path: Path, count: int) -> None:
    test = [i for i, c in published_cases().items() if c.release_split == "test"]
    folder = write_release(tmp_path / "amos22", test_labels=False, ids=set(published_cases()) - set(test[count:]))
    for protocol in PROTOCOLS[1:]:
        assert len(import_amos22(folder, protocol=protocol).cohort.cases) == 360
    with pytest.raises(AmosError, match=r"--protocol paper needs the labels of the test images.*use --protocol public"):
        import_amos22(folder, protocol="paper")


def test_test_labels_that_lack_are_named(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "amos22")
    (folder / "labelsTs" / "amos_0002.nii.gz").unlink()
    result = import_amos22(folder, protocol="paper")
    assert has(result.notes, "labelsTs: 1 of 240 test images without label left out: amos_0002")
    assert has(
        result.differences, "A: train 82, val 27, test 26; Table 2 has train 82, val 27, test 27: 1 of its cases"
    )


def test_training_images_without_label_are_left_out_and_named(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "amos22")
    (folder / "labelsTr" / "amos_0001.nii.gz").unlink()
    result = import_amos22(folder, protocol="public")
    assert "amos_0001" not in splits(result)
    assert has(result.notes, "labelsTr: 1 image without label left out: amos_0001")


def test_the_challenges_first_release_is_recognised(tmp_path: Path) -> None:
    published = published_cases()
    folder = write_release(tmp_path / "amos22", ids=[i for i, c in published.items() if c.release_split != "test"])
    shutil.rmtree(folder / "imagesTs")
    shutil.rmtree(folder / "labelsVa")
    (folder / "imagesVa").rename(folder / "imagesTs")
    (folder / "dataset.json").unlink()
    result = import_amos22(folder, protocol="release")
    assert set(splits(result).values()) == {"train"}
    assert has(result.notes, "this is the challenge's first release: its imagesTs became imagesVa later")


def test_a_case_in_two_folders_counts_once_with_its_label(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "amos22", test_labels=False)
    (folder / "imagesTs" / "amos_0008.nii.gz").write_bytes(b"as released")
    result = import_amos22(folder, protocol="public")
    assert sum(case.case == "amos_0008" for case in result.cohort.cases) == 1
    assert has(result.notes, "amos_0008 is in imagesVa and imagesTs; imagesVa counts")


def test_cases_that_amos_does_not_have_are_left_out_and_named(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "amos22", ids=[1, 4, 8])
    for kind in ("images", "labels"):
        (folder / f"{kind}Tr" / "amos_5001.nii.gz").write_bytes(b"as released")
    result = import_amos22(folder, protocol="public")
    assert set(splits(result)) == {"amos_0001", "amos_0004", "amos_0008"}
    assert has(result.notes, "no scanner is known for amos_5001; left out")


def test_cases_that_the_metadata_table_lacks_are_named_where_they_are_in_the_release(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "amos22", ids=range(1, 20), metadata=False)
    write_metadata(folder / TABLE, [row for row in metadata_rows() if int(row[0]) < 15 and row[0] != "3"])
    notes = import_amos22(folder, protocol="paper").notes
    expected = "amos_0003, amos_0015, amos_0016, amos_0017, amos_0018 and amos_0019"
    assert has(notes, f"not in the metadata table, scanner taken from the built-in list: {expected}")


def test_a_part_of_a_release_keeps_table_2s_proportion_of_the_prisma_draw(tmp_path: Path) -> None:
    prisma = [i for i, c in published_cases().items() if c.record.domain == "G"]
    people = [i for i in prisma if published_cases()[i].record.institution == "people"][:8]
    result = import_amos22(write_release(tmp_path / "amos22", ids=[*people, 506]), protocol="paper")
    assert result.counts["G"] == (5, 3, 1)


def test_wrong_input_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = write_release(tmp_path / "a" / "amos22", ids=[1, 8, 13, 508])
    for hold_out, sentence in (
        (["X"], "--hold-out X: AMOS has no such scanner; there are A, B, C"),
        (["D"], "--hold-out D: Optima CT660 has no labelled case under --protocol public; there are A, B, F"),
        (["A", "B"], "no labelled training case is left; check --hold-out"),
    ):
        with pytest.raises(AmosError) as refused:
            import_amos22(folder, protocol="public", hold_out=hold_out)
        assert sentence in str(refused.value)
    with pytest.raises(AmosError, match=r"no such folder; give the folder in which amos22\.zip was unpacked"):
        import_amos22(tmp_path / "nowhere", protocol="public")
    with pytest.raises(AmosError, match="no such metadata table"):
        import_amos22(folder, protocol="public", metadata=tmp_path / "nothing.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AmosError, match="no folder imagesTr in it or up to 3 folders below; give the folder"):
        import_amos22(tmp_path / "empty", protocol="public")
    (tmp_path / "empty" / "amos22.zip").touch()
    with pytest.raises(AmosError, match=r"unpack amos22\.zip first"):
        import_amos22(tmp_path / "empty", protocol="public")
    (tmp_path / "empty" / "imagesTr").mkdir()
    with pytest.raises(AmosError, match="its image folders hold no amos_0001"):
        import_amos22(tmp_path / "empty", protocol="public")
    write_release(tmp_path / "a" / "copy", ids=[1])
    with pytest.raises(AmosError, match="holds several releases, in amos22 and copy; give one of these folders"):
        import_amos22(tmp_path / "a", protocol="public")
