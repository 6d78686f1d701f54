"""The models that clipc knows by name, and where their files lie.

The SHA-256 values and the file names are those of openai/CLIP (clip/clip.py); the repositories are on
the Hugging Face hub and carry the same weights in float32, as ``open_clip_model.safetensors``. Heads
and sizes follow openai/CLIP: width/64 in both towers, width*32/64 in the attention pool.
"""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path
from typing import NamedTuple

EMBEDDED_FILE = Path(__file__).resolve().parents[1] / "data" / "tiny.safetensors"
HUB_FILE = "open_clip_model.safetensors"


class ZooEntry(NamedTuple):
    """One named model. `archive` and `sha256` are OpenAI's; `repository` is on the Hugging Face hub."""

    name: str
    repository: str | None
    archive: str | None
    sha256: str
    embed_dim: int
    image_size: int
    vision_heads: int
    text_heads: int
    activation: str = "quick_gelu"


ZOO = {
    entry.name: entry
    for entry in (
        ZooEntry("RN50", "timm/resnet50_clip.openai", "RN50.pt",
                 "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762", 1024, 224, 32, 8),
        ZooEntry("RN101", "timm/resnet101_clip.openai", "RN101.pt",
                 "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599", 512, 224, 32, 8),
        ZooEntry("RN50x4", "timm/resnet50x4_clip.openai", "RN50x4.pt",
                 "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd", 640, 288, 40, 10),
        ZooEntry("RN50x16", "timm/resnet50x16_clip.openai", "RN50x16.pt",
                 "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa", 768, 384, 48, 12),
        ZooEntry("RN50x64", "timm/resnet50x64_clip.openai", "RN50x64.pt",
                 "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c", 1024, 448, 64, 16),
        ZooEntry("ViT-B/32", "timm/vit_base_patch32_clip_224.openai", "ViT-B-32.pt",
                 "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", 512, 224, 12, 8),
        ZooEntry("ViT-B/16", "timm/vit_base_patch16_clip_224.openai", "ViT-B-16.pt",
                 "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f", 512, 224, 12, 8),
        ZooEntry("ViT-L/14", "timm/vit_large_patch14_clip_224.openai", "ViT-L-14.pt",
                 "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836", 768, 224, 16, 12),
        ZooEntry("ViT-L/14@336px", "timm/vit_large_patch14_clip_336.openai", "ViT-L-14-336px.pt",
                 "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02", 768, 336, 16, 12),
        ZooEntry("tiny", None, None,
                 "079ea4c4cf52e35fe89dafdccbfba3e4e6f1413c923e09b8b5a70c0bab77f49d", 256, 64, 16, 2),
    )
}  # fmt: skip


def available_models():
    """Names that `resolve` knows: OpenAI's nine models and the embedded one.

    Returns
    -------
    list of str
    """
    return list(ZOO)


def cache_folder(cache_dir=None):
    """The folder that holds downloaded models.

    Parameters
    ----------
    cache_dir : str or os.PathLike, optional
        Taken as it is. Else ``CLIPC_CACHE``, else ``clipc`` in the user's cache folder of the platform.

    Returns
    -------
    pathlib.Path
        It need not exist.
    """
    chosen = cache_dir if cache_dir is not None else os.environ.get("CLIPC_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path("~/Library/Caches/clipc").expanduser()
    # The XDG specification says that a relative value is to be ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "clipc"


def resolve(name_or_path, cache_dir=None):
    """Turn a path or the name of a model into a path.

    A path that exists wins over a name.

    Parameters
    ----------
    name_or_path : str or os.PathLike
    cache_dir : str or os.PathLike, optional
        See `cache_folder`.

    Returns
    -------
    path : pathlib.Path
    entry : ZooEntry or None
        None if a path was given.

    Raises
    ------
    FileNotFoundError
        A path that does not exist, or a model that is not in the cache.
    ValueError
        An unknown name; the message holds similar ones.
    """
    text = os.fspath(name_or_path)
    if not isinstance(text, str):
        raise TypeError(f"expected the name or the path of a model as text, got {type(text).__name__}")
    if not text:
        raise ValueError("expected the name or the path of a model, got an empty text")
    path = Path(os.path.expanduser(text))  # leaves the name of an unknown user alone
    if path.exists():
        return path, None
    entry = ZOO.get(text)
    if entry is None:
        if _looks_like_path(name_or_path, text):
            raise FileNotFoundError(f"no such file or folder: {text}")
        folded = {name.lower(): name for name in ZOO}
        close = [folded[match] for match in difflib.get_close_matches(text.lower(), folded, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ValueError(
            f"unknown model {text!r}: {hint}known are {', '.join(ZOO)}, or give a path that exists"
        )
    cached = cached_weights(entry, cache_dir)
    return cached or fetch(entry, cached_model_folder(entry, cache_dir)), entry


def cached_weights(entry, cache_dir=None):
    """The weight file of a named model if it is on this computer, else None.

    Parameters
    ----------
    entry : ZooEntry
    cache_dir : str or os.PathLike, optional
        See `cache_folder`.

    Returns
    -------
    pathlib.Path or None
    """
    if entry.name == "tiny":
        return EMBEDDED_FILE
    folder = cached_model_folder(entry, cache_dir)
    candidates = (folder / HUB_FILE, folder / "model.safetensors")
    return next((path for path in candidates if path.is_file()), None)


def cached_model_folder(entry, cache_dir=None):
    """The folder of one model in the cache: a name of its own, so that its config files lie beside it."""
    return cache_folder(cache_dir) / entry.repository.rpartition("/")[2]


def fetch(entry, folder):
    """Bring a model into the cache. The place for downloads: this version only says what to do by hand.

    Parameters
    ----------
    entry : ZooEntry
    folder : pathlib.Path
        Where ``open_clip_model.safetensors`` and ``open_clip_config.json`` belong.

    Returns
    -------
    pathlib.Path
        Of the weight file.
    """
    raise FileNotFoundError(
        f"{entry.name} is not in the cache, and downloading comes in a later version of clipc. Put "
        f"{HUB_FILE} from https://huggingface.co/{entry.repository} into {folder}"
    )


def _looks_like_path(given, text):
    """Whether a name that is not in the zoo was meant as a path."""
    if not isinstance(given, str) or text.startswith(("/", "./", "../", "~")) or "\\" in text:
        return True
    return Path(text).suffix in (".safetensors", ".json", ".pt", ".pth", ".bin") or text.endswith("/")
