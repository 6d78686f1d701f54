"""What is measured on one map: its peak, its energy, and the curves of changed pictures."""

from __future__ import annotations

import itertools
import math

import numpy as np

from clipc.heat_map import HeatMap, cell_centres, scaled
from clipc.scores import RANDOM
from clipc.vectors import linear_weights, softmax, unit_rows

# Of the insertion's blurred picture: pixels at that side, in proportion at others.
_BLUR_SIGMA, _BLUR_SIDE = 5.0, 224

# Changed pictures that are encoded together: 38 MB at 224 x 224.
_BATCH = 64


class GridMap:
    """A map of one picture and one class: the signed grid, where it lies, and the picture-sized map.

    grid: float64 (GH, GW). grid_box: (x0, y0, x1, y1), pixels of the picture.
    """

    def __init__(self, grid, grid_box, values=None, size=None):
        self.grid = grid
        self.grid_box = tuple(map(float, grid_box))
        self._values = values
        self._size = size

    @classmethod
    def of(cls, values, picture, where):
        size = (picture.height, picture.width)
        if isinstance(values, HeatMap) and values.grid is not None:
            if values.shape != size:
                raise ValueError(f"{where}: expected a heat map of shape {size}, got {values.shape}")
            grid, box, pixels = values.grid, values.grid_box, np.asarray(values)
        else:
            grid, box, pixels = values, (0, 0, picture.width, picture.height), None
        if grid.ndim != 2 or grid.size == 0 or grid.dtype.kind not in "fiub":
            raise ValueError(
                f"{where}: expected a map of numbers with two axes, got shape {grid.shape}, {grid.dtype}"
            )
        grid = np.asarray(grid, np.float64)
        if not np.isfinite(grid).all() or (pixels is not None and not np.isfinite(pixels).all()):
            raise ValueError(f"{where}: expected finite values, got NaN or infinity")
        return cls(grid, box, pixels, size)

    def centres(self):
        """The centres (x, y) of all cells, (GH * GW, 2), row by row."""
        height, width = self.grid.shape
        return self._centres(*np.divmod(np.arange(height * width), width))

    def peaks(self):
        """The centre of the largest cell, or of each that shares the largest value, (N, 2)."""
        return self._centres(*np.nonzero(self.grid == self.grid.max()))

    def _centres(self, rows, columns):
        return np.stack(cell_centres(rows, columns, self.grid.shape, self.grid_box), axis=1)

    def values(self):
        """The map after ReLU and scaling, of the picture's size."""
        if self._values is None:
            values = scaled(self.grid)
            height, width = self._size
            if values.shape != self._size:
                values = self._sample(values, np.arange(width) + 0.5, np.arange(height) + 0.5)
            self._values = values
        return self._values

    def on_square(self, box, size):
        """The signed grid at the pixels of a square that shows `box` of the picture, (size, size)."""
        x0, y0, x1, y1 = box
        steps = (np.arange(size) + 0.5) / size
        return self._sample(self.grid, x0 + steps * (x1 - x0), y0 + steps * (y1 - y0))

    def _sample(self, grid, xs, ys):
        """Bilinear, half-pixel centres; beyond the outer centres the outer values."""
        x0, y0, x1, y1 = self.grid_box
        height, width = grid.shape
        across = linear_weights((xs - x0) / (x1 - x0) * width - 0.5, width, np.float64)
        down = linear_weights((ys - y0) / (y1 - y0) * height - 0.5, height, np.float64)
        return down @ grid @ across.T


def distinct_grids(maps, picture):
    """Name of the random baseline -> a map with that grid, for all grids among the maps."""
    result = {}
    for map_ in maps:
        height, width = map_.grid.shape
        # Maps of the picture's size have another grid in each picture.
        of_picture = (height, width) == (picture.height, picture.width)
        kind = f"{RANDOM} pixel" if of_picture else f"{RANDOM} {height} x {width}"
        result.setdefault(kind, map_)
    return result


def hits(points, boxes, tolerance):
    """Which of the points (N, 2) lie in any of the boxes (M, 4), each enlarged; bool (N,)."""
    x, y = points[:, :1], points[:, 1:]
    x0, y0, x1, y1 = boxes.T
    inside = (x >= x0 - tolerance) & (x <= x1 + tolerance) & (y >= y0 - tolerance) & (y <= y1 + tolerance)
    return inside.any(axis=1)


def box_mask(boxes, picture):
    """The pixels whose centres lie in any of the boxes, bool (H, W)."""
    mask = np.zeros((picture.height, picture.width), bool)
    for x0, y0, x1, y1 in boxes:
        # The first pixel whose centre is not left of the edge: ceil(edge - 0.5).
        columns = slice(max(0, math.ceil(x0 - 0.5)), max(0, math.ceil(x1 - 0.5)))
        rows = slice(max(0, math.ceil(y0 - 0.5)), max(0, math.ceil(y1 - 0.5)))
        mask[rows, columns] = True
    return mask


# -- deletion and insertion ------------------------------------------------------------------------------


class Curves:
    """The areas under the curves of one picture's classes, for one order of its pixels after the other."""

    def __init__(self, model, classifier, size, steps, *, deletion, insertion):
        self.model = model
        self.classifier = classifier
        self.size = size
        self.deletion = deletion
        self.insertion = insertion
        # How many pixels are changed at each point of the curve, from none to all.
        self.counts = np.round(np.linspace(0, size * size, steps + 1)).astype(int)
        self._empty = None
        self._square = self._blurred = self._original = self._start = None

    def begin(self, square):
        """Take the next picture, preprocessed."""
        self._square = square
        # The ends of the curves are the same for every order: the original, nothing, and the blurred picture.
        ends = [square]
        if self.insertion:
            self._blurred = _blur(square, _BLUR_SIGMA * self.size / _BLUR_SIDE)
            ends.append(self._blurred)
        if self.deletion and self._empty is None:
            ends.append(np.zeros_like(square))
        found = self._probabilities(ends)
        self._original = found[0]
        self._start = found[1] if self.insertion else None
        if self.deletion and self._empty is None:
            self._empty = found[-1]

    def areas(self, importance, rng):
        """Measure -> area for each label, (L,). importance: (size, size); `rng` orders equal values."""
        order = np.lexsort((rng.permutation(importance.size), -importance.ravel()))
        rank = np.empty(importance.size, int)
        rank[order] = np.arange(importance.size)
        rank = rank.reshape(importance.shape)
        inner = self.counts[1:-1]
        found = self._probabilities(self._changed(rank, inner))
        shares = self.counts / importance.size
        areas = {}
        if self.deletion:
            curve = np.concatenate([[self._original], found[: len(inner)], [self._empty]])
            areas["deletion"] = np.trapezoid(curve, shares, axis=0)
        if self.insertion:
            curve = np.concatenate([[self._start], found[len(found) - len(inner) :], [self._original]])
            areas["insertion"] = np.trapezoid(curve, shares, axis=0)
        return areas

    def _changed(self, rank, counts):
        """The square with its first pixels removed, for each count; then the blurred one with them put in."""
        if self.deletion:
            for count in counts:
                yield np.where(rank < count, np.float32(0), self._square)
        if self.insertion:
            for count in counts:
                yield np.where(rank < count, self._square, self._blurred)

    def _probabilities(self, squares):
        """Softmax over the labels, float64 (N, L), for preprocessed pictures (3, size, size)."""
        squares = iter(squares)
        features = []
        while batch := list(itertools.islice(squares, _BATCH)):
            features.append(_encode_squares(self.model, np.stack(batch)))
        features = np.concatenate(features).astype(np.float64)
        return softmax(self.model.logit_scale * unit_rows(features) @ self.classifier.T)


def _encode_squares(model, squares):
    """Image features (N, D) of preprocessed pictures (N, 3, S, S) of any size that the model takes."""
    if squares.shape[-1] == model.image_size:
        return model.encode_image(squares)
    # The core interpolates the positional embedding, as for the maps at that size.
    return model._core.encode_images(squares)


def _blur(square, sigma):
    """A Gaussian blur of each channel of (3, S, S), mirrored at the edges; float32."""
    radius = max(1, math.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    # As a matrix, because it is the same for rows and columns and for all pictures of a size.
    size = square.shape[-1]
    matrix = np.zeros((size, size))
    for offset, weight in zip(range(-radius, radius + 1), kernel):
        source = (np.arange(size) + offset) % (2 * size)
        source = np.where(source < size, source, 2 * size - 1 - source)
        np.add.at(matrix, (np.arange(size), source), weight)
    return (matrix @ square.astype(np.float64) @ matrix.T).astype(np.float32)


def closeness_to_centre(size):
    """Minus the squared distance of each pixel from the middle, (size, size)."""
    offsets = (np.arange(size) + 0.5 - size / 2) ** 2
    return -(offsets[:, None] + offsets[None, :])
