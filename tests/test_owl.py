"""OWL-ViT and OWLv2: everything that transformers computes of a picture, on the same random weights.

Tolerance: 1e-4 times the largest reference value, or 1 where that is less; in practice two float32
computations of these depths differ by less than 1e-5. Boxes in pixels: 1e-4 of the picture's size. Each test
also asserts that answers differ between patches and that no score is near 0 or 1, where agreement would say
little.
"""

import functools
import json
import pickle
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from availability import require
from hypothesis import given, settings
from hypothesis import strategies as st
from weights_builder import (
    random_arrays,
    to_huggingface,
    vit_shapes,
    write_safetensors,
)

import clipc
from clipc import owl
from clipc.weights import CLIP_MEAN, CLIP_STD, open_model

KINDS = ("owlvit", "owlv2")
SMALL = ("OWL-ViT small", "OWLv2 small")
NARROW = (
    "OWL-ViT B/32 narrow",
    "OWL-ViT B/16 narrow",
    "OWL-ViT L/14 narrow",
    "OWLv2 B/16 narrow",
    "OWLv2 L/14 narrow",
)
FULL = [pytest.param(name, marks=pytest.mark.full) for name in ("OWL-ViT B/32", "OWL-ViT B/16", "OWLv2 B/16")]
LABELS = ["dog", "a photo of a traffic light", "서울의 경복궁", ""]
MANY_LABELS = [*LABELS, *"cat car nurse tree house bicycle cup 강아지 window cloud bread ball ship".split()]
# Wide, high, smaller than the square, larger.
SIZES = [(97, 301), (240, 75), (64, 100), (333, 250)]


class Pair(NamedTuple):
    """A detector of transformers and clipc's with the same weights."""

    spec: object
    reference: object
    model: object


@pytest.fixture(scope="module")
def detectors(oracles):
    """The module of oracles."""
    require("transformers")
    from oracles import detectors

    return detectors


@pytest.fixture(scope="module")
def pair(detectors, tmp_path_factory):
    """A function from the name of a spec to a `Pair`, the same one for all tests."""

    def build(name):
        spec = detectors.DETECTORS[name]
        reference = detectors.build_detector(spec)
        folder = detectors.save_detector(reference, tmp_path_factory.mktemp("detector"))
        return Pair(spec, reference, clipc.load(folder))

    small = functools.lru_cache(maxsize=None)(build)
    large = functools.lru_cache(maxsize=1)(build)
    return lambda name: (small if name in SMALL else large)(name)


@pytest.fixture(scope="module")
def pictures(oracles):
    """One picture of each of `SIZES`, uint8 (H, W, 3)."""
    return {size: oracles.pictures_uint8(1, *size, seed=sum(size))[0] for size in SIZES}


def check(found, expected, what, spread=True):
    """Agreement within the tolerance; with `spread`, of an answer that differs between patches."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, what
    error = np.abs(found - expected).max()
    print(f"{what}: error {error:.1e}, largest value {np.abs(expected).max():.3g}")
    assert error <= 1e-4 * max(1.0, np.abs(expected).max()), what
    if spread:
        assert np.ptp(expected, axis=0).min() >= 1e-2, f"{what}: the same for all patches"


def check_logits(found, expected, what):
    assert 1e-3 < 1 / (1 + np.exp(np.abs(expected).max())), f"{what}: a score is near 0 or 1"
    check(found, expected, what)


def tokens_of(texts):
    return clipc.tokenize(texts, context_length=16)


# --- what the core computes -----------------------------------------------------------------------------


# More boxes than any of these models proposes.
ALL = 10**6


def detect(model, image, labels, **options):
    """Boxes, scores and indices of labels, by `Model.detect`.

    It refuses an empty label; transformers does not. With one, by the parts that it is made of.
    """
    if "" in labels:
        found = owl.outputs(model, image, image_size=options.pop("image_size", None))
        return owl.select(found, owl.logits(found, model.classifier(labels)), **options)
    found = model.detect(image, labels, method="owl", max_detections=ALL, **options)
    return found.boxes, found.scores, found.label_ids


@pytest.mark.parametrize("name", [*SMALL, *NARROW, *FULL])
def test_text_queries_agree(name, detectors, pair, oracles):
    """Logits, boxes, features and objectness of each patch, for the real sizes and grids of pictures."""
    spec, reference, model = pair(name)
    pixels = oracles.photographs(1, spec.image_size, seed=3)[0]
    tokens = np.vstack([tokens_of(LABELS), np.zeros((2, 16), np.int32)])
    _, expected = detectors.detect_by_text(reference, pixels, tokens)

    found = owl.outputs(model, pixels)
    queries, mask = owl.token_queries(model, tokens)
    logits = owl.logits(found, queries, mask)
    count = len(LABELS)
    assert logits.shape == (spec.grid**2, count + 2) and mask.tolist() == count * [True] + 2 * [False]
    check_logits(logits[:, :count], expected["logits"][:, :count], f"{name}, logits")
    np.testing.assert_array_equal(logits[:, count:], expected["logits"][:, count:])
    assert (logits[:, count:] == np.finfo(np.float32).min).all()

    check(found.boxes, expected["pred_boxes"], f"{name}, boxes")
    unit = found.features / np.linalg.norm(found.features, axis=1, keepdims=True)
    check(unit, expected["class_embeds"], f"{name}, features")
    assert (found.objectness is None) == (spec.kind == "owlvit")
    if found.objectness is not None:
        check(found.objectness, expected["objectness_logits"], f"{name}, objectness")
    # One label has the logits that it has among others.
    np.testing.assert_allclose(owl.logits(found, queries[1:2])[:, 0], logits[:, 1], atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_another_size_of_picture(name, detectors, pair, oracles):
    """Positions are interpolated, and the boxes' grid follows, as with interpolate_pos_encoding."""
    spec, reference, model = pair(name)
    side = spec.image_size + 3 * spec.patch_size
    pixels = oracles.photographs(1, side)[0]
    _, expected = detectors.detect_by_text(reference, pixels, tokens_of(LABELS), interpolate=True)
    found = owl.outputs(model, pixels)
    check(found.boxes, expected["pred_boxes"], f"{name} at {side}, boxes")
    logits = owl.logits(found, model.classifier(LABELS))
    check_logits(logits, expected["logits"], f"{name} at {side}, logits")

    picture = oracles.pictures_uint8(1, 90, 130)[0]
    boxes, scores, labels = detect(model, picture, LABELS, image_size=side)
    assert boxes.shape == (len(scores), 4) and len(scores) == len(labels) > spec.grid**2


@pytest.mark.parametrize("name", SMALL)
def test_ordinary_features_agree(name, pair, oracles):
    """A detector is a CLIP model too."""
    torch = require("torch")
    spec, reference, model = pair(name)
    assert (model.embed_dim, model.image_size, model.context_length) == (64, spec.image_size, 16)
    pixels = oracles.photographs(4, spec.image_size)
    tower = getattr(reference, spec.kind)
    with torch.inference_mode():
        images = tower.get_image_features(torch.tensor(pixels)).pooler_output.numpy()
        texts = tower.get_text_features(torch.tensor(tokens_of(LABELS)).long()).pooler_output.numpy()
    check(model.encode_image(pixels), images, "image features")
    check(model.encode_text(LABELS), texts, "text features")
    assert model.logit_scale == pytest.approx(np.exp(2.6592), rel=1e-6)


# --- from a picture to boxes ----------------------------------------------------------------------------


def target_sizes(size):
    return require("torch").tensor([size])


def threshold_in_a_gap(scores):
    """A threshold about half of the scores are above, and none is near."""
    ordered = np.sort(scores)[len(scores) // 3 : -len(scores) // 3]
    gap = np.diff(ordered).argmax()
    assert ordered[gap + 1] - ordered[gap] > 1e-4
    return float((ordered[gap] + ordered[gap + 1]) / 2)


def check_boxes(found, expected, size, tolerance=1e-4):
    """The same boxes with the same scores, in any order."""
    (boxes, scores), (expected_boxes, expected_scores) = found, expected
    assert boxes.shape == expected_boxes.shape and boxes.dtype == scores.dtype == np.float32
    assert len(boxes)
    distances = np.abs(boxes[None] - expected_boxes[:, None]).max(axis=2)
    nearest = distances.argmin(axis=1)
    assert len(set(nearest)) == len(boxes)
    assert distances.min(axis=1).max() <= tolerance * max(size)
    assert np.abs(scores[nearest] - expected_scores).max() <= 1e-4
    return nearest


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SMALL)
def test_detection_by_text_agrees(name, size, detectors, pair, pictures):
    """From the picture to boxes in its pixels, with the image processor of transformers."""
    spec, reference, model = pair(name)
    picture = pictures[size]
    processor = detectors.detector_processor(spec)
    pixels = np.asarray(processor(picture)["pixel_values"][0])
    output, arrays = detectors.detect_by_text(reference, pixels, tokens_of(MANY_LABELS))

    (every,) = processor.post_process_object_detection(output, -1.0, target_sizes(size))
    found = owl.outputs(model, picture)
    assert (found.view.width, found.view.height) == size[::-1]
    corners = owl.corners(found)
    assert np.abs(corners - every["boxes"].numpy()).max() <= 1e-4 * max(size)
    assert corners.min() < 0 and (corners[:, 2] > size[1]).any(), "no box goes beyond the picture"

    threshold = threshold_in_a_gap(every["scores"].numpy())
    (expected,) = processor.post_process_object_detection(output, threshold, target_sizes(size))
    boxes, scores, labels = detect(model, picture, MANY_LABELS, threshold=threshold)
    named = [label for label in MANY_LABELS if label]
    parts = owl.select(found, owl.logits(found, model.classifier(named)), threshold=threshold)
    for whole, part in zip(detect(model, picture, named, threshold=threshold), parts):
        np.testing.assert_allclose(whole, part, rtol=1e-6)
    nearest = check_boxes((boxes, scores), (expected["boxes"].numpy(), expected["scores"].numpy()), size)
    two = np.sort(arrays["logits"], axis=1)[every["scores"].numpy() > threshold, -2:]
    clear = two[:, 1] - two[:, 0] > 1e-4
    np.testing.assert_array_equal(labels[nearest][clear], expected["labels"].numpy()[clear])
    assert clear.mean() > 0.9
    assert (np.diff(scores) <= 0).all() and scores.min() > threshold


@pytest.mark.parametrize("nms", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("name", SMALL)
def test_detection_by_image_agrees(name, nms, detectors, pair, pictures):
    spec, reference, model = pair(name)
    picture, query, size = pictures[SIZES[0]], pictures[SIZES[1]], SIZES[0]
    processor = detectors.detector_processor(spec)
    pixels, query_pixels = (np.asarray(processor(p)["pixel_values"][0]) for p in (picture, query))
    output, arrays = detectors.detect_by_query(reference, pixels, query_pixels)

    found = owl.outputs(model, picture)
    logits = owl.logits(found, owl.query_feature(owl.outputs(model, query))[None])
    check_logits(logits, arrays["logits"], f"{name}, logits of an image query")
    for threshold in (0.0, threshold_in_a_gap(1 / (1 + np.exp(-arrays["logits"][:, 0])))):
        (expected,) = processor.post_process_image_guided_detection(
            output, threshold, nms, target_sizes(size)
        )
        of_query = model.detect_by_image(
            picture, query, threshold=threshold, nms=nms, max_detections=ALL
        )
        boxes, scores, labels = of_query.boxes, of_query.scores, of_query.label_ids
        check_boxes((boxes, scores), (expected["boxes"].numpy(), expected["scores"].numpy()), size)
        assert scores[0] == pytest.approx(1, abs=1e-5) and (labels == 0).all()
    assert len(boxes) < spec.grid**2


def test_query_box(detectors, pair, pictures):
    """A box in the query picture takes the place of the whole picture in OWL-ViT's choice of a query."""
    torch = require("torch")
    transformers = require("transformers")
    choose = transformers.OwlViTForObjectDetection.embed_image_query
    for name in SMALL:
        spec, _, model = pair(name)
        picture = pictures[SIZES[0]]
        found = owl.outputs(model, picture)
        x1, y1 = found.view.square_box[2:]
        whole = owl.query_feature(found, (0, 0, x1, y1))
        # Their head again from what it gets: features before dense0 are not among our outputs.
        stub = SimpleNamespace(
            class_predictor=lambda _, found=found: (None, torch.tensor(found.features)[None]),
            box_predictor=lambda *_, found=found: torch.tensor(found.boxes)[None],
        )
        expected, index, _ = choose(stub, torch.zeros(1, spec.grid**2, 1), None)
        np.testing.assert_array_equal(whole, expected[0, 0].numpy())
        np.testing.assert_array_equal(whole, found.features[index.item()])
        if spec.kind == "owlvit":
            np.testing.assert_array_equal(owl.query_feature(found), whole)
        else:
            np.testing.assert_array_equal(owl.query_feature(found), found.features[found.objectness.argmax()])
        # A box of a patch finds that patch, or one whose box is much the same.
        corners = owl.corners(found)
        for patch in (0, spec.grid // 2):
            feature = owl.query_feature(found, corners[patch])
            (at,) = np.flatnonzero((found.features == feature).all(axis=1))
            assert owl._iou(corners[patch : patch + 1], corners[at : at + 1])[0, 0] >= 0.8


def synthetic(boxes, features, size=(100, 200), objectness=None):
    """Outputs with the given corners, which are parts of the square."""
    boxes, count = np.array(boxes, np.float32), len(boxes)
    centred = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    height, width = size
    whole = (0.0, 0.0, float(width), float(height))
    view = clipc.image.View(np.zeros((3, 1, 1), np.float32), height, width, whole, whole)
    zeros, ones = np.zeros(count, np.float32), np.ones(count, np.float32)
    return owl.Outputs(np.array(features, np.float32), zeros, ones, centred, objectness, view)


def test_query_box_that_no_box_touches():
    """The nearest box by generalised IoU."""
    found = synthetic([[0, 0, 0.1, 0.1], [0.5, 0.5, 0.6, 0.6]], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(owl.query_feature(found, (180, 90, 190, 100)), [0, 1])
    np.testing.assert_array_equal(owl.query_feature(found, (30, 0, 40, 10)), [1, 0])


def test_selection_of_boxes():
    found = synthetic(
        [[-0.1, 0, 0.5, 0.5], [-0.1, 0, 0.5, 0.49], [0, 0.5, 1.1, 1.2], [0.5, 0, 0.7, 0.2]], np.zeros((4, 2))
    )
    logits = np.array([[0, -9], [1, -9], [-9, 2], [-2.5, -3]], np.float32)
    boxes, scores, labels = owl.select(found, logits)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-np.array([2.0, 1, 0]))), rtol=1e-6)
    np.testing.assert_array_equal(labels, [1, 0, 0])
    np.testing.assert_allclose(boxes[0], [0, 50, 220, 120], rtol=1e-6)
    assert len(owl.select(found, logits, threshold=0.0)[0]) == 4
    assert [len(a) for a in owl.select(found, logits, threshold=1.0)] == [0, 0, 0]
    np.testing.assert_allclose(owl.select(found, logits, clip=True)[0][0], [0, 50, 200, 100], rtol=1e-6)

    np.testing.assert_array_equal(owl.select(found, logits, nms=0.5)[2], [1, 0])
    assert len(owl.select(found, logits, nms=0.99)[0]) == 3
    # Another label does not suppress.
    logits[1] = [-9, 1]
    assert len(owl.select(found, logits, nms=0.5)[0]) == 3


def test_nothing_is_found_by_an_image_above_a_threshold():
    found = synthetic([[0, 0, 0.5, 0.5]], [[1, 0]])
    boxes, scores, labels = owl.select_by_image(found, np.array([[0.0]], np.float32), threshold=0.7)
    assert boxes.shape == (0, 4) and scores.shape == labels.shape == (0,)


def test_templates(pair, pictures):
    """Several prompts of a label make one query, as in Model.classifier."""
    _, _, model = pair("OWL-ViT small")
    found = owl.outputs(model, pictures[SIZES[0]])
    templates = ["a photo of a {}.", "{}"]
    logits = owl.logits(found, model.classifier(["dog", "cat"], templates))
    each = np.stack([model.encode_text([t.replace("{}", n) for t in templates]) for n in ("dog", "cat")])
    each /= np.linalg.norm(each, axis=2, keepdims=True)
    np.testing.assert_allclose(logits, owl.logits(found, each.mean(axis=1)), atol=1e-5)
    boxes, _, _ = detect(model, pictures[SIZES[0]], ["dog", "cat"], templates=templates)
    assert len(boxes) == (logits.max(axis=1) > -np.log(9)).sum()


def test_from_one_label_to_500(pair, pictures):
    _, _, model = pair("OWLv2 small")
    picture = pictures[SIZES[1]]
    names = [f"thing number {i}" for i in range(500)]
    boxes, scores, labels = detect(model, picture, names, threshold=0.0)
    assert len(boxes) == 81 and len(set(labels.tolist())) > 5 and labels.max() < 500
    one = detect(model, picture, names[:1], threshold=0.0)
    assert len(one[0]) == 81 and (one[2] == 0).all()
    assert scores.min() >= one[1].min() and scores[0] >= one[1][0] - 1e-6


def test_tiny_pictures(pair):
    for name in SMALL:
        _, _, model = pair(name)
        for size in ((1, 1), (1, 40), (30, 1)):
            boxes, _, _ = detect(model, np.full((*size, 3), 99, np.uint8), ["a", "b"], clip=True)
            assert np.isfinite(boxes).all() and boxes.min() >= 0 and (boxes <= [*size[::-1]] * 2).all()


# --- pictures ---------------------------------------------------------------------------------------------


def stub(kind, size):
    config = SimpleNamespace(
        detector=kind, image_mean=CLIP_MEAN, image_std=CLIP_STD, vision_patch_size=1, vision="vit"
    )
    return SimpleNamespace(config=config, image_size=size, name="stub")


def preprocessed(detectors, kind, size, picture):
    processor = detectors.classes(kind)[2](size={"height": size, "width": size})
    # Without being told, transformers takes a picture one or three pixels high for one with channels first.
    return np.asarray(processor(picture, input_data_format="channels_last")["pixel_values"][0])


PICTURE_SIZES = [
    (1, 1), (1, 7), (5, 1), (2, 2), (3, 50), (64, 64), (64, 20), (65, 64), (70, 31), (96, 64), (200, 333),
    (333, 200), (640, 480), (71, 71), (700, 3),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", PICTURE_SIZES)
def test_pictures_become_squares_as_in_transformers(kind, size, detectors):
    require("scipy")
    picture = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)
    seen = owl.view(stub(kind, 64), picture)
    # 2 millionths of the range before normalisation: their filters round to float32 one by one.
    tolerance = 1e-6 if kind == "owlvit" else 2e-6 / min(CLIP_STD)
    expected = preprocessed(detectors, kind, 64, picture)
    np.testing.assert_allclose(seen.pixels, expected, rtol=0, atol=tolerance)
    height, width = size
    assert (seen.height, seen.width, seen.seen_box) == (height, width, (0, 0, width, height))
    side = (width, height) if kind == "owlvit" else (max(size), max(size))
    assert seen.square_box == (0, 0, *side) and seen.pixels.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 150), width=st.integers(1, 150), size=st.integers(4, 80))
def test_squares_of_any_size(detectors, height, width, size):
    require("scipy")
    picture = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    found = owl.view(stub("owlv2", size), picture).pixels
    expected = preprocessed(detectors, "owlv2", size, picture)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 / min(CLIP_STD))


@pytest.mark.parametrize(("kind", "size"), [("owlvit", 768), ("owlv2", 960)])
def test_real_size_of_square(kind, size, detectors, oracles):
    require("scipy")
    picture = oracles.pictures_uint8(1, 700, 1300)[0]
    found = owl.view(stub(kind, size), picture).pixels
    tolerance = 1e-6 if kind == "owlvit" else 2e-6 / min(CLIP_STD)
    np.testing.assert_allclose(found, preprocessed(detectors, kind, size, picture), rtol=0, atol=tolerance)


def test_exif_orientation(pair, tmp_path, oracles):
    """Boxes are in the pixels of the picture as it is turned."""
    require("PIL")
    from PIL import Image

    _, _, model = pair("OWLv2 small")
    picture = oracles.pictures_uint8(1, 60, 90)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    turned = np.ascontiguousarray(np.rot90(picture, -1))
    found = detect(model, tmp_path / "turned.png", ["dog"], exif=True)
    for a, b in zip(found, detect(model, turned, ["dog"])):
        np.testing.assert_array_equal(a, b)


# --- wrong arguments --------------------------------------------------------------------------------------


def test_a_model_without_a_head():
    tiny = clipc.load("tiny")
    picture = np.zeros((4, 4, 3), np.uint8)
    assert not tiny._core.has_detection_head and tiny.config.detector is None
    message = "'tiny' is a CLIP model, a ModifiedResNet, without a detection head"
    with pytest.raises(ValueError, match=message):
        owl.outputs(tiny, picture)
    with pytest.raises(ValueError, match=message):
        tiny.detect_by_image(picture, picture)
    with pytest.raises(ValueError, match="no detection head"):
        tiny._core.detection_outputs(np.zeros((3, 64, 64), np.float32))


def test_wrong_arguments(pair):
    _, _, model = pair("OWL-ViT small")
    picture = np.zeros((40, 30, 3), np.uint8)
    wrong = [
        ({"labels": []}, ValueError, "labels: expected at least one"),
        ({"labels": "dog"}, TypeError, "single text"),
        ({"labels": ["dog", "dog"]}, ValueError, "more than once"),
        ({"labels": ["dog " * 15]}, ValueError, "17 tokens.*16"),
        ({"templates": "a photo"}, ValueError, "no {}"),
        ({"threshold": 1.5}, ValueError, "threshold: expected a number from 0 to 1, got 1.5"),
        ({"threshold": float("nan")}, ValueError, "threshold"),
        ({"image_size": 100}, ValueError, "image_size: expected a multiple of 16"),
        ({"image_size": 160.0}, TypeError, "image_size"),
        ({"image": np.zeros((40, 30, 3), np.float32)}, TypeError, "uint8"),
    ]
    for changed, error, message in wrong:
        arguments = {"image": picture, "labels": ["dog"], **changed}
        with pytest.raises(error, match=message):
            detect(model, **arguments)
    detect(model, picture, ["dog " * 14])
    found = owl.outputs(model, picture)
    logits = owl.logits(found, model.classifier(["dog"]))
    for options, error, message in [
        ({"threshold": 1.5}, ValueError, "threshold: expected a number from 0 to 1, got 1.5"),
        ({"threshold": float("nan")}, ValueError, "threshold"),
        ({"nms": "much"}, TypeError, "nms: expected a number from 0 to 1"),
    ]:
        with pytest.raises(error, match=message):
            owl.select(found, logits, **options)
    for image, error, message in [
        (np.zeros((3, 100, 100), np.float32), ValueError, "multiple of 16"),
        (np.zeros((3, 160, 96), np.float32), ValueError, "shape"),
        (np.full((3, 160, 160), np.nan, np.float32), ValueError, "finite"),
        (np.zeros((40, 30, 3), np.float32), TypeError, "uint8"),
    ]:
        with pytest.raises(error, match=message):
            owl.outputs(model, image)
    for box in ([0, 0, 1], "box", [5, 5, 5, 9], [30, 0, 50, 9], [0, 0, np.nan, 1], [-9, -9, 0, 5]):
        with pytest.raises((ValueError, TypeError), match="query_box"):
            model.detect_by_image(picture, picture, query_box=box)
    with pytest.raises(ValueError, match="tokens"):
        owl.token_queries(model, np.zeros(16, np.int32))


# --- files ------------------------------------------------------------------------------------------------

WIDTH, EMBED = 128, 24


def head_shapes(kind):
    shapes = {"layer_norm.weight": (WIDTH,), "layer_norm.bias": (WIDTH,)}
    outputs = {"class_head.dense0": EMBED, "class_head.logit_shift": 1, "class_head.logit_scale": 1}
    for head, last in (("box_head", 4), ("objectness_head", 1))[: 1 + (kind == "owlv2")]:
        outputs.update({f"{head}.dense0": WIDTH, f"{head}.dense1": WIDTH, f"{head}.dense2": last})
    for name, count in outputs.items():
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (count, WIDTH), (count,)
    return shapes


@functools.cache
def detector_tensors(kind):
    """Small weights under the names of OwlViTForObjectDetection or Owlv2ForObjectDetection."""
    towers = to_huggingface(random_arrays(vit_shapes(WIDTH, embed=EMBED)))
    towers = {name.replace("pre_layrnorm", "pre_layernorm"): array for name, array in towers.items()}
    heads = random_arrays(head_shapes(kind), seed=1)
    return {**{f"{kind}.{name}": array for name, array in towers.items()}, **heads}


def load_changed(folder, kind, changes=None, **files):
    """Load the tensors of a detector with some of them changed (None removes one), and JSON files beside."""
    tensors = {**detector_tensors(kind), **(changes or {})}
    write_safetensors(folder / "model.safetensors", {n: a for n, a in tensors.items() if a is not None})
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return clipc.load(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_a_detector(kind, tmp_path):
    ignored = {
        f"{kind}.text_model.embeddings.position_ids": np.arange(11)[None],
        f"{kind}.vision_model.embeddings.position_ids": np.arange(10)[None],
        "box_bias": np.zeros((9, 4), np.float32),
    }
    model = load_changed(tmp_path, kind, ignored)
    assert model.config.detector == kind and model._core.has_detection_head
    assert f"{ {'owlvit': 'OWL-ViT', 'owlv2': 'OWLv2'}[kind]} detection head" in repr(model)
    config, state = open_model(tmp_path)
    with state:
        assert (config.detector, state.layout, state.detector) == (kind, "huggingface", kind)
        assert state.shapes["detection.class_head.dense0.weight"] == (EMBED, WIDTH)
        np.testing.assert_array_equal(
            state.read("detection.box_head.dense2.bias"), detector_tensors(kind)["box_head.dense2.bias"]
        )
    # The towers are those of the same weights without a head.
    plain = tmp_path / "clip.safetensors"
    write_safetensors(plain, random_arrays(vit_shapes(WIDTH, embed=EMBED)))
    pixels = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    np.testing.assert_array_equal(model.encode_image(pixels), clipc.load(plain).encode_image(pixels))
    found = pickle.loads(pickle.dumps(model))._core.detection_outputs(pixels[0])
    for a, b in zip(found, model._core.detection_outputs(pixels[0])):
        assert (a is None and b is None) or np.array_equal(a, b)
    assert [None if a is None else a.shape for a in found] == [
        (9, EMBED), (9,), (9,), (9, 4), (9,) if kind == "owlv2" else None,
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_float16_files_and_wrapped_names(dtype, tmp_path):
    tensors = {f"module.{name}": array.astype(dtype) for name, array in detector_tensors("owlv2").items()}
    write_safetensors(tmp_path / "model.safetensors", tensors)
    model = clipc.load(tmp_path)
    pixels = np.random.default_rng(0).standard_normal((3, 12, 12)).astype(np.float32)
    (tmp_path / "rounded").mkdir()
    rounded = {name: a.astype(dtype).astype(np.float32) for name, a in detector_tensors("owlv2").items()}
    expected = load_changed(tmp_path / "rounded", "owlv2", rounded)
    for a, b in zip(model._core.detection_outputs(pixels), expected._core.detection_outputs(pixels)):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in head_shapes(kind)])
def test_missing_and_misshapen_head(kind, name, tmp_path):
    shown = "detection." + name.replace(".", r"\.")
    with pytest.raises(clipc.WeightsError, match=rf"missing tensor {shown} \({name} in this file\)"):
        load_changed(tmp_path, kind, {name: None})
    array = detector_tensors(kind)[name]
    for shape in ((*array.shape, 1), (array.shape[0] + 1, *array.shape[1:])):
        with pytest.raises(clipc.WeightsError, match=rf"{shown}: expected \[{array.shape[0]}"):
            load_changed(tmp_path, kind, {name: np.zeros(shape, np.float32)})
    with pytest.raises(clipc.WeightsError, match=r"expected dtype F32, F16 or BF16, got I64"):
        load_changed(tmp_path, kind, {name: np.zeros(array.shape, np.int64)})


ZEROS = np.zeros(WIDTH, np.float32)
WRONG_FILES = {
    "no head at all": (
        "owlvit", dict.fromkeys(head_shapes("owlvit")), "missing tensor detection.layer_norm.weight",
    ),
    "objectness of another kind": (
        "owlvit", {"objectness_head.dense0.bias": ZEROS}, "1 surplus.*objectness_head.dense0.bias",
    ),
    "something else": ("owlv2", {"mask_head.bias": ZEROS}, "1 surplus.*mask_head.bias"),
    "the other spelling": (
        "owlv2", {"owlv2.vision_model.pre_layrnorm.bias": ZEROS}, "1 surplus.*pre_layrnorm",
    ),
    "no layer norm before the blocks": (
        "owlv2", {"owlv2.vision_model.pre_layernorm.bias": None},
        r"visual.ln_pre.bias \(owlv2.vision_model.pre_layernorm.bias in this file\)",
    ),
    "no value projection": (
        "owlvit", {"owlvit.vision_model.encoder.layers.1.self_attn.v_proj.bias": None},
        "missing tensor .*vision_model.encoder.layers.1.self_attn.v_proj.bias",
    ),
    "both detectors": ("owlv2", {"owlvit.logit_scale": ZEROS[0]}, "of OWL-ViT and of OWLv2"),
    "another width": (
        "owlvit", {"layer_norm.weight": ZEROS[:64]}, r"layer_norm.weight: expected \[128\], got \[64\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_files(case, tmp_path):
    kind, changes, message = WRONG_FILES[case]
    with pytest.raises(clipc.WeightsError, match=message):
        load_changed(tmp_path, kind, changes)


def test_only_one_tower(tmp_path):
    text = {name: None for name in detector_tensors("owlvit") if ".text_" in name}
    with pytest.raises(clipc.WeightsError, match="only the image tower"):
        load_changed(tmp_path, "owlvit", text)


def test_truncated_files(tmp_path):
    load_changed(tmp_path, "owlv2")
    path = tmp_path / "model.safetensors"
    content = path.read_bytes()
    for length in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(clipc.WeightsError):
            clipc.load(tmp_path)


def test_damaged_numbers(tmp_path):
    model = load_changed(tmp_path, "owlvit", {"class_head.logit_shift.bias": np.full(1, np.nan, np.float32)})
    with pytest.raises(clipc.WeightsError, match="not finite"):
        owl.outputs(model, np.zeros((3, 12, 12), np.float32))


CONFIG = {
    "projection_dim": EMBED,
    "text_config": {
        "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 11, "vocab_size": 50, "hidden_act": "gelu",
    },
    "vision_config": {
        "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": 12, "patch_size": 4, "hidden_act": "gelu",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_configuration(kind, tmp_path):
    for extra in ({"model_type": kind}, {}):
        model = load_changed(tmp_path, kind, config={**CONFIG, **extra})
        config = model.config
        assert (config.vision_heads, config.text_heads, config.activation) == (4, 2, "gelu")
        assert config.sources["vision_heads"] == "config.json"
    wrong = [
        ({"model_type": "clip"}, f"expected model_type {kind}, got 'clip'"),
        ({"projection_dim": 512}, "embed_dim = 512, the tensor shapes say 24"),
        ({"text_config": {**CONFIG["text_config"], "hidden_act": "quick_gelu"}}, "one activation for both"),
        ({"vision_config": {**CONFIG["vision_config"], "layer_norm_eps": 1e-6}}, "layer_norm_eps"),
    ]
    for changes, message in wrong:
        with pytest.raises(clipc.WeightsError, match=message):
            load_changed(tmp_path, kind, config={**CONFIG, "model_type": kind, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_of_the_configuration_are_those_of_transformers(kind, detectors):
    """A key that config.json lacks has transformers' default."""
    from clipc.weights import config

    theirs = detectors.classes(kind)[0]()
    vision = {**config.HF_VISION_DEFAULTS, **config.DETECTOR_VISION_DEFAULTS[kind]}
    for key, value in vision.items():
        assert getattr(theirs.vision_config, key) == value, key
    for key, value in {**config.HF_TEXT_DEFAULTS, **config.DETECTOR_TEXT_DEFAULTS}.items():
        assert getattr(theirs.text_config, key) == value, key
    assert theirs.projection_dim == config.HF_PROJECTION_DEFAULT


SQUARE = {"height": 12, "width": 12}


def test_preprocessing_of_the_configuration(tmp_path):
    good = {
        "owlvit": [
            {"size": SQUARE, "do_center_crop": False, "crop_size": {"height": 9, "width": 9}},
            {"size": [12, 12], "crop_size": 12, "do_center_crop": True, "resample": 3},
            {"size": 12},
        ],
        "owlv2": [{"size": SQUARE, "do_pad": True, "resample": 2, "rescale_factor": 1 / 255}],
    }
    for kind, files in good.items():
        for content in files:
            content = {**content, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
            model = load_changed(tmp_path, kind, preprocessor_config=content)
            assert model.config.image_mean == (0.1, 0.2, 0.3)
            assert model.config.sources["preprocessing"] == "preprocessor_config.json"
    wrong = [
        ("owlvit", {"size": {"height": 12, "width": 16}}, "size is"),
        ("owlvit", {"size": {"shortest_edge": 12}}, "size is"),
        ("owlvit", {"do_center_crop": True, "crop_size": 9}, "crop_size is 9"),
        ("owlvit", {"resample": 2}, "resample: expected 3"),
        ("owlvit", {"do_rescale": False}, "do_rescale = False"),
        ("owlv2", {"do_pad": False}, "do_pad = False"),
        ("owlv2", {"size": 16}, "size is 16, the tensor shapes say image_size 12"),
    ]
    for kind, content, message in wrong:
        with pytest.raises(clipc.WeightsError, match=message):
            load_changed(tmp_path, kind, preprocessor_config=content)


def test_a_head_on_a_resnet_is_refused_by_the_core():
    config, state = open_model("tiny")
    with state, pytest.raises(clipc.WeightsError, match="a detection head needs a vision transformer"):
        clipc._core.Model({**config.to_core(), "detector": "owlvit"}, state.read)
