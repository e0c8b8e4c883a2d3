"""Rotate and scale a patch in one resampling, reading only as much of the scan as needed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from amos_fl.volumes.plan import ANISOTROPIC, Plan, Triple


@dataclass(frozen=True)
class Resampling:
    """Resample an image and a label map of `source_shape` to a patch of shape `patch`, about their centres.

    `matrix` (3, 3) maps an offset from the patch's centre to one from the source's centre, in voxels.
    """

    matrix: np.ndarray
    patch: Triple

    @property
    def source_shape(self) -> Triple:
        """The smallest box around the patch's centre that holds everything the patch shows, in voxels."""
        half = (np.array(self.patch) - 1) / 2
        margin = np.ceil(np.abs(self.matrix) @ half - half - 1e-9).astype(int)
        x, y, z = (int(side + 2 * more) for side, more in zip(self.patch, margin, strict=True))
        return x, y, z

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Image (1, X, Y, Z) by linear, label map (X, Y, Z) by nearest-neighbour interpolation.

        nnU-Net uses order 3 and one-hot order 1, at several times the cost.
        """
        half_source = np.maximum(np.array(self.source_shape) - 1, 1) / 2
        half_patch = (np.array(self.patch) - 1) / 2
        normalised = self.matrix * half_patch / half_source[:, None]
        # PyTorch orders coordinates from the last axis to the first.
        theta = np.concatenate([normalised[::-1, ::-1], np.zeros((3, 1))], axis=1)
        grid = F.affine_grid(torch.from_numpy(theta.astype(np.float32))[None], [1, 1, *self.patch], align_corners=True)
        image = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0]
        values = label[None, None].float()
        values = F.grid_sample(values, grid, mode="nearest", padding_mode="border", align_corners=True)[0, 0]
        return image, values.to(label.dtype)


def resampling(plan: Plan, degrees: Sequence[float], scale: float) -> Resampling:
    """The resampling that rotates by `degrees` about x, y and z (in mm, not voxels) and covers `scale` times as much.

    A patch more than three times longer than thick is only rotated about its thin axis and scaled along the other two.
    """
    thin = int(np.argmin(plan.patch))
    in_plane = max(plan.patch) / plan.patch[thin] > ANISOTROPIC
    rotation = np.eye(3)
    scales = np.full(3, scale)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        if in_plane and axis != thin:
            continue
        a, b = (i for i in range(3) if i != axis)
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        rotation = turn @ rotation
    if in_plane:
        scales[thin] = 1.0
    spacing = np.array(plan.spacing_mm)
    return Resampling(rotation * spacing / spacing[:, None] * scales, plan.patch)
