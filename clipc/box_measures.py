"""Detections against annotated boxes: COCO's average precision, with baselines and intervals.

pycocotools matches detections to boxes and computes the scores. What is computed here, from those matches, is
what it has no means for: intervals over resampled pictures, and the expectation over orders of the baselines.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from dataclasses import dataclass, field

import numpy as np

from clipc.box_scores import BASELINES, WHOLE, ClassScore, DetectionEvaluation, DetectionScore
from clipc.scores import NO_INTERVAL, bootstrap_interval

# COCO's areas in the order of its parameters.
_ALL, _SMALL, _MEDIUM, _LARGE = range(4)

_RECALLS = np.linspace(0, 1, 101)
_SAMPLES = 1000

# All boxes of a baseline have the same score. How many orders of them the average is taken over, and how many
# in each sample of the bootstrap.
_ORDERS = 100
_ORDERS_IN_SAMPLE = 4

# Differences below are none.
_ROUNDING = 1e-9

# Elements of temporary arrays.
_CHUNK = 1 << 21


def import_pycocotools():
    """The classes ``COCO`` and ``COCOeval``."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ImportError("average_precision needs pycocotools: pip install 'clipc[detection]'") from None
    return COCO, COCOeval


# -- what a method found ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boxes:
    """Labelled boxes of one picture, the highest score first.

    Attributes
    ----------
    classes : int64 array, (N,)
        Positions among the labels.
    scores : float64 array, (N,)
    boxes : float64 array, (N, 4)
        x0, y0, x1, y1 in pixels.
    """

    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray

    @classmethod
    def of(cls, found, index, picture, where, most):
        """Check what a method returned; keep the `most` of the highest scores.

        Parameters
        ----------
        found : iterable of objects with `label`, `score` and `box`, or of such triples
        index : dict from label to position
        picture : AnnotatedPicture
        where : str
            How messages call it.
        most : int
        """
        if isinstance(found, (str, bytes, dict)) or not hasattr(found, "__iter__"):
            raise TypeError(
                f"{where}: expected Detections or a list of (label, score, box), got {type(found).__name__}"
            )
        size = getattr(found, "image_size", None)
        if size is not None and tuple(size) != (picture.width, picture.height):
            raise ValueError(
                f"{where}: expected boxes in a picture of {picture.width} x {picture.height} pixels, "
                f"got detections in {size[0]} x {size[1]}"
            )
        classes, scores, boxes = [], [], []
        for one in found:
            label, score, box = _parts(one, where)
            if label not in index:
                raise ValueError(f"{where}: found {label!r}, which is none of the labels")
            classes.append(index[label])
            scores.append(score)
            boxes.append(box)
        classes = np.array(classes, np.int64)
        scores = np.array(scores, np.float64)
        boxes = np.array(boxes, np.float64).reshape(-1, 4)
        if not np.isfinite(scores).all() or not np.isfinite(boxes).all():
            raise ValueError(f"{where}: a score or a box holds NaN or infinity")
        if (boxes[:, :2] > boxes[:, 2:]).any():
            wrong = boxes[(boxes[:, :2] > boxes[:, 2:]).any(axis=1)][0]
            raise ValueError(f"{where}: expected boxes with x0 <= x1 and y0 <= y1, got {wrong.tolist()}")
        order = np.argsort(-scores, kind="stable")[:most]
        return cls(classes[order], scores[order], boxes[order])


def _parts(one, where):
    if hasattr(one, "label") and hasattr(one, "score") and hasattr(one, "box"):
        label, score, box = one.label, one.score, one.box
    elif isinstance(one, (tuple, list)) and len(one) == 3:
        label, score, box = one
    else:
        raise TypeError(f"{where}: expected detections or (label, score, box), got {one!r}")
    try:
        box = tuple(float(side) for side in box)
        score = float(score)
    except (TypeError, ValueError):
        box = ()
    if not isinstance(label, str) or len(box) != 4:
        raise TypeError(
            f"{where}: expected a text, a number and a box (x0, y0, x1, y1), "
            f"got ({label!r}, {score!r}, {box!r})"
        )
    return label, score, box


# -- one pass over the pictures --------------------------------------------------------------------------


@dataclass
class BoxRun:
    """Collects the detections of all methods, picture by picture, and scores them.

    Attributes
    ----------
    model : Model or None
    methods : list
        With `name`, and `function` or `options`.
    labels : tuple of str
    max_detections : int
        For a picture.
    baselines : bool
    seed : int
    """

    model: object
    methods: list
    labels: tuple
    max_detections: int
    baselines: bool
    seed: int
    truth: list = field(default_factory=list)  # for each picture: (its size, [(class, box, is a crowd)])

    def __post_init__(self):
        self.index = {label: i for i, label in enumerate(self.labels)}
        self.found = {method.name: [] for method in self.methods}  # method -> [Boxes], picture by picture
        if self.baselines:
            self.found.update({name: [] for name in BASELINES})
        self.seconds = dict.fromkeys(self.found, math.nan)

    def add(self, position, picture, rgb):
        """Detect in one picture with all methods."""
        for method in self.methods:
            where = f"{method.name}, {picture.name}"
            begin = time.perf_counter()
            if method.function is not None:
                found = method.function(rgb, list(self.labels))
            else:
                found = self.model.detect(rgb, list(self.labels), **method.options)
            passed = time.perf_counter() - begin
            self.seconds[method.name] = passed + (self.seconds[method.name] if self.truth else 0.0)
            boxes = Boxes.of(found, self.index, picture, where, self.max_detections)
            self.found[method.name].append(boxes)
        true = [
            (self.index[label], box, crowd)
            for crowd, kind in enumerate((picture.boxes, picture.crowds))
            for label, boxes in kind.items()
            if label in self.index
            for box in boxes
        ]
        self.truth.append(((picture.width, picture.height), true))
        if self.baselines:
            # The boxes of all other labels are wrong without matching; `_Table._matches` counts them.
            classes = np.unique([class_ for class_, _, _ in true]).astype(np.int64)
            for name in BASELINES:
                boxes = np.tile(_baseline_box(name, picture.width, picture.height), (len(classes), 1))
                self.found[name].append(Boxes(classes, np.ones(len(classes)), boxes))

    # -- scores ------------------------------------------------------------------------------------------

    def results(self, *, n_unreadable, settings):
        """The `DetectionEvaluation` of all pictures that were added."""
        truth = self._truth()
        tables = {name: self._table(name, truth) for name in self.found}
        weights = None
        if len(self.truth) > 1:
            weights = bootstrap_weights(len(self.truth), self.seed)
        samples = {name: None if weights is None else table.sample(weights) for name, table in tables.items()}
        compared = None
        if self.baselines:
            compared = max(BASELINES, key=lambda name: tables[name].ap(0))
        kinds = [crowd for _, boxes in self.truth for _, _, crowd in boxes]
        return DetectionEvaluation(
            [self._score(name, tables, samples, compared) for name in self.found],
            labels=self.labels,
            n_pictures=len(self.truth),
            n_boxes=len(kinds) - sum(kinds),
            n_crowds=sum(kinds),
            n_classes=int((next(iter(tables.values())).n_boxes > 0).sum()),
            n_unreadable=n_unreadable,
            settings=settings,
        )

    def _truth(self):
        COCO, _ = import_pycocotools()
        annotations = []
        for i, (_, boxes) in enumerate(self.truth):
            annotations += [_annotation(i, *one) for one in boxes]
        return _coco(COCO, self._frame(), annotations)

    def _frame(self):
        """Pictures and classes as pycocotools wants them. It takes an id of 0 for none: they start from 1."""
        return {
            "images": [
                {"id": i + 1, "width": width, "height": height}
                for i, ((width, height), _) in enumerate(self.truth)
            ],
            "categories": [{"id": k + 1, "name": label} for k, label in enumerate(self.labels)],
        }

    def _table(self, name, truth):
        COCO, COCOeval = import_pycocotools()
        annotations = []
        for i, found in enumerate(self.found[name]):
            for class_, score, box in zip(found.classes, found.scores, found.boxes):
                annotations.append({**_annotation(i, int(class_), box), "score": float(score)})
        detections = _coco(COCO, self._frame(), annotations)
        evaluation = COCOeval(truth, detections, "bbox")
        fewer = [n for n in (1, 10) if n < self.max_detections]
        evaluation.params.maxDets = [*fewer, self.max_detections]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
        if self.baselines and name in BASELINES:
            areas = [_area(_baseline_box(name, *size)) for size, _ in self.truth]
            counts = np.full(len(self.labels), len(self.truth))
            return _Table(evaluation, len(self.truth), counts, np.array(areas), self.seed)
        counts = np.bincount([one["category_id"] - 1 for one in annotations], minlength=len(self.labels))
        return _Table(evaluation, len(self.truth), counts)

    def _score(self, name, tables, samples, compared):
        table = tables[name]
        is_baseline = self.baselines and name in BASELINES
        difference = interval = below = certain = None
        if compared is not None and not is_baseline:
            difference = table.ap(0) - tables[compared].ap(0)
            interval = NO_INTERVAL
            if samples[name] is not None:
                interval = _interval(samples[name] - samples[compared], difference)
            below = difference < -_ROUNDING
            certain = bool(interval[0] > 0 or interval[1] < 0)
        return DetectionScore(
            method=name,
            ap=table.ap(),
            ap50=table.ap(0),
            ap75=table.ap(5),
            ap_small=table.ap(area=_SMALL),
            ap_medium=table.ap(area=_MEDIUM),
            ap_large=table.ap(area=_LARGE),
            recall=table.recall_at,
            interval=NO_INTERVAL if samples[name] is None else _interval(samples[name], table.ap(0), 0),
            is_baseline=is_baseline,
            baseline=None if is_baseline else compared,
            difference=difference,
            difference_interval=interval,
            below_baseline=below,
            is_certain=certain,
            per_class={
                label: table.of_class(k) for k, label in enumerate(self.labels) if table.n_boxes[k] > 0
            },
            n_detections=int(table.n_detections.sum()),
            seconds=self.seconds[name] / len(self.truth),
            n_pictures=len(self.truth),
        )


def _interval(samples, estimate, least=-1):
    """95 %, around the estimate. Random weights raise the average precision of a poor detector."""
    low, high = bootstrap_interval(samples - samples.mean() + estimate)
    return max(low, float(least)), min(high, 1.0)


def _baseline_box(name, width, height):
    if name == WHOLE:
        return np.array([0, 0, width, height], np.float64)
    return np.array([width, height, 3 * width, 3 * height], np.float64) / 4


def _area(box):
    return float((box[2] - box[0]) * (box[3] - box[1]))


def _annotation(picture, class_, box, crowd=0):
    x0, y0, x1, y1 = map(float, box)
    return {
        "image_id": picture + 1,
        "category_id": class_ + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": _area((x0, y0, x1, y1)),
        "iscrowd": crowd,
    }


def _coco(COCO, frame, annotations):
    coco = COCO()
    for i, one in enumerate(annotations):
        one["id"] = i + 1
    coco.dataset = {**frame, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


# -- from matches to scores ------------------------------------------------------------------------------


def bootstrap_weights(n_pictures, seed, samples=_SAMPLES):
    """How much each picture counts in each sample of a Bayesian bootstrap (Rubin 1981).

    Pictures that are drawn or not would take rare classes out of most samples and count them double in
    others, which shifts the mean over classes. Here every picture stays, with an exponentially distributed
    weight.

    Returns
    -------
    int64 array, (samples, n_pictures)
        Whole numbers, mean about 1,000,000, so that sums are exact and a recall of 1 is 1.
    """
    drawn = np.random.default_rng(seed).exponential(1e6, (samples, n_pictures))
    return np.maximum(np.rint(drawn), 1).astype(np.int64)


class _Table:
    """The scores of one method in all classes.

    Parameters
    ----------
    evaluation : COCOeval
        After `accumulate`.
    n_pictures : int
    n_detections : int array, (K,)
    areas : float array, (I,), optional
        For a baseline, which has one box for each label in each picture, all of the same score: their areas.
        Those of labels that are not in the picture are left out of `evaluation`.
    seed : int, optional
        Of the orders of a baseline's boxes.
    """

    def __init__(self, evaluation, n_pictures, n_detections, areas=None, seed=None):
        self._of_pictures = evaluation.evalImgs
        self._area_ranges = evaluation.params.areaRng
        self._areas = areas
        self._n_pictures = n_pictures
        self._seed = seed
        self.n_detections = n_detections
        precision = evaluation.eval["precision"][..., -1]  # (T, R, K, A); -1: no boxes
        recall = evaluation.eval["recall"]  # (T, K, A, M)
        self._precision = np.where(precision < 0, np.nan, precision).mean(axis=1)
        self._recall = np.where(recall < 0, np.nan, recall)
        self.recall_at = {
            int(n): _mean(self._recall[:, :, _ALL, m]) for m, n in enumerate(evaluation.params.maxDets)
        }
        n_classes = self._precision.shape[1]
        self.n_boxes = np.zeros(n_classes, np.int64)
        self._at_half = []  # of each class: _Matches at the IoU 0.5
        for k in range(n_classes):
            self._at_half.append(self._matches(k, _ALL, 0))
            self.n_boxes[k] = self._at_half[k].positives.sum()
        if seed is not None:
            self._average_over_orders()

    def ap(self, threshold=None, area=_ALL):
        """Mean over the classes, and over the IoU thresholds or at the one of this position."""
        return _mean(self._precision[slice(None) if threshold is None else threshold, :, area])

    def of_class(self, k):
        precision = self._precision[:, k, _ALL]
        return ClassScore(
            ap=float(precision.mean()),
            ap50=float(precision[0]),
            ap75=float(precision[5]),
            recall=float(self._recall[:, k, _ALL, -1].mean()),
            n_boxes=int(self.n_boxes[k]),
            n_detections=int(self.n_detections[k]),
        )

    def sample(self, weights):
        """AP50 when each picture counts so many times.

        Parameters
        ----------
        weights : int array, (B, I)
            1 or more.

        Returns
        -------
        float64 array, (B,)
        """
        total = np.zeros(len(weights))
        repeats = 1 if self._seed is None else _ORDERS_IN_SAMPLE
        repeated = np.repeat(weights, repeats, axis=0)
        for k, matches in enumerate(self._at_half):
            if not self.n_boxes[k]:
                continue
            rng = None if self._seed is None else np.random.default_rng([self._seed, k, 1])
            total += matches.average_precision(repeated, rng).reshape(len(weights), repeats).mean(axis=1)
        return total / np.count_nonzero(self.n_boxes)

    def _average_over_orders(self):
        """Replace what depends on the order of equal scores by its mean over orders."""
        once = np.ones((_ORDERS, self._n_pictures), np.int64)
        for t, k, a in np.argwhere(self._precision > 0):
            matches = self._matches(k, a, t)
            rng = np.random.default_rng([self._seed, k])
            self._precision[t, k, a] = matches.average_precision(once, rng).mean()

    def _matches(self, k, a, t):
        begin = (k * len(self._area_ranges) + a) * self._n_pictures
        low, high = self._area_ranges[a]
        scores, pictures, true = [], [], []
        positives = np.zeros(self._n_pictures, np.int64)
        for i, one in enumerate(self._of_pictures[begin : begin + self._n_pictures]):
            if one is None:
                if self._areas is not None and low <= self._areas[i] <= high:
                    scores.append(np.ones(1))
                    true.append(np.zeros(1, bool))
                    pictures.append(np.full(1, i))
                continue
            positives[i] = np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
            counts = np.asarray(one["dtIgnore"])[t] == 0
            scores.append(np.asarray(one["dtScores"], np.float64)[counts])
            true.append(np.asarray(one["dtMatches"])[t][counts] > 0)
            pictures.append(np.full(np.count_nonzero(counts), i))
        if not scores:
            return _Matches(np.zeros(0, np.int64), np.zeros(0, bool), positives)
        order = np.argsort(-np.concatenate(scores), kind="stable")
        return _Matches(np.concatenate(pictures)[order], np.concatenate(true)[order], positives)


@dataclass(frozen=True)
class _Matches:
    """The detections of one class at one IoU threshold, the highest score first, without the ignored ones.

    Attributes
    ----------
    pictures : int array, (D,)
    true : bool array, (D,)
        Whether a detection has a box of its own.
    positives : int array, (I,)
        Boxes to find in each picture.
    """

    pictures: np.ndarray
    true: np.ndarray
    positives: np.ndarray

    def average_precision(self, weights, rng=None):
        """COCO's 101-point average precision when each picture counts so many times.

        Parameters
        ----------
        weights : int array, (B, I)
        rng : numpy.random.Generator, optional
            Put the detections in another random order in each row.

        Returns
        -------
        float64 array, (B,)
            0 where there are no boxes.

        Notes
        -----
        A detection of a picture that counts twice stands for two of the same score. Recall grows only where a
        true one stands, and the largest precision of all that follow is reached there, too.
        """
        result = np.zeros(len(weights))
        if not self.true.any():
            return result
        rows = max(1, _CHUNK // len(self.true))
        for begin in range(0, len(weights), rows):
            part = weights[begin : begin + rows]
            if rng is None:
                drawn = part[:, self.pictures]
                at = np.broadcast_to(np.flatnonzero(self.true), (len(part), np.count_nonzero(self.true)))
            else:
                order = rng.permuted(np.tile(np.arange(len(self.true)), (len(part), 1)), axis=1)
                drawn = np.take_along_axis(part, self.pictures[order], axis=1)
                at = np.nonzero(self.true[order])[1].reshape(len(part), -1)
            found = np.cumsum(np.take_along_axis(drawn, at, axis=1), axis=1)
            seen = np.take_along_axis(np.cumsum(drawn, axis=1), at, axis=1)
            precision = found / (seen + np.spacing(1))
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = found / np.maximum(part @ self.positives, 1)[:, None]
            reached = np.searchsorted(_RECALLS, recall, side="right")
            result[begin : begin + rows] = (precision * np.diff(reached, prepend=0)).sum(axis=1)
        return result / len(_RECALLS)


def _mean(values):
    """The mean of those that are not NaN; NaN when there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan
