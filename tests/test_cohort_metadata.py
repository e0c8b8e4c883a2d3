"""AMOS's metadata table and the faults it is known for."""

from pathlib import Path

import pytest
from fake_amos import HEADER, TABLE, metadata_rows, write_metadata

from amos_fl.cohort.metadata import builtin_metadata, domain_of_model, find_metadata, read_metadata
from amos_fl.cohort.scanners import SCANNERS, published_cases
from amos_fl.errors import AmosError


def read(folder: Path, rows: list[list[str]], header: tuple[str, ...] = HEADER):
    return read_metadata(write_metadata(folder / TABLE, rows, header))


def test_the_built_in_list_has_the_scanners_of_table_2() -> None:
    domains = [case.record.domain for case in published_cases().values()]
    assert {domain: domains.count(domain) for domain in SCANNERS} == {d: sum(s.table2) for d, s in SCANNERS.items()}


def test_the_table_with_its_faults_gives_the_scanners_of_the_built_in_list(tmp_path: Path) -> None:
    known = read(tmp_path, metadata_rows())
    ours = builtin_metadata().records
    assert {i: (r.domain, r.institution) for i, r in known.records.items()} == {
        i: (r.domain, r.institution) for i, r in ours.items()
    }
    assert known.knows_patients
    assert known.records[13].patient == known.records[138].patient != known.records[12].patient
    assert any("600 is absent: that row is 600's" in note for note in known.notes)
    assert any("amos_0539 was made on an Achieva; Table 2 counts it under H" in note for note in known.notes)
    assert len(known.notes) == 2


def test_the_mr_row_of_id_500_becomes_600_in_whatever_order_the_two_stand(tmp_path: Path) -> None:
    for rows in (metadata_rows(), metadata_rows()[::-1]):
        known = read(tmp_path, rows)
        assert (known.records[500].domain, known.records[600].domain) == ("E", "F")


def test_a_table_that_is_correct_already_is_left_as_it_is(tmp_path: Path) -> None:
    rows = [["600", *row[1:]] if row[0] == "500" and row[4] == "Ingenia" else row for row in metadata_rows()]
    known = read(tmp_path, rows)
    assert known.records[600].domain == "F"
    assert not any("600" in note for note in known.notes)


@pytest.mark.parametrize(
    ("spelling", "domain"),
    [
        ("Brilliance16", "B"),
        ("Brilliance 16", "B"),
        ("  aquilion one ", "A"),
        ("Somatom-Force", "C"),
        ("OPTIMA CT 540", "E"),
        ("Optima CT660", "D"),
        ("MAGNETOM Prisma", "G"),
        ("Signa HDe", "H"),
        ("Ingenia 3.0T", "F"),
        ("Achieva", "H"),
        ("Skyra", None),
        ("", None),
    ],
)
def test_models_are_matched_loosely(spelling: str, domain: str | None) -> None:
    assert domain_of_model(spelling) == domain


def test_a_model_of_the_wrong_modality_is_replaced_by_the_built_in_list_and_named(tmp_path: Path) -> None:
    rows = [[*row[:4], "Prisma", *row[5:]] if row[0] == "7" else row for row in metadata_rows()]
    known = read(tmp_path, rows)
    assert known.records[7].domain == "B"
    assert any(
        "amos_0007: Prisma is MR, the id CT; its scanner is taken from the built-in list (B)" in n for n in known.notes
    )


def test_an_unknown_model_is_replaced_by_the_built_in_list_or_left_out(tmp_path: Path) -> None:
    rows = [["7", "", "", "", "Skyra", "", "", ""], ["5001", "", "", "", "Skyra", "", "", ""]]
    known = read(tmp_path, rows)
    assert known.records[7].domain == "B"
    assert 5001 not in known.records
    assert sum("'Skyra' is not one of AMOS's scanners" in note for note in known.notes) == 2


def test_ids_that_the_table_lacks_come_from_the_built_in_list(tmp_path: Path) -> None:
    known = read(tmp_path, [row for row in metadata_rows() if row[0] not in ("3", "4")])
    assert known.records[3].domain == "A"
    assert known.records[3].patient == ""
    assert known.absent == {3, 4}


def test_an_id_listed_twice_counts_once_when_the_rows_agree(tmp_path: Path) -> None:
    rows = metadata_rows()
    known = read(tmp_path, [*rows, *(row for row in rows if row[0] == "9")])
    assert any("id 9 is listed 2 times" in note for note in known.notes)


def test_a_missing_birth_date_makes_a_patient_unknown_not_equal(tmp_path: Path) -> None:
    rows = [[row[0], "", *row[2:]] if row[0] in ("3", "4") else row for row in metadata_rows()]
    known = read(tmp_path, rows)
    assert known.records[3].patient == known.records[4].patient == ""
    assert any("no birth date or sex, so the patient is not known: amos_0003 and amos_0004" in n for n in known.notes)


def test_no_note_shows_a_birth_date(tmp_path: Path) -> None:
    rows = metadata_rows()
    rows[0][4], rows[1][1], rows[2][4] = "Skyra", "", "Prisma"
    dates = {row[1] for row in rows} - {""}
    assert not [note for note in read(tmp_path, [*rows, rows[5]]).notes if any(date in note for date in dates)]


def test_byte_order_mark_windows_line_ends_padded_ids_and_column_order_do_no_harm(tmp_path: Path) -> None:
    header = HEADER[::-1]
    lines = [",".join(header), *(",".join([*row[:0:-1], f" {int(row[0]):04d} "]) for row in metadata_rows())]
    (tmp_path / TABLE).write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n\r\n").encode())
    assert read_metadata(tmp_path / TABLE).records == read(tmp_path, metadata_rows()).records


def test_wrong_tables_are_refused_in_one_sentence(tmp_path: Path) -> None:
    rows = metadata_rows()
    conflict = [*rows, ["9", "19000101", "F", "", "Brilliance16", "", "", "center"]]
    with pytest.raises(AmosError, match=r"id 9 is on lines 593 and 602, which differ; correct the table"):
        read(tmp_path, conflict)
    with pytest.raises(AmosError, match="line 2: amos_id is 'nine'; it must be a number"):
        read(tmp_path, [["nine", *rows[0][1:]]])
    with pytest.raises(AmosError, match="no column \"Manufacturer's Model Name\"; this is not AMOS's metadata table"):
        read(tmp_path, [], HEADER[:4])
    with pytest.raises(AmosError, match="no such metadata table"):
        read_metadata(tmp_path / "nothing.csv")
    (tmp_path / TABLE).write_bytes(bytes(range(128, 256)))
    with pytest.raises(AmosError, match="is not a CSV text file"):
        read_metadata(tmp_path / TABLE)


def test_the_tables_of_the_unlabelled_scans_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "labeled_data_meta_5000_5399.csv").touch()
    assert find_metadata(tmp_path) is None
    (tmp_path / TABLE).touch()
    assert find_metadata(tmp_path / "elsewhere", tmp_path) == tmp_path / TABLE
    (tmp_path / "labeled_data_meta_0000_0599 (1).csv").touch()
    with pytest.raises(AmosError, match="holds 2 metadata tables; name the right one with --metadata"):
        find_metadata(tmp_path)
