"""The command line: ``clipc classify``, ``detect``, ``explain``, ``embed``, ``models`` and ``info``.

Results go to standard output, everything else (progress, notes, errors) to standard error. An error is
one line and exit code 1, a wrong call exit code 2, Ctrl-C exit code 130.

Nothing that only some command needs is imported at the top, so that help and completion come at once.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import glob
import io
import json
import math
import os
import stat
import sys
import traceback
import unicodedata
import warnings
from typing import NamedTuple

import click

import clipc
from clipc import cam, colormaps
from clipc import image as images
from clipc.detections import Detection
from clipc.errors import ClipcError, ClipcWarning
from clipc.model import DEFAULT_BATCH_SIZE
from clipc.progress import progress_bar
from clipc.terminal import columns, pad

# Labels printed for an image unless --top-k says otherwise: more do not fit into a line.
PRINTED_LABELS = 10

TEXT_BATCH = 256

STANDARD_INPUT = "-"

# Messages of the library speak to those who call it from Python.
_ARGUMENTS_AS_OPTIONS = {
    "exif=True": "--exif",
    " (truncate=True cuts it)": "",
    "load a model with clipc.load(path)": "name a model with --model",
    "; Model.knows(text) tells beforehand": "",
    "raw=True": "--raw",
    "a larger image_size": "a larger --image-size",
    "font= takes": "--font takes",
}


# --- the program: errors, notes, exit codes ----------------------------------------------------------


class _Settings:
    """What holds for a whole run, whichever command it is."""

    def __init__(self):
        self.debug = os.environ.get("CLIPC_DEBUG", "") not in ("", "0")
        self.quiet = False


class _Program(click.Group):
    """The group of commands; turns exceptions and warnings into lines, and them into exit codes."""

    def main(self, args=None, prog_name=None, **extra):
        settings = _Settings()
        with warnings.catch_warnings():
            _print_warnings_as_notes(settings)
            code = self._run(args, settings, extra)
        sys.exit(code)

    def _run(self, args, settings, extra):
        extra["standalone_mode"] = False
        try:
            # click returns the exit code of --help and the like, and what the command returned: None.
            code = super().main(args, "clipc", obj=settings, **extra)
            if sys.stdout is not None:
                sys.stdout.flush()  # a failure is reported here, and not when the interpreter ends
            return code or 0
        except BrokenPipeError:
            _discard_output()
            return 1
        except click.UsageError as error:
            hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
            _print_line(f"clipc: {_one_line(error.format_message()).rstrip('.')}{hint}")
            return 2
        except (click.exceptions.Abort, KeyboardInterrupt) as error:  # click makes the former of the latter
            _report(error, "interrupted", settings)
            return 130
        except Exception as error:
            _report(error, _describe(error), settings)
            if isinstance(error, OSError):
                _discard_output()
            return 1


def _report(error, message, settings):
    if settings.debug:
        traceback.print_exception(type(error), error, error.__traceback__)
    else:
        _print_line(f"clipc: {_one_line(message)}")


def _print_warnings_as_notes(settings):
    """Print each `ClipcWarning` once, as a line that begins with ``note:``; other warnings as Python does."""
    otherwise = warnings.showwarning
    printed = set()

    def show(message, category, filename, lineno, file=None, line=None):
        if not issubclass(category, ClipcWarning):
            otherwise(message, category, filename, lineno, file, line)
        elif str(message) not in printed and not settings.quiet:
            printed.add(str(message))
            _note(str(message))

    warnings.showwarning = show
    if not sys.warnoptions:  # what -W or PYTHONWARNINGS asks for stays
        warnings.simplefilter("always", ClipcWarning)


def _describe(error):
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


def _note(message):
    _print_line(f"note: {_one_line(message)}")


def _print_line(text):
    """Print to standard error, above a progress bar if one is on the screen."""
    tqdm = sys.modules.get("tqdm")
    try:
        if tqdm is None:
            click.echo(_printable(text), err=True)
        else:
            tqdm.tqdm.write(_printable(text), file=sys.stderr)
    except OSError:
        pass  # nobody listens, and there is nowhere to say so


def _one_line(text):
    for argument, option in _ARGUMENTS_AS_OPTIONS.items():
        text = text.replace(argument, option)
    return " ".join(text.splitlines())


def _printable(text):
    """The text without what could move a terminal's cursor or cannot be encoded; file names hold anything."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _discard_output():
    """Let the rest of the output vanish, so that the interpreter does not complain of it when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _set_debug(ctx, parameter, value):
    if value:
        ctx.ensure_object(_Settings).debug = True


def _set_quiet(ctx, parameter, value):
    if value:
        ctx.ensure_object(_Settings).quiet = True
    return value


def _print_version(ctx, parameter, value):
    if value and not ctx.resilient_parsing:
        click.echo(f"clipc {clipc.__version__}")
        ctx.exit()


# fmt: off
@click.group(
    cls=_Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="Show the version and exit.")
@click.option("--debug", is_flag=True, is_eager=True, expose_value=False, callback=_set_debug,
              help="Show where in the program an error arose (also: CLIPC_DEBUG=1).")
@click.pass_context
def main(ctx):
    """CLIP on this computer's processor: say which words fit a picture, and where in it.

    \b
      clipc classify photo.jpg dog cat           which of the labels fits the picture best?
      clipc detect photo.jpg dog cat -o b.png    where in the picture are they?
      clipc explain photo.jpg dog -o cam.png     which parts of the picture speak for a text?
      clipc embed photos/ -o photos.npy          pictures as vectors, for a search or statistics
      clipc models                               which models there are
      clipc info                                 what clipc uses on this computer

    "clipc COMMAND --help" explains a command and has more examples.

    \b
    Completion with the Tab key, for bash (zsh and fish likewise):
      eval "$(_CLIPC_COMPLETE=bash_source clipc)"

    Exit code: 0 done, 1 an error, 2 a wrong call, 130 stopped with Ctrl-C.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)
# fmt: on


# --- options that commands share ---------------------------------------------------------------------


def _complete_model(ctx, parameter, incomplete):
    """Names of the zoo for the Tab key; files where no name begins like that."""
    from click.shell_completion import CompletionItem

    names = [name for name in clipc.available_models() if name.startswith(incomplete)]
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


_debug_option = click.option(
    "--debug", is_flag=True, is_eager=True, expose_value=False, callback=_set_debug, hidden=True
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def _computing_options(default_batch=None):
    """The options of commands that compute with a model; `default_batch` for those that take many inputs."""
    # fmt: off
    for_many = (
        click.option("-r", "--recursive", is_flag=True, help="Take the images in subfolders, too."),
        click.option("--skip-unreadable", is_flag=True,
                     help="Report images that cannot be read and go on, instead of stopping."),
        click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help=default_batch),
    )
    options = (
        click.option("-m", "--model", metavar="NAME", shell_complete=_complete_model,
                     help='A name that "clipc models" lists, a .safetensors file, or a folder that holds '
                          "one. Default: what CLIPC_MODEL names, else the embedded model tiny."),
        click.option("--exif", is_flag=True,
                     help="Turn photographs upright, as the camera noted in the file (EXIF orientation)."),
        *(for_many if default_batch else ()),
        click.option("--threads", type=click.IntRange(min=1), metavar="N",
                     help="Threads to compute with. Default: one for each processor."),
        click.option("-q", "--quiet", is_flag=True, callback=_set_quiet,
                     help="No progress bar and no notes on standard error."),
        _debug_option,
    )
    # fmt: on

    def decorate(function):
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _load_model(name, threads):
    if threads:
        clipc.set_num_threads(threads)
    return clipc.load(name)


# --- what the user names: images and lines of text ---------------------------------------------------


class _Source(NamedTuple):
    """One image: its name as the user gave it, and what `clipc` takes for it, a path or bytes."""

    name: str
    image: str | bytes


def _find_images(arguments, *, recursive, missing_ok):
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
    list of _Source
    """
    if list(arguments).count(STANDARD_INPUT) > 1:
        raise click.UsageError("'-' is given more than once; standard input holds one image")
    sources = []
    for argument in arguments:
        path = os.path.expanduser(argument)  # in quotes, or behind "=", the shell leaves ~ alone
        if argument == STANDARD_INPUT:
            sources.append(_Source("standard input", _read_standard_input()))
        elif os.path.isdir(path):
            sources += (_Source(name, name) for name in _images_in(path, recursive))
        elif os.path.lexists(path):
            sources.append(_Source(argument, path))
        elif glob.has_magic(path):
            found = sorted(name for name in glob.iglob(path, recursive=True) if not os.path.isdir(name))
            if not found:
                raise click.ClickException(f"no file matches {argument!r}")
            sources += (_Source(name, name) for name in found)
        elif missing_ok:
            sources.append(_Source(argument, path))
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


def _read_lines(path):
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


# --- computing ---------------------------------------------------------------------------------------


def _encode_images(model, sources, *, batch_size, exif, skip, progress, normalize=False):
    """Encode images batch by batch.

    Parameters
    ----------
    model : clipc.Model
    sources : list of _Source
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
    read : list of _Source
        Those of the batch that could be read; may be empty.
    features : float32 array, (number of them, D)
    skipped : list of (str, str)
        Name of the others and why.
    """
    with _progress_bar(len(sources), "image", progress) as bar:
        for begin in range(0, len(sources), batch_size):
            batch = sources[begin : begin + batch_size]
            read, pixels, skipped = _read_images(model, batch, exif=exif, skip=skip)
            yield read, model.encode_image(pixels, normalize=normalize) if read else [], skipped
            bar.update(len(batch))


def _read_images(model, batch, *, exif, skip):
    """Preprocess a batch; where that fails one by one, to find those that are to blame."""
    import numpy as np

    # A single image is read once: the second attempt would be the same.
    if len(batch) > 1:
        with contextlib.suppress(ClipcError, OSError, ValueError):
            return batch, model.preprocess([source.image for source in batch], exif=exif), []
    read, pixels, skipped = [], [], []
    for source in batch:
        try:
            pixels.append(model.preprocess(source.image, exif=exif))
            read.append(source)
        except (ClipcError, OSError, ValueError) as error:
            reason = _why_unreadable(source, error)
            message = f"{source.name}: {reason}"
            if not skip:
                raise click.ClickException(message) from error
            _note(f"skipped {message}")
            skipped.append((source.name, reason))
    return read, np.concatenate(pixels) if pixels else None, skipped


def _why_unreadable(source, error):
    """The message of an error, without the name of the image."""
    reason = _describe(error)
    # The library names a file in its own way, and cannot know what bytes came from.
    for name in ("image",) if isinstance(source.image, bytes) else (repr(source.image), source.image):
        reason = reason.removeprefix(f"{name}: ")
    return reason


def _progress_bar(total, unit, wanted):
    return progress_bar(total, unit, wanted and total > 1 and sys.stderr.isatty())


# --- clipc classify ----------------------------------------------------------------------------------


def _check_template(ctx, parameter, values):
    for value in values:
        if "{}" not in value:
            raise click.BadParameter(f"{value!r} has no {{}} where the label goes")
    return values


# fmt: off
@main.command()
@click.argument("image", type=click.Path(allow_dash=True))
@click.argument("labels", nargs=-1)
@click.option("-i", "--image", "more", multiple=True, metavar="IMAGE", type=click.Path(allow_dash=True),
              help="One more image, folder or pattern. May be repeated.")
@click.option("-l", "--labels-file", metavar="FILE", type=click.Path(allow_dash=True),
              help="Take labels from a text file, one a line; '-' for standard input.")
@click.option("-t", "--template", "templates", multiple=True, metavar="TEXT", callback=_check_template,
              help='Sentence around each label, with {} in its place, such as "a photo of a {}.". Repeated: '
                   "the average over all sentences (a prompt ensemble).")
@click.option("-k", "--top-k", type=click.IntRange(min=1), metavar="K",
              help=f"How many labels to print, best first. Default: up to {PRINTED_LABELS}; with --json all.")
@_json_option
@_computing_options(f"Images held in memory at the same time. Default: {DEFAULT_BATCH_SIZE}.")
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
    if STANDARD_INPUT == labels_file and STANDARD_INPUT in (image, *more):
        raise click.UsageError("standard input can hold the image or the labels, not both")
    labels = _collect_labels(labels, labels_file)
    arguments = (image, *more)
    sources = _find_images(arguments, recursive=recursive, missing_ok=skip_unreadable)
    loaded = _load_model(model, threads)
    templates = templates or ("{}",)
    loaded.classifier(labels, templates)  # before images are read: what is wrong with the labels shows first

    # Whether lines begin with a path depends on the call, not on how many files there happen to be.
    single = len(arguments) == 1 and len(sources) == 1 and sources[0].name in (image, "standard input")
    printer = _JsonPrinter(loaded.name, templates) if as_json else _TextPrinter(sources, labels, single)
    kept = top_k or (None if as_json else PRINTED_LABELS)
    any_read = False
    batches = _encode_images(
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


def _collect_labels(labels, labels_file, command="classify"):
    _refuse_images(labels, "label", "more images: --image {}, or a pattern in quotes as the first argument")
    labels = [*labels, *(_read_labels(labels_file) if labels_file else ())]
    if not labels:
        raise click.UsageError(f"no labels; they follow the image, as in: clipc {command} photo.jpg dog cat")
    _refuse_empty_and_twice(labels, "label")
    return labels


def _read_labels(path):
    labels = [line.strip() for line in _read_lines(path) if line.strip()]
    if not labels:
        raise click.ClickException(f"{path}: no labels in this file, expected one a line")
    return labels


def _refuse_images(texts, what, hint):
    """Refuse a list of texts that holds an image file; in `hint` its name stands for {}."""
    for text in texts:
        if _looks_like_image(text) and os.path.isfile(text):
            raise click.UsageError(
                f"{text!r} stands where a {what} is expected, and is an image file; {hint.format(text)}"
            )


def _refuse_empty_and_twice(texts, what):
    seen = set()
    for text in texts:
        if not text.strip():
            raise click.UsageError(f"a {what} is empty")
        if text in seen:
            raise click.UsageError(f"the {what} {text!r} is given more than once")
        seen.add(text)


class _TextPrinter:
    """A line for each image, as soon as it is known."""

    def __init__(self, sources, labels, single):
        self.single = single
        # Columns, unless one long name would push all the others out of sight.
        widest = max((columns(_printable(source.name)) for source in sources), default=0)
        self.name_width = min(widest, 48)
        widest = max(columns(_printable(label)) for label in labels) + len(": 100.00%")
        self.cell_width = widest if widest <= 28 else 0

    def add(self, name, prediction):
        if self.single:
            click.echo(_printable(prediction.as_line()))
            return
        cells = [_printable(f"{label}: {100 * p:.2f}%") for label, p in prediction.items()]
        line = [pad(_printable(name), self.name_width), *(pad(cell, self.cell_width) for cell in cells)]
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
        _print_json(self.document)


_json_indented = functools.partial(json.dumps, indent=2)


def _print_json(document, dumps=_json_indented):
    text = dumps(document, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8, or a terminal that is not
        text = dumps(document)
    click.echo(text)


# --- clipc explain -----------------------------------------------------------------------------------

# By the ending of the file's name: Pillow's format, its options, and the longest side that it can hold.
_PICTURE_FORMATS = {
    ".png": ("PNG", {}, None),
    ".jpg": ("JPEG", {"quality": 92, "subsampling": 0}, 65535),
    ".jpeg": ("JPEG", {"quality": 92, "subsampling": 0}, 65535),
    ".webp": ("WEBP", {"quality": 92}, 16383),
    ".bmp": ("BMP", {}, None),
    ".tif": ("TIFF", {}, None),
    ".tiff": ("TIFF", {}, None),
}

# A map of fewer cells on a side shows little; and the cells on a side that the note proposes.
_COARSE_GRID, _FINER_GRID = 4, 7

# How the library calls what these options set, in the messages of its errors.
_OPTION_OF_ARGUMENT = {
    "method": "--method", "layer": "--layer", "score": "--score", "blocks": "--blocks",
    "image_size": "--image-size", "colormap": "--colormap", "font": "--font",
    "threshold": "--threshold", "nms": "--nms", "max_detections": "--max-detections", "boxes": "--boxes",
    "background": "--background", "templates": "--template", "batch_size": "--batch-size",
}  # fmt: skip

_SCORE_FORMATS = {
    "logit": "logit {:.2f}",
    "cosine": "cosine {:.4f}",
    "dot": "dot product {:.2f}",
    "probability": "probability {:.2%}",
}


class _SectionedCommand(click.Command):
    """A command with so many options that its help shows them in sections.

    Parameters
    ----------
    sections : dict of str to str
        The name of the parameter that a section begins with, to the title of the section.
    """

    def __init__(self, *arguments, sections, **options):
        super().__init__(*arguments, **options)
        self.sections = sections

    def format_options(self, ctx, formatter):
        found = []
        for parameter in self.get_params(ctx):
            # Arguments are explained in the text.
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record:
                if parameter.name in self.sections:
                    found.append((self.sections[parameter.name], []))
                found[-1][1].append(record)
        for title, records in found:
            with formatter.section(title):
                formatter.write_dl(records)


def _complete_colormap(ctx, parameter, incomplete):
    return [name for name in colormaps.names() if name.startswith(incomplete)]


# fmt: off
@main.command(cls=_SectionedCommand, sections={
    "output": "Result", "method": "What is computed", "opacity": "The picture", "model": "Other options",
})
@click.argument("image", type=click.Path(allow_dash=True))
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("-o", "--output", metavar="FILE", type=click.Path(),
              help="File to write: a picture (.png, .jpg, .webp, .bmp or .tif), or the maps as an array for "
                   "numpy.load (.npy): float32 (maps, height, width), 0 to 1.")
@click.option("--difference", is_flag=True,
              help="One map for two TEXTs: where the picture speaks for the first rather than the second.")
@click.option("--words", is_flag=True, help="Also print which words of each TEXT carried its score.")
@click.option("--raw", is_flag=True,
              help="With .npy: the signed values on the grid of the model, (maps, rows, columns), unscaled.")
@_json_option
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
@click.option("--method", type=click.Choice(list(cam.METHODS)), metavar="NAME", default="gradcam",
              help="How the map is computed, see above. Default: gradcam.")
@click.option("--layer", metavar="LAYER",
              help="Layer that the *cam methods look at. ResNets: layer1 to layer4, or a block of one, such "
                   "as layer3.1; default layer4. Vision transformers: a block, 0, 1, ..., or from the end "
                   "-1, -2, ...; default -1.")
@click.option("--score", type=click.Choice(cam.SCORES), default=None,
              help="What is explained: logit (default), the cosine behind it, the dot product of the "
                   "features, or the probability of the TEXT among all TEXTs and those of --label.")
@click.option("--label", "more_labels", metavar="TEXT", multiple=True,
              help="One more text to tell the TEXTs from, without a map of its own: for --score probability "
                   "and --method surgery. May be repeated.")
@click.option("-l", "--labels-file", metavar="FILE", type=click.Path(allow_dash=True),
              help="Take such texts from a file, one a line; '-' for standard input.")
@click.option("-t", "--template", "templates", metavar="TEXT", multiple=True, callback=_check_template,
              help='Sentence around each text, with {} in its place, such as "a photo of a {}.".')
@click.option("--blocks", type=click.Choice(["all", "last"]), default=None,
              help="Transformer blocks that count for --method relevance and for --words. Default: all.")
@click.option("--image-size", type=click.IntRange(min=1), metavar="PIXELS",
              help="Side of the square that the model sees. Larger than it was trained with gives a finer "
                   "map, from a model that is less sure. Default: the model's own.")
@click.option("--fit", type=click.Choice(images.FITS), default="crop",
              help="How the image becomes a square: its centre (crop, default), all of it squashed, or all "
                   "of it with margins (pad).")
@click.option("--opacity", type=click.FloatRange(0, 1), metavar="NUMBER",
              help="Opacity of the colours where the map is strong. Default: 0.6.")
@click.option("--fade/--no-fade", default=None,
              help="Leave the photograph clear where the map is weak (default), or tint all of it.")
@click.option("--colormap", metavar="NAME", shell_complete=_complete_colormap,
              help=f"{', '.join(colormaps.names())}; with matplotlib installed any that it knows. "
                   f"Default: {colormaps.SEQUENTIAL}, for --difference {colormaps.DIVERGING}.")
@click.option("--original/--no-original", default=None, help="Show the photograph alone, too, as the first.")
@click.option("--captions/--no-captions", default=None,
              help="Write the TEXTs above the maps. Default: when there is more than one panel.")
@click.option("--colorbar/--no-colorbar", default=None,
              help="Draw a colour bar beneath. Default: when there is more than one panel, or --difference.")
@click.option("--columns", type=click.IntRange(min=1), metavar="N",
              help="Panels in a row. Default: up to four.")
@click.option("--size", type=click.IntRange(min=1), metavar="PIXELS",
              help="Longest side of a panel. Default: 1024; without captions and bar, as large as the image.")
@click.option("--font", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
              help="TrueType or OpenType font for the captions. Default: one that has their characters.")
@click.option("--font-size", type=click.FloatRange(1, 1000), metavar="PIXELS",
              help="Of the captions. Default: it grows with the panels.")
@_computing_options()
def explain(image, texts, output, difference, words, raw, as_json, force, method, layer, score, more_labels,
            labels_file, templates, blocks, image_size, fit, model, exif, threads, quiet, **drawing):
    """Show which parts of a picture speak for a text, as heat maps.

    IMAGE is a file, or '-' for standard input. Each TEXT gets a map of its own, and a line that says its
    score and where in the image, in pixels (x, y), its map is strongest.

    \b
      clipc explain photo.jpg dog -o cam.png
      clipc explain photo.jpg dog "a green lawn" -o cam.png --original
      clipc explain photo.jpg dog cat --difference -o dog-or-cat.png
      clipc explain photo.jpg "a dog on a green lawn" --words
      clipc explain photo.jpg dog -o maps.npy --image-size 224 --method layercam
      clipc explain photo.jpg dog --score probability --label cat --label bird --json

    \b
    Methods:
      gradcam    channels of a layer, weighted with their mean gradient
      gradcam++  as gradcam, with weights that do justice to several objects of a kind
      layercam   each place weighted with its own gradient, where that is positive
      hirescam   each place weighted with its own gradient
      eigencam   what stands out in a layer, whatever the text: takes no TEXT
      scorecam   channels weighted with the score of the picture seen through them; slow
      gscorecam  as scorecam, for the 300 channels with the largest gradients
      maskclip   each place compared with the text
      surgery    as maskclip, without what all texts have in common (CLIP Surgery)
      sclip      as maskclip, with attention between similar places; vision transformers only
      relevance  attention weighted with its gradients; vision transformers only
      rollout    attention, whatever the text: takes no TEXT; vision transformers only

    A heat map shows what moved the score. It does not prove that the model recognised anything there.
    """
    drawing = {name: value for name, value in drawing.items() if value is not None}
    _check_explain_call(output, words or as_json, raw, drawing)
    _check_texts(texts, method, difference, of_texts={
        "--score": score, "--label": more_labels, "--labels-file": labels_file, "--template": templates,
        "--words": words,
    })
    if len(templates) > 1:
        raise click.UsageError("--template is given more than once; explain knows no prompt ensembles")
    score = score or "logit"
    labels = _labels_to_tell_from(texts, more_labels, labels_file, score, method, image)
    if blocks and not (cam.METHODS[method].blocks or words):
        raise click.UsageError("--blocks is for --method relevance and for --words")
    source = _find_one_image(image)
    if output:
        _check_explain_output(output, source, force, drawing)

    loaded = _load_model(model, threads)
    for template in templates:
        texts, labels = ([template.replace("{}", text) for text in group or ()] for group in (texts, labels))
    pixels = _read_pixels(source, exif)
    with _wrong_options_named():
        answer = _explain(
            loaded, pixels, list(texts), difference=difference, words=words, labels=labels or None,
            method=method, layer=layer, score=score, blocks=blocks or "all", image_size=image_size, fit=fit,
            # The maps of a large photograph are large, and only files need them.
            raw=raw or not output, progress=not quiet and sys.stderr.isatty(),
        )
        if not quiet:
            _note_coarse_grid(loaded, answer.maps)
        if output:
            _write_explanation(output, pixels, answer, drawing)
    if as_json:
        _print_json({
            "model": loaded.name, "path": source.name, "width": pixels.shape[1], "height": pixels.shape[0],
            "method": method, "layer": answer.maps.layer, "score": answer.maps.score,
            "labels": list(labels) if labels else None, "difference": difference,
            "image_size": image_size or loaded.image_size, "fit": fit,
            "seen_box": list(answer.maps.seen_box), "grid": list(answer.maps.grid.shape[-2:]),
            "texts": answer.as_dicts(), "output": output,
        })
    else:
        answer.print(pixels.shape)
# fmt: on


def _check_explain_call(output, prints, raw, drawing):
    """Refuse a call without a result, and options that do not go with the result."""
    if not output and not prints:
        raise click.UsageError("no result is asked for; name a file with -o, or use --words or --json")
    suffix = os.path.splitext(output or "")[1].lower()
    if output and suffix != ".npy" and suffix not in _PICTURE_FORMATS:
        known = ", ".join(_PICTURE_FORMATS)
        raise click.UsageError(f"{output}: expected a name that ends with {known} or .npy")
    if raw and suffix != ".npy":
        raise click.UsageError("--raw is for arrays; name a file that ends with .npy with -o")
    if drawing and suffix not in _PICTURE_FORMATS:
        option = f"--{next(iter(drawing)).replace('_', '-')}"
        raise click.UsageError(f"{option} is for pictures; name one with -o, such as cam.png")


def _check_texts(texts, method, difference, of_texts):
    """Refuse wrong texts; for a method without them also the options `of_texts` (name to value)."""
    _refuse_images(texts, "text", "explain takes one image at a time")
    if not cam.METHODS[method].text:
        if texts:
            raise click.UsageError(f"--method {method} does not depend on a text, so it takes none")
        for option in (option for option, value in of_texts.items() if value):
            raise click.UsageError(f"{option} is for texts, and --method {method} takes none")
    elif not texts:
        example = "clipc explain photo.jpg dog -o cam.png"
        raise click.UsageError(f"no texts; they follow the image, as in: {example}")
    _refuse_empty_and_twice(texts, "text")
    if difference and len(texts) != 2:
        raise click.UsageError(f"--difference compares two texts, got {len(texts)}")


def _labels_to_tell_from(texts, more, path, score, method, image):
    """What grad_cam takes as labels: the texts and those beside them, or None."""
    if not (more or path):
        if score != "probability":
            return None  # surgery takes the texts themselves
        if len(texts) < 2:
            raise click.UsageError(
                "--score probability compares texts; give two or more, or others with --label"
            )
        return list(texts)
    if score != "probability" and method != "surgery":
        raise click.UsageError("--label and --labels-file are for --score probability and --method surgery")
    if path == STANDARD_INPUT == image:
        raise click.UsageError("standard input can hold the image or the labels, not both")
    if not all(label.strip() for label in more):
        raise click.UsageError("a label is empty")
    # A file of all labels may well hold the texts, too.
    labels = list(dict.fromkeys([*texts, *more, *(_read_labels(path) if path else ())]))
    if len(labels) < 2:
        raise click.UsageError("--label and --labels-file add nothing to the one text")
    return labels


def _find_one_image(argument):
    if os.path.isdir(os.path.expanduser(argument)):
        raise click.UsageError(f"{argument}: is a folder; explain takes one image at a time")
    sources = _find_images([argument], recursive=False, missing_ok=False)
    if len(sources) > 1:
        raise click.UsageError(f"{argument}: {len(sources)} images; explain takes one at a time")
    return sources[0]


def _check_explain_output(path, source, force, drawing):
    """Find out before the work what would only show after it."""
    _check_is_no_image(path, source)
    _check_output(path, force)
    _check_picture_format(path)
    if "colormap" in drawing or "font" in drawing:
        import numpy as np

        with _wrong_options_named():
            blank = np.zeros((8, 8, 3), np.uint8)
            _draw(blank, np.zeros((8, 8), np.float32), ["-"], {**drawing, "captions": True})


def _check_is_no_image(path, source):
    if isinstance(source.image, str) and os.path.exists(path) and os.path.samefile(path, source.image):
        raise click.UsageError(f"{path}: is the image itself")


def _check_picture_format(path):
    if path.lower().endswith(".webp"):
        from PIL import features

        if not features.check("webp"):
            raise click.ClickException(f"{path}: the Pillow that is installed cannot write WebP")


def _note_coarse_grid(model, maps):
    height, width = maps.grid.shape[-2:]
    if min(height, width) < _COARSE_GRID:
        finer = _FINER_GRID * (model.config.vision_patch_size or 32)
        _note(f"the map's grid is only {width} x {height} cells; --image-size {finer} makes it finer")


def _read_pixels(source, exif):
    """The image as uint8 (H, W, 3): read once, for the map, the score and the picture."""
    try:
        return images.to_rgb(source.image, exif=exif)
    except (ClipcError, OSError, ValueError) as error:
        raise click.ClickException(f"{source.name}: {_why_unreadable(source, error)}") from error


@contextlib.contextmanager
def _wrong_options_named():
    """Turn the library's messages about an argument into messages about the option that sets it."""
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        name, separator, rest = str(error).partition(": ")
        if not separator or name not in _OPTION_OF_ARGUMENT:
            raise
        raise click.UsageError(f"{_OPTION_OF_ARGUMENT[name]}: {rest}") from error


class _Explanation(NamedTuple):
    """What `explain` found out.

    Attributes
    ----------
    maps : clipc.HeatMap
        (H, W) for a difference and for a method without texts, else (N, H, W); or their grids.
    texts : list of str
    values : list of float
        The scores that are explained, one for each text.
    peaks : list of (float, float) or None
        Where the picture speaks most for each text (of the two of a difference: rather than for the other),
        in pixels; None where it does nowhere. One for a method without texts.
    words : list of clipc.WordRelevance or None
    """

    maps: clipc.HeatMap
    texts: list
    values: list
    peaks: list
    words: list | None

    @property
    def is_difference(self):
        return len(self.texts) == 2 and self.maps.grid.ndim == 2

    def as_dicts(self):
        """An entry for each text, or one for a method without texts."""
        entries = []
        for index, peak in enumerate(self.peaks):
            entry = {"text": None, "value": None, "peak": None if peak is None else list(peak)}
            if self.texts:
                entry.update(text=self.texts[index], value=self.values[index])
            if self.words:
                entry["words"] = [{"word": word, "relevance": r} for word, r in self.words[index]]
            entries.append(entry)
        return entries

    def print(self, shape):
        """A line for each text, and beneath it one for each word."""
        strongest, nowhere = "strongest at", "no place speaks for it"
        if self.is_difference:
            strongest, nowhere = "furthest ahead at", "ahead nowhere"
        for index, peak in enumerate(self.peaks):
            where = nowhere if peak is None else f"{strongest} {_place(peak, shape)}"
            name = self.maps.method
            if self.texts:
                name = self.texts[index]
                where = f"{_SCORE_FORMATS[self.maps.score].format(self.values[index])}, {where}"
            click.echo(_printable(f"{name}: {where}"))
            if self.words:
                for line in str(self.words[index]).splitlines():
                    click.echo(_printable(f"  {line}"))


def _place(peak, shape):
    x, y = peak
    outside = not (0 <= x <= shape[1] and 0 <= y <= shape[0])
    return f"({x:.0f}, {y:.0f}){', in the margin outside of the image' if outside else ''}"


def _explain(
    model, pixels, texts, *, difference, words, method, score, labels, blocks, image_size, fit, **options
):
    """Maps, scores and words of one picture, uint8 (H, W, 3): an `_Explanation`."""
    seen_as = {"image_size": image_size, "fit": fit}
    options.update(method=method, score=score, labels=labels, **seen_as)
    if cam.METHODS[method].blocks:
        options["blocks"] = blocks
    if not texts:
        maps = model.grad_cam(pixels, None, **options)
    elif difference:
        maps = model.difference_map(pixels, *texts, **options)
    else:
        maps = model.grad_cam(pixels, texts, **options)
    values, relevance = [], None
    if texts:
        scored = {"score": score, "labels": labels if score == "probability" else None}
        features = cam.image_features(model, pixels, **seen_as)
        values = cam.score_values(model, features, texts, **scored)
        if words:
            relevance = [cam.word_relevance(model, features, text, blocks=blocks, **scored) for text in texts]
    grids = [maps.grid, -maps.grid] if difference else maps.grid.reshape(-1, *maps.grid.shape[-2:])
    peaks = [maps.cell_centre(grid) if grid.max() > 0 else None for grid in grids]
    return _Explanation(maps, texts, [float(value) for value in values], peaks, relevance)


def _write_explanation(path, pixels, answer, drawing):
    import numpy as np

    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".npy":
        maps = np.asarray(answer.maps)
        with _written_together([path]) as files:
            np.save(_OnlyWrites(files[0]), maps.reshape(-1, *maps.shape[-2:]))
        return
    names = [answer.maps.method]
    if answer.texts:
        names = ["{} (+) vs. {} (-)".format(*answer.texts)] if answer.is_difference else answer.texts
    if answer.is_difference:
        drawing = {"colorbar": True, **drawing}  # without it nothing says which colour is which text's
    _write_picture(path, _draw(pixels, answer.maps, names, drawing))


def _write_picture(path, picture):
    form, options, longest = _PICTURE_FORMATS[os.path.splitext(path)[1].lower()]
    if longest and max(picture.size) > longest:
        raise click.ClickException(
            f"{path}: {form} holds at most {longest} pixels on a side, got {picture.width} x "
            f"{picture.height}; --size makes it smaller, and PNG has no such limit"
        )
    # Pillow would tell a full disk as "encoder error -2", so it writes to memory.
    encoded = io.BytesIO()
    picture.save(encoded, form, **options)
    with _written_together([path]) as files:
        files[0].write(encoded.getbuffer())


def _draw(pixels, maps, names, drawing):
    drawing = dict(drawing)
    captions = drawing.pop("captions", None)
    labels = "auto" if captions is None else names if captions else None
    return clipc.overlay(pixels, maps, labels=labels, **drawing)


# --- clipc detect ------------------------------------------------------------------------------------

_DETECTION_METHODS = ("auto", "windows", "dense", "proposals", "owl")

# The widest coordinate that keeps the columns of many images straight: five digits before the point.
_COORDINATE_WIDTH = 7


def _parse_nms(ctx, parameter, value):
    if value in (None, "soft", "none"):
        return value
    return click.FloatRange(0, 1).convert(value, parameter, ctx)


# fmt: off
@main.command(cls=_SectionedCommand, sections={
    "more": "Input", "output": "Result", "method": "How objects are found", "model": "Other options",
})
@click.argument("image", type=click.Path(allow_dash=True))
@click.argument("labels", nargs=-1)
@click.option("-i", "--image", "more", multiple=True, metavar="IMAGE", type=click.Path(allow_dash=True),
              help="One more image, folder or pattern. May be repeated.")
@click.option("-l", "--labels-file", metavar="FILE", type=click.Path(allow_dash=True),
              help="Take labels from a text file, one a line; '-' for standard input.")
@click.option("-o", "--output", "outputs", multiple=True, metavar="FILE_OR_FOLDER", type=click.Path(),
              help="What to write: a picture with the boxes (.png, .jpg, .webp, .bmp or .tif), a folder for "
                   "the pictures of several images, or a list of the boxes of all images (.csv or .json). "
                   "May be repeated.")
@_json_option
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@click.option("--font", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
              help="TrueType or OpenType font for the captions. Default: one that has their characters.")
@click.option("--font-size", type=click.FloatRange(1, 1000), metavar="PIXELS",
              help="Of the captions. Default: it grows with the picture.")
@click.option("--size", type=click.IntRange(min=1), metavar="PIXELS",
              help="Longest side of the pictures. Default: that of the image.")
@click.option("--method", type=click.Choice(_DETECTION_METHODS), metavar="NAME", default=None,
              help="See above. Default: auto; with --boxes, proposals.")
@click.option("--threshold", type=click.FloatRange(0, 1), metavar="NUMBER",
              help="Least score of a box. Default: 0.4; for owl 0.1.")
@click.option("--nms", metavar="NUMBER", callback=_parse_nms,
              help="Of boxes with one label that overlap by more than this (intersection over union, 0 to 1) "
                   "only the best stays; 'soft' lowers the scores of the others, 'none' keeps all. Default: "
                   "0.5; for owl none.")
@click.option("--max-detections", type=click.IntRange(min=1), metavar="N",
              help="Most boxes of an image, the best ones. Default: 100.")
@click.option("--clip", is_flag=True, help="Cut the boxes of owl off at the edge of the image.")
@click.option("-t", "--template", "templates", multiple=True, metavar="TEXT", callback=_check_template,
              help='Sentence around each label, with {} in its place, such as "a photo of a {}.". Repeated: '
                   "the average over all sentences (a prompt ensemble).")
@click.option("--background", multiple=True, metavar="TEXT",
              help='What else may be in the image, such as "grass": a place that fits it better than the '
                   "LABELS is no object. May be repeated. Default: some words for what is often there.")
@click.option("--boxes", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
              help="Regions to choose from, in pixels. JSON: a list of [x0, y0, x1, y1], or an object from "
                   "image to such a list. CSV: columns x0, y0, x1, y1, and image if there are several.")
@click.option("--image-size", type=click.IntRange(min=1), metavar="PIXELS",
              help="Side of the squares that the model sees; for dense, the shorter side of the image. "
                   "Default: the model's own; for dense twice that, and at least 224.")
@_computing_options(f"Regions encoded at the same time. Default: {DEFAULT_BATCH_SIZE}.")
def detect(image, labels, more, labels_file, outputs, as_json, force, method, threshold, nms, max_detections,
           clip, templates, background, boxes, image_size, model, exif, recursive, skip_unreadable,
           batch_size, threads, quiet, **style):
    """Find objects in pictures by their names.

    IMAGE is a file, a folder (all images in it), a pattern in quotes, or '-' for standard input.
    Everything after it is a label.

    \b
      clipc detect street.jpg car "traffic light" dog -o boxes.png
      clipc detect photos/ dog cat -o found/ -o found.csv
      clipc detect "photos/*.jpg" --labels-file labels.txt -o found.json --quiet
      clipc detect street.jpg car --threshold 0.5 --template "a photo of a {}." --json
      clipc detect street.jpg car --boxes regions.csv
      curl -s https://example.org/photo.jpg | clipc detect - dog cat

    \b
    Methods:
      auto       owl for a model that can, else windows
      windows    windows of several sizes over the image, each compared with the labels
      dense      one look at the image, each place compared with the labels: quick, and coarse
      proposals  the regions of --boxes, or some found by dense, each compared with the labels
      owl        the detection head of OWL-ViT and OWLv2 models

    A box is (x0, y0, x1, y1) in pixels of the image, from its upper left corner. The list in JSON has the
    form of COCO's annotations: bbox is [x, y, width, height]. A score says how well a label fits compared
    with the other LABELS and the background; that of owl stands by itself.
    """
    style = {name: value for name, value in style.items() if value is not None}
    if STANDARD_INPUT == labels_file and STANDARD_INPUT in (image, *more):
        raise click.UsageError("standard input can hold the image or the labels, not both")
    if boxes and method not in (None, "auto", "proposals"):
        raise click.UsageError(f"--boxes is for --method proposals, not for {method}")
    if not all(text.strip() for text in background):
        raise click.UsageError("a text of --background is empty")
    labels = _collect_labels(labels, labels_file, "detect")
    arguments = (image, *more)
    outputs = _DetectionOutputs(outputs)
    if style and not outputs.draws:
        option = f"--{next(iter(style)).replace('_', '-')}"
        raise click.UsageError(f"{option} is for pictures; name one with -o, such as boxes.png")
    sources = _find_images(arguments, recursive=recursive, missing_ok=skip_unreadable)
    outputs.check(sources, force, style)
    proposals = _proposals_of(sources, boxes) if boxes else None
    loaded = _load_model(model, threads)

    options = {
        "threshold": threshold, "max_detections": max_detections, "image_size": image_size,
        "batch_size": batch_size, "templates": templates or None, "background": list(background) or None,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if nms is not None:
        options["nms"] = None if nms == "none" else nms
    options.update(method="proposals" if boxes else method or "auto", clip=clip)
    watched = not quiet and sys.stderr.isatty()
    record = _DetectionRecord(loaded.name, labels, templates or ("{}",), background)
    single = len(arguments) == 1 and len(sources) == 1 and sources[0].name in (image, "standard input")
    printer = None if as_json else _DetectionPrinter(sources, labels, single)
    # Lines tell the progress, unless they go elsewhere.
    with _progress_bar(len(sources), "image", watched and (as_json or not sys.stdout.isatty())) as bar:
        for index, source in enumerate(sources):
            try:
                pixels = _read_pixels(source, exif)
            except click.ClickException as error:
                if not skip_unreadable:
                    raise
                _note(f"skipped {error.message}")
                record.skip(source.name, error.message.removeprefix(f"{source.name}: "))
                bar.update(1)
                continue
            if proposals:
                options["boxes"] = proposals[index]
            with _wrong_options_named():
                found = loaded.detect(pixels, labels, progress=watched and len(sources) == 1, **options)
            record.add(source.name, found)
            outputs.write_pictures(index, pixels, found, style)
            if printer:
                printer.add(source.name, found)
            bar.update(1)
    if not record.document["images"]:
        raise click.ClickException("none of the images could be read")
    outputs.write_lists(record)
    if as_json:
        _print_json(record.document, _json_by_lines)
# fmt: on


class _DetectionOutputs:
    """The files that `detect` writes: pictures one by one, lists at the end.

    Parameters
    ----------
    paths : sequence of str
        As the user gave them; by their names they are a picture, a folder of pictures, JSON or CSV.
    """

    def __init__(self, paths):
        self.kinds = {}
        self.pictures = []  # for each image, the paths of its pictures
        for path in paths:
            suffix = os.path.splitext(path)[1].lower()
            if path.endswith(os.sep) or os.path.isdir(path) or not suffix:
                kind = "folder"
            elif suffix in _PICTURE_FORMATS:
                kind = "picture"
            elif suffix in (".json", ".csv"):
                kind = suffix
            else:
                known = ", ".join(_PICTURE_FORMATS)
                raise click.UsageError(
                    f"{path}: expected a name that ends with {known}, .json or .csv, or a folder"
                )
            if kind in self.kinds:
                raise click.UsageError(f"-o names two of a kind, {self.kinds[kind]} and {path}")
            self.kinds[kind] = path

    @property
    def draws(self):
        return "picture" in self.kinds or "folder" in self.kinds

    def check(self, sources, force, style):
        """Find out before the work what would only show after it."""
        self.pictures = [[] for _ in sources]
        if "picture" in self.kinds:
            if len(sources) > 1:
                raise click.UsageError(
                    f"{self.kinds['picture']}: one picture for {len(sources)} images; name a folder instead, "
                    "such as found/"
                )
            self.pictures[0].append(self.kinds["picture"])
        if "folder" in self.kinds:
            self._check_folder(self.kinds["folder"])
            for paths, path in zip(self.pictures, _pictures_in(self.kinds["folder"], sources)):
                paths.append(path)
        originals = {os.path.realpath(source.image) for source in sources if isinstance(source.image, str)}
        for path in (path for paths in self.pictures for path in paths):
            if os.path.realpath(path) in originals:
                raise click.UsageError(f"{path}: is one of the images; name another place for the pictures")
            # In a folder that is to be made, nothing is in the way.
            if path == self.kinds.get("picture") or os.path.isdir(os.path.dirname(path)):
                _check_output(path, force)
            _check_picture_format(path)
        for path in self._lists():
            _check_output(path, force)
        if "font" in style:
            import numpy as np

            from clipc.drawing import draw_boxes

            with _wrong_options_named():
                draw_boxes(np.zeros((64, 64, 3), np.uint8), [Detection("-", 1, (0, 0, 64, 64))], **style)

    def _check_folder(self, path):
        path = path.rstrip(os.sep) or os.sep
        if not os.path.isdir(path):
            if os.path.lexists(path):
                raise click.ClickException(f"{path}: is a file, expected a folder")
            _check_output(path, force=False)

    def _lists(self):
        return [self.kinds[kind] for kind in (".json", ".csv") if kind in self.kinds]

    def write_pictures(self, index, pixels, found, style):
        if self.pictures[index]:
            from clipc.drawing import draw_boxes

            picture = draw_boxes(pixels, found, **style)
            for path in self.pictures[index]:
                if path != self.kinds.get("picture"):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                _write_picture(path, picture)

    def write_lists(self, record):
        contents = {".json": record.as_json, ".csv": record.as_csv}
        with _written_together(self._lists()) as files:
            for path, file in zip(self._lists(), files):
                file.write(contents[os.path.splitext(path)[1].lower()]())


def _pictures_in(folder, sources):
    """The path of the picture of each image: in `folder` as the images lie in the folder that holds all."""
    originals = [
        "standard-input.png" if isinstance(source.image, bytes) else source.image for source in sources
    ]
    places = [os.path.abspath(path) for path in originals]
    common = os.path.commonpath([os.path.dirname(place) for place in places])
    paths = {}
    for source, place in zip(sources, places):
        path = os.path.join(folder, os.path.relpath(place, common))
        if os.path.splitext(path)[1].lower() not in _PICTURE_FORMATS:
            path += ".png"
        if path in paths:
            raise click.UsageError(
                f"{path}: would be the picture of both {paths[path]} and {source.name}; give each image once"
            )
        paths[path] = source.name
    return list(paths)


def _json_by_lines(document, **options):
    """JSON of a dict with a line for each dict in its lists: there may be many thousands."""
    dumps = functools.partial(json.dumps, **options)
    members = []
    for name, value in document.items():
        text = dumps(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n    " + ",\n    ".join(map(dumps, value)) + "\n  ]"
        members.append(f"  {dumps(name)}: {text}")
    return "{\n" + ",\n".join(members) + "\n}"


class _DetectionRecord:
    """What was found in all images, as one document in the form of COCO's, and as rows."""

    def __init__(self, model, labels, templates, background):
        self.category_ids = {label: i for i, label in enumerate(labels, 1)}
        self.document = {
            "model": model, "method": None, "templates": list(templates),
            "background": list(background) or None,
            "categories": [{"id": i, "name": label} for label, i in self.category_ids.items()],
            "images": [], "annotations": [], "skipped": [],
        }  # fmt: skip
        self.rows = []

    def add(self, name, found):
        self.document["method"] = found.method
        images, annotations = self.document["images"], self.document["annotations"]
        width, height = found.image_size
        images.append({"id": len(images) + 1, "path": name, "width": width, "height": height})
        for detection, entry in zip(found, found.to_coco(len(images), self.category_ids)):
            annotations.append({"id": len(annotations) + 1, "label": detection.label, **entry})
        self.rows += ([name, *row.values()] for row in found.to_rows())

    def skip(self, name, reason):
        self.document["skipped"].append({"path": name, "reason": reason})

    def as_json(self):
        try:
            return (_json_by_lines(self.document, ensure_ascii=False) + "\n").encode()
        except UnicodeEncodeError:  # a file name that is not UTF-8
            return (_json_by_lines(self.document) + "\n").encode()

    def as_csv(self):
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "label", "score", "x0", "y0", "x1", "y1"])
        for name, label, score, *box in self.rows:
            writer.writerow([name, label, f"{score:.6g}", *(f"{side:.2f}" for side in box)])
        return text.getvalue().encode("utf-8", "surrogateescape")


class _DetectionPrinter:
    """A table for a single image; of several, a line for each detection as soon as it is known."""

    def __init__(self, sources, labels, single):
        self.single = single
        self.name_width = min(max((columns(_printable(source.name)) for source in sources), default=0), 48)
        self.label_width = min(max(columns(_printable(label)) for label in labels), 32)

    def add(self, name, found):
        if self.single:
            for line in found.as_table().split("\n"):
                click.echo(_printable(line))
            return
        name = pad(_printable(name), self.name_width)
        for detection in found:
            label = pad(_printable(detection.label), self.label_width)
            box = " ".join(f"{side:.1f}".rjust(_COORDINATE_WIDTH) for side in detection.box)
            click.echo(f"{name}  {label}  {detection.score:.3f}  {box}")
        if not found:
            click.echo(f"{name}  no detections")


def _proposals_of(sources, path):
    """The regions of each image, from a file: a list of float32 arrays (N, 4)."""
    import numpy as np

    regions = _read_regions(path)
    if not isinstance(regions, dict):
        if len(sources) > 1:
            raise click.UsageError(
                f"--boxes: {path} does not say which image its boxes are of, and there are {len(sources)}"
            )
        regions = {sources[0].name: regions}
    found = []
    for source in sources:
        boxes = regions.get(source.name, regions.get(os.path.basename(source.name)))
        if not boxes:
            raise click.ClickException(f"{path}: no boxes of the image {source.name}")
        found.append(np.array(boxes, np.float32))
    return found


def _read_regions(path):
    """[(x0, y0, x1, y1)] of a JSON or CSV file; a dict from image to such lists where it names images."""
    lines = _read_lines(path)
    if path.lower().endswith(".csv"):
        return _regions_of_rows(path, csv.reader(lines))
    try:
        document = json.loads("\n".join(lines))
    except ValueError as error:
        raise click.ClickException(f"{path}: expected JSON, or a name that ends with .csv: {error}") from None
    if not isinstance(document, dict):
        return _regions_of_list(path, "boxes", document)
    return {image: _regions_of_list(path, image, boxes) for image, boxes in document.items()}


def _regions_of_list(path, what, boxes):
    if not isinstance(boxes, list):
        raise click.ClickException(f"{path}: {what}: expected a list of boxes [x0, y0, x1, y1]")
    return [_region(f"{path}: {what}, box {i}", box) for i, box in enumerate(boxes, 1)]


def _regions_of_rows(path, reader):
    wanted, regions, named = None, {}, False
    for cells in reader:
        where = f"{path}: line {reader.line_num}"
        if not any(cell.strip() for cell in cells):
            continue
        if wanted is None:
            head = [cell.strip().lower() for cell in cells]
            wanted = {name: head.index(name) for name in ("image", "x0", "y0", "x1", "y1") if name in head}
            named = "image" in wanted
            if len(wanted) - named == 4:
                continue
            if wanted or len(cells) != 4:
                raise click.ClickException(
                    f"{where}: expected the columns x0, y0, x1, y1, and perhaps image, got {', '.join(cells)}"
                )
            wanted = {"x0": 0, "y0": 1, "x1": 2, "y1": 3}
        if len(cells) <= max(wanted.values()):
            raise click.ClickException(
                f"{where}: expected {max(wanted.values()) + 1} columns, got {len(cells)}"
            )
        image = cells[wanted["image"]] if named else None
        region = _region(where, [cells[wanted[name]] for name in ("x0", "y0", "x1", "y1")])
        regions.setdefault(image, []).append(region)
    return regions if named else regions.get(None, [])


def _region(where, box):
    try:
        x0, y0, x1, y1 = (float(side) for side in box)
    except (TypeError, ValueError):
        raise click.ClickException(f"{where}: expected four numbers x0, y0, x1, y1, got {box}") from None
    if not (math.isfinite(x0 + y0 + x1 + y1) and x0 < x1 and y0 < y1):
        raise click.ClickException(f"{where}: expected x0 < x1 and y0 < y1, got {box}")
    return x0, y0, x1, y1


# --- clipc embed -------------------------------------------------------------------------------------


# fmt: off
@main.command()
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
@_computing_options(
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
        _check_output(path, force)

    import numpy as np

    inputs = list(inputs) + (_read_lines(from_file) if from_file else [])
    if texts:
        if not inputs:
            raise click.ClickException("no texts: the file is empty")
        rows = inputs
        _check_names(rows, names)
        loaded = _load_model(model, threads)
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
        sources = _find_images(inputs, recursive=recursive, missing_ok=skip_unreadable)
        if not sources:
            raise click.ClickException("no images: the file is empty")
        _check_names([source.name for source in sources], names)
        loaded = _load_model(model, threads)
        features = np.empty((len(sources), loaded.embed_dim), np.float32)
        rows = []
        batches = _encode_images(
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
    with _written_together([output, names] if names else [output]) as files:
        np.save(_OnlyWrites(files[0]), features)
        if names:
            files[1].write(listing)
    if not quiet:
        kind = ("text" if texts else "image") + ("" if len(rows) == 1 else "s")
        beside = f", their names in {names}" if names else ""
        click.echo(_printable(f"{output}: {len(rows)} {kind}, {features.shape[1]} numbers each{beside}"))
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
    with _progress_bar(len(texts), "text", progress) as bar:
        for begin in range(0, len(texts), batch_size):
            batch = texts[begin : begin + batch_size]
            block = model.encode_text(batch, normalize=normalize, truncate=truncate)
            features[begin : begin + len(batch)] = block
            bar.update(len(batch))
    return features


def _check_output(path, force):
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


def _check_names(rows, names):
    """A list with a name on each line can only hold names that are one line."""
    if names:
        for row in rows:
            if "\n" in row or "\r" in row:
                raise click.ClickException(f"{row!r}: holds a line break, so --names cannot list it")


@contextlib.contextmanager
def _written_together(paths):
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


class _OnlyWrites:
    """A file that NumPy does not recognise as one, so that a full disk is not "9 requested and 7 written"."""

    def __init__(self, file):
        self.write = file.write


def _close(file):
    # What a full disk did not take was told when it was flushed; closing tries again, and fails again.
    with contextlib.suppress(OSError):
        file.close()


def _remove_if_there(path):
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


# --- clipc models ------------------------------------------------------------------------------------


# fmt: off
@main.command()
@_json_option
@_debug_option
def models(as_json):
    """List the models that clipc knows by name.

    \b
      clipc models
      clipc models --json
      clipc classify photo.jpg dog cat --model ViT-B/32

    A model of your own needs no name: --model takes the path of a .safetensors file, or of a folder.
    """
    from clipc import weights

    rows = []
    for entry in weights.ZOO.values():
        path = weights.cached_weights(entry)
        place = "not in the cache" if path is None else "embedded" if entry.repository is None else "cached"
        rows.append({
            "name": entry.name, "image_size": entry.image_size, "embed_dim": entry.embed_dim,
            "activation": entry.activation, "vision_heads": entry.vision_heads,
            "text_heads": entry.text_heads, "state": place, "path": None if path is None else str(path),
            "repository": entry.repository,
        })
    cache = str(weights.cache_folder())
    default = os.environ.get("CLIPC_MODEL") or "tiny"
    if as_json:
        _print_json({"default": default, "cache": cache, "models": rows})
        return
    _print_table(
        ["name", "image", "embedding", "where"],
        [
            [row["name"], f"{row['image_size']} x {row['image_size']}", str(row["embed_dim"]), row["state"]]
            for row in rows
        ],
    )
    click.echo()
    from_cache = "CLIPC_CACHE" if os.environ.get("CLIPC_CACHE") else "CLIPC_CACHE names another"
    from_model = "CLIPC_MODEL" if os.environ.get("CLIPC_MODEL") else "CLIPC_MODEL or --model names another"
    click.echo(f"Cache folder:  {_printable(cache)}  ({from_cache})")
    click.echo(f"Default model: {_printable(default)}  ({from_model})")
# fmt: on


def _print_table(head, rows):
    widths = [max(map(columns, column)) for column in zip(head, *rows)]
    for row in (head, *rows):
        click.echo("  ".join(map(pad, row, widths)).rstrip())


# --- clipc info --------------------------------------------------------------------------------------


# fmt: off
@main.command()
@click.argument("model", required=False, metavar="[FILE_OR_NAME]", shell_complete=_complete_model)
@_json_option
@_debug_option
def info(model, as_json):
    """Describe this computer, or a model.

    Without an argument: versions, processor, threads, folders. With a weight file, a folder or a name: the
    architecture and how it is stored. Only the head of the file is read, so large files take no longer.

    \b
      clipc info
      clipc info tiny
      clipc info model.safetensors --json
    """
    if model is None:
        if as_json:
            _print_json(clipc.show_config(mode="dicts"))
        else:
            _print_facts(clipc.show_config(mode="dicts"))
        return
    facts = _model_facts(model)
    if as_json:
        _print_json(facts)
    else:
        _print_facts(_in_words(facts))
# fmt: on


def _model_facts(name):
    """What the head of a weight file and the configuration beside it tell."""
    import dataclasses
    import math

    from clipc import weights

    config, state = weights.open_model(name)
    with state:
        stored = {}
        for tensor, dtype in state.dtypes.items():
            entry = stored.setdefault(dtype, {"tensors": 0, "numbers": 0})
            entry["tensors"] += 1
            entry["numbers"] += math.prod(state.shapes[tensor])
        return {
            **dataclasses.asdict(config),
            "file": str(state.path),
            "layout": state.layout,
            "parameters": sum(entry["numbers"] for entry in stored.values()),
            "stored_as": stored,
        }


_DTYPE_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_LAYOUT_NAMES = {"openai": "OpenAI's", "openclip": "OpenCLIP's", "huggingface": "Hugging Face's"}


def _in_words(facts):
    """The lines that `info` prints for a model: title to text."""
    origin = {key: f" (from: {source})" for key, source in facts["sources"].items()}
    if facts["vision"] == "vit":
        patch = facts["vision_patch_size"]
        tower = (
            f"vision transformer, {facts['vision_layers']} blocks of width {facts['vision_width']}, "
            f"MLP {facts['vision_mlp_width']}, patches of {patch} x {patch} pixels"
        )
    else:
        blocks = "-".join(map(str, facts["vision_layers"]))
        tower = f"ModifiedResNet, {blocks} blocks, width {facts['vision_width']}, attention pool"
    stored = ", ".join(
        f"{entry['tensors']} in {_DTYPE_NAMES.get(dtype, dtype)} ({entry['numbers']:,} numbers)"
        for dtype, entry in facts["stored_as"].items()
    )
    mean, deviation = (", ".join(f"{v:.4g}" for v in facts[key]) for key in ("image_mean", "image_std"))
    return {
        "name": facts["name"],
        "file": facts["file"],
        "tensor names": _LAYOUT_NAMES[facts["layout"]],
        "parameters": f"{facts['parameters']:,}",
        "tensors": stored,
        "embedding": f"{facts['embed_dim']} numbers for an image or a text",
        "image": f"{facts['image_size']} x {facts['image_size']} pixels",
        "image tower": tower,
        "detection head": {"owlvit": "OWL-ViT", "owlv2": "OWLv2"}.get(facts["detector"], "none"),
        "image heads": f"{facts['vision_heads']}{origin.get('vision_heads', '')}",
        "text": f"up to {facts['context_length']} tokens, vocabulary of {facts['vocab_size']:,}",
        "text tower": (
            f"transformer, {facts['text_layers']} blocks of width {facts['text_width']}, "
            f"MLP {facts['text_mlp_width']}"
        ),
        "text heads": f"{facts['text_heads']}{origin.get('text_heads', '')}",
        "activation": f"{facts['activation']}{origin.get('activation', '')}",
        "pixel mean": f"{mean}{origin.get('preprocessing', '')}",
        "pixel deviation": deviation,
    }


def _print_facts(facts):
    width = max(map(columns, facts))
    for title, text in facts.items():
        click.echo(f"{pad(title, width)}  {_printable(str(text))}")
