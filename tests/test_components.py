"""Connected components, against a flood fill and SciPy."""

import numpy as np
import pytest
from availability import require
from hypothesis import example, given, settings
from hypothesis.extra import numpy as arrays

from clipc import _core


def flood_fill(mask):
    """The definition: start at each pixel without a number, in reading order, and follow the neighbours."""
    height, width = mask.shape
    labels = np.zeros(mask.shape, np.int32)
    n = 0
    for y, x in np.argwhere(mask):
        if labels[y, x]:
            continue
        n += 1
        labels[y, x] = n
        stack = [(y, x)]
        while stack:
            y, x = stack.pop()
            for j in range(max(y - 1, 0), min(y + 2, height)):
                for i in range(max(x - 1, 0), min(x + 2, width)):
                    if mask[j, i] and not labels[j, i]:
                        labels[j, i] = n
                        stack.append((j, i))
    return labels, n


def drawn(*rows):
    return np.array([[pixel == "#" for pixel in row] for row in rows])


SPIRAL = drawn(
    "#########",
    "........#",
    "#######.#",
    "#.....#.#",
    "#.###.#.#",
    "#.#...#.#",
    "#.#####.#",
    "#.......#",
    "#########",
)
MASKS = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14))


@settings(deadline=None, max_examples=400)
@given(MASKS)
@example(SPIRAL)
@example(SPIRAL[::-1])
@example(SPIRAL[:, ::-1])
@example(drawn("#.#", "#.#", "###"))  # two numbers meet late
@example(drawn("#.#.#.#", ".#.#.#."))
@example(drawn("..#", ".#.", "#.."))
@example(np.ones((1, 1), bool))
@example(np.zeros((3, 3), bool))
def test_equals_a_flood_fill(mask):
    labels, n = _core.connected_components(mask)
    expected, expected_n = flood_fill(mask)
    assert labels.dtype == np.int32 and labels.shape == mask.shape
    assert n == expected_n
    assert np.array_equal(labels, expected)


def random_mask(density, shape=(150, 211)):
    """At a density near 0.4 components of 8 neighbours are large and winding."""
    return np.random.default_rng(int(density * 100)).random(shape) < density


@pytest.mark.parametrize("density", [0.05, 0.25, 0.35, 0.4, 0.45, 0.6])
def test_large_masks(density):
    mask = random_mask(density)
    labels, n = _core.connected_components(mask)
    expected, expected_n = flood_fill(mask)
    assert n == expected_n and np.array_equal(labels, expected)


@pytest.mark.parametrize("density", [0.1, 0.35, 0.4, 0.5])
def test_equals_scipy(density):
    label = require("scipy.ndimage").label
    mask = random_mask(density, (1200, 1501))  # more pixels than between two polls
    labels, n = _core.connected_components(mask)
    expected, expected_n = label(mask, np.ones((3, 3), int))
    assert n == expected_n
    # SciPy does not promise an order: the same partition, and ours in reading order.
    pairs = np.unique(np.stack([labels[mask], expected[mask]]), axis=1)
    assert pairs.shape == (2, n)
    assert not labels[~mask].any()
    _, first = np.unique(labels[mask], return_index=True)
    assert (np.diff(first) > 0).all()


@pytest.mark.parametrize("height, width", [(1, 1), (1, 8), (7, 1), (6, 6), (7, 9), (8, 5)])
def test_most_components_that_there_can_be(height, width):
    mask = np.zeros((height, width), bool)
    mask[::2, ::2] = True
    labels, n = _core.connected_components(mask)
    assert n == ((height + 1) // 2) * ((width + 1) // 2)
    assert labels[mask].tolist() == list(range(1, n + 1))
    assert not labels[~mask].any()


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_empty_masks(shape):
    labels, n = _core.connected_components(np.zeros(shape, bool))
    assert labels.shape == shape and labels.dtype == np.int32 and n == 0


def test_strided_and_read_only_masks():
    mask = random_mask(0.4, (40, 60))
    expected, n = _core.connected_components(mask[::2, ::3].copy())
    mask.setflags(write=False)
    labels, strided_n = _core.connected_components(mask[::2, ::3])
    assert strided_n == n and np.array_equal(labels, expected)
    assert np.array_equal(
        _core.connected_components(np.asfortranarray(mask))[0], _core.connected_components(mask)[0]
    )


@pytest.mark.parametrize(
    "mask, error, words",
    [
        ([[True]], TypeError, "mask: expected a NumPy array"),
        (np.ones((2, 2), np.uint8), TypeError, "mask: expected dtype bool"),
        (np.ones(4, bool), ValueError, "mask: expected shape"),
        (np.ones((2, 2, 2), bool), ValueError, "mask: expected shape"),
    ],
)
def test_wrong_arguments(mask, error, words):
    with pytest.raises(error, match=words):
        _core.connected_components(mask)
