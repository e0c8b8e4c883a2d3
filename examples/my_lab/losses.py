"""The focal loss (Lin et al., ICCV 2017, equation 4): `--loss my_lab.losses:Focal`."""

import torch


class Focal:
    """Voxels count less the surer the network already is about them; `gamma` is the exponent."""

    gamma = 2.0

    def __call__(self, logits, target, annotated):
        """From logits (B, C, X, Y, Z), channels (B, X, Y, Z) and annotated channels (B, C) to the mean over voxels."""
        log_p = logits.log_softmax(dim=1)
        # An organ that was not annotated in a scan may be anywhere in its background: the two are one class there.
        organ = annotated.clone()
        organ[:, 0] = False
        background = log_p.masked_fill(organ[:, :, None, None, None], -torch.inf).logsumexp(dim=1)
        log_p = torch.where(target > 0, log_p.gather(1, target[:, None])[:, 0], background)
        return -((1 - log_p.exp()).clamp(min=0) ** self.gamma * log_p).mean()
