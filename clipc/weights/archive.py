"""Reading what PyTorch writes, ``.pt``, ``.pth`` and ``.bin``, without running anything in it.

==============  =======================================================================================
kind            what is in the file
==============  =======================================================================================
state dict      a zip archive by `torch.save`: ``data.pkl`` maps names to tensors, ``data/0``, ``data/1``, ...
                are their numbers. The dict may lie in another one, under ``state_dict``
TorchScript     a zip archive by `torch.jit.save`, as OpenAI's files are: ``data.pkl`` holds a tree of objects
                whose attributes are tensors, and ``code/`` what the model computes. The state dict is the
                tree of the tensors, names joined by dots. ``code/`` and ``constants.pkl`` are never read
old state dict  no zip archive: four pickles, then the numbers (`torch.save` before version 1.6)
==============  =======================================================================================

What a file may contain, and how much of it, is a list: see `clipc.weights.zip_directory` for members of an
archive and `clipc.weights.state_pickle` for instructions of a pickle. Everything else is refused by name.
Tensors are read like those of a safetensors file, one at a time and straight into their own arrays.
"""

from __future__ import annotations

import io
import math
import os
import re
import zlib
from typing import NamedTuple

import numpy as np

from clipc.errors import WeightsError
from clipc.weights.state_pickle import MAX_PICKLE_BYTES, PickleReader, ScriptObject, StoredTensor, kind_of
from clipc.weights.tensor_file import (
    DTYPE_BITS,
    NUMPY_DTYPES,
    TensorFile,
    TensorInfo,
    bytes_of,
    read_exactly,
    shortened,
)
from clipc.weights.zip_directory import ZipDirectory

# The first pickle of an old file: one number, 0x1950a86a20f9469cfc6c.
OLD_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
OLD_PROTOCOL = 1001

MAX_TENSORS = 10_000
MAX_NAME_LENGTH = 512
MAX_DEPTH = 64
MAX_OBJECTS = 200_000
# Several names for one storage, and views that repeat its numbers, let a short file describe huge tensors.
# All together may take four times the file and this.
MAX_REPEATED_BYTES = 64_000_000

# Members of an archive, behind its top folder. torch.export and torch.package write others.
MEMBER = re.compile(
    r"data\.pkl|data/[^/]+|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id"
)
SCRIPT_MEMBER = re.compile(
    r"constants\.pkl|constants/[^/]+|code/.+|traced_inputs\.pkl|traced_inputs/[^/]+|extra/.+"
)

# Keys of training checkpoints under which the state dict is.
NESTED_UNDER = ("state_dict", "model_state_dict", "model")


class _Placed(NamedTuple):
    """A tensor, and where its storage lies in the file. `crc` is that of the storage, or None."""

    tensor: StoredTensor
    begin: int
    crc: int | None


class TorchArchive(TensorFile):
    """An open file of PyTorch whose pickle has been read and checked.

    Parameters
    ----------
    path : str or os.PathLike
        A regular file.

    Attributes
    ----------
    path : pathlib.Path
    tensors : dict of str to TensorInfo
        In the order of the state dict. `begin` and `end` enclose what a tensor needs of its storage.
    metadata : dict of str to str
        Empty: such files have none.
    kind : str
        "state dict", "TorchScript" or "old state dict".

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        The file cannot be opened.
    WeightsError
        It is damaged, holds no state dict, or asks for something that clipc does not do.

    Notes
    -----
    The check sum of ``data.pkl`` is compared when it is read, that of a storage when a tensor that fills
    the storage is read. PyTorch can leave check sums out, which shows as 0.
    """

    def __init__(self, path):
        super().__init__(path, "a .pt or .bin file")
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            start = read_exactly(self._file, min(self._size, len(OLD_MAGIC)))
            if start.startswith(b"PK"):
                content, place = self._open_zip()
            elif start == OLD_MAGIC:
                content, place = self._open_old()
            else:
                raise WeightsError(
                    f"{self.path} is not a state dict of PyTorch: expected what torch.save or torch.jit.save "
                    "writes; save the tensors with torch.save(model.state_dict(), path)"
                )
            self._placed = self._place(self._state_dict(content), place)
            self.tensors = {name: _info(placed) for name, placed in self._placed.items()}
        except BaseException:
            self.close()
            raise

    def read_into(self, name, out):
        """Read one tensor into `out`, a C-contiguous array with exactly its number of bytes."""
        info = self.tensors[name]
        tensor, _, crc = self._placed[name]
        count = math.prod(info.shape) * DTYPE_BITS[info.dtype] // 8
        view = bytes_of(name, out, count)
        if _is_contiguous(tensor):
            self._read_at(info.begin, view, name)
            if crc and tensor.offset == 0 and math.prod(tensor.shape) == tensor.storage.numel:
                self._check_sum(view, crc, f"data/{tensor.storage.key}")
        elif count:
            block = np.empty(info.end - info.begin, np.uint8)
            self._read_at(info.begin, memoryview(block), name)
            block = block.view(NUMPY_DTYPES[info.dtype])
            strides = [stride * block.itemsize for stride in tensor.strides]
            target = np.frombuffer(view, block.dtype).reshape(info.shape)
            target[...] = np.lib.stride_tricks.as_strided(block, info.shape, strides, writeable=False)

    # -- the three kinds of files; each gives what the pickle holds, and a function that finds a storage ---

    def _open_zip(self):
        directory = ZipDirectory(self.path, self._file)
        root = directory.names[0].partition("/")[0] if directory.names else ""
        if f"{root}/data.pkl" not in directory:
            raise WeightsError(
                f"{self.path} is not a state dict of PyTorch: the zip archive has no member "
                f"{shortened(root)}/data.pkl"
            )
        script = f"{root}/constants.pkl" in directory
        self.kind = "TorchScript" if script else "state dict"
        for name in directory.names:
            top, _, inside = name.partition("/")
            known = MEMBER.fullmatch(inside) or (script and SCRIPT_MEMBER.fullmatch(inside))
            if top != root or not known:
                raise WeightsError(
                    f"{self.path}: refused: the archive has a member {shortened(name)}, which no file of "
                    f"torch.{'jit.' if script else ''}save has"
                )
        if f"{root}/byteorder" in directory:
            order = self._read_member(directory, f"{root}/byteorder", 16)
            if order != b"little":
                raise WeightsError(
                    f"{self.path}: refused: its byte order is {shortened(order.decode('latin-1'))}, expected "
                    "little; save it again on another computer"
                )
        stream = io.BytesIO(self._read_member(directory, f"{root}/data.pkl", MAX_PICKLE_BYTES))
        content = PickleReader(stream, self.path, torchscript=script).read()
        if stream.read(1):
            raise WeightsError(f"{self.path} is damaged: data.pkl goes on behind its end")

        def place(storage):
            name = f"{root}/data/{storage.key}"
            if name not in directory:
                raise WeightsError(f"{self.path} is damaged: the member {name} is missing")
            member = directory.member(name)
            expected = _bytes_in(storage)
            if member.size != expected:
                raise WeightsError(
                    f"{self.path} is damaged: the member {name} has {member.size} bytes, expected {expected} "
                    f"for {storage.numel} numbers of {storage.dtype}"
                )
            return member.begin, member.crc

        return content, place

    def _read_member(self, directory, name, limit):
        member = directory.member(name)
        if member.size > limit:
            raise WeightsError(
                f"{self.path}: refused: the member {name} has {member.size} bytes, expected at most {limit}"
            )
        self._file.seek(member.begin)
        content = read_exactly(self._file, member.size)
        if member.crc:
            self._check_sum(content, member.crc, name)
        return content

    def _check_sum(self, content, crc, name):
        found = zlib.crc32(content)
        if found != crc:
            raise WeightsError(
                f"{self.path} is damaged: the check sum of {name} is {found:08x}, expected {crc:08x}; "
                "download it again"
            )

    def _open_old(self):
        self.kind = "old state dict"
        self._file.seek(len(OLD_MAGIC))
        stream = io.BufferedReader(self._file)
        try:
            parts = ("the version", "the description", "the state dict", "the list of storages")
            readers = [PickleReader(stream, self.path, part) for part in parts]
            protocol, system, content, keys = (reader.read() for reader in readers)
            begin = stream.tell()
        finally:
            stream.detach()  # else the buffer would close the file
        if protocol != OLD_PROTOCOL or type(system) is not dict or system.get("little_endian") is not True:
            raise WeightsError(
                f"{self.path}: refused: expected a file of version {OLD_PROTOCOL} in little byte order"
            )
        storages = readers[2].storages
        texts = type(keys) is list and all(type(key) is str for key in keys)
        if not texts or sorted(keys) != sorted(storages):
            raise WeightsError(f"{self.path} is damaged: the list of its storages is not that of its tensors")
        begins = {}
        for key in keys:
            storage = storages[key]
            self._file.seek(begin)
            count = int.from_bytes(self._file.read(8), "little")
            begins[key] = begin + 8
            begin += 8 + _bytes_in(storage)
            if begin > self._size:
                raise WeightsError(
                    f"{self.path} is cut short: the storage {key} ends at byte {begin}, the file has "
                    f"{self._size}; download it again"
                )
            if count != storage.numel:
                raise WeightsError(
                    f"{self.path} is damaged: the storage {key} has {count} numbers, expected {storage.numel}"
                )
        if begin != self._size:
            raise WeightsError(
                f"{self.path} is damaged: {self._size - begin} bytes follow that belong to no tensor"
            )
        return content, lambda storage: (begins[storage.key], None)

    # -- from what the pickle holds to tensors -------------------------------------------------------------

    def _state_dict(self, content):
        """Find the state dict. Returns {name: StoredTensor}."""
        if type(content) is ScriptObject:
            found = self._tensors_of_objects(content)
        else:
            found = self._tensors_of_dict(content)
        if not found:
            raise WeightsError(f"{self.path} holds no tensors")
        if len(found) > MAX_TENSORS:
            raise WeightsError(f"{self.path}: refused: {len(found)} tensors, expected at most {MAX_TENSORS}")
        return found

    def _tensors_of_dict(self, content):
        """Tensors of a dict, or of the dict that a checkpoint of a training has under a usual name."""
        for key in NESTED_UNDER:
            if isinstance(content, dict) and isinstance(content.get(key), dict):
                content = content[key]
                break
        if not isinstance(content, dict):
            raise WeightsError(f"{self.path}: expected a dict of names and tensors, got {kind_of(content)}")
        found = {}
        for name, value in content.items():
            if type(name) is not str:
                raise WeightsError(f"{self.path}: expected a dict of names and tensors, got the name {name}")
            if type(value) is StoredTensor:
                found[self._checked_name(name)] = value
            elif type(value) not in (type(None), bool, int, float, str):
                raise WeightsError(
                    f"{self.path}: {shortened(name)}: expected a tensor, got {kind_of(value)}; the state "
                    f"dict must be the whole file, or lie in it under {' or '.join(NESTED_UNDER)}"
                )
        return found

    def _tensors_of_objects(self, root):
        """Tensors of a tree of TorchScript objects; attributes that are neither are not a part of it."""
        found = {}
        open_ones = [("", root, 0)]
        for _ in range(MAX_OBJECTS):
            if not open_ones:
                return found
            prefix, node, depth = open_ones.pop()
            if depth > MAX_DEPTH:
                raise WeightsError(f"{self.path}: refused: its modules are nested more than {MAX_DEPTH} deep")
            inner = []
            for name, value in (node.attributes or {}).items():
                if type(value) is StoredTensor:
                    found[self._checked_name(prefix + name)] = value
                elif type(value) is ScriptObject:
                    inner.append((self._checked_name(prefix + name) + ".", value, depth + 1))
            open_ones += reversed(inner)  # so that the order is that of the file
        raise WeightsError(f"{self.path}: refused: more than {MAX_OBJECTS} modules")

    def _checked_name(self, name):
        if not name or len(name) > MAX_NAME_LENGTH:
            raise WeightsError(
                f"{self.path}: refused: a tensor's name of {len(name)} characters, expected 1 to "
                f"{MAX_NAME_LENGTH}"
            )
        return name

    def _place(self, tensors, place):
        """Look up where each storage lies. Returns {name: _Placed}."""
        places = {}
        result = {}
        total = 0
        for name, tensor in tensors.items():
            if tensor.storage not in places:
                places[tensor.storage] = place(tensor.storage)
            result[name] = _Placed(tensor, *places[tensor.storage])
            total += math.prod(tensor.shape) * DTYPE_BITS[tensor.storage.dtype] // 8
        limit = 4 * self._size + MAX_REPEATED_BYTES
        if total > limit:
            raise WeightsError(
                f"{self.path}: refused: its tensors repeat the numbers of {self._size} bytes until they take "
                f"{total} bytes, expected at most {limit}"
            )
        return result


def _info(placed):
    """The place of a tensor in the file: all between its first number and its last."""
    tensor, begin, _ = placed
    size = DTYPE_BITS[tensor.storage.dtype] // 8
    first = begin + tensor.offset * size
    count = 0
    if 0 not in tensor.shape:
        count = 1 + sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.strides))
    return TensorInfo(tensor.storage.dtype, tensor.shape, first, first + count * size)


def _bytes_in(storage):
    return storage.numel * DTYPE_BITS[storage.dtype] // 8


def _is_contiguous(tensor):
    """Whether the numbers lie in the order of the shape; an axis of 1 may have any stride."""
    expected = 1
    for length, stride in zip(reversed(tensor.shape), reversed(tensor.strides)):
        if length != 1:
            if stride != expected and 0 not in tensor.shape:
                return False
            expected *= length
    return True
