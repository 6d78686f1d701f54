"""Zero-shot object detection: boxes for words, with CLIP alone or with a detector built on it.

CLIP says how well a picture fits a text, not where. Three methods make boxes of that: *windows* encodes many
parts of the picture, *dense* the features of every place in one pass, *proposals* scores given boxes, its own
or the reader's. The fourth, *owl*, is a detector that was trained to answer with boxes (`clipc.owl`).

In all but *owl* a label competes with the other labels and with a background set, words for what is usually
no object, in a softmax; what is left of a label then is a score between 0 and 1 that can be compared between
pictures. See `docs/detection.md`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clipc import _core, owl, tokenizer
from clipc import image as images
from clipc.arguments import whole_number
from clipc.cam import check_image_size
from clipc.detections import Detection, Detections
from clipc.model import check_labels
from clipc.progress import progress_bar
from clipc.vectors import half_pixel_weights, softmax, unit_rows

METHODS = ("auto", "windows", "dense", "proposals", "owl")

# What fills pictures around objects. Without something to compete with, the only label of a call would have
# probability 1 everywhere.
BACKGROUND = (
    "background",
    "wall",
    "floor",
    "sky",
    "grass",
    "ground",
    "water",
    "texture",
    "pattern",
)

# Sides of the windows, as shares of the shorter side of the picture, and the step between two of them as a
# share of their own side. On a 4 : 3 picture these make 283 windows.
SCALES = (1.0, 0.7, 0.5, 0.35, 0.25)
STRIDE = 0.34

# Very long pictures would need any number of windows; the small ones are left out first.
MAX_WINDOWS = 1500

# Logits are multiplied by this before the softmax. At their full scale most windows that touch an object have
# probability 1, and the map that they make has no edge.
SOFTENING = {"windows": 0.5, "dense": 0.5, "proposals": 1.0}

# An object ends where its map has fallen to this share of its peak.
EDGE = 0.5

THRESHOLDS = {"windows": 0.4, "dense": 0.4, "proposals": 0.25, "owl": owl.DEFAULT_THRESHOLD}
NMS_IOU = 0.5

# Cells along the shorter side of the map that windows are added up on, and how many it has at most: pictures
# may be long.
MAP_CELLS = 32
MAX_MAP_CELLS = 65536

# Weights of windows at cells that are held at a time: 8 MB.
WEIGHTS_AT_ONCE = 1 << 21

# The picture is reduced until the smallest window has this many times the pixels per side that the encoder
# takes: what is finer is lost in the crop anyway, and a picture of 50 megapixels costs no more than one of a
# few.
PIXELS_PER_SIDE = 2

# Share of its peak below which a dense map counts nothing, when a proposed box is held against it.
PROPOSAL_FLOOR = 0.3

CROP_BATCH = 64

# Grid cells of a dense pass: attention between all of them costs their square. And pixels along one side of
# its input, of which the core takes no more.
MAX_DENSE_CELLS = 4096
MAX_DENSE_SIDE = 16384

# Finer than the grid, so that a box may end between two cells.
DENSE_ZOOM = 4

# Boxes that "proposals" finds itself; those where the labels stand out most.
MAX_PROPOSALS = 300


class _Labels(NamedTuple):
    """The texts of a call.

    Attributes
    ----------
    labels : tuple of str
    classifier : float32 array, (number of labels + number of background words, D)
        Unit vectors, the labels first.
    """

    labels: tuple[str, ...]
    classifier: np.ndarray


class Options(NamedTuple):
    """How boxes are made; see `clipc.Model.detect`."""

    method: str
    threshold: float
    nms: float | str | None
    boxes: np.ndarray | None
    max_detections: int
    maps: bool
    image_size: int | None
    scales: tuple[float, ...]
    stride: float
    features: str
    batch_size: int


def detect(model, image, labels, *, templates, background, exif, progress, clip, **options):
    """See `clipc.Model.detect`."""
    options = _check_options(model, **options)
    if options.method == "owl":
        return _detect_owl(model, image, labels, templates, options, clip, exif, progress)
    known = _check_labels(model, labels, background, templates)
    find = {"windows": _windows, "dense": _dense, "proposals": _proposals}[options.method]
    if options.boxes is not None and isinstance(image, (list, tuple)):
        raise ValueError("boxes: they belong to one image, and a list of images was given")

    def finish(one, index, bar):
        return find(model, images.to_rgb(one, exif=exif, index=index), known, options, bar)

    return _each_image(image, finish, progress)


def _each_image(image, finish, progress):
    if images.is_preprocessed(image):
        raise TypeError("image: detection needs the original picture, not a preprocessed array")
    return images.each_image(image, finish, progress)


# ---- with a detection head -------------------------------------------------------------------------------


def _detect_owl(model, image, labels, templates, options, clip, exif, progress):
    labels = check_label_names(labels)
    queries = model.classifier(labels, templates)

    def finish(one, index, _):
        outputs = owl.outputs(model, one, image_size=options.image_size, exif=exif, index=index)
        found = owl.select(outputs, owl.logits(outputs, queries), threshold=options.threshold, clip=clip)
        return _owl_detections(
            found, labels, outputs.view, nms=options.nms, threshold=options.threshold,
            max_detections=options.max_detections, maps=options.maps,
        )  # fmt: skip

    return _each_image(image, finish, progress)


def detect_by_image(model, image, query, *, label, max_detections, progress, exif, **options):
    """See `clipc.Model.detect_by_image`."""
    owl.require_detection_head(model)
    if not isinstance(label, str):
        raise TypeError(f"label: expected a str, got {type(label).__name__}")
    threshold, nms = (_number(name, options[name], 0, 1) for name in ("threshold", "nms"))
    max_detections = whole_number("max_detections", max_detections)
    asked = owl.outputs(model, query, image_size=options["image_size"], exif=exif)
    feature = owl.query_feature(asked, options["query_box"])[None]

    def finish(one, index, _):
        outputs = owl.outputs(model, one, image_size=options["image_size"], exif=exif, index=index)
        found = owl.select_by_image(
            outputs, owl.logits(outputs, feature), threshold=threshold, nms=nms, clip=options["clip"]
        )
        return _owl_detections(found, (label,), outputs.view, max_detections=max_detections)

    return _each_image(image, finish, progress)


def _owl_detections(found, labels, view, *, max_detections, nms=None, threshold=0.0, maps=False):
    boxes, scores, classes = found
    boxes, classes = boxes.astype(np.float32), classes.astype(np.int64)
    kept = select(boxes, scores, classes, nms=nms, threshold=threshold, max_detections=max_detections)
    items = [Detection(labels[classes[i]], score, tuple(boxes[i].tolist())) for i, score in kept]
    by_label = None
    if maps:
        rows = np.zeros((len(boxes), len(labels)), np.float32)
        rows[np.arange(len(boxes)), classes] = scores
        whole = np.clip(np.rint(boxes), 0, [view.width, view.height] * 2)
        by_label = _largest_of_boxes(rows, whole, view.height, view.width, labels)
    return Detections(
        items, image_size=(view.width, view.height), labels=labels, method="owl", maps=by_label
    )


# ---- checks ----------------------------------------------------------------------------------------------


def _check_options(
    model, *, method, threshold, nms, boxes, max_detections, maps, image_size, scales, stride, features,
    batch_size
):
    method = _check_method(model, method)
    if boxes is not None and method != "proposals":
        raise ValueError(f"boxes: they are for method 'proposals', not {method!r}")
    threshold = THRESHOLDS[method] if threshold is None else _number("threshold", threshold, 0, 1)
    if nms == "default":
        nms = None if method == "owl" else NMS_IOU
    if isinstance(nms, str) and nms != "soft":
        raise ValueError(f"nms: expected a number from 0 to 1, 'soft' or None, got {nms!r}")
    if nms is not None and nms != "soft":
        nms = _number("nms", nms, 0, 1)
    if scales is None:
        scales = SCALES
    scales = tuple(_number("scales", scale, 0, 1) for scale in np.atleast_1d(np.asarray(scales, object)))
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales: expected numbers above 0, up to 1, got {scales}")
    stride = _number("stride", STRIDE if stride is None else stride, 0.01, 1)
    is_vit = model.config.vision == "vit"
    known_features = ("maskclip", "sclip", "surgery") if is_vit else ("maskclip", "surgery")
    if features is None:
        features = "sclip" if is_vit else "maskclip"
    if features not in known_features:
        raise ValueError(f"features: expected {' or '.join(map(repr, known_features))}, got {features!r}")
    if image_size is not None:
        image_size = check_image_size(model, image_size)
    return Options(
        method, threshold, nms, _check_boxes(boxes), whole_number("max_detections", max_detections),
        bool(maps), image_size, scales, stride, features,
        CROP_BATCH if batch_size is None else whole_number("batch_size", batch_size),
    )  # fmt: skip


def _check_method(model, method):
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(map(repr, METHODS))}, got {method!r}")
    has_head = model.has_detection_head
    if method == "auto":
        return "owl" if has_head else "windows"
    if method == "owl" and not has_head:
        raise ValueError(
            f"method: {model.name!r} has no detection head, so 'owl' does not work; it has 'windows', "
            "'dense' and 'proposals' (OWL-ViT and OWLv2 checkpoints have one)"
        )
    return method


def _number(name, value, least, most):
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, got {value!r}") from None
    if isinstance(value, (bool, str)) or not least <= number <= most:
        raise ValueError(f"{name}: expected a number from {least} to {most}, got {value!r}")
    return number


def _check_boxes(boxes):
    if boxes is None:
        return None
    try:
        boxes = np.array(boxes, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"boxes: expected numbers, rows of x0, y0, x1, y1, got {boxes!r:.200}") from None
    if boxes.size == 0:
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes: expected shape (N, 4), rows of x0, y0, x1, y1, got {boxes.shape}")
    # Also what float32, which overlaps are computed in, cannot hold.
    if not (np.abs(boxes) <= np.finfo(np.float32).max).all():
        raise ValueError("boxes: expected finite numbers, got NaN or infinity")
    if (boxes[:, :2] > boxes[:, 2:]).any():
        row = int(np.flatnonzero((boxes[:, :2] > boxes[:, 2:]).any(axis=1))[0])
        raise ValueError(f"boxes[{row}]: expected x0 <= x1 and y0 <= y1, got {boxes[row].tolist()}")
    return boxes


def _check_labels(model, labels, background, templates):
    labels = check_label_names(labels)
    background = BACKGROUND if background is None else tuple(background_names(background))
    # The tokenizer lowers letters; a word that counted twice would weigh more than others.
    words = {word.casefold(): word for word in reversed(background)}
    taken = {label.casefold() for label in labels}
    background = tuple(word for name, word in reversed(words.items()) if name not in taken)
    if len(labels) + len(background) < 2:
        raise ValueError(
            "background: without it a single label has nothing to compete with and is found everywhere; give "
            "more labels or some background words"
        )
    return _Labels(labels, model.classifier(labels + background, templates))


def check_label_names(labels):
    """The labels as a tuple; an error unless they are one text or more, all different and none empty."""
    labels = check_labels(labels)
    for position, label in enumerate(labels):
        if not label.strip():
            raise ValueError(f"labels[{position}]: expected a text with at least one word, got {label!r}")
    return labels


def background_names(background):
    """The background set as a list, which may be empty."""
    if isinstance(background, (list, tuple)) and not background:
        return []
    background = tokenizer.as_text_list(background, "background")
    for position, word in enumerate(background):
        if not word.strip():
            raise ValueError(f"background[{position}]: expected a text with at least one word, got {word!r}")
    return background


# ---- windows ---------------------------------------------------------------------------------------------


def sliding_windows(height, width, scales=SCALES, stride=STRIDE, most=MAX_WINDOWS):
    """Square windows over a picture, on several scales.

    Parameters
    ----------
    height, width : int
        Of the picture, pixels.
    scales : sequence of float
        Sides of the windows as shares of the shorter side.
    stride : float
        Largest step between two windows, as a share of their side; steps are made even, so that the windows
        reach from edge to edge.
    most : int
        The smallest scales are left out, and then the step is enlarged, until there are no more than this; 2
        or more.

    Returns
    -------
    int64 array, (N, 4)
        x0, y0, x1, y1, pixels; all different, in ascending order. The whole picture is among them.
    """
    shorter = min(height, width)
    sides = sorted({max(1, round(shorter * scale)) for scale in scales}, reverse=True)
    while True:
        found = [(0, 0, width, height)]
        for side in sides:
            ys, xs = (_positions(length, side, stride) for length in (height, width))
            if len(found) + len(ys) * len(xs) > 4 * most:
                found = None
                break
            found += [(x, y, x + side, y + side) for y in ys for x in xs]
        if found is not None and len(set(found)) <= most:
            return np.array(sorted(set(found)), np.int64)
        if len(sides) > 1:
            sides.pop()
        else:
            stride *= 2


def _positions(length, side, stride):
    count = 1 + int(np.ceil((length - side) / max(1, side * stride) - 1e-9))
    return np.linspace(0, length - side, max(1, count)).round().astype(int).tolist()


def _windows(model, rgb, known, options, progress):
    """Every window is encoded; maps are the windows' scores, averaged at each place."""
    height, width = rgb.shape[:2]
    size = options.image_size or model.image_size
    reduced = _reduced(rgb, PIXELS_PER_SIDE * size / min(options.scales))
    windows = sliding_windows(*reduced.shape[:2], options.scales, options.stride)
    scores = _crop_scores(model, reduced, windows, size, known, options, progress)
    shorter, longer = sorted(reduced.shape[:2])
    cell = max(1.0, shorter / MAP_CELLS, (shorter * longer / MAX_MAP_CELLS) ** 0.5)
    maps = _mean_of_windows(scores, windows, reduced.shape[:2], cell)
    return _from_maps(maps, known, options, height, width)


def _reduced(rgb, side):
    """The picture itself, or smaller, with a shorter side of about `side` pixels."""
    height, width = rgb.shape[:2]
    shrink = side / min(height, width)
    if shrink >= 1:
        return rgb
    return _core.resize(rgb, max(1, round(width * shrink)), max(1, round(height * shrink)))


def _crop_scores(model, rgb, boxes, size, known, options, progress):
    """The scores of parts of a picture, float32 (number of boxes, number of labels)."""
    config, scores = model.config, []
    with progress_bar(len(boxes), "window", progress) as bar:
        for begin in range(0, len(boxes), options.batch_size):
            part = boxes[begin : begin + options.batch_size]
            pixels = _core.crops(rgb, part, size, config.image_mean, config.image_std)
            scores.append(_scores(model, model._core.encode_images(pixels), known, options))
            bar.update(len(part))
    return np.concatenate(scores) if scores else np.zeros((0, len(known.labels)), np.float32)


def _scores(model, features, known, options):
    """softmax over labels and background of the softened logits, without the background: (M, labels)."""
    model._check_finite(features)
    scale = np.float32(SOFTENING[options.method] * model.logit_scale)
    return softmax(scale * (unit_rows(features) @ known.classifier.T))[:, : len(known.labels)]


def _mean_of_windows(scores, windows, shape, cell):
    """Maps, float32 (labels, rows, columns): at each cell the mean of the windows over it.

    A window counts by a Gaussian around its centre, whose standard deviation is a quarter of its side, and by
    the inverse of its area: what a small window sees is surer to be where it is.
    """
    if shape[0] > shape[1]:
        turned = _mean_of_windows(scores, windows[:, [1, 0, 3, 2]], shape[::-1], cell)
        return np.ascontiguousarray(turned.transpose(0, 2, 1))
    height, width = shape
    rows, columns = int(np.ceil(height / cell)), int(np.ceil(width / cell))
    along_y = _window_weights(windows[:, 1], windows[:, 3], (np.arange(rows) + 0.5) * height / rows)
    centres = (np.arange(columns) + 0.5) * width / columns
    maps = np.empty((scores.shape[1], rows, columns), np.float32)
    # In blocks of columns, with the windows that reach into them: all weights at once would take gigabytes
    # for a long picture.
    step = max(1, WEIGHTS_AT_ONCE // (rows * len(windows)))
    for begin in range(0, columns, step):
        block = centres[begin : begin + step]
        near = (windows[:, 0] <= block[-1]) & (windows[:, 2] >= block[0])
        along_x = _window_weights(windows[near, 0], windows[near, 2], block)
        weights = np.einsum("ny,nx->yxn", along_y[near], along_x).reshape(rows * len(block), -1)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
        maps[:, :, begin : begin + step] = (weights @ scores[near]).T.reshape(-1, rows, len(block))
    return maps


def _window_weights(begin, end, centres):
    """float32 (windows, cells): a Gaussian, over the length of the window, 0 outside."""
    side = (end - begin).astype(np.float64)[:, None]
    offset = centres[None] - ((begin + end) / 2)[:, None]
    weights = np.exp(-8 * (offset / side) ** 2) / side
    return np.where(np.abs(offset) <= side / 2, weights, 0).astype(np.float32)


# ---- dense -----------------------------------------------------------------------------------------------


def _dense(model, rgb, known, options, progress):
    """One pass; the feature of each place is compared with the labels."""
    height, width = rgb.shape[:2]
    return _from_maps(_dense_maps(model, rgb, known, options), known, options, height, width)


def _dense_maps(model, rgb, known, options):
    """float32 (labels, rows, columns)"""
    rows, columns = _dense_grid(model, rgb.shape[:2], options.image_size)
    step, config = _step(model), model.config
    pixels = images.squash(rgb, rows * step, columns * step, config.image_mean, config.image_std)
    features, _ = model._core.dense_features(pixels, options.features)
    maps = _scores(model, features[1:], known, options).T.reshape(-1, rows, columns)
    return _zoomed(maps, DENSE_ZOOM)


def _step(model):
    return model.config.vision_patch_size or 32


def _dense_grid(model, shape, image_size):
    """Rows and columns of the grid: the proportions of the picture, its shorter side `image_size` pixels."""
    step, stretch = _step(model), max(shape) / min(shape)
    longest = MAX_DENSE_SIDE // step
    side = image_size or max(2 * model.image_size, 224)
    cells = min(side / step, (MAX_DENSE_CELLS / stretch) ** 0.5, longest / stretch)
    return tuple(min(max(1, round(cells * length / min(shape))), longest) for length in shape)


def _zoomed(maps, zoom):
    """Maps on a grid that is `zoom` times finer, bilinear with half-pixel centres."""
    rows, columns = maps.shape[1:]
    along_y = half_pixel_weights(rows * zoom, rows, 0, rows * zoom)
    along_x = half_pixel_weights(columns * zoom, columns, 0, columns * zoom)
    return along_y @ maps @ along_x.T


# ---- proposals -------------------------------------------------------------------------------------------


def _proposals(model, rgb, known, options, progress):
    """Boxes, the reader's or those of the dense map, each encoded as a crop."""
    height, width = rgb.shape[:2]
    boxes, dense = options.boxes, None
    if boxes is None:
        dense = _dense_maps(model, rgb, known, options._replace(method="dense", image_size=None))
        boxes = _own_proposals(dense, height, width)
    size = options.image_size or model.image_size
    # What is seen of a box: whole pixels, inside the picture. Of some nothing is.
    inside = np.clip(boxes, 0, [width, height] * 2)
    visible = (inside[:, :2] < inside[:, 2:]).all(axis=1)
    boxes, inside = boxes[visible], inside[visible]
    whole = np.concatenate([np.floor(inside[:, :2]), np.ceil(inside[:, 2:])], axis=1).astype(np.int64)
    scores = _crop_scores(model, rgb, whole, size, known, options, progress)
    named = np.ones(scores.shape, bool)
    if dense is not None:
        scores = scores * _agreement(boxes, dense, height, width)
    elif len(scores):
        # A box that the reader drew holds one thing; of clipc's own several labels may be right.
        named = np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]
    maps = _largest_of_boxes(scores, whole, height, width, known.labels) if options.maps else None
    found = [
        (label, float(row[label]), tuple(boxes[i]))
        for i, row in enumerate(scores)
        for label in np.flatnonzero(named[i])
    ]
    return _detections(found, known.labels, options, height, width, maps)


def _own_proposals(dense, height, width):
    """Class-agnostic boxes: where the labels together, or one of them, stand out in the dense maps."""
    found = []
    for map_ in (dense.sum(axis=0), *dense):
        for edge in (0.3, 0.5, 0.7):
            found += [(score, _to_pixels(box, map_.shape, height, width))
                      for score, box in peaks(map_, 0.1, edge, 10)]  # fmt: skip
    found.sort(key=lambda one: -one[0])
    boxes = [(0.0, 0.0, float(width), float(height)), *(box for _, box in found)]
    return np.array(list(dict.fromkeys(boxes))[:MAX_PROPOSALS])


def _agreement(boxes, dense, height, width):
    """How well each box covers what the dense map of each label shows: (boxes, labels), 0 to 1.

    A part of a thing looks like the thing, so crops alone cannot tell a part from the whole. This is the IoU
    of the box and the map, a fuzzy set whose values are shares of its peak: the sum of the map in the box,
    over the area of the box plus the sum outside. Shares below `PROPOSAL_FLOOR` count nothing.
    """
    rows, columns = dense.shape[1:]
    y, x = (np.arange(rows) + 0.5) * height / rows, (np.arange(columns) + 0.5) * width / columns
    in_y = ((y >= boxes[:, 1:2]) & (y < boxes[:, 3:4])).astype(np.float32)
    in_x = ((x >= boxes[:, 0:1]) & (x < boxes[:, 2:3])).astype(np.float32)
    shares = dense / np.maximum(dense.max(axis=(1, 2), keepdims=True), 1e-30)
    shares = np.where(shares >= PROPOSAL_FLOOR, shares, 0)
    inside = np.einsum("nr,lrc,nc->nl", in_y, shares, in_x, optimize=True)
    area = (in_y.sum(axis=1) * in_x.sum(axis=1))[:, None]
    return inside / np.maximum(area + shares.sum(axis=(1, 2)) - inside, 1e-30)


def _largest_of_boxes(scores, boxes, height, width, labels):
    """For each label the largest score of the boxes over a pixel, a dict of float32 (H, W)."""
    maps = {label: np.zeros((height, width), np.float32) for label in labels}
    for row, (x0, y0, x1, y1) in zip(scores, boxes.astype(np.int64)):
        for label, score in zip(labels, row):
            part = maps[label][y0:y1, x0:x1]
            np.maximum(part, score, out=part)
    return maps


# ---- from maps to boxes ----------------------------------------------------------------------------------


def peaks(map_, threshold, edge=EDGE, most=100):
    """Objects in a map, one after the other.

    The highest place is the peak of the first; to it belong the cells around it that hold at least `edge` of
    its height. They are taken out, and the search goes on with the next peak: a cell that none of its
    neighbours exceeds, so that the slopes of an object are no objects.

    Parameters
    ----------
    map_ : float array, (rows, columns)
    threshold : float
    edge : float
    most : int
        How many to look for.

    Returns
    -------
    list of (float, tuple of int)
        Height of the peak, and the box (column0, row0, column1, row1) around its cells.
    """
    found, taken = [], np.zeros(map_.shape, bool)
    for row, column in _local_maxima(map_, threshold):
        if len(found) == most:
            break
        if taken[row, column]:
            continue
        peak = map_[row, column]
        parts, _ = _core.connected_components((map_ >= edge * peak) & ~taken)
        cells = parts == parts[row, column]
        taken |= cells
        rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        found.append((float(peak), box))
    return found


def _local_maxima(map_, threshold):
    """(row, column) of the cells above the threshold that no neighbour exceeds, the highest first."""
    padded = np.pad(map_, 1, constant_values=-np.inf)
    rows, columns = map_.shape
    neighbours = [padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    rows, columns = np.nonzero((map_ >= np.max(neighbours, axis=0)) & (map_ > threshold))
    order = np.argsort(-map_[rows, columns], kind="stable")
    return zip(rows[order], columns[order])


def _to_pixels(box, shape, height, width):
    rows, columns = shape
    x0, y0, x1, y1 = box
    return (x0 * width / columns, y0 * height / rows, x1 * width / columns, y1 * height / rows)


def _from_maps(maps, known, options, height, width):
    found = []
    for label, map_ in enumerate(maps):
        if map_.max() > options.threshold:
            for score, box in peaks(map_, options.threshold, most=options.max_detections):
                found.append((label, score, _to_pixels(box, map_.shape, height, width)))
    wanted = _enlarged(maps, known.labels, height, width) if options.maps else None
    return _detections(found, known.labels, options, height, width, wanted)


def _enlarged(maps, labels, height, width):
    along_y = half_pixel_weights(height, maps.shape[1], 0, height)
    along_x = half_pixel_weights(width, maps.shape[2], 0, width)
    return {label: along_y @ map_ @ along_x.T for label, map_ in zip(labels, maps)}


def _detections(found, labels, options, height, width, maps=None):
    """`Detections` of (label index, score, box): those above the threshold, without overlaps of one label."""
    found = [one for one in found if one[1] > options.threshold]
    boxes = np.array([one[2] for one in found], np.float32).reshape(-1, 4)
    scores = np.array([one[1] for one in found], np.float32)
    classes = np.array([one[0] for one in found], np.int64)
    kept = select(
        boxes, scores, classes, nms=options.nms, threshold=options.threshold,
        max_detections=options.max_detections,
    )  # fmt: skip
    items = [Detection(labels[found[i][0]], score, found[i][2]) for i, score in kept]
    return Detections(items, image_size=(width, height), labels=labels, method=options.method, maps=maps)


def select(boxes, scores, classes, *, nms, threshold, max_detections):
    """(index, score) of the detections that stay, highest score first."""
    if nms == "soft":
        indices, scores = _core.soft_nms(boxes, scores, classes=classes, threshold=threshold)
        order = np.argsort(-scores, kind="stable")
        kept = zip(indices[order], scores[order])
    else:
        if nms is None:
            indices = np.argsort(-scores, kind="stable")
        else:
            indices = _core.nms(boxes, scores, nms, classes=classes)
        kept = zip(indices, scores[indices])
    return [(int(index), float(score)) for index, score in kept][:max_detections]
