"""Linear probe: how well a logistic regression on a model's image features does, beside zero-shot.

The protocol of the CLIP paper (Radford et al. 2021, appendix A.3): scikit-learn's logistic regression with
L-BFGS and at most 1,000 iterations, the strength of the L2 penalty from a sweep on a validation split of the
training images, and then fitted again on all of them. No test image takes part in any choice.

The paper probes the features before the projection into the space that pictures and texts share; this module,
as OpenAI's published example, those that `clipc.Model.encode_image` gives, not scaled to length 1.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass, field

import numpy as np

from clipc.arguments import whole_number
from clipc.as_function import resolve_model
from clipc.evaluate.accuracy import PROMPTS, Answers, check_values, texts_of_labels
from clipc.evaluate.pictures import cosines, encode, read_pictures
from clipc.evaluate.published import plot_zero_shot_minus_probe
from clipc.evaluate.results import ResultTable, axes, p_text, plain, settings_of, settings_text
from clipc.evaluate.statistics import mcnemar, paired_interval, wilson
from clipc.progress import progress_bar
from clipc.tables import count, percent, percent_range
from clipc.vectors import unit_rows

MAX_ITERATIONS = 1000

# Eight steps a decade from 1e-6 to 1e6: 96 steps. The sweep looks at every sixteenth value first.
STEPS_PER_DECADE = 8
C_GRID = tuple(10.0 ** (i / STEPS_PER_DECADE - 6) for i in range(12 * STEPS_PER_DECADE + 1))
_FIRST_STEP = 2 * STEPS_PER_DECADE

# Parts that the training images are divided into, of which one validates.
_VALIDATION_PARTS = 5

# Of OpenAI's example, for one image a class, which cannot be divided.
DEFAULT_C = 0.316

# Up to so many multiplications (pictures x D x classes) BLAS gets one thread. Its threads wait for each other
# busily: for 800 x 256 x 200 two of them took 20 times the processor time of one, and on a machine that did
# something else 50 times as long.
_ONE_THREAD_UP_TO = 500_000_000

PROBE = "linear probe"
ZERO_SHOT = "zero-shot"


def linear_probe(
    data,
    test=None,
    *,
    model=None,
    column="label",
    labels=None,
    prompts="a photo of a {}.",
    folds=5,
    shots=None,
    draws=None,
    C=None,
    normalize=False,
    batch_size=None,
    exif=False,
    limit=None,
    seed=0,
    cache=True,
    skip_unreadable=False,
    progress=False,
):
    """The accuracy of a linear classifier on a model's features, and of zero-shot on the same pictures.

    Parameters
    ----------
    data : path, LabelledImages, or (images, list of str)
        Training pictures and their labels, as for `zero_shot`.
    test : likewise, optional
        Test pictures. None: stratified cross-validation of `data`, so that each picture is tested once.
    model : Model, or what `clipc.load` takes, optional
        None: the default model.
    column : str
        Of the CSV, with the labels.
    labels : dict from str to str, optional
        For zero-shot: from each label to the text that goes into the prompts. None: the labels themselves.
    prompts : str or list of str
        For zero-shot: a name of `PROMPTS`, a template, or several, which are an ensemble.
    folds : int
        Without `test`: how many parts; each class needs so many pictures.
    shots : int or sequence of int, optional
        Also probes with so many training pictures of each class, drawn at random.
    draws : int, optional
        How often they are drawn, for each test set. None: 1 in cross-validation, which has a draw for each
        part; else 5.
    C : float, optional
        The inverse strength of the penalty, instead of the sweep.
    normalize : bool
        Scale features to length 1.
    batch_size, exif, limit, cache, skip_unreadable, progress
        As for `zero_shot`; `limit` draws from both sets.
    seed : int
        Of all draws and divisions.

    Returns
    -------
    LinearProbeEvaluation
        Prints as a table, also in Jupyter.

    Raises
    ------
    ValueError
        Fewer than two classes; classes with too few pictures for `folds`, `shots` or the choice of C; test
        pictures of classes that have no training pictures; and as `zero_shot`.
    TypeError, OSError, ImageError, KeyboardInterrupt
        As `zero_shot`. Features are cached; fitting begins anew.
    ImportError
        scikit-learn is not installed.

    Notes
    -----
    The sweep: accuracy on the validation split for C in 1e-6, 1e-4, ..., 1e6, then at half the (logarithmic)
    distance on both sides of the best so far, and so on until 8 steps a decade: 15 of the 97 values at most.
    Of equally good ones the smallest is taken, the strongest penalty. The validation split is one of 5
    stratified parts of the training pictures, of fewer where a class has fewer; with one picture of each
    class nothing can be chosen, and C is 0.316, as in OpenAI's example.

    Intervals are Wilson's, 95 %, for the number of test pictures; the parts of a cross-validation share
    training pictures, which they leave out of account. For `shots` the accuracy is the mean over all draws,
    whose standard deviation stands beside it. Differences to zero-shot are on the same pictures, with
    McNemar's exact test.
    """
    model = resolve_model(model)
    if C is not None:
        C = _check_c(C)
    ks = () if shots is None else _check_shots(shots)
    train = read_pictures(data, column).draw(limit, seed)
    tested = None if test is None else read_pictures(test, column, "test").draw(limit, seed)
    texts = texts_of_labels(labels, train.values if tested is None else [*train.values, *tested.values])
    for pictures in filter(None, (train, tested)):
        check_values(pictures, texts, column)
    if isinstance(prompts, str):
        prompts = PROMPTS.get(prompts, prompts)
    folds = whole_number("folds", folds, 2)
    if tested is not None:
        _check_test_classes(train, tested)
    draws = (1 if tested is None else 5) if draws is None else whole_number("draws", draws)
    _import_sklearn()

    options = {
        "cache": cache,
        "batch_size": batch_size,
        "exif": exif,
        "skip_unreadable": skip_unreadable,
        "progress": progress,
    }
    train, features, unreadable = _encode(model, train, options)
    classes = list(dict.fromkeys(train.values))
    if len(classes) < 2:
        raise ValueError(f"data: expected pictures of at least two classes, got {classes[0]!r} alone")
    number = {name: i for i, name in enumerate(classes)}
    y = np.array([number[value] for value in train.values])
    if tested is None:
        _check_counts(y, classes, folds, f"folds={folds}", "use fewer folds, or leave the class out")
        splits = _folds(y, folds, seed)
        test_pictures, test_features, test_y = train, features, y
    else:
        test_pictures, test_features, more = _encode(model, tested, options)
        unreadable = unreadable + more
        _check_test_classes(train, test_pictures)
        test_y = np.array([number[value] for value in test_pictures.values])
        splits = [(np.arange(len(y)), np.arange(len(test_y)))]

    matrix = model.classifier([texts[name] for name in classes], prompts)
    zero_shot = Answers.from_logits(np.float32(model.logit_scale) * cosines(test_features, matrix), test_y)
    unknown = tuple(name for name in classes if not model.knows(texts[name]))
    if normalize:
        features, test_features = unit_rows(features), unit_rows(test_features)

    smallest = min(int(np.bincount(y[rows], minlength=len(classes)).min()) for rows, _ in splits)
    least = 1 if C is not None else 2
    if smallest < least:
        name = classes[int(np.argmin(np.bincount(y, minlength=len(classes))))]
        raise ValueError(
            f"data: class {name!r} has too few pictures to choose C, which needs two for training in each "
            "split; use fewer folds, give C, or leave the class out"
        )
    for k in ks:
        if k > smallest:
            raise ValueError(
                f"shots: {k} of each class are not there; the smallest has {smallest} for training"
            )

    fits_each = 1 if C is not None else 1 + _most_fits()
    total = len(splits) * fits_each * (1 + len(ks) * draws)
    with progress_bar(total, "fit", progress) as bar:
        fitter = _Fitter(features, y, test_features, bar, fits_each)
        full = [fitter.probe(rows, tests, C, seed) for rows, tests in splits]
        few = {}
        for k in ks:
            if all(len(rows) == k * len(classes) for rows, _ in splits):
                few[k] = full  # there is nothing to draw
                bar.update(len(splits) * draws * fits_each)
                continue
            few[k] = [
                fitter.probe(_draw(y, rows, k, (seed, k, i, draw)), tests, C, seed)
                for draw in range(draws)
                for i, (rows, tests) in enumerate(splits)
            ]

    settings = settings_of(model)
    settings["tested on"] = f"{folds} folds" if tested is None else "a set of its own"
    settings["features"] = "unit length" if normalize else "as encoded"
    templates = [prompts] if isinstance(prompts, str) else list(prompts)
    settings["prompts"] = repr(templates[0]) if len(templates) == 1 else f"ensemble of {len(templates)}"
    if exif:
        settings["exif"] = True
    if limit is not None:
        settings["limit"] = limit
    settings["seed"] = seed
    return LinearProbeEvaluation(
        full,
        few,
        labels=classes,
        true=test_y,
        zero_shot=zero_shot,
        files=test_pictures.names,
        unknown_labels=unknown,
        unreadable=unreadable,
        source=train.source,
        settings=settings,
    )


@dataclass(frozen=True)
class Probe:
    """One fitted classifier.

    Attributes
    ----------
    C : float
    sweep : dict from float to float
        Accuracy on the validation split for each C that was tried, ascending; empty where nothing was chosen.
    n_train : int
        Pictures that it was fitted to in the end.
    n_fits, n_unconverged : int
        Fits, and those that stopped after `MAX_ITERATIONS` without having converged.
    tested : int array, (n,)
        Positions of the test pictures.
    predicted : int array, (n,)
    """

    C: float
    sweep: dict
    n_train: int
    n_fits: int
    n_unconverged: int
    tested: np.ndarray = field(repr=False)
    predicted: np.ndarray = field(repr=False)


class _Fitter:
    """Fits probes to rows of the features."""

    def __init__(self, features, y, test_features, bar, fits_each):
        self.features, self.y, self.test_features = features, y, test_features
        self.bar = bar
        self.fits_each = fits_each

    def probe(self, rows, tests, C, seed):
        """A `Probe` fitted to these training pictures, C chosen among them unless it is given."""
        fits = []

        def fit(some, c):
            classifier, converged = _fit(self.features[some], self.y[some], c)
            fits.append(converged)
            self.bar.update(1)
            return classifier

        sweep = {}
        if C is None:
            parts = min(_VALIDATION_PARTS, int(np.bincount(self.y[rows])[np.unique(self.y[rows])].min()))
            if parts < 2:
                C = DEFAULT_C
            else:
                some, validation = next(iter(_folds(self.y[rows], parts, seed)))
                some, validation = rows[some], rows[validation]

                def accuracy(c):
                    predicted = fit(some, c).predict(self.features[validation])
                    return float((predicted == self.y[validation]).mean())

                C, sweep = choose_c(accuracy)
        predicted = fit(rows, C).predict(self.test_features[tests])
        self.bar.update(self.fits_each - len(fits))
        return Probe(C, sweep, len(rows), len(fits), len(fits) - sum(fits), np.asarray(tests), predicted)


def choose_c(accuracy):
    """The sweep of the CLIP paper.

    Parameters
    ----------
    accuracy : callable
        From C to accuracy on the validation split.

    Returns
    -------
    C : float
        Of equally good ones the smallest.
    sweep : dict from float to float
        C to accuracy, ascending.
    """
    found = {i: accuracy(C_GRID[i]) for i in range(0, len(C_GRID), _FIRST_STEP)}

    def best():
        return min(found, key=lambda i: (-found[i], i))

    step = _FIRST_STEP // 2
    while step:
        peak = best()
        for i in (peak - step, peak + step):
            if 0 <= i < len(C_GRID) and i not in found:
                found[i] = accuracy(C_GRID[i])
        step //= 2
    return C_GRID[best()], {C_GRID[i]: found[i] for i in sorted(found)}


def _most_fits():
    return len(C_GRID[::_FIRST_STEP]) + 2 * int(math.log2(_FIRST_STEP))


def _import_sklearn():
    try:
        import sklearn.linear_model
        import sklearn.model_selection
    except ImportError:
        raise ImportError(
            "linear_probe needs scikit-learn, which is not installed: pip install 'clipc[analysis]'"
        ) from None
    return sklearn


_warned = {}


def _fit(features, y, C):
    """A logistic regression, and whether it converged."""
    sklearn = _import_sklearn()
    import threadpoolctl  # comes with scikit-learn
    from sklearn.exceptions import ConvergenceWarning

    classifier = sklearn.linear_model.LogisticRegression(C=C, max_iter=MAX_ITERATIONS, random_state=0)
    size = features.size * len(np.unique(y))
    threads = threadpoolctl.threadpool_limits(1 if size <= _ONE_THREAD_UP_TO else None, user_api="blas")
    with threads, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # Meant for those who take a regression for a classification; a few pictures of each class are no
        # mistake.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        classifier.fit(features, y)
    converged = True
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            converged = False
        else:
            # With a registry of its own, a warning that every fit gives is shown once.
            place = warning.filename, warning.lineno
            warnings.warn_explicit(warning.message, warning.category, *place, registry=_warned)
    return classifier, converged


def _folds(y, n, seed):
    """Stratified parts: a list of (training positions, test positions)."""
    model_selection = _import_sklearn().model_selection
    splitter = model_selection.StratifiedKFold(n, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros((len(y), 1)), y))


def _draw(y, rows, k, seed):
    """k of `rows` of each class, ascending."""
    rng = np.random.default_rng(seed)
    return np.sort(
        np.concatenate([rng.choice(rows[y[rows] == c], k, replace=False) for c in np.unique(y[rows])])
    )


def _encode(model, pictures, options):
    features, kept, unreadable = encode(model, pictures, **options)
    return (pictures.take(kept) if len(kept) < len(pictures) else pictures), features, unreadable


class LinearProbeEvaluation(ResultTable):
    """Linear probes and zero-shot on the same pictures. It prints as a table, also in Jupyter.

    Attributes
    ----------
    probes : list of Probe
        With all training pictures: one, or one for each part of a cross-validation.
    few_shot : dict from int to list of Probe
        From pictures of each class to the probes of all draws.
    labels : tuple of str
        The classes.
    true : int array, (N,)
        The class of each test picture.
    predicted : int array, (N,)
        By `probes`.
    zero_shot : clipc.evaluate.accuracy.Answers
        Of zero-shot for the test pictures.
    files : tuple of str
        The test pictures' names.
    unknown_labels : tuple of str
        Labels with words that the model has no embedding for, which concerns zero-shot.
    unreadable : list of (str, str)
        Name and reason of each picture that was left out.
    source : str
    settings : dict
        What the numbers depend on.
    """

    title = "Linear probe beside zero-shot: accuracy in % (higher is better)"

    def __init__(
        self,
        probes,
        few_shot,
        *,
        labels,
        true,
        zero_shot,
        files,
        unknown_labels,
        unreadable,
        source,
        settings,
    ):
        self.probes = probes
        self.few_shot = dict(few_shot)
        self.labels = tuple(labels)
        self.true = np.asarray(true)
        self.zero_shot = zero_shot
        self.files = tuple(files)
        self.unknown_labels = tuple(unknown_labels)
        self.unreadable = list(unreadable)
        self.source = source
        self.settings = dict(settings)
        self.predicted = np.empty(len(self.true), np.int64)
        for probe in self.probes:
            self.predicted[probe.tested] = probe.predicted
        self._rows = [self._zero_shot_row(), *map(self._few_row, sorted(self.few_shot)), self._full_row()]

    def __len__(self):
        """Test pictures."""
        return len(self.true)

    @property
    def C(self):
        """The chosen C of each of `probes`, a tuple."""
        return tuple(probe.C for probe in self.probes)

    @property
    def sweeps(self):
        """For each of `probes` a dict from C to accuracy on its validation split."""
        return [probe.sweep for probe in self.probes]

    @property
    def accuracy(self):
        """Of the probe with all training pictures, 0 to 1."""
        return self._rows[-1]["accuracy"]

    @property
    def difference(self):
        """Accuracy of the probe minus that of zero-shot; the paper's figure 5 shows the opposite sign."""
        return self._rows[-1]["difference"]

    @property
    def n_unconverged(self):
        """Fits that stopped before they had converged, of `n_fits`."""
        return sum(probe.n_unconverged for probe in self._all())

    @property
    def n_fits(self):
        return sum(probe.n_fits for probe in self._all())

    def _all(self):
        few = (probes for probes in self.few_shot.values() if probes is not self.probes)
        return [*self.probes, *(probe for probes in few for probe in probes)]

    def _row(self, classifier, right, **more):
        n = len(self.true)
        low, high = wilson(right * n, n)
        empty = (
            "shots",
            "n_train",
            "draws",
            "draw_sd",
            "C",
            "difference",
            "difference_low",
            "difference_high",
            "p",
        )
        head = {"classifier": classifier, "n": n, "accuracy": right, "low": low, "high": high}
        return {**head, **dict.fromkeys(empty), **more}

    def _zero_shot_row(self):
        return self._row(ZERO_SHOT, float(self.zero_shot.right().mean()), shots=0, n_train=0)

    def _few_row(self, k):
        probes = self.few_shot[k]
        scores = np.array([(probe.predicted == self.true[probe.tested]).mean() for probe in probes])
        sizes = np.array([len(probe.tested) for probe in probes])
        # Each draw goes through all test pictures, in as many parts as there are.
        draws = (scores * sizes).reshape(-1, len(self.probes)).sum(axis=1) / len(self.true)
        mean = float(draws.mean())
        return self._row(
            PROBE,
            mean,
            shots=k,
            n_train=probes[0].n_train,
            draws=len(draws),
            draw_sd=float(draws.std(ddof=1)) if len(draws) > 1 else None,
            C=[probe.C for probe in probes],
            difference=mean - float(self.zero_shot.right().mean()),
        )

    def _full_row(self):
        right = self.predicted == self.true
        p, only_zero_shot, only_probe = mcnemar(self.zero_shot.predicted == self.true, right)
        low, high = paired_interval(only_zero_shot, only_probe, len(right))
        return self._row(
            PROBE,
            float(right.mean()),
            n_train=round(float(np.mean([probe.n_train for probe in self.probes]))),
            C=list(self.C),
            difference=float(right.mean() - self.zero_shot.right().mean()),
            difference_low=low,
            difference_high=high,
            p=p,
        )

    def rows(self):
        """A dict for zero-shot, for each number of shots, and for the probe with all training pictures.

        Returns
        -------
        list of dict
            classifier, n (test pictures), accuracy, low, high (Wilson, 95 %), shots (pictures of each class;
            None: all), n_train, draws, draw_sd (standard deviation of the accuracy over draws), C (of each
            probe); difference to zero-shot, its interval and p, which few-shot rows, means over draws, have
            not. Shares are between 0 and 1.
        """
        return [dict(row) for row in self._rows]

    def per_class(self):
        """A dict for each class: label, n, probe, zero_shot (accuracies).

        Returns
        -------
        list of dict
        """
        right, zero = self.predicted == self.true, self.zero_shot.right()
        return [
            {
                "label": label,
                "n": int((self.true == i).sum()),
                "probe": float(right[self.true == i].mean()),
                "zero_shot": float(zero[self.true == i].mean()),
            }
            for i, label in enumerate(self.labels)
            if (self.true == i).any()
        ]

    # -- how it prints -----------------------------------------------------------------------------------

    @property
    def summary(self):
        text = f"{count(len(self.true), 'test picture')} of {len(self.labels)} classes"
        if self.unreadable:
            text += f"; {count(len(self.unreadable), 'picture')} unreadable"
        return f"{text}; chance {percent(1 / len(self.labels), 1)}; {settings_text(self.settings)}"

    def _header(self):
        header = ["classifier", "training images", "accuracy", "95 % interval"]
        if self.few_shot:
            header.append("sd of draws")
        return [*header, "minus zero-shot", "95 % interval", "p", "C"]

    def _cells(self, row):
        cells = [row["classifier"]]
        if row["shots"] == 0:
            cells.append("0")
        elif row["shots"] is None:
            cells.append(f"all ({row['n_train']})")
        else:
            cells.append(f"{row['shots']} a class ({row['n_train']})")
        cells += [percent(row["accuracy"], 1), percent_range((row["low"], row["high"]), 1)]
        if self.few_shot:
            cells.append("" if row["draw_sd"] is None else percent(row["draw_sd"], 1))
        if row["difference"] is None:
            return [*cells, "", "", "", ""]
        cells.append(percent(row["difference"], 1, "+"))
        bounds = row["difference_low"], row["difference_high"]
        cells.append("" if bounds[0] is None else percent_range(bounds, 1, "+"))
        return [*cells, p_text(row["p"]), _range_of(row["C"])]

    def _notes(self):
        notes = []
        if self.n_unconverged:
            notes.append(
                f"{self.n_unconverged} of {count(self.n_fits, 'fit')} stopped after {MAX_ITERATIONS:,} "
                "iterations without having converged"
            )
        edge = sum(C in (C_GRID[0], C_GRID[-1]) for probe in self._all() if probe.sweep for C in [probe.C])
        if edge:
            notes.append(f"{count(edge, 'sweep')} chose a C at the end of the range")
        if self.unknown_labels:
            verb = "holds" if len(self.unknown_labels) == 1 else "hold"
            labels = count(len(self.unknown_labels), "label")
            notes.append(
                f"{labels} {verb} words that the model has no embedding for, which concerns zero-shot"
            )
        return notes

    def __repr__(self):
        return (
            f"<Linear probe, {count(len(self.true), 'test picture')}: {percent(self.accuracy, 1)}, "
            f"zero-shot {percent(self._rows[0]['accuracy'], 1)}>"
        )

    def to_dict(self):
        """Everything but the single pictures, as plain values: ``json.dumps`` takes it."""
        return plain(
            {
                "title": self.title,
                "settings": self.settings,
                "source": os.fspath(self.source),
                "n": len(self.true),
                "labels": self.labels,
                "rows": self.rows(),
                "sweeps": [[{"C": c, "accuracy": a} for c, a in sweep.items()] for sweep in self.sweeps],
                "classes": self.per_class(),
                "n_fits": self.n_fits,
                "n_unconverged": self.n_unconverged,
                "unknown_labels": self.unknown_labels,
                "unreadable": self.unreadable,
            }
        )

    # -- plots -------------------------------------------------------------------------------------------

    def plot(self, ax=None):
        """Accuracy against training pictures of each class, with zero-shot as a line (the paper's figure 6).

        Without `shots` two bars: zero-shot and the probe.

        Parameters
        ----------
        ax : matplotlib axes, optional
            None: those of a new figure.

        Returns
        -------
        matplotlib axes
        """
        zero, *few, full = self._rows
        if not few:
            return self._plot_bars(ax)
        ax = axes(ax, (5.2, 3.6))
        mean_of_class = full["n_train"] / len(self.labels)
        rows = [*few, full]
        places = [*(row["shots"] for row in few), mean_of_class]
        # Where the largest number of shots is all there is, one point stands for both.
        if few[-1]["n_train"] == full["n_train"]:
            rows, places = rows[:-2] + rows[-1:], places[:-2] + places[-1:]
        values = 100 * np.array([row["accuracy"] for row in rows])
        error = np.array([[row["accuracy"] - row["low"], row["high"] - row["accuracy"]] for row in rows]).T
        ax.errorbar(places, values, 100 * error, marker="o", capsize=3, color="C0", label=PROBE)
        ax.axhspan(100 * zero["low"], 100 * zero["high"], color="#d1495b", alpha=0.12, linewidth=0)
        ax.axhline(100 * zero["accuracy"], color="#d1495b", label=ZERO_SHOT)
        ax.axhline(100 / len(self.labels), color="#888888", linestyle="--", linewidth=1, label="chance")
        ax.set_xscale("log", base=2)
        ticks = [f"{row['shots']}" if row["shots"] else f"all\n(mean {mean_of_class:.3g})" for row in rows]
        ax.set_xticks(places, ticks)
        ax.minorticks_off()
        ax.set_xlabel("training images of each class")
        self._finish(ax)
        ax.legend(frameon=False, fontsize="small")
        return ax

    def _plot_bars(self, ax):
        ax = axes(ax, (3.4, 3.4))
        for i, row in enumerate((self._rows[0], self._rows[-1])):
            value = 100 * row["accuracy"]
            ax.bar(i, value, 0.6, color=("#d1495b", "C0")[i])
            error = [[value - 100 * row["low"]], [100 * row["high"] - value]]
            ax.errorbar(i, value, error, fmt="none", ecolor="#333333", capsize=3)
        ax.axhline(100 / len(self.labels), color="#888888", linestyle="--", linewidth=1)
        ax.set_xticks([0, 1], [ZERO_SHOT, PROBE])
        self._finish(ax)
        return ax

    def _finish(self, ax):
        ax.set_ylabel("accuracy in %")
        ax.set_ylim(0)
        ax.set_title(f"{self.settings.get('model', '')}, n = {len(self.true)}", fontsize="medium")
        ax.spines[["top", "right"]].set_visible(False)

    def plot_sweep(self, ax=None):
        """Accuracy on the validation split against C, a line for each of `probes`; the chosen C is marked.

        Parameters
        ----------
        ax : matplotlib axes, optional
            None: those of a new figure.

        Returns
        -------
        matplotlib axes

        Raises
        ------
        ValueError
            C was given.
        """
        if not any(self.sweeps):
            raise ValueError("plot_sweep: C was given, so there was no sweep")
        ax = axes(ax, (5.2, 3.4))
        for i, probe in enumerate(self.probes):
            places, values = list(probe.sweep), 100 * np.array(list(probe.sweep.values()))
            name = f"part {i + 1}" if len(self.probes) > 1 else "validation"
            (line,) = ax.plot(places, values, marker=".", linewidth=1, label=name)
            chosen = {"marker": "*", "markersize": 11, "color": line.get_color(), "linestyle": "none"}
            ax.plot([probe.C], [100 * probe.sweep[probe.C]], **chosen)
        ax.set_xscale("log")
        ax.set_xlabel("C (stars: chosen)")
        ax.set_ylabel("validation accuracy in %")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize="small")
        return ax

    def plot_published(self, ax=None, *, name="this data"):
        """This difference among those that were published; see `clipc.evaluate.published`.

        Parameters
        ----------
        ax : matplotlib axes, optional
            None: those of a new figure.
        name : str
            What the data set is called.

        Returns
        -------
        matplotlib axes
        """
        return plot_zero_shot_minus_probe({name: -100 * self.difference}, ax)


def _range_of(values):
    low, high = min(values), max(values)
    return f"{low:.2g}" if low == high else f"{low:.2g} to {high:.2g}"


# ---- arguments ----


def _check_c(C):
    if isinstance(C, bool) or not isinstance(C, (int, float, np.number)):
        raise TypeError(f"C: expected a number, got {type(C).__name__}")
    if not (math.isfinite(C) and C > 0):
        raise ValueError(f"C: expected a positive number, got {C}")
    return float(C)


def _check_shots(shots):
    ks = [shots] if not hasattr(shots, "__iter__") else list(shots)
    ks = tuple(sorted({whole_number("shots", k) for k in ks}))
    if not ks:
        raise ValueError("shots: expected at least one number, got none")
    return ks


def _check_counts(y, classes, least, what, advice):
    counts = np.bincount(y, minlength=len(classes))
    if counts.min() < least:
        few = [f"{classes[i]!r} ({counts[i]})" for i in np.flatnonzero(counts < least)]
        more = f" and {len(few) - 5} more" if few[5:] else ""
        raise ValueError(
            f"data: {what} needs {least} pictures of each class; too few have {', '.join(few[:5])}{more}; "
            f"{advice}"
        )


def _check_test_classes(train, test):
    missing = list(dict.fromkeys(value for value in test.values if value not in set(train.values)))
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (f" and {len(missing) - 5} more" if missing[5:] else "")
        raise ValueError(f"test: there are no training pictures of {shown}; leave these test pictures out")


__all__ = ["C_GRID", "LinearProbeEvaluation", "Probe", "choose_c", "linear_probe"]
