"""What the user names: images, lines of text, labels."""

from __future__ import annotations

import glob
import os
import sys
from typing import NamedTuple

import click

from clipc import image as images
from clipc.cli.messages import describe
from clipc.errors import ClipcError

STANDARD_INPUT = "-"


class Source(NamedTuple):
    """One image: its name as the user gave it, and what `clipc` takes for it, a path or bytes."""

    name: str
    image: str | bytes


def find_images(arguments, *, recursive, missing_ok):
    """Turn files, folders, patterns and ``-`` into images, in the order given; those of a folder sorted.

    Parameters
    ----------
    arguments : sequence of str
    recursive : bool
        Whether subfolders count.
    missing_ok : bool
        Leave it to the reading to find out that a file does not exist.

    Returns
    -------
    list of Source
    """
    if list(arguments).count(STANDARD_INPUT) > 1:
        raise click.UsageError("'-' is given more than once; standard input holds one image")
    sources = []
    for argument in arguments:
        path = os.path.expanduser(argument)  # in quotes, or behind "=", the shell leaves ~ alone
        if argument == STANDARD_INPUT:
            sources.append(Source("standard input", _read_standard_input()))
        elif os.path.isdir(path):
            sources += (Source(name, name) for name in _images_in(path, recursive))
        elif os.path.lexists(path):
            sources.append(Source(argument, path))
        elif glob.has_magic(path):
            found = sorted(name for name in glob.iglob(path, recursive=True) if not os.path.isdir(name))
            if not found:
                raise click.ClickException(f"no file matches {argument!r}")
            sources += (Source(name, name) for name in found)
        elif missing_ok:
            sources.append(Source(argument, path))
        else:
            hint = "; clipc does not download: curl -s URL | clipc ... -" if "://" in argument else ""
            raise click.ClickException(f"{argument}: no such file or folder{hint}")
    return sources


def _images_in(folder, recursive):
    """Paths of the images of a folder, sorted; without hidden files, such as macOS's ``._photo.jpg``.

    The endings count here only: a file that is named, or that a pattern matches, may end as it likes.
    """

    def fail(error):
        raise error

    found, subfolders = [], False
    for place, folders, files in os.walk(folder, onerror=fail):
        found += (os.path.join(place, name) for name in files if _looks_like_image(name))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not recursive:
            subfolders = bool(folders)
            break
    if not found:
        hint = "; --recursive looks into its subfolders, too" if subfolders else ""
        listed = ", ".join(images.IMAGE_SUFFIXES)
        raise click.ClickException(f"{folder}: no images in this folder ({listed}){hint}")
    return sorted(found)


def _looks_like_image(name):
    return name.lower().endswith(images.IMAGE_SUFFIXES) and not os.path.basename(name).startswith(".")


def _read_standard_input():
    if sys.stdin is None or sys.stdin.isatty():
        command = click.get_current_context().command_path
        raise click.UsageError(f"'-' is an image on standard input, as in: {command} - ... < photo.jpg")
    return sys.stdin.buffer.read()


def is_single(arguments, sources):
    """Whether one image was named: depends on the call, not on how many files there happen to be."""
    return len(arguments) == 1 and len(sources) == 1 and sources[0].name in (arguments[0], "standard input")


def read_pixels(source, exif):
    """The image as uint8 (H, W, 3): read once, for the map, the score and the picture."""
    try:
        return images.to_rgb(source.image, exif=exif)
    except (ClipcError, OSError, ValueError) as error:
        raise click.ClickException(f"{source.name}: {why_unreadable(source, error)}") from error


def why_unreadable(source, error):
    """The message of an error, without the name of the image."""
    reason = describe(error)
    # The library names a file in its own way, and cannot know what bytes came from.
    for name in ("image",) if isinstance(source.image, bytes) else (repr(source.image), source.image):
        reason = reason.removeprefix(f"{name}: ")
    return reason


def read_lines(path):
    """Lines of a UTF-8 file, or of standard input for ``-``, without their ends."""
    shown = "standard input" if path == STANDARD_INPUT else path
    if path == STANDARD_INPUT:
        raw = sys.stdin.buffer.read() if sys.stdin is not None else b""
    else:
        with open(path, "rb") as file:
            raw = file.read()
    try:
        text = raw.decode("utf-8-sig")  # Windows editors put a byte order mark first
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise click.ClickException(f"{shown}: line {line} is not UTF-8 text") from None
    # Not str.splitlines, which also splits at a form feed or at U+2028.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def collect_labels(labels, labels_file, command):
    """The labels of a call and those of a file; refuses none, empty ones and those that are there twice."""
    refuse_images(labels, "label", "more images: --image {}, or a pattern in quotes as the first argument")
    labels = [*labels, *(read_labels(labels_file) if labels_file else ())]
    if not labels:
        raise click.UsageError(f"no labels; they follow the image, as in: clipc {command} photo.jpg dog cat")
    refuse_empty_and_twice(labels, "label")
    return labels


def read_labels(path):
    """Labels of a file, one a line; empty lines do not count."""
    labels = [line.strip() for line in read_lines(path) if line.strip()]
    if not labels:
        raise click.ClickException(f"{path}: no labels in this file, expected one a line")
    return labels


def refuse_both_on_standard_input(arguments, labels_file):
    """Refuse ``-`` for one of the images and for the file of labels at once."""
    if labels_file == STANDARD_INPUT and STANDARD_INPUT in arguments:
        raise click.UsageError("standard input can hold the image or the labels, not both")


def refuse_images(texts, what, hint):
    """Refuse a list of texts that holds an image file; in `hint` its name stands for {}."""
    for text in texts:
        if _looks_like_image(text) and os.path.isfile(text):
            raise click.UsageError(
                f"{text!r} stands where a {what} is expected, and is an image file; {hint.format(text)}"
            )


def refuse_empty_and_twice(texts, what):
    """Refuse a list of texts with an empty one, or with one that is there twice."""
    seen = set()
    for text in texts:
        if not text.strip():
            raise click.UsageError(f"a {what} is empty")
        if text in seen:
            raise click.UsageError(f"the {what} {text!r} is given more than once")
        seen.add(text)
