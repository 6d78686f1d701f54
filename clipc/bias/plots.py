"""Plots of bias reports, with matplotlib: points with intervals, distributions, rankings, effect sizes.

Each takes a report and the axes to draw into; without axes it makes a figure of its own, as high as it
needs to be. All return the axes. Groups keep their colour (Okabe and Ito's, safe for colour-blind readers)
through all plots, as long as there are no more groups than colours; which group a row is, its name says.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools

import numpy as np

from clipc.bias import report_content as content
from clipc.terminal import columns

# Okabe and Ito 2008, without yellow, which is too pale for points.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5fbf")
# What is neither light nor dark: readable on white, and on the dark page of a report.
QUIET = "#7a7a7a"
INK = "#1a1a1a"
PAPER = "#ffffff"
# Rows, and labels, that a plot shows when it is not told which labels.
SHOWN_ROWS = 28
SHOWN_LABELS = 6
SHOWN_PAIRS = 12
# Points in one plot beyond which an SVG holds them as a picture.
MANY_POINTS = 1500

_WIDTH = 8.0
_ROW_HEIGHT = 0.31
_SPACE_BELOW_BLOCK = 0.55


def require_matplotlib():
    """Import matplotlib, or say how to install it."""
    try:
        import matplotlib
    except ImportError:
        raise ImportError("plots need matplotlib: pip install 'clipc[analysis]'") from None
    return matplotlib


@functools.cache
def _font_families():
    """Matplotlib's own font, and behind it one that has East Asian characters where there is one."""
    from matplotlib import font_manager

    names = set(font_manager.get_font_names())
    wanted = ("Noto Sans CJK KR", "Noto Sans CJK JP", "Noto Sans KR", "NanumGothic", "Apple SD Gothic Neo")
    return ["DejaVu Sans", *[name for name in wanted if name in names][:1]]


@contextlib.contextmanager
def _style():
    matplotlib = require_matplotlib()
    with matplotlib.rc_context({
        "font.family": _font_families(), "font.size": 10.5, "axes.titlesize": 12.5, "axes.labelsize": 10.5,
        "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "axes.titlecolor": INK, "axes.edgecolor": QUIET, "axes.titlelocation": "left", "axes.titlepad": 10,
        "text.parse_math": False,
    }):  # fmt: skip
        yield


_WITHOUT_PYPLOT = contextvars.ContextVar("without pyplot", default=False)


@contextlib.contextmanager
def without_pyplot():
    """Figures that pyplot does not know: no window and no output in a notebook, only to be saved."""
    token = _WITHOUT_PYPLOT.set(True)
    try:
        yield
    finally:
        _WITHOUT_PYPLOT.reset(token)


def _axes(ax, height):
    if ax is not None:
        return ax
    size = {"figsize": (_WIDTH, height), "layout": "constrained"}
    if _WITHOUT_PYPLOT.get():
        from matplotlib.figure import Figure

        return Figure(**size).subplots()
    from matplotlib import pyplot

    return pyplot.subplots(**size)[1]


def colours_of(groups):
    """A colour for each group; the same for all when there are more groups than colours.

    Returns
    -------
    dict from str to str
    """
    if len(groups) > len(COLOURS):
        return dict.fromkeys(groups, COLOURS[0])
    return dict(zip(groups, COLOURS))


def _short(text, most=30):
    """A text that leaves room for the plot beside it."""
    text = content.shown(text)
    return text if columns(text) <= most else text[: most - 1].rstrip() + "…"


def _with_n(report, group):
    return f"{_short(group)}  (n = {report.counts[group]})"


class _Block:
    """Rows of a plot below a heading.

    Parameters
    ----------
    heading, beside : str
        Beside it stands, at the right edge, what holds for all rows.
    rows : list of dict
        name, beside, and what the drawing of a row takes.
    line : float, optional
        Where a dashed line goes through the rows.
    """

    def __init__(self, heading, rows, *, beside="", line=None):
        self.heading = heading
        self.rows = rows
        self.beside = beside
        self.line = line


def _height(blocks):
    rows = sum(len(block.rows) + bool(block.heading) for block in blocks)
    return _ROW_HEIGHT * (rows + _SPACE_BELOW_BLOCK * (len(blocks) - 1)) + 1.35


def _draw_blocks(ax, blocks, draw):
    """Draw rows below each other; `draw(y, row)` draws what is in one."""
    y = 0.0
    ticks, names = [], []
    for block in blocks:
        if block.heading:
            beside_axis = ax.get_yaxis_transform()
            ax.text(0.006, y, block.heading, transform=beside_axis, weight="bold", va="center", clip_on=False)
            ax.text(1.015, y, block.beside, transform=beside_axis, va="center", color=QUIET, size="small")
            y += 1
        first = y
        for row in block.rows:
            draw(y, row)
            ax.text(
                1.015, y, row.get("beside", ""), transform=ax.get_yaxis_transform(), va="center", size="small"
            )
            ticks.append(y)
            names.append(row["name"])
            y += 1
        if block.line is not None:
            ax.plot([block.line] * 2, [first - 0.5, y - 0.5], color=QUIET, lw=1.3, ls=(0, (4, 2)), zorder=1)
        y += _SPACE_BELOW_BLOCK
    ax.set_yticks(ticks, names)
    ax.set_ylim(y - _SPACE_BELOW_BLOCK - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    _plain(ax)


def _plain(ax, grid="x"):
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.grid(axis=grid, color=QUIET, alpha=0.25, lw=0.8)
    ax.set_axisbelow(True)


def _percent_axis(ax, highest):
    """From 0 to 100 %, or, where all is small, to the next ten."""
    from matplotlib.ticker import PercentFormatter

    top = 1.0 if highest > 0.6 else max(0.1, np.ceil(highest * 10 + 1e-9) / 10)
    ax.set_xlim(-0.01 * top, 1.01 * top)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


def _point(ax, y, value, low, high, colour, filled=True):
    ax.plot([low, high], [y, y], color=colour, lw=2.6, alpha=0.55, solid_capstyle="butt", zorder=2)
    face = colour if filled else PAPER
    ax.plot(value, y, "o", color=colour, ms=8, mfc=face, mew=1.8, zorder=3)


def _wanted(report, labels, most=SHOWN_LABELS):
    """The labels and categories to draw, as (kind, label); of their own choice as many as fit."""
    most = max(1, min(most, SHOWN_ROWS // len(report.groups)))
    known = list(zip(report.comparisons["kind"], report.comparisons["label"]))
    if labels is None:
        # Where groups differ in something, that all of them never have a label is not worth a place.
        return content.notable_labels(report, most, only_differing=True)
    labels = [labels] if isinstance(labels, str) else list(labels)
    found = [next((key for key in known if key[1] == label), None) for label in labels]
    for label, key in zip(labels, found):
        if key is None:
            names = ", ".join(name for _, name in known)
            raise ValueError(f"labels: expected some of {names}; got {label!r}")
    return found


def plot_shares(report, ax=None, *, labels=None):
    """The share of each label in each group, as points with their intervals.

    A dashed line marks the label's share of all pictures: where every group would be if they were alike.

    Parameters
    ----------
    report : AuditReport
    ax : matplotlib.axes.Axes, optional
    labels : list of str, optional
        Labels or categories. Default: the categories, and the labels with the largest gaps, up to six
        together.

    Returns
    -------
    matplotlib.axes.Axes
    """
    with _style():
        colours = colours_of(report.groups)
        wanted = _wanted(report, labels)
        grouped = dict(iter(report.shares.groupby(["kind", "label"], sort=False)))
        blocks, highest = [], 0.0
        for key in wanted:
            part = grouped[key]
            equal = float(part["count"].sum() / part["n"].sum())
            rows = [
                {
                    "name": _with_n(report, row.group), "beside": f"{100 * row.share:.1f} %", "row": row,
                    "colour": colours[row.group],
                }
                for row in part.itertuples()
            ]  # fmt: skip
            highest = max(highest, equal, *(row["row"].high for row in rows))
            heading = _short(content.shown_label(*key), 48)
            blocks.append(_Block(heading, rows, beside=f"all: {100 * equal:.1f} %", line=equal))
        ax = _axes(ax, _height(blocks))

        def draw(y, row):
            _point(ax, y, row["row"].share, row["row"].low, row["row"].high, row["colour"])

        _draw_blocks(ax, blocks, draw)
        _percent_axis(ax, highest)
        ax.set_title(f"Which label comes first, {_title(report)}")
        ax.set_xlabel(
            f"share of the group's pictures, with {content.confidence_text(report)} interval; "
            "dashed: all pictures"
        )
        return ax


def _title(report):
    return _short(f"by {' × '.join(report.group_names)} ({report.model_name})", 60)


def plot_probabilities(report, ax=None, *, labels=None):
    """How the probability of a label is distributed in each group: points, quartiles, median.

    A dashed line marks chance, one divided by the number of labels.

    Parameters
    ----------
    report : AuditReport
    ax : matplotlib.axes.Axes, optional
    labels : list of str, optional
        Default: of two labels the first (the second has the rest); of more, those with the largest gaps, four
        together.

    Returns
    -------
    matplotlib.axes.Axes
    """
    with _style():
        wanted = _wanted(report, labels, 1 if len(report.labels) == 2 else 4)
        wanted = [key for key in wanted if key[0] == "label"] or [("label", report.labels[0])]
        if labels is None and len(report.labels) == 2:
            wanted = [("label", report.labels[0])]
        group_of = np.asarray(report.group_of)
        colours = colours_of(report.groups)
        chance = 1 / len(report.labels)
        blocks, highest = [], chance
        for _, label in wanted:
            values = report.probabilities[:, list(report.labels).index(label)]
            rows = [
                {
                    "name": _with_n(report, group), "colour": colours[group],
                    "values": values[group_of == group],
                    "beside": f"median {100 * np.median(values[group_of == group]):.1f} %",
                }
                for group in report.groups
            ]  # fmt: skip
            highest = max(highest, float(values.max()))
            blocks.append(
                _Block(_short(label), rows, beside=f"chance: {100 * chance:.1f} %", line=chance)
            )
        ax = _axes(ax, _height(blocks) * 1.25)
        rng = np.random.default_rng(0)
        as_picture = sum(len(row["values"]) for block in blocks for row in block.rows) > MANY_POINTS

        def draw(y, row):
            values, colour = row["values"], row["colour"]
            jitter = rng.uniform(-0.3, 0.3, len(values))
            fading = float(np.clip(25 / len(values), 0.15, 0.5))
            ax.plot(
                values, y + jitter, "o", color=colour, ms=5 if len(values) < 50 else 3.5, mew=0, alpha=fading,
                zorder=2, rasterized=as_picture,
            )  # fmt: skip
            first, median, third = np.quantile(values, [0.25, 0.5, 0.75])
            ax.plot([first, third], [y, y], color=colour, lw=5, alpha=0.75, solid_capstyle="butt", zorder=3)
            ax.plot(median, y, "o", color=colour, mfc=PAPER, ms=7, mew=2, zorder=4)

        _draw_blocks(ax, blocks, draw)
        _percent_axis(ax, highest)
        ax.set_title(f"How sure the model is, {_title(report)}")
        ax.set_xlabel("probability; a dot: a picture, bar: the middle half, ring: the median, dashed: chance")
        return ax


def plot_ranking(report, ax=None, *, labels=None):
    """MaxSkew of the k pictures nearest to each label; as lines when the report has several k.

    0: the groups are among them as among all pictures. Dashed, or for a single k a short bar: what shuffled
    groups have on average.

    Parameters
    ----------
    report : AuditReport
    ax : matplotlib.axes.Axes, optional
    labels : list of str, optional
        Default: those with the largest MaxSkew, six at most.

    Returns
    -------
    matplotlib.axes.Axes
    """
    with _style():
        # Not by the number of groups: a line or row is a label.
        keys = _wanted(report, labels) if labels else content.notable_labels(report)
        wanted = [label for kind, label in keys if kind == "label"]
        if not labels and len(wanted) > SHOWN_LABELS:
            largest = report.ranking.groupby("label")["max_skew"].max().sort_values(ascending=False)
            wanted = [label for label in wanted if label in set(largest.index[:SHOWN_LABELS])]
        parts = {label: report.ranking[report.ranking["label"] == label].sort_values("k") for label in wanted}
        if report.ranking["k"].nunique() == 1:
            return _ranking_rows(report, ax, parts)
        return _ranking_lines(report, ax, parts)


def _ranking_rows(report, ax, parts):
    rows = [
        {
            "name": f"{_short(row.label)}", "value": float(row.max_skew), "chance": float(row.chance),
            "filled": content.is_detected(report, row.p_holm),
            "beside": f"{_short(row.group) or 'none'}, {row.max_skew:.2f} "
                      f"(p = {content.p_text(row.p_holm)})",
        }
        for part in parts.values() for row in part.itertuples()
    ]  # fmt: skip
    blocks = [_Block("", rows)]
    ax = _axes(ax, _height(blocks) + 0.2)

    def draw(y, row):
        ax.plot([0, row["value"]], [y, y], color=COLOURS[0], lw=2.6, alpha=0.55, zorder=2)
        ax.plot([row["chance"]] * 2, [y - 0.3, y + 0.3], color=QUIET, lw=2, zorder=2)
        face = COLOURS[0] if row["filled"] else PAPER
        ax.plot(row["value"], y, "o", color=COLOURS[0], mfc=face, ms=8, mew=1.8, zorder=3)

    _draw_blocks(ax, blocks, draw)
    ax.set_xlim(-0.02, max([0.7, *(1.1 * row["value"] for row in rows)]))
    k = report.ranking["k"].iloc[0]
    ax.set_title(f"Who is among the {k} nearest of {len(report.files)} pictures, {_title(report)}")
    ax.set_xlabel(
        "MaxSkew (0: as among all pictures, 0.69: twice as often); grey bar: by chance\n"
        f"filled: p after Holm ≤ {content.threshold_of(report):g}; beside: the most over-represented group"
    )
    return ax


def _ranking_lines(report, ax, parts):
    from matplotlib.ticker import MaxNLocator

    ax = _axes(ax, 4.2)
    ends = []
    for (label, part), colour in zip(parts.items(), COLOURS):
        ks, skews = part["k"].to_numpy(float), part["max_skew"].to_numpy(float)
        ax.plot(ks, part["chance"].to_numpy(float), color=QUIET, lw=1.3, ls=(0, (4, 2)), zorder=1)
        ax.plot(ks, skews, "-o", color=colour, ms=6, lw=2)
        group = _short(part["group"].iloc[-1])
        ends.append((float(skews[-1]), _short(label) + (f" ({group})" if group else ""), colour))
    _plain(ax, "y")
    ks = sorted(report.ranking["k"].unique())
    if len(ks) <= 6:
        ax.set_xticks(ks)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(bottom=0)
    _label_ends(ax, ends)
    ax.set_title(f"Who is among the k nearest pictures, {_title(report)}")
    ax.set_xlabel(
        f"k, of {len(report.files)} pictures; dashed: by chance\n"
        "at the end of a line: the label, and the most over-represented group"
    )
    ax.set_ylabel("MaxSkew (0: as among all)")
    return ax


def _label_ends(ax, ends):
    """Names at the right ends of lines, moved apart where they would overlap."""
    if not ends:
        return
    low, high = ax.get_ylim()
    step = 0.065 * (high - low)
    ends.sort()
    y = -np.inf
    places = []
    for value, _, _ in ends:
        y = max(value, y + step)
        places.append(y)
    over = max(places[-1] - high, 0)
    for (_, name, colour), place in zip(ends, places):
        ax.text(
            1.015,
            place - over,
            name,
            transform=ax.get_yaxis_transform(),
            color=colour,
            va="center",
            size="small",
        )


def plot_associations(report, ax=None):
    """Effect sizes of the associations between pairs of groups and two texts.

    Filled points are distinguishable from chance after Holm's adjustment.

    Parameters
    ----------
    report : AuditReport
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        Of many associations it shows the twelve largest.
    """
    with _style():
        table = report.associations
        table = table[[not content.is_missing(value) for value in table["effect_size"]]]
        kept = content.first_by(table, "effect_size", SHOWN_PAIRS)
        pairs = {}
        for row in kept.itertuples():
            mark = "" if content.is_missing(row.p_holm) else f", p = {content.p_text(row.p_holm)}"
            pairs.setdefault((row.label_a, row.label_b), []).append({
                "name": f"{_short(row.group_a, 24)} against {_short(row.group_b, 24)}",
                "beside": f"d = {row.effect_size:+.2f}{mark}",
                "value": float(row.effect_size),
                "filled": content.is_detected(report, row.p_holm),
            })  # fmt: skip
        blocks = [
            _Block(f"{_short(a)} | {_short(b)}", rows, line=0.0)
            for (a, b), rows in pairs.items()
        ]
        ax = _axes(ax, _height(blocks) if blocks else 2)

        def draw(y, row):
            ax.plot([0, row["value"]], [y, y], color=COLOURS[0], lw=2.6, alpha=0.55, zorder=2)
            face = COLOURS[0] if row["filled"] else PAPER
            ax.plot(row["value"], y, "o", color=COLOURS[0], mfc=face, ms=8, mew=1.8, zorder=3)

        _draw_blocks(ax, blocks, draw)
        most = max([1.0, *(abs(row["value"]) for block in blocks for row in block.rows)]) * 1.1
        ax.set_xlim(-most, most)
        ax.set_title(f"Which group is nearer to a text, {_title(report)}")
        ax.set_xlabel(
            "effect size d; to the right: the first group is nearer to the first text\n"
            f"filled: p after Holm ≤ {content.threshold_of(report):g}"
        )
        return ax


def plot_wording(report, ax=None, *, labels=None):
    """The gaps between groups under each wording, with their intervals.

    Filled points are distinguishable from chance after Holm's adjustment.

    Parameters
    ----------
    report : WordingReport
    ax : matplotlib.axes.Axes, optional
    labels : list of str, optional
        Default: in each wording those with the largest gaps, four at most.

    Returns
    -------
    matplotlib.axes.Axes
    """
    with _style():
        gaps = report.gaps
        several = len(report.templates) > 1
        blocks = []
        colours = colours_of(list(report.label_sets))
        for (wording, templates), part in gaps.groupby(["wording", "templates"], sort=False):
            if labels is None:
                part = content.first_by(content.without_complements(report, part), "difference", 4)
            else:
                part = part[part["label"].isin([labels] if isinstance(labels, str) else list(labels))]
            rows = [
                {
                    "name": _short(row.label), "row": row, "colour": colours[wording],
                    "beside": f"{100 * row.difference:.1f}  (p = {content.p_text(row.p_holm)})",
                    "filled": content.is_detected(report, row.p_holm),
                }
                for row in part.itertuples()
            ]  # fmt: skip
            two = " | ".join(map(content.shown, report.label_sets[wording]))
            alone = len(report.label_sets[wording]) == 2 and len(rows) == 1
            if alone and several:
                # A row for each template, below the labels.
                rows[0]["name"] = _short(templates, 36)
                known = wording.casefold() == two.replace(" | ", "-").casefold()
                heading = _short(two if known else f"{wording}: {two}", 60)
            else:
                heading = _short(f"{wording}, {templates}" if several else wording, 60)
                if alone:
                    rows[0]["name"] = two
            if blocks and blocks[-1].heading == heading:
                blocks[-1].rows += rows
            elif rows:
                blocks.append(_Block(heading, rows))
        ax = _axes(ax, _height(blocks) if blocks else 2)

        def draw(y, row):
            low, high = row["row"].low, row["row"].high
            value = row["row"].difference
            if content.is_missing(low) or content.is_missing(high):
                low = high = value
            _point(ax, y, value, low, high, row["colour"], row["filled"])

        _draw_blocks(ax, blocks, draw)
        highest = max([0.1, *(_high(row["row"]) for block in blocks for row in block.rows)])
        _percent_axis(ax, highest)
        ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}")
        ax.set_title("The same pictures, other words: gap between groups")
        ax.set_xlabel(
            "largest share minus smallest, in percentage points, with "
            f"{content.confidence_text(report)} interval\n"
            f"filled: p after Holm ≤ {content.threshold_of(report):g}"
        )
        return ax


def _high(row):
    return float(row.difference if content.is_missing(row.high) else row.high)
