"""Heat maps drawn over the picture that they explain, and boxes around what was found in it."""

from __future__ import annotations

import errno
import functools
import io
import math
import operator
import os
import sys
import unicodedata

import numpy as np

from . import colormaps
from .detections import Detection, label_colour
from .errors import warn
from .heat_map import HeatMap
from .image import is_batch, to_rgb

# Steps of a colour map. Odd, so that 0 of a difference map has a step of its own, the transparent one.
_LEVELS = 511
# With fade=True, the value from which on a map is drawn with the full opacity.
_FADE_BELOW = 0.4
# Rounding of an enlarged map may leave its range by this much.
_RANGE_TOLERANCE = 1e-5
# The longer side of the panels of a figure, in pixels, unless size= says otherwise.
_FIGURE_PANEL = 1024
# Pixels that are blended at once: the float copies of a large picture would not fit into memory.
_BLOCK_PIXELS = 1 << 19

# Unseen parts: brightness is 40 to 155 instead of 0 to 255, so both night and snow stay recognisable.
_UNSEEN_OFFSET, _UNSEEN_CONTRAST, _UNSEEN_EDGE = 40, 0.45, 230

_PAPER = (255, 255, 255)
_INK = (34, 34, 34)
_RIM = (160, 160, 160)

_MAX_CAPTION_LINES = 3
_MAX_CAPTION_CHARACTERS = 2000  # more than fit into the lines of any panel
_MIN_CAPTION_EMS = 10  # the least width of a panel with its caption, in font sizes
_BAR_EMS = 22  # the usual width of the colour bar

# Boxes: the side of a picture (of a square as large) in units of the line's width and of the font's size.
_LINES_PER_SIDE, _TAG_EMS_PER_SIDE = 220, 36
_SMALLEST_TAG_FONT, _LARGEST_TAG_FONT = 11, 200
_LINES_PER_BOX = 8  # a line takes no more of a small box than this part of its shorter side
_RIM_OPACITY = 0.55
_TAGS_PER_BOX = 3  # a box of fewer tags' height has its tag outside, where there is room
_MOST_COVERED = 0.2  # a tag of which more would lie under others is left out
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def overlay(
    image,
    maps,
    *,
    labels="auto",
    opacity=0.6,
    fade=True,
    colormap=None,
    original=False,
    colorbar="auto",
    columns=None,
    font=None,
    font_size=None,
    seen_box=None,
    exif=False,
    size=None,
    as_array=False,
):
    """Draw heat maps over the picture that they explain.

    One map gives a picture of exactly the size of the image, without a frame. Several maps, or ``original``,
    ``labels`` or ``colorbar=True``, give a figure: panels side by side on white, each with its text above it,
    and a colour bar beneath.

    Parameters
    ----------
    image : str, os.PathLike, bytes, numpy.ndarray or PIL.Image.Image
        The image that was explained, (H, W) pixels.
    maps : HeatMap, numpy.ndarray, or list of them
        One map (H, W), several (N, H, W), or a list of such, of a floating dtype. Values in [0, 1]. If any
        value is negative, or a `HeatMap` compares two texts, all are difference maps, in [-1, 1].
    labels : "auto", None, or list of str
        The captions: one for each map, or with ``original=True`` also one for the original picture before
        them. A str serves for a single map. ``"auto"``: in a figure, the texts of the heat maps, with the
        method where maps of the same text differ in it. None: no captions.
    opacity : float
        0 shows the picture alone, 1 hides it where the map is strong.
    fade : bool
        Leave the picture as it is where the map has nothing to say: the opacity grows with the (absolute)
        value, from 0 at 0 to ``opacity`` at 0.4 and above. False: the same opacity everywhere, which tints
        the whole picture, as in many published figures.
    colormap : str, optional
        ``"heat"`` (default), ``"jet"``, ``"viridis"``, ``"grey"``; for difference maps ``"blue-red"`` (their
        default), ``"purple-green"``; where matplotlib is installed, also any name that it knows.
    original : bool
        Show the picture itself as the first panel.
    colorbar : "auto", True or False
        ``"auto"``: in a figure. At its ends it names the two texts of a difference map.
    columns : int, optional
        Panels in a row. Default: up to four in one row, more in rows of nearly equal length.
    font : str, os.PathLike or PIL.ImageFont.FreeTypeFont, optional
        A TrueType or OpenType font for the captions. Default: the one that comes with Pillow. For characters
        that it lacks, fonts of the system are searched for some that have them.
    font_size : float, optional
        In pixels. Default: that of a PIL font given as ``font``; else it grows with the panels.
    seen_box : tuple of float, optional
        (x0, y0, x1, y1): the part of the image that the model saw, in pixels of the image. The rest is drawn
        grey and dim. Default: that of each `HeatMap`; of a plain array, the whole image.
    exif : bool
        Turn the image as its Exif orientation says; as in the call that made the map.
    size : int, optional
        The largest length of the longer side of a panel, in pixels. Pictures are made smaller, never larger.
        Default: 1024 in a figure; without a frame, the size of the image.
    as_array : bool
        Return an array instead of a PIL image.

    Returns
    -------
    PIL.Image.Image or numpy.ndarray
        Mode RGB, or uint8 of shape (height, width, 3).

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind; maps that do not fit the image, hold NaN, or leave their range.
    OSError
        The image or the font cannot be read.

    Warns
    -----
    ClipcWarning
        No font was found for some of the characters of the captions.

    Examples
    --------
    >>> texts = ["the traditional Korean village", "the forest"]
    >>> clipc.overlay("hanok.jpg", clipc.grad_cam("hanok.jpg", texts), original=True).save("cam.png")
    """
    opacity = _number("opacity", opacity, 0, 1)
    if font_size is not None:
        font_size = _number("font_size", font_size, 1, 1000)
    if size is not None:
        size = _whole_number("size", size)
    if columns is not None:
        columns = _whole_number("columns", columns)
    if colorbar not in ("auto", True, False):
        raise ValueError(f"colorbar: expected 'auto', True or False, got {colorbar!r}")
    if is_batch(image):
        raise TypeError("image: overlay draws on one image, got several; call it for each with its map")
    rgb = to_rgb(image, exif=exif)
    maps = _separate(maps)
    for map, name in maps:
        _check(map, name, rgb.shape[:2])
    maps = [map for map, _ in maps]
    signed = any(_is_difference(map) or map.min() < 0 for map in maps)
    boxes = [seen_box if seen_box is not None else getattr(map, "seen_box", None) for map in maps]
    boxes = [None if box is None else _checked_box(box, rgb.shape[:2]) for box in boxes]

    captions, asked = _captions(labels, maps, original)
    framed = asked or len(maps) + bool(original) > 1 or colorbar not in (False, "auto")
    limit = size or (_FIGURE_PANEL if framed else None)
    colours = colormaps.colour_table(
        colormap if colormap is not None else colormaps.DIVERGING if signed else colormaps.SEQUENTIAL, _LEVELS
    )
    alphas = _alphas(fade, signed)

    small = _shrink(rgb, limit)
    panels = [small] if original else []
    for map, box in zip(maps, boxes):
        values = _shrink(np.asarray(map, np.float32), limit)
        panel = _blend(small, values, colours, opacity * alphas, signed)
        if box is not None:
            x_scale, y_scale = small.shape[1] / rgb.shape[1], small.shape[0] / rgb.shape[0]
            x0, y0, x1, y1 = box
            _grey_outside(panel, small, (x0 * x_scale, y0 * y_scale, x1 * x_scale, y1 * y_scale))
        panels.append(panel)

    if framed:
        bar = None
        if colorbar:
            bar = _Bar(colours, alphas, *_bar_labels(maps, signed))
        picture = _figure(panels, captions, bar, columns, font, font_size)
    else:
        picture = panels[0]
    if as_array:
        return picture
    from PIL import Image

    return Image.fromarray(picture)


def draw_boxes(
    image,
    detections,
    *,
    font=None,
    font_size=None,
    labels=True,
    scores=True,
    width=None,
    colors=None,
    exif=False,
    size=None,
    as_array=False,
):
    """Draw the boxes of what was found in an image, with their labels and scores.

    Each label has a colour; a thin rim of black or white on both sides keeps the lines legible on any ground.
    Where boxes overlap, the one with the highest score lies on top. The line of a box lies inside of it, and
    of a box that reaches over the edge of the picture, at the edge. Captions stay within the picture, keep
    out of each other's way where there is room, are shortened where it is narrow, and are left out where
    there is none.

    Parameters
    ----------
    image : str, os.PathLike, bytes, numpy.ndarray or PIL.Image.Image
        The image that was searched.
    detections : Detections, or iterable of Detection
        Boxes in pixels of the image.
    font : str, os.PathLike or PIL.ImageFont.FreeTypeFont, optional
        A TrueType or OpenType font for the captions. Default: the one that comes with Pillow. For characters
        that it lacks, fonts of the system are searched for some that have them.
    font_size : float, optional
        In pixels. Default: that of a PIL font given as ``font``; else it grows with the picture.
    labels : bool, or dict of str to str
        Write the label of each box. A dict has other words for them, such as their translations; labels that
        are not in it stay as they are.
    scores : bool
        Write the score of each box.
    width : int, optional
        Of the lines, in pixels, without their rims. Default: it grows with the picture; thinner for small
        boxes.
    colors : str, tuple, list, or dict of str to str or tuple, optional
        A colour for all, one for each label in their order (from the start again when there are more labels),
        or a dict from label to colour; the others keep theirs. A colour is a name, ``"#rrggbb"``, or three
        whole numbers from 0 to 255. Default: colours that colour-blind readers tell apart too, up to seven
        labels; they follow the order of ``detections.labels``, in a plain list that of the labels' first
        appearance.
    exif : bool
        Turn the image as its Exif orientation says; as in the call that found the boxes.
    size : int, optional
        The largest length of the longer side, in pixels. Pictures are made smaller, never larger. Default:
        the size of the image.
    as_array : bool
        Return an array instead of a PIL image.

    Returns
    -------
    PIL.Image.Image or numpy.ndarray
        Mode RGB, or uint8 of shape (height, width, 3).

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind; detections of an image of another size.
    OSError
        The image or the font cannot be read.

    Warns
    -----
    ClipcWarning
        No font was found for some of the characters of the captions.

    Examples
    --------
    >>> found = clipc.detect("street.jpg", ["car", "traffic light", "dog"])
    >>> clipc.draw_boxes("street.jpg", found, labels={"dog": "개"}).save("boxes.png")
    """
    if font_size is not None:
        font_size = _number("font_size", font_size, 1, 1000)
    if width is not None:
        width = _whole_number("width", width)
    if size is not None:
        size = _whole_number("size", size)
    if not isinstance(labels, (bool, dict)):
        raise TypeError(
            f"labels: expected True, False or a dict from label to str, got {type(labels).__name__}"
        )
    if is_batch(image):
        raise TypeError("image: draw_boxes draws on one image, got several; call it for each")
    items, names, image_size = _separate_detections(detections)
    colours = _label_colours(colors, names)
    rgb = to_rgb(image, exif=exif)
    _check_image_size(image_size, rgb)

    panel = _shrink(rgb, size)
    if panel is rgb:
        panel = rgb.copy()
    x_scale, y_scale = panel.shape[1] / rgb.shape[1], panel.shape[0] / rgb.shape[0]
    side = math.sqrt(panel.shape[0] * panel.shape[1])
    frames = []
    for item in sorted(items, key=lambda item: -item.score):
        x0, y0, x1, y1 = item.box
        place = _visible_part((x0 * x_scale, y0 * y_scale, x1 * x_scale, y1 * y_scale), panel.shape)
        if place:
            frames.append(_Frame(item, place, colours[item.label], width, side))
    for frame in reversed(frames):
        frame.draw(panel)
    if frames and (labels is not False or scores):
        captions = [_tag_texts(frame.item, labels, scores) for frame in frames]
        default_size = max(_SMALLEST_TAG_FONT, min(_LARGEST_TAG_FONT, round(side / _TAG_EMS_PER_SIDE)))
        writer = _Writer([text for texts in captions for text in texts], font, font_size, default_size)
        _draw_tags(panel, frames, captions, writer)
    if as_array:
        return panel
    from PIL import Image

    return Image.fromarray(panel)


# ---- arguments ----


def _number(name, value, low, high):
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}") from None
    if not low <= number <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {value}")
    return number


def _whole_number(name, value):
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {type(value).__name__}") from None
    if number < 1:
        raise ValueError(f"{name}: expected at least 1, got {number}")
    return number


def _separate(maps):
    """The single maps, (H, W), each with the name that it has in messages."""
    if isinstance(maps, (list, tuple)):
        parts = [(np.asanyarray(part), f"maps[{i}]") for i, part in enumerate(maps)]
    else:
        parts = [(np.asanyarray(maps), "maps")]
    separate = []
    for part, name in parts:
        if part.dtype == object or part.dtype.kind in "US":
            raise TypeError(f"{name}: expected an array of numbers, got {part.dtype}")
        if part.ndim == 2:
            separate.append((part, name))
        elif part.ndim == 3:
            separate += [(part[i], f"{name}[{i}]") for i in range(len(part))]
        else:
            raise ValueError(f"{name}: expected shape (H, W) or (N, H, W), got {part.shape}")
    if not separate:
        raise ValueError("maps: expected at least one map, got none")
    return separate


def _check(map, name, shape):
    """Refuse a map that is none of an image of this shape, (H, W)."""
    if map.dtype.kind != "f":
        hint = {"b": "; use map.astype(numpy.float32)", "u": "; divide by its largest possible value"}
        raise TypeError(
            f"{name}: expected a floating dtype, such as float32, got {map.dtype}"
            + hint.get(map.dtype.kind, "")
        )
    if map.shape != shape:
        if map.shape == shape[::-1]:
            hint = "the image and its map lie across each other: use the same exif= for both"
        elif map.shape[0] < shape[0] and map.shape[1] < shape[1]:
            hint = "a grid of the model has no place on the picture: leave out raw=True where the map is made"
        else:
            hint = "draw it on the image that it was made for"
        raise ValueError(f"{name}: expected the size of the image, {shape}, got {map.shape}; {hint}")
    low, high = float(map.min()), float(map.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    if low < -1 - _RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE:
        raise ValueError(
            f"{name}: expected values in [0, 1], or in [-1, 1] for a difference map, got {low:.4g} to "
            f"{high:.4g}; leave out raw=True where the map is made, or scale the values"
        )


def _is_difference(map):
    return isinstance(map, HeatMap) and len(map.texts or ()) == 2


def _checked_box(box, shape):
    height, width = shape
    try:
        x0, y0, x1, y1 = (float(side) for side in box)
    except (TypeError, ValueError):
        raise TypeError(f"seen_box: expected four numbers (x0, y0, x1, y1), got {box!r}") from None
    inside = x0 < width and y0 < height and x1 > 0 and y1 > 0
    if not (inside and x0 < x1 and y0 < y1 and math.isfinite(x0 + y0 + x1 + y1)):
        raise ValueError(
            "seen_box: expected (x0, y0, x1, y1) with x0 < x1 and y0 < y1, in the image of "
            f"{width} x {height} pixels, got {box!r}"
        )
    return x0, y0, x1, y1


def _captions(labels, maps, original):
    """One caption for each panel, or None; and whether the caller asked for them."""
    if labels is None:
        return None, False
    if isinstance(labels, str) and labels == "auto":
        captions = _own_captions(maps)
        return (["original"] * bool(original) + captions if any(captions) else None), False
    try:
        captions = [labels] if isinstance(labels, str) else list(labels)
    except TypeError:
        kind = type(labels).__name__
        raise TypeError(f"labels: expected 'auto', None or a list of str, got {kind}") from None
    for i, label in enumerate(captions):
        if not isinstance(label, str):
            raise TypeError(f"labels[{i}]: expected a str, got {type(label).__name__}")
    if original and len(captions) == len(maps):
        captions = ["original"] + captions
    if len(captions) != len(maps) + bool(original):
        also = f", or {len(maps) + 1} with that of the original picture first" if original else ""
        raise ValueError(f"labels: expected {len(maps)}, one for each map{also}, got {len(captions)}")
    return captions, True


def _own_captions(maps):
    pairs = {tuple(map.texts) for map in maps if _is_difference(map)}
    captions = []
    for map in maps:
        texts = tuple(getattr(map, "texts", None) or ())
        if _is_difference(map):
            # The ends of the colour bar name the texts when all maps have the same.
            captions.append("" if len(pairs) == 1 else "{} (+) vs. {} (-)".format(*texts))
        else:
            captions.append(texts[0] if texts else getattr(map, "method", None) or "")
    methods = [getattr(map, "method", None) for map in maps]
    if len(set(captions)) < len(captions) and len(set(methods)) > 1:
        captions = [
            f"{caption} ({method})" if caption and method and caption != method else caption or method or ""
            for caption, method in zip(captions, methods)
        ]
    return captions


def _bar_labels(maps, signed):
    """The ticks of the colour bar, and the texts at its ends."""
    if not signed:
        return ("0 (low)", "", "1 (high)"), ("", "")
    pairs = {tuple(map.texts) for map in maps if _is_difference(map)}
    text, other = pairs.pop() if len(pairs) == 1 else ("", "")
    return ("-1", "0", "+1"), (other, text)


def _separate_detections(detections):
    """The detections, the labels in the order of their colours, and (width, height) of the image or None."""
    try:
        items = list(detections)
    except TypeError:
        kind = type(detections).__name__
        raise TypeError(f"detections: expected clipc.Detections or a list of Detection, got {kind}") from None
    for i, item in enumerate(items):
        if not isinstance(item, Detection):
            kind = type(item).__name__
            raise TypeError(f"detections[{i}]: expected a clipc.Detection, got {kind}")
    names = dict.fromkeys([*getattr(detections, "labels", ()), *(item.label for item in items)])
    return items, tuple(names), getattr(detections, "image_size", None)


def _check_image_size(size, rgb):
    height, width = rgb.shape[:2]
    if size is None or size == (width, height):
        return
    hint = "draw them on the image that they were found in"
    if size == (height, width):
        hint = "the image and the boxes lie across each other: use the same exif= for both"
    found = f"{size[0]} x {size[1]}"
    raise ValueError(
        f"detections: found in an image of {found} pixels, got one of {width} x {height}; {hint}"
    )


def _label_colours(colors, names):
    """The colour of each label: dict of str to (red, green, blue)."""
    own = {name: label_colour(i) for i, name in enumerate(names)}
    if colors is None:
        return own
    if isinstance(colors, dict):
        return own | {name: _colour(f"colors[{name!r}]", colors[name]) for name in names if name in colors}
    if not isinstance(colors, (str, tuple, list)):
        kind = type(colors).__name__
        raise TypeError(f"colors: expected a colour, or a list or dict of colours, got {kind}")
    if isinstance(colors, str) or (colors and all(hasattr(channel, "__index__") for channel in colors)):
        return dict.fromkeys(names, _colour("colors", colors))
    given = [_colour(f"colors[{i}]", value) for i, value in enumerate(colors)]
    if not given:
        raise ValueError("colors: expected at least one, got none")
    return {name: given[i % len(given)] for i, name in enumerate(names)}


def _colour(name, value):
    if isinstance(value, str):
        from PIL import ImageColor

        try:
            return ImageColor.getrgb(value)[:3]
        except ValueError:
            raise ValueError(f"{name}: expected the name of a colour or '#rrggbb', got {value!r}") from None
    try:
        channels = tuple(operator.index(channel) for channel in value)
    except TypeError:
        raise TypeError(f"{name}: expected a str or three whole numbers, got {value!r}") from None
    if len(channels) != 3 or min(channels) < 0 or max(channels) > 255:
        raise ValueError(f"{name}: expected three numbers from 0 to 255, got {value!r}")
    return channels


# ---- pixels ----


def _shrink(array, limit):
    """A picture (H, W, 3) or a map (H, W) with its longer side at most `limit`; None: as it is."""
    height, width = array.shape[:2]
    if limit is None or max(height, width) <= limit:
        return array
    from PIL import Image

    size = [max(1, round(side * limit / max(height, width))) for side in (width, height)]
    # Bilinear does not overshoot, so a map stays in its range.
    kernel = Image.Resampling.LANCZOS if array.ndim == 3 else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(array).resize(size, kernel))


def _alphas(fade, signed):
    """The opacity of each level, 0 to 1, before it is multiplied by that of the caller. float32 (levels,)"""
    values = np.linspace(-1 if signed else 0, 1, _LEVELS, dtype=np.float32)
    return np.minimum(np.abs(values) / np.float32(_FADE_BELOW), 1) if fade else np.ones_like(values)


def _blend(rgb, map, colours, alphas, signed):
    """rgb + alpha (colour - rgb).  rgb: (H, W, 3), map: (H, W), colours: (levels, 3), alphas: (levels,)"""
    height, width = map.shape
    out = np.empty_like(rgb)
    rows = max(1, _BLOCK_PIXELS // width)
    low = -1 if signed else 0
    for begin in range(0, height, rows):
        part = slice(begin, begin + rows)
        level = np.rint((map[part] - low) * ((_LEVELS - 1) / (1 - low))).astype(np.intp).clip(0, _LEVELS - 1)
        colour = colours[level]
        picture = rgb[part].astype(np.float32)
        colour -= picture
        colour *= alphas[level][..., np.newaxis]
        colour += picture
        out[part] = np.rint(colour)
    return out


def _grey_outside(panel, picture, box):
    """Show outside of the box the picture alone, grey and dim, and draw a line around the box.

    panel : uint8 (H, W, 3), changed in place
    picture : uint8 (H, W, 3)
    box : (x0, y0, x1, y1), in pixels; a pixel lies where its centre lies
    """
    from PIL import Image

    height, width = panel.shape[:2]
    x0, x1 = _pixels_between(box[0], box[2], width)
    y0, y1 = _pixels_between(box[1], box[3], height)
    dim = np.rint(_UNSEEN_OFFSET + _UNSEEN_CONTRAST * np.arange(256)).astype(np.uint8)
    for region in (np.s_[:y0], np.s_[y1:], np.s_[y0:y1, :x0], np.s_[y0:y1, x1:]):
        if picture[region].size:
            luma = np.asarray(Image.fromarray(picture[region]).convert("L"))
            panel[region] = dim[luma][..., np.newaxis]
    line = max(1, round(max(height, width) / 500))
    left, right, top = max(x0 - line, 0), x1 + line, max(y0 - line, 0)
    for region in (np.s_[top:y0, left:right], np.s_[y1 : y1 + line, left:right],
                   np.s_[y0:y1, left:x0], np.s_[y0:y1, x1:right]):  # fmt: skip
        panel[region] = _UNSEEN_EDGE


def _pixels_between(begin, end, n):
    """The first of n pixels whose centre lies in [begin, end), and the one after the last; at least one."""
    first = min(max(math.ceil(begin - 0.5), 0), n - 1)
    return first, max(min(math.ceil(end - 0.5), n), first + 1)


# ---- boxes ----


def _visible_part(box, shape):
    """The pixels of a box that lie in a picture of this shape, (left, top, right, bottom); None: no part."""
    height, width = shape[:2]
    x0, y0, x1, y1 = box
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return None
    left, right = _pixels_between(x0, x1, width)
    top, bottom = _pixels_between(y0, y1, height)
    return left, top, right, bottom


def _contrasting(colour):
    """Black or white, whichever the contrast to the colour is larger with (as WCAG 2 defines it)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _BLACK if (luminance + 0.05) ** 2 > 1.05 * 0.05 else _WHITE


class _Frame:
    """The outline of one detection.

    place : (left, top, right, bottom), in pixels of the picture, within it
    colour, ink : (red, green, blue), of the line and of what is written on it
    line, rim : width of the line and of the rims on both sides of it
    """

    def __init__(self, item, place, colour, width, side):
        left, top, right, bottom = place
        self.item, self.place, self.colour, self.ink = item, place, colour, _contrasting(colour)
        self.line = width
        if width is None:
            most = max(1, min(right - left, bottom - top) // _LINES_PER_BOX)
            self.line = min(max(1, round(side / _LINES_PER_SIDE)), most)
        self.rim = max(1, self.line // 3)

    def draw(self, panel):
        left, top, right, bottom = self.place
        rim, line = self.rim, self.line
        _ring(panel, (left - rim, top - rim, right + rim, bottom + rim), rim, self.ink, _RIM_OPACITY)
        inner = (left + line, top + line, right - line, bottom - line)
        if inner[0] < inner[2] and inner[1] < inner[3]:
            _ring(panel, inner, rim, self.ink, _RIM_OPACITY)
        _ring(panel, self.place, line, self.colour)


def _ring(panel, place, thickness, colour, opacity=1):
    """Colour the pixels of a rectangle that are less than `thickness` from its edge."""
    height, width = panel.shape[:2]
    left, top, right, bottom = place
    inner_left, inner_top = min(left + thickness, right), min(top + thickness, bottom)
    inner_right, inner_bottom = max(right - thickness, inner_left), max(bottom - thickness, inner_top)
    for x0, y0, x1, y1 in (
        (left, top, right, inner_top),
        (left, inner_bottom, right, bottom),
        (left, inner_top, inner_left, inner_bottom),
        (inner_right, inner_top, right, inner_bottom),
    ):
        part = np.s_[max(y0, 0) : min(max(y1, 0), height), max(x0, 0) : min(max(x1, 0), width)]
        panel[part] = np.rint(panel[part] * (1 - opacity) + np.multiply(colour, opacity))


def _tag_texts(item, labels, scores):
    """What is written at a box: its label and its score, "" for what is not."""
    name = labels.get(item.label, item.label) if isinstance(labels, dict) else item.label
    if not isinstance(name, str):
        raise TypeError(f"labels[{item.label!r}]: expected a str, got {type(name).__name__}")
    return name if labels is not False else "", f"{item.score:.2f}" if scores else ""


def _draw_tags(panel, frames, captions, writer):
    """Write (label, score) at each frame, those of the first frames at the best places."""
    from PIL import Image

    height, width = panel.shape[:2]
    padding = max(2, round(0.3 * writer.size))
    tag_height = writer.line_height + 2
    if 2 * tag_height > height:
        return
    tags, places = [], []
    for frame, (label, score) in zip(frames, captions):
        text = writer.shorten(label, width - 2 * padding, behind=score)
        if not text:
            continue
        tag_width = min(math.ceil(writer.length(text)) + 2 * padding, width)
        place = _tag_place(frame, tag_width, tag_height, places, (height, width))
        if place is None:
            continue
        places.append(place)
        tags.append((frame, text, place))
    for frame, text, (left, top, right, bottom) in reversed(tags):
        tag = Image.new("RGB", (right - left, bottom - top), frame.colour)
        writer.write(tag, text, padding, 1, frame.ink)
        panel[top:bottom, left:right] = np.asarray(tag)


def _tag_place(frame, width, height, taken, shape):
    """Where a tag covers the least of those that are placed already: (left, top, right, bottom).

    Of places that are as good, the first: above the box, in it, below it, beside it. None: too much would be
    covered everywhere.
    """
    left, top, right, bottom = frame.place
    # A tag is pushed along the side of its box to stay in the picture, but not away from the box.
    columns = [min(max(x, 0), shape[1] - width) for x in (left, right - width)]
    row = min(max(top, 0), shape[0] - height)
    above, below = ([(x, y) for x in columns] for y in (top - height, bottom))
    inside = [(x, y) for x in columns for y in (top, bottom - height)]
    beside = [(right, row), (left - width, row)]
    if bottom - top >= _TAGS_PER_BOX * height and right - left >= width:
        places = [above[0], inside[0], below[0], *inside[1:], above[1], below[1], *beside]
    else:
        places = [above[0], below[0], above[1], below[1], *beside, *inside]
    best, least = None, _MOST_COVERED * width * height
    for x, y in places:
        if 0 <= x <= shape[1] - width and 0 <= y <= shape[0] - height:
            place = (x, y, x + width, y + height)
            covered = sum(_common_area(place, other) for other in taken)
            if covered < least:
                best, least = place, covered
    return best


def _common_area(a, b):
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0


# ---- the figure ----


class _Bar:
    """What a colour bar shows.

    colours : float32 (levels, 3)
    alphas : float32 (levels,)
    ticks : three str, for the left end, the middle and the right end
    ends : two str, the texts of a difference map
    """

    def __init__(self, colours, alphas, ticks, ends):
        self.colours, self.alphas, self.ticks, self.ends = colours, alphas, ticks, ends

    def pixels(self, width, height):
        """uint8 (height, width, 3): the colours as they fade, but with full opacity at the top, on paper."""
        levels = np.rint(np.linspace(0, _LEVELS - 1, width)).astype(int)
        paper = np.array(_PAPER, np.float32)
        row = paper + (self.colours[levels] - paper) * self.alphas[levels][:, np.newaxis]
        return np.broadcast_to(np.rint(row).astype(np.uint8), (height, width, 3))


def _figure(panels, captions, bar, columns, font, font_size):
    """Panels of one size in rows, their captions above them, the colour bar beneath.  uint8 (H, W, 3)"""
    from PIL import Image, ImageDraw

    height, width = panels[0].shape[:2]
    n = len(panels)
    if columns is None:
        columns = math.ceil(n / math.ceil(n / 4))
    columns = min(columns, n)
    texts = list(captions or ())
    if bar:
        texts += [*bar.ticks, *bar.ends]
    writer = _Writer(texts, font, font_size, _default_font_size(height, width))
    em = round(writer.size)
    cell = max(width, _MIN_CAPTION_EMS * em if any(texts) else 0)
    margin, gap = em, em
    inner = columns * cell + (columns - 1) * gap

    rows = [range(begin, min(begin + columns, n)) for begin in range(0, n, columns)]
    wrapped = [writer.wrap(caption, cell) for caption in captions] if captions else [[]] * n
    lines_of_row = [max(len(wrapped[i]) for i in row) for row in rows]
    line = writer.line_height
    space = round(0.35 * em)
    heights = [lines * line + (space if lines else 0) + height for lines in lines_of_row]
    bar_width = min(inner, max(_BAR_EMS * em, inner // 2 if bar and any(bar.ends) else 0))
    ends = [writer.wrap(text, (bar_width - em) // 2) for text in bar.ends] if bar else []
    bar_height = 0
    if bar:
        bar_height = gap + round(0.8 * em) + space + (1 + max(map(len, ends))) * line
    total = margin + sum(heights) + gap * (len(rows) - 1) + bar_height + margin
    canvas = Image.new("RGB", (inner + 2 * margin, total), _PAPER)
    draw = ImageDraw.Draw(canvas)

    top = margin
    for row, lines, row_height in zip(rows, lines_of_row, heights):
        # A last row that is not full stands in the middle.
        left = margin + (inner - (len(row) * cell + (len(row) - 1) * gap)) // 2
        for i in row:
            y = top + (lines - len(wrapped[i])) * line
            for text in wrapped[i]:
                writer.write(canvas, text, left + (cell - writer.length(text)) / 2, y)
                y += line
            canvas.paste(Image.fromarray(panels[i]), (left + (cell - width) // 2, top + row_height - height))
            left += cell + gap
        top += row_height + gap

    if bar:
        left = margin + (inner - bar_width) // 2
        right = left + bar_width
        bottom = top + round(0.8 * em)
        canvas.paste(Image.fromarray(bar.pixels(bar_width, bottom - top)), (left, top))
        draw.rectangle((left, top, right - 1, bottom - 1), outline=_RIM)
        y = bottom + space
        for text, share in zip(bar.ticks, (0, 0.5, 1)):
            if text:
                writer.write(canvas, text, left + share * (bar_width - writer.length(text)), y)
        for lines, share in zip(ends, (0, 1)):
            for i, text in enumerate(lines, 1):
                writer.write(canvas, text, left + share * (bar_width - writer.length(text)), y + i * line)
    return np.array(canvas)


def _default_font_size(height, width):
    """In pixels, for panels of this size: readable when a few of them fill a screen or a slide."""
    return max(13, min(36, round(math.sqrt(height * width) / 21)))


# ---- text ----

# How the files of fonts with many characters begin, in lower case without "-", "_" and spaces; best first.
_PREFERRED_FONTS = (
    "dejavusans.",
    "notosansregular",
    "notosans[",
    "notosanscjkkrregular",
    "notosanscjkregular",
    "notosanscjk",
    "notosanskr",
    "nanumgothic.",
    "nanumbarungothic.",
    "applesdgothicneo",
    "malgun.",
    "arialunicode",
    "arial.",
    "segoeui.",
    "sourcehansans",
    "hiraginosansgb",
    "pingfang",
    "msyh.",
    "yugothm",
    "droidsansfallback",
    "wqy",
    "freesans.",
    "notosans",
    "symbola",
    "seguisym",
    "applesymbols",
    "seguiemj",
    "notoemoji",
    "notocoloremoji",
    "applecoloremoji",
    "unifont",
)
# Pixels: the only size of Noto Color Emoji, and the largest of Apple Color Emoji.
_BITMAP_SIZES = (109, 160)
_OTHER_STYLES = "bold italic oblique light thin black condensed mono medium serif".split()


@functools.lru_cache(maxsize=1)
def _system_fonts():
    """Two tuples of paths: fonts of `_PREFERRED_FONTS` in that order, and all others."""
    home = os.path.expanduser("~")
    folders = [os.path.join(home, ".local", "share", "fonts"), os.path.join(home, ".fonts")]
    if sys.platform == "darwin":
        folders += [os.path.join(home, "Library", "Fonts"), "/Library/Fonts", "/System/Library/Fonts"]
    data = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    folders += [os.path.join(folder, "fonts") for folder in data.split(":") if folder]
    folders += ["/usr/share/fonts", "/mnt/c/Windows/Fonts"]  # the latter in the Windows Subsystem for Linux
    paths = dict.fromkeys(
        os.path.join(parent, file)
        for folder in folders
        for parent, _, files in os.walk(folder)
        for file in sorted(files)
        if file.lower().endswith((".ttf", ".ttc", ".otf", ".otc"))
    )
    preferred, others = [], []
    for path in paths:
        name = os.path.basename(path).lower()
        for separator in "-_ ":
            name = name.replace(separator, "")
        rank = next((i for i, start in enumerate(_PREFERRED_FONTS) if name.startswith(start)), None)
        unusual = any(style in name for style in _OTHER_STYLES)
        if rank is None or unusual:
            others.append((unusual, path))
        else:
            preferred.append((rank, path))
    return tuple(tuple(path for _, path in sorted(group)) for group in (preferred, others))


class _Face:
    """A font, and which characters it has.

    font : PIL.ImageFont.FreeTypeFont
    scale : float
        What is drawn is scaled by this; not 1 for fonts of colour bitmaps, which exist in one size.
    """

    def __init__(self, font, scale=1):
        from PIL import ImageFont

        self.font = font
        self.scale = scale
        self.ascent, self.descent = (math.ceil(scale * metric) for metric in font.getmetrics())
        # A simple layout puts out one glyph for one character, without the help of its neighbours.
        # Made anew, as font_variant() of older versions of Pillow takes BASIC, which is 0, for "as it is".
        source = io.BytesIO(font.font_bytes) if hasattr(font, "font_bytes") else font.path
        self._probe = ImageFont.FreeTypeFont(source, font.size, font.index, "", ImageFont.Layout.BASIC)
        self._missing = self._drawn("\U0010ffff")
        self._known = {}

    @classmethod
    def load(cls, path, size):
        """The font of a file, `size` pixels high; None if it cannot be used."""
        from PIL import ImageFont

        for bitmaps in (None, *_BITMAP_SIZES):
            try:
                return cls(ImageFont.truetype(path, bitmaps or size), size / bitmaps if bitmaps else 1)
            except (OSError, ValueError):
                continue
        return None

    def has(self, character):
        """Whether the font has a glyph for the character.

        Pillow does not tell, so what it draws is compared with what it draws for one that no font has.
        """
        if character not in self._known:
            self._known[character] = self._drawn(character) != self._missing
        return self._known[character]

    def _drawn(self, character):
        mask, offset = self._probe.getmask2(character, mode="L")
        return mask.size, offset, self._probe.getlength(character), bytes(mask)

    def length(self, text):
        """In pixels."""
        return self.scale * self.font.getlength(text)

    def write(self, canvas, text, x, baseline, ink):
        """Draw on a PIL image, beginning at x, on the baseline."""
        from PIL import Image, ImageDraw

        if self.scale == 1:
            ImageDraw.Draw(canvas).text((x, baseline), text, ink, self.font, anchor="ls")
            return
        ascent, descent = self.font.getmetrics()
        tile = Image.new("RGBA", (math.ceil(self.font.getlength(text)), ascent + descent))
        ImageDraw.Draw(tile).text((0, ascent), text, ink, self.font, anchor="ls", embedded_color=True)
        tile = tile.resize([max(1, round(self.scale * side)) for side in tile.size], Image.Resampling.LANCZOS)
        canvas.paste(tile, (round(x), round(baseline - self.scale * ascent)), tile)


def _needs_glyph(character):
    """Whether the character is to be seen: spaces, and marks that only format their neighbours, are not."""
    is_variation_selector = "\ufe00" <= character <= "\ufe0f"
    return not (character.isspace() or unicodedata.category(character) == "Cf" or is_variation_selector)


def _clean(text):
    """One line without what cannot be drawn: controls become spaces, halves of surrogate pairs U+FFFD."""
    kinds = {"Cc": " ", "Cs": "\ufffd"}
    text = "".join(kinds.get(unicodedata.category(c), c) for c in text[:_MAX_CAPTION_CHARACTERS])
    return " ".join(text.split())


def _requested_face(font, font_size, default_size):
    """The font that the caller asks for, and its size."""
    from PIL import ImageFont

    if isinstance(font, ImageFont.FreeTypeFont):
        same = font_size is None or font_size == font.size
        return _Face(font if same else font.font_variant(size=font_size)), font_size or font.size
    if not isinstance(font, (str, os.PathLike)):
        raise TypeError(
            "font: expected the path of a TrueType or OpenType font, or a PIL.ImageFont.FreeTypeFont, got "
            f"{type(font).__name__}"
        )
    path = os.fspath(font)
    # Pillow would go on to look for a font of that name in the folders of the system.
    if not os.path.isfile(path):
        raise FileNotFoundError(errno.ENOENT, "font: there is no such file", path)
    face = _Face.load(path, font_size or default_size)
    if face is None:
        raise OSError(f"font: {path}: expected a TrueType or OpenType font, got something else")
    return face, font_size or default_size


@functools.lru_cache(maxsize=16)
def _found_faces(characters, size):
    """Fonts that together have the characters, as few as possible, the one for most of them first.

    characters : frozenset of str

    Returns the fonts, and the characters that none has.
    """
    from PIL import ImageFont

    faces = [_Face(ImageFont.load_default(size))]
    if all(map(faces[0].has, characters)):
        return tuple(faces), frozenset()
    chosen, missing = [], set(characters)
    for paths in _system_fonts():
        for path in paths:
            face = _Face.load(path, size)
            if face:
                faces.append(face)
                if all(map(face.has, missing)):
                    break
        while missing:
            best = max(faces, key=lambda face: sum(map(face.has, missing)))
            found = set(filter(best.has, missing))
            if not found:
                break
            chosen.append(best)
            missing -= found
        if not missing:
            break
    return tuple(chosen or faces[:1]), frozenset(missing)


class _Writer:
    """Measures, wraps and draws captions, with as few fonts as have all their characters.

    Parameters
    ----------
    texts : list of str
        All that will be written.
    font : str, os.PathLike, FreeTypeFont or None
    font_size : float or None
        What the caller asks for.
    default_size : float
        Used when neither `font_size` nor a font with a size of its own is given.
    """

    def __init__(self, texts, font, font_size, default_size):
        characters = {c for text in texts for c in _clean(text) if _needs_glyph(c)}
        faces = []
        self.size = font_size or default_size
        if font is not None:
            face, self.size = _requested_face(font, font_size, default_size)
            faces.append(face)
            characters = {c for c in characters if not face.has(c)}
        if characters or not faces:
            found, missing = _found_faces(frozenset(characters), self.size)
            faces += found
            if missing:
                some = "".join(sorted(missing)[:20]) + ("…" if len(missing) > 20 else "")
                warn(
                    f"no font was found for some characters of the captions, '{some}'; boxes stand in their "
                    "place; font= takes the path of a font that has them"
                )
        self.faces = faces
        self.ascent = max(face.ascent for face in faces)
        self.line_height = self.ascent + max(face.descent for face in faces)
        self.ellipsis = "…" if any(face.has("…") for face in faces) else "..."

    def _runs(self, text):
        """The text in pieces of one font each: pairs (face, str)."""
        runs = []
        for character in text:
            before = runs[-1][0] if runs else None
            if _needs_glyph(character):
                if before and unicodedata.combining(character) and before.has(character):
                    face = before
                else:
                    face = next((face for face in self.faces if face.has(character)), self.faces[0])
            else:
                # The spaces of emoji fonts are as wide as emoji.
                face = before if before and (before.scale == 1 or not character.isspace()) else self.faces[0]
                if not character.isspace() and not face.has(character):
                    continue
            if face is before:
                runs[-1][1] += character
            else:
                runs.append([face, character])
        return runs

    def length(self, text):
        """In pixels."""
        return sum(face.length(piece) for face, piece in self._runs(text))

    def write(self, canvas, text, x, y, ink=_INK):
        """Draw one line on a PIL image; (x, y) is its upper left corner."""
        x = round(x)
        for face, piece in self._runs(text):
            face.write(canvas, piece, x, y + self.ascent, ink)
            x += face.length(piece)

    def wrap(self, text, width):
        """The text in lines no longer than `width` pixels, a few at most; what is left out shows as "…"."""
        lines, line = [], ""
        words = _clean(text).split(" ")[::-1]
        while words and len(lines) < _MAX_CAPTION_LINES:
            word = words.pop()
            longer = f"{line} {word}" if line else word
            if self.length(longer) <= width:
                line = longer
            elif line:
                lines.append(line)
                line = ""
                words.append(word)
            else:  # a word longer than a line
                end = self._longest_start(word, width)
                lines.append(word[:end])
                words.append(word[end:])
        if line and len(lines) < _MAX_CAPTION_LINES:
            lines.append(line)
            line = ""
        if line or words:
            last = lines[-1]
            while last and self.length(last + self.ellipsis) > width:
                last = last[:-1].rstrip()
            lines[-1] = last + self.ellipsis
        return lines

    def shorten(self, text, width, behind=""):
        """The text and another behind it, as one line no longer than `width` pixels; "" if nothing fits.

        Of the text, what does not fit is left out and shows as "…"; what is behind it stays whole.
        """
        text, behind = _clean(text), _clean(behind)
        line = f"{text} {behind}".strip()
        if self.length(line) <= width:
            return line
        rest = f"{self.ellipsis} {behind}".rstrip()
        start = text[: self._longest_start(text, width - self.length(rest))].rstrip()
        for line in (start + rest, behind):
            if self.length(line) <= width:
                return line
        return ""

    def _longest_start(self, word, width):
        """How many characters of the word fit; at least one, and marks stay with what they are on."""
        end = 0
        while end < len(word):
            after = end + 1
            while after < len(word) and (unicodedata.combining(word[after]) or not _needs_glyph(word[after])):
                after += 1
            if end and self.length(word[:after]) > width:
                break
            end = after
        return end
