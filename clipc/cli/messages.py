"""Lines on standard error: what went wrong, and notes."""

from __future__ import annotations

import contextlib
import os
import sys

import click

from clipc.cli.printing import printable
from clipc.errors import ClipcError

# Messages of the library speak to those who call it from Python.
_ARGUMENTS_AS_OPTIONS = {
    "exif=True": "--exif",
    " (truncate=True cuts it)": "",
    "; truncate=True cuts it": "; --truncate cuts it",
    "choose rows with where()": "choose rows with --where",
    "give labels=[...] with what else a picture might show": "--labels-file names what else there is",
    "load a model with clipc.load(path)": "name a model with --model",
    "; Model.knows(text) tells beforehand": "",
    "raw=True": "--raw",
    "a larger image_size": "a larger --image-size",
    "pass heads=(image, text)": "pass --heads IMAGE,TEXT",
    "font= takes": "--font takes",
    "skip_unreadable=True": "--skip-unreadable",
    "skip_ungrouped=True": "--skip-ungrouped",
}

# How the library calls what these options set, in the messages of its errors.
_OPTION_OF_ARGUMENT = {
    "shots": "--shots", "folds": "--folds", "test": "--test", "conditions": "--condition",
    "method": "--method", "layer": "--layer", "score": "--score", "blocks": "--blocks",
    "image_size": "--image-size", "colormap": "--colormap", "font": "--font",
    "threshold": "--threshold", "nms": "--nms", "max_detections": "--max-detections", "boxes": "--boxes",
    "background": "--background", "templates": "--template", "batch_size": "--batch-size",
    "groups": "--group", "block": "--block", "labels": "--label", "label_sets": "--compare-wording",
    "top_k": "--top-k",
    "dtype": "--dtype",
}  # fmt: skip


def describe(error):
    """What went wrong, for a person: the message alone where clipc or the system wrote it."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        return f"not enough memory{': ' if str(error) else ''}{error}"
    if isinstance(error, (ClipcError, OSError, ValueError, TypeError, ImportError)) and str(error):
        return str(error)
    return f"internal error, {type(error).__name__}: {error} (CLIPC_DEBUG=1 shows where)"


@contextlib.contextmanager
def wrong_options_named(**others):
    """Turn the library's messages about an argument into messages about the option that sets it.

    `others`: arguments that options of another name set, in this command.
    """
    options = {**_OPTION_OF_ARGUMENT, **others}
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        name, separator, rest = str(error).partition(": ")
        if not separator or name not in options:
            raise
        raise click.UsageError(f"{options[name]}: {rest}") from error


def note(message):
    """Print a note, as a line."""
    print_line(f"note: {one_line(message)}")


def print_line(text):
    """Print to standard error, above a progress bar if one is on the screen."""
    tqdm = sys.modules.get("tqdm")
    try:
        if tqdm is None:
            click.echo(printable(text), err=True)
        else:
            tqdm.tqdm.write(printable(text), file=sys.stderr)
    except OSError:
        pass  # nobody listens, and there is nowhere to say so


def one_line(text):
    """A message as one line that speaks of options, not of arguments in Python."""
    for argument, option in _ARGUMENTS_AS_OPTIONS.items():
        text = text.replace(argument, option)
    return " ".join(text.splitlines())
