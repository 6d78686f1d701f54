"""What detection costs beside the encoding that it cannot do without.

"windows" cuts, resizes and normalises its crops, encodes them, compares them with the labels, adds their
scores up and looks for boxes; the rival only encodes as many crops that are ready. "dense" is one pass over
the whole picture. The labels' features are known beforehand, as when many pictures are searched.
"""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from measure import interleave, vit_b_32_shapes, write_random_weights

import clipc
from clipc import _core, detection

LABELS = ["a dog", "a cat", "a car"]
# On a picture of 640 x 480 pixels, with the default scales.
STRIDE, WINDOWS = 0.4, 201

# A turn encodes some 400 pictures, which takes half a minute, so there are few of them.
MOST_ROUNDS, WARMUP = 3, 1


@pytest.fixture(scope="module")
def photograph():
    """A picture of 640 x 480 pixels from one that is shipped."""
    path = Path(__file__).resolve().parents[1] / "examples" / "images" / "rocket.jpg"
    return _core.resize(clipc.image.to_rgb(path), 640, 480)


@pytest.fixture(scope="module")
def vit_b_32():
    """ViT-B/32 with random weights; what it finds means nothing, what it costs is the same."""
    with tempfile.TemporaryDirectory(prefix="clipc-benchmark-") as folder:
        path = Path(folder) / "vit-b-32.safetensors"
        write_random_weights(path, vit_b_32_shapes())
        yield clipc.load(path)


def compare(model, picture, record, rounds, name, dense_size, goals):
    """Time both methods and the encoding in turns; record the ratios."""
    config = model.config
    windows = detection.sliding_windows(*picture.shape[:2], detection.SCALES, STRIDE)
    assert len(windows) == WINDOWS
    ready = _core.crops(picture, windows, model.image_size, config.image_mean, config.image_std)
    contenders = {
        "windows": lambda: model.detect(picture, LABELS, method="windows", stride=STRIDE),
        "encoding": lambda: model.encode_image(ready, batch_size=detection.CROP_BATCH),
        "dense": lambda: model.detect(picture, LABELS, method="dense", image_size=dense_size),
    }
    times = interleave(contenders, min(rounds, MOST_ROUNDS), WARMUP)
    best = {key: min(values) for key, values in times.items()}
    most_windows, most_dense = goals
    record(f"windows, {name}, {WINDOWS} crops / encoding ready crops", best["windows"] / best["encoding"],
           most_windows, detail=f"{best['windows']:.2f} s / {best['encoding']:.2f} s")  # fmt: skip
    rows, columns = detection._dense_grid(model, picture.shape[:2], dense_size)
    record(f"dense, {name}, {rows} x {columns} places / windows", best["dense"] / best["windows"], most_dense,
           detail=f"{1e3 * best['dense']:.0f} ms / {1e3 * best['windows']:.0f} ms")  # fmt: skip


def test_vit_b_32(vit_b_32, photograph, record, rounds):
    # The shorter side is 448 pixels: the square inside the picture is the 448 x 448 of the goal.
    compare(vit_b_32, photograph, record, rounds, "ViT-B/32", 448, (1.1, 0.1))


def test_tiny(photograph, record, rounds):
    compare(clipc.load("tiny"), photograph, record, rounds, "tiny", None, (None, None))


@pytest.mark.parametrize(("boxes", "classes"), [(1000, 1), (10_000, 80)])
def test_nms(boxes, classes, record, rounds):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 600, (boxes, 2))
    found = np.concatenate([corners, corners + rng.uniform(10, 200, (boxes, 2))], axis=1).astype(np.float32)
    scores = rng.random(boxes, np.float32)
    labels = rng.integers(0, classes, boxes)
    contenders = {
        "NMS": lambda: _core.nms(found, scores, 0.5, classes=labels),
        "Soft-NMS": lambda: _core.soft_nms(found, scores, classes=labels),
    }
    for name, times in interleave(contenders, rounds).items():
        record(f"{name}, {boxes} boxes of {classes} label{'s' * (classes > 1)}", 1e3 * min(times), unit=" ms")
