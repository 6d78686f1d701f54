"""Models from their sources into the cache and into a `Model`, served on loopback."""

import json
import os
import pickle
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from availability import require
from file_server import Faults, sha256, unused_port
from weights_builder import random_arrays, to_huggingface, vit_shapes, write_safetensors

import clipc
from clipc import model as model_module
from clipc.errors import ClipcWarning, DownloadError, NoNetworkError
from clipc.weights import cache, download, named_models
from clipc.weights.zoo import Source, ZooEntry, find_model

SHAPES = vit_shapes(width=128, layers=1, mlp=64, patch=4, grid=3, embed=24, text={"layers": 1})
ARRAYS = random_arrays(SHAPES)


def as_bytes(tmp_path_factory, arrays):
    path = write_safetensors(tmp_path_factory.mktemp("weights") / "x.safetensors", arrays)
    return path.read_bytes()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small ViT in OpenAI's naming, as bytes."""
    return as_bytes(tmp_path_factory, ARRAYS)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    return as_bytes(tmp_path_factory, to_huggingface(ARRAYS))


CONFIG = {
    "model_type": "clip", "projection_dim": 24,
    "vision_config": {"hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 1, "image_size": 12,
                      "patch_size": 4, "num_attention_heads": 4, "hidden_act": "gelu"},
    "text_config": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "vocab_size": 50,
                    "num_attention_heads": 2, "max_position_embeddings": 11, "hidden_act": "gelu"},
}  # fmt: skip


def small_entry(server, weights, name="small", **changes):
    """A model with OpenAI's kind of sources: one URL with a published SHA-256, and a mirror on the hub."""
    url, sha = f"{server.url}/cdn/small", sha256(weights)
    first = Source(("small.safetensors",), url=url, sha256=sha, size=len(weights))
    mirror = Source(("open_clip_model.safetensors",), repository="mirror/small.openai")
    known = {
        "embed_dim": 24, "image_size": 12, "vision_heads": 2, "text_heads": 1, "activation": "gelu",
        "image_mean": (0.5, 0.5, 0.5), "image_std": (0.25, 0.5, 0.5), "resize": "shortest",
    }  # fmt: skip
    return ZooEntry(name, "test", "small.openai", (first, mirror), **{**known, **changes})


@pytest.fixture
def small(loopback, weights, monkeypatch):
    """The model "small" in the zoo, and what its two sources serve."""
    entry = small_entry(loopback, weights)
    monkeypatch.setitem(named_models(), "small", entry)
    loopback.files["/cdn/small"] = Faults(weights, etag='"one"')
    loopback.files[hub_path("mirror/small.openai", "open_clip_model.safetensors")] = Faults(
        weights, linked=sha256(weights)
    )
    return entry


def hub_path(repository, name, revision="main"):
    return f"/{repository}/resolve/{revision}/{name}"


def serve(server, repository, files, **faults):
    for name, data in files.items():
        data = json.dumps(data).encode() if isinstance(data, dict) else data
        server.files[hub_path(repository, name)] = Faults(data, **faults)


def gets(server):
    return [path for method, path, _ in server.requests if method == "GET"]


def in_cache(entry):
    folder = cache.cached_model_folder(entry)
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# -- a model of the zoo ----------------------------------------------------------------------------------


def test_load_downloads_once(small, loopback, weights, capsys):
    model = clipc.load("small")
    assert (model.name, model.embed_dim, model.config.vision_heads) == ("small", 24, 2)
    assert model.config.image_std == (0.25, 0.5, 0.5) and model.config.sources["preprocessing"] == "zoo"
    assert gets(loopback) == ["/cdn/small"]
    assert in_cache(small) == ["downloads.json", "small.safetensors"]
    said = capsys.readouterr()
    assert said.out == ""
    first, last = said.err.splitlines()
    assert first.startswith(f"downloading small ({download.megabytes(len(weights))}) from 127.0.0.1:")
    assert last == f"small is in the cache: {model.path}"

    loopback.requests.clear()
    features = clipc.load("small").encode_image(np.zeros((1, 3, 12, 12), np.float32))
    assert loopback.requests == [] and capsys.readouterr().err == ""
    np.testing.assert_array_equal(features, model.encode_image(np.zeros((1, 3, 12, 12), np.float32)))


def test_a_pickled_model_keeps_what_the_zoo_told(small, loopback):
    model = clipc.load("small")
    again = pickle.loads(pickle.dumps(model))
    assert again.config.image_mean == (0.5, 0.5, 0.5) and again.config.image_std == (0.25, 0.5, 0.5)
    assert pickle.loads(pickle.dumps(again)).config.image_std == (0.25, 0.5, 0.5)
    assert again.name == "small"


def test_an_archive_of_pytorch(small, loopback, tmp_path, monkeypatch, weights):
    """What OpenAI's server has: verified by the published hash, and never executed."""
    torch = require("torch")
    torch.save({name: torch.from_numpy(array) for name, array in ARRAYS.items()}, tmp_path / "small.pt")
    data = (tmp_path / "small.pt").read_bytes()
    loopback.files["/cdn/small.pt"] = Faults(data)
    source = Source(("small.pt",), url=f"{loopback.url}/cdn/small.pt", sha256=sha256(data))
    monkeypatch.setitem(named_models(), "small", small._replace(sources=(source, small.sources[1])))
    pixels = np.random.default_rng(0).normal(size=(2, 3, 12, 12)).astype(np.float32)
    archive = clipc.load("small")
    assert archive.path.name == "small.pt" and archive.config.image_mean == (0.5, 0.5, 0.5)
    monkeypatch.setitem(named_models(), "small", small)
    cache.remove(small)
    plain = clipc.load("small")
    assert plain.path.name == "small.safetensors"
    np.testing.assert_array_equal(archive.encode_image(pixels), plain.encode_image(pixels))


@pytest.mark.parametrize(
    "faults, reason",
    [
        ({"statuses": [(404, {})] * 9, "head": 404}, "no such file"),
        ({"statuses": [(500, {})] * 9, "head": 500}, "answered 500"),
        ({"data": b"<html>not found</html>"}, "web page"),
        ({"data": bytes(1000)}, "expected SHA-256"),
    ],
)
def test_the_mirror_helps(small, loopback, weights, faults, reason, capsys):
    loopback.files["/cdn/small"] = Faults(**{"data": weights, **faults})
    assert clipc.load("small").path.name == "open_clip_model.safetensors"
    said = capsys.readouterr().err
    assert reason in said and "trying" in said
    assert in_cache(small) == ["downloads.json", "open_clip_model.safetensors"]


def test_all_sources_fail(small, loopback):
    loopback.files["/cdn/small"].data = b"wrong"
    loopback.files.pop(hub_path("mirror/small.openai", "open_clip_model.safetensors"))
    with pytest.raises(DownloadError) as caught:
        clipc.load("small")
    message = str(caught.value)
    assert not isinstance(caught.value, NoNetworkError)
    parts = ("small could not be downloaded", "SHA-256", "none of the files", "By hand: put open_clip_model")
    assert all(part in message for part in parts)
    assert in_cache(small) == []


def test_no_source_can_be_reached(loopback, weights, monkeypatch):
    gone = f"http://127.0.0.1:{unused_port()}"
    monkeypatch.setenv("CLIPC_HUB", gone)
    entry = small_entry(loopback, weights)
    entry = entry._replace(sources=(entry.sources[0]._replace(url=f"{gone}/x"), entry.sources[1]))
    monkeypatch.setitem(named_models(), "small", entry)
    with pytest.raises(NoNetworkError, match="small could not be downloaded: .*refused"):
        clipc.load("small")
    assert in_cache(entry) == []


def test_a_full_disk_is_not_tried_elsewhere(small, loopback, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1}))
    with pytest.raises(download.DiskFullError, match="CLIPC_CACHE"):
        clipc.load("small")
    assert gets(loopback) == ["/cdn/small"]


def test_offline(small, loopback, monkeypatch):
    monkeypatch.setenv("CLIPC_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="CLIPC_OFFLINE forbids"):
        clipc.load("small")
    assert loopback.requests == [] and not cache.cache_folder().exists()


def test_a_cache_that_cannot_be_made(small, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIPC_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(NotADirectoryError):
        clipc.load("small")


# -- repositories of the hub -----------------------------------------------------------------------------


def test_a_repository_in_hugging_faces_layout(loopback, hugging_face):
    serve(loopback, "someone/clip", {"config.json": CONFIG})
    serve(loopback, "someone/clip", {"model.safetensors": hugging_face}, linked=sha256(hugging_face))
    model = clipc.load("someone/clip")
    assert (model.name, model.config.activation) == ("someone/clip", "gelu")
    assert (model.config.vision_heads, model.config.text_heads) == (4, 2)
    assert in_cache(find_model("someone/clip")) == ["config.json", "downloads.json", "model.safetensors"]
    assert gets(loopback)[-1] == hub_path("someone/clip", "model.safetensors")  # the weights come last
    loopback.requests.clear()
    assert clipc.load("hf-hub:someone/clip").config == model.config and not loopback.requests


def test_a_revision(loopback, weights):
    path = hub_path("someone/clip", "open_clip_model.safetensors", "refs%2Fpr%2F3")
    loopback.files[path] = Faults(weights)
    model = clipc.load("hf-hub:someone/clip@refs/pr/3")
    assert model.name == "someone/clip@refs/pr/3" and gets(loopback) == [path]
    assert [entry.name for entry in cache.cached_hub_models()] == ["someone/clip@refs/pr/3"]


def test_a_model_in_several_files(loopback, hugging_face):
    arrays = to_huggingface(ARRAYS)
    names = sorted(arrays)
    halves = {"model-1.safetensors": names[:9], "model-2.safetensors": names[9:]}
    folder = cache.cache_folder()
    folder.mkdir(parents=True)
    files = {
        part: write_safetensors(folder / "x", {name: arrays[name] for name in inside}).read_bytes()
        for part, inside in halves.items()
    }
    index = {"weight_map": {name: part for part, inside in halves.items() for name in inside}}
    serve(loopback, "some/large", {"config.json": CONFIG, "model.safetensors.index.json": index, **files})
    second = loopback.files.pop(hub_path("some/large", "model-2.safetensors"))
    with pytest.raises(DownloadError, match=r"model-2.safetensors: no such file"):
        clipc.load("some/large")
    entry = find_model("some/large")
    assert cache.cached_weights(entry) is None and "model-1.safetensors" in in_cache(entry)

    loopback.files[hub_path("some/large", "model-2.safetensors")] = second
    loopback.requests.clear()
    model = clipc.load("some/large")
    assert hub_path("some/large", "model-1.safetensors") not in gets(loopback)
    assert model.path.name == "model.safetensors.index.json" and model.config.vision_heads == 4


@pytest.mark.parametrize(
    "index",
    [{"weight_map": {"a": part}} for part in ("../model.safetensors", "a/b.bin", ".safetensors", "x.py", 3)]
    + [{}, b"[]"],
)
def test_an_index_that_is_none(loopback, index):
    serve(loopback, "some/large", {"model.safetensors.index.json": index})
    with pytest.raises(DownloadError, match="model.safetensors.index.json is no index of weights"):
        clipc.load("some/large")
    assert in_cache(find_model("some/large")) == []


def test_a_repository_without_weights(loopback):
    serve(loopback, "some/text", {"config.json": {"model_type": "bert"}})
    with pytest.raises(DownloadError, match="none of the files .* no file or folder some/text either"):
        clipc.load("some/text")
    assert in_cache(find_model("some/text")) == []


def test_a_repository_that_needs_permission(loopback):
    loopback.files[hub_path("some/gated", "open_clip_model.safetensors")] = Faults(b"", head=401)
    with pytest.raises(DownloadError, match=r"401.*private or gated; set HF_TOKEN"):
        clipc.load("some/gated")


def test_a_configuration_that_must_come_along(loopback, weights, monkeypatch):
    source = Source(("model.safetensors",), repository="some/detector", configuration=("config.json",))
    entry = ZooEntry("detector", "test", "detector", (source,))
    monkeypatch.setitem(named_models(), "detector", entry)
    serve(loopback, "some/detector", {"model.safetensors": weights})
    with pytest.raises(DownloadError, match="config.json: no such file"):
        clipc.load("detector")
    assert cache.cached_weights(entry) is None


# -- what is in the cache --------------------------------------------------------------------------------


def test_a_file_of_another_size_is_fetched_again(small, loopback, weights):
    path = clipc.load("small").path
    path.write_bytes(weights[:-1])
    loopback.requests.clear()
    assert clipc.load("small").path.read_bytes() == weights and gets(loopback) == ["/cdn/small"]


def test_a_damaged_record_is_no_record(small, loopback, weights):
    path = clipc.load("small").path
    (path.parent / cache.RECORD).write_text("{")
    loopback.requests.clear()
    assert clipc.load("small").path == path and not loopback.requests


def test_by_hand(small, loopback, weights, monkeypatch):
    folder = cache.cached_model_folder(small)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    assert clipc.load("small").path == folder / "model.safetensors" and not loopback.requests
    ((path, good, detail),) = cache.verify(small)
    assert path.name == "model.safetensors" and good is None and "by hand" in detail


def test_verify(small, weights):
    assert cache.verify(small) == []
    path = clipc.load("small").path
    ((found, good, detail),) = cache.verify(small)
    assert (found, good) == (path, True) and "publisher" in detail
    path.write_bytes(weights[:-1] + b"x")
    ((_, good, detail),) = cache.verify(small)
    assert good is False and sha256(weights) in detail
    path.unlink()
    assert cache.verify(small) == [(path, False, "missing")]
    ((path, good, _),) = cache.verify(named_models()["tiny"])
    assert path.name == "tiny.safetensors" and good


# -- several processes -----------------------------------------------------------------------------------


def child_code(loopback, weights):
    entry = small_entry(loopback, weights)
    return (
        "from clipc.weights import cache, named_models\n"
        "from clipc.weights.zoo import Source, ZooEntry\n"
        f"entry = {entry!r}\n"
        "print(cache.fetch(entry))"
    )


def start(code, stderr):
    with open(stderr, "wb") as file:
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=file, text=True)


def wait_until(condition, *processes):
    deadline = time.monotonic() + 30
    while not condition():
        assert all(process.poll() is None for process in processes) and time.monotonic() < deadline
        time.sleep(0.02)


def test_two_processes_download_once(small, loopback, weights, tmp_path):
    """Nothing of the file is sent before the second process waits for the first."""
    loopback.files["/cdn/small"].gate = gate = threading.Event()
    said = [tmp_path / "one", tmp_path / "two"]
    processes = [start(child_code(loopback, weights), path) for path in said]
    waiting = "another process is downloading small; waiting for it"
    wait_until(lambda: any(waiting in path.read_text() for path in said), *processes)
    gate.set()
    results = [process.communicate(timeout=60)[0] for process in processes]
    path = str(cache.cached_model_folder(small) / "small.safetensors")
    assert results == [f"{path}\n"] * 2, [path.read_text() for path in said]
    assert gets(loopback) == ["/cdn/small"]
    assert in_cache(small) == ["downloads.json", "small.safetensors"]


def test_the_lock_of_a_killed_process_does_not_block(small, loopback, weights, tmp_path):
    loopback.files["/cdn/small"].stall_after = [200_000]
    process = start(child_code(loopback, weights), tmp_path / "said")
    part = cache.cached_model_folder(small) / "small.safetensors.part"
    wait_until(lambda: part.exists() and part.stat().st_size > 100_000, process)
    process.kill()
    process.communicate(timeout=30)
    kept = part.stat().st_size
    begun = time.monotonic()
    assert clipc.load("small").path.read_bytes() == weights
    assert time.monotonic() - begun < 5
    assert loopback.gets()[-1]["Range"] == f"bytes={kept}-"


# -- the default model -----------------------------------------------------------------------------------


@pytest.fixture
def fresh_default(monkeypatch):
    """As in a new process."""
    monkeypatch.setattr(model_module, "_default_model", None)
    monkeypatch.setattr(model_module, "_why_no_network", None)
    monkeypatch.delenv("CLIPC_MODEL", raising=False)


@pytest.fixture
def default(small, fresh_default, monkeypatch):
    """ "small" in the place of OpenAI's ViT-B/32."""
    entry = small._replace(name="ViT-B/32")
    monkeypatch.setitem(named_models(), "ViT-B/32", entry)
    return entry


def test_the_default_is_downloaded_with_an_announcement(default, loopback, capsys, recwarn):
    assert clipc.load().name == "ViT-B/32" and clipc.load() is clipc.load()
    first, second, _ = capsys.readouterr().err.splitlines()
    assert first.startswith("downloading ViT-B/32 (")
    assert "CLIPC_MODEL" in second and "tiny" in second and "CLIPC_OFFLINE=1" in second
    assert gets(loopback) == ["/cdn/small"] and not recwarn


def test_the_default_from_the_cache_needs_no_network(default, loopback, monkeypatch, recwarn, tmp_path):
    cache.fetch(default)
    loopback.requests.clear()
    monkeypatch.setenv("CLIPC_OFFLINE", "1")
    (tmp_path / "ViT-B" / "32").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)  # a folder of that name is not the default model
    assert clipc.load().name == "ViT-B/32" and not loopback.requests and not recwarn
    assert model_module.default_model_in_words() == "ViT-B/32"


def test_without_a_network_the_default_is_tiny(default, loopback, monkeypatch, capsys):
    gone = f"http://127.0.0.1:{unused_port()}"
    monkeypatch.setenv("CLIPC_HUB", gone)
    entry = default._replace(sources=(default.sources[0]._replace(url=f"{gone}/x"), default.sources[1]))
    monkeypatch.setitem(named_models(), "ViT-B/32", entry)
    asked = []
    reachable = download.reachable
    monkeypatch.setattr(download, "reachable", lambda urls: asked.append(urls) or reachable(urls))
    with pytest.warns(ClipcWarning) as caught:
        assert clipc.load().name == "tiny"
        assert clipc.load().name == "tiny"
    (warning,) = caught
    message = str(warning.message)
    assert message.startswith("no model was chosen, so clipc uses the small embedded model 'tiny'")
    assert "refused" in message and "faces, professions" in message
    with pytest.warns(ClipcWarning):
        clipc.load(cache_dir="elsewhere")
    assert len(asked) == 1 and len(asked[0]) == 2  # once a process, at all sources
    with pytest.raises(NoNetworkError):
        clipc.load("ViT-B/32")  # a name never falls back


def test_offline_the_default_is_tiny(default, loopback, monkeypatch):
    monkeypatch.setenv("CLIPC_OFFLINE", "1")
    with pytest.warns(ClipcWarning, match="CLIPC_OFFLINE forbids"):
        assert clipc.load().name == "tiny"
    assert not loopback.requests
    assert "tiny" in model_module.default_model_in_words()


def test_a_default_that_is_damaged_on_its_way_is_an_error(default, loopback):
    """There is a network, so that something else is wrong must not be hidden."""
    loopback.files["/cdn/small"].data = b"wrong"
    loopback.files.pop(hub_path("mirror/small.openai", "open_clip_model.safetensors"))
    with pytest.raises(DownloadError, match="so clipc wanted its default, ViT-B/32: CLIPC_MODEL names"):
        clipc.load()


def test_the_environment_chooses_the_default(default, loopback, monkeypatch):
    monkeypatch.setenv("CLIPC_MODEL", "small")
    assert clipc.load().name == "small"


def test_sizes_in_the_help_are_those_of_the_zoo():
    from command_line import run

    size = download.megabytes(named_models()["ViT-B/32"].size)
    assert size in " ".join(run("classify", "--help").stdout.split())


def test_the_tests_have_no_network():
    assert download.offline() and os.environ["CLIPC_CACHE"] != os.path.expanduser("~/.cache/clipc")
