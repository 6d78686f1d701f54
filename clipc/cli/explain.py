"""``clipc explain``: heat maps."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

import click

import clipc
from clipc import cam, colormaps
from clipc import image as images
from clipc.cli.computing import load_model
from clipc.cli.inputs import (
    find_images,
    read_labels,
    read_pixels,
    refuse_both_on_standard_input,
    refuse_empty_and_twice,
    refuse_images,
)
from clipc.cli.messages import note, wrong_options_named
from clipc.cli.options import SectionedCommand, check_template, computing_options, font_option, json_option
from clipc.cli.outputs import (
    PICTURE_FORMATS,
    OnlyWrites,
    check_output,
    check_picture_format,
    refuse_picture_options,
    write_picture,
    written_together,
)
from clipc.cli.printing import print_json, printable

# A map of fewer cells on a side shows little; and the cells on a side that the note proposes.
_COARSE_GRID, _FINER_GRID = 4, 7

_SCORE_FORMATS = {
    "logit": "logit {:.2f}",
    "cosine": "cosine {:.4f}",
    "dot": "dot product {:.2f}",
    "probability": "probability {:.2%}",
}


def _complete_colormap(ctx, parameter, incomplete):
    return [name for name in colormaps.names() if name.startswith(incomplete)]


# fmt: off
@click.command(cls=SectionedCommand, sections={
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
@json_option
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
@click.option("-t", "--template", "templates", metavar="TEXT", multiple=True, callback=check_template,
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
@font_option
@click.option("--font-size", type=click.FloatRange(1, 1000), metavar="PIXELS",
              help="Of the captions. Default: it grows with the panels.")
@computing_options()
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

    loaded = load_model(model, threads)
    for template in templates:
        texts, labels = ([template.replace("{}", text) for text in group or ()] for group in (texts, labels))
    pixels = read_pixels(source, exif)
    with wrong_options_named():
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
        print_json({
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
    if output and suffix != ".npy" and suffix not in PICTURE_FORMATS:
        known = ", ".join(PICTURE_FORMATS)
        raise click.UsageError(f"{output}: expected a name that ends with {known} or .npy")
    if raw and suffix != ".npy":
        raise click.UsageError("--raw is for arrays; name a file that ends with .npy with -o")
    if suffix not in PICTURE_FORMATS:
        refuse_picture_options(drawing, "cam.png")


def _check_texts(texts, method, difference, of_texts):
    """Refuse wrong texts; for a method without them also the options `of_texts` (name to value)."""
    refuse_images(texts, "text", "explain takes one image at a time")
    if not cam.METHODS[method].text:
        if texts:
            raise click.UsageError(f"--method {method} does not depend on a text, so it takes none")
        for option in (option for option, value in of_texts.items() if value):
            raise click.UsageError(f"{option} is for texts, and --method {method} takes none")
    elif not texts:
        example = "clipc explain photo.jpg dog -o cam.png"
        raise click.UsageError(f"no texts; they follow the image, as in: {example}")
    refuse_empty_and_twice(texts, "text")
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
    refuse_both_on_standard_input([image], path)
    if not all(label.strip() for label in more):
        raise click.UsageError("a label is empty")
    # A file of all labels may well hold the texts, too.
    labels = list(dict.fromkeys([*texts, *more, *(read_labels(path) if path else ())]))
    if len(labels) < 2:
        raise click.UsageError("--label and --labels-file add nothing to the one text")
    return labels


def _find_one_image(argument):
    if os.path.isdir(os.path.expanduser(argument)):
        raise click.UsageError(f"{argument}: is a folder; explain takes one image at a time")
    sources = find_images([argument], recursive=False, missing_ok=False)
    if len(sources) > 1:
        raise click.UsageError(f"{argument}: {len(sources)} images; explain takes one at a time")
    return sources[0]


def _check_explain_output(path, source, force, drawing):
    """Find out before the work what would only show after it."""
    _check_is_no_image(path, source)
    check_output(path, force)
    check_picture_format(path)
    if "colormap" in drawing or "font" in drawing:
        import numpy as np

        with wrong_options_named():
            blank = np.zeros((8, 8, 3), np.uint8)
            _draw(blank, np.zeros((8, 8), np.float32), ["-"], {**drawing, "captions": True})


def _check_is_no_image(path, source):
    if isinstance(source.image, str) and os.path.exists(path) and os.path.samefile(path, source.image):
        raise click.UsageError(f"{path}: is the image itself")


def _note_coarse_grid(model, maps):
    height, width = maps.grid.shape[-2:]
    if min(height, width) < _COARSE_GRID:
        finer = _FINER_GRID * (model.config.vision_patch_size or 32)
        note(f"the map's grid is only {width} x {height} cells; --image-size {finer} makes it finer")


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
            click.echo(printable(f"{name}: {where}"))
            if self.words:
                for line in str(self.words[index]).splitlines():
                    click.echo(printable(f"  {line}"))


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
        with written_together([path]) as files:
            np.save(OnlyWrites(files[0]), maps.reshape(-1, *maps.shape[-2:]))
        return
    names = [answer.maps.method]
    if answer.texts:
        names = ["{} (+) vs. {} (-)".format(*answer.texts)] if answer.is_difference else answer.texts
    if answer.is_difference:
        drawing = {"colorbar": True, **drawing}  # without it nothing says which colour is which text's
    write_picture(path, _draw(pixels, answer.maps, names, drawing))


def _draw(pixels, maps, names, drawing):
    drawing = dict(drawing)
    captions = drawing.pop("captions", None)
    labels = "auto" if captions is None else names if captions else None
    return clipc.overlay(pixels, maps, labels=labels, **drawing)
