"""Heat maps: which part of a picture speaks for a text, by one of twelve methods.

The core computes activations, gradients, attention and dense features (``csrc/model/explanation.h``). Here is
what surrounds them: the methods by name, the scores, the geometry of the original picture, and the
methods that are plain arithmetic on what the core gives.

A method makes a signed map on a grid of the model. It becomes a picture's heat map in three steps: negative
values become 0, the rest is scaled to [0, 1], and the grid is enlarged onto the part of the picture that the
model saw.
"""

from __future__ import annotations

import operator
import re
from typing import NamedTuple

import numpy as np

from clipc import image as images
from clipc import tokenizer
from clipc.errors import warn
from clipc.heat_map import HeatMap, scaled
from clipc.progress import progress_bar
from clipc.vectors import aligned_weights, half_pixel_weights, softmax, unit_rows
from clipc.word_relevance import WordRelevance

SCORES = ("logit", "cosine", "dot", "probability")

# Prompts for the class of no name, whose direction CLIP Surgery takes out of a single text.
EMPTY_TEMPLATES = (
    "{}.",
    "a photo of {}.",
    "a picture of {}.",
    "an image of {}.",
    "a photo of the {}.",
    "a close-up photo of {}.",
    "a photo of many {}.",
    "a drawing of {}.",
)

# Channels that gScoreCAM scores (Chen et al. 2022, section 4.2).
GSCORECAM_CHANNELS = 300

# Floats of masked pictures that Score-CAM holds at a time: 19 MB.
MASK_FLOATS = 32 * 3 * 224 * 224


class Method(NamedTuple):
    """What a method works on: which architectures, a layer, blocks, texts; and the scores it knows."""

    resnet: bool = True
    vit: bool = True
    layer: bool = False
    blocks: bool = False
    text: bool = True
    scores: tuple[str, ...] = SCORES


_CAM = Method(layer=True)

METHODS = {
    "gradcam": _CAM,
    "gradcam++": _CAM,
    "layercam": _CAM,
    "hirescam": _CAM,
    "eigencam": _CAM._replace(text=False),
    "scorecam": _CAM,
    "gscorecam": _CAM,
    "rollout": Method(resnet=False, text=False),
    "relevance": Method(resnet=False, blocks=True),
    "surgery": Method(scores=("logit", "cosine")),
    "maskclip": Method(),
    "sclip": Method(resnet=False),
}


def methods_of(model):
    """Names of the methods that a model's architecture has.

    Parameters
    ----------
    model : clipc.Model

    Returns
    -------
    list of str
    """
    is_vit = model.config.vision == "vit"
    return [name for name, method in METHODS.items() if (method.vit if is_vit else method.resnet)]


# ---- what is asked for -----------------------------------------------------------------------------------


class _Score(NamedTuple):
    """The texts of a call and the score that they are explained by.

    Attributes
    ----------
    kind : str
        One of `SCORES`.
    scale : float
        Factor of the cosine, or of the dot product.
    features : float32 array, (L, D)
        Of all texts that count: the labels for "probability", else those that are explained. Unit length,
        except for "dot".
    rows : int64 array, (N,)
        The texts that are explained, in `features`.
    """

    kind: str
    scale: float
    features: np.ndarray
    rows: np.ndarray

    def for_core(self):
        """The tuple that the core's functions take."""
        kind = "cosine" if self.kind in ("logit", "cosine") else self.kind
        return kind, self.scale, self.features, self.rows

    def of(self, features):
        """The scores of image features, (M, D), not normalised: float64 (M, N)."""
        features = features.astype(np.float64)
        if self.kind != "dot":
            features = unit_rows(features)
        scores = self.scale * (features @ self.features.T.astype(np.float64))
        if self.kind == "probability":
            scores = softmax(scores, axis=1)
        return scores[:, self.rows]


class _Request(NamedTuple):
    """A call, checked: everything but the picture."""

    method: str
    layer: tuple[int, int] | None
    layer_name: str | None
    texts: tuple[str, ...]
    one_text: bool
    score: _Score | None
    first_block: int


def grad_cam(model, image, text, *, raw, image_size, fit, exif, progress, **options):
    """See `clipc.Model.grad_cam`."""
    request = _check(model, text, **options)
    size = check_image_size(model, image_size)

    def finish(view, bar):
        return _finish(request, view, _grids(model, request, view.pixels, bar), raw)

    return _each_image(model, image, size, fit, exif, progress, finish)


def difference_map(model, image, text, other, *, raw, image_size, fit, exif, progress, **options):
    """See `clipc.Model.difference_map`."""
    for name, value in (("text", text), ("other", other)):
        if not isinstance(value, str):
            raise TypeError(f"{name}: expected a str, got {type(value).__name__}")
    if text == other:
        raise ValueError(f"other: expected another text than {text!r}")
    request = _check(model, [text, other], **options)
    if not METHODS[request.method].text:
        raise ValueError(f"method: {request.method!r} does not depend on the text, so there is no difference")
    size = check_image_size(model, image_size)

    def finish(view, bar):
        grids = _grids(model, request, view.pixels, bar)
        grid = grids[0] - grids[1]
        values = grid if raw else _enlarge(_signed_scale(grid), view)
        return _heat_map(request, view, values, grid)

    return _each_image(model, image, size, fit, exif, progress, finish)


def text_relevance(model, image, text, *, score, labels, blocks, exif):
    """See `clipc.Model.text_relevance`."""
    request = _check_words(model, text, score, labels, blocks)
    features = model.encode_image(image, exif=exif)
    if len(features) != 1:
        raise ValueError(f"image: expected one image, got {len(features)}")
    return _word_relevance(model, features, request)


def word_relevance(model, features, text, *, score, labels, blocks):
    """`text_relevance` for the features of one image, (1, D), not normalised."""
    return _word_relevance(model, features, _check_words(model, text, score, labels, blocks))


def _check_words(model, text, score, labels, blocks):
    if not isinstance(text, str):
        raise TypeError(f"text: expected a str, got {type(text).__name__}")
    return _check(
        model, text, method="text relevance", score=score, labels=labels, blocks=blocks, layer=None
    )


def _word_relevance(model, features, request):
    text = request.texts[0]
    kind, scale = "cosine", request.score.scale
    if request.score.kind == "dot":
        kind = "dot"
    else:
        features = unit_rows(features)
        if request.score.kind == "probability":
            # The logits of the other labels do not depend on this text: dp/dl = p (1 - p).
            p = float(request.score.of(features)[0, 0])
            scale *= p * (1 - p)
    tokens = tokenizer.tokenize(text, context_length=model.context_length)[0]
    score_of_image = (kind, scale, np.ascontiguousarray(features, np.float32), np.zeros(1, np.int64))
    _, relevance = model._core.text_relevance(tokens, request.first_block, score_of_image)
    words, position = WordRelevance(), 1
    for word, ids in tokenizer.split_words(text):
        words.append((word, float(relevance[position : position + len(ids)].sum())))
        position += len(ids)
    return words


def score_values(model, features, text, *, score, labels):
    """The scores that `grad_cam` explains.

    Parameters
    ----------
    model : clipc.Model
    features : float32 array, (1, D)
        What `image_features` gives for the image.
    text, score, labels
        See `clipc.Model.grad_cam`.

    Returns
    -------
    float64 array, (N,)
        One for each text.
    """
    return _check_texts(model, text, "gradcam", METHODS["gradcam"], score, labels)[2].of(features)[0]


def image_features(model, image, *, image_size=None, fit="crop", exif=False):
    """The features of one image, (1, D), not normalised, when the model sees it as `grad_cam` lets it."""
    size, config = check_image_size(model, image_size) or model.image_size, model.config
    view = images.view(image, size, config.image_mean, config.image_std, fit=fit, exif=exif)
    features = model._core.encode_images(view.pixels[None])
    model._check_finite(features)
    return features


def seen_box(model, image, fit, *, image_size, exif):
    """See `clipc.Model.seen_box`."""
    size = check_image_size(model, image_size) or model.image_size
    images.check_fit(fit)
    height, width = images.to_rgb(image, exif=exif).shape[:2]
    return images.seen_box(height, width, size, fit)


# ---- checks ----------------------------------------------------------------------------------------------


def _check(model, text, *, method, layer, score, labels, blocks):
    is_vit = model.config.vision == "vit"
    if method == "text relevance":
        spec, n_blocks = Method(blocks=True), model.config.text_layers
    else:
        spec, n_blocks = _check_method(model, method), model.config.vision_layers if is_vit else 0
    if score not in SCORES:
        raise ValueError(f"score: expected one of {', '.join(map(repr, SCORES))}, got {score!r}")
    if spec.text and score not in spec.scores:
        raise ValueError(
            f"score: method {method!r} knows {' and '.join(map(repr, spec.scores))}, not {score!r}"
        )
    if blocks not in ("all", "last"):
        raise ValueError(f"blocks: expected 'all' or 'last', got {blocks!r}")
    if blocks != "all" and not spec.blocks:
        raise ValueError(f"blocks: method {method!r} has no choice of blocks")
    if layer is not None and not spec.layer:
        raise ValueError(f"layer: method {method!r} has no target layer")
    target, target_name = _check_layer(model, layer) if spec.layer else (None, None)
    texts, one_text, chosen = _check_texts(model, text, method, spec, score, labels)
    first_block = n_blocks - 1 if blocks == "last" else 0
    return _Request(method, target, target_name, texts, one_text, chosen, first_block)


def _check_method(model, method):
    available = methods_of(model)
    if method in available:
        return METHODS[method]
    listed = ", ".join(map(repr, available))
    if method in METHODS:
        architecture = "vision transformer" if model.config.vision == "vit" else "ModifiedResNet"
        raise ValueError(f"method: {method!r} does not exist for a {architecture}, which has {listed}")
    raise ValueError(f"method: expected one of {listed}, got {method!r}")


def _check_layer(model, layer):
    """(stage, block) and the name of the target layer."""
    counts = model.config.vision_layers
    if model.config.vision == "vit":
        return _check_block(layer, counts)
    if layer is None:
        layer = "layer4"
    match = re.fullmatch(r"layer([1-4])(?:\.(\d{1,6}))?", layer) if isinstance(layer, str) else None
    if match:
        stage = int(match[1]) - 1
        block = counts[stage] - 1 if match[2] is None else int(match[2])
        if block < counts[stage]:
            return (stage, block), layer
    blocks = ", ".join(f"'layer{i + 1}' ({n} block{'s' if n > 1 else ''})" for i, n in enumerate(counts))
    raise ValueError(f"layer: expected {blocks}, or one block of it, such as 'layer4.0'; got {layer!r}")


def _check_block(layer, count):
    expected = f"layer: expected a block of the vision transformer, {-count} to {count - 1}"
    if layer is None:
        layer = -1
    if isinstance(layer, str) and re.fullmatch(r"-?\d{1,6}", layer):  # from a command line
        layer = int(layer)
    if isinstance(layer, (bool, str)) or not hasattr(layer, "__index__"):
        raise ValueError(f"{expected}; got {layer!r}")
    block = operator.index(layer)
    if not -count <= block < count:
        raise ValueError(f"{expected}; got {block}")
    return (0, block % count), f"block {block % count}"


def _check_texts(model, text, method, spec, score, labels):
    """The texts that are explained, whether it is a single one, and the score.

    Without a text: (), True, None.
    """
    if not spec.text:
        if labels is not None:
            raise ValueError(f"labels: method {method!r} does not depend on texts")
        return (), True, None
    if text is None:
        raise ValueError(f"text: method {method!r} needs a text, got None")
    one_text = isinstance(text, str)
    texts = tuple(tokenizer.as_text_list(text, "text"))
    for position, one in enumerate(texts):
        if not tokenizer.encode(one):
            where = "text" if one_text else f"text[{position}]"
            raise ValueError(f"{where}: expected a text with at least one word, got {one!r}")
    if score == "probability" and labels is None:
        raise ValueError("labels: score 'probability' is a softmax over labels; pass labels=[...]")
    if labels is not None and score != "probability" and method != "surgery":
        raise ValueError("labels: they count for score 'probability' and for method 'surgery' only")
    if labels is None:
        counted = tuple(dict.fromkeys(texts))
    else:
        if isinstance(labels, (str, bytes)):
            raise TypeError(f"labels: expected a list of texts, got the single text {labels!r}")
        counted = tuple(tokenizer.as_text_list(labels, "labels"))
        if len(set(counted)) < max(2, len(counted)):
            raise ValueError(f"labels: expected two or more different texts, got {list(counted)!r}")
        missing = [one for one in texts if one not in counted]
        if missing:
            raise ValueError(f"text: {missing[0]!r} is not among the labels")
    features = model.encode_text(list(counted)) if score == "dot" else model.classifier(counted)
    scale = 1.0 if score in ("cosine", "dot") else model.logit_scale
    rows = np.array([counted.index(one) for one in texts], np.int64)
    return texts, one_text, _Score(score, scale, features, rows)


def check_image_size(model, image_size):
    """The side of the square that the encoder gets; None for the one that the model was trained with."""
    if image_size is None:
        return None
    if isinstance(image_size, bool) or not hasattr(image_size, "__index__"):
        raise TypeError(f"image_size: expected a whole number of pixels, got {image_size!r}")
    size, step = operator.index(image_size), model.config.vision_patch_size or 32
    if size < step or size % step:
        lower = max(step, size // step * step)
        raise ValueError(
            f"image_size: expected a multiple of {step} for this model, such as {lower} or {lower + step}, "
            f"got {size}"
        )
    return size


# ---- pictures --------------------------------------------------------------------------------------------


def _each_image(model, image, size, fit, exif, progress, finish):
    """``finish(view, bar)`` of one picture, or the list of them for several."""
    images.check_fit(fit)
    config = model.config
    preprocessed = images.is_preprocessed(image)
    if preprocessed:
        side = size or (image.shape[2] if image.shape[2] == image.shape[3] else config.image_size)
        check_image_size(model, side)
        image = images.check_preprocessed(image, side)
        box = (0.0, 0.0, float(side), float(side))

    def finish_image(one, index, bar):
        if preprocessed:
            return finish(images.View(one, side, side, box, box), bar)
        square = size or config.image_size
        view = images.view(
            one, square, config.image_mean, config.image_std, fit=fit, exif=exif, index=index
        )
        return finish(view, bar)

    return images.each_image(image, finish_image, progress)


# ---- signed maps on the grid -----------------------------------------------------------------------------


def _grids(model, request, pixels, progress):
    """The signed maps, float32 (N, GH, GW); N is 1 without a text."""
    core, method, score = model._core, request.method, request.score
    if method in ("gradcam", "gradcam++", "layercam", "hirescam"):
        grids = core.grad_cam(pixels, request.layer, method, score.for_core())[1]
    elif method == "eigencam":
        grids = _eigencam(_activations(model, pixels, request.layer))[None]
    elif method in ("scorecam", "gscorecam"):
        grids = _scorecam(model, request, pixels, progress)
    elif method == "relevance":
        grids = core.relevance(pixels, request.first_block, score.for_core())[1]
    elif method == "rollout":
        grids = core.rollout(pixels)[None]
    else:
        features, (height, width) = core.dense_features(pixels, method)
        values = _surgery(model, score, features) if method == "surgery" else score.of(features[1:])
        grids = np.ascontiguousarray(values.T, np.float32).reshape(-1, height, width)
    model._check_finite(grids)
    return grids


def _activations(model, pixels, layer):
    """A of the target layer, float32 (GH, GW, C)."""
    nothing = ("cosine", 1.0, np.zeros((1, model.embed_dim), np.float32), np.zeros(0, np.int64))
    return model._core.layer_gradients(pixels, layer, nothing)[1]


def _eigencam(activations):
    """A v, v the first right singular vector of A: (positions, C) (Muhammad & Yeasin 2020, arXiv 2008.00299).

    A singular vector has no sign of its own; it is chosen so that the map's sum is not negative. Behind a
    ReLU all of A and so, by Perron and Frobenius, all of the map is then at least 0.
    """
    height, width, channels = activations.shape
    a = activations.reshape(height * width, channels).astype(np.float64)
    # The singular vectors are eigenvectors of the smaller of the two products of A with itself.
    if len(a) <= channels:
        left = np.linalg.eigh(a @ a.T)[1][:, -1]
        map_ = left * np.linalg.norm(a.T @ left)
    else:
        map_ = a @ np.linalg.eigh(a.T @ a)[1][:, -1]
    return np.where(map_.sum() >= 0, map_, -map_).reshape(height, width).astype(np.float32)


def _scorecam(model, request, pixels, progress):
    """Channels weighted by the score of the picture that they let through.

    Score-CAM (Wang et al. 2020, arXiv 1910.01279): all channels, weights the softmax of their scores.
    gScoreCAM (Chen et al. 2022): the channels with the largest mean gradient; in the softmax the others count
    with score 0.
    """
    score, everything = request.score, request.method == "scorecam"
    if everything:
        activations = _activations(model, pixels, request.layer)
    else:
        _, activations, gradients = model._core.layer_gradients(pixels, request.layer, score.for_core())
    channels, n_texts = activations.shape[2], len(score.rows)
    chosen = np.ones((n_texts, channels), bool)
    if not everything:
        k = min(GSCORECAM_CHANNELS, channels)
        order = np.argsort(-gradients.mean(axis=(1, 2)), axis=1, kind="stable")[:, :k]
        chosen[:] = False
        np.put_along_axis(chosen, order, True, axis=1)
    used = np.flatnonzero(chosen.any(axis=0))
    scores = np.zeros((channels, n_texts))
    scores[used] = _scores_of_channels(model, score, pixels, activations[:, :, used], progress)
    weights = softmax(np.where(chosen.T, scores, 0.0), axis=0)
    # What the softmax leaves of an unselected channel counts: its map is in the sum.
    return np.einsum("hwc,cn->nhw", activations.astype(np.float64), weights).astype(np.float32)


def _scores_of_channels(model, score, pixels, activations, progress):
    """The score of the picture seen through each channel, float64 (channels, texts)."""
    size, channels = pixels.shape[-1], activations.shape[2]
    rows, columns = (aligned_weights(size, n) for n in activations.shape[:2])
    at_once = max(1, MASK_FLOATS // pixels.size)
    scores = []
    with progress_bar(channels, "channel", progress) as bar:
        for begin in range(0, channels, at_once):
            masks = np.ascontiguousarray(activations[:, :, begin : begin + at_once].transpose(2, 0, 1))
            masks = rows @ masks @ columns.T
            low, high = (f(masks, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
            spread = high - low
            masks = np.where(spread > 0, (masks - low) / np.where(spread > 0, spread, 1), 0)
            masked = masks[:, None].astype(np.float32) * pixels
            scores.append(score.of(model._core.encode_images(masked)))
            bar.update(len(masks))
    return np.concatenate(scores)


def _surgery(model, score, features):
    """CLIP Surgery's feature surgery (Li et al. 2023, arXiv 2304.05653, section 3.3): float64 (positions, N).

    What all texts have in common is taken out: for several texts the mean over them of the products of the
    features, weighted by how well each text fits the picture; for one text, the empty prompt's.
    """
    features = unit_rows(features.astype(np.float64))
    texts = score.features.astype(np.float64)
    if len(texts) == 1:
        empty = model.encode_text([t.replace("{}", "") for t in EMPTY_TEMPLATES], normalize=True)
        empty = unit_rows(empty.astype(np.float64).mean(axis=0, keepdims=True))
        return score.scale * (features[1:] @ (texts - empty).T)
    p = softmax(2 * (features[:1] @ texts.T), axis=1)[0]
    weighted = (p / p.mean())[:, None] * texts
    # sum_c f_c (w_t t_c - mean over t' of w_t' t'_c), with the sum taken last
    return score.scale * (features[1:] @ (weighted - weighted.mean(axis=0)).T)[:, score.rows]


# ---- from the grid to the picture ------------------------------------------------------------------------


def _finish(request, view, grids, raw):
    values = grids if raw else _enlarge(_scale(grids, request), view)
    if request.one_text:
        return _heat_map(request, view, values[0], grids[0])
    return _heat_map(request, view, values, grids)


def _heat_map(request, view, values, grid):
    return HeatMap(
        values,
        texts=request.texts,
        method=request.method,
        score=request.score.kind if request.score else None,
        layer=request.layer_name,
        grid=grid,
        grid_box=view.square_box,
        seen_box=view.seen_box,
    )


def _scale(grids, request):
    """ReLU, then (m - min) / (max - min) for each map; all zeros stay zeros."""
    empty = grids.max(axis=(1, 2)) <= 0
    if empty.any():
        which = [repr(text) for text, nothing in zip(request.texts, empty) if nothing]
        what = f"the heat map of {', '.join(which)}" if which else "the heat map"
        warn(
            f"{what} is zero everywhere: no place on the grid speaks for it by {request.method!r} "
            "(raw=True gives the signed values; another method, or a larger image_size, may show more)"
        )
    return scaled(grids)


def _signed_scale(grid):
    largest = np.abs(grid).max()
    return grid / largest if largest > 0 else grid


def _enlarge(grids, view):
    """Grids, (GH, GW) or (N, GH, GW), as maps of the original picture, (H, W) or (N, H, W)."""
    x0, y0, x1, y1 = view.square_box
    rows = half_pixel_weights(view.height, grids.shape[-2], y0, y1)
    columns = half_pixel_weights(view.width, grids.shape[-1], x0, x1)
    maps = rows @ grids @ columns.T
    # Weights sum to 1 up to rounding; the contract is [0, 1], or [-1, 1] for a difference.
    return np.clip(maps, -1, 1, out=maps)
