"""Prints how far clipc's results are from those of the codes it is compared with, and fails where too far.

    python benchmarks/parity.py [--full]

needs what the tests need (PyTorch, transformers, `clip-anytorch`, Pillow). ``--full`` adds models of full
size: some gigabytes and minutes. Files of photographs are taken from the folder that ``CLIPC_DATA`` names.
The exit code is 1 if any line says FAIL.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import transformers
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import image_files
import oracles
from oracles import layouts, transformers_reference

import clipc
from clipc import _core, image
from clipc.weights import CLIP_MEAN, CLIP_STD

FEATURE_ERROR = 2e-5
LEAST_SPREAD = 1e-2
JPEG_MEAN, JPEG_MAX = 0.2, 8

TOKENIZER_TEXTS = (
    *oracles.TEXTS,
    "A Photo of a DOG!!  \t\n with   spaces",
    "it's the dogs' day, they'll say we've 42 of 1,000 (3.14%)",
    "caf&eacute; &amp;lt;b&amp;gt; &quot;quoted&quot; &#128512;",
    "naïve façade — “curly” quotes… Ünïcödé ﬁne",
    "사진 속의 고양이와 강아지, 그리고 경복궁의 봄",
    "👩‍🚀 🇰🇷 ❤️ 🤷🏽‍♀️ in one line",
    "control \x00\x01\x07\x1b[31m characters \x7f \x85 \u200b\u200e here",
    "日本語とРусский и العربية",
    "<|startoftext|> written out <|endoftext|>",
    "schÃ¶n mojibake âœ” fixed by ftfy",
    "a_b-c/d\\e#f@g",
    "!",
    " ",
)
# Words that `tiny` knows; with others its features say little.
TINY_TEXTS = ("dog", "a photo of a cat.", "the bridge", "two red cars", "lion", "teapot")

SIZES = (
    (1, 1), (1, 7), (2, 1), (5, 3), (1, 400), (63, 64), (64, 64), (65, 63), (223, 224), (224, 300),
    (225, 225), (227, 231), (333, 97), (480, 640), (640, 480), (1000, 300), (1080, 1920),
)  # fmt: skip


class Line(NamedTuple):
    """One line of the table: a result, what it is compared with, the figures, the limits."""

    result: str
    oracle: str
    figure: str
    limit: str
    ok: bool

    def __str__(self):
        verdict = "ok" if self.ok else "FAIL"
        return COLUMNS.format(self.result, self.oracle, self.figure, self.limit, verdict)


COLUMNS = "{:<32} {:<24} {:<36} {:<18} {}"


def feature_line(what, oracle, found, expected):
    """Unit features: the largest error, and how far those of different inputs are apart."""
    error, spread = oracles.max_error(found, expected), oracles.spread(expected)
    figure = f"max abs error {error:.1e}, spread {spread:.2f}"
    limit = f"<= {FEATURE_ERROR:.0e}, >= {LEAST_SPREAD:.0e}"
    return Line(what, oracle, figure, limit, error <= FEATURE_ERROR and spread >= LEAST_SPREAD)


def compare_features(name, n_images):
    """Random weights of one architecture against `clip/model.py` and, for a ViT, transformers."""
    spec = oracles.SPECS[name]
    weights = oracles.random_state_dict(spec, seed=0)
    reference = oracles.build_reference(weights, spec.activation, spec.heads)
    pixels = oracles.photographs(n_images, spec.image_size, seed=7)
    tokens = oracles.tokenize(oracles.TEXTS)
    with tempfile.TemporaryDirectory(prefix="clipc-parity-") as folder:
        path = Path(folder) / "model.safetensors"
        layouts.save_openai(weights, path, metadata=layouts.metadata_of(spec))
        model = clipc.load(path)
        path.unlink()
        other = None
        if spec.is_vit:
            layouts.save_huggingface(weights, folder, spec)
            other = transformers_reference.load_transformers(folder)
    images = model.encode_image(pixels, normalize=True)
    texts = model.encode_text(list(oracles.TEXTS), normalize=True)
    expected = oracles.reference_image_features(reference, pixels)
    yield feature_line(f"{name}, images", "clip/model.py", images, expected.unit)
    expected = oracles.reference_text_features(reference, tokens)
    yield feature_line(f"{name}, texts", "clip/model.py", texts, expected.unit)
    if other is not None:
        expected = transformers_reference.transformers_image_features(other, pixels)
        yield feature_line(f"{name}, images", "transformers", images, expected.unit)
        expected = transformers_reference.transformers_text_features(other, tokens)
        yield feature_line(f"{name}, texts", "transformers", texts, expected.unit)


def compare_tiny():
    """The embedded model."""
    model = clipc.load("tiny")
    weights, metadata = oracles.load_float32(model.path)
    reference = oracles.build_reference(weights, metadata["activation"])
    pixels = oracles.photographs(16, model.image_size, seed=7)
    found = model.encode_image(pixels, normalize=True)
    expected = oracles.reference_image_features(reference, pixels).unit
    yield feature_line("tiny, images", "clip/model.py", found, expected)
    found = model.encode_text(list(TINY_TEXTS), normalize=True)
    expected = oracles.reference_text_features(reference, oracles.tokenize(TINY_TEXTS)).unit
    yield feature_line("tiny, texts", "clip/model.py", found, expected)


def compare_tokens():
    """Token ids against OpenAI's tokenizer."""
    wrong = [text for text in TOKENIZER_TEXTS
             if not np.array_equal(clipc.tokenize(text), oracles.tokenize([text]))]
    figure = f"{len(wrong)} of {len(TOKENIZER_TEXTS)} texts differ"
    if wrong:
        figure += f": {wrong[0]!r:.20}"
    yield Line("tokens", "clip/simple_tokenizer.py", figure, "0", not wrong)


def pillow_crop(rgb, size, rows_first):
    """torchvision's Resize(size), done by Pillow, and CenterCrop(size)."""
    height, width = rgb.shape[:2]
    long = int(size * max(height, width) / min(height, width))
    new_width, new_height = (size, long) if width <= height else (long, size)
    resized = np.asarray(Image.fromarray(rgb).resize((new_width, new_height), Image.Resampling.BICUBIC))
    top, left = round((new_height - size) / 2), round((new_width - size) / 2)
    return resized[top : top + size, left : left + size]


def compare_resize():
    """Resize, crop and normalise of RGB arrays against Pillow and float32 arithmetic."""
    rng = np.random.default_rng(0)
    # Pillow 13 begins along the columns of tall images, older versions along the rows of all.
    tall = rng.integers(0, 256, (60, 9, 3), dtype=np.uint8)
    by_pillow = np.asarray(Image.fromarray(tall).resize((5, 31), Image.Resampling.BICUBIC))
    rows_first = not np.array_equal(by_pillow, _core.resize(tall, 5, 31))
    mean, std = np.float32(CLIP_MEAN), np.float32(CLIP_STD)
    sizes = [*SIZES, *(tuple(pair) for pair in rng.integers(1, 500, (100, 2)))]
    differing = values = 0
    largest = 0.0
    for height, width in sizes:
        rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for size in (64, 224):
            expected = pillow_crop(rgb, size, rows_first)
            found = _core.resize_crop(rgb, size, rows_first=rows_first)
            differing += np.count_nonzero(found != expected)
            values += expected.size
            if not rows_first:
                found = image.preprocess(rgb, size, mean, std)[0]
                expected = ((expected / np.float32(255) - mean) / std).transpose(2, 0, 1)
                largest = max(largest, oracles.max_error(found, expected))
    yield Line(f"resize and crop, {len(sizes)} sizes", f"Pillow {Image.__version__}",
               f"{differing} of {values} values differ", "0", differing == 0)
    if not rows_first:
        figure = f"max abs error {largest:.1e}"
        yield Line("the same, normalised", "NumPy, float32", figure, "0", largest == 0)


def decode(data):
    """The core's own decoding, or None. `image.to_rgb` would leave that file to Pillow: the oracle itself."""
    return _core.decode_image(data, image.DEFAULT_MAX_PIXELS)


def jpeg_line(what, files, may_decline=False):
    """The worst mean and the worst single difference of the files that the core decodes.

    Files that it leaves to Pillow prove nothing. They are counted, and allowed only among files that were not
    made for this comparison (`may_decline`), where some may be of a rare variant.
    """
    worst_mean, worst, declined = 0.0, 0, 0
    for data in files:
        found = decode(data)
        if found is None:
            declined += 1
            continue
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
        difference = np.abs(found.astype(int) - expected)
        worst_mean, worst = max(worst_mean, difference.mean()), max(worst, difference.max())
    compared = len(files) - declined
    figure = f"worst mean {worst_mean:.3f}, max {worst} levels"
    if declined:
        figure += f", {declined} declined"
    ok = compared > 0 and (may_decline or not declined) and worst_mean <= JPEG_MEAN and worst <= JPEG_MAX
    limit = f"<= {JPEG_MEAN}, <= {JPEG_MAX}"
    return Line(f"{what}, {compared} files", f"Pillow {Image.__version__}", figure, limit, ok)


def compare_decoding():
    """PNG and JPEG files against Pillow."""
    files = [image_files.random_png(colour, depth, height, width, interlaced=interlaced)
             for colour, depth in image_files.KINDS for interlaced in (False, True)
             for height, width in ((1, 1), (17, 23), (64, 65))]
    # None, a file that the core declines, equals no array.
    wrong = sum(not np.array_equal(decode(data), image_files.pillow_rgb(data)) for data in files)
    yield Line(
        f"PNG, {len(files)} files of all kinds", f"Pillow {Image.__version__}", f"{wrong} files differ", "0",
        wrong == 0,
    )  # fmt: skip
    files = [image_files.encode(image_files.smooth_picture(height, width, seed), "JPEG", quality=quality,
                                subsampling=subsampling, progressive=progressive)
             for seed, (height, width) in enumerate(((48, 64), (97, 75), (240, 321)))
             for quality in (50, 75, 95) for subsampling in (0, 1, 2) for progressive in (False, True)]
    files += [image_files.encode(Image.fromarray(image_files.smooth_picture(90, 71)).convert("L"), "JPEG")]
    yield jpeg_line("JPEG, made by Pillow", files)
    data = os.environ.get("CLIPC_DATA")
    for folder in sorted(Path(data).iterdir()) if data else ():
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
        if paths:
            # A sample over the whole folder.
            chosen = paths[:: max(1, len(paths) // 100)]
            yield jpeg_line(f"JPEG, {folder.name}", [path.read_bytes() for path in chosen], may_decline=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--full", action="store_true", help="also models of full size (gigabytes, minutes)")
    names = list(oracles.SMALL) + (list(oracles.FULL) if parser.parse_args().full else [])
    comparisons = [compare_features(name, 4 if name in oracles.FULL else 8) for name in names]
    comparisons += [compare_tiny(), compare_tokens(), compare_resize(), compare_decoding()]
    print(COLUMNS.format("result", "compared with", "found", "wanted", "verdict"))
    transformers.utils.logging.disable_progress_bar()  # it would run through the table
    failed = 0
    for comparison in comparisons:
        for line in comparison:
            print(line, flush=True)
            failed += not line.ok
    if failed:
        print(f"\n{failed} of the comparisons failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
