"""Names of models, where their files lie, and the embedded model."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from weights_builder import vit_shapes, write_zeros

import clipc.weights as weights
from clipc.errors import ClipcWarning, WeightsError
from clipc.weights import ZOO, available_models, cache_folder, open_model, resolve
from clipc.weights.zoo import EMBEDDED_FILE, cached_model_folder

# embed, resolution, vision heads, text heads
TABLE = {
    "RN50": (1024, 224, 32, 8), "RN101": (512, 224, 32, 8), "RN50x4": (640, 288, 40, 10),
    "RN50x16": (768, 384, 48, 12), "RN50x64": (1024, 448, 64, 16), "ViT-B/32": (512, 224, 12, 8),
    "ViT-B/16": (512, 224, 12, 8), "ViT-L/14": (768, 224, 16, 12), "ViT-L/14@336px": (768, 336, 16, 12),
}  # fmt: skip


def test_names():
    assert available_models() == [*TABLE, "tiny"]
    for name, sizes in TABLE.items():
        entry = ZOO[name]
        assert (entry.embed_dim, entry.image_size, entry.vision_heads, entry.text_heads) == sizes
        assert entry.activation == "quick_gelu" and entry.archive.endswith(".pt")
        assert len(entry.sha256) == 64 and int(entry.sha256, 16)
        assert entry.repository.startswith("timm/") and entry.repository.endswith(".openai")
    assert len({entry.sha256 for entry in ZOO.values()}) == len(ZOO)


def test_embedded_model():
    assert hashlib.sha256(EMBEDDED_FILE.read_bytes()).hexdigest() == ZOO["tiny"].sha256
    assert ZOO["tiny"].sha256 in EMBEDDED_FILE.with_name("tiny_model_card.md").read_text("utf-8")
    config, state = open_model("tiny")
    with state:
        assert config.to_core() == {
            "embed_dim": 256, "image_size": 64, "vision": "modified_resnet", "vision_layers": (2, 2, 2, 2),
            "vision_width": 32, "vision_patch_size": 0, "vision_heads": 16, "vision_mlp_width": 0,
            "context_length": 77, "vocab_size": 49408, "text_width": 128, "text_heads": 2, "text_layers": 4,
            "text_mlp_width": 512, "activation": "quick_gelu", "detector": "",
        }  # fmt: skip
        assert config.name == "tiny" and config.sources["activation"] == "file metadata"
        arrays = {name: state.read(name) for name in state.names}
        state.check_all_used()
    assert sum(array.size for array in arrays.values()) == pytest.approx(14.1e6, rel=0.01)
    assert all(np.isfinite(array).all() for array in arrays.values())
    known = arrays["token_embedding.weight"].any(axis=1)
    assert known.sum() == 18_159 and known[[49406, 49407]].all()


def test_embedded_model_by_path_needs_no_zoo():
    config, state = open_model(EMBEDDED_FILE)
    state.close()
    assert (config.name, config.vision_heads, config.text_heads) == ("tiny", 16, 2)
    assert config.sources["vision_heads"] == "default"


def test_model_that_is_not_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPC_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        open_model("ViT-B/32")
    text = str(caught.value)
    assert "later version" in text and "open_clip_model.safetensors" in text
    assert "https://huggingface.co/timm/vit_base_patch32_clip_224.openai" in text
    assert str(tmp_path / "vit_base_patch32_clip_224.openai") in text


def fake_b32(folder, config=None):
    folder.mkdir(parents=True, exist_ok=True)
    shapes = vit_shapes(
        width=768, layers=1, mlp=8, patch=32, grid=7, embed=512, text={"width": 512, "layers": 1}
    )
    path = write_zeros(folder / "open_clip_model.safetensors", shapes)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return path


def test_model_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPC_CACHE", str(tmp_path / "elsewhere"))
    path = fake_b32(cached_model_folder(ZOO["ViT-B/32"], tmp_path))
    assert resolve("ViT-B/32", tmp_path) == (path, ZOO["ViT-B/32"])
    config, state = open_model("ViT-B/32", cache_dir=tmp_path)
    state.close()
    assert (config.name, config.vision_heads, config.text_heads) == ("ViT-B/32", 12, 8)
    assert config.sources["vision_heads"] == config.sources["activation"] == "zoo"


def test_configuration_that_contradicts_a_named_model_warns(tmp_path):
    tower = {"num_hidden_layers": 1, "hidden_act": "gelu"}
    text = {"intermediate_size": 256, "max_position_embeddings": 11, "vocab_size": 50}
    config = {
        "model_type": "clip",
        "vision_config": {**tower, "intermediate_size": 8},
        "text_config": {**tower, **text},
    }
    fake_b32(cached_model_folder(ZOO["ViT-B/32"], tmp_path), config)
    with pytest.warns(
        ClipcWarning, match="ViT-B/32: config.json .* activation = gelu, OpenAI's model has quick_gelu"
    ):
        found, state = open_model("ViT-B/32", cache_dir=tmp_path)
    state.close()
    assert found.activation == "gelu"


def test_wrong_file_in_the_cache(tmp_path):
    folder = cached_model_folder(ZOO["ViT-L/14"], tmp_path)
    fake_b32(folder)
    with pytest.raises(
        WeightsError, match="zoo entry ViT-L/14 says embed_dim = 768, the tensor shapes say 512"
    ):
        open_model("ViT-L/14", cache_dir=tmp_path)


@pytest.mark.parametrize(
    "name, hint",
    [
        ("vit-b/32", "did you mean ViT-B/32"),
        ("ViT-B-32", "did you mean ViT-B/32"),
        ("ViT-L/14@336", "ViT-L/14@336px"),
        ("rn50", "RN50"),
        ("Tiny", "did you mean tiny"),
        ("xyzzy", "unknown model 'xyzzy': known are RN50, "),
    ],
)
def test_unknown_name(name, hint):
    with pytest.raises(ValueError, match=hint) as caught:
        resolve(name)
    assert all(known in str(caught.value) for known in available_models())


@pytest.mark.parametrize(
    "path", ["/none/such", "./none", "../none", "~/none/such", "a.safetensors", "a/b.pt", "none/"]
)
def test_path_that_does_not_exist(path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        resolve(path)
    with pytest.raises(FileNotFoundError):
        resolve(Path("tiny-as-a-path"))


def test_path_wins_over_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake_b32(tmp_path / "tiny")
    config, state = open_model("tiny")
    state.close()
    assert config.embed_dim == 512 and config.name == "tiny" and config.sources["activation"] == "default"


def test_wrong_arguments():
    with pytest.raises(ValueError, match="empty"):
        resolve("")
    for wrong in (None, 3, b"tiny"):
        with pytest.raises(TypeError):
            resolve(wrong)


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPC_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    assert cache_folder(tmp_path / "b") == tmp_path / "b"
    monkeypatch.delenv("CLIPC_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("clipc.weights.zoo.sys.platform", "darwin")
    assert cache_folder() == tmp_path / "Library/Caches/clipc"
    monkeypatch.setattr("clipc.weights.zoo.sys.platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache/clipc"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / ".cache/clipc"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x/clipc"


def test_import_is_light():
    code = "import sys, clipc.weights; print({'safetensors', 'torch', 'scipy', 'PIL'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_errors_close_the_file(tmp_path, monkeypatch):
    closed = []
    close = weights.SafetensorsFile.close
    monkeypatch.setattr(
        weights.SafetensorsFile, "close", lambda self: (closed.append(self.path.name), close(self))
    )
    for name, shapes in (("heads", vit_shapes(width=80)), ("names", {"x": (1,)})):
        with pytest.raises(WeightsError, match=name):
            open_model(write_zeros(tmp_path / name, shapes))
    assert closed == ["heads", "names"]
