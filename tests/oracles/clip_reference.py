"""OpenAI's own PyTorch code as the reference, in float32.

`clip/model.py` and `clip/simple_tokenizer.py` come from the installed distribution `clip-anytorch`. They
are loaded by path: the package's `__init__` imports torchvision, which the tests do without.
"""

import copy
import functools
import importlib.metadata
import importlib.util
import sys
from typing import NamedTuple

import numpy as np
import torch

from .architecture import Architecture

# Two threads everywhere, so that timings and shared machines stay comparable.
torch.set_num_threads(min(2, torch.get_num_threads()))

NOT_PARAMETERS = ("input_resolution", "context_length", "vocab_size")


class OracleMissing(ImportError):
    """A reference implementation is not installed; the message says what to install."""


class Features(NamedTuple):
    """Features of a batch, float32 (N, D): scaled to unit norm, and as the model gives them."""

    unit: np.ndarray
    raw: np.ndarray


@functools.cache
def clip_module(file):
    """Import one file of `clip-anytorch` without its package.

    Parameters
    ----------
    file : str
        "model" or "simple_tokenizer".
    """
    install = "pip install --no-deps clip-anytorch"
    try:
        path = importlib.metadata.distribution("clip-anytorch").locate_file(f"clip/{file}.py")
    except importlib.metadata.PackageNotFoundError:
        raise OracleMissing(f"the reference clip/{file}.py is not installed: {install}") from None
    name = f"_clip_reference_{file}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except FileNotFoundError:
        raise OracleMissing(f"{path} is missing; reinstall it: {install}") from None
    except ModuleNotFoundError as error:
        raise OracleMissing(f"clip/{file}.py needs {error.name}: pip install {error.name}") from error
    # copy.deepcopy and pickle look classes up by their module's name.
    sys.modules[name] = module
    return module


def empty_reference(architecture):
    """The reference module on the "meta" device: names and shapes, no numbers.

    `clip.model.CLIP` derives heads and MLP widths from the width alone, so it is built around minimal
    towers, which are then replaced by its own classes with the sizes that are wanted.
    """
    clip, arch = clip_module("model"), architecture
    with torch.device("meta"):
        model = clip.CLIP(
            embed_dim=arch.embed_dim, image_resolution=1, vision_layers=0, vision_width=64,
            vision_patch_size=1, context_length=arch.context_length, vocab_size=arch.vocab_size,
            transformer_width=arch.text_width, transformer_heads=1, transformer_layers=1,
        )
        if arch.is_vit:
            model.visual = clip.VisionTransformer(
                arch.image_size, arch.patch_size, arch.vision_width, arch.vision_layers, arch.vision_heads,
                arch.embed_dim)
            _set_mlp(model.visual.transformer, arch.vision_width, arch.vision_mlp, arch.activation)
        else:
            model.visual = clip.ModifiedResNet(
                arch.vision_layers, arch.embed_dim, arch.vision_heads, arch.image_size, arch.vision_width)
        model.transformer = clip.Transformer(arch.text_width, arch.text_layers, arch.text_heads)
        _set_mlp(model.transformer, arch.text_width, arch.text_mlp, arch.activation)
    # The mask is a plain attribute, not a buffer: on "meta" it would never receive its numbers.
    mask = model.build_attention_mask()
    for block in model.transformer.resblocks:
        block.attn_mask = mask
    return model


def _set_mlp(transformer, width, hidden, activation):
    for block in transformer.resblocks:
        if hidden != 4 * width:
            block.mlp.c_fc = torch.nn.Linear(width, hidden)
            block.mlp.c_proj = torch.nn.Linear(hidden, width)
        if activation == "gelu":
            block.mlp.gelu = torch.nn.GELU()


def build_reference(state_dict, activation=None, heads=None):
    """OpenAI's model with these weights, float32, in evaluation mode.

    Parameters
    ----------
    state_dict : mapping of str to tensor
        OpenAI's names, any floating-point dtypes. Float32 tensors are shared with the module, not copied.
    activation : {"quick_gelu", "gelu"}, optional
        Default "quick_gelu".
    heads : int or (int, int), optional
        Heads of the image side, or of the image and the text side; default the widths divided by 64.

    Returns
    -------
    torch.nn.Module
        `model.architecture` holds the sizes that were found.
    """
    architecture = Architecture.from_state_dict(state_dict, activation, heads)
    model = empty_reference(architecture)
    model.load_state_dict(float32(state_dict), assign=True)
    model.architecture = architecture
    return model.eval()


def float32(state_dict):
    """The parameters of a state dict in float32; integers and OpenAI's scalars of sizes aside."""
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in state_dict.items() if name not in NOT_PARAMETERS
    }


def load_float32(path):
    """Read a `.safetensors` file with OpenAI's names, such as the embedded `tiny`.

    Returns
    -------
    state_dict : dict of str to torch.Tensor
        Cast to float32.
    metadata : dict of str to str
    """
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        return float32({name: file.get_tensor(name) for name in file.keys()}), file.metadata() or {}


def double_reference(model):
    """A float64 copy of a reference: how far float32 itself is from the exact result."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            # The original casts to float32 inside, for float16's sake.
            module.__class__ = torch.nn.LayerNorm
    return model.double()


def reference_image_features(model, x):
    """Image features of preprocessed images.

    Parameters
    ----------
    model : torch.nn.Module
        From `build_reference`.
    x : float32 array (N, 3, R, R)
    """
    with torch.inference_mode():
        # A copy, because torch warns of arrays that are read-only.
        return _features(model.encode_image(torch.tensor(x)))


def reference_text_features(model, tokens):
    """Text features of token ids.

    Parameters
    ----------
    model : torch.nn.Module
        From `build_reference`.
    tokens : integer array (N, 77)
        As `tokenize` makes them.
    """
    with torch.inference_mode():
        return _features(model.encode_text(torch.as_tensor(np.asarray(tokens, dtype=np.int64))))


def _features(raw):
    unit = raw / raw.norm(dim=-1, keepdim=True)
    return Features(unit.float().numpy(), raw.float().numpy())


@functools.cache
def reference_tokenizer():
    """OpenAI's `SimpleTokenizer`."""
    return clip_module("simple_tokenizer").SimpleTokenizer()


def tokenize(texts, context_length=77):
    """Token ids as `clip.tokenize` gives them: start, text, end, then zeros.

    Returns
    -------
    int32 array (N, context_length)
    """
    tokenizer = reference_tokenizer()
    start, end = tokenizer.encoder["<|startoftext|>"], tokenizer.encoder["<|endoftext|>"]
    rows = np.zeros((len(texts), context_length), dtype=np.int32)
    for row, text in zip(rows, texts):
        ids = [start, *tokenizer.encode(text), end]
        if len(ids) > context_length:
            raise ValueError(f"{text[:40]!r}: {len(ids)} tokens, at most {context_length} fit")
        row[:len(ids)] = ids
    return rows


def spread(features):
    """The largest Euclidean distance between the unit features of two inputs.

    Parity of features that are all alike would prove nothing.
    """
    unit = np.asarray(features, dtype=np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return float(np.linalg.norm(unit[:, None] - unit[None], axis=2).max())


def max_error(found, expected):
    """The largest absolute difference; shapes must agree, and NaN counts as infinite."""
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        raise AssertionError(f"shapes differ: {found.shape} and {expected.shape}")
    difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    return float(np.where(np.isnan(difference), np.inf, difference).max())


def check_parity(found, expected, tolerance=2e-5, what="features", least_spread=1e-2):
    """Assert that unit features agree, and that they could have disagreed.

    Prints the error and the spread, which pytest shows with `-rP` or `-s`.

    Parameters
    ----------
    found, expected : arrays (N, D)
        Unit-norm features, N at least 2.
    """
    error, apart = max_error(found, expected), spread(expected)
    print(f"{what}: max abs error {error:.2e} (at most {tolerance:.0e}), spread {apart:.3f}")
    assert apart >= least_spread, f"{what}: spread {apart:.2e} is below {least_spread:.0e}, all too alike"
    assert error <= tolerance, f"{what}: max abs error {error:.2e} exceeds {tolerance:.0e}"
