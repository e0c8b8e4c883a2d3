"""What people write twice in a table or in a file of settings is refused, not counted silently."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from amos_fl.cohort.dataset import read_table
from amos_fl.cohort.dataset_json import read_description
from amos_fl.cohort.label_map import read_label_map
from amos_fl.cohort.metadata import read_metadata
from amos_fl.cohort.table import read_cohort, read_organs
from amos_fl.deploy.layout import read_deployment
from amos_fl.errors import AmosError
from amos_fl.metrics.rules import tolerance_asked_for
from amos_fl.metrics.table import read_scores
from amos_fl.runs.config import parse_assignment
from amos_fl.runs.layers import read_yaml
from amos_fl.runs.sweep import read_sweep
from amos_fl.safe_yaml import NotYaml, parsed_yaml
from amos_fl.strict import load_json
from amos_fl_clients.federation.settings import read_settings


def _tolerance(path: Path) -> object:
    return tolerance_asked_for(str(path), {1: "liver"})


TWICE = [
    ("cohort.csv", "case,site,modality,split,image,label,annotated,site\n", read_cohort, "two columns 'site'"),
    ("organs.csv", "label,organ,Label\n1,liver,2\n", read_organs, "two columns 'label'"),
    ("sites.csv", "case,site,Site \nc1,A,B\n", read_table, "two columns 'site'"),
    (
        "meta.csv",
        "amos_id,Manufacturer's Model Name,site,amos_id\n",
        read_metadata,
        "two columns 'amosid'",
    ),
    ("tolerance.csv", "organ,tolerance_mm,tolerance_mm\nliver,1,9\n", _tolerance, "two columns 'tolerance_mm'"),
    ("tolerance.yaml", "liver: 1\nliver: 9\n", _tolerance, "'liver' is set on line 1 and again on line 2"),
    ("scores.csv", "case,site,case\n", read_scores, "two columns 'case'"),
    ("run.yaml", "rounds: 2\ntraining:\n  momentum: 0.9\n  momentum: 0.1\n", read_yaml, "'momentum' is set on line 3"),
    (
        "sweep.yaml",
        "grid:\n  seed: [0]\ngrid:\n  seed: [1]\n",
        read_sweep,
        "'grid' is set on line 1 and again on line 3",
    ),
    ("map.yaml", "liver: liver\nliver: spleen\n", read_label_map, "'liver' is set on line 1"),
    ("site.yaml", "cohort: a.csv\ncohort: b.csv\n", read_settings, "'cohort' is set on line 1"),
    ("deployment.yaml", "host: a\nhost: b\n", lambda path: read_deployment(path.parent), "'host' is set on line 1"),
    (
        "dataset.json",
        '{"labels": {"1": "liver", "1": "kidney"}}',
        lambda p: read_description(p.parent, "a task"),
        "'1'",
    ),
]


@pytest.mark.parametrize(("name", "text", "read", "said"), TWICE, ids=[name for name, *_ in TWICE])
def test_what_is_named_twice_is_refused_with_the_file_and_the_name(tmp_path: Path, name, text, read, said) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8-sig")
    with pytest.raises(AmosError) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert said in str(caught.value)


SURPLUS = [
    ("organs.csv", "label,organ\n1,liver,left\n", read_organs),
    ("sites.csv", "case,site\ns0001,west\ns0002,west,extra\n", read_table),
    ("meta.csv", "amos_id,Manufacturer's Model Name\n1,Aquilion ONE,extra\n", read_metadata),
    ("tolerance.csv", "organ,tolerance_mm\nliver,1,5\n", _tolerance),
]


@pytest.mark.parametrize(("name", "text", "read"), SURPLUS, ids=[name for name, *_ in SURPLUS])
def test_a_row_with_more_values_than_columns_is_refused_and_empty_ones_do_no_harm(
    tmp_path: Path, name: str, text: str, read: Callable[[Path], object]
) -> None:
    file = tmp_path / name
    file.write_text(text)
    last = text.count("\n")
    with pytest.raises(AmosError, match=rf"{name}, line {last}: has 3 values, the header 2; .* needs quotation marks"):
        read(file)
    file.write_text(text.replace(",extra", ",,").replace(",left", ",").replace("1,5", "1,"))
    read(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rounds: 2\nstrategy: a: b\n", "line 2: is not YAML (a second ': ' on a line, or a wrong indentation)"),
        ("rounds: 2\nsites: [A, B\nmodel: small\n", "line 2: is not YAML (a [ that is not closed)"),
        ("sites: {A: 1\nmodel: [\n", "is not YAML (a "),
        ("rounds:\n\t- 2\n", "line 2: is not YAML (a tab"),
        ("a: 1\nmodel: 'small\n", "line 2: is not YAML (a quotation mark that is not closed)"),
        ("a: 1\nmodel small\nb: 1\n", "is not YAML (a line without ': '"),
        ("a: 1\n  b: 2\n", "line 2: is not YAML (a second"),
    ],
)
def test_what_is_no_yaml_is_said_with_its_line_in_plain_words(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(AmosError) as error:
        read_yaml(file)
    assert said in str(error.value)
    assert "unicode string" not in str(error.value)


def test_one_setting_of_the_command_line_cannot_say_a_key_twice_either() -> None:
    with pytest.raises(AmosError, match="again on line"):
        parse_assignment("strategy_options.x={a: 1, a: 2}")


def test_yaml_with_merged_keys_may_override_them() -> None:
    text = "base: &base {a: 1, b: 2}\nmine:\n  <<: *base\n  b: 3\n"
    assert parsed_yaml(text, "x.yaml")["mine"] == yaml.safe_load(text)["mine"] == {"a": 1, "b": 3}


@pytest.mark.parametrize("text", ["[" * 3000, "day: 2020-13-45", "? [a]\n: b", "a: !!python/object:os.system x"])
def test_what_no_yaml_reader_can_make_sense_of_is_said_so_and_nothing_else(text: str) -> None:
    with pytest.raises(NotYaml):
        parsed_yaml(text, "x.yaml")


def test_json_nested_too_deeply_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested"):
        load_json("[" * 100_000, "x.json")
