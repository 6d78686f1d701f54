"""What the results of the evaluations have in common: how they print, and pandas and JSON."""

from __future__ import annotations

import html
import math

from clipc.tables import data_frame, markdown, text_table


class ResultTable:
    """A result that prints as a table, also in Jupyter.

    A subclass has `title`, `summary`, `rows`, and for the columns `_header` and `_cells`.
    """

    title = ""
    # So many of the first and of the last columns hold text, which is aligned left.
    _n_text_columns = 1
    _n_text_at_end = 0

    @property
    def summary(self):
        """What was evaluated, and what the numbers depend on, as one sentence."""
        raise NotImplementedError

    def rows(self):
        """A dict for each row, with plain values; shares are between 0 and 1."""
        raise NotImplementedError

    def _header(self):
        raise NotImplementedError

    def _cells(self, row):
        """The texts of a row; `row` is one of `rows`."""
        raise NotImplementedError

    def _notes(self):
        """Sentences below the table."""
        return []

    def __str__(self):
        table = text_table(
            self._header(),
            map(self._cells, self.rows()),
            n_left=self._n_text_columns,
            n_left_end=self._n_text_at_end,
        )
        parts = [self.title, self.summary, "", table]
        notes = self._notes()
        return "\n".join([*parts, "", *notes] if notes else parts)

    def _repr_html_(self):
        def line(cells, tag):
            # Jupyter aligns cells right by itself.
            left = {*range(self._n_text_columns), *range(len(cells) - self._n_text_at_end, len(cells))}
            style = ' style="text-align:left"'
            return "".join(
                f"<{tag}{style if i in left else ''}>{html.escape(cell)}</{tag}>"
                for i, cell in enumerate(cells)
            )

        body = "".join(f"<tr>{line(self._cells(row), 'td')}</tr>" for row in self.rows())
        notes = "".join(f"<br><small>{html.escape(note)}</small>" for note in self._notes())
        return (
            f"<div><b>{html.escape(self.title)}</b><br>{html.escape(self.summary)}"
            f"<table><thead><tr>{line(self._header(), 'th')}</tr></thead><tbody>{body}</tbody></table>"
            f"{notes}</div>"
        )

    def to_markdown(self):
        """The table in Markdown.

        Returns
        -------
        str
        """
        return markdown(self._header(), [self._cells(row) for row in self.rows()], self._n_text_columns)

    def to_pandas(self):
        """`rows` as a ``pandas.DataFrame``. Needs the extra ``clipc[analysis]``."""
        return data_frame(self.rows(), otherwise="rows")

    def to_dict(self):
        """Everything that the result says, as plain values: ``json.dumps`` takes it."""
        return plain({"title": self.title, "summary": self.summary, "rows": self.rows()})


def plain(value):
    """The value with dicts, lists, NumPy's numbers and NaN as JSON knows them; NaN becomes None."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def p_text(p):
    """A p-value for a table."""
    if p is None or math.isnan(p):
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def settings_of(model):
    """What numbers depend on of a model; the usual dtype goes without saying."""
    settings = {"model": model.name}
    if model.dtype != "float32":
        settings["dtype"] = model.dtype
    return settings


def settings_text(settings):
    """``model tiny, seed 0``."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def axes(ax, size):
    """Matplotlib's axes to draw on: those given, or those of a new figure of this size in inches."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError(
            "plots need matplotlib, which is not installed: pip install 'clipc[analysis]'"
        ) from None
    return pyplot.subplots(figsize=size, layout="constrained")[1]
