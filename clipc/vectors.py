"""Arithmetic on rows that several modules need: drawing, unit length, softmax, linear interpolation."""

from __future__ import annotations

import numpy as np


def draw_positions(n, most, seed):
    """At most `most` of the positions 0 to n - 1, drawn at random without repetition, ascending."""
    return np.sort(np.random.default_rng(seed).choice(n, min(most, n), replace=False))


def unit_rows(features):
    """Rows, (N, D), scaled to length 1; a row of zeros stays zero."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(norms, np.finfo(np.float32).tiny)


def softmax(values, axis=1):
    """exp(values) / sum exp(values) along an axis, without overflow."""
    exponentials = np.exp(values - values.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def linear_weights(positions, n, dtype=np.float32):
    """The matrix that interpolates n values linearly, (len(positions), n).

    Value i lies at position i; beyond the first and the last their values stay.
    """
    positions = np.clip(positions, 0, n - 1)
    lower = np.minimum(positions.astype(np.int64), max(n - 2, 0))
    share = positions - lower
    rows = np.arange(len(positions))
    weights = np.zeros((len(positions), n), dtype)
    weights[rows, lower] = 1 - share
    weights[rows, np.minimum(lower + 1, n - 1)] += share
    return weights


def half_pixel_weights(n_out, n_in, begin, end):
    """Linear interpolation of n_in cells, which fill `begin` to `end`, at n_out pixel centres: (n_out, n_in).

    Centres of pixels and cells lie at halves; beyond the outer cells' centres their values stay; pixels whose
    centre is outside of `begin` to `end` get zeros.
    """
    centres = np.arange(n_out) + 0.5
    weights = linear_weights((centres - begin) / (end - begin) * n_in - 0.5, n_in)
    weights[(centres < begin) | (centres > end)] = 0
    return weights


def aligned_weights(n_out, n_in):
    """Linear interpolation with the corners aligned, as torch's align_corners=True: (n_out, n_in)."""
    return linear_weights(np.linspace(0, n_in - 1, n_out) if n_out > 1 else np.zeros(1), n_in)
