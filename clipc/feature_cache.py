"""Features of many pictures, kept on disk: what was encoded once is not encoded again.

    encoded = encode_files(model, read_labelled_images("photos"), progress=True)
    encoded.features[encoded.kept == 3]

A picture is known by its content, the SHA-256 of its file, so a file may be renamed and moved; features are
known by all that they depend on: the content of the weight files, their dtype, activation and heads, the
preprocessing, and the condition. There is one SQLite file for each combination of these. Each batch is stored
as soon as it is encoded, so work that was interrupted goes on where it stopped.

Nothing here may keep the work from being done: a cache that is damaged, full, locked or not writable is told
of once, and the features are computed without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipc import image, parallel, weights
from clipc.arguments import whole_number
from clipc.errors import ImageError, warn
from clipc.labelled_images import LabelledImages
from clipc.model import DEFAULT_BATCH_SIZE, get_num_threads
from clipc.progress import progress_bar
from clipc.tables import count
from clipc.weights.layouts import file_stamp

try:
    import sqlite3
except ImportError:  # a Python that was built without it
    sqlite3 = None

FOLDER = "features"

# Pictures whose files are held at the same time, for each thread: enough that threads seldom wait for each
# other.
PICTURES_PER_THREAD = 4

# Seconds that one process waits for another that is just writing; a batch is written in milliseconds.
LOCK_TIMEOUT = 10.0

# In the header of each file, so that a file of another kind is not written to.
_APPLICATION_ID = 0x636C6970
_SCHEMA_VERSION = 1

_STORE_NAME = re.compile(r".+-[0-9a-f]{16}\.features\.sqlite(\.damaged-[0-9a-f]{8})?(-journal)?")

_ADVICE = "skip_unreadable=True leaves out what cannot be read"


class EncodedImages(NamedTuple):
    """What `encode_files` gives.

    Attributes
    ----------
    features : float32 array, (n, D)
        As the model gives them: not scaled to length 1.
    kept : int64 array, (n,)
        Positions of the pictures that these are the features of, ascending; all, unless some are unreadable.
    unreadable : list of (str, str)
        Name of each picture that could not be read, and why.
    n_cached : int
        Pictures whose features came from the cache.
    """

    features: np.ndarray
    kept: np.ndarray
    unreadable: list
    n_cached: int


def encode_files(
    model, images, *, condition=None, cache=True, batch_size=None, exif=False, skip_unreadable=False,
    progress=False,
):
    """The features of pictures, from the cache where they are there.

    Parameters
    ----------
    model : clipc.Model
    images : LabelledImages, list of images, image, or float32 array
        An image is a path, ``bytes``, a uint8 array or a PIL image. An array (N, 3, R, R) is taken as
        preprocessed, and one (N, D) as features; neither is cached.
    condition : clipc.evaluate.conditions.Condition, optional
        Changes each picture after it is resized and cropped, before it is normalised: has `key`, a text that
        stands for what it does, and ``apply(uint8 (R, R, 3), SHA-256 of the content in hexadecimal)``.
    cache : bool or path
        Keep features in the folder ``features`` of `clipc.weights.cache_folder`, or in the folder given.
    batch_size : int, optional
        Pictures that are encoded, and stored, together (default 64).
    exif : bool
        Turn pictures as their EXIF orientation says.
    skip_unreadable : bool
        Leave out pictures that cannot be read, with one warning, instead of stopping at the first.
    progress : bool
        Show a progress bar on standard error. It counts pictures from the cache, too.

    Returns
    -------
    EncodedImages

    Raises
    ------
    OSError, ImageError
        A picture that cannot be read; the message names it.
    ValueError
        No pictures, or none that can be read; a condition for what is preprocessed already.
    TypeError
        Something that is no image.
    KeyboardInterrupt
        Ctrl-C; what has been encoded is kept, and the same call goes on from there.

    Warns
    -----
    ClipcWarning
        Pictures were left out, or (once a process) the cache is not used, and why.

    Notes
    -----
    A picture that is there several times is encoded once. An interrupted run and the one that goes on give,
    bit for bit, what one run gives. Otherwise features may differ from those of `Model.encode_image` in the
    last digits (by about 1e-6 of their length), because which pictures share a batch decides how the matrix
    products are rounded.
    """
    batch_size = whole_number("batch_size", DEFAULT_BATCH_SIZE if batch_size is None else batch_size)
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
        if condition is not None:
            raise ValueError("condition: it changes pictures, got an array that is no picture any more")
        features = _features_of_array(model, images, batch_size, progress)
        return EncodedImages(features, np.arange(len(features)), [], 0)
    items, names = _list(images)
    # In a list messages call a picture by its position, too; rows of a table have names that tell more.
    has_positions = isinstance(images, (list, tuple))
    with contextlib.ExitStack() as stack:
        store = _open_store(model, condition, exif, cache)
        stack.callback(store.close)
        bar = stack.enter_context(progress_bar(len(items), "image", progress))
        encoder = _Encoder(model, store, condition, exif, min(batch_size, len(items)), bar)
        if not skip_unreadable:
            _refuse_missing(items)
        kept, unreadable = [], []
        position = 0
        while position < len(items):
            taken = items[position : position + encoder.room()]
            labels = [
                image.label_of(item, n if has_positions else None) for n, item in enumerate(taken, position)
            ]
            for error in encoder.add(taken, labels):
                if error is None:
                    kept.append(position)
                elif skip_unreadable:
                    encoder.skip()
                    unreadable.append((names[position], error.reason))
                else:
                    raise error.with_advice() from error.cause
                position += 1
        features = encoder.finish()
    _report_unreadable(unreadable, len(items))
    return EncodedImages(features, np.array(kept, np.int64), unreadable, encoder.n_cached)


def clear(cache_dir=None):
    """Remove all cached features.

    Parameters
    ----------
    cache_dir : path, optional
        The folder that was given as `cache`; default the folder ``features`` of `clipc.weights.cache_folder`.

    Returns
    -------
    int
        Bytes that were freed. Other files in the folder stay.

    Raises
    ------
    OSError
        A file cannot be removed.
    """
    freed = 0
    for path in _store_files(cache_dir):
        with contextlib.suppress(FileNotFoundError):
            n_bytes = path.stat().st_size
            path.unlink()
            freed += n_bytes
    return freed


def size(cache_dir=None):
    """Bytes that cached features take on disk.

    Parameters
    ----------
    cache_dir : path, optional
        As for `clear`.

    Returns
    -------
    int
    """
    total = 0
    for path in _store_files(cache_dir):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def _store_files(folder):
    folder = _folder(True if folder is None else folder)
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _STORE_NAME.fullmatch(path.name) and path.is_file())


def _folder(cache):
    return weights.cache_folder() / FOLDER if cache is True else Path(os.path.expanduser(cache))


# -- Pictures --------------------------------------------------------------------------------------------


def _list(images):
    """The pictures as a list, and how people call them."""
    if isinstance(images, LabelledImages):
        items, names = images.paths, images.files
    else:
        items = list(images) if isinstance(images, (list, tuple)) else [images]
        names = [
            os.fsdecode(item) if _is_path(item) else image.label_of(item, position)
            for position, item in enumerate(items)
        ]
    if not items:
        raise ValueError("images: the list is empty; expected at least one image")
    return items, names


def _is_path(item):
    return isinstance(item, (str, os.PathLike))


def _refuse_missing(items):
    """Find out before the work what would show in the middle of it."""
    for item in items:
        if _is_path(item) and "://" not in os.fsdecode(item):
            try:
                os.stat(item)
            except (OSError, ValueError) as error:
                raise _Unreadable(error).with_advice() from error


def _features_of_array(model, array, batch_size, progress):
    if array.ndim == 4:
        pixels = image.check_preprocessed(array, model.image_size)
        parts = []
        with progress_bar(len(pixels), "image", progress) as bar:
            for begin in range(0, len(pixels), batch_size):
                parts.append(model.encode_image(pixels[begin : begin + batch_size]))
                bar.update(len(parts[-1]))
        return np.concatenate(parts)
    features = np.atleast_2d(array)
    if features.ndim != 2 or features.shape[1] != model.embed_dim or not len(features):
        raise ValueError(
            f"images: expected features of shape (N, {model.embed_dim}) or preprocessed pictures of shape "
            f"(N, 3, {model.image_size}, {model.image_size}), got {array.shape}"
        )
    if not np.isfinite(features).all():
        raise ValueError("images: expected finite features, got NaN or infinity")
    return features.astype(np.float32)


def _report_unreadable(unreadable, n_items):
    if not unreadable:
        return
    shown = "; ".join(f"{name}: {reason}" for name, reason in unreadable[:3])
    more = f"; and {len(unreadable) - 3} more" if len(unreadable) > 3 else ""
    message = f"{len(unreadable)} of {count(n_items, 'image')} cannot be read: {shown}{more}"
    if len(unreadable) == n_items:
        raise ValueError(f"images: none of them can be read: {shown}{more}")
    warn(f"{message}; left out")


class _Unreadable(Exception):
    """A picture cannot be read, because of `cause`."""

    def __init__(self, cause, label=""):
        super().__init__(str(cause))
        self.cause = cause
        reason = (isinstance(cause, OSError) and cause.strerror) or str(cause)
        self.reason = reason.removeprefix(f"{label}: ")

    def with_advice(self):
        """The error for those who did not ask to go on."""
        error = self.cause
        if isinstance(error, OSError):
            if error.strerror is None:
                return OSError(f"{error}; {_ADVICE}")
            return OSError(error.errno, f"{error.strerror}; {_ADVICE}", error.filename)
        kind = ImageError if isinstance(error, ImageError) else ValueError
        return kind(f"{error}; {_ADVICE}")


class _Encoder:
    """Takes pictures, a few at a time, encodes them in batches, and each content once.

    What is waiting to be encoded is held as the model's input, so memory depends on how large pictures are
    for those few alone. Which pictures share a batch depends on their order alone.
    """

    def __init__(self, model, store, condition, exif, batch_size, bar):
        config = model.config
        self.model = model
        self.store = store
        self.condition = condition
        self.exif = exif
        self.bar = bar
        self.n_cached = 0
        self.rows = []  # features of each content, in the order in which contents came; None while it waits
        self.cached = []  # for each content, whether it came from the cache
        self.slots = []  # for each picture that was taken, its place in `rows`
        self.slot_of_content = {}
        # A path is read once, however often it is there: its place in `rows`, or why it cannot be read.
        self.outcome_of_path = {}
        self.waiting = []  # content and place in `rows` of what is in `pixels`
        self.pixels = np.empty((batch_size, 3, config.image_size, config.image_size), np.float32)

    def room(self):
        """How many pictures can be taken together."""
        return min(len(self.pixels) - len(self.waiting), PICTURES_PER_THREAD * get_num_threads())

    def add(self, items, labels):
        """Take up to `room` pictures; yields for each, in order, None, or the `_Unreadable` it is.

        All are read, then those whose features are not known are decoded, and then they are taken in order.
        """
        pictures = [_Picture(item, label) for item, label in zip(items, labels)]
        self._read(pictures)
        self._decode(pictures)
        for picture in pictures:
            try:
                slot = self._slot(picture)
            except _Unreadable as error:
                yield error
                continue
            self.n_cached += self.cached[slot]
            self.slots.append(slot)
            yield None
        if len(self.waiting) == len(self.pixels):
            self._encode()

    def skip(self):
        """Count a picture that could not be read."""
        self.bar.update(1)

    def finish(self):
        """The features of all pictures that were taken, float32 (n, D)."""
        self._encode()
        if not self.slots:
            return np.empty((0, self.model.embed_dim), np.float32)
        return np.stack(self.rows)[self.slots]

    def _read(self, pictures):
        paths, new = set(), []
        for picture in pictures:
            if picture.path is None or not (picture.path in paths or picture.path in self.outcome_of_path):
                paths.add(picture.path)
                new.append(picture)
        pillow = image.lock_for_pillow()

        def read(n):
            with pillow(new[n].item):
                return _content(new[n].item, new[n].label, self.exif)

        for picture, outcome in zip(new, parallel.run(read, len(new))):
            picture.reading = outcome

    def _decode(self, pictures):
        new = []
        for picture in pictures:
            if picture.reading is None or picture.reading.error is not None:
                continue
            content, _ = picture.reading.value
            if content not in self.slot_of_content:
                picture.row = self.store.get(content)
                if picture.row is None:
                    picture.place = len(self.waiting) + len(new)
                    new.append(picture)
        if not new:
            return
        config = self.model.config
        _, outcomes = image.preprocess_each(
            [picture.reading.value[1] for picture in new],
            [picture.label for picture in new],
            config.image_size,
            config.image_mean,
            config.image_std,
            exif=self.exif,
            changes=None if self.condition is None else [picture.change(self.condition) for picture in new],
            out=self.pixels[len(self.waiting) :],
        )
        for picture, outcome in zip(new, outcomes):
            picture.decoding = outcome

    def _slot(self, picture):
        """The place in `rows` of a picture; raises `_Unreadable`."""
        outcome = self.outcome_of_path.get(picture.path)
        if outcome is None:
            try:
                outcome = self._take(picture)
            except _Unreadable as error:
                if picture.path is not None:
                    self.outcome_of_path[picture.path] = error.reason
                raise
            if picture.path is not None:
                self.outcome_of_path[picture.path] = outcome
            return outcome
        if isinstance(outcome, str):
            raise _Unreadable(ImageError(outcome))
        self.bar.update(1)
        return outcome

    def _take(self, picture):
        """The place in `rows` of a picture that has just been read."""
        with _unreadable_where(picture):
            content, _ = picture.reading.get()
        slot = self.slot_of_content.get(content)
        if slot is not None:
            self.bar.update(1)
            return slot
        slot = len(self.rows)
        if picture.row is None:
            # What fails when the picture is decoded, a condition perhaps, is not its fault.
            is_decoded = picture.decoding.error is None
            with contextlib.nullcontext() if is_decoded else _unreadable_where(picture):
                picture.decoding.get()
            if picture.place > len(self.waiting):  # one before it is not there
                self.pixels[len(self.waiting)] = self.pixels[picture.place]
            self.waiting.append((content, slot))
        else:
            self.bar.update(1)
        self.rows.append(picture.row)
        self.cached.append(picture.row is not None)
        self.slot_of_content[content] = slot
        return slot

    def _encode(self):
        if not self.waiting:
            return
        contents, slots = zip(*self.waiting)
        self.waiting = []
        features = self.model.encode_image(self.pixels[: len(slots)])
        self.store.put(contents, features)
        for slot, row in zip(slots, features):
            self.rows[slot] = row
        self.bar.update(len(slots))


class _Picture:
    """What an `_Encoder` knows of a picture while it takes it."""

    def __init__(self, item, label):
        self.item = item
        self.label = label
        self.path = os.fsdecode(item) if _is_path(item) else None
        self.reading = None  # the outcome of `_content`; None if the path was read before
        self.row = None  # its features, from the cache
        self.place = None  # the row of the encoder's `pixels`
        self.decoding = None  # the outcome of preprocessing

    def change(self, condition):
        """What a condition does to it, for `clipc.image.preprocess_each`."""
        content, _ = self.reading.value
        return lambda square: condition.apply(square, content)


@contextlib.contextmanager
def _unreadable_where(picture):
    """Turn what a damaged or missing picture raises into `_Unreadable`; wrong arguments pass."""
    try:
        yield
    except (ImageError, OSError) as error:
        raise _Unreadable(error, picture.label) from error
    except ValueError as error:
        # For a file its content is to blame, for an array the caller.
        if picture.path is not None or isinstance(picture.item, (bytes, bytearray, memoryview)):
            raise _Unreadable(error, picture.label) from error
        raise


def _content(item, label, exif):
    """SHA-256 of a picture's content, in hexadecimal, and the content: bytes of a file, or an RGB array."""
    if _is_path(item):
        item = image.read_file(item, label)
    if isinstance(item, (bytes, bytearray, memoryview)):
        data = bytes(item)
        return hashlib.sha256(data).hexdigest(), data
    rgb = image.to_rgb(item, exif=exif, label=label)
    # No file begins so, hence no file has the content of an array.
    digest = hashlib.sha256(f"RGB {rgb.shape[1]} x {rgb.shape[0]}\n".encode())
    digest.update(rgb)
    return digest.hexdigest(), rgb


# -- What features depend on -----------------------------------------------------------------------------

_digests = {}  # (path, size, mtime_ns) -> SHA-256 of the file
_digests_lock = threading.Lock()


class _NotKnown(Exception):
    """Features cannot be kept, because it is not known what they depend on."""


def model_fingerprint(model):
    """SHA-256 of what a model's features depend on: weights, dtype, activation, heads; hexadecimal.

    Raises `_NotKnown` if the weight files are not what the model was loaded from.
    """
    if not model._weight_files:
        raise _NotKnown(f"the model {model.name!r} was not loaded from a file")
    digests = []
    for stamp in model._weight_files:
        path = stamp[0]
        try:
            # Before and after: the file that is read shall be the one that was loaded.
            unchanged = file_stamp(path) == stamp
            digest = _digest_of_file(stamp) if unchanged else None
            unchanged = unchanged and file_stamp(path) == stamp
        except OSError as error:
            raise _NotKnown(f"the weight file {path} cannot be read any more: {error.strerror}") from None
        if not unchanged:
            raise _NotKnown(f"the weight file {path} has changed since it was loaded")
        digests.append(digest)
    config = model.config
    described = [digests, model.dtype, config.activation, config.vision_heads, config.text_heads]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _digest_of_file(stamp):
    with _digests_lock:
        known = _digests.get(stamp)
    if known is None:
        digest = hashlib.sha256()
        with open(stamp[0], "rb", buffering=0) as file:
            while block := file.read(1 << 22):
                digest.update(block)
        known = digest.hexdigest()
        with _digests_lock:
            _digests[stamp] = known
    return known


def _describe(model, condition, exif):
    """All that the features of a picture depend on beside its content; plain enough for JSON."""
    config = model.config
    return {
        "model": model_fingerprint(model),
        "image_size": config.image_size,
        "mean": list(config.image_mean),
        "std": list(config.image_std),
        "exif": bool(exif),
        "condition": "original" if condition is None else condition.key,
        "preprocessing": image.PREPROCESSING_VERSION,
        "schema": _SCHEMA_VERSION,
    }


# -- The store -------------------------------------------------------------------------------------------

_told = set()


def _tell(folder, problem, consequence="features are not kept for the next time"):
    """Warn of a cache that is not used; of the same problem once a process."""
    message = f"feature cache {folder}: {problem}; {consequence}"
    if message not in _told:
        _told.add(message)
        warn(message)


class _NoStore:
    """Keeps nothing."""

    def get(self, content):
        return None

    def put(self, contents, features):
        pass

    def close(self):
        pass


def _open_store(model, condition, exif, cache):
    if cache is False or cache is None:
        return _NoStore()
    if not isinstance(cache, (bool, str, os.PathLike)):
        raise TypeError(f"cache: expected True, False or the path of a folder, got {cache!r}")
    folder = _folder(cache)
    if sqlite3 is None:
        _tell(folder, "this Python has no module sqlite3")
        return _NoStore()
    try:
        described = _describe(model, condition, exif)
    except _NotKnown as error:
        _tell(folder, str(error))
        return _NoStore()
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
    # Not the model's name, for the same weights may have several.
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", described["condition"])[:40]
    return _Store(folder / f"{name}-{key[:16]}.features.sqlite", json.dumps(described), model.embed_dim)


class _Store:
    """Features in an SQLite file, by the SHA-256 of the content.

    Each method does without the file where that cannot be used, and tells why.
    """

    def __init__(self, path, description, embed_dim):
        self.path = path
        self.description = description
        self.dtype = np.dtype("<f4")
        self.n_bytes = embed_dim * self.dtype.itemsize
        self.connection = None
        self.writable = True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if not path.parent.is_dir():
                _tell(path.parent, f"the folder cannot be made: {error.strerror}")
                return
        self._guarded(self._open)

    def get(self, content):
        """Features of a content, float32 (D,), or None."""
        if self.connection is None:
            return None
        found = self._guarded(self._read, content)
        if not found:
            return None
        blob, checksum = found[0]
        # SQLite does not notice when a disk gives back something else.
        if not isinstance(blob, bytes) or len(blob) != self.n_bytes or zlib.crc32(blob) != checksum:
            return None
        return np.frombuffer(blob, self.dtype).astype(np.float32)

    def put(self, contents, features):
        """Store the features of a batch: all of it, or nothing."""
        if self.connection is None or not self.writable:
            return
        blobs = [row.astype(self.dtype).tobytes() for row in features]
        rows = [
            (bytes.fromhex(content), blob, zlib.crc32(blob)) for content, blob in zip(contents, blobs)
        ]
        self._guarded(self._write, rows)

    def close(self):
        if self.connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self.connection.close()
            self.connection = None

    def _open(self):
        # Without isolation level Python begins no transactions by itself.
        self.connection = sqlite3.connect(self.path, timeout=LOCK_TIMEOUT, isolation_level=None)
        with self._transaction("DEFERRED"):  # another process may be making the file
            kind = self._header()
        if kind == (0, 0, 0):  # a new file
            with self._transaction():
                # Another process may have been faster.
                if self._header() == (0, 0, 0):
                    self.connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                    self.connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
                    self.connection.execute("CREATE TABLE about (description TEXT NOT NULL)")
                    self.connection.execute("INSERT INTO about VALUES (?)", (self.description,))
                    self.connection.execute(
                        "CREATE TABLE features (content BLOB PRIMARY KEY NOT NULL, feature BLOB NOT NULL, "
                        "crc32 INTEGER NOT NULL)"
                    )
            kind = self._header()
        ours = kind[:2] == (_APPLICATION_ID, _SCHEMA_VERSION)
        if ours:
            described = self.connection.execute("SELECT description FROM about").fetchall()
            ours = described == [(self.description,)]
        if not ours:
            self.close()
            _tell(self.path.parent, f"{self.path.name} is a database of something else")

    def _header(self):
        def number(query):
            return self.connection.execute(query).fetchall()[0][0]

        return (
            number("PRAGMA application_id"),
            number("PRAGMA user_version"),
            number("SELECT count(*) FROM sqlite_master"),
        )

    def _read(self, content):
        # All rows are fetched, for a statement that is not at its end keeps others from writing.
        query = "SELECT feature, crc32 FROM features WHERE content = ?"
        return self.connection.execute(query, (bytes.fromhex(content),)).fetchall()

    def _write(self, rows):
        with self._transaction():
            self.connection.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", rows)

    @contextlib.contextmanager
    def _transaction(self, kind="IMMEDIATE"):
        # IMMEDIATE waits for its turn here; a transaction that begins to write later may have to be refused.
        self.connection.execute(f"BEGIN {kind}")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:  # Ctrl-C as well
            with contextlib.suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            raise

    def _guarded(self, action, *arguments):
        """The result of an action, or None if the file does not allow it."""
        try:
            return action(*arguments)
        except sqlite3.Error as error:
            # What is damaged, SQLITE_CORRUPT and SQLITE_NOTADB, has no class of its own.
            if type(error) is sqlite3.DatabaseError:
                self._put_aside(error)
            else:
                self._give_up(action, error)
        return None

    def _give_up(self, action, error):
        if action == self._write:
            # What is there can still be read.
            self.writable = False
        else:
            self.close()
        problem = str(error)
        if "locked" in problem:
            problem = f"another process has locked {self.path.name}"
        elif "readonly" in problem or "unable to open" in problem:
            problem = f"{self.path.name} cannot be written ({problem})"
        _tell(self.path.parent, problem)

    def _put_aside(self, error):
        """Rename a file that is no database any more, and begin a new one."""
        self.close()
        aside = self.path.with_name(f"{self.path.name}.damaged-{os.urandom(4).hex()}")
        try:
            os.replace(self.path, aside)
            # It belongs to the damaged file, and SQLite would apply it to the new one.
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}-journal", f"{aside}-journal")
        except OSError:
            _tell(self.path.parent, f"{self.path.name} is damaged ({error})")
            return
        _tell(
            self.path.parent,
            f"{self.path.name} is damaged ({error}), and was renamed {aside.name}",
            "a new one is begun",
        )
        try:
            self._open()
        except sqlite3.Error:
            self.close()
