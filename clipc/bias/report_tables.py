"""The tables of a bias report as cells, before they are text, Markdown or HTML."""

from __future__ import annotations

from dataclasses import dataclass

from clipc.bias.report_content import (
    UNDEFINED,
    confidence_text,
    detectable_gaps,
    first_by,
    in_decimals,
    in_points,
    interval_text,
    is_detected,
    is_missing,
    notable_labels,
    p_text,
    power_sentence,
    shown_label,
    without_complements,
)
from clipc.tables import count


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
    n_same : int
        How many columns, from the first, are left empty where they repeat what stands above.
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
    n_same: int = 1


def tables_of(report, limit=None):
    """All tables of a report.

    Parameters
    ----------
    report : AuditReport
    limit : int, optional
        Labels, and rows of tables over pairs of groups, at most; those with the largest differences stay.
        None: all.

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


def shares_table(report, limit=None):
    wanted = notable_labels(report, limit)
    confidence = confidence_text(report)
    total = len(report.files)
    grouped = dict(iter(report.shares.groupby(["kind", "label"], sort=False)))
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
        (
            "label",
            "group",
            "n",
            "count",
            "share",
            f"{confidence} interval",
            "mean prob.",
            f"{confidence} interval",
        ),
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
            "" if even else str(row.lowest_group), in_points(row.difference),
            interval_text(row.low, row.high), in_decimals(row.ratio), p_text(row.p), p_text(row.p_holm),
            "-" if gap is None else in_points(gap, 0),
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
        f"In percentage points; permutation test of the gap{within}. "
        "* distinguishable from chance after Holm.",
        (
            "label",
            "highest",
            "lowest",
            "gap",
            f"{confidence} interval",
            "ratio",
            "p",
            "p (Holm)",
            "found from",
        ),
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
        "MaxSkew 0: the groups are among them as among all pictures. By chance: its mean over shuffles.",
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


def _left_out(number, noun, attribute):
    if number <= 0:
        return []
    what = count(number, f"more {noun}")
    return [f"{what} with smaller differences; all are in report.{attribute} and in the JSON."]


def without_repeats(rows, depth=1):
    """Rows of cells; of the first `depth` those are empty that, with all before them, repeat those above.

    Yields
    ------
    list of str
    """
    previous = None
    for cells in rows:
        same = 0
        while previous is not None and same < depth and cells[same] == previous[same]:
            same += 1
        yield [""] * same + list(cells[same:])
        previous = cells


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
        for row in first_by(without_complements(report, part), "difference", limit).itertuples():
            wanted.add((wording, templates, row.label))
            cells = [str(wording), *([str(templates)] if several else []), str(row.label)]
            cells += [
                in_points(row.difference),
                interval_text(row.low, row.high),
                p_text(row.p),
                p_text(row.p_holm),
            ]
            gap_rows.append(Row(tuple(cells), marked=is_detected(report, row.p_holm)))
    for (wording, templates, label), part in report.rows.groupby(
        ["wording", "templates", "label"], sort=False
    ):
        if (wording, templates, label) in wanted:
            for row in part.itertuples():
                cells = [str(wording), *([str(templates)] if several else []), str(label), str(row.group)]
                cells += [str(row.count), in_points(row.share), interval_text(row.low, row.high)]
                share_rows.append(Row(tuple(cells)))
    left_out = []
    if any(len(labels) == 2 for labels in report.label_sets.values()):
        left_out.append("Of two labels the first is shown; the second has the rest, and the same gap.")
    if limit is not None and any(len(labels) > limit for labels in report.label_sets.values()):
        left_out.append(f"Of each wording the {limit} labels with the largest gaps; all are in report.gaps.")
    columns = ("wording", "templates", "label") if several else ("wording", "label")
    tables = [
        Table(
            "gaps", "Gaps between groups under each wording",
            "In percentage points. * distinguishable from chance after Holm.",
            (*columns, "gap", f"{confidence} interval", "p", "p (Holm)"), len(columns), gap_rows, left_out,
        ),
        _flips_table(report, "flips", "wording", "templates", several),
        _flips_table(report, "template_flips", "template", "wording", len(report.label_sets) > 1),
        Table(
            "rows", "Shares under each wording", f"In %, with Wilson's {confidence} intervals.",
            (*columns, "group", "count", "share", f"{confidence} interval"), len(columns) + 1, share_rows,
            left_out, len(columns),
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
        (
            "from",
            "to",
            *([within] if several else []),
            "n",
            "changed",
            "share",
            f"{confidence_text(report)} interval",
        ),
        3 if several else 2,
        rows,
        [],
    )
