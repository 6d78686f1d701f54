"""The tables of an audit: statistics of labels, probabilities and features over groups."""

from __future__ import annotations

import numpy as np

from clipc.bias import statistics
from clipc.tables import count

# Streams of random numbers: for tables of labels, for groups over all pictures, for pairs of groups. Tests on
# the same pictures look at the same shuffles.
TABLES, GROUPS, PAIRS = range(3)


def label_sets(labels, categories):
    """What shares are counted of: each label, then each category.

    Parameters
    ----------
    labels : sequence of str
    categories : dict of str to str
        Label to category.

    Returns
    -------
    names : list of (str, str)
        Kind ("label" or "category") and name.
    members : bool array, (K, L)
        Which labels each has.
    """
    kinds = list(dict.fromkeys(categories[label] for label in labels if label in categories))
    names = [("label", label) for label in labels] + [("category", kind) for kind in kinds]
    of_kinds = [[categories.get(label) == kind for label in labels] for kind in kinds]
    return names, np.array([*np.eye(len(labels), dtype=bool), *of_kinds], bool)


def distinct_sets(members):
    """Numbers from 0 of sets of labels, (K,); equal or complementary ones, with the same test, share one."""
    canonical = np.where(members[:, :1], members, ~members)
    return np.unique(canonical, axis=0, return_inverse=True)[1].reshape(-1)


def holm_over_distinct(p, tests):
    """Holm's adjustment of p-values, (K,), of which those with the same number in `tests` are one test."""
    first = np.unique(tests, return_index=True)[1]
    return statistics.holm(np.asarray(p)[first])[tests]


class Findings:
    """All tables for one classification of the pictures.

    Parameters
    ----------
    sample : clipc.bias.samples.Sample
    labels : sequence of str
    categories : dict of str to str
    probabilities : float64 array, (N, L)
    given : int array, (N,)
        The label that each picture was given, by its number.
    rounding : float
        Probabilities that differ by no more than this share of the largest are the same.
    confidence : float
    resamples, seed : int

    Attributes
    ----------
    notes : list of str
        What is undefined, and why; complete when all tables were made.
    """

    def __init__(
        self, sample, labels, categories, probabilities, given, *, rounding, confidence, resamples, seed
    ):
        self.labels = labels
        self.names, self.members = label_sets(labels, categories)
        self.given = given
        self.probabilities = probabilities @ self.members.T
        self.group_names = sample.groups
        self.groups = sample.group_codes()
        self.blocks = sample.block_codes()
        self.sizes = np.bincount(self.groups, minlength=len(sample.groups))
        table = statistics.contingency(given, self.groups, len(labels), len(sample.groups))
        self.counts = table @ self.members.T
        self.rounding, self.confidence = rounding, confidence
        self.resamples, self.seed = resamples, seed
        self.notes = list(self._notes(sample))

    def _notes(self, sample):
        alone = [group for group, size in zip(self.group_names, self.sizes) if size == 1]
        if alone:
            yield (
                f"One picture only in {listed(alone)}: the mean probability has no interval, and no test can "
                "tell such a group from chance unless the others are many."
            )
        if self.blocks is not None:
            pairs = np.unique(np.stack([self.blocks, self.groups]), axis=1)
            mixed = np.bincount(pairs[0]) > 1
            if not mixed.any():
                yield (
                    f"No block of {sample.block_name} has pictures of two groups, so there is nothing to "
                    "shuffle: every p is 1, whatever the pictures are."
                )
            elif not mixed.all():
                yield (
                    f"{(~mixed).sum()} of {count(len(mixed), 'block')} of {sample.block_name} have pictures "
                    "of one group only, and add nothing to the tests."
                )
        if sample.n_ungrouped:
            yield f"Left out {count(sample.n_ungrouped, 'picture')} without a group or block."
        never = [repr(name) for (_, name), n in zip(self.names, self.counts.sum(axis=0)) if not n]
        if never:
            yield f"No picture was given {listed(never)}, so there is no ratio of shares."

    def _shuffles(self, stream, chosen=None):
        blocks = self.blocks
        if blocks is not None and chosen is not None:
            blocks = np.unique(blocks[chosen], return_inverse=True)[1]
        return {"blocks": blocks, "resamples": self.resamples, "seed": (self.seed, stream)}

    def _pairs(self):
        """Of each two groups: both names, which pictures are of them, and which of these of the first."""
        for a, first in enumerate(self.group_names):
            for b in range(a + 1, len(self.group_names)):
                two = (self.groups == a) | (self.groups == b)
                yield first, self.group_names[b], two, self.groups[two] == a

    def shares(self):
        """``AuditReport.shares``."""
        rows = []
        for number, group in enumerate(self.group_names):
            inside = self.groups == number
            n, counts = int(self.sizes[number]), self.counts[number]
            low, high = statistics.wilson_interval(counts, n, self.confidence)
            units = None if self.blocks is None else np.unique(self.blocks[inside], return_inverse=True)[1]
            values = self.probabilities[inside]
            mean_low, mean_high = statistics.mean_interval(
                values, units, confidence=self.confidence, resamples=self.resamples, seed=self.seed
            )
            for i, (kind, label) in enumerate(self.names):
                rows.append(
                    {
                        "group": group,
                        "n": n,
                        "label": label,
                        "kind": kind,
                        "count": int(counts[i]),
                        "share": counts[i] / n,
                        "low": low[i],
                        "high": high[i],
                        "mean_probability": values[:, i].mean(),
                        "mean_low": mean_low[i],
                        "mean_high": mean_high[i],
                    }
                )
        return _table(rows, "mean_low", "mean_high")

    def comparisons(self):
        """``AuditReport.comparisons``."""
        n_groups = len(self.group_names)
        shares = self.counts / self.sizes[:, None]
        ratio = statistics.parity_ratio(shares)
        difference, p = statistics.parity_test(
            self.given,
            self.groups,
            len(self.labels),
            n_groups,
            members=self.members,
            **self._shuffles(TABLES),
        )
        mean_difference, mean_p = statistics.mean_parity_test(
            self.probabilities, self.groups, n_groups, rounding=self.rounding, **self._shuffles(GROUPS)
        )
        tests = distinct_sets(self.members)
        p_holm, mean_p_holm = holm_over_distinct(p, tests), holm_over_distinct(mean_p, tests)
        smallest = np.argsort(self.sizes, kind="stable")[:2]
        rows = []
        for i, (kind, label) in enumerate(self.names):
            equal = difference[i] == 0
            # Where no group stands out the interval is that of the two about which least is known.
            highest, lowest = smallest if equal else (shares[:, i].argmax(), shares[:, i].argmin())
            low, high = statistics.newcombe_interval(
                self.counts[highest, i],
                self.sizes[highest],
                self.counts[lowest, i],
                self.sizes[lowest],
                self.confidence,
            )
            rows.append(
                {
                    "label": label,
                    "kind": kind,
                    "difference": difference[i],
                    "low": low,
                    "high": high,
                    "ratio": ratio[i],
                    "highest_group": "" if equal else self.group_names[highest],
                    "lowest_group": "" if equal else self.group_names[lowest],
                    "p": p[i],
                    "p_holm": p_holm[i],
                    "mean_difference": mean_difference[i],
                    "mean_p": mean_p[i],
                    "mean_p_holm": mean_p_holm[i],
                }
            )
        return _table(rows, "ratio")

    def total_variation(self):
        """``AuditReport.total_variation``."""
        rows = []
        for first, second, two, in_first in self._pairs():
            distance, p = statistics.total_variation_test(
                self.given[two], in_first, len(self.labels), **self._shuffles(TABLES, two)
            )
            rows.append({"group_a": first, "group_b": second, "total_variation": distance, "p": p})
        table = _table(rows)
        table["p_holm"] = statistics.holm(table["p"])
        return table

    def ranking(self, cosines, top_k):
        """``AuditReport.ranking``.

        Parameters
        ----------
        cosines : float64 array, (N, L)
            Of each picture with each label's text.
        top_k : sequence of int
        """
        desired = self.sizes / self.sizes.sum()
        columns = [(i, label, k) for i, label in enumerate(self.labels) for k in top_k]
        weights = np.stack([statistics.top_k_weights(cosines[:, i], k) for i, _, k in columns], axis=1)
        skew, group, p, chance = statistics.max_skew_test(
            weights, self.groups, desired, **self._shuffles(GROUPS)
        )
        p_holm = statistics.holm(p)
        return _table(
            {
                "label": label,
                "k": k,
                "max_skew": skew[c],
                "group": self.group_names[group[c]] if skew[c] > 0 else "",
                "ndkl": statistics.ndkl(cosines[:, i], self.groups, k, desired),
                "chance": chance[c],
                "p": p[c],
                "p_holm": p_holm[c],
            }
            for c, (i, label, k) in enumerate(columns)
        )

    def associations(self, cosines):
        """``AuditReport.associations``.

        Parameters
        ----------
        cosines : float64 array, (N, L)
            Of each picture with each label's prompts, the mean over them.
        """
        # s(w) of the first label against each other one.
        associations = cosines[:, :1] - cosines[:, 1:]
        rows = []
        for first, second, two, in_first in self._pairs():
            effect, p, exact = statistics.association_test(
                associations[two], in_first, **self._shuffles(PAIRS, two)
            )
            for i, label in enumerate(self.labels[1:]):
                rows.append(
                    {
                        "group_a": first,
                        "group_b": second,
                        "label_a": self.labels[0],
                        "label_b": label,
                        "effect_size": effect[i],
                        "p": p[i],
                        "exact": exact,
                    }
                )
        table = _table(rows)
        table.insert(table.columns.get_loc("p") + 1, "p_holm", statistics.holm(table["p"]))
        return table


def listed(names, most=5):
    names = [str(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _table(rows, *undefined):
    """The rows as a table, with ``pandas.NA`` for NaN in the columns where a value may be undefined."""
    import pandas

    return pandas.DataFrame(list(rows)).astype(dict.fromkeys(undefined, "Float64"))
