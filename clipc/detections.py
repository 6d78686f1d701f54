"""The answer of a detector: boxes with labels and scores, how they print, and the forms of other tools."""

from __future__ import annotations

import colorsys
import html
import math
import operator
from dataclasses import dataclass

import numpy as np

from clipc.terminal import columns, pad

# Detections that are shown; the list holds all of them.
SHOWN_IN_TEXT = 25
SHOWN_IN_HTML = 50

_CORNERS = ("x0", "y0", "x1", "y1")

# The colours of Okabe and Ito (2008), which colour-blind readers tell apart, without black.
_PALETTE = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#f0e442", "#0072b2", "#d55e00")
_GOLDEN_ANGLE = (3 - math.sqrt(5)) / 2  # of a full turn: no two hues of a few hundred are the same
# Saturation and value of the colours behind the palette. Hue alone would not tell so many apart.
_SHADES = ((0.85, 0.95), (0.35, 1.0), (0.9, 0.55))


def label_colour(position):
    """The colour in which a label is shown, in pictures and in tables.

    Parameters
    ----------
    position : int
        Of the label in the list of labels, from 0.

    Returns
    -------
    tuple of int
        (red, green, blue), 0 to 255.
    """
    if position < len(_PALETTE):
        return tuple(bytes.fromhex(_PALETTE[position][1:]))
    beyond = position - len(_PALETTE)
    rgb = colorsys.hsv_to_rgb(beyond * _GOLDEN_ANGLE % 1, *_SHADES[beyond % len(_SHADES)])
    return tuple(round(255 * channel) for channel in rgb)


@dataclass(frozen=True, slots=True, repr=False)
class Detection:
    """One object that was found.

    Attributes
    ----------
    label : str
    score : float
        What it means depends on the method; see `clipc.Model.detect`.
    box : tuple of float
        (x0, y0, x1, y1) in pixels of the original image: x0 and y0 where the box begins, x1 and y1 where it
        ends, so that its width is x1 - x0. It may reach beyond the image.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]

    def __post_init__(self):
        if not isinstance(self.label, str):
            raise TypeError(f"label: expected a str, got {type(self.label).__name__}")
        try:
            score = float(self.score)
        except (TypeError, ValueError):
            raise TypeError(f"score: expected a number, got {self.score!r}") from None
        if not math.isfinite(score):
            raise ValueError(f"score: expected a finite number, got {score}")
        try:
            x0, y0, x1, y1 = (float(side) for side in self.box)
        except (TypeError, ValueError):
            raise TypeError(f"box: expected four numbers (x0, y0, x1, y1), got {self.box!r}") from None
        if not (all(map(math.isfinite, (x0, y0, x1, y1))) and x0 <= x1 and y0 <= y1):
            raise ValueError(f"box: expected finite x0 <= x1 and y0 <= y1, got {(x0, y0, x1, y1)}")
        object.__setattr__(self, "score", score)
        object.__setattr__(self, "box", (x0, y0, x1, y1))

    def __repr__(self):
        corners = ", ".join(f"{side:.1f}" for side in self.box)
        return f"Detection({self.label!r}, {self.score:.3f}, ({corners}))"


class Detections(list):
    """What was found in one image: a list of `Detection`, highest score first.

    It prints as a table and shows one in Jupyter; of many detections the first few. Slices, copies and what
    the methods return are `Detections` as well.

    Parameters
    ----------
    items : iterable of Detection
        In the order that they are to have.
    image_size, labels, method, maps
        See below.

    Attributes
    ----------
    image_size : tuple of int
        (width, height) of the original image, pixels.
    labels : tuple of str
        All labels that were looked for, found or not, in the order of the call.
    method : str
        How they were found; see `clipc.Model.detect`.
    maps : dict of str to float32 array (H, W), or None
        The score map of each label, where they were asked for.
    """

    def __init__(self, items, *, image_size, labels, method, maps=None):
        super().__init__(items)
        self.image_size = _checked_size(image_size)
        if isinstance(labels, str):
            raise TypeError("labels: expected a list of str, got a str")
        self.labels = tuple(labels)
        self.method = method
        if not (maps is None or isinstance(maps, dict)):
            raise TypeError(f"maps: expected a dict from label to array, or None, got {type(maps).__name__}")
        self.maps = maps
        for i, label in enumerate(self.labels):
            if not isinstance(label, str):
                raise TypeError(f"labels[{i}]: expected a str, got {type(label).__name__}")
        known = set(self.labels)
        if len(known) < len(self.labels):
            twice = next(label for i, label in enumerate(self.labels) if label in self.labels[:i])
            raise ValueError(f"labels: {twice!r} is given more than once")
        for i, item in enumerate(self):
            if not isinstance(item, Detection):
                raise TypeError(f"items[{i}]: expected a clipc.Detection, got {type(item).__name__}")
            if item.label not in known:
                raise ValueError(f"items[{i}]: its label {item.label!r} is none of labels")

    def _with(self, items):
        return type(self)(
            items, image_size=self.image_size, labels=self.labels, method=self.method, maps=self.maps
        )

    def __getitem__(self, index):
        part = super().__getitem__(index)
        return self._with(part) if isinstance(index, slice) else part

    def copy(self):
        """A list of its own of the same detections."""
        return self._with(self)

    # -- parts -------------------------------------------------------------------------------------------

    def above(self, threshold):
        """Those whose score is larger than a threshold.

        Parameters
        ----------
        threshold : float

        Returns
        -------
        Detections
        """
        try:
            limit = float(threshold)
        except (TypeError, ValueError):
            raise TypeError(f"threshold: expected a number, got {threshold!r}") from None
        if math.isnan(limit):
            raise ValueError("threshold: expected a number, got NaN")
        return self._with(item for item in self if item.score > limit)

    def of(self, label):
        """Those with a label.

        Parameters
        ----------
        label : str
            One that was looked for.

        Returns
        -------
        Detections
        """
        if not isinstance(label, str):
            raise TypeError(f"label: expected a str, got {type(label).__name__}")
        if label not in self.labels:
            raise ValueError(f"label: {label!r} was not looked for; expected {_listed(self.labels)}")
        return self._with(item for item in self if item.label == label)

    # -- as arrays ---------------------------------------------------------------------------------------

    @property
    def boxes(self):
        """(x0, y0, x1, y1) of each detection, float32 (N, 4)."""
        return np.array([item.box for item in self], np.float32).reshape(-1, 4)

    @property
    def scores(self):
        """The score of each detection, float32 (N,)."""
        return np.array([item.score for item in self], np.float32)

    @property
    def label_ids(self):
        """The position of each detection's label in `labels`, int64 (N,)."""
        position = {label: i for i, label in enumerate(self.labels)}
        return np.array([position[item.label] for item in self], np.int64)

    # -- for other tools ---------------------------------------------------------------------------------

    def to_coco(self, image_id=None, category_ids=None):
        """The detections in COCO's format of results, as ``pycocotools.coco.COCO.loadRes`` reads them.

        Parameters
        ----------
        image_id : int or str, optional
            The image's id in the file of annotations. Evaluation needs it.
        category_ids : dict of str to int, optional
            The id of each label. Default: its position in `labels` + 1.

        Returns
        -------
        list of dict
            ``category_id``, ``bbox`` [x, y, width, height] in pixels, ``score``, and ``image_id`` if one is
            given.

        Raises
        ------
        TypeError, ValueError
            Ids of another kind; a label without an id.
        """
        if image_id is not None and not isinstance(image_id, str):
            image_id = _whole_number("image_id", image_id)
        if category_ids is None:
            category_ids = {label: i for i, label in enumerate(self.labels, 1)}
        elif not hasattr(category_ids, "keys"):
            kind = type(category_ids).__name__
            raise TypeError(f"category_ids: expected a dict from label to int, got {kind}")
        results = []
        for item in self:
            if item.label not in category_ids:
                raise ValueError(f"category_ids: no id for the label {item.label!r}")
            x0, y0, x1, y1 = item.box
            entry = {} if image_id is None else {"image_id": image_id}
            entry["category_id"] = _whole_number(f"category_ids[{item.label!r}]", category_ids[item.label])
            results.append({**entry, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": item.score})
        return results

    def to_supervision(self):
        """The detections for the package supervision: tracking, zones, other ways of drawing.

        Returns
        -------
        supervision.Detections
            ``class_id`` is the position in `labels`, ``data["class_name"]`` holds the labels.

        Raises
        ------
        ImportError
            The package is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError(
                f"to_supervision needs the package supervision: pip install 'clipc[detection]' ({error})"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.label_ids,
            data={"class_name": np.array([item.label for item in self], dtype=np.str_)},
        )

    def to_rows(self):
        """A dict for each detection, as ``pandas.DataFrame`` or ``csv.DictWriter`` takes them.

        Returns
        -------
        list of dict
            ``label``, ``score``, ``x0``, ``y0``, ``x1``, ``y1``.
        """
        return [{"label": item.label, "score": item.score, **dict(zip(_CORNERS, item.box))} for item in self]

    # -- printed -----------------------------------------------------------------------------------------

    def as_table(self, limit=None):
        """The number of detections, and a line for each: label, score, box.

        Parameters
        ----------
        limit : int, optional
            How many lines; how many there are beyond is told. None: all.
        """
        if not self:
            return "no detections"
        rows = [("label", "score", *_CORNERS)]
        rows += ((item.label, f"{item.score:.3f}", *_rounded(item.box)) for item in self[:limit])
        widths = [max(map(columns, column)) for column in zip(*rows)]
        lines = [f"{len(self)} detection{'' if len(self) == 1 else 's'}"]
        for label, *numbers in rows:
            cells = [pad(label, widths[0]), *(text.rjust(width) for text, width in zip(numbers, widths[1:]))]
            lines.append("  ".join(cells))
        if limit is not None and len(self) > limit:
            lines.append(f"({len(self) - limit} more)")
        return "\n".join(lines)

    def __str__(self):
        return self.as_table(SHOWN_IN_TEXT)

    def __repr__(self):
        found = ", ".join(f"{item.label!r} {item.score:.3f}" for item in self[:3])
        found += ", …" if len(self) > 3 else ""
        width, height = self.image_size
        what = f"{len(self)} in {width} x {height} pixels, {self.method}"
        return f"<clipc.Detections {what}{': ' if found else ''}{found}>"

    def _repr_html_(self):
        if not self:
            return "<div>no detections</div>"
        head = "".join(
            f'<th style="text-align:{side}">{name}</th>'
            for name, side in (("label", "left"), ("score", "right"), *((name, "right") for name in _CORNERS))
        )
        position = {label: i for i, label in enumerate(self.labels)}
        rows = []
        for item in self[:SHOWN_IN_HTML]:
            colour = "#{:02x}{:02x}{:02x}".format(*label_colour(position[item.label]))
            swatch = (
                '<span style="display:inline-block;width:0.8em;height:0.8em;margin-right:0.5em;'
                f'border-radius:2px;background:{colour}"></span>'
            )
            numbers = "".join(
                f'<td style="text-align:right">{text}</td>'
                for text in (f"{item.score:.3f}", *_rounded(item.box))
            )
            label = f'<td style="text-align:left">{swatch}{html.escape(item.label)}</td>'
            rows.append(f"<tr>{label}{numbers}</tr>")
        if len(self) > SHOWN_IN_HTML:
            rows.append(f"<tr><td colspan=6>{len(self) - SHOWN_IN_HTML} more</td></tr>")
        return (
            f'<table style="border:none"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        )


def _rounded(box):
    return [f"{side:.1f}" for side in box]


def _listed(labels, shown=10):
    more = f" and {len(labels) - shown} more" if len(labels) > shown else ""
    return f"one of {', '.join(map(repr, labels[:shown]))}{more}"


def _whole_number(name, value):
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {value!r}") from None


def _checked_size(size):
    try:
        width, height = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise TypeError(f"image_size: expected two whole numbers (width, height), got {size!r}") from None
    if width < 1 or height < 1:
        raise ValueError(f"image_size: expected at least 1 x 1 pixels, got {width} x {height}")
    return width, height
