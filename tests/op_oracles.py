"""What tests of single layers share: inputs, comparison, and the layers in float64 NumPy."""

import math

import numpy as np

# Around the register tiles and lanes of the kernels (8, 16, 32), their double, one, and a prime.
EDGES = (1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127)
ACTIVATIONS = ("none", "relu", "quick_gelu", "gelu")
HALF_ULP = 2.0**-24  # relative rounding error of one float32 operation


def floats(seed, *shape, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def assert_close(found, expected, tolerance):
    """|found - expected| <= tolerance, element by element; NaN fails."""
    assert found.shape == expected.shape
    error = np.abs(found.astype(np.float64) - expected)
    wrong = ~(error <= tolerance)
    worst = np.where(wrong, error / tolerance, 0) if wrong.any() else error
    where = np.argmax(worst)
    wrong_share = f"{wrong.sum()} of {wrong.size}"
    assert not wrong.any(), f"{wrong_share} wrong, the worst, {where}, by {error.ravel()[where]}"


def gemm_tolerance(x, w, terms=0.0):
    """Bound of the error of x @ w, x and w of float64.

    Rounding errors of a sum of K products have random signs, so they grow with the square root of K. `terms`:
    magnitude of what is added behind the product.
    """
    k = x.shape[-1]
    return (4 + 2 * math.sqrt(k)) * HALF_ULP * (np.abs(x) @ np.abs(w) + terms) + 1e-30


def wide(seed, rows, columns, extra):
    """A matrix whose rows lie apart, with NaN between them."""
    whole = np.full((rows, columns + extra), np.nan, np.float32)
    whole[:, :columns] = floats(seed, rows, columns)
    return whole[:, :columns]


# ---- oracles, in float64 -------------------------------------------------------------------------------


def activate(x, name):
    if name == "relu":
        return np.maximum(x, 0)
    if name == "quick_gelu":
        with np.errstate(over="ignore"):
            return x / (1 + np.exp(-1.702 * x))
    if name == "gelu":
        return 0.5 * x * np.vectorize(math.erfc)(-x / math.sqrt(2))
    return x


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def conv2d(x, weight, stride, padding):
    """x: (B, H, W, IC), weight: (OC, K, K, IC) -> (B, OH, OW, OC)"""
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[1:3], axis=(1, 2))
    return np.einsum("bhwikl,okli->bhwo", windows[:, ::stride, ::stride], weight, optimize=True)


def attention(qkv, lengths, heads, causal):
    out, begin = [], 0
    for length in lengths:
        q, k, v = np.split(qkv[begin : begin + length].astype(np.float64), 3, axis=1)
        begin += length
        parts = []
        for qh, kh, vh in zip(*(np.split(m, heads, axis=1) for m in (q, k, v))):
            scores = qh @ kh.T / math.sqrt(qh.shape[1])
            if causal:
                scores[np.triu_indices(length, 1)] = -np.inf
            parts.append(softmax(scores) @ vh)
        out.append(np.concatenate(parts, axis=1))
    return np.concatenate(out)


def attention_pool(x, tensors, heads):
    """The full formula: project every token, then attend with the mean token."""
    t = {name: value.astype(np.float64) for name, value in tensors.items()}
    results = []
    for image in x.astype(np.float64):
        tokens = np.concatenate([image.mean(0, keepdims=True), image]) + t["positional_embedding"]
        q, k, v = (tokens @ t[f"{p}_proj.weight"].T + t[f"{p}_proj.bias"] for p in "qkv")
        attended = attention(np.concatenate([q, k, v], axis=1), [len(tokens)], heads, False)[0]
        results.append(attended @ t["c_proj.weight"].T + t["c_proj.bias"])
    return np.stack(results)


def layernorm(x):
    """-> (normalised, mean, rstd)"""
    mean, rstd = x.mean(1), 1 / np.sqrt(x.var(1) + np.float64(np.float32(1e-5)))
    return (x - mean[:, None]) * rstd[:, None], mean, rstd


def pool_tensors(seed, hw, c, d, scale):
    tensors = {"positional_embedding": floats(seed, 1 + hw, c, scale=0.5)}
    for i, (name, width) in enumerate((("q", c), ("k", c), ("v", c), ("c", d))):
        tensors[f"{name}_proj.weight"] = floats(seed + 10 + i, width, c, scale=scale)
        tensors[f"{name}_proj.bias"] = floats(seed + 20 + i, width)
    return tensors
