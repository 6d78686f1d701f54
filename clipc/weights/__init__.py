"""From a name or a path to a model's configuration and its tensors under OpenAI's names.

    config, state = open_model("ViT-B/32")
    with state:
        core = build(config.to_core(), state.read)    # asks for every tensor it needs
        state.check_all_used()

Nothing but headers is read until `state.read` is called, and each tensor is handed over once: what a
model costs while it is loaded is itself and one tensor.
"""

from __future__ import annotations

import re
from pathlib import Path

from clipc.weights.cache import cache_folder, cached_weights, resolve
from clipc.weights.config import CLIP_MEAN, CLIP_STD, ModelConfig, build_config, sizes_from_shapes
from clipc.weights.files import ShardedWeights, open_weights
from clipc.weights.layouts import WeightState
from clipc.weights.safetensors_file import SafetensorsFile
from clipc.weights.tensor_file import TensorInfo
from clipc.weights.zoo import (
    DEFAULT_MODEL,
    EMBEDDED_FILE,
    ZooEntry,
    available_models,
    find_model,
    named_models,
)

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "DEFAULT_MODEL",
    "EMBEDDED_FILE",
    "ModelConfig",
    "SafetensorsFile",
    "ShardedWeights",
    "TensorInfo",
    "WeightState",
    "ZooEntry",
    "available_models",
    "build_config",
    "cache_folder",
    "cached_weights",
    "convert",
    "find_model",
    "named_models",
    "open_model",
    "open_weights",
    "resolve",
    "sizes_from_shapes",
]

NAME_ENDING = re.compile(r"\.(safetensors|bin|pt|pth)(\.index\.json)?$")


def open_model(
    name_or_path, *, activation=None, heads=None, cache_dir=None, known_as=None, may_download=True
):
    """Open a model without reading its tensors yet.

    Parameters
    ----------
    name_or_path : str or os.PathLike
        A name of `available_models`, ``owner/name`` of a repository of the Hugging Face hub, a
        ``.safetensors``, ``.pt`` or ``.bin`` file, the ``.index.json`` of a model in several files, or a
        folder with weights and configuration. A path that exists wins.
    activation : {"quick_gelu", "gelu"}, optional
    heads : int or (int or None, int or None), optional
        Attention heads: one number is for the image tower, a pair for the image and the text tower.
        Both overrule whatever the files say; see `clipc.weights.config` for the order.
    cache_dir : str or os.PathLike, optional
        Where named models lie, instead of ``CLIPC_CACHE`` and the user's cache folder.
    known_as : str, optional
        For a path: the named model that it is a file of, whose zoo entry counts.
    may_download : bool
        Whether a named model that is not in the cache is downloaded.

    Returns
    -------
    config : ModelConfig
    state : WeightState
        An open file; close it, or use it in a ``with`` statement.

    Raises
    ------
    FileNotFoundError, PermissionError
        No such file, or a named model that is not in the cache and may not be downloaded.
    DownloadError
        A named model could not be downloaded.
    ValueError, TypeError
        An unknown name (with similar ones), or wrong arguments.
    WeightsError
        A damaged file, or one that does not hold a CLIP model that clipc knows.
    """
    path, entry = resolve(name_or_path, cache_dir, may_download=may_download)
    if entry is None and known_as is not None:
        entry = find_model(known_as)
    source = open_weights(path)
    try:
        state = WeightState(source)
        config = build_config(
            state,
            folder=state.path.parent,
            name=entry.name if entry else state.metadata.get("name") or _name_of(path, state.path),
            entry=entry,
            activation=activation,
            heads=heads,
        )
    except BaseException:
        source.close()
        raise
    return config, state


def convert(
    name_or_path, target, *, dtype=None, activation=None, heads=None, cache_dir=None, force=False,
    progress=False,
):
    """Write any model that clipc reads as one ``.safetensors`` file that needs nothing beside it.

    Parameters
    ----------
    name_or_path, activation, heads, cache_dir
        As for `open_model`. What they say is written into the new file's metadata.
    target : str or os.PathLike
        The file to write; its name ends in ``.safetensors``.
    dtype : {"float32", "float16", "bfloat16"}, optional
        What to round floating-point numbers to. Without it every tensor keeps its dtype, bit by bit.
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
    FileExistsError, OSError, ValueError, WeightsError
        As `open_model` and `clipc.weights.conversion.write_safetensors`.

    Notes
    -----
    Tensors keep the names that they have, so a file in Hugging Face's naming stays one; a prefix that all
    share, such as ``module.``, is left out. Memory is needed for one tensor at a time.
    """
    from clipc.weights.conversion import write_safetensors

    config, state = open_model(name_or_path, activation=activation, heads=heads, cache_dir=cache_dir)
    with state:
        return write_safetensors(state, config, target, dtype=dtype, force=force, progress=progress)


def _name_of(path, file):
    """A name for a model that has none: of the folder if that was given, else of the file."""
    resolved = Path(path).resolve()
    return resolved.name if resolved.is_dir() else NAME_ENDING.sub("", file.name)
