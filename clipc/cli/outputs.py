"""Files that are written: checked before the work, and there as a whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import stat

import click

# By the ending of the file's name: Pillow's format, its options, and the longest side that it can hold.
PICTURE_FORMATS = {
    ".png": ("PNG", {}, None),
    ".jpg": ("JPEG", {"quality": 92, "subsampling": 0}, 65535),
    ".jpeg": ("JPEG", {"quality": 92, "subsampling": 0}, 65535),
    ".webp": ("WEBP", {"quality": 92}, 16383),
    ".bmp": ("BMP", {}, None),
    ".tif": ("TIFF", {}, None),
    ".tiff": ("TIFF", {}, None),
}


def check_output(path, force):
    """Find out before the work what would only show after it."""
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise click.ClickException(f"{path}: cannot be written, there is no folder {folder}")
    if os.path.isdir(path):
        raise click.ClickException(f"{path}: is a folder, expected the name of a file to write")
    if os.path.exists(path):
        # A file is replaced, not filled; that would do away with a device or a pipe.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise click.ClickException(f"{path}: cannot be written, it is no regular file")
        if not force:
            raise click.ClickException(f"{path}: exists already; --force overwrites it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise click.ClickException(f"{path}: cannot be written, no permission for the folder {folder}")


@contextlib.contextmanager
def written_together(paths):
    """Files that take the place of `paths` when the block ends; after an error nothing of them is left."""
    with contextlib.ExitStack() as stack:
        opened = []
        for path in paths:
            target = os.path.realpath(path)  # behind a symbolic link, the file and not the link is replaced
            temporary = os.path.join(os.path.dirname(target), f".clipc-{os.urandom(6).hex()}.tmp")
            try:
                file = open(temporary, "xb")
            except OSError as error:
                raise click.ClickException(f"{path}: cannot be written: {error.strerror}") from error
            stack.callback(_remove_if_there, temporary)
            stack.callback(_close, file)
            opened.append((path, target, temporary, file))
        try:
            yield [file for _, _, _, file in opened]
            for _, target, temporary, file in opened:
                file.flush()
                os.fsync(file.fileno())
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(temporary, stat.S_IMODE(os.stat(target).st_mode))
        except OSError as error:
            written = ", ".join(path for path, *_ in opened)
            raise click.ClickException(f"{written}: cannot be written: {error.strerror or error}") from error
        # The first, the array, comes last: where it is, what belongs to it is there as well.
        for _, target, temporary, _ in reversed(opened):
            os.replace(temporary, target)


def _close(file):
    # What a full disk did not take was told when it was flushed; closing tries again, and fails again.
    with contextlib.suppress(OSError):
        file.close()


def _remove_if_there(path):
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


class OnlyWrites:
    """A file that NumPy does not recognise as one, so that a full disk is not "9 requested and 7 written"."""

    def __init__(self, file):
        self.write = file.write


def check_picture_format(path):
    """Find out before the work whether Pillow can write the format."""
    if path.lower().endswith(".webp"):
        from PIL import features

        if not features.check("webp"):
            raise click.ClickException(f"{path}: the Pillow that is installed cannot write WebP")


def refuse_picture_options(options, example):
    """Refuse options of drawing, where no picture is asked for; `example` is the name of one."""
    for name in options:
        raise click.UsageError(
            f"--{name.replace('_', '-')} is for pictures; name one with -o, such as {example}"
        )


def write_picture(path, picture):
    """Write a Pillow image in the format that its name's ending says."""
    form, options, longest = PICTURE_FORMATS[os.path.splitext(path)[1].lower()]
    if longest and max(picture.size) > longest:
        raise click.ClickException(
            f"{path}: {form} holds at most {longest} pixels on a side, got {picture.width} x "
            f"{picture.height}; --size makes it smaller, and PNG has no such limit"
        )
    # Pillow would tell a full disk as "encoder error -2", so it writes to memory.
    encoded = io.BytesIO()
    picture.save(encoded, form, **options)
    with written_together([path]) as files:
        files[0].write(encoded.getbuffer())
