"""Regions of a picture, resized and normalised: every bit as Pillow's crop and resize have it."""

import math
import subprocess
import sys

import numpy as np
import pytest
from core_process import environment
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipc import _core

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def noise(height, width, seed=0):
    return np.random.default_rng((seed, height, width)).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalise(pixels):
    values = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    return (values - np.array(MEAN, np.float32)[:, None, None]) / np.array(STD, np.float32)[:, None, None]


def crops(rgb, boxes, size, core=_core, **options):
    boxes = np.array(boxes, np.int64).reshape(-1, 4)
    result = core.crops(rgb, boxes, size, MEAN, STD, **options)
    assert result.dtype == np.float32 and result.shape == (len(boxes), 3, size, size)
    return result


def share(part, whole, size):
    return math.floor(part * size / whole + 0.5)


def shared_out(box, height, width, size):
    """The visible part of a region, and the rectangle of the square that it fills."""
    x0, y0, x1, y1 = box
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if left >= right or top >= bottom:
        return None
    columns = [share(x - x0, x1 - x0, size) for x in (left, right)]
    rows = [share(y - y0, y1 - y0, size) for y in (top, bottom)]
    if columns[0] == columns[1] or rows[0] == rows[1]:
        return None
    return (left, top, right, bottom), (columns[0], rows[0], columns[1], rows[1])


def reference(rgb, box, size, resize):
    out = np.zeros((3, size, size), np.float32)
    parts = shared_out(box, *rgb.shape[:2], size)
    if parts is not None:
        (left, top, right, bottom), (x0, y0, x1, y1) = parts
        region = np.ascontiguousarray(rgb[top:bottom, left:right])
        out[:, y0:y1, x0:x1] = normalise(resize(region, x1 - x0, y1 - y0))
    return out


def pillow_resize(region, width, height):
    return np.asarray(Image.fromarray(region).resize((width, height), Image.Resampling.BICUBIC))


def pillow_begins_along_rows():
    """Whether the installed Pillow is older than 13, which begins along the columns of tall images."""
    tall = noise(60, 9)
    return not np.array_equal(pillow_resize(tall, 5, 31), _core.resize(tall, 5, 31))


OLD_PILLOW = pillow_begins_along_rows()


def oracle(region, width, height):
    """Pillow 13; for an older one `_core.resize`, which is compared with Pillow in test_image_resize.py."""
    return _core.resize(region, width, height) if OLD_PILLOW else pillow_resize(region, width, height)


@st.composite
def pictures_and_boxes(draw):
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    x = st.integers(-40, width + 40)
    y = st.integers(-40, height + 40)
    boxes = draw(st.lists(st.tuples(x, y, x, y), min_size=1, max_size=4))
    boxes = [(min(a, c), min(b, d), max(a, c) + (a == c), max(b, d) + (b == d)) for a, b, c, d in boxes]
    return noise(height, width), boxes


@settings(deadline=None, max_examples=250)
@given(pictures_and_boxes(), st.integers(1, 70))
@example((noise(50, 60), [(0, 0, 60, 50)]), 32)  # the whole picture
@example((noise(50, 60), [(10, 7, 42, 39), (0, 0, 32, 32)]), 32)  # as large as the square
@example((noise(50, 60), [(59, 49, 60, 50), (0, 0, 1, 1)]), 33)  # one pixel
@example((noise(50, 60), [(10, 0, 11, 50), (0, 20, 60, 21)]), 16)  # one column, one row
@example((noise(90, 12), [(1, 1, 11, 89)]), 8)  # tall: begins along the columns
@example((noise(50, 60), [(-10, -10, 70, 60), (-5, 10, 20, 35)]), 40)
@example((noise(50, 60), [(60, 0, 70, 10), (-9, -9, 0, 0)]), 8)  # beside the picture
@example((noise(50, 60), [(-1000, -1000, 1, 1)]), 8)  # a share of less than half a pixel
def test_equals_pillow(picture, size):
    rgb, boxes = picture
    result = crops(rgb, boxes, size)
    for crop, box in zip(result, boxes):
        assert np.array_equal(crop, reference(rgb, box, size, oracle))


@pytest.mark.parametrize("size", [224, 37])
def test_every_instruction_set_equals_pillow(core, size):
    """Regions wider than the span that the AVX2 kernel transposes, and filters longer than it; odd sizes."""
    rgb = noise(211, 3001)
    boxes = [
        (0, 0, 3001, 211),
        (3, 5, 2998, 208),
        (1, 0, 2, 211),
        (100, 100, 611, 205),
        (100, 3, 333, 10),
        (7, 7, 231, 208),
        (2800, 0, 3300, 300),
    ]
    for crop, box in zip(crops(rgb, boxes, size, core=core), boxes):
        assert np.array_equal(crop, reference(rgb, box, size, oracle))


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_every_instruction_set_resizes_the_longest_filters(core, width):
    rgb = noise(9, 5003)
    assert np.array_equal(core.resize(rgb, width, 9), oracle(rgb, width, 9))
    assert np.array_equal(core.resize(rgb, width, 4), oracle(rgb, width, 4))
    tall = np.ascontiguousarray(rgb.transpose(1, 0, 2))
    assert np.array_equal(core.resize(tall, 9, width), oracle(tall, 9, width))
    assert np.array_equal(core.resize(tall, 4, width), oracle(tall, 4, width))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.integers(1, 70))
def test_every_instruction_set_resizes(core, height, width, new_height, new_width):
    rgb = noise(height, width)
    assert np.array_equal(core.resize(rgb, new_width, new_height), oracle(rgb, new_width, new_height))


def test_what_lies_around_a_region_has_no_influence():
    rgb = noise(80, 100)
    box = (20, 30, 77, 66)
    expected = crops(rgb, [box], 24)
    other = noise(80, 100, seed=1)
    other[30:66, 20:77] = rgb[30:66, 20:77]
    assert np.array_equal(crops(other, [box], 24), expected)
    assert np.array_equal(crops(rgb[30:66, 20:77].copy(), [(0, 0, 57, 36)], 24), expected)


def test_missing_parts_are_the_mean_colour():
    """A region of which the lower right quarter is visible: the others are 0, and no edge is blended."""
    rgb = np.full((30, 30, 3), 255, np.uint8)
    (crop,) = crops(rgb, [(-20, -20, 20, 20)], 16)
    white = (1 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    assert np.array_equal(crop[:, 8:, 8:], np.broadcast_to(white[:, None, None], (3, 8, 8)))
    assert not crop[:, :8].any() and not crop[:, :, :8].any()


def windows(rng, n, height, width):
    """Windows of a few sizes and boxes of any, some of them beyond the picture."""
    sides = rng.choice([16, 33, 50], n)
    x, y = rng.integers(-20, width, n), rng.integers(-20, height, n)
    boxes = np.stack([x, y, x + sides, y + sides], axis=1)
    boxes[::3, 2:] += rng.integers(0, 60, (len(boxes[::3]), 2))
    return boxes


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_many_crops_equal_one_by_one(threads):
    """More than a batch."""
    rgb = noise(130, 170)
    boxes = windows(np.random.default_rng(0), 700, 130, 170)
    before = _core.get_num_threads()
    try:
        _core.set_num_threads(threads)
        together = crops(rgb, boxes, 20)
        for i in range(0, 700, 7):
            assert np.array_equal(together[i], crops(rgb, boxes[i], 20)[0])
        assert np.array_equal(together[:3], crops(rgb, boxes[:3], 20))  # fewer than five threads
    finally:
        _core.set_num_threads(before)
    for i in range(0, 700, 50):
        assert np.array_equal(together[i], reference(rgb, boxes[i].tolist(), 20, oracle))


def test_out_is_written_and_returned():
    rgb = noise(40, 50)
    boxes = np.int64([[0, 0, 20, 20], [-10, 5, 30, 60], [60, 60, 70, 70]])
    expected = crops(rgb, boxes, 8)
    out = np.full((5, 3, 8, 8), np.nan, np.float32)
    result = crops(rgb, boxes, 8, out=out[1:4])
    assert np.shares_memory(result, out)
    assert np.array_equal(out[1:4], expected)
    assert np.isnan(out[[0, 4]]).all()


def test_no_boxes():
    assert crops(noise(4, 4), np.zeros((0, 4)), 8).shape == (0, 3, 8, 8)


def test_strided_arrays():
    rgb = noise(40, 50)
    boxes = np.int64([[3, 4, 30, 20], [0, 0, 25, 20]])
    expected = crops(rgb[::2, ::2].copy(), boxes, 9)
    wide = np.zeros((2, 8), np.int64)
    wide[:, ::2] = boxes
    rgb.setflags(write=False)
    assert np.array_equal(_core.crops(rgb[::2, ::2], wide[:, ::2], 9, MEAN, STD), expected)


def test_the_farthest_boxes():
    rgb = noise(10, 10)
    far = 2**31 - 1
    result = crops(rgb, [(-far, -far, far, far), (far - 1, 0, far, 10), (0, 0, far, 10)], 4)
    assert not result.any()


MEMORY = """
import resource
import numpy as np
from clipc import _core
rgb = np.full((5774, 8660, 3), 100, np.uint8)  # 50 megapixels
out = np.zeros((40, 3, 224, 224), np.float32)
boxes = np.tile(np.int64([0, 0, 8660, 5774]), (40, 1))
boxes[:, 2] -= np.arange(40) * 7  # no two share their filters
boxes[:, 3] -= np.arange(40) * 5
_core.set_num_threads({threads})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
_core.crops(rgb, boxes[:{n}], 224, (0, 0, 0), (1, 1, 1), out=out[:{n}])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.memory
@pytest.mark.parametrize("threads, n", [(1, 1), (2, 40), (64, 40)])
def test_a_huge_picture_needs_little_memory(threads, n):
    """A copy of a region would be 150 MB; 16 MB are allowed, and the filters of a batch come on top."""
    code = MEMORY.format(threads=threads, n=n)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert run.returncode == 0, run.stderr
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(run.stdout) * unit < 40e6


def call(rgb=None, boxes=((0, 0, 4, 4),), size=4, mean=MEAN, std=STD, dtype=np.int64, **options):
    rgb = noise(6, 6) if rgb is None else rgb
    return _core.crops(rgb, np.array(boxes, dtype), size, mean, std, **options)


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"rgb": noise(6, 6).astype(np.float32)}, TypeError, "rgb: expected dtype uint8"),
        ({"rgb": noise(6, 6)[:, :, 0]}, ValueError, "rgb: expected shape"),
        ({"rgb": np.zeros((0, 6, 3), np.uint8)}, ValueError, "sides from 1"),
        ({"dtype": np.int32}, TypeError, "boxes: expected dtype int64"),
        ({"dtype": np.float32}, TypeError, "boxes: expected dtype int64"),
        ({"boxes": (0, 0, 4, 4)}, ValueError, "boxes: expected shape"),
        ({"boxes": ((0, 0, 4),)}, ValueError, "boxes: expected shape"),
        (
            {"boxes": ((0, 0, 4, 4), (3, 0, 3, 4))},
            ValueError,
            r"x0 < x1 and y0 < y1, box 1 is \(3, 0, 3, 4\)",
        ),
        ({"boxes": ((0, 4, 4, 0),)}, ValueError, "x0 < x1 and y0 < y1"),
        ({"boxes": ((0, 0, 4, 2**31),)}, ValueError, "box 0 has 2147483648"),
        ({"boxes": ((-(2**63), 0, 4, 4),)}, ValueError, "boxes: expected coordinates from"),
        ({"size": 0}, ValueError, "size: expected 1 to 16384"),
        ({"size": 16385}, ValueError, "size: expected 1 to 16384"),
        ({"mean": (0, 0, math.inf)}, ValueError, "mean: expected three finite"),
        ({"std": (0, 1, 1)}, ValueError, "std: expected three finite positive"),
        ({"mean": (0, 0)}, TypeError, None),
        ({"out": np.zeros((2, 3, 4, 4), np.float32)}, ValueError, "out: expected shape"),
        ({"out": np.zeros((1, 3, 4, 4))}, TypeError, "out: expected dtype"),
        ({"out": np.zeros((1, 3, 4, 8), np.float32)[..., ::2]}, ValueError, "out: .*C-contiguous"),
    ],
)
def test_wrong_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        call(**arguments)
