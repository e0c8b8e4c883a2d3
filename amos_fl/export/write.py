"""Write a trained network for other programs, with all that takes a scan to its label map, into a folder of its own."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from amos_fl.errors import AmosError, already_exists
from amos_fl.export.bundle import inference_config, metadata
from amos_fl.export.formats import write_onnx, write_torchscript
from amos_fl.export.gather import gathered
from amos_fl.files import whole_folder, write_json, write_text
from amos_fl.runs.inference_settings import RecordedInference
from amos_fl.runs.model import Model
from amos_fl.wording import nearest

Format = Literal["monai-bundle", "onnx", "torchscript"]
FORMATS: tuple[str, ...] = get_args(Format)

_CARRIED_OUT = ("overlap", "batch_size", "mirror", "threads")
"""The settings of inference that an exported network heeds."""
_NO_NNUNET = (
    "--to nnunet: nnU-Net crops and resamples a scan in its own way, so in its results folder the same weights would "
    "give other label maps; use monai-bundle, onnx or torchscript"
)
_NOTICE = "For research. Not a medical device, not for diagnosis."
_LICENSE = """The Python code in this folder is of the amos-fl developers, under the Apache License 2.0
(https://www.apache.org/licenses/LICENSE-2.0).

The weights are of those who trained them. They say under which terms the weights may be used; the data that they
were trained on may restrict that.
"""


def export_model(
    model: Model, out: Path, to: str, inference: RecordedInference, *, modality: str | None = None
) -> Path:
    """Write a network and what it takes to predict with it into the new folder `out`, whole or not at all.

    Args:
        to: one of `FORMATS`. inference: how it is applied, fixed in the export.
        modality: CT or MR, of the scans that will be predicted; by default the network's, if it was trained on one.

    Raises:
        AmosError: no such format, a folder that already exists, a network that cannot be written in the format or
        would give other logits there, or what no export can do (test-time adaptation).
    """
    if to not in FORMATS:
        raise AmosError(_NO_NNUNET if "nnunet" in to.lower() else f"--to {to}: {nearest(to, FORMATS)}")
    if inference.test_time_adaptation:
        raise AmosError(
            f"{model.folder}: its run adapts the network to every scan that it predicts, and an exported network stays "
            "as it is",
            "add --no-test-time-adaptation, and expect other label maps than the run's",
        )
    for name, field in type(inference).model_fields.items():
        if name not in _CARRIED_OUT and (value := getattr(inference, name)) != field.default:
            raise AmosError(f"{model.folder}: its run has {name}={value}, which an exported network cannot do")
    if modality is None and len(model.modalities) == 1:
        modality = model.modalities[0]
    if modality is None and to == "monai-bundle":
        raise AmosError(
            f"{model.folder}: was trained on {' and '.join(model.modalities) or 'scans that it does not name'}, and a "
            "bundle is for one of them",
            "add --modality CT or --modality MR",
        )
    if out.exists():
        raise already_exists(out, "give a new folder with -o")
    network, recipe = model.network(), recipe_of(model, inference, modality)
    with whole_folder(out) as folder:
        if modality is not None and to == "monai-bundle":
            _write_bundle(model, network, folder, recipe, modality)
        else:
            write = write_onnx if to == "onnx" else write_torchscript
            write(network, model.plan.patch, folder, model.architecture)
            write_json(folder / "recipe.json", recipe)
            main = gathered(
                [("amos_fl.export.command", "main")], "Predict scans with the network in this folder.", _version()
            )
            write_text(folder / "predict.py", f'{main}\n\nif __name__ == "__main__":\n    sys.exit(main())\n')
            about = _PREDICT.format(needs=_NEEDS[to], notice=_NOTICE, modality=modality or "CT  # or MR")
            write_text(folder / "README.md", about + _card(model))
        write_text(folder / "LICENSE", _LICENSE)
    return out


def recipe_of(model: Model, inference: RecordedInference, modality: str | None) -> dict[str, Any]:
    """What an export says about its network (`amos_fl.export.portable.PortableNetwork` reads it)."""
    return {
        "made_by": f"amos-fl {_version()}",
        "model": model.architecture,
        "round": model.round,
        "weights_sha256": model.weights_sha256(),
        "synthetic_training": model.synthetic,
        "trained_on": list(model.modalities),
        "modality": modality,
        "organs": {str(label): organ for label, organ in model.organs.items()},
        "not_learned": list(model.unlearned),
        "unlearned_channels": list(model.unlearned_channels),
        "preparation": {**model.plan.preparation(), "mr_percentile": model.plan.mr_percentile},
        "inference": inference.model_dump(mode="json", include=set(_CARRIED_OUT)),
        "notice": _NOTICE,
    }


def _write_bundle(model: Model, network: nn.Module, folder: Path, recipe: Mapping[str, Any], modality: str) -> None:
    models = folder / "models"
    models.mkdir()
    write_torchscript(network, model.plan.patch, models, model.architecture).rename(models / "model.ts")
    write_json(folder / "configs" / "inference.json", inference_config(recipe))
    write_json(folder / "configs" / "metadata.json", metadata(model, modality))
    parts = [("amos_fl.export.transforms", name) for name in ("Prepared", "Windows", "Restored")]
    what = "The transforms and the inferer of this bundle."
    write_text(folder / "scripts" / "__init__.py", "")
    write_text(folder / "scripts" / "portable.py", gathered(parts, what, _version()))
    write_text(folder / "docs" / "README.md", _BUNDLE.format(modality=modality, notice=_NOTICE) + _card(model))


def _version() -> str:
    return version("amos-fl")


def _card(model: Model) -> str:
    card = model.folder / "MODEL_CARD.md"
    return "\n" + card.read_text(encoding="utf-8") if card.is_file() else ""


_NEEDS = {"onnx": "onnxruntime torch monai nibabel scipy", "torchscript": "torch monai nibabel scipy"}
_PREDICT = """# A segmentation network

{notice}

    pip install {needs}
    python predict.py SCAN.nii.gz -o predictions --modality {modality}

writes the label map of each scan on the scan's own grid. `recipe.json` says what the label values mean, how a scan is
prepared and how the network is applied; `predict.py` does it.
"""
_BUNDLE = """# A segmentation network as a MONAI bundle

{notice} It is for {modality}.

    pip install "monai[fire,ignite]" nibabel scipy
    python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS --output_dir OUT

in this folder (from another, name the file and add `--bundle_root FOLDER`) writes `OUT/NAME_seg.nii.gz` for each NIfTI
file in `SCANS`, on the scan's own grid.
"""
