"""``python -m clipc.verify``, with a model of random weights that a server on loopback has."""

import functools
import sys
import types

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import picture
from file_server import Faults, sha256, unused_port
from weights_builder import random_arrays, vit_shapes, write_safetensors

from clipc import verify
from clipc.weights import cache, named_models
from clipc.weights.config import CLIP_MEAN, CLIP_STD
from clipc.weights.zoo import Source, ZooEntry

SPECS = {"vit": "ViT-B/16-small", "gelu": "ViT-H80-small", "resnet": "RN50-small"}


@pytest.fixture(scope="module")
def stored(random_model, oracles, tmp_path_factory):
    """A function from a name to a file of random float16 weights, as bytes, and the fields of its entry."""

    @functools.cache
    def store(name):
        folder = tmp_path_factory.mktemp(name)
        if name == "small":  # whose vocabulary is another: for what needs no features
            shapes = vit_shapes(layers=1, mlp=64, text={"layers": 1})
            data = write_safetensors(folder / "x", random_arrays(shapes, dtype=np.float16)).read_bytes()
            count = sum(int(np.prod(shape)) for shape in shapes.values())
            sizes = (24, 12, 2, 1, "quick_gelu")
        else:
            spec, state, _ = random_model(SPECS[name])
            data = oracles.layouts.save_openai(state, folder / "x", "float16").read_bytes()
            buffers = ("running_mean", "running_var", "num_batches_tracked")
            count = sum(value.numel() for key, value in state.items() if not key.endswith(buffers))
            sizes = spec.embed_dim, spec.image_size, spec.vision_heads, spec.text_heads, spec.activation
        keys = ("embed_dim", "image_size", "vision_heads", "text_heads", "activation")
        known = {**dict(zip(keys, sizes)), "parameters_millions": round(count / 1e6, 2)}
        return data, {**known, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}

    return store


@pytest.fixture
def served(loopback, stored, monkeypatch):
    """A function that puts a random model into the zoo and on the server; returns its entry."""

    def serve(name, family="OpenAI", wrong=None, **changes):
        data, known = stored(name)
        loopback.files[f"/{name}"] = Faults(wrong or data)
        source = Source((f"{name}.safetensors",), url=f"{loopback.url}/{name}", sha256=sha256(data))
        entry = ZooEntry(name, family, f"{name}.openai", (source,), **{**known, **changes})
        monkeypatch.setitem(named_models(), name, entry)
        return entry

    return serve


@pytest.fixture
def png(tmp_path):
    picture(7, (200, 150)).save(tmp_path / "CLIP.png")
    return tmp_path / "CLIP.png"


def reference_probabilities(oracles, random_model, name, pixels, texts):
    """From openai/CLIP's code on the rounded weights: an oracle that shares nothing with clipc's."""
    spec, state, _ = random_model(SPECS[name])
    state = oracles.layouts.rounded(state, "float16")
    reference = oracles.build_reference(state, spec.activation, (spec.vision_heads, spec.text_heads))
    images = oracles.reference_image_features(reference, pixels).unit.astype(np.float64)
    tokens = oracles.tokenize(texts)
    words = oracles.reference_text_features(reference, tokens).unit.astype(np.float64)
    logits = np.exp(float(state["logit_scale"])) * images @ words.T
    powers = np.exp(logits[0] - logits[0].max())
    return dict(zip(texts, powers / powers.sum()))


def run(*arguments, code=0):
    result = CliRunner().invoke(verify.main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def lines_of(output):
    return {line.split()[1]: line for line in output.splitlines() if "  " in line}


def test_a_model_that_is_right(served, oracles, random_model, png, monkeypatch):
    entry = served("vit")
    pixels = _pixels(entry, png)
    texts = ["a diagram", "a dog", "a cat"]
    expected = reference_probabilities(oracles, random_model, "vit", pixels, texts)
    monkeypatch.setitem(verify.PUBLISHED, "vit", expected)
    output = run("vit", "--image", png)
    found = lines_of(output)
    assert list(found) == ["SHA-256", "sizes", "parameters", "load", "published", "reference"]
    assert all("  good " in line for line in found.values()), output
    assert output.splitlines()[-1] == "1 model: nothing differs"

    wrong = {**expected, "a dog": expected["a dog"] + 0.002}
    monkeypatch.setitem(verify.PUBLISHED, "vit", wrong)
    output = run("vit", "--image", png, code=1)
    assert "DIFFERS" in lines_of(output)["published"] and "not as it should be: vit" in output


def _pixels(entry, path):
    from clipc import image

    return image.preprocess(str(path), entry.image_size, entry.image_mean, entry.image_std)


@pytest.mark.parametrize("name, family", [("vit", "OpenAI"), ("gelu", "LAION")])
def test_transformers_is_a_reference(served, name, family):
    served(name, family)
    assert "good     transformers: largest difference" in lines_of(run(name))["reference"]


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_openai_code_is_a_reference(served, oracles, monkeypatch, name):
    from oracles.clip_reference import clip_module

    package = types.ModuleType("clip")
    package.model = clip_module("model")
    monkeypatch.setitem(sys.modules, "clip", package)
    monkeypatch.setitem(sys.modules, "clip.model", package.model)
    served(name)
    assert "good     clip: largest difference" in lines_of(run(name))["reference"]


def test_no_reference_can_hold_the_model(served, monkeypatch):
    monkeypatch.setitem(sys.modules, "clip", None)
    served("resnet")
    line = lines_of(run("resnet"))["reference"]
    assert "left out: clip: " in line and "it has no ModifiedResNet" in line
    assert "reference" not in lines_of(run("resnet", "--no-reference"))


def test_features_that_differ(served, monkeypatch):
    served("vit")
    exact = verify._features_of_transformers

    def a_little_wrong(*arguments):
        images, texts = exact(*arguments)
        return images, texts + 1e-3 * np.abs(texts).max()

    monkeypatch.setattr(verify, "_features_of_transformers", a_little_wrong)
    assert "DIFFERS  transformers" in lines_of(run("vit", code=1))["reference"]


@pytest.mark.parametrize(
    "changes, what, detail",
    [
        ({"parameters_millions": 99.0}, "parameters", "published as 99.0 million"),
        ({"embed_dim": 65}, "load", "the zoo entry small says embed_dim = 65"),
        ({"wrong": b"<html>"}, "load", "a web page"),
    ],
)
def test_a_model_that_is_wrong(served, changes, what, detail):
    served("small", **changes)
    output = run("small", "--no-reference", code=1)
    line = lines_of(output)[what]
    assert "DIFFERS" in line and detail in line


def test_a_damaged_file_in_the_cache(served):
    entry = served("small")
    path = cache.fetch(entry)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert "DIFFERS" in lines_of(run("small", "--no-reference", code=1))["SHA-256"]


def test_several_models_and_one_that_cannot_be_had(served, loopback):
    served("small")
    output = run("small", "some/one", code=1)
    assert "some/one could not be downloaded" in output and "left out: another vocabulary" in output
    assert output.splitlines()[-1] == "2 models: not as it should be: some/one"


def test_the_picture(served, loopback, png, monkeypatch):
    """From the network once, then from the cache; without either it is left out, and nothing fails."""
    served("vit")
    monkeypatch.setitem(verify.PUBLISHED, "vit", {"a dog": 1.0})
    monkeypatch.setattr(verify, "CLIP_PNG", f"http://127.0.0.1:{unused_port()}/CLIP.png")
    line = lines_of(run("vit", "--no-reference"))["published"]
    assert "left out: CLIP.png cannot be downloaded" in line and "refused" in line
    monkeypatch.setattr(verify, "CLIP_PNG", f"{loopback.url}/CLIP.png")
    loopback.files["/CLIP.png"] = Faults(png.read_bytes())
    for _ in range(2):
        assert "good" in lines_of(run("vit", "--no-reference"))["published"]
    assert len(loopback.gets("/CLIP.png")) == 1
    monkeypatch.setenv("CLIPC_OFFLINE", "1")
    assert "good" in lines_of(run("vit", "--no-reference"))["published"]


def test_wrong_names():
    assert "unknown model" in run("ViT-B/23", code=2)
