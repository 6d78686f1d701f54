"""Explanations against PyTorch's autograd on the same weights.

Tolerance: 1e-4 of a map's largest value, against the oracles in float64. PyTorch's own float32 differs from
them by less than 3e-5 (test_explanation_oracles.py). Two things in the definitions ask for more care:

- Grad-CAM++ of a vision transformer divides by numbers that may be nearly zero, and gets the tolerance that
  its condition asks for.
- A ReLU's gradient jumps. Where an activation is zero up to rounding, float32 may be on either side, and the
  oracle has to agree once it is on the same (`oracles.explanations.kinks`).

Each check prints its error, and fails for maps that are zero or the same for all texts.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from availability import require

import clipc

torch = require("torch")

from oracles import SMALL, SPECS, double_reference, layouts, pictures_uint8  # noqa: E402
from oracles import explanations as ex  # noqa: E402
from oracles.random_models import MEAN, STD  # noqa: E402

TOLERANCE = 1e-4
TEXTS = ["a photo of a dog", "a photograph of two cats on a red sofa, next to a window", "서울의 경복궁"]
VITS = [name for name in SMALL if SMALL[name].is_vit]
RESNETS = [name for name in SMALL if not SMALL[name].is_vit]


def layers_of(name):
    """All stages and some single blocks, or all blocks."""
    spec = SPECS[name]
    if spec.is_vit:
        return list(range(spec.vision_layers))
    middle = spec.vision_layers[2] // 2
    return ["layer1", "layer2", "layer3", "layer4", "layer1.0", "layer3.0", f"layer3.{middle}"]


def methods_of(name, methods):
    return [method for method in methods if SPECS[name].is_vit or method not in ex.VIT_ONLY]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small models gain nothing from two, and lose much where another process is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Models(NamedTuple):
    """The same weights three times: in clipc, in OpenAI's module, and there in float64."""

    clipc: object
    single: object
    double: object


@pytest.fixture(scope="module")
def models(random_model, oracles, tmp_path_factory):
    """A function from the name of a small spec and a score to its `Models`.

    For "probability" with a logit_scale of 10. With OpenAI's 100, unrelated texts have probabilities so near
    0 and 1 that float32 keeps little of the gradient, in PyTorch as in clipc.
    """
    folder = tmp_path_factory.mktemp("models")

    @functools.cache
    def load(name, scale):
        spec, weights, _ = random_model(name)
        weights = {**weights, "logit_scale": torch.tensor(scale).log()}
        path = folder / f"{name.replace('/', '-')}-{scale}.safetensors"
        layouts.save_openai(weights, path, "float32", layouts.metadata_of(spec))
        reference = oracles.build_reference(weights, spec.activation, spec.heads)
        return Models(clipc.load(path), reference, double_reference(reference))

    return lambda name, score="logit": load(name, 10.0 if score == "probability" else 100.0)


@pytest.fixture(scope="module")
def gradients(models, photos):
    """A function from (name, layer, score) to A and G of the second of two pictures for `TEXTS`."""
    @functools.cache
    def compute(name, layer, score="logit"):
        x = photos(2, SPECS[name].image_size, 5)[1]
        return ex.activations_and_gradients(models(name, score).double, x, TEXTS, layer, score, TEXTS)

    return compute


def check(found, expected, what, tolerance=TOLERANCE, kinks=None):
    """Assert parity of signed maps, (N, GH, GW) or (GH, GW), each in units of its own largest value.

    Parameters
    ----------
    found : clipc.HeatMap
    expected : array
    tolerance : float or list of float
        One for all maps or one for each.
    kinks : (module, array (3, R, R), callable), optional
        The model and the picture of the oracle, and how it computes `expected` from a picture. When the error
        is larger, ReLUs that are zero up to rounding may turn over.
    """
    assert isinstance(found, clipc.HeatMap) and found.dtype == np.float32
    found, expected = np.asarray(found, np.float64), np.asarray(expected)
    assert found.shape == expected.shape
    size = np.abs(expected).max((-2, -1))

    def error():
        return np.atleast_1d(np.abs(found - expected).max((-2, -1)) / size)

    if kinks is not None and (error() > tolerance).any():
        flips, expected = ex.kinks_as_in(found, *kinks)
        print(f"{what}: turned over {flips}")
    print(f"{what}: error {error().max():.1e} of the largest value {size.max():.3g} "
          f"(at most {np.max(tolerance):.0e})")
    assert (size > 1e-6).all(), f"{what}: a map is zero"
    if expected.ndim == 3 and len(expected) > 1:
        apart = np.abs(expected[0] - expected[1]).max() / size.max()
        assert apart > 1e-2, f"{what}: the maps of different texts are too alike"
    assert (error() <= tolerance).all(), f"{what}: errors {error()} of the largest values"


# -- class activation maps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*ex.GRADIENT_MAPS, "eigencam"])
@pytest.mark.parametrize("name, layer", [(name, layer) for name in SMALL for layer in layers_of(name)])
def test_gradient_maps(name, layer, method, models, gradients, photos):
    model, _, double = models(name)
    pixels = photos(2, SPECS[name].image_size, 5)
    a, g = gradients(name, layer)
    what = f"{name} {layer} {method}"
    if method == "eigencam":
        maps = model.grad_cam(pixels, None, method=method, layer=layer, raw=True)
        check(maps[1], ex.eigencam(a), what)
        return
    maps = model.grad_cam(pixels, TEXTS, method=method, layer=layer, raw=True)
    assert len(maps) == 2 and maps[1].texts == tuple(TEXTS)
    tolerance = TOLERANCE
    if method == "gradcam++" and SPECS[name].is_vit:
        tolerance = [TOLERANCE + 5e-6 * ex.gradcam_plus_plus_condition(a, one) for one in g]
    check(maps[1], np.stack([ex.GRADIENT_MAPS[method](a, one) for one in g]), what, tolerance,
          (double, pixels[1], lambda x: ex.raw_maps(double, x, TEXTS, method, layer=layer)))


@pytest.mark.parametrize("name", SMALL)
def test_the_default_is_gradcam_at_the_last_layer(name, models, photos):
    model, pixels = models(name).clipc, photos(2, SPECS[name].image_size, 5)[1:]
    last = layers_of(name)[-1] if SPECS[name].is_vit else "layer4"
    default, = model.grad_cam(pixels, TEXTS, raw=True)
    spelled, = model.grad_cam(pixels, TEXTS, method="gradcam", layer=last, score="logit", raw=True)
    np.testing.assert_array_equal(default, spelled)
    if SPECS[name].is_vit:
        first, = model.grad_cam(pixels, TEXTS, layer=-SPECS[name].vision_layers, raw=True)
        np.testing.assert_array_equal(first, model.grad_cam(pixels, TEXTS, layer=0, raw=True)[0])


@pytest.mark.parametrize("method", ["scorecam", "gscorecam"])
@pytest.mark.parametrize("name, layer", [("RN50-small", "layer4"), ("RN50-small", "layer2"),
                                         ("ViT-B/32-small", 2), ("ViT-B/16-small", 1),
                                         ("ViT-H80-small", 0)])
def test_score_cams(name, layer, method, models, photos):
    model, single, _ = models(name)
    pixels = photos(2, SPECS[name].image_size, 5)[1:]
    expected = ex.raw_maps(single, pixels[0], TEXTS[:2], method, layer=layer)
    found, = model.grad_cam(pixels, TEXTS[:2], method=method, layer=layer, raw=True)
    check(found, expected, f"{name} {layer} {method}")


@pytest.mark.parametrize("score", ["cosine", "dot", "probability"])
@pytest.mark.parametrize("name", SMALL)
def test_scores_of_gradient_maps(name, score, models, gradients, photos):
    model, _, double = models(name, score)
    pixels = photos(2, SPECS[name].image_size, 5)[1:]
    for method, layer in (("gradcam", None), ("layercam", layers_of(name)[0])):
        a, g = gradients(name, layer, score)
        options = {"layer": layer, "score": score, "labels": TEXTS if score == "probability" else None}
        found, = model.grad_cam(pixels, TEXTS, method=method, raw=True, **options)
        check(found, np.stack([ex.GRADIENT_MAPS[method](a, one) for one in g]), f"{name} {method} {score}",
              kinks=(double, pixels[0],
                     lambda x: ex.raw_maps(double, x, TEXTS, method, **options)))  # noqa: B023


@pytest.mark.parametrize("score", ["cosine", "dot", "probability"])
def test_scores_of_score_cam(score, models, photos):
    name = "ViT-B/32-small"
    model, single, _ = models(name, score)
    pixels = photos(2, SPECS[name].image_size, 5)[1:]
    options = {"score": score, "labels": TEXTS if score == "probability" else None}
    expected = ex.raw_maps(single, pixels[0], TEXTS[:2], "scorecam", **options)
    found, = model.grad_cam(pixels, TEXTS[:2], method="scorecam", raw=True, **options)
    check(found, expected, f"scorecam {score}")


# -- attention maps and dense methods ------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", ["all", "last"])
@pytest.mark.parametrize("name", VITS)
def test_relevance(name, blocks, models, photos):
    pixels = photos(2, SPECS[name].image_size, 5)[1:]
    scores = ["logit", "cosine", "dot", "probability"] if blocks == "all" else ["logit"]
    for score in scores:
        labels = TEXTS if score == "probability" else None
        options = {"method": "relevance", "score": score, "labels": labels, "blocks": blocks}
        model, _, double = models(name, score)
        found, = model.grad_cam(pixels, TEXTS, raw=True, **options)
        check(found, ex.raw_maps(double, pixels[0], TEXTS, **options), f"{name} {blocks} {score}")


@pytest.mark.parametrize("name", VITS)
def test_rollout(name, models, photos):
    model, _, double = models(name)
    pixels = photos(2, SPECS[name].image_size, 5)
    maps = model.grad_cam(pixels, None, method="rollout", raw=True)
    for x, found in zip(pixels, maps):
        check(found, ex.raw_maps(double, x, [], "rollout"), f"{name} rollout")
    assert np.abs(maps[0] - maps[1]).max() > 1e-2 * maps[0].max()


@pytest.mark.parametrize("score", ["logit", "cosine", "dot", "probability"])
@pytest.mark.parametrize("name, method", [(name, method) for name in SMALL
                                          for method in methods_of(name, ["maskclip", "sclip"])])
def test_dense_maps(name, method, score, models, photos):
    model, _, double = models(name, score)
    pixels = photos(2, SPECS[name].image_size, 5)[1:]
    options = {"method": method, "score": score, "labels": TEXTS if score == "probability" else None}
    found, = model.grad_cam(pixels, TEXTS, raw=True, **options)
    check(found, ex.raw_maps(double, pixels[0], TEXTS, **options), f"{name} {method} {score}")


@pytest.mark.parametrize("score", ["logit", "cosine"])
@pytest.mark.parametrize("name", SMALL)
def test_surgery(name, score, models, photos):
    """Of several texts, of one among labels, and of a single one against the text that says nothing."""
    from clipc import cam

    model, _, double = models(name)
    pixels = photos(2, SPECS[name].image_size, 5)[1:]
    several = ex.raw_maps(double, pixels[0], TEXTS, "surgery", score=score)
    found, = model.grad_cam(pixels, TEXTS, method="surgery", score=score, raw=True)
    check(found, several, f"{name} surgery of three")
    found, = model.grad_cam(pixels, TEXTS[1], method="surgery", score=score, labels=TEXTS, raw=True)
    check(found, several[1], f"{name} surgery of one of three")
    alone = ex.raw_maps(double, pixels[0], TEXTS[1:2], "surgery", score=score,
                        empty_templates=cam.EMPTY_TEMPLATES)
    found, = model.grad_cam(pixels, TEXTS[1], method="surgery", score=score, raw=True)
    check(found, alone[0], f"{name} surgery of one")
    assert np.abs(alone[0] - several[1]).max() > 1e-2 * np.abs(alone).max()


def test_surgery_takes_the_last_six_blocks(oracles, photos, tmp_path):
    spec = oracles.Architecture("deep", 64, 64, 8, 64, 32, text_width=64, text_layers=1)
    weights = oracles.random_state_dict(spec)
    layouts.save_openai(weights, tmp_path / "deep.safetensors", "float32", layouts.metadata_of(spec))
    reference = double_reference(oracles.build_reference(weights))
    pixels = photos(2, 64, 5)[1:]
    found, = clipc.load(tmp_path / "deep.safetensors").grad_cam(pixels, TEXTS, method="surgery", raw=True)
    check(found, ex.raw_maps(reference, pixels[0], TEXTS, "surgery"), "surgery of 6 blocks of 8")


# -- other sizes, batches ------------------------------------------------------------------------------------

CHEAP = ["gradcam", "gradcam++", "layercam", "hirescam", "eigencam", *ex.ATTENTION_METHODS, *ex.DENSE_METHODS]


@pytest.mark.parametrize("name, size, method", [
    (name, size, method)
    for name, size in (("RN50-small", 160), ("RN50x4-small", 64), ("ViT-B/16-small", 160),
                       ("ViT-B/32-small", 160), ("ViT-H80-small", 42))
    for method in methods_of(name, CHEAP) if method != "gradcam++" or not SPECS[name].is_vit])
def test_another_image_size(name, size, method, models, photos):
    assert size != SPECS[name].image_size
    model, _, double = models(name)
    pixels = photos(2, size, 5)[1:]
    texts = None if method in ex.NEEDS_NO_TEXT else TEXTS
    for layer in [None, layers_of(name)[1]] if method in ("gradcam", "hirescam") else [None]:
        found, = model.grad_cam(pixels, texts, method=method, layer=layer, image_size=size, raw=True)
        expected = ex.raw_maps(double, pixels[0], TEXTS, method, layer=layer)
        check(found, expected, f"{name} at {size}, {method}",
              kinks=(double, pixels[0],
                     lambda x: ex.raw_maps(double, x, TEXTS, method, layer=layer)))  # noqa: B023


@pytest.mark.parametrize("method", ["scorecam", "gscorecam"])
@pytest.mark.parametrize("name, size, layer", [("RN50-small", 96, "layer2"), ("ViT-B/32-small", 96, 2)])
def test_another_image_size_of_score_cams(name, size, layer, method, models, photos):
    model, single, _ = models(name)
    pixels = photos(2, size, 5)[1:]
    found, = model.grad_cam(pixels, TEXTS[:2], method=method, layer=layer, image_size=size, raw=True)
    expected = ex.raw_maps(single, pixels[0], TEXTS[:2], method, layer=layer)
    check(found, expected, f"{name} at {size}, {method}")


@pytest.mark.parametrize("name, method", [
    *(("RN50-small", method) for method in methods_of("RN50-small", CHEAP)),
    *(("ViT-B/32-small", method) for method in ex.EXPLANATION_METHODS)])
def test_batches_do_not_matter(name, method, models, photos):
    """Pictures and texts together or one by one: the same maps, up to the order of sums."""
    model, pixels = models(name).clipc, photos(3, SPECS[name].image_size, 5)
    options = {"method": method, "raw": True}
    if method == "surgery":
        options["labels"] = TEXTS
    if method in ex.NEEDS_NO_TEXT:
        together = model.grad_cam(pixels, None, **options)
        singly = [model.grad_cam(pixels[i:i + 1], None, **options)[0] for i in range(3)]
    else:
        together = model.grad_cam(pixels, TEXTS, **options)
        singly = [np.stack([model.grad_cam(pixels[i:i + 1], text, **options)[0] for text in TEXTS])
                  for i in range(3)]
    # Errors of single maps of the ill-conditioned method are no matter of batches.
    tolerance = 1e-3 if method == "gradcam++" and SPECS[name].is_vit else 2e-5
    for one, other in zip(together, singly):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()
    assert np.abs(together[0] - together[1]).max() > 1e-2 * np.abs(together[0]).max()


# -- text relevance ------------------------------------------------------------------------------------------

SENTENCES = ["a photo of a dog", "a photograph of two cats on a red sofa, next to a window", "서울의 경복궁",
             "sunset 🌇 over the sea!", "dog " * 75]


@pytest.mark.parametrize("blocks", ["all", "last"])
@pytest.mark.parametrize("name", SMALL)
def test_text_relevance(name, blocks, oracles, models, photos):
    model, _, double = models(name)
    x = photos(2, SPECS[name].image_size, 5)[1]
    check_text_relevance(model, double, x, SENTENCES, oracles.reference_tokenizer(), blocks=blocks)


@pytest.mark.parametrize("score", ["cosine", "dot", "probability"])
@pytest.mark.parametrize("name", ["RN50-small", "ViT-B/16-small"])
def test_scores_of_text_relevance(name, score, oracles, models, photos):
    model, _, double = models(name, score)
    x = photos(2, SPECS[name].image_size, 5)[1]
    labels = SENTENCES if score == "probability" else None
    check_text_relevance(model, double, x, SENTENCES[:3], oracles.reference_tokenizer(), score=score,
                         labels=labels)


def check_text_relevance(model, reference, x, texts, tokenizer, **options):
    """Assert parity of the scores of words, each the sum of its tokens'.

    Negative contributions count for nothing, so a text may have no score at all; most texts must have one.
    """
    scored = 0
    for text in texts:
        found = model.text_relevance(x[None], text, **options)
        expected = ex.word_scores(*ex.text_relevance(reference, x, text, **options), tokenizer)
        assert [word for word, _ in found] == [word for word, _ in expected]
        found, expected = (np.array([value for _, value in pairs]) for pairs in (found, expected))
        size, error = np.abs(expected).max(), np.abs(found - expected).max()
        print(f"{text[:20]!r} {options}: error {error:.1e}, largest value {size:.3g}")
        assert error <= TOLERANCE * size
        scored += expected.max() > max(1.01 * expected.min(), 1e-6)
    assert scored > len(texts) / 2


# -- maps on the picture -------------------------------------------------------------------------------------

# Height and width: square, wide, tall, smaller than the grid, a line of pixels, very elongated.
SIZES = [(64, 64), (48, 97), (131, 61), (7, 5), (1, 9), (1, 1), (9, 400), (300, 7)]


def model_input(picture, size, fit, grid_box):
    """What a model should see of a picture (H, W, 3), by Pillow, and the rectangle that its square covers."""
    from PIL import Image

    height, width = picture.shape[:2]
    if fit == "squash":
        new_height = new_width = size
    else:
        short, long = min(height, width), max(height, width)
        if fit == "crop":
            new_short, new_long = size, int(size * long / short)
        else:
            # Which way half a pixel is rounded is no matter of geometry: one pixel less or more will do.
            new_long, covered = size, max(grid_box[2] - grid_box[0], grid_box[3] - grid_box[1])
            new_short = round(size * short / covered) if covered > short else size
            assert abs(new_short - size * short / long) <= 1 and new_short >= 1
        new_height, new_width = (new_short, new_long) if height <= width else (new_long, new_short)
    resized = np.asarray(Image.fromarray(picture).resize((new_width, new_height), Image.Resampling.BICUBIC))
    values = (resized.astype(np.float32) / np.float32(255) - MEAN) / STD
    top, left = (round((new - size) / 2) for new in (new_height, new_width))
    if fit == "pad":
        # Likewise the side on which an odd pixel of padding is put.
        top, left = (round(edge * new / old) for edge, new, old in
                     ((grid_box[1], new_height, height), (grid_box[0], new_width, width)))
        assert abs(top - (new_height - size) / 2) <= 0.5 and abs(left - (new_width - size) / 2) <= 0.5
        square = np.zeros((size, size, 3), np.float32)
        square[-top:new_height - top, -left:new_width - left] = values
    else:
        square = values[top:top + size, left:left + size]
    box = (left * width / new_width, top * height / new_height,
           (left + size) * width / new_width, (top + size) * height / new_height)
    return square.transpose(2, 0, 1), box


@pytest.mark.filterwarnings("ignore:the heat map of")
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("height, width", SIZES)
def test_maps_lie_where_the_model_looked(height, width, fit, models):
    model, _, double = models("RN50-small")
    picture, size = pictures_uint8(1, height, width, 3)[0], 160
    found = model.grad_cam(picture, TEXTS, fit=fit, image_size=size)
    assert found.shape == (3, height, width) and found.dtype == np.float32

    x, box = model_input(picture, size, fit, found.grid_box)
    np.testing.assert_allclose(found.grid_box, box, rtol=1e-9, atol=1e-9)
    seen = (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))
    np.testing.assert_allclose(found.seen_box, seen, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.seen_box(picture, fit, image_size=size), seen, rtol=1e-9, atol=1e-9)

    raw = model.grad_cam(picture, TEXTS, fit=fit, image_size=size, raw=True)
    np.testing.assert_array_equal(raw, found.grid)
    expected = ex.raw_maps(double, x, TEXTS)
    check(raw, expected, f"{height} x {width} {fit}")
    for one, grid in zip(found, expected):
        check_placed(one, ex.min_max(grid), box, np.maximum(grid, 0).max() / np.abs(grid).max())
        assert one.min() >= 0 and one.max() <= 1


def check_placed(found, grid, box, positive=1.0):
    """Assert that a map (H, W) is a grid of values up to 1, enlarged onto a box.

    `positive`: the share of the largest value that was scaled to 1, and the grid's error with it.
    """
    placed = ex.placed(grid, box, *found.shape)
    # A pixel whose centre lies on the edge may count as seen or not.
    known = ~np.isnan(placed)
    difference = np.abs(np.asarray(found)[known] - placed[known]).max(initial=0)
    print(f"largest difference {difference:.1e}")
    assert difference <= 1e-5 + 2 * TOLERANCE / max(positive, TOLERANCE)


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("name", ["RN50-small", "ViT-B/16-small"])
def test_difference_map(name, fit, models):
    """The signed maps' difference, divided by its largest magnitude on the grid."""
    model, _, double = models(name)
    size = SPECS[name].image_size
    picture = pictures_uint8(1, 50, 81, 4)[0]
    found = model.difference_map(picture, TEXTS[0], TEXTS[1], fit=fit)
    assert found.texts == (TEXTS[0], TEXTS[1]) and found.shape == (50, 81)
    x, box = model_input(picture, size, fit, found.grid_box)
    one, other = ex.raw_maps(double, x, TEXTS[:2])
    raw = model.difference_map(picture, TEXTS[0], TEXTS[1], fit=fit, raw=True)
    check(raw, one - other, f"{name} {fit}")
    check_placed(found, (one - other) / np.abs(one - other).max(), box)
    turned = model.difference_map(picture, TEXTS[1], TEXTS[0], fit=fit)
    np.testing.assert_allclose(turned, -np.asarray(found), atol=1e-5)
    assert -1 <= found.min() < -0.05 and 0.05 < found.max() <= 1


def test_a_map_of_a_preprocessed_square(models, photos):
    name = "ViT-B/16-small"
    pixels = photos(2, SPECS[name].image_size, 5)
    maps = models(name).clipc.grad_cam(pixels, TEXTS)
    assert [one.shape for one in maps] == [(3, 112, 112)] * 2
    for one in maps:
        assert one.seen_box == one.grid_box == (0, 0, 112, 112)
        for values, grid in zip(one, one.grid):
            expected = torch.nn.functional.interpolate(
                torch.from_numpy(ex.min_max(grid))[None, None], (112, 112), mode="bilinear")[0, 0]
            np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:the heat map of")
def test_a_list_of_pictures(models):
    pictures = [pictures_uint8(1, 40, 90, 1)[0], pictures_uint8(1, 70, 30, 2)[0]]
    model = models("RN50-small").clipc
    for fit in ("crop", "squash", "pad"):
        maps = model.grad_cam(pictures, TEXTS, fit=fit)
        assert isinstance(maps, list) and [one.shape for one in maps] == [(3, 40, 90), (3, 70, 30)]
        for picture, one in zip(pictures, maps):
            np.testing.assert_allclose(one, model.grad_cam(picture, TEXTS, fit=fit), atol=1e-4)
            assert model.grad_cam(picture, TEXTS[0], fit=fit).shape == picture.shape[:2]


# -- the package grad-cam ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gradcam", "layercam", "hirescam"])
@pytest.mark.parametrize("name, layer", [("RN50-small", "layer4"), ("RN50x4-small", "layer3"),
                                         ("ViT-B/16-small", -1), ("ViT-L/14-small", 1)])
def test_grad_cam_package(name, layer, method, models, photos, package_map):
    model, single, double = models(name)
    pixels = photos(2, SPECS[name].image_size, 5)[1:]
    raw, = model.grad_cam(pixels, TEXTS, method=method, layer=layer, raw=True)
    for text, one in zip(TEXTS, raw):
        signed, scaled = package_map(single, pixels[0], text, method, layer=layer)
        check(one, signed, f"{name} {layer} {method}",
              kinks=(double, pixels[0],
                     lambda x: package_map(double, x, text, method, layer=layer)[0]))  # noqa: B023
        if signed.max() > 0.1 * np.abs(signed).max():
            np.testing.assert_allclose(ex.min_max(one), scaled, atol=2e-3)


def test_grad_cam_package_on_a_photograph(oracles, package_map):
    """`tiny`, which has seen cats."""
    model = clipc.load("tiny")
    weights, metadata = oracles.load_float32(model.path)
    reference = oracles.build_reference(weights, metadata["activation"])
    cat = Path(__file__).parent.parent / "examples" / "images" / "cat.png"
    texts = ["a photo of a cat.", "a photo of the sea."]
    for layer in ("layer4", "layer2"):
        raw = model.grad_cam(cat, texts, layer=layer, raw=True)
        signed = [package_map(reference, model.preprocess(cat)[0], text, layer=layer)[0] for text in texts]
        check(raw, np.stack(signed), f"tiny {layer}")


# -- full-size models ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_model(random_model, tmp_path_factory):
    """A function from the name of a full-size spec to clipc's model and the reference."""
    def load(name):
        spec, weights, reference = random_model(name)
        path = tmp_path_factory.mktemp("full") / "model.safetensors"
        layouts.save_openai(weights, path, "float32", layouts.metadata_of(spec))
        model = clipc.load(path)
        path.unlink()
        return model, reference

    return load


@pytest.mark.full
def test_rn50(full_model, oracles, photos):
    """Every stage at 64 x 64; at 224 x 224 exactly where no ReLU follows, and roughly elsewhere.

    Of 9 million activations at that size some four fall on the other side of zero in float32, in PyTorch as
    in clipc, and move the map by up to 1e-2 of its largest value.
    """
    model, reference = full_model("RN50")
    texts, layers = TEXTS[:2], ["layer1", "layer2", "layer3", "layer4", "layer3.2"]
    double = double_reference(reference)
    for layer in layers:
        pixels = photos(2, 64, 5)[1:]
        found, = model.grad_cam(pixels, texts, layer=layer, image_size=64, raw=True)
        check(found, ex.raw_maps(double, pixels[0], texts, layer=layer), f"{layer} at 64",
              kinks=(double, pixels[0],
                     lambda x: ex.raw_maps(double, x, texts, layer=layer)))  # noqa: B023
    pixels = photos(2, 224, 5)[1:]
    for layer in layers:
        found, = model.grad_cam(pixels, texts, layer=layer, raw=True)
        check(found, ex.raw_maps(reference, pixels[0], texts, layer=layer), f"{layer} at 224",
              TOLERANCE if layer == "layer4" else 3e-2)
    for method in ("surgery", "maskclip"):
        found, = model.grad_cam(pixels, texts, method=method, raw=True)
        check(found, ex.raw_maps(reference, pixels[0], texts, method), method)
    check_text_relevance(model, reference, pixels[0], texts, oracles.reference_tokenizer())


@pytest.mark.full
def test_vit_b_32(full_model, oracles, photos):
    """Every block, and the attention of both towers."""
    model, reference = full_model("ViT-B/32")
    texts, pixels = TEXTS[:2], photos(2, 224, 5)[1:]
    for layer in range(12):
        found, = model.grad_cam(pixels, texts, layer=layer, raw=True)
        check(found, ex.raw_maps(reference, pixels[0], texts, layer=layer), f"block {layer}")
    for method in (*ex.ATTENTION_METHODS, *ex.DENSE_METHODS):
        found, = model.grad_cam(pixels, None if method == "rollout" else texts, method=method, raw=True)
        check(found, ex.raw_maps(reference, pixels[0], texts, method), method)
    check_text_relevance(model, reference, pixels[0], texts, oracles.reference_tokenizer())
