"""Statistics that audits and evaluations share."""

from __future__ import annotations

import numpy as np


def wilson_interval(count, n, confidence=0.95):
    """Wilson's score interval of a share.

    Parameters
    ----------
    count : int or int array
        How often it happened.
    n : int or int array
        Of how many, 1 or more; broadcast against `count`.
    confidence : float
        Between 0 and 1.

    Returns
    -------
    low, high : float64 arrays
        Between 0 and 1, of the common shape.

    Notes
    -----
    (p + z²/2n ± z sqrt(p (1 - p)/n + z²/4n²)) / (1 + z²/n), p = count / n, z the normal quantile of (1 +
    confidence) / 2 (Wilson 1927), as `statsmodels.stats.proportion.proportion_confint` computes it. It
    stays between 0 and 1 and has a width also where the share is 0 or 1. It takes images as independent
    of each other.
    """
    from statsmodels.stats.proportion import proportion_confint

    count, n = np.broadcast_arrays(np.asarray(count), np.asarray(n))
    if (n < 1).any() or (count < 0).any() or (count > n).any():
        raise ValueError("count: expected 0 to n with n of 1 or more")
    low, high = proportion_confint(count, n, alpha=1 - confidence, method="wilson")
    # Exact at the ends, where rounding leaves 1e-18 and 1 + 1e-16.
    return np.where(count == 0, 0.0, low), np.where(count == n, 1.0, high)


def holm(p):
    """Holm's adjusted p-values.

    Parameters
    ----------
    p : float array, (M,)

    Returns
    -------
    float64 array, (M,)
        Rejecting where they are at most 0.05 rejects a true hypothesis with a probability of at most 5 %,
        over all M tests together, whatever their dependence.

    Notes
    -----
    Sorted from the smallest, the running maximum of (M - i) p_i, i from 0, at most 1 (Holm 1979). The same as
    statsmodels' ``multipletests(method="holm")``, which runs Python's garbage collector each time: with
    PyTorch imported that took longer than all tests of an audit.
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]), 1)
    return adjusted
