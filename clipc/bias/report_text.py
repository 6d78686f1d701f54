"""A bias report as text for a terminal, as Markdown, as one line per picture, and as a dict for JSON."""

from __future__ import annotations

import textwrap

from clipc.bias import report_content as content
from clipc.bias import report_tables as tables
from clipc.tables import markdown as markdown_table
from clipc.tables import text_table
from clipc.terminal import columns, pad

WIDTH = 100
# Labels, and pairs of groups, that a table shows; with 14 groups there are 91 pairs.
SHOWN_LABELS = 8
# Findings of a kind that the summary spells out.
SHOWN_FINDINGS = 6


class Lines(list):
    """Lines of text: a list of str that prints as they stand."""

    def __str__(self):
        return "\n".join(self)


def lines(report):
    """A line for each picture: its file, its group, and the prediction as `clipc classify` prints it.

    Parameters
    ----------
    report : AuditReport

    Returns
    -------
    Lines
        A list of str; prints one below the other.
    """
    names = [content.shown(name) for name in report.files]
    groups = [content.shown(group) for group in report.group_of]
    name_width = min(max(map(columns, names), default=0), 64)
    group_width = max(map(columns, groups), default=0)
    return Lines(
        f"{pad(name, name_width)}  {pad(group, group_width)}  "
        f"{content.shown(prediction.as_line(SHOWN_LABELS))}"
        for name, group, prediction in zip(names, groups, report.predictions)
    )


def text(report):
    """The report for a terminal: what was measured, a summary, tables.

    Parameters
    ----------
    report : AuditReport

    Returns
    -------
    str
    """
    parts = [_heading(f"Bias audit: {content.shown(content.title_of(report))}")]
    parts.append(_settings_text(content.setting_rows(report)))
    parts.append(_summary_text(content.summary_of(report)))
    parts += [_table_text(table) for table in tables.tables_of(report, SHOWN_LABELS)]
    parts.append("\n".join(_wrapped(LIMITS_IN_BRIEF)))
    return "\n\n".join(parts)


LIMITS_IN_BRIEF = (
    "This measures one model with one wording on these pictures, not the people in them. Groups are as "
    "labelled in the data set. How to read it, and its limits: docs/bias.md."
)


def _heading(title):
    return f"{title}\n{'=' * columns(title)}"


def _wrapped(sentence, first="", rest=""):
    """Lines of at most `WIDTH` columns; East Asian text may take more, since it is split by characters."""
    lines = textwrap.wrap(
        content.unbreakable(sentence), WIDTH, initial_indent=first, subsequent_indent=rest or first,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return [line.replace("\u00a0", " ") for line in lines]


def _settings_text(rows):
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(
        line for name, value in rows for line in _wrapped(value, f"{name:{width}}", " " * width) or [name]
    )


def _summary_text(summary):
    found = ["In short"]
    for title, findings in findings_of(summary):
        found += _wrapped(title, "  ")
        found += (
            line
            for finding in findings
            for line in _wrapped(f"{finding.what}: {finding.text}", "    - ", "      ")
        )
    for sentence in summary.also:
        found += _wrapped(sentence, "  ", "    ")
    for caution in summary.cautions:
        found += _wrapped(caution, "  ! ", "    ")
    return "\n".join(found)


def findings_of(summary):
    """Titles of the summary, each with its findings; of many only the first, and how many more there are."""
    threshold = f"{summary.threshold:g}"
    if summary.detected:
        yield f"Distinguishable from chance (p after Holm <= {threshold}):", _first(summary.detected)
    elif summary.not_detected:
        yield f"No gap is distinguishable from chance (p after Holm <= {threshold}).", []
    if summary.not_detected:
        yield (
            "No difference was detected, which does not mean that there is none:",
            _first(summary.not_detected),
        )
    if summary.undefined:
        yield "Undefined:", _first(summary.undefined)


def _first(findings):
    if len(findings) <= SHOWN_FINDINGS:
        return findings
    more = len(findings) - SHOWN_FINDINGS
    return [*findings[:SHOWN_FINDINGS], content.Finding(f"and {more} more", "see the table of gaps")]


def _table_text(table):
    header = [*table.header, ""]
    rows = [[*map(content.shown, row.cells), "*" if row.marked else ""] for row in table.rows]
    body = list(tables.without_repeats(rows, table.n_same))
    lines = text_table(header, body, n_left=table.n_text, n_left_end=1)
    remarks = [line for remark in table.remarks for line in _wrapped(remark, "  ")]
    return "\n".join([table.title, *_wrapped(table.explanation, "  "), "", lines, *remarks])


# -- Markdown --------------------------------------------------------------------------------------------


def _escaped(text):
    """Text that Markdown does not take for markup."""
    text = content.shown(text)
    return "".join(f"\\{c}" if c in "\\`*_[]<>#" else c for c in text)


def markdown(report):
    """The report in Markdown, with all rows of all tables.

    Parameters
    ----------
    report : AuditReport

    Returns
    -------
    str
    """
    parts = [f"## Bias audit: {_escaped(content.title_of(report))}"]
    parts.append(_settings_markdown(content.setting_rows(report)))
    parts.append(_summary_markdown(content.summary_of(report)))
    parts += [_table_markdown(table) for table in tables.tables_of(report)]
    parts.append("### Limits\n\n" + "\n".join(f"- {limit}" for limit in content.LIMITS))
    return "\n\n".join(parts) + "\n"


def _settings_markdown(rows):
    return "\n".join(f"- **{name}**: {_escaped(value)}" for name, value in rows)


def _summary_markdown(summary):
    found = ["### In short", ""]
    for title, findings in findings_of(summary):
        found += [_escaped(title), ""]
        if findings:
            found += [f"- {_escaped(finding.what)}: {_escaped(finding.text)}" for finding in findings]
            found.append("")
    for sentence in (*summary.also, *summary.cautions):
        found += [_escaped(sentence), ""]
    return "\n".join(found).rstrip()


def _table_markdown(table):
    rows = [[*map(_escaped, row.cells[:-1]), _escaped(row.cells[-1])] for row in table.rows]
    if any(row.marked for row in table.rows):
        rows = [
            [("**" + cells[0] + "**" if row.marked else cells[0]), *cells[1:]]
            for row, cells in zip(table.rows, rows)
        ]
    explanation = table.explanation.replace("* distinguishable", "In bold: distinguishable")
    parts = [f"### {table.title}", _escaped(explanation), markdown_table(table.header, rows, table.n_text)]
    if table.remarks:
        parts.append("\n".join(f"- {_escaped(remark)}" for remark in table.remarks))
    return "\n\n".join(parts)


# -- for programs ----------------------------------------------------------------------------------------


def plain(value):
    """A value that JSON knows: NumPy's and pandas's types as Python's, what is missing as None."""
    if content.is_missing(value):
        return None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays
        return plain(value.tolist())
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def records(table):
    """The rows of a DataFrame as dicts of plain values.

    Returns
    -------
    list of dict
    """
    names = [str(name) for name in table.columns]
    return [dict(zip(names, map(plain, row))) for row in table.itertuples(index=False, name=None)]


def _findings_dict(findings):
    return [{"what": finding.what, "text": finding.text} for finding in findings]


def to_dict(report):
    """All of a report as plain values, for JSON: undefined ones are None.

    Parameters
    ----------
    report : AuditReport

    Returns
    -------
    dict
    """
    summary = content.summary_of(report)
    comparisons = records(report.comparisons)
    for row, gap in zip(comparisons, content.detectable_gaps(report)):
        row["detectable_gap"] = gap
    blocks = [None] * len(report.files) if report.block_of is None else [str(b) for b in report.block_of]
    return {
        "model": str(report.model_name),
        "preset": report.preset.name if report.preset else None,
        "labels": list(report.labels),
        "templates": list(report.templates),
        "group_columns": list(report.group_names),
        "groups": plain(report.counts),
        "block": plain(report.block_name),
        "n_blocks": plain(report.n_blocks),
        "settings": plain(report.settings),
        "summary": {
            "threshold": round(summary.threshold, 12),
            "detected": _findings_dict(summary.detected),
            "not_detected": _findings_dict(summary.not_detected),
            "undefined": _findings_dict(summary.undefined),
            "also": summary.also,
            "cautions": summary.cautions,
        },
        "shares": records(report.shares),
        "comparisons": comparisons,
        "total_variation": records(report.total_variation),
        "ranking": records(report.ranking),
        "associations": records(report.associations),
        "limits": list(content.LIMITS),
        "images": [
            {
                "file": str(name),
                "group": str(group),
                "block": block,
                "predictions": [{"label": label, "probability": plain(p)} for label, p in prediction.items()],
            }
            for name, group, block, prediction in zip(
                report.files, report.group_of, blocks, report.predictions
            )
        ],
        "unreadable": [{"file": str(name), "reason": str(reason)} for name, reason in report.unreadable],
    }


# -- comparing wordings ----------------------------------------------------------------------------------


def wording_text(report):
    """A comparison of wordings for a terminal.

    Parameters
    ----------
    report : WordingReport

    Returns
    -------
    str
    """
    parts = [_heading(f"Wording: {content.shown(content.wording_title(report))}")]
    parts.append(_settings_text(content.wording_setting_rows(report)))
    short = ["In short"]
    for sentence in content.wording_sentences(report):
        short += _wrapped(sentence, "  - ", "    ")
    for caution in content.cautions_of(report):
        short += _wrapped(caution, "  ! ", "    ")
    parts.append("\n".join(short))
    parts += [_table_text(table) for table in tables.wording_tables(report, SHOWN_LABELS)]
    parts.append("\n".join(_wrapped(LIMITS_IN_BRIEF)))
    return "\n\n".join(parts)


def wording_markdown(report):
    """A comparison of wordings in Markdown.

    Parameters
    ----------
    report : WordingReport

    Returns
    -------
    str
    """
    parts = [f"## Wording: {_escaped(content.wording_title(report))}"]
    parts.append(_settings_markdown(content.wording_setting_rows(report)))
    sentences = [*content.wording_sentences(report), *content.cautions_of(report)]
    parts.append("### In short\n\n" + "\n".join(f"- {_escaped(sentence)}" for sentence in sentences))
    parts += [_table_markdown(table) for table in tables.wording_tables(report)]
    parts.append("### Limits\n\n" + "\n".join(f"- {limit}" for limit in content.LIMITS))
    return "\n\n".join(parts) + "\n"


def wording_dict(report):
    """All of a comparison of wordings as plain values, for JSON: undefined ones are None.

    Parameters
    ----------
    report : WordingReport

    Returns
    -------
    dict
    """
    return {
        "model": str(report.model_name),
        "label_sets": plain(report.label_sets),
        "templates": plain(report.templates),
        "group_columns": list(report.group_names),
        "groups": plain(report.counts),
        "block": plain(report.block_name),
        "settings": plain(report.settings),
        "summary": content.wording_sentences(report) + content.cautions_of(report),
        "rows": records(report.rows),
        "gaps": records(report.gaps),
        "flips": records(report.flips),
        "template_flips": records(report.template_flips),
        "limits": list(content.LIMITS),
        "unreadable": [{"file": str(name), "reason": str(reason)} for name, reason in report.unreadable],
    }
