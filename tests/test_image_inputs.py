"""Images of every accepted kind, and clear refusals of everything else."""

import io
import os
import pathlib
import subprocess
import sys
import threading
import warnings

import image_files
import numpy as np
import pytest
from image_files import encode, pillow_rgb, smooth_picture
from PIL import Image, ImageOps, UnidentifiedImageError
from threads_left import threads_of_clipc

import clipc.image
from clipc import _core
from clipc.errors import ClipcWarning, ImageError
from clipc.image import is_batch, preprocess, to_rgb

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
PICTURE = smooth_picture(40, 50)


def prepare(images, size=16, **options):
    return preprocess(images, size, MEAN, STD, **options)


@pytest.fixture
def png_file(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encode(PICTURE, "PNG"))
    return path


@pytest.fixture
def fresh_orientation_warning(monkeypatch):
    monkeypatch.setattr(clipc.image, "_orientation_warning_given", False)


# ---- kinds ----


def test_files_and_their_content(png_file):
    data = png_file.read_bytes()
    for image in (png_file, str(png_file), data, bytearray(data), memoryview(data), Image.open(png_file)):
        rgb = to_rgb(image)
        assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous
        assert np.array_equal(rgb, PICTURE)


def test_arrays():
    assert to_rgb(PICTURE) is PICTURE
    rgba = np.dstack([PICTURE, np.zeros((40, 50), np.uint8)])
    assert np.array_equal(to_rgb(rgba), PICTURE)
    grey = PICTURE[:, :, 0]
    for array in (grey, grey[:, :, None]):
        assert np.array_equal(to_rgb(array), np.dstack([grey] * 3))
    assert np.array_equal(to_rgb(PICTURE[::-1, ::2]), PICTURE[::-1, ::2])
    assert to_rgb(PICTURE[::-1, ::2]).flags.c_contiguous


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LA", "PA", "RGBX", "LAB"]
)
def test_pil_modes_convert_as_pillow_does(mode):
    image = Image.fromarray(PICTURE)
    if mode == "PA":
        image = image.convert("P").convert("PA")
    elif mode == "LAB":
        image = Image.merge("LAB", image.split())
    else:
        image = image.convert(mode)
    assert np.array_equal(to_rgb(image), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_pil_modes_with_multiplied_alpha(mode):
    image = Image.fromarray(np.dstack([PICTURE, np.full((40, 50), 255, np.uint8)])).convert(mode[:-1] + "A")
    assert np.array_equal(to_rgb(image.convert(mode)), to_rgb(image))


def test_16_bits_by_the_high_byte():
    values = np.random.default_rng(0).integers(0, 65536, (6, 7), dtype=np.uint16)
    expected = np.dstack([(values >> 8).astype(np.uint8)] * 3)
    for image in (
        Image.fromarray(values),
        Image.fromarray(values.astype(np.int32)),
        Image.fromarray(values.astype(">u2")),
    ):
        assert np.array_equal(to_rgb(image), expected), image.mode
    for format in ("PNG", "TIFF"):
        assert np.array_equal(to_rgb(encode(Image.fromarray(values), format)), expected)
    with pytest.raises(ValueError, match="mode I .32 bits. with values from 0 to 70000"):
        to_rgb(Image.fromarray(np.array([[0, 70000]], np.int32)))
    with pytest.raises(ValueError, match="mode F"):
        to_rgb(Image.new("F", (3, 3)))


@pytest.mark.parametrize("format", ["BMP", "GIF", "TIFF", "PPM", "WEBP", "TGA", "PCX", "JPEG2000", "ICO"])
def test_other_formats_go_through_pillow(format):
    data = encode(PICTURE, format)
    assert np.array_equal(to_rgb(data), pillow_rgb(data))


def test_first_frame_of_an_animation():
    frames = [Image.fromarray(smooth_picture(20, 20, seed=n)) for n in range(3)]
    for format in ("GIF", "WEBP", "PNG"):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:])
        assert np.array_equal(to_rgb(data), pillow_rgb(data))


def test_cmyk_jpeg_as_pillow_does():
    data = encode(Image.fromarray(PICTURE).convert("CMYK"), "JPEG")
    assert np.array_equal(to_rgb(data), pillow_rgb(data))


# ---- batches ----


def test_is_batch():
    assert is_batch([PICTURE]) and is_batch((PICTURE,)) and is_batch([])
    assert is_batch(np.zeros((2, 3, 8, 8), np.float32))
    for image in (
        PICTURE,
        "a.jpg",
        b"",
        pathlib.Path("a"),
        Image.new("L", (2, 2)),
        np.zeros((2, 8, 8, 3), np.uint8),
    ):
        assert not is_batch(image)


def test_preprocess_one_and_many(png_file):
    one = prepare(PICTURE)
    assert one.shape == (1, 3, 16, 16) and one.dtype == np.float32
    assert np.array_equal(one[0], _core.preprocess(PICTURE, 16, MEAN, STD))
    many = prepare([PICTURE, str(png_file), Image.fromarray(PICTURE), PICTURE[:, ::-1]])
    assert many.shape == (4, 3, 16, 16)
    assert all(np.array_equal(image, one[0]) for image in many[:3])
    assert not np.array_equal(many[3], one[0])
    assert np.array_equal(prepare((PICTURE,)), one)


def test_preprocessed_arrays_pass_through():
    array = prepare([PICTURE, PICTURE])
    assert prepare(array) is array
    assert np.array_equal(prepare(array[::-1]), array[::-1])
    assert prepare(array[:, :, ::-1]).flags.c_contiguous
    swapped = array.astype(array.dtype.newbyteorder())
    assert prepare(swapped).dtype.isnative and np.array_equal(prepare(swapped), array)


@pytest.mark.parametrize(
    "array, error, words",
    [
        (np.zeros((1, 3, 16, 16)), TypeError, "expected float32 .* got float64"),
        (
            np.zeros((1, 3, 16, 17), np.float32),
            ValueError,
            r"expected shape \(N, 3, 16, 16\).* got \(1, 3, 16, 17\)",
        ),
        (np.zeros((0, 3, 16, 16), np.float32), ValueError, "N at least 1"),
        (np.zeros((1, 16, 16, 3), np.float32), ValueError, "expected shape"),
        (np.full((2, 3, 16, 16), np.nan, np.float32), ValueError, r"NaN or infinity in images \[0, 1\]"),
        (np.full((1, 3, 16, 16), np.inf, np.float32), ValueError, "NaN or infinity"),
    ],
)
def test_wrong_preprocessed_arrays(array, error, words):
    with pytest.raises(error, match=words):
        prepare(array)


# ---- refusals ----


@pytest.mark.parametrize(
    "image, error, words",
    [
        (None, TypeError, "image: expected a path, bytes, .* got NoneType"),
        (3, TypeError, "got int"),
        ({"a": 1}, TypeError, "got dict; make a list of it"),
        ((n for n in "ab"), TypeError, "got generator; make a list of it"),
        (np.float32(3), TypeError, "got float32"),
        (
            np.zeros((4, 4, 3)),
            TypeError,
            r"expected an array of dtype uint8, got float64; use \(array \* 255\)",
        ),
        (np.full((4, 4, 3), np.nan, np.float32), TypeError, "got float32; use"),
        (np.zeros((4, 4, 3), bool), TypeError, r"got bool; use array.astype\(numpy.uint8\) \* 255"),
        (np.zeros((4, 4, 3), np.uint16), TypeError, r"got uint16; use \(array >> 8\)"),
        (np.zeros((4, 4, 3), np.int64), TypeError, "got int64; use array.astype"),
        (np.array(["a.jpg"]), TypeError, "use array.tolist"),
        (np.zeros((4,), np.uint8), ValueError, r"expected shape .* got \(4,\)"),
        (np.zeros((4, 4, 2), np.uint8), ValueError, r"got \(4, 4, 2\); drop the alpha channel"),
        (np.zeros((3, 4, 5), np.uint8), ValueError, r"transpose\(1, 2, 0\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), ValueError, r"list\(array\)"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, "at least one pixel"),
        (np.zeros((4, 0), np.uint8), ValueError, "at least one pixel"),
        (Image.new("RGB", (0, 5)), ValueError, "at least one pixel"),
        (b"", ImageError, "image: expected the content of an image file, got 0 bytes"),
        (b"some text", ImageError, "begin with b'some text'"),
        ("", FileNotFoundError, None),
        ("missing.jpg", FileNotFoundError, "missing.jpg"),
        ("https://example.org/cat.jpg", ValueError, "'https://example.org/cat.jpg': .* does not download"),
        (encode(PICTURE, "PNG")[:-30], ImageError, "image: the PNG ends early"),
        (encode(PICTURE, "JPEG")[:-30], ImageError, "image: the JPEG ends early"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", ImageError, "PostScript"),
    ],
)
def test_wrong_images(image, error, words):
    with pytest.raises(error, match=words):
        to_rgb(image)


@pytest.mark.parametrize("format", ["BMP", "TIFF", "PPM", "WEBP", "JPEG2000"])
def test_truncated_files_of_other_formats(format):
    data = encode(PICTURE[:, :48], format)  # rows of BMP end without padding
    for end in (len(data) // 3, len(data) // 2, len(data) - 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about a short TIFF before it raises
            with pytest.raises(ImageError, match="image: "):
                to_rgb(data[:end])


def test_truncated_cmyk_jpeg():
    data = encode(Image.fromarray(PICTURE).convert("CMYK"), "JPEG")
    for end in range(3, len(data), 97):
        with pytest.raises(ImageError):
            to_rgb(data[:end])


def test_messages_name_file_and_position(tmp_path, png_file):
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    empty = tmp_path / "empty.png"
    empty.touch()
    for path, words in ((text, "begin with b'no picture'"), (empty, "0 bytes")):
        with pytest.raises(ImageError, match=words) as caught:
            to_rgb(path)
        assert str(path) in str(caught.value)
        with pytest.raises(ImageError, match=r"images\[1\] ") as caught:
            prepare([png_file, path])
        assert str(path) in str(caught.value)
    with pytest.raises(IsADirectoryError, match="pass the files in it as a list") as caught:
        to_rgb(tmp_path)
    assert caught.value.filename == str(tmp_path)
    with pytest.raises(TypeError, match=r"images\[2\]: expected .* got float"):
        prepare([PICTURE, png_file, 1.5])
    with pytest.raises(TypeError, match=r"images\[0\]: .* cannot be nested"):
        prepare([[PICTURE]])
    with pytest.raises(ValueError, match="got an empty list"):
        prepare([])


def test_wrong_sizes_and_constants():
    for size in (0, -1, 20000):
        with pytest.raises(ValueError, match="size: expected 1 to 16384"):
            preprocess(PICTURE, size, MEAN, STD)
    with pytest.raises(TypeError):
        preprocess(PICTURE, 16.0, MEAN, STD)
    with pytest.raises(ValueError, match="mean: expected three numbers, got 2"):
        preprocess(PICTURE, 16, (0, 0), STD)
    with pytest.raises(TypeError, match="std: expected three numbers"):
        preprocess(PICTURE, 16, MEAN, 1.0)


# ---- limit ----


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "PIL"])
def test_limit_on_pixels(monkeypatch, format):
    image = Image.fromarray(PICTURE) if format == "PIL" else encode(PICTURE, format)
    monkeypatch.setenv("CLIPC_MAX_IMAGE_PIXELS", "2000")
    assert to_rgb(image).shape == (40, 50, 3)
    monkeypatch.setenv("CLIPC_MAX_IMAGE_PIXELS", "1999")
    with pytest.raises(
        ImageError, match="50 x 40 = 2000 pixels, more than the limit of 1999 .*CLIPC_MAX_IMAGE_PIXELS"
    ):
        to_rgb(image)
    monkeypatch.setenv("CLIPC_MAX_IMAGE_PIXELS", "")
    assert to_rgb(image).shape == (40, 50, 3)


@pytest.mark.parametrize("value", ["0", "-5", "many", "1e9", "1.5"])
def test_wrong_limit(monkeypatch, value):
    monkeypatch.setenv("CLIPC_MAX_IMAGE_PIXELS", value)
    with pytest.raises(ValueError, match=f"CLIPC_MAX_IMAGE_PIXELS: expected .* got '{value}'"):
        to_rgb(encode(PICTURE, "PNG"))


def test_pillows_own_limit_is_an_image_error(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="CLIPC_MAX_IMAGE_PIXELS"):
        to_rgb(encode(PICTURE, "BMP"))


# ---- orientation ----


def with_orientation(format, orientation, picture=PICTURE):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.fromarray(picture), format, exif=exif)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(format, orientation, fresh_orientation_warning):
    data = with_orientation(format, orientation)
    stored = to_rgb(encode(PICTURE, format))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    upright = to_rgb(data, exif=True)
    assert upright.flags.c_contiguous and upright.shape == expected.shape
    assert np.abs(upright.astype(int) - expected).max() <= 8  # JPEG decoders differ by a few levels
    assert np.array_equal(to_rgb(Image.open(io.BytesIO(data)), exif=True), expected)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert np.array_equal(to_rgb(data), stored)
        assert np.array_equal(to_rgb(data), stored)
    messages = [str(w.message) for w in caught if w.category is ClipcWarning]
    assert len(messages) == (1 if orientation != 1 else 0)
    assert all(f"orientation is {orientation}" in message and "exif=True" in message for message in messages)
    assert all(warning.filename == __file__ for warning in caught)  # the line to change, not one of clipc's


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_orientation_without_meaning_is_ignored(orientation, fresh_orientation_warning):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_rgb(with_orientation("JPEG", orientation), exif=True).shape == PICTURE.shape
        assert to_rgb(with_orientation("JPEG", orientation)).shape == PICTURE.shape


def test_broken_exif_does_not_keep_the_picture_back():
    data = bytearray(with_orientation("JPEG", 6))
    begin = data.index(b"Exif\0\0") + 6
    data[begin : begin + 8] = b"XXXXXXXX"
    assert to_rgb(bytes(data), exif=True).shape == PICTURE.shape


def test_preprocess_with_exif():
    data = with_orientation("PNG", 6)
    assert np.array_equal(prepare(data, exif=True)[0], prepare(np.rot90(PICTURE, -1))[0])


# ---- several at the same time ----


def of_every_kind(folder):
    """Images of all kinds, each another."""
    images = []
    for n, format in enumerate(("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "JPEG", "PNG") * 2):
        data = encode(smooth_picture(60 + 7 * n, 90 - 3 * n, seed=n), format)
        path = folder / f"{n}.{format.lower()}"
        path.write_bytes(data)
        picture = smooth_picture(20 + n, 33, seed=n)
        opened = Image.open(io.BytesIO(data))
        images += [path, str(path), data, bytearray(data), opened, picture, picture[:, ::-1]]
    return images


def test_number_of_threads_changes_nothing(tmp_path, use_threads):
    expected = np.concatenate([prepare(image) for image in of_every_kind(tmp_path)])
    for threads in (1, 2, 3, 8):
        use_threads(threads)
        assert np.array_equal(prepare(of_every_kind(tmp_path)), expected)
        assert threads_of_clipc() == []


def test_changes_in_order_and_in_the_callers_thread(use_threads):
    use_threads(4)
    pictures = [smooth_picture(30 + 5 * (n % 3), 40, seed=n) for n in range(20)]
    seen = []

    def change(square):
        seen.append((square, threading.current_thread()))
        return 255 - square

    prepared = prepare(pictures, change=change)
    squares = [_core.resize_crop(picture, 16) for picture in pictures]
    assert all(np.array_equal(one, other) for (one, _), other in zip(seen, squares, strict=True))
    assert {thread for _, thread in seen} == {threading.main_thread()}
    assert np.array_equal(prepared, prepare([255 - square for square in squares]))


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_the_first_unreadable_image_is_named(use_threads, threads, tmp_path):
    """Not the one that is found out first."""
    use_threads(threads)
    slow = bytearray(encode(smooth_picture(400, 500), "PNG"))
    slow[-20] ^= 1  # in the last of its pixels
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    images = [PICTURE] * 3 + [bytes(slow), b"", 3.5, "missing.jpg", tmp_path / "broken.jpg"] * 3
    for _ in range(5):
        for begin, error, words in (
            (0, ImageError, r"^images\[3\]: the PNG"),
            (4, ImageError, r"^images\[0\]: .* 0 bytes"),
            (5, TypeError, r"^images\[0\]: expected a path, .* got float"),
            (6, FileNotFoundError, "missing.jpg"),
            (7, ImageError, r"^images\[0\] '.*broken.jpg': "),
        ):
            with pytest.raises(error, match=words):
                prepare(images[begin:])
            assert threads_of_clipc() == []


@pytest.mark.parametrize("threads", [1, 8])
def test_orientation_warning_of_a_list(use_threads, threads, fresh_orientation_warning):
    use_threads(threads)
    slow = with_orientation("PNG", 3, smooth_picture(1200, 1500))
    quick = with_orientation("JPEG", 6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare([PICTURE, slow, *[quick] * 20])
    assert [str(w.message)[:9] for w in caught] == ["images[1]"]
    assert "orientation is 3" in str(caught[0].message) and caught[0].category is ClipcWarning
    assert caught[0].filename == __file__


def test_orientation_warning_as_an_error(use_threads, fresh_orientation_warning):
    use_threads(8)
    images = [PICTURE, with_orientation("JPEG", 6), b"damaged", with_orientation("JPEG", 3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ClipcWarning, match=r"^images\[1\]: its Exif orientation is 6"):
            prepare(images)
        with pytest.raises(ImageError, match=r"^images\[2\]: "):  # it has been said
            prepare(images)


def test_no_warning_of_images_behind_an_error(use_threads, fresh_orientation_warning):
    use_threads(8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=r"^images\[1\]: "):
            prepare([PICTURE, b"", *[with_orientation("JPEG", 6)] * 7])


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_pil_images_that_share_a_file_or_are_one(use_threads, tmp_path, format):
    """They load their pixels, and read Exif, when they are used."""
    use_threads(8)
    picture = smooth_picture(200, 300)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "picture").write_bytes(encode(picture, format, exif=exif))
    expected = prepare(tmp_path / "picture", exif=True)
    for _ in range(5):
        with open(tmp_path / "picture", "rb") as file:
            images = [Image.open(file) for _ in range(8)]
            images += images[:1] * 8
            prepared = prepare(images, exif=True)
        # Of the pixels of a JPEG decoders may disagree a little.
        assert np.abs(prepared - expected).max() < (0.2 if format == "JPEG" else 1e-6)
        assert np.array_equal(prepared, np.repeat(prepared[:1], 16, axis=0))


def test_pillow_is_loaded_by_several_threads(tmp_path):
    """Formats that Pillow has to find its plugins for, in a process that has not loaded Pillow."""
    names = []
    for n in range(24):
        names.append(str(tmp_path / f"{n}.{('webp', 'tiff', 'jp2', 'png')[n % 4]}"))
        Image.fromarray(PICTURE).save(names[-1], **({"lossless": True} if n % 4 == 0 else {}))
    program = (
        "import sys, numpy, clipc.image\n"
        "clipc.set_num_threads(8)\n"
        "assert 'PIL' not in sys.modules\n"
        "pixels = clipc.image.preprocess(sys.argv[1:], 16, (0, 0, 0), (1, 1, 1))\n"
        "assert (abs(pixels - pixels[3]) < 0.02).all()\n"
    )
    for _ in range(3):
        subprocess.run([sys.executable, "-c", program, *names], check=True, env=os.environ)


def test_plugins_that_another_thread_was_loading(monkeypatch):
    """Pillow does not try its plugins again that were loaded after it had begun to look."""
    data, opened = encode(PICTURE, "TIFF"), Image.open

    def not_yet(*arguments):
        monkeypatch.setattr(Image, "open", opened)
        raise UnidentifiedImageError

    monkeypatch.setattr(Image, "open", not_yet)
    assert np.array_equal(to_rgb(data), PICTURE)


# ---- imports ----


def test_pillow_is_imported_only_when_needed(png_file):
    program = (
        "import sys, clipc.image, numpy\n"
        "clipc.image.to_rgb(sys.argv[1])\n"
        "clipc.image.preprocess(numpy.zeros((5, 5, 3), numpy.uint8), 4, (0, 0, 0), (1, 1, 1))\n"
        "assert 'PIL' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(png_file)], check=True, env=os.environ)


def test_generated_files_are_what_they_claim():
    """The oracle of the PNG tests reads what the generator meant."""
    samples = np.random.default_rng(3).integers(0, 256, (9, 11, 3))
    for interlaced in (False, True):
        data = image_files.png(samples, 2, 8, interlaced=interlaced)
        assert np.array_equal(pillow_rgb(data), samples)
