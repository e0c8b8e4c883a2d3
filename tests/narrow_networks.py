"""The networks with fewer channels: cheap enough for tests, and the same classes."""

from collections.abc import Callable

from amos_fl.networks.anysize import AnySize
from amos_fl.networks.cotr import CoTr
from amos_fl.networks.mednext import MedNeXt
from amos_fl.networks.nnformer import NnFormer
from amos_fl.networks.resenc import ResEnc
from amos_fl.networks.swin_unetr import SwinUNETR
from amos_fl.networks.unet import SmallUNet, UNet
from amos_fl.networks.unetr import UNETR
from amos_fl.networks.vnet import VNet
from amos_fl.volumes.plan import Plan


def narrow_resenc(plan: Plan, organs: int) -> ResEnc:
    stages = len(plan.strides)
    return ResEnc(plan, organs, [4, 8, 12, *[12] * stages][:stages], [1, *[2] * stages][:stages])


def narrow_mednext(kernel: int) -> Callable[[Plan, int], MedNeXt]:
    return lambda plan, organs: MedNeXt(plan, organs, kernel, width=4, expansions=[2] * 9, blocks=[1] * 9)


NARROW: dict[str, Callable[[Plan, int], AnySize]] = {
    "unet": lambda plan, organs: UNet(plan, organs, [8] * len(plan.strides)),
    "vnet": lambda plan, organs: VNet(organs),
    "cotr": lambda plan, organs: CoTr(plan, organs, widths=(8, 12, 24), layers=2),
    "nnformer": lambda plan, organs: NnFormer(plan, organs, width=12, heads=(1, 2, 4, 8)),
    "unetr": lambda plan, organs: UNETR(plan, organs, features=8, hidden=48, mlp=96, heads=4),
    "swin-unetr": lambda plan, organs: SwinUNETR(organs, features=12, heads=(1, 2, 4, 8)),
    "resenc-m": narrow_resenc,
    "resenc-l": narrow_resenc,
    "mednext-l": narrow_mednext(5),
    "mednext-l-k3": narrow_mednext(3),
    "small": lambda plan, organs: SmallUNet(plan, organs),
}
