"""The scores of explanations: means over trials with bootstrap intervals, and how they print."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from clipc.tables import Compared, ScoreTable, count, data_frame, markdown, percent, percent_range

BOOTSTRAP_SAMPLES = 2000
# One picture says nothing about another.
NO_INTERVAL = (math.nan, math.nan)
CENTRE = "centre"
RANDOM = "random"


@dataclass(frozen=True)
class Measure:
    """What a number means.

    Attributes
    ----------
    name, title, explanation : str
    higher_is_better : bool
    digits : int
        Decimals of the percentages in a table. Probabilities among many labels are small.
    """

    name: str
    title: str
    explanation: str
    higher_is_better: bool
    digits: int = 1

    @property
    def direction(self):
        return "higher is better" if self.higher_is_better else "lower is better"


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("pointing", "Pointing game", "the map's peak lies in a box of the class", True),
        Measure("energy", "Energy in boxes", "share of the map inside the boxes of the class", True),
        Measure(
            "deletion",
            "Deletion",
            "mean probability while the most important pixels are removed",
            higher_is_better=False,
            digits=2,
        ),
        Measure(
            "insertion",
            "Insertion",
            "mean probability while the most important pixels are inserted",
            higher_is_better=True,
            digits=2,
        ),
    )
}


@dataclass(frozen=True)
class MethodScore(Compared):
    """How one method did.

    Attributes
    ----------
    method : str
    score : float
        Mean over all trials, 0 to 1.
    interval : (float, float)
        Of the score, 95 %; NaN when there is one picture only.
    is_baseline : bool
    difference : float or None
        Score minus that of the centre baseline in the same trials; None for the baselines themselves, and
        without baselines.
    difference_interval : (float, float) or None
        Of the difference, 95 %, both methods resampled together.
    below_baseline : bool or None
        Whether the method did worse than the centre baseline (for deletion: whether its score is higher).
    is_certain : bool or None
        Whether the interval of the difference leaves out zero.
    per_class : dict from str to (float, int)
        Label to mean and number of trials.
    n_trials, n_pictures : int
    n_empty : int
        Maps without any positive value. In energy they count as 0; the other measures use the signed grid.
    """

    # What all methods are compared with.
    baseline = CENTRE

    method: str
    score: float
    interval: tuple
    is_baseline: bool
    difference: float | None
    difference_interval: tuple | None
    below_baseline: bool | None
    is_certain: bool | None
    per_class: dict
    n_trials: int
    n_pictures: int
    n_empty: int

    @property
    def class_mean(self):
        """The mean of the classes' means, where a rare class weighs as much as a frequent one."""
        return float(np.mean([mean for mean, _ in self.per_class.values()]))


MARKS = "▼ below the centre baseline; ▽ below it, but the interval of the difference holds 0"


def bootstrap_means(values, pictures, *, samples=BOOTSTRAP_SAMPLES, seed=0):
    """Means over trials when whole pictures are drawn again.

    Trials in one picture depend on each other, so the picture is what is drawn, with all its trials.

    Parameters
    ----------
    values : float array, (M, T)
        M methods, T trials.
    pictures : int array, (T,)
        The picture of each trial, numbered from 0 without gaps.
    samples : int
    seed : int

    Returns
    -------
    float64 array, (samples, M)
        Row b: draw as many pictures as there are, with replacement; the mean over all their trials. The same
        pictures for all methods, so that differences between methods can be taken within a row.
    """
    pictures = np.asarray(pictures)
    n_pictures = int(pictures.max()) + 1
    counts = np.bincount(pictures, minlength=n_pictures).astype(np.float64)
    sums = np.stack([np.bincount(pictures, row, n_pictures) for row in np.asarray(values, np.float64)])
    rng = np.random.default_rng(seed)
    result = np.empty((samples, len(sums)))
    rows = max(1, (1 << 22) // n_pictures)
    for begin in range(0, samples, rows):
        end = min(begin + rows, samples)
        drawn = rng.integers(0, n_pictures, (end - begin, n_pictures))
        drawn += np.arange(end - begin)[:, None] * n_pictures
        times = np.bincount(drawn.ravel(), minlength=(end - begin) * n_pictures).reshape(-1, n_pictures)
        result[begin:end] = (times @ sums.T) / (times @ counts)[:, None]
    return result


def bootstrap_interval(samples):
    """The 95 % percentile interval, (low, high)."""
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


class Evaluation(ScoreTable):
    """The scores of some methods in one measure. It prints as a table, also in Jupyter.

    ``evaluation["gradcam"]`` is the `MethodScore` of a method; iterating gives all of them.

    Attributes
    ----------
    measure : str
        "pointing", "energy", "deletion" or "insertion".
    higher_is_better : bool
    methods : tuple of MethodScore
        In the order they were asked for, baselines last.
    labels : tuple of str
        The classes that were looked for.
    n_trials, n_pictures : int
        A trial is a picture and a class that is present in it.
    n_without : int
        Pictures that were left out because no class of interest is in them.
    n_unreadable : int
        Pictures that were left out because they cannot be read.
    settings : dict
        What the numbers depend on.
    values : dict from str to float64 array, (n_trials,)
        The score of each method in each trial.
    pictures : int array, (n_trials,)
        The picture of each trial, by its position among those used; `picture_names` has their names.
    trial_labels : tuple of str
        The class of each trial.
    """

    def __init__(
        self,
        measure,
        values,
        pictures,
        trial_labels,
        *,
        picture_names,
        labels,
        baselines=(),
        empty=None,
        n_without=0,
        n_unreadable=0,
        settings=None,
        seed=0,
    ):
        self._measure = MEASURES[measure]
        self.values = {name: np.asarray(row, np.float64) for name, row in values.items()}
        self.pictures = np.asarray(pictures)
        self.trial_labels = tuple(trial_labels)
        self.picture_names = tuple(picture_names)
        self.labels = tuple(labels)
        self.n_trials = len(self.trial_labels)
        self.n_pictures = int(self.pictures.max()) + 1
        self.n_without = n_without
        self.n_unreadable = n_unreadable
        self.settings = dict(settings or {})
        self.methods = tuple(self._score(frozenset(baselines), empty or {}, seed))

    measure = property(lambda self: self._measure.name)
    higher_is_better = property(lambda self: self._measure.higher_is_better)

    def _score(self, baselines, empty, seed):
        table = np.stack(list(self.values.values()))
        samples = bootstrap_means(table, self.pictures, seed=seed)
        names = list(self.values)
        labels = np.asarray(self.trial_labels)
        masks = {label: labels == label for label in self.labels}
        centre = names.index(CENTRE) if CENTRE in baselines else None
        several = self.n_pictures > 1
        for m, name in enumerate(names):
            compared = centre is not None and name not in baselines
            difference = interval = below = certain = None
            if compared:
                difference = float(table[m].mean() - table[centre].mean())
                interval = NO_INTERVAL
                if several:
                    interval = bootstrap_interval(samples[:, m] - samples[:, centre])
                below = difference < 0 if self.higher_is_better else difference > 0
                certain = bool(interval[0] > 0 or interval[1] < 0)
            yield MethodScore(
                method=name,
                score=float(table[m].mean()),
                interval=bootstrap_interval(samples[:, m]) if several else NO_INTERVAL,
                is_baseline=name in baselines,
                difference=difference,
                difference_interval=interval,
                below_baseline=below,
                is_certain=certain,
                per_class={
                    label: (float(table[m, mask].mean()), int(mask.sum()))
                    for label, mask in masks.items()
                    if mask.any()
                },
                n_trials=self.n_trials,
                n_pictures=self.n_pictures,
                n_empty=int(empty.get(name, 0)),
            )

    # -- how it prints -----------------------------------------------------------------------------------

    @property
    def title(self):
        measure = self._measure
        return f"{measure.title}: {measure.explanation}, in % ({measure.direction})"

    @property
    def summary(self):
        """How many trials, and what they depend on, as one sentence."""
        text = f"{self.n_trials} trials (a picture and a class in it) in {count(self.n_pictures, 'picture')}"
        if self.n_without:
            text += f"; {count(self.n_without, 'picture')} without a class of interest"
        if self.n_unreadable:
            text += f"; {count(self.n_unreadable, 'picture')} unreadable"
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        return text + (f"; {settings}" if settings else "")

    def _header(self):
        header = ["method", "score", "95 % interval"]
        if any(score.difference is not None for score in self.methods):
            header += ["minus centre", "95 % interval"]
        return header

    def _cells(self, score):
        digits = self._measure.digits
        cells = [score.method, percent(score.score, digits), percent_range(score.interval, digits)]
        if len(self._header()) > 3:
            if score.difference is None:
                cells += ["", ""]
            else:
                cells.append(percent(score.difference, digits, "+"))
                cells.append(percent_range(score.difference_interval, digits, "+"))
        return cells

    def _remark(self, score):
        return f"{score.n_empty} empty maps" if score.n_empty else ""

    def __repr__(self):
        digits = self._measure.digits
        scores = ", ".join(f"{score.method} {percent(score.score, digits)}" for score in self.methods)
        return f"<{self._measure.title}, {self.n_trials} trials: {scores}>"

    def to_rows(self):
        """A dict for each method, with plain numbers between 0 and 1.

        Returns
        -------
        list of dict
        """
        return [
            {
                "measure": self.measure,
                "method": score.method,
                "score": score.score,
                "low": score.interval[0],
                "high": score.interval[1],
                "class_mean": score.class_mean,
                "difference": score.difference,
                "difference_low": score.difference_interval and score.difference_interval[0],
                "difference_high": score.difference_interval and score.difference_interval[1],
                "below_baseline": score.below_baseline,
                "is_baseline": score.is_baseline,
                "n_trials": score.n_trials,
                "n_pictures": score.n_pictures,
                "n_empty": score.n_empty,
            }
            for score in self.methods
        ]

    def class_rows(self):
        """A dict for each method and class.

        Returns
        -------
        list of dict
        """
        return [
            {"measure": self.measure, "method": score.method, "label": label, "score": mean, "n_trials": n}
            for score in self.methods
            for label, (mean, n) in score.per_class.items()
        ]


class Evaluations(dict):
    """Several measures of the same methods: a dict from the measure's name to its `Evaluation`."""

    def __str__(self):
        return "\n\n".join(map(str, self.values()))

    def __repr__(self):
        return "<" + ", ".join(f"{name!r}: {evaluation!r}" for name, evaluation in self.items()) + ">"

    def _repr_html_(self):
        return "".join(evaluation._repr_html_() for evaluation in self.values())

    def to_markdown(self, *, differences=False):
        """One table in Markdown, a column for each measure; what did worse than the centre is marked.

        Parameters
        ----------
        differences : bool
            Instead of the scores, what they are above those of the centre baseline.

        Returns
        -------
        str
        """
        scores = {(score.method, name): score for name, evaluation in self.items() for score in evaluation}
        baselines = {method for (method, _), score in scores.items() if score.is_baseline}
        # A baseline that one measure has alone stands behind the methods, too.
        methods = sorted(dict.fromkeys(method for method, _ in scores), key=baselines.__contains__)
        if differences:
            methods = [method for method in methods if method not in baselines]
        measures = [evaluation._measure for evaluation in self.values()]
        rows = [
            [f"*{method}*" if method in baselines else method]
            + [
                self._cell(scores.get((method, measure.name)), measure.digits, differences)
                for measure in measures
            ]
            for method in methods
        ]
        arrows = {True: "↑", False: "↓"}
        header = [f"{measure.title.lower()} ({arrows[measure.higher_is_better]})" for measure in measures]
        what = "Minus the centre baseline, in %" if differences else "In %"
        legend = f"{what}, with 95 % intervals."
        if baselines and not differences:
            legend += " In italics: baselines, which do not look at the picture."
        if baselines:
            legend += f" {MARKS}."
        return markdown(["method", *header], rows) + f"\n\n{legend}"

    @staticmethod
    def _cell(score, digits, differences):
        if score is None or (differences and score.difference is None):
            return ""
        if differences:
            value, interval, sign = score.difference, score.difference_interval, "+"
        else:
            value, interval, sign = score.score, score.interval, ""
        return f"{percent(value, digits, sign)} {percent_range(interval, digits, sign)} {score.mark}"

    def to_rows(self):
        """The rows of all measures; see `Evaluation.to_rows`."""
        return [row for evaluation in self.values() for row in evaluation.to_rows()]

    def class_rows(self):
        """The rows of all measures; see `Evaluation.class_rows`."""
        return [row for evaluation in self.values() for row in evaluation.class_rows()]

    def to_pandas(self):
        """`to_rows` as a ``pandas.DataFrame``. Needs the extra ``clipc[analysis]``."""
        return data_frame(self.to_rows())
