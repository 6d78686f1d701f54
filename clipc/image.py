"""Images of every accepted kind to 8-bit RGB, and RGB to the input of the image encoder.

JPEG and PNG files are decoded by the C core. Other formats, and the JPEG variants that the core leaves
alone (CMYK, arithmetic coding and the like), go through Pillow, which is imported when it is needed.

Whatever comes in becomes 8-bit RGB *before* it is resized: grey is replicated, alpha is dropped (not
blended), palettes are expanded, of 16 bits the high byte is taken, CMYK is converted as Pillow does. The
original CLIP code converts after resizing, which differs for palette images and images with alpha only.
"""

import contextlib
import errno
import io
import operator
import os
import re
import sys
import threading
from typing import NamedTuple

import numpy as np

from . import _core, parallel
from .errors import ImageError, warn
from .progress import progress_bar

MAX_PIXELS_VARIABLE = "CLIPC_MAX_IMAGE_PIXELS"
DEFAULT_MAX_PIXELS = 178_956_970  # where Pillow, too, refuses an image as a decompression bomb

# Files that are taken for images where a folder is named.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

# Raised by whoever changes which pixels `preprocess` makes of a file, so that features which are kept on disk
# (`clipc.feature_cache`) are not taken for those of the new pixels.
PREPROCESSING_VERSION = 1

# How an image that is no square becomes one; see `view`.
FITS = ("crop", "squash", "pad")

_EXIF_ORIENTATION = 0x0112
_KINDS = "a path, bytes, a uint8 array (H, W, 3), (H, W) or (H, W, 4), or a PIL image"

# Exif orientation -> the pixels as they should be seen. 1 means "as stored".
_UPRIGHT = {
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.transpose(1, 0, 2),
    6: lambda rgb: np.rot90(rgb, -1),
    7: lambda rgb: np.rot90(rgb, 2).transpose(1, 0, 2),
    8: lambda rgb: np.rot90(rgb, 1),
}

_orientation_warning_given = False


def to_rgb(image, *, exif=False, index=None, label=None):
    """The pixels of one image as 8-bit RGB.

    Parameters
    ----------
    image : str, os.PathLike, bytes, bytearray, memoryview, numpy.ndarray or PIL.Image.Image
        A path to an image file, the content of one, an array of dtype uint8 and shape (H, W, 3), (H, W, 4),
        (H, W, 1) or (H, W), or a PIL image of any mode but ``F``.
    exif : bool
        Rotate and mirror the picture as its Exif orientation says. Without it an orientation that matters is
        ignored, as the original CLIP code does, with one `ClipcWarning` per process. TIFF files are always
        turned upright, by Pillow.
    index : int, optional
        Position of the image in a list that the caller knows, for messages.
    label : str, optional
        How messages call the image; default `label_of`.

    Returns
    -------
    numpy.ndarray
        uint8, shape (H, W, 3), C-contiguous. An array that is already so is returned itself, not a copy.

    Raises
    ------
    TypeError
        For another kind of object, or an array of another dtype.
    ValueError
        For an array of another shape, without pixels, or a URL.
    OSError
        When a file cannot be read.
    ImageError
        When the bytes are not a complete, undamaged image, or an image of more pixels than the environment
        variable ``CLIPC_MAX_IMAGE_PIXELS`` allows (default 178,956,970).
    """
    label = label or label_of(image, index)
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image, label)
    if isinstance(image, (str, os.PathLike)):
        return _file_to_rgb(read_file(image, label), exif, label)
    if isinstance(image, (bytes, bytearray, memoryview)):
        # A copy of what can change, because the core looks at the bytes more than once without the GIL.
        return _file_to_rgb(image if isinstance(image, bytes) else bytes(image), exif, label)
    if is_pil(image):
        return _pil_to_rgb(image, exif, label)
    hint = ""
    if isinstance(image, (list, tuple)):
        hint = "; lists of images cannot be nested" if index is not None else "; one image, not a list"
    elif hasattr(image, "__array__"):
        hint = "; convert it with numpy.asarray"
    elif hasattr(image, "__iter__"):
        hint = "; make a list of it"
    raise TypeError(f"{label}: expected {_KINDS}, got {type(image).__name__}{hint}")


def is_batch(images):
    """Whether `images` is several images: a list, a tuple, or a preprocessed array (N, 3, R, R)."""
    return isinstance(images, (list, tuple)) or is_preprocessed(images)


def each_image(images, function, progress):
    """``function(image, index, progress)`` of one image (index None), or the list of them for several.

    Parameters
    ----------
    images : image, list of images, or preprocessed array (N, 3, R, R)
    function : callable
        Its `progress` says whether to show a bar of its own, which a single image may have.
    progress : bool
        Show a bar that counts the images.
    """
    if not is_batch(images):
        return function(images, None, progress)
    if not len(images):
        raise ValueError("image: the list is empty; expected at least one image")
    results = []
    with progress_bar(len(images), "image", progress) as bar:
        for index, image in enumerate(images):
            results.append(function(image, index, False))
            bar.update(1)
    return results


def preprocess(images, size, mean, std, *, exif=False, first_index=0, change=None):
    """The input of CLIP's image encoder.

    The shorter side is resized to `size` (antialiased bicubic, equal to Pillow's), the centred square is cut
    out, and each channel becomes ``(pixel / 255 - mean) / std`` in float32, as torchvision computes it.

    Parameters
    ----------
    images : image, or list or tuple of images
        Kinds as for `to_rgb`. Or a float32 array (N, 3, R, R) with R = `size`, which is taken as already
        preprocessed.
    size : int
        R, pixels, from 1 to 16384.
    mean, std : sequence of 3 floats
        In units of the pixel range 0 to 1.
    exif : bool
        As for `to_rgb`.
    first_index : int
        Position of the first image in the list that the caller knows, for messages.
    change : callable, optional
        What is done to each picture after it is resized and cropped, and before it is normalised: a function
        from uint8 (R, R, 3) to the same. Not for an array that is preprocessed already.

    Returns
    -------
    numpy.ndarray
        float32, shape (N, 3, R, R); N = 1 for a single image. A preprocessed array that is C-contiguous is
        returned itself.

    Raises
    ------
    TypeError, ValueError, OSError, ImageError
        As `to_rgb`; the message names the position in the list. ValueError also for an empty list, and for
        a preprocessed array of another shape or with values that are not finite.
    """
    size = operator.index(size)
    _core.crop_geometry(1, 1, size)  # refuses a size out of range
    if is_preprocessed(images):
        if change is not None:
            raise ValueError("images: an array that is preprocessed cannot be changed; pass the images")
        return check_preprocessed(images, size)
    single = not isinstance(images, (list, tuple))
    if not single and not images:
        raise ValueError(f"images: expected at least one image, got an empty {type(images).__name__}")
    items = [images] if single else images
    labels = [label_of(item, None if single else n) for n, item in enumerate(items, first_index)]
    changes = None if change is None else [change] * len(items)
    result, outcomes = preprocess_each(
        items, labels, size, mean, std, exif=exif, changes=changes, until_error=True
    )
    for outcome in outcomes:
        outcome.get()
    return result


def preprocess_each(
    items, labels, size, mean, std, *, exif=False, changes=None, out=None, until_error=False
):
    """What `preprocess` makes of several images, and for each whether it succeeded.

    Images are read, decoded and resized in as many threads as `clipc.get_num_threads` says; each holds the
    file and the pixels of one image.

    Parameters
    ----------
    items : sequence of images
        Kinds as for `to_rgb`.
    labels : sequence of str
        How messages call them.
    size, mean, std, exif
        As for `preprocess`.
    changes : sequence of callables, optional
        The `change` of each image; they are called in the caller's thread, by ``get()`` of the outcome.
    out : float32 array (N, 3, R, R), optional
        Where the result goes.
    until_error : bool
        Begin with no further image when one has failed.

    Returns
    -------
    pixels : float32 array (N, 3, R, R)
        `out`, or a new array. Rows of images that failed hold anything. None if no image could be decoded.
    outcomes : list of clipc.parallel.Outcome
        ``get()`` of each, in order, gives the warnings that the image led to and raises its error, as
        `to_rgb`. With `until_error` up to the first that failed.
    """
    mean, std = _three_floats("mean", mean), _three_floats("std", std)
    allocating, pillow = threading.Lock(), lock_for_pillow()

    def prepare(n):
        nonlocal out
        with pillow(items[n]):
            rgb = to_rgb(items[n], exif=exif, label=labels[n], index=n)
        with allocating:
            # Here and not earlier: the first image tells a mistake before memory for all of them is taken.
            if out is None:
                out = np.empty((len(items), 3, size, size), np.float32)
        if changes is None:
            _core.preprocess(rgb, size, mean, std, out=out[n])
        else:
            parallel.in_order(finish, n, _core.resize_crop(rgb, size))

    def finish(n, square):
        # Its size stays.
        _core.preprocess(_changed(square, size, changes[n]), size, mean, std, out=out[n])

    outcomes = parallel.run(prepare, len(items), until_error=until_error)
    return out, outcomes


def lock_for_pillow():
    """A function from an image to the context in which one of several threads may look at it.

    One thread at a time for PIL images: they load their pixels when they are used, perhaps from a file that
    they share, and the same image may be in a list twice.
    """
    lock = threading.Lock()
    return lambda image: lock if is_pil(image) else contextlib.nullcontext()


def _changed(square, size, change):
    picture = np.asarray(change(square))
    if picture.dtype != np.uint8 or picture.shape != (size, size, 3):
        raise ValueError(
            f"change: expected it to give uint8 of shape ({size}, {size}, 3), got {picture.dtype} of shape "
            f"{picture.shape}"
        )
    return np.ascontiguousarray(picture)


class View(NamedTuple):
    """One image as the encoder sees it, and where that lies in the original.

    Attributes
    ----------
    pixels : float32 array, (3, S, S)
        Preprocessed.
    height, width : int
        Of the original image, pixels.
    seen_box : tuple of float
        (x0, y0, x1, y1): the part of the original that is seen, in its pixels.
    square_box : tuple of float
        (x0, y0, x1, y1): the whole square, in pixels of the original. Larger than the original where the
        square is padded, else equal to `seen_box`.
    """

    pixels: np.ndarray
    height: int
    width: int
    seen_box: tuple
    square_box: tuple


def view(image, size, mean, std, *, fit="crop", exif=False, index=None):
    """One image as the encoder sees it.

    Parameters
    ----------
    image : as for `to_rgb`
    size : int
        Side of the square, pixels.
    mean, std : sequence of 3 float
    fit : {"crop", "squash", "pad"}
        How an image that is no square becomes one. "crop": the shorter side becomes `size`, the central
        square stays (what CLIP does). "squash": both sides become `size`. "pad": the longer side becomes
        `size`, and what is missing is filled evenly on both sides with the mean colour.
    exif : bool
    index : int, optional
        Position in a list, for messages.

    Returns
    -------
    View
    """
    check_fit(fit)
    rgb = to_rgb(image, exif=exif, index=index)
    height, width = rgb.shape[:2]
    seen, square = seen_box(height, width, size, fit), square_box(height, width, size, fit)
    mean, std = _three_floats("mean", mean), _three_floats("std", std)
    if fit == "crop":
        return View(_core.preprocess(rgb, size, mean, std), height, width, seen, square)
    new_height, new_width, top, left = _fitted_size(height, width, size, fit)
    pixels = np.zeros((3, size, size), np.float32)  # the mean colour, normalised
    scaled = squash(rgb, new_height, new_width, mean, std)
    pixels[:, top : top + new_height, left : left + new_width] = scaled
    return View(pixels, height, width, seen, square)


def squash(rgb, height, width, mean, std):
    """An image resized to any height and width, and normalised: float32 (3, height, width).

    Parameters
    ----------
    rgb : uint8 array, (H, W, 3)
    height, width : int
        Pixels.
    mean, std : sequence of 3 float
    """
    scaled = _core.resize(rgb, width, height).astype(np.float32)
    scaled /= np.float32(255)
    scaled -= np.asarray(mean, np.float32)
    scaled /= np.asarray(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def check_fit(fit):
    """Raise ValueError unless `fit` is one of `FITS`."""
    if fit not in FITS:
        raise ValueError(f"fit: expected one of {', '.join(map(repr, FITS))}, got {fit!r}")


def _fitted_size(height, width, size, fit):
    """Height and width after resizing for "squash" or "pad", and the corner in the square."""
    if fit == "squash":
        return size, size, 0, 0
    longer = max(height, width)
    new_height = max(1, round(size * height / longer))
    new_width = max(1, round(size * width / longer))
    return new_height, new_width, (size - new_height) // 2, (size - new_width) // 2


def seen_box(height, width, size, fit="crop"):
    """The part of an image that the encoder sees.

    Parameters
    ----------
    height, width : int
        Of the original image, pixels.
    size : int
        Side of the square, pixels.
    fit : {"crop", "squash", "pad"}
        See `view`.

    Returns
    -------
    tuple of float
        (x0, y0, x1, y1), pixels of the original image: left, top, right, bottom edge.
    """
    if fit != "crop":
        return (0.0, 0.0, float(width), float(height))
    new_height, new_width, top, left = _core.crop_geometry(height, width, size)
    return (
        left * width / new_width,
        top * height / new_height,
        (left + size) * width / new_width,
        (top + size) * height / new_height,
    )


def square_box(height, width, size, fit="crop"):
    """The square that the encoder gets, in pixels of the original image; see `View` and `seen_box`."""
    if fit != "pad":
        return seen_box(height, width, size, fit)
    new_height, new_width, top, left = _fitted_size(height, width, size, fit)
    return (
        -left * width / new_width,
        -top * height / new_height,
        (size - left) * width / new_width,
        (size - top) * height / new_height,
    )


def label_of(image, index):
    """How messages call an image: its position in the list and its file name, as far as it has them."""
    position = "image" if index is None else f"images[{index}]"
    if isinstance(image, (str, os.PathLike)):
        name = os.fspath(image)
        return repr(name) if index is None else f"{position} {name!r}"
    return position


def is_pil(image):
    """Whether an image is one of Pillow's."""
    # Whoever has a PIL image has imported PIL; another thread may be just about to.
    kind = getattr(sys.modules.get("PIL.Image"), "Image", None)
    return kind is not None and isinstance(image, kind)


def is_preprocessed(images):
    """Whether `images` is a float array with four dimensions, which is taken as preprocessed."""
    return isinstance(images, np.ndarray) and images.ndim == 4 and images.dtype.kind == "f"


def check_preprocessed(array, size):
    """The array as C-contiguous float32, if it is a batch of finite numbers for a square of this size."""
    if array.dtype.itemsize != 4:
        raise TypeError(
            f"images: expected float32 for a preprocessed array, got {array.dtype}; "
            "use array.astype(numpy.float32)"
        )
    if array.shape[0] < 1 or array.shape[1:] != (3, size, size):
        raise ValueError(
            f"images: expected shape (N, 3, {size}, {size}), N at least 1, for a preprocessed array, "
            f"got {array.shape}"
        )
    if not np.isfinite(array).all():
        bad = sorted({int(n) for n in np.argwhere(~np.isfinite(array))[:, 0]})
        raise ValueError(f"images: expected finite values, got NaN or infinity in images {bad[:10]}")
    return np.ascontiguousarray(array, dtype=np.float32)


def _three_floats(name, values):
    try:
        result = tuple(float(value) for value in values)
    except TypeError:
        raise TypeError(f"{name}: expected three numbers, got {values!r}") from None
    if len(result) != 3:
        raise ValueError(f"{name}: expected three numbers, got {len(result)}")
    return result


def _array_to_rgb(array, label):
    if array.dtype != np.uint8:
        advice = {
            "b": "use array.astype(numpy.uint8) * 255",
            "f": "use (array * 255).round().astype(numpy.uint8) when its values go from 0 to 1; an array "
            "that is already preprocessed has dtype float32 and shape (N, 3, R, R)",
            "u": "use (array >> 8).astype(numpy.uint8) for 16-bit images",
            "i": "use array.astype(numpy.uint8) when its values go from 0 to 255",
        }.get(array.dtype.kind, "use array.tolist() for an array of paths")
        raise TypeError(f"{label}: expected an array of dtype uint8, got {array.dtype}; {advice}")
    shape = array.shape
    if array.ndim not in (2, 3) or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        hint = ""
        if array.ndim == 4:
            hint = "; pass a batch as a list of images: list(array)"
        elif array.ndim == 3 and shape[2] == 2:
            hint = "; drop the alpha channel: array[:, :, 0]"
        elif array.ndim == 3 and shape[0] in (1, 3, 4):
            hint = "; channels come last: array.transpose(1, 2, 0)"
        raise ValueError(
            f"{label}: expected shape (H, W, 3), (H, W), (H, W, 1) or (H, W, 4), got {shape}{hint}"
        )
    if array.size == 0:
        raise ValueError(f"{label}: expected at least one pixel, got shape {shape}")
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    if array.shape[2] == 1:
        array = np.broadcast_to(array, (*array.shape[:2], 3))
    return np.ascontiguousarray(array[:, :, :3] if array.shape[2] == 4 else array)


def read_file(path, label):
    """The content of an image file; an error that helps where the path is a URL or a folder."""
    name = os.fspath(path)
    if isinstance(name, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        raise ValueError(
            f"{label}: expected a file, got a URL; clipc does not download images, pass a file or its bytes"
        )
    try:
        with open(name, "rb") as file:
            return file.read()
    except IsADirectoryError:
        message = "Is a directory, expected an image file; pass the files in it as a list"
        raise IsADirectoryError(errno.EISDIR, message, name) from None


def _max_pixels():
    """The limit on the pixels of one image, from the environment."""
    text = os.environ.get(MAX_PIXELS_VARIABLE, "").strip()
    if not text:
        return DEFAULT_MAX_PIXELS
    try:
        limit = int(text)
    except ValueError:
        limit = 0
    if limit < 1:
        raise ValueError(f"{MAX_PIXELS_VARIABLE}: expected a number of pixels, at least 1, got {text!r}")
    return min(limit, sys.maxsize)


def _file_to_rgb(data, exif, label):
    """The pixels of an image file, given its content."""
    if not data:
        raise ImageError(f"{label}: expected the content of an image file, got 0 bytes")
    limit = _max_pixels()
    try:
        rgb = _core.decode_image(data, limit)
    except ImageError as error:
        raise ImageError(f"{label}: {error}") from None
    if rgb is None:
        return _pil_to_rgb(_open_with_pillow(data, limit, label), exif, label)
    _, _, _, has_exif = _core.image_info(data)
    # Opening the file a second time, for Pillow to read the tag, is worth it only when there can be one.
    return _upright(rgb, _orientation_of_file(data), exif, label) if has_exif else rgb


def _open_with_pillow(data, limit, label):
    from PIL import Image, UnidentifiedImageError

    try:
        try:
            image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            # Another thread may just have been loading Pillow's plugins; now all of them are there.
            image = Image.open(io.BytesIO(data))
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            f"{label}: expected an image file, got bytes that begin with {data[:16]!r}"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{label}: {error} (the limit is {limit} pixels by {MAX_PIXELS_VARIABLE} and for this format "
            "also twice PIL.Image.MAX_IMAGE_PIXELS)"
        ) from None
    except Exception as error:  # Pillow's plugins raise what they come across
        raise ImageError(f"{label}: {error}") from error
    if image.format == "EPS":
        # Pillow would start Ghostscript, which runs the program that such a file is.
        raise ImageError(f"{label}: PostScript files are not read")
    return image


def _pil_to_rgb(image, exif, label):
    width, height = image.size
    limit = _max_pixels()
    if width < 1 or height < 1:
        raise ValueError(f"{label}: expected at least one pixel, got a PIL image of {width} x {height}")
    if width * height > limit:
        raise ImageError(
            f"{label}: the image has {width} x {height} = {width * height} pixels, more than the limit of "
            f"{limit} (environment variable {MAX_PIXELS_VARIABLE})"
        )
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise what they come across
        raise ImageError(
            f"{label}: the image cannot be decoded, it may be damaged or end early: {error}"
        ) from error
    return _upright(_pil_pixels(image, label), _pil_orientation(image), exif, label)


def _pil_pixels(image, label):
    """The pixels of a loaded PIL image of any mode."""
    if image.mode == "F":
        raise ValueError(
            f"{label}: expected an image with 8 or 16 bits, got mode F (float); convert it to mode L or RGB"
        )
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
            raise ValueError(
                f"{label}: expected 16-bit values, got mode I (32 bits) with values from {values.min()} to "
                f"{values.max()}; convert it to mode L or RGB"
            )
        return _array_to_rgb((values >> 8).astype(np.uint8), label)
    if image.mode in ("La", "RGBa"):  # colours multiplied by alpha
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    try:
        return np.ascontiguousarray(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)
    except ValueError as error:
        raise ValueError(f"{label}: Pillow does not convert mode {image.mode} to RGB: {error}") from error


def _orientation_of_file(data):
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return _pil_orientation(image)
    except Exception:  # the pixels are there; a broken Exif segment must not keep them back
        return None


def _pil_orientation(image):
    try:
        return image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # as above
        return None


def _upright(rgb, orientation, exif, label):
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return rgb
    if exif:
        return np.ascontiguousarray(turn(rgb))
    # Which image of a list is the first is known when those before it are done.
    parallel.in_order(_warn_of_orientation, orientation, label)
    return rgb


def _warn_of_orientation(orientation, label):
    global _orientation_warning_given
    if not _orientation_warning_given:
        _orientation_warning_given = True
        warn(
            f"{label}: its Exif orientation is {orientation}, so it is used rotated or mirrored, as the "
            "original CLIP code does; exif=True turns it upright (this is said once)"
        )
