"""Features kept on disk: equal to those computed, computed once, and never in the way of the work."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import warnings

import numpy as np
import pytest
import weights_builder
from command_line import picture
from PIL import Image
from threads_left import threads_of_clipc

import clipc
from clipc import feature_cache, image, weights
from clipc.errors import ClipcWarning, ImageError
from clipc.feature_cache import encode_files
from clipc.labelled_images import LabelledImages
from clipc.weights.layouts import file_stamp

# Which pictures share a batch decides how matrix products are rounded; features have lengths of 5 to 10.
ROUNDING = {"rtol": 0, "atol": 2e-4}


@pytest.fixture(scope="module")
def loaded():
    return clipc.load("tiny")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache folder, which is not there yet."""
    monkeypatch.setattr(feature_cache, "_told", set())
    monkeypatch.setenv("CLIPC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def model(loaded, monkeypatch):
    """The model, which notes in `batches` how many pictures it encodes together."""
    encode = loaded.encode_image
    batches = []

    def encode_image(pixels, **options):
        batches.append(len(pixels))
        return encode(pixels, **options)

    monkeypatch.setattr(loaded, "encode_image", encode_image)
    monkeypatch.setattr(loaded, "batches", batches, raising=False)
    return loaded


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """Twelve pictures of several sizes and formats."""
    folder, paths = tmp_path_factory.mktemp("made_once"), []
    for i in range(12):
        paths.append(folder / f"{i}.{('png', 'jpg', 'bmp')[i % 3]}")
        picture(i, (60 + 7 * i, 90 - 3 * i)).save(paths[-1])
    return paths


@pytest.fixture
def files(made_once, tmp_path):
    """Copies of these pictures."""
    (tmp_path / "pictures").mkdir()
    return [str(shutil.copy(path, tmp_path / "pictures")) for path in made_once]


def reference(model, images, **options):
    return type(model).encode_image(model, images, **options)


def store_file(cache):
    (path,) = cache.glob("*.sqlite")
    return path


def stored(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return dict(connection.execute("SELECT content, feature FROM features").fetchall())


class Change:
    """A condition made of a function."""

    def __init__(self, key, function):
        self.key = key
        self.apply = function


# --- what comes out ------------------------------------------------------------------------------------


def test_features_equal_those_of_the_model(model, files, cache):
    first = encode_files(model, files)
    assert first.features.dtype == np.float32
    np.testing.assert_array_equal(first.features, reference(model, files))
    assert first.kept.dtype == np.int64
    assert first.kept.tolist() == list(range(12))
    assert (first.unreadable, first.n_cached, model.batches) == ([], 0, [12])

    second = encode_files(model, files)
    np.testing.assert_array_equal(second.features, first.features)
    assert (second.n_cached, model.batches) == (12, [12])
    # What is on disk is what the model gives, by the SHA-256 of the file.
    rows = stored(store_file(cache))
    for path, row in zip(files, first.features, strict=True):
        with open(path, "rb") as file:
            key = hashlib.sha256(file.read()).digest()
        np.testing.assert_array_equal(np.frombuffer(rows[key], "<f4"), row)


def test_batches(model, files):
    features = encode_files(model, files, batch_size=5).features
    assert model.batches == [5, 5, 2]
    np.testing.assert_allclose(features, reference(model, files), **ROUNDING)
    more = encode_files(model, files[3:] + files[:3], batch_size=4, cache=False)
    assert more.n_cached == 0
    np.testing.assert_allclose(more.features[-3:], features[:3], **ROUNDING)
    for wrong in (0, -1, 2.5, "3"):
        with pytest.raises((TypeError, ValueError), match="batch_size"):
            encode_files(model, files, batch_size=wrong)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_number_of_threads_changes_nothing(loaded, files, bad, cache, monkeypatch, use_threads, threads):
    """Neither pixels nor which pictures share a batch, with some cached, unreadable or repeated."""
    batches = []

    def encode_image(pixels):
        batches.append(pixels.copy())
        return np.full((len(pixels), loaded.embed_dim), len(batches), np.float32)

    def encode(folder):
        batches[:] = []
        encode_files(loaded, files[:2], cache=cache / folder)
        with pytest.warns(ClipcWarning, match="4 of 22 images cannot be read"):
            encoded = encode_files(loaded, images, batch_size=4, cache=cache / folder, skip_unreadable=True)
        return encoded, batches[:]

    monkeypatch.setattr(loaded, "encode_image", encode_image)
    cut = next(iter(bad))
    copies = [shutil.copy(path, f"{path}.copy") for path in (files[1], files[4], cut)]
    images = [files[0], *files[:3], cut, *files[3:6], *copies, b"", *files[4:], copies[2], copies[0]]
    use_threads(1)
    expected, expected_pixels = encode("one")
    assert [len(pixels) for pixels in expected_pixels] == [2, 4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(expected_pixels), loaded.preprocess(files))
    assert expected.features[:, 0].tolist() == [1, 1, 1, *[2] * 4, 1, *[2] * 3, *[3] * 4, *[4] * 2, 1]
    assert expected.n_cached == 5

    use_threads(threads)
    found, pixels = encode("several")
    for one, other in zip(pixels, expected_pixels, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.features, expected.features)
    np.testing.assert_array_equal(found.kept, expected.kept)
    assert found[2:] == expected[2:]
    with pytest.raises(ImageError, match=r"^images\[4\] '.*cut.png': "):
        encode_files(loaded, images, batch_size=4, cache=False)
    assert threads_of_clipc() == []


def test_a_condition_that_fails(model, files, use_threads):
    """It is no unreadable picture."""
    def fail(square, content):
        raise ValueError("the condition")

    use_threads(4)
    with pytest.raises(ValueError, match="^the condition$"):
        encode_files(model, files, condition=Change("fail", fail), skip_unreadable=True)


def test_labelled_images(model, files):
    rows = [3, 1, 3, 0, 3]
    paths = [files[i] for i in rows]
    data = LabelledImages([f"picture {i}" for i in rows], paths, {"label": "abcde"}, "test")
    encoded = encode_files(model, data)
    assert model.batches == [3]  # each once
    expected = reference(model, [files[i] for i in (3, 1, 0)])
    np.testing.assert_array_equal(encoded.features, expected[[0, 1, 0, 2, 0]])
    assert encode_files(model, data).n_cached == 5


def test_one_image_and_every_kind(model, files):
    pixels = np.asarray(Image.open(files[0]))
    with open(files[0], "rb") as file:
        data = file.read()
    images = [files[0], data, pixels, Image.open(files[0])]
    expected = reference(model, files[0])
    for one in images:
        encoded = encode_files(model, one)
        assert encoded.features.shape == (1, model.embed_dim)
        np.testing.assert_array_equal(encoded.features, expected)
    together = encode_files(model, images)
    # A file and its content are the same; so are an array and a PIL image.
    assert model.batches == [1, 1]
    assert together.n_cached == 4
    np.testing.assert_array_equal(together.features, np.repeat(expected, 4, axis=0))


def test_arrays_of_the_same_bytes_and_another_shape_are_not_the_same(model):
    pixels = np.arange(48 * 32 * 3, dtype=np.uint32).astype(np.uint8)
    images = [pixels.reshape(48, 32, 3), pixels.reshape(32, 48, 3)]
    encoded = encode_files(model, images)
    np.testing.assert_array_equal(encoded.features, reference(model, images))
    assert not np.allclose(*encoded.features)
    # What is not RGB is known by what it becomes.
    grey = images[0][:, :, 0]
    encode_files(model, grey)
    assert encode_files(model, [np.repeat(grey[..., None], 3, axis=2)]).n_cached == 1


def test_preprocessed_arrays_and_features_pass(model, files, cache):
    pixels = model.preprocess(files)
    expected = reference(model, pixels)
    encoded = encode_files(model, pixels, batch_size=5)
    assert model.batches == [5, 5, 2]
    np.testing.assert_allclose(encoded.features, expected, **ROUNDING)
    assert encoded.kept.tolist() == list(range(12))
    passed = encode_files(model, expected)
    np.testing.assert_array_equal(passed.features, expected)
    assert encode_files(model, expected[0].astype(np.float64)).features.shape == (1, model.embed_dim)
    assert (passed.n_cached, passed.unreadable) == (0, [])
    assert not cache.exists()
    for wrong in (expected[:, :-1], expected[:0], np.float32(3), expected[None]):
        with pytest.raises(ValueError, match="images: expected features of shape"):
            encode_files(model, np.asarray(wrong))
    with pytest.raises(ValueError, match="finite"):
        encode_files(model, np.where(expected > 0, np.nan, expected))
    for array in (pixels, expected):
        with pytest.raises(ValueError, match="condition"):
            encode_files(model, array, condition=Change("x", lambda square, content: square))


def test_wrong_arguments(model, files):
    for empty in ([], (), LabelledImages([], [], {}, "test")):
        with pytest.raises(ValueError, match="the list is empty"):
            encode_files(model, empty)
    with pytest.raises(TypeError, match=r"images\[1\]: expected a path"):
        encode_files(model, [files[0], 3], skip_unreadable=True)
    with pytest.raises(ValueError, match=r"images\[0\]: expected shape"):
        encode_files(model, [np.zeros((3, 4, 5, 6), np.uint8)], skip_unreadable=True)
    for wrong in (3, 1.0, ["folder"]):
        with pytest.raises(TypeError, match="cache: expected True, False or the path"):
            encode_files(model, files, cache=wrong)


def test_where_features_are_kept(model, files, cache, tmp_path):
    encode_files(model, files, cache=False)
    assert not cache.exists()
    encode_files(model, files, cache=tmp_path / "elsewhere")
    assert encode_files(model, files, cache=str(tmp_path / "elsewhere")).n_cached == 12
    assert not cache.exists()
    encode_files(model, files)
    assert store_file(cache).name.startswith("original-")


# --- what features are known by ----------------------------------------------------------------------------


def test_content_counts_not_the_name(model, files, tmp_path):
    encode_files(model, files)
    moved = str(tmp_path / "moved")
    shutil.copy(files[2], moved)
    assert encode_files(model, [moved]).n_cached == 1
    # The same name, size and time, and another picture.
    status = os.stat(files[2])
    shutil.copy(files[5], files[2])
    os.utime(files[2], ns=(status.st_atime_ns, status.st_mtime_ns))
    encoded = encode_files(model, [files[2], files[5]])
    assert encoded.n_cached == 2
    np.testing.assert_array_equal(encoded.features[0], encoded.features[1])
    assert len(model.batches) == 1


def test_what_else_they_depend_on(loaded, files, cache, tmp_path, monkeypatch):
    def n_stores(model, **options):
        encoded = encode_files(model, files[:2], **options)
        assert encode_files(model, files[:2], **options).n_cached == 2
        return encoded.n_cached, len(list(cache.glob("*.sqlite")))

    assert n_stores(loaded) == (0, 1)
    assert n_stores(clipc.load("tiny")) == (2, 1)
    copy = tmp_path / "copy.safetensors"
    shutil.copy(weights.EMBEDDED_FILE, copy)
    assert n_stores(clipc.load(copy)) == (2, 1)  # the same weights under another name
    with open(copy, "r+b") as file:  # the lowest bit of a weight
        file.seek(-4, os.SEEK_END)
        byte = file.read(1)
        file.seek(-4, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    changed = clipc.load(copy)
    assert n_stores(changed) == (0, 2)
    assert n_stores(loaded, exif=True) == (0, 3)
    assert n_stores(loaded, condition=Change("mirror", lambda square, content: square[:, ::-1])) == (0, 4)
    assert n_stores(loaded, condition=Change("dark", lambda square, content: square // 2)) == (0, 5)
    activations = {"gelu", "quick_gelu"} - {loaded.config.activation}
    assert n_stores(clipc.load("tiny", activation=activations.pop())) == (0, 6)
    heads = (loaded.config.vision_heads // 2, loaded.config.text_heads)
    assert n_stores(clipc.load("tiny", heads=heads)) == (0, 7)
    with monkeypatch.context() as patch:
        patch.setattr(loaded, "dtype", "bfloat16")
        assert n_stores(loaded) == (0, 8)
    with monkeypatch.context() as patch:
        patch.setattr(image, "PREPROCESSING_VERSION", image.PREPROCESSING_VERSION + 1)
        assert n_stores(loaded) == (0, 9)
    assert n_stores(loaded) == (2, 9)


def test_weights_are_hashed_once_a_process(model, files, monkeypatch):
    monkeypatch.setattr(feature_cache, "_digests", {})
    encode_files(model, files[:1])
    monkeypatch.setattr(feature_cache, "open", None, raising=False)
    assert encode_files(model, files[:1]).n_cached == 1
    (stamp, digest), = feature_cache._digests.items()
    with open(weights.EMBEDDED_FILE, "rb") as file:
        assert digest == hashlib.sha256(file.read()).hexdigest()
    assert stamp == file_stamp(weights.EMBEDDED_FILE)


def test_model_in_several_files(tmp_path, files):
    arrays = weights_builder.random_arrays(weights_builder.vit_shapes())
    names = sorted(arrays)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        weights_builder.write_safetensors(tmp_path / file, {name: arrays[name] for name in part})
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = clipc.load(tmp_path / "model.safetensors.index.json")
    assert encode_files(loaded, files[:2]).n_cached == 0
    assert encode_files(loaded, files[:2]).n_cached == 2
    os.utime(tmp_path / "b.safetensors", ns=(1, 1))
    with pytest.warns(ClipcWarning, match="b.safetensors has changed since it was loaded"):
        assert encode_files(loaded, files[:2]).n_cached == 0


@pytest.mark.parametrize("what", ["changed", "gone"])
def test_weights_that_are_not_what_was_loaded(files, cache, tmp_path, what):
    path = tmp_path / "copy.safetensors"
    shutil.copy(weights.EMBEDDED_FILE, path)
    loaded = clipc.load(path)
    if what == "gone":
        path.unlink()
        message = "cannot be read any more: No such file"
    else:
        with open(path, "ab") as file:
            file.write(b"\0")
        message = "has changed since it was loaded"
    with pytest.warns(ClipcWarning, match=message) as told:
        encoded = encode_files(loaded, files)
        np.testing.assert_array_equal(encode_files(loaded, files).features, encoded.features)
    assert len(told) == 1
    np.testing.assert_array_equal(encoded.features, loaded.encode_image(files))
    assert not cache.exists()


# --- conditions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (97, 31), (31, 200), (640, 480)])
def test_a_change_that_changes_nothing_is_bit_exact(loaded, size):
    rgb = np.asarray(picture(7, size))
    config = loaded.config
    arguments = (rgb, config.image_size, config.image_mean, config.image_std)
    seen = []

    def look(square):
        seen.append(square)
        return square

    plain = image.preprocess(*arguments)
    np.testing.assert_array_equal(image.preprocess(*arguments, change=look), plain)
    # What is shown is the picture resized and cropped as Pillow does it.
    scale = config.image_size / min(size)
    sides = [max(config.image_size, int(side * scale)) for side in size]
    left, top = (round((side - config.image_size) / 2) for side in sides)
    box = (left, top, left + config.image_size, top + config.image_size)
    expected = np.asarray(Image.fromarray(rgb).resize(sides, Image.BICUBIC).crop(box))
    np.testing.assert_array_equal(seen[0], expected)


def test_a_change_must_give_a_picture(loaded):
    rgb = np.zeros((70, 80, 3), np.uint8)
    config = loaded.config
    for wrong in (lambda square: square.astype(float), lambda square: square[:-1], lambda square: None):
        with pytest.raises(ValueError, match=r"change: expected it to give uint8 of shape \(64, 64, 3\)"):
            image.preprocess(rgb, config.image_size, config.image_mean, config.image_std, change=wrong)
    with pytest.raises(ValueError, match="cannot be changed"):
        image.preprocess(
            np.zeros((1, 3, 64, 64), np.float32), 64, (0, 0, 0), (1, 1, 1), change=lambda square: square
        )


def test_condition(model, files):
    contents = []

    def invert(square, content):
        contents.append(content)
        assert square.shape == (64, 64, 3)
        return 255 - square

    encoded = encode_files(model, files, condition=Change("invert", invert))
    squares = [255 - clipc._core.resize_crop(image.to_rgb(path), 64) for path in files]
    np.testing.assert_array_equal(encoded.features, reference(model, squares))
    digests = []
    for path in files:
        with open(path, "rb") as file:
            digests.append(hashlib.sha256(file.read()).hexdigest())
    assert contents == digests
    assert encode_files(model, files, condition=Change("invert", None)).n_cached == 12
    same = encode_files(model, files, condition=Change("nothing", lambda square, content: square))
    np.testing.assert_array_equal(same.features, encode_files(model, files).features)


# --- unreadable pictures -----------------------------------------------------------------------------------


@pytest.fixture
def bad(tmp_path):
    """A damaged picture, an empty file, a file that is none, a folder, a missing file; and why each fails."""
    picture(1).save(tmp_path / "cut.png")
    os.truncate(tmp_path / "cut.png", os.path.getsize(tmp_path / "cut.png") // 2)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    Image.fromarray(np.zeros((4, 4), np.float32), "F").save(tmp_path / "float.tiff")
    reasons = {
        "cut.png": "", "empty.png": "0 bytes", "text.png": "begin with b'no picture'",
        "folder.png": "Is a directory", "missing.png": "No such file", "float.tiff": "mode F",
    }
    return {str(tmp_path / name): reason for name, reason in reasons.items()}


def test_the_first_unreadable_picture_stops(model, files, bad):
    for path, reason in bad.items():
        for images in ([*files[:3], path], LabelledImages(["x", "y"], [files[0], path], {}, "test"), path):
            with pytest.raises((OSError, ImageError, ValueError)) as raised:
                encode_files(model, images)
            message = str(raised.value)
            assert os.path.basename(path) in message
            assert reason in message
            assert "; skip_unreadable=True leaves out what cannot be read" in message
    with pytest.raises(FileNotFoundError) as raised:
        encode_files(model, list(bad)[-2:])
    assert raised.value.filename == list(bad)[-2]
    with pytest.raises(ImageError, match=r"images\[1\] '.*text.png': "):
        encode_files(model, [files[0], list(bad)[2]])
    with pytest.raises(ImageError, match=r"^images\[1\]: .*; skip_unreadable"):
        encode_files(model, [files[0], b"no picture"])


def test_missing_files_are_found_before_the_work(model, files, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.png"):
        encode_files(model, [*files, str(tmp_path / "none.png")], batch_size=1)
    assert model.batches == []
    with pytest.raises(ValueError, match="got a URL"):
        encode_files(model, ["https://example.org/a.png"])


def test_unreadable_pictures_are_left_out_when_asked(model, files, bad):
    asked = [*bad, next(iter(bad))]
    images = [x for pair in zip(files, bad) for x in pair] + files[6:] + asked[-1:]
    positions = [0, 2, 4, 6, 8, 10, 12, 13, 14, 15, 16, 17]
    for n_cached in (0, 12):
        with pytest.warns(ClipcWarning) as told:
            encoded = encode_files(model, images, skip_unreadable=True)
        assert len(told) == 1
        assert str(told[0].message).startswith("7 of 19 images cannot be read: ")
        assert str(told[0].message).endswith("; and 4 more; left out")
        assert encoded.kept.tolist() == positions
        np.testing.assert_array_equal(encoded.features, reference(model, files))
        assert [name for name, _ in encoded.unreadable] == asked
        for (name, reason), again in zip(encoded.unreadable, asked):
            assert bad[again] in reason
            assert name not in reason and reason
        assert encoded.unreadable[0][1] == encoded.unreadable[6][1]
        assert encoded.n_cached == n_cached


def test_names_of_unreadable_pictures(model, files, bad):
    missing = list(bad)[4]
    data = LabelledImages(["a", "b"], [files[0], missing], {}, "test")
    with pytest.warns(ClipcWarning, match="1 of 2 images cannot be read: b: No such file or directory; left"):
        encoded = encode_files(model, data, skip_unreadable=True)
    assert encoded.unreadable == [("b", "No such file or directory")]
    with pytest.warns(ClipcWarning):
        encoded = encode_files(model, [files[0], b"", b"abc"], skip_unreadable=True)
    assert [name for name, _ in encoded.unreadable] == ["images[1]", "images[2]"]


def test_all_unreadable(model, bad):
    with pytest.raises(ValueError, match="none of them can be read: .*cut.png: .*and 3 more"):
        encode_files(model, list(bad), skip_unreadable=True)


# --- progress ----------------------------------------------------------------------------------------------


def test_progress_counts_every_picture(model, files, bad, monkeypatch):
    counted = []

    class Bar:
        def update(self, n):
            counted.append(n)

    @contextlib.contextmanager
    def progress_bar(total, unit, wanted):
        counted[:] = []
        assert (unit, wanted) == ("image", True)
        yield Bar()
        assert sum(counted) == total

    monkeypatch.setattr(feature_cache, "progress_bar", progress_bar)
    encode_files(model, [*files[:7], *files[:3]], batch_size=3, progress=True)
    encode_files(model, [*files, *files], batch_size=4, progress=True)
    with pytest.warns(ClipcWarning):
        encode_files(model, [*files, *bad, *bad], skip_unreadable=True, progress=True)
    encode_files(model, model.preprocess(files), batch_size=5, progress=True)
    assert counted == [5, 5, 2]


# --- interrupted, and together ------------------------------------------------------------------------------

CHILD = """
import sys, time
import clipc
from clipc.feature_cache import encode_files

stop, folder, *files = sys.argv[1:]
model = clipc.load("tiny")
encode, n = model.encode_image, 0

def encode_image(pixels):
    global n
    if n == int(stop):
        print("here", flush=True)
        time.sleep(60)
    n += 1
    return encode(pixels)

model.encode_image = encode_image
encode_files(model, files, batch_size=2, cache=folder)
"""


KILLED = pytest.param(signal.SIGKILL, id="kill", marks=pytest.mark.full)


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, id="Ctrl-C"), KILLED])
def test_interrupted_work_goes_on(model, files, cache, tmp_path, how):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, "3", str(cache), *files], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert child.stdout.readline() == b"here\n", child.stderr.read()
        child.send_signal(how)
        _, errors = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert child.returncode != 0
    if how == signal.SIGINT:
        assert b"KeyboardInterrupt" in errors
    # Three batches of two were done, and are there.
    assert len(stored(store_file(cache))) == 6
    resumed = encode_files(model, files, batch_size=2, cache=cache)
    assert resumed.n_cached == 6
    assert model.batches == [2, 2, 2]
    whole = encode_files(model, files, batch_size=2, cache=tmp_path / "other")
    assert whole.n_cached == 0
    np.testing.assert_array_equal(resumed.features, whole.features)


def test_ctrl_c_while_a_batch_is_written(model, files, cache, monkeypatch):
    encode_files(model, files[:2])

    def interrupted(self, rows):
        with self._transaction():
            self.connection.execute("INSERT INTO features VALUES (?, ?, ?)", rows[0])
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(feature_cache._Store, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            encode_files(model, files)
    assert len(stored(store_file(cache))) == 2


def test_several_processes_at_once(loaded, files, cache):
    arguments = [sys.executable, "-W", "error", "-c", CHILD, "-1", str(cache), *files]
    children = [subprocess.Popen(arguments, stderr=subprocess.PIPE) for _ in range(3)]
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert (child.returncode, errors) == (0, b"")
    rows = stored(store_file(cache))
    assert len(rows) == 12
    encoded = encode_files(loaded, files, cache=cache)
    assert encoded.n_cached == 12
    np.testing.assert_allclose(encoded.features, loaded.encode_image(files), **ROUNDING)
    assert sorted(path.name for path in cache.iterdir()) == [store_file(cache).name]


# --- a cache that cannot be used ---------------------------------------------------------------------------


def without_cache(model, files, message, *, n_cached=0, **options):
    """Encode twice: with one warning, and the right features; returns the results of both."""
    with pytest.warns(ClipcWarning, match=message) as told:
        results = [encode_files(model, files, **options) for _ in range(2)]
    assert [str(warning.message) for warning in told if "feature cache" not in str(warning.message)] == []
    assert len(told) == 1
    for result in results:
        np.testing.assert_allclose(result.features, reference(model, files), **ROUNDING)
    assert results[0].n_cached == n_cached
    return results


def test_locked_by_another_process(model, files, cache, monkeypatch):
    monkeypatch.setattr(feature_cache, "LOCK_TIMEOUT", 0.05)
    encode_files(model, files[:4])
    with contextlib.closing(sqlite3.connect(store_file(cache), isolation_level=None)) as other:
        # Who writes does not keep others from reading.
        other.execute("BEGIN IMMEDIATE")
        results = without_cache(model, files, "another process has locked", n_cached=4)
        assert results[1].n_cached == 4
        other.execute("ROLLBACK")
        feature_cache._told.clear()
        other.execute("BEGIN EXCLUSIVE")
        without_cache(model, files, "another process has locked")
        other.execute("ROLLBACK")
    assert encode_files(model, files).n_cached == 4
    assert encode_files(model, files).n_cached == 12


def connecting_with(pragma):
    connect = sqlite3.connect

    def connect_with(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    return connect_with


def test_cache_that_can_only_be_read(model, files, cache, monkeypatch):
    # Root may write everywhere, so the refusal is staged: SQLite says what it says of a read-only file.
    encode_files(model, files[:4])
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connecting_with("query_only = 1"))
        results = without_cache(model, files, "cannot be written .*readonly", n_cached=4)
    assert results[1].n_cached == 4
    assert len(stored(store_file(cache))) == 4


def test_folder_that_cannot_be_made(model, files, tmp_path):
    (tmp_path / "file").write_text("mine")
    without_cache(model, files, "the folder cannot be made: Not a directory", cache=tmp_path / "file" / "x")
    without_cache(model, files, "the folder cannot be made: File exists", cache=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_full_disk(model, files, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connecting_with("max_page_count = 6"))
        results = without_cache(model, files, "full", batch_size=1)
    n_stored = results[1].n_cached
    assert 0 < n_stored < 12  # what had room stays
    assert len(stored(store_file(cache))) == n_stored
    assert encode_files(model, files).n_cached == n_stored
    assert encode_files(model, files).n_cached == 12


def test_full_disk_from_the_start(model, files, cache, monkeypatch):
    monkeypatch.setattr(sqlite3, "connect", connecting_with("max_page_count = 1"))
    without_cache(model, files, "full")


@pytest.mark.parametrize("damage", ["beginning", "pages", "text", "end"])
def test_damaged_cache_is_put_aside(model, files, cache, damage):
    encode_files(model, files)
    path = store_file(cache)
    n_bytes = path.stat().st_size
    if damage == "text":
        path.write_text("these are my notes\n")
    elif damage == "end":
        os.truncate(path, 4096)
    else:
        with open(path, "r+b") as file:
            file.seek(0 if damage == "beginning" else 4096)
            file.write(b"\xa5" * (100 if damage == "beginning" else n_bytes - 4096))
    before = path.read_bytes()
    (cache / "notes.txt").write_text("mine")
    with pytest.warns(ClipcWarning, match="is damaged .* was renamed .*; a new one is begun") as told:
        first = encode_files(model, files)
    assert len(told) == 1
    np.testing.assert_allclose(first.features, reference(model, files), **ROUNDING)
    assert first.n_cached < 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = encode_files(model, files)
    assert second.n_cached >= 12 - first.n_cached
    np.testing.assert_array_equal(second.features, first.features)
    (aside,) = cache.glob("*.damaged-*")
    assert aside.read_bytes() == before
    assert (cache / "notes.txt").read_text() == "mine"
    stored(path)


def test_a_flipped_bit_is_noticed_and_mended(model, files, cache):
    right = encode_files(model, files)
    path = store_file(cache)
    data = bytearray(path.read_bytes())
    at = data.index(right.features[5].astype("<f4").tobytes())
    data[at + 40] ^= 1
    path.write_bytes(data)
    mended = encode_files(model, files)
    assert mended.n_cached == 11
    np.testing.assert_allclose(mended.features, right.features, **ROUNDING)
    assert encode_files(model, files).n_cached == 12


@pytest.mark.parametrize("difference", ["application_id", "user_version", "description", "tables"])
def test_database_of_something_else_is_not_touched(model, files, cache, difference):
    encode_files(model, files)
    path = store_file(cache)
    if difference == "tables":
        path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        if difference == "description":
            connection.execute("UPDATE about SET description = 'of another model'")
        elif difference == "tables":
            connection.execute("CREATE TABLE mine (x)")
        else:
            connection.execute(f"PRAGMA {difference} = 77")
    before = path.read_bytes()
    without_cache(model, files, "is a database of something else")
    assert path.read_bytes() == before


def test_missing_table(model, files, cache):
    encode_files(model, files)
    with contextlib.closing(sqlite3.connect(store_file(cache))) as connection, connection:
        connection.execute("DROP TABLE features")
    without_cache(model, files, "no such table")


def test_python_without_sqlite(model, files, cache, monkeypatch):
    monkeypatch.setattr(feature_cache, "sqlite3", None)
    without_cache(model, files, "no module sqlite3")
    assert not cache.exists()


# --- clearing ----------------------------------------------------------------------------------------------


def test_size_and_clear(model, files, cache, tmp_path):
    assert feature_cache.size() == feature_cache.clear() == 0
    encode_files(model, files)
    encode_files(model, files, exif=True)
    encode_files(model, files, cache=tmp_path / "other")
    (first, second) = sorted(cache.glob("*.sqlite"))
    damaged = first.with_name(first.name + ".damaged-0123abcd")
    damaged.write_bytes(b"x" * 10)
    others = [
        cache / name for name in ("notes.txt", "mine.sqlite", "mine.features.sqlite", f"{first.name}.bak")
    ]
    for other in others:
        other.write_text("mine")
    n_bytes = first.stat().st_size + second.stat().st_size + 10
    assert feature_cache.size() == n_bytes
    assert feature_cache.clear() == n_bytes
    assert feature_cache.size() == 0
    assert sorted(cache.iterdir()) == sorted(others)
    assert feature_cache.size(tmp_path / "other") > 0
    assert feature_cache.clear(str(tmp_path / "other")) > 0
    assert encode_files(model, files).n_cached == 0


# --- the version of the preprocessing -----------------------------------------------------------------------


def test_version_stands_for_the_pixels():
    """Other pixels than these need another version: features of the old ones are not theirs."""
    y, x = np.mgrid[:90, :120]
    rgb = np.stack([x * 2, y * 2, (x * y) % 256], axis=2).astype(np.uint8)
    square = clipc._core.resize_crop(rgb, 64)
    expected = Image.fromarray(rgb).resize((85, 64), Image.BICUBIC).crop((10, 0, 74, 64))
    np.testing.assert_array_equal(square, np.asarray(expected))
    digest = hashlib.sha256(square).hexdigest()
    assert (image.PREPROCESSING_VERSION, digest[:16]) == (1, "d6a97868f6c0ce20")
