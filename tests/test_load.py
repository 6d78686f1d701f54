"""`clipc.load` on files that are wrong: the right exception, and a message that names the thing."""

import threading

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import clipc

METADATA = {"activation": "quick_gelu"}


@pytest.fixture(scope="module")
def weights():
    """The tensors of tiny, by name."""
    return load_file(clipc.load("tiny").path)


@pytest.fixture
def load_changed(weights, tmp_path):
    """A function that changes the tensors of tiny (None removes one), writes them to a file and loads it."""

    def load(**changes):
        changed = {name: tensor for name, tensor in {**weights, **changes}.items() if tensor is not None}
        path = tmp_path / "changed.safetensors"
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in changed.items()}, path, METADATA)
        return clipc.load(path)

    return load


def test_unchanged_file_loads(load_changed):
    np.testing.assert_array_equal(load_changed().encode_text("dog"), clipc.load("tiny").encode_text("dog"))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("visual.layer1.0.conv2.weight", (32, 32, 1, 1), r"expected \[32, 32, 3, 3\], got \[32, 32, 1, 1\]"),
        ("visual.layer4.1.bn3.running_var", (512,), r"expected \[1024\], got \[512\]"),
        ("visual.attnpool.q_proj.weight", (1024,), r"expected \[1024, 1024\], got \[1024\]"),
        ("transformer.resblocks.3.mlp.c_proj.bias", (128, 1), r"expected \[128\], got \[128, 1\]"),
        (
            "transformer.resblocks.2.attn.in_proj_weight",
            (128, 384),
            r"expected \[384, 128\], got \[128, 384\]",
        ),
    ],
)
def test_wrong_shape(load_changed, name, shape, message):
    with pytest.raises(clipc.WeightsError, match=name.replace(".", r"\.") + ": " + message):
        load_changed(**{name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    "name",
    [
        "visual.conv1.weight",
        "visual.layer2.0.downsample.1.running_mean",
        "visual.attnpool.c_proj.bias",
        "token_embedding.weight",
        "transformer.resblocks.1.ln_2.bias",
        "text_projection",
        "logit_scale",
    ],
)
def test_missing_tensor(load_changed, name):
    with pytest.raises(clipc.WeightsError, match=name.replace(".", r"\.")):
        load_changed(**{name: None})


@pytest.mark.parametrize(
    "name", ["visual.layer1.0.conv4.weight", "extra", "transformer.resblocks.3.ls_1.gamma"]
)
def test_surplus_tensor(load_changed, name):
    with pytest.raises(clipc.WeightsError, match=r"surplus.*" + name.replace(".", r"\.")):
        load_changed(**{name: np.zeros(3, np.float32)})


@pytest.mark.parametrize("dtype", [np.int32, np.float64, np.uint8])
def test_wrong_dtype(load_changed, weights, dtype):
    name = "visual.layer3.0.conv1.weight"
    with pytest.raises(clipc.WeightsError, match=r"visual\.layer3\.0\.conv1\.weight: expected dtype F32"):
        load_changed(**{name: weights[name].astype(dtype)})


def test_variance_that_is_none(load_changed, weights):
    name = "visual.layer1.0.bn1.running_var"
    with pytest.raises(clipc.WeightsError, match=r"running_var: expected positive values, got -1"):
        load_changed(**{name: np.full_like(weights[name], -1)})


@pytest.mark.parametrize("name", ["visual.layer4.1.conv3.weight", "text_projection"])
def test_weights_that_are_no_numbers(load_changed, weights, name):
    """Found when features come out: a NaN is never given back as an answer."""
    damaged = weights[name].copy()
    damaged[0] = np.nan
    model = load_changed(**{name: damaged})
    with pytest.raises(clipc.WeightsError, match="not finite numbers; the weights in .*changed.safetensors"):
        model.encode_image(np.zeros((1, 3, 64, 64), np.float32)), model.encode_text("dog")


@pytest.mark.parametrize("part", [0, 1, 7, 8, 100, 10_000, 30_000, 1_000_000, -1_000_000, -1])
def test_file_that_is_cut(tmp_path, part):
    data = clipc.load("tiny").path.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(data[:part])
    with pytest.raises(clipc.WeightsError, match=r"cut\.safetensors"):
        clipc.load(path)


def test_what_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        clipc.load(tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("not a model")
    with pytest.raises(clipc.WeightsError, match=r"text\.safetensors"):
        clipc.load(tmp_path / "text.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises((clipc.WeightsError, FileNotFoundError), match="empty"):
        clipc.load(tmp_path / "empty")
    with pytest.raises(ValueError, match="unknown model 'ViT-B/33': did you mean ViT-B/32"):
        clipc.load("ViT-B/33")
    with pytest.raises(TypeError):
        clipc.load(3)


def test_model_that_is_not_in_the_cache(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"ViT-B/32 is not in the cache.*open_clip_model\.safetensors"
    ):
        clipc.load("ViT-B/32", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"activation": "relu"}, ValueError),
        ({"heads": 0}, ValueError),
        ({"heads": 7}, ValueError),
        ({"heads": "many"}, TypeError),
        ({"heads": (16, 5)}, ValueError),
    ],
)
def test_wrong_options(options, error):
    with pytest.raises((error, clipc.WeightsError), match=next(iter(options))):
        clipc.load(clipc.load("tiny").path, **options)


def test_heads_and_activation_are_used(weights, tmp_path):
    path = clipc.load("tiny").path
    plain = clipc.load(path)
    assert not np.allclose(
        clipc.load(path, activation="gelu").encode_text("dog"), plain.encode_text("dog"), atol=1e-3
    )
    other = clipc.load(path, heads=(8, 4))
    assert not np.allclose(other.encode_text("dog"), plain.encode_text("dog"), atol=1e-3)
    assert "argument" in repr(other)


def test_loading_in_several_threads():
    models = []
    threads = [threading.Thread(target=lambda: models.append(clipc.load("tiny"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    features = [model.encode_text("dog") for model in models]
    assert len(features) == 4 and all((one == features[0]).all() for one in features)


def test_a_reader_that_raises_or_returns_nonsense():
    """The core hands on what its source raises and checks what it returns."""
    config, state = clipc.weights.open_model("tiny")
    with state:

        def fail_at(name, outcome):
            def read(asked):
                if asked != name:
                    return state.read(asked)
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome

            return read

        core = clipc._core
        with pytest.raises(OSError, match="disk on fire"):
            core.Model(config.to_core(), fail_at("visual.conv2.weight", OSError("disk on fire")))
        with pytest.raises(TypeError, match=r"visual\.conv2\.weight: expected a NumPy array, got str"):
            core.Model(config.to_core(), fail_at("visual.conv2.weight", "weights"))
        with pytest.raises(
            clipc.WeightsError, match=r"visual\.conv2\.weight: expected float32, float16 or bfloat16"
        ):
            core.Model(config.to_core(), fail_at("visual.conv2.weight", np.zeros((16, 16, 3, 3))))
        big_endian = state.read("visual.conv2.weight").astype(">f2")
        core.Model(config.to_core(), fail_at("visual.conv2.weight", big_endian))
        for key in config.to_core():
            with pytest.raises((KeyError, ValueError, TypeError)):
                core.Model({k: v for k, v in config.to_core().items() if k != key}, state.read)
            with pytest.raises((ValueError, TypeError, OverflowError, clipc.WeightsError)):
                core.Model({**config.to_core(), key: -1}, state.read)
            with pytest.raises((ValueError, TypeError, OverflowError, clipc.WeightsError)):
                core.Model({**config.to_core(), key: 2**70}, state.read)
