"""How a CT scanner shows tissues: Hounsfield units by contrast phase, kernel, and correlated noise."""

import numpy as np
from scipy import ndimage

from amos_fl.phantom.scanners import PhantomScanner
from amos_fl.phantom.tissues import hu_of_tissues


class CtScan:
    """One CT scan's image formation. `brightness` is the HU of every tissue."""

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
        self.brightness = hu_of_tissues(kind, random)
        self.noise_hu = float(random.uniform(*scanner.noise))
        thickness = float(np.linalg.norm(affine[:3, 2]))
        # Thinner slices count fewer photons; what scanners average over is set for their usual 2 (or 5) mm.
        if not coarse and thickness < 2:
            self.noise_hu *= float(np.sqrt(2 / thickness))
        self.correlation_px = 0.45 if coarse else scanner.kernel_px
        self.blur_px = (0.35 if coarse else 0.7) * scanner.blur
        self.sharpening = scanner.sharpening

    def form(self, ideal: np.ndarray, start: int, random: np.random.Generator) -> np.ndarray:
        """HU (int16) of planes (z, y, x) whose tissues would ideally read `ideal`."""
        image = ndimage.gaussian_filter(ideal, (0, self.blur_px, self.blur_px), mode="nearest", truncate=3)
        if self.sharpening:
            wide = ndimage.gaussian_filter(image, (0, 1.0, 1.0), mode="nearest", truncate=3)
            image += np.float32(self.sharpening) * (image - wide)
        noise = random.standard_normal(image.shape, np.float32)
        noise = ndimage.gaussian_filter(noise, (0, self.correlation_px, self.correlation_px), mode="wrap", truncate=3)
        noise *= np.float32(self.noise_hu / noise.std())
        image += noise
        np.rint(image, out=image)
        return np.clip(image, -1024, 3071, out=image).astype(np.int16)
