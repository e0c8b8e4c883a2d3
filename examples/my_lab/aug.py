"""Other scanners' contrasts by random convolutions (GIN: Ouyang et al., IEEE TMI 2023).

amos-fl simulate --transforms my_lab.aug:transforms
"""

import numpy as np
import torch
from torch.nn import functional


def transforms(image, label, draw):
    """Change the image (1, X, Y, Z) in half of the samples; the label map (X, Y, Z) stays.

    All randomness comes from `draw`, this sample's own NumPy generator, so that every engine draws the same.
    """
    if draw.random() < 0.5:
        return image, label
    found = image[None]
    for channels in (2, 2, 1):
        shape = (channels, found.shape[1], *(int(draw.choice((1, 3))),) * 3)
        kernel = torch.from_numpy(draw.standard_normal(shape, dtype=np.float32))
        found = functional.leaky_relu(functional.conv3d(found, kernel, padding="same"), 0.2)
    share = float(draw.random())
    mixed = share * found[0] + (1 - share) * image
    return mixed * (image.norm() / mixed.norm().clamp(min=1e-5)), label
