"""A bias report as HTML: a fragment for Jupyter, and a page of its own that needs nothing else.

All texts are escaped: labels and names of files may hold anything. No picture of a person is ever in it;
plots are inline SVG whose lines and letters take the page's colour, light or dark.
"""

from __future__ import annotations

import html
import io
import re

from clipc.bias import plots
from clipc.bias import report_content as content
from clipc.bias import report_tables as tables
from clipc.bias.report_text import SHOWN_LABELS, findings_of

# Rows beyond which a table of the page is folded up.
LONG_TABLE = 60

# A fragment lies in a page whose colours are not known, so it takes them from there.
_STYLE = """
.clipc-bias { line-height: 1.45; }
.clipc-bias table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .4em 0; }
.clipc-bias th, .clipc-bias td { padding: .22em .7em; text-align: left; border: none; background: none;
  white-space: nowrap; }
.clipc-bias thead th { border-bottom: 1px solid currentColor; font-weight: 600; vertical-align: bottom; }
.clipc-bias .number { text-align: right; }
.clipc-bias tbody tr.first td { border-top: 1px solid rgba(128, 128, 128, .35); }
.clipc-bias tr.marked td { font-weight: 600; }
.clipc-bias .quiet, .clipc-bias .remarks, .clipc-bias .explanation { opacity: .75; }
.clipc-bias .remarks { font-size: .88em; margin: .3em 0 0; padding-left: 1.2em; max-width: 60em; }
.clipc-bias .explanation { margin: .1em 0; }
.clipc-bias .scroll { overflow-x: auto; }
.clipc-bias td.drawn { min-width: 150px; }
.clipc-bias .bar { position: relative; display: block; height: 1em; width: 150px;
  background: linear-gradient(rgba(128, 128, 128, .35), rgba(128, 128, 128, .35)) center / 100% 1px
  no-repeat; }
.clipc-bias .bar i { position: absolute; }
.clipc-bias .bar .range { top: .32em; height: .36em; background: #3f8fc4; opacity: .6; }
.clipc-bias .bar .value { top: .18em; width: .64em; height: .64em; margin-left: -.32em; border-radius: 50%;
  background: #3f8fc4; }
.clipc-bias .bar .equal { top: 0; height: 1em; border-left: 1px dashed currentColor; opacity: .7; }
.clipc-bias dl.settings { display: grid; grid-template-columns: max-content 1fr; gap: .1em 1em;
  margin: .5em 0; }
.clipc-bias dl.settings dt { opacity: .75; }
.clipc-bias dl.settings dd { margin: 0; overflow-wrap: anywhere; }
.clipc-bias .summary, .clipc-bias .caution { border-left: 4px solid #3f8fc4; padding: .1em 0 .1em 1em;
  margin: .8em 0; max-width: 60em; }
.clipc-bias .caution { border-left-color: #e69f00; }
.clipc-bias .summary p, .clipc-bias .caution p { margin: .35em 0; }
.clipc-bias .summary ul { margin: .2em 0 .5em; padding-left: 1.2em; }
"""

_PAGE_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c1c1e; --link: #0060a8; }
@media (prefers-color-scheme: dark) { :root { --paper: #17181a; --ink: #e8e6e3; --link: #7fbdf0;
  --colour0: #4fa8e0; --colour1: #f08040; --colour2: #30c095; --colour3: #dc95b8; --colour6: #a58ae0; } }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans KR", sans-serif; }
main { max-width: 70em; margin: 0 auto; padding: 1.5em 1.5em 4em; }
h1 { font-size: 1.7em; line-height: 1.25; margin: .2em 0 .1em; overflow-wrap: anywhere; }
h2 { font-size: 1.25em; margin: 2em 0 .3em; }
a { color: var(--link); }
.clipc-bias figure { margin: 1em 0; }
.clipc-bias figure svg { max-width: 100%; height: auto; }
.clipc-bias dl.terms { max-width: 60em; }
.clipc-bias dl.terms dt { font-weight: 600; margin-top: .6em; }
.clipc-bias dl.terms dd { margin: 0 0 0 1.2em; }
.clipc-bias ul.limits { max-width: 60em; padding-left: 1.2em; }
.clipc-bias .tables table { font-size: .92em; }
footer { margin-top: 3em; font-size: .88em; opacity: .75; }
@media print { main { max-width: none; } table, figure { break-inside: avoid; } }
"""


def _e(text):
    return html.escape(content.unbreakable(text))


def _document(title, body):
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_e(title)}</title>\n<style>{_STYLE}{_PAGE_STYLE}</style>\n</head>\n"
        f'<body>\n<main class="clipc-bias">\n{body}\n</main>\n</body>\n</html>\n'
    )


def fragment(report):
    """The report for Jupyter: summary, shares and gaps; the other tables folded up.

    Parameters
    ----------
    report : AuditReport

    Returns
    -------
    str
        HTML without scripts, whose style is confined to it.
    """
    first, rest = _split(tables.tables_of(report, SHOWN_LABELS))
    more = "".join(map(_table, rest))
    settings = _settings(content.setting_rows(report))
    return (
        f'<div class="clipc-bias"><style>{_STYLE}</style>'
        f"<b>Bias audit: {_e(content.title_of(report))}</b>"
        f"{_summary(content.summary_of(report))}{''.join(map(_table, first))}"
        f"<details><summary>Other tables, and what was measured</summary>{more}{settings}</details></div>"
    )


def _split(tables):
    names = ("shares", "comparisons")
    return [t for t in tables if t.name in names], [t for t in tables if t.name not in names]


def page(report):
    """The report as a page of its own, with plots, all tables, how to read them, and limits.

    Needs matplotlib.

    Parameters
    ----------
    report : AuditReport

    Returns
    -------
    str
        An HTML document that refers to nothing outside of it.
    """
    title = f"Bias audit: {content.title_of(report)}"
    whole = {table.name: table for table in tables.tables_of(report)}
    short = {table.name: table for table in tables.tables_of(report, SHOWN_LABELS)}
    sections = [
        ("shares", [plots.plot_shares]),
        ("comparisons", []),
        ("mean_comparisons", [plots.plot_probabilities]),
        ("total_variation", []),
        ("ranking", [plots.plot_ranking]),
        ("associations", [plots.plot_associations]),
    ]
    body = [f"<h1>{_e(title)}</h1>", _settings(content.setting_rows(report))]
    note = getattr(report.preset, "note", "")
    if note:
        body.append(f'<p class="quiet">About these labels: {_e(note)}</p>')
    body.append(_summary(content.summary_of(report)))
    number = 0
    for name, figures in sections:
        if name not in whole:
            continue
        body.append(f"<h2>{_e(whole[name].title)}</h2>")
        for plot in figures:
            number += 1
            body.append(figure(plot, report, f"figure{number}"))
        body.append(_table_or_short(whole[name], short[name]))
    body += [_how_to_read(), _limits(), _footer()]
    return _document(title, "\n".join(body))


def _table_or_short(table, short):
    """A table; of a long one what is notable, and all of it folded up."""
    if len(table.rows) <= LONG_TABLE:
        return f'<div class="tables">{_table(table, titled=False)}</div>'
    whole = f"<details><summary>All {len(table.rows)} rows</summary>{_table(table, titled=False)}</details>"
    return f'<div class="tables">{_table(short, titled=False)}{whole}</div>'


def wording_fragment(report):
    """A comparison of wordings for Jupyter.

    Parameters
    ----------
    report : WordingReport

    Returns
    -------
    str
    """
    first, *rest = tables.wording_tables(report, SHOWN_LABELS)
    more = "".join(map(_table, rest)) + _settings(content.wording_setting_rows(report))
    return (
        f'<div class="clipc-bias"><style>{_STYLE}</style>'
        f"<b>Wording: {_e(content.wording_title(report))}</b>{_wording_summary(report)}{_table(first)}"
        f"<details><summary>Other tables, and what was measured</summary>{more}</details></div>"
    )


def wording_page(report):
    """A comparison of wordings as a page of its own; see `page`.

    Parameters
    ----------
    report : WordingReport

    Returns
    -------
    str
    """
    title = f"Wording: {content.wording_title(report)}"
    body = [
        f"<h1>{_e(title)}</h1>",
        _settings(content.wording_setting_rows(report)),
        _wording_summary(report),
    ]
    for number, table in enumerate(tables.wording_tables(report)):
        body.append(f"<h2>{_e(table.title)}</h2>")
        if not number:
            body.append(figure(plots.plot_wording, report, "figure1"))
        body.append(f'<div class="tables">{_table(table, titled=False)}</div>')
    body += [_how_to_read(), _limits(), _footer()]
    return _document(title, "\n".join(body))


def _wording_summary(report):
    items = "".join(f"<li>{_e(sentence)}</li>" for sentence in content.wording_sentences(report))
    return f'<div class="summary"><ul>{items}</ul></div>' + _cautions(content.cautions_of(report))


def _cautions(cautions):
    if not cautions:
        return ""
    return f'<div class="caution">{"".join(f"<p>{_e(caution)}</p>" for caution in cautions)}</div>'


def _summary(summary):
    parts = []
    for heading, findings in findings_of(summary):
        parts.append(f"<p>{_e(heading)}</p>")
        if findings:
            items = "".join(f"<li><b>{_e(found.what)}</b>: {_e(found.text)}</li>" for found in findings)
            parts.append(f"<ul>{items}</ul>")
    parts += [f"<p>{_e(sentence)}</p>" for sentence in summary.also]
    return f'<div class="summary">{"".join(parts)}</div>{_cautions(summary.cautions)}'


def _settings(rows):
    items = "".join(f"<dt>{_e(name)}</dt><dd>{_e(value)}</dd>" for name, value in rows)
    return f'<dl class="settings">{items}</dl>'


def _table(table, titled=True):
    drawn = any(row.interval for row in table.rows)
    scale = _scale(table.rows) if drawn else 1
    head = "".join(
        f"<th{'' if i < table.n_text else ' class=number'}>{_e(name)}</th>"
        for i, name in enumerate(table.header)
    )
    if drawn:
        head += f"<th>share, 0 to {100 * scale:.0f} %</th>"
    body, rows = [], [row.cells for row in table.rows]
    for row, cells, whole in zip(table.rows, tables.without_repeats(rows, table.n_same), rows):
        classes = " ".join(
            filter(None, ["first" if cells[0] == whole[0] and body else "", "marked" * row.marked])
        )
        line = "".join(
            f"<td{'' if i < table.n_text else ' class=number'}>{_e(cell)}</td>"
            for i, cell in enumerate(cells)
        )
        if drawn:
            line += f'<td class="drawn">{_bar(row.interval, scale)}</td>'
        body.append(f'<tr class="{classes}">{line}</tr>' if classes else f"<tr>{line}</tr>")
    explanation = table.explanation.replace("* distinguishable", "In bold: distinguishable")
    if drawn:
        explanation += " Dashed: the share of all pictures."
    remarks = "".join(f"<li>{_e(remark)}</li>" for remark in table.remarks)
    title = f"<p><b>{_e(table.title)}</b></p>" if titled else ""
    return (
        f'<section>{title}<p class="explanation">{_e(explanation)}</p>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
        + (f'<ul class="remarks">{remarks}</ul>' if remarks else "")
        + "</section>"
    )


def _scale(rows):
    """Up to where the bars of a table reach: 100 %, or where all is small the next ten."""
    highest = max(row.interval[2] for row in rows if row.interval)
    return 1.0 if highest > 0.6 else max(0.1, -(-highest // 0.1) / 10)


def _bar(interval, scale):
    """A share with its interval, drawn with boxes; numbers stand beside it."""
    if interval is None:
        return ""
    value, low, high, equal = (min(100 * float(number) / scale, 100) for number in interval)
    return (
        '<span class="bar" aria-hidden="true">'
        f'<i class="range" style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<i class="equal" style="left:{equal:.1f}%"></i>'
        f'<i class="value" style="left:{value:.1f}%"></i></span>'
    )


def _how_to_read():
    items = "".join(f"<dt>{_e(term)}</dt><dd>{_e(meaning)}</dd>" for term, meaning in content.HOW_TO_READ)
    return f'<h2>How to read this</h2><dl class="terms">{items}</dl>'


def _limits():
    items = "".join(f"<li>{_e(limit)}</li>" for limit in content.LIMITS)
    return f'<h2>Limits</h2><ul class="limits">{items}</ul>'


def _footer():
    import clipc

    version = _e(clipc.__version__)
    return f"<footer>Made by clipc {version}. Formulas and sources: docs/bias.md of clipc.</footer>"


def figure(plot, report, name):
    """A plot as inline SVG that takes the colours of the page.

    Parameters
    ----------
    plot : function
        One of `clipc.bias.plots`.
    report : AuditReport or WordingReport
    name : str
        Letters and digits, different for each figure of a page.

    Returns
    -------
    str
        A ``<figure>`` element.
    """
    matplotlib = plots.require_matplotlib()
    # Letters stay text: the browser has fonts for all of them, and the page can be searched.
    with plots.without_pyplot(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        ax = plot(report)
        described = ax.get_title(loc="left")
        target = io.StringIO()
        ax.figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    svg = target.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Names are unique in a document, and several drawings are in this one.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'((?:xlink:)?href="|url\()#', rf"\1#{name}-", svg)
    svg = svg.replace(plots.INK, "currentColor").replace(plots.PAPER, "var(--paper, #fff)")
    for number, colour in enumerate(plots.COLOURS):
        svg = svg.replace(colour, f"var(--colour{number}, {colour})")
    svg = re.sub(r"font: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font: \1system-ui, sans-serif", svg)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{_e(described)}"', 1)
    return f"<figure>{svg}</figure>"
