"""Reading ``.safetensors`` files, one tensor at a time, without trusting the header.

A file is eight bytes of header length (little endian), a JSON header, and the data of all tensors back
to back. The header is checked here, against the size of the file, and then once more by the
``safetensors`` library, so that a header which lies is refused before anything is allocated.

The library is not asked for the tensors themselves, because it maps the file into memory; see
`clipc.weights.tensor_file`.
"""

from __future__ import annotations

import json
import os

from clipc.errors import WeightsError
from clipc.weights.tensor_file import (
    DTYPE_BITS,
    MAX_RANK,
    TensorFile,
    TensorInfo,
    read_exactly,
    shortened,
)

# Of a header, and of any JSON file. The largest CLIP models need about 100 kB; much more than this takes
# seconds and hundreds of megabytes to parse (the library's own limit is 20 times as high).
MAX_HEADER_BYTES = 5_000_000


class SafetensorsFile(TensorFile):
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
        super().__init__(path, "a .safetensors file")
        try:
            self.tensors, self.metadata = _read_header(self.path, self._file)
            _check_with_library(self.path)
        except BaseException:
            self.close()
            raise


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
            raise ValueError(f"the name {shortened(twice)} appears twice")
        return result

    def refuse(constant):
        raise ValueError(f"{constant} is not a number that can be used")

    def whole(digits):
        # Numbers beyond the range of a float make arithmetic on them raise in unexpected places.
        return int(digits) if len(digits) <= 25 else refuse(shortened(digits))

    return json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse, parse_int=whole)


def _read_header(path, file):
    """Read and check the header. Returns ({name: TensorInfo}, {key: text})."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise WeightsError(f"{path} is empty (0 bytes); download it again")
    start = read_exactly(file, min(size, 512))
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
        header = _parse_json(read_exactly(file, length))
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
                f"{path}: {shortened(name)} begins at byte {begin} of the data, which {problem} "
                f"{shortened(previous)} (expected {position})"
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
        raise WeightsError(f"{path}: {shortened(name)}: {problem}")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        fail("expected exactly dtype, shape and data_offsets in the header")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        fail(f"unknown dtype {shortened(dtype)}")
    if not isinstance(shape, list) or not all(_is_size(dim) for dim in shape):
        fail(f"the shape must be a list of whole numbers from 0, got {shortened(shape)}")
    if len(shape) > MAX_RANK:
        fail(f"expected at most {MAX_RANK} axes, got {len(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(offset) for offset in offsets):
        fail(f"data_offsets must be two whole numbers from 0, got {shortened(offsets)}")
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


def _recognise(start):
    """Name the kind of a file from its first bytes, or return None if it may be safetensors."""
    if start[8:9] == b"{" and start[4:8] == bytes(4):
        return None
    if start.startswith(b"PK\x03\x04"):
        return "a PyTorch archive (zip), which clipc.weights.open_weights opens"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle"
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


def _reason(error):
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
