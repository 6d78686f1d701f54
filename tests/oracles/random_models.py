"""Random weights and random pictures that carry a signal through a whole CLIP model.

With the usual initialisations a deep random network gives every picture nearly the same feature, and then
agreement with a reference says little. Here convolutions are He-scaled, BatchNorm's running statistics
are those of a batch of pictures, and the transformers' branches are as strong as their residual stream.
"""

import math
import zlib

import numpy as np
import torch

from .architecture import Architecture
from .clip_reference import empty_reference

FULL = {
    arch.name: arch
    for arch in (
        Architecture("RN50", 1024, 224, (3, 4, 6, 3), 64),
        Architecture("RN101", 512, 224, (3, 4, 23, 3), 64),
        Architecture("RN50x4", 640, 288, (4, 6, 10, 6), 80, text_width=640),
        Architecture("ViT-B/32", 512, 224, 12, 768, 32),
        Architecture("ViT-B/16", 512, 224, 12, 768, 16),
        Architecture("ViT-L/14", 768, 224, 24, 1024, 14, text_width=768),
    )
}

# Narrow and shallow, but each with what is peculiar to its original, and sizes that are no multiple of a
# vector's or a register tile's length. The vocabulary stays whole, so that real tokens can be used.
SMALL = {
    arch.name: arch
    for arch in (
        Architecture("RN50-small", 64, 64, (1, 2, 2, 1), 16, text_width=128, text_layers=3),
        # A long third stage is what sets RN101 apart.
        Architecture("RN101-small", 72, 64, (1, 1, 7, 1), 16, text_width=64, text_layers=2),
        # A width that is no power of two, an odd grid.
        Architecture("RN50x4-small", 80, 96, (2, 2, 3, 2), 20, text_width=128, text_layers=2),
        Architecture("ViT-B/32-small", 64, 64, 3, 128, 32, text_width=128, text_layers=3),
        # 7 x 7 patches and a class token: neither the tokens nor the grid are even.
        Architecture("ViT-B/16-small", 64, 112, 3, 128, 16, text_width=64, text_layers=2),
        Architecture("ViT-L/14-small", 96, 56, 4, 192, 14, text_width=192, text_layers=2),
        # As the largest OpenCLIP models: another head width, exact GELU, an MLP that is not 4 times as wide.
        Architecture("ViT-H80-small", 100, 56, 3, 160, 14, vision_heads=2, vision_mlp=698, text_width=128,
                     text_layers=3, activation="gelu"),
    )
}

SPECS = {**SMALL, **FULL}

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)

# Lengths from none to nearly the context; languages and signs that the tokenizer treats differently.
TEXTS = (
    "nurse",
    "doctor",
    "a photo of a dog",
    "a photograph of two cats on a red sofa, next to a window",
    "서울의 경복궁",
    "sunset 🌇 over the sea!",
    "",
    "a very long description of a street with many shops, people, cars and bicycles, where the rain has "
    "just stopped and the lamps are reflected in the puddles between the paving stones, seen from a bridge",
    # Start, 75 tokens, end: the context is full.
    "dog " * 75,
)


def random_state_dict(spec, seed=0):
    """Random weights of an architecture, in OpenAI's naming.

    Parameters
    ----------
    spec : Architecture or str
        Or the name of one of `SPECS`.
    seed : int
        Each tensor depends on the seed and on its own name only.

    Returns
    -------
    dict of str to torch.Tensor
        Float32, and int64 for BatchNorm's `num_batches_tracked`.
    """
    spec = SPECS[spec] if isinstance(spec, str) else spec
    model = empty_reference(spec)
    weights = {}
    for name, tensor in model.state_dict().items():
        # A stream of its own for each tensor: no tensor changes when another one is added.
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        weights[name] = torch.from_numpy(_random_tensor(name, tuple(tensor.shape), rng))
    if not spec.is_vit:
        _measure_batchnorm(model, spec, weights, seed)
    return weights


def _random_tensor(name, shape, rng):
    """One tensor, by its role; the role is in its name."""
    def normal(scale, offset=0.0):
        # Python floats keep NumPy from widening the array to float64.
        values = rng.standard_normal(shape, dtype=np.float32)
        values *= scale
        values += offset
        return values

    module, _, kind = name.rpartition(".")
    if kind == "num_batches_tracked":
        return np.array(1, dtype=np.int64)
    if name == "logit_scale":
        return np.array(math.log(100), dtype=np.float32)
    if kind == "running_mean":
        return np.zeros(shape, dtype=np.float32)
    if kind == "running_var":
        return np.ones(shape, dtype=np.float32)
    if kind in ("text_projection", "proj"):
        return normal(shape[0] ** -0.5)
    if kind == "class_embedding":
        return normal(0.5)
    if kind == "positional_embedding":
        return normal(0.3)
    if name == "token_embedding.weight":
        return normal(0.5)
    if kind in ("bias", "in_proj_bias"):
        return normal(0.1)
    if len(shape) == 1:
        # The scale of a BatchNorm or a LayerNorm. The residual branches of a ModifiedResNet are halved: at
        # full strength a picture with unusual statistics grows from block to block, and float32's error too.
        branch = 0.5 if module.endswith("bn3") and ".layer" in module else 1.0
        return rng.uniform(0.5 * branch, 1.5 * branch, shape).astype(np.float32)
    fan_in = math.prod(shape[1:])
    rectified = (len(shape) == 4 and name != "visual.conv1.weight") or module.endswith("mlp.c_proj")
    return normal((2 / fan_in if rectified else 1 / fan_in) ** 0.5)


def _measure_batchnorm(model, spec, weights, seed):
    """Set BatchNorm's running statistics to those of a batch of pictures, in place."""
    model.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=True)
    visual = model.visual.train()
    for module in visual.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            # None: the plain mean over batches, here the statistics of the only one.
            module.momentum = None
            module.reset_running_stats()
    # The last stage of a small model has few pixels to take a variance from, so take more pictures.
    pictures = photographs(max(8, 128 // spec.grid ** 2), spec.image_size, seed=[seed, 1])
    with torch.inference_mode():
        visual(torch.from_numpy(pictures))
    for name, value in visual.state_dict().items():
        if "running_" in name:
            weights[f"visual.{name}"] = value.clone()


def pictures_uint8(n, height, width, seed=0):
    """Coloured smooth noise that shares what matters with photographs.

    Several octaves with amplitudes that fall with the frequency, brightness and colour apart, a cast,
    a contrast and a sharpness for each picture.

    Returns
    -------
    uint8 array (n, height, width, 3)
    """
    rng = np.random.default_rng(seed)
    values = np.zeros((n, 3, height, width), dtype=np.float32)
    falloff = rng.uniform(0.3, 1.0, (n, 1, 1, 1)).astype(np.float32)
    cells, amplitude = 2, 1.0
    while cells <= max(height, width):
        grey = rng.standard_normal((n, 1, cells, cells), dtype=np.float32)
        colour = rng.standard_normal((n, 3, cells, cells), dtype=np.float32)
        coarse = torch.from_numpy(grey + np.float32(0.6) * colour)
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
        values += np.float32(amplitude) ** falloff * fine.numpy()
        cells, amplitude = 2 * cells, amplitude / 2
    contrast = rng.uniform(0.5, 1.5, (n, 1, 1, 1)).astype(np.float32)
    cast = rng.standard_normal((n, 3, 1, 1), dtype=np.float32)
    values = 255 / (1 + np.exp(-(contrast * values + np.float32(0.7) * cast)))
    return np.ascontiguousarray(np.rint(values).astype(np.uint8).transpose(0, 2, 3, 1))


def photographs(n, size, seed=0):
    """The pictures of `pictures_uint8`, preprocessed as CLIP wants them.

    Returns
    -------
    float32 array (n, 3, size, size)
    """
    pictures = pictures_uint8(n, size, size, seed).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(((pictures - MEAN) / STD).transpose(0, 3, 1, 2))
