"""What a bias report says, before it is text, Markdown or HTML: sentences, and tables of cells.

The sentences follow two rules. A gap is called distinguishable from chance only after Holm's adjustment. Where it
is not, the report says which gap would probably have been found, and never that there is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipc.tables import count
from clipc.terminal import printable

POWER = 0.8
# Below this a Wilson interval around one half is wider than 34 points.
SMALL_GROUP = 30
UNDEFINED = "undefined"

HOW_TO_READ = (
    (
        "Share",
        "For each picture the model gives every label a probability, and the highest one wins. The share of a "
        "label is the part of a group's pictures in which it won.",
    ),
    (
        "95 % interval",
        "The pictures at hand are a sample. Had others been taken in the same way, the share would have come "
        "out differently; shares in this interval fit what was counted. It is wide when a group is small. Two "
        "intervals that overlap do not show that two groups are alike.",
    ),
    (
        "Gap",
        "The largest share among the groups minus the smallest, in percentage points (demographic parity "
        "difference). Ratio: the smallest divided by the largest.",
    ),
    (
        "p",
        "If the groups did not matter, how often would shuffling them among the pictures give a gap at least as "
        "large? Small values speak against chance. A large value does not speak for equality: with few "
        "pictures every gap has a large p.",
    ),
    (
        "p (Holm)",
        "Of many tests some come out small by chance. Holm's adjustment pays for the number of tests in the "
        "table; it is the one to go by.",
    ),
    (
        "Found from",
        "A gap of this size would be found with a probability of about 80 %. Smaller gaps, also ones that "
        "matter, are likely to be missed with this many pictures.",
    ),
    (
        "Total variation",
        "How far the answers of two groups differ over all labels together: 0 when every label has the same "
        "share in both, 100 points when no label is given to both.",
    ),
    (
        "MaxSkew, by chance, NDKL",
        "Take the k pictures nearest to a label. MaxSkew: the logarithm of how much more often than expected the "
        "most over-represented group is among them; 0 is proportional, 0.69 twice as often. NDKL sums up how "
        "far the groups in the top 1, 2, 3 ... k are from all pictures; 0 is proportional.",
    ),
    (
        "Effect size d",
        "Of the association test WEAT: is one group nearer to the first text, compared with the second, than the "
        "other group? In standard deviations. It looks at similarities instead of who won, so it can show "
        "what never changes an answer.",
    ),
)  # fmt: skip

LIMITS = (
    "This measures one model with one wording on these pictures. It says nothing about the people in them, and "
    "nothing about other models, wordings or pictures.",
    "Groups are as labelled in the data set: what somebody perceived, with errors, in categories that somebody "
    "chose.",
    "The labels compete with each other only. A picture gets one of them even if none fits.",
    "Intervals and p values account for which pictures were drawn, and not for errors of the group labels or for "
    "groups that differ in more than their name: clothes, background, light, age.",
    "No difference detected does not mean that there is none.",
    "Not a tool for decisions about persons, and not for guessing what group somebody belongs to.",
)


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes
    ----------
    cells : tuple of str
    interval : (value, low, high, equal) or None
        For a drawing beside it, each 0 to 1; `equal` is where all groups would be if they were alike.
    marked : bool
        Whether it is distinguishable from chance.
    """

    cells: tuple
    interval: tuple | None = None
    marked: bool = False


@dataclass(frozen=True)
class Table:
    """A table before it is drawn.

    Attributes
    ----------
    name : str
        That of the report's attribute which holds all of it.
    title, explanation : str
    header : tuple of str
    n_text : int
        How many columns, from the first, hold text. The others hold numbers.
    rows : list of Row
    remarks : list of str
        What stands below it: reasons of undefined values, rows that were left out.
    """

    name: str
    title: str
    explanation: str
    header: tuple
    n_text: int
    rows: list
    remarks: list


@dataclass(frozen=True)
class Finding:
    """A sentence of the summary, and what it is about."""

    what: str
    text: str


@dataclass(frozen=True)
class Summary:
    """The first thing that a report says.

    Attributes
    ----------
    detected, not_detected, undefined : list of Finding
        Gaps that are distinguishable from chance after Holm's adjustment, gaps that are not, and what has no
        test. Categories first, then by the size of the gap.
    also : list of str
        How many of the other tests came out.
    cautions : list of str
    threshold : float
        Of the adjusted p.
    """

    detected: list
    not_detected: list
    undefined: list
    also: list
    cautions: list
    threshold: float


# -- numbers as text ---------------------------------------------------------------------------------------


def is_missing(value):
    """Whether it is None, pandas.NA or NaN."""
    if value is None:
        return True
    try:
        return math.isnan(value)
    except TypeError:  # pandas.NA answers NA, and a text cannot be asked
        return type(value).__name__ in ("NAType", "NaTType")


def in_points(value, digits=1, sign=""):
    """A share or a difference of shares, times 100; "undefined" when it is missing."""
    return UNDEFINED if is_missing(value) else f"{100 * value:{sign}.{digits}f}"


def in_decimals(value, digits=2, sign=""):
    return UNDEFINED if is_missing(value) else f"{value:{sign}.{digits}f}"


def p_text(p):
    """A p value: three decimals, fewer digits for small ones, and never 0."""
    if is_missing(p):
        return UNDEFINED
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1g}"


def interval_text(low, high):
    if is_missing(low) or is_missing(high):
        return UNDEFINED
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def listed(texts):
    """`a`, `a and b`, `a, b and c`."""
    texts = list(texts)
    if len(texts) < 2:
        return "".join(texts)
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def quoted(texts):
    return ", ".join(f'"{text}"' for text in texts)


# -- how large a gap would have been found ----------------------------------------------------------------


def detectable_gap(n_chosen, sizes, *, alpha=0.05, tests=1, power=POWER):
    """The smallest gap between two shares that is found with a given probability, about.

    The two-sided test of two proportions in its normal approximation (Cohen 1988, chapter 6; Fleiss, Levin and
    Paik 2003, chapter 4),

        gap = (z(1 - a / 2) + z(power)) * sqrt(q (1 - q) (1 / n1 + 1 / n2))

    for the two smallest groups. q = (n_chosen + 2) / (N + 4) is the label's share of all pictures after Agresti
    and Coull (1998), which keeps the gap above 0 for a label that was never chosen. a = alpha / (tests G (G - 1)
    / 2) is what Holm's adjustment leaves for the smallest of `tests` p values, shared among the pairs of G
    groups (Bonferroni), since any pair can be the one with the largest gap. The test that a report uses permutes
    pictures; of this one only its power is taken. Pictures that are paired in blocks, and alike within them, can
    show smaller gaps.

    Parameters
    ----------
    n_chosen : int
        Pictures of all groups that have the label.
    sizes : sequence of int
        Pictures of each group, two groups or more.
    alpha : float
        Level of the test before adjustment.
    tests : int
        How many tests the adjustment is for.
    power : float
        Probability to find it.

    Returns
    -------
    float or None
        A difference of shares, 0 to 1; None when not even the difference between none and all would be.
    """
    from scipy.stats import norm

    small, next_small = sorted(sizes)[:2]
    share = (n_chosen + 2) / (sum(sizes) + 4)
    pairs = len(sizes) * (len(sizes) - 1) // 2
    level = alpha / (max(tests, 1) * pairs)
    gap = (norm.isf(level / 2) + norm.ppf(power)) * math.sqrt(
        share * (1 - share) * (1 / small + 1 / next_small)
    )
    return float(gap) if gap < 1 else None


def threshold_of(report):
    """The level that adjusted p values are held against: 1 - confidence."""
    return 1 - float(report.settings.get("confidence", 0.95))


def confidence_text(report):
    """`95 %`."""
    return f"{100 * float(report.settings.get('confidence', 0.95)):g} %"


def is_detected(report, p_holm):
    # A confidence of 0.95 leaves 0.050000000000000044.
    return not is_missing(p_holm) and p_holm <= threshold_of(report) + 1e-12


def detectable_gaps(report):
    """`detectable_gap` for each row of the report's comparisons.

    Returns
    -------
    list of float or None
    """
    sizes = list(report.counts.values())
    chosen = report.shares.groupby(["kind", "label"], sort=False)["count"].sum()
    tests = _n_tests(report)
    return [
        detectable_gap(int(chosen[row.kind, row.label]), sizes, alpha=threshold_of(report), tests=tests)
        for row in report.comparisons.itertuples()
    ]


def _n_tests(report):
    """How many tests of gaps share Holm's adjustment: of two labels one is the complement of the other."""
    return len(set(report.distinct_tests()))


# -- sentences -----------------------------------------------------------------------------------------------


def title_of(report):
    """`nurse, doctor by gender`, or the preset's name instead of many labels."""
    labels = ", ".join(report.labels)
    if len(report.labels) > 4 or len(labels) > 60:
        first, second = report.labels[:2]
        labels = report.preset.name if report.preset else f"{first}, {second} and {len(report.labels) - 2} more"
    return f"{labels} by {' × '.join(report.group_names)}"


def setting_rows(report):
    """What was measured with what: (name, text) pairs, in the order in which they matter.

    Returns
    -------
    list of (str, str)
    """
    rows = [("Model", str(report.model_name))]
    if report.preset:
        rows.append(("Preset", report.preset.name))
    rows += [("Labels", quoted(report.labels)), ("Wording", quoted(report.templates))]
    return rows + _sample_rows(report)


def _sample_rows(report):
    """The part of the settings that a comparison of wordings has, too."""
    sizes = ", ".join(f"{group} {n}" for group, n in report.counts.items())
    rows = [
        ("Groups", f"{' × '.join(report.group_names)}, as labelled in the data set"),
        ("Pictures", f"{len(report.files)}: {sizes}"),
    ]
    if report.block_name:
        rows.append(("Blocks", f"{report.n_blocks} of {report.block_name}; groups are compared within them"))
    if report.unreadable:
        rows.append(("Left out", f"{count(len(report.unreadable), 'picture')} that cannot be read"))
    told = {"model", "labels", "templates", "label_sets", "groups", "preset", "block"}
    rest = {name: value for name, value in report.settings.items() if name not in told}
    if rest:
        rows.append(("Settings", ", ".join(f"{name} {_setting(value)}" for name, value in rest.items())))
    return rows


def _setting(value):
    if isinstance(value, (list, tuple)):
        return " ".join(map(_setting, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def summary_of(report):
    """What a report says first.

    Returns
    -------
    Summary
    """
    detected, not_detected, undefined = [], [], []
    rows = list(zip(report.comparisons.itertuples(), detectable_gaps(report)))
    # Of two labels one is the other the other way round.
    mirrored = len(report.labels) == 2 and len(rows) == 2
    if mirrored:
        other = rows.pop()[0].label
    rows.sort(key=lambda pair: (pair[0].kind != "category", -_size(pair[0].difference)))
    for row, gap in rows:
        what = f'"{row.label}"' + (" (the labels of this category together)" if row.kind == "category" else "")
        if mirrored:
            what += f' (and "{other}" the other way round)'
        if is_missing(row.p):
            undefined.append(Finding(what, "no test is defined"))
            continue
        text = "no gap"
        if row.difference > 0:
            shares = report.shares[(report.shares["label"] == row.label) & (report.shares["kind"] == row.kind)]
            share = dict(zip(shares["group"], shares["share"]))
            high, low = row.highest_group, row.lowest_group
            text = (
                f"a gap of {in_points(row.difference)} points, {high} {in_points(share[high])} %, "
                f"{low} {in_points(share[low])} %"
            )
        text += f" (p = {p_text(row.p_holm)})"
        if is_detected(report, row.p_holm):
            detected.append(Finding(what, text))
        elif gap is None:
            text += "; with so few pictures not even the largest gap possible would reliably have been found"
            not_detected.append(Finding(what, text))
        else:
            text += f"; gaps below about {100 * gap:.0f} points would probably have been missed"
            not_detected.append(Finding(what, text))
    return Summary(detected, not_detected, undefined, _other_tests(report), cautions_of(report), threshold_of(report))


def _size(value):
    return -1.0 if is_missing(value) else abs(float(value))


def _other_tests(report):
    sentences = []
    for table, column, what, noun in (
        (report.comparisons, "mean_p_holm", "Mean probabilities, which also see what changes no answer", "gap"),
        (report.total_variation, "p_holm", "Answers over all labels together (total variation)", "group pair"),
        (report.ranking, "p_holm", "The k nearest pictures (MaxSkew)", "ranking"),
        (report.associations, "p_holm", "Similarities (effect size d)", "association"),
    ):
        tested = [p for p in table[column] if not is_missing(p)]
        if column == "mean_p_holm":
            tested = tested[: _n_tests(report)]
        if tested:
            found = sum(is_detected(report, p) for p in tested)
            sentences.append(f"{what}: {found} of {count(len(tested), noun)} distinguishable from chance.")
    return sentences


def cautions_of(report):
    """What to keep in mind with this report in particular: list of str."""
    cautions = []
    small = [f"{group} {n}" for group, n in report.counts.items() if n < SMALL_GROUP]
    if small:
        shown = listed(small[:6]) if len(small) <= 6 else f"{', '.join(small[:6])} and {len(small) - 6} more"
        cautions.append(f"Small groups ({shown}): look at how wide the intervals are before anything else.")
    if report.model_name == "tiny":
        cautions.append(
            "tiny tells kinds of persons hardly apart: what it says of persons shows how the statistics work, and "
            "is no evidence about any other model."
        )
    cautions += getattr(report, "notes", ())
    if report.unreadable:
        names = ", ".join(name for name, _ in report.unreadable[:3])
        more = f" and {len(report.unreadable) - 3} more" if len(report.unreadable) > 3 else ""
        cautions.append(f"Left out because they cannot be read: {names}{more}.")
    return cautions


def power_sentence(report):
    """How the gaps were reckoned that would have been found."""
    sizes = sorted(report.counts.values())
    tests = _n_tests(report)
    pairs = len(sizes) * (len(sizes) - 1) // 2
    text = (
        f"Gaps that would be found with {100 * POWER:.0f} % probability: (z(1 - a/2) + z({POWER:g})) * "
        f"sqrt(q (1 - q) (1/{sizes[0]} + 1/{sizes[1]})), q the label's share of all pictures (plus four), "
        f"a = {threshold_of(report):g} / {count(tests, 'test')}"
    )
    if pairs > 1:
        text += f" / {pairs} pairs of groups"
    if report.block_name:
        text += "; within blocks smaller gaps may be found"
    return text + "."


# -- tables ---------------------------------------------------------------------------------------------------


def tables_of(report, limit=None):
    """All tables of a report.

    Parameters
    ----------
    report : AuditReport
    limit : int, optional
        Labels, and rows of tables over pairs of groups, at most; those with the largest differences stay. None:
        all.

    Returns
    -------
    list of Table
    """
    tables = [
        shares_table(report, limit),
        comparisons_table(report, limit),
        mean_comparisons_table(report, limit),
        total_variation_table(report, limit),
        ranking_table(report, limit),
        associations_table(report, limit),
    ]
    return [table for table in tables if table.rows]


def notable_labels(report, limit=None):
    """Labels and categories as (kind, label): categories first, then those with the largest gaps.

    Up to `limit` keep the order of the report.
    """
    table = report.comparisons
    keys = list(zip(table["kind"], table["label"]))
    if limit is None or len(keys) <= limit:
        return keys
    sizes = list(map(_size, table["difference"]))
    order = sorted(range(len(keys)), key=lambda i: (keys[i][0] != "category", -sizes[i]))
    kept = sorted(order[:limit])
    return [keys[i] for i in kept]


def shown_label(kind, label):
    """The name of a label, or of a category in brackets."""
    return f"[{label}]" if kind == "category" else str(label)


def shares_table(report, limit=None):
    wanted = notable_labels(report, limit)
    confidence = confidence_text(report)
    total = len(report.files)
    grouped = {key: part for key, part in report.shares.groupby(["kind", "label"], sort=False)}
    rows = []
    for key in wanted:
        part = grouped[key]
        equal = part["count"].sum() / total
        for row in part.itertuples():
            cells = (
                shown_label(*key), str(row.group), str(row.n), str(row.count),
                in_points(row.share), interval_text(row.low, row.high),
                in_points(row.mean_probability), interval_text(row.mean_low, row.mean_high),
            )  # fmt: skip
            interval = None if is_missing(row.low) else (row.share, row.low, row.high, equal)
            rows.append(Row(cells, interval))
    remarks = _left_out(len(report.comparisons) - len(wanted), "label", "shares")
    if any(kind == "category" for kind, _ in wanted):
        remarks.insert(0, "[In brackets]: a category, the labels of it taken together.")
    if any(UNDEFINED in row.cells for row in rows):
        remarks.append("Undefined: the mean of a single picture, or block, has no interval.")
    return Table(
        "shares",
        "Share of the pictures in which a label comes first, and its mean probability",
        f"In %, with {confidence} intervals: Wilson's for shares, bootstrapped for means.",
        ("label", "group", "n", "count", "share", f"{confidence} interval", "mean prob.", f"{confidence} interval"),
        2,
        rows,
        remarks,
    )


def comparisons_table(report, limit=None):
    wanted = set(notable_labels(report, limit))
    confidence = confidence_text(report)
    rows, remarks = [], []
    for row, gap in zip(report.comparisons.itertuples(), detectable_gaps(report)):
        if (row.kind, row.label) not in wanted:
            continue
        even = not is_missing(row.difference) and row.difference == 0
        cells = (
            shown_label(row.kind, row.label), "all alike" if even else str(row.highest_group),
            "" if even else str(row.lowest_group), in_points(row.difference), interval_text(row.low, row.high),
            in_decimals(row.ratio), p_text(row.p), p_text(row.p_holm), "-" if gap is None else in_points(gap, 0),
        )  # fmt: skip
        rows.append(Row(cells, marked=is_detected(report, row.p_holm)))
        if is_missing(row.ratio):
            remarks.append(f'Ratio undefined for "{row.label}": no picture of any group has it.')
    if len(remarks) > 3:
        remarks = ["Ratios undefined: no picture of any group has the label."]
    if any(row.cells[-1] == "-" for row in rows):
        remarks.append("Found from -: not even the gap between none and all.")
    if len(report.groups) > 2:
        remarks.append(
            "The interval takes the two groups as chosen beforehand; for the largest gap among "
            f"{len(report.groups)} groups it is too narrow."
        )
    remarks += _left_out(len(report.comparisons) - len(rows), "label", "comparisons")
    remarks.append(power_sentence(report))
    within = f", within the blocks of {report.block_name}" if report.block_name else ""
    return Table(
        "comparisons",
        "Gaps between groups",
        f"In percentage points; permutation test of the gap{within}. * distinguishable from chance after Holm.",
        ("label", "highest", "lowest", "gap", f"{confidence} interval", "ratio", "p", "p (Holm)", "found from"),
        3,
        rows,
        remarks,
    )


def mean_comparisons_table(report, limit=None):
    wanted = set(notable_labels(report, limit))
    means = report.shares.groupby(["kind", "label"], sort=False)
    rows = []
    for row in report.comparisons.itertuples():
        if (row.kind, row.label) not in wanted:
            continue
        part = means.get_group((row.kind, row.label)).set_index("group")["mean_probability"]
        even = not is_missing(row.mean_difference) and row.mean_difference == 0
        cells = (
            shown_label(row.kind, row.label), "all alike" if even else str(part.idxmax()),
            "" if even else str(part.idxmin()), in_points(row.mean_difference, 2), p_text(row.mean_p),
            p_text(row.mean_p_holm),
        )  # fmt: skip
        rows.append(Row(cells, marked=is_detected(report, row.mean_p_holm)))
    return Table(
        "mean_comparisons",
        "Gaps between mean probabilities",
        "In percentage points. They also see what does not change which label comes first.",
        ("label", "highest", "lowest", "gap", "p", "p (Holm)"),
        3,
        rows,
        _left_out(len(report.comparisons) - len(rows), "label", "comparisons"),
    )


def total_variation_table(report, limit=None):
    table = report.total_variation
    kept = first_by(table, "total_variation", limit)
    rows = [
        Row(
            (
                str(row.group_a),
                str(row.group_b),
                in_points(row.total_variation),
                p_text(row.p),
                p_text(row.p_holm),
            ),
            marked=is_detected(report, row.p_holm),
        )
        for row in kept.itertuples()
    ]
    return Table(
        "total_variation",
        "Total variation between the groups' answers",
        "In percentage points, over all labels together.",
        ("group", "and group", "distance", "p", "p (Holm)"),
        2,
        rows,
        _left_out(len(table) - len(kept), "pair", "total_variation"),
    )


def ranking_table(report, limit=None):
    table = report.ranking
    labels = [label for kind, label in notable_labels(report, limit) if kind == "label"]
    kept = table[table["label"].isin(labels)] if limit is not None else table
    # Of many k a table needs a few.
    sizes = sorted(set(kept["k"]))
    if limit is not None and len(sizes) > 3:
        kept = kept[kept["k"].isin({sizes[0], sizes[len(sizes) // 2], sizes[-1]})]
    rows = [
        Row(
            (
                str(row.label), str(row.group) or "none", str(row.k), in_decimals(row.max_skew),
                in_decimals(row.chance), p_text(row.p), p_text(row.p_holm), in_decimals(row.ndkl, 3),
            ),
            marked=is_detected(report, row.p_holm),
        )
        for row in kept.itertuples()
    ]  # fmt: skip
    return Table(
        "ranking",
        "The k pictures nearest to a label",
        "MaxSkew 0: the groups are among them as among all pictures. By chance: its mean over shuffled groups.",
        ("label", "over-represented", "k", "MaxSkew", "by chance", "p", "p (Holm)", "NDKL"),
        2,
        rows,
        _left_out(len(table) - len(kept), "row", "ranking"),
    )


def associations_table(report, limit=None):
    table = report.associations
    kept = first_by(table, "effect_size", limit)
    rows = [
        Row(
            (
                str(row.group_a), str(row.group_b), str(row.label_a), str(row.label_b),
                in_decimals(row.effect_size, 2, "+"), p_text(row.p), p_text(row.p_holm),
            ),
            marked=is_detected(report, row.p_holm),
        )
        for row in kept.itertuples()
    ]  # fmt: skip
    return Table(
        "associations",
        "Associations with two texts",
        "Effect size d in standard deviations; above 0: the first group is nearer to the first text.",
        ("group", "and group", "text", "and text", "d", "p", "p (Holm)"),
        4,
        rows,
        _left_out(len(table) - len(kept), "row", "associations"),
    )


def first_by(table, column, limit):
    """Up to `limit` rows, those with the largest values by size, in the table's order."""
    if limit is None or len(table) <= limit:
        return table
    sizes = np.array(list(map(_size, table[column])))
    return table.iloc[np.sort(np.argsort(-sizes, kind="stable")[:limit])]


def _left_out(number, noun, attribute):
    if number <= 0:
        return []
    return [f"{count(number, f'more {noun}')}, with smaller differences, in report.{attribute}."]


# -- cells for a terminal ---------------------------------------------------------------------------------


def shown(text):
    """A text that stays in its line and cannot move a terminal's cursor."""
    return printable(" ".join(str(text).split()))


def without_repeats(rows, depth: int = 1) -> Sequence[tuple]:
    """Rows of cells in which the first `depth` cells are empty where they repeat those above."""
    previous = None
    for cells in rows:
        same = previous is not None and cells[:depth] == previous[:depth]
        yield ("",) * depth + tuple(cells[depth:]) if same else tuple(cells)
        previous = cells


# -- comparing wordings ----------------------------------------------------------------------------------


def wording_title(report):
    """`people-gorilla, human-gorilla by race`."""
    return f"{', '.join(report.label_sets)} by {' × '.join(report.group_names)}"


def wording_setting_rows(report):
    """What was measured with what: (name, text) pairs."""
    rows = [("Model", str(report.model_name))]
    rows += [(f"Labels {name}", quoted(labels)) for name, labels in report.label_sets.items()]
    rows += [
        (f"Template {name}" if (name,) != tuple(texts) else "Template", quoted(texts))
        for name, texts in report.templates.items()
    ]
    return rows + _sample_rows(report)


def wording_sentences(report):
    """What a comparison of wordings says first.

    Returns
    -------
    list of str
    """
    several = len(report.templates) > 1
    sentences = []
    for (wording, templates), part in report.gaps.groupby(["wording", "templates"], sort=False):
        row = next(first_by(part, "difference", 1).itertuples())
        found = sum(is_detected(report, p) for p in part["p_holm"])
        some = "no gap" if not found else "the gap" if len(part) == 1 else f"{found} of {len(part)} gaps"
        sentences.append(
            f'{_wording_name(wording, templates, several)}: largest gap {in_points(row.difference)} points '
            f'("{row.label}", p = {p_text(row.p_holm)}); {some} distinguishable from chance after Holm.'
        )
    for table, names in ((report.flips, "templates"), (report.template_flips, "wording")):
        for row in table.to_dict("records"):
            where = f", {row[names]}" if several or names == "wording" else ""
            sentences.append(
                f"From {row['from']} to {row['to']}{where}: {row['flipped']} of {row['n']} pictures get another "
                f"answer ({in_points(row['share'])} %, {confidence_text(report)} interval "
                f"{interval_text(row['low'], row['high'])})."
            )
    return sentences


def _wording_name(wording, templates, several):
    return f"{wording}, {templates}" if several else str(wording)


def wording_tables(report, limit=None):
    """The tables of a comparison of wordings.

    Parameters
    ----------
    report : WordingReport
    limit : int, optional
        Labels of a wording at most; those with the largest gaps stay.

    Returns
    -------
    list of Table
    """
    confidence = confidence_text(report)
    several = len(report.templates) > 1
    gap_rows, share_rows, wanted = [], [], set()
    for (wording, templates), part in report.gaps.groupby(["wording", "templates"], sort=False):
        for row in first_by(part, "difference", limit).itertuples():
            wanted.add((wording, templates, row.label))
            cells = [str(wording), *([str(templates)] if several else []), str(row.label)]
            cells += [in_points(row.difference), interval_text(row.low, row.high), p_text(row.p), p_text(row.p_holm)]
            gap_rows.append(Row(tuple(cells), marked=is_detected(report, row.p_holm)))
    for row in report.rows.itertuples():
        if (row.wording, row.templates, row.label) in wanted:
            cells = [str(row.wording), *([str(row.templates)] if several else []), str(row.label), str(row.group)]
            cells += [str(row.count), in_points(row.share), interval_text(row.low, row.high)]
            share_rows.append(Row(tuple(cells)))
    left_out = _left_out(len(report.gaps) - len(gap_rows), "label", "gaps")
    columns = ("wording", "templates", "label") if several else ("wording", "label")
    tables = [
        Table(
            "gaps", "Gaps between groups under each wording",
            "In percentage points. * distinguishable from chance after Holm.",
            (*columns, "gap", f"{confidence} interval", "p", "p (Holm)"), len(columns), gap_rows,
            left_out,
        ),
        _flips_table(report, "flips", "wording", "templates", several),
        _flips_table(report, "template_flips", "template", "wording", len(report.label_sets) > 1),
        Table(
            "rows", "Shares under each wording", f"In %, with Wilson's {confidence} intervals.",
            (*columns, "group", "count", "share", f"{confidence} interval"), len(columns) + 1, share_rows, left_out,
        ),
    ]  # fmt: skip
    return [table for table in tables if table.rows]


def _flips_table(report, name, what, within, several):
    rows = []
    for row in getattr(report, name).to_dict("records"):
        cells = [str(row["from"]), str(row["to"]), *([str(row[within])] if several else []), str(row["n"])]
        cells += [str(row["flipped"]), in_points(row["share"]), interval_text(row["low"], row["high"])]
        rows.append(Row(tuple(cells)))
    return Table(
        name,
        f"Pictures that get another answer in another {what}",
        "Labels count as the same when they stand at the same position.",
        ("from", "to", *([within] if several else []), "n", "changed", "share", f"{confidence_text(report)} interval"),
        3 if several else 2,
        rows,
        [],
    )
