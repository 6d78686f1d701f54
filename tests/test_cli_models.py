"""``clipc models``, ``download`` and ``remove``, with a server on loopback."""

import json

import pytest
from command_line import picture, run
from file_server import Faults, sha256
from test_zoo import hub_path, small, weights  # noqa: F401  (fixtures)

from clipc.weights import cache


def test_download_prints_the_path(small, loopback):  # noqa: F811
    result = run("download", "small")
    path = cache.cached_model_folder(small) / "small.safetensors"
    assert result.stdout == f"{path}\n" and path.is_file()
    assert result.stderr.splitlines()[0].startswith("note: downloading small (")
    again = run("download", "small", "tiny")
    assert again.stdout.splitlines()[0] == str(path) and again.stderr == ""
    assert again.stdout.splitlines()[1].endswith("tiny.safetensors")


def test_download_quietly(small, loopback):  # noqa: F811
    assert run("download", "small", "--quiet").stderr == ""


def test_download_of_wrong_names_does_nothing(small, loopback):  # noqa: F811
    result = run("download", "small", "ViT-B/23", code=1)
    assert "did you mean" in result.stderr and not loopback.requests


def test_download_that_fails(small, loopback):  # noqa: F811
    loopback.files.clear()
    result = run("download", "small", code=1)
    assert result.stderr.splitlines()[-1].startswith("clipc: small could not be downloaded: ")
    assert result.stdout == ""


def test_verify(small, loopback, weights):  # noqa: F811
    path = cache.cached_model_folder(small) / "small.safetensors"
    run("download", "small")
    assert f"good: {path}" in run("models", "--cached", "--verify").stdout
    path.write_bytes(weights[:-1] + b"x")
    assert "cached" in run("models", "--cached").stdout  # the size is right: nothing is hashed
    result = run("models", "--cached", "--verify", code=1)
    assert f"DAMAGED: {path}" in result.stdout and "clipc download --verify" in result.stderr
    document = json.loads(run("models", "--verify", "--json", code=1).stdout)
    row = next(row for row in document["models"] if row["name"] == "small")
    assert row["files"][0]["good"] is False and row["files"][0]["path"] == str(path)

    result = run("download", "small", "--verify")
    assert "DAMAGED" in result.stderr and path.read_bytes() == weights
    assert "good" in run("download", "small", "--verify").stderr
    assert len(loopback.gets("/cdn/small")) == 2


def test_models_lists_what_is_cached(small, loopback, weights):  # noqa: F811
    assert [line.split()[0] for line in run("models", "--cached").stdout.splitlines()[1:2]] == ["tiny"]
    folder = cache.cached_model_folder(small)
    folder.mkdir(parents=True)
    (folder / "small.safetensors.part").write_bytes(bytes(1_500_000))
    assert "2 MB of it" in run("models").stdout
    loopback.files[hub_path("some/one", "open_clip_model.safetensors")] = Faults(weights)
    run("download", "some/one", "small")
    lines = run("models", "--cached").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["tiny", "small", "some/one"]
    assert "not for commercial use" in run("models").stdout


def test_remove_asks(small, loopback):  # noqa: F811
    run("download", "small")
    folder = cache.cached_model_folder(small)
    result = run("remove", "small", input="n\n")
    assert result.stdout == "small: kept\n" and folder.is_dir() and "Remove small (" in result.stderr
    assert "removed" in run("remove", "small", input="y\n").stdout and not folder.exists()
    run("download", "small")
    assert "removed" in run("remove", "small", "--yes").stdout and not folder.exists()
    assert "not in the cache" in run("remove", "small", "--yes", code=1).stderr


def test_remove_without_an_answer_keeps(small, loopback):  # noqa: F811
    run("download", "small")
    run("remove", "small", code=130, input="")
    assert cache.cached_weights(small)


def test_remove_touches_nothing_else(small, loopback, tmp_path):  # noqa: F811
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "open_clip_model.safetensors").write_bytes(b"mine")
    folder = cache.cached_model_folder(small)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(precious)
    run("remove", "small", "--yes")
    assert not folder.is_symlink() and (precious / "open_clip_model.safetensors").read_bytes() == b"mine"
    for name in ("tiny", str(precious), "../precious", "hf-hub:../x", "."):
        run("remove", name, "--yes", code=1)
    assert precious.is_dir()


def test_info_downloads_nothing(small, loopback):  # noqa: F811
    result = run("info", "small", code=1)
    assert "`clipc download small` brings it there" in result.stderr and not loopback.requests
    run("download", "small")
    assert "preprocessing" in run("info", "small", "--json").stdout


@pytest.mark.parametrize("quiet", [False, True])
def test_a_command_that_uses_a_model_downloads_it(small, loopback, tmp_path, monkeypatch, weights, quiet):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    picture(1).save("a.png")
    result = run("embed", "a.png", "-o", "a.npy", "--model", "small", *(["--quiet"] if quiet else []))
    notes = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert bool(notes) != quiet and (quiet or "downloading small" in notes[0])
    assert sha256((cache.cached_model_folder(small) / "small.safetensors").read_bytes()) == sha256(weights)
