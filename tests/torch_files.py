"""State dicts in every form in which PyTorch writes them, and comparisons to the bit."""

import functools

import numpy as np
import torch
from weights_builder import random_arrays, resnet_shapes, vit_shapes

from clipc.weights import open_weights


def as_numpy(value):
    """A tensor as the readers give it: bfloat16 as its bits."""
    value = value.detach().contiguous()
    return (value.view(torch.uint16) if value.dtype == torch.bfloat16 else value).numpy()


def check_same(path, expected):
    """Every tensor of the file equals the expected one, bit by bit."""
    with open_weights(path) as weights:
        assert weights.tensors.keys() == expected.keys()
        for name, value in expected.items():
            value = as_numpy(value)
            read = weights.read(name)
            assert read.dtype == value.dtype and read.shape == value.shape == weights.tensors[name].shape
            assert read.flags.c_contiguous and read.flags.writeable
            assert read.tobytes() == value.tobytes(), name
            out = np.empty_like(read)
            weights.read_into(name, out)
            assert out.tobytes() == read.tobytes()
        return weights


VIT = vit_shapes(width=64, layers=2, mlp=256, embed=24)
RESNET = resnet_shapes(width=8)


@functools.cache
def small_state(architecture):
    """Random tensors of a small model, in OpenAI's naming, as float32."""
    shapes = {"vit": VIT, "resnet": RESNET}[architecture]
    arrays = random_arrays(shapes)
    arrays = {name: abs(array) if name.endswith("running_var") else array for name, array in arrays.items()}
    arrays |= {name: 0.05 * array for name, array in arrays.items() if array.ndim > 1}
    return {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}


def save_plain(state, path):
    torch.save(state, path)


def save_old(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_nested(state, path):
    """A checkpoint of OpenCLIP's training, from several devices."""
    moments = {i: {"step": torch.tensor(7.0), "exp_avg": 2 * value} for i, value in enumerate(state.values())}
    groups = [{"lr": 5e-4, "betas": (0.9, 0.98), "amsgrad": False, "foreach": None, "params": list(moments)}]
    optimizer = {"state": moments, "param_groups": groups}
    wrapped = {f"module.{name}": value for name, value in state.items()}
    content = {"epoch": 32, "name": "run", "state_dict": wrapped, "optimizer": optimizer}
    torch.save(content, path)


def save_module(state, path):
    """What `module.state_dict()` gives: an OrderedDict with attributes, and parameters."""
    torch.save(tree(state).state_dict(keep_vars=True), path)


def save_script(state, path):
    torch.jit.save(torch.jit.script(tree(state)), path)


class Node(torch.nn.Module):
    """A module whose children and tensors are given; its attributes are of every kind that is ignored."""

    def __init__(self):
        super().__init__()
        self.some_ints = [1, 2, 3]
        self.some_floats = [0.5, 1.5]
        self.some_truths = [True, False]
        self.some_tensors = [torch.ones(3), torch.zeros(2)]
        self.some_texts = ["a", "b"]
        self.a_dict = {"one": 1, "two": 2}
        self.a_pair = (1, "x")
        self.a_number = 2**40
        self.a_text = "text"


def tree(state):
    """A module with this state dict."""
    root = Node()
    for name, value in state.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            if not hasattr(node, part):
                node.add_module(part, Node())
            node = getattr(node, part)
        if last.startswith("running_") or last == "num_batches_tracked":
            node.register_buffer(last, value)
        else:
            node.register_parameter(last, torch.nn.Parameter(value, requires_grad=False))
    return root


SAVERS = [save_plain, save_old, save_nested, save_module, save_script]


def encode(model):
    """The features of pictures and of tokens, as bytes: equal or not, there is no tolerance."""
    rng = np.random.default_rng(3)
    size = model.image_size
    tokens = rng.integers(1, model.config.vocab_size - 1, (3, model.context_length)).astype(np.int32)
    tokens[:, -1] = model.config.vocab_size - 1
    images = model._core.encode_images(rng.standard_normal((2, 3, size, size), np.float32))
    texts = model._core.encode_texts(tokens)
    assert np.isfinite(images).all() and images.std() > 0 and texts.std() > 0
    return images.tobytes() + texts.tobytes()
