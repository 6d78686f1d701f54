"""``clipc classify``: which labels fit a picture."""

from __future__ import annotations

import click

from clipc.cli.computing import encode_images, load_model
from clipc.cli.inputs import collect_labels, find_images, is_single, refuse_both_on_standard_input
from clipc.cli.options import (
    computing_options,
    json_option,
    labels_file_option,
    more_images_option,
    template_option,
)
from clipc.cli.printing import name_width, print_json, printable
from clipc.model import DEFAULT_BATCH_SIZE
from clipc.terminal import columns, pad

# Labels printed for an image unless --top-k says otherwise: more do not fit into a line.
PRINTED_LABELS = 10


# fmt: off
@click.command()
@click.argument("image", type=click.Path(allow_dash=True))
@click.argument("labels", nargs=-1)
@more_images_option
@labels_file_option
@template_option
@click.option("-k", "--top-k", type=click.IntRange(min=1), metavar="K",
              help=f"How many labels to print, best first. Default: up to {PRINTED_LABELS}; with --json all.")
@json_option
@computing_options(f"Images held in memory at the same time. Default: {DEFAULT_BATCH_SIZE}.")
def classify(image, labels, more, labels_file, templates, top_k, as_json, model, exif, recursive,
             skip_unreadable, batch_size, threads, quiet):
    """Say which of the LABELS fits a picture best.

    IMAGE is a file, a folder (all images in it), a pattern in quotes, or '-' for standard input.
    Everything after it is a label.

    \b
      clipc classify photo.jpg dog cat "a cup of coffee"
      clipc classify photos/ dog cat --template "a photo of a {}."
      clipc classify "photos/*.png" --labels-file labels.txt --top-k 3
      clipc classify photo.jpg dog cat --image other.jpg --json
      curl -s https://example.org/photo.jpg | clipc classify - dog cat

    The percentages sum to 100 over all labels that are given: they say which label fits best, not whether
    any does.
    """
    refuse_both_on_standard_input((image, *more), labels_file)
    labels = collect_labels(labels, labels_file, "classify")
    arguments = (image, *more)
    sources = find_images(arguments, recursive=recursive, missing_ok=skip_unreadable)
    loaded = load_model(model, threads)
    templates = templates or ("{}",)
    loaded.classifier(labels, templates)  # before images are read: what is wrong with the labels shows first

    single = is_single(arguments, sources)
    printer = _JsonPrinter(loaded.name, templates) if as_json else _TextPrinter(sources, labels, single)
    kept = top_k or (None if as_json else PRINTED_LABELS)
    any_read = False
    batches = encode_images(
        loaded,
        sources,
        batch_size=batch_size or DEFAULT_BATCH_SIZE,
        exif=exif,
        skip=skip_unreadable,
        progress=as_json and not quiet,
    )
    for read, features, skipped in batches:
        if read:
            any_read = True
            predictions = loaded.classify(features, labels, templates=templates, top_k=kept)
            for source, prediction in zip(read, predictions):
                printer.add(source.name, prediction)
        for name, reason in skipped:
            printer.skip(name, reason)
    printer.finish()
    if not any_read:
        raise click.ClickException("none of the images could be read")
# fmt: on


class _TextPrinter:
    """A line for each image, as soon as it is known."""

    def __init__(self, sources, labels, single):
        self.single = single
        self.name_width = name_width(sources)
        widest = max(columns(printable(label)) for label in labels) + len(": 100.00%")
        self.cell_width = widest if widest <= 28 else 0

    def add(self, name, prediction):
        if self.single:
            click.echo(printable(prediction.as_line()))
            return
        cells = [printable(f"{label}: {100 * p:.2f}%") for label, p in prediction.items()]
        line = [pad(printable(name), self.name_width), *(pad(cell, self.cell_width) for cell in cells)]
        click.echo("  ".join(line).rstrip())

    def skip(self, name, reason):
        pass

    def finish(self):
        pass


class _JsonPrinter:
    """One JSON document at the end."""

    def __init__(self, model, templates):
        self.document = {"model": model, "templates": list(templates), "images": [], "skipped": []}

    def add(self, name, prediction):
        ranked = [{"label": label, "probability": p} for label, p in prediction.items()]
        self.document["images"].append({"path": name, "predictions": ranked})

    def skip(self, name, reason):
        self.document["skipped"].append({"path": name, "reason": reason})

    def finish(self):
        print_json(self.document)
