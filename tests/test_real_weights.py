"""OpenAI's own weights against published results, where they are present.

These tests are skipped, with CI=true as well, where the weights are not: they cannot be had there. To run:

    clipc download ViT-B/32
    python -m clipc.verify ViT-B/32       # brings CLIP.png, and compares the same and more
    CLIPC_CIFAR100=.../cifar-100-binary pytest tests/test_real_weights.py

The last is CIFAR-100 "binary version", https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import REAL_CACHE

import clipc
from clipc import verify
from clipc.weights import cache, named_models

pytestmark = pytest.mark.real_weights


@pytest.fixture(scope="module")
def real_cache(request):
    """The user's cache, which the other tests do not see."""
    chosen = request.config.stash[REAL_CACHE]
    return Path(chosen) if chosen else None


def cached(name, real_cache):
    with pytest.MonkeyPatch.context() as patch:
        if real_cache is None:
            patch.delenv("CLIPC_CACHE", raising=False)
        path = cache.cached_weights(named_models()[name], real_cache)
        return path, cache.cache_folder(real_cache)


@pytest.fixture(scope="module")
def b32(real_cache):
    path, folder = cached("ViT-B/32", real_cache)
    if path is None:
        pytest.skip("the real weights of ViT-B/32 are not in the cache (clipc download ViT-B/32)")
    return clipc.load("ViT-B/32", cache_dir=folder)


def test_the_figure_of_the_readme(b32, real_cache):
    """openai/CLIP, README, "Usage"."""
    png = cached("ViT-B/32", real_cache)[1] / "verify" / "CLIP.png"
    if not png.is_file():
        pytest.skip("CLIP.png is not in the cache (python -m clipc.verify ViT-B/32 brings it)")
    expected = {"a diagram": 0.9927937, "a dog": 0.00421068, "a cat": 0.00299572}
    assert verify.PUBLISHED["ViT-B/32"] == expected
    assert b32.classify(png, list(expected)) == pytest.approx(expected, abs=1e-3)


def test_image_3637_of_cifar_100(b32):
    """openai/CLIP, README, "Zero-Shot Prediction"."""
    folder = os.environ.get("CLIPC_CIFAR100")
    if not folder:
        pytest.skip("CLIPC_CIFAR100 is not set: it names the folder of CIFAR-100's binary version")
    records = np.fromfile(Path(folder) / "test.bin", np.uint8).reshape(-1, 2 + 3 * 32 * 32)
    classes = (Path(folder) / "fine_label_names.txt").read_text().split()
    image = records[3637, 2:].reshape(3, 32, 32).transpose(1, 2, 0)
    assert classes[records[3637, 1]] == "snake" and len(classes) == 100
    found = b32.classify(np.ascontiguousarray(image), classes, templates="a photo of a {}", top_k=5)
    expected = [65.31, 12.29, 3.83, 1.88, 1.75]
    assert list(found) == ["snake", "turtle", "sweet_pepper", "lizard", "crocodile"]
    assert [100 * value for value in found.values()] == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("name", [name for name, entry in named_models().items() if entry.family == "OpenAI"])
def test_everything_that_verify_compares(name, real_cache, monkeypatch):
    path, folder = cached(name, real_cache)
    if path is None:
        pytest.skip(f"the real weights of {name} are not in the cache (clipc download {name})")
    monkeypatch.setenv("CLIPC_CACHE", str(folder))
    checks = verify.verify_model(name, *verify.fetch_picture())
    assert not [check for check in checks if check.good is False], checks
