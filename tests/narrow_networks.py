"""The networks with fewer channels: cheap enough for tests, and the same classes."""

from collections.abc import Callable

from amos_fl.networks.anysize import AnySize
from amos_fl.networks.cotr import CoTr
from amos_fl.networks.nnformer import NnFormer
from amos_fl.networks.swin_unetr import SwinUNETR
from amos_fl.networks.unet import SmallUNet, UNet
from amos_fl.networks.unetr import UNETR
from amos_fl.networks.vnet import VNet
from amos_fl.volumes.plan import Plan

NARROW: dict[str, Callable[[Plan, int], AnySize]] = {
    "unet": lambda plan, organs: UNet(plan, organs, [8] * len(plan.strides)),
    "vnet": lambda plan, organs: VNet(organs),
    "cotr": lambda plan, organs: CoTr(plan, organs, widths=(8, 12, 24), layers=2),
    "nnformer": lambda plan, organs: NnFormer(plan, organs, width=12, heads=(1, 2, 4, 8)),
    "unetr": lambda plan, organs: UNETR(plan, organs, features=8, hidden=48, mlp=96, heads=4),
    "swin-unetr": lambda plan, organs: SwinUNETR(organs, features=12, heads=(1, 2, 4, 8)),
    "small": lambda plan, organs: SmallUNet(plan, organs),
}
