"""Reading ``.safetensors`` files, one tensor at a time, without trusting the header.

A file is eight bytes of header length (little endian), a JSON header, and the data of all tensors back
to back. The header is checked here, against the size of the file, and then once more by the
``safetensors`` library, so that a header which lies is refused before anything is allocated.

The library is not asked for the tensors themselves: it maps the file into memory, and every page read
through the map counts as resident until the map goes away, beside the copy that the model makes. Here
each tensor is read with plain file reads into an array of its own, which the caller drops once the
weights are packed. Loading a model therefore costs one tensor above the model itself.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipc.errors import WeightsError

# The library refuses longer headers as well; the largest CLIP models need about 100 kB.
MAX_HEADER_BYTES = 100_000_000
# No tensor of a CLIP model has more than four axes.
MAX_RANK = 8

# Bits of one element of each dtype that the format names; some are smaller than a byte.
DTYPE_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip

# What `read` can return. NumPy has no bfloat16: its raw bits travel as uint16.
NUMPY_DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}  # fmt: skip

FLOAT_DTYPES = ("F32", "F16", "BF16")


class TensorInfo(NamedTuple):
    """What the header says about one tensor. `begin` and `end` count bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """An open ``.safetensors`` file whose header has been checked.

    Parameters
    ----------
    path : str or os.PathLike
        A regular file.

    Attributes
    ----------
    path : pathlib.Path
    tensors : dict of str to TensorInfo
        In the order of the data in the file.
    metadata : dict of str to str
        The free text of the header's ``__metadata__``; empty if there is none.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        The file cannot be opened.
    WeightsError
        It is not a safetensors file, it is damaged, or its header contradicts itself or the file.
    """

    def __init__(self, path):
        self.path = Path(path)
        # Opening a pipe would wait for a writer, so the kind of file is looked at first.
        mode = os.stat(self.path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{self.path} is a folder, expected a .safetensors file")
        if not stat.S_ISREG(mode):
            raise WeightsError(f"{self.path} is not a regular file")
        self._lock = threading.Lock()
        self._file = open(self.path, "rb", buffering=0)
        try:
            self.tensors, self.metadata = _read_header(self.path, self._file)
            _check_with_library(self.path)
        except BaseException:
            self._file.close()
            raise

    def read(self, name):
        """Read one tensor.

        Returns
        -------
        ndarray
            C-contiguous, of the stored shape and dtype; bfloat16 comes as its raw bits in uint16.

        Raises
        ------
        KeyError
            There is no tensor of this name.
        WeightsError
            NumPy has no counterpart of the dtype, or the file has shrunk since it was opened.
        """
        info = self.tensors[name]
        dtype = NUMPY_DTYPES.get(info.dtype)
        if dtype is None:
            raise WeightsError(f"{name}: expected dtype F32, F16 or BF16, got {info.dtype} ({self.path})")
        out = np.empty(info.shape, dtype)
        self.read_into(name, out)
        return out

    def read_into(self, name, out):
        """Read one tensor into `out`, a C-contiguous array with exactly its number of bytes."""
        info = self.tensors[name]
        if not out.flags.c_contiguous or out.nbytes != info.end - info.begin:
            raise ValueError(f"{name}: expected a contiguous array of {info.end - info.begin} bytes")
        if not out.nbytes:
            return
        view = memoryview(out.reshape(-1).view(np.uint8))
        with self._lock:
            if self._file.closed:
                raise ValueError(f"{self.path} has been closed")
            self._file.seek(info.begin)
            done = 0
            # One read returns less than asked for when a signal arrives, or above 2 GB on Linux.
            while done < len(view):
                count = self._file.readinto(view[done:])
                if not count:
                    raise WeightsError(
                        f"{self.path} changed while it was read: {name} has {len(view)} bytes, only "
                        f"{done} were left"
                    )
                done += count

    def close(self):
        """Close the file; the arrays that were read stay valid."""
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


class ShardedSafetensors:
    """A model spread over several ``.safetensors`` files, as its ``*.safetensors.index.json`` says.

    Offers what `SafetensorsFile` offers. The index maps each tensor to the file that holds it; only
    plain file names beside the index are accepted, so an index cannot point anywhere else.

    Parameters
    ----------
    index_path : str or os.PathLike

    Raises
    ------
    FileNotFoundError
        The index or one of its files is missing.
    WeightsError
        The index is damaged, or it and the files contradict each other.
    """

    def __init__(self, index_path):
        self.path = Path(index_path)
        weight_map = load_json(self.path).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise WeightsError(f"{self.path} has no weight_map of tensor names to files")
        for name, file_name in weight_map.items():
            if not isinstance(file_name, str) or not _is_plain_name(file_name):
                raise WeightsError(
                    f"{self.path}: {name} points to {file_name!r}, expected a file beside the index"
                )
        self.tensors = {}
        self.metadata = {}
        self._files = {}
        self._home = {}
        try:
            for file_name in sorted(set(weight_map.values())):
                self._files[file_name] = SafetensorsFile(self.path.parent / file_name)
            for file_name, shard in self._files.items():
                for name, info in shard.tensors.items():
                    if weight_map.get(name) != file_name:
                        stated = weight_map.get(name, "nothing about it")
                        raise WeightsError(f"{self.path}: {name} is in {file_name}, the index says {stated}")
                    self.tensors[name] = info
                    self._home[name] = shard
                self.metadata.update(shard.metadata)
            for name, file_name in weight_map.items():
                if name not in self.tensors:
                    raise WeightsError(f"{self.path}: {file_name} should hold {name} and does not")
        except BaseException:
            self.close()
            raise

    def read(self, name):
        """Read one tensor; see `SafetensorsFile.read`."""
        return self._home[name].read(name)

    def read_into(self, name, out):
        """Read one tensor into `out`; see `SafetensorsFile.read_into`."""
        self._home[name].read_into(name, out)

    def close(self):
        """Close all files."""
        for shard in self._files.values():
            shard.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


def find_weights(folder):
    """Find the weight file of a folder.

    ``model.safetensors`` and ``open_clip_model.safetensors`` come first, then the index of a model in
    several files, then the only other ``.safetensors`` file.

    Raises
    ------
    FileNotFoundError
        There is none; ``.bin`` and ``.pt`` files that are there are named.
    WeightsError
        There are several and none of them has a usual name.
    """
    folder = Path(folder)
    for name in ("model.safetensors", "open_clip_model.safetensors"):
        if (folder / name).is_file():
            return folder / name
    for pattern in ("*.safetensors.index.json", "*.safetensors"):
        found = sorted(p for p in folder.glob(pattern) if p.is_file())
        if len(found) > 1:
            names = ", ".join(p.name for p in found[:5]) + (", ..." if len(found) > 5 else "")
            raise WeightsError(
                f"{folder} holds {len(found)} weight files ({names}); give the path of one of them"
            )
        if found:
            return found[0]
    others = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth") and p.is_file())
    hint = f"; {others[0]} is of a kind that is not read yet, convert it to .safetensors" if others else ""
    raise FileNotFoundError(f"no .safetensors file in {folder}{hint}")


def open_weights(path):
    """Open a file, the index of several files, or the weights of a folder.

    Returns
    -------
    SafetensorsFile or ShardedSafetensors
    """
    path = Path(path)
    if path.is_dir():
        path = find_weights(path)
    return (
        ShardedSafetensors(path) if path.name.endswith(".safetensors.index.json") else SafetensorsFile(path)
    )


def load_json(path):
    """Load a JSON file that holds an object; anything else is a `WeightsError` that names the file."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_HEADER_BYTES + 1)
        if len(raw) > MAX_HEADER_BYTES:
            raise ValueError(f"longer than {MAX_HEADER_BYTES} bytes")
        value = _parse_json(raw)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not valid JSON: {_reason(error)}") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def _parse_json(raw):
    """Parse JSON strictly: UTF-8, no name twice in one object, no NaN or Infinity, no endless numbers."""

    def unique(pairs):
        result = dict(pairs)
        if len(result) != len(pairs):
            seen = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))
            raise ValueError(f"the name {_short(twice)} appears twice")
        return result

    def refuse(constant):
        raise ValueError(f"{constant} is not a number that can be used")

    def whole(digits):
        # Numbers beyond the range of a float make arithmetic on them raise in unexpected places.
        return int(digits) if len(digits) <= 25 else refuse(_short(digits))

    return json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse, parse_int=whole)


def _read_header(path, file):
    """Read and check the header. Returns ({name: TensorInfo}, {key: text})."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise WeightsError(f"{path} is empty (0 bytes); download it again")
    start = _read_exactly(file, min(size, 512))
    looks_like = _recognise(start)
    if looks_like:
        raise WeightsError(f"{path} is not a safetensors file: this looks like {looks_like}")
    if size < 8:
        raise WeightsError(
            f"{path} is cut short: a safetensors file begins with 8 bytes, the file has {size}"
        )
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER_BYTES or length < 2 or (size > 8 and start[8:9] != b"{"):
        raise WeightsError(
            f"{path} is not a safetensors file: expected a header of 2 to {MAX_HEADER_BYTES} bytes that "
            f"begins with '{{', got a length of {length} and {start[8:9]!r}"
        )
    if 8 + length > size:
        raise WeightsError(
            f"{path} is cut short: the header alone takes {8 + length} bytes, the file has {size}; "
            "download it again"
        )
    file.seek(8)
    try:
        header = _parse_json(_read_exactly(file, length))
        if not isinstance(header, dict):
            raise ValueError("expected an object")
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: the header is not valid JSON: {_reason(error)}") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise WeightsError(f"{path}: __metadata__ of the header must map names to strings")
    entries = [(name, _check_entry(path, name, entry)) for name, entry in header.items()]
    if not entries:
        raise WeightsError(f"{path} holds no tensors")

    # Tensors must follow each other without overlap and without gaps; that is what the format demands,
    # and it leaves no byte of the file unexplained.
    entries.sort(key=lambda item: item[1][2:])
    position = 0
    previous = "the header"
    for name, (_, _, begin, end) in entries:
        if begin != position:
            problem = "overlaps" if begin < position else "leaves a gap after"
            raise WeightsError(
                f"{path}: {_short(name)} begins at byte {begin} of the data, which {problem} "
                f"{_short(previous)} (expected {position})"
            )
        position, previous = end, name
    data_start = 8 + length
    if data_start + position > size:
        raise WeightsError(
            f"{path} is cut short: the header promises {data_start + position} bytes, the file has {size}; "
            "download it again"
        )
    if data_start + position < size:
        raise WeightsError(
            f"{path}: {size - data_start - position} bytes follow that belong to no tensor (the header "
            f"promises {data_start + position} bytes, the file has {size})"
        )
    tensors = {
        name: TensorInfo(dtype, shape, data_start + begin, data_start + end)
        for name, (dtype, shape, begin, end) in entries
    }
    return tensors, metadata


def _check_entry(path, name, entry):
    """Check what the header says about one tensor; returns (dtype, shape, begin, end)."""

    def fail(problem):
        raise WeightsError(f"{path}: {_short(name)}: {problem}")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        fail("expected exactly dtype, shape and data_offsets in the header")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        fail(f"unknown dtype {_short(dtype)}")
    if not isinstance(shape, list) or not all(_is_size(dim) for dim in shape):
        fail(f"the shape must be a list of whole numbers from 0, got {_short(shape)}")
    if len(shape) > MAX_RANK:
        fail(f"expected at most {MAX_RANK} axes, got {len(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(offset) for offset in offsets):
        fail(f"data_offsets must be two whole numbers from 0, got {_short(offsets)}")
    begin, end = offsets
    if begin > end:
        fail(f"data_offsets end before they begin: {begin} > {end}")
    bits = DTYPE_BITS[dtype]
    bound = bits
    for dim in shape:
        bits *= dim
        bound *= max(dim, 1)  # an axis of 0 must not hide axes that no array can have
        if bound >= 1 << 63:
            fail(f"the shape {shape} is too large")
    if bits % 8 or bits // 8 != end - begin:
        fail(f"{dtype} {shape} takes {bits / 8:.16g} bytes, data_offsets span {end - begin}")
    return dtype, tuple(shape), begin, end


def _check_with_library(path):
    """Let the safetensors library check the header too; it reads nothing else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="numpy"):
            pass
    except SafetensorError as error:
        raise WeightsError(f"{path}: refused by the safetensors library: {error}") from None


def _read_exactly(file, count):
    parts = []
    while count:
        part = file.read(count)
        if not part:
            raise WeightsError(f"{file.name} changed while it was read")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _recognise(start):
    """Name the kind of a file from its first bytes, or return None if it may be safetensors."""
    if start[8:9] == b"{" and start[4:8] == bytes(4):
        return None
    archive = "; .pt and .bin files are not read yet, convert it to .safetensors"
    if start.startswith(b"PK\x03\x04"):
        return "a PyTorch archive (zip)" + archive
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle, as old PyTorch files are" + archive
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; run `git lfs pull` or download the file"
    if start.startswith(b"GGUF"):
        return "a GGUF file, which clipc does not read"
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "an HDF5 file, which clipc does not read"
    if start.startswith(b"\x1f\x8b"):
        return "a gzip archive; unpack it first"
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page; the download went wrong, try again"
    # A header length has its high bytes zero, so a genuine file is never readable text from byte 0.
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        return "a text file"
    return None


def _is_size(value):
    return type(value) is int and 0 <= value < 1 << 63  # `type` because True is an int as well


def _is_plain_name(name):
    return bool(name) and name not in (".", "..") and not any(c in name for c in "/\\:\0")


def _reason(error):
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]


def _short(value):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
