"""Tensor layouts: every one gives the same tensors under OpenAI's names, and nothing goes unnoticed."""

import importlib.util
import inspect

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel
from weights_builder import (
    random_arrays,
    resnet_shapes,
    to_huggingface,
    to_openclip,
    vit_shapes,
    write_safetensors,
)

from clipc.errors import WeightsError
from clipc.weights import open_model

VIT = random_arrays(vit_shapes(), seed=1)
RESNET = random_arrays(resnet_shapes(), seed=2)
HEADS = (2, 1)


def opened(path, **kwargs):
    kwargs.setdefault("heads", HEADS)
    return open_model(path, **kwargs)


def check_equal(path, expected, layout):
    config, state = opened(path)
    with state:
        assert state.layout == layout
        assert set(state.names) == set(expected)
        for name, array in expected.items():
            assert name in state and state.shapes[name] == array.shape == state.shape(name)
            read = state.read(name)
            assert read.dtype == array.dtype and read.flags.c_contiguous and read.shape == array.shape
            np.testing.assert_array_equal(read, array, err_msg=name)
        state.check_all_used()
    return config


LAYOUTS = {
    "openai": (lambda t: t, "openai"),
    "openclip": (to_openclip, "openclip"),
    "huggingface": (to_huggingface, "huggingface"),
    "module": (lambda t: {"module." + k: v for k, v in t.items()}, "openai"),
    "state_dict.module": (lambda t: {"state_dict.module." + k: v for k, v in t.items()}, "openai"),
    "module + openclip": (lambda t: {"module." + k: v for k, v in to_openclip(t).items()}, "openclip"),
    "clip + huggingface": (lambda t: {"clip." + k: v for k, v in to_huggingface(t).items()}, "huggingface"),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16], ids=["f32", "f16", "bf16"])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_vit_in_every_layout(tmp_path, kind, dtype):
    convert, layout = LAYOUTS[kind]
    tensors = {name: array.astype(dtype) for name, array in VIT.items()}
    check_equal(write_safetensors(tmp_path / "a.safetensors", convert(tensors)), tensors, layout)


@pytest.mark.parametrize("kind", ["openai", "openclip", "module", "module + openclip"])
def test_resnet_in_every_layout(tmp_path, kind):
    convert, layout = LAYOUTS[kind]
    path = write_safetensors(tmp_path / "a.safetensors", convert(RESNET))
    config = check_equal(path, RESNET, layout)
    assert config.vision == "modified_resnet" and config.vision_layers == (1, 2, 1, 1)


def test_mixed_dtypes_as_in_openai_files(tmp_path):
    tensors = {name: array.astype(np.float16) if array.ndim > 1 else array for name, array in VIT.items()}
    check_equal(write_safetensors(tmp_path / "a.safetensors", tensors), tensors, "openai")


def test_entries_for_other_programs_are_ignored(tmp_path):
    number = np.array(7)
    extra = {
        "input_resolution": number,
        "context_length": number,
        "vocab_size": number,
        "visual.bn1.num_batches_tracked": number,
        "visual.layer1.0.downsample.1.num_batches_tracked": number,
        "attn_mask": np.zeros((11, 11), np.float32),
    }
    path = write_safetensors(tmp_path / "a.safetensors", {**RESNET, **extra})
    check_equal(path, RESNET, "openai")
    ids = {
        f"{tower}.embeddings.position_ids": np.zeros((1, 10), np.int64)
        for tower in ("vision_model", "text_model")
    }
    path = write_safetensors(tmp_path / "b.safetensors", {**to_huggingface(VIT), **ids})
    check_equal(path, VIT, "huggingface")
    path = write_safetensors(tmp_path / "c.safetensors", {**to_openclip(VIT), "text.attn_mask": number})
    check_equal(path, VIT, "openclip")


@pytest.mark.parametrize("shape", [(), (1,)])
def test_logit_scale_is_a_scalar(tmp_path, shape):
    tensors = {**VIT, "logit_scale": np.full(shape, 4.6, np.float32)}
    _, state = opened(write_safetensors(tmp_path / "a.safetensors", tensors))
    with state:
        assert state.shapes["logit_scale"] == () and state.read("logit_scale").shape == ()


def test_transformers_model_gives_the_features_of_openai_code(tmp_path):
    """Hugging Face's model against OpenAI's own code with the translated tensors: features agree."""
    tower = {"intermediate_size": 256, "num_hidden_layers": 2, "projection_dim": 24}
    ids = {"bos_token_id": 98, "eos_token_id": 99, "pad_token_id": 0}
    theirs = CLIPModel(
        CLIPConfig(
            text_config={**tower, **ids, "hidden_size": 64, "num_attention_heads": 1, "vocab_size": 100},
            vision_config={**tower, "hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2,
                           "image_size": 32, "patch_size": 8},
            projection_dim=24,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():  # the initial weights are too small to tell an error from rounding
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    theirs.save_pretrained(tmp_path)

    config, state = open_model(tmp_path)
    assert config.sources["activation"] == config.sources["vision_heads"] == "config.json"
    assert (config.image_size, config.vision_heads, config.text_heads, config.embed_dim) == (32, 2, 1, 24)
    with state:
        tensors = {name: torch.from_numpy(state.read(name)) for name in state.names}
        state.check_all_used()
    ours = openai_clip(
        embed_dim=24, image_resolution=32, vision_layers=2, vision_width=128, vision_patch_size=8,
        context_length=77, vocab_size=100, transformer_width=64, transformer_heads=1, transformer_layers=2,
    )  # fmt: skip
    ours.load_state_dict(tensors, strict=True)
    ours.eval()
    image, text = torch.randn(3, 3, 32, 32), torch.randint(1, 98, (3, 77))
    text[:, 0], text[0, 20], text[1, 5], text[2, 76] = 98, 99, 99, 99
    text = torch.where(torch.arange(77) > text.argmax(1, keepdim=True), 0, text)
    with torch.no_grad():
        for mine, other in (
            (ours.encode_image(image), theirs.get_image_features(pixel_values=image)),
            (ours.encode_text(text), theirs.get_text_features(input_ids=text)),
        ):
            other = getattr(other, "pooler_output", other)
            mine, other = (torch.nn.functional.normalize(x, dim=-1) for x in (mine, other))
            spread = (mine[0] - mine[1]).abs().max().item()
            error = (mine - other).abs().max().item()
            print(f"largest error {error:.1e}, spread {spread:.2f}")
            assert spread > 1e-2 and error < 2e-5


def openai_clip(**sizes):
    """OpenAI's CLIP class, from the file alone: the package's own import wants torchvision."""
    folder = importlib.util.find_spec("clip").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("openai_clip_model", folder + "/model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "transformer_heads" in inspect.signature(module.CLIP).parameters
    return module.CLIP(**sizes)


# --- what does not fit --------------------------------------------------------------------------------


def without(tensors, *starts):
    return {name: array for name, array in tensors.items() if not name.startswith(starts)}


@pytest.mark.parametrize(
    "tensors, missing, message",
    [
        (VIT, "visual.proj", r"missing tensor visual\.proj in"),
        (RESNET, "visual.bn2.running_var", r"missing tensor visual\.bn2\.running_var in"),
        (
            to_openclip(VIT),
            "text.ln_final.bias",
            r"missing tensor ln_final\.bias \(text\.ln_final\.bias in this file\)",
        ),
        (
            to_huggingface(VIT),
            "visual_projection.weight",
            r"visual\.proj \(visual_projection\.weight in this file\)",
        ),
        (
            to_huggingface(VIT),
            "text_model.encoder.layers.1.self_attn.k_proj.bias",
            r"missing tensor text_model\.encoder\.layers\.1\.self_attn\.k_proj\.bias .*in_proj_bias",
        ),
        (
            to_huggingface(VIT),
            "vision_model.encoder.layers.2.mlp.fc2.weight",
            r"resblocks\.2\.mlp\.c_proj\.weight \(vision_model\.encoder\.layers\.2\.mlp\.fc2\.weight in this",
        ),
        (to_huggingface(VIT), "logit_scale", r"missing tensor logit_scale in"),
    ],
)
def test_missing_tensor_is_named(tmp_path, tensors, missing, message):
    path = write_safetensors(tmp_path / "a.safetensors", {k: v for k, v in tensors.items() if k != missing})
    _, state = opened(path)
    with state, pytest.raises(WeightsError, match=message):
        for name in VIT if tensors is not RESNET else RESNET:
            state.read(name)


@pytest.mark.parametrize(
    "tensors, names",
    [
        (VIT, ["visual.extra"]),
        (VIT, ["visual.transformer.resblocks.0.ls_1.gamma"]),
        (VIT, [f"extra.{i}" for i in range(9)]),
        (to_openclip(VIT), ["text.extra"]),
        (to_openclip(VIT), ["ln_final.weight"]),
        (to_openclip(VIT), ["text.visual.proj"]),
        (to_huggingface(VIT), ["visual_projection.bias"]),
        (to_huggingface(VIT), ["visual.proj"]),
        (to_huggingface(VIT), ["text_model.encoder.layers.0.self_attn.q_norm.weight"]),
        (RESNET, ["visual.proj"]),
    ],
)
def test_surplus_tensors_are_named(tmp_path, tensors, names):
    path = write_safetensors(
        tmp_path / "a.safetensors", {**tensors, **{n: np.ones(3, np.float32) for n in names}}
    )
    _, state = opened(path)
    with state:
        for name in RESNET if tensors is RESNET else VIT:
            state.read(name)
        with pytest.raises(WeightsError, match=f"{len(names)} surplus tensors") as caught:
            state.check_all_used()
    assert names[0] in str(caught.value)
    assert ("..." in str(caught.value)) == (len(names) > 5)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float64])
def test_needed_tensor_of_a_wrong_dtype(tmp_path, dtype):
    tensors = {**VIT, "ln_final.weight": np.ones(64, dtype)}
    _, state = opened(write_safetensors(tmp_path / "a.safetensors", tensors))
    with (
        state,
        pytest.raises(WeightsError, match="ln_final.weight: expected dtype F32, F16 or BF16, got [IF]"),
    ):
        state.read("ln_final.weight")


def test_query_key_value_that_differ(tmp_path):
    name = "text_model.encoder.layers.0.self_attn.k_proj.weight"
    for array in (np.ones((64, 64), np.float16), np.ones((63, 64), np.float32), np.float32(1)):
        tensors = {**to_huggingface(VIT), name: np.asarray(array)}
        with pytest.raises(WeightsError, match="expected one dtype and shape for query, key and value"):
            opened(write_safetensors(tmp_path / "a.safetensors", tensors))


def test_projection_of_a_wrong_rank(tmp_path):
    tensors = {**to_huggingface(VIT), "text_projection.weight": np.ones(24, np.float32)}
    with pytest.raises(WeightsError, match=r"text_projection.weight: expected two axes, got \[24\]"):
        opened(write_safetensors(tmp_path / "a.safetensors", tensors))


STRANGERS = {
    "timm tower": ({**without(VIT, "visual."), "visual.trunk.blocks.0.attn.qkv.weight": None}, "timm"),
    "SigLIP": ({**to_huggingface(VIT), "vision_model.head.probe": None}, "SigLIP"),
    "CoCa": ({**to_openclip(VIT), "text_decoder.ln_final.weight": None}, "CoCa"),
    "OWL-ViT and OWLv2": ({"owlvit.logit_scale": None, "owlv2.logit_scale": None}, "OWL-ViT and of OWLv2"),
    "BERT text": ({**VIT, "text.transformer.embeddings.word_embeddings.weight": None}, "language model"),
    "Chinese-CLIP": ({"text_model.encoder.layer.0.output.dense.bias": None}, "language model"),
    "LoRA": ({"base_model.model.x.lora_A.weight": None}, "LoRA"),
    "something else": ({"conv1.weight": None, "fc.bias": None}, "found 2 such as conv1.weight, fc.bias"),
    "prefix on some names only": (
        {("module." if k[0] == "v" else "") + k: v for k, v in VIT.items()},
        "image tower",
    ),
    "image tower, OpenAI": (without(VIT, "t", "l", "p"), "holds only the image tower"),
    "text tower, OpenAI": (without(VIT, "visual."), "holds only the text tower"),
    "text tower, OpenCLIP": (without(to_openclip(VIT), "visual."), "holds only the text tower"),
    "CLIPVisionModelWithProjection": (without(to_huggingface(VIT), "text"), "holds only the image tower"),
    "CLIPTextModel": (without(to_huggingface(VIT), "vis"), "holds only the text tower"),
}


@pytest.mark.parametrize("what", STRANGERS)
def test_models_of_other_kinds(tmp_path, what):
    tensors, message = STRANGERS[what]
    tensors = {k: np.ones(2, np.float32) if v is None else v for k, v in tensors.items()}
    with pytest.raises(WeightsError, match=message) as caught:
        opened(write_safetensors(tmp_path / "model.safetensors", tensors))
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("kind", ["openai", "openclip", "huggingface"])
def test_logit_bias(tmp_path, kind):
    convert, layout = LAYOUTS[kind]
    for bias in (np.zeros((), np.float32), np.zeros(1, np.float16), np.zeros((), np.uint16)):
        path = write_safetensors(tmp_path / "a.safetensors", {**convert(VIT), "logit_bias": bias})
        check_equal(path, VIT, layout)
    for bias in (np.float32([-10]), np.zeros(2, np.float32), np.zeros((), np.int64)):
        path = write_safetensors(tmp_path / "a.safetensors", {**convert(VIT), "logit_bias": bias})
        with pytest.raises(WeightsError, match="logit_bias"):
            opened(path)
