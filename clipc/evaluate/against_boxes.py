"""Explanations and detections held against boxes, and heat maps against the model.

Heat maps
---------

A *trial* is a picture and a class that is present in it. Three measures, four scores:

- `pointing_game` (Zhang et al. 2018, "Top-down neural attention by excitation backprop"): does the map's peak
  lie on the object?
- `energy_in_boxes` (Wang et al. 2020, "Score-CAM"): how much of the map lies on it?
- `deletion_insertion` (Petsiuk et al. 2018, "RISE"): how fast does the class's probability fall
  when the pixels that the map calls important are removed, and rise when they are inserted?

Each is held against baselines that do not look at the picture: its centre, where photographers put things,
and chance. A method that does not beat the centre has shown nothing, and every table marks it.

Detections
----------
`average_precision`: COCO's AP, AP50, AP75 and recall, beside the cost of a picture. Its baselines are a box
in the centre and the whole picture.

The boxes come from `read_boxes`, or from a list of `AnnotatedPicture` of your own.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clipc import image
from clipc.annotations import AnnotatedPicture, read_boxes
from clipc.arguments import whole_number
from clipc.as_function import resolve_model
from clipc.box_measures import BoxRun, import_pycocotools
from clipc.box_scores import BASELINES
from clipc.cam import METHODS
from clipc.errors import ClipcWarning, ImageError, warn
from clipc.map_measures import (
    Curves,
    GridMap,
    box_mask,
    closeness_to_centre,
    distinct_grids,
    hits,
)
from clipc.progress import progress_bar
from clipc.scores import CENTRE, MEASURES, RANDOM, Evaluation, Evaluations
from clipc.vectors import draw_positions

# COCO's pictures have a longer side of 640 pixels; tolerances are given for that size.
COCO_SIDE = 640

# Of the centre baseline's map, as a share of the sides.
_CENTRE_SIGMA = 0.25


def pointing_game(
    data,
    *,
    model=None,
    methods="gradcam",
    labels=None,
    template="a photo of a {}.",
    tolerance=15,
    tolerance_at=COCO_SIDE,
    image_size=None,
    fit="squash",
    baselines=True,
    limit=None,
    seed=0,
    skip_unreadable=False,
    progress=False,
    **options,
):
    """How often the peak of a map lies in a box of the class.

    Parameters
    ----------
    data : path or list of AnnotatedPicture
        A folder or an annotation file for `read_boxes`, or what it returned.
    model : Model, or what `clipc.load` takes, optional
        None: the default model, if a model is needed.
    methods : str, callable, dict, or list of str and callables
        Names for the argument ``method`` of `clipc.Model.grad_cam`, or functions ``(image, label)`` that
        return a `HeatMap`, or an array of any size that covers the whole picture; the image comes as uint8
        (H, W, 3). A dict gives names: ``{"early layer": {"method": "gradcam", "layer": "layer3"}}``, from a
        name to a method, a function, or options of `clipc.Model.grad_cam`.
    labels : list of str, optional
        The classes to look for. None: all classes of the data that the model knows, see `clipc.Model.knows`.
    template : str
        The text that is explained, with ``{}`` where the label goes.
    tolerance : float
        How far from a box the peak may lie: each box is enlarged by so much on each side. In pixels of
        a picture whose longer side is `tolerance_at`; for others in proportion.
    tolerance_at : float or None
        None: `tolerance` is in pixels, whatever the size of the picture.
    image_size, fit
        As for `clipc.Model.grad_cam`; "squash" shows the model the whole picture.
    baselines : bool
        Add the rows "centre" and "random".
    limit : int, optional
        Use only so many of the pictures that have a class of interest, drawn at random.
    seed : int
        Of everything that is drawn. Same seed, same numbers.
    skip_unreadable : bool
        Leave out pictures that cannot be read, count them, and warn once, instead of raising.
    progress : bool
        Show a progress bar on standard error.
    **options
        For `clipc.Model.grad_cam`, such as ``layer`` and ``score``.

    Returns
    -------
    Evaluation
        Prints as a table, also in Jupyter. Intervals are bootstrapped over pictures.

    Raises
    ------
    ValueError
        No picture has a class of interest; labels that are no classes of the data; a map that is not finite
        or has another size than the picture; a picture of another size than its annotations say.
    TypeError
        Arguments of a wrong kind.
    OSError, ImageError
        A picture that cannot be read, without `skip_unreadable`; and as `read_boxes`.
    KeyboardInterrupt
        Ctrl-C stops between two maps. Nothing is kept.

    Notes
    -----
    The peak is the centre of the largest cell of the signed grid (`HeatMap.peak`); a hit counts 1, a miss 0.
    Where several cells are equally large, as in a map that is the same everywhere, the trial counts their
    share of hits. "centre" points at the middle of the picture; "random" is the exact expectation for a cell
    of the same grid, drawn uniformly.

    The score is the mean over all trials; ``evaluation["gradcam"].class_mean`` is the mean over classes.
    Boxes around crowds are left out.

    CLIP Surgery takes out what a text shares with the other texts. It is given all labels, so that it does
    not learn which are in the picture; so is the score "probability". With ``"labels": None`` among the
    options of a method it explains each text alone.
    """
    return explanations(
        data,
        methods,
        measures=("pointing",),
        model=model,
        labels=labels,
        template=template,
        tolerance=tolerance,
        tolerance_at=tolerance_at,
        image_size=image_size,
        fit=fit,
        baselines=baselines,
        limit=limit,
        seed=seed,
        skip_unreadable=skip_unreadable,
        progress=progress,
        **options,
    )["pointing"]


def energy_in_boxes(
    data,
    *,
    model=None,
    methods="gradcam",
    labels=None,
    template="a photo of a {}.",
    image_size=None,
    fit="squash",
    baselines=True,
    limit=None,
    seed=0,
    skip_unreadable=False,
    progress=False,
    **options,
):
    """The share of a map that lies inside the boxes of the class.

    Parameters
    ----------
    data, model, methods, labels, template, image_size, fit, baselines, limit, seed, skip_unreadable, \
progress, **options
        As for `pointing_game`.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError, TypeError, OSError, ImageError, KeyboardInterrupt
        As `pointing_game`.

    Notes
    -----
    Sum of the map over the pixels whose centres lie in a box, divided by its sum over the picture; the map
    after ReLU and scaling to 0..1, the boxes of several instances united. A map without any positive
    value has no energy: it counts as 0, and ``n_empty`` tells how many there were.

    Large objects hold much of any map, so the baselines matter: "random" is a map that is the same
    everywhere, whose share is the area of the boxes; "centre" is a Gaussian around the middle with a standard
    deviation of a quarter of the sides. Both cover the part of the picture that the model sees.
    """
    return explanations(
        data,
        methods,
        measures=("energy",),
        model=model,
        labels=labels,
        template=template,
        image_size=image_size,
        fit=fit,
        baselines=baselines,
        limit=limit,
        seed=seed,
        skip_unreadable=skip_unreadable,
        progress=progress,
        **options,
    )["energy"]


def deletion_insertion(
    data,
    *,
    model=None,
    methods="gradcam",
    labels=None,
    template="a photo of a {}.",
    steps=20,
    image_size=None,
    fit="squash",
    baselines=True,
    limit=None,
    seed=0,
    skip_unreadable=False,
    progress=False,
    **options,
):
    """The model's own answer: what happens to the class's probability without the important pixels.

    Parameters
    ----------
    data, model, methods, labels, template, image_size, fit, baselines, limit, seed, skip_unreadable, \
progress, **options
        As for `pointing_game`; of the boxes only which classes there are is used.
    steps : int
        Into how many steps the pixels are divided. Each costs two encoded pictures for each method and trial.

    Returns
    -------
    Evaluations
        A dict with the `Evaluation` of "deletion" (lower is better) and of "insertion" (higher is better).

    Raises
    ------
    ValueError, TypeError, OSError, ImageError, KeyboardInterrupt
        As `pointing_game`; ValueError also for fewer than two labels.

    Notes
    -----
    Pixels of the preprocessed square are ordered by the signed grid, enlarged bilinearly with half-pixel
    centres; equal ones by chance. Deletion sets them, most important first, to the mean colour (zero after
    normalisation); insertion starts from the blurred picture (Gaussian, standard deviation 5 pixels at
    224 x 224, in proportion at other sizes) and puts the original pixels back. The score is the area under
    the curve of the class's softmax probability among all `labels`, over the share of changed pixels from 0
    to 1, by the trapezoidal rule.

    "random" orders the pixels by random values on the same grid, enlarged likewise, one draw for each
    picture: single pixels in random order would destroy a picture faster than any map can. "centre" orders
    them by their distance from the middle.

    Changed pictures look like nothing the model was trained on, so its probabilities are to be read with care
    (Hooker et al. 2019): these scores compare methods on one model, they do not grade the model.
    """
    return explanations(
        data,
        methods,
        measures=("deletion", "insertion"),
        model=model,
        labels=labels,
        template=template,
        steps=steps,
        image_size=image_size,
        fit=fit,
        baselines=baselines,
        limit=limit,
        seed=seed,
        skip_unreadable=skip_unreadable,
        progress=progress,
        **options,
    )


def explanations(
    data,
    methods="gradcam",
    *,
    measures=tuple(MEASURES),
    model=None,
    labels=None,
    template="a photo of a {}.",
    tolerance=15,
    tolerance_at=COCO_SIDE,
    steps=20,
    image_size=None,
    fit="squash",
    baselines=True,
    limit=None,
    seed=0,
    skip_unreadable=False,
    progress=False,
    **options,
):
    """Several measures of several methods, computing each map once.

    Parameters
    ----------
    measures : str or list of str
        Out of "pointing", "energy", "deletion" and "insertion".
    data, methods, model, labels, template, tolerance, tolerance_at, steps, image_size, fit, baselines, \
limit, seed, skip_unreadable, progress, **options
        As for `pointing_game` and `deletion_insertion`.

    Returns
    -------
    Evaluations
        A dict from the measure to its `Evaluation`.

    Raises
    ------
    ValueError, TypeError, OSError, ImageError, KeyboardInterrupt
        As `pointing_game`.
    """
    measures = _check_measures(measures)
    methods = _check_methods(methods, options)
    if not isinstance(template, str):
        raise TypeError(f"template: expected a str, got {type(template).__name__}")
    if "{}" not in template:
        raise ValueError(f"template: {template!r} has no {{}} where the label goes")
    image.check_fit(fit)
    _check_number("tolerance", tolerance, zero=True)
    if tolerance_at is not None:
        _check_number("tolerance_at", tolerance_at)
    steps = whole_number("steps", steps, 2)
    if limit is not None:
        limit = whole_number("limit", limit, 1)
    seed = whole_number("seed", seed, 0)
    if image_size is not None:
        image_size = whole_number("image_size", image_size, 1)

    if isinstance(data, (str, os.PathLike)):
        data = read_boxes(data, skip_unreadable=skip_unreadable)
    pictures, n_skipped = _check_data(data)
    needs_model = "deletion" in measures or "insertion" in measures or any(m.options for m in methods)
    if needs_model or model is not None:
        model = _resolve_model(model)
        image_size = model.image_size if image_size is None else image_size
    labels = _check_labels(labels, data, pictures, model)
    changing = [measure for measure in measures if measure in ("deletion", "insertion")]
    if changing and len(labels) < 2:
        raise ValueError(
            f"labels: {changing[0]} needs at least two, for a probability to change; got {labels!r}"
        )

    run = _Run(
        model=model,
        methods=methods,
        measures=measures,
        labels=labels,
        template=template,
        tolerance=tolerance,
        tolerance_at=tolerance_at,
        steps=steps,
        image_size=image_size,
        fit=fit,
        baselines=bool(baselines),
        seed=seed,
    )
    with_boxes = _with_boxes(list(enumerate(pictures)), labels)
    chosen = _draw(with_boxes, limit, seed)
    n_unreadable = _visit(chosen, run.add, skip_unreadable, progress)
    if not run.trials:
        raise ValueError(f"none of the {len(chosen)} pictures with a class of interest can be read")
    return run.results(n_without=len(pictures) - len(with_boxes), n_unreadable=n_unreadable + n_skipped)


def average_precision(
    data,
    *,
    model=None,
    methods="auto",
    labels=None,
    templates=("{}",),
    threshold=0.0,
    max_detections=100,
    baselines=True,
    limit=None,
    seed=0,
    skip_unreadable=False,
    progress=False,
    **options,
):
    """COCO's average precision and recall of detections. Needs the extra ``clipc[detection]``.

    Parameters
    ----------
    data : path or list of AnnotatedPicture
        A folder or an annotation file for `read_boxes` (COCO or YOLO), or what it returned. All pictures are
        searched, also those without a class of interest: what is found in them is wrong.
    model : Model, or what `clipc.load` takes, optional
        None: the default model, if a model is needed.
    methods : str, callable, dict, or list of str and callables
        Names for the argument ``method`` of `clipc.Model.detect`, or functions ``(image, labels)`` that
        return `Detections`, or a list of ``(label, score, (x0, y0, x1, y1))``; the image comes as uint8
        (H, W, 3), the boxes are in its pixels. A dict gives names: ``{"crops": {"method": "windows",
        "nms": 0.3}}``, from a name to a method, a function, or options of `clipc.Model.detect`.
    labels : list of str, optional
        The classes to look for, in all pictures. None: all classes of the data that the model knows, see
        `clipc.Model.knows`.
    templates : str or list of str
        As for `clipc.Model.detect`.
    threshold : float
        As for `clipc.Model.detect`, whose own default is made for looking at boxes. Average precision weighs
        boxes by their scores and wants the doubtful ones too: a higher threshold only cuts recall off.
    max_detections : int
        In a picture, of all labels together; COCO's number is 100. Of what a function returns, those with
        the highest scores are used.
    baselines : bool
        Add the rows "centre" and "whole picture".
    limit : int, optional
        Use only so many of the pictures, drawn at random.
    seed : int
        Of everything that is drawn. Same seed, same numbers.
    skip_unreadable : bool
        Leave out pictures that cannot be read, count them, and warn once, instead of raising.
    progress : bool
        Show a progress bar on standard error.
    **options
        For `clipc.Model.detect`, such as ``nms``.

    Returns
    -------
    DetectionEvaluation
        Prints as a table, also in Jupyter.

    Raises
    ------
    ImportError
        pycocotools is not installed.
    ValueError
        No picture has a box of a class of interest; labels that are no classes of the data; detections with
        NaN, of another label, or in a picture of another size; a picture of another size than its annotations
        say.
    TypeError
        Arguments of a wrong kind; a function that returns something else.
    OSError, ImageError
        A picture that cannot be read, without `skip_unreadable`; and as `read_boxes`.
    KeyboardInterrupt
        Ctrl-C stops between two pictures. Nothing is kept.

    Notes
    -----
    Lin et al. 2014, "Microsoft COCO", as pycocotools computes it: AP is the precision at 101 recalls,
    averaged over the classes and the IoU thresholds 0.5, 0.55, …, 0.95. Classes without a box in the pictures
    do not count, though they are looked for and may take the place of others. What lies on a box around a
    crowd is neither right nor wrong. Small, medium and large are told apart by the area of the boxes (COCO
    does it by that of the outlines, which `read_boxes` does not read), in pixels of the pictures as they are
    stored.

    The baselines do not look at the picture: for each label one box, the central half of both sides or the
    whole picture. All their scores are equal. As AP depends on how equal scores are ordered, theirs is the
    mean over 100 random orders of the pictures. A method is compared with the baseline of the higher AP50.

    The intervals of AP50 are bootstrapped over pictures, with the detections matched once: in each sample
    every picture has a random weight (Rubin 1981, "The Bayesian bootstrap"), so that no rare class is lost.
    They are centred on the score: random weights alone raise a low one.
    Equal scores of a method keep the order of the pictures, as in pycocotools.

    ``seconds`` is the mean time of a method for a picture, without reading the file; the first picture
    encodes the labels as well.
    """
    import_pycocotools()  # before any work
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    max_detections = whole_number("max_detections", max_detections, 1)
    if limit is not None:
        limit = whole_number("limit", limit, 1)
    seed = whole_number("seed", seed, 0)
    given = {"templates": templates, "threshold": threshold, "max_detections": max_detections, **options}
    methods = _check_methods(
        methods, given, default="auto", not_here=_NOT_FOR_BOXES, baselines=BASELINES if baselines else ()
    )

    if isinstance(data, (str, os.PathLike)):
        data = read_boxes(data, skip_unreadable=skip_unreadable)
    pictures, n_skipped = _check_data(data)
    needs_model = any(method.options for method in methods)
    if needs_model or model is not None:
        model = _resolve_model(model)
    labels = _check_labels(labels, data, pictures, model)
    chosen = _draw(list(enumerate(pictures)), limit, seed)
    _with_boxes(chosen, labels)  # average precision needs something to find

    run = BoxRun(
        model=model,
        methods=methods,
        labels=labels,
        max_detections=max_detections,
        baselines=bool(baselines),
        seed=seed,
    )
    n_unreadable = _visit(chosen, run.add, skip_unreadable, progress)
    if not run.truth:
        raise ValueError(f"none of the {len(chosen)} pictures can be read")
    settings = {"max_detections": max_detections}
    if needs_model:
        shown = ", ".join(map(repr, templates))
        settings = {"templates": shown, "threshold": threshold, **settings, **options}
    return run.results(n_unreadable=n_unreadable + n_skipped, settings=settings)


# -- arguments -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Method:
    """A named method: a function, or options of `Model.grad_cam` or `Model.detect`."""

    name: str
    function: Callable | None = None
    options: dict | None = None


def _check_measures(measures):
    measures = [measures] if isinstance(measures, str) else list(measures)
    for measure in measures:
        if measure not in MEASURES:
            raise ValueError(f"measures: expected some of {', '.join(MEASURES)}, got {measure!r}")
    if not measures:
        raise ValueError("measures: expected at least one, got none")
    return tuple(name for name in MEASURES if name in measures)


_NOT_FOR_MAPS = {
    "raw": "both kinds of maps are used",
    "exif": "boxes belong to pictures as they are stored",
    "method": "it is called methods here",
    "texts": "texts are made of the labels",
}

_NOT_FOR_BOXES = {
    "exif": "boxes belong to pictures as they are stored",
    "method": "it is called methods here",
    "boxes": "each picture has its own; a function as a method can pass them",
    "maps": "only boxes are judged",
}


def _check_methods(
    methods, options, *, default="gradcam", not_here=_NOT_FOR_MAPS, baselines=(CENTRE, RANDOM)
):
    """The methods as a list of `_Method`; `default` is the method of options that name none."""
    _refuse_options(options, not_here)
    if isinstance(methods, dict):
        named = list(methods.items())
    else:
        listed = [methods] if isinstance(methods, str) or callable(methods) else list(methods)
        named = [(_name_of(method), method) for method in listed]
    result = []
    for name, method in named:
        if not isinstance(name, str):
            raise TypeError(f"methods: expected names, got {name!r}")
        if name in baselines or (RANDOM in baselines and name.startswith(RANDOM + " ")):
            raise ValueError(f"methods: {name!r} is the name of a baseline")
        if any(other.name == name for other in result):
            raise ValueError(f"methods: two are called {name!r}; a dict from name to method tells them apart")
        if isinstance(method, str):
            result.append(_Method(name, options={**options, "method": method}))
        elif isinstance(method, dict):
            _refuse_options(method.keys() - {"method"}, not_here)
            result.append(_Method(name, options={"method": default, **options, **method}))
        elif callable(method):
            result.append(_Method(name, function=method))
        else:
            raise TypeError(f"methods: expected a name, a function or options for {name!r}, got {method!r}")
    if not result:
        raise ValueError("methods: expected at least one, got none")
    return result


def _refuse_options(options, not_here):
    for name, why in not_here.items():
        if name in options:
            raise TypeError(f"{name}: no option here, because {why}")


def _name_of(method):
    if isinstance(method, str):
        return method
    if isinstance(method, Callable):
        return getattr(method, "__name__", type(method).__name__)
    raise TypeError(f"methods: expected names and functions, got {method!r}; a dict gives names to options")


def _check_number(name, value, zero=False):
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name}: expected a number of pixels, got {value!r}")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name}: expected a number of pixels, {'0 or' if zero else ''} more, got {value}")


def _check_data(data):
    pictures = list(data) if isinstance(data, (list, tuple)) else None
    if pictures is None or not all(isinstance(picture, AnnotatedPicture) for picture in pictures):
        raise TypeError("data: expected a path, or a list of AnnotatedPicture, such as read_boxes returns")
    if not pictures:
        raise ValueError("data: expected at least one picture, got an empty list")
    return pictures, len(getattr(data, "skipped", ()))


def _resolve_model(model):
    if model is None or isinstance(model, (str, os.PathLike)):
        return resolve_model(model)
    return model


def _check_labels(labels, data, pictures, model):
    present = dict.fromkeys(label for picture in pictures for label in picture.boxes)
    names = list(dict.fromkeys([*getattr(data, "names", ()), *present]))
    if labels is None:
        known = [name for name in names if model is None or model.knows(name)]
        if not known:
            raise ValueError(
                f"data: the model knows none of its {len(names)} classes, {', '.join(names[:10])}"
                if names
                else "data: no picture has a box"
            )
        return tuple(known)
    if isinstance(labels, (str, bytes)):
        raise TypeError(f"labels: expected a list of classes, got the text {labels!r}; write [{labels!r}]")
    labels = list(labels)
    if not labels:
        raise ValueError("labels: expected at least one class, got an empty list")
    for label in labels:
        if not isinstance(label, str):
            raise TypeError(f"labels: expected texts, got {label!r}")
        if label not in names:
            shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise ValueError(f"labels: {label!r} is no class of the data, which has {shown or 'none'}")
        if labels.count(label) > 1:
            raise ValueError(f"labels: {label!r} is given more than once")
    return tuple(labels)


def _with_boxes(numbered, labels):
    """Those of [(position, picture)] with a box of a label; an error when there are none."""
    wanted = set(labels)
    chosen = [(i, picture) for i, picture in numbered if wanted & picture.boxes.keys()]
    if not chosen:
        shown = ", ".join(labels[:20]) + (", …" if len(labels) > 20 else "")
        raise ValueError(f"data: none of the {len(numbered)} pictures has a box of {shown}")
    return chosen


def _draw(numbered, limit, seed):
    """At most `limit` of [(position, picture)], drawn at random, in their order."""
    if limit is None or limit >= len(numbered):
        return numbered
    return [numbered[i] for i in draw_positions(len(numbered), limit, seed)]


def _share(values, inside):
    """The share of a map inside a mask; 0 for a map of zeros."""
    total = values.sum(dtype=np.float64)
    return values[inside].sum(dtype=np.float64) / total if total > 0 else 0.0


# -- one pass over the pictures --------------------------------------------------------------------------


def _visit(chosen, visit, skip_unreadable, progress):
    """Call ``visit(position, picture, rgb)`` for each picture; return how many cannot be read."""
    unreadable = []
    with progress_bar(len(chosen), "picture", progress) as bar:
        for position, picture in chosen:
            try:
                rgb = image.to_rgb(picture.image)
            except (OSError, ImageError) as error:
                if not skip_unreadable:
                    raise
                unreadable.append((picture.name, error))
            else:
                height, width = rgb.shape[:2]
                if (width, height) != (picture.width, picture.height):
                    raise ValueError(
                        f"{picture.name}: the picture has {width} x {height} pixels, but its boxes belong to "
                        f"{picture.width} x {picture.height}"
                    )
                visit(position, picture, rgb)
            bar.update(1)
    if unreadable:
        name, error = unreadable[0]
        warn(f"{len(unreadable)} pictures cannot be read and are left out, the first is {name!r}: {error}")
    return len(unreadable)


@dataclass
class _Run:
    """Collects the scores of all trials, picture by picture."""

    model: object
    methods: list
    measures: tuple
    labels: tuple
    template: str
    tolerance: float
    tolerance_at: float | None
    steps: int
    image_size: int | None
    fit: str
    baselines: bool
    seed: int

    def __post_init__(self):
        self.prompts = {label: self.template.replace("{}", label) for label in self.labels}
        self.trials = []  # (number of the picture, label)
        self.picture_names = []
        self.scores = {measure: {} for measure in self.measures}  # measure -> method -> {trial: score}
        self.empty = dict.fromkeys((method.name for method in self.methods), 0)
        self._curves = None
        if "deletion" in self.measures or "insertion" in self.measures:
            self._curves = Curves(
                self.model,
                self.model.classifier(list(self.labels), self.template),
                self.image_size,
                self.steps,
                deletion="deletion" in self.measures,
                insertion="insertion" in self.measures,
            )

    def add(self, position, picture, rgb):
        """All measures of all methods for one picture; `position` is its number in the data."""
        present = [label for label in self.labels if label in picture.boxes]
        maps = {method.name: self._maps(method, picture, rgb, present) for method in self.methods}
        trials = range(len(self.trials), len(self.trials) + len(present))
        self.trials += [(len(self.picture_names), label) for label in present]
        self.picture_names.append(picture.name)
        for i, (trial, label) in enumerate(zip(trials, present)):
            boxes = picture.boxes[label]
            of_trial = {name: several[i] for name, several in maps.items()}
            if "pointing" in self.measures:
                self._add_pointing(trial, picture, boxes, of_trial)
            if "energy" in self.measures:
                self._add_energy(trial, picture, boxes, of_trial)
        if self._curves is not None:
            self._add_curves(position, picture, rgb, trials, present, maps)

    def _record(self, measure, method, trial, score):
        self.scores[measure].setdefault(method, {})[trial] = score

    # -- maps --------------------------------------------------------------------------------------------

    def _maps(self, method, picture, rgb, present):
        """The maps of one method for the classes in a picture: a list of `GridMap`."""
        if method.function is not None:
            maps = [self._call(method, picture, rgb, label) for label in present]
        else:
            maps = self._explain(method, rgb, [self.prompts[label] for label in present])
        result = []
        for label, values in zip(present, maps):
            where = f"{method.name}, {picture.name}, {label!r}"
            result.append(GridMap.of(values, picture, where))
        return result

    def _call(self, method, picture, rgb, label):
        values = method.function(rgb, label)
        if not isinstance(values, np.ndarray):
            raise TypeError(
                f"{method.name}, {picture.name}, {label!r}: expected a HeatMap or an array, "
                f"got {type(values).__name__}"
            )
        return values

    def _explain(self, method, rgb, prompts):
        options = {"image_size": self.image_size, "fit": self.fit, **method.options}
        name = options["method"]
        if name == "surgery" or options.get("score") == "probability":
            # One label alone has no others that surgery could take out.
            several = list(self.prompts.values()) if len(self.prompts) > 1 else None
            options.setdefault("labels", several)
        with warnings.catch_warnings():
            # Empty maps are counted, which says more than a warning for each.
            warnings.filterwarnings("ignore", "the heat map .*is zero everywhere", ClipcWarning)
            if name in METHODS and not METHODS[name].text:
                return [self.model.grad_cam(rgb, None, **options)] * len(prompts)
            if name == "surgery" and options["labels"] is None:
                # Each text alone: the formula for several texts would tell it which classes are there.
                return [self.model.grad_cam(rgb, prompt, **options) for prompt in prompts]
            maps = self.model.grad_cam(rgb, prompts, **options)
            return [maps[i] for i in range(len(prompts))]

    # -- measures ----------------------------------------------------------------------------------------

    def _add_pointing(self, trial, picture, boxes, maps):
        tolerance = float(self.tolerance)
        if self.tolerance_at is not None:
            tolerance *= max(picture.width, picture.height) / self.tolerance_at
        for name, map_ in maps.items():
            self._record("pointing", name, trial, hits(map_.peaks(), boxes, tolerance).mean())
        if self.baselines:
            centre = np.array([[picture.width / 2, picture.height / 2]])
            self._record("pointing", CENTRE, trial, hits(centre, boxes, tolerance).mean())
            for kind, map_ in distinct_grids(maps.values(), picture).items():
                self._record("pointing", kind, trial, hits(map_.centres(), boxes, tolerance).mean())

    def _add_energy(self, trial, picture, boxes, maps):
        inside = box_mask(boxes, picture)
        for name, map_ in maps.items():
            values = map_.values()
            self.empty[name] += not values.any()
            self._record("energy", name, trial, _share(values, inside))
        if self.baselines:
            for name, values in self._energy_baselines(picture).items():
                self._record("energy", name, trial, _share(values, inside))

    def _energy_baselines(self, picture):
        x0, y0, x1, y1 = self._square_box(picture)
        xs = np.arange(picture.width) + 0.5
        ys = np.arange(picture.height) + 0.5
        in_x, in_y = (xs >= x0) & (xs < x1), (ys >= y0) & (ys < y1)
        seen_width, seen_height = min(x1, picture.width) - max(x0, 0), min(y1, picture.height) - max(y0, 0)
        across = np.exp(-0.5 * ((xs - picture.width / 2) / (_CENTRE_SIGMA * seen_width)) ** 2)
        down = np.exp(-0.5 * ((ys - picture.height / 2) / (_CENTRE_SIGMA * seen_height)) ** 2)
        uniform = np.outer(in_y, in_x).astype(np.float64)
        return {CENTRE: np.outer(down * in_y, across * in_x), RANDOM: uniform}

    def _square_box(self, picture):
        """What the model's square shows, in pixels of the picture; all of it without a model."""
        if self.image_size is None:
            return (0.0, 0.0, float(picture.width), float(picture.height))
        return image.square_box(picture.height, picture.width, self.image_size, self.fit)

    def _add_curves(self, position, picture, rgb, trials, present, maps):
        config = self.model.config
        view = image.view(rgb, self.image_size, config.image_mean, config.image_std, fit=self.fit)
        box = view.square_box
        columns = [self.labels.index(label) for label in present]
        # Text-free methods, and baselines, have one order for all classes of a picture; it is encoded once.
        jobs = {}  # (kind, content) -> (importance, [(method, index of the class)])
        for name, several in maps.items():
            for i, map_ in enumerate(several):
                key = ("map", map_.grid.shape, map_.grid_box, map_.grid.tobytes())
                jobs.setdefault(key, (map_, []))[1].append((name, i))
        if self.baselines:
            everywhere = range(len(present))
            rng = np.random.default_rng([self.seed, position])
            for kind, map_ in distinct_grids([several[0] for several in maps.values()], picture).items():
                shape = tuple(min(side, self.image_size) for side in map_.grid.shape)
                drawn = GridMap(rng.random(shape), box)
                jobs[("baseline", kind)] = (drawn, [(kind, i) for i in everywhere])
            jobs[("baseline", CENTRE)] = (None, [(CENTRE, i) for i in everywhere])
        self._curves.begin(view.pixels)
        for map_, wanted in jobs.values():
            if map_ is None:
                importance = closeness_to_centre(self.image_size)
            else:
                importance = map_.on_square(box, self.image_size)
            # The same draw for all methods: equal values are no method's merit.
            ties = np.random.default_rng([self.seed, position, 1])
            areas = self._curves.areas(importance, ties)
            for name, i in wanted:
                for measure, values in areas.items():
                    self._record(measure, name, trials[i], values[columns[i]])

    # -- results -----------------------------------------------------------------------------------------

    def results(self, *, n_without, n_unreadable):
        settings = {"template": repr(self.template)}
        if self.image_size is not None:
            settings["image_size"] = self.image_size
            settings["fit"] = self.fit
        result = Evaluations()
        for measure in self.measures:
            table = self.scores[measure]
            of_methods = [method.name for method in self.methods]
            # A baseline of one grid stands for all pictures or for none.
            others = [
                name for name in table if name not in of_methods and len(table[name]) == len(self.trials)
            ]
            others.sort(key=lambda name: name != CENTRE)
            own = dict(settings)
            if measure == "pointing":
                at = "" if self.tolerance_at is None else f" at a longer side of {self.tolerance_at}"
                own["tolerance"] = f"{self.tolerance} px{at}"
            if measure in ("deletion", "insertion"):
                own["steps"] = self.steps
            values = {
                name: [table[name][trial] for trial in range(len(self.trials))]
                for name in of_methods + others
            }
            randoms = [name for name in others if name != CENTRE]
            if len(randoms) == 1:
                values = {RANDOM if name == randoms[0] else name: row for name, row in values.items()}
                others = [RANDOM if name == randoms[0] else name for name in others]
            result[measure] = Evaluation(
                measure,
                values,
                [picture for picture, _ in self.trials],
                [label for _, label in self.trials],
                picture_names=self.picture_names,
                labels=self.labels,
                baselines=others,
                empty=self.empty if measure == "energy" else None,
                n_without=n_without,
                n_unreadable=n_unreadable,
                settings=own,
                seed=self.seed,
            )
        return result
