"""What a CLIP model looks like: sizes from tensor shapes, the rest from whoever knows it.

Shapes tell every size (openai/CLIP's ``build_model`` reads them in the same way), but not the number of
heads nor the activation. These come from the first of:

1. the arguments of `load`,
2. ``config.json`` (Hugging Face) or ``open_clip_config.json`` (OpenCLIP) beside the weights,
3. the metadata of the safetensors file, ``activation`` and ``heads`` (also ``image_mean``, ``image_std``),
4. the zoo entry of a named model,
5. OpenAI's convention: heads 64 wide, QuickGELU.

A configuration file that contradicts the shapes is an error, and so is one that asks for a computation
that the core does not have: a wrong answer without a word is worse than none.
"""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass, field
from pathlib import Path

from clipc.errors import WeightsError, warn
from clipc.weights.layouts import DETECTORS
from clipc.weights.safetensors_file import load_json

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

ACTIVATIONS = ("quick_gelu", "gelu")
HEAD_WIDTH = 64  # of all OpenAI models
LAYER_NORM_EPS = 1e-5  # the core's constant

# Keeps every product of two sizes inside 64 bits; real models stay far below.
MAX_SIZE = 1 << 24

# Defaults of transformers' CLIPVisionConfig, CLIPTextConfig and CLIPConfig: a key that is absent from
# config.json has this value there.
HF_VISION_DEFAULTS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32, "num_channels": 3, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}  # fmt: skip
HF_TEXT_DEFAULTS = {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
    "max_position_embeddings": 77, "vocab_size": 49408, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
HF_PROJECTION_DEFAULT = 512
# What OwlViTConfig and Owlv2Config have in the place of these.
DETECTOR_VISION_DEFAULTS = {
    "owlvit": {"image_size": 768, "patch_size": 32}, "owlv2": {"image_size": 768, "patch_size": 16},
}  # fmt: skip
DETECTOR_TEXT_DEFAULTS = {"max_position_embeddings": 16}

# Defaults of OpenCLIP's CLIPVisionCfg and CLIPTextCfg.
OC_VISION_DEFAULTS = {
    "image_size": 224, "layers": 12, "width": 768, "head_width": 64, "patch_size": 16, "mlp_ratio": 4.0,
}  # fmt: skip
OC_TEXT_DEFAULTS = {
    "context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0,
}  # fmt: skip
# Options of OpenCLIP that change the computation, with the values that leave it as it is here.
OC_VISION_FIXED = {
    "timm_model_name": (None, ""), "attentional_pool": (False, None), "no_ln_pre": (False, None),
    "global_average_pool": (False, None), "pool_type": ("tok",),
    "final_ln_after_pool": (False, None), "input_patchnorm": (False, None), "act_kwargs": (None, {}),
    "block_type": (None, "default"), "qk_norm": (False, None), "scaled_cosine_attn": (False, None),
    "norm_kwargs": (None, {}, {"eps": LAYER_NORM_EPS}),
}  # fmt: skip
OC_TEXT_FIXED = {
    "hf_model_name": (None, ""),
    # The tokenizer is a part of the model: another one would give other numbers to the same words.
    "hf_tokenizer_name": (None, "", "openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14"),
    "embed_cls": (False, None), "no_causal_mask": (False, None),
    "pool_type": ("argmax",), "proj_type": ("linear",), "proj_bias": (False, None), "act_kwargs": (None, {}),
    "block_type": (None, "default"), "qk_norm": (False, None), "scaled_cosine_attn": (False, None),
    "norm_kwargs": (None, {}, {"eps": LAYER_NORM_EPS}),
}  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a CLIP model and its preprocessing.

    Attributes
    ----------
    name : str
    embed_dim, image_size : int
    vision : str
        "vit" or "modified_resnet".
    vision_layers : int or tuple of int
        Blocks; four numbers, one per stage, for a ModifiedResNet.
    vision_width : int
        Width of the ViT; of a ModifiedResNet the channels behind its stem (64 for RN50).
    vision_patch_size, vision_mlp_width : int or None
        None for a ModifiedResNet.
    vision_heads : int
        Of every block of the ViT, or of the attention pool.
    context_length, vocab_size, text_width, text_heads, text_layers, text_mlp_width : int
    activation : str
        "quick_gelu" or "gelu", in the MLP of both towers.
    image_mean, image_std : tuple of float
        Per channel, for pixels scaled to 0..1.
    detector : str or None
        "owlvit" or "owlv2" for a model with such a detection head.
    sources : dict of str to str
        Where "vision_heads", "text_heads", "activation" and "preprocessing" come from, in words.
    """

    name: str
    embed_dim: int
    image_size: int
    vision: str
    vision_layers: int | tuple[int, int, int, int]
    vision_width: int
    vision_patch_size: int | None
    vision_heads: int
    vision_mlp_width: int | None
    context_length: int
    vocab_size: int
    text_width: int
    text_heads: int
    text_layers: int
    text_mlp_width: int
    activation: str
    image_mean: tuple[float, float, float] = CLIP_MEAN
    image_std: tuple[float, float, float] = CLIP_STD
    detector: str | None = None
    sources: dict[str, str] = field(default_factory=dict, compare=False)

    def to_core(self):
        """The description that the C core takes: plain numbers, one text or tuple; 0 where there is none."""
        return {
            "embed_dim": self.embed_dim,
            "image_size": self.image_size,
            "vision": self.vision,
            "vision_layers": self.vision_layers,
            "vision_width": self.vision_width,
            "vision_patch_size": self.vision_patch_size or 0,
            "vision_heads": self.vision_heads,
            "vision_mlp_width": self.vision_mlp_width or 0,
            "context_length": self.context_length,
            "vocab_size": self.vocab_size,
            "text_width": self.text_width,
            "text_heads": self.text_heads,
            "text_layers": self.text_layers,
            "text_mlp_width": self.text_mlp_width,
            "activation": self.activation,
            "detector": self.detector or "",
        }

    def summary(self):
        """One line: name, architecture, sizes, and what the weights alone do not tell with its origin."""

        def known_from(key):
            return f" ({self.sources[key]})" if key in self.sources else ""

        if self.vision == "vit":
            tower = f"ViT, {self.vision_layers} blocks of width {self.vision_width}"
            tower += f", patch {self.vision_patch_size}"
        else:
            layers = "-".join(map(str, self.vision_layers))
            tower = f"ModifiedResNet {layers} of width {self.vision_width}"
        return (
            f"{self.name}: {tower}, {self.image_size} x {self.image_size} pixels; "
            f"text {self.text_layers} blocks of width {self.text_width}; embedding {self.embed_dim}; "
            f"heads {self.vision_heads}{known_from('vision_heads')} and "
            f"{self.text_heads}{known_from('text_heads')}; {self.activation}{known_from('activation')}"
            f"{f'; {DETECTORS[self.detector]} detection head' if self.detector else ''}"
        )


def build_config(state, *, folder, name, entry=None, activation=None, heads=None):
    """Put the configuration of a model together.

    Parameters
    ----------
    state : WeightState
    folder : pathlib.Path
        Where configuration files are looked for.
    name : str
    entry : ZooEntry, optional
    activation : {"quick_gelu", "gelu"}, optional
    heads : int or (int or None, int or None), optional
        A single number is for the image tower, a pair for the image and the text tower.

    Returns
    -------
    ModelConfig

    Raises
    ------
    ValueError, TypeError
        Wrong arguments.
    WeightsError
        Shapes that no CLIP model has, or files that contradict each other.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    asked = _heads_argument(heads)
    sizes = sizes_from_shapes(state)
    described = _describe(state, Path(folder), sizes)
    stored = _from_metadata(state)
    zoo = {}
    if entry is not None:
        known = {key: value for key, value in entry._asdict().items() if value is not None}
        sizes_known = {key: known[key] for key in ("embed_dim", "image_size") if key in known}
        _compare(f"the zoo entry {entry.name}", sizes, sizes_known)
        zoo = {key: known[key] for key in ("vision_heads", "text_heads", "activation") if key in known}
    candidates = (
        ("argument", {"activation": activation, "vision_heads": asked[0], "text_heads": asked[1]}),
        (described.get("model_file"), described),
        ("file metadata", stored),
        ("zoo", zoo),
        ("default", {"activation": "quick_gelu", **_default_heads(sizes)}),
    )
    chosen, sources = {}, {}
    for key in ("activation", "vision_heads", "text_heads"):
        for source, values in candidates:
            if values.get(key) is not None:
                chosen[key], sources[key] = values[key], source
                break
        else:
            tower = key.partition("_")[0]
            raise WeightsError(
                f"{state.path}: the number of {tower} heads is stored nowhere, and the width "
                f"{_attention_width(sizes, tower)} is not a multiple of {HEAD_WIDTH}; "
                "pass heads=(image, text)"
            )
        if key in zoo and sources[key] == described.get("model_file") and chosen[key] != zoo[key]:
            warn(
                f"{entry.name}: {sources[key]} beside the weights says {key} = {chosen[key]}, "
                f"the model of this name has {zoo[key]}; the file's value is used"
            )
    for tower in ("vision", "text"):
        width, count = _attention_width(sizes, tower), chosen[f"{tower}_heads"]
        if not 1 <= count <= width or width % count:
            message = (
                f"{tower} heads: {count} (from {sources[f'{tower}_heads']}) does not divide the width {width}"
            )
            raise (ValueError if sources[f"{tower}_heads"] == "argument" else WeightsError)(message)
    zoo_preprocessing = {}
    if entry is not None and entry.image_mean is not None:
        zoo_preprocessing = {
            "image_mean": entry.image_mean, "image_std": entry.image_std, "preprocessing_file": "zoo",
        }  # fmt: skip
    candidates = described, stored, zoo_preprocessing
    preprocessing = next((found for found in candidates if "image_mean" in found), {})
    sources["preprocessing"] = preprocessing.get("preprocessing_file", "default")
    return ModelConfig(
        name=name,
        **sizes,
        **chosen,
        image_mean=preprocessing.get("image_mean", CLIP_MEAN),
        image_std=preprocessing.get("image_std", CLIP_STD),
        detector=state.detector,
        sources=sources,
    )


def sizes_from_shapes(state):
    """Read all sizes from tensor shapes.

    Parameters
    ----------
    state : WeightState

    Returns
    -------
    dict
        The fields of `ModelConfig` that shapes tell.

    Raises
    ------
    WeightsError
        A tensor that is needed for it is missing, or its shape is not one that a CLIP model can have.
    """

    def shape(name, *form):
        """Shape of a tensor; `form` has a number per axis, or a letter where any size is good."""
        found = state.shape(name)
        wrong = len(found) != len(form) or any(isinstance(f, int) and f != s for f, s in zip(form, found))
        if wrong or not all(1 <= size <= MAX_SIZE for size in found):
            expected = (
                "[" + ", ".join(map(str, form)) + "]" + ("" if wrong else f", sizes from 1 to {MAX_SIZE}")
            )
            raise WeightsError(f"{name}: expected {expected}, got {list(found)}")
        return found

    def blocks(prefix):
        """Number of blocks `prefix`0, `prefix`1, ...; a gap in the numbers is an error."""
        pattern = re.compile(re.escape(prefix) + r"(0|[1-9]\d{0,5})\..+")
        numbers = {int(match[1]) for match in map(pattern.fullmatch, state.names) if match}
        if not numbers:
            raise WeightsError(f"missing tensors {prefix}0.* in {state.path}")
        lacking = next((i for i in range(len(numbers)) if i not in numbers), None)
        if lacking is not None:
            raise WeightsError(
                f"missing tensors {prefix}{lacking}.* in {state.path}, there is {prefix}{max(numbers)}"
            )
        return len(numbers)

    def grid(name, width):
        """Side of the square grid whose positions, and one more, `name` embeds."""
        tokens = shape(name, "1 + grid*grid", width)[0]
        side = math.isqrt(tokens - 1)
        if side < 1 or side * side != tokens - 1:
            raise WeightsError(
                f"{name}: expected [1 + grid*grid, {width}], got {[tokens, width]}: no square grid"
            )
        return side

    if "visual.layer1.0.conv1.weight" in state:
        width = shape("visual.layer1.0.conv1.weight", "width", "width", 1, 1)[0]
        layers = tuple(blocks(f"visual.layer{stage}.") for stage in (1, 2, 3, 4))
        vision = {
            "vision": "modified_resnet", "vision_layers": layers, "vision_width": width,
            "vision_patch_size": None, "vision_mlp_width": None,
            "image_size": 32 * grid("visual.attnpool.positional_embedding", 32 * width),
        }  # fmt: skip
    else:
        width, _, patch, _ = conv1 = shape("visual.conv1.weight", "width", 3, "patch", "patch")
        if conv1[2] != conv1[3]:
            raise WeightsError(f"visual.conv1.weight: expected [width, 3, patch, patch], got {list(conv1)}")
        mlp_width, _ = shape("visual.transformer.resblocks.0.mlp.c_fc.weight", "mlp width", width)
        vision = {
            "vision": "vit", "vision_layers": blocks("visual.transformer.resblocks."), "vision_width": width,
            "vision_patch_size": patch, "image_size": patch * grid("visual.positional_embedding", width),
            "vision_mlp_width": mlp_width,
        }  # fmt: skip
    if vision["image_size"] > MAX_SIZE or 32 * width > MAX_SIZE:
        raise WeightsError(f"{state.path}: image size {vision['image_size']} and width {width} are too large")
    (text_width,) = shape("ln_final.weight", "width")
    return {
        **vision,
        "embed_dim": shape("text_projection", text_width, "embedding")[1],
        "context_length": shape("positional_embedding", "context", text_width)[0],
        "vocab_size": shape("token_embedding.weight", "vocabulary", text_width)[0],
        "text_width": text_width,
        "text_layers": blocks("transformer.resblocks."),
        "text_mlp_width": shape("transformer.resblocks.0.mlp.c_fc.weight", "mlp width", text_width)[0],
    }


def _attention_width(sizes, tower):
    """Width that the heads of a tower share; the attention pool of a ModifiedResNet has 32 times the base."""
    if tower == "text":
        return sizes["text_width"]
    return sizes["vision_width"] * (32 if sizes["vision"] == "modified_resnet" else 1)


def _default_heads(sizes):
    widths = {f"{tower}_heads": _attention_width(sizes, tower) for tower in ("vision", "text")}
    return {key: width // HEAD_WIDTH for key, width in widths.items() if width % HEAD_WIDTH == 0}


def _heads_argument(heads):
    if heads is None:
        return None, None
    pair = tuple(heads) if isinstance(heads, (tuple, list)) else (heads, None)
    if len(pair) != 2:
        raise ValueError(f"heads: expected a number or a pair (image, text), got {heads!r}")
    try:
        if any(isinstance(count, bool) for count in pair):
            raise TypeError
        pair = tuple(None if count is None else operator.index(count) for count in pair)
    except TypeError:
        raise TypeError(f"heads: expected a whole number or a pair (image, text), got {heads!r}") from None
    if any(count is not None and count < 1 for count in pair):
        raise ValueError(f"heads: expected numbers from 1, got {heads!r}")
    return pair


def _from_metadata(state):
    """`activation`, `heads` ("12" or "12,8"), `image_mean` and `image_std` of the safetensors header."""
    found = {}
    activation = state.metadata.get("activation")
    if activation is not None:
        found["activation"] = _activation(f"{state.path}: metadata activation", activation)
    heads = state.metadata.get("heads")
    if heads is not None:
        match = re.fullmatch(r"\s*(\d{1,6})\s*(?:,\s*(\d{1,6})\s*)?", heads, re.ASCII)
        if not match:
            raise WeightsError(f"{state.path}: metadata heads: expected 12 or 12,8, got {heads[:40]!r}")
        found["vision_heads"] = int(match[1])
        found["text_heads"] = int(match[2]) if match[2] else None
    texts = {key: state.metadata[key] for key in ("image_mean", "image_std") if key in state.metadata}
    if texts:
        try:
            numbers = {key: [float(part) for part in text.split(",")] for key, text in texts.items()}
        except ValueError:
            numbers = texts  # to be refused like everything that is not three numbers
        found |= _mean_std(state.path, numbers, "image_mean", "image_std")
        found["preprocessing_file"] = "file metadata"
    return found


def _activation(where, value):
    if value not in ACTIVATIONS:
        raise WeightsError(f"{where}: expected quick_gelu or gelu, got {str(value)[:40]!r}")
    return value


def _describe(state, folder, sizes):
    """What the configuration files beside the weights say.

    Where files of both kinds lie there, as in LAION's repositories, the one that belongs to the layout
    of the weights is taken.
    """
    if state.detector:
        found = _read_huggingface(folder, sizes, True, state.detector)
        return {**found, **_read_detector_preprocessor(folder, sizes["image_size"], state.detector)}
    hugging_face = state.layout == "huggingface"
    found = {}
    for read in (_read_huggingface, _read_open_clip)[:: 1 if hugging_face else -1]:
        found = read(folder, sizes, hugging_face)
        if found:
            break
    for read in (_read_preprocessor, _read_open_clip_preprocess)[:: 1 if hugging_face else -1]:
        preprocessing = read(folder, sizes["image_size"])
        if preprocessing:
            return {**found, **preprocessing}
    return found


def _read_huggingface(folder, sizes, required, detector=None):
    """Read config.json of transformers' CLIPModel or of a detector.

    `required`: another kind of model is an error.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    raw = load_json(path)
    kind = raw.get("model_type")
    wanted = detector or "clip"
    if kind != wanted and (kind is not None or not ("vision_config" in raw or "text_config" in raw)):
        if required and kind is not None:
            raise WeightsError(f"{path}: expected model_type {wanted}, got {str(kind)[:40]!r}")
        return {}  # timm and others write a config.json of their own
    if detector:
        given = {**HF_VISION_DEFAULTS, **DETECTOR_VISION_DEFAULTS[detector]}
        vision = {**given, **_section(path, raw, "vision_config")}
        text = {**HF_TEXT_DEFAULTS, **DETECTOR_TEXT_DEFAULTS, **_section(path, raw, "text_config")}
    else:
        vision = _huggingface_section(path, raw, "vision_config", HF_VISION_DEFAULTS)
        text = _huggingface_section(path, raw, "text_config", HF_TEXT_DEFAULTS)
    if sizes["vision"] != "vit":
        raise WeightsError(f"{path} describes a ViT, the weights hold a ModifiedResNet")
    _compare(path, sizes, {
        "vision_width": vision["hidden_size"], "vision_mlp_width": vision["intermediate_size"],
        "vision_layers": vision["num_hidden_layers"], "image_size": _square(vision["image_size"]),
        "vision_patch_size": _square(vision["patch_size"]), "text_width": text["hidden_size"],
        "text_mlp_width": text["intermediate_size"], "text_layers": text["num_hidden_layers"],
        "context_length": text["max_position_embeddings"], "vocab_size": text["vocab_size"],
        "embed_dim": raw.get("projection_dim", HF_PROJECTION_DEFAULT),
    })  # fmt: skip
    for where, section in (("vision_config", vision), ("text_config", text)):
        if section["layer_norm_eps"] != LAYER_NORM_EPS:
            found = str(section["layer_norm_eps"])[:40]
            raise WeightsError(f"{path}: {where}.layer_norm_eps: expected {LAYER_NORM_EPS}, got {found}")
        _activation(f"{path}: {where}.hidden_act", section["hidden_act"])
    if vision["hidden_act"] != text["hidden_act"]:
        raise WeightsError(
            f"{path}: hidden_act is {vision['hidden_act']} in the image tower and {text['hidden_act']} "
            "in the text tower; clipc has one activation for both"
        )
    return {
        "model_file": path.name,
        "activation": vision["hidden_act"],
        "vision_heads": _whole(path, "vision_config.num_attention_heads", vision["num_attention_heads"]),
        "text_heads": _whole(path, "text_config.num_attention_heads", text["num_attention_heads"]),
    }


def _huggingface_section(path, raw, key, defaults):
    """One tower's part. An old `*_config_dict` beside it wins as a whole, as in transformers."""
    section = _section(path, raw, key)
    older = raw.get(f"{key}_dict")
    return {**defaults, **section} if older is None else {**defaults, **_section(path, raw, f"{key}_dict")}


def _read_open_clip(folder, sizes, required):
    """Read model_cfg of open_clip_config.json."""
    path = folder / "open_clip_config.json"
    if not path.is_file():
        return {}
    raw = load_json(path)
    model = _section(path, raw, "model_cfg") if "model_cfg" in raw else raw  # also a bare model configuration
    if "embed_dim" not in model:
        return {}
    vision_given, text_given = _section(path, model, "vision_cfg"), _section(path, model, "text_cfg")
    towers = (("vision_cfg", vision_given, OC_VISION_FIXED), ("text_cfg", text_given, OC_TEXT_FIXED))
    for where, given, fixed in towers:
        for key, allowed in fixed.items():
            if key in given and given[key] not in allowed:
                value = str(given[key])[:60]
                raise WeightsError(
                    f"{path}: {where}.{key} = {value} is a variant that clipc does not compute"
                )
    vision, text = {**OC_VISION_DEFAULTS, **vision_given}, {**OC_TEXT_DEFAULTS, **text_given}
    expected = {
        "embed_dim": model["embed_dim"], "image_size": _square(vision["image_size"]),
        "vision_width": vision["width"],
        "vision_layers": tuple(vision["layers"]) if isinstance(vision["layers"], list) else vision["layers"],
        "context_length": text["context_length"], "vocab_size": text["vocab_size"],
        "text_width": text["width"], "text_layers": text["layers"],
        "text_mlp_width": _times(text["width"], text["mlp_ratio"]),
    }  # fmt: skip
    if sizes["vision"] == "vit":
        expected["vision_patch_size"] = _square(vision["patch_size"])
        expected["vision_mlp_width"] = _times(vision["width"], vision["mlp_ratio"])
    _compare(path, sizes, expected)
    quick = model.get("quick_gelu", False)
    if not isinstance(quick, bool):
        raise WeightsError(f"{path}: quick_gelu: expected true or false, got {str(quick)[:40]!r}")
    # Rounded down, as OpenCLIP does; a remainder then shows when the heads must divide the width.
    head_width = _whole(path, "vision_cfg.head_width", vision["head_width"])
    return {
        "model_file": path.name,
        "activation": "quick_gelu" if quick else "gelu",
        "vision_heads": _attention_width(sizes, "vision") // head_width,
        "text_heads": _whole(path, "text_cfg.heads", text["heads"]),
    }


def _read_preprocessor(folder, image_size):
    """Read preprocessor_config.json of transformers."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    raw = {key: value for key, value in load_json(path).items() if value is not None}
    _require_true(path, raw, "do_resize", "do_center_crop", "do_rescale", "do_normalize")
    size, crop = raw.get("size", image_size), raw.get("crop_size", image_size)
    if isinstance(size, dict):
        if set(size) != {"shortest_edge"}:
            raise WeightsError(f"{path}: size: expected the shortest_edge alone, got {str(size)[:80]}")
        size = size["shortest_edge"]
    if isinstance(crop, dict):
        crop = _square([crop.get("height"), crop.get("width")])
    for key, value in (("size", size), ("crop_size", crop)):
        if value != image_size:
            raise WeightsError(
                f"{path}: {key} is {str(value)[:40]}, the tensor shapes say image_size {image_size}"
            )
    _require_bicubic(path, raw)
    _require_rescale(path, raw)
    return _mean_std(path, raw, "image_mean", "image_std")


def _read_detector_preprocessor(folder, image_size, detector):
    """Read preprocessor_config.json of OwlViTImageProcessor or Owlv2ImageProcessor."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    raw = {key: value for key, value in load_json(path).items() if value is not None}
    _require_true(path, raw, "do_resize", "do_rescale", "rescale", "do_normalize")
    keys = ["size"]
    if detector == "owlv2":
        _require_true(path, raw, "do_pad")
    else:
        _require_bicubic(path, raw)
        if raw.get("do_center_crop", False) is not False:
            keys.append("crop_size")  # a crop of the whole square changes nothing
    for key in keys:
        size = raw.get(key, image_size)
        if isinstance(size, dict):
            size = [size.get("height"), size.get("width")]
        if _square(size) != image_size:
            raise WeightsError(
                f"{path}: {key} is {str(raw[key])[:60]}, the tensor shapes say image_size {image_size}"
            )
    _require_rescale(path, raw)
    return _mean_std(path, raw, "image_mean", "image_std")


def _require_true(path, raw, *keys):
    for key in keys:
        if raw.get(key, True) is not True:
            raise WeightsError(
                f"{path}: {key} = {str(raw[key])[:40]} is not clipc's preprocessing, expected true"
            )


def _require_bicubic(path, raw):
    if raw.get("resample", 3) != 3:
        raise WeightsError(f"{path}: resample: expected 3 (bicubic), got {str(raw['resample'])[:40]}")


def _require_rescale(path, raw):
    scale = raw.get("rescale_factor", 1 / 255)
    if not isinstance(scale, (int, float)) or abs(scale * 255 - 1) > 1e-6:
        raise WeightsError(f"{path}: rescale_factor: expected 1/255, got {str(scale)[:40]}")


def _read_open_clip_preprocess(folder, image_size):
    """Read preprocess_cfg of open_clip_config.json."""
    path = folder / "open_clip_config.json"
    if not path.is_file():
        return {}
    raw = load_json(path)
    if "preprocess_cfg" not in raw:
        return {}
    section = _section(path, raw, "preprocess_cfg")
    for key, expected in (("interpolation", "bicubic"), ("resize_mode", "shortest"), ("mode", "RGB")):
        if section.get(key, expected) != expected:
            raise WeightsError(
                f"{path}: preprocess_cfg.{key}: expected {expected}, got {str(section[key])[:40]}"
            )
    size = _square(section.get("size", image_size))
    if size != image_size:
        raise WeightsError(
            f"{path}: preprocess_cfg.size is {size}, the tensor shapes say image_size {image_size}"
        )
    return _mean_std(path, section, "mean", "std")


def _mean_std(path, section, mean_key, std_key):
    values = []
    for key, default in ((mean_key, CLIP_MEAN), (std_key, CLIP_STD)):
        value = default if section.get(key) is None else section[key]
        numbers = isinstance(value, (list, tuple)) and all(type(v) in (int, float) for v in value)
        if not numbers or len(value) != 3 or not all(math.isfinite(v) for v in value):
            raise WeightsError(f"{path}: {key}: expected three numbers, got {str(value)[:80]}")
        if key == std_key and min(value) <= 0:
            raise WeightsError(f"{path}: {key}: expected numbers above 0, got {value}")
        values.append(tuple(float(v) for v in value))
    return {"preprocessing_file": path.name, "image_mean": values[0], "image_std": values[1]}


def _compare(where, sizes, expected):
    """A size that a file states must be the one that the shapes tell."""
    for key, value in expected.items():
        if sizes[key] != value or isinstance(value, bool):
            raise WeightsError(f"{where} says {key} = {str(value)[:60]}, the tensor shapes say {sizes[key]}")


def _section(path, raw, key):
    value = raw.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: {key}: expected an object, got {str(value)[:60]!r}")
    return value


def _square(value):
    """One number for a size that may be written as a pair of equal numbers."""
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    return value


def _times(width, ratio):
    """Width of an MLP, rounded down as OpenCLIP does; None if these are no numbers."""
    if type(width) is not int or type(ratio) not in (int, float) or not math.isfinite(ratio):
        return None
    return int(width * ratio)


def _whole(path, key, value):
    if type(value) is not int or value < 1:
        raise WeightsError(f"{path}: {key}: expected a whole number from 1, got {str(value)[:40]!r}")
    return value
