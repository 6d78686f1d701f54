"""Encoding against PyTorch, float32, the same weights, the same inputs, the same number of threads.

The rivals are OpenAI's own code (`clip/model.py`) and, for the vision transformer, Hugging Face's. All run
in turns within one process; before they are timed, their features are compared.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from measure import interleave_with

import clipc

torch = pytest.importorskip("torch")

import oracles  # noqa: E402
from oracles import layouts  # noqa: E402

# "At most so much of PyTorch's time" for one picture and for two labels.
GOALS = {("ViT-B/32", "image"): 0.9, ("ViT-B/32", "text"): 0.4, ("RN50", "text"): 0.4}
LABELS = ["a photo of a nurse", "a photo of a doctor"]


class Contenders(NamedTuple):
    """One architecture in clipc, in OpenAI's code and, if there is one, in transformers."""

    name: str
    clipc: clipc.Model
    openai: torch.nn.Module
    transformers: torch.nn.Module | None


@pytest.fixture(scope="session", params=["ViT-B/32", "RN50"])
def contenders(request):
    torch.set_num_threads(request.config.getoption("--threads"))
    spec = oracles.SPECS[request.param]
    weights = oracles.random_state_dict(spec, seed=0)
    with tempfile.TemporaryDirectory(prefix="clipc-benchmark-") as folder:
        if spec.is_vit:
            layouts.save_huggingface(weights, folder, spec)
        else:
            path = Path(folder) / "model.safetensors"
            layouts.save_openai(weights, path, metadata=layouts.metadata_of(spec))
        model = clipc.load(folder)
        rival = load_transformers(folder) if spec.is_vit else None
    return Contenders(spec.name, model, oracles.build_reference(weights, spec.activation, spec.heads), rival)


def load_transformers(folder):
    """Hugging Face's model as a user gets it, with its default attention; None where it is not installed."""
    try:
        from transformers import CLIPModel
        from transformers.utils.logging import disable_progress_bar
    except ImportError:
        return None
    disable_progress_bar()
    return CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def unit(features):
    """Rows scaled to length 1."""
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def run(benchmark, record, rounds, what, subject, rivals, at_most):
    """Check that all contenders agree, time them, and record the ratios."""
    expected = unit(subject())
    for rival in rivals.values():
        assert oracles.max_error(unit(rival().numpy()), expected) <= 2e-5
    best = interleave_with(benchmark, subject, rivals, rounds)
    if best is None:
        return
    for name in rivals:
        ratio = best["clipc"] / best[name]
        # OpenAI's code is what the goal is about.
        goal = at_most if name == "openai" else None
        benchmark.extra_info[f"clipc / {name}"] = round(ratio, 3)
        record(f"{what}: clipc / PyTorch ({name})", ratio, goal,
               detail=f"{1e3 * best['clipc']:.1f} ms / {1e3 * best[name]:.1f} ms")


@pytest.mark.parametrize("batch", [1, 8, 32])
def test_images(batch, contenders, benchmark, record, rounds):
    pixels = oracles.photographs(batch, contenders.clipc.image_size, seed=3)
    tensor = torch.from_numpy(pixels)

    @torch.inference_mode()
    def openai():
        return contenders.openai.encode_image(tensor)

    @torch.inference_mode()
    def transformers():
        model = contenders.transformers
        return model.visual_projection(model.vision_model(pixel_values=tensor).pooler_output)

    rivals = {"openai": openai} | ({"transformers": transformers} if contenders.transformers else {})
    what = f"{contenders.name}, {batch} image{'s' if batch > 1 else ''}"
    goal = GOALS.get((contenders.name, "image")) if batch == 1 else None
    run(benchmark, record, rounds, what, lambda: contenders.clipc.encode_image(pixels), rivals, goal)


def test_two_labels(contenders, benchmark, record, rounds):
    """clipc stops at the end token; the PyTorch codes run all 77 positions, as their users do."""
    tokens = clipc.tokenize(LABELS)
    tensor = torch.from_numpy(tokens.astype(np.int64))

    @torch.inference_mode()
    def openai():
        return contenders.openai.encode_text(tensor)

    @torch.inference_mode()
    def transformers():
        model = contenders.transformers
        return model.text_projection(model.text_model(input_ids=tensor).pooler_output)

    rivals = {"openai": openai} | ({"transformers": transformers} if contenders.transformers else {})
    what, goal = f"{contenders.name}, two labels", GOALS[contenders.name, "text"]
    run(benchmark, record, rounds, what, lambda: contenders.clipc.encode_text(tokens), rivals, goal)
