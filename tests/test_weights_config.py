"""Sizes from shapes; heads, activation and preprocessing from whoever knows them; contradictions."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weights_builder import raw_file, resnet_shapes, shapes_of_huggingface, vit_shapes, write_zeros

from clipc.errors import WeightsError
from clipc.weights import CLIP_MEAN, CLIP_STD, ModelConfig, open_model

VIT = vit_shapes()
RESNET = resnet_shapes(width=16)

HF = {
    "model_type": "clip",
    "projection_dim": 24,
    "vision_config": {
        "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": 12, "patch_size": 4, "hidden_act": "gelu",
    },
    "text_config": {
        "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 11, "vocab_size": 50, "hidden_act": "gelu",
    },
}  # fmt: skip
OPEN_CLIP = {
    "model_cfg": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 12, "layers": 3, "width": 128, "head_width": 16, "patch_size": 4,
                       "mlp_ratio": 2.5},
        "text_cfg": {"context_length": 11, "vocab_size": 50, "width": 64, "heads": 4, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic",
                       "resize_mode": "shortest", "mode": "RGB", "size": 12},
}  # fmt: skip
PREPROCESSOR = {
    "crop_size": {"height": 12, "width": 12}, "size": {"shortest_edge": 12}, "resample": 3, "do_resize": True,
    "do_center_crop": True, "do_normalize": True, "do_rescale": True, "rescale_factor": 0.00392156862745098,
    "do_convert_rgb": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6],
}  # fmt: skip


def changed(config, path, value):
    """A copy of nested dicts with one value changed, or removed if the value is `...`."""
    copy = json.loads(json.dumps(config))
    *parents, last = path.split(".")
    inner = copy
    for key in parents:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return copy


def config_of(folder, shapes, metadata=None, hf=None, open_clip=None, preprocessor=None, **arguments):
    path = write_zeros(folder / "model.safetensors", shapes)
    if metadata:
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        raw_file(path, {"__metadata__": metadata, **header}, raw[8 + length :])
    files = {"config.json": hf, "open_clip_config.json": open_clip, "preprocessor_config.json": preprocessor}
    for name, content in files.items():
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text, encoding="utf-8")
    config, state = open_model(folder, **arguments)
    state.close()
    return config


# --- sizes --------------------------------------------------------------------------------------------


def test_sizes_of_a_vit(tmp_path):
    config = config_of(tmp_path, VIT)
    assert config.to_core() == {
        "embed_dim": 24, "image_size": 12, "vision": "vit", "vision_layers": 3, "vision_width": 128,
        "vision_patch_size": 4, "vision_heads": 2, "vision_mlp_width": 320, "context_length": 11,
        "vocab_size": 50, "text_width": 64, "text_heads": 1, "text_layers": 2, "text_mlp_width": 256,
        "activation": "quick_gelu", "detector": "",
    }  # fmt: skip
    assert config.name == tmp_path.name
    assert (config.image_mean, config.image_std) == (CLIP_MEAN, CLIP_STD)
    assert config.sources == dict.fromkeys(
        ("activation", "vision_heads", "text_heads", "preprocessing"), "default"
    )


def test_sizes_of_a_resnet(tmp_path):
    config = config_of(tmp_path, RESNET)
    core = config.to_core()
    assert core["vision"] == "modified_resnet" and core["vision_layers"] == (1, 2, 1, 1)
    assert (core["vision_width"], core["vision_heads"], core["image_size"]) == (16, 8, 64)
    assert core["vision_patch_size"] == core["vision_mlp_width"] == 0
    assert config.vision_patch_size is None and config.vision_mlp_width is None


def test_config_is_immutable_and_can_be_pickled(tmp_path):
    config = config_of(tmp_path, VIT)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.embed_dim = 3
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config and hash(copy) == hash(config) and copy.sources == config.sources
    assert all(type(v) in (int, str, tuple) for v in config.to_core().values())


HOSTILE = [(), (0,), (1,), (1, 1), (0, 0), (2, 2), (1, 1, 1, 1), (0, 3, 4, 4), (128, 3, 4, 0), (2,) * 8]
NEEDED = {
    "vit": ["visual.conv1.weight", "visual.positional_embedding", "token_embedding.weight", "text_projection",
            "positional_embedding", "transformer.resblocks.0.mlp.c_fc.weight",
            "visual.transformer.resblocks.0.mlp.c_fc.weight"],
    "resnet": ["visual.layer1.0.conv1.weight", "visual.attnpool.positional_embedding", "text_projection"],
}  # fmt: skip


@pytest.mark.parametrize("shape", HOSTILE, ids=str)
@pytest.mark.parametrize("kind, name", [(kind, name) for kind in NEEDED for name in NEEDED[kind]])
def test_hostile_shapes(tmp_path, kind, name, shape):
    shapes = {**(VIT if kind == "vit" else RESNET), name: shape}
    with pytest.raises(WeightsError) as caught:
        config_of(tmp_path, shapes)
    if (name, shape) != (
        "visual.layer1.0.conv1.weight",
        (1, 1, 1, 1),
    ):  # possible as such; others then differ
        assert str(caught.value).startswith(f"{name}: expected [")
        assert str(caught.value).rpartition(", got ")[2].startswith(str(list(shape)))


@pytest.mark.parametrize("kind, name", [(kind, name) for kind in NEEDED for name in NEEDED[kind]])
def test_missing_tensors(tmp_path, kind, name):
    shapes = {k: v for k, v in (VIT if kind == "vit" else RESNET).items() if k != name}
    with pytest.raises(WeightsError, match="missing|not a CLIP model"):
        config_of(tmp_path, shapes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"visual.positional_embedding": (12, 128)}, "no square grid"),
        ({"visual.positional_embedding": (1, 128)}, "no square grid"),
        ({"visual.positional_embedding": (10, 127)}, r"expected \[1 \+ grid\*grid, 128\].* got \[10, 127\]"),
        (
            {"visual.conv1.weight": (128, 3, 4, 5)},
            r"expected \[width, 3, patch, patch\], got \[128, 3, 4, 5\]",
        ),
        (
            {"visual.conv1.weight": (128, 4, 4, 4)},
            r"expected \[width, 3, patch, patch\].*got \[128, 4, 4, 4\]",
        ),
        ({"token_embedding.weight": (0, 64)}, r"\[vocabulary, 64\], sizes from 1 to 16777216, got \[0, 64\]"),
        ({"ln_final.weight": (2**24 + 1,)}, "sizes from 1 to 16777216"),
        ({"ln_final.weight": (0,)}, "sizes from 1 to 16777216"),
    ],
)
def test_shapes_that_no_vit_has(tmp_path, changes, message):
    with pytest.raises(WeightsError, match=message):
        config_of(tmp_path, {**VIT, **changes})


@pytest.mark.parametrize("block", ["visual.transformer.resblocks.", "transformer.resblocks."])
def test_gap_in_the_blocks(tmp_path, block):
    shapes = {k: v for k, v in VIT.items() if not k.startswith(block + "0.")}
    with pytest.raises(WeightsError, match=f"missing tensors? {block}0".replace(".", r"\.")):
        config_of(tmp_path, shapes)
    far = {**VIT, block + "7.ln_1.weight": (128,)}
    with pytest.raises(WeightsError, match="missing tensors .*there is .*7"):
        config_of(tmp_path, far)


def test_stage_without_blocks(tmp_path):
    shapes = {k: v for k, v in RESNET.items() if not k.startswith("visual.layer3.")}
    with pytest.raises(WeightsError, match=r"missing tensors visual\.layer3\.0\."):
        config_of(tmp_path, shapes)


# --- who says heads and activation --------------------------------------------------------------------

METADATA = {"activation": "gelu", "heads": "8,16"}


def chosen(config):
    return config.activation, config.vision_heads, config.text_heads


def test_precedence_openai_layout(tmp_path):
    default = config_of(tmp_path, VIT)
    assert chosen(default) == ("quick_gelu", 2, 1)
    stored = config_of(tmp_path, VIT, METADATA)
    assert chosen(stored) == ("gelu", 8, 16) and stored.sources["text_heads"] == "file metadata"
    hf = config_of(tmp_path, VIT, METADATA, hf=HF)
    assert chosen(hf) == ("gelu", 4, 2) and hf.sources["activation"] == "config.json"
    open_clip = config_of(tmp_path, VIT, METADATA, hf=HF, open_clip=OPEN_CLIP)
    assert chosen(open_clip) == ("quick_gelu", 8, 4)
    assert open_clip.sources["vision_heads"] == "open_clip_config.json"
    asked = config_of(tmp_path, VIT, METADATA, hf=HF, open_clip=OPEN_CLIP, activation="gelu", heads=32)
    assert chosen(asked) == ("gelu", 32, 4)
    assert asked.sources["vision_heads"] == asked.sources["activation"] == "argument"
    assert asked.sources["text_heads"] == "open_clip_config.json"


def test_precedence_huggingface_layout(tmp_path):
    shapes = shapes_of_huggingface(VIT)
    both = config_of(tmp_path, shapes, METADATA, hf=HF, open_clip=OPEN_CLIP, preprocessor=PREPROCESSOR)
    assert chosen(both) == ("gelu", 4, 2) and both.image_mean == (0.1, 0.2, 0.3)
    other = config_of(tmp_path, shapes, METADATA, open_clip=OPEN_CLIP)
    assert chosen(other) == ("quick_gelu", 8, 4) and other.image_std == (0.2, 0.3, 0.4)
    assert other.sources["preprocessing"] == "open_clip_config.json"


def test_metadata_with_one_number(tmp_path):
    config = config_of(tmp_path, VIT, {"heads": "16", "name": "mine"})
    assert (config.vision_heads, config.text_heads, config.name) == (16, 1, "mine")
    assert config.sources["text_heads"] == "default"


def test_defaults_of_transformers_where_keys_are_absent(tmp_path):
    hf = HF
    for key in ("vision_config.hidden_act", "text_config.hidden_act", "text_config.num_attention_heads"):
        hf = changed(hf, key, ...)
    config = config_of(tmp_path, shapes_of_huggingface(VIT), hf=hf)
    assert (config.activation, config.text_heads) == ("quick_gelu", 8)
    with pytest.raises(WeightsError, match="12.*does not divide the width 128"):
        config_of(tmp_path, VIT, hf=changed(HF, "vision_config.num_attention_heads", ...))
    # hidden_size itself is 768 when it is not given
    with pytest.raises(WeightsError, match="vision_width = 768, the tensor shapes say 128"):
        config_of(tmp_path, VIT, hf=changed(HF, "vision_config.hidden_size", ...))


def test_defaults_of_open_clip_where_keys_are_absent(tmp_path):
    config = config_of(tmp_path, VIT, open_clip=changed(OPEN_CLIP, "model_cfg.quick_gelu", ...))
    assert config.activation == "gelu"
    config = config_of(tmp_path, VIT, open_clip=changed(OPEN_CLIP, "model_cfg.vision_cfg.head_width", ...))
    assert config.vision_heads == 2
    config = config_of(tmp_path, VIT, open_clip=changed(OPEN_CLIP, "model_cfg.text_cfg.heads", ...))
    assert config.text_heads == 8


def test_old_config_dict_of_transformers_wins(tmp_path):
    hf = {
        **HF,
        "vision_config_dict": {**HF["vision_config"], "num_attention_heads": 16},
        "text_config_dict": None,
    }
    assert config_of(tmp_path, VIT, hf=hf).vision_heads == 16


def test_open_clip_resnet(tmp_path):
    vision = {
        "image_size": [64, 64],
        "layers": [1, 2, 1, 1],
        "width": 16,
        "patch_size": None,
        "head_width": 32,
    }
    cfg = changed(OPEN_CLIP, "model_cfg.vision_cfg", vision)
    del cfg["preprocess_cfg"]["size"]
    config = config_of(tmp_path, RESNET, open_clip=cfg)
    assert config.vision_heads == 16 * 32 // 32 and config.image_mean == (0.5, 0.4, 0.3)
    with pytest.raises(WeightsError, match="describes a ViT, the weights hold a ModifiedResNet"):
        config_of(tmp_path, RESNET, hf=HF)


def test_config_of_other_programs_is_ignored(tmp_path):
    timm = {"architecture": "vit_base_patch32_clip_224", "num_classes": 512}
    assert config_of(tmp_path, VIT, hf=timm).sources["activation"] == "default"
    assert config_of(tmp_path, VIT, hf={"model_type": "bert"}).sources["activation"] == "default"
    with pytest.raises(WeightsError, match="expected model_type clip, got 'siglip'"):
        config_of(tmp_path, shapes_of_huggingface(VIT), hf={**HF, "model_type": "siglip"})


def test_single_file_uses_the_configuration_beside_it(tmp_path):
    config_of(tmp_path, VIT, hf=HF, preprocessor=PREPROCESSOR)
    config, state = open_model(str(tmp_path / "model.safetensors"))
    state.close()
    assert chosen(config) == ("gelu", 4, 2) and config.name == "model"
    assert config.sources["preprocessing"] == "preprocessor_config.json"


def test_width_that_is_no_multiple_of_64_needs_heads(tmp_path):
    shapes = vit_shapes(width=80, text={"width": 48})
    with pytest.raises(WeightsError, match="number of vision heads is stored nowhere.*width 80"):
        config_of(tmp_path, shapes)
    with pytest.raises(WeightsError, match="number of text heads"):
        config_of(tmp_path, shapes, heads=1)
    assert chosen(config_of(tmp_path, shapes, heads=(1, 3)))[1:] == (1, 3)
    assert chosen(config_of(tmp_path, shapes, heads=[np.int64(2), 4]))[1:] == (2, 4)
    with pytest.raises(WeightsError, match="number of vision heads"):
        config_of(tmp_path, shapes, heads=(None, 4))


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"heads": 3}, ValueError, "vision heads: 3 .from argument. does not divide the width 128"),
        ({"heads": (2, 5)}, ValueError, "text heads: 5 .* width 64"),
        ({"heads": 0}, ValueError, "numbers from 1"),
        ({"heads": -2}, ValueError, "numbers from 1"),
        ({"heads": 256}, ValueError, "does not divide"),
        ({"heads": (1, 2, 3)}, ValueError, "a pair"),
        ({"heads": "12"}, TypeError, "heads"),
        ({"heads": 2.0}, TypeError, "heads"),
        ({"heads": True}, TypeError, "heads"),
        ({"activation": "relu"}, ValueError, "expected one of quick_gelu, gelu, got 'relu'"),
        ({"activation": 3}, ValueError, "expected one of"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        config_of(tmp_path, VIT, **arguments)
    assert not isinstance(caught.value, WeightsError)


@pytest.mark.parametrize(
    "metadata, message",
    [
        ({"heads": "twelve"}, "metadata heads: expected 12 or 12,8"),
        ({"heads": ""}, "metadata heads"),
        ({"heads": "1,2,3"}, "metadata heads"),
        ({"heads": "-1"}, "metadata heads"),
        ({"heads": "9" * 50}, "metadata heads"),
        ({"heads": "0"}, "vision heads: 0 .from file metadata. does not divide"),
        ({"heads": "3"}, "vision heads: 3 .from file metadata. does not divide"),
        ({"activation": "relu"}, "metadata activation: expected quick_gelu or gelu, got 'relu'"),
    ],
)
def test_wrong_metadata(tmp_path, metadata, message):
    with pytest.raises(WeightsError, match=message):
        config_of(tmp_path, VIT, metadata)


# --- files that contradict the shapes, or ask for something else ---------------------------------------


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("vision_config.patch_size", 16, "config.json says vision_patch_size = 16, the tensor shapes say 4"),
        ("vision_config.image_size", 224, "image_size = 224, the tensor shapes say 12"),
        ("vision_config.hidden_size", 768, "vision_width = 768, the tensor shapes say 128"),
        ("vision_config.intermediate_size", 512, "vision_mlp_width = 512, the tensor shapes say 320"),
        ("vision_config.num_hidden_layers", 12, "vision_layers = 12, the tensor shapes say 3"),
        ("text_config.hidden_size", 512, "text_width = 512, the tensor shapes say 64"),
        ("text_config.intermediate_size", 512, "text_mlp_width = 512"),
        ("text_config.num_hidden_layers", 12, "text_layers = 12"),
        ("text_config.max_position_embeddings", 77, "context_length = 77, the tensor shapes say 11"),
        ("text_config.vocab_size", 49408, "vocab_size = 49408, the tensor shapes say 50"),
        ("projection_dim", ..., "embed_dim = 512, the tensor shapes say 24"),
        ("vision_config.hidden_act", "quick_gelu", "one activation for both"),
        ("vision_config.hidden_act", "gelu_new", "hidden_act: expected quick_gelu or gelu, got 'gelu_new'"),
        ("vision_config.layer_norm_eps", 1e-6, "layer_norm_eps: expected 1e-05, got 1e-06"),
        ("vision_config.num_attention_heads", 3, "vision heads: 3 .from config.json. does not divide"),
        ("vision_config.num_attention_heads", "4", "num_attention_heads: expected a whole number"),
        ("vision_config", [1], "vision_config: expected an object"),
    ],
)
def test_config_json_that_contradicts(tmp_path, path, value, message):
    with pytest.raises(WeightsError, match=message):
        config_of(tmp_path, shapes_of_huggingface(VIT), hf=changed(HF, path, value))


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("model_cfg.embed_dim", 512, "open_clip_config.json says embed_dim = 512, the tensor shapes say 24"),
        ("model_cfg.vision_cfg.patch_size", 16, "vision_patch_size = 16, the tensor shapes say 4"),
        ("model_cfg.vision_cfg.layers", [1, 2, 1, 1], "vision_layers"),
        ("model_cfg.vision_cfg.mlp_ratio", 4.0, "vision_mlp_width = 512, the tensor shapes say 320"),
        ("model_cfg.vision_cfg.image_size", [12, 16], "image_size"),
        ("model_cfg.vision_cfg.head_width", 0, "head_width: expected a whole number"),
        ("model_cfg.vision_cfg.head_width", 40, "vision heads: 3 .* does not divide the width 128"),
        ("model_cfg.vision_cfg.timm_model_name", "vit_x", "timm_model_name = vit_x is a variant"),
        ("model_cfg.vision_cfg.attentional_pool", True, "attentional_pool = True is a variant"),
        ("model_cfg.vision_cfg.pool_type", "avg", "pool_type = avg is a variant"),
        ("model_cfg.vision_cfg.norm_kwargs", {"eps": 1e-6}, "norm_kwargs"),
        ("model_cfg.text_cfg.pool_type", "last", "pool_type = last is a variant"),
        ("model_cfg.text_cfg.no_causal_mask", True, "no_causal_mask = True is a variant"),
        ("model_cfg.text_cfg.hf_model_name", "roberta-base", "hf_model_name = roberta-base is a variant"),
        ("model_cfg.text_cfg.hf_tokenizer_name", "bert-base-uncased", "hf_tokenizer_name = bert"),
        ("model_cfg.text_cfg.heads", 7, "text heads: 7"),
        ("model_cfg.quick_gelu", "yes", "quick_gelu: expected true or false"),
        ("preprocess_cfg.interpolation", "bilinear", "interpolation: expected bicubic, got bilinear"),
        ("preprocess_cfg.resize_mode", "squash", "resize_mode: expected shortest, got squash"),
        (
            "preprocess_cfg.size",
            [224, 224],
            "preprocess_cfg.size is 224, the tensor shapes say image_size 12",
        ),
        ("preprocess_cfg.mean", [0.5, 0.5], "mean: expected three numbers"),
        ("preprocess_cfg.std", [0.5, 0.0, 0.5], "std: expected numbers above 0"),
    ],
)
def test_open_clip_config_that_contradicts(tmp_path, path, value, message):
    with pytest.raises(WeightsError, match=message):
        config_of(tmp_path, VIT, open_clip=changed(OPEN_CLIP, path, value))


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("size", {"shortest_edge": 256}, "size is 256, the tensor shapes say image_size 12"),
        ("size", {"height": 12, "width": 12}, "expected the shortest_edge alone"),
        ("crop_size", {"height": 12, "width": 14}, "crop_size is"),
        ("crop_size", 224, "crop_size is 224"),
        ("resample", 2, "resample: expected 3"),
        ("rescale_factor", 1.0, "rescale_factor: expected 1/255"),
        ("do_center_crop", False, "do_center_crop = False is not clipc's preprocessing"),
        ("do_normalize", False, "do_normalize = False"),
        ("image_mean", "0.5", "image_mean: expected three numbers"),
        ("image_std", [1, 2, -3], "image_std: expected numbers above 0"),
    ],
)
def test_preprocessing_that_is_not_clips(tmp_path, key, value, message):
    with pytest.raises(WeightsError, match=message):
        config_of(tmp_path, shapes_of_huggingface(VIT), hf=HF, preprocessor={**PREPROCESSOR, key: value})


def test_preprocessing_in_its_older_form(tmp_path):
    older = {"size": 12, "crop_size": 12, "resample": 3, "image_mean": [0.5, 0.5, 0.5], "do_resize": None}
    config = config_of(tmp_path, shapes_of_huggingface(VIT), hf=HF, preprocessor=older)
    assert config.image_mean == (0.5, 0.5, 0.5) and config.image_std == CLIP_STD


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a": NaN}', "\ufeff{}", '{"a": 1, "a": 2}'])
@pytest.mark.parametrize("kind", ["hf", "open_clip", "preprocessor"])
def test_configuration_that_is_no_json_object(tmp_path, kind, text):
    with pytest.raises(WeightsError, match="json"):
        config_of(tmp_path, VIT, **{kind: text})


def leaves(config, prefix=""):
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")


JUNK = [
    None,
    -1,
    0,
    1,
    12,
    10**24,
    1e999,
    -1e999,
    2.5,
    "x",
    "",
    [],
    [[]],
    [1, 2],
    {},
    {"eps": 1},
    True,
    False,
]


@pytest.mark.parametrize(
    "name, config",
    [("config.json", HF), ("open_clip_config.json", OPEN_CLIP), ("preprocessor_config.json", PREPROCESSOR)],
)
def test_junk_in_configuration_files(tmp_path, name, config):
    """Every value of every file, replaced by junk: a configuration or a `WeightsError`, nothing else."""
    outcomes = set()
    write_zeros(tmp_path / "model.safetensors", VIT)
    for path in leaves(config):
        for value in JUNK:
            try:
                (tmp_path / name).write_text(json.dumps(changed(config, path, value)))
                found, state = open_model(tmp_path)
                state.close()
                assert isinstance(found, ModelConfig) and 128 % found.vision_heads == 0
                outcomes.add("accepted")
            except WeightsError:
                outcomes.add("refused")
    assert outcomes == {"accepted", "refused"}


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(VIT)), shape=st.lists(st.integers(0, 70), max_size=4))
def test_any_shape_anywhere(tmp_path_factory, name, shape):
    try:
        config_of(
            tmp_path_factory.mktemp("shape"), {**VIT, name: tuple(shape)} if np.prod(shape) < 1e6 else VIT
        )
    except WeightsError:
        pass
