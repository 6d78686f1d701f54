"""The statistics of an audit: pure functions on arrays.

Letters in shapes: N images, G groups, L labels, K columns (labels, categories or other values per image),
B shuffles or resamples. Groups, labels and blocks come as whole numbers from 0.

Two conventions hold everywhere:

- *Ties are defined.* Where nothing differs a gap is 0, a p-value 1 and an effect size 0. What has no value
  (a ratio of zeros, an interval from one image) is NaN here; a report shows it as undefined.
- *p-values count the data.* A p-value from B random shuffles is (1 + number of shuffles with a statistic at
  least as large) / (1 + B), which is never 0 and keeps its level (Phipson & Smyth 2010, "Permutation p-values
  should never be zero"). Statistics that differ by less than rounding count as equal.

A p-value says how often shuffled groups would differ as much as the real ones do. A small one speaks against
chance; a large one does not show that groups are treated alike, least of all with few images.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

from clipc.scores import bootstrap_means
from clipc.statistics import holm, wilson_interval  # noqa: F401  (of these statistics, too)

# Statistics that differ by less than this share of their size are equal: they are float64 sums.
ROUNDING = 1e-9

# Cosines of pictures, or of texts, that are the same to the model differ by no more: features are float32,
# and the sums of each row in a batch are rounded in their own way.
COSINE_ROUNDING = 5e-7

# Elements of the arrays that shuffles are computed in: 8 MB as float64.
CHUNK = 1 << 20

# Elements of shuffles that are kept: 32 MB.
KEPT = 1 << 24


# --- intervals --------------------------------------------------------------------------------------------


def newcombe_interval(count_a, n_a, count_b, n_b, confidence=0.95):
    """Newcombe's interval of the difference of two shares, a minus b.

    Parameters
    ----------
    count_a, n_a, count_b, n_b : int
    confidence : float

    Returns
    -------
    low, high : float
        Between -1 and 1.

    Notes
    -----
    d ± the root of the summed squares of the distances between each share and its Wilson bound (Newcombe
    1998, method 10), as `statsmodels.stats.proportion.confint_proportions_2indep` computes it. It takes
    the two groups as chosen beforehand and all images as independent; for the largest gap among many
    groups it is too narrow.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep

    low, high = confint_proportions_2indep(
        count_a, n_a, count_b, n_b, method="newcomb", compare="diff", alpha=1 - confidence
    )
    return float(max(low, -1)), float(min(high, 1))


def mean_interval(values, units=None, *, confidence=0.95, resamples=9999, seed=0):
    """Bootstrap intervals of means.

    Parameters
    ----------
    values : float array, (N, K)
        K values of each image.
    units : int array, (N,), optional
        What is drawn again as a whole, numbered from 0 without gaps: images of one block depend on each
        other. None: each image by itself.
    confidence : float
    resamples : int
    seed : int

    Returns
    -------
    low, high : float64 arrays, (K,)
        NaN where there is one unit only, from which nothing can be drawn. Values that are all the same, v,
        have [v, v].

    Notes
    -----
    BCa (bias-corrected and accelerated; Efron 1987, "Better bootstrap confidence intervals"): the
    quantiles Phi(z0 + (z0 + z) / (1 - a (z0 + z))) of the resampled means, z = ± the normal quantile, z0
    the quantile of the share of resampled means below the mean (half of those equal to it), a = sum u³ /
    6 (sum u²)^1.5 of the jackknife's deviations u. The same as ``scipy.stats.bootstrap(method="BCa")``,
    which holds all resamples of all values in memory and knows no units. With ten units such an interval
    is a few points short of its confidence.
    """
    from scipy.special import ndtr, ndtri

    values = np.asarray(values, np.float64)
    units = np.arange(len(values)) if units is None else np.asarray(units)
    n_units = int(units.max()) + 1
    if n_units < 2:
        missing = np.full(values.shape[1], np.nan)
        return missing, missing.copy()
    mean = values.mean(axis=0)
    constant = np.ptp(values, axis=0) <= ROUNDING * np.abs(values).max(axis=0, initial=0)
    means = bootstrap_means(values.T, units, samples=resamples, seed=seed)

    # The mean without one unit after another.
    sizes = np.bincount(units)
    sums = np.stack([np.bincount(units, column) for column in values.T], axis=1)
    left = (values.sum(axis=0) - sums) / (len(values) - sizes)[:, None]
    deviation = left.mean(axis=0) - left
    squares = (deviation**2).sum(axis=0)
    scale = np.where(constant, 1, 6 * squares**1.5)
    with np.errstate(all="ignore"):
        acceleration = np.where(scale > 0, (deviation**3).sum(axis=0) / scale, 0)
        margin = ROUNDING * np.abs(values).max(axis=0, initial=0)
        below = (means < mean - margin).mean(axis=0) + 0.5 * (np.abs(means - mean) <= margin).mean(axis=0)
        # All resampled means on one side, which only few resamples leave: no correction.
        bias = np.where((below > 0) & (below < 1), ndtri(np.clip(below, 1e-12, 1 - 1e-12)), 0)
        bounds = []
        for z in ndtri([(1 - confidence) / 2, (1 + confidence) / 2]):
            level = ndtr(bias + (bias + z) / (1 - acceleration * (bias + z)))
            level = np.where(constant, 0.5, level)
            bounds.append([np.quantile(column, q) for column, q in zip(means.T, level)])
    low, high = np.array(bounds, np.float64).reshape(2, -1)
    return np.where(constant, mean, low), np.where(constant, mean, high)


# --- gaps between groups --------------------------------------------------------------------------------


def parity_difference(shares, axis=0):
    """Demographic parity difference: the largest share among the groups minus the smallest.

    Parameters
    ----------
    shares : float array, (G, ...)
    axis : int
        That of the groups.

    Returns
    -------
    float64 array
        0 when all groups are equal. (max_g r_g - min_g r_g; fairlearn calls it
        ``demographic_parity_difference``.)
    """
    shares = np.asarray(shares, np.float64)
    return shares.max(axis=axis) - shares.min(axis=axis)


def parity_ratio(shares, axis=0):
    """Demographic parity ratio: the smallest share among the groups divided by the largest.

    Parameters
    ----------
    shares : float array, (G, ...)
    axis : int

    Returns
    -------
    float64 array
        1 when all groups are equal, NaN where the largest share is 0. (min_g r_g / max_g r_g; in US
        employment law a ratio below 4/5 is the rule of thumb for disparate impact, 29 CFR 1607.4 D.)
    """
    shares = np.asarray(shares, np.float64)
    largest = shares.max(axis=axis)
    return np.divide(shares.min(axis=axis), largest, out=np.full_like(largest, np.nan), where=largest > 0)


def p_value(observed, shuffled):
    """(1 + number of shuffled statistics that are at least as large) / (1 + B).

    Parameters
    ----------
    observed : float array, (K,)
    shuffled : float array, (B, K)

    Returns
    -------
    float64 array, (K,)
        Above 0, up to 1.
    """
    observed, shuffled = np.asarray(observed, np.float64), np.asarray(shuffled, np.float64)
    margin = ROUNDING * np.maximum(np.abs(observed), 1e-3)
    return (1 + (shuffled >= observed - margin).sum(axis=0)) / (1 + len(shuffled))


def contingency(labels, groups, n_labels, n_groups):
    """How many images of each group have each label.

    Parameters
    ----------
    labels, groups : int arrays, (N,)
    n_labels, n_groups : int

    Returns
    -------
    int array, (G, L)
    """
    cells = np.bincount(groups * n_labels + labels, minlength=n_groups * n_labels)
    return cells.reshape(n_groups, n_labels)


def shuffled_tables(labels, groups, n_labels, n_groups, blocks=None, *, resamples=9999, seed=0):
    """Tables of groups and labels after shuffling the groups among the images.

    Parameters
    ----------
    labels, groups : int arrays, (N,)
    n_labels, n_groups : int
    blocks : int array, (N,), optional
        Groups are shuffled among the images of a block only.
    resamples : int
        B.
    seed : int or tuple of int

    Returns
    -------
    int array, (B, G, L)

    Notes
    -----
    Shuffling changes the counts and keeps their sums over each row and each column, so the table is a
    random one with these margins (`scipy.stats.random_table`), and with blocks a sum of such tables.
    Drawing the table costs the same for a hundred images and a million.
    """
    from scipy.stats import random_table

    rng = np.random.default_rng(seed)
    blocks = np.zeros(len(labels), np.int64) if blocks is None else blocks
    n_blocks = int(blocks.max()) + 1
    tables = np.bincount(
        (blocks * n_groups + groups) * n_labels + labels, minlength=n_blocks * n_groups * n_labels
    ).reshape(n_blocks, n_groups, n_labels)
    rows, columns = tables.sum(axis=2), tables.sum(axis=1)
    fixed = ((rows > 0).sum(axis=1) < 2) | ((columns > 0).sum(axis=1) < 2)
    total = np.broadcast_to(tables[fixed].sum(axis=0), (resamples, n_groups, n_labels)).copy()
    # Blocks with the same margins have the same distribution: one call for all of them.
    margins = np.concatenate([rows, columns], axis=1)[~fixed]
    for margin, times in zip(*np.unique(margins, axis=0, return_counts=True)):
        row, column = margin[:n_groups], margin[n_groups:]
        used = np.ix_(np.flatnonzero(row), np.flatnonzero(column))
        law = random_table(row[row > 0], column[column > 0])
        at_once = max(1, CHUNK // (resamples * len(used[0]) * used[1].shape[1]))
        for begin in range(0, times, at_once):
            count = min(at_once, times - begin)
            drawn = law.rvs(size=resamples * count, random_state=rng)
            drawn = drawn.reshape(resamples, count, *drawn.shape[1:]).sum(axis=1)
            total[:, used[0], used[1]] += drawn.astype(total.dtype)
    return total


def shuffled_groups(groups, blocks=None, *, resamples=9999, seed=0):
    """The groups of the images, shuffled among them; in portions.

    Parameters
    ----------
    groups : int array, (N,)
    blocks : int array, (N,), optional
        Shuffle within blocks only.
    resamples : int
    seed : int or tuple of int

    Yields
    ------
    int array, (b, N)
        The b sum to `resamples`.
    """
    groups = np.ascontiguousarray(groups, np.int16)
    blocks = None if blocks is None else np.ascontiguousarray(blocks, np.int64)
    portion = max(1, CHUNK // len(groups))
    if resamples * len(groups) > KEPT:
        rng = np.random.default_rng(seed)
        for begin in range(0, resamples, portion):
            yield _shuffle(groups, blocks, min(portion, resamples - begin), rng)
        return
    key = None if blocks is None else blocks.tobytes()
    kept = _kept_shuffles(groups.tobytes(), key, resamples, seed)
    for begin in range(0, resamples, portion):
        yield kept[begin : begin + portion]


def _shuffle(groups, blocks, times, rng):
    if blocks is None:
        return rng.permuted(np.broadcast_to(groups, (times, len(groups))), axis=1)
    # Sorted by the block and a random number in it, places are shuffled within blocks.
    order = np.argsort(blocks, kind="stable")
    keys = rng.random((times, len(groups))) + blocks[order]
    shuffled = np.empty((times, len(groups)), groups.dtype)
    shuffled[:, order] = groups[order][np.argsort(keys, axis=1)]
    return shuffled


@functools.lru_cache(maxsize=2)
def _kept_shuffles(groups, blocks, resamples, seed):
    """The shuffles of one seed, which several tests look at; making them takes longer than looking."""
    blocks = None if blocks is None else np.frombuffer(blocks, np.int64)
    return _shuffle(np.frombuffer(groups, np.int16), blocks, resamples, np.random.default_rng(seed))


def forget_shuffles():
    """Free the memory of the shuffles that are kept for the next test, up to 64 MB."""
    _kept_shuffles.cache_clear()


def group_means(values, groups, n_groups):
    """The means of values over the images of each group.

    Parameters
    ----------
    values : float array, (N, K)
    groups : int array, (N,) or (B, N)
    n_groups : int

    Returns
    -------
    float64 array, (G, K) or (B, G, K)
    """
    means = []
    for group in range(n_groups):
        member = (groups == group).astype(np.float64)
        means.append((member @ values) / member.sum(axis=-1, keepdims=True))
    return np.stack(means, axis=-2)


def parity_test(
    labels, groups, n_labels, n_groups, *, members=None, blocks=None, resamples=9999, seed=0
):
    """Demographic parity differences of labels, and how often chance makes one as large.

    Parameters
    ----------
    labels, groups : int arrays, (N,)
        The label that was given to each image, and its group. Every group has an image.
    n_labels, n_groups : int
    members : bool array, (K, L), optional
        Sets of labels whose shares are compared; None: each label by itself.
    blocks : int array, (N,), optional
        Shuffle groups within blocks only.
    resamples : int
    seed : int or tuple of int

    Returns
    -------
    difference, p : float64 arrays, (K,)

    Notes
    -----
    Null hypothesis: within a block, which label an image is given has nothing to do with its group. The
    test is exact for any number of images (Fisher 1935; Ernst 2004, "Permutation methods"), but for being
    sampled.
    """
    members = np.eye(n_labels) if members is None else np.asarray(members, np.float64)
    n = np.bincount(groups, minlength=n_groups)[:, None]

    def difference(tables):
        return parity_difference((tables @ members.T) / n, axis=-2)

    observed = difference(contingency(labels, groups, n_labels, n_groups))
    shuffled = shuffled_tables(labels, groups, n_labels, n_groups, blocks, resamples=resamples, seed=seed)
    return observed, p_value(observed, difference(shuffled))


def mean_parity_test(
    values, groups, n_groups, *, rounding=ROUNDING, blocks=None, resamples=9999, seed=0
):
    """Differences between the groups' means, largest minus smallest, and how often chance makes one as large.

    Parameters
    ----------
    values : float array, (N, K)
    groups : int array, (N,)
    rounding : float
        Values that differ by no more than this share of the largest are all the same.
    n_groups, blocks, resamples, seed
        As for `parity_test`.

    Returns
    -------
    difference, p : float64 arrays, (K,)
        0 and 1 where all values are the same.
    """
    values = np.asarray(values, np.float64)
    observed = parity_difference(group_means(values, groups, n_groups))
    constant = np.ptp(values, axis=0) <= rounding * np.abs(values).max(axis=0, initial=0)
    observed = np.where(constant, 0, observed)
    shuffled = [
        parity_difference(group_means(values, portion, n_groups), axis=1)
        for portion in shuffled_groups(groups, blocks, resamples=resamples, seed=seed)
    ]
    return observed, p_value(observed, np.concatenate(shuffled))


def total_variation(shares_a, shares_b):
    """Total variation distance of two distributions over labels: half the sum of |a - b|.

    Parameters
    ----------
    shares_a, shares_b : float arrays, (..., L)

    Returns
    -------
    float64 array, (...)
        0 when they are equal, 1 when no label has a share in both. It is the largest difference in the share
        of any set of labels.
    """
    return 0.5 * np.abs(np.asarray(shares_a, np.float64) - shares_b).sum(axis=-1)


def total_variation_test(labels, in_first, n_labels, *, blocks=None, resamples=9999, seed=0):
    """Total variation between two groups' labels, and how often chance makes it as large.

    Parameters
    ----------
    labels : int array, (N,)
        Of the images of the two groups only.
    in_first : bool array, (N,)
        Whether an image is of the first group.
    n_labels : int
    blocks, resamples, seed
        As for `parity_test`.

    Returns
    -------
    distance, p : float
        The distance between two samples of the same population is above 0, and the larger the more labels and
        the fewer images there are: go by p.
    """
    groups = np.where(in_first, 0, 1)
    used, labels = np.unique(labels, return_inverse=True)
    n = np.bincount(groups, minlength=2)[:, None]

    def distance(tables):
        shares = tables / n
        return total_variation(shares[..., 0, :], shares[..., 1, :])

    observed = distance(contingency(labels, groups, len(used), 2))
    shuffled = shuffled_tables(labels, groups, len(used), 2, blocks, resamples=resamples, seed=seed)
    return float(observed), float(p_value(observed, distance(shuffled)))


# --- rankings -------------------------------------------------------------------------------------------


def ranks_with_ties(scores):
    """Images from the highest score down, and which of them are tied.

    Parameters
    ----------
    scores : float array, (N,)
        Cosines. Those that follow each other within rounding (5e-7) are tied.

    Returns
    -------
    order : int array, (N,)
        Positions, highest score first.
    begin, end : int arrays, (N,)
        Of each rank from 0, the ranks that its run of ties covers: begin, ..., end - 1.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    falls = -np.diff(np.asarray(scores, np.float64)[order]) > COSINE_ROUNDING
    run = np.concatenate([[0], np.cumsum(falls)])
    edges = np.concatenate([np.flatnonzero(np.concatenate([[True], falls])), [len(order)]])
    return order, edges[run], edges[run + 1]


def top_k_weights(scores, k):
    """How much of each image is among the k with the highest scores.

    Parameters
    ----------
    scores : float array, (N,)
    k : int
        1 to N.

    Returns
    -------
    float64 array, (N,)
        1 for images among the k, 0 for the others; those that are tied for the last places share them
        equally. The sum is k.
    """
    order, begin, end = ranks_with_ties(scores)
    weights = np.empty(len(order))
    weights[order] = np.clip((k - begin) / (end - begin), 0, 1)
    return weights


def skews(top_counts, desired):
    """Skew@k of each group: the logarithm of its share of the top k over its desired share.

    Parameters
    ----------
    top_counts : float array, (..., G)
        How many of the top k are of each group; their sum is k.
    desired : float array, (G,)
        Shares that sum to 1, all above 0.

    Returns
    -------
    float64 array, (..., G)
        0 at the desired share, 0.69 at twice, -0.69 at half of it.

    Notes
    -----
    ln(p_g / d_g) (Geyik, Ambler & Kenthapadi 2019, arXiv 1905.01989, definition 3.1). A group that is not
    among the top k would have minus infinity and counts as if it had one place, 1 / k, as in
    debias-vision-lang's ``measuring_bias.py``.
    """
    top_counts = np.asarray(top_counts, np.float64)
    k = top_counts.sum(axis=-1, keepdims=True)
    return np.log(np.where(top_counts > 0, top_counts, 1) / (k * desired))


def max_skew(top_counts, desired):
    """MaxSkew@k: the skew of the group that is most over-represented in the top k.

    Parameters
    ----------
    top_counts, desired
        As for `skews`.

    Returns
    -------
    float64 array, (...)
        0 when every group has its desired share, else above 0, also by chance: the fewer places, the more.

    Notes
    -----
    The maximum over the groups that are among the top k (arXiv 1905.01989, definition 3.2). Unlike in
    debias-vision-lang's code an absent group is never the maximum; there it is if it is so small that one
    place would have been more than its share.
    """
    present = np.asarray(top_counts) > 0
    largest = np.where(present, skews(top_counts, desired), -np.inf).max(axis=-1)
    return np.where(np.abs(largest) <= ROUNDING, 0, largest)


def max_skew_test(weights, groups, desired, *, blocks=None, resamples=9999, seed=0):
    """MaxSkew@k, and how often chance makes it as large.

    Parameters
    ----------
    weights : float array, (N, K)
        Columns of `top_k_weights`.
    groups : int array, (N,)
    desired : float array, (G,)
        As for `skews`.
    blocks, resamples, seed
        As for `parity_test`.

    Returns
    -------
    skew : float64 array, (K,)
    group : int array, (K,)
        The group that is most over-represented; the first of them where several are.
    p : float64 array, (K,)
    chance : float64 array, (K,)
        The mean of MaxSkew@k over the shuffles.
    """
    n_groups = len(desired)
    sizes = np.bincount(groups, minlength=n_groups)[:, None]

    def top_counts(groups):
        return np.moveaxis(group_means(weights, groups, n_groups) * sizes, -2, -1)

    observed = top_counts(groups)
    skew = max_skew(observed, desired)
    group = np.where(observed > 0, skews(observed, desired), -np.inf).argmax(axis=-1)
    shuffled = np.concatenate(
        [
            max_skew(top_counts(portion), desired)
            for portion in shuffled_groups(groups, blocks, resamples=resamples, seed=seed)
        ]
    )
    return skew, group, p_value(skew, shuffled), shuffled.mean(axis=0)


def ndkl(scores, groups, k, desired):
    """Normalised discounted Kullback-Leibler divergence of a ranking's top k.

    Parameters
    ----------
    scores : float array, (N,)
    groups : int array, (N,)
    k : int
        1 to N.
    desired : float array, (G,)
        Shares that sum to 1, all above 0.

    Returns
    -------
    float
        0 when every beginning of the ranking has the desired shares. Never negative. A real ranking starts
        with one image, which is of one group, so it is above 0 for the fairest ranking, too: for comparing
        rankings with the same groups and k.

    Notes
    -----
    sum over i = 1 ... k of KL(D_i || D) / log2(i + 1), divided by the sum of 1 / log2(i + 1); D_i the
    shares of the groups in the top i, D the desired ones, KL with the natural logarithm (arXiv
    1905.01989, definition 3.3). Among tied images D_i takes the shares that are expected in random order.
    """
    from scipy.special import xlogy

    order, begin, end = ranks_with_ties(scores)
    member = np.eye(len(desired))[np.asarray(groups)[order]]
    before = np.concatenate([np.zeros((1, len(desired))), np.cumsum(member, axis=0)])
    i = np.arange(1, k + 1)
    begin, end = begin[:k], end[:k]
    part = ((i - begin) / (end - begin))[:, None]
    shares = (before[begin] + part * (before[end] - before[begin])) / i[:, None]
    divergence = (xlogy(shares, shares) - xlogy(shares, desired)).sum(axis=1)
    discount = 1 / np.log2(i + 1)
    return max(float((divergence * discount).sum() / discount.sum()), 0.0)


# --- associations ---------------------------------------------------------------------------------------


def effect_size(associations, in_first):
    """WEAT effect size: how far two groups of images are apart in their association with two texts.

    Parameters
    ----------
    associations : float array, (N,) or (N, K)
        s(w) of each image of the two groups: its mean cosine with the texts A minus that with the texts B.
    in_first : bool array, (N,)
        Whether the image is of the first group, X; else it is of Y.

    Returns
    -------
    float64, or float64 array (K,)
        Positive when X is nearer to A, compared with B, than Y is. In standard deviations: between -2 and 2
        for groups of equal size. 0 when all images have the same association within rounding (5e-7).

    Notes
    -----
    (mean of s over X - mean of s over Y) / standard deviation of s over X and Y together, N - 1 in its
    denominator (Caliskan, Bryson & Narayanan 2017, "Semantics derived automatically from language corpora
    contain human-like biases"; for images Steed & Caliskan 2021, arXiv 2010.15052).
    """
    associations = np.asarray(associations, np.float64)
    difference = associations[in_first].mean(axis=0) - associations[~in_first].mean(axis=0)
    spread = associations.std(axis=0, ddof=1)
    return np.divide(difference, spread, out=np.zeros_like(spread), where=spread > COSINE_ROUNDING)[()]


def n_partitions(in_first, blocks=None):
    """In how many ways the places of the first group can be chosen, within blocks.

    Parameters
    ----------
    in_first : bool array, (N,)
    blocks : int array, (N,), optional

    Returns
    -------
    int
        As large as it is. 1 means that no test is possible.
    """
    blocks = np.zeros(len(in_first), np.int64) if blocks is None else blocks
    sizes, chosen = np.bincount(blocks), np.bincount(blocks, in_first).astype(int)
    return math.prod(math.comb(int(size), int(x)) for size, x in zip(sizes, chosen))


def all_partitions(in_first, blocks=None):
    """Every choice of the first group's places, within blocks.

    Parameters
    ----------
    in_first : bool array, (N,)
    blocks : int array, (N,), optional

    Returns
    -------
    bool array, (`n_partitions`, N)
    """
    in_first = np.asarray(in_first, bool)
    blocks = np.zeros(len(in_first), np.int64) if blocks is None else np.asarray(blocks)
    total = np.zeros((1, len(in_first)), bool)
    for block in np.unique(blocks):
        places = np.flatnonzero(blocks == block)
        choices = list(itertools.combinations(places, int(in_first[places].sum())))
        chosen = np.zeros((len(choices), len(in_first)), bool)
        for row, choice in zip(chosen, choices):
            row[list(choice)] = True
        total = (total[:, None] | chosen).reshape(-1, len(in_first))
    return total


def association_test(associations, in_first, *, blocks=None, resamples=9999, seed=0):
    """WEAT effect sizes, and how often other partitions into two groups give one as far from 0.

    Parameters
    ----------
    associations : float array, (N, K)
        As for `effect_size`, of the images of the two groups only.
    in_first : bool array, (N,)
    blocks : int array, (N,), optional
        Only images of the same block change places.
    resamples : int
        If there are no more partitions than this, all of them are looked at, else so many random ones.
    seed : int or tuple of int

    Returns
    -------
    effect : float64 array, (K,)
    p : float64 array, (K,)
        Two-sided: no direction is given beforehand. (Caliskan et al. have one, and report one side.)
    exact : bool
        Whether all partitions were looked at; then p is their share with an effect at least as far from 0,
        the real one among them.
    """
    associations = np.asarray(associations, np.float64)
    in_first = np.asarray(in_first, bool)
    effect = effect_size(associations, in_first)
    # The spread over both groups stays, so partitions rank by the mean of the first group alone.
    centred = associations - associations.mean(axis=0)
    size = in_first.sum()
    observed = np.where(effect == 0, 0, np.abs(centred[in_first].mean(axis=0)))
    margin = ROUNDING * np.maximum(np.abs(associations).max(axis=0, initial=0), 1e-3)
    exact = n_partitions(in_first, blocks) <= resamples
    # In this order the shuffles of groups of the same sizes are the same, and kept.
    order = np.argsort(~in_first, kind="stable") if blocks is None else np.lexsort((~in_first, blocks))
    centred, in_first = centred[order], in_first[order]
    blocks = None if blocks is None else np.unique(blocks[order], return_inverse=True)[1]
    if exact:
        portions = [all_partitions(in_first, blocks)]
    else:
        portions = shuffled_groups(in_first, blocks, resamples=resamples, seed=seed)
    reached, looked_at = 0, 0
    for portion in portions:
        statistic = np.abs(portion.astype(np.float64) @ centred) / size
        reached = reached + (statistic >= observed - margin).sum(axis=0)
        looked_at += len(portion)
    p = reached / looked_at if exact else (1 + reached) / (1 + looked_at)
    return effect, p, exact
