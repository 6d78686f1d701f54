"""The safetensors reader: values, damaged files, headers that lie, files of other kinds, memory."""

import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from weights_builder import raw_file, shapes_of_huggingface, vit_shapes, write_safetensors, write_zeros

from clipc.errors import WeightsError
from clipc.weights import safetensors_file
from clipc.weights.files import ShardedWeights, find_weights, open_weights
from clipc.weights.safetensors_file import SafetensorsFile
from clipc.weights.tensor_file import NUMPY_DTYPES


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# --- values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32", "float64", "uint8", "bool"])
def test_reads_what_the_library_writes(tmp_path, dtype):
    rng = np.random.default_rng(1)
    tensors = {
        "matrix": (rng.standard_normal((3, 5)) * 9).astype(dtype),
        "scalar": np.array(1, dtype),
        "empty": np.zeros((0, 4), dtype),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors", metadata={"name": "x"})
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        assert file.metadata == {"name": "x"}
        assert set(file.tensors) == set(tensors)
        for name, array in tensors.items():
            read = file.read(name)
            assert read.dtype == array.dtype and read.shape == array.shape == file.tensors[name].shape
            np.testing.assert_array_equal(read, array)
            assert read.flags.c_contiguous and read.flags.writeable and read.base is None


def test_bfloat16_comes_as_raw_bits(tmp_path):
    value = torch.randn(7, 3).to(torch.bfloat16)
    safetensors.torch.save_file({"a": value}, tmp_path / "a.safetensors")
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        bits = file.read("a")
    assert bits.dtype == np.uint16
    as_float = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(as_float, value.float().numpy())


def test_dtype_without_numpy_counterpart(tmp_path):
    path = raw_file(tmp_path / "a.safetensors", {"w": entry("F8_E4M3", (4,), (0, 4))}, bytes(4))
    with SafetensorsFile(path) as file, pytest.raises(WeightsError, match="w: .*F8_E4M3"):
        file.read("w")


def test_unaligned_data(tmp_path):
    header = json.dumps({"b": entry("I8", (1,), (0, 1)), "a": entry(offsets=(1, 9))}).encode()
    path = raw_file(tmp_path / "a.safetensors", header, b"\x05" + np.array([1.5, -2], "<f4").tobytes())
    with SafetensorsFile(path) as file:
        np.testing.assert_array_equal(file.read("a"), np.array([1.5, -2], np.float32))


def test_file_that_shrinks_while_open(tmp_path):
    tensors = {"a": np.ones(100, np.float32), "b": np.ones(4, np.float32)}
    path = write_safetensors(tmp_path / "a.safetensors", tensors)
    with SafetensorsFile(path) as file:
        with open(path, "r+b") as other:
            other.truncate(path.stat().st_size - 100)
        with pytest.raises(WeightsError, match="changed while it was read: a"):
            file.read("a")


def test_read_after_close_and_unknown_name(tmp_path):
    file = SafetensorsFile(write_safetensors(tmp_path / "a.safetensors", {"a": np.ones(2, np.float32)}))
    with pytest.raises(KeyError):
        file.read("b")
    with pytest.raises(ValueError, match="contiguous array of 8 bytes"):
        file.read_into("a", np.empty(3, np.float32))
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read("a")


# --- headers that lie ---------------------------------------------------------------------------------

TWO = {"a": entry(), "b": entry(offsets=(8, 16))}
TWICE = b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2)
FIELD_TWICE = b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
NESTED = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"

# (what, header, number of data bytes, length field or None, pattern of the message)
LIES = [
    ("cut data", TWO, 15, None, "cut short: the header promises .* bytes"),
    ("no data", TWO, 0, None, "cut short"),
    ("surplus data", TWO, 17, None, "1 bytes follow that belong to no tensor"),
    ("overlap", {"a": entry(), "b": entry(offsets=(4, 12))}, 12, None, "overlaps a"),
    ("same place", {"a": entry(), "b": entry()}, 8, None, "overlaps"),
    ("gap", {"a": entry(), "b": entry(offsets=(12, 20))}, 20, None, "leaves a gap after a"),
    ("gap at the start", {"a": entry(offsets=(8, 16))}, 16, None, "leaves a gap after the header"),
    ("end before begin", {"a": entry(offsets=(8, 0))}, 8, None, "end before they begin"),
    ("negative offset", {"a": entry(offsets=(-8, 0))}, 8, None, "data_offsets must be two whole numbers"),
    ("offset beyond 64 bits", {"a": entry(offsets=(0, 2**64 + 8))}, 8, None, "data_offsets must be"),
    ("more than the file", {"a": entry("U8", (2**40,), (0, 2**40))}, 8, None, "cut short"),
    ("fractional offset", {"a": entry(offsets=(0, 8.0))}, 8, None, "data_offsets must be"),
    ("bool offset", {"a": entry("U8", (1,), (False, True))}, 1, None, "data_offsets must be"),
    ("three offsets", {"a": entry(offsets=(0, 4, 8))}, 8, None, "data_offsets must be"),
    (
        "offsets missing",
        {"a": {"dtype": "F32", "shape": [2]}},
        8,
        None,
        "exactly dtype, shape and data_offsets",
    ),
    ("surplus field", {"a": {**entry(), "x": 1}}, 8, None, "exactly dtype, shape and data_offsets"),
    ("entry is a list", {"a": [1, 2]}, 8, None, "exactly dtype"),
    ("span too small", {"a": entry(shape=(3,))}, 8, None, r"F32 \[3\] takes 12 bytes, data_offsets span 8"),
    ("span too large", {"a": entry(shape=(1,))}, 8, None, "takes 4 bytes, data_offsets span 8"),
    ("product wraps to 8 bytes", {"a": entry(shape=(2**62 + 1, 8))}, 8, None, "too large"),
    ("product wraps to 0", {"a": entry(shape=(2**32, 2**32), offsets=(0, 0))}, 0, None, "too large"),
    ("huge behind a zero", {"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}, 0, None, "too large"),
    ("negative axis", {"a": entry(shape=(-2,))}, 8, None, "shape must be a list of whole numbers"),
    ("two negative axes", {"a": entry(shape=(-1, -2))}, 8, None, "shape must be"),
    ("fractional axis", {"a": entry(shape=(2.0,))}, 8, None, "shape must be"),
    ("axis is text", {"a": entry(shape=("2",))}, 8, None, "shape must be"),
    ("shape is a number", {"a": {**entry(), "shape": 2}}, 8, None, "shape must be"),
    ("nine axes", {"a": entry(shape=(2,) + (1,) * 8)}, 8, None, "at most 8 axes, got 9"),
    ("unknown dtype", {"a": entry("F33")}, 8, None, "unknown dtype F33"),
    ("dtype is a list", {"a": entry(["F32"])}, 8, None, "unknown dtype"),
    ("part of a byte", {"a": entry("F4", (3,), (0, 1))}, 1, None, "takes 1.5 bytes"),
    ("name twice", TWICE, 8, None, "a appears twice"),
    ("field twice", FIELD_TWICE, 8, None, "dtype appears twice"),
    ("not JSON", b'{"a":', 8, None, "header is not valid JSON"),
    ("not UTF-8", b'{"\xff":1}', 8, None, "header is not valid JSON"),
    ("NaN", b'{"a":NaN}', 8, None, "NaN is not a number"),
    ("endless number", b'{"a":' + b"9" * 5000 + b"}", 8, None, "not a number that can be used"),
    ("nested too deeply", NESTED, 8, None, "header is not valid JSON|exactly dtype"),
    ("a list", b"[1, 2]", 8, None, "not a safetensors file"),
    ("no tensors", {}, 0, None, "no tensors"),
    ("metadata alone", {"__metadata__": {"a": "b"}}, 0, None, "no tensors"),
    ("metadata is text", {"__metadata__": "a", **TWO}, 16, None, "__metadata__"),
    ("metadata holds numbers", {"__metadata__": {"a": 1}, **TWO}, 16, None, "__metadata__"),
    ("length 0", TWO, 16, 0, "not a safetensors file"),
    ("length 1", TWO, 16, 1, "not a safetensors file"),
    ("length too large", TWO, 0, 10_000, "cut short: the header alone takes 10008 bytes"),
    ("length too small", TWO, 16, 20, "header is not valid JSON"),
    ("length at the limit", TWO, 16, 5_000_000, "cut short"),
    ("length above the limit", TWO, 16, 5_000_001, "not a safetensors file"),
    ("length that wraps", TWO, 16, 2**64 - 1, "not a safetensors file"),
    ("length that wraps to the start", TWO, 16, 2**64 - 8, "not a safetensors file"),
]


@pytest.mark.parametrize("what, header, data, length, message", LIES, ids=[lie[0] for lie in LIES])
def test_header_that_lies(tmp_path, monkeypatch, what, header, data, length, message):
    path = raw_file(tmp_path / "model.safetensors", header, bytes(data), length)
    # Without the library: each of these is caught by the checks here.
    monkeypatch.setattr(safetensors_file, "_check_with_library", lambda path: None)
    with pytest.raises(WeightsError, match=message) as caught:
        SafetensorsFile(path)
    assert "model.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_library_checks_as_well(tmp_path):
    SafetensorsFile(raw_file(tmp_path / "a.safetensors", TWO, bytes(16))).close()
    bad = raw_file(tmp_path / "b.safetensors", TWO, bytes(15))
    with pytest.raises(WeightsError, match="refused by the safetensors library"):
        safetensors_file._check_with_library(bad)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 20)
    | st.floats()
    | st.sampled_from(["F32", "BF16", "F4", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["dtype", "shape"]), inner),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.just("F32") | JSON_VALUES,
        "shape": st.just([2]) | JSON_VALUES,
        "data_offsets": st.just([0, 8]) | JSON_VALUES,
    }
)


@settings(max_examples=150, deadline=None)
@given(
    header=st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), ENTRIES | JSON_VALUES, max_size=3),
    size=st.integers(0, 20),
)
def test_no_header_raises_anything_else(tmp_path_factory, header, size):
    path = raw_file(tmp_path_factory.mktemp("fuzz") / "a.safetensors", header, bytes(size))
    try:
        with SafetensorsFile(path) as file:
            assert all(8 < info.begin <= info.end <= path.stat().st_size for info in file.tensors.values())
    except WeightsError as error:
        assert "a.safetensors" in str(error)


@settings(max_examples=200, deadline=None)
@given(position=st.integers(0, 400), byte=st.integers(0, 255))
def test_one_wrong_byte(tmp_path_factory, position, byte):
    path = tmp_path_factory.mktemp("flip") / "a.safetensors"
    write_safetensors(path, {"a": np.ones((2, 3), np.float32), "b": np.ones(3, np.float16)}, {"k": "v"})
    raw = bytearray(path.read_bytes())
    raw[position % len(raw)] = byte
    path.write_bytes(raw)
    try:
        with SafetensorsFile(path) as file:
            for name, info in file.tensors.items():
                if info.dtype in NUMPY_DTYPES:
                    assert file.read(name).shape == info.shape
    except WeightsError:
        pass


def test_cut_anywhere(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, {"a": np.ones((4, 5), np.float32), "b": np.ones(3, np.float16)})
    raw = path.read_bytes()
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(WeightsError, match="cut short" if length else "is empty"):
            SafetensorsFile(path)


# --- files of other kinds -----------------------------------------------------------------------------


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")


LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
OTHERS = [
    ("empty", lambda p: p.write_bytes(b""), "empty"),
    ("text", lambda p: p.write_text("these are no weights\n"), "a text file"),
    ("short text", lambda p: p.write_text("hi"), "a text file"),
    ("Korean text", lambda p: p.write_text("가중치 파일이 아닙니다", "utf-8"), "not a safetensors file"),
    ("zip", write_zip, "PyTorch archive.*open_weights"),
    ("torch.save", lambda p: torch.save({"a": torch.ones(3)}, p), "PyTorch archive"),
    ("pickle", lambda p: p.write_bytes(pickle.dumps({"a": [1.0] * 20}, 2)), "looks like a Python pickle"),
    ("git-lfs", lambda p: p.write_text(LFS_POINTER), "git lfs pull"),
    ("web page", lambda p: p.write_text("<!DOCTYPE html><html>Not found</html>"), "web page"),
    ("gguf", lambda p: p.write_bytes(b"GGUF\x03\0\0\0" + bytes(40)), "GGUF"),
    ("gzip", lambda p: p.write_bytes(b"\x1f\x8b\x08\0" + bytes(40)), "gzip"),
    ("hdf5", lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40)), "HDF5"),
    ("JPEG", lambda p: p.write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(40)), "not a safetensors file"),
    ("zeros", lambda p: p.write_bytes(bytes(100)), "not a safetensors file"),
    ("seven bytes", lambda p: p.write_bytes(b"\1\0\0\0\0\0\0"), "cut short"),
]


@pytest.mark.parametrize("what, write, message", OTHERS, ids=[case[0] for case in OTHERS])
def test_files_of_other_kinds(tmp_path, what, write, message):
    write(tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=message) as caught:
        SafetensorsFile(tmp_path / "model.safetensors")
    assert "model.safetensors" in str(caught.value)


def test_header_lengths_that_resemble_other_kinds(tmp_path):
    """The low bytes of a genuine header length may spell the start of a pickle or a gzip archive."""
    tensors = {"a": np.ones(2, np.float32)}
    for length in (0x0280, 0x0480, 0x8B1F):
        path = write_safetensors(tmp_path / "a.safetensors", tensors)
        raw = path.read_bytes()
        header, data = raw[8:-8], raw[-8:]
        raw_file(path, header.ljust(length), data)
        SafetensorsFile(path).close()


def test_no_file_no_permission_no_regular_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        SafetensorsFile(tmp_path / "none.safetensors")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        SafetensorsFile(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(WeightsError, match="not a regular file"):
        SafetensorsFile(tmp_path / "pipe.safetensors")


def test_permission_error_passes_through(tmp_path, monkeypatch):
    path = write_safetensors(tmp_path / "a.safetensors", {"a": np.ones(2, np.float32)})

    def refuse(*args, **kwargs):  # root may read everything, so the refusal is staged
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError, match="a.safetensors"):
        SafetensorsFile(path)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_refused_files_are_closed(tmp_path):
    path = raw_file(tmp_path / "a.safetensors", TWO, bytes(3))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(WeightsError):
            SafetensorsFile(path)
    assert len(os.listdir("/proc/self/fd")) == before


# --- folders and models in several files --------------------------------------------------------------


def test_find_weights(tmp_path):
    """Each file that is added goes before those that are there already."""
    with pytest.raises(FileNotFoundError, match="no .safetensors, .pt or .bin file"):
        find_weights(tmp_path)
    (tmp_path / "one.pt").write_bytes(b"")
    assert find_weights(tmp_path).name == "one.pt"
    (tmp_path / "two.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="2 weight files .one.pt, two.bin"):
        find_weights(tmp_path)
    for name in ("x.bin.index.json", "open_clip_pytorch_model.bin", "pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"")
        assert find_weights(tmp_path).name == name
    (tmp_path / "one.safetensors").write_bytes(b"")
    assert find_weights(tmp_path).name == "one.safetensors"
    (tmp_path / "two.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="one.safetensors, two.safetensors"):
        find_weights(tmp_path)
    for name in ("x.safetensors.index.json", "open_clip_model.safetensors", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
        assert find_weights(tmp_path).name == name


MAP = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}


def write_sharded(folder, weight_map):
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.float16)
    write_safetensors(folder / "model-1.safetensors", {"a": a}, {"name": "both"})
    write_safetensors(folder / "model-2.safetensors", {"b": b, "c": b})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return a, b


def test_model_in_several_files(tmp_path):
    a, b = write_sharded(tmp_path, MAP)
    with open_weights(tmp_path) as both:
        assert isinstance(both, ShardedWeights) and set(both.tensors) == {"a", "b", "c"}
        np.testing.assert_array_equal(both.read("a"), a)
        out = np.empty(2, np.float16)
        both.read_into("c", out)
        np.testing.assert_array_equal(out, b)
        assert both.metadata == {"name": "both"}


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"b": "../model-2.safetensors"}, WeightsError, "expected a file beside the index"),
        ({"b": "/etc/passwd"}, WeightsError, "expected a file beside the index"),
        ({"b": ".."}, WeightsError, "expected a file beside the index"),
        ({"b": "C:\\x"}, WeightsError, "expected a file beside the index"),
        ({"b": "a\0b"}, WeightsError, "expected a file beside the index"),
        ({"b": ""}, WeightsError, "expected a file beside the index"),
        ({"b": 3}, WeightsError, "expected a file beside the index"),
        ({"b": None}, WeightsError, "expected a file beside the index"),
        ({"b": "model-3.safetensors"}, FileNotFoundError, "model-3.safetensors"),
        ({"b": "model-1.safetensors"}, WeightsError, "b is in model-2.safetensors, the index says model-1"),
        ({"d": "model-1.safetensors"}, WeightsError, "model-1.safetensors should hold d"),
    ],
)
def test_index_that_lies(tmp_path, change, error, message):
    write_sharded(tmp_path, {**MAP, **change})
    with pytest.raises(error, match=message):
        open_weights(tmp_path)


BAD_INDEXES = ["", "[]", "{", '{"weight_map": []}', '{"weight_map": {}}', "{}", "\xff", '{"a":1,"a":2}']


@pytest.mark.parametrize("text", BAD_INDEXES)
def test_index_that_is_none(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    with pytest.raises(WeightsError, match="index.json"):
        open_weights(tmp_path)


def test_same_tensor_in_two_files(tmp_path):
    write_sharded(tmp_path, MAP)
    one = np.ones(2, np.float32)
    write_safetensors(tmp_path / "model-1.safetensors", {"a": one, "b": one})
    with pytest.raises(WeightsError, match="b is in model-1.safetensors, the index says model-2.safetensors"):
        open_weights(tmp_path)


# --- memory -------------------------------------------------------------------------------------------

MEASURE = """
import resource, sys
import numpy as np
import safetensors
from clipc.weights import open_model

def peak():
    # VmHWM belongs to this process alone; on Linux ru_maxrss would remember the parent's size.
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)

before = peak()
config, state = open_model(sys.argv[1])
with state:
    largest = max(int(np.prod(shape)) * 4 for shape in state.shapes.values()) / (1 << 20)
    for name in state.names:
        state.read(name)
    state.check_all_used()
grown = peak() - before
control = np.ones(int(largest + 30) << 17)  # 8 bytes each: proves that the measure sees growth
print(largest, grown, peak() - before)
"""


@pytest.mark.memory
@pytest.mark.parametrize("layout", ["openai", "huggingface"])
def test_peak_memory_is_one_tensor(tmp_path, layout):
    shapes = vit_shapes(width=768, layers=5, mlp=3072, patch=32, grid=7, embed=512, text={"vocab": 160_000})
    if layout == "huggingface":
        shapes = shapes_of_huggingface(shapes)
    path = write_zeros(tmp_path / "big.safetensors", shapes)
    assert path.stat().st_size > 180e6
    command = [sys.executable, "-c", MEASURE, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    largest, grown, control = map(float, result.stdout.split())
    print(f"{layout}: largest tensor {largest:.0f} MB, peak grew by {grown:.0f} MB")
    assert grown <= largest + 20
    assert control >= largest + 25
