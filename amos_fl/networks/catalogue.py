"""The catalogue of networks: the builder, description and recommended settings of each.

Nothing here loads PyTorch, so that settings are resolved, and refused, at once.

The paper trained its six networks alike (nnU-Net's SGD, learning rate and patches), which are the defaults of
`TrainingSettings`. Beside them stand two families that were better on AMOS in a later comparison, ResEnc and MedNeXt
(Isensee et al. 2024, arXiv 2404.09556). The small network is for CPUs and short trainings. It and its recipe were
chosen on the validation cases of the seen sites of phantom 1 and checked on those of phantom 3; the demonstration has
as many steps as fit into its time, in the short rounds that did best on those cases. It runs on phantom 2, which was
scored once, when all of this was fixed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amos_fl.errors import AmosError
from amos_fl.own_code import is_path
from amos_fl.wording import nearest


@dataclass(frozen=True)
class Network:
    """A network by name: all that the program knows about it besides its code.

    `builder` is the import path of its class, or of a function, that takes a plan and the number of organs
    (`amos_fl.networks.registry.build_network` says what it maps to what); the module itself says which sizes its
    strides divide and where its heads are (`amos_fl.networks.anysize.AnySize`), and its layers how they normalise.
    `recipe` holds the settings that a run uses by default; a cohort of MR alone uses the plan `amos-mr` instead of
    `amos-ct`. `gmac` are the billion multiply-accumulates of 128x128x128 voxels under the recipe's plan (`amos-ct` for
    one that is planned on each cohort), as `amos_fl.networks.cost` counts them, from which the cost of an experiment is
    estimated. `paper` is the AMOS paper's name for it.
    """

    builder: str
    description: str
    recipe: Mapping[str, Any] = field(default_factory=lambda: {"plan": "amos-ct"})
    gmac: float | None = None
    paper: str = ""


NETWORKS: dict[str, Network] = {
    "unet": Network(
        "amos_fl.networks.unet:paper_unet",
        "3D U-Net of the AMOS paper (Table 4), as nnU-Net builds it",
        gmac=678.1,
        paper="UNet",
    ),
    "vnet": Network(
        "amos_fl.networks.vnet:vnet",
        "V-Net: convolutions of 5x5x5, batch normalisation, dropout",
        gmac=849.8,
        paper="VNet",
    ),
    "cotr": Network(
        "amos_fl.networks.cotr:CoTr",
        "CoTr: a residual encoder with deformable attention on its two coarsest levels",
        gmac=669.0,
        paper="CoTr",
    ),
    "nnformer": Network(
        "amos_fl.networks.nnformer:NnFormer",
        "nnFormer: attention in shifted windows, and from the decoder to the encoder",
        gmac=426.5,
        paper="nnFormer",
    ),
    "unetr": Network(
        "amos_fl.networks.unetr:UNETR",
        "UNETR: a vision transformer of 16x16x16 tokens with a convolutional decoder",
        gmac=176.6,
        paper="UNETR",
    ),
    "swin-unetr": Network(
        "amos_fl.networks.swin_unetr:swin_unetr",
        "Swin UNETR: a Swin transformer with a convolutional decoder",
        gmac=771.4,
        paper="Swin-UNETR",
    ),
    "resenc-m": Network(
        "amos_fl.networks.resenc:resenc",
        "nnU-Net's residual encoder, on a plan for 8 GB of GPU memory",
        gmac=1042.5,
    ),
    "resenc-l": Network(
        "amos_fl.networks.resenc:resenc",
        "nnU-Net's residual encoder, on a plan for 24 GB made from the training cases",
        {"plan": "auto", "planning": {"memory_gb": 24.0}},
        gmac=1042.5,
    ),
    "mednext-l": Network(
        "amos_fl.networks.mednext:mednext_l",
        "MedNeXt-L: ConvNeXt blocks, convolutions of 5x5x5 for each channel",
        gmac=955.9,
    ),
    "mednext-l-k3": Network(
        "amos_fl.networks.mednext:mednext_l_k3",
        "MedNeXt-L with convolutions of 3x3x3",
        gmac=866.7,
    ),
    "small": Network(
        "amos_fl.networks.unet:SmallUNet",
        "a U-Net of few feature maps, and fewest at the patch's resolution, for CPUs",
        {
            "plan": "coarse",
            "optimizer_state": "keep",
            "training": {
                "learning_rate": 0.25,
                "momentum": 0.9,
                "foreground_share": 0.67,
                "class_balance": 0.5,
            },
        },
        gmac=66.8,
    ),
}
"""The names that `--model` accepts, besides the import path of your own builder."""

DEMONSTRATION: dict[str, Any] = {"rounds": 30, "local_steps": 20, "evaluation": {"every": 5}}
"""Rounds and steps of a run on the embedded phantom: under three minutes of training on two cores."""


def network_named(model: str) -> Network:
    """The network of that name, or the one whose builder is at that import path, with the paper's recipe.

    Raises:
        AmosError: no network of that name.
    """
    if model in NETWORKS:
        return NETWORKS[model]
    if is_path(model):
        return Network(model, f"built by {model}")
    raise AmosError(f"no model {model!r}; {nearest(model, NETWORKS)} (one of your own is given as module:function)")
