"""`amos-fl models`: counts beside Table 4, time and memory, and what it refuses."""

import csv
import io
import json

import pytest

from amos_fl.cli.main import run
from amos_fl.networks.catalogue import NETWORKS

PARAMETERS = {"unet": 1e-3, "vnet": 1e-3, "cotr": 1e-3, "nnformer": 1e-3, "unetr": 3e-3, "swin-unetr": 3e-3}


@pytest.fixture(scope="module")
def counted() -> dict[str, dict]:
    import contextlib

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run(["models", "--no-timing", "--json"]) == 0
    return {row["model"]: row for row in json.loads(out.getvalue())}


def test_the_catalogue_says_the_multiply_accumulates_that_are_counted(counted: dict[str, dict]) -> None:
    assert {name: network.gmac for name, network in NETWORKS.items()} == {
        name: round(row["macs"] / 1e9, 1) for name, row in counted.items()
    }


def test_parameters_are_those_of_table_4(counted: dict[str, dict]) -> None:
    assert list(counted) == list(NETWORKS)
    for model, tolerance in PARAMETERS.items():
        row = counted[model]
        assert row["parameters"] == pytest.approx(row["paper_parameters_millions"] * 1e6, rel=tolerance), model


def test_multiply_accumulates_are_those_of_table_4_but_for_its_slip(counted: dict[str, dict]) -> None:
    for model in PARAMETERS:
        row = counted[model]
        if model == "swin-unetr":
            # Attention and convolutions of MONAI's network, counted by hand elsewhere: 764.19 without heads.
            assert row["macs"] == pytest.approx(764.19e9, rel=0.02)
            assert "slip" in row["paper_note"]
            assert row["paper_flops_giga"] == counted["cotr"]["paper_flops_giga"]
        else:
            assert row["macs"] == pytest.approx(row["paper_flops_giga"] * 1e9, rel=6e-3), model
            assert not row["paper_note"]
    assert "paper_flops_giga" not in counted["small"]


def test_time_and_memory_are_measured_on_this_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "small", "--csv", "--device", "cpu", "--patch", "32,32,32", "--threads", "1"]) == 0
    [row] = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (row["device"], row["patch"], row["batch_size"]) == ("cpu", "32x32x32", "2")
    assert float(row["window_seconds"]) > 0  # how they compare is the load's to say
    assert float(row["step_seconds"]) > 0
    weights = 4 * int(row["parameters"])
    assert 3 * weights < int(row["step_bytes"]) < 2 * 2**30  # weights, gradients and momentum at least


def test_the_table_names_the_slip_and_says_what_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--no-timing", "swin-unetr", "cotr"]) == 0
    printed = capsys.readouterr().out
    assert "668.15*" in printed
    assert "* swin-unetr: the paper's FLOPs are CoTr's" in printed
    assert "deep-supervision heads included" in printed
    assert "window s" not in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nnforner"], "no model 'nnforner'; did you mean 'nnformer'?"),
        (["--patch", "64,64"], "--patch 64,64: must be three sides in voxels, like 64,64,64"),
        (["--patch", "64,0,64"], "must be three sides"),
    ],
)
def test_wrong_input_is_one_sentence(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", *arguments]) == 2
    assert words in capsys.readouterr().err
