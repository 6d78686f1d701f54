"""The command line: ``clipc classify``, ``embed``, ``models`` and ``info``.

Results go to standard output, everything else (progress, notes, errors) to standard error. An error is
one line and exit code 1, a wrong call exit code 2, Ctrl-C exit code 130.

Nothing that only some command needs is imported at the top, so that help and completion come at once.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import stat
import sys
import traceback
import unicodedata
import warnings
from typing import NamedTuple

import click

import clipc
from clipc.errors import ClipcError, ClipcWarning
from clipc.model import DEFAULT_BATCH_SIZE
from clipc.progress import progress_bar

# Files that are taken from a folder. A file that is named, or that a pattern matches, may end as it likes.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

# Labels printed for an image unless --top-k says otherwise: more do not fit into a line.
PRINTED_LABELS = 10

TEXT_BATCH = 256

STANDARD_INPUT = "-"

# Messages of the library speak to those who call it from Python.
_ARGUMENTS_AS_OPTIONS = {
    "exif=True": "--exif",
    "truncate=True": "--truncate",
    "load a model with clipc.load(path)": "name a model with --model",
    "; Model.knows(text) tells beforehand": "",
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
    """CLIP on this computer's processor: say which words fit a picture.

    \b
      clipc classify photo.jpg dog cat           which of the labels fits the picture best?
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


def _computing_options(default_batch):
    """The options of commands that compute with a model."""
    # fmt: off
    options = (
        click.option("-m", "--model", metavar="NAME", shell_complete=_complete_model,
                     help='A name that "clipc models" lists, a .safetensors file, or a folder that holds '
                          "one. Default: what CLIPC_MODEL names, else the embedded model tiny."),
        click.option("--exif", is_flag=True,
                     help="Turn photographs upright, as the camera noted in the file (EXIF orientation)."),
        click.option("-r", "--recursive", is_flag=True, help="Take the images in subfolders, too."),
        click.option("--skip-unreadable", is_flag=True,
                     help="Report images that cannot be read and go on, instead of stopping."),
        click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help=default_batch),
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
    """Paths of the images of a folder, sorted; without hidden files, such as macOS's ``._photo.jpg``."""

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
        raise click.ClickException(f"{folder}: no images in this folder ({', '.join(IMAGE_SUFFIXES)}){hint}")
    return sorted(found)


def _looks_like_image(name):
    return name.lower().endswith(IMAGE_SUFFIXES) and not os.path.basename(name).startswith(".")


def _read_standard_input():
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("'-' is an image on standard input, as in: clipc classify - dog < photo.jpg")
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
            reason = _describe(error)
            # The library names a file in its own way, and cannot know what bytes came from.
            names = ("image",) if isinstance(source.image, bytes) else (repr(source.image), source.image)
            for name in names:
                reason = reason.removeprefix(f"{name}: ")
            message = f"{source.name}: {reason}"
            if not skip:
                raise click.ClickException(message) from error
            _note(f"skipped {message}")
            skipped.append((source.name, reason))
    return read, np.concatenate(pixels) if pixels else None, skipped


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


def _collect_labels(labels, labels_file):
    labels = list(labels)
    for label in labels:
        if _looks_like_image(label) and os.path.isfile(label):
            raise click.UsageError(
                f"{label!r} stands where a label is expected, and is an image file; more images: "
                f"--image {label}, or a pattern in quotes as the first argument"
            )
    if labels_file:
        found = [line.strip() for line in _read_lines(labels_file)]
        labels += filter(None, found)
        if not any(found):
            raise click.ClickException(f"{labels_file}: no labels in this file, expected one a line")
    if not labels:
        raise click.UsageError("no labels; they follow the image, as in: clipc classify photo.jpg dog cat")
    seen = set()
    for label in labels:
        if not label.strip():
            raise click.UsageError("a label is empty")
        if label in seen:
            raise click.UsageError(f"the label {label!r} is given more than once")
        seen.add(label)
    return labels


class _TextPrinter:
    """A line for each image, as soon as it is known."""

    def __init__(self, sources, labels, single):
        self.single = single
        # Columns, unless one long name would push all the others out of sight.
        widest = max((_columns(_printable(source.name)) for source in sources), default=0)
        self.name_width = min(widest, 48)
        widest = max(_columns(_printable(label)) for label in labels) + len(": 100.00%")
        self.cell_width = widest if widest <= 28 else 0

    def add(self, name, prediction):
        if self.single:
            click.echo(_printable(prediction.as_line()))
            return
        cells = [_printable(f"{label}: {100 * p:.2f}%") for label, p in prediction.items()]
        line = [_pad(_printable(name), self.name_width), *(_pad(cell, self.cell_width) for cell in cells)]
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


def _print_json(document):
    text = json.dumps(document, indent=2, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8, or a terminal that is not
        text = json.dumps(document, indent=2)
    click.echo(text)


def _columns(text):
    """Columns that a text takes on a terminal; East Asian characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _pad(text, width):
    return text + " " * (width - _columns(text))


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
        np.save(files[0], features)
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
            raise click.ClickException(str(error)) from error
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
            stack.callback(file.close)
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
    widths = [max(map(_columns, column)) for column in zip(head, *rows)]
    for row in (head, *rows):
        click.echo("  ".join(map(_pad, row, widths)).rstrip())


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
    width = max(map(_columns, facts))
    for title, text in facts.items():
        click.echo(f"{_pad(title, width)}  {_printable(str(text))}")
