"""Boxes: overlap, non-maximum suppression and Soft-NMS, against plain loops in Python's double precision."""

import math
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clipc import _core

NAN, INF = float("nan"), float("inf")


def reference_iou(a, b):
    ax0, ay0, ax1, ay1 = map(float, a)
    bx0, by0, bx1, by1 = map(float, b)
    width = min(ax1, bx1) - max(ax0, bx0)
    height = min(ay1, by1) - max(ay0, by0)
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inter)


def reference_nms(boxes, scores, threshold, classes):
    left = sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [
            i
            for i in left
            if classes[i] != classes[best] or not reference_iou(boxes[i], boxes[best]) > threshold
        ]
    return kept


def reference_soft_nms(boxes, scores, classes, kind, sigma, iou, threshold):
    scores = {i: float(score) for i, score in enumerate(scores)}
    taken = []
    while scores:
        best = min(scores, key=lambda i: (-scores[i], i))
        score = scores.pop(best)
        if score < threshold:
            break
        taken.append((best, score))
        for i in scores:
            if classes[i] == classes[best]:
                overlap = reference_iou(boxes[best], boxes[i])
                if kind == "linear":
                    scores[i] *= 1 - overlap if overlap > iou else 1
                else:
                    scores[i] *= math.exp(-(overlap**2) / sigma)
    return taken


def boxes_array(boxes):
    return np.array(boxes, np.float32).reshape(-1, 4)


@st.composite
def boxes_strategy(draw, max_size=25):
    """Boxes on a small grid: many are equal, touch, or have no area."""
    step = draw(st.sampled_from([1.0, 0.1, 137.25]))
    corner = st.integers(0, 6)
    boxes = draw(st.lists(st.tuples(corner, corner, corner, corner), max_size=max_size))
    grid = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    return np.array(grid, np.float32).reshape(-1, 4) * np.float32(step) - np.float32(step)


@st.composite
def scored_boxes(draw):
    boxes = draw(boxes_strategy())
    n = len(boxes)
    # Few values, so there are ties.
    scores = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.9, 0.90001, 1.0]), min_size=n, max_size=n))
    classes = draw(
        st.none() | st.lists(st.sampled_from([-7, 0, 1, 2**40]), min_size=n, max_size=n).map(np.int64)
    )
    return boxes, np.array(scores, np.float32), classes


THRESHOLDS = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 1.0]) | st.floats(0, 1)


def classes_or_zeros(classes, n):
    return [0] * n if classes is None else classes.tolist()


@settings(deadline=None, max_examples=150)
@given(boxes_strategy(), boxes_strategy())
def test_iou_equals_the_formula(a, b):
    result = _core.box_iou(a, b)
    assert result.dtype == np.float32 and result.shape == (len(a), len(b))
    expected = np.array([[reference_iou(x, y) for y in b] for x in a]).reshape(len(a), len(b))
    assert np.array_equal(result, expected.astype(np.float32))


def test_iou_of_known_boxes():
    a = boxes_array([[0, 0, 2, 2], [0, 0, 0, 0], [5, 5, 5, 9]])
    b = boxes_array([[0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2], [0, 0, 4, 4], [5, 5, 5, 9], [-1, -1, 9, 9]])
    expected = np.array([[1, 1 / 3, 0, 1 / 4, 0, 4 / 100], [0] * 6, [0] * 6], np.float32)
    assert np.array_equal(_core.box_iou(a, b), expected)


def test_iou_of_extreme_boxes():
    """No overflow, no underflow, never above 1."""
    rng = np.random.default_rng(0)
    scales = 10.0 ** rng.integers(-37, 38, (60, 1, 1))
    corners = np.sort(rng.uniform(-3, 3, (60, 2, 2)) * scales, axis=1)
    boxes = corners.reshape(60, 4).astype(np.float32)
    overlap = _core.box_iou(boxes, boxes)
    assert np.isfinite(overlap).all() and overlap.min() >= 0 and overlap.max() == 1
    assert np.array_equal(np.diag(overlap), np.ones(60))
    assert np.array_equal(overlap, overlap.T)


def test_iou_of_many_boxes():
    """More pairs than one loop takes; the same with any number of threads."""
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 100, (9000, 2, 2)).astype(np.float32)
    a = np.sort(corners, axis=1).reshape(-1, 4)
    b = a[:2000]
    result = _core.box_iou(a, b)
    sample = zip(rng.integers(0, 9000, 20000).tolist(), rng.integers(0, 2000, 20000).tolist())
    for i, j in [*sample, (0, 0), (8999, 1999)]:
        assert result[i, j] == np.float32(reference_iou(a[i], b[j]))
    before = _core.get_num_threads()
    try:
        for threads in (1, 3):
            _core.set_num_threads(threads)
            assert np.array_equal(_core.box_iou(a, b), result)
    finally:
        _core.set_num_threads(before)
    # Tasks of single rows, tasks of many, and every row of the whole alone.
    wide = np.tile(b, (9, 1))
    assert np.array_equal(_core.box_iou(a[:3], wide), np.tile(result[:3], 9))
    assert np.array_equal(_core.box_iou(a, b[:1]), result[:, :1])
    for i in range(0, 9000, 90):
        assert np.array_equal(_core.box_iou(a[i : i + 1], b)[0], result[i])


@settings(deadline=None, max_examples=300)
@given(scored_boxes(), THRESHOLDS)
@example((boxes_array([[0, 0, 2, 1], [1, 0, 3, 1]]), np.float32([1, 1]), None), 1 / 3)
def test_nms_equals_plain_loops(scored, threshold):
    boxes, scores, classes = scored
    kept = _core.nms(boxes, scores, threshold, classes)
    assert kept.dtype == np.int64 and kept.ndim == 1
    assert kept.tolist() == reference_nms(boxes, scores, threshold, classes_or_zeros(classes, len(boxes)))


@settings(deadline=None, max_examples=100)
@given(scored_boxes(), THRESHOLDS)
def test_nms_of_what_stayed_changes_nothing(scored, threshold):
    boxes, scores, classes = scored
    kept = _core.nms(boxes, scores, threshold, classes)
    again = _core.nms(boxes[kept], scores[kept], threshold, None if classes is None else classes[kept])
    assert again.tolist() == list(range(len(kept)))


def test_nms_at_the_threshold():
    boxes = boxes_array([[0, 0, 2, 2], [0, 0, 2, 1], [0, 0, 2, 2]])  # IoU 1/2 and 1
    scores = np.float32([0.9, 0.8, 0.9])
    assert _core.nms(boxes, scores, 0.5).tolist() == [0, 1]  # equal is not greater
    assert _core.nms(boxes, scores, np.nextafter(0.5, 0)).tolist() == [0]
    assert _core.nms(boxes, scores, 1.0).tolist() == [0, 2, 1]
    assert _core.nms(boxes, scores, 0.0).tolist() == [0]
    touching = boxes_array([[0, 0, 1, 1], [1, 0, 2, 1], [0, 1, 1, 2]])
    assert _core.nms(touching, scores, 0.0).tolist() == [0, 2, 1]
    empty = boxes_array([[3, 3, 3, 3]] * 3)
    assert _core.nms(empty, scores, 0.0).tolist() == [0, 2, 1]


def test_nms_of_many_boxes():
    rng = np.random.default_rng(2)
    n = 600
    corner = rng.uniform(0, 300, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 60, (n, 2))], axis=1).astype(np.float32)
    scores = rng.integers(-50, 50, n).astype(np.float32)
    classes = rng.integers(0, 5, n)
    for given_classes in (None, classes):
        kept = _core.nms(boxes, scores, 0.4, given_classes)
        assert kept.tolist() == reference_nms(boxes, scores, 0.4, classes_or_zeros(given_classes, n))


@settings(deadline=None, max_examples=300)
@given(
    scored_boxes(),
    st.sampled_from(["gaussian", "linear"]),
    st.sampled_from([0.5, 0.1, 3.0]),
    THRESHOLDS,
    st.sampled_from([0.0, 0.001, 0.25, 0.5, 1.0, 2.0]),
)
def test_soft_nms_equals_plain_loops(scored, kind, sigma, iou, threshold):
    boxes, scores, classes = scored
    options = {"kind": kind, "sigma": sigma, "iou": iou, "threshold": threshold}
    taken, new_scores = _core.soft_nms(boxes, scores, classes=classes, **options)
    assert taken.dtype == np.int64 and new_scores.dtype == np.float32 and taken.shape == new_scores.shape
    expected = reference_soft_nms(boxes, scores, classes_or_zeros(classes, len(boxes)), **options)
    assert taken.tolist() == [i for i, _ in expected]
    # The same arithmetic; exp of the C library may differ by a unit in the last place of a double.
    np.testing.assert_allclose(new_scores, [score for _, score in expected], rtol=1e-6)


def test_soft_nms_of_known_boxes():
    boxes = boxes_array([[0, 0, 2, 2], [0, 0, 2, 1], [9, 9, 10, 10]])
    scores = np.float32([0.8, 0.6, 0.5])
    taken, new_scores = _core.soft_nms(boxes, scores)  # gaussian, sigma 0.5
    assert taken.tolist() == [0, 2, 1]
    np.testing.assert_allclose(new_scores, [0.8, 0.5, 0.6 * math.exp(-0.25 / 0.5)], rtol=1e-6)
    taken, new_scores = _core.soft_nms(boxes, scores, kind="linear", threshold=0.31)
    assert taken.tolist() == [0, 2]
    taken, new_scores = _core.soft_nms(boxes, scores, kind="linear", iou=0.5)
    assert taken.tolist() == [0, 1, 2] and np.array_equal(new_scores, scores)
    taken, new_scores = _core.soft_nms(boxes, scores, kind="linear", classes=np.int64([1, 2, 1]))
    assert taken.tolist() == [0, 1, 2] and np.array_equal(new_scores, scores)


@pytest.mark.parametrize("classes", [None, np.zeros(0, np.int64)])
def test_no_boxes(classes):
    boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    assert _core.box_iou(boxes, boxes).shape == (0, 0)
    assert _core.box_iou(boxes, np.zeros((3, 4), np.float32)).shape == (0, 3)
    assert _core.box_iou(np.zeros((3, 4), np.float32), boxes).shape == (3, 0)
    kept = _core.nms(boxes, scores, 0.5, classes)
    assert kept.shape == (0,) and kept.dtype == np.int64
    taken, new_scores = _core.soft_nms(boxes, scores, classes=classes)
    assert taken.shape == new_scores.shape == (0,)


def test_strided_and_read_only_arrays():
    rng = np.random.default_rng(3)
    boxes = np.sort(rng.uniform(0, 9, (40, 2, 2)).astype(np.float32), axis=1).reshape(-1, 4)
    scores = rng.uniform(size=40).astype(np.float32)
    expected = _core.nms(boxes, scores, 0.3)
    wide = np.zeros((40, 8), np.float32)
    wide[:, ::2] = boxes
    boxes.setflags(write=False)
    assert np.array_equal(_core.nms(boxes, np.repeat(scores, 2)[::2], 0.3), expected)
    assert np.array_equal(_core.nms(wide[:, ::2], scores, 0.3), expected)
    assert np.array_equal(_core.box_iou(wide[:, ::2], boxes), _core.box_iou(boxes, boxes))


INTERRUPTED = """
import numpy as np
from clipc import _core
n = 300_000  # boxes that do not touch: hours of pairs
x = np.arange(n, dtype=np.float32)
boxes = np.stack([x, x * 0, x + np.float32(0.5), x * 0 + 1], axis=1)
scores = np.ones(n, np.float32)
print("ready", flush=True)
try:
    _core.{call}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("call", ["nms(boxes, scores, 0.5)", "soft_nms(boxes, scores)"])
def test_ctrl_c_ends_a_long_call(call):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED.format(call=call)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert output == "interrupted\n"


def one_box(*values):
    return boxes_array([values])


ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: _core.box_iou([[0, 0, 1, 1]], one_box(0, 0, 1, 1)), TypeError, "a: expected a NumPy array"),
        (
            lambda: _core.box_iou(one_box(0, 0, 1, 1), np.zeros((1, 4))),
            TypeError,
            "b: expected dtype float32",
        ),
        (
            lambda: _core.box_iou(np.zeros(4, np.float32), one_box(0, 0, 1, 1)),
            ValueError,
            "a: expected shape",
        ),
        (
            lambda: _core.box_iou(one_box(0, 0, 1, 1), np.zeros((2, 5), np.float32)),
            ValueError,
            "b: expected shape",
        ),
        (lambda: _core.box_iou(one_box(0, 0, 1, 1), one_box(0, 0, NAN, 1)), ValueError, "b: expected finite"),
        (lambda: _core.box_iou(one_box(0, 0, INF, 1), one_box(0, 0, 1, 1)), ValueError, "a: expected finite"),
        (
            lambda: _core.box_iou(boxes_array([[0, 0, 1, 1], [2, 0, 1, 1]]), one_box(0, 0, 1, 1)),
            ValueError,
            r"a: expected x0 <= x1 and y0 <= y1, box 1 is \(2, 0, 1, 1\)",
        ),
        (lambda: _core.nms(one_box(0, 1, 1, 0), ONE, 0.5), ValueError, "boxes: expected x0 <= x1"),
        (
            lambda: _core.nms(one_box(0, 0, 1, 1), np.float32([NAN]), 0.5),
            ValueError,
            "scores: expected finite",
        ),
        (
            lambda: _core.nms(one_box(0, 0, 1, 1), np.float32([INF]), 0.5),
            ValueError,
            "scores: expected finite",
        ),
        (
            lambda: _core.nms(one_box(0, 0, 1, 1), np.ones(2, np.float32), 0.5),
            ValueError,
            "scores: expected shape",
        ),
        (lambda: _core.nms(one_box(0, 0, 1, 1), np.ones(1), 0.5), TypeError, "scores: expected dtype"),
        (
            lambda: _core.nms(one_box(0, 0, 1, 1), ONE, -0.1),
            ValueError,
            "threshold: expected a number from 0 to 1",
        ),
        (lambda: _core.nms(one_box(0, 0, 1, 1), ONE, 1.5), ValueError, "threshold: .* got 1.5"),
        (lambda: _core.nms(one_box(0, 0, 1, 1), ONE, NAN), ValueError, "threshold: .* got nan"),
        (lambda: _core.nms(one_box(0, 0, 1, 1), ONE, "high"), TypeError, None),
        (
            lambda: _core.nms(one_box(0, 0, 1, 1), ONE, 0.5, np.ones(1, np.int32)),
            TypeError,
            "classes: expected dtype",
        ),
        (
            lambda: _core.nms(one_box(0, 0, 1, 1), ONE, 0.5, np.ones(2, np.int64)),
            ValueError,
            "classes: expected shape",
        ),
        (lambda: _core.soft_nms(one_box(0, 0, NAN, 1), ONE), ValueError, "boxes: expected finite"),
        (
            lambda: _core.soft_nms(one_box(0, 0, 1, 1), np.float32([-INF])),
            ValueError,
            "scores: expected finite",
        ),
        (lambda: _core.soft_nms(one_box(0, 0, 1, 1), ONE, kind="hard"), ValueError, "kind: .* got 'hard'"),
        (lambda: _core.soft_nms(one_box(0, 0, 1, 1), ONE, kind=1), TypeError, None),
        (lambda: _core.soft_nms(one_box(0, 0, 1, 1), ONE, sigma=0), ValueError, "sigma: expected a positive"),
        (
            lambda: _core.soft_nms(one_box(0, 0, 1, 1), ONE, sigma=INF),
            ValueError,
            "sigma: expected a positive",
        ),
        (
            lambda: _core.soft_nms(one_box(0, 0, 1, 1), ONE, iou=2),
            ValueError,
            "iou: expected a number from 0",
        ),
        (
            lambda: _core.soft_nms(one_box(0, 0, 1, 1), ONE, threshold=-1),
            ValueError,
            "threshold: .* not negative",
        ),
        (
            lambda: _core.soft_nms(one_box(0, 0, 1, 1), ONE, threshold=NAN),
            ValueError,
            "threshold: .* not negative",
        ),
        (lambda: _core.soft_nms(one_box(0, 0, 1, 1), ONE, None), TypeError, None),
        (
            lambda: _core.soft_nms(one_box(0, 0, 1, 1), ONE, classes=np.ones((1, 1), np.int64)),
            ValueError,
            "classes: expected shape",
        ),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()
