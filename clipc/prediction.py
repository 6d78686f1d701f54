"""The answer of a zero-shot classifier, and how it prints."""

from __future__ import annotations

import html
import itertools

import numpy as np

# Labels that are shown; the dict holds all of them.
SHOWN_IN_TEXT = 10
SHOWN_IN_HTML = 20


class Prediction(dict):
    """Probabilities of labels for one picture: a dict from label to probability, highest first.

    It prints as one line, ``Top predictions: nurse: 69.92% doctor: 30.08%``, and shows a bar for each
    label in Jupyter; of many labels the first few.
    """

    @classmethod
    def from_probabilities(cls, labels, probabilities, top_k=None):
        """Sort labels by probability; equal ones keep the order they were given in.

        Parameters
        ----------
        labels : sequence of str
        probabilities : array, (number of labels,)
        top_k : int, optional
            How many to keep.
        """
        order = np.argsort(-np.asarray(probabilities), kind="stable")[:top_k]
        return cls((labels[i], float(probabilities[i])) for i in order)

    @property
    def label(self):
        """The most probable label."""
        return next(iter(self))

    @property
    def probability(self):
        """The probability of the most probable label, 0 to 1."""
        return self[self.label]

    def as_line(self, limit=None):
        """``Top predictions: `` and the labels with their percentages, on one line.

        Parameters
        ----------
        limit : int, optional
            How many labels; how many there are beyond is told. None: all.
        """
        shown = (f"{label}: {100 * p:.2f}%" for label, p in itertools.islice(self.items(), limit))
        more = f" ({len(self) - limit} more)" if limit is not None and len(self) > limit else ""
        return "Top predictions: " + " ".join(shown) + more

    def __str__(self):
        return self.as_line(SHOWN_IN_TEXT)

    def __repr__(self):
        return "Prediction({" + ", ".join(f"{label!r}: {p:.4f}" for label, p in self.items()) + "})"

    def __reduce__(self):
        return type(self), (dict(self),)

    def _repr_html_(self):
        rows = "".join(
            "<tr>"
            f'<td style="text-align:left;padding-right:1em">{html.escape(label)}</td>'
            f'<td style="text-align:right;padding-right:0.5em">{100 * p:.2f}%</td>'
            '<td style="text-align:left;width:240px">'
            f'<div style="width:{100 * p:.2f}%;min-width:1px;height:0.9em;'
            'background:#4c78a8;border-radius:2px"></div></td>'
            "</tr>"
            for label, p in itertools.islice(self.items(), SHOWN_IN_HTML)
        )
        if len(self) > SHOWN_IN_HTML:
            rows += f"<tr><td colspan=3>{len(self) - SHOWN_IN_HTML} more</td></tr>"
        return f'<table style="border:none"><tbody>{rows}</tbody></table>'


class Predictions(list):
    """The predictions of several pictures, in their order; prints one line for each."""

    def __str__(self):
        return "\n".join(map(str, self))

    def _repr_html_(self):
        return "".join(
            f"<div><b>{number}</b>{prediction._repr_html_()}</div>" for number, prediction in enumerate(self)
        )
