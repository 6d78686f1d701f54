"""Intervals and tests that the evaluations share; the arithmetic is SciPy's and statsmodels'."""

from __future__ import annotations

import math

import numpy as np

from clipc.statistics import wilson_interval

# Of every interval that the evaluations print.
CONFIDENCE = 0.95


def _import(module):
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(
            f"this needs {module.split('.')[0]}, which is not installed: pip install 'clipc[analysis]'"
        ) from None


def wilson(count, n):
    """Wilson's 95 % interval of a share; see `clipc.statistics.wilson_interval`.

    Parameters
    ----------
    count : float
        Successes; a fraction where ties count their expected share.
    n : int
        Trials. 0 gives NaN.

    Returns
    -------
    (float, float)
        Lower and upper end, 0 to 1.
    """
    if n == 0:
        return math.nan, math.nan
    # Sums of shares, such as thirds, may pass n by the last bit.
    count = min(max(float(count), 0.0), float(n))
    _import("statsmodels.stats.proportion")
    low, high = wilson_interval(count, n, CONFIDENCE)
    return float(low), float(high)


def mcnemar(first, second):
    """The exact McNemar test of two classifiers on the same images (McNemar 1947), by SciPy.

    Of the images that just one of them gets right, each is as likely to be right under the hypothesis that
    both are equally good: p is that of a two-sided binomial test with probability 1/2.

    Parameters
    ----------
    first, second : bool arrays, (N,)
        Whether each image is right.

    Returns
    -------
    p : float
        1 where they never differ.
    only_first, only_second : int
        Images that just one gets right.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0, 0, 0
    stats = _import("scipy.stats")
    return float(stats.binomtest(only_first, only_first + only_second).pvalue), only_first, only_second


def paired_interval(only_first, only_second, n):
    """The 95 % interval of a difference of two shares on the same images.

    Wald's interval after half an image is added to each of the four cells (Agresti & Min 2005, "Simple
    improved confidence intervals for comparing matched proportions"): unlike Wald's own it keeps a width
    where the two never differ.

    Parameters
    ----------
    only_first, only_second : int
        Images that just one gets right.
    n : int
        All images.

    Returns
    -------
    (float, float)
        Of second minus first.
    """
    stats = _import("scipy.stats")
    b, c, total = only_first + 0.5, only_second + 0.5, n + 2
    middle = (c - b) / total
    width = stats.norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt((b + c) - (c - b) ** 2 / total) / total
    return max(-1.0, middle - width), min(1.0, middle + width)


def bootstrap_share_interval(values, groups, *, samples=2000, seed=0):
    """The 95 % interval of a mean when whole groups are drawn again; see `clipc.scores.bootstrap_means`.

    Parameters
    ----------
    values : float array, (T,)
    groups : int array, (T,)
        Numbered from 0 without gaps.

    Returns
    -------
    (float, float)
        NaN for one group, which says nothing about another.
    """
    from clipc.scores import NO_INTERVAL, bootstrap_interval, bootstrap_means

    if int(np.max(groups)) == 0:
        return NO_INTERVAL
    return bootstrap_interval(
        bootstrap_means(np.asarray(values)[None], groups, samples=samples, seed=seed)[:, 0]
    )
