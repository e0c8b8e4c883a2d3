"""How a site trains: the part of a run's configuration that the training loop reads."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

AugmentationLevel = Literal["none", "light", "paper"]

NormStatistics = Literal["average", "local", "group"]
"""What becomes of the running statistics of batch normalisation in a federation.

`average`: the server pools them, a variance with the spread of the means. `local`: every site goes on with its own
running means, variances and counts, for training and for scoring its own cases (Andreux et al. 2020, SiloBN); what all
others use is the average. `group`: none are kept, because group normalisation stands in their place.
"""


class TrainingSettings(BaseModel):
    """Batches, optimizer and patches. The defaults are the AMOS paper's (nnU-Net's), augmentation and threads apart.

    `threads` is PyTorch's thread number while a site trains. It is fixed and never taken from the
    machine, because sums in another number of threads round differently. `workers` are processes that
    draw patches ahead; they change the speed and nothing else. `class_balance` is that of the loss at the
    first step; it falls with the steps to 0.4 of that. 0 is the paper's plain cross-entropy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    batch_size: Annotated[int, Field(ge=1, le=4096)] = 2
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    learning_rate_exponent: Annotated[float, Field(ge=0)] = 0.9
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    weight_decay: Annotated[float, Field(ge=0)] = 3e-5
    gradient_clip: Annotated[float, Field(gt=0)] = 12.0
    batch_dice: bool = True
    class_balance: Annotated[float, Field(ge=0, le=1)] = 0.0
    augmentation: AugmentationLevel = "light"
    foreground_share: Annotated[float, Field(ge=0, le=1)] = 1 / 3
    threads: Annotated[int, Field(ge=1, le=4096)] = 2
    workers: Annotated[int, Field(ge=0, le=4096)] = 0
    mixed_precision: bool = True
