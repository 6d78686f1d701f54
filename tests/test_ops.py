"""Every layer of the core against float64 NumPy, for every instruction set of this processor.

Each op function of ``clipc._core`` runs one layer. Its outputs and scratch start as NaN, so an element that
a layer does not write cannot agree by accident.
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

PROPERTY = settings(deadline=None, max_examples=150, derandomize=True)


def test_oracles_agree_with_pytorch():
    torch = require("torch")
    functional = torch.nn.functional

    def tensor(array):
        return torch.from_numpy(np.ascontiguousarray(array)).double()

    x, w = floats(0, 2, 9, 8, 5), floats(1, 4, 3, 3, 5)
    for stride, padding in itertools.product((1, 2), (0, 1)):
        theirs = functional.conv2d(
            tensor(x.transpose(0, 3, 1, 2)), tensor(w.transpose(0, 3, 1, 2)), stride=stride, padding=padding
        )
        ours = conv2d(x.astype(np.float64), w, stride, padding)
        np.testing.assert_allclose(ours, theirs.numpy().transpose(0, 2, 3, 1), atol=1e-12)

    qkv = floats(2, 11, 3 * 12)
    q, k, v = (tensor(m).reshape(11, 3, 4).transpose(0, 1) for m in np.split(qkv, 3, axis=1))
    for causal in (False, True):
        theirs = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        theirs = theirs.transpose(0, 1).reshape(11, 12)
        np.testing.assert_allclose(attention(qkv, [11], 3, causal), theirs.numpy(), atol=1e-12)

    # As AttentionPool2d of OpenAI's model calls it.
    x, p = floats(3, 2, 9, 12), pool_tensors(4, 9, 12, 5, 0.3)
    tokens = tensor(x).transpose(0, 1)
    tokens = torch.cat([tokens.mean(0, keepdim=True), tokens]) + tensor(p["positional_embedding"])[:, None]
    theirs, _ = functional.multi_head_attention_forward(
        query=tokens[:1], key=tokens, value=tokens, embed_dim_to_check=12, num_heads=3,
        q_proj_weight=tensor(p["q_proj.weight"]), k_proj_weight=tensor(p["k_proj.weight"]),
        v_proj_weight=tensor(p["v_proj.weight"]), in_proj_weight=None,
        in_proj_bias=torch.cat([tensor(p[f"{name}_proj.bias"]) for name in "qkv"]),
        bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0,
        out_proj_weight=tensor(p["c_proj.weight"]), out_proj_bias=tensor(p["c_proj.bias"]),
        use_separate_proj_weight=True, training=False, need_weights=False,
    )
    np.testing.assert_allclose(attention_pool(x, p, 3), theirs[0].numpy(), atol=1e-12)

    x = floats(5, 6, 13)
    x64 = x.astype(np.float64)
    np.testing.assert_allclose(layernorm(x64)[0], functional.layer_norm(tensor(x), (13,)), atol=1e-9)
    np.testing.assert_allclose(activate(x64, "gelu"), functional.gelu(tensor(x)), atol=1e-12)


# ---- activations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        # One exponential with an error of 2 ulp, one sum, one division.
        ("quick_gelu", 2e-7),
        # The erfc of formula 7.1.26 is off by 1.5e-7; half of it, and the rounding of a few operations.
        ("gelu", 4e-7),
    ],
)
def test_gelus_are_accurate(core, name, tolerance):
    # The error of x * Phi(x) is that of Phi times x: it is stated, and checked, relative to |x|.
    x = np.concatenate([np.linspace(-100, 100, 40001), np.linspace(-9, 9, 40001)]).astype(np.float32)
    y = core.op_epilogue(x[None], name)[0]
    expected = activate(x.astype(np.float64), name)
    absolute = np.abs(y - expected)
    error = absolute / np.maximum(np.abs(x.astype(np.float64)), 1e-20)
    print(f"{name}: largest error {error.max():.1e} |x|; {absolute[np.abs(x) < 8].max():.1e} where |x| < 8")
    assert error.max() <= tolerance
    assert (y[x > 20] == x[x > 20]).all()
    assert (np.abs(y[x < -60]) < 1e-30).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_special_values(core, name):
    x = np.array([[np.nan, np.inf, 3e38, 1e38, 1e-38, 0.0, -0.0, -1e-38, -1e38, -3e38]], np.float32)
    y = core.op_epilogue(x, name)[0]
    assert np.isnan(y[0])
    assert y[1] == np.inf
    assert (y[2:4] == x[0, 2:4]).all()
    assert (np.abs(y[4:8]) <= 1.0001e-38).all()
    if name != "none":
        assert (y[8:] == 0).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("n", EDGES)
def test_nan_is_never_swallowed(core, name, n):
    x = floats(n, 3, n)
    x[1, n // 2] = np.nan
    y = core.op_epilogue(x, name)
    assert (np.isnan(y) == np.isnan(x)).all()
    rows = np.isnan(core.op_softmax(x))
    assert (rows == [[False], [True], [False]]).all()
    for result in core.op_layernorm(x, np.ones(n, np.float32), np.zeros(n, np.float32)):
        assert (np.isnan(result).reshape(3, -1) == [[False], [True], [False]]).all()


@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_epilogue(core, name, with_bias, with_residual):
    for n in EDGES:
        x, bias, residual = floats(n, 3, n), floats(1, n), floats(2, 3, n)
        total = x.astype(np.float64)
        total = total + bias if with_bias else total
        total = total + residual if with_residual else total
        y = core.op_epilogue(x, name, bias if with_bias else None, residual if with_residual else None)
        assert_close(y, activate(total, name), 2e-6)


# ---- softmax -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", EDGES + (197, 257, 577))
@pytest.mark.parametrize("scale", [1e-30, 1.0, 30.0])
def test_softmax(core, n, scale):
    x = floats(n, 5, n, scale=scale)
    y = core.op_softmax(x)
    expected = softmax(x.astype(np.float64))
    # The rounding error of x - max, half an ulp of it, is a relative error of its exponential.
    spread = np.ptp(x.astype(np.float64), axis=1, keepdims=True)
    assert_close(y, expected, (6 + spread + math.sqrt(n)) * HALF_ULP * expected + 1e-37)
    np.testing.assert_allclose(y.astype(np.float64).sum(1), 1, atol=1e-6)


def test_exponential_is_accurate(core):
    # With x = [0, v] and v <= 0 the quotient of the two results is e^v, up to the rounding of the two.
    v = np.linspace(-87.3, 0, 100001).astype(np.float32)
    y = core.op_softmax(np.stack([np.zeros_like(v), v], axis=1)).astype(np.float64)
    normal = y[:, 1] > 1.2e-38
    error = np.abs(y[:, 1] / y[:, 0] / np.exp(v.astype(np.float64)) - 1)[normal]
    print(f"exp: largest relative error {error.max() / 2**-23:.2f} units of 2^-23")
    assert error.max() <= 3 * 2**-23


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=70))
@PROPERTY
def test_softmax_of_any_finite_row(core, row):
    x = np.array([row], np.float32)
    y = core.op_softmax(x)
    assert (y >= 0).all() and (y <= 1.000001).all()
    assert abs(y.sum(dtype=np.float64) - 1) < 1e-5
    with np.errstate(over="ignore"):
        assert_close(y, softmax(x.astype(np.float64)), 2e-5)


def test_softmax_of_masked_rows(core):
    x = np.array([[-np.inf, 0, 1], [0, -200, -90], [3e38, -3e38, 0]], np.float32)
    y = core.op_softmax(x)
    # Exactly nothing, not a subnormal number: those are slow in the product that follows.
    assert y[0, 0] == 0
    np.testing.assert_array_equal(y[1:], [[1, 0, 0], [1, 0, 0]])
    assert np.isnan(core.op_softmax(np.full((1, 3), -np.inf, np.float32))).all()


# ---- layer normalisation -------------------------------------------------------------------------------


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("offset", [0, 1, 100, 1e4, 1e6])
def test_layernorm(core, offset, in_place):
    worst = 0
    for n in EDGES[1:] + (768, 1024):
        m = 70 if n < 100 else 5  # more than one task of 32 rows
        side = np.where(np.arange(m) % 2, -1, 1).astype(np.float32)[:, None]
        x = floats(n, m, n) + np.float32(offset) * side
        weight, bias = floats(1, n), floats(2, n)
        out, mean, rstd = core.op_layernorm(x, weight, bias, in_place=in_place)
        normalised, true_mean, true_rstd = layernorm(x.astype(np.float64))
        # The sums round relative to their largest terms, the normalised values, whatever the offset is.
        # Rows of a few nearly equal values magnify the rounding of their differences.
        tolerance = 2e-6 * (1 + np.abs(normalised).max())
        assert_close(out, normalised * weight + bias, tolerance * (np.abs(weight) + np.abs(bias)))
        assert_close(mean, true_mean, 2e-7 * np.maximum(1, np.abs(true_mean)))
        assert_close(rstd, true_rstd, 2e-6 * true_rstd)
        worst = max(worst, np.abs(out - (normalised * weight + bias)).max())
    print(f"layernorm, rows around {offset:g}: largest error {worst:.1e}")


@pytest.mark.parametrize("value", [0, 0.1, 1, 1e4 / 3, 1e6 / 7, 1e10 / 3])
def test_layernorm_of_constant_rows(core, value):
    # eps is all that such a row has for variance, and 1 / sqrt(eps) = 316 times a rounding error would be
    # visible: nothing may be left of the value.
    for n in EDGES + (768, 1000):
        bias = floats(n, n)
        out, mean, _rstd = core.op_layernorm(np.full((1, n), value, np.float32), floats(1, n), bias)
        assert_close(out, bias[None].astype(np.float64), 1e-6)
        assert_close(mean, np.array([np.float32(value)], np.float64), 1e-7 * value)


def test_layernorm_with_an_outlier(core):
    # CLIP's residual streams have a few channels that are a hundred times larger than the others.
    x = floats(0, 40, 768)
    x[:, [5, 700]] += np.float32([[300, -80]])
    one, zero = np.ones(768, np.float32), np.zeros(768, np.float32)
    assert_close(core.op_layernorm(x, one, zero)[0], layernorm(x.astype(np.float64))[0], 6e-6)


# ---- matrix products -----------------------------------------------------------------------------------


@pytest.mark.parametrize("m", EDGES)
def test_linear_of_all_tile_edges(core, m):
    for n, k in itertools.product(EDGES, (1, 2, 7, 8, 33, 64, 127)):
        x, w, bias = floats(m, m, k), floats(n, n, k), floats(k, n)
        x64, w64 = x.astype(np.float64), w.astype(np.float64)
        y = core.op_linear(x, w, bias)
        assert_close(y, x64 @ w64.T + bias, gemm_tolerance(x64, w64.T, np.abs(bias)))


@pytest.mark.parametrize("in_place", [None, False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear_with_epilogue(core, activation, with_bias, in_place):
    # The last two are large enough to be split between threads, by rows and by columns.
    for m, n, k in ((1, 1, 1), (3, 5, 7), (17, 33, 9), (50, 64, 65), (301, 40, 33), (40, 301, 33)):
        x, w, bias, residual = floats(m, m, k), floats(n, n, k, scale=k**-0.5), floats(k, n), floats(7, m, n)
        x64, w64 = x.astype(np.float64), w.astype(np.float64)
        total, terms = x64 @ w64.T, 1.0
        if with_bias:
            total, terms = total + bias, terms + np.abs(bias)
        if in_place is not None:
            total, terms = total + residual, terms + np.abs(residual)
        given_residual = residual.copy()
        y = core.op_linear(
            x, w, bias if with_bias else None, None if in_place is None else given_residual,
            activation=activation, in_place=bool(in_place),
        )
        # 1.13: the largest slope of the activations; the last term: their own error.
        tolerance = 1.13 * gemm_tolerance(x64, w64.T, terms) + 4e-7 * np.abs(total)
        assert_close(y, activate(total, activation), tolerance)
        np.testing.assert_array_equal(given_residual, residual)


def test_linear_keeps_nan_where_it_belongs(core):
    x, w = floats(0, 37, 70), floats(1, 50, 70)
    x[4, 3], x[20, 69] = np.nan, np.nan
    w[:, 3] = 0  # zero times NaN is NaN
    y = core.op_linear(x, w)
    assert (np.isnan(y).any(1) == np.isin(np.arange(37), (4, 20))).all()
    assert np.isnan(y[[4, 20]]).all()


def test_projection(core):
    for m, c, d in ((1, 1, 1), (5, 7, 9), (17, 64, 33), (64, 65, 128)):
        x, projection = floats(m, m, c), floats(d, c, d)
        x64, p64 = x.astype(np.float64), projection.astype(np.float64)
        assert_close(core.op_projection(x, projection), x64 @ p64, gemm_tolerance(x64, p64))


def product(kind, a, b, row0=0, rows=None):
    b = b[row0 : None if rows is None else row0 + rows]
    return (a, b) if kind in ("ab", "rows_transposed") else (a, b.T)


@pytest.mark.parametrize("kind", ["forward", "rows", "rows_transposed", "abt", "ab"])
@pytest.mark.parametrize("extra", [0, 1, 19])
def test_products_with_strides(core, kind, extra):
    for m, n, k in ((1, 1, 1), (1, 64, 50), (50, 1, 64), (7, 9, 17), (65, 33, 31), (300, 70, 40)):
        a = wide(m, m, k, extra)
        b_shape = (k, n) if kind in ("ab", "rows_transposed") else (n, k)
        b = wide(n, *b_shape, extra) if kind in ("ab", "abt") else floats(n, *b_shape)
        alpha = 0.125 if kind == "abt" else 1.0
        c = core.op_gemm(kind, a, b, alpha=alpha, ldc=n + extra)
        left, right = product(kind, a.astype(np.float64), b.astype(np.float64))
        assert_close(c[:, :n], alpha * (left @ right), alpha * gemm_tolerance(left, right))
        assert np.isnan(c[:, n:]).all(), "written beside the result"


@pytest.mark.parametrize("extra", [0, 3])
def test_product_adds_a_residual_with_strides(core, extra):
    m, n, k = 40, 33, 17
    x, w, residual = wide(0, m, k, extra), floats(1, n, k), wide(2, m, n, 2 * extra)
    c = core.op_gemm("forward", x, w, residual=residual, ldc=n + extra)
    x64, w64 = x.astype(np.float64), w.astype(np.float64)
    assert_close(c[:, :n], x64 @ w64.T + residual, gemm_tolerance(x64, w64.T, np.abs(residual)))


@pytest.mark.parametrize("kind", ["rows", "rows_transposed"])
def test_products_with_a_block_of_packed_rows(core, kind):
    w = floats(0, 60, 48)
    for row0, rows, m in ((0, 60, 3), (0, 1, 1), (59, 1, 5), (12, 12, 1), (17, 31, 9)):
        x = floats(m, m, rows if kind == "rows_transposed" else 48)
        c = core.op_gemm(kind, x, w, row0=row0, rows=rows)
        left, right = product(kind, x.astype(np.float64), w.astype(np.float64), row0, rows)
        assert_close(c, left @ right, gemm_tolerance(left, right))


# ---- blocks and panels: around the 6 x 16 tile, 16 panels that are unpacked together, KC 512, NC 1024 ---


def check_forward(core, m, n, k, activation="none", with_bias=True, residual=None):
    """`residual`: None, "apart" or "in place"."""
    x, w, bias = floats(m, m, k), floats(n, n, k, scale=k**-0.5), floats(k, n)
    x64, w64 = x.astype(np.float64), w.astype(np.float64)
    total, terms = x64 @ w64.T, 0.0
    if with_bias:
        total, terms = total + bias, terms + np.abs(bias)
    onto = floats(7, m, n)
    if residual is not None:
        # It takes part in the rounding of each block's sum.
        total, terms = total + onto, terms + np.abs(onto) + np.abs(total + onto)
    y = core.op_linear(
        x, w, bias if with_bias else None, onto if residual else None,
        activation=activation, in_place=residual == "in place",
    )
    tolerance = 1.13 * gemm_tolerance(x64, w64.T, terms) + 4e-7 * np.abs(total)
    assert_close(y, activate(total, activation), tolerance)


@pytest.mark.parametrize("m", [1, 5, 6, 7, 12, 13, 59, 60, 61, 67, 121])
def test_blocks_of_rows(core, m):
    for n, k in itertools.product((15, 16, 17, 31, 48, 67), (1, 3, 8, 65)):
        check_forward(core, m, n, k, "quick_gelu")


@pytest.mark.parametrize("residual", [None, "apart", "in place"])
@pytest.mark.parametrize("k", [511, 512, 513, 1024, 1025, 1543])
def test_blocks_of_sums(core, k, residual):
    sizes = (1, 16), (6, 33), (7, 17), (50, 64), (61, 40)
    for (m, n), activation in zip(sizes, itertools.cycle(ACTIVATIONS)):
        check_forward(core, m, n, k, activation, m != 6, residual)


@pytest.mark.parametrize("n", [1023, 1024, 1025, 1040, 2053])
def test_blocks_of_columns(core, n):
    for m, k in ((1, 64), (6, 515), (61, 20)):
        check_forward(core, m, n, k, "relu", residual="in place")


def test_rows_of_panels(core):
    # Blocks that begin and end within panels, and within the 256 rows that are unpacked together.
    n, k = 549, 40
    w = floats(0, n, k)
    blocks = (
        (0, 549), (1, 548), (15, 1), (15, 2), (16, 16), (17, 14), (250, 12), (255, 258), (256, 256), (543, 6)
    )
    for (row0, rows), m in itertools.product(blocks, (1, 7, 61)):
        for kind in ("rows", "rows_transposed", "backward"):
            x = wide(m, m, k if kind == "rows" else rows, 3)
            width = rows if kind == "rows" else k
            c = core.op_gemm(kind, x, w, row0=row0, rows=rows, ldc=width + 5)
            left, right = product("rows" if kind == "rows" else "rows_transposed", x.astype(np.float64),
                                  w.astype(np.float64), row0, rows)
            assert_close(c[:, :width], left @ right, gemm_tolerance(left, right))
            assert np.isnan(c[:, width:]).all(), "written beside the result"


def test_nan_beside_a_panel_is_not_read(core):
    # What fills up the last panel meets NaN and infinity of x; the results next to it must not.
    x, w = floats(0, 13, 30), floats(1, 37, 30)
    x[5, 7], x[9, 29] = np.nan, np.inf
    expected = np.isin(np.arange(13), (5, 9))
    for n in (1, 15, 16, 17, 37):
        y = core.op_linear(x, w[:n])
        assert (np.isfinite(y) == ~expected[:, None]).all()


@given(
    m=st.integers(1, 140), n=st.integers(1, 90), k=st.integers(1, 1100), seed=st.integers(0, 2**32 - 1)
)
@settings(deadline=None, max_examples=40, derandomize=True)
def test_product_times_vector_is_product_of_vectors(core, m, n, k, seed):
    # As the test suite of BLIS checks its products: (x @ W.T) v = x (W.T v), and v.T of it for the gradient.
    x, w = floats(seed, m, k), floats(seed + 1, n, k)
    x64, w64, v = x.astype(np.float64), w.astype(np.float64), floats(seed + 2, n).astype(np.float64)
    y = core.op_linear(x, w).astype(np.float64)
    bound = gemm_tolerance(x64, w64.T) @ np.abs(v)
    assert (np.abs(y @ v - x64 @ (w64.T @ v)) <= bound).all()
    dy, u = floats(seed + 3, m, n), floats(seed + 4, k).astype(np.float64)
    dy64 = dy.astype(np.float64)
    dx = core.op_linear_backward(dy, w).astype(np.float64)
    assert (np.abs(dx @ u - dy64 @ (w64 @ u)) <= gemm_tolerance(dy64, w64) @ np.abs(u)).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_row_alone_is_the_row_among_others(core, threads):
    if core.build_info()["gemm_kernels"] == "OpenBLAS":
        pytest.skip("OpenBLAS adds up in an order that depends on the number of rows")
    x, w, bias = floats(0, 130, 1300), floats(1, 100, 1300), floats(2, 100)
    before = core.get_num_threads()
    core.set_num_threads(threads)
    try:
        y = core.op_linear(x, w, bias, activation="gelu")
        dx = core.op_linear_backward(y, w)
        for begin, end in ((0, 1), (5, 6), (129, 130), (3, 10), (0, 64)):
            alone = core.op_linear(x[begin:end], w, bias, activation="gelu")
            np.testing.assert_array_equal(alone, y[begin:end])
            np.testing.assert_array_equal(core.op_linear_backward(y[begin:end], w), dx[begin:end])
    finally:
        core.set_num_threads(before)


def test_time_of_a_layer(core):
    seconds = core.op_time_linear(5, 40, 30, copies=3, rounds=4, activation="gelu")
    assert seconds.shape == (4, 3) and (seconds > 0).all() and (seconds < 60).all()


# ---- images --------------------------------------------------------------------------------------------


def check_conv2d(core, x, weight, stride, padding, activation="none", in_place=None):
    bias = floats(99, len(weight))
    x64, w64 = x.astype(np.float64), weight.astype(np.float64)
    total = conv2d(x64, w64, stride, padding) + bias
    size = conv2d(np.abs(x64), np.abs(w64), stride, padding) + np.abs(bias)
    residual = None
    if in_place is not None:
        residual = floats(98, *total.shape)
        total, size = total + residual, size + np.abs(residual)
    y = core.op_conv2d(
        x, weight, bias, residual,
        stride=stride, padding=padding, activation=activation, in_place=bool(in_place),
    )
    expected = activate(total, activation)
    rounding = (4 + 2 * math.sqrt(weight[0].size)) * HALF_ULP * size  # as in gemm_tolerance
    assert_close(y, expected, 1.13 * rounding + 4e-7 * np.abs(total))
    return np.abs(y - expected).max()


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (1, 1), (3, 0), (3, 1), (2, 0), (5, 2)])
def test_conv2d(core, kernel, padding, stride):
    sizes = ((1, 5, 5, 1, 1), (1, 7, 9, 3, 5), (2, 8, 8, 16, 8), (3, 13, 6, 7, 17), (1, 5, 31, 33, 9))
    for b, h, w, ic, oc in sizes:
        check_conv2d(core, floats(h, b, h, w, ic), floats(oc, oc, kernel, kernel, ic), stride, padding)


def test_conv2d_of_the_smallest_images(core):
    for h, w, kernel, padding in ((1, 1, 1, 0), (1, 1, 3, 1), (1, 8, 3, 1), (3, 3, 3, 0), (2, 1, 2, 1)):
        for stride in (1, 2):
            check_conv2d(core, floats(h, 2, h, w, 3), floats(1, 4, kernel, kernel, 3), stride, padding)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kernel", [1, 3])
def test_conv2d_with_residual(core, kernel, activation, in_place):
    weight = floats(1, 9, kernel, kernel, 12, scale=(kernel * kernel * 12) ** -0.5)
    check_conv2d(core, floats(0, 2, 11, 7, 12), weight, 1, kernel // 2, activation, in_place)


@pytest.mark.parametrize("in_place", [None, False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_conv2d_in_several_blocks_of_patches(core, stride, in_place):
    # Patches are written out 4 MiB at a time: here 1820 pixels of 576 values, so blocks end inside images
    # and inside rows.
    side = 37 * stride
    x, weight = floats(0, 3, side, side + 2, 64), floats(1, 8, 3, 3, 64, scale=1 / 24)
    error = check_conv2d(core, x, weight, stride, 1, "relu", in_place)
    print(f"conv2d, 576 products a sum: largest error {error:.1e}")


def test_conv2d_batchnorm_is_folded(core):
    for ic, oc, kernel, stride in ((3, 16, 3, 2), (7, 5, 3, 1), (16, 33, 1, 1)):
        rng = np.random.default_rng(oc)
        x = floats(0, 2, 9, 11, ic)
        tensors = {
            "conv.weight": floats(1, oc, ic, kernel, kernel),
            "bn.weight": floats(2, oc),
            "bn.bias": floats(3, oc),
            "bn.running_mean": floats(4, oc),
            "bn.running_var": rng.uniform(0.01, 3, oc).astype(np.float32),
        }
        y = core.op_conv2d_batchnorm(x, tensors, oc, kernel, stride=stride)
        t = {name: value.astype(np.float64) for name, value in tensors.items()}
        scale = t["bn.weight"] / np.sqrt(t["bn.running_var"] + 1e-5)
        convolved = conv2d(x.astype(np.float64), t["conv.weight"].transpose(0, 2, 3, 1), stride, kernel // 2)
        expected = (convolved - t["bn.running_mean"]) * scale + t["bn.bias"]
        assert_close(y, expected, 2e-6 * np.abs(scale) * math.sqrt(ic * kernel**2) + 1e-6)
        halves = {name: value.astype(np.float16) for name, value in tensors.items()}
        y = core.op_conv2d_batchnorm(x, halves, oc, kernel, stride=stride)
        assert_close(y, expected, 0.05 * np.abs(expected).max())


def test_batchnorm_without_variance_is_refused(core):
    tensors = {"conv.weight": floats(0, 2, 1, 1, 1)} | {
        f"bn.{name}": np.ones(2, np.float32) for name in ("weight", "bias", "running_mean", "running_var")
    }
    for variance in (-1.0, np.nan):
        tensors["bn.running_var"] = np.array([1, variance], np.float32)
        with pytest.raises(ValueError, match="bn.running_var: expected positive values"):
            core.op_conv2d_batchnorm(floats(1, 1, 2, 2, 1), tensors, 2, 1)
    del tensors["bn.bias"]
    with pytest.raises(ValueError, match="bn.bias: missing"):
        core.op_conv2d_batchnorm(floats(1, 1, 2, 2, 1), tensors, 2, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_avg_pool2d(core, size):
    for b, h, w, c in ((1, 7, 7, 1), (2, 8, 9, 5), (3, 15, 14, 33)):
        x = floats(h, b, h, w, c)
        oh, ow = h // size, w // size
        blocks = x[:, : oh * size, : ow * size].astype(np.float64).reshape(b, oh, size, ow, size, c)
        assert_close(core.op_avg_pool2d(x, size), blocks.mean((2, 4)), 1e-6)


# ---- attention -----------------------------------------------------------------------------------------

# Scores of unit normal vectors are a few units large and off by 1e-6, which their exponentials inherit.
ATTENTION_TOLERANCE = 5e-6


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "head_size"), [(1, 1), (3, 7), (2, 32), (1, 64), (2, 80)])
def test_attention(core, heads, head_size, causal):
    for length in (1, 2, 7, 50, 63, 64, 65, 77, 129, 197):  # queries are worked on 64 at a time
        qkv = floats(length, length, 3 * heads * head_size)
        out = core.op_attention(qkv, np.array([length]), heads, causal)
        assert_close(out, attention(qkv, [length], heads, causal), ATTENTION_TOLERANCE)


@given(
    lengths=st.lists(st.integers(1, 80), min_size=1, max_size=9),
    heads=st.integers(1, 4),
    head_size=st.sampled_from([1, 8, 13]),
    causal=st.booleans(),
)
@PROPERTY
def test_ragged_attention_is_that_of_each_sequence(core, lengths, heads, head_size, causal):
    qkv = floats(sum(lengths), sum(lengths), 3 * heads * head_size)
    out = core.op_attention(qkv, np.array(lengths), heads, causal)
    ends = np.cumsum(lengths)
    for begin, end in zip(ends - lengths, ends):
        alone = core.op_attention(qkv[begin:end].copy(), np.array([end - begin]), heads, causal)
        np.testing.assert_array_equal(out[begin:end], alone)


@pytest.mark.parametrize("t", [1, 20, 63, 64, 65, 99])
def test_causal_attention_does_not_see_what_follows(core, t):
    qkv = floats(t, 100, 3 * 24)
    out = core.op_attention(qkv, np.array([100]), 3, True)
    other = qkv.copy()
    other[t:] = floats(1, 100 - t, 3 * 24, scale=50)
    np.testing.assert_array_equal(core.op_attention(other, np.array([100]), 3, True)[:t], out[:t])
    prefix = core.op_attention(qkv[:t].copy(), np.array([t]), 3, True)
    assert_close(prefix, out[:t].astype(np.float64), ATTENTION_TOLERANCE)


def test_attention_to_one_far_larger_score(core):
    # Scores of hundreds: all but one of the probabilities are zero, and nothing overflows.
    qkv = floats(0, 30, 3 * 16)
    qkv[:, :16] *= 100
    out = core.op_attention(qkv, np.array([30]), 1)
    # The scores, up to 1000, are off by their rounding, up to 1e-4, and so are the probabilities.
    assert_close(out, attention(qkv, [30], 1, False), 1e-3)


def test_attention_pool_is_the_full_formula(core):
    sizes = ((1, 1, 1, 1, 1), (2, 4, 8, 5, 2), (3, 49, 96, 33, 3), (33, 9, 16, 64, 16), (1, 81, 40, 7, 4))
    for b, hw, c, d, heads in sizes:
        x, tensors = floats(hw, b, hw, c), pool_tensors(c, hw, c, d, c**-0.5)
        y = core.op_attention_pool(x, tensors, heads, d)
        assert_close(y, attention_pool(x, tensors, heads), 1e-5)


def test_attention_pool_drops_the_bias_of_k(core):
    x, tensors = floats(0, 2, 9, 12), pool_tensors(1, 9, 12, 6, 0.3)
    y = core.op_attention_pool(x, tensors, 3, 6)
    tensors["k_proj.bias"] = tensors["k_proj.bias"] + 100
    np.testing.assert_array_equal(core.op_attention_pool(x, tensors, 3, 6), y)
    assert_close(y, attention_pool(x, tensors, 3), 1e-5)  # the full formula does have it


# ---- conversion ----------------------------------------------------------------------------------------


def assert_same_floats(found, expected):
    """Equal bits; of a NaN only that it is one, with its sign."""
    nan = np.isnan(expected)
    assert (np.isnan(found) == nan).all()
    np.testing.assert_array_equal(found[~nan].view(np.uint32), expected[~nan].view(np.uint32))
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


def test_every_float16_is_converted():
    halves = np.arange(65536, dtype=np.uint32).astype(np.uint16).view(np.float16)
    assert_same_floats(_core.op_convert(halves), halves.astype(np.float32))


def test_every_bfloat16_is_converted():
    bits = np.arange(65536, dtype=np.uint32)
    assert_same_floats(_core.op_convert(bits.astype(np.uint16)), (bits << 16).view(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16])
def test_any_layout_is_converted(dtype):
    array = np.arange(3 * 4 * 5 * 2).reshape(3, 4, 5, 2).astype(dtype)
    expected = _core.op_convert(array)
    for view in (array[::-1, :, ::2], array.transpose(3, 1, 0, 2), np.asfortranarray(array)):
        np.testing.assert_array_equal(_core.op_convert(view), _core.op_convert(view.copy()))
    np.testing.assert_array_equal(_core.op_convert(array.astype(array.dtype.newbyteorder())), expected)
    scalar = np.array(2, dtype)
    assert _core.op_convert(scalar).shape == ()


# ---- what is refused -----------------------------------------------------------------------------------

X = np.ones((2, 3), np.float32)
IMAGE = np.ones((1, 4, 4, 2), np.float32)
POOL = {"positional_embedding": np.ones((5, 2), np.float32)}

REFUSED = {
    "list": (lambda: _core.op_softmax([[1.0]]), TypeError, "x: expected a NumPy array, got list"),
    "float64": (
        lambda: _core.op_softmax(X.astype(float)),
        TypeError,
        "x: expected dtype float32, got float64",
    ),
    "rank": (lambda: _core.op_softmax(X[0]), ValueError, r"x: expected shape \('any', 'any'\), got \(3,\)"),
    "no rows": (lambda: _core.op_softmax(X[:0]), ValueError, "x: expected sizes of 1 to"),
    "no columns": (lambda: _core.op_softmax(X[:, :0]), ValueError, "x: expected sizes of 1 to"),
    "width": (
        lambda: _core.op_linear(X, X[:, :2]),
        ValueError,
        r"weight: expected shape \('any', 3\), got \(2, 2\)",
    ),
    "no width": (lambda: _core.op_linear(X[:, :0], X[:, :0]), ValueError, "x: expected sizes of 1 to"),
    "bias": (lambda: _core.op_linear(X, X, X[0]), ValueError, r"bias: expected shape \(2,\), got \(3,\)"),
    "residual": (lambda: _core.op_linear(X, X, None, X), ValueError, r"residual: expected shape \(2, 2\)"),
    "in place": (lambda: _core.op_linear(X, X, in_place=True), ValueError, "in_place: expected a residual"),
    "activation": (lambda: _core.op_epilogue(X, "tanh"), ValueError, "activation: expected .* got 'tanh'"),
    "activation type": (lambda: _core.op_epilogue(X, 3), ValueError, "activation: expected .* got 3"),
    "projection": (
        lambda: _core.op_projection(X, X),
        ValueError,
        r"projection: expected \[3, 3\], got \[2, 3\]",
    ),
    "gemm kind": (lambda: _core.op_gemm("x", X, X), ValueError, "kind: unknown value 'x'"),
    "gemm inner": (lambda: _core.op_gemm("ab", X, X), ValueError, "columns of a: expected 2 to 2, got 3"),
    "gemm rows": (
        lambda: _core.op_gemm("rows", X, X, row0=1, rows=2),
        ValueError,
        "rows: expected 1 to 1, got 2",
    ),
    "gemm row0": (lambda: _core.op_gemm("rows", X, X, row0=2), ValueError, "row0: expected 0 to 1, got 2"),
    "timed layer": (lambda: _core.op_time_linear(1, 0, 1), ValueError, "n: expected 1 to 32768, got 0"),
    "gemm ldc": (lambda: _core.op_gemm("abt", X, X, ldc=1), ValueError, "ldc: expected 2 to"),
    "stride": (
        lambda: _core.op_conv2d(IMAGE, IMAGE, stride=0),
        ValueError,
        "stride: expected 1 to 1000, got 0",
    ),
    "padding": (lambda: _core.op_conv2d(IMAGE, IMAGE, padding=-1), ValueError, "padding: expected 0"),
    "kernel": (lambda: _core.op_conv2d(IMAGE[:, :3], IMAGE), ValueError, "height of x: expected 4 to"),
    "square": (
        lambda: _core.op_conv2d(IMAGE, IMAGE[:, :3]),
        ValueError,
        "width of the kernel: expected 3 to 3, got 4",
    ),
    "pool size": (lambda: _core.op_avg_pool2d(IMAGE, 5), ValueError, "size: expected 1 to 4, got 5"),
    "heads": (lambda: _core.op_attention(X, np.array([2]), 2), ValueError, "multiple of 3 \\* heads, got 3"),
    "no heads": (
        lambda: _core.op_attention(X, np.array([2]), 0),
        ValueError,
        "heads: expected 1 to 3, got 0",
    ),
    "lengths": (
        lambda: _core.op_attention(X, np.array([1]), 1),
        ValueError,
        "sum of lengths: expected 2 to 2, got 1",
    ),
    "long": (
        lambda: _core.op_attention(X, np.array([1, 2]), 1),
        ValueError,
        "lengths: expected 1 to 1, got 2",
    ),
    "empty": (
        lambda: _core.op_attention(X, np.array([0, 2]), 1),
        ValueError,
        "lengths: expected 1 to 2, got 0",
    ),
    "length type": (
        lambda: _core.op_attention(X, np.array([2.0]), 1),
        TypeError,
        "lengths: expected dtype int64",
    ),
    "pool shape": (
        lambda: _core.op_attention_pool(IMAGE[0], POOL, 1, 3),
        ValueError,
        r"expected \[5, 2\]|missing",
    ),
    "pool heads": (
        lambda: _core.op_attention_pool(IMAGE[0], POOL, 3, 3),
        ValueError,
        "heads: expected 1 to 2, got 3",
    ),
    "pool names": (lambda: _core.op_attention_pool(IMAGE[0], {1: X}, 1, 3), TypeError, "bad argument type"),
    "layernorm": (
        lambda: _core.op_layernorm(X, X[0, :2], X[0]),
        ValueError,
        r"weight: expected shape \(3,\), got \(2,\)",
    ),
    "tensor type": (
        lambda: _core.op_convert(X.astype(int)),
        ValueError,
        "tensor: expected float32, float16 or bfloat16, got int64",
    ),
    "tensor rank": (
        lambda: _core.op_convert(np.ones((1,) * 5, np.float32)),
        ValueError,
        "at most 4 dimensions, got 5",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused(name):
    call, error, message = REFUSED[name]
    for _ in range(3):  # a reference lost or dropped twice would show
        with pytest.raises(error, match=message):
            call()
