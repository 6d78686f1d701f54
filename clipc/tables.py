"""Tables of methods and their scores: as text, Markdown, HTML, and rows for pandas."""

from __future__ import annotations

import html
import math

from clipc.terminal import columns, pad


class Compared:
    """What a score says of the baseline that it was compared with.

    A subclass has `is_baseline`, `baseline`, `below_baseline` and `is_certain`.
    """

    @property
    def note(self):
        """What a reader of a table is to notice, or an empty text."""
        if self.is_baseline:
            return "baseline"
        if not self.below_baseline:
            return ""
        return f"below {self.baseline}" + ("" if self.is_certain else " (interval holds 0)")

    @property
    def mark(self):
        """The note as one sign."""
        return ("▼" if self.is_certain else "▽") if self.below_baseline else ""


class ScoreTable:
    """The scores of some methods. It prints as a table, also in Jupyter.

    A subclass has `methods` (scores with `method`, `is_baseline`, `below_baseline`, `note` and `mark`),
    `title`, `summary`, `to_rows`, and for the columns `_header` and `_cells`.
    """

    methods = ()

    def __getitem__(self, method):
        for score in self.methods:
            if score.method == method:
                return score
        known = ", ".join(score.method for score in self.methods)
        raise KeyError(f"no method {method!r}; there are {known}")

    def __iter__(self):
        return iter(self.methods)

    def __len__(self):
        return len(self.methods)

    def _header(self):
        """The columns' names, without that of the notes."""
        raise NotImplementedError

    def _cells(self, score):
        """The texts of a row, without its note."""
        raise NotImplementedError

    def _remark(self, score):
        """What only the text and the HTML say beside the note."""
        return ""

    def __str__(self):
        rows = [[*self._header(), "note"]]
        for score in self.methods:
            rows.append([*self._cells(score), "; ".join(filter(None, [score.note, self._remark(score)]))])
        return "\n".join([self.title, self.summary, "", text_table(rows[0], rows[1:], n_left_end=1)])

    def _repr_html_(self):
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in [*self._header(), "note"])
        body = ""
        for score in self.methods:
            style = ""
            if score.below_baseline:
                style = ' style="background:#fbe3e4;color:#222"'
            elif score.is_baseline:
                style = ' style="color:#777"'
            note = "; ".join(filter(None, [f"{score.mark} {score.note}".strip(), self._remark(score)]))
            cells = [*self._cells(score), note]
            body += f"<tr{style}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
        return (
            f"<div><b>{html.escape(self.title)}</b><br>{html.escape(self.summary)}"
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def to_markdown(self):
        """The table in Markdown; what did worse than the baseline is marked.

        Returns
        -------
        str
        """
        rows = [[*self._cells(score), score.note] for score in self.methods]
        return markdown([*self._header(), "note"], rows)

    def to_pandas(self):
        """`to_rows` as a ``pandas.DataFrame``. Needs the extra ``clipc[analysis]``."""
        return data_frame(self.to_rows())


def count(number, noun):
    return f"{number} {noun}{'' if number == 1 else 's'}"


def percent(value, digits, sign=""):
    return f"{100 * value:{sign}.{digits}f}"


def percent_range(bounds, digits, sign=""):
    if math.isnan(bounds[0]):
        return "[-, -]"
    return f"[{percent(bounds[0], digits, sign)}, {percent(bounds[1], digits, sign)}]"


def text_table(header, rows, *, n_left=1, n_left_end=0):
    """Lines of columns, two spaces between them.

    Parameters
    ----------
    header : sequence of str
    rows : iterable of sequences of str
    n_left : int
        So many of the first columns hold text, which is aligned left; the others numbers, aligned right.
    n_left_end : int
        So many of the last columns hold text.
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(map(columns, column)) for column in zip(*lines)]
    text = {*range(n_left), *range(len(widths) - n_left_end, len(widths))}
    return "\n".join(
        "  ".join(
            pad(cell, width) if i in text else " " * (width - columns(cell)) + cell
            for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


def markdown(header, rows, n_left=1):
    """A table in Markdown; all but the first `n_left` columns are aligned right."""

    def line(cells):
        return "| " + " | ".join(str(cell).replace("|", "\\|").strip() for cell in cells) + " |"

    rule = "|" + "---|" * n_left + "---:|" * (len(header) - n_left)
    return "\n".join([line(header), rule, *map(line, rows)])


def data_frame(rows, otherwise="to_rows"):
    """A ``pandas.DataFrame`` of dicts; `otherwise` names the method that gives them as they are."""
    try:
        import pandas
    except ImportError:
        raise ImportError(
            f"to_pandas needs pandas: pip install 'clipc[analysis]'; {otherwise} gives the same without it"
        ) from None
    return pandas.DataFrame(rows)
