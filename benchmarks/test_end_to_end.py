"""From files to probabilities: what reading, decoding and resizing cost beside the encoding.

32 photographs of 640 x 480 pixels, JPEG in memory, to the probabilities of ten labels whose features are
known; against encoding the same pictures ready preprocessed, and against what users of PyTorch do: Pillow
decodes and resizes one picture after the other (openai/CLIP's transform), OpenAI's `clip/model.py` encodes.
And a folder of 1,000 such files, in pictures per second.
"""

import io
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from measure import interleave, interleave_with

import clipc

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "images"
WIDTH, HEIGHT = 640, 480
THINGS = ("cat", "dog", "rocket", "cup of coffee", "car", "tree", "house", "nurse", "doctor", "bicycle")
LABELS = [f"a photo of a {thing}" for thing in THINGS]

# Time from files to probabilities, as a share of the time that encoding takes.
GOAL = 1.1

# A turn over the folder takes a minute and more, and is long enough to need few.
FILES, BATCH = 1000, 64
MOST_ROUNDS, WARMUP = 2, 0


def photographs(n, seed=0):
    """JPEG files, as bytes: random parts of the photographs that are shipped, 640 x 480, quality 90."""
    Image = pytest.importorskip("PIL.Image")
    sources = [Image.open(EXAMPLES / name).convert("RGB") for name in ("cat.png", "coffee.png", "rocket.jpg")]
    rng = np.random.default_rng(seed)
    files = []
    for i in range(n):
        source = sources[i % len(sources)]
        width = min(source.width, source.height * WIDTH / HEIGHT) * rng.uniform(0.7, 1)
        height = width * HEIGHT / WIDTH
        left, top = rng.uniform(0, source.width - width), rng.uniform(0, source.height - height)
        box = (left, top, left + width, top + height)
        buffer = io.BytesIO()
        source.resize((WIDTH, HEIGHT), Image.BICUBIC, box=box).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


class Contenders(NamedTuple):
    """ViT-B/32 with the same random weights twice."""

    clipc: clipc.Model
    pytorch: "PyTorch"


class PyTorch:
    """Pillow, PyTorch and OpenAI's code, as the README of openai/CLIP puts them together."""

    def __init__(self, module, config):
        import torch

        self.torch = torch
        self.module = module
        self.size = config.image_size
        self.mean, self.std = (
            torch.tensor(values).view(3, 1, 1) for values in (config.image_mean, config.image_std)
        )
        with torch.inference_mode():
            tokens = torch.from_numpy(clipc.tokenize(LABELS).astype(np.int64))
            self.classifier = torch.nn.functional.normalize(module.encode_text(tokens))

    def preprocess(self, file):
        from PIL import Image

        picture = Image.open(file).convert("RGB")
        shorter = min(picture.size)
        sides = [int(self.size * side / shorter) for side in picture.size]
        left, top = (round((side - self.size) / 2) for side in sides)
        picture = picture.resize(sides, Image.BICUBIC)
        picture = picture.crop((left, top, left + self.size, top + self.size))
        pixels = self.torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        return (pixels.to(self.torch.float32).div(255) - self.mean) / self.std

    def classify(self, files):
        torch = self.torch
        with torch.inference_mode():
            pixels = torch.stack([self.preprocess(file) for file in files])
            features = torch.nn.functional.normalize(self.module.encode_image(pixels))
            return (self.module.logit_scale.exp() * features @ self.classifier.T).softmax(dim=1)


@pytest.fixture(scope="module")
def contenders(request):
    torch = pytest.importorskip("torch")
    import oracles
    from oracles import layouts

    torch.set_num_threads(request.config.getoption("--threads"))
    spec = oracles.SPECS["ViT-B/32"]
    weights = oracles.random_state_dict(spec, seed=0)
    with tempfile.TemporaryDirectory(prefix="clipc-benchmark-") as folder:
        path = Path(folder) / "model.safetensors"
        layouts.save_openai(weights, path, metadata=layouts.metadata_of(spec))
        model = clipc.load(path)
    module = oracles.build_reference(weights, spec.activation, spec.heads)
    return Contenders(model, PyTorch(module, model.config))


def probabilities(predictions):
    """Predictions as an array, labels in the order of `LABELS`."""
    return np.array([[prediction[label] for label in LABELS] for prediction in predictions])


def test_photographs(contenders, benchmark, record, rounds):
    files = photographs(32)
    model, pytorch = contenders
    pixels = model.preprocess(files)

    def classify():
        return model.classify(files, LABELS)

    rivals = {
        "encoding": lambda: model.encode_image(pixels),
        "preprocessing": lambda: model.preprocess(files),
        "PyTorch": lambda: pytorch.classify([io.BytesIO(file) for file in files]),
    }
    # The pixels are the same, and so the probabilities, but for the rounding of cosines times 100.
    np.testing.assert_allclose(probabilities(classify()), rivals["PyTorch"]().numpy(), atol=2e-3)
    best = interleave_with(benchmark, classify, rivals, rounds)
    if best is None:
        return
    milliseconds = {name: f"{1e3 * seconds:.1f} ms" for name, seconds in best.items()}
    what = "32 JPEG of 640 x 480 to probabilities, ViT-B/32"
    for name, goal in (("encoding", GOAL), ("PyTorch", None)):
        ratio = best["clipc"] / best[name]
        benchmark.extra_info[f"clipc / {name}"] = round(ratio, 3)
        record(f"{what} / {name}", ratio, goal, detail=f"{milliseconds['clipc']} / {milliseconds[name]}")
    record("preprocessing of these / encoding", best["preprocessing"] / best["encoding"],
           detail=f"{milliseconds['preprocessing']} / {milliseconds['encoding']}")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """1,000 files, in the page cache."""
    folder = tmp_path_factory.mktemp("photographs")
    for n, data in enumerate(photographs(FILES, seed=1)):
        (folder / f"{n:04d}.jpg").write_bytes(data)
    return sorted(map(str, folder.iterdir()))


def test_folder(contenders, folder, record, rounds):
    model, pytorch = contenders
    tiny = clipc.load("tiny")

    def with_pytorch():
        for begin in range(0, len(folder), BATCH):
            pytorch.classify(folder[begin : begin + BATCH])

    def preprocess():
        for begin in range(0, len(folder), BATCH):
            model.preprocess(folder[begin : begin + BATCH])

    turns = {
        "ViT-B/32": lambda: model.classify(folder, LABELS),
        "ViT-B/32 with PyTorch": with_pytorch,
        "preprocessing alone, 224 x 224": preprocess,
        "tiny": lambda: tiny.classify(folder, ["cat", "rocket"]),
    }
    for name, seconds in interleave(turns, min(rounds, MOST_ROUNDS), WARMUP).items():
        record(f"a folder of 1,000 files: {name}", len(folder) / min(seconds), unit="/s")
