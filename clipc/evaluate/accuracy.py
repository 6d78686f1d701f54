"""Zero-shot accuracy: of prompts, of changed pictures, of each class.

A picture's prediction is the label whose prompts' features lie nearest to the picture's, which is the largest
logit (Radford et al. 2021, section 3.1.2). Several prompts for a label are an ensemble over the embedding
space: see `clipc.Model.classifier`.

All rows of a result are about the same pictures, so two rows are compared picture by picture (McNemar's
test): the intervals of two accuracies may well overlap while their difference is certain.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clipc.arguments import whole_number
from clipc.as_function import resolve_model
from clipc.evaluate.conditions import CONDITIONS, ORIGINAL, as_conditions
from clipc.evaluate.pictures import cosines, encode, read_pictures
from clipc.evaluate.results import ResultTable, axes, p_text, plain, settings_of, settings_text
from clipc.evaluate.statistics import mcnemar, paired_interval, wilson
from clipc.statistics import holm
from clipc.tables import count, percent, percent_range
from clipc.vectors import softmax

# The ensemble: the first five different templates of the captions that the embedded model was trained with.
PROMPTS = {
    "label alone": ("{}",),
    "a photo of a {}.": ("a photo of a {}.",),
    "ensemble of 5": ("{}", "a {}", "the {}", "a photo of a {}.", "a photo of the {}."),
}

_SHOWN_CLASSES = 60


def zero_shot(
    data,
    *,
    model=None,
    labels=None,
    column="label",
    prompts=PROMPTS,
    conditions=("original",),
    top=(1, 5),
    batch_size=None,
    exif=False,
    limit=None,
    seed=0,
    cache=True,
    skip_unreadable=False,
    progress=False,
):
    """How often a zero-shot classifier is right.

    Parameters
    ----------
    data : path, LabelledImages, or (images, list of str)
        A folder with ``labels.csv``, a CSV file, or a folder with a folder for each class; see
        `clipc.labelled_images.read_labelled_images`. Or a tuple: a list of images, a float32 array (N, 3, R,
        R) of preprocessed pictures or (N, D) of features, and the true label of each.
    model : Model, or what `clipc.load` takes, optional
        None: the default model.
    labels : list of str, or dict from str to str, optional
        The labels to choose from. None: the different values of the column, in order of appearance (of all
        the data, whatever `limit` is). A dict has for each value of the column the text that goes into the
        prompts. Labels that no picture has are allowed: they make it harder.
    column : str
        Of the CSV, with the true labels.
    prompts : str, list of str, or dict from str to templates
        What is compared: names of `PROMPTS`, or templates with ``{}`` where the label goes. A dict gives
        names: ``{"food": "a photo of {}, a type of food."}``; several templates under one name are an
        ensemble.
    conditions : str, Condition, or list of them
        Names of `CONDITIONS`: "original", "grey", "blur", "noise", "edges".
    top : int or sequence of int
        For each k the share of pictures whose true label is among the k nearest. A k as large as the number
        of labels, which always holds, is left out; top-1 is always there.
    batch_size, exif
        As for `clipc.Model.encode_image`.
    limit : int, optional
        Use only so many pictures, drawn at random.
    seed : int
        Of that draw.
    cache : bool or path
        Keep features on disk, so that what was encoded once need not be again: True, in clipc's cache folder;
        False; or a folder.
    skip_unreadable : bool
        Leave out pictures that cannot be read, and report them, instead of raising.
    progress : bool
        Show progress bars on standard error.

    Returns
    -------
    ZeroShotEvaluation
        Prints as a table, also in Jupyter.

    Raises
    ------
    ValueError
        Fewer than two labels; pictures whose label is not among `labels`; an unknown column, prompt or
        condition.
    TypeError
        Arguments of a wrong kind.
    OSError, ImageError
        A picture that cannot be read, without `skip_unreadable`.
    KeyboardInterrupt
        Ctrl-C stops between two batches; with `cache`, the next run goes on from there.

    Warns
    -----
    ClipcWarning
        Once for each word without an embedding (see `clipc.Model.knows`). The label is evaluated all the
        same, and named in the result's `unknown_labels`.

    Notes
    -----
    Intervals are Wilson's, 95 %. Where several labels have the same logit as the true one, which labels of
    unknown words may, a picture counts as the share of the orders in which it would be right.

    Rows of the first condition are compared with its first prompts; rows of other conditions with the same
    prompts under the first condition. The p-values are exact McNemar tests, those adjusted for the number of
    comparisons Holm's.
    """
    model = resolve_model(model)
    conditions = as_conditions(conditions)
    prompts = _named_prompts(prompts)
    pictures = read_pictures(data, column)
    texts = texts_of_labels(labels, pictures.values)
    names = list(texts)
    check_values(pictures, texts, column)
    top = _check_top(top, len(names))
    pictures = pictures.draw(limit, seed)
    options = {
        "cache": cache,
        "batch_size": batch_size,
        "exif": exif,
        "skip_unreadable": skip_unreadable,
        "progress": progress,
    }

    unknown = tuple(name for name, text in texts.items() if not model.knows(text))
    matrices = {
        name: model.classifier(list(texts.values()), templates) for name, templates in prompts.items()
    }
    index = {name: i for i, name in enumerate(names)}
    answers, kept, unreadable = {}, None, []
    for condition in conditions:
        features, readable, unreadable = encode(model, pictures, condition, **options)
        if kept is not None and not np.array_equal(kept, readable):
            raise OSError(f"{pictures.source}: pictures appeared or vanished while they were evaluated")
        kept = readable
        true = np.array([index[pictures.values[i]] for i in kept])
        for name, matrix in matrices.items():
            logits = np.float32(model.logit_scale) * cosines(features, matrix)
            answers[condition.name, name] = Answers.from_logits(logits, true)
    settings = settings_of(model)
    if exif:
        settings["exif"] = True
    if limit is not None:
        settings.update(limit=limit, seed=seed)
    return ZeroShotEvaluation(
        answers,
        labels=names,
        texts=texts,
        true=true,
        files=[pictures.names[i] for i in kept],
        prompts=prompts,
        top=top,
        unknown_labels=unknown,
        unreadable=unreadable,
        source=pictures.source,
        settings=settings,
    )


@dataclass(frozen=True)
class Answers:
    """What a classifier says of N pictures.

    Attributes
    ----------
    predicted : int array, (N,)
        The label with the largest logit; of several the first.
    probability : float64 array, (N,)
        Of that label, by softmax.
    above, tied : int arrays, (N,)
        Labels with a larger logit than the true one, and with the same logit, itself among them.
    """

    predicted: np.ndarray
    probability: np.ndarray
    above: np.ndarray
    tied: np.ndarray

    @classmethod
    def from_logits(cls, logits, true):
        """From logits, (N, L), and the true labels' numbers, (N,)."""
        logits = np.asarray(logits)
        own = logits[np.arange(len(true)), true][:, None]
        return cls(
            predicted=logits.argmax(axis=1),
            probability=softmax(logits.astype(np.float64)).max(axis=1),
            above=(logits > own).sum(axis=1),
            tied=(logits == own).sum(axis=1),
        )

    def right(self, k=1):
        """The chance of the true label to be among the first k, ties in random order: float64 (N,)."""
        return np.clip((k - self.above) / self.tied, 0.0, 1.0)


class ClassifiedPicture(NamedTuple):
    """A picture, what it is, and what it was taken for.

    Attributes
    ----------
    file, true, predicted : str
    probability : float
        Of the predicted label, 0 to 1.
    """

    file: str
    true: str
    predicted: str
    probability: float


class ZeroShotEvaluation(ResultTable):
    """Accuracy of zero-shot classifiers on the same pictures. It prints as a table, also in Jupyter.

    Attributes
    ----------
    labels : tuple of str
        The labels that were chosen from, as in the data.
    texts : dict from str to str
        What went into the prompts for each.
    true : int array, (N,)
        The number of each picture's label.
    files : tuple of str
        The pictures' names.
    prompts : dict from str to tuple of str
        Name to templates.
    conditions : tuple of str
    top : tuple of int
    unknown_labels : tuple of str
        Labels with words that the model has no embedding for.
    unreadable : list of (str, str)
        Name and reason of each picture that was left out.
    source : str
    settings : dict
        What the numbers depend on.
    answers : dict from (condition, prompts) to `Answers`
    """

    title = "Zero-shot accuracy, in % (higher is better)"
    _n_text_columns = 2

    def __init__(
        self,
        answers,
        *,
        labels,
        texts,
        true,
        files,
        prompts,
        top,
        unknown_labels,
        unreadable,
        source,
        settings,
    ):
        self.answers = answers
        self.labels = tuple(labels)
        self.texts = dict(texts)
        self.true = np.asarray(true)
        self.files = tuple(files)
        self.prompts = dict(prompts)
        self.conditions = tuple(dict.fromkeys(condition for condition, _ in answers))
        self.top = tuple(top)
        self.unknown_labels = tuple(unknown_labels)
        self.unreadable = list(unreadable)
        self.source = source
        self.settings = dict(settings)
        self._counts = np.bincount(self.true, minlength=len(self.labels))
        self._rows = list(self._each_row())
        self._n_text_at_end = int(len(self._rows) > 1)

    def __len__(self):
        """Pictures."""
        return len(self.true)

    @property
    def n_classes(self):
        """Labels that a picture has."""
        return int((self._counts > 0).sum())

    @property
    def chance(self):
        """Accuracy of guessing: one of so many labels."""
        return 1 / len(self.labels)

    @property
    def majority(self):
        """Accuracy of always saying the label that most pictures have."""
        return float(self._counts.max() / len(self.true))

    # -- figures -----------------------------------------------------------------------------------------

    def _each_row(self):
        n = len(self.true)
        for (condition, prompts), answers in self.answers.items():
            row = {"condition": condition, "prompts": prompts, "n": n}
            for k in self.top:
                right = float(answers.right(k).sum())
                low, high = wilson(right, n)
                row |= {f"top{k}": right / n, f"top{k}_low": low, f"top{k}_high": high}
            row["class_mean"] = float(self._class_means(answers.right()).mean())
            row["chance"] = self.chance
            row["majority"] = self.majority
            row |= self._comparison(condition, prompts)
            yield row

    def _class_means(self, right):
        present = self._counts > 0
        return np.bincount(self.true, right, len(self.labels))[present] / self._counts[present]

    def _comparison(self, condition, prompts):
        """The row's difference to the one that it is compared with, in top-1."""
        first_condition, first_prompts = next(iter(self.answers))
        if condition != first_condition:
            other, name = (first_condition, prompts), first_condition
        elif prompts != first_prompts:
            other, name = (first_condition, first_prompts), first_prompts
        else:
            empty = ("difference", "difference_low", "difference_high", "p", "only_this", "only_other")
            return {"compared_with": None, **dict.fromkeys(empty)}
        this, other = self.answers[condition, prompts], self.answers[other]
        p, only_other, only_this = mcnemar(other.predicted == self.true, this.predicted == self.true)
        low, high = paired_interval(only_other, only_this, len(self.true))
        return {
            "compared_with": name,
            "difference": float(this.right().mean() - other.right().mean()),
            "difference_low": low,
            "difference_high": high,
            "p": p,
            "only_this": only_this,
            "only_other": only_other,
        }

    def rows(self):
        """A dict for each condition and prompts; shares are between 0 and 1.

        Returns
        -------
        list of dict
            condition, prompts, n; top1, top1_low, top1_high, and so on for each k of `top`; class_mean, the
            mean of the classes' accuracies; chance; majority; compared_with, difference, difference_low,
            difference_high (of top-1), p and p_holm, only_this and only_other, the pictures that only one of
            the two gets right. Those are None in the first row.
        """
        compared = [row["p"] for row in self._rows if row["p"] is not None]
        adjusted = iter(holm(compared).tolist())
        return [{**row, "p_holm": None if row["p"] is None else next(adjusted)} for row in self._rows]

    def row(self, prompts=None, condition=None):
        """The row of these prompts under this condition; None: the first."""
        key = self._key(prompts, condition)
        return next(row for row in self.rows() if (row["condition"], row["prompts"]) == key)

    def _key(self, prompts, condition):
        prompts = next(iter(self.prompts)) if prompts is None else prompts
        condition = self.conditions[0] if condition is None else condition
        if prompts not in self.prompts:
            raise ValueError(
                f"prompts: expected one of {', '.join(map(repr, self.prompts))}, got {prompts!r}"
            )
        if condition not in self.conditions:
            raise ValueError(f"condition: expected one of {', '.join(self.conditions)}, got {condition!r}")
        return condition, prompts

    def confusion(self, prompts=None, condition=None):
        """How often each label is taken for each.

        Parameters
        ----------
        prompts, condition : str, optional
            None: the first.

        Returns
        -------
        int64 array, (L, L)
            Row: true label; column: predicted; both in the order of `labels`.
        """
        predicted = self.answers[self._key(prompts, condition)].predicted
        n = len(self.labels)
        return np.bincount(self.true * n + predicted, minlength=n * n).reshape(n, n)

    def per_class(self, prompts=None, condition=None):
        """A dict for each label that a picture has, in the order of `labels`.

        Parameters
        ----------
        prompts, condition : str, optional
            None: the first.

        Returns
        -------
        list of dict
            label, n, accuracy, low, high (Wilson, 95 %), known (whether the model knows its words), taken_for
            and taken_for_count (the most frequent wrong answer; None and 0 where there is none).
        """
        right = self.answers[self._key(prompts, condition)].right()
        sums = np.bincount(self.true, right, len(self.labels))
        wrong = self.confusion(prompts, condition)
        np.fill_diagonal(wrong, 0)
        rows = []
        for i in np.flatnonzero(self._counts):
            low, high = wilson(sums[i], self._counts[i])
            other = int(wrong[i].argmax())
            rows.append(
                {
                    "label": self.labels[i],
                    "n": int(self._counts[i]),
                    "accuracy": float(sums[i] / self._counts[i]),
                    "low": low,
                    "high": high,
                    "known": self.labels[i] not in self.unknown_labels,
                    "taken_for": self.labels[other] if wrong[i, other] else None,
                    "taken_for_count": int(wrong[i, other]),
                }
            )
        return rows

    def most_confused(self, k=10, prompts=None, condition=None):
        """The most frequent mistakes.

        Parameters
        ----------
        k : int
            How many.
        prompts, condition : str, optional
            None: the first.

        Returns
        -------
        list of dict
            true, predicted, count, n (pictures of the true label), share; most frequent first, equal ones by
            share and then in the order of `labels`.
        """
        wrong = self.confusion(prompts, condition)
        np.fill_diagonal(wrong, 0)
        pairs = [
            {
                "true": self.labels[i],
                "predicted": self.labels[j],
                "count": int(wrong[i, j]),
                "n": int(self._counts[i]),
                "share": float(wrong[i, j] / self._counts[i]),
            }
            for i, j in zip(*np.nonzero(wrong))
        ]
        pairs.sort(key=lambda pair: (-pair["count"], -pair["share"]))
        return pairs[: whole_number("k", k)]

    def predictions(self, prompts=None, condition=None):
        """What each picture was taken for.

        Parameters
        ----------
        prompts, condition : str, optional
            None: the first.

        Returns
        -------
        list of ClassifiedPicture
            (file, true, predicted, probability), in the order of the data.
        """
        answers = self.answers[self._key(prompts, condition)]
        return [
            ClassifiedPicture(file, self.labels[true], self.labels[predicted], float(probability))
            for file, true, predicted, probability in zip(
                self.files, self.true, answers.predicted, answers.probability
            )
        ]

    # -- how it prints -----------------------------------------------------------------------------------

    @property
    def summary(self):
        text = f"{count(len(self.true), 'picture')} of {self.n_classes} classes"
        text += f", {len(self.labels)} labels to choose from"
        if self.unreadable:
            text += f"; {count(len(self.unreadable), 'picture')} unreadable"
        text += f"; chance {percent(self.chance, 1)}"
        if self.majority > self.chance * 1.05:
            text += f", the most frequent label {percent(self.majority, 1)}"
        return f"{text}; {settings_text(self.settings)}"

    def _header(self):
        header = ["condition", "prompts"]
        for k in self.top:
            header += [f"top-{k}", "95 % interval"]
        if len(self._rows) > 1:
            header += ["difference", "95 % interval", "p", "p (Holm)", "compared with"]
        return header

    def _cells(self, row):
        cells = [row["condition"], row["prompts"]]
        for k in self.top:
            bounds = row[f"top{k}_low"], row[f"top{k}_high"]
            cells += [percent(row[f"top{k}"], 1), percent_range(bounds, 1)]
        if len(self._rows) > 1:
            if row["p"] is None:
                cells += [""] * 5
            else:
                bounds = row["difference_low"], row["difference_high"]
                cells += [percent(row["difference"], 1, "+"), percent_range(bounds, 1, "+")]
                cells += [p_text(row["p"]), p_text(row["p_holm"]), row["compared_with"]]
        return cells

    def _notes(self):
        if not self.unknown_labels:
            return []
        shown = ", ".join(self.unknown_labels[:10])
        more = f" and {len(self.unknown_labels) - 10} more" if len(self.unknown_labels) > 10 else ""
        verb = "holds words" if len(self.unknown_labels) == 1 else "hold words"
        labels = count(len(self.unknown_labels), "label")
        return [f"{labels} {verb} that the model has no embedding for: {shown}{more}"]

    def __repr__(self):
        rows = ", ".join(
            f"{row['condition']}, {row['prompts']!r} {percent(row['top1'], 1)}" for row in self._rows[:6]
        )
        more = ", …" if self._rows[6:] else ""
        return f"<Zero-shot accuracy, {count(len(self.true), 'picture')}: {rows}{more}>"

    def to_dict(self):
        """Everything but the single pictures, as plain values: ``json.dumps`` takes it.

        Returns
        -------
        dict
            title, settings, source, n, labels, prompts, rows, classes (`per_class` of the first row),
            most_confused, unknown_labels, unreadable.
        """
        return plain(
            {
                "title": self.title,
                "settings": self.settings,
                "source": os.fspath(self.source),
                "n": len(self.true),
                "labels": self.texts,
                "prompts": self.prompts,
                "rows": self.rows(),
                "classes": self.per_class(),
                "most_confused": self.most_confused(),
                "unknown_labels": self.unknown_labels,
                "unreadable": self.unreadable,
            }
        )

    # -- plots -------------------------------------------------------------------------------------------

    def plot(self, ax=None, *, k=1):
        """Bars of the accuracy with 95 % intervals, a group for each condition, a bar for each prompts.

        Parameters
        ----------
        ax : matplotlib axes, optional
            None: those of a new figure.
        k : int
            Which top-k; one of `top`.

        Returns
        -------
        matplotlib axes
        """
        if k not in self.top:
            raise ValueError(f"k: expected one of {', '.join(map(str, self.top))}, got {k}")
        ax = axes(ax, (1.8 + 1.2 * len(self.conditions) + 0.25 * len(self._rows), 3.6))
        width = 0.8 / len(self.prompts)
        for j, prompts in enumerate(self.prompts):
            rows = [self.row(prompts, condition) for condition in self.conditions]
            values = np.array([row[f"top{k}"] for row in rows])
            low = values - np.array([row[f"top{k}_low"] for row in rows])
            high = np.array([row[f"top{k}_high"] for row in rows]) - values
            places = np.arange(len(rows)) + (j - (len(self.prompts) - 1) / 2) * width
            ax.bar(places, 100 * values, 0.9 * width, label=prompts, color=f"C{j}")
            error = 100 * np.array([low, high])
            ax.errorbar(places, 100 * values, error, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
        ax.axhline(100 * k / len(self.labels), color="#888888", linestyle="--", linewidth=1, label="chance")
        ax.set_xticks(range(len(self.conditions)), self.conditions)
        ax.set_ylabel(f"top-{k} accuracy in %")
        ax.set_title(f"Zero-shot, {self.settings.get('model', '')}, n = {len(self.true)}", fontsize="medium")
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylim(0)
        ax.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
        return ax

    def plot_confusion(
        self, ax=None, *, prompts=None, condition=None, normalize=True, max_labels=_SHOWN_CLASSES
    ):
        """The confusion matrix as a picture.

        Parameters
        ----------
        ax : matplotlib axes, optional
            None: those of a new figure.
        prompts, condition : str, optional
            None: the first.
        normalize : bool
            Shares of the pictures of the true label instead of counts.
        max_labels : int
            Of more labels that pictures have, those with most mistakes are shown, in the order of `labels`.

        Returns
        -------
        matplotlib axes
        """
        matrix = self.confusion(prompts, condition)
        condition, prompts = self._key(prompts, condition)
        shown = np.flatnonzero((self._counts > 0) | (matrix.sum(axis=0) > 0))
        n_all = len(shown)
        if n_all > whole_number("max_labels", max_labels):
            wrong = matrix.sum(axis=1) + matrix.sum(axis=0) - 2 * matrix.diagonal()
            shown = np.sort(shown[np.argsort(-wrong[shown], kind="stable")][:max_labels])
        values = matrix[np.ix_(shown, shown)].astype(np.float64)
        if normalize:
            values = 100 * values / np.maximum(self._counts[shown], 1)[:, None]
        side = 2.5 + 0.2 * len(shown)
        ax = axes(ax, (side + 0.8, side))
        image = ax.imshow(values, cmap="Blues", vmin=0, vmax=100 if normalize else None)
        names = [self.labels[i] for i in shown]
        size = 9 if len(shown) <= 20 else 7 if len(shown) <= 60 else 5
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        ax.set_yticks(range(len(names)), names, fontsize=size)
        ax.set_xlabel("predicted")
        ax.set_ylabel("true")
        if len(shown) <= 12:
            for i in range(len(shown)):
                for j in range(len(shown)):
                    if values[i, j]:
                        colour = "white" if values[i, j] > 0.6 * max(values.max(), 1) else "black"
                        ax.text(
                            j, i, f"{values[i, j]:.0f}", ha="center", va="center", color=colour, fontsize=8
                        )
        title = f"{prompts}, {condition}, n = {len(self.true)}"
        if n_all > len(shown):
            title += f"; the {len(shown)} of {n_all} labels with most mistakes"
        ax.set_title(title, fontsize="medium")
        bar = ax.figure.colorbar(image, ax=ax, shrink=0.6)
        bar.set_label("% of the true label" if normalize else "pictures")
        return ax


# ---- arguments ----


def _named_prompts(prompts):
    """A dict from name to a tuple of templates."""
    if isinstance(prompts, str):
        prompts = [prompts]
    if not isinstance(prompts, dict):
        named = {}
        for one in prompts:
            if not isinstance(one, str):
                raise TypeError(
                    f"prompts: expected str, got {type(one).__name__}; a dict names several templates"
                )
            if one not in PROMPTS and "{}" not in one:
                known = ", ".join(map(repr, PROMPTS))
                raise ValueError(f"prompts: expected one of {known}, or a template with {{}}, got {one!r}")
            if one in named:
                raise ValueError(f"prompts: {one!r} is there twice")
            named[one] = PROMPTS.get(one, (one,))
        prompts = named
    if not prompts:
        raise ValueError("prompts: expected at least one, got none")
    return {
        name: (templates,) if isinstance(templates, str) else tuple(templates)
        for name, templates in prompts.items()
    }


def texts_of_labels(labels, values):
    """A dict from each label to the text for its prompts."""
    if labels is None:
        labels = dict.fromkeys(values)
        texts = {label: label for label in labels}
        where = "the data"
    elif isinstance(labels, dict):
        texts, where = dict(labels), "labels"
    elif isinstance(labels, str):
        raise TypeError(f"labels: expected a list of labels, got the str {labels!r}")
    else:
        labels = list(labels)
        texts, where = {label: label for label in labels}, "labels"
        if len(texts) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise ValueError(f"labels: {twice!r} is there twice")
    if len(texts) < 2:
        found = ", ".join(map(repr, texts)) or "none"
        raise ValueError(
            f"labels: expected at least two to choose from, {where} has {found}; give labels=[...] with what "
            "else a picture might show"
        )
    return texts


def check_values(pictures, texts, column):
    missing = list(dict.fromkeys(value for value in pictures.values if value not in texts))
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (f" and {len(missing) - 5} more" if missing[5:] else "")
        raise ValueError(
            f"labels: pictures are labelled {shown} in {column!r}, which labels lacks; add them, or leave "
            "these pictures out"
        )


def _check_top(top, n_labels):
    ks = [top] if not hasattr(top, "__iter__") else list(top)
    ks = {whole_number("top", k) for k in ks} | {1}
    return tuple(sorted(k for k in ks if k < n_labels))


__all__ = [
    "CONDITIONS",
    "ORIGINAL",
    "PROMPTS",
    "Answers",
    "ClassifiedPicture",
    "ZeroShotEvaluation",
    "zero_shot",
]
