"""Which file of a folder holds the weights, and what kind of file it is."""

from __future__ import annotations

import itertools
from pathlib import Path

from clipc.errors import WeightsError
from clipc.weights.safetensors_file import SafetensorsFile, load_json

# Of zip archives and of pickles; what they are, `TorchArchive` finds out.
ARCHIVE_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

INDEX_ENDINGS = (".safetensors.index.json", ".bin.index.json")

# Of a folder that holds several files, these are the weights; what else training leaves there is not.
USUAL_NAMES = (
    ("model.safetensors", "open_clip_model.safetensors"),
    ("pytorch_model.bin", "open_clip_pytorch_model.bin"),
)
PATTERNS = (("*.safetensors.index.json", "*.safetensors"), ("*.bin.index.json", "*.bin", "*.pt", "*.pth"))


class ShardedWeights:
    """A model spread over several files, as its ``*.safetensors.index.json`` or ``*.bin.index.json`` says.

    Offers what a single file offers. The index maps each tensor to the file that holds it; only
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
                self._files[file_name] = _open_file(self.path.parent / file_name)
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
        """Read one tensor; see `TensorFile.read`."""
        return self._home[name].read(name)

    def read_into(self, name, out):
        """Read one tensor into `out`; see `TensorFile.read_into`."""
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

    safetensors come before PyTorch's own files. Of each kind, the usual names (``model.safetensors``,
    ``open_clip_model.safetensors``; ``pytorch_model.bin``, ``open_clip_pytorch_model.bin``) come first, then
    the index of a model in several files, then the only other file.

    Raises
    ------
    FileNotFoundError
        There is none.
    WeightsError
        There are several and none of them has a usual name.
    """
    folder = Path(folder)
    for names, patterns in zip(USUAL_NAMES, PATTERNS):
        for name in names:
            if (folder / name).is_file():
                return folder / name
        indexes, *others = ([p for p in folder.glob(pattern) if p.is_file()] for pattern in patterns)
        for found in (sorted(indexes), sorted(itertools.chain(*others))):
            if len(found) > 1:
                listed = ", ".join(p.name for p in found[:5]) + (", ..." if len(found) > 5 else "")
                raise WeightsError(
                    f"{folder} holds {len(found)} weight files ({listed}); give the path of one of them"
                )
            if found:
                return found[0]
    raise FileNotFoundError(f"no .safetensors, .pt or .bin file in {folder}")


def open_weights(path):
    """Open a file, the index of several files, or the weights of a folder.

    Returns
    -------
    SafetensorsFile, TorchArchive or ShardedWeights
    """
    path = Path(path)
    if path.is_dir():
        path = find_weights(path)
    return ShardedWeights(path) if path.name.endswith(INDEX_ENDINGS) else _open_file(path)


def _open_file(path):
    """Open one file; its first bytes decide what it is, not its name."""
    if path.is_file():  # what is none is for the class to report
        with open(path, "rb") as file:
            start = file.read(9)
        # The length of a safetensors header may begin like a pickle, but is followed by a brace.
        if start.startswith(ARCHIVE_STARTS) and not (start[8:] == b"{" and start[4:8] == bytes(4)):
            # Imported here: `import clipc` is not to pay for what only some models need.
            from clipc.weights.archive import TorchArchive

            return TorchArchive(path)
    return SafetensorsFile(path)


def _is_plain_name(name):
    return bool(name) and name not in (".", "..") and not any(c in name for c in "/\\:\0")
