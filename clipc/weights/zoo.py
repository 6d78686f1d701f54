"""The models that clipc knows by name, and the repositories of the Hugging Face hub.

What is known of each model stands in ``clipc/data/zoo.json``, which also says where that was read.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import NamedTuple

from clipc.weights.config import CLIP_MEAN, CLIP_STD
from clipc.weights.safetensors_file import load_json

EMBEDDED_FILE = Path(__file__).resolve().parents[1] / "data" / "tiny.safetensors"
ZOO_FILE = EMBEDDED_FILE.with_name("zoo.json")

# What functions use when no model is given; see `clipc.model.default_model`.
DEFAULT_MODEL = "ViT-B/32"

# Of a repository whose content is not known, in the order of preference. OpenCLIP's come first: in the
# repositories of timm, model.safetensors is the image tower alone.
HUB_FILES = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors",
    "model.safetensors.index.json", "open_clip_pytorch_model.bin", "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)  # fmt: skip
HUB_CONFIGURATION = ("config.json", "open_clip_config.json", "preprocessor_config.json")

HUB_PREFIX = "hf-hub:"
_HUB_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII
)
# Every owner may call himself so, but who writes ViT-B/23 means a model of the zoo.
_OPENAI_NAME = re.compile(r"(vit-|rn\d)", re.IGNORECASE)


class Source(NamedTuple):
    """One place where the files of a model are.

    Attributes
    ----------
    files : tuple of str
        Names of weight files, the preferred one first; one of them is needed.
    url : str or None
        Of the only file, where the place is no repository.
    repository, revision : str or None
        On the Hugging Face hub.
    configuration, optional : tuple of str
        Files that belong beside the weights: those that must be there, and those that may be.
    sha256, size : str or None, int or None
        Of the only file, where they are published.
    """

    files: tuple[str, ...]
    url: str | None = None
    repository: str | None = None
    revision: str = "main"
    configuration: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    sha256: str | None = None
    size: int | None = None


class ZooEntry(NamedTuple):
    """One model and where it comes from. What is None is not known before its files are there.

    Attributes
    ----------
    name, family : str
    folder : str or None
        Name of its folder in the cache; None for the embedded model.
    sources : tuple of Source
        In the order in which they are tried.
    embed_dim, image_size, vision_heads, text_heads : int or None
    activation : str or None
    image_mean, image_std : tuple of float, or None
    resize : str or None
        How a picture becomes a square: "shortest" (and a crop of the middle), "squash", "pad".
    licence : str or None
        As the owner of the weights states it.
    parameters_millions : float or None
    """

    name: str
    family: str
    folder: str | None
    sources: tuple[Source, ...]
    embed_dim: int | None = None
    image_size: int | None = None
    vision_heads: int | None = None
    text_heads: int | None = None
    activation: str | None = None
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    resize: str | None = None
    licence: str | None = None
    parameters_millions: float | None = None

    @property
    def embedded(self):
        """Whether the model is a part of clipc."""
        return self.folder is None

    @property
    def repository(self):
        """Its repository on the Hugging Face hub, or None."""
        return next((source.repository for source in self.sources if source.repository), None)

    @property
    def size(self):
        """Bytes of the file that is tried first, or None."""
        return EMBEDDED_FILE.stat().st_size if self.embedded else self.sources[0].size

    @property
    def files(self):
        """Names of all weight files that its sources may have."""
        return tuple(dict.fromkeys(name for source in self.sources for name in source.files))


@functools.lru_cache(maxsize=1)
def named_models():
    """The models of the zoo: name to `ZooEntry`. Read when first asked for."""
    return {row["name"]: _entry(row) for row in load_json(ZOO_FILE)["models"]}


def _entry(row):
    row = dict(row)
    mean, std = row.pop("mean"), row.pop("std")
    return ZooEntry(
        sources=tuple(_source(source) for source in row.pop("sources")),
        image_mean=CLIP_MEAN if mean == "clip" else tuple(mean),
        image_std=CLIP_STD if std == "clip" else tuple(std),
        **row,
    )


def _source(row):
    if "embedded" in row:
        return Source((row["embedded"],), sha256=row["sha256"])
    if "url" in row:
        return Source((row["file"],), url=row["url"], sha256=row["sha256"], size=row["bytes"])
    files = tuple(row["files"])
    return Source(files, repository=row["repository"], configuration=tuple(row.get("configuration", ())))


def available_models():
    """Names that `load` knows: OpenAI's nine models, the embedded one, and the rest of the zoo.

    Beside these, `load` takes ``owner/name`` for any repository of the Hugging Face hub that holds a CLIP
    model in a layout that clipc reads.

    Returns
    -------
    list of str
    """
    return list(named_models())


def find_model(name):
    """The model of this name: of the zoo, or a repository of the hub as ``owner/name``.

    Parameters
    ----------
    name : str
        ``hf-hub:owner/name`` is a repository without doubt; ``@revision`` may follow.

    Returns
    -------
    ZooEntry

    Raises
    ------
    ValueError
        An unknown name; the message holds similar ones.
    """
    zoo = named_models()
    if name in zoo:
        return zoo[name]
    sure = name.startswith(HUB_PREFIX)
    match = _HUB_NAME.fullmatch(name.removeprefix(HUB_PREFIX))
    if match and ".." not in name and (sure or not _OPENAI_NAME.match(name)):
        repository, revision = match["repository"], match["revision"] or "main"
        for entry in zoo.values():
            if entry.repository == repository and revision == "main":
                return entry
        return _hub_entry(repository, revision)
    if sure:
        raise ValueError(f"expected {HUB_PREFIX}owner/name or {HUB_PREFIX}owner/name@revision, got {name!r}")
    import difflib

    folded = {known.lower(): known for known in zoo}
    close = [folded[found] for found in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise ValueError(
        f"unknown model {name!r}: {hint}known are {', '.join(zoo)}; or give a path that exists, or "
        "owner/name of a repository of the Hugging Face hub"
    )


def _hub_entry(repository, revision):
    name, folder = repository, repository.replace("/", "--")
    if revision != "main":
        name, folder = f"{name}@{revision}", f"{folder}@{revision.replace('/', '--')}"
    source = Source(HUB_FILES, repository=repository, revision=revision, optional=HUB_CONFIGURATION)
    return ZooEntry(name, "hub", folder, (source,))


def hub_model_of_folder(folder):
    """The repository that a folder of the cache belongs to, as `find_model` takes it; None if to none."""
    repository, _, revision = folder.partition("@")
    name = repository.replace("--", "/", 1) + (f"@{revision.replace('--', '/')}" if revision else "")
    return name if "--" in repository and _HUB_NAME.fullmatch(name) else None
