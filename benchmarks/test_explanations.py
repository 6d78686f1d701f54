"""What an explanation costs beside an encoding of the same picture, and beside PyTorch.

The texts' features are known beforehand, as when many pictures are explained for the same labels. PyTorch
does the same work with autograd: one forward pass, the gradient of one logit with respect to the target
layer only. Maps are compared before anything is timed.
"""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from measure import interleave_with

import clipc

torch = pytest.importorskip("torch")

import oracles  # noqa: E402
from oracles import explanations, layouts  # noqa: E402

TEXT = "a photo of a dog"


def load(name):
    """clipc's and OpenAI's model with the same random weights."""
    spec = oracles.SPECS[name]
    weights = oracles.random_state_dict(spec, seed=0)
    with tempfile.TemporaryDirectory(prefix="clipc-benchmark-") as folder:
        path = Path(folder) / "model.safetensors"
        layouts.save_openai(weights, path, metadata=layouts.metadata_of(spec))
        return clipc.load(path), oracles.build_reference(weights, spec.activation, spec.heads)


@pytest.fixture(scope="module", autouse=True)
def threads_of_pytorch(request):
    torch.set_num_threads(request.config.getoption("--threads"))


def logit(reference, features, text):
    """The scaled cosine of image features, (1, D), and a unit text feature, (D,)."""
    unit = features / features.norm(dim=-1, keepdim=True)
    return reference.logit_scale.exp() * (unit @ text)[0]




def torch_grad_cam(reference, module, pixels, text):
    """Grad-CAM of a stage as a careful user writes it: no gradient before the target layer."""
    kept = {}

    def keep(_module, _inputs, output):
        kept["a"] = output.detach().requires_grad_()
        return kept["a"]

    handle = module.register_forward_hook(keep)
    try:
        score = logit(reference, reference.encode_image(pixels), text)
        (gradient,) = torch.autograd.grad(score, kept["a"])
    finally:
        handle.remove()
    activations = kept["a"].detach()[0]
    return (gradient[0].mean(dim=(1, 2))[:, None, None] * activations).sum(0)


class ExplicitAttention(torch.nn.Module):
    """`nn.MultiheadAttention` with the same weights, which keeps the probabilities that Chefer needs."""

    def __init__(self, attention):
        super().__init__()
        self.weights = attention
        self.probabilities = None

    def forward(self, query, key, value, need_weights=False, attn_mask=None):
        """query = key = value: (T, 1, C), as OpenAI's blocks call it."""
        length, _, width = query.shape
        heads = self.weights.num_heads
        qkv = torch.nn.functional.linear(query[:, 0], self.weights.in_proj_weight, self.weights.in_proj_bias)
        q, k, v = (part.view(length, heads, -1).transpose(0, 1) for part in qkv.chunk(3, dim=1))
        self.probabilities = torch.softmax(q @ k.transpose(1, 2) * (width // heads) ** -0.5, dim=-1)
        mixed = (self.probabilities @ v).transpose(0, 1).reshape(length, 1, width)
        return self.weights.out_proj(mixed), None


def torch_relevance(reference, pixels, text):
    """Chefer's relevance over all blocks, of a reference whose attention is `ExplicitAttention`."""
    score = logit(reference, reference.encode_image(pixels), text)
    attentions = [block.attn.probabilities for block in reference.visual.transformer.resblocks]
    gradients = torch.autograd.grad(score, attentions)
    relevance = torch.eye(attentions[0].shape[-1])
    for p, gradient in zip(attentions, gradients):
        relevance = relevance + (p.detach() * gradient).clamp(min=0).mean(0) @ relevance
    return relevance[0, 1:]


def grad_cam_package(reference, layer, text):
    """The package `grad-cam` for the same layer and score, or None where it is not installed."""
    try:
        base = explanations.grad_cam_package().GradCAM
    except ImportError:
        return None

    class OnTheGrid(base):
        """Without enlarging the map, which takes OpenCV; clipc's is timed without, too."""

        def get_target_width_height(self, input_tensor):
            """No size: the map stays on the grid."""
            return None

    class Image(torch.nn.Module):
        """The image tower alone; the package calls a module with pixels."""

        def __init__(self):
            super().__init__()
            self.clip = reference  # the package looks for parameters, to find their device

        def forward(self, pixels):
            """Features of pixels."""
            return reference.encode_image(pixels)

    explainer = OnTheGrid(model=Image(), target_layers=[layer])
    return lambda pixels: explainer(pixels, targets=[lambda features: logit(reference, features[None], text)])


def same_map(found, expected):
    """Assert that two maps show the same; how closely they agree is the tests' business."""
    found, expected = np.asarray(found).ravel(), expected.numpy().ravel()
    assert found @ expected >= 0.999 * np.linalg.norm(found) * np.linalg.norm(expected)


def compare(benchmark, record, rounds, what, subject, encode, rivals, goal):
    """Time the explanation, the encoding and PyTorch's explanations in turns; record the ratios."""
    contenders = {"encoding": encode} | rivals
    best = interleave_with(benchmark, subject, contenders, rounds)
    if best is None:
        return
    mine = best["clipc"]
    for name, seconds in best.items():
        if name == "clipc":
            continue
        benchmark.extra_info[f"clipc / {name}"] = round(mine / seconds, 3)
        label = "encoding the picture" if name == "encoding" else name
        at_most = goal if name == "encoding" else 1.0
        record(f"{what} / {label}", mine / seconds, at_most,
               detail=f"{1e3 * mine:.1f} ms / {1e3 * seconds:.1f} ms")


@pytest.mark.parametrize(("layer", "goal"), [("layer4", 1.15), ("layer3", None), ("layer1", None)])
def test_grad_cam_of_rn50(layer, goal, benchmark, record, rounds, rn50):
    model, reference = rn50
    pixels = oracles.photographs(1, model.image_size, seed=3)
    tensor = torch.from_numpy(pixels)
    text = torch.from_numpy(model.encode_text(TEXT, normalize=True)[0])
    module = getattr(reference.visual, layer)

    def subject():
        return model.grad_cam(pixels, TEXT, layer=layer, raw=True)

    same_map(subject()[0], torch_grad_cam(reference, module, tensor, text))
    rivals = {"PyTorch autograd": lambda: torch_grad_cam(reference, module, tensor, text)}
    package = grad_cam_package(reference, module, text) if layer == "layer4" else None
    if package:
        rivals["the package grad-cam"] = lambda: package(tensor.clone().requires_grad_())
    compare(benchmark, record, rounds, f"Grad-CAM, RN50 {layer}", subject,
            lambda: model.encode_image(pixels), rivals, goal)


def test_relevance_of_vit(benchmark, record, rounds):
    model, reference = load("ViT-B/32")
    for block in reference.visual.transformer.resblocks:
        block.attn = ExplicitAttention(block.attn)
    pixels = oracles.photographs(1, model.image_size, seed=3)
    tensor = torch.from_numpy(pixels)
    text = torch.from_numpy(model.encode_text(TEXT, normalize=True)[0])

    def subject():
        return model.grad_cam(pixels, TEXT, method="relevance", raw=True)

    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    # Without a parameter that wants a gradient, the class token starts the graph.
    reference.visual.class_embedding.requires_grad_()
    same_map(subject()[0], torch_relevance(reference, tensor, text))
    compare(benchmark, record, rounds, "relevance, ViT-B/32", subject, lambda: model.encode_image(pixels),
            {"PyTorch autograd": lambda: torch_relevance(reference, tensor, text)}, 3.0)


@pytest.fixture(scope="module")
def rn50():
    model, reference = load("RN50")
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    return model, reference
