"""What PyTorch writes: the same numbers as from safetensors, and nothing that a hostile file can do."""

import functools
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import warnings

import hostile_weights
import numpy as np
import oracles
import pytest
import safetensors.torch
import torch
from archive_builder import (
    NUMBERS,
    PLAIN,
    archive_of,
    dict_of,
    members_of,
    pickle_of,
    tensor,
    zip_of,
    zipped,
)
from core_process import environment
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch_files import SAVERS, as_numpy, check_same, encode, save_nested, save_plain, small_state, tree
from weights_builder import to_huggingface, to_openclip, write_safetensors

import clipc
from clipc.errors import WeightsError
from clipc.weights import open_weights
from clipc.weights.archive import TorchArchive

# PyTorch says that TorchScript has no future. Files of it have.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

# --- values -------------------------------------------------------------------------------------------


DTYPES = ["float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"]


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(tmp_path, dtype, old):
    values = (torch.randn(3, 5) * 9).to(getattr(torch, dtype))
    tensors = {"matrix": values, "scalar": values[0, 0].clone(), "empty": values[:0].clone()}
    torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    weights = check_same(tmp_path / "a.pt", tensors)
    assert weights.kind == ("old state dict" if old else "state dict")
    assert weights.metadata == {}


def strided_tensors():
    base = torch.arange(120, dtype=torch.float32)
    half = torch.randn(6, 8).half()
    return {
        "base": base,
        "same": base,
        "part": base[7:31].view(4, 6),
        "transposed": base[:24].view(4, 6).T,
        "steps": base[1::7],
        "every other row": half[::2],
        "columns": half[:, 2:5],
        "permuted": base.view(2, 3, 4, 5).permute(3, 1, 0, 2),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": base[5].expand(3, 4),
        "expanded rows": base[:4].expand(1000, 4),
        "empty part": base[3:3],
        "empty of a matrix": half[:, :0],
        "scalar of many": base[99],
        "one by one": half[1:2, 1:2],
        "parameter": torch.nn.Parameter(half[1]),
    }


@pytest.mark.parametrize("form", ["zip", "old", "protocol 4", "TorchScript"])
def test_views_of_storages(tmp_path, form):
    tensors = strided_tensors()
    if form == "TorchScript":
        module = torch.nn.Module()
        for i, value in enumerate(tensors.values()):
            module.register_buffer(f"b{i}", value)
        tensors = {f"b{i}": value for i, value in enumerate(tensors.values())}
        torch.jit.save(torch.jit.script(module), tmp_path / "a.pt")
    elif form == "protocol 4":
        torch.save(tensors, tmp_path / "a.pt", pickle_protocol=4)
    else:
        torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=form == "zip")
    check_same(tmp_path / "a.pt", tensors)


def test_tied_tensors_are_read_twice_and_stored_once(tmp_path):
    value = torch.randn(300, 300)
    torch.save({"a": value, "b": value, "c": value.T}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 1.2 * value.nbytes
    weights = check_same(tmp_path / "a.pt", {"a": value, "b": value, "c": value.T})
    assert weights.tensors["a"] == weights.tensors["b"]


def test_places_in_the_file(tmp_path):
    tensors = {"a": torch.randn(4, 6), "b": torch.arange(5)}
    torch.save(tensors, tmp_path / "a.pt")
    raw = (tmp_path / "a.pt").read_bytes()
    with TorchArchive(tmp_path / "a.pt") as weights:
        for name, info in weights.tensors.items():
            assert raw[info.begin : info.end] == as_numpy(tensors[name]).tobytes()


def test_wrong_calls(tmp_path):
    torch.save({"a": torch.ones(2), "t": torch.ones(2, 3).T}, tmp_path / "a.pt")
    weights = TorchArchive(tmp_path / "a.pt")
    with pytest.raises(KeyError):
        weights.read("b")
    for name in ("a", "t"):
        with pytest.raises(ValueError, match="expected a contiguous array of"):
            weights.read_into(name, np.empty(7, np.float32))
    weights.close()
    for name in ("a", "t"):
        with pytest.raises(ValueError, match="closed"):
            weights.read(name)
    with pytest.raises(IsADirectoryError, match="is a folder, expected a .pt or .bin file"):
        TorchArchive(tmp_path)
    with pytest.raises(FileNotFoundError):
        TorchArchive(tmp_path / "none.pt")


def test_file_that_changes_while_it_is_open(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(5000), "b": torch.ones(3)}, path)
    with TorchArchive(path) as weights:
        begin = weights.tensors["a"].begin
        raw = bytearray(path.read_bytes())
        raw[begin + 5] ^= 1
        path.write_bytes(raw)
        with pytest.raises(WeightsError, match="is damaged: the check sum of data/0 is"):
            weights.read("a")
        assert weights.read("b").tolist() == [1, 1, 1]
        path.write_bytes(raw[: begin + 100])
        with pytest.raises(WeightsError, match="changed while it was read: a"):
            weights.read("a")


def test_archives_without_check_sums(tmp_path):
    """PyTorch can be told to leave them out; they are 0 then."""
    tensors = {"a": torch.randn(40)}
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tensors, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    check_same(tmp_path / "a.pt", tensors)


def test_archives_packed_again(tmp_path):
    """By Python's zipfile, which pads nothing; and with entries for folders, as the zip program has them."""
    (tmp_path / "a.pt").write_bytes(zipped(pickle_of(PLAIN), NUMBERS))
    expected = {"w": torch.arange(6.0).view(2, 3)}
    check_same(tmp_path / "a.pt", expected)
    folders = [("", b""), ("data/", b""), *members_of(pickle_of(PLAIN))]
    (tmp_path / "b.pt").write_bytes(zip_of(folders, comment=b"packed again"))
    check_same(tmp_path / "b.pt", expected)


@pytest.mark.parametrize(
    "content",
    [
        zip_of(members_of(pickle_of(PLAIN), byteorder=None, version=None)),
        zip_of(members_of(pickle_of(PLAIN)), zip64={}),
        zip_of(members_of(pickle_of(PLAIN)), zip64={}, end={"count": 0xFFFF, "here": 0xFFFF,
               "offset": 0xFFFFFFFF, "length": 0xFFFFFFFF}),
        zip_of(members_of(pickle_of(PLAIN)), lies={
               "data/0": {"local_size": 0, "local_packed": 0, "local_crc": 0, "flags": 0x808}}),
        zip_of(members_of(pickle_of(PLAIN)), lies={"data/0": {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF,
               "extra": struct.pack("<2H2Q", 1, 16, 24, 24)}}),
        zip_of(members_of(pickle_of(PLAIN)), root="모델/"),
        zip_of(members_of(pickle_of(dict_of(epoch=b"N", w=tensor())))),
    ],
    ids=["as OpenAI's", "zip64", "zip64 alone", "sizes behind", "zip64 sizes", "Korean name", "None"],
)  # fmt: skip
def test_forms_that_are_valid(tmp_path, content):
    """The builder of the hostile archives, without lies: what is refused below is refused for its lie."""
    (tmp_path / "a.pt").write_bytes(content)
    check_same(tmp_path / "a.pt", {"w": torch.arange(6.0).view(2, 3)})


# --- whole models -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "openai"])
@pytest.mark.parametrize("save", SAVERS, ids=lambda save: save.__name__.removeprefix("save_"))
@pytest.mark.parametrize("architecture", ["vit", "resnet"])
def test_models_as_from_safetensors(tmp_path, architecture, save, dtype):
    state = oracles.layouts.cast(small_state(architecture), dtype)
    save(state, tmp_path / "model.pt")
    oracles.layouts._save(state, tmp_path / "model.safetensors", None)
    check_same(tmp_path / "model.safetensors", state)
    wrapper = "module." if save is save_nested else ""
    check_same(tmp_path / "model.pt", {wrapper + name: value for name, value in state.items()})
    model = clipc.load(tmp_path / "model.pt", heads=2 if architecture == "resnet" else None)
    other = clipc.load(tmp_path / "model.safetensors", heads=2 if architecture == "resnet" else None)
    assert encode(model) == encode(other)
    assert model.name == "model" and model.config == other.config


@pytest.mark.parametrize("name", ["ViT-B/32-small", "RN50-small"])
def test_openai_archive(tmp_path, random_model, name):
    """As OpenAI made theirs: the reference module, converted by its `convert_weights`, traced and saved."""
    spec, weights, _ = random_model(name)
    module = oracles.build_reference({key: value.clone() for key, value in weights.items()}, heads=spec.heads)
    reference = oracles.clip_reference.clip_module("model")
    reference.convert_weights(module)
    module.register_buffer("input_resolution", torch.tensor(spec.image_size))
    tokens = torch.zeros(1, 77, dtype=torch.int64)
    tokens[0, 3] = 49407
    pictures = torch.zeros(1, 3, spec.image_size, spec.image_size, dtype=torch.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, (pictures, tokens), check_trace=False)
    torch.jit.save(traced, tmp_path / "model.pt")
    loaded = torch.jit.load(tmp_path / "model.pt").state_dict()
    halves = {key for key, value in loaded.items() if value.dtype == torch.float16}
    assert "text_projection" in halves and "visual.conv1.weight" in halves
    assert "token_embedding.weight" not in halves and "ln_final.weight" not in halves
    with open_weights(tmp_path / "model.pt") as archive:
        assert archive.kind == "TorchScript"
        assert {key for key, info in archive.tensors.items() if info.dtype == "F16"} == halves
    check_same(tmp_path / "model.pt", loaded)
    oracles.layouts.save_openai(weights, tmp_path / "model.safetensors", "openai")
    model = clipc.load(tmp_path / "model.pt", heads=spec.heads)
    assert encode(model) == encode(clipc.load(tmp_path / "model.safetensors", heads=spec.heads))


def test_folders(tmp_path, random_model):
    """Configurations beside a .bin file count as beside a safetensors file; safetensors win."""
    spec, weights, _ = random_model("ViT-H80-small")
    save = {
        "huggingface": oracles.layouts.save_huggingface(weights, tmp_path / "huggingface", spec),
        "openclip": oracles.layouts.save_openclip(weights, tmp_path / "openclip", spec),
    }
    names = {"huggingface": "pytorch_model.bin", "openclip": "open_clip_pytorch_model.bin"}
    for kind, folder in save.items():
        file = next(folder.glob("*.safetensors"))
        expected = encode(clipc.load(folder))
        torch.save(safetensors.torch.load_file(file), folder / names[kind])
        torch.save({"learning rate": 1}, folder / "training_args.bin")
        assert clipc.load(folder).path.suffix == ".safetensors"
        file.unlink()
        model = clipc.load(folder)
        assert model.path.name == names[kind] and model.name == kind
        assert model.config.activation == "gelu" and model.config.vision_heads == 2
        assert encode(model) == expected


@pytest.mark.parametrize("rename", [to_openclip, to_huggingface], ids=["openclip", "huggingface"])
def test_model_in_several_files(tmp_path, rename):
    state = {name: value.numpy() for name, value in small_state("vit").items()}
    state = {name: torch.tensor(np.ascontiguousarray(value)) for name, value in rename(state).items()}
    names = list(state)
    parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, inside in parts.items():
        torch.save({name: state[name] for name in inside}, tmp_path / file)
    index = {"weight_map": {name: file for file, inside in parts.items() for name in inside}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    check_same(tmp_path, state)
    oracles.layouts._save(state, tmp_path / "one" / "model.safetensors", None)
    assert encode(clipc.load(tmp_path)) == encode(clipc.load(tmp_path / "one"))


def test_the_content_decides_and_not_the_name(tmp_path):
    state = small_state("vit")
    torch.save(state, tmp_path / "a.safetensors")
    oracles.layouts._save(state, tmp_path / "b.pt", None)
    check_same(tmp_path / "a.safetensors", state)
    check_same(tmp_path / "b.pt", state)
    assert clipc.load(tmp_path / "b.pt").name == "b"
    # A safetensors header whose length begins like a pickle.
    path = write_safetensors(tmp_path / "c.safetensors", {"a": np.ones(2, np.float32)})
    raw = path.read_bytes()
    path.write_bytes((0x0280).to_bytes(8, "little") + raw[8:-8].ljust(0x280) + raw[-8:])
    check_same(path, {"a": torch.ones(2)})


def test_whole_models_are_refused_with_what_to_do(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=r"torch.nn.modules.linear.Linear .*save its state_dict\(\)"):
        TorchArchive(tmp_path / "a.pt")


def test_other_archives_of_torch_are_refused(tmp_path):
    torch.save({"w": torch.ones(3).to(torch.float8_e4m3fn)}, tmp_path / "float8.pt")
    torch.save({"w": torch.ones(3).to_sparse()}, tmp_path / "sparse.pt")
    torch.save({"w": torch.ones(3, dtype=torch.complex64)}, tmp_path / "complex.pt")
    torch.save({"w": torch.ones(3, dtype=torch.complex64).conj().imag}, tmp_path / "negated.pt")
    torch.save({"w": torch.ones(3, device="meta")}, tmp_path / "meta.pt")
    for path in tmp_path.iterdir():
        with pytest.raises(
            WeightsError, match=r"refused: the archive (asks for torch|.*properties of its own)"
        ):
            TorchArchive(path)


# --- hostile files ------------------------------------------------------------------------------------

# What the table may take for one file. Processor time, which does not depend on what else runs.
SECONDS = 2
MEMORY = 300_000_000


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of each line of the table, in a process of its own with a limit of memory; and its folder."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "files").mkdir()
    hostile_weights.write_cases(folder / "files")
    command = [sys.executable, hostile_weights.__file__, str(folder / "files"), str(MEMORY)]
    result = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), folder


def test_the_table_is_long_enough():
    assert len(hostile_weights.CASES) >= 100
    assert len({name for name, _, _ in hostile_weights.CASES}) == len(hostile_weights.CASES)


@pytest.mark.parametrize(
    "i", range(len(hostile_weights.CASES)), ids=[name for name, *_ in hostile_weights.CASES]
)
def test_hostile_file(outcomes, i):
    message = hostile_weights.CASES[i][2]
    result = outcomes[0][f"{i:03}"]
    assert result["kind"] == "WeightsError", result
    assert re.search(message, result["message"]), result["message"]
    assert f"{i:03}" in result["message"], "the file is named"
    assert len(result["message"]) < 600
    assert result["events"] == []
    assert result["seconds"] < SECONDS


def test_hostile_files_leave_nothing_behind(outcomes):
    assert sorted(os.listdir(outcomes[1])) == ["archive", "files", "model"]


def test_the_audit_would_see_an_execution(tmp_path):
    """The proof above is one only if the hooks report what `pickle` does with the same files."""
    pickled = pickle_of(hostile_weights.EXECUTING["builtins.exec"])
    script = (
        "import hostile_weights, pickle, sys\n"
        "sys.addaudithook(hostile_weights.watch)\n"
        "pickle.loads(sys.stdin.buffer.read())\n"
        "print(hostile_weights.events)\n"
    )
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, input=pickled, cwd=tmp_path, env=environment(), capture_output=True)
    assert b"pickle.find_class" in result.stdout and b"exec" in result.stdout, result.stderr


@pytest.mark.parametrize(
    "name",
    ["os.system", "posix.system", "subprocess.check_output", "builtins.eval", "builtins.exec"],
)
def test_the_table_is_hostile(tmp_path, monkeypatch, name):
    """Python's own `pickle` does run these: the canary appears."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle_of(hostile_weights.EXECUTING[name]))
    assert os.path.exists(hostile_weights.CANARY)


# --- damage -------------------------------------------------------------------------------------------


@functools.cache
def samples():
    """Small valid files of each kind: name to (bytes, {name of a tensor: its bytes})."""
    state = {"a": torch.arange(6.0).view(2, 3), "b.c": torch.ones(2).half(), "d": torch.tensor(3)}
    found = {}
    for kind in ("zip", "old", "TorchScript"):
        file = io.BytesIO()
        if kind == "TorchScript":
            torch.jit.save(torch.jit.script(tree(state)), file)
        else:
            torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
        found[kind] = file.getvalue(), {name: as_numpy(value).tobytes() for name, value in state.items()}
    return found


def read_all(path):
    """All tensors as bytes, or None if the file is refused; any other exception is a failure."""
    try:
        with open_weights(path) as weights:
            return {name: weights.read(name).tobytes() for name in weights.tensors}
    except WeightsError as error:
        assert path.name in str(error)
        return None


@pytest.mark.parametrize("kind", ["zip", "old", "TorchScript"])
def test_cut_anywhere(tmp_path, kind):
    """Everywhere in the head, where instructions are, and then in steps."""
    raw, expected = samples()[kind]
    path = tmp_path / "a.pt"
    for length in [*range(0, 600, 2), *range(600, len(raw), 61), *range(len(raw) - 60, len(raw))]:
        path.write_bytes(raw[:length])
        assert read_all(path) is None, length
    path.write_bytes(raw)
    assert read_all(path) == expected


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "copy"]), st.integers(0, 2**20), st.binary(max_size=6)
    ),
    min_size=1,
    max_size=4,
)


def changed(raw, changes):
    raw = bytearray(raw)
    for what, position, data in changes:
        position %= max(len(raw), 1)
        if what == "set":
            raw[position : position + len(data)] = data[: len(raw) - position]
        elif what == "insert":
            raw[position:position] = data
        elif what == "delete":
            del raw[position : position + 1 + len(data)]
        else:
            raw[position : position + 64] = raw[position // 2 : position // 2 + 64]
    return bytes(raw)


@settings(max_examples=120, deadline=None)
@given(changes=CHANGES)
def test_changed_archive_is_the_same_or_refused(tmp_path_factory, changes):
    """Check sums cover all that is read, so whatever is accepted holds the same numbers."""
    raw, expected = samples()["zip"]
    path = tmp_path_factory.mktemp("changed") / "a.pt"
    path.write_bytes(changed(raw, changes))
    assert read_all(path) in (None, expected)


@settings(max_examples=120, deadline=None)
@given(kind=st.sampled_from(["old", "TorchScript"]), changes=CHANGES)
def test_changed_file_raises_nothing_else(tmp_path_factory, kind, changes):
    path = tmp_path_factory.mktemp("changed") / "a.pt"
    path.write_bytes(changed(samples()[kind][0], changes))
    read_all(path)


SNIPPETS = [
    b"(", b")", b"}", b"]", b"N", b"t", b"\x85", b"\x86", b"\x87", b"a", b"e", b"s", b"u", b"q\x01", b"h\x01",
    b"R", b"\x81", b"b", b"Q", b"\x94", b"K\x02", b"X\x01\x00\x00\x00a", PLAIN, tensor(), tensor((3,), (0,)),
    b"c__torch__\nM\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"ctorch\nSize\n",
    b"ctorch.jit._pickle\nbuild_intlist\n", b"ctorch.jit._pickle\nrestore_type_tag\n", b"ctorch\ndevice\n",
    b"ctorch._utils\n_rebuild_parameter\n", b"\x8a\x01\xff", b"G" + bytes(8), b"\x95" + bytes(8),
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.sampled_from(SNIPPETS), max_size=14), more=st.binary(max_size=3), script=st.booleans()
)
@example(parts=[PLAIN], more=b"", script=False)
def test_no_pickle_raises_anything_else(tmp_path_factory, parts, more, script):
    """With a right check sum, so that the pickle is read: instructions that are valid, in any order."""
    build = hostile_weights.script_of if script else archive_of
    path = tmp_path_factory.mktemp("pickle") / "a.pt"
    path.write_bytes(build(*parts, more))
    found = read_all(path)
    if found is not None:
        assert found and all(len(value) < 100 for value in found.values())


@settings(max_examples=120, deadline=None)
@given(changes=CHANGES)
def test_changed_pickle_raises_nothing_else(tmp_path_factory, changes):
    """Like the above, from the pickle of a state dict."""
    path = tmp_path_factory.mktemp("pickle") / "a.pt"
    pickled = changed(pickle_of(dict_of(w=tensor(), v=tensor((3, 1), (1, 7)), n=b"N")), changes)
    path.write_bytes(zip_of(members_of(pickled)))
    read_all(path)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_refused_files_are_closed(tmp_path):
    for i, content in enumerate((archive_of(b"R"), samples()["old"][0][:-3], b"PK\x03\x04", b"\x80\x02.")):
        (tmp_path / f"{i}.pt").write_bytes(content)
    before = len(os.listdir("/proc/self/fd"))
    for path in tmp_path.iterdir():
        assert read_all(path) is None
    assert len(os.listdir("/proc/self/fd")) == before


# --- time and memory ----------------------------------------------------------------------------------

MEASURE = """
import sys
from clipc.weights import open_weights

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

with open_weights(sys.argv[2]) as weights:
    weights.read("a")
before = peak()
with open_weights(sys.argv[1]) as weights:
    for name in weights.tensors:
        weights.read(name)
print(peak() - before)
"""


@pytest.mark.memory
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak from /proc")
def test_memory_is_one_tensor(tmp_path):
    torch.save({str(i): torch.full((1_000_000,), 1.0 * i) for i in range(30)}, tmp_path / "a.pt")
    torch.save({"a": torch.ones(1)}, tmp_path / "warm.pt")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "a.pt"), str(tmp_path / "warm.pt")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 4 + 8  # MB: one tensor, and what the allocator keeps


def test_pickling_and_threads(tmp_path):
    """A model from an archive is pickled by its path, like any other."""
    save_plain(small_state("vit"), tmp_path / "a.pt")
    model = clipc.load(tmp_path / "a.pt")
    assert encode(pickle.loads(pickle.dumps(model))) == encode(model)
