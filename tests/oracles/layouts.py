"""Weights written to disk in every layout of files that clipc reads.

The input is always a state dict with OpenAI's names. Matrices of float16 and bfloat16 files are rounded,
so a test compares with the reference of `rounded(state_dict, dtype)`.
"""

import json
import re
from pathlib import Path

import torch

from .architecture import Architecture

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# What OpenAI's own files keep in float32; everything else in them is float16.
KEPT_BY_OPENAI = re.compile(
    r"(.*\.)?(bn\d|ln_\w+|downsample\.1)\.(weight|bias|running_\w+)"
    r"|token_embedding\.weight|(.*\.)?positional_embedding|visual\.class_embedding|logit_scale")


def cast(state_dict, dtype):
    """The state dict as a file of this dtype holds it.

    Parameters
    ----------
    dtype : {"float32", "float16", "bfloat16", "openai"}
        "openai": float16 where OpenAI's files have it, float32 elsewhere. Integers stay as they are.
    """
    if dtype == "openai":
        return {
            name: value.half() if value.is_floating_point() and not KEPT_BY_OPENAI.fullmatch(name) else value
            for name, value in state_dict.items()
        }
    return {name: value.to(DTYPES[dtype]) if value.is_floating_point() else value
            for name, value in state_dict.items()}


def rounded(state_dict, dtype):
    """The state dict in float32 after a visit to a file of this dtype: what such a file's reader has."""
    return {name: value.float() if value.is_floating_point() else value
            for name, value in cast(state_dict, dtype).items()}


def metadata_of(spec):
    """The safetensors metadata that say what shapes cannot: activation, and heads of both sides."""
    return {"activation": spec.activation, "heads": f"{spec.vision_heads},{spec.text_heads}"}


def save_openai(state_dict, path, dtype="float32", metadata=None, scalars=False):
    """Write OpenAI's layout, which OpenCLIP shares.

    Parameters
    ----------
    path : str or path
        Of the `.safetensors` file.
    dtype : str
        See `cast`.
    metadata : dict of str to str, optional
        Of the safetensors file, as from `metadata_of`.
    scalars : bool
        Add `input_resolution`, `context_length` and `vocab_size`, as OpenAI's archives have them.

    Returns
    -------
    Path
        The file.
    """
    tensors = cast(state_dict, dtype)
    if scalars:
        arch = Architecture.from_state_dict(state_dict)
        for name, value in (("input_resolution", arch.image_size), ("context_length", arch.context_length),
                            ("vocab_size", arch.vocab_size)):
            tensors[name] = torch.tensor(value)
    return _save(tensors, path, metadata)


def save_openclip_text_prefix(state_dict, path, dtype="float32", metadata=None):
    """Write the layout of OpenCLIP's class `CustomTextCLIP`: the text tower's names start with `text.`."""
    def renamed(name):
        return name if name.startswith("visual.") or name == "logit_scale" else f"text.{name}"

    return _save({renamed(name): value for name, value in cast(state_dict, dtype).items()}, path, metadata)


def save_openclip(state_dict, folder, spec, dtype="float32", text_prefix=False):
    """Write a folder as OpenCLIP's models on the hub: `open_clip_model.safetensors`, `open_clip_config.json`.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save = save_openclip_text_prefix if text_prefix else save_openai
    save(state_dict, folder / "open_clip_model.safetensors", dtype)
    vision = {
        "image_size": spec.image_size,
        "layers": spec.vision_layers if spec.is_vit else list(spec.vision_layers),
        "width": spec.vision_width,
        "patch_size": spec.patch_size,
    }
    # OpenCLIP's configurations name these only where they differ from the default.
    if spec.pooled_width != 64 * spec.vision_heads:
        vision["head_width"] = spec.pooled_width // spec.vision_heads
    if spec.is_vit and spec.vision_mlp != 4 * spec.vision_width:
        vision["mlp_ratio"] = spec.vision_mlp / spec.vision_width
    text = {
        "context_length": spec.context_length,
        "vocab_size": spec.vocab_size,
        "width": spec.text_width,
        "heads": spec.text_heads,
        "layers": spec.text_layers,
    }
    if spec.text_mlp != 4 * spec.text_width:
        text["mlp_ratio"] = spec.text_mlp / spec.text_width
    model = {"embed_dim": spec.embed_dim, "vision_cfg": vision, "text_cfg": text}
    if spec.activation == "quick_gelu":
        model["quick_gelu"] = True
    if text_prefix:
        model["custom_text"] = True
    preprocess = {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    _write_json(folder / "open_clip_config.json", {"model_cfg": model, "preprocess_cfg": preprocess})
    return folder


def save_huggingface(state_dict, folder, spec, dtype="float32", position_ids=False, eos_token_id=2):
    """Write a folder that `transformers.CLIPModel.from_pretrained` loads; vision transformers only.

    Parameters
    ----------
    folder : str or path
        Receives `model.safetensors` and `config.json`.
    spec : Architecture
    dtype : {"float32", "float16", "bfloat16"}
    position_ids : bool
        Add the buffers that files of older versions of transformers hold.
    eos_token_id : int
        2, as OpenAI's files on the hub say, or 49407, as newer configurations do.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = huggingface_state_dict(cast(state_dict, dtype))
    if position_ids:
        for tower, length in (("text", spec.context_length), ("vision", spec.grid ** 2 + 1)):
            tensors[f"{tower}_model.embeddings.position_ids"] = torch.arange(length)[None]
    _save(tensors, folder / "model.safetensors", {"format": "pt"})
    shared = {"hidden_act": spec.activation, "layer_norm_eps": 1e-5, "projection_dim": spec.embed_dim}
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": spec.embed_dim,
        "dtype": dtype,
        "text_config": {
            "model_type": "clip_text_model",
            "hidden_size": spec.text_width,
            "intermediate_size": spec.text_mlp,
            "num_attention_heads": spec.text_heads,
            "num_hidden_layers": spec.text_layers,
            "max_position_embeddings": spec.context_length,
            "vocab_size": spec.vocab_size,
            "bos_token_id": 0 if eos_token_id == 2 else 49406,
            "eos_token_id": eos_token_id,
            "pad_token_id": 1,
            **shared,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": spec.vision_width,
            "intermediate_size": spec.vision_mlp,
            "num_attention_heads": spec.vision_heads,
            "num_hidden_layers": spec.vision_layers,
            "image_size": spec.image_size,
            "patch_size": spec.patch_size,
            **shared,
        },
    }
    _write_json(folder / "config.json", config)
    return folder


def huggingface_state_dict(state_dict):
    """Hugging Face's names for the tensors of a vision-transformer CLIP with OpenAI's names."""
    if "visual.proj" not in state_dict:
        raise ValueError("Hugging Face's CLIP has no ModifiedResNet")
    whole = {
        "logit_scale": "logit_scale",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    }
    # The spelling "layrnorm" is theirs.
    norms = {"ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm",
             "visual.ln_post": "vision_model.post_layernorm"}
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
             "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    # They multiply by W^T, as a Linear does; OpenAI's projections multiply from the right.
    projections = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}

    tensors = {}
    for name, value in state_dict.items():
        module, _, kind = name.rpartition(".")
        block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name)
        if name in whole:
            tensors[whole[name]] = value
        elif name in projections:
            tensors[projections[name]] = value.T
        elif module in norms:
            tensors[f"{norms[module]}.{kind}"] = value
        elif block:
            tower = "vision_model" if block[1] else "text_model"
            prefix = f"{tower}.encoder.layers.{block[2]}"
            if block[3].startswith("attn.in_proj_"):
                kind = block[3].removeprefix("attn.in_proj_")
                for letter, third in zip("qkv", value.chunk(3)):
                    tensors[f"{prefix}.self_attn.{letter}_proj.{kind}"] = third
            else:
                part, _, kind = block[3].rpartition(".")
                tensors[f"{prefix}.{parts[part]}.{kind}"] = value
        else:
            raise KeyError(f"{name}: no Hugging Face counterpart is known")
    return tensors


def _save(tensors, path, metadata):
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors refuses views of one storage, and tensors that are not contiguous.
    save_file({name: value.detach().clone(memory_format=torch.contiguous_format)
               for name, value in tensors.items()}, str(path), metadata)
    return path


def _write_json(path, content):
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
