"""Small CLIP weights for the tests, and a writer of safetensors files that can also write wrong ones."""

import json
import struct

import numpy as np

DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "uint16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "float64": "F64",
}


def raw_file(path, header, data=b"", length=None):
    """Write `header` (bytes, or what JSON can hold) and `data`; `length` overrides the header's length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def write_safetensors(path, tensors, metadata=None):
    """Write arrays as a safetensors file; uint16 arrays are stored as BF16. Returns the path."""
    header, data, position = {}, [], 0
    if metadata:
        header["__metadata__"] = metadata
    for name, array in tensors.items():
        raw = np.asarray(array, order="C").tobytes()
        offsets = [position, position + len(raw)]
        header[name] = {
            "dtype": DTYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": offsets,
        }
        data.append(raw)
        position += len(raw)
    return raw_file(path, header, b"".join(data))


def write_zeros(path, shapes):
    """Write a float32 file of zeros as a hole: large, and quick to write."""
    header, position = {}, 0
    for name, shape in shapes.items():
        end = position + 4 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, end]}
        position = end
    raw_file(path, header)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size + position)
    return path


def block_shapes(prefix, layers, width, mlp):
    shapes = {}
    for i in range(layers):
        p = f"{prefix}resblocks.{i}."
        shapes[p + "attn.in_proj_weight"], shapes[p + "attn.in_proj_bias"] = (3 * width, width), (3 * width,)
        shapes[p + "attn.out_proj.weight"], shapes[p + "attn.out_proj.bias"] = (width, width), (width,)
        for norm in ("ln_1", "ln_2"):
            shapes[p + norm + ".weight"] = shapes[p + norm + ".bias"] = (width,)
        shapes[p + "mlp.c_fc.weight"], shapes[p + "mlp.c_fc.bias"] = (mlp, width), (mlp,)
        shapes[p + "mlp.c_proj.weight"], shapes[p + "mlp.c_proj.bias"] = (width, mlp), (width,)
    return shapes


def text_shapes(embed=24, width=64, layers=2, mlp=256, vocab=50, context=11):
    return {
        **block_shapes("transformer.", layers, width, mlp),
        "token_embedding.weight": (vocab, width),
        "positional_embedding": (context, width),
        "ln_final.weight": (width,),
        "ln_final.bias": (width,),
        "text_projection": (width, embed),
        "logit_scale": (),
    }


def vit_shapes(width=128, layers=3, mlp=320, patch=4, grid=3, embed=24, text=None):
    return {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (grid * grid + 1, width),
        "visual.proj": (width, embed),
        "visual.conv1.weight": (width, 3, patch, patch),
        **{
            f"visual.{norm}.{part}": (width,) for norm in ("ln_pre", "ln_post") for part in ("weight", "bias")
        },
        **block_shapes("visual.transformer.", layers, width, mlp),
        **text_shapes(embed, **(text or {})),
    }


def resnet_shapes(layers=(1, 2, 1, 1), width=8, grid=2, embed=24, text=None):
    shapes = {}

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)

    for i, (inputs, outputs) in enumerate(
        ((3, width // 2), (width // 2, width // 2), (width // 2, width)), 1
    ):
        shapes[f"visual.conv{i}.weight"] = (outputs, inputs, 3, 3)
        norm(f"visual.bn{i}", outputs)
    inputs = width
    for stage, count in enumerate(layers):
        planes = width * 2**stage
        for i in range(count):
            p = f"visual.layer{stage + 1}.{i}."
            sizes = ((inputs, planes, 1), (planes, planes, 3), (planes, 4 * planes, 1))
            for k, (a, b, kernel) in enumerate(sizes, 1):
                shapes[f"{p}conv{k}.weight"] = (b, a, kernel, kernel)
                norm(f"{p}bn{k}", b)
            if i == 0:
                shapes[p + "downsample.0.weight"] = (4 * planes, inputs, 1, 1)
                norm(p + "downsample.1", 4 * planes)
            inputs = 4 * planes
    for letter in "kqv":
        shapes[f"visual.attnpool.{letter}_proj.weight"] = (inputs, inputs)
        shapes[f"visual.attnpool.{letter}_proj.bias"] = (inputs,)
    shapes["visual.attnpool.c_proj.weight"], shapes["visual.attnpool.c_proj.bias"] = (embed, inputs), (embed,)
    shapes["visual.attnpool.positional_embedding"] = (grid * grid + 1, inputs)
    return {**shapes, **text_shapes(embed, **(text or {}))}


def random_arrays(shapes, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}


def to_openclip(tensors):
    """OpenCLIP's CustomTextCLIP: the text tower behind ``text.``."""
    return {
        name if name == "logit_scale" or name.startswith("visual.") else "text." + name: array
        for name, array in tensors.items()
    }


def to_huggingface(tensors):
    """The class CLIPModel of transformers, by the rules of its conversion script, from OpenAI's names."""
    result = {}
    for name, array in tensors.items():
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        bare = name.removeprefix("visual.")
        if name in ("visual.proj", "text_projection"):
            result["visual_projection.weight" if name == "visual.proj" else "text_projection.weight"] = (
                array.T
            )
        elif name == "logit_scale":
            result[name] = array
        elif "in_proj_" in name:
            head, kind = bare.removeprefix("transformer.resblocks.").split(".attn.in_proj_")
            for letter, part in zip("qkv", np.split(array, 3)):
                result[f"{tower}.encoder.layers.{head}.self_attn.{letter}_proj.{kind}"] = part
        elif bare.startswith("transformer."):
            for ours, theirs in (
                ("transformer.resblocks", "encoder.layers"),
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("c_fc", "fc1"),
                ("c_proj", "fc2"),
            ):
                bare = bare.replace(ours, theirs)
            result[f"{tower}.{bare}"] = array
        else:
            theirs = {
                "class_embedding": "embeddings.class_embedding",
                "conv1.weight": "embeddings.patch_embedding.weight",
                "positional_embedding": "embeddings.position_embedding.weight",
                "token_embedding.weight": "embeddings.token_embedding.weight",
            }.get(bare)
            for norm, there in (
                ("ln_pre", "pre_layrnorm"),
                ("ln_post", "post_layernorm"),
                ("ln_final", "final_layer_norm"),
            ):
                if bare.startswith(norm):
                    theirs = bare.replace(norm, there)
            result[f"{tower}.{theirs}"] = array
    return result


def shapes_of_huggingface(shapes):
    """`to_huggingface` for shapes alone."""
    zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    return {name: array.shape for name, array in to_huggingface(zeros).items()}
