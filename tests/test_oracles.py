"""The oracles against each other: a reference that is wrong, or blind, would prove nothing."""

import json

import numpy as np
import pytest
from availability import require

torch = require("torch")

from oracles import (  # noqa: E402
    SMALL,
    SPECS,
    TEXTS,
    Architecture,
    build_reference,
    check_parity,
    double_reference,
    layouts,
    load_float32,
    max_error,
    random_state_dict,
    reference_image_features,
    reference_text_features,
    spread,
    tokenize,
)

SEED = 0
small = pytest.mark.parametrize("name, seed", [(name, SEED) for name in SMALL],
                                ids=[f"{name}-seed{SEED}" for name in SMALL])
full = pytest.mark.parametrize("name, seed", [("RN50", SEED), ("ViT-B/32", SEED)],
                               ids=[f"RN50-seed{SEED}", f"ViT-B/32-seed{SEED}"])


def features(model, x, tokens):
    return reference_image_features(model, x), reference_text_features(model, tokens)


def check_signal(model, x):
    """Features differ, and float32 computes them far more exactly than parity demands."""
    tokens = tokenize(TEXTS)
    found = features(model, x, tokens)
    exact = features(double_reference(model), x.astype(np.float64), tokens)
    for side, single, double in zip(("images", "texts"), found, exact):
        check_parity(single.unit, double.unit, tolerance=5e-6, what=f"{side}, float32 and float64",
                     least_spread=0.1)
        np.testing.assert_allclose(np.linalg.norm(single.unit, axis=1), 1, atol=1e-6)


@small
def test_features_of_random_models_carry_signal(name, seed, random_model, photos):
    spec, _, model = random_model(name, seed)
    check_signal(model, photos(4, spec.image_size, seed=7))


@pytest.mark.full
@full
def test_features_of_full_models_carry_signal(name, seed, random_model, photos):
    spec, _, model = random_model(name, seed)
    check_signal(model, photos(2, spec.image_size, seed=7))


@pytest.mark.full
@pytest.mark.parametrize("eos", [2, 49407])
@pytest.mark.parametrize("name", [name for name in SMALL if SMALL[name].is_vit])
def test_transformers_agrees(name, eos, random_model, photos, tmp_path):
    require("transformers")
    from oracles import transformers_reference as hf

    spec, weights, model = random_model(name, SEED)
    layouts.save_huggingface(weights, tmp_path, spec, position_ids=eos == 2, eos_token_id=eos)
    other = hf.load_transformers(tmp_path)
    x, tokens = photos(4, spec.image_size, seed=7), tokenize(TEXTS)
    images, texts = features(model, x, tokens)
    check_parity(hf.transformers_image_features(other, x).unit, images.unit, 1e-5, f"{name} images")
    check_parity(hf.transformers_text_features(other, tokens).unit, texts.unit, 1e-5, f"{name} texts")


@pytest.mark.full
def test_transformers_loads_a_rounded_file(random_model, photos, tmp_path):
    require("transformers")
    from oracles import transformers_reference as hf

    spec, weights, _ = random_model("ViT-H80-small", SEED)
    x = photos(4, spec.image_size, seed=7)
    for dtype in ("float16", "bfloat16"):
        folder = layouts.save_huggingface(weights, tmp_path / dtype, spec, dtype)
        model = build_reference(layouts.rounded(weights, dtype), spec.activation, spec.heads)
        found = hf.transformers_image_features(hf.load_transformers(folder), x)
        check_parity(found.unit, reference_image_features(model, x).unit, 1e-5, f"images, {dtype} file")


@pytest.mark.full
@small
def test_every_tensor_is_felt(name, seed, random_model, photos):
    # A tensor that could be one percent off unnoticed would be outside of what parity tests.
    spec, weights, _ = random_model(name, seed)
    own = {key: value.clone() for key, value in weights.items()}
    model = build_reference(own, spec.activation, spec.heads)
    x, tokens = photos(4, spec.image_size, seed=7), tokenize(TEXTS)
    images, texts = features(model, x, tokens)
    least, noise = {}, torch.Generator().manual_seed(seed)
    for key, value in model.state_dict().items():
        if key == "logit_scale" or key.endswith(("num_batches_tracked", "k_proj.bias")):
            continue  # No part of features; a bias of all keys alike cancels in the softmax.
        # Noise, not a factor: unit features would not show the scale of a projection.
        value *= 1 + 0.01 * torch.randn(value.shape, generator=noise)
        if key.startswith("visual."):
            least[key] = max_error(reference_image_features(model, x).unit, images.unit)
        else:
            least[key] = max_error(reference_text_features(model, tokens).unit, texts.unit)
        value.copy_(weights[key])
    key = min(least, key=least.get)
    print(f"least felt: {key}, {least[key]:.1e} for one percent")
    assert least[key] > 4e-5


@pytest.mark.full
@small
def test_weights_depend_on_the_seed_alone(name, seed, random_model):
    spec, first, _ = random_model(name, seed)
    again, other = random_state_dict(spec, seed), random_state_dict(spec, seed + 1)
    assert list(first) == list(again) == list(other)
    for key, value in first.items():
        if "running_" in key:  # measured; PyTorch's order of summation depends on threads and alignment
            assert torch.allclose(value, again[key], rtol=1e-4, atol=1e-5), key
        else:
            assert torch.equal(value, again[key]), key
        fixed = key == "logit_scale" or key.endswith("num_batches_tracked")
        assert torch.equal(value, other[key]) == fixed, key


@pytest.mark.parametrize("name", SPECS)
def test_sizes_are_read_back_from_shapes(name):
    from oracles.clip_reference import empty_reference

    spec = SPECS[name]
    weights = empty_reference(spec).state_dict()
    assert Architecture.from_state_dict(weights, spec.activation, spec.heads, name) == spec


def test_head_count_and_activation_matter(random_model, photos):
    spec, weights, model = random_model("ViT-H80-small", SEED)
    x = photos(4, spec.image_size, seed=7)
    right = reference_image_features(model, x).unit
    for activation, heads in (("quick_gelu", spec.heads), ("gelu", 4)):
        wrong = reference_image_features(build_reference(weights, activation, heads), x).unit
        assert max_error(wrong, right) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "openai"])
@pytest.mark.parametrize("name", ["RN50-small", "ViT-B/16-small"])
def test_openai_layout_round_trip(name, dtype, random_model, tmp_path):
    spec, weights, _ = random_model(name, SEED)
    path = tmp_path / "model.safetensors"
    layouts.save_openai(weights, path, dtype, layouts.metadata_of(spec), scalars=True)
    found, metadata = load_float32(path)
    expected = layouts.rounded(weights, dtype)
    assert metadata == {"activation": spec.activation, "heads": f"{spec.vision_heads},{spec.text_heads}"}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_openai_mixture_of_dtypes(random_model):
    # Which tensors OpenAI's files hold in float32 is what `convert_weights` of their code leaves alone.
    from oracles.clip_reference import clip_module

    for name in ("RN50-small", "ViT-B/16-small"):
        _spec, weights, _ = random_model(name, SEED)
        model = build_reference({key: value.clone() for key, value in weights.items()})
        clip_module("model").convert_weights(model)
        expected = {key: value.dtype for key, value in model.state_dict().items()}
        assert {key: value.dtype for key, value in layouts.cast(weights, "openai").items()} == expected


def test_openclip_folders(random_model, tmp_path):
    from safetensors import safe_open

    for name, prefix in (("RN50x4-small", False), ("ViT-H80-small", True)):
        spec, weights, _ = random_model(name, SEED)
        folder = layouts.save_openclip(weights, tmp_path / spec.name, spec, text_prefix=prefix)
        config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
        assert config["embed_dim"] == spec.embed_dim
        assert config.get("quick_gelu", False) == (spec.activation == "quick_gelu")
        with safe_open(str(folder / "open_clip_model.safetensors"), framework="pt") as file:
            names = set(file.keys())
        assert len(names) == len(weights)
        assert ("text.transformer.resblocks.0.ln_1.weight" in names) == prefix
        assert "visual.conv1.weight" in names and "logit_scale" in names


def test_tokens_of_known_texts():
    rows = tokenize(["a photo of a dog", ""])
    assert rows[0, :8].tolist() == [49406, 320, 1125, 539, 320, 1929, 49407, 0]
    assert rows[1, :3].tolist() == [49406, 49407, 0]
    with pytest.raises(ValueError, match="at most 77"):
        tokenize(["dog " * 76])
    assert (tokenize(TEXTS) != 0).sum(axis=1).max() == 77


def test_tiny_tells_images_apart(clip_data, photos):
    weights, metadata = load_float32(clip_data("tiny") / "tiny.safetensors")
    model = build_reference(weights, metadata["activation"])
    assert model.architecture.heads == (16, 2)
    apart = spread(reference_image_features(model, photos(4, model.architecture.image_size, seed=7)).unit)
    print(f"tiny: spread {apart:.3f}")
    assert apart >= 1e-2
