"""How a site trains: the part of a run's configuration that the training loop reads."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

AugmentationLevel = Literal["none", "light", "paper", "robust"]

NormStatistics = Literal["average", "local", "group"]
"""How the running statistics of batch normalisation are treated in a federation.

`average`: the server pools them, a variance with the spread of the means. `local`: every site keeps its own running
means, variances and counts, for training and for scoring its own cases (Andreux et al. 2020, SiloBN); everything else
uses the average. `group`: there are none, because group normalisation replaces batch normalisation.
"""


class TrainingSettings(BaseModel):
    """Batches, optimizer and patches. The defaults are the AMOS paper's (nnU-Net's), except augmentation and threads.

    `threads` is PyTorch's thread number while a site trains. It is fixed and never taken from the machine, because
    sums over a different number of threads round differently. `workers` are processes that prefetch patches; they
    change only the speed. `class_balance` is that of the loss at the first step; it falls to 0.4 of that by the last
    step. 0 is the paper's plain cross-entropy.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    batch_size: int = Field(default=2, ge=1, le=4096, description="Patches in an optimizer step.")
    learning_rate: float = Field(default=0.01, gt=0, description="Learning rate of the first step.")
    learning_rate_exponent: float = Field(
        default=0.9, ge=0, description="Exponent of the polynomial by which the learning rate falls to 0; 0: constant."
    )
    momentum: float = Field(default=0.99, ge=0, lt=1, description="Nesterov momentum of SGD.")
    weight_decay: float = Field(default=3e-5, ge=0, description="L2 weight decay of SGD.")
    gradient_clip: float = Field(default=12.0, gt=0, description="Largest norm of a step's gradient.")
    batch_dice: bool = Field(
        default=True, description="Compute the Dice term over the whole batch; false: the mean over its patches."
    )
    class_balance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Power of the inverse class frequency that weighs the cross-entropy at the first step, falling to "
        "0.4 of it; 0: plain cross-entropy.",
    )
    loss: str | None = Field(
        default=None, description="Your own loss, as module:Class or module:function; none: Dice and cross-entropy."
    )
    augmentation: AugmentationLevel = Field(
        default="light",
        description="Augmentation of patches: none, a few cheap transforms (light), the paper's, or one that reaches "
        "scanners nobody trained on (robust).",
    )
    synthetic_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the patches whose image is painted anew on the site's own label map, each organ with a "
        "random brightness, before the augmentation changes it; 0: none.",
    )
    synthetic_in: Literal["all", "CT", "MR"] = Field(
        default="all",
        description="Of which scans these are: all, or those of one modality. A CT value means the same on every "
        "scanner, and an MR value does not.",
    )
    transforms: str | None = Field(
        default=None,
        description="Your own augmentation, applied after the named one, as module:function; none: no further one.",
    )
    foreground_share: float = Field(
        default=1 / 3, ge=0, le=1, description="Share of a batch's patches that are centred on an organ."
    )
    threads: int = Field(
        default=2, ge=1, le=4096, description="CPU threads of a training step; part of bit-reproducibility."
    )
    workers: int = Field(
        default=0, ge=0, le=4096, description="Processes that prefetch patches; they change only the speed."
    )
    mixed_precision: bool = Field(default=True, description="Half precision, on CUDA devices only.")
