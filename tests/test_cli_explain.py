"""`clipc explain`: what it prints and writes is what the library computes and draws; wrong calls."""

import functools
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import weights_builder
from click.testing import CliRunner
from command_line import files_in, interrupt, picture, read_terminal, run, run_process, terminal
from PIL import Image

import clipc
from clipc import cam, cli, drawing
from clipc import image as images

LOAD = functools.cache(clipc.load)
EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "images"
CAT, ROCKET = str(EXAMPLES / "cat.png"), str(EXAMPLES / "rocket.jpg")


@pytest.fixture(scope="module")
def tiny():
    return clipc.load("tiny")


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    """The path of a small vision transformer with random weights: 16 x 16 pixels, patches of 4."""
    shapes = weights_builder.vit_shapes(grid=4, text={"vocab": 49408, "context": 77})
    arrays = {name: 0.1 * array for name, array in weights_builder.random_arrays(shapes).items()}
    for name in arrays:
        if re.search(r"ln_\w+\.weight$", name):
            arrays[name] += 1
    arrays["logit_scale"] = np.float32(np.log(20))
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    path = tmp_path_factory.mktemp("weights") / "transformer.safetensors"
    return weights_builder.write_safetensors(path, arrays)


@pytest.fixture(autouse=True)
def load_once(monkeypatch):
    """Spare the many calls in this process the loading of the same model."""
    monkeypatch.setattr(clipc, "load", LOAD)


def pixels_of(path):
    with Image.open(path) as image:
        return np.array(image)


def at(point):
    return f"({point[0]:.0f}, {point[1]:.0f})"


# --- what it prints ----------------------------------------------------------------------------------


def test_a_line_for_each_text(folder, tiny):
    texts = ["a cat", "a dog"]
    result = run("explain", CAT, *texts, "-o", "cam.png", "--image-size", 224)
    maps = tiny.grad_cam(CAT, texts, image_size=224)
    lines = result.stdout.splitlines()
    for text, peak, line in zip(texts, maps.peak(), lines, strict=True):
        assert re.fullmatch(rf"{text}: logit -?\d+\.\d\d, strongest at {re.escape(at(peak))}", line)
    assert result.stderr == ""
    assert files_in(folder) == ["cam.png", "pictures"]


def test_logits_are_those_of_the_model(folder, tiny):
    logits = tiny.similarity(CAT, ["a cat", "a dog"])[0]
    lines = run("explain", CAT, "a cat", "a dog", "-o", "cam.png", "-q").stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"{text}: logit {logit:.2f}" for text, logit in zip(["a cat", "a dog"], logits)
    ]


@pytest.mark.parametrize("fit", images.FITS)
@pytest.mark.parametrize("size", [None, 96])
@pytest.mark.parametrize("score", ["logit", "cosine", "dot", "probability"])
def test_scores_are_those_that_the_core_explains(tiny, fit, size, score):
    """The core gives them beside the gradients, a path of its own from picture to score."""
    texts, labels = ["a cat", "a dog"], ["a bird", "a cat", "a dog"] if score == "probability" else None
    features = cam.image_features(tiny, ROCKET, image_size=size, fit=fit)
    values = cam.score_values(tiny, features, texts, score=score, labels=labels)
    request = cam._check(
        tiny, texts, method="gradcam", layer=None, score=score, labels=labels, blocks="all"
    )
    config = tiny.config
    view = images.view(ROCKET, size or 64, config.image_mean, config.image_std, fit=fit)
    expected = tiny._core.grad_cam(view.pixels, request.layer, "gradcam", request.score.for_core())[0]
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    assert values[0] != values[1]


def test_a_squashed_picture_has_the_score_of_a_square_one(folder, tiny):
    """Seen through Pillow's resize, which is equal to the bit."""
    picture(1, (90, 64)).save("wide.png")
    square = Image.open("wide.png").resize((64, 64), Image.BICUBIC)
    document = json.loads(run("explain", "wide.png", "dog", "--fit", "squash", "--json").stdout)
    assert document["texts"][0]["value"] == pytest.approx(tiny.similarity(square, "dog").item(), rel=1e-5)
    assert document["seen_box"] == [0, 0, 90, 64]


@pytest.mark.parametrize("score", ["cosine", "dot", "probability"])
def test_other_scores(folder, tiny, score):
    features, text = tiny.encode_image(CAT)[0], tiny.encode_text(["a cat"])[0]
    length = np.linalg.norm(features) * np.linalg.norm(text)
    arguments = [CAT, "a cat", "--score", score]
    if score == "probability":
        arguments += ["--label", "a dog", "--label", "a bird"]
        p = tiny.classify(CAT, ["a cat", "a dog", "a bird"])["a cat"]
        expected = f"probability {100 * p:.2f}%"
    else:
        dot = float(features @ text)
        expected = f"dot product {dot:.2f}" if score == "dot" else f"cosine {dot / length:.4f}"
    assert run("explain", *arguments, "--words", "-q").stdout.startswith(f"a cat: {expected}, ")


def test_json(folder, tiny):
    texts = ["a cat", "a dog"]
    document = json.loads(
        run("explain", CAT, *texts, "--json", "--words", "--layer", "layer3", "--fit", "pad", "-o", "m.npy")
        .stdout
    )
    maps = tiny.grad_cam(CAT, texts, layer="layer3", fit="pad")
    entries = document.pop("texts")
    assert document == {
        "model": "tiny", "path": CAT, "width": 451, "height": 300, "method": "gradcam", "layer": "layer3",
        "score": "logit", "labels": None, "difference": False, "image_size": 64, "fit": "pad",
        "seen_box": [0, 0, 451, 300], "grid": [4, 4], "output": "m.npy",
    }  # fmt: skip
    assert [entry["text"] for entry in entries] == texts
    assert [tuple(entry["peak"]) for entry in entries] == maps.peak()
    for text, entry in zip(texts, entries):
        assert [word["word"] for word in entry["words"]] == text.split()
    # Without a file, only the grid is computed; the answer is the same.
    again = json.loads(
        run("explain", CAT, *texts, "--json", "--words", "--layer", "layer3", "--fit", "pad").stdout
    )
    assert again.pop("texts") == entries and again == {**document, "output": None}


def test_words(folder, tiny):
    text = "a cat on a table"
    result = run("explain", CAT, text, "dog", "--words")
    lines = result.stdout.splitlines()
    relevance = tiny.text_relevance(CAT, text)
    assert lines[0].startswith(f"{text}: logit ")
    assert lines[1:6] == [f"  {line}" for line in str(relevance).splitlines()]
    assert lines[6].startswith("dog: logit ") and len(lines) == 8
    assert files_in(folder) == ["pictures"]
    last = tiny.text_relevance(CAT, text, blocks="last")
    assert str(last) != str(relevance)
    lines = run("explain", CAT, text, "--words", "--blocks", "last").stdout.splitlines()
    assert lines[1:] == [f"  {line}" for line in str(last).splitlines()]


def test_words_of_the_picture_that_the_map_shows(folder, tiny):
    """The relevance belongs to the score that is printed, also where the picture is not the usual crop."""
    square = Image.open(ROCKET).resize((64, 64), Image.BICUBIC)
    expected = tiny.text_relevance(square, "a rocket")
    document = json.loads(run("explain", ROCKET, "a rocket", "--words", "--json", "--fit", "squash").stdout)
    words = [(entry["word"], entry["relevance"]) for entry in document["texts"][0]["words"]]
    assert [word for word, _ in words] == ["a", "rocket"]
    np.testing.assert_allclose([r for _, r in words], [r for _, r in expected], rtol=1e-3)
    crop = tiny.text_relevance(ROCKET, "a rocket")
    assert abs(crop[0][1] - words[0][1]) > 0.01 * words[0][1]


def test_words_in_korean_stand_below_each_other(folder):
    lines = run("explain", CAT, "고양이 사진 cat", "--words").stdout.splitlines()[1:]
    starts = {re.match(r"\s*\S+\s+", line).end() + len(re.findall("[가-힣]", line)) for line in lines}
    widths = {len(re.match(r"\s*\S+\s+[\d.]+", line)[0]) + len(re.findall("[가-힣]", line)) for line in lines}
    assert len(lines) == 3 and len(widths) == 1 and starts


def test_a_text_that_nothing_speaks_for(folder, tiny):
    assert tiny.grad_cam(CAT, "cat", raw=True).max() < 0, "the case that is tested"
    result = run("explain", CAT, "cat", "--words")
    assert re.match(r"cat: logit \d+\.\d\d, no place speaks for it\n", result.stdout)
    assert json.loads(run("explain", CAT, "cat", "--json").stdout)["texts"][0]["peak"] is None
    result = run("explain", CAT, "cat", "-o", "cam.png")
    assert "note: the heat map of 'cat' is zero everywhere" in result.stderr
    assert "--image-size" in result.stderr and "image_size" not in result.stderr
    assert np.array_equal(
        pixels_of("cam.png"),
        clipc.overlay(CAT, np.zeros((300, 451), np.float32), seen_box=tiny.seen_box(CAT), as_array=True),
    )


def test_a_peak_in_the_margin_is_said_to_be_there(folder, tiny, monkeypatch):
    picture(1, (200, 20)).save("strip.png")
    grids = np.zeros((1, 4, 4), np.float32)
    grids[0, 0, 3] = 1
    monkeypatch.setattr(cam, "_grids", lambda *arguments: grids)
    x0, y0, x1, y1 = images.square_box(20, 200, 64, "pad")
    peak = (x0 + (x1 - x0) * 7 / 8, y0 + (y1 - y0) * 1 / 8)
    assert peak[1] < 0, "the case that is tested"
    line = run("explain", "strip.png", "dog", "-o", "cam.png", "--fit", "pad").stdout
    assert line.endswith(f"strongest at {at(peak)}, in the margin outside of the image\n")


def test_note_on_coarse_grids(folder, transformer):
    note = "note: the map's grid is only 2 x 2 cells; --image-size 224 makes it finer\n"
    assert run("explain", CAT, "dog", "--json").stderr == note
    assert run("explain", CAT, "dog", "--json", "--quiet").stderr == ""
    assert run("explain", CAT, "dog", "--json", "--image-size", 128).stderr == ""
    assert run("explain", CAT, "dog", "--json", "--layer", "layer3").stderr == ""
    result = run("explain", CAT, "dog", "--json", "--model", transformer, "--image-size", 12)
    assert result.stderr == "note: the map's grid is only 3 x 3 cells; --image-size 28 makes it finer\n"


# --- what is computed --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the heat map of:clipc.ClipcWarning")
@pytest.mark.parametrize("method", list(cam.METHODS))
@pytest.mark.parametrize("architecture", ["tiny", "transformer"])
def test_methods(folder, tiny, transformer, architecture, method):
    model = tiny if architecture == "tiny" else clipc.load(transformer)
    texts = ["a cat", "a dog"] if cam.METHODS[method].text else []
    # Of a layer with few channels, as Score-CAM encodes the picture once for each.
    layer = {"layer": "layer1"} if "score" in method and model is tiny else {}
    arguments = ["explain", CAT, *texts, "--method", method, "-o", "m.npy", "-q"]
    arguments += ["--layer", layer["layer"]] if layer else []
    arguments += ["--model", transformer] if model is not tiny else []
    if method not in cam.methods_of(model):
        result = run(*arguments, code=2)
        assert f"clipc: --method: '{method}' does not exist for a ModifiedResNet, which has" in result.stderr
        return
    document = json.loads(run(*arguments, "--json").stdout)
    maps = model.grad_cam(CAT, texts or None, method=method, **layer)
    np.testing.assert_array_equal(np.load("m.npy"), np.asarray(maps).reshape(-1, 300, 451))
    assert document["method"] == method and document["layer"] == maps.layer
    assert len(document["texts"]) == max(1, len(texts))
    if not texts:
        assert document["score"] is None and document["texts"][0]["text"] is None
        line = run(*arguments, "--force").stdout
        assert line == f"{method}: strongest at {at(maps.peak())}\n"


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["--layer", "layer2.0"], {"layer": "layer2.0"}),
        (["--score", "cosine"], {"score": "cosine"}),
        (["--score", "dot"], {"score": "dot"}),
        (["--image-size", "96"], {"image_size": 96}),
        (["--fit", "pad"], {"fit": "pad"}),
        (["--method", "surgery", "--label", "tree"], {"method": "surgery", "labels": ["cat", "dog", "tree"]}),
        (["--score", "probability"], {"score": "probability", "labels": ["cat", "dog"]}),
    ],
)
def test_options_reach_the_library(folder, tiny, options, arguments):
    run("explain", ROCKET, "cat", "dog", "-o", "m.npy", "--raw", "-q", *options)
    expected = tiny.grad_cam(ROCKET, ["cat", "dog"], raw=True, **arguments)
    plain = tiny.grad_cam(ROCKET, ["cat", "dog"], raw=True)
    found = np.load("m.npy")
    assert found.dtype == np.float32 and found.ndim == 3
    np.testing.assert_array_equal(found, expected)
    assert found.shape != plain.shape or np.abs(found - plain).max() > 1e-3 * np.abs(plain).max()


def test_options_of_vision_transformers(folder, transformer):
    model = clipc.load(transformer)
    for options, arguments in (
        (["--layer", "-2"], {"layer": -2}),
        (["--layer", "0"], {"layer": 0}),
        (["--method", "relevance", "--blocks", "last"], {"method": "relevance", "blocks": "last"}),
        (["--method", "relevance"], {"method": "relevance"}),
    ):
        run("explain", CAT, "dog", "-o", "m.npy", "--raw", "--force", "--model", transformer, *options)
        np.testing.assert_array_equal(np.load("m.npy")[0], model.grad_cam(CAT, "dog", raw=True, **arguments))


def test_labels_from_a_file(folder, tiny):
    Path("labels.txt").write_text("dog\ncat\n\nbird\n")
    expected = tiny.classify(CAT, ["cat", "dog", "bird", "tree"])["cat"]
    options = ["--score", "probability", "--json", "--label", "tree"]
    document = json.loads(run("explain", CAT, "cat", *options, "--labels-file", "labels.txt").stdout)
    assert document["labels"] == ["cat", "tree", "dog", "bird"]
    assert document["texts"][0]["value"] == pytest.approx(expected, abs=1e-6)
    piped = run("explain", CAT, "cat", *options, "-l", "-", input="dog\ncat\n\nbird\n").stdout
    assert json.loads(piped) == document
    Path("labels.txt").write_text("\n")
    assert "labels.txt: no labels" in run("explain", CAT, "cat", *options, "-l", "labels.txt", code=1).stderr


def test_template(folder, tiny):
    options = ["--template", "a photo of a {}.", "--score", "probability", "--label", "bird", "--json"]
    document = json.loads(run("explain", CAT, "cat", *options, "-o", "m.npy", "--raw").stdout)
    prompts = ["a photo of a cat.", "a photo of a bird."]
    assert document["labels"] == prompts and document["texts"][0]["text"] == prompts[0]
    expected = tiny.grad_cam(CAT, prompts[0], score="probability", labels=prompts, raw=True)
    np.testing.assert_array_equal(np.load("m.npy")[0], expected)


def test_difference(folder, tiny):
    result = run("explain", ROCKET, "rocket", "tree", "--difference", "-o", "d.npy", "--image-size", 224)
    expected = tiny.difference_map(ROCKET, "rocket", "tree", image_size=224)
    np.testing.assert_array_equal(np.load("d.npy"), expected[np.newaxis])
    assert expected.min() < 0 < expected.max(), "the case that is tested"
    features = cam.image_features(tiny, ROCKET, image_size=224)
    logits = cam.score_values(tiny, features, ["rocket", "tree"], score="logit", labels=None)
    reverse = tiny.difference_map(ROCKET, "tree", "rocket", image_size=224)
    assert result.stdout.splitlines() == [
        f"rocket: logit {logits[0]:.2f}, furthest ahead at {at(expected.peak())}",
        f"tree: logit {logits[1]:.2f}, furthest ahead at {at(reverse.peak())}",
    ]
    document = json.loads(
        run("explain", ROCKET, "rocket", "tree", "--difference", "--json", "--image-size", 224).stdout
    )
    assert document["difference"] is True
    assert [tuple(e["peak"]) for e in document["texts"]] == [expected.peak(), reverse.peak()]


def test_difference_that_has_one_sign(folder, monkeypatch):
    grids = np.stack([np.full((4, 4), 2.0), np.ones((4, 4))]).astype(np.float32)
    monkeypatch.setattr(cam, "_grids", lambda *arguments: grids)
    lines = run("explain", CAT, "dog", "tree", "--difference", "--json", "-q").stdout
    assert [entry["peak"] is None for entry in json.loads(lines)["texts"]] == [False, True]
    lines = run("explain", CAT, "dog", "tree", "--difference", "--words", "-q").stdout.splitlines()
    assert lines[0].endswith("furthest ahead at (113, 38)") and lines[2].endswith("ahead nowhere")


def test_standard_input_exif_and_threads(folder, tiny, monkeypatch):
    image = picture(7)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save("turned.png", exif=exif)
    upright = np.array(image.transpose(Image.Transpose.ROTATE_270))
    monkeypatch.setattr(clipc, "set_num_threads", (asked := []).append)
    expected = tiny.grad_cam(upright, "dog", layer="layer3")
    assert expected.shape == (96, 72)
    data = Path("turned.png").read_bytes()
    options = ["--exif", "--layer", "layer3", "--threads", 1]
    run("explain", "-", "dog", "-o", "m.npy", *options, input=data)
    np.testing.assert_array_equal(np.load("m.npy")[0], expected)
    run("explain", "turned.png", "dog", "-o", "m.png", *options)
    np.testing.assert_array_equal(pixels_of("m.png"), clipc.overlay(upright, expected, as_array=True))
    assert asked == [1, 1]
    document = json.loads(run("explain", "-", "dog", "--json", *options, input=data).stdout)
    assert document["path"] == "standard input" and (document["width"], document["height"]) == (72, 96)


# --- pictures ----------------------------------------------------------------------------------------


FONT = next((path for paths in drawing._system_fonts() for path in paths), None)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ([], {}),
        (["--opacity", "0.25"], {"opacity": 0.25}),
        (["--no-fade"], {"fade": False}),
        (["--fade"], {}),
        (["--colormap", "viridis"], {"colormap": "viridis"}),
        (["--original"], {"original": True}),
        (["--no-original"], {}),
        (["--captions"], {"labels": ["tree"]}),
        (["--captions", "--no-colorbar"], {"labels": ["tree"], "colorbar": False}),
        (["--original", "--no-captions"], {"original": True, "labels": None}),
        (["--colorbar"], {"colorbar": True}),
        (["--original", "--columns", "1"], {"original": True, "columns": 1}),
        (["--size", "100"], {"size": 100}),
        (["--captions", "--font-size", "20"], {"labels": ["tree"], "font_size": 20}),
    ],
)
def test_drawing_options(folder, tiny, options, arguments):
    run("explain", ROCKET, "tree", "-o", "cam.png", "--image-size", 128, *options)
    maps = tiny.grad_cam(ROCKET, "tree", image_size=128)
    expected = clipc.overlay(ROCKET, maps, as_array=True, **arguments)
    np.testing.assert_array_equal(pixels_of("cam.png"), expected)
    if not options:
        assert expected.shape == (427, 640, 3)
    elif arguments:
        plain = clipc.overlay(ROCKET, maps, as_array=True)
        assert plain.shape != expected.shape or (plain != expected).any()


def test_font(folder, tiny):
    if FONT is None:
        pytest.skip("no fonts are installed")
    Path("my.ttf").write_bytes(Path(FONT).read_bytes())
    run("explain", ROCKET, "tree", "-o", "cam.png", "--image-size", 128, "--captions", "--font", "my.ttf")
    maps = tiny.grad_cam(ROCKET, "tree", image_size=128)
    expected = clipc.overlay(ROCKET, maps, labels=["tree"], font=FONT, as_array=True)
    np.testing.assert_array_equal(pixels_of("cam.png"), expected)


@pytest.mark.filterwarnings("ignore::clipc.ClipcWarning")
def test_several_texts_are_a_figure(folder, tiny):
    run("explain", ROCKET, "tree", "숲", "-o", "cam.png", "--image-size", 128, "-q")
    maps = tiny.grad_cam(ROCKET, ["tree", "숲"], image_size=128)
    np.testing.assert_array_equal(pixels_of("cam.png"), clipc.overlay(ROCKET, maps, as_array=True))


@pytest.mark.parametrize("method", ["gradcam", "eigencam"])
def test_captions_of_maps_without_a_text_of_their_own(folder, tiny, method):
    if method == "eigencam":
        maps, caption = tiny.grad_cam(ROCKET, None, method=method, image_size=128), "eigencam"
        arguments = ["--method", method]
    else:
        maps = tiny.difference_map(ROCKET, "rocket", "tree", image_size=128)
        caption, arguments = "rocket (+) vs. tree (-)", ["rocket", "tree", "--difference", "--colorbar"]
    run("explain", ROCKET, *arguments, "-o", "cam.png", "--image-size", 128, "--captions")
    expected = clipc.overlay(ROCKET, maps, labels=[caption], as_array=True)
    np.testing.assert_array_equal(pixels_of("cam.png"), expected)


def test_a_difference_has_a_colour_bar(folder, tiny):
    maps = tiny.difference_map(ROCKET, "rocket", "tree", image_size=128)
    for option, colorbar in ([], True), (["--no-colorbar"], False):
        run("explain", ROCKET, "rocket", "tree", "--difference", "-o", "cam.png", "--image-size", 128,
            "--force", *option)  # fmt: skip
        expected = clipc.overlay(ROCKET, maps, colorbar=colorbar, as_array=True)
        np.testing.assert_array_equal(pixels_of("cam.png"), expected)
        assert (expected.shape == (427, 640, 3)) is not colorbar


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".JPG", ".webp", ".bmp", ".tif", ".tiff"])
def test_picture_formats(folder, tiny, suffix):
    run("explain", ROCKET, "tree", "-o", f"cam{suffix}", "--image-size", 128)
    kind = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF"}.get(suffix[1:].lower(), suffix[1:].upper())
    with Image.open(f"cam{suffix}") as image:
        assert image.format == kind and image.size == (640, 427)
    expected = clipc.overlay(ROCKET, tiny.grad_cam(ROCKET, "tree", image_size=128), as_array=True)
    difference = np.abs(pixels_of(f"cam{suffix}").astype(int) - expected)
    assert difference.mean() <= (3 if kind in ("JPEG", "WEBP") else 0)


def test_array_of_one_text_is_three_dimensional(folder, tiny):
    run("explain", CAT, "dog", "-o", "m.npy", "-q")
    found = np.load("m.npy")
    assert type(found) is np.ndarray and found.dtype == np.float32 and found.shape == (1, 300, 451)
    np.testing.assert_array_equal(found[0], tiny.grad_cam(CAT, "dog"))


def test_picture_that_the_format_cannot_hold(folder):
    picture(1, (8, 20_000)).save("long.png")
    result = run("explain", "long.png", "dog", "-o", "cam.webp", "--no-captions", "--layer", "layer3", code=1)
    assert "cam.webp: WEBP holds at most 16383 pixels on a side, got 8 x 20000; --size" in result.stderr
    assert files_in(folder) == ["long.png", "pictures"]


# --- wrong calls, and files that cannot be written ---------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing argument 'IMAGE'"),
        ([CAT, "dog"], 2, "no result is asked for; name a file with -o, or use --words or --json"),
        ([CAT, "-o", "x.png"], 2, "no texts; they follow the image"),
        ([CAT, "dog", " ", "-o", "x.png"], 2, "a text is empty"),
        ([CAT, "dog", "dog", "-o", "x.png"], 2, "the text 'dog' is given more than once"),
        ([CAT, "pictures/b.png", "-o", "x.png"], 2, "'pictures/b.png' stands where a text is expected"),
        ([CAT, "dog", "-o", "x"], 2, "x: expected a name that ends with .png, "),
        ([CAT, "dog", "-o", "x.docx"], 2, "x.docx: expected a name that ends with .png, "),
        ([CAT, "dog", "-o", "-"], 2, "-: expected a name that ends with .png, "),
        ([CAT, "dog", "-o", "x.png", "--raw"], 2, "--raw is for arrays"),
        ([CAT, "dog", "--json", "--raw"], 2, "--raw is for arrays"),
        ([CAT, "dog", "-o", "x.npy", "--no-fade"], 2, "--fade is for pictures"),
        ([CAT, "dog", "--json", "--font-size", "9"], 2, "--font-size is for pictures"),
        ([CAT, "dog", "--difference", "-o", "x.png"], 2, "--difference compares two texts, got 1"),
        ([CAT, "a", "b", "c", "--difference", "-o", "x.png"], 2, "--difference compares two texts, got 3"),
        ([CAT, "dog", "--method", "eigencam", "-o", "x.png"], 2, "eigencam does not depend on a text"),
        ([CAT, "--method", "eigencam", "--words"], 2, "--words is for texts"),
        ([CAT, "--method", "rollout", "--score", "dot", "--json"], 2, "--score is for texts"),
        ([CAT, "--method", "rollout", "--label", "dog", "--json"], 2, "--label is for texts"),
        ([CAT, "--method", "eigencam", "-t", "a {}", "--json"], 2, "--template is for texts"),
        ([CAT, "--method", "eigencam", "--difference", "--json"], 2, "--difference compares two texts"),
        ([CAT, "dog", "--method", "gradcam+", "--json"], 2, "'gradcam+' is not one of 'gradcam', "),
        ([CAT, "dog", "--score", "logits", "--json"], 2, "'logits' is not one of"),
        ([CAT, "dog", "--score", "probability", "--json"], 2, "--score probability compares texts"),
        ([CAT, "dog", "--score", "probability", "--label", "dog", "--json"], 2, "nothing to the one text"),
        ([CAT, "dog", "--score", "probability", "--label", " ", "--json"], 2, "a label is empty"),
        ([CAT, "dog", "--label", "cat", "--json"], 2, "are for --score probability and --method surgery"),
        (["-", "dog", "--method", "surgery", "-l", "-", "--json"], 2, "standard input can hold the image or"),
        ([CAT, "dog", "--method", "surgery", "--score", "dot", "--json"], 2, "--score: method 'surgery'"),
        ([CAT, "dog", "-t", "a photo", "--json"], 2, "'a photo' has no {}"),
        ([CAT, "dog", "-t", "a {}", "-t", "the {}", "--json"], 2, "--template is given more than once"),
        ([CAT, "dog", "--blocks", "last", "--json"], 2, "--blocks is for --method relevance and for --words"),
        ([CAT, "dog", "--layer", "layer5", "--json"], 2, "--layer: expected 'layer1' (2 blocks)"),
        ([CAT, "dog", "--layer", "layer1", "--method", "surgery", "--json"], 2, "--layer: method 'surgery'"),
        ([CAT, "dog", "--image-size", "100", "--json"], 2, "--image-size: expected a multiple of 32"),
        ([CAT, "dog", "--image-size", "0", "--json"], 2, "'--image-size'"),
        ([CAT, "dog", "--opacity", "2", "-o", "x.png"], 2, "'--opacity'"),
        ([CAT, "dog", "--font", "no.ttf", "-o", "x.png"], 2, "'--font'"),
        ([CAT, "dog", "--font", CAT, "-o", "x.png"], 2, "--font: "),
        ([CAT, "dog", "--colormap", "mud", "-o", "x.png"], 2, "--colormap: expected one of heat, jet"),
        (["pictures", "dog", "-o", "x.png"], 2, "pictures: is a folder; explain takes one image"),
        (["pictures/*", "dog", "-o", "x.png"], 2, "explain takes one at a time"),
        (["missing.png", "dog", "-o", "x.png"], 1, "missing.png: no such file or folder"),
        (["pictures/notes.txt", "dog", "-o", "x.png"], 1, "pictures/notes.txt: "),
        (["-", "dog", "-o", "x.png"], 1, "standard input: "),
        (["pictures/b.png", "dog", "-o", "pictures/b.png", "--force"], 2, "is the image itself"),
        ([CAT, "dog", "-o", "nowhere/x.png"], 1, "nowhere/x.png: cannot be written, there is no folder"),
        ([CAT, "dog", "-o", "pictures/b.png"], 1, "pictures/b.png: exists already; --force overwrites it"),
        ([CAT, "dog " * 100, "-o", "x.png"], 1, "text 0 is too long: 102 tokens"),
    ],
)
def test_wrong_calls(folder, arguments, code, message):
    before = Path("pictures/b.png").read_bytes()
    result = run("explain", *arguments, "-q", code=code, input=b"")
    assert message in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    assert "truncate" not in result.stderr
    assert files_in(folder) == ["pictures"] and Path("pictures/b.png").read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        [CAT, "dog", "-o", "x.gif"],
        [CAT, "dog", "-o", "nowhere/x.png"],
        [CAT, "dog", "-o", "x.png", "--colormap", "mud"],
        [CAT, "dog", "-o", "x.png", "--font", CAT],
        ["pictures", "dog", "-o", "x.png"],
    ],
)
def test_wrong_calls_show_before_anything_is_computed(folder, monkeypatch, arguments):
    monkeypatch.setattr(clipc, "load", lambda name: pytest.fail("a model is loaded"))
    assert run("explain", *arguments, code=None).exit_code in (1, 2)


def test_force_overwrites(folder):
    Path("cam.png").write_text("from before")
    run("explain", CAT, "dog", "-o", "cam.png", "--force", "-q")
    assert pixels_of("cam.png").shape == (300, 451, 3)


@pytest.mark.parametrize("name", ["cam.png", "cam.npy"])
def test_full_disk_leaves_nothing(folder, name):
    """A limit on the size of files stands for the disk: writing fails in the same place."""
    Path(name).write_text("from before")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    result = run_process("explain", CAT, "dog", "-o", name, "--force", "-q", code=1, preexec_fn=limit)
    assert result.stderr.decode() == f"clipc: {name}: cannot be written: File too large\n"
    assert files_in(folder) == [name, "pictures"] and Path(name).read_text() == "from before"


def test_folder_that_cannot_be_written(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    result = run("explain", "-", "dog", "-o", "x.png", code=1, input=b"")
    assert result.stderr.startswith("clipc: x.png: cannot be written, no permission for the folder ")


# --- help, completion, progress ----------------------------------------------------------------------


def test_help_has_every_option_once(folder):
    text = run("explain", "--help").stdout
    params = cli.explain.explain.params
    options = [name for parameter in params for name in parameter.opts if name.startswith("--")]
    assert {"--method", "--words", "--model", "--json"} <= set(options)
    listing = text[text.index("\nResult:") :]
    for option in options:
        if option != "--debug":
            assert len(re.findall(rf"^  (?:-\w, )?{option}(?![\w-])", listing, re.M)) == 1, option
    for method in cam.METHODS:
        assert re.search(rf"^    {re.escape(method)} ", text, re.M), method
    assert "  explain   " in CliRunner().invoke(cli.main, ["--help"]).stdout


@pytest.mark.parametrize(
    ("option", "begin", "found", "not_found"),
    [
        ("--method", "score", b"scorecam", b"gradcam"),
        ("--model", "ViT", b"ViT-B/32", b"RN50"),
        ("--fit", "", b"squash", b"logit"),
        ("--colormap", "vir", b"viridis", b"heat"),
    ],
)
def test_completion(folder, option, begin, found, not_found):
    env = {
        "_CLIPC_COMPLETE": "bash_complete",
        "COMP_WORDS": f"clipc explain x.png dog {option} {begin}",
        "COMP_CWORD": "5",
    }
    result = run_process(env=env)
    assert found in result.stdout and not_found not in result.stdout


def test_progress_bar_of_score_cam(folder):
    arguments = ["explain", CAT, "dog", "--method", "scorecam", "--layer", "layer1", "--json"]
    command = [sys.executable, "-m", "clipc", *arguments]
    with terminal() as (ours, its_end):
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=its_end, timeout=60
        )
        assert json.loads(result.stdout)["method"] == "scorecam"
        assert re.search(rb"100%.* 128/128 .*channel/s", read_terminal(ours))
    assert run_process(*arguments).stderr == b"", "no bar where nobody watches"


def test_interrupt(folder):
    arguments = ["explain", CAT, "dog", "--method", "scorecam", "--image-size", 224, "-o", "cam.png"]
    shown = interrupt(*arguments, when=rb" [1-9]\d*/1024 ")
    assert b"clipc: interrupted" in shown and b"Traceback" not in shown
    assert files_in(folder) == ["pictures"]
