"""Any file that clipc reads as one safetensors file: the same numbers, and whole or not at all."""

import errno
import json
import os
import struct
import subprocess
import sys

import hostile_weights
import numpy as np
import oracles
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from command_line import files_in, interrupt, run, run_process
from torch_files import (
    SAVERS,
    as_numpy,
    check_same,
    encode,
    save_nested,
    save_plain,
    save_script,
    small_state,
)
from weights_builder import random_arrays, vit_shapes, write_safetensors, write_zeros

import clipc
from clipc import weights
from clipc.errors import WeightsError
from clipc.weights import conversion, convert

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def metadata_of(path):
    with weights.open_weights(path) as file:
        return file.metadata


# --- what is in the new file --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "openai"])
@pytest.mark.parametrize("save", SAVERS, ids=lambda save: save.__name__.removeprefix("save_"))
def test_bit_by_bit(tmp_path, save, dtype):
    state = oracles.layouts.cast(small_state("vit"), dtype)
    save(state, tmp_path / "model.pt")
    assert convert(tmp_path / "model.pt", tmp_path / "new.safetensors") == tmp_path / "new.safetensors"
    check_same(tmp_path / "new.safetensors", state)  # without the prefix "module."
    loaded = safetensors.torch.load_file(tmp_path / "new.safetensors")
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    old, new = clipc.load(tmp_path / "model.pt"), clipc.load(tmp_path / "new.safetensors")
    assert encode(old) == encode(new)
    assert new.config.sources["vision_heads"] == new.config.sources["activation"] == "file metadata"
    assert files_in(tmp_path) == ["model.pt", "new.safetensors"]


def test_the_file_is_as_the_library_writes_it(tmp_path):
    """Order and alignment; the header apart, where the library sorts the metadata as it likes."""
    state = oracles.layouts.cast(small_state("resnet"), "openai")
    state["visual.bn1.num_batches_tracked"] = torch.tensor(1)
    state["attn_mask"] = torch.tensor([True, False])
    torch.save(state, tmp_path / "model.pt")
    convert(tmp_path / "model.pt", tmp_path / "new.safetensors", heads=2)
    safetensors.torch.save_file(
        state, tmp_path / "library.safetensors", metadata_of(tmp_path / "new.safetensors")
    )
    headers, data = [], []
    for name in ("new", "library"):
        raw = (tmp_path / f"{name}.safetensors").read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        assert length % 8 == 0
        headers.append(json.loads(raw[8 : 8 + length]))
        data.append(raw[8 + length :])
    assert headers[0] == headers[1] and data[0] == data[1]
    assert list(headers[0]) != sorted(headers[0])


def test_nothing_beside_it_is_needed(tmp_path, random_model):
    """Activation, heads, the name and how pixels are scaled come along."""
    spec, state, _ = random_model("ViT-H80-small")
    for save, kind in ((oracles.layouts.save_huggingface, "hf"), (oracles.layouts.save_openclip, "oc")):
        folder = save(state, tmp_path / kind, spec, "float16")
        path = folder / "open_clip_config.json"
        if path.exists():
            config = json.loads(path.read_text())
            config["preprocess_cfg"] |= {"mean": [0.5, 0.5, 0.5], "std": [0.1, 0.25, 1 / 3]}
            path.write_text(json.dumps(config))
        new = tmp_path / "alone" / f"{kind}.safetensors"
        new.parent.mkdir(exist_ok=True)
        convert(folder, new)
        model, other = clipc.load(folder), clipc.load(new)
        assert encode(model) == encode(other)
        assert model.config == other.config and other.name == kind
        assert other.config.activation == "gelu" and other.config.vision_heads == 2
        if kind == "oc":
            assert other.config.image_std == (0.1, 0.25, 1 / 3)
            assert other.config.sources["preprocessing"] == "file metadata"
        assert metadata_of(new)["format"] == "pt"


def test_arguments_are_written_down(tmp_path):
    save_plain(small_state("resnet"), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="number of vision heads is stored nowhere.*16|pass heads"):
        clipc.load(write_without_heads(tmp_path))
    convert(tmp_path / "model.pt", tmp_path / "new.safetensors", heads=(4, 2), activation="gelu")
    model = clipc.load(tmp_path / "new.safetensors")
    assert (model.config.vision_heads, model.config.text_heads, model.config.activation) == (4, 2, "gelu")


def write_without_heads(folder):
    """A model whose widths do not tell the number of heads."""
    shapes = vit_shapes(width=80, layers=1, mlp=8)
    return write_safetensors(folder / "no-heads.safetensors", random_arrays(shapes))


def test_embedded_model_and_metadata_of_the_source(tmp_path):
    convert("tiny", tmp_path / "new.safetensors")
    old = metadata_of(weights.EMBEDDED_FILE)
    new = metadata_of(tmp_path / "new.safetensors")
    assert new == {"format": "pt", **old, "name": "tiny", "activation": "quick_gelu", "heads": "16,2"}
    expected = safetensors.numpy.load_file(weights.EMBEDDED_FILE)
    found = safetensors.numpy.load_file(tmp_path / "new.safetensors")
    assert expected.keys() == found.keys()
    assert all(found[name].tobytes() == array.tobytes() for name, array in expected.items())


def test_metadata_of_pixels_that_is_wrong(tmp_path):
    arrays = {name: as_numpy(value) for name, value in small_state("vit").items()}
    for text in ("", "1,2", "a,b,c", "nan,1,1", "1,1,0"):
        path = write_safetensors(tmp_path / "a.safetensors", arrays, {"image_std": text})
        with pytest.raises(WeightsError, match="image_std: expected"):
            clipc.load(path)


# --- rounding -----------------------------------------------------------------------------------------

SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    np.pi,
    1e-30,
    -1e-40,
    65504.0,
    0.1,
    np.inf,
    -np.inf,
    np.nan,
    2.0**-24,
    2.0**-25,
    1.00390625,
]


@pytest.mark.parametrize("to", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("stored", ["float64", "float32", "float16", "bfloat16"])
def test_rounding_as_pytorch_does(tmp_path, monkeypatch, stored, to):
    monkeypatch.setattr(conversion, "BLOCK", 997)  # several blocks, and a rest
    rng = np.random.default_rng(5)
    values = np.concatenate([SPECIAL, rng.standard_normal(300), rng.standard_normal(300) * 1e-6])
    if "bfloat16" in (stored, to) and stored != "float64":
        # All that lies half way between two bfloat16 numbers.
        bits = (np.arange(0, 0x7F00, 37, dtype=np.uint32) << 16) + 0x8000
        values = np.concatenate([values, bits.view(np.float32).astype(np.float64)])
    if to == "float16":
        values = values[~(np.isfinite(values) & (abs(values) > 65000))]
    with np.errstate(over="ignore"):
        tensor = torch.tensor(values).to(torch.float32 if stored != "float64" else torch.float64)
    tensor = tensor.to(getattr(torch, stored))
    state = {**small_state("vit"), "attn_mask": tensor, "position_ids": torch.arange(3)}
    torch.save(state, tmp_path / "model.pt")
    convert(tmp_path / "model.pt", tmp_path / "new.safetensors", dtype=to)
    expected = {
        name: value if name == "position_ids" else value.to(getattr(torch, to))
        for name, value in state.items()
    }
    loaded = safetensors.torch.load_file(tmp_path / "new.safetensors")
    assert loaded["position_ids"].dtype == torch.int64
    for name, value in expected.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(torch.isnan(loaded[name]), torch.isnan(value))
        good = ~torch.isnan(value)
        assert as_numpy(loaded[name][good]).tobytes() == as_numpy(value[good]).tobytes(), name


def test_nan_stays_nan_in_bfloat16():
    """Also one whose mantissa is only in the half that goes."""
    bits = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0x7FC00000], np.uint32)
    assert np.isnan(conversion._from_bfloat16(conversion._to_bfloat16(bits.view(np.float32)))).all()


@pytest.mark.parametrize(
    "value, stored, dtype",
    [
        (7e4, "float32", "float16"),
        (float(np.finfo(np.float32).min), "float32", "bfloat16"),
        (1e39, "float64", "float32"),
    ],
)
def test_numbers_beyond_the_range(tmp_path, value, stored, dtype):
    tensor = torch.tensor([1, value], dtype=getattr(torch, stored))
    torch.save({**small_state("vit"), "attn_mask": tensor}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=f"dtype: attn_mask holds .*, which is beyond the range of {dtype}"):
        convert(tmp_path / "a.pt", tmp_path / "new.safetensors", dtype=dtype)
    assert files_in(tmp_path) == ["a.pt"]


# --- whole or not at all ------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    save_nested(small_state("vit"), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_what_exists_stays(model):
    new = model.parent / "new.safetensors"
    new.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="new.safetensors exists already; force=True replaces it"):
        convert(model, new)
    assert new.read_bytes() == b"precious"
    convert(model, new, force=True)
    assert clipc.load(new).config.sources["activation"] == "file metadata"


def test_wrong_targets(model):
    folder = model.parent
    with pytest.raises(ValueError, match="expected a name that ends in .safetensors"):
        convert(model, folder / "new.pt")
    (folder / "folder.safetensors").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        convert(model, folder / "folder.safetensors", force=True)
    with pytest.raises(FileNotFoundError, match="nowhere/new.safetensors"):
        convert(model, folder / "nowhere" / "new.safetensors")
    with pytest.raises(ValueError, match="dtype: expected one of float32, float16, bfloat16, got 'int8'"):
        convert(model, folder / "new.safetensors", dtype="int8")
    assert files_in(folder) == ["folder.safetensors", "model.pt"]


def test_onto_itself_and_through_a_link(tmp_path):
    arrays = {name: as_numpy(value) for name, value in small_state("vit").items()}
    path = write_safetensors(tmp_path / "a.safetensors", arrays)
    (tmp_path / "link.safetensors").symlink_to(path)
    convert(path, tmp_path / "link.safetensors", force=True)
    assert (tmp_path / "link.safetensors").is_symlink() and metadata_of(path)["name"] == "a"
    check_same(path, small_state("vit"))


def test_full_disk(model, monkeypatch):
    """The error comes in the middle of the work; /dev/full cannot be renamed, so it is staged."""

    class Full:
        def __init__(self, file):
            self.file, self.room = file, 10_000

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.room -= len(data)
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

        def __enter__(self):
            return self

        def __exit__(self, *exc_info):
            self.file.close()

    def full(path, mode="r", **options):
        file = open(path, mode, **options)
        return Full(file) if "x" in mode else file

    monkeypatch.setattr(conversion, "open", full, raising=False)
    new = model.parent / "new.safetensors"
    new.write_bytes(b"precious")
    with pytest.raises(OSError, match="No space left on device: .*new.safetensors"):
        convert(model, new, force=True)
    assert new.read_bytes() == b"precious" and files_in(model.parent) == ["model.pt", "new.safetensors"]
    result = run("convert", model, new, "--force", code=1)
    assert result.stderr.endswith(f"clipc: {new}: No space left on device\n")


def test_damaged_source_leaves_nothing(tmp_path):
    save_plain(small_state("vit"), tmp_path / "model.pt")
    with weights.open_weights(tmp_path / "model.pt") as file:
        begin = file.tensors["visual.conv1.weight"].begin
    raw = bytearray((tmp_path / "model.pt").read_bytes())
    raw[begin] ^= 0xFF
    (tmp_path / "model.pt").write_bytes(raw)
    with pytest.raises(WeightsError, match="is damaged: the check sum of data/"):
        convert(tmp_path / "model.pt", tmp_path / "new.safetensors")
    with pytest.raises(WeightsError, match="is not a CLIP model that clipc knows"):
        torch.save({"a": torch.ones(3)}, tmp_path / "other.pt")
        convert(tmp_path / "other.pt", tmp_path / "new.safetensors")
    assert files_in(tmp_path) == ["model.pt", "other.pt"]


def test_a_name_that_safetensors_cannot_hold(tmp_path):
    torch.save({**small_state("vit"), "__metadata__": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="no tensor can be called __metadata__"):
        convert(tmp_path / "a.pt", tmp_path / "new.safetensors")


MEASURE = """
import sys
from clipc.weights import convert

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

convert(sys.argv[2], sys.argv[2] + ".safetensors")
before = peak()
convert(sys.argv[1], sys.argv[1] + ".safetensors", dtype="float16")
print(peak() - before)
"""


@pytest.mark.memory
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the peak from /proc")
def test_memory_is_one_tensor(tmp_path):
    big = write_zeros(
        tmp_path / "big.safetensors", vit_shapes(width=768, layers=3, mlp=3072, patch=16, grid=7, embed=512)
    )
    assert big.stat().st_size > 80e6
    save_plain(small_state("vit"), tmp_path / "small.pt")
    command = [sys.executable, "-c", MEASURE, str(big), str(tmp_path / "small.pt")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(result.stdout) < 10 + 20  # MB: the largest tensor has 9.4


# --- the command --------------------------------------------------------------------------------------


def test_command(folder):
    save_script(oracles.layouts.cast(small_state("vit"), "openai"), "model.pt")
    result = run("convert", "model.pt", "new.safetensors")
    size = os.path.getsize("new.safetensors")
    assert result.stdout == f"new.safetensors: {size:,} bytes\n" and result.stderr == ""
    assert run("convert", "model.pt", "half.safetensors", "--dtype", "float16", "--quiet").stdout == ""
    assert os.path.getsize("half.safetensors") < size
    assert (
        "new.safetensors: exists already; --force"
        in run("convert", "model.pt", "new.safetensors", code=1).stderr
    )
    run("convert", "model.pt", "new.safetensors", "--force", "--heads", "2,4", "--activation", "gelu")
    facts = json.loads(run("info", "new.safetensors", "--json").stdout)
    assert (facts["vision_heads"], facts["text_heads"], facts["activation"]) == (2, 4, "gelu")
    assert facts["name"] == "model"


def test_info_of_archives(folder):
    for i, save in enumerate(SAVERS):
        save(oracles.layouts.cast(small_state("vit"), "openai"), f"{i}.bin")
        text = run("info", f"{i}.bin").stdout
        assert "vision transformer, 2 blocks of width 64" in text and "in float16" in text


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["model.pt", "new.pt"], 2, "new.pt: expected a name that ends in .safetensors"),
        (["model.pt", "nowhere/new.safetensors"], 1, "there is no folder"),
        (["missing.pt", "new.safetensors"], 1, "no such file or folder: missing.pt"),
        (["model.pt", "new.safetensors", "--dtype", "int8"], 2, "int8"),
        (["model.pt", "new.safetensors", "--heads", "two"], 2, "expected 12 or 12,8, got 'two'"),
        (["model.pt", "new.safetensors", "--heads", "7"], 2, "--heads: 7|vision heads: 7"),
        (["hostile.pt", "new.safetensors"], 1, "refused: the archive asks for os.system"),
        (["model.pt"], 2, "Missing argument"),
    ],
)
def test_wrong_calls(folder, arguments, code, message):
    save_plain(small_state("vit"), "model.pt")
    hostile = hostile_weights.archive_of(hostile_weights.EXECUTING["os.system"])
    (folder / "hostile.pt").write_bytes(hostile)
    result = run("convert", *arguments, code=None)
    assert any(part in result.stderr for part in message.split("|")), result.stderr
    assert not os.path.exists("new.safetensors") and not os.path.exists("canary")


def test_progress_and_ctrl_c(folder):
    """A bar on a terminal; stopped in the middle, nothing is left."""
    write_zeros(
        folder / "big.safetensors", vit_shapes(width=768, layers=12, mlp=3072, patch=16, grid=7, embed=512)
    )
    before = files_in(folder)
    shown = interrupt("convert", "big.safetensors", "new.safetensors", when=rb"[1-9]\d*/\d+ ")
    assert b"tensor" in shown and b"clipc: interrupted" in shown
    assert files_in(folder) == before


def test_help_says_what_is_written(folder):
    text = " ".join(run("convert", "--help").stdout.split())
    assert "Nothing in a .pt or .bin file is executed" in text
    assert "convert" in run("--help").stdout
    assert run_process("convert", "--help").stdout
