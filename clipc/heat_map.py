"""The answer of an explanation: an array that remembers what it explains and where the picture was seen."""

from __future__ import annotations

import numpy as np


def scaled(grids):
    """Signed grids, (GH, GW) or (N, GH, GW), as maps in [0, 1]: ReLU, then (m - min) / (max - min) for each.

    All zeros stay zeros. A map with the same positive value everywhere, such as that of a grid of one cell,
    speaks for the whole of the picture: it is 1.
    """
    positive = np.maximum(grids, 0)
    low, high = (f(positive, axis=(-2, -1), keepdims=True) for f in (np.min, np.max))
    flat = (high == low) & (high > 0)
    return np.where(flat, 1, (positive - low) / np.where(high > low, high - low, 1)).astype(positive.dtype)


def cell_centres(rows, columns, shape, box):
    """Where the centres of cells lie, when a grid of this shape, (GH, GW), fills a box.

    Parameters
    ----------
    rows, columns : int or int array
    shape : tuple of int
    box : tuple of float
        (x0, y0, x1, y1)

    Returns
    -------
    x, y : float or float array
    """
    x0, y0, x1, y1 = box
    height, width = shape
    return x0 + (columns + 0.5) * (x1 - x0) / width, y0 + (rows + 0.5) * (y1 - y0) / height


class HeatMap(np.ndarray):
    """A heat map for one picture and one text, (H, W), or for one picture and N texts, (N, H, W).

    An ordinary float32 array that also carries what is needed to draw and to judge it. Slices along the
    first axis of several texts keep the texts that belong to them; whatever NumPy computes from a heat map
    is an ordinary array, or keeps the attributes of the map it came from.

    Attributes
    ----------
    texts : tuple of str
        One for each map; empty for a method that needs no text.
    method, score : str
        See `clipc.Model.grad_cam`.
    layer : str or None
        The target layer, where the method has one.
    grid : float32 array, (GH, GW) or (N, GH, GW)
        The signed values on the grid of the model, before ReLU and scaling.
    grid_box : tuple of float
        (x0, y0, x1, y1): the rectangle that the grid covers, in pixels of the original picture. Larger than
        the picture where the picture was padded.
    seen_box : tuple of float
        (x0, y0, x1, y1): the part of the original picture that the model saw, in its pixels.
    """

    _ATTRIBUTES = ("texts", "method", "score", "layer", "grid", "grid_box", "seen_box")

    def __new__(cls, values, *, texts, method, score, layer, grid, grid_box, seen_box):
        self = np.asarray(values, np.float32).view(cls)
        self.texts = tuple(texts)
        self.method = method
        self.score = score
        self.layer = layer
        self.grid = grid
        self.grid_box = grid_box
        self.seen_box = seen_box
        return self

    def __array_finalize__(self, other):
        for name in self._ATTRIBUTES:
            setattr(self, name, getattr(other, name, None))

    def __array_wrap__(self, array, context=None, return_scalar=False):
        # What is computed from a map is no map: its sum has no grid, and twice it is not in [0, 1].
        return array[()] if return_scalar else np.asarray(array)

    def __getitem__(self, index):
        part = super().__getitem__(index)
        if not isinstance(part, HeatMap):
            return part
        if self.ndim == 3 and part.ndim >= 2 and isinstance(index, (int, np.integer, slice)):
            part.grid = self.grid[index]
            part.texts = self.texts[index] if isinstance(index, slice) else (self.texts[index],)
            return part
        return np.asarray(part)

    def __reduce__(self):
        function, arguments, state = super().__reduce__()
        return function, arguments, (state, {name: getattr(self, name) for name in self._ATTRIBUTES})

    def __setstate__(self, state):
        array_state, attributes = state
        super().__setstate__(array_state)
        for name, value in attributes.items():
            setattr(self, name, value)

    def peak(self):
        """Where the map is strongest.

        Returns
        -------
        tuple of float, or list of them for several texts
            (x, y): the centre of the grid cell with the largest value, in pixels of the original picture. The
            largest value of the enlarged map would not do: it lies at the edge for a cell at the edge.
        """
        if self.grid.ndim == 3:
            return [self.cell_centre(grid) for grid in self.grid]
        return self.cell_centre(self.grid)

    def cell_centre(self, grid):
        """The centre of the largest cell of a grid that lies where this map's grid lies.

        Parameters
        ----------
        grid : float array, (GH, GW)

        Returns
        -------
        tuple of float
            (x, y), in pixels of the original picture.
        """
        row, column = np.unravel_index(np.argmax(grid), grid.shape)
        x, y = cell_centres(row, column, grid.shape, self.grid_box)
        return float(x), float(y)

    def __repr__(self):
        what = ", ".join(repr(text) for text in self.texts[:3]) + (", …" if len(self.texts) > 3 else "")
        size = " x ".join(map(str, self.shape))
        return f"<clipc.HeatMap {size}, {self.method}{f' at {self.layer}' if self.layer else ''}: {what}>"
