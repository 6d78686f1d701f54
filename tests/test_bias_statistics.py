"""The statistics of an audit: against SciPy and statsmodels, hand-worked cases, and simulated truth."""

import itertools
import math
import warnings
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from availability import require

stats = require("scipy.stats")
multitest = require("statsmodels.stats.multitest")

from clipc.bias import statistics as s  # noqa: E402


@pytest.fixture(autouse=True)
def no_warnings():
    """Ties and other edges are defined, so nothing may divide by zero on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    s.forget_shuffles()


def acceptable(n, rate, risk=1e-4):
    """Between which counts of n a true rate lies, but for a risk of 1 in 10,000."""
    return stats.binom.ppf([risk / 2, 1 - risk / 2], n, rate)


# --- intervals ------------------------------------------------------------------------------------------


def test_wilson_interval_of_published_cases():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    low, high = s.wilson_interval([81, 15, 0, 1], [263, 148, 20, 29])
    np.testing.assert_allclose(low, [0.2553, 0.0624, 0, 0.0061], atol=5e-5)
    np.testing.assert_allclose(high, [0.3662, 0.1605, 0.1611, 0.1718], atol=5e-5)


def test_wilson_interval_by_its_formula():
    for n in (1, 2, 10, 350):
        for count in {0, 1, n // 3, n}:
            p, z = count / n, stats.norm.ppf(0.95)
            middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
            half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
            low, high = s.wilson_interval(count, n, confidence=0.9)
            assert (low, high) == pytest.approx((max(middle - half, 0), min(middle + half, 1)), abs=1e-12)
            assert 0 <= low <= p <= high <= 1


@pytest.mark.parametrize("count, n", [(1, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_what_is_no_share(count, n):
    with pytest.raises(ValueError, match="expected 0 to n"):
        s.wilson_interval(count, n)


def test_wilson_interval_covers_as_often_as_it_says():
    """Exactly, from the binomial distribution: over all shares 95 % on average, and seldom far below."""
    n = 30
    low, high = s.wilson_interval(np.arange(n + 1), n)
    truth = np.linspace(0.02, 0.98, 97)
    chances = stats.binom.pmf(np.arange(n + 1)[:, None], n, truth)
    covered = (chances * ((low[:, None] <= truth) & (truth <= high[:, None]))).sum(axis=0)
    assert covered.mean() == pytest.approx(0.95, abs=0.01)
    assert covered.min() > 0.88


def test_newcombe_interval_of_published_cases():
    # Newcombe 1998, "Interval estimation for the difference between independent proportions", table II,
    # method 10.
    for counts, expected in {
        (56, 70, 48, 80): (0.0524, 0.3339),
        (9, 10, 3, 10): (0.1705, 0.8090),
        (10, 10, 0, 20): (0.6791, 1.0000),
        (10, 10, 0, 10): (0.6075, 1.0000),
    }.items():
        assert s.newcombe_interval(*counts) == pytest.approx(expected, abs=5e-5)
    low, high = s.newcombe_interval(3, 5, 3, 5)
    assert low == pytest.approx(-high)


def test_newcombe_interval_covers_as_often_as_it_says():
    """Exactly, from two binomial distributions."""
    n_a, n_b = 25, 40
    bounds = np.array([
        [s.newcombe_interval(a, n_a, b, n_b) for b in range(n_b + 1)] for a in range(n_a + 1)
    ])  # fmt: skip
    covered = []
    for p_a, p_b in itertools.product((0.1, 0.3, 0.5, 0.8), repeat=2):
        chances = np.outer(
            stats.binom.pmf(np.arange(n_a + 1), n_a, p_a), stats.binom.pmf(np.arange(n_b + 1), n_b, p_b)
        )
        inside = (bounds[..., 0] <= p_a - p_b) & (p_a - p_b <= bounds[..., 1])
        covered.append((chances * inside).sum())
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)
    assert min(covered) > 0.92


def test_mean_interval_is_scipys_bca():
    """The same interval as SciPy makes from the same resampled means, and nearly that from its own."""
    rng = np.random.default_rng(0)
    # Skewed, so that BCa is not the percentiles; the last one such that many means are equal.
    values = np.concatenate([rng.gamma(0.7, size=(25, 3)), rng.random((25, 1)) < 0.2], axis=1)
    low, high = s.mean_interval(values, resamples=20_000, seed=1, confidence=0.9)
    means = s.bootstrap_means(values.T, np.arange(25), samples=20_000, seed=1)
    same = {"n_resamples": 0, "bootstrap_result": SimpleNamespace(bootstrap_distribution=means.T)}
    own = {"n_resamples": 20_000, "rng": 2}
    for draws, tolerance in ((same, 1e-9), (own, 0.06)):
        found = stats.bootstrap((values,), np.mean, method="BCa", confidence_level=0.9, **draws)
        np.testing.assert_allclose(low, found.confidence_interval.low, atol=tolerance)
        np.testing.assert_allclose(high, found.confidence_interval.high, atol=tolerance)
    off = np.abs(high - np.quantile(means, 0.95, axis=0))[:3]
    assert off.min() > 0.02, "the case does not tell BCa from percentiles"


def test_mean_interval_draws_whole_units():
    rng = np.random.default_rng(3)
    means = rng.normal(size=(12, 2))
    units = np.repeat(np.arange(12), 5)
    inside = rng.normal(size=(60, 2))
    inside -= np.repeat(inside.reshape(12, 5, 2).mean(axis=1), 5, axis=0)
    by_units = s.mean_interval(means[units] + inside, units, resamples=2000)
    np.testing.assert_allclose(by_units, s.mean_interval(means, resamples=2000), atol=1e-12)
    # Single images of a unit are no information of their own.
    alone = s.mean_interval(means[units], resamples=2000)
    assert ((by_units[1] - by_units[0]) > 1.5 * (alone[1] - alone[0])).all()


def test_mean_interval_where_there_is_nothing_to_draw():
    low, high = s.mean_interval(np.array([[0.3, 0.7]]))
    assert np.isnan(low).all() and np.isnan(high).all()
    low, high = s.mean_interval(np.array([[0.3], [0.4], [0.5]]), units=np.zeros(3, int))
    assert np.isnan(low).all() and np.isnan(high).all()
    constant = np.full((7, 2), [0.1, 0.0])
    low, high = s.mean_interval(constant)
    np.testing.assert_array_equal(low, [constant[:, 0].mean(), 0])
    np.testing.assert_array_equal(high, low)
    for resamples in (1, 2):
        low, high = s.mean_interval(np.array([[0.1], [0.2]]), resamples=resamples)
        assert 0.1 <= low[0] <= high[0] <= 0.2


@pytest.mark.parametrize("n", [15, 60])
def test_mean_interval_covers_about_as_often_as_it_says(n):
    """1,000 samples of a skewed distribution, 40 at a time."""
    covered = 0
    for seed in range(25):
        values = np.random.default_rng((5, seed)).beta(1, 3, size=(n, 40))
        low, high = s.mean_interval(values, resamples=600, seed=seed)
        covered += ((low <= 0.25) & (0.25 <= high)).sum()
    # With few images a little short of it, as the docstring says.
    least, most = acceptable(1000, {15: 0.925, 60: 0.943}[n])
    print(f"n = {n}: {covered / 10} %")
    assert least <= covered <= most


# --- gaps -----------------------------------------------------------------------------------------------


def test_parity_difference_and_ratio_by_hand():
    shares = np.array([[0.2, 0.0, 0.5], [0.5, 0.0, 0.5], [0.4, 0.0, 0.5]])
    np.testing.assert_allclose(s.parity_difference(shares), [0.3, 0, 0], atol=1e-15)
    np.testing.assert_allclose(s.parity_ratio(shares), [0.4, np.nan, 1])


def test_p_value_counts_the_data_and_what_equals_them():
    shuffled = np.array([[0.1], [0.3], [0.1 + 0.2], [0.5]])
    assert 0.1 + 0.2 != 0.3
    assert s.p_value([0.3], shuffled) == 4 / 5
    assert s.p_value([0.1 + 0.2], shuffled) == 4 / 5
    assert s.p_value([0.6], shuffled) == 1 / 5
    assert s.p_value([0.0], shuffled) == 1


def test_holm_by_hand():
    np.testing.assert_allclose(s.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(s.holm([0.6, 0.7]), [1, 1])
    np.testing.assert_allclose(s.holm([0.2]), [0.2])
    assert len(s.holm([])) == 0


def test_holm_is_statsmodels():
    rng = np.random.default_rng(0)
    for m in (1, 2, 7, 40):
        p = np.round(rng.beta(0.3, 2, m), 2)  # with equal ones
        expected = multitest.multipletests(p, method="holm")[1]
        np.testing.assert_allclose(s.holm(p), expected, atol=1e-12)


def small_case(blocks=False):
    """Labels, groups, and blocks of 9 images in three groups."""
    labels = np.array([0, 0, 1, 0, 1, 1, 2, 1, 1])
    groups = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    return labels, groups, np.array([0, 1, 2] * 3) if blocks else None


def every_shuffle(groups, blocks):
    """All assignments of the groups to the images, each once."""
    blocks = np.zeros(len(groups), int) if blocks is None else blocks
    places = [np.flatnonzero(blocks == b) for b in np.unique(blocks)]
    for choice in itertools.product(*(set(itertools.permutations(groups[p].tolist())) for p in places)):
        shuffled = np.empty_like(groups)
        for p, values in zip(places, choice):
            shuffled[p] = values
        yield shuffled


def gap(labels, groups, label):
    shares = [np.mean(labels[groups == g] == label) for g in np.unique(groups)]
    return max(shares) - min(shares)


def test_parity_test_against_all_shuffles_within_blocks():
    labels, groups, blocks = small_case(blocks=True)
    shuffles = list(every_shuffle(groups, blocks))
    assert len(shuffles) == 6**3
    difference, p = s.parity_test(labels, groups, 3, 3, blocks=blocks, resamples=20_000)
    for label in range(3):
        observed = gap(labels, groups, label)
        exact = np.mean([gap(labels, g, label) >= observed - 1e-9 for g in shuffles])
        assert difference[label] == pytest.approx(observed)
        assert p[label] == pytest.approx(exact, abs=4 * math.sqrt(0.25 / 20_000))


def test_parity_test_is_scipys_permutation_test():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [30, 20, 10])
    labels = (rng.random(60) < np.array([0.2, 0.45, 0.6])[groups]).astype(int)
    difference, p = s.parity_test(labels, groups, 2, 3, resamples=9999)

    def statistic(a, b, c, axis):
        means = [a.mean(axis=axis), b.mean(axis=axis), c.mean(axis=axis)]
        return np.max(means, axis=0) - np.min(means, axis=0)

    found = stats.permutation_test(
        [labels[groups == g] for g in range(3)], statistic, permutation_type="independent", vectorized=True,
        n_resamples=9999, alternative="greater", rng=1,
    )  # fmt: skip
    assert 0.001 < found.pvalue < 0.2
    assert difference == pytest.approx([found.statistic] * 2)
    assert p[0] == p[1] == pytest.approx(found.pvalue, abs=6 * math.sqrt(found.pvalue / 9999))


def test_parity_test_of_sets_of_labels():
    rng = np.random.default_rng(1)
    labels, groups = rng.integers(0, 4, 80), np.repeat([0, 1], 40)
    members = np.array([[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]], bool)
    difference, p = s.parity_test(labels, groups, 4, 2, members=members, resamples=2000)
    merged = np.array([0, 1, 1, 2])[labels]
    again, again_p = s.parity_test(merged, groups, 3, 2, resamples=2000)
    np.testing.assert_allclose(difference, [again[0], again[1], 0], atol=1e-12)
    np.testing.assert_allclose(p, [again_p[0], again_p[1], 1], atol=0.05)


def test_parity_test_at_its_ends():
    groups = np.repeat([0, 1], 20)
    difference, p = s.parity_test(groups, groups, 2, 2, resamples=999)
    assert (difference == 1).all() and (p == 1 / 1000).all()
    for labels in (np.zeros(40, int), np.tile([0, 1], 20)):
        difference, p = s.parity_test(labels, groups, 2, 2, resamples=99)
        assert (difference == 0).all() and (p == 1).all()
    # Every image in a block of its own: nothing can be shuffled.
    _, p = s.parity_test(groups, groups, 2, 2, blocks=np.arange(40), resamples=99)
    assert (p == 1).all()


def test_shuffled_tables_keep_their_margins():
    rng = np.random.default_rng(2)
    labels, groups, blocks = rng.integers(0, 4, 200), rng.integers(0, 3, 200), rng.integers(0, 30, 200)
    table = s.contingency(labels, groups, 4, 3)
    for given in (None, blocks):
        tables = s.shuffled_tables(labels, groups, 4, 3, given, resamples=500)
        assert tables.shape == (500, 3, 4)
        assert (tables.sum(axis=1) == table.sum(axis=0)).all()
        assert (tables.sum(axis=2) == table.sum(axis=1)).all()
        np.testing.assert_array_equal(tables, s.shuffled_tables(labels, groups, 4, 3, given, resamples=500))
        assert (s.shuffled_tables(labels, groups, 4, 3, given, resamples=500, seed=1) != tables).any()


@pytest.mark.parametrize("blocks", [False, True])
def test_shuffled_tables_have_the_distribution_of_shuffles(blocks):
    labels, groups, blocks = small_case(blocks)
    shuffles = list(every_shuffle(groups, blocks))
    expected = Counter(tuple(s.contingency(labels, shuffle, 3, 3).ravel()) for shuffle in shuffles)
    tables = s.shuffled_tables(labels, groups, 3, 3, blocks, resamples=20_000, seed=4)
    found = Counter(map(tuple, tables.reshape(20_000, 9)))
    assert len(expected) > 8 and set(found) <= set(expected)
    likely = [20_000 * expected[key] / len(shuffles) for key in expected]
    assert stats.chisquare([found[key] for key in expected], likely).pvalue > 1e-4


@pytest.mark.parametrize("blocks", [None, np.array([0, 0, 0, 1, 1, 1, 1])])
def test_shuffled_groups_are_all_as_likely(blocks):
    groups = np.array([0, 1, 2, 0, 0, 1, 2])
    shuffles = set(map(tuple, every_shuffle(groups, blocks)))
    found = Counter(map(tuple, np.concatenate(list(s.shuffled_groups(groups, blocks, resamples=30_000)))))
    assert len(set(found) ^ shuffles) == 0
    assert stats.chisquare([found[key] for key in shuffles]).pvalue > 1e-4


@pytest.mark.parametrize("blocks", [None, np.arange(60) % 7])
def test_shuffles_are_the_same_whether_kept_or_not(blocks, monkeypatch):
    groups = np.arange(60) % 3
    kept = np.concatenate(list(s.shuffled_groups(groups, blocks, resamples=50, seed=(1, 2))))
    monkeypatch.setattr(s, "KEPT", 0)
    monkeypatch.setattr(s, "CHUNK", 60 * 7)
    portions = list(s.shuffled_groups(groups, blocks, resamples=50, seed=(1, 2)))
    assert len(portions) == 8
    np.testing.assert_array_equal(np.concatenate(portions), kept)


def test_mean_parity_test_is_scipys_permutation_test():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], [18, 12])
    values = rng.normal(size=(30, 2)) + np.outer(groups, [0.9, 0])
    difference, p = s.mean_parity_test(values, groups, 2, resamples=9999)
    for column in range(2):
        found = stats.permutation_test(
            [values[groups == g, column] for g in range(2)],
            lambda a, b, axis: np.abs(a.mean(axis=axis) - b.mean(axis=axis)),
            vectorized=True, n_resamples=9999, alternative="greater", rng=1,
        )  # fmt: skip
        assert difference[column] == pytest.approx(found.statistic)
        assert p[column] == pytest.approx(found.pvalue, abs=0.03 if column else 0.012)


def test_total_variation_by_hand():
    assert s.total_variation([0.5, 0.5, 0], [0.2, 0.5, 0.3]) == pytest.approx(0.3)
    assert s.total_variation([1, 0], [0, 1]) == 1
    assert s.total_variation([0.25, 0.75], [0.25, 0.75]) == 0


@pytest.mark.parametrize("blocks", [False, True])
def test_total_variation_test_against_all_shuffles(blocks):
    labels = np.array([0, 0, 0, 1, 2, 1, 1, 2])
    in_first = np.array([1, 1, 1, 0, 1, 0, 0, 0], bool)
    blocks = np.array([0, 1, 2, 3, 0, 1, 2, 3]) if blocks else None

    def distance(first):
        shares = [np.bincount(labels[part], minlength=3) / part.sum() for part in (first, ~first)]
        return 0.5 * np.abs(shares[0] - shares[1]).sum()

    exact = np.mean([distance(f) >= distance(in_first) - 1e-9 for f in every_shuffle(in_first, blocks)])
    found, p = s.total_variation_test(labels, in_first, 5, blocks=blocks, resamples=20_000)
    assert found == pytest.approx(distance(in_first)) and 0 < exact < 1
    assert p == pytest.approx(exact, abs=0.015)


def test_total_variation_of_equal_labels():
    assert s.total_variation_test(np.array([3, 3, 3]), np.array([True, False, False]), 5) == (0, 1)


# --- rankings -------------------------------------------------------------------------------------------


def test_top_k_weights_share_tied_places():
    scores = np.array([0.3, 0.2, 0.2, 0.1, 0.2])
    np.testing.assert_allclose(s.top_k_weights(scores, 2), [1, 1 / 3, 1 / 3, 0, 1 / 3])
    np.testing.assert_allclose(s.top_k_weights(scores, 1), [1, 0, 0, 0, 0])
    np.testing.assert_allclose(s.top_k_weights(scores, 4), [1, 1, 1, 0, 1])
    np.testing.assert_allclose(s.top_k_weights(scores, 5), np.ones(5))
    np.testing.assert_allclose(s.top_k_weights(np.full(4, 0.5), 1), np.full(4, 0.25))
    # Rounding is no order.
    np.testing.assert_allclose(s.top_k_weights(0.2 + np.array([0, 1e-9, -1e-9]), 2), np.full(3, 2 / 3))


def test_skew_by_hand():
    desired = np.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(s.skews([8, 2, 0], desired), np.log([1.6, 0.8, 0.1 / 0.25]))
    assert s.max_skew([8, 2, 0], desired) == pytest.approx(math.log(1.6))
    assert s.max_skew([4, 2, 2], desired) == 0
    # One place would be more than this group's share, but it has none.
    assert s.max_skew([10, 0], np.array([0.95, 0.05])) == pytest.approx(math.log(1 / 0.95))


def published_max_skew(groups, scores, k, desired):
    """As debias-vision-lang computes it, written again from its definition, but without the absent groups."""
    top = groups[np.argsort(-scores)[:k]]
    return max(math.log(np.mean(top == g)) - math.log(d) for g, d in enumerate(desired) if g in top)


def published_ndkl(groups, scores, k, desired):
    top = groups[np.argsort(-scores)[:k]]
    total = 0
    for i in range(1, k + 1):
        shares = [np.mean(top[:i] == g) for g in range(len(desired))]
        total += sum(p * math.log(p / d) for p, d in zip(shares, desired) if p) / math.log2(i + 1)
    return total / sum(1 / math.log2(i + 1) for i in range(1, k + 1))


@pytest.mark.parametrize("k", [1, 10, 60])
def test_ranking_measures_are_the_published_ones(k):
    rng = np.random.default_rng(k)
    for _ in range(20):
        groups = np.concatenate([[0, 1, 2], rng.integers(0, 3, 57)])
        scores = rng.normal(size=60)
        desired = np.bincount(groups) / 60
        top = np.bincount(groups, s.top_k_weights(scores, k), minlength=3)
        assert s.max_skew(top, desired) == pytest.approx(
            published_max_skew(groups, scores, k, desired), abs=1e-12
        )
        assert s.ndkl(scores, groups, k, desired) == pytest.approx(
            published_ndkl(groups, scores, k, desired), abs=1e-12
        )


def test_ndkl_by_hand():
    # First of group 0 (KL = ln 2), then one of each (KL = 0), then 2 of 3.
    third = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    discounts = [1, 1 / math.log2(3), 0.5]
    expected = (math.log(2) * discounts[0] + third * discounts[2]) / sum(discounts)
    found = s.ndkl(np.array([4.0, 3, 2, 1]), np.array([0, 1, 0, 1]), 3, np.array([0.5, 0.5]))
    assert found == pytest.approx(expected)


def test_ndkl_of_ties_takes_what_is_expected():
    groups, desired = np.array([0, 0, 1, 1, 1]), np.array([0.4, 0.6])
    assert s.ndkl(np.full(5, 0.3), groups, 4, desired) == pytest.approx(0, abs=1e-12)
    # Two tied behind the first: half of each.
    scores = np.array([0.9, 0.5, 0.5, 0.2, 0.1])
    shares = [[1, 0], [0.75, 0.25], [2 / 3, 1 / 3]]
    discount = 1 / np.log2(np.arange(2, 5))
    kl = [sum(p * math.log(p / d) for p, d in zip(row, desired) if p) for row in shares]
    assert s.ndkl(scores, groups, 3, desired) == pytest.approx((kl * discount).sum() / discount.sum())
    swapped = groups[[0, 2, 1, 3, 4]]
    assert s.ndkl(scores, swapped, 3, desired) == pytest.approx(s.ndkl(scores, groups, 3, desired))


def test_max_skew_test_against_the_hypergeometric_distribution():
    groups = np.repeat([0, 1], [30, 20])
    scores = np.arange(50.0)[np.random.default_rng(0).permutation(50)] / 50
    scores[:6] += 1  # six of group 0 in front
    weights = s.top_k_weights(scores, 10)[:, None]
    desired = np.array([0.6, 0.4])
    skew, group, p, chance = s.max_skew_test(weights, groups, desired, resamples=9999)
    top = int(weights[:30].sum())
    counts = np.arange(11)
    skews = s.max_skew(np.stack([counts, 10 - counts], axis=1), desired)
    chances = stats.hypergeom.pmf(counts, 50, 30, 10)
    assert top >= 6 and skew[0] == pytest.approx(skews[top])
    assert group[0] == (0 if top > 6 else 1)
    assert p[0] == pytest.approx(chances[skews >= skews[top] - 1e-9].sum(), abs=0.02)
    assert chance[0] == pytest.approx((chances * skews).sum(), abs=0.01)


# --- associations ---------------------------------------------------------------------------------------


def caliskan(x, y, a, b):
    """The effect size, written from the paper: a loop over every word and attribute."""
    def cos(u, v):
        return float(u @ v / (np.linalg.norm(u) * np.linalg.norm(v)))

    def association(w):
        return np.mean([cos(w, t) for t in a]) - np.mean([cos(w, t) for t in b])

    of_x, of_y = [association(w) for w in x], [association(w) for w in y]
    everything = np.array(of_x + of_y)
    spread = math.sqrt(((everything - everything.mean()) ** 2).sum() / (len(everything) - 1))
    return (np.mean(of_x) - np.mean(of_y)) / spread, everything


def test_effect_size_by_caliskans_formula():
    rng = np.random.default_rng(0)
    x, y, a, b = (rng.normal(size=(n, 6)) for n in (5, 8, 3, 2))
    expected, associations = caliskan(x, y, a, b)
    in_first = np.arange(13) < 5
    assert s.effect_size(associations, in_first) == pytest.approx(expected)
    assert s.effect_size(associations, ~in_first) == pytest.approx(-expected)


def test_effect_size_by_hand():
    # Means 3 and 1; around the mean of all, 2, the squares are 0, 4, 1 and 1.
    values, first = np.array([2.0, 4, 1, 1]), np.array([True, True, False, False])
    assert s.effect_size(values, first) == pytest.approx(2 / math.sqrt(6 / 3))
    assert s.effect_size(np.array([1.0, 0.0]), np.array([True, False])) == pytest.approx(math.sqrt(2))


def test_association_test_is_exact_when_partitions_are_few():
    rng = np.random.default_rng(2)
    in_first = np.array([1, 0, 1, 0, 0, 1, 0], bool)
    values = rng.normal(size=(7, 3))
    effect, p, exact = s.association_test(values, in_first, resamples=35)
    assert exact and s.n_partitions(in_first) == 35
    for column in range(3):
        def distance(first, column=column):
            return abs(values[first, column].mean() - values[~first, column].mean())

        all_of_them = [
            np.isin(np.arange(7), chosen) for chosen in itertools.combinations(range(7), 3)
        ]
        expected = np.mean([distance(first) >= distance(in_first) - 1e-12 for first in all_of_them])
        assert p[column] == pytest.approx(expected)
        assert effect[column] == pytest.approx(s.effect_size(values[:, column], in_first))


def test_association_test_is_scipys_permutation_test():
    rng = np.random.default_rng(5)
    in_first = np.arange(9) < 4
    values = rng.normal(size=9) + in_first
    found = stats.permutation_test(
        (values[in_first], values[~in_first]), lambda a, b: abs(a.mean() - b.mean()), vectorized=False,
        alternative="greater", n_resamples=np.inf,
    )  # fmt: skip
    _, p, exact = s.association_test(values[:, None], in_first)
    assert exact and p[0] == pytest.approx(found.pvalue)
    _, sampled, exact = s.association_test(values[:, None], in_first, resamples=100)
    assert not exact and sampled[0] == pytest.approx(found.pvalue, abs=0.2)
    apart = np.arange(40) < 20
    assert s.association_test(apart[:, None] + 0.0, apart, resamples=99)[1] == [1 / 100]


def test_association_test_within_blocks():
    """Ten pairs that differ by little, among blocks that differ by much: sign flips, all 1,024."""
    rng = np.random.default_rng(1)
    blocks = np.repeat(np.arange(10), 2)
    in_first = np.tile([True, False], 10)
    apart = rng.normal(0.15, 0.3, 10)
    values = np.repeat(10 * rng.normal(size=10), 2) + np.stack([apart, np.zeros(10)], axis=1).ravel()
    assert s.n_partitions(in_first, blocks) == 1024
    _, p, exact = s.association_test(values[:, None], in_first, blocks=blocks)
    signs = np.array(list(itertools.product([1, -1], repeat=10)))
    expected = (np.abs(signs @ apart) >= abs(apart.sum()) - 1e-9).mean()
    assert exact and p[0] == pytest.approx(expected)
    assert s.association_test(values[:, None], in_first)[1][0] > 0.9 > p[0]
    # Sampled, from a shuffled order of images.
    order = rng.permutation(20)
    _, p, exact = s.association_test(
        values[order, None], in_first[order], blocks=blocks[order], resamples=1000
    )
    assert not exact and p[0] == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 1000))


def test_association_test_of_ties_and_of_the_smallest_groups():
    for n in (5, 40):
        effect, p, _ = s.association_test(np.full((n, 2), 0.1), np.arange(n) < 2)
        assert (effect == 0).all() and (p == 1).all()
    effect, p, exact = s.association_test(np.array([[0.2], [0.1]]), np.array([True, False]))
    assert exact and p[0] == 1 and effect[0] == pytest.approx(math.sqrt(2))
    values = np.array([[0.9], [0.1], [0.2], [0.15]])
    _, p, exact = s.association_test(values, np.array([True, False, False, False]))
    assert exact and p[0] == 1 / 4
    # No block with both groups.
    _, p, exact = s.association_test(values, np.array([1, 1, 0, 0], bool), blocks=np.array([0, 0, 1, 1]))
    assert exact and p[0] == 1


# --- the truth, simulated -------------------------------------------------------------------------------


def rejections(p):
    return int((np.asarray(p) <= 0.05).sum())


def test_mean_parity_test_errs_as_often_as_it_says():
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2], [20, 15, 5])
    _, p = s.mean_parity_test(rng.gamma(1, size=(40, 1000)), groups, 3, resamples=1999)
    least, most = acceptable(1000, 0.05)
    assert least <= rejections(p) <= most


def test_association_test_errs_as_often_as_it_says():
    rng = np.random.default_rng(1)
    in_first = np.arange(30) < 12
    _, p, _ = s.association_test(rng.gamma(1, size=(30, 1000)), in_first, resamples=1999)
    least, most = acceptable(1000, 0.05)
    assert least <= rejections(p) <= most


def test_max_skew_test_errs_at_most_as_often_as_it_says():
    """Counts are few, so the level cannot be met exactly: it stays below."""
    rng = np.random.default_rng(2)
    groups = np.repeat([0, 1], [60, 60])
    weights = np.stack([s.top_k_weights(rng.normal(size=120), 40) for _ in range(1000)], axis=1)
    _, _, p, _ = s.max_skew_test(weights, groups, np.array([0.5, 0.5]), resamples=1999)
    assert acceptable(1000, 0.03)[0] <= rejections(p) <= acceptable(1000, 0.05)[1]


def test_tests_of_labels_err_at_most_as_often_as_they_say():
    """400 data sets without an effect: gaps of three groups, and the total variation of two of them."""
    rng = np.random.default_rng(3)
    groups = np.repeat([0, 1, 2], [60, 50, 40])
    two = groups < 2
    gaps, variations = [], []
    for seed in range(400):
        labels = rng.choice(4, size=150, p=[0.4, 0.3, 0.2, 0.1])
        gaps.append(s.parity_test(labels, groups, 4, 3, resamples=199, seed=seed)[1])
        _, p = s.total_variation_test(labels[two], groups[two] == 0, 4, resamples=199, seed=seed)
        variations.append(p)
    most = acceptable(400, 0.05)[1]
    for label in range(4):
        assert acceptable(400, 0.03)[0] <= rejections(np.array(gaps)[:, label]) <= most
    assert acceptable(400, 0.035)[0] <= rejections(variations) <= most
    # Any label at all: without Holm's adjustment far more often, with it not.
    smallest = np.min(gaps, axis=1)
    np.testing.assert_allclose([s.holm(p).min() for p in gaps[:5]], np.minimum(4 * smallest[:5], 1))
    any_raw, any_adjusted = rejections(smallest), rejections(4 * smallest)
    print(f"a false alarm among four labels: {any_raw / 4} %, after Holm {any_adjusted / 4} %")
    assert any_adjusted <= most < any_raw


def test_shuffling_within_blocks_keeps_the_level_where_blocks_differ():
    """Scenes differ in the label and in who is in them; within a scene groups are treated alike."""
    rng = np.random.default_rng(4)
    blocks = np.repeat(np.arange(6), 20)
    p_group = np.array([0.1, 0.2, 0.4, 0.6, 0.8, 0.9])[blocks]
    within, ignoring, values = [], [], []
    for seed in range(300):
        groups = (rng.random(120) < p_group).astype(int)
        labels = (rng.random(120) < p_group).astype(int)
        within.append(s.parity_test(labels, groups, 2, 2, blocks=blocks, resamples=199, seed=seed)[1][0])
        ignoring.append(s.parity_test(labels, groups, 2, 2, resamples=199, seed=seed)[1][0])
    least, most = acceptable(300, 0.05)
    assert acceptable(300, 0.03)[0] <= rejections(within) <= most
    assert rejections(ignoring) > 200
    # The same for means and associations, where columns are the data sets.
    groups = (rng.random(120) < p_group).astype(int)
    values = 3 * p_group[:, None] + rng.normal(size=(120, 600))
    least, most = acceptable(600, 0.05)
    _, p = s.mean_parity_test(values, groups, 2, blocks=blocks, resamples=999)
    assert least <= rejections(p) <= most
    _, p, _ = s.association_test(values, groups == 1, blocks=blocks, resamples=999)
    assert least <= rejections(p) <= most
    assert rejections(s.association_test(values, groups == 1, resamples=999)[1]) > 400


def test_tests_find_an_effect_that_is_there():
    rng = np.random.default_rng(5)
    groups = np.repeat([0, 1], 100)
    found = 0
    for seed in range(100):
        labels = (rng.random(200) < np.array([0.3, 0.55])[groups]).astype(int)
        found += s.parity_test(labels, groups, 2, 2, resamples=199, seed=seed)[1][0] <= 0.05
    # Fisher's exact test has a power of 0.93 there.
    assert found >= acceptable(100, 0.94)[0]
