"""Loading the model and encoding images, batch by batch."""

from __future__ import annotations

import contextlib
import sys

import click

import clipc
from clipc import image
from clipc.cli.inputs import why_unreadable
from clipc.cli.messages import note
from clipc.errors import ClipcError, warn
from clipc.progress import progress_bar


def load_model(name, threads):
    """The model that --model names; computes with as many threads as --threads says."""
    if threads:
        clipc.set_num_threads(threads)
    with downloads_told():
        return clipc.load(name)


@contextlib.contextmanager
def downloads_told():
    """Tell of downloads within the block as notes, or not at all with --quiet."""
    from clipc.weights import download

    quiet = click.get_current_context().find_root().obj.quiet
    with download.listening((lambda message: None) if quiet else note, False if quiet else None):
        yield


def bar_wanted(quiet):
    """Whether the library shall show progress bars."""
    return not quiet and sys.stderr.isatty()


@contextlib.contextmanager
def resumable(cache):
    """Say, where the user stops the work, that it can go on, if `cache` keeps what was done."""
    try:
        yield
    except KeyboardInterrupt:
        if cache:
            warn("pictures that were encoded are kept; the same command goes on from there")
        raise


def encode_images(model, sources, *, batch_size, exif, skip, progress, normalize=False):
    """Encode images batch by batch.

    Parameters
    ----------
    model : clipc.Model
    sources : list of Source
    batch_size : int
    exif : bool
    skip : bool
        Leave out images that cannot be read, with a line on standard error.
    progress : bool
        Show a bar.
    normalize : bool
        Scale each row to length 1.

    Yields
    ------
    read : list of Source
        Those of the batch that could be read; may be empty.
    features : float32 array, (number of them, D)
    skipped : list of (str, str)
        Name of the others and why.
    """
    with terminal_bar(len(sources), "image", progress) as bar:
        for begin in range(0, len(sources), batch_size):
            batch = sources[begin : begin + batch_size]
            read, pixels, skipped = _read_images(model, batch, exif=exif, skip=skip)
            yield read, model.encode_image(pixels, normalize=normalize) if read else [], skipped
            bar.update(len(batch))


def _read_images(model, batch, *, exif, skip):
    """Preprocess a batch: what could be read, its pixels, and what could not."""
    config = model.config
    pixels, outcomes = image.preprocess_each(
        [source.image for source in batch],
        [image.label_of(source.image, None) for source in batch],
        config.image_size,
        config.image_mean,
        config.image_std,
        exif=exif,
        until_error=not skip,
    )
    read, skipped = [], []
    for position, (source, outcome) in enumerate(zip(batch, outcomes)):
        try:
            outcome.get()
        except (ClipcError, OSError, ValueError) as error:
            reason = why_unreadable(source, error)
            message = f"{source.name}: {reason}"
            if not skip:
                raise click.ClickException(message) from error
            note(f"skipped {message}")
            skipped.append((source.name, reason))
        else:
            if position > len(read):
                pixels[len(read)] = pixels[position]
            read.append(source)
    return read, pixels[: len(read)] if read else None, skipped


def terminal_bar(total, unit, wanted):
    """A progress bar, or one that shows nothing: without a terminal, and for a single image or text."""
    return progress_bar(total, unit, wanted and total > 1 and sys.stderr.isatty())
