"""`amos-fl models`: counts beside Table 4, time and memory, and what it refuses."""

import csv
import io
import json

import pytest

from amos_fl.cli.main import run
from amos_fl.networks.catalogue import NETWORKS
from amos_fl.networks.cost import TABLE_4_INPUT, multiply_accumulates, plan_for
from amos_fl.networks.registry import outline

PARAMETERS = {"unet": 1e-3, "vnet": 1e-3, "cotr": 1e-3, "nnformer": 1e-3, "unetr": 3e-3, "swin-unetr": 3e-3}


@pytest.fixture(scope="module")
def counted() -> dict[str, dict]:
    import contextlib

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run(["models", "--no-timing", "--json"]) == 0
    return {row["model"]: row for row in json.loads(out.getvalue())}


def test_the_catalogue_says_the_multiply_accumulates_that_are_counted(counted: dict[str, dict]) -> None:
    for name, network in NETWORKS.items():
        macs = counted[name]["macs"]
        if counted[name].get("paper_plan") == "isotropic":  # published under another plan than it is run
            macs = multiply_accumulates(outline(name, plan_for(name, TABLE_4_INPUT), 15), TABLE_4_INPUT)
        assert network.gmac == round(macs / 1e9, 1), name


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


# Millions of parameters as their authors print them, and multiply-accumulates with how near ours must come: for ResEnc
# what nnU-Net's own code gives when it is counted in the same way, for MedNeXt what its authors publish, who count
# normalisation, too.
BESIDE = {
    "resenc-m": (102.4, 718.70, 1e-5),
    "resenc-l": (102.4, 718.70, 1e-5),
    "mednext-l": (63.0, 564, 0.01),
    "mednext-l-k3": (61.8, 500, 0.01),
}


@pytest.mark.parametrize("model", BESIDE)
def test_networks_beside_the_papers_have_the_size_that_their_authors_publish(
    model: str, counted: dict[str, dict]
) -> None:
    millions, giga, tolerance = BESIDE[model]
    row = counted[model]
    assert round(row["parameters"] / 1e6, 1) == millions
    assert row["macs"] == pytest.approx(giga * 1e9, rel=tolerance)
    assert row["paper_parameters_millions"] == pytest.approx(millions, abs=0.05)
    assert row["paper_flops_giga"] == giga


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
