"""How an MR scanner shows tissues: sequence, bias field, Rician noise, and a scale of its own."""

import numpy as np
from scipy import ndimage

from amos_fl.phantom.scanners import PhantomScanner
from amos_fl.phantom.tissues import RANDOM, Tissue, signal_of_tissues


class MrScan:
    """One MR scan's image formation. `brightness` is the signal of every tissue."""

    def __init__(
        self,
        scanner: PhantomScanner,
        kind: str,
        random: np.random.Generator,
        affine: np.ndarray,
        shape: tuple[int, int, int],
        *,
        coarse: bool,
    ):
        self.brightness = signal_of_tissues(kind, random)
        reference = float(self.brightness[Tissue.SPLEEN if kind.startswith("t2") else Tissue.LIVER])
        if kind == RANDOM:  # in which any one tissue may be dark
            reference = float(self.brightness.mean())
        self.noise = reference / float(random.uniform(*scanner.noise))
        rare, factor = scanner.rare_scale
        self.scale = scanner.scale[0] * float(np.exp(scanner.scale[1] * random.normal()))
        if random.random() < rare:
            self.scale *= factor
        self.dtype = scanner.dtype
        self.blur_px = (0.35 if coarse else 0.5) * scanner.blur
        self.shape = shape
        strength = float(random.uniform(*scanner.bias))
        # The coil's field: a few half waves across the volume.
        self.field = [(random.normal(0, 1, 3) * np.pi * 0.8, random.uniform(0, 2 * np.pi)) for _ in range(4)]
        self.strength = strength / np.sqrt(2)

    def form(self, ideal: np.ndarray, start: int, random: np.random.Generator) -> np.ndarray:
        """Magnitude image of planes (z, y, x) whose tissues would ideally give the signal `ideal`."""
        image = ndimage.gaussian_filter(ideal, (0, self.blur_px, self.blur_px), mode="nearest", truncate=3)
        image *= self._bias(start, image.shape)
        image += np.float32(self.noise) * random.standard_normal(image.shape, np.float32)
        other = np.float32(self.noise) * random.standard_normal(image.shape, np.float32)
        image = np.sqrt(image * image + other * other)
        image *= np.float32(self.scale)
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            np.rint(image, out=image)
        return image.astype(self.dtype)

    def _bias(self, start: int, shape: tuple[int, ...]) -> np.ndarray:
        z = (start + np.arange(shape[0], dtype=np.float32)) / self.shape[0]
        y = np.arange(shape[1], dtype=np.float32) / self.shape[1]
        x = np.arange(shape[2], dtype=np.float32) / self.shape[2]
        log = np.zeros(shape, np.float32)
        for wave, phase in self.field:
            plane = (wave[0] * z + phase)[:, None] + wave[1] * y
            row = wave[2] * x
            log += np.sin(plane)[:, :, None].astype(np.float32) * np.cos(row).astype(np.float32)
            log += np.cos(plane)[:, :, None].astype(np.float32) * np.sin(row).astype(np.float32)
        return np.exp(np.float32(self.strength) * log)
