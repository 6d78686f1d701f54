"""The scores of detectors: average precision and recall with their cost, and how they print."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clipc.scores import CENTRE
from clipc.tables import Compared, ScoreTable, count, markdown, percent, percent_range

WHOLE = "whole picture"
BASELINES = (CENTRE, WHOLE)

_DIGITS = 1


@dataclass(frozen=True)
class ClassScore:
    """How a method did with one class.

    Attributes
    ----------
    ap, ap50, ap75 : float
        Average precision, 0 to 1: the mean over COCO's ten IoU thresholds, and at 0.5 and at 0.75.
    recall : float
        The share of boxes that are found, mean over the ten thresholds.
    n_boxes : int
        Boxes of the class in the data, without crowds.
    n_detections : int
    """

    ap: float
    ap50: float
    ap75: float
    recall: float
    n_boxes: int
    n_detections: int


@dataclass(frozen=True)
class DetectionScore(Compared):
    """How one method did.

    Attributes
    ----------
    method : str
    ap : float
        Average precision, 0 to 1, mean over the classes and the IoU thresholds 0.5, 0.55, …, 0.95.
    ap50, ap75 : float
        At the IoU thresholds 0.5 and 0.75.
    ap_small, ap_medium, ap_large : float
        Of boxes up to 32 x 32 pixels, up to 96 x 96, and beyond; NaN where there are no such boxes.
    recall : dict from int to float
        The share of boxes found with so many detections of a class in a picture: 1, 10, and all.
    interval : (float, float)
        Of `ap50`, 95 %; NaN when there is one picture only.
    is_baseline : bool
    baseline : str or None
        What the method is compared with: the baseline of the higher `ap50`.
    difference : float or None
        `ap50` minus that of the baseline; None for the baselines themselves, and without baselines.
    difference_interval : (float, float) or None
        Of the difference, 95 %, both resampled together.
    below_baseline : bool or None
    is_certain : bool or None
        Whether the interval of the difference leaves out zero.
    per_class : dict from str to ClassScore
        Of the classes that have boxes.
    n_detections : int
    seconds : float
        Mean time for a picture; NaN for baselines. Reading the picture is not in it.
    n_pictures : int
    """

    method: str
    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    recall: dict
    interval: tuple
    is_baseline: bool
    baseline: str | None
    difference: float | None
    difference_interval: tuple | None
    below_baseline: bool | None
    is_certain: bool | None
    per_class: dict
    n_detections: int
    seconds: float
    n_pictures: int


class DetectionEvaluation(ScoreTable):
    """Average precision of some methods. It prints as a table, also in Jupyter.

    ``evaluation["windows"]`` is the `DetectionScore` of a method; iterating gives all of them.

    Attributes
    ----------
    methods : tuple of DetectionScore
        In the order they were asked for, baselines last.
    labels : tuple of str
        The classes that were looked for.
    n_pictures, n_boxes, n_crowds, n_classes : int
        What was searched; `n_classes` of the labels have boxes.
    n_unreadable : int
        Pictures that were left out because they cannot be read.
    settings : dict
        What the numbers depend on.
    """

    title = "Average precision of boxes, in % (higher is better)"

    def __init__(self, methods, *, labels, n_pictures, n_boxes, n_crowds, n_classes, n_unreadable, settings):
        self.methods = tuple(methods)
        self.labels = tuple(labels)
        self.n_pictures = n_pictures
        self.n_boxes = n_boxes
        self.n_crowds = n_crowds
        self.n_classes = n_classes
        self.n_unreadable = n_unreadable
        self.settings = dict(settings)

    @property
    def summary(self):
        """What was searched, and what the numbers depend on, as one sentence."""
        classes = f"{self.n_classes} class{'' if self.n_classes == 1 else 'es'}"
        text = f"{count(self.n_pictures, 'picture')} with {_boxes(self.n_boxes)} of {classes}"
        text += f"; {count(len(self.labels), 'label')} looked for"
        if self.n_crowds:
            text += f"; {_boxes(self.n_crowds)} around crowds ignored"
        if self.n_unreadable:
            text += f"; {count(self.n_unreadable, 'picture')} unreadable"
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        return text + (f"; {settings}" if settings else "")

    @property
    def _compared(self):
        return next((score.baseline for score in self.methods if score.baseline is not None), None)

    @property
    def _most(self):
        """Detections of a class in a picture, at most."""
        return max(self.methods[0].recall)

    def _header(self):
        header = ["method", "AP", "AP50", "95 % interval", "AP75", f"AR{self._most}"]
        if self._compared is not None:
            header += [f"AP50 minus {self._compared}", "95 % interval"]
        return [*header, "detections", "s/picture"]

    def _cells(self, score):
        cells = [score.method, _cell(score.ap), _cell(score.ap50), percent_range(score.interval, _DIGITS)]
        cells += [_cell(score.ap75), _cell(score.recall[self._most])]
        if self._compared is not None:
            if score.difference is None:
                cells += ["", ""]
            else:
                cells.append(percent(score.difference, _DIGITS, "+"))
                cells.append(percent_range(score.difference_interval, _DIGITS, "+"))
        return [*cells, str(score.n_detections), "" if math.isnan(score.seconds) else f"{score.seconds:.3g}"]

    def _remark(self, score):
        return "" if score.n_detections else "no detections"

    def __repr__(self):
        scores = ", ".join(f"{score.method} {_cell(score.ap50)}" for score in self.methods)
        return f"<AP50 in {count(self.n_pictures, 'picture')}: {scores}>"

    def to_markdown(self, *, details=False):
        """The table in Markdown; what did worse than the baseline is marked.

        Parameters
        ----------
        details : bool
            Instead of the main figures, AP by the size of the boxes, and recall by the number of detections.

        Returns
        -------
        str
        """
        if not details:
            return super().to_markdown()
        numbers = sorted(self.methods[0].recall)
        header = ["method", "AP small", "AP medium", "AP large", *(f"AR{n}" for n in numbers)]
        rows = [
            [
                score.method,
                *(_cell(value) for value in (score.ap_small, score.ap_medium, score.ap_large)),
                *(_cell(score.recall[n]) for n in numbers),
            ]
            for score in self.methods
        ]
        return markdown(header, rows)

    def to_rows(self):
        """A dict for each method, with plain numbers; scores are between 0 and 1.

        Returns
        -------
        list of dict
        """
        return [
            {
                "method": score.method,
                "AP": score.ap,
                "AP50": score.ap50,
                "AP75": score.ap75,
                "AP_small": score.ap_small,
                "AP_medium": score.ap_medium,
                "AP_large": score.ap_large,
                **{f"AR{n}": value for n, value in score.recall.items()},
                "AP50_low": score.interval[0],
                "AP50_high": score.interval[1],
                "baseline": score.baseline,
                "difference": score.difference,
                "difference_low": score.difference_interval and score.difference_interval[0],
                "difference_high": score.difference_interval and score.difference_interval[1],
                "below_baseline": score.below_baseline,
                "is_baseline": score.is_baseline,
                "n_detections": score.n_detections,
                "seconds": score.seconds,
                "n_pictures": score.n_pictures,
            }
            for score in self.methods
        ]

    def class_rows(self):
        """A dict for each method and class that has boxes.

        Returns
        -------
        list of dict
        """
        return [
            {
                "method": score.method,
                "label": label,
                "AP": one.ap,
                "AP50": one.ap50,
                "AP75": one.ap75,
                f"AR{self._most}": one.recall,
                "n_boxes": one.n_boxes,
                "n_detections": one.n_detections,
            }
            for score in self.methods
            for label, one in score.per_class.items()
        ]


def _boxes(number):
    return f"{number} box{'' if number == 1 else 'es'}"


def _cell(value):
    return "-" if math.isnan(value) else percent(value, _DIGITS)
