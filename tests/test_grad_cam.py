"""The contract of explanations: shapes, geometry, errors, memory. Their values: test_explanations.py."""

import gc
import os
import pickle
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

import clipc
from clipc import cam

CAT = os.path.join(os.path.dirname(__file__), "..", "examples", "images", "cat.png")
RESNET_METHODS = (
    "gradcam", "gradcam++", "layercam", "hirescam", "eigencam", "scorecam", "gscorecam", "surgery",
    "maskclip",
)  # fmt: skip
QUICK_METHODS = tuple(name for name in RESNET_METHODS if not name.endswith("scorecam"))


@pytest.fixture(scope="module")
def cat():
    return os.path.abspath(CAT)


@pytest.fixture(scope="module")
def tiny():
    return clipc.load("tiny")


def silently(function, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", clipc.ClipcWarning)
        return function(*arguments, **options)


# ---- the map ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", RESNET_METHODS)
def test_every_method_keeps_the_contract(tiny, cat, method):
    text = None if method == "eigencam" else ["a cat", "a cup"]
    # Fewer channels to score.
    options = {"method": method, "image_size": 96, "layer": "layer1" if "score" in method else None}
    found = silently(tiny.grad_cam, cat, text, **options)
    assert isinstance(found, clipc.HeatMap)
    assert found.dtype == np.float32
    assert found.shape == ((300, 451) if text is None else (2, 300, 451))
    assert found.min() == 0 and found.max() <= 1
    # On the grid the largest value is 1; between pixels of the enlarged map it may be missed by a little.
    assert found.max() > 0.9
    assert found.method == method and found.texts == (() if text is None else ("a cat", "a cup"))
    assert found.grid.shape[-2:] == ((24, 24) if "score" in method else (3, 3))
    raw = tiny.grad_cam(cat, text, raw=True, **options)
    assert raw.shape == found.grid.shape
    np.testing.assert_array_equal(raw, found.grid)


def test_module_functions_use_the_model_that_is_given(tiny, cat):
    for name, arguments in {
        "grad_cam": (cat, "a cat"), "difference_map": (cat, "a cat", "a cup"),
        "text_relevance": (cat, "a cat"), "seen_box": (cat,),
    }.items():  # fmt: skip
        of_module = silently(getattr(clipc, name), *arguments, model="tiny")
        np.testing.assert_array_equal(
            np.asarray(of_module, object), np.asarray(silently(getattr(tiny, name), *arguments), object)
        )


def test_one_text_is_one_map_of_the_list(tiny, cat):
    both = tiny.grad_cam(cat, ["a cat", "a dog"], image_size=224)
    for i, text in enumerate(both.texts):
        one = tiny.grad_cam(cat, text, image_size=224)
        assert one.shape == both.shape[1:]
        np.testing.assert_allclose(one, both[i], atol=1e-5)
        assert both[i].texts == (text,)
        np.testing.assert_array_equal(both[i].grid, both.grid[i])
        assert both[i].peak() == both.peak()[i] == one.peak()


def test_texts_may_repeat(tiny, cat):
    maps = tiny.grad_cam(cat, ["a cat", "a dog", "a cat"], image_size=224)
    np.testing.assert_array_equal(maps[0], maps[2])
    assert np.abs(np.asarray(maps[0]) - np.asarray(maps[1])).max() > 0.01


def test_several_images(tiny, cat):
    rgb = clipc.image.to_rgb(cat)
    batch = [cat, rgb[:120], rgb[:, ::-1]]
    maps = tiny.grad_cam(batch, ["a cat"], image_size=224, progress=False)
    assert [m.shape for m in maps] == [(1, 300, 451), (1, 120, 451), (1, 300, 451)]
    for image, found in zip(batch, maps):
        np.testing.assert_array_equal(found, tiny.grad_cam(image, ["a cat"], image_size=224))


def test_preprocessed_arrays(tiny, cat):
    pixels = tiny.preprocess([cat, cat])
    maps = silently(tiny.grad_cam, pixels, "a cat")
    assert [m.shape for m in maps] == [(64, 64), (64, 64)]
    raw = tiny.grad_cam(cat, "a cat", raw=True)
    np.testing.assert_array_equal(raw, maps[0].grid)
    assert maps[0].seen_box == (0, 0, 64, 64)
    larger = tiny.grad_cam(np.repeat(np.repeat(pixels, 2, 2), 2, 3), "a cat", raw=True)
    assert larger[0].shape == (4, 4)
    with pytest.raises(ValueError, match=r"expected shape \(N, 3, 96, 96\)"):
        tiny.grad_cam(pixels, "a cat", image_size=96)
    with pytest.raises(ValueError, match="NaN or infinity"):
        tiny.grad_cam(np.full_like(pixels, np.nan), "a cat")


def test_progress_is_shown_when_asked_for(tiny, cat, capfd):
    silently(tiny.grad_cam, [cat, cat], "a cat", progress=True)
    assert "image" in capfd.readouterr().err
    silently(tiny.grad_cam, cat, "a cat", method="gscorecam", layer="layer1", progress=True)
    assert "channel" in capfd.readouterr().err
    silently(tiny.grad_cam, [cat, cat], "a cat")
    assert capfd.readouterr().err == ""


# ---- geometry --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 40), (300, 2), (2000, 10), (10, 2000), (63, 64), (65, 301), (224, 224)]
)
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_any_shape_of_picture(tiny, shape, fit):
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = tiny.grad_cam(rgb, None, method="eigencam", fit=fit, image_size=96)
    height, width = shape
    assert found.shape == shape
    x0, y0, x1, y1 = found.seen_box
    assert 0 <= x0 < x1 <= width + 1e-6 and 0 <= y0 < y1 <= height + 1e-6
    assert (found.seen_box == (0, 0, width, height)) == (fit != "crop" or height == width)
    assert tiny.seen_box(rgb, fit, image_size=96) == found.seen_box
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    outside = ((y < y0) | (y > y1))[:, None] | ((x < x0) | (x > x1))[None]
    assert (np.asarray(found)[outside] == 0).all()
    if fit == "pad":
        bx0, by0, bx1, by1 = found.grid_box
        assert bx0 <= 0 and by0 <= 0 and bx1 >= width - 1e-6 and by1 >= height - 1e-6
        # A square, as far as whole pixels of the resized picture allow.
        sides = sorted([(bx1 - bx0) / width * max(width, 1), (by1 - by0) / height * max(height, 1)])
        assert sides[0] > 0


def test_maps_follow_the_picture(tiny):
    # One bright disc on grey moves through the picture; so must the strongest cell of its map.
    for row, column in [(1, 1), (1, 5), (5, 1), (4, 3)]:
        rgb = np.full((224, 224, 3), 128, np.uint8)
        y, x = np.ogrid[:224, :224]
        rgb[(y - 32 * row - 16) ** 2 + (x - 32 * column - 16) ** 2 < 20**2] = (255, 60, 0)
        found = tiny.grad_cam(rgb, None, method="eigencam", image_size=224, layer="layer2")
        px, py = found.peak()
        assert np.hypot(px - 32 * column - 16, py - 32 * row - 16) <= 32


def test_enlarging_is_linear_between_half_pixel_centres():
    grid = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    view = clipc.image.View(None, 30, 40, (0.0, 0.0, 40.0, 30.0), (0.0, 0.0, 40.0, 30.0))
    found = cam._enlarge(grid / 11, view)[0] * 11
    for y in range(30):
        for x in range(40):
            gy, gx = np.clip((y + 0.5) / 10 - 0.5, 0, 2), np.clip((x + 0.5) / 10 - 0.5, 0, 3)
            np.testing.assert_allclose(found[y, x], 4 * gy + gx, atol=1e-4)


def test_exif_turns_the_map_too(tiny, tmp_path, cat):
    from PIL import Image

    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(cat) as image:
        image.save(path, exif=exif)
        upright = np.asarray(image.rotate(-90, expand=True))
    turned = tiny.grad_cam(path, "a cat", exif=True, image_size=224)
    assert turned.shape == (451, 300)
    np.testing.assert_array_equal(turned, tiny.grad_cam(upright, "a cat", image_size=224))
    assert tiny.seen_box(path, exif=True) == tiny.seen_box(upright)


# ---- maps without anything to show -----------------------------------------------------------------------


def test_a_map_without_positive_values_is_zero_with_one_warning(tiny, cat):
    raw = tiny.grad_cam(cat, ["a cat", "a dog"], raw=True)
    assert (raw[0] < 0).all()  # at 2 x 2 this holds; another tiny needs another picture here
    with pytest.warns(clipc.ClipcWarning, match="zero everywhere") as caught:
        found = tiny.grad_cam(cat, ["a cat", "a cat"])
    assert len(caught) == 1
    assert (found == 0).all()
    assert found.peak() == [found[0].peak()] * 2  # of the signed grid


def test_a_grid_of_one_cell_speaks_for_the_whole_picture(tiny, cat):
    found = tiny.grad_cam(cat, None, method="eigencam", image_size=32, fit="squash")
    assert found.grid.shape == (1, 1)
    assert (found == 1).all()


def test_last_block_has_gradient_at_the_patches_through_its_attention_only(vit, photos):
    # Nothing behind the last attention reads the patches: without it their gradient would be zero.
    pixels = photos(2, vit.image_size)
    for block in range(3):
        raw = vit.grad_cam(pixels, "a dog", layer=block, raw=True)[0]
        assert np.abs(raw).max() > 0
        np.testing.assert_array_equal(raw, vit.grad_cam(pixels, "a dog", layer=block - 3, raw=True)[0])
    assert vit.grad_cam(pixels, "a dog", raw=True)[0].layer == "block 2"


# ---- the difference of two texts -------------------------------------------------------------------------


def test_difference_map(tiny, cat):
    found = tiny.difference_map(cat, "a cat", "a cup", image_size=224)
    raw = tiny.grad_cam(cat, ["a cat", "a cup"], image_size=224, raw=True)
    difference = np.asarray(raw[0]) - np.asarray(raw[1])
    np.testing.assert_allclose(found.grid, difference, atol=1e-6 * np.abs(difference).max())
    assert found.texts == ("a cat", "a cup")
    assert found.shape == (300, 451) and -1 <= found.min() < 0 < found.max() <= 1
    np.testing.assert_allclose(np.abs(found).max(), 1, atol=0.1)
    swapped = tiny.difference_map(cat, "a cup", "a cat", image_size=224)
    np.testing.assert_allclose(swapped, -np.asarray(found), atol=1e-5)
    raw = tiny.difference_map(cat, "a cat", "a cup", image_size=224, raw=True)
    np.testing.assert_array_equal(raw, found.grid)


# ---- words -----------------------------------------------------------------------------------------------


def test_text_relevance(tiny, cat):
    found = tiny.text_relevance(cat, "A photo of a cat, sitting!")
    assert isinstance(found, clipc.WordRelevance)
    assert [word for word, _ in found] == ["a", "photo", "of", "a", "cat", ",", "sitting", "!"]
    assert all(score >= 0 for _, score in found)
    assert max(found, key=lambda pair: pair[1])[0] == "cat"
    lines = str(found).splitlines()
    assert len(lines) == 8 and lines[4].startswith("cat ") and "█" in lines[4]
    assert "<span" in clipc.WordRelevance([("<b>", 1.0)])._repr_html_()
    assert "<b>" not in clipc.WordRelevance([("<b>", 1.0)])._repr_html_()
    assert str(clipc.WordRelevance()) == ""


def test_text_relevance_of_scores(tiny, cat):
    logit = tiny.text_relevance(cat, "a cat")
    last = tiny.text_relevance(cat, "a cat", blocks="last")
    p = tiny.text_relevance(cat, "a cat", score="probability", labels=["a cat", "a dog"])
    assert logit != last and logit != p
    # In one block relevance is linear in the score.
    cosine = tiny.text_relevance(cat, "a cat", blocks="last", score="cosine")
    for (_, a), (_, b) in zip(last, cosine):
        np.testing.assert_allclose(a, tiny.logit_scale * b, rtol=1e-4)


# ---- wrong calls -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sclip"}, "'sclip' does not exist for a ModifiedResNet, which has 'gradcam', "),
        ({"method": "relevance"}, "'relevance' does not exist for a ModifiedResNet"),
        ({"method": "rollout"}, "'rollout' does not exist for a ModifiedResNet"),
        ({"method": "grad-cam"}, "method: expected one of 'gradcam', .*, got 'grad-cam'"),
        ({"layer": "layer5"}, "layer: expected 'layer1' .*got 'layer5'"),
        ({"layer": "layer4.2"}, "layer: expected 'layer1' .*got 'layer4.2'"),
        ({"layer": "layer3."}, "got 'layer3.'"),
        ({"layer": "layer3.99999999999999999999"}, "layer: expected"),
        ({"layer": -1}, "got -1"),
        ({"layer": "attnpool"}, "got 'attnpool'"),
        ({"layer": "layer4", "method": "surgery"}, "layer: method 'surgery' has no target layer"),
        ({"score": "softmax"}, "score: expected one of 'logit', .*got 'softmax'"),
        ({"score": "dot", "method": "surgery"}, "knows 'logit' and 'cosine', not 'dot'"),
        ({"score": "probability"}, "pass labels="),
        ({"score": "probability", "labels": ["a dog", "a cup"]}, "'a cat' is not among the labels"),
        ({"score": "probability", "labels": ["a cat"]}, "two or more different texts"),
        ({"score": "probability", "labels": ["a cat", "a cat"]}, "two or more different texts"),
        ({"labels": ["a cat", "a dog"]}, "labels: they count for score 'probability'"),
        ({"labels": ["a cat", "a dog"], "method": "eigencam"}, "'eigencam' does not depend on texts"),
        ({"blocks": "last"}, "'gradcam' has no choice of blocks"),
        ({"blocks": 3}, "blocks: expected 'all' or 'last'"),
        ({"fit": "stretch"}, "fit: expected one of 'crop', 'squash', 'pad'"),
        ({"image_size": 100}, "multiple of 32 for this model, such as 96 or 128, got 100"),
        ({"image_size": 0}, "such as 32 or 64, got 0"),
        ({"image_size": -32}, "got -32"),
    ],
)
def test_wrong_options(tiny, cat, options, message):
    with pytest.raises(ValueError, match=message):
        tiny.grad_cam(cat, "a cat", **options)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ValueError, "text: expected a text with at least one word, got ''"),
        (" \n", ValueError, "at least one word"),
        (["a cat", ""], ValueError, r"text\[1\]: expected a text"),
        ([], ValueError, "at least one text"),
        (None, ValueError, "'gradcam' needs a text"),
        ("cat " * 100, ValueError, "too long: 102 tokens"),
        (7, TypeError, "expected (a )?str"),
        ([b"cat"], TypeError, "expected str"),
    ],
)
def test_wrong_texts(tiny, cat, text, error, message):
    with pytest.raises(error, match=message):
        tiny.grad_cam(cat, text)
    if text is not None and not isinstance(text, list):
        with pytest.raises(error, match=message):
            tiny.text_relevance(cat, text)


def test_wrong_images(tiny, cat, tmp_path):
    for bad, error in [
        ([], ValueError), (tmp_path / "missing.png", OSError), (b"no image", clipc.ImageError),
        (3.5, TypeError), (np.zeros((0, 3, 64, 64), np.float32), ValueError),
        (np.zeros((4, 4), np.float64), TypeError),
    ]:  # fmt: skip
        with pytest.raises(error):
            tiny.grad_cam(bad, "a cat")
    with pytest.raises(OSError, match=r"missing\.png"):
        tiny.grad_cam([cat, tmp_path / "missing.png"], "a cat")
    with pytest.raises(ValueError, match="expected one image, got 2"):
        tiny.text_relevance([cat, cat], "a cat")


def test_wrong_differences(tiny, cat):
    with pytest.raises(ValueError, match="expected another text"):
        tiny.difference_map(cat, "a cat", "a cat")
    with pytest.raises(TypeError, match="other: expected a str, got list"):
        tiny.difference_map(cat, "a cat", ["a dog"])
    with pytest.raises(ValueError, match="no difference"):
        tiny.difference_map(cat, "a cat", "a dog", method="eigencam")


def test_wrong_types_of_options(tiny, cat):
    for size in (64.0, "64", True):
        with pytest.raises(TypeError, match="image_size: expected a whole number"):
            tiny.grad_cam(cat, "a cat", image_size=size)
    with pytest.raises(TypeError, match="labels: expected a list of texts"):
        tiny.grad_cam(cat, "a cat", score="probability", labels="a cat")


def test_wrong_blocks_of_a_vision_transformer(vit, cat):
    for layer in (3, -4, "layer4", 1.0, True):
        with pytest.raises(ValueError, match=f"a block of the vision transformer, -3 to 2; got {layer!r}"):
            vit.grad_cam(cat, "a cat", layer=layer)
    # As a command line gives it.
    np.testing.assert_array_equal(
        vit.grad_cam(cat, "a cat", layer="-2", raw=True), vit.grad_cam(cat, "a cat", layer=1, raw=True)
    )
    assert cam.methods_of(vit) == list(cam.METHODS)
    with pytest.raises(ValueError, match="multiple of 16"):
        vit.grad_cam(cat, "a cat", image_size=100)


def test_the_core_checks_its_arguments(tiny):
    core, pixels = tiny._core, np.zeros((3, 64, 64), np.float32)
    texts = np.ones((2, tiny.embed_dim), np.float32)
    good = ("cosine", 1.0, texts, np.array([0]))
    for arguments in [
        (pixels, (4, 0), "gradcam", good), (pixels, (0, 9), "gradcam", good),
        (pixels, (-1, 0), "gradcam", good), (pixels, (3, 0), "cam", good),
        (pixels, (3, 0), "gradcam", ("cosin", 1.0, texts, np.array([0]))),
        (pixels, (3, 0), "gradcam", ("cosine", 1.0, texts, np.array([2]))),
        (pixels, (3, 0), "gradcam", ("cosine", 1.0, texts, np.array([-1]))),
        (pixels, (3, 0), "gradcam", ("cosine", 1.0, texts[:, 1:], np.array([0]))),
        (pixels[:, 1:], (3, 0), "gradcam", good), (pixels[:, :0], (3, 0), "gradcam", good),
    ]:  # fmt: skip
        with pytest.raises(ValueError):
            core.grad_cam(*arguments)
    for arguments in [(pixels, 3, "gradcam", good), (pixels, (3, 0), "gradcam", list(good))]:
        with pytest.raises(TypeError):
            core.grad_cam(*arguments)
    for call in [
        lambda: core.relevance(pixels, 0, good), lambda: core.rollout(pixels),
        lambda: core.dense_features(pixels, "sclip"), lambda: core.dense_features(pixels, "other"),
        lambda: core.text_relevance(np.array([1, 2], np.int32), 0, ("cosine", 1.0, texts[:1], np.array([0]))),
        lambda: core.text_relevance(clipc.tokenize("a")[0], 99, ("cosine", 1.0, texts[:1], np.array([0]))),
        lambda: core.text_relevance(clipc.tokenize("a")[0], -1, ("cosine", 1.0, texts[:1], np.array([0]))),
        lambda: core.text_relevance(clipc.tokenize("a")[0], 0, good),
    ]:  # fmt: skip
        with pytest.raises(ValueError):
            call()


# ---- HeatMap ---------------------------------------------------------------------------------------------


def test_heat_map_is_an_array(tiny, cat):
    maps = tiny.grad_cam(cat, ["a cat", "a dog"], image_size=224)
    assert type(maps * 2) is np.ndarray and type(maps.mean(axis=0)) is np.ndarray
    assert type(maps[:, :10]) is np.ndarray and type(maps[0, 3]) is np.ndarray
    assert isinstance(maps.max(), np.floating)
    assert maps[:1].texts == ("a cat",) and maps[:1].grid.shape == (1, 7, 7)
    assert maps[1].texts == ("a dog",) and maps[-1].texts == ("a dog",)
    for copy in (pickle.loads(pickle.dumps(maps)), maps.copy()):
        assert isinstance(copy, clipc.HeatMap)
        np.testing.assert_array_equal(copy, maps)
        np.testing.assert_array_equal(copy.grid, maps.grid)
        assert copy.texts == maps.texts and copy.seen_box == maps.seen_box and copy.method == "gradcam"
    assert repr(maps) == "<clipc.HeatMap 2 x 300 x 451, gradcam at layer4: 'a cat', 'a dog'>"


# ---- memory, threads, interruption -----------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.memory
def test_memory_does_not_grow(tiny, vit, cat):
    """1,000 calls of everything that is quick; the first hundred fill caches."""
    rgb = np.ascontiguousarray(clipc.image.to_rgb(cat)[:96, :96])

    def resident():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not os.path.exists("/proc/self/statm"):
        pytest.skip("resident memory is read from /proc, which this system does not have")
    calls = [
        lambda m=m: tiny.grad_cam(rgb, None if m == "eigencam" else "a cat", method=m) for m in QUICK_METHODS
    ]
    calls += [lambda m=m: vit.grad_cam(rgb, "a cat", method=m) for m in ("gradcam", "relevance", "sclip")]
    calls += [lambda: vit.grad_cam(rgb, None, method="rollout"), lambda: tiny.text_relevance(rgb, "a cat")]
    calls += [lambda: tiny.grad_cam(rgb, "a cat", layer="layer9")]

    def run(count):
        for i in range(count):
            try:
                silently(calls[i % len(calls)])
            except ValueError:
                pass

    run(100)
    before = resident()
    run(1000)
    grown = resident() - before
    print(f"resident memory grew by {grown / 1e6:.2f} MB in 1,000 calls")
    assert grown < 3e6


def test_threads_share_a_model(tiny, cat):
    expected = tiny.grad_cam(cat, "a cat", image_size=224, layer="layer3")
    results = []

    def work():
        for _ in range(5):
            results.append(tiny.grad_cam(cat, "a cat", image_size=224, layer="layer3"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    for found in results:
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_interrupt_stops_a_long_explanation():
    code = """
import os, signal, threading, clipc, numpy as np
model = clipc.load("tiny")
picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    model.grad_cam(picture, ["a cat"] * 100000, layer="layer1", image_size=224)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "interrupted\n", done.stderr


def test_import_stays_light():
    code = (
        "import sys, clipc; "
        "print([m for m in ('PIL', 'tqdm', 'clipc.cam', 'clipc.evaluate') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
