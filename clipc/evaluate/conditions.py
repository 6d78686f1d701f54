"""Pictures made harder: grey, blurred, noisy, or reduced to their edges.

A condition changes the square that the model is about to see, R x R pixels of 8-bit RGB after resizing and
cropping and before normalisation, so that a model of another resolution is shown a comparable picture: widths
are relative to R.

Each is deterministic. Noise is seeded by the picture's content, so that a picture gets the same noise in
every run, whatever else is evaluated, and two pictures get different noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

# Of a picture's side. At 224 pixels: 3.5 and 1.75 pixels; at tiny's 64: 1 and 0.5.
BLUR_SIGMA = 1 / 64
EDGE_SIGMA = 1 / 128
# Of the range from black to white: severity 2 of 5 of the Gaussian noise of ImageNet-C.
NOISE_SIGMA = 0.12
# Of a picture's pixels; a steeper gradient is as black as this one.
EDGE_QUANTILE = 0.99


@dataclass(frozen=True)
class Condition:
    """A change of a picture.

    Attributes
    ----------
    name : str
    key : str
        What cached features are known by: it changes whenever the result of `apply` does.
    description : str
    apply : callable
        ``apply(picture, content_sha256)``: a uint8 array (R, R, 3) and the SHA-256 of the picture file's
        content, as bytes or hexadecimal digits, to a uint8 array (R, R, 3). It does not change its argument.
    """

    name: str
    key: str
    description: str
    apply: Callable[[np.ndarray, bytes | str], np.ndarray] = field(repr=False, compare=False)


def original(picture, content_sha256=b""):
    """The picture as it is."""
    return picture


def grey(picture, content_sha256=b""):
    """The picture without colours.

    Y = (299 R + 587 G + 114 B) / 1000, ITU-R BT.601's luma, rounded as Pillow's ``convert("L")`` does it, in
    all three channels.
    """
    from PIL import Image

    return np.repeat(np.asarray(Image.fromarray(picture).convert("L"))[..., None], 3, axis=2)


def blur(picture, content_sha256=b""):
    """The picture out of focus.

    Each channel convolved with a Gaussian of standard deviation R / 64 pixels, cut off at four standard
    deviations, edges repeated (``scipy.ndimage.gaussian_filter``); rounded to 8 bits.
    """
    ndimage = _ndimage()
    sigma = BLUR_SIGMA * len(picture)
    return _to_8_bits(ndimage.gaussian_filter(picture.astype(np.float64), (sigma, sigma, 0), mode="nearest"))


def noise(picture, content_sha256=b""):
    """The picture with noise.

    x + 255 * 0.12 * n, rounded and cut to 0 to 255, with n standard normal, independent for each pixel and
    channel: severity 2 of 5 of "gaussian noise" in ImageNet-C (Hendrycks & Dietterich 2019). n comes from
    NumPy's PCG64, seeded by the SHA-256 of the file's content.
    """
    digest = bytes.fromhex(content_sha256) if isinstance(content_sha256, str) else bytes(content_sha256)
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    return _to_8_bits(picture + 255 * NOISE_SIGMA * rng.standard_normal(picture.shape))


def edges(picture, content_sha256=b""):
    """The outlines of the picture, dark on white.

    255 * (1 - min(1, g / q)) in all three channels: g the length of the gradient of the luma (`grey`) after a
    Gaussian of standard deviation R / 128 pixels, edges repeated
    (``scipy.ndimage.gaussian_gradient_magnitude``), q its 99th percentile in this picture. A picture without
    gradients becomes white.
    """
    ndimage = _ndimage()
    luma = grey(picture)[..., 0].astype(np.float64)
    gradient = ndimage.gaussian_gradient_magnitude(luma, EDGE_SIGMA * len(picture), mode="nearest")
    steep = np.quantile(gradient, EDGE_QUANTILE)
    if steep < 1e-6:  # rounding errors, or lines on so few pixels that the percentile misses them
        steep = max(gradient.max(), 1.0)
    lines = _to_8_bits(255 * (1 - np.minimum(gradient / steep, 1)))
    return np.repeat(lines[..., None], 3, axis=2)


def _to_8_bits(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _ndimage():
    try:
        from scipy import ndimage
    except ImportError:
        raise ImportError(
            "blurred and edge-only pictures need scipy, which is not installed: pip install 'clipc[analysis]'"
        ) from None
    return ndimage


ORIGINAL = Condition("original", "original", "the picture as it is", original)
CONDITIONS = {
    condition.name: condition
    for condition in (
        ORIGINAL,
        Condition("grey", "grey-bt601", "without colours", grey),
        Condition("blur", f"blur-gaussian-{BLUR_SIGMA:.6f}R", "Gaussian blur, sigma R/64", blur),
        Condition("noise", f"noise-gaussian-{NOISE_SIGMA}", "Gaussian noise, sigma 12 % of the range", noise),
        Condition(
            "edges", f"edges-{EDGE_SIGMA:.6f}R-{EDGE_QUANTILE}", "outlines alone, dark on white", edges
        ),
    )
}


def as_conditions(conditions):
    """A list of conditions from names, conditions, or one of them.

    Raises
    ------
    ValueError
        Unknown names, none at all, one twice.
    TypeError
        Something else than names and conditions.
    """
    if isinstance(conditions, (str, Condition)):
        conditions = [conditions]
    found = []
    for condition in conditions:
        if isinstance(condition, str):
            if condition not in CONDITIONS:
                raise ValueError(f"conditions: expected some of {', '.join(CONDITIONS)}, got {condition!r}")
            condition = CONDITIONS[condition]
        elif not isinstance(condition, Condition):
            raise TypeError(f"conditions: expected names or Conditions, got {type(condition).__name__}")
        found.append(condition)
    if not found:
        raise ValueError(f"conditions: expected at least one of {', '.join(CONDITIONS)}, got none")
    names = [condition.name for condition in found]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"conditions: {name!r} is there twice")
    return found
