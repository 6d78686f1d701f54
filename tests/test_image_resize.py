"""Resize, crop and normalise: every bit as Pillow, torchvision's arithmetic and float32 have it."""

import resource

import numpy as np
import pytest
from availability import require
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipc import _core
from clipc.image import seen_box

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def noise(height, width, seed=0):
    return np.random.default_rng((seed, height, width)).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow_resize(rgb, width, height):
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))


def pillow_begins_along_rows():
    """Whether the installed Pillow is older than 13, which begins along the columns of tall images."""
    tall = noise(60, 9)
    return not np.array_equal(pillow_resize(tall, 5, 31), _core.resize(tall, 5, 31))


ROWS_FIRST = pillow_begins_along_rows()


def torchvision_geometry(height, width, size):
    """`Resize(size)` and `CenterCrop(size)` of torchvision, for a PIL image."""
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = size, int(size * long / short)
    new_width, new_height = (new_short, new_long) if width <= height else (new_long, new_short)
    top = round((new_height - size) / 2.0)
    left = round((new_width - size) / 2.0)
    return new_height, new_width, top, left


def reference_crop(rgb, size):
    new_height, new_width, top, left = torchvision_geometry(*rgb.shape[:2], size)
    return pillow_resize(rgb, new_width, new_height)[top : top + size, left : left + size]


def test_order_of_the_two_passes_is_one_of_the_two_known():
    tall = noise(60, 9)
    assert np.array_equal(pillow_resize(tall, 5, 31), _core.resize(tall, 5, 31, rows_first=ROWS_FIRST))
    assert not np.array_equal(_core.resize(tall, 5, 31), _core.resize(tall, 5, 31, rows_first=True))
    wide = noise(9, 60)
    assert np.array_equal(_core.resize(wide, 31, 5), _core.resize(wide, 31, 5, rows_first=True))


@settings(deadline=None, max_examples=250)
@given(st.integers(1, 260), st.integers(1, 260), st.integers(1, 120))
@example(1, 1, 1)
@example(1, 1, 224)
@example(2, 1, 336)
@example(224, 224, 224)
@example(224, 300, 224)
@example(300, 224, 224)
@example(225, 224, 224)
@example(640, 480, 336)
@example(480, 640, 224)
@example(1000, 300, 224)  # more than twice as tall as wide: the order of the passes matters
@example(7, 400, 32)
@example(400, 7, 32)
def test_resize_crop_equals_pillow(height, width, size):
    rgb = noise(height, width)
    assert np.array_equal(_core.resize_crop(rgb, size, rows_first=ROWS_FIRST), reference_crop(rgb, size))


@settings(deadline=None, max_examples=250)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 200), st.integers(1, 200))
@example(1, 1, 1, 1)
@example(1, 200, 200, 1)
@example(200, 1, 1, 200)
@example(31, 17, 31, 40)
@example(31, 17, 40, 17)
def test_resize_equals_pillow(height, width, new_height, new_width):
    rgb = noise(height, width)
    assert np.array_equal(
        _core.resize(rgb, new_width, new_height, rows_first=ROWS_FIRST),
        pillow_resize(rgb, new_width, new_height),
    )


@pytest.mark.parametrize("height, width", [(1, 30000), (30000, 1), (3, 20011), (20011, 3)])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_elongated_equals_pillow(height, width, size):
    rgb = noise(height, width)
    assert np.array_equal(_core.resize_crop(rgb, size, rows_first=ROWS_FIRST), reference_crop(rgb, size))


@pytest.mark.parametrize("height, width", [(1, 30000), (30000, 1)])
def test_elongated_needs_little_memory(height, width):
    """The whole resized image would be 224 x 6,720,000 pixels."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    crop = _core.resize_crop(noise(height, width), 224)
    assert crop.shape == (224, 224, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB (bytes on macOS: less)


@pytest.mark.parametrize("value", [0, 1, 127, 255])
def test_constant_image_stays_constant(value):
    rgb = np.full((37, 91, 3), value, np.uint8)
    assert (_core.resize_crop(rgb, 64) == value).all()


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1), st.integers(1, 16384))
@example(427, 640, 224)
@example(224, 227, 224)
@example(231, 224, 224)
@example(1, 2**31 - 1, 16384)
def test_crop_geometry_equals_torchvision(height, width, size):
    assert _core.crop_geometry(height, width, size) == torchvision_geometry(height, width, size)


@pytest.mark.parametrize(
    "surplus, offset", [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 4), (11, 6)]
)
def test_crop_offset_rounds_half_to_even(surplus, offset):
    assert _core.crop_geometry(224, 224 + surplus, 224) == (224, 224 + surplus, 0, offset)


def test_seen_box():
    assert seen_box(480, 480, 224) == (0.0, 0.0, 480.0, 480.0)
    x0, y0, x1, y1 = seen_box(480, 640, 224)
    assert (y0, y1) == (0.0, 480.0)
    assert x1 - x0 == pytest.approx(480, abs=3)  # 298.67 columns were cut to 298
    assert x0 + x1 == pytest.approx(640, abs=3)
    assert seen_box(640, 480, 224) == (y0, x0, y1, x1)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 60))
def test_floats_equal_a_numpy_transcription(height, width, size):
    rgb = noise(height, width)
    pixels = _core.resize_crop(rgb, size)
    # torchvision: ToTensor divides by 255, Normalize subtracts and divides; float32 throughout.
    expected = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    expected -= np.array(MEAN, np.float32)[:, None, None]
    expected /= np.array(STD, np.float32)[:, None, None]
    result = _core.preprocess(rgb, size, MEAN, STD)
    assert result.dtype == np.float32 and result.shape == (3, size, size)
    assert np.array_equal(result, expected)


def test_floats_equal_torch():
    torch = require("torch")
    rgb = noise(240, 320)
    tensor = (
        torch.from_numpy(_core.resize_crop(rgb, 224).transpose(2, 0, 1).copy()).to(torch.float32).div(255)
    )
    mean, std = (torch.as_tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (MEAN, STD))
    assert np.array_equal(_core.preprocess(rgb, 224, MEAN, STD), tensor.sub_(mean).div_(std).numpy())


def test_result_does_not_depend_on_the_number_of_threads():
    rgb = noise(333, 517)
    before = _core.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            _core.set_num_threads(n)
            results.append(_core.preprocess(rgb, 97, MEAN, STD))
    finally:
        _core.set_num_threads(before)
    assert all(np.array_equal(result, results[0]) for result in results)


def test_out_is_written_and_returned():
    out = np.zeros((2, 3, 8, 8), np.float32)
    result = _core.preprocess(noise(9, 9), 8, MEAN, STD, out=out[1])
    assert np.shares_memory(result, out)
    assert np.array_equal(out[1], _core.preprocess(noise(9, 9), 8, MEAN, STD))
    assert not out[0].any()


def test_readonly_and_strided_arrays():
    rgb = noise(30, 40)
    expected = _core.resize_crop(rgb, 16)
    rgb.setflags(write=False)
    assert np.array_equal(_core.resize_crop(rgb, 16), expected)
    wide = np.zeros((30, 80, 3), np.uint8)
    wide[:, ::2] = rgb
    assert np.array_equal(_core.resize_crop(wide[:, ::2], 16), expected)
    assert np.array_equal(_core.resize_crop(rgb[::-1, :, ::-1][::-1, :, ::-1], 16), expected)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (
            lambda: _core.resize_crop(noise(4, 4).astype(np.float32), 4),
            TypeError,
            "rgb: expected dtype uint8, got float32",
        ),
        (lambda: _core.resize_crop(noise(4, 4)[:, :, 0], 4), ValueError, "rgb: expected shape"),
        (lambda: _core.resize_crop(np.zeros((4, 4, 4), np.uint8), 4), ValueError, "rgb: expected shape"),
        (lambda: _core.resize_crop(np.zeros((0, 4, 3), np.uint8), 4), ValueError, "sides from 1"),
        (lambda: _core.resize_crop([[1]], 4), TypeError, "NumPy array"),
        (lambda: _core.resize_crop(noise(4, 4), 0), ValueError, "size: expected 1 to 16384"),
        (lambda: _core.resize_crop(noise(4, 4), -1), ValueError, "size: expected 1 to 16384"),
        (lambda: _core.resize_crop(noise(4, 4), 16385), ValueError, "size: expected 1 to 16384"),
        (lambda: _core.resize_crop(noise(4, 4), 2**70), OverflowError, None),
        (lambda: _core.resize(noise(4, 4), 0, 4), ValueError, "width: expected 1 to"),
        (lambda: _core.resize(noise(4, 4), 4, 2**40), ValueError, "height: expected 1 to"),
        (lambda: _core.crop_geometry(0, 4, 4), ValueError, "height: expected"),
        (lambda: _core.preprocess(noise(4, 4), 4, (0, 0), STD), TypeError, None),
        (
            lambda: _core.preprocess(noise(4, 4), 4, (0, 0, float("nan")), STD),
            ValueError,
            "mean: expected three finite",
        ),
        (
            lambda: _core.preprocess(noise(4, 4), 4, MEAN, (1, 1, 0)),
            ValueError,
            "std: expected three finite positive",
        ),
        (
            lambda: _core.preprocess(noise(4, 4), 4, MEAN, STD, out=np.zeros((3, 4, 5), np.float32)),
            ValueError,
            "out: ",
        ),
        (lambda: _core.preprocess(noise(4, 4), 4, MEAN, STD, out=np.zeros((3, 4, 4))), TypeError, "out: "),
        (
            lambda: _core.preprocess(
                noise(4, 4), 4, MEAN, STD, out=np.zeros((3, 4, 8), np.float32)[:, :, ::2]
            ),
            ValueError,
            "C-contiguous",
        ),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()
