"""What people write twice in a table or in a file of settings is refused, not counted silently."""

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
