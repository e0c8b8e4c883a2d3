"""Preparation, windows and the way back as parts of a MONAI bundle, for dictionaries that MONAI's LoadImaged began."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer
from monai.transforms.transform import MapTransform
from torch import Tensor

from amos_fl.export.portable import PortableNetwork, affine_of, class_planes, label_map, prepared
from amos_fl.volumes.nifti import Volume


def with_affine(array: np.ndarray | Tensor, affine: Any, meta: Mapping[str, Any]) -> MetaTensor:
    """An array (channel, x, y, z) with this affine (4, 4), and all else that `meta` says."""
    others = {key: value for key, value in meta.items() if key != "affine"}
    return MetaTensor(torch.as_tensor(array), affine=torch.as_tensor(affine), meta=others)


class Prepared(MapTransform):
    """A scan (1, x, y, z) as the network sees it; `<key>_grid` is kept for `Restored`."""

    def __init__(self, keys: Any, modality: str | None, recipe: Mapping[str, Any]) -> None:
        super().__init__(keys)
        self.modality, self.recipe = modality, PortableNetwork.read(recipe)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            scan = result[key]
            affine = np.asarray(scan.affine, dtype=np.float64)
            array = np.asarray(scan[0].detach().cpu(), dtype=np.float32)
            image, grid = prepared(Volume(array, affine), self.modality, self.recipe)
            result[key] = with_affine(image[None], affine_of(image.shape, grid, affine), scan.meta)
            result[f"{key}_grid"] = torch.from_numpy(grid)
        return result


class Windows(Inferer):
    """The class probabilities (image, class, x, y, z), on `device`, of prepared images (image, 1, x, y, z)."""

    def __init__(self, recipe: Mapping[str, Any], device: Any = "cpu") -> None:
        super().__init__()
        self.recipe, self.device = PortableNetwork.read(recipe), device

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        found = torch.empty((len(inputs), 1 + len(self.recipe.organs), *inputs.shape[2:]), device=self.device)
        for number, image in enumerate(inputs):
            along = found[number].movedim(1 + self.recipe.axis(image.shape[1:]), 0)
            for index, plane in enumerate(class_planes(torch.as_tensor(image[0]), network, self.recipe)):
                along[index] = plane
        return found


class Restored(MapTransform):
    """The label map (1, x, y, z) of class probabilities (class, x, y, z), on the grid of the scan at `ref_image`."""

    def __init__(self, keys: Any, ref_image: str, recipe: Mapping[str, Any]) -> None:
        super().__init__(keys)
        self.ref_image, self.recipe = ref_image, PortableNetwork.read(recipe)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        meta = result[self.ref_image].meta
        for key in self.key_iterator(result):
            shares = torch.as_tensor(result[key]).cpu()
            planes = shares.unbind(1 + self.recipe.axis(shares.shape[1:]))
            grid = np.asarray(result[f"{self.ref_image}_grid"].cpu())
            label = label_map(planes, shares.shape[1:], grid, self.recipe)
            result[key] = with_affine(np.ascontiguousarray(label)[None], meta["original_affine"], meta)
        return result
