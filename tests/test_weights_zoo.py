"""Names of models, where their files lie, and the embedded model."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from weights_builder import vit_shapes, write_zeros

import clipc.weights as weights
from clipc.errors import ClipcWarning, WeightsError
from clipc.weights import available_models, cache_folder, find_model, named_models, open_model, resolve, zoo
from clipc.weights.cache import cached_model_folder
from clipc.weights.config import ACTIVATIONS, CLIP_MEAN, CLIP_STD
from clipc.weights.zoo import EMBEDDED_FILE, ZOO_FILE

# embed, resolution, vision heads, text heads
TABLE = {
    "RN50": (1024, 224, 32, 8), "RN101": (512, 224, 32, 8), "RN50x4": (640, 288, 40, 10),
    "RN50x16": (768, 384, 48, 12), "RN50x64": (1024, 448, 64, 16), "ViT-B/32": (512, 224, 12, 8),
    "ViT-B/16": (512, 224, 12, 8), "ViT-L/14": (768, 224, 16, 12), "ViT-L/14@336px": (768, 336, 16, 12),
}  # fmt: skip


ZOO = named_models()


def test_names_of_openai():
    assert available_models()[:10] == [*TABLE, "tiny"]
    hashes = set()
    for name, sizes in TABLE.items():
        entry = ZOO[name]
        assert (entry.embed_dim, entry.image_size, entry.vision_heads, entry.text_heads) == sizes
        assert entry.activation == "quick_gelu" and entry.family == "OpenAI"
        archive, mirror = entry.sources
        models = "https://openaipublic.azureedge.net/clip/models"
        assert archive.url == f"{models}/{archive.sha256}/{archive.files[0]}"
        assert archive.files[0] == f"{name.replace('/', '-').replace('@', '-')}.pt"
        assert len(archive.sha256) == 64 and int(archive.sha256, 16)
        assert mirror.repository.startswith("timm/") and mirror.repository.endswith(".openai")
        assert mirror.files == ("open_clip_model.safetensors",)
        # float16 and some float32: the file is a little larger than two bytes a parameter
        assert 2.0 < archive.size / (entry.parameters_millions * 1e6) < 2.6
        hashes.add(archive.sha256)
    assert len(hashes) == 9


def test_every_entry_is_whole():
    raw = json.loads(ZOO_FILE.read_text("utf-8"))
    assert set(raw) == {"about", "models"} and len(raw["models"]) == len(ZOO) >= 30
    folders = [entry.folder for entry in ZOO.values()]
    assert len(set(folders)) == len(folders)
    for entry in ZOO.values():
        assert entry.activation in ACTIVATIONS and entry.resize in ("shortest", "squash", "pad")
        assert entry.embed_dim % 64 == 0 and entry.vision_heads > 0 and entry.text_heads > 0
        assert all(0 <= value < 1 for value in (*entry.image_mean, *entry.image_std))
        for source in entry.sources:
            assert source.files and bool(source.url) + bool(source.repository) + entry.embedded == 1
            assert entry.embedded or entry.folder == entry.repository.split("/")[1]


# By OpenCLIP's model_configs: width, head width, heads of the text tower, embedding.
OPEN_CLIP = {
    "ViT-B-32": (768, 64, 8, 512), "ViT-B-32-256": (768, 64, 8, 512), "ViT-B-16": (768, 64, 8, 512),
    "ViT-L-14": (1024, 64, 12, 768), "ViT-H-14": (1280, 80, 16, 1024), "ViT-g-14": (1408, 88, 16, 1024),
    "ViT-bigG-14": (1664, 104, 20, 1280),
}  # fmt: skip


def test_open_clip_entries():
    found = [name for name in ZOO if ":" in name]
    assert len(found) == 21
    for name in found:
        entry, architecture = ZOO[name], name.split(":")[0]
        width, head_width, text_heads, embed = OPEN_CLIP[architecture.removesuffix("-quickgelu")]
        assert (entry.vision_heads, entry.text_heads) == (width // head_width, text_heads)
        assert width % head_width == 0 and entry.embed_dim == embed
        assert entry.image_size == (256 if architecture.endswith("-256") else 224)
        assert (entry.activation == "quick_gelu") == architecture.endswith("-quickgelu")
        half = name == "ViT-L-14:laion2b_s32b_b82k"
        assert (entry.image_mean, entry.image_std) == (
            ((0.5,) * 3, (0.5,) * 3) if half else (CLIP_MEAN, CLIP_STD)
        )
        assert (entry.family == "MetaCLIP") == (entry.licence == "CC-BY-NC-4.0") == ("metaclip" in name)


def test_the_documentation_has_the_table():
    """`python tools/make_zoo_table.py` writes it."""
    root = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location("make_zoo_table", root / "tools" / "make_zoo_table.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = (root / "docs" / "models.md").read_text("utf-8")
    rows = json.loads(ZOO_FILE.read_text("utf-8"))["models"]
    assert text == tool.with_table(text, rows) and all(f"| `{name}` |" in text for name in ZOO)


def test_detectors_bring_their_configuration():
    found = [entry for entry in ZOO.values() if entry.family.startswith("OWL")]
    assert len(found) == 7
    for entry in found:
        assert entry.name == entry.repository and entry.licence == "Apache-2.0"
        assert entry.sources[0].configuration == ("config.json", "preprocessor_config.json")
        assert entry.resize == ("pad" if entry.family == "OWLv2" else "squash")
        patch = next(size for size in (32, 16, 14) if f"patch{size}" in entry.name)
        assert entry.image_size % patch == 0


@pytest.mark.parametrize(
    "name, repository, revision, folder",
    [
        ("hf-hub:someone/Some.CLIP_x", "someone/Some.CLIP_x", "main", "someone--Some.CLIP_x"),
        ("someone/clip", "someone/clip", "main", "someone--clip"),
        ("openai/clip-vit-base-patch32@refs/pr/15", "openai/clip-vit-base-patch32", "refs/pr/15",
         "openai--clip-vit-base-patch32@refs--pr--15"),
        ("hf-hub:ViT-B/23", "ViT-B/23", "main", "ViT-B--23"),
    ],
)  # fmt: skip
def test_repositories_of_the_hub(name, repository, revision, folder):
    entry = find_model(name)
    assert entry.name == name.removeprefix("hf-hub:") and entry.folder == folder
    assert (entry.sources[0].repository, entry.sources[0].revision) == (repository, revision)
    assert entry.embed_dim is entry.activation is entry.licence is None
    assert zoo.hub_model_of_folder(folder) == entry.name


def test_a_repository_of_the_zoo_is_that_model():
    name = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    assert find_model(name) is find_model(f"hf-hub:{name}") is ZOO["ViT-H-14:laion2b_s32b_b79k"]
    assert find_model(f"{name}@other").folder == "laion--CLIP-ViT-H-14-laion2B-s32B-b79K@other"


@pytest.mark.parametrize("name", ["hf-hub:one", "hf-hub:a/b/c", "hf-hub:a/..", "hf-hub:../b", "hf-hub:"])
def test_wrong_names_of_repositories(name):
    with pytest.raises(ValueError, match="expected hf-hub:owner/name"):
        resolve(name)


@pytest.mark.parametrize("folder", ["clip", "a--..", "..--a", "vit_b.openai", ".locks", "a b--c"])
def test_folders_of_no_repository(folder):
    assert zoo.hub_model_of_folder(folder) is None


def test_embedded_model():
    (source,) = ZOO["tiny"].sources
    assert ZOO["tiny"].embedded and ZOO["tiny"].repository is None
    assert hashlib.sha256(EMBEDDED_FILE.read_bytes()).hexdigest() == source.sha256
    assert source.sha256 in EMBEDDED_FILE.with_name("tiny_model_card.md").read_text("utf-8")
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
    assert "CLIPC_OFFLINE" in text and "open_clip_model.safetensors" in text and "ViT-B-32.pt" in text
    assert "https://huggingface.co/timm/vit_base_patch32_clip_224.openai" in text
    assert not list(tmp_path.iterdir())
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
        ClipcWarning, match="B/32: config.json .* activation = gelu, the model of this name has quick_gelu"
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
    assert "owner/name" in str(caught.value)


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
    monkeypatch.setattr("clipc.weights.cache.sys.platform", "darwin")
    assert cache_folder() == tmp_path / "Library/Caches/clipc"
    monkeypatch.setattr("clipc.weights.cache.sys.platform", "linux")
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
