"""OWL-ViT and OWLv2: detectors built on CLIP's vision transformer (Minderer et al. 2022 and 2023).

    view ── _core.detection_outputs ── logits for queries ── boxes, scores, labels

Each patch proposes one box. A query, the feature of a text or of a patch of another picture, names it. What
the core computes of a picture (`Outputs`) does not depend on the queries, so many sets of them can share it.
Everything agrees with the classes OwlViTForObjectDetection and Owlv2ForObjectDetection of transformers and
with their image processors, those that use Pillow and SciPy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clipc import _core
from clipc import image as images
from clipc.cam import check_image_size

DEFAULT_THRESHOLD = 0.1

# As in the original: the norms that a cosine is divided by, and a mask's logit.
NORM_EPS = np.float32(1e-6)
MASKED = np.finfo(np.float32).min

# gaussian_filter of SciPy cuts its kernel off here, in standard deviations.
TRUNCATE = 4.0

# Rows or columns of the square that are resampled together: few enough that the band of weights is narrow.
RESAMPLED_AT_ONCE = 32


class Outputs(NamedTuple):
    """What the detection head says of one picture; T patches, row by row.

    Attributes
    ----------
    features : float32 array, (T, D)
        Of the patches, in the space of the queries; not normalised.
    logit_shift, logit_scale : float32 array, (T,)
        The logit of a query is (cosine + logit_shift) * logit_scale.
    boxes : float32 array, (T, 4)
        Centre x, centre y, width and height, as parts of the square that the model sees.
    objectness : float32 array (T,), or None
        Logits, from OWLv2's objectness head.
    view : clipc.image.View
        The square, and where it lies in the original picture.
    """

    features: np.ndarray
    logit_shift: np.ndarray
    logit_scale: np.ndarray
    boxes: np.ndarray
    objectness: np.ndarray | None
    view: images.View


# --- pictures -------------------------------------------------------------------------------------------


def view(model, image, *, image_size=None, exif=False, index=None):
    """One picture as the detector sees it.

    OWL-ViT: squashed to the square with Pillow's bicubic filter. OWLv2: zeros (black) added on the right and
    below to make it a square, a Gaussian filter of sigma (factor - 1) / 2 where it shrinks by a factor, and
    linear interpolation, as ``scipy.ndimage.gaussian_filter`` and ``zoom`` with mode "mirror" and grid_mode.

    Parameters
    ----------
    model : Model
        With a detection head.
    image : as for `clipc.image.to_rgb`
    image_size : int, optional
        Side of the square, a multiple of the patch size; default that of the model.
    exif : bool
    index : int, optional
        Position in a list, for messages.

    Returns
    -------
    clipc.image.View
    """
    require_detection_head(model)
    size, config = check_image_size(model, image_size) or model.image_size, model.config
    if config.detector == "owlvit":
        return images.view(
            image, size, config.image_mean, config.image_std, fit="squash", exif=exif, index=index
        )
    rgb = images.to_rgb(image, exif=exif, index=index)
    height, width = rgb.shape[:2]
    side = max(height, width)
    pixels = _shrink_padded(rgb, size)
    # float32 throughout, as the pixels are there.
    pixels -= np.array(config.image_mean, np.float32)[:, None, None]
    pixels /= np.array(config.image_std, np.float32)[:, None, None]
    whole = (0.0, 0.0, float(width), float(height))
    return images.View(pixels, height, width, whole, (0.0, 0.0, float(side), float(side)))


def _shrink_padded(rgb, size):
    """The picture with zeros on the right and below, filtered and resampled, in 0..1: (3, size, size)."""
    height, width = rgb.shape[:2]
    side = max(height, width)
    pixels = np.zeros((3, size, size), np.float32)
    columns = list(_resampling(side, width, size))
    for rows, (begin, end), weights in _resampling(side, height, size):
        part = rgb[begin:end].astype(np.float32)
        part /= np.float32(255)
        count = rows.stop - rows.start
        part = (weights @ part.reshape(end - begin, -1)).reshape(count, width, 3)
        part = np.ascontiguousarray(part.transpose(2, 0, 1)).reshape(3 * count, width)
        for cells, (first, last), across in columns:
            pixels[:, rows, cells] = (part[:, first:last] @ across.T).reshape(3, count, -1)
    # The weights are positive and sum to 1, so only rounding leaves the range of the picture.
    lowest = 0 if height != width else rgb.min()
    return np.clip(pixels, np.float32(lowest / 255), np.float32(rgb.max() / 255), out=pixels)


def _resampling(side, length, size):
    """The weights of the Gaussian filter and the interpolation in one, along one axis, in blocks.

    Parameters
    ----------
    side : int
        Of the padded square.
    length : int
        What the picture has of it; the rest is zero.
    size : int
        Of the result.

    Yields
    ------
    slice
        Of the result.
    (int, int)
        Range of the picture that it depends on. Blocks that depend on nothing are left out.
    float32 array, (rows of the slice, length of the range)
    """
    factor = side / size
    sigma = max(0.0, (factor - 1) / 2)
    radius = int(TRUNCATE * sigma + 0.5)
    reach = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (reach / sigma) ** 2) if radius else np.ones(1)
    kernel /= kernel.sum()
    at = (np.arange(size) + 0.5) * factor - 0.5
    low = np.floor(at).astype(np.int64)
    share = (at - low)[:, None]
    # A mirrored picture filtered is the filtered picture mirrored, so indices are mirrored once, at the end.
    index = low[:, None] + np.arange(-radius, radius + 2)
    weights = (1 - share) * np.append(kernel, 0.0) + share * np.append(0.0, kernel)
    period = max(1, 2 * side - 2)
    index = np.abs(index) % period
    index = np.minimum(index, period - index) if side > 1 else np.zeros_like(index)
    for first in range(0, size, RESAMPLED_AT_ONCE):
        block = slice(first, min(first + RESAMPLED_AT_ONCE, size))
        row, tap = np.nonzero(index[block] < length)
        if not len(row):
            continue
        used = index[block][row, tap]
        begin, end = int(used.min()), int(used.max()) + 1
        dense = np.zeros((block.stop - first, end - begin))
        np.add.at(dense, (row, used - begin), weights[block][row, tap])
        yield block, (begin, end), dense.astype(np.float32)


# --- the detector ---------------------------------------------------------------------------------------


def require_detection_head(model):
    """Raise ValueError, which says what the model is instead, unless it has a detection head."""
    if not model.config.detector:
        kind = "vision transformer" if model.config.vision == "vit" else "ModifiedResNet"
        raise ValueError(
            f"method 'owl': the model {model.name!r} is a CLIP model, a {kind}, without a detection head; "
            "expected OWL-ViT or OWLv2, such as google/owlvit-base-patch32"
        )


def outputs(model, image, *, image_size=None, exif=False, index=None):
    """Run the detector on one picture.

    Parameters
    ----------
    model : Model
        With a detection head.
    image : image, or float32 array (3, S, S)
        An array of that form is taken as preprocessed; boxes are then in its pixels.
    image_size, exif, index
        As for `view`.

    Returns
    -------
    Outputs

    Raises
    ------
    ValueError
        A model without a detection head, and other wrong arguments.
    OSError, ImageError, TypeError
        As `Model.preprocess`.
    WeightsError
        Outputs that are no finite numbers.
    """
    require_detection_head(model)
    if isinstance(image, np.ndarray) and image.dtype.kind == "f" and image.ndim == 3 and len(image) == 3:
        side = check_image_size(model, image.shape[2] if image_size is None else image_size)
        box = (0.0, 0.0, float(side), float(side))
        seen = images.View(images.check_preprocessed(image[None], side)[0], side, side, box, box)
    else:
        seen = view(model, image, image_size=image_size, exif=exif, index=index)
    found = model._core.detection_outputs(seen.pixels)
    for values in found:
        if values is not None:
            model._check_finite(values)
    return Outputs(*found, seen)


def logits(outputs, queries, mask=None):
    """The logit of each query for each patch.

    Parameters
    ----------
    outputs : Outputs
    queries : float32 array, (N, D)
        Features of texts (from `Model.classifier` or `Model.encode_text`) or of patches, of any length.
    mask : bool array (N,), optional
        False for padding, whose logit is the lowest float32.

    Returns
    -------
    float32 array, (T, N)
    """
    features = outputs.features / (_norms(outputs.features) + NORM_EPS)
    queries = np.asarray(queries, np.float32)
    queries = queries / (_norms(queries) + NORM_EPS)
    result = features @ queries.T
    result += outputs.logit_shift[:, None]
    result *= outputs.logit_scale[:, None]
    if mask is not None:
        result[:, ~np.asarray(mask, bool)] = MASKED
    return result


def token_queries(model, tokens):
    """Queries from rows of token ids, of which those that start with 0 are padding.

    Parameters
    ----------
    model : Model
    tokens : int array, (N, L)

    Returns
    -------
    queries : float32 array, (N, D)
        Zeros for padding.
    mask : bool array, (N,)
        For `logits`.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or not tokens.size:
        raise ValueError(f"tokens: expected an integer array (N, L), got {tokens.dtype} {tokens.shape}")
    mask = tokens[:, 0] > 0
    queries = np.zeros((len(tokens), model.embed_dim), np.float32)
    if mask.any():
        queries[mask] = model.encode_text(tokens[mask], normalize=True)
    return queries, mask


def corners(outputs, *, clip=False):
    """The boxes in pixels of the original picture.

    Parameters
    ----------
    outputs : Outputs
    clip : bool
        Cut off what lies outside of the picture.

    Returns
    -------
    float32 array, (T, 4)
        x0, y0, x1, y1.
    """
    boxes = _corners(outputs.boxes) * np.array(outputs.view.square_box[2:] * 2, np.float32)
    if clip:
        boxes = np.clip(boxes, 0, np.array([outputs.view.width, outputs.view.height] * 2, np.float32))
    return boxes


def select(outputs, logits, *, threshold=DEFAULT_THRESHOLD, nms=None, clip=False):
    """From logits to boxes.

    Parameters
    ----------
    outputs : Outputs
    logits : float32 array, (T, N)
    threshold : float
        Boxes with a higher score are kept.
    nms : float, optional
        Remove a box whose IoU with a better one of the same label is higher; default: remove none.
    clip : bool
        Cut off what lies outside of the picture.

    Returns
    -------
    boxes : float32 array, (M, 4)
        x0, y0, x1, y1, in pixels of the original picture.
    scores : float32 array, (M,)
        Highest first; sigmoid of the logit of the best label of each box.
    labels : int64 array, (M,)
        Indices of labels.
    """
    threshold = _fraction("threshold", threshold)
    nms = None if nms is None else _fraction("nms", nms)
    best = logits.argmax(axis=1)
    scores = _sigmoid(logits.max(axis=1))
    boxes = corners(outputs, clip=clip)
    kept = np.flatnonzero(scores > threshold)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    if nms is not None:
        kept = kept[_core.nms(boxes[kept], scores[kept], nms, classes=best[kept])]
    return boxes[kept], scores[kept], best[kept]


def query_feature(outputs, query_box=None):
    """The feature of a picture, or of a box in it, that serves as a query.

    Of the patches whose boxes have at least 0.8 times the best IoU with `query_box` the one whose feature is
    most unlike the mean of all features: boxes are often right for patches that only show background.

    Parameters
    ----------
    outputs : Outputs
        Of the query picture.
    query_box : (x0, y0, x1, y1), optional
        The object, in pixels of the query picture. Without it OWL-ViT takes the whole picture, and OWLv2 the
        box of the highest objectness.

    Returns
    -------
    float32 array, (D,)
        Not normalised.
    """
    if query_box is None and outputs.objectness is not None:
        return outputs.features[outputs.objectness.argmax()]
    wanted = np.array([[0, 0, 1, 1]], np.float32)
    if query_box is not None:
        wanted = _check_box(query_box, outputs.view) / np.array(outputs.view.square_box[2:] * 2, np.float32)
    boxes = _corners(outputs.boxes)
    overlap = _iou(wanted, boxes)[0]
    if (overlap == 0).all():
        overlap = _generalized_iou(wanted, boxes)[0]
    # Where no box touches the wanted one the best generalised IoU is negative, and 0.8 times it is above it.
    chosen = np.flatnonzero(overlap >= min(overlap.max(), overlap.max() * np.float32(0.8)))
    likeness = outputs.features[chosen] @ outputs.features.mean(axis=0)
    return outputs.features[chosen[likeness.argmin()]]


def select_by_image(outputs, logits, *, threshold=0.0, nms=0.3, clip=False):
    """From the logits of one query, which another picture gave, to boxes.

    ``post_process_image_guided_detection`` of transformers, with the query of `query_feature`.

    Parameters
    ----------
    outputs : Outputs
    logits : float32 array, (T, 1)
    threshold : float
        Boxes of a lower probability are left out.
    nms : float
        Remove a box whose IoU with a better one is higher; 1 removes none.
    clip : bool
        Cut off what lies outside of the picture.

    Returns
    -------
    boxes, scores, labels
        As for `select`; labels are all 0. Scores are relative to the best one, which has 1: (p - 0.1 m) /
        (0.9 m), p the sigmoid of the logit and m the highest one. Boxes for which that is not above 0 are
        left out.
    """
    scores = _sigmoid(logits.max(axis=1))
    # In parts of the square, where no box is cut off.
    kept = np.argsort(-scores, kind="stable")
    if nms < 1:
        kept = kept[_core.nms(_corners(outputs.boxes)[kept], scores[kept], nms)]
    kept = kept[scores[kept] >= threshold]
    if len(kept):
        highest = scores[kept[0]] + np.float32(1e-6)
        tenth, rest = highest * np.float32(0.1), highest * np.float32(0.9)
        relative = np.clip((scores[kept] - tenth) / rest, 0, 1)
        kept, relative = kept[relative > 0], relative[relative > 0]
    else:
        relative = scores[kept]
    return corners(outputs, clip=clip)[kept], relative, np.zeros(len(kept), np.int64)


# --- boxes ----------------------------------------------------------------------------------------------


def _corners(boxes):
    """x0, y0, x1, y1 from centre and size."""
    centre, half = boxes[:, :2], np.float32(0.5) * boxes[:, 2:]
    return np.concatenate([centre - half, centre + half], axis=1)


def _areas(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _intersections(a, b):
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    return np.maximum(sides, 0).prod(axis=2)


def _iou(a, b):
    """Intersection over union, (N, M); 0 where the union is empty."""
    common = _intersections(a, b)
    union = _areas(a)[:, None] + _areas(b)[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _generalized_iou(a, b):
    """IoU minus the part of the smallest box around both that neither covers (Rezatofighi et al. 2019)."""
    union = _areas(a)[:, None] + _areas(b)[None] - _intersections(a, b)
    around = np.maximum(a[:, None, 2:], b[None, :, 2:]) - np.minimum(a[:, None, :2], b[None, :, :2])
    around = np.maximum(around, 0).prod(axis=2)
    empty = np.divide(around - union, around, out=np.zeros_like(around), where=around > 0)
    return _iou(a, b) - empty


# --- numbers --------------------------------------------------------------------------------------------


def _norms(rows):
    return np.linalg.norm(rows, axis=1, keepdims=True)


def _sigmoid(x):
    return np.exp(-np.logaddexp(0, -x.astype(np.float64))).astype(np.float32)


def _fraction(name, value):
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number from 0 to 1, got {value!r}") from None
    if not 0 <= number <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value!r}")
    return number


def _check_box(box, seen):
    """The box as a float32 array (1, 4), if it has an area and overlaps the picture."""
    try:
        values = np.array(box, np.float32)
    except (TypeError, ValueError):
        raise TypeError(f"query_box: expected (x0, y0, x1, y1), got {box!r}") from None
    if values.shape != (4,) or not np.isfinite(values).all():
        raise ValueError(f"query_box: expected four numbers (x0, y0, x1, y1), got {box!r}")
    x0, y0, x1, y1 = values
    if not (x0 < x1 and y0 < y1 and x0 < seen.width and y0 < seen.height and x1 > 0 and y1 > 0):
        raise ValueError(
            f"query_box: expected x0 < x1 and y0 < y1, in a picture of {seen.width} x {seen.height} pixels, "
            f"got {tuple(float(v) for v in values)}"
        )
    return values[None]
