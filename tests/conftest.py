"""Fixtures that all tests share: data, random models and pictures."""

import functools
import os
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
from availability import require, unavailable
from core_process import CoreProcess, supported_levels

REAL_CACHE = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also run what takes long: see the marker full")


def pytest_configure(config):
    # A shell starts what it runs in the background with this signal ignored, and children would inherit that:
    # the tests of Ctrl-C would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    takes_long = "full-size models, notebooks, oracles among themselves"
    config.addinivalue_line("markers", f"full: takes long ({takes_long}); runs with --full")
    own = "about OpenAI's own weights; skipped where there are none"
    config.addinivalue_line("markers", f"real_weights: {own}")
    # Before `no_network` hides it: where real weights lie.
    config.stash[REAL_CACHE] = os.environ.get("CLIPC_CACHE")
    config.addinivalue_line("markers", "memory: measures memory, which is another under a sanitizer")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        skip = pytest.mark.skip(reason="takes long: runs with --full")
        for item in items:
            if "full" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def children_import_the_clipc_under_test(tmp_path_factory):
    """Leave the source folder: a child process looks there first, and finds clipc without its extension.

    Where clipc is built in place instead of installed, children find it through ``PYTHONPATH``.
    """
    import clipc

    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("CLIPC_DATA"):
            patch.setenv("CLIPC_DATA", os.path.abspath(os.environ["CLIPC_DATA"]))
        home = os.path.dirname(os.path.dirname(os.path.abspath(clipc.__file__)))
        patch.setenv("PYTHONPATH", home, prepend=os.pathsep)
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_network(tmp_path_factory):
    """No test goes to the network, and none finds what somebody has downloaded: for children as well.

    Tests of downloads have a server of their own; see `loopback`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPC_OFFLINE", "1")
        patch.setenv("CLIPC_CACHE", str(tmp_path_factory.mktemp("cache") / "clipc"))
        for name in ("CLIPC_MODEL", "CLIPC_HUB", "HF_ENDPOINT", "HF_TOKEN"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def use_threads():
    """`clipc.set_num_threads`, until the test is over."""
    import clipc

    before = clipc.get_num_threads()
    yield clipc.set_num_threads
    clipc.set_num_threads(before)


@pytest.fixture
def loopback(tmp_path, monkeypatch):
    """A `FileServer` that is the hub, an empty cache, and downloads allowed from it alone."""
    from file_server import FileServer

    from clipc.weights import download

    patient_enough = download.Policy(
        connect_timeout=2, read_timeout=0.4, attempts=3, connect_attempts=1, backoff=0.01, longest_wait=2
    )
    with FileServer() as server:
        monkeypatch.delenv("CLIPC_OFFLINE")
        monkeypatch.setenv("CLIPC_HUB", server.url)
        monkeypatch.setenv("CLIPC_CACHE", str(tmp_path / "cache"))
        # A proxy of this computer is not for its own addresses.
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1,localhost")
        monkeypatch.setattr(download, "POLICY", patient_enough)
        yield server


@pytest.fixture(scope="session")
def data_dir():
    """The folder of data that `CLIPC_DATA` names; without it the test is skipped, in CI it fails."""
    value = os.environ.get("CLIPC_DATA")
    if not value:
        unavailable("CLIPC_DATA is not set: it names the folder with the test data")
    folder = Path(value)
    if not folder.is_dir():
        unavailable(f"CLIPC_DATA: {folder} is not a folder")
    return folder


@pytest.fixture(scope="session")
def clip_data(data_dir):
    """A function from the name of a data set, such as "zeroshot", to its folder."""
    def folder_of(name):
        folder = data_dir / name
        if not folder.is_dir():
            unavailable(f"CLIPC_DATA has no folder {name!r}")
        return folder

    return folder_of


_kernels_tested = set()


def kernels_of(core):
    """The names of the row kernels and of what multiplies by weights."""
    info = core.build_info()
    return info["elementwise_kernels"], info["gemm_kernels"]


@pytest.fixture(scope="session", params=supported_levels())
def core(request):
    """``clipc._core`` at one level; levels that use the same kernels are tested once."""
    from clipc import _core

    isa = request.param
    if isa == _core.build_info()["isa"]:
        yield _core
        return
    process = CoreProcess(isa)
    try:
        kernels = kernels_of(process)
        if kernels in _kernels_tested | {kernels_of(_core)}:
            pytest.skip(f"{isa} uses the kernels of another level: {' and '.join(kernels)}")
        _kernels_tested.add(kernels)
        yield process
    finally:
        process.close()


class RandomModel(NamedTuple):
    """An architecture, random weights for it and OpenAI's module holding them; read only."""

    spec: object
    state_dict: dict
    reference: object


@pytest.fixture(scope="session")
def oracles():
    """The package of oracles; without PyTorch or `clip-anytorch` the test is skipped, in CI it fails."""
    oracles = require("oracles")
    try:
        oracles.reference_tokenizer()
    except oracles.OracleMissing as error:
        unavailable(str(error))
    return oracles


@pytest.fixture(scope="session")
def random_model(oracles):
    """A function from the name of a spec (and a seed, 0) to a `RandomModel`, the same one all session."""
    def build(name, seed):
        spec = oracles.SPECS[name]
        weights = oracles.random_state_dict(spec, seed)
        return RandomModel(spec, weights, oracles.build_reference(weights, spec.activation, spec.heads))

    small = functools.lru_cache(maxsize=None)(build)
    # Full-size models are hundreds of megabytes each.
    full = functools.lru_cache(maxsize=1)(build)

    def model(name, seed=0):
        return (full if name in oracles.FULL else small)(name, seed)

    return model


@pytest.fixture(scope="session")
def photos(oracles):
    """A function (n, size, seed=0) to preprocessed pictures, float32 (n, 3, size, size), read-only."""
    @functools.lru_cache(maxsize=32)
    def pictures(n, size, seed=0):
        array = oracles.photographs(n, size, seed)
        array.flags.writeable = False
        return array

    return pictures


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, holding pictures/ with three images, a subfolder, and files that are no images."""
    from command_line import picture

    pictures = tmp_path / "pictures"
    (pictures / "more").mkdir(parents=True)
    picture(1).save(pictures / "b.png")
    picture(2).save(pictures / "a.jpg")
    picture(3).save(pictures / "C.PNG")
    picture(4).save(pictures / "more" / "d.png")
    (pictures / "notes.txt").write_text("no image\n")
    (pictures / "._a.jpg").write_bytes(b"what macOS leaves behind")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLIPC_DEBUG", raising=False)
    monkeypatch.setenv("CLIPC_MODEL", "tiny")
    return tmp_path


@pytest.fixture(scope="session")
def vit(random_model, oracles, tmp_path_factory):
    """A small vision transformer of three blocks with random weights, patches of 16 pixels, 7 x 7 of them."""
    import clipc

    spec, weights, _ = random_model("ViT-B/16-small")
    path = tmp_path_factory.mktemp("vit") / "model.safetensors"
    oracles.layouts.save_openai(weights, path, metadata=oracles.layouts.metadata_of(spec))
    return clipc.load(path)


@pytest.fixture(scope="session")
def package_map(oracles):
    """`oracles.explanations.package_map`; without grad-cam the test is skipped, in CI it fails."""
    from oracles import explanations

    try:
        explanations.grad_cam_package()
    except oracles.OracleMissing as error:
        unavailable(str(error))
    return explanations.package_map


@pytest.fixture
def no_system_fonts(monkeypatch):
    """Pillow's own font alone."""
    from clipc import drawing

    monkeypatch.setattr(drawing, "_system_fonts", lambda: ((), ()))
    drawing._found_faces.cache_clear()
    yield
    drawing._found_faces.cache_clear()
