"""`amos-fl export`: a trained network in other programs, which give the label maps of `amos-fl predict`."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ORGANS, write_case
from narrow_networks import NARROW
from torch import nn

import amos_fl
from amos_fl.cli.main import run as command
from amos_fl.errors import AmosError
from amos_fl.export.formats import write_onnx, write_torchscript
from amos_fl.export.gather import gathered
from amos_fl.export.portable import PortableNetwork, affine_of, prepared
from amos_fl.export.write import export_model
from amos_fl.networks.registry import build_network
from amos_fl.runs.inference_settings import RecordedInference
from amos_fl.runs.origin import about_network, write_model
from amos_fl.volumes.nifti import Volume
from amos_fl.volumes.plan import Plan, plan_named
from amos_fl.volumes.resample import resample_image

PLAN = plan_named("coarse").model_copy(update={"patch": (32, 32, 32)})


def needs_onnx() -> None:
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the extra export is not installed here")


@pytest.fixture(scope="module")
def model(finished_run: Path) -> amos_fl.TrainedModel:
    return amos_fl.TrainedModel.read(finished_run)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """CT and MR: one as its scanner wrote it, one stored in another order, oblique, and thinner than a window."""
    folder = tmp_path_factory.mktemp("scans")
    found = {}
    for modality in ("CT", "MR"):
        plain, _ = write_case(folder, f"plain_{modality}", modality, seed=1)
        found[f"plain {modality}"] = plain
        image = nib.Nifti1Image.from_filename(plain)
        around = np.eye(4)
        around[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
        affine = around @ image.affine @ np.diag([0.7, 1.1, 1.3, 1.0])
        array = np.asarray(image.dataobj)[:, ::-1, 4:13].transpose(2, 0, 1)
        affine = (affine @ np.diag([1.0, -1.0, 1.0, 1.0]))[:, [2, 0, 1, 3]]
        found[f"turned {modality}"] = folder / f"turned_{modality}.nii.gz"
        nib.save(nib.Nifti1Image(array, affine), found[f"turned {modality}"])
    return found


def module_at(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module in a file, loaded while nothing of amos-fl can be imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "amos_fl"]:
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("exported", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "exported", module)
    spec.loader.exec_module(module)
    return module


def assert_same(written: Path, prediction: amos_fl.Prediction) -> None:
    image = nib.Nifti1Image.from_filename(written)
    np.testing.assert_array_equal(np.asarray(image.dataobj), prediction.labels)
    np.testing.assert_allclose(image.affine, prediction.affine, atol=1e-5)
    assert image.get_data_dtype() == np.uint8


def test_a_bundle_that_monai_runs_without_amos_fl_gives_the_label_maps_of_predict(
    model: amos_fl.TrainedModel, scans: dict[str, Path], tmp_path: Path
) -> None:
    for package in ("fire", "ignite"):
        pytest.importorskip(package, reason="the extra export is not installed here")
    bundle = model.export(tmp_path / "bundle", "monai-bundle", modality="CT")
    given = [scans["plain CT"], scans["turned CT"]]
    expected = [model.predict(scan, "CT") for scan in given]
    assert all(prediction.labels.any() for prediction in expected)
    (tmp_path / "in").mkdir()
    for scan in given:
        (tmp_path / "in" / scan.name).symlink_to(scan)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/sitecustomize.py").write_text("import sys; sys.modules['amos_fl'] = None\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "alone"), *sys.path])}
    asked = ["--config_file", str(bundle / "configs/inference.json"), "--bundle_root", str(bundle)]
    asked += ["--dataset_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *asked],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "out").iterdir())) == 2
    for scan, prediction in zip(given, expected, strict=True):
        assert_same(tmp_path / "out" / scan.name.replace(".nii", "_seg.nii"), prediction)


@pytest.fixture
def in_a_bundle(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a bundle adds to Python's path and modules is gone afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for part in ("scripts", "scripts.portable"):
        sys.modules.pop(part, None)


@pytest.mark.parametrize("name", ["plain MR", "turned MR", "turned CT"])
def test_the_parts_that_monai_label_takes_from_a_bundle_give_the_label_map_of_predict(
    name: str, model: amos_fl.TrainedModel, scans: dict[str, Path], tmp_path: Path, in_a_bundle: None
) -> None:
    from monai.bundle.config_parser import ConfigParser
    from monai.transforms.io.dictionary import SaveImaged

    modality = name[-2:]
    bundle, scan = model.export(tmp_path / "b", "monai-bundle", modality=modality), scans[name]
    expected = model.predict(scan, modality)
    config = ConfigParser()
    config.read_config(bundle / "configs/inference.json")
    config["bundle_root"] = str(bundle)
    before, infer, after = (config.get_parsed_content(key) for key in ("preprocessing", "inferer", "postprocessing"))
    network = torch.jit.load(bundle / "models/model.ts")
    data = before({"image": str(scan)})
    image = data["image"]
    corner = np.linalg.inv(np.asarray(image.affine)) @ expected.affine @ [0, 0, 0, 1]
    assert (corner[:3] > -1 - np.array(image.shape[1:])).all()
    data["pred"] = infer(image[None], network)[0]
    for transform in after.transforms:
        if not isinstance(transform, SaveImaged):
            data = transform(data)
    np.testing.assert_array_equal(data["pred"][0].numpy(), expected.labels)
    np.testing.assert_allclose(data["pred"].affine, expected.affine, atol=1e-5)
    # What MONAI Label compares and writes: without these it would resize or turn the label map once more.
    assert tuple(data["image"].meta["spatial_shape"]) == expected.labels.shape
    np.testing.assert_allclose(data["image"].meta["original_affine"], expected.affine, atol=1e-5)


def test_a_bundle_runs_as_a_module_of_3d_slicer_runs_bundles(
    model: amos_fl.TrainedModel, scans: dict[str, Path], tmp_path: Path, in_a_bundle: None
) -> None:
    pytest.importorskip("ignite", reason="the extra export is not installed here")
    from monai.bundle.config_parser import ConfigParser

    bundle, scan = model.export(tmp_path / "b", "monai-bundle", modality="MR"), scans["plain MR"]
    expected = model.predict(scan, "MR")
    config = ConfigParser()
    config.read_config(bundle / "configs/inference.json")
    device = torch.device("cpu")
    for key, value in {"bundle_root": bundle, "dataset_dir": scan.parent, "output_dir": tmp_path / "out"}.items():
        config[key] = str(value)
    config["datalist"], config["device"], config["inferer"]["device"] = [str(scan)], device, device
    config["dataloader"]["num_workers"] = 0
    config.get_parsed_content("evaluator").run()
    assert_same(next((tmp_path / "out").rglob("*.nii.gz")), expected)


@pytest.mark.parametrize("axis", range(3))
def test_the_affine_of_a_prepared_image_leads_to_where_the_scan_has_its_voxels(axis: int) -> None:
    affine = np.array([[0, -6.0, 0, 90], [7.0, 0, 0, -40], [0, 0, 11.0, 5], [0, 0, 0, 1]])
    places = np.stack([*np.indices((30, 28, 24)), np.ones((30, 28, 24))])
    position = np.einsum("r,rxyz->xyz", affine[axis], places).astype(np.float32)  # mm, which splines reproduce
    image, grid = prepared(Volume(position, affine), "CT", PortableNetwork((1,), (), PLAN, None))
    assert image.shape[0] == 32  # padded to a window
    found = affine_of(image.shape, grid, affine)
    for voxel in [(12, 9, 11), (14, 20, 20), (20, 15, 25)]:
        there = image[voxel] * PLAN.ct_sd_hu + PLAN.ct_mean_hu
        assert there == pytest.approx(float(found[axis] @ [*voxel, 1]), abs=0.2)


def test_metadata_and_configuration_have_what_monai_asks_for(
    model: amos_fl.TrainedModel, tmp_path: Path, in_a_bundle: None
) -> None:
    pytest.importorskip("ignite", reason="the extra export is not installed here")
    from monai.bundle.utils import DEFAULT_METADATA
    from monai.bundle.workflows import ConfigWorkflow

    bundle = model.export(tmp_path / "b", "monai-bundle", modality="CT")
    about = json.loads((bundle / "configs/metadata.json").read_text())
    assert set(DEFAULT_METADATA) <= set(about)
    data = about["network_data_format"]
    [image], [pred] = data["inputs"].values(), data["outputs"].values()
    needed = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data", "channel_def"}
    assert needed <= set(image)
    assert needed <= set(pred)
    assert pred["channel_def"] == {"0": "background", "1": "ball", "2": "box"}
    assert (image["modality"], image["spatial_shape"]) == ("CT", list(model.about.plan.patch))
    flow = ConfigWorkflow(
        config_file=str(bundle / "configs/inference.json"),
        meta_file=str(bundle / "configs/metadata.json"),
        workflow_type="infer",
        bundle_root=str(bundle),
    )
    flow.initialize()
    assert not flow.check_properties()
    card = (bundle / "docs/README.md").read_text()
    assert "It is for CT." in card
    assert "Scores on test cases" in card
    assert (bundle / "LICENSE").is_file()


@pytest.mark.parametrize("to", ["torchscript", "onnx"])
def test_predict_py_of_an_export_gives_the_label_maps_of_predict(
    to: str,
    model: amos_fl.TrainedModel,
    scans: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if to == "onnx":
        needs_onnx()
    assert command(["export", str(model.about.folder), "--to", to, "-o", str(tmp_path / "out"), "--mirror"]) == 0
    assert "README.md says how it is used" in capsys.readouterr().out
    expected = {name: model.predict(scan, name[-2:], mirror=True) for name, scan in scans.items()}
    predict = module_at(tmp_path / "out/predict.py", monkeypatch)
    for name, scan in scans.items():
        assert predict.main([str(scan), "-o", str(tmp_path / "maps"), "--modality", name[-2:]]) == 0
        assert_same(tmp_path / "maps" / scan.name, expected[name])
    assert predict.main([str(scans["plain CT"]), "-o", str(tmp_path / "maps")]) == 2  # it was trained on both
    assert "say whether the scans are CT or MR" in capsys.readouterr().err
    (tmp_path / "text.nii").write_text("no scan")
    assert (
        predict.main([str(tmp_path / "text.nii"), str(scans["plain CT"]), "-o", str(tmp_path), "--modality", "CT"]) == 2
    )
    assert (tmp_path / scans["plain CT"].name).is_file()


def untrained(
    folder: Path, name: str = "small", organs: dict[int, str] | None = None, plan: Plan = PLAN, **more: Any
) -> amos_fl.TrainedModel:
    """A model folder with fresh weights."""
    organs = organs or ORGANS
    network = build_network(name, plan, len(organs), seed=0)
    weights = {key: value.numpy() for key, value in network.state_dict().items()}
    about = about_network(name, plan, organs, None, more.pop("learned", None))
    inference = RecordedInference(threads=1, **more)
    write_model(folder, weights, round=3, network=about, modalities=["CT"], synthetic=False, inference=inference)
    return amos_fl.TrainedModel.read(folder)


def test_label_values_and_organs_that_were_not_learned_are_those_of_predict(
    scans: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {2: "spleen", 5: "liver", 10: "bladder", 13: "aorta"}
    model = untrained(tmp_path / "model", organs=names, learned=[2, 10, 13])
    expected = model.predict(scans["plain CT"])
    assert set(np.unique(expected.labels)) >= {2, 10}
    assert 5 not in expected.labels
    out = model.export(tmp_path / "out", "torchscript")
    predict = module_at(out / "predict.py", monkeypatch)
    assert predict.main([str(scans["plain CT"]), "-o", str(tmp_path)]) == 0  # the one modality it was trained on
    assert_same(tmp_path / scans["plain CT"].name, expected)


def test_an_organ_s_name_is_never_run_by_monai(tmp_path: Path) -> None:
    model = untrained(tmp_path / "model", organs={1: "$import os", 2: "@device"})
    bundle = model.export(tmp_path / "b", "monai-bundle")
    assert "import os" not in (bundle / "configs/inference.json").read_text()

    def texts(value: Any) -> Iterator[str]:
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
            yield from [each] if isinstance(each, str) else texts(each)

    found = list(texts(json.loads((bundle / "configs/metadata.json").read_text())))
    assert " $import os" in found
    assert not [text for text in found if text[0] in "$@%"]


OWN = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv3d(1, classes, 3, padding=1)

    def forward(self, x):
        return {forward}

def build(plan, organ_count):
    return Own(1 + organ_count)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A network of one's own with this expression as its output."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(forward: str) -> str:
        name = f"own_network_{abs(hash(forward))}"
        (tmp_path / f"{name}.py").write_text(OWN.replace("{forward}", forward))
        return f"{name}:build"

    return write


def test_a_network_of_ones_own_is_exported_without_its_code(
    own: Callable[[str], str], scans: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = untrained(tmp_path / "model", own("torch.tanh(self.conv(x))"))
    expected = model.predict(scans["turned CT"])
    out = model.export(tmp_path / "out", "torchscript")
    predict = module_at(out / "predict.py", monkeypatch)
    monkeypatch.setitem(sys.modules, model.about.architecture.partition(":")[0], None)
    assert predict.main([str(scans["turned CT"]), "-o", str(tmp_path)]) == 0
    assert_same(tmp_path / scans["turned CT"].name, expected)


def test_a_network_whose_file_would_give_other_logits_is_refused(own: Callable[[str], str], tmp_path: Path) -> None:
    # A trace follows the branch of the windows that it was made with.
    model = untrained(tmp_path / "model", own("self.conv(x) if len(x) > 1 else -self.conv(x)"))
    with pytest.raises(
        AmosError, match=r"cannot be written as TorchScript: its logits would be off by .*choose another"
    ):
        model.export(tmp_path / "out", "torchscript")
    assert not list(tmp_path.glob("out*"))
    assert not list(tmp_path.glob(".*.tmp.*"))


def test_a_network_that_onnx_cannot_express_is_refused_in_one_sentence(
    own: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_onnx()
    untrained(tmp_path / "model", own("torch.special.bessel_j0(self.conv(x))"))
    assert command(["export", str(tmp_path / "model"), "--to", "onnx", "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "cannot be written as ONNX (" in said
    assert "bessel_j0" in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_without_the_extra_onnx_is_refused_in_one_sentence(
    model: amos_fl.TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        AmosError, match=r'ONNX needs more packages; install them with: pip install "amos-fl\[export\]"'
    ):
        model.export(tmp_path / "out", "onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "settings", "sentence"),
    [
        ("monai-bundle", {}, "trained on CT and MR, and a bundle is for one of them; add --modality"),
        ("onnxx", {}, "did you mean 'onnx'"),
        ("nnunet", {}, "nnU-Net crops and resamples a scan in its own way"),
        ("torchscript", {"test_time_adaptation": True}, "adapts the network to every scan"),
    ],
)
def test_what_cannot_be_exported_is_said(
    to: str, settings: dict[str, Any], sentence: str, model: amos_fl.TrainedModel, tmp_path: Path
) -> None:
    with pytest.raises(AmosError, match=sentence):
        model.export(tmp_path / "out", to, **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_no_export_heeds_is_refused_and_not_forgotten(
    model: amos_fl.TrainedModel, tmp_path: Path
) -> None:
    class Newer(RecordedInference):
        least_piece_ml: float = 0.0

    sentence = "least_piece_ml=0.5, which an exported network cannot do"
    with pytest.raises(AmosError, match=sentence):
        export_model(model.about, tmp_path / "out", "torchscript", Newer(least_piece_ml=0.5), modality="CT")
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_is_there_is_replaced(model: amos_fl.TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(AmosError, match="already exists; give a new folder"):
        model.export(tmp_path / "out", "torchscript")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        *[pytest.param(name, write_torchscript, id=f"{name}-torchscript") for name in ("unet", "cotr", "nnformer")],
        *[
            pytest.param(name, write_torchscript, id=f"{name}-torchscript", marks=pytest.mark.slow)
            for name in ("vnet", "unetr", "swin-unetr", "resenc-m", "mednext-l")
        ],
        # The conversions of the others take minutes together; these two have the most that ONNX may lack.
        *[pytest.param(name, write_onnx, id=f"{name}-onnx", marks=pytest.mark.slow) for name in ("cotr", "nnformer")],
    ],
)
def test_a_network_of_the_catalogue_gives_the_same_logits_in_another_format(
    name: str, write: Callable[[nn.Module, Any, Path, str], Path], tmp_path: Path
) -> None:
    if write is write_onnx:
        needs_onnx()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NARROW[name](PLAN, 3)
    file = write(network, PLAN.patch, tmp_path, name)
    windows = torch.linspace(-2, 3, 2 * 32**3).reshape(2, 1, 32, 32, 32).sin()
    with torch.no_grad():
        wanted = network(windows).numpy()
    if write is write_onnx:
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        [found] = session.run(["logits"], {"windows": windows.numpy()})
    else:
        found = torch.jit.load(file)(windows).detach().numpy()
        with zipfile.ZipFile(file) as archive:
            code = [archive.read(part).decode() for part in archive.namelist() if part.endswith(".py")]
        assert not [part for part in code if 'torch.device("cpu")' in part]  # it runs on the device of its windows
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_gathered_file_holds_what_is_used_and_imports_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = gathered([("amos_fl.volumes.resample", "resample_image")], "Resampling.", "1")
    imported = {
        alias.name.partition(".")[0] if isinstance(node, ast.Import) else str(node.module).partition(".")[0]
        for node in ast.parse(text).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported <= {"__future__", "functools", "numpy", "scipy", "typing"}
    assert "def axis_weights" in text
    assert "def resample_label" not in text
    array = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    expected = resample_image(array, (1, 1, 5), (1.5, 0.7, 2))
    (tmp_path / "gathered.py").write_text(text)
    module = module_at(tmp_path / "gathered.py", monkeypatch)
    np.testing.assert_array_equal(module.resample_image(array, (1, 1, 5), (1.5, 0.7, 2)), expected)


def test_two_definitions_of_one_name_are_not_gathered_into_one_file() -> None:
    with pytest.raises(RuntimeError, match=r"_row stands in both .*; rename one of them"):
        gathered([("amos_fl.comparison.latex", "_row"), ("amos_fl.cli.methods", "_row")], "", "")


def test_the_recipe_says_what_another_program_needs(tmp_path: Path) -> None:
    model = untrained(tmp_path / "model", plan=PLAN.model_copy(update={"mr_percentile": 99.5}), overlap=0.25)
    out = model.export(tmp_path / "out", "torchscript", batch_size=2)
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["organs"] == {"1": "ball", "2": "box"}
    assert recipe["preparation"]["mr_percentile"] == 99.5
    assert recipe["preparation"]["spacing_mm"] == [7.5, 7.5, 7.5]
    assert recipe["inference"] == {"overlap": 0.25, "batch_size": 2, "mirror": False, "threads": 1}
    assert (recipe["modality"], recipe["round"]) == ("CT", 3)
    assert recipe["weights_sha256"] == model.about.weights_sha256()
