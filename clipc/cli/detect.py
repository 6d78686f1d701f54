"""``clipc detect``: boxes around objects."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import sys

import click

from clipc.cli.computing import load_model, terminal_bar
from clipc.cli.inputs import (
    collect_labels,
    find_images,
    is_single,
    read_pixels,
    refuse_both_on_standard_input,
)
from clipc.cli.messages import note, wrong_options_named
from clipc.cli.options import (
    SectionedCommand,
    computing_options,
    font_option,
    json_option,
    labels_file_option,
    more_images_option,
    template_option,
)
from clipc.cli.outputs import (
    PICTURE_FORMATS,
    check_output,
    check_picture_format,
    refuse_picture_options,
    write_picture,
    written_together,
)
from clipc.cli.printing import name_width, print_json, printable
from clipc.cli.regions import regions_of
from clipc.detections import Detection
from clipc.model import DEFAULT_BATCH_SIZE
from clipc.terminal import columns, pad

METHODS = ("auto", "windows", "dense", "proposals", "owl")

# The widest coordinate that keeps the columns of many images straight: five digits before the point.
_COORDINATE_WIDTH = 7


def _parse_nms(ctx, parameter, value):
    if value in (None, "soft", "none"):
        return value
    return click.FloatRange(0, 1).convert(value, parameter, ctx)


# fmt: off
@click.command(cls=SectionedCommand, sections={
    "more": "Input", "output": "Result", "method": "How objects are found", "model": "Other options",
})
@click.argument("image", type=click.Path(allow_dash=True))
@click.argument("labels", nargs=-1)
@more_images_option
@labels_file_option
@click.option("-o", "--output", "outputs", multiple=True, metavar="FILE_OR_FOLDER", type=click.Path(),
              help="What to write: a picture with the boxes (.png, .jpg, .webp, .bmp or .tif), a folder for "
                   "the pictures of several images, or a list of the boxes of all images (.csv or .json). "
                   "May be repeated.")
@json_option
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@font_option
@click.option("--font-size", type=click.FloatRange(1, 1000), metavar="PIXELS",
              help="Of the captions. Default: it grows with the picture.")
@click.option("--size", type=click.IntRange(min=1), metavar="PIXELS",
              help="Longest side of the pictures. Default: that of the image.")
@click.option("--method", type=click.Choice(METHODS), metavar="NAME", default=None,
              help="See above. Default: auto; with --boxes, proposals.")
@click.option("--threshold", type=click.FloatRange(0, 1), metavar="NUMBER",
              help="Least score of a box. Default: 0.4; for proposals 0.25, for owl 0.1.")
@click.option("--nms", metavar="NUMBER", callback=_parse_nms,
              help="Of boxes with one label that overlap by more than this (intersection over union, 0 to 1) "
                   "only the best stays; 'soft' lowers the scores of the others, 'none' keeps all. Default: "
                   "0.5; for owl none.")
@click.option("--max-detections", type=click.IntRange(min=1), metavar="N",
              help="Most boxes of an image, the best ones. Default: 100.")
@click.option("--clip", is_flag=True, help="Cut the boxes of owl off at the edge of the image.")
@template_option
@click.option("--background", multiple=True, metavar="TEXT",
              help='What else may be in the image, such as "grass": a place that fits it better than the '
                   "LABELS is no object. May be repeated. Default: some words for what is often there.")
@click.option("--boxes", metavar="FILE", type=click.Path(exists=True, dir_okay=False),
              help="Regions to choose from, in pixels. JSON: a list of [x0, y0, x1, y1], or an object from "
                   "image to such a list. CSV: columns x0, y0, x1, y1, and image if there are several.")
@click.option("--image-size", type=click.IntRange(min=1), metavar="PIXELS",
              help="Side of the squares that the model sees; for dense, the shorter side of the image. "
                   "Default: the model's own; for dense twice that, and at least 224.")
@computing_options(f"Regions encoded at the same time. Default: {DEFAULT_BATCH_SIZE}.")
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
    refuse_both_on_standard_input((image, *more), labels_file)
    if boxes and method not in (None, "auto", "proposals"):
        raise click.UsageError(f"--boxes is for --method proposals, not for {method}")
    if not all(text.strip() for text in background):
        raise click.UsageError("a text of --background is empty")
    labels = collect_labels(labels, labels_file, "detect")
    arguments = (image, *more)
    outputs = _DetectionOutputs(outputs)
    if not outputs.draws:
        refuse_picture_options(style, "boxes.png")
    sources = find_images(arguments, recursive=recursive, missing_ok=skip_unreadable)
    outputs.check(sources, force, style)
    proposals = regions_of(sources, boxes) if boxes else None
    loaded = load_model(model, threads)

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
    single = is_single(arguments, sources)
    printer = None if as_json else _DetectionPrinter(sources, labels, single)
    # Lines tell the progress, unless they go elsewhere.
    with terminal_bar(len(sources), "image", watched and (as_json or not sys.stdout.isatty())) as bar:
        for index, source in enumerate(sources):
            try:
                pixels = read_pixels(source, exif)
            except click.ClickException as error:
                if not skip_unreadable:
                    raise
                note(f"skipped {error.message}")
                record.skip(source.name, error.message.removeprefix(f"{source.name}: "))
                bar.update(1)
                continue
            if proposals:
                options["boxes"] = proposals[index]
            with wrong_options_named():
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
        print_json(record.document, _json_by_lines)
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
            elif suffix in PICTURE_FORMATS:
                kind = "picture"
            elif suffix in (".json", ".csv"):
                kind = suffix
            else:
                known = ", ".join(PICTURE_FORMATS)
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
                check_output(path, force)
            check_picture_format(path)
        for path in self._lists():
            check_output(path, force)
        if "font" in style:
            import numpy as np

            from clipc.drawing import draw_boxes

            with wrong_options_named():
                draw_boxes(np.zeros((64, 64, 3), np.uint8), [Detection("-", 1, (0, 0, 64, 64))], **style)

    def _check_folder(self, path):
        path = path.rstrip(os.sep) or os.sep
        if not os.path.isdir(path):
            if os.path.lexists(path):
                raise click.ClickException(f"{path}: is a file, expected a folder")
            check_output(path, force=False)

    def _lists(self):
        return [self.kinds[kind] for kind in (".json", ".csv") if kind in self.kinds]

    def write_pictures(self, index, pixels, found, style):
        if self.pictures[index]:
            from clipc.drawing import draw_boxes

            picture = draw_boxes(pixels, found, **style)
            for path in self.pictures[index]:
                if path != self.kinds.get("picture"):
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                write_picture(path, picture)

    def write_lists(self, record):
        contents = {".json": record.as_json, ".csv": record.as_csv}
        with written_together(self._lists()) as files:
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
        if os.path.splitext(path)[1].lower() not in PICTURE_FORMATS:
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
        self.name_width = name_width(sources)
        self.label_width = min(max(columns(printable(label)) for label in labels), 32)

    def add(self, name, found):
        if self.single:
            for line in found.as_table().split("\n"):
                click.echo(printable(line))
            return
        name = pad(printable(name), self.name_width)
        for detection in found:
            label = pad(printable(detection.label), self.label_width)
            box = " ".join(f"{side:.1f}".rjust(_COORDINATE_WIDTH) for side in detection.box)
            click.echo(f"{name}  {label}  {detection.score:.3f}  {box}")
        if not found:
            click.echo(f"{name}  no detections")
