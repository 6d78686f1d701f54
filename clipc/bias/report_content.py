"""What a bias report says in words, before it is text, Markdown or HTML; its tables are in report_tables.py.

The sentences follow two rules. A gap is called distinguishable from chance only after Holm's adjustment.
Where it is not, the report says which gap would probably have been found, and never that there is none.
"""

from __future__ import annotations

import math
import re
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
        "For each picture the model gives every label a probability, and the highest one wins. The share of "
        "a label is the part of a group's pictures in which it won.",
    ),
    (
        "95 % interval",
        "The pictures at hand are a sample. Had others been taken in the same way, the share would have "
        "come out differently; shares in this interval fit what was counted. It is wide when a group is "
        "small. Two intervals that overlap do not show that two groups are alike.",
    ),
    (
        "Gap",
        "The largest share among the groups minus the smallest, in percentage points (demographic parity "
        "difference). Ratio: the smallest divided by the largest.",
    ),
    (
        "p",
        "If the groups did not matter, how often would shuffling them among the pictures give a gap at "
        "least as large? Small values speak against chance. A large value does not speak for equality: with "
        "few pictures every gap has a large p.",
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
        "Take the k pictures nearest to a label. MaxSkew: the logarithm of how much more often than "
        "expected the most over-represented group is among them; 0 is proportional, 0.69 twice as often. "
        "NDKL sums up how far the groups in the top 1, 2, 3 ... k are from all pictures; 0 is proportional.",
    ),
    (
        "Effect size d",
        "Of the association test WEAT: is one group nearer to the first text, compared with the second, "
        "than the other group? In standard deviations. It looks at similarities instead of who won, so it "
        "can show what never changes an answer.",
    ),
)

LIMITS = (
    "This measures one model with one wording on these pictures. It says nothing about the people in them, "
    "and nothing about other models, wordings or pictures.",
    "Groups are as labelled in the data set: what somebody perceived, with errors, in categories that "
    "somebody chose.",
    "The labels compete with each other only. A picture gets one of them even if none fits.",
    "Intervals and p values account for which pictures were drawn, and not for errors of the group labels "
    "or for groups that differ in more than their name: clothes, background, light, age.",
    "No difference detected does not mean that there is none.",
    "Not a tool for decisions about persons, and not for guessing what group somebody belongs to.",
)


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


# -- numbers and texts -----------------------------------------------------------------------------------


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


def shown(text):
    """A text that stays in its line and cannot move a terminal's cursor."""
    return printable(" ".join(str(text).split()))


def unbreakable(text):
    """`shown`, with no-break spaces in what belongs together: `p = 0.05`, `12 %`."""
    return re.sub(r"\bp = ", "p\u00a0=\u00a0", re.sub(r"(?<=\d) %", "\u00a0%", shown(text)))


# -- how large a gap would have been found -----------------------------------------------------------------


def detectable_gap(n_chosen, sizes, *, alpha=0.05, tests=1, power=POWER):
    """The smallest gap between two shares that is found with a given probability, about.

    The two-sided test of two proportions in its normal approximation (Cohen 1988, chapter 6; Fleiss, Levin
    and Paik 2003, chapter 4),

        gap = (z(1 - a / 2) + z(power)) * sqrt(q (1 - q) (1 / n1 + 1 / n2))

    for the two smallest groups. q = (n_chosen + 2) / (N + 4) is the label's share of all pictures after
    Agresti and Coull (1998), which keeps the gap above 0 for a label that was never chosen. a = alpha /
    (tests G (G - 1) / 2) is what Holm's adjustment leaves for the smallest of `tests` p values, shared
    among the pairs of G groups (Bonferroni), since any pair can be the one with the largest gap. The test
    that a report uses permutes pictures; of this one only its power is taken. Pictures that are paired in
    blocks, and alike within them, can show smaller gaps.

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


def _resamples_needed(report, tests):
    """How many resamples let the smallest p pass after Holm's adjustment; None when there are enough."""
    needed = math.ceil(tests / threshold_of(report) - 1e-9) - 1
    return needed if report.settings.get("resamples", needed) < needed else None


# -- what stands out -------------------------------------------------------------------------------------


def _size(value):
    return -1.0 if is_missing(value) else abs(float(value))


def notable_labels(report, limit=None, *, only_differing=False):
    """Labels and categories as (kind, label): categories first, then those with the largest gaps.

    Up to `limit` keep the order of the report. `only_differing`: without those that all groups have alike,
    unless all are like that.
    """
    table = report.comparisons
    keys = list(zip(table["kind"], table["label"]))
    sizes = dict(zip(keys, map(_size, table["difference"])))
    if only_differing:
        keys = [key for key in keys if sizes[key] > 0] or keys
    if limit is None or len(keys) <= limit:
        return keys
    kept = sorted(keys, key=lambda key: (key[0] != "category", -sizes[key]))[:limit]
    return [key for key in keys if key in kept]


def shown_label(kind, label):
    """The name of a label, or of a category in brackets."""
    return f"[{label}]" if kind == "category" else str(label)


def first_by(table, column, limit):
    """Up to `limit` rows, those with the largest values by size, in the table's order."""
    if limit is None or len(table) <= limit:
        return table
    sizes = np.array(list(map(_size, table[column])))
    return table.iloc[np.sort(np.argsort(-sizes, kind="stable")[:limit])]


# -- an audit in sentences -------------------------------------------------------------------------------


def title_of(report):
    """`nurse, doctor by gender`, or the preset's name instead of many labels."""
    labels = ", ".join(report.labels)
    if len(report.labels) > 4 or len(labels) > 60:
        first, second = report.labels[:2]
        labels = (
            report.preset.name if report.preset else f"{first}, {second} and {len(report.labels) - 2} more"
        )
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
        what = f'"{row.label}"' + (
            " (the labels of this category together)" if row.kind == "category" else ""
        )
        if mirrored:
            what += f' (and "{other}" the other way round)'
        if is_missing(row.p):
            undefined.append(Finding(what, "no test is defined"))
            continue
        text = "no gap"
        if row.difference > 0:
            shares = report.shares[
                (report.shares["label"] == row.label) & (report.shares["kind"] == row.kind)
            ]
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
    cautions = cautions_of(report)
    needed = _resamples_needed(report, _n_tests(report))
    if needed:
        cautions.append(f"With fewer than {needed} resamples no gap can be distinguishable from chance.")
    return Summary(
        detected, not_detected, undefined, _other_tests(report), cautions, threshold_of(report)
    )


def _other_tests(report):
    sentences = []
    for table, column, what, noun in (
        (
            report.comparisons,
            "mean_p_holm",
            "Mean probabilities, which also see what changes no answer",
            "gap",
        ),
        (
            report.total_variation,
            "p_holm",
            "Answers over all labels together (total variation)",
            "group pair",
        ),
        (report.ranking, "p_holm", "The k nearest pictures (MaxSkew)", "ranking"),
        (report.associations, "p_holm", "Similarities (effect size d)", "association"),
    ):
        tested = [p for p in table[column] if not is_missing(p)]
        if column == "mean_p_holm":
            tested = tested[: _n_tests(report)]
        if tested:
            found = sum(is_detected(report, p) for p in tested)
            sentence = f"{what}: {found} of {count(len(tested), noun)} distinguishable from chance"
            needed = _resamples_needed(report, len(tested))
            if needed and not found:
                sentence += f"; of so many tests none can be with fewer than {needed} resamples"
            sentences.append(f"{sentence}.")
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
            "tiny is a small model of everyday things, and none of OpenAI's: what it answers about persons "
            "is a property of tiny, and no evidence about any other model."
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


# -- a comparison of wordings in sentences ---------------------------------------------------------------


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
        part = without_complements(report, part)
        row = next(first_by(part, "difference", 1).itertuples())
        found = sum(is_detected(report, p) for p in part["p_holm"])
        some = "not distinguishable" if not found else "distinguishable"
        if len(part) > 1:
            some = f"{found} of {len(part)} gaps distinguishable"
        sentences.append(
            f"{_wording_name(wording, templates, several)}: largest gap {in_points(row.difference)} points "
            f'("{row.label}", p = {p_text(row.p_holm)} after Holm), {some} from chance.'
        )
    for table, what in ((report.flips, "label sets"), (report.template_flips, "templates")):
        if len(table):
            low, high = in_points(table["share"].min()), in_points(table["share"].max())
            shares = f"{high} %" if low == high else f"{low} % to {high} %"
            sentences.append(f"Between {what}, {shares} of the pictures get another answer.")
    return sentences


def without_complements(report, part):
    """The rows of one wording; of two labels the first alone, for the second has the rest."""
    two = len(report.label_sets[part["wording"].iloc[0]]) == 2
    return part[part["label"] == part["label"].iloc[0]] if two else part


def _wording_name(wording, templates, several):
    return f"{wording}, {templates}" if several else str(wording)
