"""``clipc embed``: vectors of images or texts in a NumPy file."""

from __future__ import annotations

import os

import click

import clipc
from clipc.cli.computing import encode_images, load_model, terminal_bar
from clipc.cli.inputs import STANDARD_INPUT, find_images, read_lines
from clipc.cli.options import computing_options
from clipc.cli.outputs import OnlyWrites, check_output, written_together
from clipc.cli.printing import printable
from clipc.model import DEFAULT_BATCH_SIZE

TEXT_BATCH = 256


# fmt: off
@click.command()
@click.argument("inputs", nargs=-1, metavar="INPUT...", type=click.Path(allow_dash=True))
@click.option("-o", "--output", required=True, metavar="OUT.npy", type=click.Path(),
              help="File to write: a float32 array with a row for each input, for numpy.load.")
@click.option("--texts", is_flag=True, help="The inputs are texts, not images.")
@click.option("-f", "--from-file", metavar="FILE", type=click.Path(allow_dash=True),
              help="Take inputs from a text file, too, one a line: texts with --texts, else paths of images. "
                   "'-' for standard input.")
@click.option("--names", metavar="FILE", type=click.Path(),
              help="Also write the inputs in the order of the rows, one a line. With --skip-unreadable "
                   "always written, by default as OUT.txt.")
@click.option("--normalize", is_flag=True,
              help="Scale rows to length 1, so that a dot product of two is their cosine.")
@click.option("--truncate", is_flag=True,
              help="Cut texts that are too long for the model, instead of stopping.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@computing_options(
    f"Inputs computed at the same time. Default: {DEFAULT_BATCH_SIZE} images or {TEXT_BATCH} texts."
)
def embed(inputs, output, texts, from_file, names, normalize, truncate, force, model, exif, recursive,
          skip_unreadable, batch_size, threads, quiet):
    """Write the vectors of images or texts to a NumPy file.

    INPUT is an image, a folder (all images in it), a pattern in quotes, or '-' for an image on standard
    input; with --texts, a text.

    \b
      clipc embed photos/ -o photos.npy --names photos.txt
      clipc embed "2024/**/*.jpg" -o 2024.npy --normalize --skip-unreadable
      clipc embed --texts "a dog" "a cat" -o texts.npy
      clipc embed --texts --from-file captions.txt -o captions.npy

    The files appear when everything is done: whatever goes wrong, none is left half written.
    """
    if not inputs and not from_file:
        raise click.UsageError("no inputs; name images, folders or texts, or use --from-file")
    if texts and (skip_unreadable or exif or recursive):
        raise click.UsageError("--exif, --recursive and --skip-unreadable are for images, not for --texts")
    if truncate and not texts:
        raise click.UsageError("--truncate is for --texts")
    if from_file == STANDARD_INPUT and STANDARD_INPUT in inputs and not texts:
        raise click.UsageError("standard input can hold an image or the list of inputs, not both")
    if skip_unreadable and not names:
        names = output.removesuffix(".npy") + ".txt"
    if names and os.path.realpath(names) == os.path.realpath(output):
        raise click.UsageError("--names and --output are the same file")
    for path in filter(None, (output, names)):
        check_output(path, force)

    import numpy as np

    inputs = list(inputs) + (read_lines(from_file) if from_file else [])
    if texts:
        if not inputs:
            raise click.ClickException("no texts: the file is empty")
        rows = inputs
        _check_names(rows, names)
        loaded = load_model(model, threads)
        features = _encode_texts(
            loaded,
            inputs,
            batch_size or TEXT_BATCH,
            truncate=truncate,
            progress=not quiet,
            normalize=normalize,
        )
    else:
        inputs = [line for line in inputs if line.strip()]
        sources = find_images(inputs, recursive=recursive, missing_ok=skip_unreadable)
        if not sources:
            raise click.ClickException("no images: the file is empty")
        _check_names([source.name for source in sources], names)
        loaded = load_model(model, threads)
        features = np.empty((len(sources), loaded.embed_dim), np.float32)
        rows = []
        batches = encode_images(
            loaded,
            sources,
            batch_size=batch_size or DEFAULT_BATCH_SIZE,
            exif=exif,
            skip=skip_unreadable,
            progress=not quiet,
            normalize=normalize,
        )
        for read, block, _ in batches:
            if read:
                features[len(rows) : len(rows) + len(read)] = block
                rows += (source.name for source in read)
        features = features[: len(rows)]
        if not rows:
            raise click.ClickException("none of the images could be read; nothing is written")

    listing = "".join(f"{row}\n" for row in rows).encode("utf-8", "surrogateescape")
    with written_together([output, names] if names else [output]) as files:
        np.save(OnlyWrites(files[0]), features)
        if names:
            files[1].write(listing)
    if not quiet:
        kind = ("text" if texts else "image") + ("" if len(rows) == 1 else "s")
        beside = f", their names in {names}" if names else ""
        click.echo(printable(f"{output}: {len(rows)} {kind}, {features.shape[1]} numbers each{beside}"))
# fmt: on


def _encode_texts(model, texts, batch_size, *, truncate, progress, normalize):
    import numpy as np

    # All lengths are checked first, so that the message counts from the first text and comes before the work.
    if not truncate:
        try:
            clipc.tokenize(texts, context_length=model.context_length)
        except ValueError as error:
            raise click.ClickException(str(error).replace("truncate=True", "--truncate")) from error
    features = np.empty((len(texts), model.embed_dim), np.float32)
    with terminal_bar(len(texts), "text", progress) as bar:
        for begin in range(0, len(texts), batch_size):
            batch = texts[begin : begin + batch_size]
            block = model.encode_text(batch, normalize=normalize, truncate=truncate)
            features[begin : begin + len(batch)] = block
            bar.update(len(batch))
    return features


def _check_names(rows, names):
    """A list with a name on each line can only hold names that are one line."""
    if names:
        for row in rows:
            if "\n" in row or "\r" in row:
                raise click.ClickException(f"{row!r}: holds a line break, so --names cannot list it")
