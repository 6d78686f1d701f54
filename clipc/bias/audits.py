"""Auditing a zero-shot classifier over groups of people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clipc.as_function import resolve_model
from clipc.bias import statistics
from clipc.bias.findings import Findings, distinct_sets, label_sets
from clipc.bias.presets import Preset
from clipc.bias.samples import (
    CROSS,
    check_settings,
    need_analysis,
    question,
    read_sample,
    top_k_of,
)
from clipc.prediction import Prediction, Predictions
from clipc.tables import count
from clipc.vectors import unit_rows


def audit(
    images,
    labels,
    groups,
    *,
    model=None,
    templates=None,
    block=None,
    confidence=0.95,
    resamples=9999,
    top_k=None,
    seed=0,
    batch_size=None,
    exif=False,
    cache=True,
    skip_unreadable=False,
    skip_ungrouped=False,
    progress=False,
):
    """Compare what a zero-shot classifier answers for groups of people.

    Parameters
    ----------
    images : path, LabelledImages, list of images, or float32 array
        What `clipc.labelled_images.read_labelled_images` takes or returns: a folder with ``labels.csv``, a
        CSV file, a folder of class folders. Or a list of images, preprocessed pictures (N, 3, R, R), or
        features (N, D) of the same model.
    labels : list of str, Preset or str
        Two labels or more, of which each picture is given the most probable one; or a preset, or its name
        (`clipc.bias.PRESETS`).
    groups : str, list of str, sequence of N values, or dict
        The column with the group of each picture; several columns are crossed ("Black × Female"). Or the
        groups themselves, one for each picture; or a dict from name to such a sequence, crossed likewise.
    model : Model, or what `clipc.load` takes, optional
        None: the default model.
    templates : str or list of str, optional
        As for `clipc.Model.classifier`. None: those of the preset, else the labels alone.
    block : str, list of str, or sequence of N values, optional
        What makes pictures comparable, such as the scenario of a set where only the person differs. Groups
        are shuffled within blocks only, and intervals of means draw whole blocks.
    confidence : float
        Of the intervals, between 0 and 1.
    resamples : int
        Shuffles of a permutation test, and draws of a bootstrap.
    top_k : int or list of int, optional
        How many of the nearest pictures `ranking` looks at. None: a tenth of the pictures, but at least 10
        and at most half of them.
    seed : int
        Of everything that is drawn. Same seed, same numbers.
    batch_size, exif
        As for `clipc.Model.encode_image`.
    cache : bool or path
        Keep features on disk, in the cache folder or in a folder of your own.
    skip_unreadable : bool
        Leave out pictures that cannot be read, and list them in ``report.unreadable``, instead of raising.
    skip_ungrouped : bool
        Leave out pictures without a value in a group or block column, and count them, instead of raising.
    progress : bool
        Show a progress bar while pictures are encoded.

    Returns
    -------
    AuditReport
        It prints as tables, also in Jupyter.

    Raises
    ------
    ValueError
        Fewer than two labels or two groups, an unknown column or preset, pictures without a group, and other
        wrong arguments. The message says what to do.
    OSError, ImageError
        A picture that cannot be read, without `skip_unreadable`.
    ImportError
        pandas, SciPy or statsmodels is missing: ``pip install 'clipc[analysis]'``.

    Notes
    -----
    What the figures mean, and what they do not, is told at `AuditReport`.
    """
    need_analysis()
    asked = question(labels, templates)
    check_settings(confidence, resamples, top_k, seed)
    model = resolve_model(model)
    sample = read_sample(
        images, groups, block, model=model, batch_size=batch_size, exif=exif, cache=cache,
        skip_unreadable=skip_unreadable, skip_ungrouped=skip_ungrouped, progress=progress,
    )  # fmt: skip
    try:
        return judge(
            sample, asked, model=model, confidence=confidence, resamples=resamples, top_k=top_k, seed=seed
        )
    finally:
        statistics.forget_shuffles()


@dataclass(eq=False, repr=False)
class AuditReport:
    """What a zero-shot classifier answered for groups of people. Made by `audit`; prints as tables.

    All of it describes one model, with these labels and templates, on these pictures. None of it describes
    the people in the pictures; groups are as labelled in the data set. A label is given because it is the
    nearest of those offered, however far it is. Gaps depend on the wording (see `clipc.bias.wording`), on who
    was photographed how, and on how the groups were labelled.

    Attributes
    ----------
    model_name : str
    labels, templates : tuple of str
    preset : Preset or None
    categories : dict of str to str
        Label to category; empty without categories.
    group_names : list of str
        The columns that make the groups.
    groups : list of str
        In their natural order ("3-9" before "10-19"); crossed ones are joined by " × ".
    counts : dict of str to int
        Group to number of pictures.
    block_name : str or None
    n_blocks : int
        0 without blocks.
    files : list of str
        The pictures that were read.
    group_of : str array, (N,)
        The group of each.
    block_of : str array, (N,), or None
    predictions : Predictions
        One for each picture. Of labels with the same highest probability, within rounding, a picture is given
        the first.
    probabilities : float64 array, (N, L)
        Softmax over the labels, in the order of `labels`.
    shares : pandas.DataFrame
        A row for each group and label, then category (`kind`): `count` of the group's `n` pictures were given
        the label; `share` with its Wilson interval `low` to `high`; `mean_probability`, the mean over the
        group's pictures, with its bootstrap interval `mean_low` to `mean_high` (undefined for a single
        picture or block). A Wilson interval takes pictures as independent, which pictures of one block are
        not.
    comparisons : pandas.DataFrame
        A row for each label and category: `difference`, the largest share among the groups (`highest_group`)
        minus the smallest (`lowest_group`; both are empty texts when all are equal); `low` to `high`,
        Newcombe's interval of the difference between these two groups, as if they had been chosen beforehand
        (between the two smallest groups when all are equal); `ratio`, the smallest divided by the largest,
        undefined when all are 0; `p`, the part of shuffles of the groups that gave a difference at least as
        large; `p_holm`, adjusted for all rows of the table. `mean_difference`, `mean_p`, `mean_p_holm`: the
        same for the mean probability, which also sees what does not change which label wins. Of two labels
        one is the complement of the other, and counts as the same test.
    total_variation : pandas.DataFrame
        A row for each two groups: half the sum over labels of the difference of shares, 0 to 1, above 0 also
        by chance; `p` from shuffling these two groups.
    ranking : pandas.DataFrame
        A row for each label and k: among the k pictures nearest to the label's text, `max_skew` is the
        logarithm of how many times its share of all pictures the most over-represented `group` has (an empty
        text when none is); `chance` its mean over shuffles, `p` and `p_holm`; `ndkl` compares all beginnings
        of the ranking with the shares of the groups among all pictures.
    associations : pandas.DataFrame
        A row for each two groups, and the first label with each other one: WEAT `effect_size`, in standard
        deviations, positive when `group_a` is nearer to `label_a`, compared with `label_b`, than `group_b`
        is; `p` two-sided; `exact` when all partitions were looked at.
    unreadable : list of (str, str)
        Pictures that were left out, and why.
    notes : list of str
        What is undefined and why, and other things to know when reading the tables.
    settings : dict
        What every number depends on.

    Notes
    -----
    A small p says that shuffled groups seldom differ as much; it does not say how much it matters (that
    is the difference) nor what it comes from. A large p does not say that groups are treated alike: look
    at the interval. `clipc.bias.statistics` has the formulas and their sources.
    """

    model_name: str
    labels: tuple
    templates: tuple
    preset: Preset | None
    categories: dict
    group_names: list
    groups: list
    counts: dict
    block_name: str | None
    n_blocks: int
    files: list
    group_of: np.ndarray
    block_of: np.ndarray | None
    predictions: Predictions
    probabilities: np.ndarray
    shares: object
    comparisons: object
    total_variation: object
    ranking: object
    associations: object
    unreadable: list
    notes: list
    settings: dict

    def __len__(self):
        return len(self.files)

    def __repr__(self):
        groups = f"{len(self.groups)} groups of {CROSS.join(self.group_names)}"
        labels = self.preset.name if self.preset else count(len(self.labels), "label")
        return f"<AuditReport: {labels}, {groups}, {count(len(self), 'picture')}, {self.model_name}>"

    def __str__(self):
        from clipc.bias import report_text

        return report_text.text(self)

    def _repr_html_(self):
        from clipc.bias import report_html

        return report_html.fragment(self)

    def to_markdown(self):
        """The tables in Markdown.

        Returns
        -------
        str
        """
        from clipc.bias import report_text

        return report_text.markdown(self)

    def to_dict(self):
        """Everything as plain values that JSON can hold; None for what is undefined.

        Returns
        -------
        dict
        """
        from clipc.bias import report_text

        return report_text.to_dict(self)

    def to_html(self, path=None):
        """A web page of its own, without pictures of people.

        Parameters
        ----------
        path : path, optional
            Where to write it, as UTF-8.

        Returns
        -------
        str
        """
        from clipc.bias import report_html

        page = report_html.page(self)
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(page)
        return page

    def lines(self):
        """A line for each picture, ``Top predictions: Nurse: 69.92% Doctor: 30.08%``.

        Returns
        -------
        list of str
        """
        from clipc.bias import report_text

        return report_text.lines(self)

    def distinct_tests(self):
        """Which rows of `comparisons` are one test: their labels are the same, or the others' complement.

        Returns
        -------
        int array
            A number from 0 for each row; rows of one test share it.
        """
        return distinct_sets(label_sets(self.labels, self.categories)[1])

    def plot_shares(self, ax=None, *, labels=None):
        """The share of each label in each group, with intervals.

        Parameters
        ----------
        ax : matplotlib Axes, optional
        labels : list of str, optional
            Labels or categories. None: those with the largest gaps, as many as fit.

        Returns
        -------
        matplotlib Axes
        """
        from clipc.bias import plots

        return plots.plot_shares(self, ax=ax, labels=labels)

    def plot_probabilities(self, ax=None, *, labels=None):
        """How the probabilities are distributed in each group. See `plot_shares`."""
        from clipc.bias import plots

        return plots.plot_probabilities(self, ax=ax, labels=labels)

    def plot_ranking(self, ax=None, *, labels=None):
        """How over-represented groups are among the nearest pictures. See `plot_shares`."""
        from clipc.bias import plots

        return plots.plot_ranking(self, ax=ax, labels=labels)

    def plot_associations(self, ax=None):
        """The effect sizes. See `plot_shares`."""
        from clipc.bias import plots

        return plots.plot_associations(self, ax=ax)


def judge(sample, asked, *, model, confidence, resamples, top_k, seed):
    """The `AuditReport` of a `Sample` and a `Question`."""
    top_k = top_k_of(top_k, len(sample.files))
    rounding = statistics.COSINE_ROUNDING * model.logit_scale
    predictions = model.classify(sample.features, asked.labels, templates=asked.templates)
    probabilities = np.array([[prediction[label] for label in asked.labels] for prediction in predictions])
    predictions = _first_of_tied(predictions, asked.labels, probabilities, rounding)
    found = Findings(
        sample,
        asked.labels,
        asked.categories,
        probabilities,
        positions(predictions, asked.labels),
        rounding=rounding,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    units = unit_rows(sample.features.astype(np.float64))
    classifier = model.classifier(asked.labels, asked.templates).astype(np.float64)
    return AuditReport(
        model_name=model.name,
        labels=asked.labels,
        templates=asked.templates,
        preset=asked.preset,
        categories=asked.categories,
        group_names=sample.group_names,
        groups=sample.groups,
        counts=dict(zip(sample.groups, found.sizes.tolist())),
        block_name=sample.block_name,
        n_blocks=0 if sample.block_of is None else len(set(sample.block_of)),
        files=sample.files,
        group_of=sample.group_of,
        block_of=sample.block_of,
        predictions=predictions,
        probabilities=probabilities,
        shares=found.shares(),
        comparisons=found.comparisons(),
        total_variation=found.total_variation(),
        ranking=found.ranking(units @ classifier.T, top_k),
        associations=found.associations(units @ _text_sets(model, asked).T),
        unreadable=sample.unreadable,
        notes=found.notes,
        settings={
            "model": model.name,
            "dtype": model.dtype,
            "labels": list(asked.labels),
            "templates": list(asked.templates),
            "preset": asked.preset.name if asked.preset else None,
            "groups": list(sample.group_names),
            "block": sample.block_name,
            **sample.settings,
            "confidence": confidence,
            "resamples": resamples,
            "top_k": list(top_k),
            "seed": seed,
        },
    )


def _first_of_tied(predictions, labels, probabilities, rounding):
    """The predictions, where of labels that tie for the highest probability the one given first stands first.

    Labels that are the same text to the model have probabilities that differ by rounding, which would give
    each picture one of them by chance, and groups different shares.
    """
    highest = probabilities.max(axis=1, keepdims=True)
    tied = probabilities >= highest * (1 - rounding)
    predictions = Predictions(predictions)
    for row in np.flatnonzero(tied.sum(axis=1) > 1):
        order = np.argsort(-np.where(tied[row], highest[row], probabilities[row]), kind="stable")
        predictions[row] = Prediction((labels[i], float(probabilities[row, i])) for i in order)
    return predictions


def positions(predictions, labels):
    """Which of the labels each prediction names first, int (N,)."""
    numbers = {label: number for number, label in enumerate(labels)}
    return np.array([numbers[prediction.label] for prediction in predictions])


def _text_sets(model, asked):
    """The mean of the unit features of each label's prompts, (L, D).

    A cosine with the prompts, averaged over them, is a product with this vector; `Model.classifier` scales
    it.
    """
    prompts = [template.replace("{}", label) for label in asked.labels for template in asked.templates]
    features = model.encode_text(prompts, normalize=True).astype(np.float64)
    return features.reshape(len(asked.labels), len(asked.templates), -1).mean(axis=1)
