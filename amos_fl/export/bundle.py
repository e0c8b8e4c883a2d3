"""The configuration of a MONAI bundle (https://monai.readthedocs.io/en/stable/bundle_intro.html) of a trained network.

MONAI Label reads `preprocessing`, `inferer` and `postprocessing`, the names of input and output, and `channel_def`.
"""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from amos_fl.runs.model import Model
from amos_fl.volumes.plan import Plan

_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"


def inference_config(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """`configs/inference.json`: every NIfTI file in `dataset_dir` to a label map in `output_dir`."""
    needed = {key: recipe[key] for key in ("unlearned_channels", "preparation", "inference")}
    return {
        "imports": ["$import glob", "$import sys"],
        "bundle_root": ".",
        # So that scripts/ is found from whatever folder the bundle is run.
        "scripts_found": "$sys.path.insert(0, @bundle_root)",
        "dataset_dir": "$@bundle_root + '/scans'",
        "datalist": "$sorted(glob.glob(@dataset_dir + '/*.nii') + glob.glob(@dataset_dir + '/*.nii.gz'))",
        "output_dir": "$@bundle_root + '/eval'",
        "modality": recipe["modality"],
        "recipe": {"organs": sorted(map(int, recipe["organs"])), **needed},
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device)",
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {
                    "_requires_": "@scripts_found",
                    "_target_": "scripts.portable.Prepared",
                    "keys": "image",
                    "modality": "@modality",
                    "recipe": "@recipe",
                },
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {
            "_requires_": "@scripts_found",
            "_target_": "scripts.portable.Windows",
            "recipe": "@recipe",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_requires_": "@scripts_found",
                    "_target_": "scripts.portable.Restored",
                    "keys": "pred",
                    "ref_image": "image",
                    "recipe": "@recipe",
                },
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "seg",
                    "output_dtype": "$np.uint8",
                    "resample": False,
                    "separate_folder": False,
                },
            ],
        },
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def metadata(model: Model, modality: str) -> dict[str, Any]:
    """`configs/metadata.json`, with the fields of MONAI's schema; `modality` is that of the scans."""
    organs = {label: _plain(organ) for label, organ in model.organs.items()}
    names = ["background", *organs.values()]
    patch = list(model.plan.patch)
    image = {"num_channels": 1, "spatial_shape": patch, "dtype": "float32", "is_patch_data": True}
    return {
        "schema": _SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by amos-fl {version('amos-fl')}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            "nibabel": version("nibabel"),
            "pytorch-ignite": "0.4.11",
            "scipy": version("scipy"),
        },
        "task": f"Segmentation of {len(model.organs)} organs in abdominal {modality}",
        "description": f"The network {model.architecture} of round {model.round} of a run of amos-fl, with the "
        f"preparation of scans that it was trained with; it segments {', '.join(organs.values())} in {modality}",
        "authors": "Whoever trained the network, with amos-fl",
        "copyright": "Of the weights: whoever trained them. Of scripts/: the amos-fl developers, Apache License 2.0",
        "data_source": "A synthetic phantom" if model.synthetic else "See docs/README.md",
        "data_type": "nibabel",
        "image_classes": "one channel, intensities normalised by scripts/portable.py",
        "label_classes": "; ".join(f"{label}: {organ}" for label, organ in organs.items()),
        "pred_classes": f"{len(names)} channels: {', '.join(names)}",
        "intended_use": "Research. Not a medical device, not for diagnosis",
        "network_data_format": {
            "inputs": {
                "image": {
                    **image,
                    "type": "image",
                    "format": "hounsfield" if modality == "CT" else "magnitude",
                    "modality": modality,
                    "value_range": _normalised_window(model.plan) if modality == "CT" else [],
                    "channel_def": {"0": "image"},
                }
            },
            "outputs": {
                "pred": {
                    **image,
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(names),
                    "value_range": [0, 1],
                    # Of the label map: MONAI Label names its segments by these.
                    "channel_def": {"0": "background", **{str(label): organ for label, organ in organs.items()}},
                }
            },
        },
    }


def _plain(name: str) -> str:
    """A name that MONAI does not run: it evaluates what begins with one of these signs."""
    return f" {name}" if name.startswith(("$", "@", "%")) else name


def _normalised_window(plan: Plan) -> list[float]:
    return [round((hu - plan.ct_mean_hu) / plan.ct_sd_hu, 4) for hu in plan.ct_clip_hu]
