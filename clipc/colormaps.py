"""Colour maps: a few of our own, built from anchor colours, and those of matplotlib where it is installed."""

from __future__ import annotations

import itertools

import numpy as np

# From the lowest value to the highest, evenly spaced unless a position goes with the colour.
_ANCHORS = {
    # Lightness grows with the value. Violet and yellow are rare in photographs: both the rim and the peak of
    # a region stand out on dark, bright, green and red ones.
    "heat": ("#1f1fb4", "#5a24d0", "#a02bb8", "#e0407e", "#ff7a3c", "#ffc02e", "#fff36b"),
    # The rainbow of most published Grad-CAM figures. Its lightness goes up and down, so that cyan and yellow
    # look stronger than they are.
    "jet": (
        (0.0, "#000080"), (0.125, "#0000ff"), (0.375, "#00ffff"),
        (0.625, "#ffff00"), (0.875, "#ff0000"), (1.0, "#800000"),
    ),
    # Nine colours of the public-domain map by Smith and van der Walt: even steps in lightness, safe for
    # colour-blind readers.
    "viridis": (
        "#440154", "#482878", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725",
    ),
    "grey": ("#000000", "#ffffff"),
    # Diverging: lightest in the middle, the ends about equally dark. The middle is narrow: on a photograph,
    # pale colours look like haze.
    "blue-red": ("#0836b8", "#2467e8", "#72a8f2", "#f4f4f4", "#f6a58c", "#e64a30", "#b80d1c"),
    "purple-green": ("#57178a", "#8b46bd", "#b98fd6", "#f4f4f4", "#8fcf88", "#34994a", "#0c5f2a"),
}  # fmt: skip

SEQUENTIAL = "heat"
DIVERGING = "blue-red"


def names():
    """The names of the colour maps that need nothing else installed."""
    return tuple(_ANCHORS)


def colour_table(name, levels):
    """The colours of a map at evenly spaced values.

    Parameters
    ----------
    name : str
        One of `names`, or any that matplotlib knows, where it is installed.
    levels : int
        How many colours, at least 2.

    Returns
    -------
    numpy.ndarray
        float32 (levels, 3), 0 to 255, from the lowest value to the highest.

    Raises
    ------
    TypeError, ValueError
        When there is no such map.
    """
    if not isinstance(name, str):
        raise TypeError(f"colormap: expected a name, such as {SEQUENTIAL!r}, got {type(name).__name__}")
    values = np.linspace(0, 1, levels)
    if name in _ANCHORS:
        anchors = _ANCHORS[name]
        if isinstance(anchors[0], str):
            anchors = zip(np.linspace(0, 1, len(anchors)), anchors)
        positions, colours = zip(*anchors)
        channels = zip(*([int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in colours))
        table = [np.interp(values, positions, channel) for channel in channels]
        return np.stack(table, axis=1).astype(np.float32)
    known = ", ".join(names())
    try:
        import matplotlib
    except ImportError:
        raise ValueError(
            f"colormap: expected one of {known}, or with matplotlib any name that it knows "
            f"(pip install 'clipc[analysis]'), got {name!r}"
        ) from None
    try:
        colormap = matplotlib.colormaps[name]
    except KeyError:
        import difflib

        close = difflib.get_close_matches(name, itertools.chain(names(), matplotlib.colormaps), n=3)
        hint = f"; is {' or '.join(map(repr, close))} meant?" if close else ""
        raise ValueError(
            f"colormap: expected one of {known}, or a name that matplotlib knows, got {name!r}{hint}"
        ) from None
    return np.asarray(colormap(values)[:, :3] * 255, np.float32)
