"""The folder of downloaded models: what is in it, bringing models there, taking them out.

    <cache>/<folder of a model>/    weight files, their configuration, and downloads.json
    <cache>/.locks/                 a lock for each model, so that two processes download it once

``downloads.json`` has size and SHA-256 of each file that was downloaded. A file that it lists is used when
its size is right, and hashed again by `verify`. Files that were put into a model's folder by hand are in no
list and are used as they are.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from clipc.errors import DownloadError, NoNetworkError
from clipc.weights import download
from clipc.weights.download import DiskFullError, NotThereError, Remote, megabytes, say
from clipc.weights.safetensors_file import load_json
from clipc.weights.zoo import (
    EMBEDDED_FILE,
    HUB_PREFIX,
    ZooEntry,
    find_model,
    hub_model_of_folder,
    named_models,
)

RECORD = "downloads.json"
LOCKS = ".locks"
# What people put into a model's folder by hand, beside the names of its own sources.
FILES_BY_HAND = ("open_clip_model.safetensors", "model.safetensors")


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


def cached_model_folder(entry, cache_dir=None):
    """The folder of one model in the cache: a name of its own, so that its config files lie beside it."""
    return cache_folder(cache_dir) / entry.folder


def resolve(name_or_path, cache_dir=None, *, may_download=True):
    """Turn a path or the name of a model into a path; a model that is not in the cache is downloaded.

    A path that exists wins over a name.

    Parameters
    ----------
    name_or_path : str, os.PathLike or ZooEntry
    cache_dir : str or os.PathLike, optional
        See `cache_folder`.
    may_download : bool
        Without it a model must be in the cache.

    Returns
    -------
    path : pathlib.Path
    entry : ZooEntry or None
        None if a path was given.

    Raises
    ------
    FileNotFoundError
        A path that does not exist, or a model that is not in the cache and may not be downloaded.
    DownloadError
        It could not be downloaded.
    ValueError
        An unknown name; the message holds similar ones.
    """
    if isinstance(name_or_path, ZooEntry):
        entry = name_or_path
    else:
        text = os.fspath(name_or_path)
        if not isinstance(text, str):
            raise TypeError(f"expected the name or the path of a model as text, got {type(text).__name__}")
        if not text:
            raise ValueError("expected the name or the path of a model, got an empty text")
        path = Path(os.path.expanduser(text))  # leaves the name of an unknown user alone
        if path.exists():
            return path, None
        if _looks_like_path(name_or_path, text):
            raise FileNotFoundError(f"no such file or folder: {text}")
        entry = find_model(text)
    cached = cached_weights(entry, cache_dir)
    if cached is None and not may_download:
        command = f"clipc download {entry.name}"
        raise FileNotFoundError(f"{entry.name} is not in the cache; `{command}` brings it there")
    return cached or fetch(entry, cache_dir), entry


def cached_weights(entry, cache_dir=None):
    """The weight file of a model if it is on this computer, else None.

    Parameters
    ----------
    entry : ZooEntry
    cache_dir : str or os.PathLike, optional
        See `cache_folder`.

    Returns
    -------
    pathlib.Path or None
    """
    if entry.embedded:
        return EMBEDDED_FILE
    folder = cached_model_folder(entry, cache_dir)
    record = _read_record(folder)
    for name in dict.fromkeys((*entry.files, *FILES_BY_HAND)):
        if _as_recorded(folder / name, record):
            return folder / name
    return None


def _as_recorded(path, record):
    """Whether a file is there, with the size that was downloaded; by hand any size is right."""
    try:
        size = path.stat().st_size
    except OSError:
        return False
    known = record.get(path.name)
    return path.is_file() and (known is None or known["size"] == size)


# -- downloads -------------------------------------------------------------------------------------------


def fetch(entry, cache_dir=None, policy=None, advice=None):
    """Bring a model into the cache, unless another process does so meanwhile.

    Parameters
    ----------
    entry : ZooEntry
    cache_dir : str or os.PathLike, optional
        See `cache_folder`.
    policy : clipc.weights.download.Policy, optional
    advice : str, optional
        A line to say below the announcement of the download.

    Returns
    -------
    pathlib.Path
        Of the weight file.

    Raises
    ------
    FileNotFoundError
        ``CLIPC_OFFLINE`` is set.
    NoNetworkError
        No server was reached.
    DownloadError
        None of the sources gave the model; the message has the reason of each.
    OSError
        The cache cannot be written.
    """
    folder = cached_model_folder(entry, cache_dir)
    if download.offline():
        raise FileNotFoundError(
            f"{entry.name} is not in the cache, and CLIPC_OFFLINE forbids to download it. "
            f"{_by_hand(entry, folder)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(entry, cache_dir):
        cached = cached_weights(entry, cache_dir)
        if cached:
            return cached
        problems = []
        for i, source in enumerate(entry.sources):
            try:
                return _fetch_from(entry, source, folder, policy, advice)
            except DiskFullError:
                raise
            except DownloadError as error:
                problems.append(error)
                if i + 1 < len(entry.sources):
                    say(f"{error}; trying {_place(entry.sources[i + 1])}")
    kind = NoNetworkError if all(isinstance(error, NoNetworkError) for error in problems) else DownloadError
    reasons = "; ".join(dict.fromkeys(map(str, problems)))
    raise kind(f"{entry.name} could not be downloaded: {reasons}. {_by_hand(entry, folder)}")


def addresses(entry):
    """An address at each of the places that a model may come from."""
    return [
        source.url or download.hub_url(source.repository, source.revision, source.files[0])
        for source in entry.sources
    ]


def _place(source):
    return source.url or f"{download.hub()}/{source.repository}"


def _by_hand(entry, folder):
    places = " or ".join(f"{source.files[0]} from {_place(source)}" for source in reversed(entry.sources))
    no_path = f"There is no file or folder {entry.name} either. " if entry.family == "hub" else ""
    return f"{no_path}By hand: put {places} into {folder}"


def _fetch_from(entry, source, folder, policy, advice):
    """Download from one source. The weights come last: where they are, all is there."""
    if source.url:
        name, remote = source.files[0], _look_if_possible(source, policy)
    else:
        name, remote = _first_there(source, policy)
        for extra in (*source.configuration, *source.optional):
            try:
                _bring(source, extra, folder, policy)
            except NotThereError:
                if extra in source.configuration:
                    raise
    if name.endswith(".index.json"):
        return _fetch_in_parts(entry, source, name, folder, policy, advice)
    # The size in the zoo is for people: the SHA-256 decides.
    _announce(entry.name, remote._replace(size=remote.size or source.size), folder)
    if advice:
        say(advice)
    _store(remote, folder / name, policy)
    say(f"{entry.name} is in the cache: {folder / name}")
    return folder / name


def _look_if_possible(source, policy):
    """What the server says; where the SHA-256 is published, that is what counts."""
    try:
        remote = download.look(source.url, policy)
    except NoNetworkError:
        raise
    except DownloadError:
        remote = Remote(source.url)  # the transfer will tell, and may do better
    return remote._replace(sha256=source.sha256 or remote.sha256)


def _first_there(source, policy):
    """The first of the source's files that the repository has."""
    for name in source.files:
        try:
            return name, download.look(download.hub_url(source.repository, source.revision, name), policy)
        except NotThereError as error:
            if "no such file" not in str(error):
                raise
    raise NotThereError(f"{_place(source)} has none of the files {', '.join(source.files)}")


def _bring(source, name, folder, policy):
    """One more file of a repository."""
    remote = download.look(download.hub_url(source.repository, source.revision, name), policy)
    _store(remote, folder / name, policy)


def _fetch_in_parts(entry, source, name, folder, policy, advice):
    """The weights of a model in several files, then the index that names them."""
    pending = folder / f"pending-{name.removesuffix('.json')}"
    remote = download.look(download.hub_url(source.repository, source.revision, name), policy)
    _store(remote, pending, policy, recorded=False)
    try:
        weight_map = load_json(pending).get("weight_map")
        parts = sorted({str(part) for part in weight_map.values()}) if isinstance(weight_map, dict) else []
        if not parts or not all(re.fullmatch(r"[\w-][\w.-]*\.(safetensors|bin)", part) for part in parts):
            raise ValueError("it names no weight files beside itself")
    except ValueError as error:
        os.remove(pending)
        raise DownloadError(f"{remote.url} is no index of weights: {error}") from None
    record = _read_record(folder)
    for i, part in enumerate(parts):
        if not (part in record and _as_recorded(folder / part, record)):
            remote = download.look(download.hub_url(source.repository, source.revision, part), policy)
            _announce(f"{entry.name}, part {i + 1} of {len(parts)}", remote, folder)
            if advice and i == 0:
                say(advice)
            _store(remote, folder / part, policy)
    os.replace(pending, folder / name)
    say(f"{entry.name} is in the cache: {folder / name}")
    return folder / name


def _announce(what, remote, folder):
    say(f"downloading {what} ({megabytes(remote.size)}) from {remote.host} to {folder}")


def _store(remote, target, policy, recorded=True):
    """Download one file and note what it is."""
    digest = download.download(remote, target, policy)
    if recorded:
        _note(target, digest, remote)


# -- what was downloaded ---------------------------------------------------------------------------------


def _read_record(folder):
    """{file name: {"size", "sha256", ...}} of what was downloaded; a damaged record is none."""
    with contextlib.suppress(OSError, ValueError):
        files = load_json(folder / RECORD).get("files")
        if isinstance(files, dict):
            return {
                name: row
                for name, row in files.items()
                if isinstance(row, dict) and isinstance(row.get("size"), int)
            }
    return {}


def _note(path, digest, remote):
    files = _read_record(path.parent)
    files[path.name] = {
        "size": path.stat().st_size,
        "sha256": digest,
        "sha256_from": "its publisher" if remote.sha256 else "the downloaded file",
        "url": remote.url,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    _write_record(path.parent, files)


def _write_record(folder, files):
    temporary = folder / f".{RECORD}.tmp"
    temporary.write_text(json.dumps({"files": files}, indent=1) + "\n", "utf-8")
    os.replace(temporary, folder / RECORD)


class Verified(NamedTuple):
    """One file, hashed again. `good` is None where no hash is known."""

    path: Path
    good: bool | None
    detail: str


def verify(entry, cache_dir=None):
    """Hash the files of a model in the cache, and compare with what was downloaded.

    Parameters
    ----------
    entry : ZooEntry
    cache_dir : str or os.PathLike, optional

    Returns
    -------
    list of Verified
        Empty if the model is not in the cache.
    """
    import pooch

    if entry.embedded:
        expected = {EMBEDDED_FILE: (entry.sources[0].sha256, "clipc")}
    else:
        folder = cached_model_folder(entry, cache_dir)
        expected = {
            folder / name: (None, None)
            for name in dict.fromkeys((*entry.files, *FILES_BY_HAND))
            if (folder / name).is_file()
        }
        for name, row in _read_record(folder).items():
            expected[folder / name] = row.get("sha256"), row.get("sha256_from")
        for source in entry.sources:
            if source.sha256 and folder / source.files[0] in expected:
                expected[folder / source.files[0]] = source.sha256, "its publisher"
    found = []
    for path, (sha256, origin) in expected.items():
        if not path.is_file():
            found.append(Verified(path, False, "missing"))
        elif not sha256:
            found.append(Verified(path, None, "put here by hand, no SHA-256 is known"))
        else:
            digest = pooch.file_hash(str(path))
            good = digest == sha256
            detail = f"SHA-256 as of {origin}" if good else f"SHA-256 {digest}, expected {sha256}"
            found.append(Verified(path, good, detail))
    return found


def forget_damaged(entry, verified, cache_dir=None):
    """Remove the files that `verify` found damaged, so that `fetch` brings them again."""
    with _locked(entry, cache_dir):
        folder = cached_model_folder(entry, cache_dir)
        record = _read_record(folder)
        for path, good, _ in verified:
            if good is False:
                record.pop(path.name, None)
                path.unlink(missing_ok=True)
        _write_record(folder, record)


def partial_bytes(entry, cache_dir=None):
    """Bytes of downloads of this model that are not complete."""
    if entry.embedded:
        return 0
    folder = cached_model_folder(entry, cache_dir)
    return sum(path.stat().st_size for path in folder.glob("*.part")) if folder.is_dir() else 0


def cached_bytes(entry, cache_dir=None):
    """Bytes that a model's folder takes."""
    if entry.embedded:
        return EMBEDDED_FILE.stat().st_size
    folder = cached_model_folder(entry, cache_dir)
    if not folder.is_dir():
        return 0
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def cached_hub_models(cache_dir=None):
    """Repositories of the hub, beside the zoo, that have a folder in the cache.

    Returns
    -------
    list of ZooEntry
    """
    folder = cache_folder(cache_dir)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    known = {entry.folder for entry in named_models().values()}
    repositories = [hub_model_of_folder(name) for name in names if name not in known]
    return [find_model(name) for name in repositories if name]


def remove(entry, cache_dir=None):
    """Remove a model from the cache, with all that lies in its folder.

    Returns
    -------
    int
        Bytes that were freed; 0 if there was nothing.

    Raises
    ------
    ValueError
        The embedded model is a part of clipc.
    """
    if entry.embedded:
        raise ValueError(f"{entry.name} is a part of clipc and cannot be removed")
    folder = cached_model_folder(entry, cache_dir)
    if not os.path.lexists(folder):
        return 0
    import shutil

    with _locked(entry, cache_dir):
        size = cached_bytes(entry, cache_dir)
        if folder.is_symlink():
            folder.unlink()  # what it points to is not in the cache
        else:
            shutil.rmtree(folder)
    return size


# -- helpers ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(entry, cache_dir):
    """Hold the lock of a model. The system releases that of a process which dies."""
    import fcntl

    locks = cache_folder(cache_dir) / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    # The file stays: removing it would let two processes hold locks on two files of the same name.
    with open(locks / f"{entry.folder}.lock", "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is downloading {entry.name}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks; two downloads at once are the worst that happens
        try:
            yield
        finally:
            # Not by closing alone: a forked child may hold the file open as well.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)


def _looks_like_path(given, text):
    """Whether a text that is no path was meant as one."""
    if text in named_models() or text.startswith(HUB_PREFIX):
        return not isinstance(given, str)
    if not isinstance(given, str) or text.startswith(("/", "./", "../", "~")) or "\\" in text:
        return True
    return Path(text).suffix in (".safetensors", ".json", ".pt", ".pth", ".bin") or text.endswith("/")
