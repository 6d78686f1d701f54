"""Bias reports for tests of how they look: the attributes of an `AuditReport`, from given probabilities.

The statistics behind them are tested elsewhere. Here the simple ones are computed anew, and p values are
made up from the size of the difference, so that a report is there at once.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from clipc.prediction import Prediction, Predictions


def made_up_report(
    probabilities,
    labels,
    groups,
    *,
    group_name="gender",
    files=None,
    blocks=None,
    block_name=None,
    categories=None,
    unreadable=(),
    model_name="ViT-B/32",
    p=None,
):
    """A report over pictures whose probabilities are given.

    Parameters
    ----------
    probabilities : float array, (N, L)
    labels : list of str
    groups : list of str, N of them
    p : dict from label to float, optional
        The p values of the gaps, the same after Holm; else 0.01 for gaps above 30 points and 0.5 below.
    """
    probabilities = np.asarray(probabilities, float)
    groups = np.asarray(groups)
    order = list(dict.fromkeys(groups.tolist()))
    counts = {group: int((groups == group).sum()) for group in order}
    winners = probabilities.argmax(axis=1)
    kinds = [("label", label, [i]) for i, label in enumerate(labels)]
    for category in dict.fromkeys((categories or {}).values()):
        members = [i for i, label in enumerate(labels) if (categories or {}).get(label) == category]
        kinds.append(("category", category, members))

    shares, comparisons = [], []
    for kind, label, members in kinds:
        values, means = {}, {}
        for group in order:
            inside = groups == group
            n = counts[group]
            count = int(np.isin(winners[inside], members).sum())
            low, high = proportion_confint(count, n, method="wilson")
            mean = probabilities[inside][:, members].sum(axis=1)
            half = 1.96 * mean.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
            shares.append({
                "group": group, "n": n, "label": label, "kind": kind, "count": count, "share": count / n,
                "low": low, "high": high, "mean_probability": mean.mean(), "mean_low": mean.mean() - half,
                "mean_high": mean.mean() + half,
            })  # fmt: skip
            values[group], means[group] = count / n, mean.mean()
        high, low = max(values, key=values.get), min(values, key=values.get)
        gap = values[high] - values[low]
        chance = (p or {}).get(label, 1.0 if gap == 0 else 0.01 if gap > 0.3 else 0.5)
        comparisons.append({
            "label": label, "kind": kind, "difference": gap,
            "ratio": values[low] / values[high] if values[high] else pd.NA,
            "highest_group": high if gap else "", "lowest_group": low if gap else "",
            "p": chance, "p_holm": chance,
            "low": gap - 0.2, "high": min(gap + 0.2, 1), "mean_difference": np.ptp(list(means.values())),
            "mean_p": chance, "mean_p_holm": chance,
        })  # fmt: skip

    pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
    shares_of = {g: np.bincount(winners[groups == g], minlength=len(labels)) / counts[g] for g in order}
    distances = [np.abs(shares_of[a] - shares_of[b]).sum() / 2 for a, b in pairs]
    scores = np.log(probabilities)
    ranking, associations = [], []
    for i, label in enumerate(labels):
        nearest = groups[np.argsort(-scores[:, i], kind="stable")]
        for k in sorted({1, max(1, len(groups) // 4), len(groups) // 2}):
            skews = {
                g: np.log(max((nearest[:k] == g).mean(), 1 / k) / (counts[g] / len(groups))) for g in order
            }
            worst = max(skews, key=skews.get)
            ranking.append({
                "label": label, "k": k, "max_skew": skews[worst], "group": worst, "ndkl": 0.1,
                "chance": 0.2, "p": 0.5, "p_holm": 0.5,
            })  # fmt: skip
    for a, b in pairs:
        for i in range(1, len(labels)):
            s = scores[:, 0] - scores[:, i]
            both = np.isin(groups, (a, b))
            spread = s[both].std(ddof=1)
            d = (s[groups == a].mean() - s[groups == b].mean()) / spread if spread else 0.0
            chance = 0.01 if abs(d) > 0.8 else 0.5
            associations.append({
                "group_a": a, "group_b": b, "label_a": labels[0], "label_b": labels[i], "effect_size": d,
                "p": chance, "p_holm": chance,
            })  # fmt: skip

    return SimpleNamespace(
        model_name=model_name,
        labels=list(labels),
        templates=["a photo of a {}."],
        group_names=[group_name],
        groups=order,
        counts=counts,
        block_name=block_name,
        n_blocks=len(set(blocks)) if blocks is not None else 0,
        files=list(files or [f"images/{i:03d}.jpg" for i in range(len(groups))]),
        group_of=groups,
        block_of=None if blocks is None else np.asarray(blocks),
        predictions=Predictions(Prediction.from_probabilities(labels, row) for row in probabilities),
        probabilities=probabilities,
        unreadable=list(unreadable),
        notes=[],
        distinct_tests=lambda: np.zeros(2, int) if len(labels) == 2 else np.arange(len(comparisons)),
        settings={"model": model_name, "dtype": "float32", "confidence": 0.95, "resamples": 9999, "seed": 0},
        preset=None,
        shares=pd.DataFrame(shares),
        comparisons=pd.DataFrame(comparisons),
        total_variation=pd.DataFrame({
            "group_a": [a for a, _ in pairs], "group_b": [b for _, b in pairs], "total_variation": distances,
            "p": [0.01 if d > 0.3 else 0.5 for d in distances],
            "p_holm": [0.01 if d > 0.3 else 0.5 for d in distances],
        }),
        ranking=pd.DataFrame(ranking),
        associations=pd.DataFrame(associations),
    )  # fmt: skip


def drawn_report(labels, sizes, centres, *, seed=0, spread=0.8, **options):
    """A report over pictures drawn at random.

    Parameters
    ----------
    sizes : dict from group to int
    centres : dict from group to sequence of L float
        The mean logits of a group.
    """
    rng = np.random.default_rng(seed)
    logits = np.concatenate([
        np.asarray(centres[group]) + spread * rng.standard_normal((n, len(labels)))
        for group, n in sizes.items()
    ])  # fmt: skip
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return made_up_report(probabilities, labels, np.repeat(list(sizes), list(sizes.values())), **options)
