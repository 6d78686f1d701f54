"""What all files of tensors have in common: element types, and reading into arrays of the caller's own.

Files are read, not mapped: every page read through a map counts as resident until the map goes away, beside
the copy that the model makes. Loading a model therefore costs one tensor above the model itself.
"""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipc.errors import WeightsError

# No tensor of a CLIP model has more than four axes.
MAX_RANK = 8

# Bits of one element of each dtype that safetensors names; some are smaller than a byte.
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
    """What the head of a file says about one tensor; `begin` and `end` count from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """An open file of tensors: what the classes for each format share.

    Parameters
    ----------
    path : str or os.PathLike
    kind : str
        What is expected there, for messages.

    Attributes
    ----------
    path : pathlib.Path
    tensors : dict of str to TensorInfo
    metadata : dict of str to str

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        The file cannot be opened.
    WeightsError
        It is not a regular file.
    """

    def __init__(self, path, kind):
        self.path = Path(path)
        self.tensors = {}
        self.metadata = {}
        # Opening a pipe would wait for a writer, so the kind of file is looked at first.
        mode = os.stat(self.path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{self.path} is a folder, expected {kind}")
        if not stat.S_ISREG(mode):
            raise WeightsError(f"{self.path} is not a regular file")
        self._lock = threading.Lock()
        self._file = open(self.path, "rb", buffering=0)

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
            NumPy has no counterpart of the dtype, or the file has changed since it was opened.
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
        self._read_at(info.begin, bytes_of(name, out, info.end - info.begin), name)

    def _read_at(self, begin, view, name):
        """Fill `view`, a memoryview of bytes, from the file."""
        if not len(view):
            return
        with self._lock:
            if self._file.closed:
                raise ValueError(f"{self.path} has been closed")
            self._file.seek(begin)
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


def bytes_of(name, out, count):
    """The bytes of a contiguous array, for writing; an error unless there are `count`."""
    if not out.flags.c_contiguous or out.nbytes != count:
        raise ValueError(f"{name}: expected a contiguous array of {count} bytes")
    return memoryview(out.reshape(-1).view(np.uint8)) if count else memoryview(b"")


def read_exactly(file, count):
    """The next `count` bytes of an unbuffered file; a `WeightsError` if there are fewer."""
    parts = []
    while count:
        part = file.read(count)
        if not part:
            raise WeightsError(f"{file.name} changed while it was read")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def shortened(value):
    """A value that came out of a file, as text that fits into a message."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
