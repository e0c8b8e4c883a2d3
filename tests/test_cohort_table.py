"""cohort.csv, as people and spreadsheets write it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amos_fl.cohort.organs import AMOS_ORGANS
from amos_fl.cohort.table import SPLITS, Case, Cohort, read_cohort, write_cohort
from amos_fl.errors import AmosError

HEADER = "case,site,modality,split,image,label,annotated\n"
ROW = "a,north,CT,train,images/a.nii.gz,labels/a.nii.gz,1 2 6\n"

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}", fullmatch=True)


@st.composite
def cohorts(draw: st.DrawFn) -> Cohort:
    organs = draw(st.dictionaries(st.integers(1, 255), st.text("abc xyz,/\"'é", min_size=1).map(str.strip), max_size=5))
    organs = {value: f"{name} {value}" for value, name in sorted(organs.items())} or dict(AMOS_ORGANS)
    return Cohort(
        tuple(
            Case(
                case=name,
                site=draw(names),
                modality=draw(st.sampled_from(["CT", "MR"])),
                split=draw(st.sampled_from(SPLITS)),
                image=Path("/data/scans") / draw(names),
                label=Path("/data/labels") / name if draw(st.booleans()) else None,
                annotated=tuple(sorted(draw(st.sets(st.sampled_from(sorted(organs)), min_size=1)))),
            )
            for name in draw(st.lists(names, min_size=1, max_size=5, unique=True))
        ),
        {value: name.strip() for value, name in organs.items()},
    )


@given(cohorts())
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, cohort: Cohort) -> None:
    path = tmp_path_factory.mktemp("cohort") / "cohort.csv"
    write_cohort(cohort, path)
    found = read_cohort(path)
    assert found.organs == cohort.organs
    assert found.content_hash() == cohort.content_hash()
    assert [(c.image.resolve(), c.label and c.label.resolve()) for c in found.cases] == [
        (c.image, c.label) for c in cohort.cases
    ]


@pytest.mark.parametrize(
    "text",
    [
        HEADER + ROW,
        "\ufeff" + HEADER + ROW,
        (HEADER + ROW).replace("\n", "\r\n"),
        (HEADER + ROW).replace(",", " , "),
        HEADER.upper() + ROW,
        HEADER + ROW.replace("train", "Train").replace("CT", "ct"),
        HEADER + "\n" + ROW + ",,,,,,\n\n",
        HEADER + ROW.replace("/", "\\"),
        HEADER.replace("\n", ",remark\n") + ROW.replace("\n", ',"seen, twice"\n'),
        "annotated,label,image,split,modality,site,case\n1 2 6,labels/a.nii.gz,images/a.nii.gz,train,CT,north,a\n",
    ],
)
def test_a_file_written_by_hand_is_read_as_it_is_meant(tmp_path: Path, text: str) -> None:
    (tmp_path / "cohort.csv").write_bytes(text.encode())
    expected = Case(
        "a", "north", "CT", "train", tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz", annotated=(1, 2, 6)
    )
    assert read_cohort(tmp_path).cases == (expected,)


def test_empty_label_and_annotated_mean_no_label_and_all_organs(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_text(HEADER + "a,north,MRI,test,a.nii,,\n")
    (case,) = read_cohort(tmp_path).cases
    assert case.label is None
    assert case.annotated == tuple(AMOS_ORGANS)
    assert case.modality == "MR"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no column case, site"),
        ("case,site\na,b\n", "no column modality, split, image, label, annotated; a cohort has the columns"),
        ((HEADER + ROW).replace(",", ";"), "separated by semicolons; save it with commas"),
        (HEADER, "holds no case"),
        (HEADER + ROW + ROW, "case a is listed twice"),
        (HEADER + ROW.replace(",1 2 6", ""), "line 2: has 6 values, the header 7"),
        (HEADER + ROW.replace("1 2 6", "1,2,6"), "line 2: has 9 values, the header 7"),
        (HEADER + ROW.replace("1 2 6", "1;2"), "annotated is '1;2'; it lists label values like '1 2 6'"),
        (HEADER + ROW.replace("1 2 6", "16"), "annotated names 16, which is not an organ"),
        (HEADER + ROW.replace("CT", "PET"), "modality is 'PET'; it must be CT or MR"),
        (HEADER + ROW.replace("train", "training"), "split is 'training'; it must be train, val or test"),
        (HEADER + ROW.replace("north", ""), "the column site is empty"),
        (HEADER + ROW.replace("images/a.nii.gz", ""), "the column image is empty"),
        (HEADER + ROW.replace("north", "north side"), "names may hold letters, digits"),
        (HEADER + ROW.replace("a,north", "../a,north"), "names may hold letters, digits"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "cohort.csv").write_text(text)
    with pytest.raises(AmosError) as refused:
        read_cohort(tmp_path)
    assert sentence in str(refused.value)
    assert "cohort.csv" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(AmosError, match="is not a CSV text file"):
        read_cohort(tmp_path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(AmosError, match="no such cohort file; make one with 'amos-fl data amos22'"):
        read_cohort(tmp_path / "nothing.csv")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("value,organ\n1,heart\n", "must have the columns label"),
        ("label,organ\none,heart\n", "must have the columns label"),
        ("label,organ\n0,heart\n", "labels must lie between 1 and 255"),
        ("label,organ\n1,heart\n1,lung\n", "a label is listed twice"),
        ("label,organ\n1,heart\n2,heart\n", "every label needs its own organ name"),
        ("label,organ\n", "labels must lie between 1 and 255"),
    ],
)
def test_wrong_organs_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "cohort.csv").write_text(HEADER + ROW)
    (tmp_path / "organs.csv").write_text(text)
    with pytest.raises(AmosError, match=sentence):
        read_cohort(tmp_path)


def test_a_cohort_of_amos_organs_is_not_read_with_the_organs_that_lay_there_before(tmp_path: Path) -> None:
    (tmp_path / "organs.csv").write_text("label,organ\n1,heart\n")
    cohort = Cohort((Case("a", "north", "CT", "train", tmp_path / "a.nii", None, tuple(AMOS_ORGANS)),))
    write_cohort(cohort, tmp_path / "cohort.csv")
    assert read_cohort(tmp_path).organs == AMOS_ORGANS


def test_a_scan_that_is_a_link_keeps_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "0f3a").touch()
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "store" / "0f3a")
    cohort = Cohort((Case("a", "north", "CT", "train", tmp_path / "a.nii.gz", None, (1,)),))
    write_cohort(cohort, tmp_path / "cohort.csv")
    assert read_cohort(tmp_path).cases[0].image == tmp_path / "a.nii.gz"


def test_a_held_out_site_keeps_its_test_cases_only() -> None:
    def case(name: str, site: str, split: str) -> Case:
        return Case(name, site, "CT", split, Path(name), Path(name), (1,))  # pyright: ignore[reportArgumentType]

    cohort = Cohort((case("a", "x", "train"), case("b", "x", "test"), case("c", "y", "train"), case("d", "x", "val")))
    held = cohort.holding_out(["x"])
    assert [c.case for c in held.cases] == ["b", "c"]
    assert (held.seen_sites, held.unseen_sites) == (("y",), ("x",))
    with pytest.raises(AmosError, match="no site z in this cohort; it has x, y"):
        cohort.holding_out(["z"])


@pytest.mark.parametrize("column", ["case", "site"])
def test_a_name_too_long_for_a_file_is_refused_in_bytes(tmp_path: Path, column: str) -> None:
    fits, long = "ä" * 80, "漢" * 54  # 160 and 162 bytes, of 80 and 54 letters
    for name in (fits, long):
        row = {"case": "c", "site": "A", column: name}
        (tmp_path / "cohort.csv").write_text(
            f"case,site,modality,split,image,label,annotated\n{row['case']},{row['site']},CT,train,i.nii.gz,,\n"
        )
        if name == fits:
            assert getattr(read_cohort(tmp_path).cases[0], column) == name
    with pytest.raises(AmosError, match="up to 160 bytes"):
        read_cohort(tmp_path)
