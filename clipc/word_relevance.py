"""Which words of a text carried its score, and how that prints."""

from __future__ import annotations

import html

from clipc.terminal import columns, pad

BAR_WIDTH = 20


class WordRelevance(list):
    """Words of a text with their relevance: a list of (word, relevance), in the order of the text.

    It prints one line with a bar for each word, and shows the text with its words shaded in Jupyter.
    """

    @property
    def largest(self):
        """The largest relevance, 0 where there is none."""
        return max((score for _, score in self), default=0.0)

    def _share(self, score):
        """0 to 1, of the most relevant word."""
        return max(score, 0.0) / self.largest if self.largest > 0 else 0.0

    def __str__(self):
        width = max((columns(word) for word, _ in self), default=0)
        return "\n".join(
            f"{pad(word, width)}  {score:9.4f}  {'█' * round(BAR_WIDTH * self._share(score))}".rstrip()
            for word, score in self
        )

    def _repr_html_(self):
        words = " ".join(
            f'<span title="{score:.4f}" style="background:rgba(76,120,168,{0.85 * self._share(score):.2f});'
            f'padding:0.1em 0.25em;border-radius:3px">{html.escape(word)}</span>'
            for word, score in self
        )
        return f'<div style="line-height:1.8">{words}</div>'
