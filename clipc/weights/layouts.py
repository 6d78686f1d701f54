"""From the tensor names of several projects to OpenAI's, which are the only ones the core knows.

============  =========================================================================================
layout        names
============  =========================================================================================
openai        ``visual.*``, ``transformer.*``, ``token_embedding.weight``, ...: openai/CLIP and the class
              CLIP of OpenCLIP
openclip      the same with ``text.`` before the names of the text tower: OpenCLIP's CustomTextCLIP
huggingface   ``vision_model.*``, ``text_model.*``: the class CLIPModel of transformers. Query, key and
              value are three tensors there, and both projections are transposed. Also
              ``owlvit.*`` and ``owlv2.*``, the detectors OwlViTForObjectDetection and
              Owlv2ForObjectDetection, whose heads become ``detection.*``
============  =========================================================================================

A prefix that all names share, such as ``module.`` of a model trained on several devices, is removed.
To add a layout: a function that returns an `Entry` per OpenAI name, and a line in `_translate`.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import NamedTuple

import numpy as np

from clipc.errors import WeightsError
from clipc.weights.tensor_file import FLOAT_DTYPES, NUMPY_DTYPES

WRAPPERS = ("module.", "_orig_mod.", "state_dict.", "model.", "clip_model.", "clip.")

# Kept in files for other programs: sizes that the shapes tell as well, counters, constants.
IGNORED = re.compile(
    r"(input_resolution|context_length|vocab_size"
    r"|(.*\.)?attn_mask|(.*\.)?num_batches_tracked|(.*\.)?position_ids)"
)

TEXT_NAMES = (
    "token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection", "attn_mask",
)  # fmt: skip

# Hugging Face name to OpenAI name, inside a block and outside.
HF_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
HF_NAMES = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # spelt like this there
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
    "logit_scale": "logit_scale",
}
# The detectors spell the layer norm before the blocks as one expects.
DETECTOR_NAMES = {name.replace("pre_layrnorm", "pre_layernorm"): ours for name, ours in HF_NAMES.items()}
DETECTORS = {"owlvit": "OWL-ViT", "owlv2": "OWLv2"}
DETECTION = "detection."  # before the names of a detector's heads, which are kept
DETECTION_HEADS = ("class_head.", "box_head.", "objectness_head.", "layer_norm.")
HF_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")
HF_LAYER = re.compile(r"(vision_model|text_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


class Entry(NamedTuple):
    """Where one tensor with an OpenAI name comes from.

    `parts` are names in the file, joined along the first axis; `missing` are parts that the file lacks.
    """

    parts: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    transpose: bool = False
    missing: tuple[str, ...] = ()


def file_stamp(path):
    """(path, size in bytes, time of the last change in ns) of a file: another content has another stamp."""
    status = os.stat(path)
    return str(path), status.st_size, status.st_mtime_ns


class WeightState:
    """The tensors of a CLIP model under OpenAI's names, read when they are asked for.

    Parameters
    ----------
    source : SafetensorsFile, TorchArchive or ShardedWeights
        Closed by `close`.

    Attributes
    ----------
    source : SafetensorsFile, TorchArchive or ShardedWeights
    path : pathlib.Path
    files : list of pathlib.Path
        All files that were opened: `path`, and for a model in several files those that it names.
    layout : str
        "openai", "openclip" or "huggingface".
    detector : str or None
        "owlvit" or "owlv2" when the names are those of such a detector.
    shapes : dict of str to tuple of int
        OpenAI name to shape, from the header alone.
    dtypes : dict of str to str
        OpenAI name to what the file stores the tensor in, such as "F16".
    metadata : dict of str to str

    Raises
    ------
    WeightsError
        The names are not those of a CLIP model that clipc knows.
    """

    def __init__(self, source):
        self.source = source
        self.path = source.path
        # A model in several files is an index and these.
        self.files = [source.path, *(part.path for part in getattr(source, "_files", {}).values())]
        self.metadata = source.metadata
        self.layout, self.detector, self._entries = _translate(source)
        self.shapes = {name: entry.shape for name, entry in self._entries.items() if not entry.missing}
        self.dtypes = {name: self._entries[name].dtype for name in self.shapes}
        self._used = set()

    def __contains__(self, name):
        return name in self._entries

    @property
    def names(self):
        """All names, also of tensors that the file holds in part."""
        return self._entries.keys()

    def read(self, name):
        """Read the tensor that OpenAI calls `name`.

        Returns
        -------
        ndarray
            C-contiguous and owned by the caller; float32, float16, or uint16 with the bits of bfloat16.

        Raises
        ------
        WeightsError
            It is missing or not a floating-point tensor, or the file changed meanwhile.
        """
        entry = self._require(name)
        if entry.dtype not in FLOAT_DTYPES:
            raise WeightsError(
                f"{self._label(name)}: expected dtype F32, F16 or BF16, got {entry.dtype} ({self.path.name})"
            )
        self._used.add(name)
        if len(entry.parts) == 1:
            out = self.source.read(entry.parts[0])
        else:
            # Straight into its third of the result: joining arrays would need the memory twice.
            out = np.empty(entry.shape, NUMPY_DTYPES[entry.dtype])
            begin = 0
            for part in entry.parts:
                rows = self.source.tensors[part].shape[0]
                self.source.read_into(part, out[begin : begin + rows])
                begin += rows
        return np.ascontiguousarray(out.T) if entry.transpose else out.reshape(entry.shape)

    def check_all_used(self):
        """Raise `WeightsError` if the file holds tensors that nobody has asked for.

        Such a file belongs to another architecture, and features computed without the rest would be wrong.
        """
        surplus = []
        for name, entry in self._entries.items():
            if name not in self._used:
                surplus += entry.parts
        if surplus:
            names = ", ".join(sorted(surplus)[:5]) + (", ..." if len(surplus) > 5 else "")
            raise WeightsError(
                f"{self.path}: {len(surplus)} surplus tensors, which a CLIP model of this shape does not "
                f"have: {names}"
            )

    def close(self):
        """Close the file; arrays that were read stay valid."""
        self.source.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def shape(self, name):
        """Shape of the tensor that OpenAI calls `name`; a missing one is a `WeightsError`."""
        return self._require(name).shape

    def _require(self, name):
        entry = self._entries.get(name)
        if entry is None:
            raise WeightsError(f"missing tensor {self._label(name)} in {self.path}")
        if entry.missing:
            raise WeightsError(f"missing tensor {', '.join(entry.missing)} in {self.path} (part of {name})")
        return entry

    def _label(self, name):
        """The name as the core says it, followed by the file's own if that differs."""
        if name in self._entries:
            theirs = " + ".join(self._entries[name].parts)
        elif self.layout == "huggingface":
            theirs = _to_huggingface(name, self.detector)
        else:
            theirs = "text." + name if self.layout == "openclip" and name.startswith(TEXT_NAMES) else name
        return name if theirs == name else f"{name} ({theirs} in this file)"


def _translate(source):
    """Find the layout. Returns (layout, detector or None, {OpenAI name: Entry}).

    Names that fit nowhere keep their own, behind a question mark.
    """
    names, prefix = strip_wrappers(list(source.tensors))

    def has(*starts):
        return any(name.startswith(starts) for name in names)

    strange = _known_stranger(has)
    if strange:
        raise WeightsError(f"{source.path} is not a CLIP model that clipc knows: {strange}")
    has_image, has_text, make = False, False, None
    detector = next((kind for kind in DETECTORS if has(f"{kind}.")), None)
    if detector:
        layout, make = "huggingface", partial(_from_detector, detector)
        has_image, has_text = has(f"{detector}.vision_model."), has(f"{detector}.text_model.")
    elif has("vision_model.", "text_model."):
        layout, make = "huggingface", _from_huggingface
        has_image, has_text = has("vision_model."), has("text_model.")
    elif "text.token_embedding.weight" in names:
        layout, make = "openclip", _from_openclip
        has_image, has_text = has("visual."), True
    elif "visual.conv1.weight" in names or "token_embedding.weight" in names:
        layout, make = "openai", _from_openai
        has_image, has_text = has("visual."), has("token_embedding.", "transformer.")
    if make is None:
        seen = ", ".join(sorted(source.tensors)[:3])
        raise WeightsError(
            f"{source.path} is not a CLIP model that clipc knows: expected tensors named as by OpenAI, "
            f"OpenCLIP or Hugging Face's CLIPModel, found {len(names)} such as {seen}"
        )
    if not (has_image and has_text):
        present, absent = ("image", "text") if has_image else ("text", "image")
        raise WeightsError(
            f"{source.path} holds only the {present} tower of a CLIP model, the {absent} tower is missing; "
            "clipc needs both"
        )
    entries = make(names, prefix, source)
    _check_logit_bias(source, prefix)
    scale = entries.get("logit_scale")
    if scale is not None and scale.shape == (1,):
        entries["logit_scale"] = scale._replace(shape=())  # a scalar either way
    return layout, detector, entries


def strip_wrappers(names):
    """Remove the wrappers that all names share; returns (names without them, what was removed)."""
    removed = ""
    while True:
        wrapper = next((w for w in WRAPPERS if all(name.startswith(w) for name in names)), None)
        if wrapper is None:
            return names, removed
        names = [name[len(wrapper) :] for name in names]
        removed += wrapper


def _known_stranger(has):
    """Say what a model is that resembles CLIP, or return None."""
    if has("owlvit.") and has("owlv2."):
        return "it has tensors of OWL-ViT and of OWLv2"
    if has("visual.trunk."):
        return "its image tower comes from timm (visual.trunk.*)"
    if has("text_decoder.", "visual.attn_pool."):
        return "this looks like CoCa (it has a text decoder or an attentional pooler)"
    if has("vision_model.head.", "text_model.head."):
        return "this looks like SigLIP (vision_model.head.*)"
    if has("text_model.encoder.layer.", "text.transformer.embeddings.", "text.transformer.encoder."):
        return "its text tower is a language model of another kind, such as BERT"
    if has("lora_", "base_model."):
        return "these are adapter weights (LoRA) without the model that they adapt"
    return None


def _from_openai(names, prefix, source):
    entries = {}
    for name in names:
        info = source.tensors[prefix + name]
        if not IGNORED.fullmatch(name) and name != "logit_bias":
            entries[name] = Entry((prefix + name,), info.shape, info.dtype)
    return entries


def _from_openclip(names, prefix, source):
    plain = _from_openai(names, prefix, source)
    entries = {}
    for name, entry in plain.items():
        short = name.removeprefix("text.")
        if short != name and short.startswith(TEXT_NAMES):
            name = short
        elif name.startswith(TEXT_NAMES):
            name = "?" + name  # surplus: without the prefix it must not hide the one with it
        entries[name] = entry
    return entries


def _from_huggingface(names, prefix, source, table=HF_NAMES):
    entries = {}
    attention = {}
    for name in names:
        info = source.tensors[prefix + name]
        if IGNORED.fullmatch(name) or name == "logit_bias":
            continue
        layer = HF_LAYER.fullmatch(name)
        if layer and layer[3] in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            tower = "visual.transformer" if layer[1] == "vision_model" else "transformer"
            target = f"{tower}.resblocks.{layer[2]}.attn.in_proj_{layer[4]}"
            attention.setdefault(target, {})[layer[3][-6]] = name
            continue
        target = table.get(name)
        if layer and layer[3] in HF_BLOCK:
            tower = "visual.transformer" if layer[1] == "vision_model" else "transformer"
            target = f"{tower}.resblocks.{layer[2]}.{HF_BLOCK[layer[3]]}.{layer[4]}"
        transpose = name in HF_TRANSPOSED
        if transpose and len(info.shape) != 2:
            raise WeightsError(f"{name}: expected two axes, got {list(info.shape)}")
        shape = info.shape[::-1] if transpose else info.shape
        entries[target or "?" + name] = Entry((prefix + name,), shape, info.dtype, transpose)
    for target, found in attention.items():
        example = next(iter(found.values()))
        wanted = {letter: re.sub(r"\.[qkv]_proj\.", f".{letter}_proj.", example) for letter in "qkv"}
        missing = tuple(wanted[letter] for letter in "qkv" if letter not in found)
        infos = [source.tensors[prefix + found[letter]] for letter in "qkv" if letter in found]
        if any(info[:2] != infos[0][:2] or not info.shape for info in infos):
            seen = ", ".join(f"{info.dtype} {list(info.shape)}" for info in infos)
            raise WeightsError(
                f"{example}: expected one dtype and shape for query, key and value, got {seen}"
            )
        parts = tuple(prefix + found[letter] for letter in "qkv" if letter in found)
        shape = (3 * infos[0].shape[0], *infos[0].shape[1:])
        entries[target] = Entry(parts, shape, infos[0].dtype, missing=missing)
    return entries


def _from_detector(detector, names, prefix, source):
    tower = f"{detector}."
    inner = [name.removeprefix(tower) for name in names if name.startswith(tower)]
    entries = _from_huggingface(inner, prefix + tower, source, DETECTOR_NAMES)
    for name in names:
        # box_bias: what the size of the grid tells as well.
        if name.startswith(tower) or name == "box_bias" or IGNORED.fullmatch(name):
            continue
        target = (DETECTION if name.startswith(DETECTION_HEADS) else "?") + name
        info = source.tensors[prefix + name]
        entries[target] = Entry((prefix + name,), info.shape, info.dtype)
    return entries


def _to_huggingface(name, detector=None):
    """Hugging Face's name for an OpenAI name, for messages."""
    if name.startswith(DETECTION):
        return name.removeprefix(DETECTION)
    if detector:
        return f"{detector}.{_to_huggingface(name).replace('pre_layrnorm', 'pre_layernorm')}"
    for theirs, ours in HF_NAMES.items():
        if ours == name:
            return theirs
    block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", name)
    if not block:
        return name
    tower = "vision_model" if block[1] else "text_model"
    inner = {ours: theirs for theirs, ours in HF_BLOCK.items()}.get(block[3], "self_attn.{q,k,v}_proj")
    return f"{tower}.encoder.layers.{block[2]}.{inner}.{block[4]}"


def _check_logit_bias(source, prefix):
    """A bias is added to every logit by models trained with the sigmoid loss; clipc has no place for it."""
    name = prefix + "logit_bias"
    info = source.tensors.get(name)
    if info is None:
        return
    if info.dtype not in FLOAT_DTYPES or int(np.prod(info.shape)) != 1:
        raise WeightsError(f"{name}: expected one floating-point number, got {info.dtype} {list(info.shape)}")
    if source.read(name).any():
        raise WeightsError(
            f"{source.path} is not a CLIP model that clipc knows: its logit_bias is not zero, so it was "
            "trained with the sigmoid loss"
        )
