"""Decoded pictures of any mode to 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image

DECODING = (
    OSError, ValueError, SyntaxError, EOFError, OverflowError, RuntimeError, AttributeError, TypeError, LookupError,
    ArithmeticError,
)  # fmt: skip
"""What Pillow's decoders raise for damaged files: formats' own errors, AVIF's RuntimeError, and slips of theirs."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the picture in RGB, 8 bits: transparency over white, deep grey by its mode, the rest as Pillow converts.

    I;16 and I: 0..65535, divided by 257 (a file's 16 bits come in either mode). F: 0..1 where all values lie there,
    else 0..255. Raises ValueError for values beyond. The orientation that EXIF tells is not applied: neither CLIP's,
    torchvision's nor SAM's own preprocessing does.
    """
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bits(np.asarray(image, dtype=np.float64), image.mode))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Return deep grey [H, W] in 0..255, rounded. Raises ValueError for values that no scale of the mode explains."""
    low, high = values.min(), values.max()
    most = 65535 if mode.startswith("I") else 1 if high <= 1 else 255
    if not (low >= 0 and high <= most):
        want = "0..65535" if mode.startswith("I") else "0..1 or 0..255"
        raise ValueError(f"its grey values (mode {mode}) are {low:g}..{high:g}; want {want}")
    return np.rint(values * (255 / most)).astype(np.uint8)
