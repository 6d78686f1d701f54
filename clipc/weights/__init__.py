"""From a name or a path to a model's configuration and its tensors under OpenAI's names.

    config, state = open_model("ViT-B/32")
    with state:
        core = build(config.to_core(), state.read)    # asks for every tensor it needs
        state.check_all_used()

Nothing but headers is read until `state.read` is called, and each tensor is handed over once: what a
model costs while it is loaded is itself and one tensor.
"""

from __future__ import annotations

from pathlib import Path

from clipc.weights.config import CLIP_MEAN, CLIP_STD, ModelConfig, build_config, sizes_from_shapes
from clipc.weights.layouts import WeightState
from clipc.weights.safetensors_file import SafetensorsFile, ShardedSafetensors, TensorInfo, open_weights
from clipc.weights.zoo import (
    EMBEDDED_FILE,
    ZOO,
    ZooEntry,
    available_models,
    cache_folder,
    cached_weights,
    resolve,
)

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "EMBEDDED_FILE",
    "ModelConfig",
    "SafetensorsFile",
    "ShardedSafetensors",
    "TensorInfo",
    "WeightState",
    "ZOO",
    "ZooEntry",
    "available_models",
    "build_config",
    "cache_folder",
    "cached_weights",
    "open_model",
    "open_weights",
    "resolve",
    "sizes_from_shapes",
]


def open_model(name_or_path, *, activation=None, heads=None, cache_dir=None):
    """Open a model without reading its tensors yet.

    Parameters
    ----------
    name_or_path : str or os.PathLike
        A name of `available_models`, a ``.safetensors`` file, the ``.safetensors.index.json`` of a model
        in several files, or a folder with weights and configuration. A path that exists wins.
    activation : {"quick_gelu", "gelu"}, optional
    heads : int or (int or None, int or None), optional
        Attention heads: one number is for the image tower, a pair for the image and the text tower.
        Both overrule whatever the files say; see `clipc.weights.config` for the order.
    cache_dir : str or os.PathLike, optional
        Where named models lie, instead of ``CLIPC_CACHE`` and the user's cache folder.

    Returns
    -------
    config : ModelConfig
    state : WeightState
        An open file; close it, or use it in a ``with`` statement.

    Raises
    ------
    FileNotFoundError, PermissionError
        No such file, or a named model that is not in the cache.
    ValueError, TypeError
        An unknown name (with similar ones), or wrong arguments.
    WeightsError
        A damaged file, or one that does not hold a CLIP model that clipc knows.
    """
    path, entry = resolve(name_or_path, cache_dir)
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


def _name_of(path, file):
    """A name for a model that has none: of the folder if that was given, else of the file."""
    resolved = Path(path).resolve()
    return (
        resolved.name
        if resolved.is_dir()
        else file.name.removesuffix(".index.json").removesuffix(".safetensors")
    )
