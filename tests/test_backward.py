"""Every backward pass of the core, and every formula that explanations are made of, for each instruction set.

Each gradient is held against two oracles that share nothing: autograd of PyTorch in float64, and central
differences of the layer in float64 NumPy. As in test_ops.py outputs and scratch start as NaN.

The design asks for a relative error of 1e-3. The tolerances here are what the rounding of float32 explains,
hundreds of times less: a term that is missing or wrong by a percent cannot hide behind them.
"""

import itertools
import math

import numpy as np
import pytest
from availability import require
from hypothesis import given, settings
from hypothesis import strategies as st
from op_oracles import (
    ACTIVATIONS,
    EDGES,
    HALF_ULP,
    activate,
    assert_close,
    attention,
    attention_pool,
    conv2d,
    floats,
    gemm_tolerance,
    layernorm,
    pool_tensors,
    softmax,
    wide,
)

from clipc import _core

PROPERTY = settings(deadline=None, max_examples=40, derandomize=True)


@pytest.fixture(scope="module")
def torch():
    """PyTorch on one thread: for arrays this small several only wait for each other."""
    torch = require("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)


# ---- the two oracles -----------------------------------------------------------------------------------


def autograd(function, x, dy):
    """dS/dx of S = <dy, function(x)> in float64; `function` maps a tensor to a tensor."""
    torch = require("torch")
    leaf = torch.from_numpy(np.array(x, np.float64)).requires_grad_()
    y = function(leaf)
    (gradient,) = torch.autograd.grad(y, leaf, torch.from_numpy(np.array(dy, np.float64)).reshape(y.shape))
    return gradient.numpy()


def tensor(array):
    return require("torch").from_numpy(np.array(array, np.float64))


def tensors64(tensors):
    return {name: tensor(value) for name, value in tensors.items()}


DIFFERENCES_AT_MOST = 150  # more elements than this are checked along random directions


def check_differences(found, function, x, dy, tolerance, step=1e-5):
    """Hold a gradient against central differences of S(x) = <dy, function(x)>, `function` in float64 NumPy.

    `tolerance`: bound of the error of each element of `found`. The differences themselves are exact to about
    1e-10, S being smooth at the scale of `step`.
    """
    x, dy = np.array(x, np.float64), np.array(dy, np.float64)
    tolerance = np.broadcast_to(tolerance, x.shape)
    own = 1e-8 * np.abs(dy).sum()

    def slope(direction):
        plus, minus = function(x + step * direction), function(x - step * direction)
        return (dy * (plus - minus)).sum() / (2 * step)

    if x.size <= DIFFERENCES_AT_MOST:
        units = np.eye(x.size).reshape(-1, *x.shape)
        assert_close(found, np.array([slope(unit) for unit in units]).reshape(x.shape), tolerance + own)
        return
    rng = np.random.default_rng(x.size)
    for _ in range(3):
        direction = rng.standard_normal(x.shape)
        # Independent errors of the elements add up like the steps of a random walk; four deviations.
        bound = 4 * np.sqrt((tolerance**2).sum()) + 10 * own
        assert abs((found.astype(np.float64) * direction).sum() - slope(direction)) <= bound


def scaled(expected, relative):
    """A tolerance relative to the largest element: what sums of elements of that size are rounded by."""
    return relative * np.abs(expected).max() + 1e-30


# ---- activations ---------------------------------------------------------------------------------------

# quick_gelu: an exponential with an error of 2 units and a few roundings, of terms up to 1.1. gelu: the same
# and half the error of its erfc, 1.5e-7.
SLOPE_TOLERANCE = {"none": 0, "relu": 0, "quick_gelu": 4e-7, "gelu": 4e-7}


def torch_activation(name):
    torch = require("torch")
    return {
        "none": lambda x: x * 1,
        "relu": torch.relu,
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "gelu": torch.nn.functional.gelu,
    }[name]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_accurate(core, torch, name):
    x = np.concatenate([np.linspace(-100, 100, 20001), np.linspace(-9, 9, 20001)]).astype(np.float32)
    x = np.append(x, np.float32([1e-38, -1e-38, 1e-20, 88, -88, 1000, -1000]))
    dx = core.op_activation_backward(np.ones_like(x), x, name)
    expected = autograd(torch_activation(name), x, np.ones_like(x))
    print(f"{name}: largest error of the slope {np.abs(dx - expected).max():.1e}")
    assert_close(dx, expected, SLOPE_TOLERANCE[name] + 1e-38)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_those_of_the_forward_pass(core, name):
    x = np.linspace(-8, 8, 1000).astype(np.float32)  # not 0, where ReLU has two slopes
    x64 = x.astype(np.float64)
    dx = core.op_activation_backward(np.ones_like(x), x, name)
    difference = (activate(x64 + 1e-5, name) - activate(x64 - 1e-5, name)) / 2e-5
    assert_close(dx, difference, SLOPE_TOLERANCE[name] + 1e-9)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_of_special_values(core, name):
    x = np.float32([np.inf, 3e38, 1e38, 60, 0.0, -0.0, 1e-38, -1e-38, -60, -1e38, -3e38, -np.inf])
    x = np.concatenate([x] * 5)  # in whole vectors and in what is left over
    dx = core.op_activation_backward(np.full_like(x, 2), x, name)
    middle = {"none": [2] * 4, "relu": [0, 0, 2, 0], "quick_gelu": [1] * 4, "gelu": [1] * 4}[name]
    negative = 2 if name == "none" else 0
    expected = np.tile(np.array([2.0] * 4 + middle + [negative] * 4), 5)
    assert_close(dx, expected, 1e-6)


@pytest.mark.parametrize("name", ["quick_gelu", "gelu"])
def test_slopes_of_nan_are_nan(core, name):
    x = floats(0, 70)
    x[[3, 69]] = np.nan
    assert (np.isnan(core.op_activation_backward(floats(1, 70), x, name)) == np.isnan(x)).all()
    dy = floats(1, 70)
    dy[[0, 40]] = np.nan
    for kind in ("none", name):
        dx = core.op_activation_backward(dy, np.ones(70, np.float32), kind)
        assert (np.isnan(dx) == np.isnan(dy)).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_as_layers(core, torch, name):
    for n in EDGES + (8191, 8192, 8193, 20000):  # tasks of 8192
        x, dy = floats(n, n, scale=3), floats(n + 1, n)
        x64 = x.astype(np.float64)
        y = core.op_activation(x, name)
        assert_close(y, activate(x64, name), 4e-7 * np.abs(x64))
        np.testing.assert_array_equal(core.op_activation(x, name, in_place=True), y)
        dx = core.op_activation_backward(dy, x, name)
        expected = autograd(torch_activation(name), x, dy)
        assert_close(dx, expected, (SLOPE_TOLERANCE[name] + 2 * HALF_ULP) * np.abs(dy) + 1e-38)
        np.testing.assert_array_equal(core.op_activation_backward(dy, x, name, in_place=True), dx)
        if name == "relu":  # its result serves in the place of its argument
            np.testing.assert_array_equal(core.op_activation_backward(dy, y, name), dx)


# ---- softmax -------------------------------------------------------------------------------------------


def softmax_tolerance(dp, p):
    """p * (dp - sum p dp) with the rounding of the sum, of the difference and of the product."""
    n = dp.shape[-1]
    sums = (np.abs(p) * np.abs(dp)).sum(-1, keepdims=True)
    return HALF_ULP * p * ((4 + 2 * math.sqrt(n)) * sums + 3 * np.abs(dp)) + 1e-37


@pytest.mark.parametrize("scale", [1e-20, 1.0, 30.0])
def test_softmax_backward(core, torch, scale):
    for n in EDGES + (197, 577):
        s, dp = floats(n, 5, n, scale=scale).astype(np.float64), floats(n + 1, 5, n)
        p64 = softmax(s)
        p = p64.astype(np.float32)
        found = core.op_softmax_backward(dp, p)
        # p itself is rounded: half a unit more of everything.
        tolerance = softmax_tolerance(dp.astype(np.float64), p64) * 2
        assert_close(found, autograd(lambda t: torch.softmax(t, -1), s, dp), tolerance)
        if scale == 1:
            check_differences(found, softmax, s, dp, tolerance)


def test_softmax_backward_of_masked_rows(core, torch):
    s = np.array([[-np.inf, 0, 1, -1], [-np.inf, -np.inf, -np.inf, 2], [0, -200, -90, -np.inf]])
    p, dp = core.op_softmax(s.astype(np.float32)), floats(0, 3, 4)
    found = core.op_softmax_backward(dp, p)
    assert_close(found, autograd(lambda t: torch.softmax(t, -1), s, dp), 1e-6)
    assert (found[s == -np.inf] == 0).all(), "what is masked has no gradient"
    assert (found[1:] == 0).all(), "one score alone cannot change its probability"


def test_softmax_backward_keeps_nan_in_its_row(core):
    for n in EDGES:
        dp = floats(n, 3, n)
        dp[1, n // 2] = np.nan
        found = core.op_softmax_backward(dp, core.op_softmax(floats(0, 3, n)))
        assert (np.isnan(found) == [[False], [True], [False]]).all()


# ---- layer normalisation -------------------------------------------------------------------------------


def layernorm_gradient(weight):
    torch = require("torch")
    eps = float(np.float32(1e-5))
    return lambda x: torch.nn.functional.layer_norm(x, x.shape[1:], weight=tensor(weight), eps=eps)


def layernorm_tolerance(x, dout, weight):
    """The sums round relative to their largest terms, and rstd, as the forward pass gives it, is off by 2e-6.

    Rows of a few nearly equal values magnify the rounding of their differences, as in the forward pass.
    """
    h, _mean, rstd = layernorm(x.astype(np.float64))
    g = np.abs(dout * weight).astype(np.float64)
    size = g + g.mean(1, keepdims=True) + np.abs(h) * (g * np.abs(h)).mean(1, keepdims=True)
    return 3e-6 * rstd[:, None] * size * (1 + np.abs(h).max())


@pytest.mark.parametrize("offset", [0, 1, 100, 1e4, 1e6])
def test_layernorm_backward(core, torch, offset):
    worst = 0
    for n in EDGES[1:] + (768, 1024):
        m = 70 if n < 100 else 5  # more than one task of 32 rows
        side = np.where(np.arange(m) % 2, -1, 1).astype(np.float32)[:, None]
        x = floats(n, m, n) + np.float32(offset) * side
        weight, dout, din = floats(1, n), floats(2, m, n), floats(3, m, n)
        _out, mean, rstd = core.op_layernorm(x, weight, floats(4, n))
        found = core.op_layernorm_backward(din, dout, x, mean, rstd, weight)
        tolerance = layernorm_tolerance(x, dout, weight)
        expected = autograd(layernorm_gradient(weight), x, dout)
        assert_close(found, din + expected, tolerance + 2 * HALF_ULP * np.abs(din + expected))
        worst = max(worst, np.abs(found - (din + expected)).max() / np.abs(expected).max())
        if offset <= 1:
            zero = np.zeros_like(x)
            alone = core.op_layernorm_backward(zero, dout, x, mean, rstd, weight)
            check_differences(alone, lambda t, w=weight: layernorm(t)[0] * w, x, dout, tolerance)
    print(f"layernorm backward, rows around {offset:g}: largest error {worst:.1e} of the largest element")


@pytest.mark.parametrize("value", [0, 0.1, 1, 1e4 / 3, 1e6 / 7, 1e10 / 3])
def test_layernorm_backward_of_constant_rows(core, torch, value):
    # eps is all that such a row has for variance, rstd is 316: nothing of the value may be left.
    for n in EDGES + (768, 1000):
        x, weight, dout = np.full((2, n), value, np.float32), floats(1, n), floats(2, 2, n)
        _out, mean, rstd = core.op_layernorm(x, weight, floats(3, n))
        found = core.op_layernorm_backward(np.zeros_like(x), dout, x, mean, rstd, weight)
        expected = autograd(layernorm_gradient(weight), x, dout)
        assert_close(found, expected, layernorm_tolerance(x, dout, weight))


def test_layernorm_backward_with_an_outlier(core, torch):
    # CLIP's residual streams have a few channels that are a hundred times larger than the others.
    x = floats(0, 40, 768)
    x[:, [5, 700]] += np.float32([[300, -80]])
    weight, dout = np.ones(768, np.float32), floats(1, 40, 768)
    _out, mean, rstd = core.op_layernorm(x, weight, np.zeros(768, np.float32))
    found = core.op_layernorm_backward(np.zeros_like(x), dout, x, mean, rstd, weight)
    expected = autograd(layernorm_gradient(weight), x, dout)
    assert_close(found, expected, scaled(expected, 1e-6))


def test_layernorm_backward_keeps_nan_in_its_row(core):
    for n in EDGES[1:]:
        x, dout, weight = floats(n, 3, n), floats(1, 3, n), floats(2, n)
        dout[1, n - 1] = np.nan
        _out, mean, rstd = core.op_layernorm(x, weight, weight)
        found = core.op_layernorm_backward(np.zeros_like(x), dout, x, mean, rstd, weight)
        assert (np.isnan(found) == [[False], [True], [False]]).all()


# ---- matrix products -----------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("extra", [0, 1, 19])
@pytest.mark.parametrize("kind", ["ab", "atb", "backward"])
def test_products_of_gradients(core, kind, extra, accumulate):
    # The last three are large enough to be split between threads, by rows and by columns.
    sizes = itertools.chain(
        itertools.product((1, 7, 8, 9, 17, 65), (1, 15, 16, 33), (1, 2, 31, 64)),
        ((301, 40, 33), (40, 301, 33), (33, 40, 301)),
    )
    for m, n, k in sizes:
        a = wide(m, *((k, m) if kind == "atb" else (m, k)), extra)
        b = floats(n, k, n) if kind == "backward" else wide(n, k, n, extra)
        onto = wide(5, m, n, 2 * extra) if accumulate else None
        alpha = 1.0 if kind == "backward" else 0.125
        c = core.op_gemm(kind, a, b, alpha=alpha, ldc=n + extra, onto=onto)
        left, right = a.astype(np.float64), b.astype(np.float64)
        left = left.T if kind == "atb" else left
        expected, tolerance = alpha * (left @ right), alpha * gemm_tolerance(left, right)
        if accumulate:
            expected = expected + onto
            tolerance = tolerance + 4 * HALF_ULP * (np.abs(expected) + np.abs(onto))
        assert_close(c[:, :n], expected, tolerance)
        assert np.isnan(c[:, n:]).all(), "written beside the result"


@pytest.mark.parametrize("accumulate", [False, True])
def test_gradient_of_a_block_of_packed_rows(core, accumulate):
    w = floats(0, 60, 48)
    for row0, rows, m in ((0, 60, 3), (0, 1, 1), (59, 1, 5), (12, 12, 1), (17, 31, 200)):
        dy, onto = floats(m, m, rows), floats(1, m, 48)
        dx = core.op_gemm("backward", dy, w, row0=row0, rows=rows, onto=onto if accumulate else None)
        left, right = dy.astype(np.float64), w[row0 : row0 + rows].astype(np.float64)
        terms = np.abs(onto) if accumulate else 0
        expected = left @ right + (onto if accumulate else 0)
        assert_close(dx, expected, gemm_tolerance(left, right, terms))


def test_linear_backward(core, torch):
    for m, n, k in itertools.product((1, 8, 9, 33, 127), EDGES, (1, 16, 65)):
        dy, w, onto = floats(m, m, n), floats(n, n, k), floats(k, m, k)
        dy64, w64 = dy.astype(np.float64), w.astype(np.float64)
        expected, tolerance = dy64 @ w64, gemm_tolerance(dy64, w64, np.abs(onto))
        dx = core.op_linear_backward(dy, w)
        assert_close(dx, expected, tolerance)
        assert_close(core.op_linear_backward(dy, w, onto), expected + onto, tolerance)
        if m == 9 and n < 20:
            assert_close(dx, autograd(lambda x, w=w: x @ tensor(w).T, np.zeros((m, k)), dy), tolerance)
            check_differences(dx, lambda x, w=w64: x @ w.T, floats(3, m, k), dy, tolerance)


def test_linear_backward_keeps_nan_where_it_belongs(core):
    dy, w = floats(0, 37, 70), floats(1, 70, 50)
    dy[4, 3], dy[20, 69] = np.nan, np.nan
    dx = core.op_linear_backward(dy, w)
    assert (np.isnan(dx) == np.isin(np.arange(37), (4, 20))[:, None]).all()


@pytest.mark.parametrize("threads", [1, 3, 5])
def test_gradients_for_any_number_of_threads(core, threads):
    before = core.get_num_threads()
    core.set_num_threads(threads)
    try:
        for m, n, k in ((70, 60, 90), (90, 60, 70), (1, 500, 500), (500, 500, 1), (9, 33, 1000)):
            dy, w = floats(m, m, n), floats(n, n, k)
            dy64, w64 = dy.astype(np.float64), w.astype(np.float64)
            assert_close(core.op_linear_backward(dy, w), dy64 @ w64, gemm_tolerance(dy64, w64))
        arguments = floats(0, 150, 24), floats(1, 150, 72), np.array([70, 1, 65, 14]), 3
        dqkv, relevance = core.op_attention_backward(*arguments, relevance=np.ones(150, np.float32))
        core.set_num_threads(2)
        again = core.op_attention_backward(*arguments, relevance=np.ones(150, np.float32))
        np.testing.assert_array_equal(dqkv, again[0])
        np.testing.assert_array_equal(relevance, again[1])
    finally:
        core.set_num_threads(before)


# ---- images --------------------------------------------------------------------------------------------


def torch_conv2d(weight, stride, padding, batchnorm=None):
    """x: (B, H, W, IC) -> (B, OH, OW, OC), weight: (OC, IC, K, K)"""
    functional = require("torch").nn.functional

    def function(x):
        y = functional.conv2d(x.permute(0, 3, 1, 2), tensor(weight), stride=stride, padding=padding)
        if batchnorm:
            y = functional.batch_norm(y, **tensors64(batchnorm), training=False, eps=1e-5)
        return y.permute(0, 2, 3, 1)

    return function


def check_conv2d_backward(core, shape, oc, kernel, stride, padding, differences=False):
    b, h, w, ic = shape
    weight = floats(oc, oc, kernel, kernel, ic)
    transposed = weight.transpose(0, 3, 1, 2)
    out = [(size + 2 * padding - kernel) // stride + 1 for size in (h, w)]
    dy, onto = floats(h, b, *out, oc), floats(w, *shape)
    expected = autograd(torch_conv2d(transposed, stride, padding), np.zeros(shape), dy)
    # As in gemm_tolerance, of sums of OC * K * K products.
    size = autograd(torch_conv2d(np.abs(transposed), stride, padding), np.zeros(shape), np.abs(dy))
    tolerance = (4 + 2 * math.sqrt(oc * kernel**2)) * HALF_ULP * size + 1e-30
    options = {"stride": stride, "padding": padding}
    dx = core.op_conv2d_backward(dy, weight, (h, w), **options)
    assert_close(dx, expected, tolerance)
    onto_dx = core.op_conv2d_backward(dy, weight, (h, w), onto, **options)
    # Each of the K * K shares rounds the sum with what was there.
    assert_close(onto_dx, onto + expected, tolerance + (2 + kernel) * HALF_ULP * np.abs(onto))
    if differences:
        weight64, x = weight.astype(np.float64), floats(9, *shape)
        check_differences(dx, lambda x: conv2d(x, weight64, stride, padding), x, dy, tolerance)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (1, 1), (3, 0), (3, 1), (2, 0), (5, 2)])
def test_conv2d_backward(core, torch, kernel, padding, stride):
    sizes = ((1, 5, 5, 1, 1), (1, 7, 9, 3, 5), (2, 8, 8, 16, 8), (3, 13, 6, 7, 17), (1, 5, 31, 33, 9))
    for *shape, oc in sizes:
        check_conv2d_backward(core, tuple(shape), oc, kernel, stride, padding, shape[3] <= 7)


def test_conv2d_backward_of_the_smallest_images(core, torch):
    for h, w, kernel, padding in ((1, 1, 1, 0), (1, 1, 3, 1), (1, 8, 3, 1), (3, 3, 3, 0), (2, 1, 2, 1)):
        for stride in (1, 2):
            check_conv2d_backward(core, (2, h, w, 3), 4, kernel, stride, padding, True)


def test_conv2d_backward_of_pixels_that_no_patch_reads(core):
    # Stride 2 without padding leaves out the last row and column of an even image: their gradient is 0.
    dx = core.op_conv2d_backward(floats(0, 1, 3, 3, 2), floats(1, 2, 3, 3, 4), (8, 8), stride=2)
    assert (dx[:, 7] == 0).all() and (dx[:, :, 7] == 0).all()
    assert (dx[:, :7, :7] != 0).all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_conv2d_batchnorm_backward_is_folded(core, torch, kernel, stride):
    for b, h, w, ic, oc in ((1, 1, 1, 1, 1), (2, 9, 11, 3, 16), (1, 8, 7, 17, 5), (2, 7, 7, 16, 33)):
        rng = np.random.default_rng(oc)
        batchnorm = {
            "weight": floats(2, oc),
            "bias": floats(3, oc),
            "running_mean": floats(4, oc),
            "running_var": rng.uniform(0.01, 3, oc).astype(np.float32),
        }
        weight, x = floats(1, oc, ic, kernel, kernel), floats(5, b, h, w, ic)
        tensors = {"conv.weight": weight} | {f"bn.{name}": value for name, value in batchnorm.items()}
        out = [(size + 2 * (kernel // 2) - kernel) // stride + 1 for size in (h, w)]
        dy = floats(6, b, *out, oc)
        dx = core.op_conv2d_batchnorm_backward(dy, tensors, (h, w), ic, oc, kernel, stride=stride)
        expected = autograd(torch_conv2d(weight, stride, kernel // 2, batchnorm), x, dy)
        scale = (batchnorm["weight"] / np.sqrt(batchnorm["running_var"] + 1e-5)).astype(np.float64)
        magnitude = torch_conv2d(np.abs(weight * scale[:, None, None, None]), stride, kernel // 2)
        size = autograd(magnitude, x, np.abs(dy))
        # The weights are products of three rounded numbers.
        tolerance = (8 + 2 * math.sqrt(oc * kernel**2)) * HALF_ULP * size + 1e-30
        assert_close(dx, expected, tolerance)

        weight64 = weight.astype(np.float64).transpose(0, 2, 3, 1)

        def forward(x, w=weight64, bn=batchnorm, scale=scale):
            return (conv2d(x, w, stride, kernel // 2) - bn["running_mean"]) * scale + bn["bias"]

        check_differences(dx, forward, x, dy, tolerance)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_avg_pool2d_backward(core, torch, size):
    for b, h, w, c in ((1, 7, 7, 1), (2, 8, 9, 5), (3, 15, 14, 33), (1, 7, 20, 8)):
        dy = floats(h, b, h // size, w // size, c)
        dx = core.op_avg_pool2d_backward(dy, size, (h, w))

        def pool(x):
            return torch.nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)

        def forward(x, oh=h // size, ow=w // size):
            blocks = x[:, : oh * size, : ow * size].reshape(b, oh, size, ow, size, c)  # noqa: B023
            return blocks.mean((2, 4))

        expected = autograd(pool, np.zeros((b, h, w, c)), dy)
        tolerance = 3 * HALF_ULP * np.abs(expected)
        assert_close(dx, expected, tolerance)
        assert (dx[:, h // size * size :] == 0).all() and (dx[:, :, w // size * size :] == 0).all()
        check_differences(dx, forward, floats(1, b, h, w, c), dy, tolerance)


# ---- attention -----------------------------------------------------------------------------------------

# Scores of unit normal vectors are a few units large and off by 1e-6, which the probabilities inherit, and
# through them the gradients. Relative to the largest element of a gradient.
ATTENTION_TOLERANCE = 5e-6


def torch_attention(lengths, heads, causal, matrices=None):
    """qkv: (M, 3C) -> (M, C); the probabilities (NH, T, T) of each sequence are appended to `matrices`."""
    torch = require("torch")

    def function(qkv):
        out = []
        for part in torch.split(qkv, list(lengths)):
            t = len(part)
            q, k, v = part.reshape(t, 3, heads, -1).permute(1, 2, 0, 3)
            scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
            if causal:
                hidden = torch.triu(torch.ones(t, t, dtype=torch.bool), 1)
                scores = scores.masked_fill(hidden, -math.inf)
            p = torch.softmax(scores, -1)
            if matrices is not None:
                p.retain_grad()
                matrices.append(p)
            out.append((p @ v).transpose(0, 1).reshape(t, -1))
        return torch.cat(out)

    return function


def attention_matrices(qkv, dout, lengths, heads, causal):
    """-> [(P, dP)] of each sequence, both (NH, T, T), by autograd."""
    matrices = []
    torch_attention(lengths, heads, causal, matrices)(tensor(qkv).requires_grad_()).backward(tensor(dout))
    return [(p.detach().numpy(), p.grad.numpy()) for p in matrices]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "head_size"), [(1, 1), (3, 7), (2, 32), (1, 64), (2, 80)])
def test_attention_backward(core, torch, heads, head_size, causal):
    worst = 0
    c = heads * head_size
    for length in (1, 2, 7, 63, 64, 65, 77, 127, 129, 197):  # queries are worked on 64 at a time
        qkv, dout = floats(length, length, 3 * c), floats(length + 1, length, c)
        dqkv = core.op_attention_backward(dout, qkv, np.array([length]), heads, causal)
        expected = autograd(torch_attention([length], heads, causal), qkv, dout)
        assert_close(dqkv, expected, scaled(expected, ATTENTION_TOLERANCE))
        worst = max(worst, np.abs(dqkv - expected).max() / np.abs(expected).max())
    print(f"attention backward: largest error {worst:.1e} of the largest element")


@pytest.mark.parametrize("causal", [False, True])
def test_attention_backward_by_differences(core, causal):
    cases = (([1], 1, 1), ([2, 3], 1, 2), ([5], 2, 3), ([7, 1, 70], 2, 5), ([65], 1, 8))
    for lengths, heads, head_size in cases:
        m, c = sum(lengths), heads * head_size
        qkv, dout = floats(m, m, 3 * c), floats(m + 1, m, c)
        dqkv = core.op_attention_backward(dout, qkv, np.array(lengths), heads, causal)

        def forward(qkv, lengths=lengths, heads=heads):
            return attention(qkv, lengths, heads, causal)

        check_differences(dqkv, forward, qkv, dout, scaled(dqkv, ATTENTION_TOLERANCE))


@given(
    lengths=st.lists(st.integers(1, 80), min_size=1, max_size=7),
    heads=st.integers(1, 4),
    head_size=st.sampled_from([1, 8, 13]),
    causal=st.booleans(),
)
@PROPERTY
def test_ragged_attention_backward_is_that_of_each_sequence(core, lengths, heads, head_size, causal):
    m, c = sum(lengths), heads * head_size
    qkv, dout, relevance = floats(m, m, 3 * c), floats(1, m, c), floats(2, m)
    found = core.op_attention_backward(dout, qkv, np.array(lengths), heads, causal, relevance=relevance)
    rollout = core.op_attention_rollout(relevance, qkv, np.array(lengths), heads, causal)
    ends = np.cumsum(lengths)
    for begin, end in zip(ends - lengths, ends):
        part, length = slice(begin, end), np.array([end - begin])
        alone = core.op_attention_backward(
            dout[part].copy(), qkv[part].copy(), length, heads, causal, relevance=relevance[part].copy()
        )
        np.testing.assert_array_equal(found[0][part], alone[0])
        np.testing.assert_array_equal(found[1][part], alone[1])
        alone = core.op_attention_rollout(relevance[part].copy(), qkv[part].copy(), length, heads, causal)
        np.testing.assert_array_equal(rollout[part], alone)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [[1], [70], [5, 1, 64, 65, 9]])
def test_attention_backward_of_single_queries(core, torch, lengths, causal):
    heads, c, m, b = 3, 24, sum(lengths), len(lengths)
    ends = np.cumsum(lengths)
    qkv, dout, relevance = floats(m, m, 3 * c), floats(b, b, c), floats(1, m)
    for rows in (ends - lengths, ends - 1, ends - (np.array(lengths) + 1) // 2):
        found = core.op_attention_backward(
            dout, qkv, np.array(lengths), heads, causal, query_rows=rows, relevance=relevance
        )
        whole = np.zeros((m, c), np.float32)
        whole[rows] = dout
        expected = autograd(torch_attention(lengths, heads, causal), qkv, whole)
        assert_close(found[0], expected, scaled(expected, ATTENTION_TOLERANCE))
        others = np.setdiff1d(np.arange(m), rows)
        assert (found[0][others, :c] == 0).all(), "only these rows ask"
        in_full = core.op_attention_backward(
            whole, qkv, np.array(lengths), heads, causal, relevance=relevance, gradients=False
        )
        assert_close(found[1], in_full.astype(np.float64), scaled(in_full, ATTENTION_TOLERANCE))


def test_attention_backward_does_not_pass_on_what_is_hidden(core):
    qkv, dout = floats(0, 100, 72), floats(1, 100, 24)
    dout[70:] = 0
    dqkv = core.op_attention_backward(dout, qkv, np.array([100]), 3, True)
    assert (dqkv[70:] == 0).all()
    qkv[70:] = floats(2, 30, 72, scale=50)
    np.testing.assert_array_equal(core.op_attention_backward(dout, qkv, np.array([100]), 3, True), dqkv)


def test_attention_backward_of_one_far_larger_score(core, torch):
    # Scores of hundreds: all but one of the probabilities are zero, and nothing overflows. The scores are off
    # by up to 1e-4, and so are the gradients.
    qkv, dout = floats(0, 30, 48), floats(1, 30, 16)
    qkv[:, :16] *= 100
    dqkv = core.op_attention_backward(dout, qkv, np.array([30]), 1)
    expected = autograd(torch_attention([30], 1, False), qkv, dout)
    for part in range(3):
        columns = slice(16 * part, 16 * part + 16)
        assert_close(dqkv[:, columns], expected[:, columns], scaled(expected[:, columns], 1e-3))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [[1], [7], [64], [65, 3, 130]])
def test_relevance_is_a_row_of_the_product_of_matrices(core, torch, lengths, causal):
    """R starts as I and becomes R + A R in each block, A = mean over heads of max(P * dP, 0)."""
    heads, c, m, blocks = 3, 24, sum(lengths), 4
    ends = np.cumsum(lengths)
    begins = ends - lengths
    qkvs = [floats(i, m, 3 * c) for i in range(blocks)]
    douts = [floats(10 + i, m, c) for i in range(blocks)]
    products = [np.eye(length) for length in lengths]
    for qkv, dout in zip(qkvs, douts):
        for i, (p, dp) in enumerate(attention_matrices(qkv, dout, lengths, heads, causal)):
            assert p.shape == (heads, lengths[i], lengths[i])
            products[i] = products[i] + np.maximum(p * dp, 0).mean(0) @ products[i]
    for rows in (begins, ends - 1):
        relevance = np.zeros(m, np.float32)
        relevance[rows] = 1
        for qkv, dout in zip(qkvs[::-1], douts[::-1]):
            dqkv, summed = core.op_attention_backward(
                dout, qkv, np.array(lengths), heads, causal, relevance=relevance
            )
            alone = core.op_attention_backward(
                dout, qkv, np.array(lengths), heads, causal, relevance=relevance, gradients=False
            )
            np.testing.assert_array_equal(summed, alone)
            np.testing.assert_array_equal(
                dqkv, core.op_attention_backward(dout, qkv, np.array(lengths), heads, causal)
            )
            relevance = summed
        for begin, row, end, product in zip(begins, rows, ends, products):
            expected = product[row - begin]
            assert_close(relevance[begin:end], expected, scaled(expected, blocks * ATTENTION_TOLERANCE))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [[1], [7], [64], [65, 3, 130]])
def test_rollout_is_a_row_of_the_product_of_matrices(core, torch, lengths, causal):
    heads, c, m, blocks = 2, 16, sum(lengths), 4
    ends = np.cumsum(lengths)
    begins = ends - lengths
    qkvs = [floats(i, m, 3 * c) for i in range(blocks)]
    products = [np.eye(length) for length in lengths]
    for qkv in qkvs:
        for i, (p, _dp) in enumerate(attention_matrices(qkv, np.zeros((m, c)), lengths, heads, causal)):
            products[i] = (np.eye(lengths[i]) + p.mean(0)) / 2 @ products[i]
    for rows in (begins, ends - 1):
        relevance = np.zeros(m, np.float32)
        relevance[rows] = 1
        for qkv in qkvs[::-1]:
            relevance = core.op_attention_rollout(relevance, qkv, np.array(lengths), heads, causal)
        for begin, row, end, product in zip(begins, rows, ends, products):
            expected = product[row - begin]
            # The rows of each matrix sum to 1, so small elements beside large ones are those of a softmax.
            assert_close(relevance[begin:end], expected, 1e-5 * expected + 1e-9)
            assert abs(relevance[begin:end].sum(dtype=np.float64) - 1) < 1e-5


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("extra", [0, 5])
@pytest.mark.parametrize("scale", [0.125, 1.0, 2.5])
def test_self_similarity(core, torch, scale, extra, accumulate):
    for lengths, heads, head_size in (([1], 1, 1), ([5, 2], 3, 7), ([64, 65, 1], 2, 16), ([197], 2, 32)):
        m, c = sum(lengths), heads * head_size
        a, v, onto = wide(m, m, c, extra), wide(m + 1, m, c, extra), floats(2, m, c)
        # Scores of a few units, also between a token and itself.
        a[:] = a * np.float32((2 / head_size) ** 0.5)
        out = core.op_self_similarity(a, v, np.array(lengths), heads, scale, onto if accumulate else None)
        expected = []
        for a_part, v_part in zip(torch.split(tensor(a), lengths), torch.split(tensor(v), lengths)):
            a_heads, v_heads = (t.reshape(len(t), heads, -1).transpose(0, 1) for t in (a_part, v_part))
            p = torch.softmax(scale * a_heads @ a_heads.transpose(1, 2), -1)
            expected.append((p @ v_heads).transpose(0, 1).reshape(-1, c))
        expected = torch.cat(expected).numpy() + (onto if accumulate else 0)
        assert_close(out, expected, scaled(expected, ATTENTION_TOLERANCE))


# ---- attention pool ------------------------------------------------------------------------------------

POOL_SIZES = ((1, 1, 1, 1, 1), (2, 4, 8, 5, 2), (3, 49, 96, 33, 3), (33, 9, 16, 64, 16), (1, 81, 40, 7, 4))


def torch_attention_pool(tensors, heads):
    """As AttentionPool2d of OpenAI's model; x: (B, HW, C) -> (B, D)"""
    torch = require("torch")
    t = tensors64(tensors)

    def function(x):
        tokens = torch.cat([x.mean(1, keepdim=True), x], 1) + t["positional_embedding"]
        b, _, c = tokens.shape

        def project(name, rows):
            y = rows @ t[f"{name}_proj.weight"].T + t[f"{name}_proj.bias"]
            return y.reshape(b, -1, heads, c // heads).transpose(1, 2)

        q, k, v = project("q", tokens[:, :1]), project("k", tokens), project("v", tokens)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v).reshape(b, c)
        return y @ t["c_proj.weight"].T + t["c_proj.bias"]

    return function


def test_attention_pool_backward(core, torch):
    for b, hw, c, d, heads in POOL_SIZES:
        x, tensors, dy = floats(hw, b, hw, c), pool_tensors(c, hw, c, d, c**-0.5), floats(d, b, d)
        y, dx = core.op_attention_pool_backward(dy, x, tensors, heads)
        np.testing.assert_array_equal(y, core.op_attention_pool(x, tensors, heads, d))
        expected = autograd(torch_attention_pool(tensors, heads), x, dy)
        tolerance = scaled(expected, ATTENTION_TOLERANCE)
        assert_close(dx, expected, tolerance)
        if b * hw * c < 5000:
            check_differences(dx, lambda x, t=tensors, h=heads: attention_pool_64(x, t, h), x, dy, tolerance)


def attention_pool_64(x, tensors, heads):
    return attention_pool(np.asarray(x, np.float64), tensors, heads)


def test_attention_pool_backward_treats_images_apart(core):
    x, tensors, dy = floats(0, 5, 9, 24), pool_tensors(1, 9, 24, 7, 0.2), floats(2, 5, 7)
    _y, dx = core.op_attention_pool_backward(dy, x, tensors, 4)
    for i in range(5):
        _y, alone = core.op_attention_pool_backward(dy[i : i + 1], x[i : i + 1], tensors, 4)
        assert_close(dx[i : i + 1], alone.astype(np.float64), scaled(alone, 1e-6))
    dy[1:] = 0
    _y, dx = core.op_attention_pool_backward(dy, x, tensors, 4)
    assert (dx[1:] == 0).all() and (dx[0] != 0).all()


def test_dense_features_of_the_attention_pool(core, torch):
    for b, hw, c, d, heads in POOL_SIZES:
        x, tensors = floats(hw, b, hw, c), pool_tensors(c, hw, c, d, c**-0.5)
        t, x64 = tensors64(tensors), tensor(x)

        def project(name, rows, t=t):
            return rows @ t[f"{name}_proj.weight"].T + t[f"{name}_proj.bias"]

        expected = project("c", project("v", x64)).numpy()
        found = core.op_dense_attention_pool("identity", x, tensors, heads, d)
        assert_close(found, expected, scaled(expected, 2e-6))

        tokens = torch.cat([x64.mean(1, keepdim=True), x64], 1) + t["positional_embedding"]
        v = project("v", tokens).reshape(b, 1 + hw, heads, -1).transpose(1, 2)
        unit = v / (v.norm(dim=-1, keepdim=True) + 1e-6)
        p = torch.softmax(8 * (c // heads) ** -0.5 * unit @ unit.transpose(2, 3), -1)
        expected = project("c", (p @ v).transpose(1, 2).reshape(b, 1 + hw, c)).numpy()
        expected[:, 0] = torch_attention_pool(tensors, heads)(x64)
        found = core.op_dense_attention_pool("surgery", x, tensors, heads, d)
        assert_close(found, expected, scaled(expected, ATTENTION_TOLERANCE))


# ---- positions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("g", [1, 2, 3, 7, 14])
def test_positions_for_another_grid(core, torch, g):
    for c in (1, 33):
        embedding = floats(g, 1 + g * g, c)
        grid = tensor(embedding[1:]).reshape(1, g, g, c).permute(0, 3, 1, 2)
        for gh, gw in ((1, 1), (1, 5), (2, 2), (3, 4), (7, 14), (14, 3), (9, 31), (28, 28), (g, g + 1)):
            found = core.op_positions(embedding, gh, gw)
            assert found.shape == (1 + gh * gw, c)
            np.testing.assert_array_equal(found[0], embedding[0])
            wanted = torch.nn.functional.interpolate(grid, (gh, gw), mode="bicubic", align_corners=False)
            wanted = wanted[0].permute(1, 2, 0).reshape(-1, c).numpy()
            # Sixteen products; the weights of the taps sum to at most 1.7 in magnitude for each direction.
            assert_close(found[1:], wanted, 12 * HALF_ULP * 1.7**2 * np.abs(embedding).max())


@pytest.mark.parametrize("g", [1, 2, 7, 24])
def test_positions_for_the_same_grid_are_the_same(core, g):
    embedding = floats(g, 1 + g * g, 20)
    np.testing.assert_array_equal(core.op_positions(embedding, g, g), embedding)


def test_constant_positions_stay_constant(core):
    embedding = np.full((50, 3), 2.5, np.float32)
    assert_close(core.op_positions(embedding, 11, 4), np.full((45, 3), 2.5), 1e-6)


# ---- scores --------------------------------------------------------------------------------------------


def unit_texts(seed, n, d):
    texts = floats(seed, n, d)
    return texts / np.linalg.norm(texts, axis=1, keepdims=True)


def score(kind, texts, n, scale, functional):
    """S of v for tensors; the same formula serves NumPy through `score_64`."""
    texts = tensor(texts)

    def function(v):
        if kind == "dot":
            return scale * (texts[n] @ v)
        logits = scale * (texts @ v) / v.norm()
        return functional.softmax(logits, 0)[n] if kind == "probability" else logits[n]

    return function


def score_64(kind, texts, n, scale):
    def function(v):
        logits = scale * (texts.astype(np.float64) @ v)
        if kind == "dot":
            return logits[n]
        logits = logits / np.sqrt((v * v).sum())
        return softmax(logits)[n] if kind == "probability" else logits[n]

    return function


@pytest.mark.parametrize("kind", ["cosine", "dot", "probability"])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_score_backward(core, torch, kind, scale):
    for n_texts, d in ((1, 1), (1, 7), (2, 8), (5, 33), (17, 512), (100, 31)):
        texts, v = unit_texts(n_texts, n_texts, d), floats(d, d, scale=3)
        for n in {0, n_texts // 2, n_texts - 1}:
            value, dv = core.op_score_backward(kind, v, texts, n, scale)
            function = score(kind, texts, n, scale, torch.nn.functional)
            expected = function(tensor(v)).item()
            # Sums run in float64; what is rounded are the logits, once, and the exponential of each inherits
            # that: half a unit of up to 100.
            relative = 4 * HALF_ULP * (1 + (2 * scale if kind == "probability" else 0))
            size = abs(expected) if kind == "probability" else scale * np.linalg.norm(v)
            assert abs(value - expected) <= relative * size + 1e-37
            gradient = autograd(function, v, 1.0)
            # Before the projection to the sphere the terms are as large as the texts are.
            longest = 1 if kind == "probability" else scale / (1 if kind == "dot" else np.linalg.norm(v))
            own = np.abs(gradient).max() if kind == "probability" else longest
            assert_close(dv, gradient, 4 * relative * own + 1e-33)
            check_differences(dv, score_64(kind, texts, n, scale), v, 1.0, 4 * relative * own + 1e-33)


@pytest.mark.parametrize("gap", [1, 5, 10, 14, 18])
def test_gradient_of_a_confident_probability(core, torch, gap):
    """1 - p is small beside p: its float32 difference from 1 would be noise from a gap of 10 on."""
    texts, v = unit_texts(0, 6, 40), floats(1, 40)
    cosines = texts @ v / np.linalg.norm(v)
    n = int(cosines.argmax())
    scale = gap / (cosines[n] - np.sort(cosines)[-2])  # logits of the two best are `gap` apart
    value, dv = core.op_score_backward("probability", v, texts, n, scale)
    expected = autograd(score("probability", texts, n, float(np.float32(scale)), torch.nn.functional), v, 1.0)
    print(f"p = {value}: error {np.abs(dv - expected).max() / np.abs(expected).max():.1e} of the largest")
    # As in test_score_backward: the rounding of the logits, here up to 4 times the gap.
    assert_close(dv, expected, scaled(expected, 16 * gap * HALF_ULP + 16 * HALF_ULP))


def test_score_is_that_of_the_direction(core):
    texts, v = unit_texts(0, 3, 20), floats(1, 20)
    for kind in ("cosine", "probability"):
        value, dv = core.op_score_backward(kind, v, texts, 1, 10.0)
        longer, dlonger = core.op_score_backward(kind, v * np.float32(1024), texts, 1, 10.0)
        assert longer == value
        np.testing.assert_array_equal(dlonger * np.float32(1024), dv)
        assert abs(dv.astype(np.float64) @ v) < 1e-6, "the length of v does not matter"


def test_features_of_length_zero_have_no_direction(core):
    texts, zero = unit_texts(0, 3, 20), np.zeros(20, np.float32)
    for kind in ("cosine", "probability"):
        with pytest.raises(ValueError, match="the features have length 0"):
            core.op_score_backward(kind, zero, texts, 1, 10.0)
        with pytest.raises(ValueError, match="the features have length"):
            core.op_score_backward(kind, zero + np.float32(np.nan), texts, 1, 10.0)
    value, dv = core.op_score_backward("dot", zero, texts, 1, 2.0)
    assert value == 0
    np.testing.assert_array_equal(dv, 2 * texts[1])


# ---- maps ----------------------------------------------------------------------------------------------

CAMS = ("gradcam", "gradcam++", "layercam", "hirescam")


def cam(kind, a, g):
    """-> (map, the sum of the magnitudes of its terms), a, g: (HW, C) of float64"""
    weights = {
        "gradcam": lambda: g.mean(0, keepdims=True),
        "gradcam++": lambda: plus_plus_weights(a, g)[None],
        "layercam": lambda: np.maximum(g, 0),
        "hirescam": lambda: g,
    }[kind]()
    return (weights * a).sum(1), (np.abs(weights) * np.abs(a)).sum(1)


def plus_plus_weights(a, g):
    """Grad-CAM++ as the paper has it, with the second and third derivatives of exp S."""
    numerator, denominator = g**2, 2 * g**2 + g**3 * a.sum(0)
    alpha = np.divide(numerator, denominator, out=np.zeros_like(g), where=denominator != 0)
    return (alpha * np.maximum(g, 0)).sum(0)


@pytest.mark.parametrize("kind", CAMS)
def test_maps(core, kind):
    for hw, c in ((1, 1), (1, 9), (49, 1), (4, 7), (49, 33), (49, 2048), (196, 768), (256, 65)):
        # Activations behind a ReLU, so that no denominator of Grad-CAM++ comes near zero where g > 0.
        a, g = np.maximum(floats(hw, hw, c), 0), floats(c, hw, c, scale=0.1)
        expected, size = cam(kind, a.astype(np.float64), g.astype(np.float64))
        mean_size = np.abs(g).mean(0, dtype=np.float64)
        if kind == "gradcam":  # the means round relative to the terms they are made of
            size = np.abs(a) @ mean_size
        found = core.op_cam(kind, a, g)
        assert_close(found, expected, (4 + 2 * math.sqrt(hw)) * HALF_ULP * size + 1e-30)
        zero = np.zeros_like(g)
        np.testing.assert_array_equal(core.op_cam(kind, a, zero), np.zeros(hw))
        np.testing.assert_array_equal(core.op_cam(kind, zero, g), np.zeros(hw))


@pytest.mark.parametrize("kind", CAMS)
def test_maps_of_negative_gradients_and_of_dead_channels(core, kind):
    a, g = np.abs(floats(0, 9, 6)), -np.abs(floats(1, 9, 6))
    found = core.op_cam(kind, a, g)
    if kind in ("gradcam++", "layercam"):
        np.testing.assert_array_equal(found, np.zeros(9))
    else:
        assert (found < 0).all()
    g = floats(2, 9, 6)
    alive = core.op_cam(kind, a[:, :4].copy(), g[:, :4].copy())
    a[:, 4], g[:, 5] = 0, 0
    np.testing.assert_allclose(core.op_cam(kind, a, g), alive, atol=1e-6)


def test_grad_cam_plus_plus_where_its_denominator_is_zero(core):
    # Channel 0: 2 + g * sum of A = 2 + 1 * (-2) = 0, weight 0; channel 1 is an ordinary one.
    a = np.float32([[-3, 1], [1, 2]])
    g = np.float32([[1, 0.5], [1, 0.25]])
    expected, _size = cam("gradcam++", a.astype(np.float64), g.astype(np.float64))
    found = core.op_cam("gradcam++", a, g)
    assert_close(found, expected, 1e-6)
    np.testing.assert_array_equal(found, core.op_cam("gradcam++", a[:, 1:].copy(), g[:, 1:].copy()))


# ---- properties ----------------------------------------------------------------------------------------


def inner(a, b):
    return (a.astype(np.float64) * b.astype(np.float64)).sum()


def check_adjoint(dx, y, x, dy, terms):
    """<dy, J x> = <J^T dy, x> for a linear layer y = J x; `terms`: products that an element sums."""
    norms = np.linalg.norm(dy.astype(np.float64)) * np.linalg.norm(x.astype(np.float64))
    bound = (8 + 4 * math.sqrt(terms)) * HALF_ULP * norms * math.sqrt(terms)
    assert abs(inner(dy, y) - inner(dx, x)) <= bound


sizes = st.integers(1, 70)


@given(m=sizes, n=sizes, k=sizes)
@PROPERTY
def test_linear_backward_is_the_adjoint(core, m, n, k):
    x, w, dy = floats(m, m, k), floats(n, n, k, scale=k**-0.5), floats(k, m, n)
    check_adjoint(core.op_linear_backward(dy, w), core.op_linear(x, w), x, dy, n + k)


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.integers(1, 9)),
    oc=st.integers(1, 17),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
)
@PROPERTY
def test_conv2d_backward_is_the_adjoint(core, shape, oc, kernel, stride, padding):
    _, h, w, ic = shape
    if min(h, w) + 2 * padding < kernel:
        return
    x, weight = floats(h, *shape), floats(oc, oc, kernel, kernel, ic, scale=(kernel * kernel * ic) ** -0.5)
    y = core.op_conv2d(x, weight, stride=stride, padding=padding)
    dy = floats(w, *y.shape)
    dx = core.op_conv2d_backward(dy, weight, (h, w), stride=stride, padding=padding)
    check_adjoint(dx, y, x, dy, kernel**2 * (ic + oc))


@given(b=st.integers(1, 3), h=st.integers(1, 12), w=st.integers(1, 12), c=sizes, data=st.data())
@PROPERTY
def test_avg_pool2d_backward_is_the_adjoint(core, b, h, w, c, data):
    size = data.draw(st.integers(1, min(h, w)))
    x = floats(h, b, h, w, c)
    y = core.op_avg_pool2d(x, size)
    dy = floats(w, *y.shape)
    check_adjoint(core.op_avg_pool2d_backward(dy, size, (h, w)), y, x, dy, size**2)


def backward_passes(core, m, heads, head_size):
    """-> {name: (function of dy, shape of dy)}, at one point each"""
    c = heads * head_size
    x, weight, w = floats(m, m, c), floats(1, c), floats(2, 5, c)
    _out, mean, rstd = core.op_layernorm(x, weight, weight)
    qkv, p = floats(3, m, 3 * c), core.op_softmax(x)
    image, kernel, pool = floats(4, m, 4, c), floats(5, 3, 3, 3, c), pool_tensors(6, 4, c, 7, c**-0.5)
    lengths, zero = np.array([m]), np.zeros_like(x)
    return {
        "linear": (lambda dy: core.op_linear_backward(dy, w), (m, 5)),
        "conv2d": (lambda dy: core.op_conv2d_backward(dy, kernel, (m, 4), padding=1), (1, m, 4, 3)),
        "avg_pool2d": (lambda dy: core.op_avg_pool2d_backward(dy, 1, (m, 4)), (1, m, 4, 3)),
        "quick_gelu": (lambda dy: core.op_activation_backward(dy, x.ravel(), "quick_gelu"), (m * c,)),
        "gelu": (lambda dy: core.op_activation_backward(dy, x.ravel(), "gelu"), (m * c,)),
        "softmax": (lambda dy: core.op_softmax_backward(dy, p), (m, c)),
        "layernorm": (lambda dy: core.op_layernorm_backward(zero, dy, x, mean, rstd, weight), (m, c)),
        "attention": (lambda dy: core.op_attention_backward(dy, qkv, lengths, heads, True), (m, c)),
        "attention_pool": (lambda dy: core.op_attention_pool_backward(dy, image, pool, heads)[1], (m, 7)),
    }


@given(
    m=sizes,
    heads=st.integers(1, 3),
    head_size=st.integers(1, 24),
    factor=st.floats(-4, 4, width=32).filter(lambda f: abs(f) > 0.01),
)
@settings(PROPERTY, max_examples=25)
def test_backward_passes_are_linear(core, m, heads, head_size, factor):
    x, weight = floats(m, m, heads * head_size), floats(1, heads * head_size)
    gain = core.op_layernorm(x, weight, weight)[2].max() * np.abs(weight).max()
    for name, (backward, shape) in backward_passes(core, m, heads, head_size).items():
        one, two = floats(8, *shape), floats(9, *shape)
        parts = factor * backward(one).astype(np.float64), backward(two).astype(np.float64)
        found = backward(np.float32(factor) * one + two)
        size = max(np.abs(part).max() for part in parts)
        if name == "layernorm":
            # With few channels the gradient is what is left when nearly all of this cancels.
            size = max(size, (abs(factor) * np.abs(one).max() + np.abs(two).max()) * gain)
        error = np.abs(found - (parts[0] + parts[1])).max()
        assert error <= 5e-6 * size + 1e-30, f"{name}: {error} of {size}"


# ---- what is refused -----------------------------------------------------------------------------------

X = np.ones((2, 3), np.float32)
QKV = np.ones((4, 6), np.float32)
IMAGE = np.ones((1, 4, 4, 2), np.float32)
TWO = np.array([2, 2])

REFUSED = {
    "weight": (lambda: _core.op_linear_backward(X, X), r"weight: expected shape \(3, 'any'\), got \(2, 3\)"),
    "onto": (lambda: _core.op_linear_backward(X, X.T.copy(), X), r"onto: expected shape \(2, 2\)"),
    "dy": (lambda: _core.op_conv2d_backward(IMAGE, IMAGE, (5, 5)), r"dy: expected shape \('any', 2, 2, 1\)"),
    "small": (lambda: _core.op_conv2d_backward(IMAGE, IMAGE, (3, 4)), "height of x: expected 4"),
    "pool": (lambda: _core.op_avg_pool2d_backward(IMAGE, 2, (4, 4)), r"dy: expected shape \('any', 2, 2"),
    "pool size": (lambda: _core.op_avg_pool2d_backward(IMAGE, 5, (4, 4)), "size: expected 1 to 4, got 5"),
    "length": (lambda: _core.op_activation_backward(X[0], X[0, :2], "gelu"), r"x: expected shape \(3,\)"),
    "rows": (
        lambda: _core.op_attention_backward(X[:, :2], QKV, TWO, 1, query_rows=np.array([0, 1])),
        "query_rows: expected 2 to 3, got 1",
    ),
    "dout": (
        lambda: _core.op_attention_backward(X, QKV, TWO, 1),
        r"dout: expected shape \(4, 2\), got \(2, 3\)",
    ),
    "relevance": (
        lambda: _core.op_attention_rollout(X[0], QKV, TWO, 1),
        r"relevance: expected shape \(4,\), got \(3,\)",
    ),
    "stride": (
        lambda: _core.op_self_similarity(X[:, :2], X[:, :2].copy(), np.array([2]), 1, 1.0),
        "stride of v: expected 3 to 3, got 2",
    ),
    "square": (lambda: _core.op_positions(QKV, 2, 2), "rows of embedding behind the first: expected 4 to 4"),
    "kind": (lambda: _core.op_cam("cam", X, X), "kind: unknown value 'cam'"),
    "n": (lambda: _core.op_score_backward("dot", X[0], X, 2, 1.0), "n: expected 0 to 1, got 2"),
    "unpacked rows": (lambda: _core.op_gemm("atb", X, X, rows=1), "rows: expected 2 to 2, got 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused(name):
    call, message = REFUSED[name]
    for _ in range(3):  # a reference lost or dropped twice would show
        with pytest.raises(ValueError, match=message):
            call()
