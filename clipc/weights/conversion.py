"""From the tensors of an open model to one ``.safetensors`` file that needs nothing beside it."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipc.errors import WeightsError
from clipc.progress import progress_bar
from clipc.weights.config import CLIP_MEAN, CLIP_STD
from clipc.weights.layouts import strip_wrappers
from clipc.weights.safetensors_file import SafetensorsFile
from clipc.weights.tensor_file import DTYPE_BITS, shortened

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
FLOATS = ("F64", "F32", "F16", "BF16")

# Numbers that are rounded at once, so that what is needed beside one tensor stays small.
BLOCK = 1 << 20


class _Row(NamedTuple):
    """A tensor of the new file: what it is called in the old one and in the new one, and its dtypes there."""

    stored_name: str
    name: str
    shape: tuple[int, ...]
    stored_dtype: str
    dtype: str

    @property
    def nbytes(self):
        return math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8


def write_safetensors(state, config, target, *, dtype=None, force=False, progress=False):
    """Write the tensors of an open model into a ``.safetensors`` file, one after the other.

    Parameters
    ----------
    state : WeightState
        All its tensors are written, also those that clipc does not need, under the names that they have; a
        prefix that all names share, such as ``module.``, is left out.
    config : ModelConfig
        The source of the metadata ``name``, ``activation`` and ``heads``, and of ``image_mean`` and
        ``image_std`` unless they are OpenAI's.
    target : str or os.PathLike
    dtype : {"float32", "float16", "bfloat16"}, optional
        What to round floating-point numbers to, to nearest, ties to even. Without it they stay as they are.
    force : bool
        Replace a file that exists.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    pathlib.Path
        `target`. The file is there as a whole or not at all.

    Raises
    ------
    FileExistsError
        The file exists, and `force` was not given.
    OSError
        It cannot be written, for instance because the disk is full.
    ValueError
        A wrong argument, or a number beyond the range of `dtype`.
    WeightsError
        The source is damaged.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    target = Path(target)
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: expected a name that ends in .safetensors")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder, expected the name of a file to write")
    if target.exists() and not force:
        raise FileExistsError(f"{target} exists already; force=True replaces it")
    rows = _rows(state.source, dtype)
    header = _header(rows, _metadata(state, config))
    final = target.resolve()  # behind a symbolic link, the file and not the link is replaced
    temporary = final.parent / f".clipc-{os.urandom(6).hex()}.tmp"
    try:
        try:
            with open(temporary, "xb") as file, progress_bar(len(rows), "tensor", progress) as bar:
                file.write(header)
                for row in rows:
                    for block in _blocks(row, state.source.read(row.stored_name)):
                        file.write(block)
                    bar.update(1)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), str(target)) from error
        SafetensorsFile(temporary).close()  # reads the header as everybody will
        os.replace(temporary, final)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
    return target


def _rows(source, dtype):
    """The tensors in the order of the new file: wide elements first, so that all of them are aligned."""
    stored_names = list(source.tensors)
    rows = []
    for stored_name, name in zip(stored_names, strip_wrappers(stored_names)[0]):
        info = source.tensors[stored_name]
        if name == "__metadata__":
            raise WeightsError(f"{source.path}: no tensor can be called {name} in a .safetensors file")
        new = DTYPES[dtype] if dtype and info.dtype in FLOATS else info.dtype
        rows.append(_Row(stored_name, name, info.shape, info.dtype, new))
    return sorted(rows, key=lambda row: (-DTYPE_BITS[row.dtype], row.name))


def _metadata(state, config):
    """What the new file says of itself. `format` is what transformers wants to see."""
    metadata = {
        "format": "pt",
        **state.metadata,
        "name": config.name,
        "activation": config.activation,
        "heads": f"{config.vision_heads},{config.text_heads}",
    }
    if (config.image_mean, config.image_std) != (CLIP_MEAN, CLIP_STD):
        metadata["image_mean"] = ",".join(map(repr, config.image_mean))
        metadata["image_std"] = ",".join(map(repr, config.image_std))
    return metadata


def _header(rows, metadata):
    """The length and the JSON at the start of the file."""
    header, position = {"__metadata__": metadata}, 0
    for row in rows:
        end = position + row.nbytes
        header[row.name] = {"dtype": row.dtype, "shape": list(row.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _blocks(row, array):
    """The bytes of a tensor for the new file, in blocks."""
    flat = array.reshape(-1)
    if row.dtype == row.stored_dtype:
        yield memoryview(flat).cast("B") if flat.size else b""
        return
    for begin in range(0, flat.size, BLOCK):
        block = flat[begin : begin + BLOCK]
        if row.stored_dtype == "BF16":
            block = _from_bfloat16(block)
        with np.errstate(over="ignore"):
            rounded = block.astype({"F16": "<f2"}.get(row.dtype, "<f4"))
        bits = _to_bfloat16(rounded) if row.dtype == "BF16" else rounded
        lost = np.isfinite(block) & ~np.isfinite(_from_bfloat16(bits) if row.dtype == "BF16" else rounded)
        if lost.any():
            raise ValueError(
                f"dtype: {shortened(row.name)} holds {block[lost][0]:.6g}, which is beyond the range of "
                f"{next(name for name, short in DTYPES.items() if short == row.dtype)}"
            )
        yield memoryview(bits).cast("B")


def _from_bfloat16(bits):
    """uint16 with the bits of bfloat16 as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _to_bfloat16(values):
    """float32 as uint16 with the bits of bfloat16, to nearest, ties to even."""
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    # The mantissa of a NaN may be all in the part that is cut off; adding to it must not make it a number.
    return np.where(np.isnan(values), bits >> 16 | 0x40, rounded).astype("<u2")
